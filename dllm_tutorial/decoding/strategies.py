r"""Decoding strategies by their published names, each a combination of small parts.

``c`` is the confidence of a position (the untempered probability of the token drawn
there), ``n`` the number of masked positions in the current block. Every rule reveals
the highest scores first and breaks ties in favour of the lowest position. Rounding
decides nothing: scores that differ by no more than it are a tie, and a bound that is
met exactly counts as met, as each rule's inequality has it (``view.rounding``).

Top-k rules take either ``k``, the number of tokens per step, or ``steps``, the total
over all blocks: each block gets ``steps // blocks`` of them, and reveals
``n // steps`` tokens a step, the remainder first (LLaDA, Nie et al. 2025): 32 tokens in
5 steps are 7, 7, 6, 6, 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dllm_tutorial import _checks
from dllm_tutorial.decoding.revise import (
    ancestral,
    check_schedule,
    p2,
    rcr,
    remdm_cap,
    remdm_conf,
    remdm_loop,
    remdm_rescale,
    wino,
)
from dllm_tutorial.decoding.strategy import (
    RANK,
    TIME,
    Strategy,
    View,
    exceeds,
    reaches,
)
from dllm_tutorial.schedules import Schedule

__all__ = [
    "random_top_k",
    "left_to_right",
    "right_to_left",
    "confidence_top_k",
    "margin_top_k",
    "entropy_top_k",
    "confidence_threshold",
    "factor",
    "entropy_bounded",
    "klass",
    "dilated",
    "ancestral",
    "first_hitting",
    "remdm_cap",
    "remdm_rescale",
    "remdm_conf",
    "remdm_loop",
    "rcr",
    "p2",
    "wino",
]


_Quota = Callable[[View, Tensor], Tensor]

# --- ranks: View -> Float[B, L] ---------------------------------------------------


def _random(view: View) -> Tensor:
    return view.uniform(RANK)


def _leftmost(view: View) -> Tensor:
    return -_rightmost(view)


def _rightmost(view: View) -> Tensor:
    length = view.masked.shape[-1]
    return torch.arange(length, device=view.masked.device).expand_as(view.masked) * 1.0


def _confidence(view: View) -> Tensor:
    return view.found.confidence


def _margin(view: View) -> Tensor:
    return view.found.margin


def _certainty(view: View) -> Tensor:
    """exp(-H): equal entropies differ by rounding, their exponentials in proportion."""
    return (-view.found.entropy).exp()


# --- top-k: a fixed number of tokens per step, or a fixed number of steps ----------


def per_step(view: View) -> Tensor:
    """LLaDA's share of this step, Long[B]: size // steps, the remainder first."""
    base, remainder = view.size // view.steps, view.size % view.steps
    return base + (view.step < remainder)


def _top_k(name, rank, k, steps, needs=()) -> Strategy:
    if (k is None) == (steps is None):
        raise ValueError(f"give exactly one of k and steps, got k={k}, steps={steps}")
    needs = frozenset(needs)
    if k is None:
        steps = _checks.integer(steps, "steps", 1)
        return Strategy(
            f"{name}(steps={steps})",
            rank,
            quota=lambda view, score: per_step(view),
            steps=steps,
            rounds=lambda size, budget: torch.minimum(size, budget),
            needs=needs,
        )
    k = _checks.integer(k, "k", 1)
    return Strategy(
        f"{name}(k={k})",
        rank,
        quota=lambda view, score: torch.full_like(view.size, k),
        rounds=lambda size, budget: (size + k - 1) // k,
        needs=needs,
    )


def random_top_k(k: int | None = None, *, steps: int | None = None) -> Strategy:
    """Reveal k masked positions drawn uniformly (LLaDA's random remasking)."""
    return _top_k("random_top_k", _random, k, steps)


def left_to_right(k: int | None = None, *, steps: int | None = None) -> Strategy:
    """Reveal the k leftmost masked positions."""
    return replace(_top_k("left_to_right", _leftmost, k, steps), reads="prefix")


def right_to_left(k: int | None = None, *, steps: int | None = None) -> Strategy:
    """Reveal the k rightmost masked positions (of the current block)."""
    return _top_k("right_to_left", _rightmost, k, steps)


def confidence_top_k(k: int | None = None, *, steps: int | None = None) -> Strategy:
    """Reveal the k highest confidences c (LLaDA's low-confidence remasking;
    Chang et al. 2022)."""
    return _top_k("confidence_top_k", _confidence, k, steps)


def margin_top_k(k: int | None = None, *, steps: int | None = None) -> Strategy:
    """Reveal the k largest margins p1 - p2 between the two most probable tokens
    (Kim et al. 2025)."""
    return _top_k("margin_top_k", _margin, k, steps, ["margin"])


def entropy_top_k(k: int | None = None, *, steps: int | None = None) -> Strategy:
    """Reveal the k lowest entropies (Dream, Ye et al. 2025)."""
    return _top_k("entropy_top_k", _certainty, k, steps, ["entropy"])


# --- adaptive quotas ---------------------------------------------------------------


def _at_least_one(quota: _Quota) -> _Quota:
    return lambda view, score: quota(view, score).clamp(min=1)


def _best_first(values: Tensor, view: View, fill: float) -> Tensor:
    """``values`` of the masked positions, highest first, then ``fill``: [B, L]."""
    best_first = torch.where(view.masked, values, -torch.inf).sort(-1, descending=True)
    return torch.where(best_first.values > -torch.inf, best_first.values, fill)


def confidence_threshold(gamma: float) -> Strategy:
    """Reveal every position with c >= gamma, and always the best one.

    As :math:`c \\ge \\min(\\gamma, \\max c)`, the maximum over the row's block
    (Fast-dLLM, Wu et al. 2025).
    """
    gamma = _checks.in_unit_interval(gamma, "gamma")

    def quota(view: View, score: Tensor) -> Tensor:
        return (view.masked & reaches(score, gamma, view.rounding)).sum(-1)

    name = f"confidence_threshold({gamma:g})"
    return Strategy(name, _confidence, _at_least_one(quota))


def factor(f: float) -> Strategy:
    r"""Reveal the m most confident, m the largest with :math:`(m+1)(1-c_{(m)}) < f`.

    At least one. :math:`c_{(m)}` is the m-th highest confidence (Fast-dLLM, Wu et al.
    2025, its factor rule).
    """
    f = _checks.number(f, "f", 0)

    def quota(view: View, score: Tensor) -> Tensor:
        c = _best_first(score, view, fill=-torch.inf)
        m = torch.arange(1, c.shape[-1] + 1, device=c.device, dtype=c.dtype)
        least = (1 - f / (m + 1)).clamp(min=-1)  # c falls, this rises: a prefix
        return exceeds(c, least, view.rounding).sum(-1)

    return Strategy(f"factor({f:g})", _confidence, _at_least_one(quota))


def entropy_bounded(gamma: float) -> Strategy:
    r"""EB-Sampler: reveal the longest prefix of least entropies within a budget.

    Sorted :math:`H_{(1)} \le H_{(2)} \le \dots`, reveal the largest m with
    :math:`\sum_{j \le m} H_{(j)} - \max_{j \le m} H_{(j)} \le \gamma` nats: a bound on
    the joint dependence error of the tokens revealed together (Ben-Hamu et al. 2025).
    """
    gamma = _checks.number(gamma, "gamma", 0)

    def quota(view: View, score: Tensor) -> Tensor:
        h = -_best_first(-view.found.entropy, view, fill=-torch.inf)
        bound = h.cumsum(-1) - h.cummax(-1).values
        return reaches(gamma, bound, view.rounding).sum(-1)

    return Strategy(
        f"entropy_bounded({gamma:g})",
        _certainty,
        _at_least_one(quota),
        needs=frozenset(["entropy"]),
    )


def klass(
    k: int | None = None,
    *,
    steps: int | None = None,
    confidence: float = 0.9,
    kl: float = 0.01,
    history: int = 2,
) -> Strategy:
    r"""KLASS: reveal what is confident and has stopped changing; otherwise top-k.

    A position is ready when c > ``confidence`` and
    :math:`KL(p_t \| p_{t-1})` < ``kl`` nats over the last ``history`` steps; a row
    without a ready position falls back on confidence top-k (Kim et al. 2025). The
    divergences compare the untempered distributions. They carry over from the block
    before, but in the first ``history - 1`` steps of a block no position is ready.
    """
    fallback = _top_k("klass", _confidence, k, steps)
    _checks.in_unit_interval(confidence, "confidence")
    _checks.number(kl, "kl", 0)
    _checks.integer(history, "history", 1)

    def start(view: View) -> dict[str, Tensor]:
        previous = torch.full_like(view.found.log_probs, -torch.inf)
        recent = previous.new_full((*view.masked.shape, history), torch.inf)
        return {"previous": previous, "recent": recent}

    def rank(view: View) -> Tensor:
        now, before = view.found.log_probs, view.memory["previous"]
        terms = torch.where(now > -torch.inf, now.exp() * (now - before), 0.0)
        recent = view.memory["recent"]
        recent = torch.cat([recent[..., 1:], terms.sum(-1, keepdim=True)], -1)
        view.memory["previous"], view.memory["recent"] = now, recent
        ready = exceeds(kl, recent, view.rounding).all(-1)
        ready &= exceeds(view.found.confidence, confidence, view.rounding)
        ready &= view.step[:, None] >= history - 1
        return view.found.confidence + 2.0 * ready  # ready positions first

    def quota(view: View, score: Tensor) -> Tensor:
        ready = (view.masked & (score > 1.5)).sum(-1)
        return torch.where(ready > 0, ready, fallback.quota(view, score))

    return Strategy(
        f"{fallback.name[:-1]}, {confidence:g}, {kl:g}, {history})",
        rank,
        quota,
        steps=fallback.steps,
        start=start,
        needs=frozenset(["log_probs"]),
    )


def dilated(base: int = 2) -> Strategy:
    r"""DUS: positions far apart first, level by level (Luxembourg et al. 2025).

    In a block of length W, level t holds the places that are multiples of
    :math:`\max(1, \lfloor W / base^t \rfloor)` and in no lower level; one step reveals
    one level. What the denoiser says is not looked at.
    """
    base = _checks.integer(base, "base", 2)

    def rank(view: View) -> Tensor:
        level = torch.zeros_like(view.place)
        # Static: the levels of the longest block there can be.
        for t in range(_levels(view.place.shape[-1], base), 0, -1):
            stride = (view.length // base**t).clamp(min=1)
            level = torch.where(view.place % stride == 0, t, level)
        return -level.to(torch.float64)

    def quota(view: View, score: Tensor) -> Tensor:
        best = _best_first(score, view, fill=0.0)[:, :1]
        return (view.masked & (score == best)).sum(-1)

    return Strategy(f"dilated({base})", rank, _at_least_one(quota))


def _levels(length: int, base: int) -> int:
    """The first t with length < 2 * base**t, so that its stride is 1."""
    return next(t for t in range(1, length + 2) if length < 2 * base**t)


# --- the clock of the continuous process -------------------------------------------


def first_hitting(schedule: Schedule) -> Strategy:
    r"""First-hitting sampler: one uniformly random masked position per step.

    Exact for the continuous-time reverse process. The next of n masked positions is
    revealed at :math:`\tau_{n-1} = \alpha^{-1}(1 - u^{1/n}(1 - \alpha_{\tau_n}))`,
    which the history reports as its time and the tokens do not depend on (Zheng et al.
    2024).
    """
    check_schedule(schedule)

    def start(view: View) -> dict[str, Tensor]:
        one = torch.ones_like(view.n_masked, dtype=torch.float64)
        return {"hidden": one, "time": one}

    def quota(view: View, score: Tensor) -> Tensor:
        # hidden = 1 - alpha(tau), the probability that a token is still masked
        hidden = torch.where(view.step == 0, 1.0, view.memory["hidden"])
        u = view.uniform(TIME)[:, 0]
        hidden = hidden * (u.log() / view.n_masked.clamp(min=1)).exp()
        view.memory["hidden"] = hidden
        view.memory["time"] = schedule.inverse(1 - hidden)
        return torch.ones_like(view.size)

    return Strategy(
        f"first_hitting({schedule})",
        _random,
        quota,
        rounds=lambda size, budget: size,
        start=start,
    )
