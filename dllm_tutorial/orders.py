"""Orders of generation and the probability of a sequence under each of them.

A denoiser and an order o, a permutation of the positions, make an autoregressive model

.. math:: \\log p^{(o)}(x) = \\sum_n \\log p(x_{o(n)} \\mid x_{o(1)}, ..., x_{o(n-1)})

(Uria et al. 2014). Exact conditionals give the same value for every order;
a learned denoiser does not. A causal denoiser, whose prediction at a position sees only
the positions before it, gives a meaningful value for :func:`left_to_right` alone.

An order is ``Long[L]``: entry n is the position revealed at step n.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from dllm_tutorial import _checks
from dllm_tutorial.denoiser import Denoiser

__all__ = [
    "all_orders",
    "block_order",
    "check_orders",
    "left_to_right",
    "log_prob",
    "mixture_log_prob",
    "random_order",
    "random_orders",
    "right_to_left",
    "step_log_prob",
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
    _checks.integer(block, "block", 1)
    order = random_order(length, generator)
    return order[(order // block).argsort(stable=True)]


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
    _checks.tokens(order, name, ndim=ndim, length=length)
    positions = torch.arange(length, device=order.device)
    if not bool((order.sort(-1).values == positions).all()):
        raise ValueError(f"{name} must be permutations of 0 ... {length - 1}: {order}")
    return order


def step_log_prob(
    denoiser: Denoiser, x: Tensor, order: Tensor, *, rows: int = 1024
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

    Returns
    -------
    Float[B, L]
        Entry [b, n] belongs to step n, which reveals position ``order[b, n]``.
    """
    size, length = _checks.tokens(x, "x").shape
    if bool((x == denoiser.mask_id).any()):
        raise ValueError("x must be fully revealed, got sequences that hold the mask")
    order = check_orders(order, length).to(x.device).expand(size, length)

    step = order.argsort(1)[:, None]  # [B, 1, L]: the step that reveals a position
    known = step < torch.arange(length, device=x.device)[:, None]  # [B, step, L]
    states = torch.where(known, x[:, None], denoiser.mask_id).flatten(0, 1)
    position = order.flatten()
    target = x.gather(1, order).flatten()
    terms = [
        _log_prob_at(denoiser, *chunk)
        for chunk in zip(
            states.split(_checks.integer(rows, "rows", 1)),
            position.split(rows),
            target.split(rows),
            strict=True,
        )
    ]
    return torch.cat(terms).view(size, length)


def _log_prob_at(
    denoiser: Denoiser, x: Tensor, position: Tensor, target: Tensor
) -> Tensor:
    """Log-probability of one target token a row, at one position a row."""
    row = torch.arange(len(x), device=x.device)
    logits = denoiser(x)[row, position]  # [rows, V]
    if denoiser.mask_id < logits.shape[-1]:
        column = torch.arange(logits.shape[-1], device=x.device) == denoiser.mask_id
        logits = logits.masked_fill(column, -torch.inf)
    return logits.log_softmax(-1)[row, target]


def log_prob(
    denoiser: Denoiser, x: Tensor, order: Tensor, *, rows: int = 1024
) -> Tensor:
    """Log-probability of sequences when generated one token at a time in an order.

    The arguments are those of :func:`step_log_prob`; the result is ``Float[B]``, in
    nats, and -inf for a sequence that cannot be generated.
    """
    return step_log_prob(denoiser, x, order, rows=rows).sum(1)


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
    check_orders(_checks.tokens(orders, "orders"), x.shape[-1], "orders")
    if weights is None:
        weights = torch.full((len(orders),), 1 / len(orders), dtype=torch.float64)
    weights = _checks.probabilities(weights, "weights")
    if weights.shape != orders.shape[:1]:
        raise ValueError(
            f"weights must have one entry for each of {len(orders)} orders, "
            f"got shape {tuple(weights.shape)}"
        )
    each = [log_prob(denoiser, x, order, rows=rows) for order in orders]
    terms = torch.stack(each)  # [O, B]
    log_weights = weights.log().to(terms)
    return (terms + log_weights[:, None]).logsumexp(0)
