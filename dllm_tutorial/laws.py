"""Exact laws of decoding rules, by enumerating every proposal.

Sampling shows what a rule does up to noise. On small joints the noise can be taken
away: at each state every combination of proposed tokens is run through the rule's own
rank and quota, with its probability. The oracle of this module sees dependence itself,
not the confidences that stand in for it: of the rules that choose before they draw, it
is the one that loses nothing in the fewest calls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import _checks
from .decoding import Strategy
from .decoding.candidates import propose, rounding
from .decoding.strategy import View, order_of, reaches
from .decoding.task import check_rule
from .denoiser import Denoiser
from .exact import law_table
from .joints import Joint, TableJoint
from .orders import without_mask

__all__ = [
    "Law",
    "answer_law",
    "oracle_nfe",
    "padded_accuracy",
    "threshold_replace_random",
    "threshold_shuffle",
]

_MAX_ROWS = 1 << 20  # states x proposals that are held at once
_MAX_SEQUENCES = 1 << 12  # that the oracle looks at
_MAX_TESTS = 1 << 16  # of independence that it makes
_ROUNDING = rounding(torch.float64)


@dataclass(frozen=True)
class Law:
    """What a rule answers: the law of the sequence and the mean number of calls."""

    answers: TableJoint
    nfe: float


def answer_law(
    denoiser: Denoiser, x: Tensor, strategy: Strategy, *, temperature: float = 1.0
) -> Law:
    """Exact law of ``generate(denoiser, x, strategy, temperature=temperature)``.

    Parameters
    ----------
    denoiser : Denoiser
    x : Long[L]
        One prompt of ids below V; masked positions hold ``mask_id``.
    strategy : Strategy
        Its only randomness must be the proposed tokens; a rule that draws positions,
        revises or remembers raises ``ValueError`` (for random top-k see
        :func:`dllm_tutorial.exact.random_top_k_law`).
    temperature : float
        Of the proposals; 0 leaves one path.
    """
    check_rule(strategy, denoiser)
    x = _checks.tokens(x, "x", ndim=1)
    _checks.number(temperature, "temperature", 0, open_right=True)
    if strategy.revise is not None or strategy.start is not None:
        raise ValueError(f"strategy must only reveal, got {strategy}")
    states, weights, nfe, step = x[None], torch.ones(1, dtype=torch.float64), 0.0, 0
    while bool((states == denoiser.mask_id).any()):
        busy = (states == denoiser.mask_id).any(1)
        nfe += weights[busy].sum().item()
        after, source, p = _step(denoiser, x, states[busy], strategy, temperature, step)
        states = torch.cat([states[~busy], after])
        weights = torch.cat([weights[~busy], weights[busy][source] * p])
        states, group = torch.unique(states, dim=0, return_inverse=True)
        weights = weights.new_zeros(len(states)).index_add(0, group, weights)
        step += 1
    return Law(law_table(denoiser, states, weights), nfe)


def _step(
    denoiser: Denoiser,
    prompt: Tensor,
    states: Tensor,
    strategy: Strategy,
    temperature: float,
    step: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """All outcomes of one step, the state each comes from, and its probability."""
    logits = without_mask(denoiser, denoiser(states))
    _checks.token_range(states, "x", logits.shape[-1], denoiser.mask_id)
    masked = states == denoiser.mask_id
    if not bool(logits.amax(-1)[masked].isfinite().all()):
        raise ValueError("denoiser must leave a token to draw at every masked position")
    unused = torch.zeros(masked.shape, dtype=torch.float64)  # numbers to draw by
    best = propose(logits, unused, want=frozenset(["margin", "entropy"]))
    token, source, p = best.token, torch.arange(len(states)), unused[:, 0] + 1
    if temperature > 0:
        token, source, p = _every_proposal(logits.double(), masked, temperature)
    chance = logits.double().softmax(-1)[source].gather(-1, token[..., None])[..., 0]
    found = best._replace(
        token=token,
        confidence=chance,
        margin=best.margin[source],
        entropy=best.entropy[source],
    )
    fillable = (prompt == denoiser.mask_id).expand_as(token)
    size = fillable.sum(-1)
    first = int((prompt == denoiser.mask_id).int().argmax())
    places = torch.arange(len(prompt)) - first
    view = View(
        masked=masked[source],
        fillable=fillable,
        n_masked=masked[source].sum(-1),
        size=size,
        step=torch.full_like(size, step),
        steps=size if strategy.steps is None else torch.full_like(size, strategy.steps),
        place=places.expand_as(token),
        length=torch.full_like(token, len(prompt) - first),
        found=found,
        rounding=rounding(logits.dtype),
        shown=torch.ones_like(chance),
        memory={},
        uniform=_no_randomness,
        leave_one_out=_no_randomness,
    )
    score = strategy.rank(view)
    if bool(score[view.masked].isnan().any()):
        raise ValueError(f"strategy {strategy} must rank every position to fill")
    quota = strategy.quota(view, score)
    quota = torch.where(view.step + 1 >= view.steps, view.n_masked, quota)
    order = order_of(score, view.masked, view.rounding)
    reveal = view.masked & (order < quota[:, None])
    return torch.where(reveal, token, states[source]), source, p


def _every_proposal(
    logits: Tensor, masked: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Every combination of tokens at the masked positions: tokens, source, chance."""
    batch, length = masked.shape
    chance = (logits / temperature).softmax(-1)
    source, weight = torch.arange(batch), torch.ones(batch, dtype=torch.float64)
    tokens = torch.zeros(batch, length, dtype=torch.long)
    for i in range(length):
        here = torch.where(masked[source, i, None], chance[source, i], 0.0)
        here[:, 0] += ~masked[source, i]  # a revealed position proposes nothing
        row, token = here.nonzero(as_tuple=True)
        if len(row) > _MAX_ROWS:
            raise ValueError(f"the rule has more than {_MAX_ROWS} outcomes a step")
        weight = weight[row] * here[row, token]
        tokens, source = tokens[row], source[row]
        tokens[:, i] = token
    return tokens, source, weight


def _no_randomness(*_: object) -> Tensor:
    raise ValueError("strategy must have no randomness but the proposed tokens")


# ------------------------------------------------------------------------- the oracle


def oracle_nfe(joint: Joint) -> float:
    r"""Fewest expected calls with which a draw-blind policy loses nothing.

    A policy says at each state which masked positions to reveal together, each token
    drawn on its own from its exact conditional. It is draw-blind if it chooses them
    before the tokens are drawn, as entropy order does and confidence order does not. It
    loses nothing, its answers have the law of ``joint``, if and only if the positions S
    of every step are independent given the state z. The fewest calls from there are

    .. math:: C(z) = 1 + \min_S \sum_v p(x_S = v \mid z)\, C(z, x_S = v)

    over all such S. Rules that look at the drawn tokens before they accept them are not
    bound by it.

    Parameters
    ----------
    joint : Joint
        A small one: every state and every set is gone through. More than 2**12
        sequences, or than 2**16 tests of independence, raise ``ValueError``.

    Returns
    -------
    float
        Mean number of calls, from all masks.

    Examples
    --------
    >>> from dllm_tutorial import joints
    >>> oracle_nfe(joints.replace_random(4))
    3.25
    """
    if not isinstance(joint, Joint):
        raise TypeError(f"joint must be a Joint, got {type(joint).__name__}")
    table, tried = joint.table(), itertools.count(1)
    possible = table.probs > 0
    support, probs = table.support[possible], table.probs[possible].double()
    if len(support) > _MAX_SEQUENCES:
        raise ValueError(
            f"joint must have at most {_MAX_SEQUENCES} sequences, got {len(support)}"
        )

    @cache
    def calls(rows: tuple[int, ...], masked: tuple[int, ...]) -> float:
        """C at the state with these masks that leaves these rows of the support."""
        tokens, p = support[list(rows)], probs[list(rows)]
        varies = (tokens != tokens[0]).any(0).tolist()
        open_ = [i for i in masked if varies[i]]  # the certain ones come with any set
        if not open_:
            return float(bool(masked))
        best = math.inf
        for chosen, value in reversed(_independent_sets(tokens, p, open_, tried)):
            left = tuple(i for i in open_ if i not in chosen)
            after: dict[int, list[int]] = {}
            for row, v in zip(rows, value.tolist(), strict=True):
                after.setdefault(v, []).append(row)
            later = sum(
                probs[kept].sum().item() * calls(tuple(kept), left)
                for kept in after.values()
            )
            best = min(best, 1 + later / p.sum().item())
            if best < 2 + 1e-9:  # one call is tried first, and others need two
                break
        return best

    return calls(tuple(range(len(support))), tuple(range(joint.length)))


def _independent_sets(
    tokens: Tensor, p: Tensor, positions: list[int], tried: Iterator[int]
) -> list[tuple[tuple[int, ...], Tensor]]:
    """All sets of positions that are independent if the rows of ``tokens: Long[M, L]``
    have weights p: Float64[M], smallest first, and what each row says there: Long[M],
    a number for each combination of tokens."""
    size = int(tokens.max()) + 1
    sets: list[tuple[tuple[int, ...], Tensor]] = [((), torch.zeros(len(p)).long())]
    for chosen, value in sets:  # which grows meanwhile: part of a set is one, too
        for i in positions:
            if chosen and i <= chosen[-1]:
                continue
            if next(tried) > _MAX_TESTS:
                raise ValueError(
                    f"joint must be smaller: more than {_MAX_TESTS} sets to test"
                )
            both = value * size + tokens[:, i]
            law = p.new_zeros((int(value.max()) + 1) * size).index_add(0, both, p)
            law = law.view(-1, size) / p.sum()
            apart = law.sum(1, keepdim=True) * law.sum(0)
            if torch.allclose(law, apart, rtol=1e-9, atol=0.0):
                both = torch.unique(both, return_inverse=True)[1]
                sets.append(((*chosen, i), both))
    return sets[1:]


# ---------------------------------------------------------- thresholds in closed form


def threshold_shuffle(n: int, gamma: float) -> float:
    """P(valid) of Shuffle under ``confidence_threshold(gamma)``, temperature 1.

    One item at a time until r = floor(1 / gamma) are left, then all: r! / r^r. At
    temperature 0 the answer is valid if and only if r = 1.
    """
    _checks.integer(n, "n", 1)
    gamma = _checks.in_unit_interval(gamma, "gamma")
    r = max(m for m in range(1, n + 1) if reaches(1 / m, gamma, _ROUNDING))
    return math.factorial(r) / r**r


def threshold_replace_random(n: int, gamma: float) -> float:
    """P(valid) of Replace Random under ``confidence_threshold(gamma)``, temperature 1.

    With m open positions "keep" has confidence (m - 1) / m and "replace" 1 / m. If
    gamma is above both, one position at a time is revealed to the end. If it is between
    them, those that drew "keep" are revealed, and the decoding goes on with those that
    drew "replace", if there are any. At temperature 0 the answer is valid if and only
    if gamma > (n - 1) / n.
    """
    gamma = _checks.in_unit_interval(gamma, "gamma")

    @cache
    def valid(m: int) -> float:
        if m == 1 or not reaches((m - 1) / m, gamma, _ROUNDING):
            return 1.0
        if reaches(1 / m, gamma, _ROUNDING):  # everything at once
            return (1 - 1 / m) ** (m - 1)
        drew = [math.comb(m, j) * (m - 1) ** (m - j) / m**m for j in range(m + 1)]
        return sum(drew[j] * valid(j) for j in range(1, m)) + drew[m]

    return valid(_checks.integer(n, "n", 1))


# ---------------------------------------------------------- easy tokens among hard ones


def padded_accuracy(
    items: int,
    length: int,
    k: int,
    *,
    valid: Callable[[int, int], float],
    certain_first: bool,
) -> float:
    """P(valid) of a shuffled list among certain tokens, ``k`` positions a step.

    ``items`` of the ``length`` positions hold the list, the others are certain
    (commas, names of fields, padding).

    Parameters
    ----------
    items, length, k : int
    valid : callable
        ``valid(m, j)``: probability that a step which reveals j of the m open items
        at once writes j different ones.
    certain_first : bool
        True: certain positions come first, as confidence ranking has it. False: a step
        takes a uniform random set of positions.
    """
    _checks.integer(k, "k", 1)
    _checks.integer(length, "length", _checks.integer(items, "items", 1))

    @cache
    def accuracy(m: int, easy: int) -> float:
        if m == 0:
            return 1.0
        size, total = min(k, m + easy), 0.0
        for j in range(max(0, size - easy), min(size, m) + 1):
            if certain_first:
                chance = float(j == size - min(easy, size))
            else:
                ways = math.comb(m, j) * math.comb(easy, size - j)
                chance = ways / math.comb(m + easy, size)
            if chance > 0:
                rest = accuracy(m - j, easy - (size - j))
                total += chance * valid(m, j) * rest
        return total

    return accuracy(items, length - items)
