"""What parallel decoding does to a distribution, without sampling.

Given a denoiser and a rule that does not look at token values, the law of the decoded
sequence can be enumerated: a step draws each revealed position from its conditional,
independently of the others revealed with it. For the two list tasks of Kang et al.
(2025), Shuffle and Replace Random, the probability of a valid answer also has a closed
form. Proofs are on the page "Parallel decoding" of the book.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from dllm_tutorial import _checks
from dllm_tutorial.denoiser import MASKED, Denoiser
from dllm_tutorial.joints import Joint, TableJoint
from dllm_tutorial.losses import token_nll
from dllm_tutorial.masking import all_masks
from dllm_tutorial.orders import without_mask
from dllm_tutorial.schedules import Schedule

__all__ = [
    "ancestral_kl",
    "ancestral_law",
    "ancestral_log_prob",
    "blocks_of",
    "distinct_choice_probability",
    "greedy_shuffle_accuracy",
    "kl_divergence",
    "ordered_partitions",
    "pair_dependence",
    "parallel_law",
    "random_top_k_law",
    "replace_random_accuracy",
    "shuffle_accuracy",
    "step_costs",
    "valid_probability",
]

_MAX_STATES = 1 << 20  # partly decoded sequences that are enumerated at once
_MAX_MOVES = 1 << 26  # sequences x pairs of sets, half a gigabyte of float64


def blocks_of(order: Iterable[int] | Tensor, k: int) -> list[list[int]]:
    """Cut an order of positions into blocks of ``k``, the last one maybe shorter."""
    _checks.integer(k, "k", 1)
    positions = order.tolist() if isinstance(order, Tensor) else list(order)
    return [positions[start : start + k] for start in range(0, len(positions), k)]


def ordered_partitions(positions: Sequence[int]) -> Iterator[list[list[int]]]:
    """Every way to decode positions in blocks: all partitions, in every order.

    There are 1, 3, 13, 75, 541, 4683 of them for 1 to 6 positions.
    """
    if not positions:
        yield []
    for size in range(1, len(positions) + 1):
        for block in itertools.combinations(positions, size):
            rest = [i for i in positions if i not in block]
            for tail in ordered_partitions(rest):
                yield [list(block), *tail]


def parallel_law(
    denoiser: Denoiser, x: Tensor, blocks: Iterable[Sequence[int]]
) -> TableJoint:
    """Law of the sequence decoded in given blocks at temperature 1.

    Each step draws all positions of its block at once, independently, given what the
    steps before it revealed.

    Parameters
    ----------
    denoiser : Denoiser
        Not one that reads from the left alone.
    x : Long[L]
        The start; masked positions hold ``mask_id``.
    blocks : iterable of sequences of int
        The masked positions, each in exactly one block.
    """
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    steps = [tuple(block) for block in blocks]
    x = _checks.tokens(x, "x", ndim=1)
    masked = (x == denoiser.mask_id).nonzero()[:, 0].tolist()
    if sorted(itertools.chain(*steps)) != masked:
        raise ValueError(f"blocks must hold the positions {masked}, got {steps}")
    states, weights = x[None], torch.ones(1, dtype=torch.float64, device=x.device)
    for block in steps:
        states, weights = _reveal(denoiser, states, weights, block)
    return law_table(denoiser, states, weights)


def random_top_k_law(denoiser: Denoiser, x: Tensor, k: int) -> TableJoint:
    """Law of the sequence decoded by random top-k at temperature 1.

    Each step reveals ``k`` masked positions chosen uniformly (at the end, those that
    are left), drawing them as :func:`parallel_law` does.
    """
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    _checks.integer(k, "k", 1)
    x = _checks.tokens(x, "x", ndim=1)
    masked = tuple((x == denoiser.mask_id).nonzero()[:, 0].tolist())
    one = torch.ones(1, dtype=torch.float64, device=x.device)
    level = {masked: (x[None], one)}  # masked positions -> states, their weights
    while any(level):
        parts: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for left, (states, weights) in level.items():
            choices = list(itertools.combinations(left, min(k, len(left))))
            for block in choices:
                rest = tuple(i for i in left if i not in block)
                share = weights / len(choices)
                step = _reveal(denoiser, states, share, block)
                parts.setdefault(rest, []).append(step)
        level = {rest: _merge(found) for rest, found in parts.items()}
    states, weights = level[()]
    return law_table(denoiser, states, weights)


def law_table(denoiser: Denoiser, states: Tensor, weights: Tensor) -> TableJoint:
    """Decoded sequences and their weights as a table.

    The mask id of a table lies above its tokens: it is that of the denoiser unless a
    token lies above that.
    """
    vocab_size = max(denoiser.mask_id, int(states.max()) + 1)
    return TableJoint(states, weights / weights.sum(), vocab_size)


def _reveal(
    denoiser: Denoiser, states: Tensor, weights: Tensor, block: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Every way to reveal the positions of ``block`` at once, with its probability."""
    p = without_mask(denoiser, denoiser(states)).double().softmax(-1)  # [K, L, V]
    _checks.token_range(states, "x", p.shape[-1], denoiser.mask_id)
    for i in block:
        source, token = p[:, i].nonzero(as_tuple=True)
        if len(source) > _MAX_STATES:
            raise ValueError(f"the law has more than {_MAX_STATES} sequences")
        weights = weights[source] * p[source, i, token]
        states = states[source].index_copy(
            1, torch.tensor([i], device=states.device), token[:, None]
        )
        p = p[source]
    return states, weights


def _merge(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Add the weights of equal states."""
    states = torch.cat([part[0] for part in parts])
    weights = torch.cat([part[1] for part in parts])
    unique, group = torch.unique(states, dim=0, return_inverse=True)
    return unique, weights.new_zeros(len(unique)).index_add(0, group, weights)


def kl_divergence(p: Joint, q: Joint) -> float:
    """KL(p || q) in nats; infinite where q misses a sequence of p."""
    table = p.table()
    log_q = q.log_prob(table.support)
    seen = table.probs > 0
    terms = table.probs * (table.probs.log() - log_q)
    return terms[seen].sum().item()


def valid_probability(joint: Joint, law: TableJoint) -> float:
    """Probability under ``law`` of a sequence that ``joint`` can produce."""
    valid = joint.log_prob(law.support) > -math.inf
    return law.probs[valid].sum().item()


def step_costs(joint: Joint, blocks: Iterable[Sequence[int]]) -> list[float]:
    """Conditional total correlation of each block given the earlier ones, in nats.

    Their sum is KL(joint || law of decoding in these blocks).
    """
    costs: list[float] = []
    known: list[int] = []
    for block in blocks:
        costs.append(joint.total_correlation(block, known))
        known.extend(block)
    return costs


# ------------------------------------------------------------------ ancestral sampling


def ancestral_log_prob(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, steps: int
) -> Tensor:
    r"""log p_T(x), the law of the T-step ancestral sampler.

    Starting from all masks, the step from t to s = t - 1/T reveals each masked position
    by itself with probability :math:`(\alpha_s - \alpha_t)/(1 - \alpha_t)`. Tokens
    revealed together are drawn independently given the state before the step, and the
    last step reveals what is left. All ways to deal the positions to the steps are
    summed by dynamic programming over the 2**L sets of revealed positions.

    Parameters
    ----------
    denoiser : Denoiser
        Any denoiser, consistent or not.
    x : Long[B, L]
        Fully revealed sequences, L <= 12; the cost is B * 3**L a step.
    steps : int
        T, at least 1.

    Returns
    -------
    Float64[B]
        Nats; -inf for a sequence that cannot be generated.
    """
    return _ancestral(_set_moves(denoiser, x), schedule, steps)


def ancestral_law(joint: Joint, schedule: Schedule, steps: int) -> TableJoint:
    """The law p_T of the T-step ancestral sampler on an exact denoiser, as a table.

    See :func:`ancestral_log_prob`; every sequence over the vocabulary is tried, which
    raises ``ValueError`` from V**L * 3**L = 2**26 numbers on.
    """
    size = (3 * joint.vocab_size) ** joint.length
    if size > _MAX_MOVES:
        raise ValueError(
            f"joint must have (3 V)**L at most {_MAX_MOVES}, got {size} for V = "
            f"{joint.vocab_size} and L = {joint.length}"
        )
    tokens = [torch.arange(joint.vocab_size)] * joint.length
    every = torch.cartesian_prod(*tokens).reshape(-1, joint.length)
    p = ancestral_log_prob(joint, every, schedule, steps).exp()
    return TableJoint(every[p > 0], p[p > 0], joint.vocab_size, joint.words)


def ancestral_kl(joint: Joint, schedule: Schedule, steps: Iterable[int]) -> list[float]:
    """KL(p || p_T) in nats between a joint and its T-step sampler, for each T."""
    table = joint.table()
    seen = table.probs > 0
    moves, p = _set_moves(joint, table.support[seen]), table.probs[seen]
    log_p = p.log()
    return [(p * (log_p - _ancestral(moves, schedule, t))).sum().item() for t in steps]


def pair_dependence(joint: Joint, kept: Tensor) -> Tensor:
    r"""How much pairs of tokens depend on each other when some others are known.

    .. math:: C(a) = \sum_{i<j} \mathbb E_S\, I(x_i; x_j \mid x_S)

    S holds every other position independently with probability a. To leading order in
    1/T it decides what T steps cost with a schedule: the T-step bound exceeds the
    entropy by :math:`\frac1T \int_0^1 \alpha_t'^2\, C(\alpha_t)\, dt`.

    Parameters
    ----------
    joint : Joint
        Of 2 to 8 positions: all sets S are enumerated.
    kept : Float[N]
        Values of a in [0, 1].

    Returns
    -------
    Float64[N]
        Nats.
    """
    length = joint.length
    if not 2 <= length <= 8:
        raise ValueError(f"joint must have 2 to 8 positions, got {length}")
    a, total = kept.double(), torch.zeros_like(kept, dtype=torch.float64)
    for i, j in itertools.combinations(range(length), 2):
        others = [k for k in range(length) if k not in (i, j)]
        for size in range(length - 1):
            information = math.fsum(
                joint.total_correlation([i, j], known)
                for known in itertools.combinations(others, size)
            )
            total += information * a**size * (1 - a) ** (length - 2 - size)
    return total


class _Moves(NamedTuple):
    """Every pair of sets of revealed positions, one inside the other."""

    before: Tensor  # Long[P], the smaller set as a number
    after: Tensor  # Long[P]
    new: Tensor  # Long[P], how many positions are added
    left: Tensor  # Long[P], how many stay masked
    odds: Tensor  # Float64[B, P], of the added tokens of each sequence, over e^scale
    scale: Tensor  # Float64[B], log-probability taken out of every way to the end


def _set_moves(denoiser: Denoiser, x: Tensor) -> _Moves:
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    x = _checks.tokens(x, "x")
    size, length = x.shape
    if length > 12:
        raise ValueError(f"x must have at most 12 positions, got {length}")
    revealed = all_masks(length)  # [2^L, L]
    states = torch.where(revealed, x[:, None], denoiser.mask_id)  # [B, 2^L, L]
    clean = x[:, None].expand(states.shape)
    nll = token_nll(denoiser, states.flatten(0, 1), clean.flatten(0, 1), name="x")
    nll = nll.double().view(states.shape).masked_fill(revealed, math.inf)
    # Each token is revealed once on every way, so that its least cost in any state is
    # a factor of all of them. Without it their products may underflow.
    least = nll.amin(1, keepdim=True)  # [B, 1, L]
    least = torch.where(least < math.inf, least, 0.0)
    p = (least - nll).exp()

    codes = torch.arange(2**length)
    before, after = ((codes[:, None] & ~codes) == 0).nonzero(as_tuple=True)
    added = revealed[after] & ~revealed[before]  # [P, L]
    odds = torch.ones(size, len(before), dtype=torch.float64)
    for i in range(length):
        odds *= torch.where(added[:, i], p[:, before, i], 1.0)
    left = (~revealed[after]).sum(-1)
    return _Moves(before, after, added.sum(-1), left, odds, -least.sum((1, 2)))


def _ancestral(moves: _Moves, schedule: Schedule, steps: int) -> Tensor:
    grid = torch.arange(_checks.integer(steps, "steps", 1) + 1).double() / steps
    masked = schedule.masked(grid)
    masked[0] = 0.0  # the last step reveals what is left
    law = torch.zeros(len(moves.odds), int(moves.after.max()) + 1, dtype=torch.float64)
    law[:, 0] = 1.0  # nothing is revealed
    for i in range(steps, 0, -1):
        # where 1 - alpha underflows at i, the step before has revealed everything
        stay = masked[i - 1] / masked[i] if masked[i] > 0 else masked[0]
        move = (1 - stay) ** moves.new * stay**moves.left * moves.odds
        law = torch.zeros_like(law).index_add_(
            1, moves.after, law[:, moves.before] * move
        )
    return law[:, -1].log() + moves.scale


# --------------------------------------------------------------------- closed forms


def shuffle_accuracy(n: int, k: int) -> float:
    """P(valid) of Shuffle with n items, k tokens a step, temperature 1.

    The product over steps of m! / (m - k)! / m^k, with m items left before the step.
    It holds for any choice of the k positions. One step: n! / n^n.
    """
    left, accuracy = _checks.integer(n, "n", 1), 1.0
    while left > 0:
        step = min(_checks.integer(k, "k", 1), left)
        accuracy *= math.perm(left, step) / left**step
        left -= step
    return accuracy


def replace_random_accuracy(n: int, k: int) -> float:
    """P(valid) of Replace Random with n items, k tokens a step, temperature 1.

    S(r) = k (1/r) (1 - 1/r)^(k-1) + (1 - 1/r)^k S(r - k), S(0) = 0, for r masked
    positions of which one is to be replaced; the last step reveals what is left. It
    holds for any choice of the k positions. One step: ((n - 1) / n)^(n - 1).
    """
    sizes = [len(block) for block in blocks_of(range(_checks.integer(n, "n", 1)), k)]
    accuracy, left = 0.0, 0
    for size in reversed(sizes):  # from the last step back to the first
        left += size
        keep = 1 - 1 / left
        accuracy = size / left * keep ** (size - 1) + keep**size * accuracy
    return accuracy


def distinct_choice_probability(m: int, rho: float) -> float:
    """P(two positions choose differently) among m equal options with noisy scores.

    The scores of the m options are standard normal at each of the two positions,
    independent between options; the two scores of one option have correlation rho.
    Each position takes its highest score. The value is 1 - 1/m at rho = 0, arccos(rho)
    / pi for m = 2, and 0 at rho = 1.

    Notes
    -----
    P(both take option 1) = E[Phi_2(X, Y; rho)^(m-1)] for (X, Y) the two scores of
    option 1 and Phi_2 their joint distribution function. The mean is taken by
    Gauss-Hermite quadrature over X + Y and X - Y, and Phi_2 by the integral of its
    derivative in rho (Drezner and Wesolowsky 1990), after s = sin(theta).
    """
    _checks.integer(m, "m", 1)
    _checks.number(rho, "rho", 0.0, 1.0)
    if m == 1 or rho == 1:
        return 0.0
    both, weight = _both_below(rho)
    return 1 - m * float(weight @ both ** (m - 1) @ weight)


@functools.lru_cache(maxsize=64)
def _both_below(rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Phi_2 on the quadrature grid Float[80, 80], and the weights of its sides."""
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    plus = math.sqrt((1 + rho) / 2) * node[:, None]
    minus = math.sqrt((1 - rho) / 2) * node[None, :]
    x, y = plus + minus, plus - minus
    both = special.ndtr(x) * special.ndtr(y)
    angle, share = np.polynomial.legendre.leggauss(80)
    top = math.asin(rho)
    for theta, part in zip(top * (angle + 1) / 2, top * share / 2, strict=True):
        square = x * x + y * y - 2 * x * y * math.sin(theta)
        both += part / (2 * math.pi) * np.exp(-square / (2 * math.cos(theta) ** 2))
    return both, weight / weight.sum()


def greedy_shuffle_accuracy(n: int, rho: float) -> float:
    """P(valid) of greedy Shuffle, two tokens a step, when noise breaks the ties.

    Exact conditionals give all unused items the same logit. Let a model add Gaussian
    errors, of any size, fresh at every step, with correlation ``rho`` between
    positions. Then the steps succeed independently, each with
    :func:`distinct_choice_probability`. At rho = 0 this is ``shuffle_accuracy(n, 2)``.
    """
    pairs = range(_checks.integer(n, "n", 1), 1, -2)
    return math.prod(distinct_choice_probability(m, rho) for m in pairs)
