r"""How far a prediction has to look, for every order of generation.

Language is nearly a Markov chain: what a token depends on stands close by. From left to
right the tokens generated last are those neighbors; in a random order they lie
anywhere. That is Du's argument for left-to-right (Du et al. 2025), and here it is made
exact. A model that sees only part of what is revealed pays, at step n of the order o,

.. math:: H(x_{o(n)} \mid x_{S_n}), \qquad S_n \subseteq \{o(1), ..., o(n-1)\}

and everything below is a choice of the sets S: the last k tokens generated
(:func:`seen` by ``"time"``), the k revealed tokens nearest in the sequence (by
``"space"``), or all tokens of earlier steps of a parallel decoder
(:func:`seen_in_blocks`). All entropies are in nats.

``python -m dllm_tutorial.neighborhood --out runs`` measures the rows ``order_chain``,
``order_parallel`` and ``order_text`` again, in a minute or two of one core; with
``--ship`` they go into the package, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import special
from torch import Tensor

from dllm_tutorial import _checks, _programs, orders, study, text
from dllm_tutorial.denoiser import MASKED, Denoiser
from dllm_tutorial.joints import MarkovChain
from dllm_tutorial.losses import token_nll

__all__ = [
    "conditionals",
    "count_conditionals",
    "lag_entropies",
    "named_orders",
    "noisy_sum",
    "offset_groups",
    "offset_log_prob",
    "oldest",
    "order_nats",
    "parallel_kl",
    "patterns",
    "queue",
    "random_parallel_kl",
    "random_set_entropies",
    "random_window_nll",
    "recency",
    "run_radius",
    "seen",
    "seen_in_blocks",
    "step_entropies",
    "step_nll",
    "swap_rows",
]

VIEWS = ("time", "space")

# --------------------------------------------------------------- what a prediction sees


def queue(order: Tensor, by: str) -> Tensor:
    """Which revealed tokens count first: the place of each in a queue, from 0 on.

    Parameters
    ----------
    order : Long[..., L]
        Permutations; entry n is the position revealed at step n.
    by : str
        ``"time"``: the token generated last comes first. ``"space"``: the token
        nearest to the predicted position comes first, of two at one distance the left.

    Returns
    -------
    Long[..., L, L]
        Entry [n, i] is the place of position i when step n is predicted; positions
        that are not yet revealed have place L.
    """
    length = order.shape[-1]
    order = orders.check_orders(order, length)
    _checks.one_of(by, "by", VIEWS)
    here = order[..., :, None]  # the position that step n predicts
    position = torch.arange(length, device=order.device)
    age = position[:, None] - order.argsort(-1)[..., None, :]  # steps since i came
    distance = 2 * (position - here).abs() + (position > here)
    far = torch.where(age > 0, age if by == "time" else distance, 2 * length)
    return torch.where(age > 0, far.argsort(-1).argsort(-1), length)


def seen(order: Tensor, k: int, by: str = "time") -> Tensor:
    """What a window of k tokens shows: ``Bool[..., L, L]``, entry [n, i] for step n.

    The last k tokens generated, or the k revealed ones nearest in the sequence; fewer
    while fewer are revealed. The arguments are those of :func:`queue`.
    """
    return queue(order, by) < min(_checks.integer(k, "k", 0), order.shape[-1])


def seen_in_blocks(order: Tensor, k: int) -> Tensor:
    """What parallel decoding of k tokens a step shows: all tokens of earlier steps.

    ``Bool[..., L, L]`` as in :func:`seen`; the order is cut into blocks of k.
    """
    order = orders.check_orders(order, order.shape[-1])
    _checks.integer(k, "k", 1)
    step = torch.arange(order.shape[-1], device=order.device)
    return order.argsort(-1)[..., None, :] // k < step[:, None] // k


# ----------------------------------------------------------- chains of order one: exact


def noisy_sum(
    length: int, order: int = 1, vocab: int = 4, keep: float = 0.85
) -> MarkovChain:
    """A chain whose next token is the sum of the last m, modulo V, unless noise hits.

    With probability ``keep`` the token is u_1 + ... + u_m mod V, otherwise one of the
    others, all equally likely. Order m = 1 repeats its token. The stationary law is
    uniform, and for m > 1 fewer than m tokens in a row tell nothing about the next.
    """
    _checks.integer(order, "order", 1)
    _checks.integer(vocab, "vocab", 2)
    _checks.in_unit_interval(keep, "keep", open_left=True, open_right=True)
    shape = (vocab,) * order
    total = torch.cartesian_prod(*[torch.arange(vocab)] * order).view(-1, order).sum(1)
    p = torch.full((vocab**order, vocab), (1 - keep) / (vocab - 1), dtype=torch.float64)
    p[torch.arange(len(p)), total % vocab] = keep
    return MarkovChain(p.view(*shape, vocab), length)


def lag_entropies(chain: MarkovChain) -> Tensor:
    r"""h_a = H(x_{i+a} | x_i) of a stationary chain of order one, ``Float64[L + 1]``.

    From the powers of the transition matrix, for a = 0 ... L - 1. The last entry stands
    for a neighbor that is not there: the entropy of a single token. By the chain rule

    .. math:: H(x_i \mid x_{i-a}, x_{i+b}) = h_a + h_b - h_{a+b}

    Raises ``ValueError`` for another order or an initial law that is not stationary.
    """
    if chain.order != 1:
        raise ValueError(f"chain must have order 1, got {chain.order}")
    law, step = chain.initial, chain.transition
    if not torch.allclose(law @ step, law, atol=1e-9, rtol=0):
        raise ValueError(f"chain must start from its stationary law, got {law}")
    power, values = torch.eye(len(law)).to(step), []
    for _ in range(chain.length):
        values.append(law @ torch.special.entr(power).sum(-1))
        power = power @ step
    return torch.stack([*values, torch.special.entr(law).sum()])


def step_entropies(chain: MarkovChain, order: Tensor, shown: Tensor) -> Tensor:
    """H(x_o(n) | what step n sees) of a stationary chain of order one, exact.

    Only the nearest tokens seen on the left and on the right matter.

    Parameters
    ----------
    chain : MarkovChain
    order : Long[..., L]
    shown : Bool[..., L, L]
        As :func:`seen` or :func:`seen_in_blocks` makes them from ``order``.

    Returns
    -------
    Float64[..., L]
        Nats; entry n belongs to step n.
    """
    length = chain.length
    order = orders.check_orders(order, length)
    h = lag_entropies(chain)
    offset = torch.arange(length, device=order.device) - order[..., None]
    left = torch.where(shown & (offset < 0), -offset, length).amin(-1)
    right = torch.where(shown & (offset > 0), offset, length).amin(-1)
    return h[left] + h[right] - h[(left + right).clamp(max=length)]


def random_set_entropies(chain: MarkovChain) -> Tensor:
    r"""Mean of H(x_i | x_S) over all positions i and all sets S of s others, exact.

    ``Float64[L]``, entry s, for a stationary chain of order one. With h as in
    :func:`lag_entropies`, the sets that leave i between neighbors at distances a and b
    number C(L - 1 - a - b, s - 2), at L - a - b positions i; those with a neighbor on
    one side only number C(L - a, s) over all i.

    Whatever is random in a random order is in this table: its mean over s is H / L.
    """
    h, length = lag_entropies(chain).numpy(), chain.length
    size = np.arange(length)[:, None]  # s
    gap = np.arange(1, length)  # a + b, or a alone
    inside = 2 * (np.cumsum(h[1:length]) - h[1:length]) - (gap - 1) * h[1:length]
    sets = _log_binomial(length - 1, size)  # all of them; the numbers overflow a float
    two = np.exp(_log_binomial(length - 1 - gap, size - 2) - sets)
    one = np.exp(_log_binomial(length - gap, size) - sets)
    total = (two * (length - gap) * inside + 2 * one * h[1:length]).sum(1)
    total[0] = length * h[length]
    return torch.from_numpy(total / length)


def _log_binomial(n: np.ndarray | int, k: np.ndarray) -> np.ndarray:
    """log C(n, k) for n >= 0; -inf where k < 0 or k > n, as gammaln is inf there."""
    choices = special.gammaln(k + 1) + special.gammaln(n - k + 1)
    return special.gammaln(n + 1) - choices


def random_window_nll(chain: MarkovChain, k: int) -> float:
    """Nats per token of uniformly random orders seen through a window of k in time.

    The last k of a random order are a random set, so this is a mean over
    :func:`random_set_entropies`: exact, no order is drawn.
    """
    _checks.integer(k, "k", 0)
    n = torch.arange(chain.length)
    return random_set_entropies(chain)[n.clamp(max=k)].mean().item()


# -------------------------------------------------------------------- parallel decoding


def parallel_kl(chain: MarkovChain, order: Tensor, k: int) -> Tensor:
    """KL(p || q) in nats of revealing an order in blocks of k, ``Float64[...]``.

    The sum of the conditional total correlations of the blocks (Kang et al. 2025): what
    the tokens cost given earlier blocks alone, beyond the entropy of the chain, which
    must be stationary and of order one. ``order: Long[..., L]``.
    """
    h, length = lag_entropies(chain), chain.length
    cost = step_entropies(chain, order, seen_in_blocks(order, k)).sum(-1)
    return cost - (h[length] + (length - 1) * h[min(1, length)])


def random_parallel_kl(chain: MarkovChain, k: int) -> float:
    """Mean of :func:`parallel_kl` over all orders, exact: random sets of k tokens."""
    n = torch.arange(chain.length)
    table = random_set_entropies(chain)
    return (table[n // _checks.integer(k, "k", 1) * k] - table[n]).sum().item()


# -------------------------------------------------------------- any joint: by sequences


def step_nll(
    denoiser: Denoiser, x: Tensor, order: Tensor, shown: Tensor, *, rows: int = 4096
) -> Tensor:
    """-log p(x_o(n) | what step n sees), everything else masked: ``Float[B, L]``, nats.

    With a :class:`~dllm_tutorial.joints.Joint` the conditionals are exact whatever is
    masked, so that the mean over sequences drawn from it estimates the entropies
    without bias, for chains of any order too.

    Parameters
    ----------
    denoiser : Denoiser
    x : Long[B, L]
        Fully revealed sequences.
    order : Long[L] or Long[B, L]
    shown : Bool[L, L] or Bool[B, L, L]
        See :func:`seen`.
    rows : int
        How many of the B * L masked states are shown to the denoiser at once.
    """
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    x = _checks.tokens(x, "x")
    size, length = x.shape
    order = orders.order_of_each(x, order)
    states = torch.where(shown, x[:, None], denoiser.mask_id).flatten(0, 1)
    clean = x.repeat_interleave(length, 0)
    position = order.reshape(-1, 1)
    chunks = [part.split(_checks.integer(rows, "rows", 1)) for part in (states, clean)]
    pairs = zip(*chunks, strict=True)
    nll = torch.cat([token_nll(denoiser, *pair, name="x") for pair in pairs])
    return nll.gather(1, position).view(size, length)


# -------------------------------------------------------------------- how many, how far


def recency(n: int, k: int) -> tuple[float, float]:
    """P(one given, P(two given) of n - 1 earlier tokens are among the last k).

    k / (n - 1) and k (k - 1) / ((n - 1) (n - 2)), capped at 1: in a random order the
    nearest revealed neighbors are as likely as any other tokens to be recent, so k has
    to grow with n. n >= 3 counts the token that is predicted.
    """
    earlier = _checks.integer(n, "n", 3) - 1
    k = min(_checks.integer(k, "k", 0), earlier)
    return k / earlier, k * (k - 1) / (earlier * (earlier - 1))


def run_radius(revealed: float, m: int) -> float:
    """Mean distance at which a run of m revealed tokens is complete, on one side.

    (u^-m - 1) / (1 - u) when each token is revealed with probability u, 0 < u < 1: the
    waiting time for m successes in a row (Feller 1968, section XIII.7). A chain of
    order m needs such a run to be cut off from what lies beyond it.
    """
    u = _checks.in_unit_interval(revealed, "revealed", open_left=True, open_right=True)
    return (u ** -_checks.integer(m, "m", 1) - 1) / (1 - u)


def conditionals(n: int) -> dict[str, int]:
    """How many distributions a model of n tokens has to know, by kind of model.

    ``"one order"``: one for each token. ``"any order, chain"``: pairs of gaps (a, b),
    a side may be open, n (n + 1) / 2. ``"any order, set"``: what a bidirectional
    denoiser is asked, a token and a set of others, n 2^(n-1). ``"any order, list"``:
    what a causal decoder of any order is asked, the others in the order in which they
    came, n! (1/0! + ... + 1/(n-1)!), about e n!. For one order on a stationary chain
    of order one the tokens share one table.
    """
    _checks.integer(n, "n", 1)
    return {
        "one order": n,
        "any order, chain": n * (n + 1) // 2,
        "any order, set": n * 2 ** (n - 1),
        "any order, list": sum(n * math.perm(n - 1, s) for s in range(n)),
    }


def count_conditionals(order: Tensor, k: int, by: str = "time") -> int:
    """Different questions (position, set seen) in ``order: Long[..., L]``, counted.

    k and ``by`` are those of :func:`seen`; with all orders and k = L - 1 there are
    ``conditionals(L)["any order, set"]``.
    """
    shown = seen(order, k, by)
    asked = torch.cat([order[..., None], shown.long()], -1).flatten(0, -2)
    return len(torch.unique(asked, dim=0))


def patterns(order: Tensor, k: int) -> int:
    """How many different offsets the k nearest revealed tokens have.

    Over all steps of all orders ``Long[..., L]``, counted; fewer than k are revealed at
    the first steps. On stationary text this is how many tables of counts are needed.
    """
    length = order.shape[-1]
    k = min(_checks.integer(k, "k", 1), length)
    nearest = queue(order, "space").argsort(-1)[..., :k]  # [..., L, k]
    step = torch.arange(length, device=order.device)
    missing = torch.arange(k, device=order.device) >= step[:, None]
    offset = (nearest - order[..., None]).masked_fill(missing, length)
    return len(offset.flatten(0, -2).unique(dim=0))


def oldest(order: Tensor, k: int) -> Tensor:
    """How many steps ago the oldest of the k nearest tokens was generated.

    ``Float64[...]``, the mean over the steps of each order ``Long[..., L]``; 0 where
    nothing is revealed.
    """
    age = queue(order, "time") + 1
    near = seen(order, k, "space")
    return torch.where(near, age, 0).amax(-1).double().mean(-1)


# --------------------------------------------------------------- real text, by counting


def offset_log_prob(
    stream: np.ndarray, x: np.ndarray, offsets: Sequence[int], vocab_size: int
) -> np.ndarray:
    r"""log p of tokens given those at some offsets, from counts in a stream of text.

    .. math:: p_j(c \mid h) = \frac{N(hc) + T(h)\, p_{j-1}(c \mid h')}{N(h) + T(h)}

    As :class:`~dllm_tutorial.ngrams.WittenBell`, but the context h is tokens at the
    first j offsets, wherever they lie, and h' forgets the last of them.

    Parameters
    ----------
    stream : Int[N]
        Training text; all its places count alike.
    x : Int[n, k + 1]
        Tokens at the k offsets, in their order, and last the one that is predicted.
    offsets : sequence of int
        Distinct and not 0; -1 is the token before. The most important one comes first.
    vocab_size : int
        V; tables of V^(k + 1) counts are made.

    Returns
    -------
    Float64[k + 1, n]
        Row j uses the first j offsets; nats.
    """
    if len({0, *offsets}) <= len(offsets) or x.shape[1:] != (len(offsets) + 1,):
        raise ValueError(f"offsets must be distinct and not 0, one a column: {offsets}")
    start, stop = -min(0, *offsets, 0), len(stream) - max(0, *offsets, 0)
    code, asked = stream[start:stop].astype(np.int64), x[:, -1].astype(np.int64)
    p, rows = np.full(len(x), 1 / vocab_size), []
    for j in range(len(offsets) + 1):
        if j:  # the context grows at the front of the code
            more = stream[start + offsets[j - 1] : stop + offsets[j - 1]]
            code = code + more.astype(np.int64) * vocab_size**j
            asked = asked + x[:, j - 1].astype(np.int64) * vocab_size**j
        count = np.bincount(code, minlength=vocab_size ** (j + 1))
        after = count.reshape(-1, vocab_size)[asked // vocab_size]  # [n, V]
        total, types = after.sum(1), (after > 0).sum(1)
        mixed = (count[asked] + types * p) / np.maximum(total + types, 1)
        p = np.where(total > 0, mixed, p)
        rows.append(np.log(p))
    return np.stack(rows)


def offset_groups(order: Tensor, k: int, by: str) -> dict[tuple[int, ...], list[int]]:
    """The tables that ``order: Long[L]`` needs with a window of k on stationary text.

    Keys are the offsets of what is seen, first in the :func:`queue` first; values are
    the positions predicted from them. Left to right there are k + 1 keys.
    """
    place = queue(order, by)
    groups: dict[tuple[int, ...], list[int]] = {}
    for n, target in enumerate(order.tolist()):
        context = place[n].argsort()[: min(k, n)] - target
        groups.setdefault(tuple(context.tolist()), []).append(target)
    return groups


def order_nats(
    stream: np.ndarray, x: np.ndarray, order: Tensor, k: int, by: str, vocab_size: int
) -> np.ndarray:
    """Nats of each window under counts that see 0 ... k tokens: ``Float64[k+1, B]``.

    Every step of the order has its own counts, of the tokens at the offsets that it
    sees (:func:`offset_log_prob`); steps with the same offsets share them. Row j sees
    at most j tokens.

    Parameters
    ----------
    stream : Int[N]
        Training text.
    x : Int[B, L]
        Windows to be predicted.
    order : Long[L]
    k, by
        See :func:`seen`.
    vocab_size : int
        V; V^(k+1) counts have to fit into memory.
    """
    nats = np.zeros((_checks.integer(k, "k", 0) + 1, len(x)))
    for offsets, targets in offset_groups(order, k, by).items():
        columns = np.array(targets)[:, None] + np.array([*offsets, 0])
        asked = x[:, columns].reshape(-1, columns.shape[1])
        log_p = offset_log_prob(stream, asked, offsets, vocab_size)
        each = -log_p.reshape(len(log_p), len(x), -1).sum(-1)
        nats[: len(each)] += each
        nats[len(each) :] += each[-1]  # a longer window shows nothing more
    return nats


# ----------------------------------------------------------------------------- the rows

COMMAND = "python -m dllm_tutorial.neighborhood --out runs --ship"
SEED = 0
DRAWS = 500  # random orders, or sequences
BLOCK = 8


def named_orders(
    length: int, n: int, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """The orders of the chapter by name: ``Long[1, L]``, or ``Long[n, L]`` if drawn."""
    block = min(BLOCK, length)
    return {
        "left-to-right": orders.left_to_right(length)[None],
        "right-to-left": orders.right_to_left(length)[None],
        f"blocks of {block}": orders.block_orders(length, n, block, generator),
        "bit-reversed": orders.bit_reversed(length)[None],
        "random": orders.random_orders(length, n, generator),
    }


def chain_rows(length: int, windows: Iterable[int], n: int = DRAWS) -> list[dict]:
    """A chain of order one seen through windows: exact for each order.

    The standard error is that of the mean over n orders where orders are drawn; random
    orders by time are averaged in closed form.
    """
    chain, rows = noisy_sum(length), []
    named = named_orders(length, n, torch.Generator().manual_seed(SEED))
    for name, order in named.items():
        for by in VIEWS:
            closed = (name, by) == ("random", "time")
            for k in windows:
                cost = step_entropies(chain, order, seen(order, k, by)).mean(-1)
                mean, error = _mean(cost)
                if closed:
                    mean, error = random_window_nll(chain, k), 0.0
                row = {"chain_order": 1, "length": length, "order": name, "by": by}
                row |= {"k": k, "nats_per_token": mean, "standard_error": error}
                drawn = "none" if closed or len(order) == 1 else f"{n} orders"
                rows.append(row | {"drawn": drawn})
    return rows


def swap_rows(
    length: int, swaps: Iterable[int], windows: Iterable[int], n: int = DRAWS
) -> list[dict]:
    """The same chain in orders between left to right and random, exact for each order.

    n orders for each number of exchanges (:func:`~dllm_tutorial.orders.swap_order`);
    the standard error is that of the mean over them.
    """
    chain, rows = noisy_sum(length), []
    generator = torch.Generator().manual_seed(SEED)
    windows = list(windows)
    for count in swaps:
        drawn = [orders.swap_order(length, count, generator) for _ in range(n)]
        order = torch.stack(drawn)
        for by in VIEWS:
            place = queue(order, by)
            for k in windows:
                cost = step_entropies(chain, order, place < min(k, length)).mean(-1)
                mean, error = _mean(cost)
                row = {"length": length, "swaps": count, "by": by, "k": k}
                row |= {"nats_per_token": mean, "standard_error": error}
                rows.append(row)
    return rows


def sequence_rows(
    length: int, windows: Iterable[int], chain_order: int = 2, n: int = DRAWS
) -> list[dict]:
    """A chain of a higher order seen through windows, over n sequences drawn from it.

    An order that is drawn is another one for each sequence. How surprising a sequence
    is, -log p less its known mean, explains part of what it costs and is regressed out
    (Cochran 1977, section 7.1). The standard error is over sequences.
    """
    chain, rows = noisy_sum(length, chain_order), []
    generator = torch.Generator().manual_seed(SEED)
    x = chain.sample(n, generator)
    surprise = -chain.log_prob(x) - chain.entropy()
    spread = (n - 1) * surprise.var().clamp(min=1e-9)  # few sequences may all be equal
    for name, order in named_orders(length, n, generator).items():
        for by in VIEWS:
            for k in windows:
                nll = step_nll(chain, x, order, seen(order, k, by)).sum(-1)
                slope = (nll - nll.mean()) @ surprise / spread
                mean, error = _mean((nll - slope * surprise) / length)
                row = {"chain_order": chain_order, "length": length, "order": name}
                row |= {"by": by, "k": k, "nats_per_token": mean}
                rows.append(row | {"standard_error": error, "drawn": f"{n} sequences"})
    return rows


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean and standard error, which is 0 for a single value."""
    error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else 0.0
    return values.mean().item(), error


def parallel_rows(length: int, tokens: Iterable[int]) -> list[dict]:
    """What k tokens a step cost a chain of order one, in nats a sequence: exact."""
    chain = noisy_sum(length)
    rows: list[dict] = []
    for k in tokens:
        costs = {
            "adjacent": parallel_kl(chain, orders.left_to_right(length), k).item(),
            "random": random_parallel_kl(chain, k),
            "bit-reversed": parallel_kl(chain, orders.bit_reversed(length), k).item(),
        }
        rows += [
            {"length": length, "blocks": name, "k": k, "kl": max(0.0, cost)}
            for name, cost in costs.items()
        ]
    return rows


def text_rows(
    length: int = 32, k: int = 4, seeds: Iterable[int] = (0, 1, 2), every: int = 1
) -> list[dict]:
    """Bits per character of real text by counting, for windows of 0 ... k characters.

    State of the Union addresses in small letters, each ``every``-th held-out window of
    ``length`` of them. The orders are fixed; a random one is drawn for each seed, that
    of blocks for the first. The standard error is over windows, ``tables`` how many
    tables of counts the order asks for.
    """
    tokenizer = text.CharTokenizer(text.LETTERS)
    stream = text.letters("sotu", "train").numpy()
    speeches = map(text.only_letters, text.split("held-out"))
    x = text.windows(speeches, tokenizer, length)[::every].numpy()
    characters = torch.full((len(x),), length)
    rows: list[dict] = []
    for seed in seeds:
        named = named_orders(length, 1, torch.Generator().manual_seed(seed))
        for name in ["random"] if rows else named:
            order = named[name][0]
            for by in VIEWS:
                nats = order_nats(stream, x, order, k, by, len(text.LETTERS))
                for window, each in enumerate(torch.from_numpy(nats)):
                    bits, error = text.bits_per_character(each, characters)
                    row = {"order": name, "by": by, "k": window, "seed": seed}
                    row |= {"bits_per_character": bits, "standard_error": error}
                    row["tables"] = len(offset_groups(order, window, by))
                    rows.append(row | {"length": length, "windows": len(x)})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    a = _programs.parse(_programs.parser(__doc__), arguments)
    origin = study.provenance(COMMAND, (0, 1, 2))  # of the code that measures
    torch.set_num_threads(1)
    windows = (0, 1, 2, 3, 4, 8, 16, 24, 32, 40, 48, 56, 63)
    tables = {
        "order_chain": chain_rows(64, windows)
        + sequence_rows(32, (0, 1, 2, 3, 4, 8, 16, 24, 31), n=200),
        "order_parallel": parallel_rows(64, (1, 2, 4, 8, 16, 32, 64)),
        "order_text": text_rows(),
    }
    for name, rows in tables.items():
        table = pd.DataFrame(rows)
        table = table.round(dict.fromkeys(table.select_dtypes("float").columns, 5))
        _programs.publish(a, name, table, origin)


if __name__ == "__main__":
    main()
