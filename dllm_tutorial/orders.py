"""Orders of generation and the probability of a sequence under each of them.

A denoiser and an order o, a permutation of the positions, make an autoregressive model

.. math:: \\log p^{(o)}(x) = \\sum_n \\log p(x_{o(n)} \\mid x_{o(1)}, ..., x_{o(n-1)})

(Uria et al. 2014). Exact conditionals give the same value for every order;
a learned denoiser does not. A causal denoiser, whose prediction at a position sees only
the positions before it, has a value for :func:`left_to_right` alone; any other order is
refused where it says so (``reads = "prefix"``).

An order is ``Long[L]``: entry n is the position revealed at step n.

A denoiser is asked once for every token, one that reads an order once for every
sequence (see :class:`~dllm_tutorial.denoiser.Denoiser`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dllm_tutorial import _checks, _random
from dllm_tutorial.denoiser import MASKED, Denoiser

__all__ = [
    "adaptive_log_prob",
    "all_orders",
    "bit_reversed",
    "block_order",
    "block_orders",
    "check_orders",
    "left_to_right",
    "log_prob",
    "log_probs",
    "mixture_log_prob",
    "random_order",
    "random_orders",
    "right_to_left",
    "step_log_prob",
    "swap_order",
]


def left_to_right(length: int) -> Tensor:
    """The order 0, 1, ..., length - 1."""
    return torch.arange(_checks.integer(length, "length", 1))


def right_to_left(length: int) -> Tensor:
    """The order length - 1, ..., 1, 0."""
    return left_to_right(length).flip(0)


def random_order(length: int, generator: torch.Generator | None = None) -> Tensor:
    """One order drawn uniformly, ``Long[length]``."""
    return random_orders(length, 1, generator)[0]


def random_orders(
    length: int, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """``n`` orders drawn independently and uniformly, ``Long[n, length]``."""
    shape = _checks.integer(n, "n", 0), _checks.integer(length, "length", 1)
    device = None if generator is None else generator.device
    keys = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    return keys.argsort(1)


def block_order(
    length: int, block: int, generator: torch.Generator | None = None
) -> Tensor:
    """Blocks of ``block`` positions from left to right, each in a random order.

    The order in which semi-autoregressive decoding reveals tokens one at a time. The
    last block is shorter where ``block`` does not divide ``length``.
    """
    return block_orders(length, 1, block, generator)[0]


def block_orders(
    length: int, n: int, block: int, generator: torch.Generator | None = None
) -> Tensor:
    """``n`` orders of :func:`block_order` drawn independently, ``Long[n, length]``."""
    _checks.integer(block, "block", 1)
    order = random_orders(length, n, generator)
    by_block = (order // block).argsort(dim=1, stable=True)
    return order.gather(1, by_block)


def swap_order(
    length: int, swaps: int, generator: torch.Generator | None = None
) -> Tensor:
    """Left to right after ``swaps`` exchanges of two entries drawn at random.

    The entries of an exchange differ. With length / 10 and with sqrt(length) of them
    these are the orders between identity and chaos of Kim et al. (2025, section 3.3).
    """
    order = left_to_right(length)
    _checks.integer(swaps, "swaps", 0)
    if not swaps:
        return order
    if length < 2:
        raise ValueError(f"length must be at least 2 to swap entries, got {length}")
    for pair in torch.rand(swaps, length, generator=generator).topk(2).indices:
        order[pair] = order[pair.flip(0)]
    return order


def bit_reversed(length: int) -> Tensor:
    """Positions sorted by their binary digits read backward: 0, 4, 2, 6, 1, 5, 3, 7.

    Any number of first entries is spread evenly over the sequence (van der Corput
    1935). Where ``length`` is no power of two, the order of the next power of two
    without the positions beyond the end.
    """
    positions = left_to_right(length)
    key = torch.zeros_like(positions)
    for bit in range((length - 1).bit_length()):
        key = 2 * key + (positions >> bit & 1)
    return key.argsort()


def all_orders(length: int) -> Tensor:
    """Every order, ``Long[length!, length]``, for a length of at most 9."""
    if _checks.integer(length, "length", 1) > 9:
        raise ValueError(
            f"length must be at most 9 (of {length}! orders), got {length}"
        )
    return torch.tensor(list(itertools.permutations(range(length))))


def check_orders(order: Tensor, length: int, name: str = "order") -> Tensor:
    """Permutations of 0 ... length - 1, ``Long[..., length]``, or ``ValueError``."""
    ndim = order.ndim if isinstance(order, Tensor) else 1
    order = _checks.tokens(order, name, ndim=ndim, length=length)
    positions = torch.arange(length, device=order.device)
    if not bool((order.sort(-1).values == positions).all()):
        raise ValueError(f"{name} must be permutations of 0 ... {length - 1}: {order}")
    return order


def order_of_each(x: Tensor, order: Tensor) -> Tensor:
    """One order for all sequences of ``x: Long[B, L]``, or one for each: Long[B, L]."""
    order = check_orders(order, x.shape[1])
    if order.shape not in (x.shape[1:], (1, x.shape[1]), x.shape):
        raise ValueError(
            f"order must be one order or one for each of {len(x)} sequences, got shape "
            f"{tuple(order.shape)}"
        )
    return _random.move(order, x.device).expand(x.shape)


def reads_order(denoiser: Denoiser) -> bool:
    """Whether its answers depend on the order of the tokens that are known."""
    return getattr(denoiser, "reads", None) == "order"


def check_along(denoiser: Denoiser, order: Tensor) -> Denoiser:
    """The denoiser, if it can be asked along orders ``Long[B, L]``.

    ``ValueError`` if it reads from the left and one of them goes another way.
    """
    _checks.denoiser(denoiser, "denoiser")
    if getattr(denoiser, "reads", None) != "prefix":  # only here is a look needed
        return denoiser
    positions = torch.arange(order.shape[-1], device=order.device)
    other = bool((order != positions).any())
    return _checks.denoiser(denoiser, "denoiser", *(MASKED if other else ()))


def step_log_prob(
    denoiser: Denoiser, x: Tensor, order: Tensor, *, rows: int = 1024, name: str = "x"
) -> Tensor:
    """The terms log p(x_o(n) | x_o(<n)), in nats, in the order of the steps.

    Parameters
    ----------
    denoiser : Denoiser
    x : Long[B, L]
        Fully revealed sequences.
    order : Long[L] or Long[B, L]
        One order for all sequences, or one for each.
    rows : int
        How many partly masked states the denoiser is shown at once; there are B * L
        of them, one for each sequence and step.
    name : str
        What errors call ``x``.

    Returns
    -------
    Float[B, L]
        Entry [b, n] belongs to step n, which reveals position ``order[b, n]``.
    """
    x = _revealed(denoiser, x, name)
    size, length = x.shape
    order = order_of_each(x, order)
    check_along(denoiser, order)
    _checks.integer(rows, "rows", 1)
    if reads_order(denoiser):
        chunks = zip(x.split(rows), order.split(rows), strict=True)
        return torch.cat([_in_order(denoiser, *chunk, name) for chunk in chunks])

    step = order.argsort(1)[:, None]  # [B, 1, L]: the step that reveals a position
    known = step < torch.arange(length, device=x.device)[:, None]  # [B, step, L]
    states = torch.where(known, x[:, None], denoiser.mask_id).flatten(0, 1)
    position = order.flatten()
    target = x.gather(1, order).flatten()
    terms = [
        _log_prob_at(denoiser, *chunk, name)
        for chunk in zip(
            states.split(rows),
            position.split(rows),
            target.split(rows),
            strict=True,
        )
    ]
    return torch.cat(terms).view(size, length)


def adaptive_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    score: Callable[[Tensor], Tensor],
    start: Tensor | None = None,
) -> Tensor:
    """Log-probability when the denoiser itself says which position comes next.

    At each step the masked position of the highest score is revealed, the leftmost on
    a tie (which -inf at all of them is). The score sees the predictions and never the
    answer, so the probabilities of all sequences still sum to one: the exact likelihood
    of one-at-a-time decoding by a deterministic rule (Turok et al. 2026, arXiv
    2603.01367).

    Parameters
    ----------
    denoiser : Denoiser
        One that reads from the left is refused: the score may go anywhere.
    x : Long[B, L]
        Fully revealed sequences.
    score : callable
        ``score(log_p: Float[B, L, V]) -> Float[B, L]``, for example
        ``lambda log_p: log_p.amax(-1)``, the confidence rule.
    start : Long[B, L], optional
        States to begin with, some tokens of ``x`` already revealed; by default none.

    Returns
    -------
    Float[B]
        Nats.
    """
    x = _revealed(denoiser, x, "x", *MASKED)
    state = torch.full_like(x, denoiser.mask_id)
    if start is not None:
        state = _checks.tokens(start, "start")
    if state.shape != x.shape or not bool(
        ((state == x) | (state == denoiser.mask_id)).all()
    ):
        raise ValueError(
            f"start must be x of shape {tuple(x.shape)} with some positions masked, "
            f"got shape {tuple(state.shape)}"
        )
    total: Tensor | float = 0.0
    left = (state == denoiser.mask_id).sum(1)
    for _ in range(int(left.max()) if len(x) else 0):
        logits = without_mask(denoiser, denoiser(state))
        _checks.token_range(x, "x", logits.shape[-1], wait=False)
        log_p = logits.log_softmax(-1)
        masked = state == denoiser.mask_id
        value = score(log_p)
        # a masked position stays above a revealed one, even with a score of -inf
        value = value.clamp(min=torch.finfo(value.dtype).min)
        chosen = value.masked_fill(~masked, -torch.inf).argmax(1, keepdim=True)
        token = x.gather(1, chosen)
        here = log_p.gather(1, chosen[..., None].expand(-1, 1, log_p.shape[-1]))
        term = here[:, 0].gather(1, token)[:, 0]
        total = total + torch.where(masked.any(1), term, 0.0)
        state = state.scatter(1, chosen, token)
    return torch.as_tensor(total).expand(len(x))


def _revealed(denoiser: Denoiser, x: Tensor, name: str, *reads: str) -> Tensor:
    """Clean tokens ``Long[B, L]`` for a denoiser that reads one of ``reads``."""
    _checks.denoiser(denoiser, "denoiser", *reads)
    vocab_size = getattr(denoiser, "vocab_size", None)
    return _checks.clean(x, name, denoiser.mask_id, vocab_size)


def _log_prob_at(
    denoiser: Denoiser, x: Tensor, position: Tensor, target: Tensor, name: str
) -> Tensor:
    """Log-probability of one target token a row, at one position a row."""
    row = torch.arange(len(x), device=x.device)
    return _token_log_prob(denoiser, denoiser(x)[row, position], target, name)


def _in_order(denoiser: Any, x: Tensor, order: Tensor, name: str) -> Tensor:
    """The terms of all steps, Float[B, L], from one pass of an any-order model."""
    logits = denoiser.in_order(x, order)  # [B, L, V]
    return _token_log_prob(denoiser, logits, x.gather(1, order), name)


def _token_log_prob(
    denoiser: Denoiser, logits: Tensor, target: Tensor, name: str
) -> Tensor:
    """log p(target) under logits Float[..., V]."""
    _checks.token_range(target, name, logits.shape[-1], wait=False)
    log_p = without_mask(denoiser, logits).log_softmax(-1)
    return log_p.gather(-1, target[..., None])[..., 0]


def without_mask(denoiser: Denoiser, logits: Tensor) -> Tensor:
    """Logits in float32 at least, without probability for the mask.

    Whoever reads the logits of a denoiser outside the decoding loop does it through
    this function: a denoiser may have a column for the mask.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if denoiser.mask_id < logits.shape[-1]:
        column = torch.arange(logits.shape[-1], device=logits.device)
        logits = logits.masked_fill(column == denoiser.mask_id, -torch.inf)
    return logits


def log_prob(
    denoiser: Denoiser, x: Tensor, order: Tensor, *, rows: int = 1024, name: str = "x"
) -> Tensor:
    """Log-probability of sequences when generated one token at a time in an order.

    The arguments are those of :func:`step_log_prob`; the result is ``Float[B]``, in
    nats, and -inf for a sequence that cannot be generated.
    """
    return step_log_prob(denoiser, x, order, rows=rows, name=name).sum(1)


def log_probs(
    denoiser: Denoiser, x: Tensor, orders: Tensor, *, rows: int = 1024, name: str = "x"
) -> Tensor:
    """Log-probability of every sequence in every one of several orders.

    Parameters
    ----------
    denoiser, x, rows, name
        As in :func:`step_log_prob`.
    orders : Long[K, L]

    Returns
    -------
    Float[K, B]
        Nats.
    """
    _checks.denoiser(denoiser, "denoiser")
    x = _checks.tokens(x, name)
    orders = check_orders(_checks.tokens(orders, "orders"), x.shape[1], "orders")
    each = orders.repeat_interleave(len(x), 0)  # [K * B, L]
    every = x.repeat(len(orders), 1)
    log_p = log_prob(denoiser, every, each, rows=rows, name=name)
    return log_p.view(len(orders), len(x))


def mixture_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    orders: Tensor,
    weights: Tensor | None = None,
    *,
    rows: int = 1024,
) -> Tensor:
    """Log-probability under an order drawn at random, log sum_o p(o) p^(o)(x).

    Parameters
    ----------
    denoiser, x, rows
        As in :func:`step_log_prob`.
    orders : Long[O, L]
        The orders of the mixture.
    weights : Float[O], optional
        p(o), which must sum to 1; by default all orders are equally likely.

    Returns
    -------
    Float[B]
        In nats. With all orders this is the likelihood of a model that draws its order
        uniformly, which the mean of :func:`log_prob` over the orders bounds from below.
    """
    if not len(_checks.tokens(orders, "orders")):
        raise ValueError(f"orders must hold an order, got shape {tuple(orders.shape)}")
    if weights is None:
        weights = torch.full((len(orders),), 1 / len(orders), dtype=torch.float64)
    weights = _checks.probabilities(weights, "weights")
    if weights.shape != orders.shape[:1]:
        raise ValueError(
            f"weights must have one entry for each of {len(orders)} orders, "
            f"got shape {tuple(weights.shape)}"
        )
    terms = log_probs(denoiser, x, orders, rows=rows)  # [O, B]
    log_weights = weights.log().to(terms)
    return (terms + log_weights[:, None]).logsumexp(0)
