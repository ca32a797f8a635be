r"""Strategies with a clock or with revision: revealed tokens may be masked again.

ReMDM and the ancestral sampler are one rule. From time t to s < t a masked position is
revealed with probability

.. math:: \frac{\alpha_s - (1 - \sigma_t)\,\alpha_t}{1 - \alpha_t}

and a revealed one is masked again with probability :math:`\sigma_t`, at most
:math:`\sigma_{max} = \min(1, (1 - \alpha_s)/\alpha_t)`. A :math:`\sigma` that is the
same at all positions keeps the marginals of the process (ReMDM, Wang et al. 2025), that
of :func:`remdm_conf` is not and does not; :math:`\sigma = 0` is ancestral sampling.

P2 and RCR rank masked and revealed positions together and keep the best; WINO checks
each revealed token against the others. No rule leaves a mask: the last step fills.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_tutorial import _checks
from dllm_tutorial.decoding.strategy import (
    RANK,
    REMASK,
    Strategy,
    View,
    exceeds,
    order_of,
)
from dllm_tutorial.schedules import Schedule


def check_schedule(schedule: Schedule) -> Schedule:
    """An instance, not a name or a class."""
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be a Schedule, got {schedule!r}")
    return schedule


# --- ancestral sampling and ReMDM --------------------------------------------------


@dataclass(frozen=True)
class _Interval:
    """One step of the clock: t, s Float64[B], and what the schedule says there."""

    t: Tensor
    s: Tensor
    alpha_t: Tensor
    alpha_s: Tensor
    masked_t: Tensor  # 1 - alpha_t

    @classmethod
    def of(cls, view: View, schedule: Schedule) -> _Interval:
        """T equal steps from t = 1 to t = 0, T the steps of the row's block."""
        left = (view.steps - view.step).clamp(min=1).to(torch.float64)
        t, s = left / view.steps, (left - 1) / view.steps
        return cls(t, s, schedule.alpha(t), schedule.alpha(s), schedule.masked(t))

    @property
    def sigma_max(self) -> Tensor:
        """The largest probability of masking again that keeps the marginals."""
        return ((1 - self.alpha_s) / self.alpha_t).clamp(max=1)


def _clocked(
    name: str,
    schedule: Schedule,
    steps: int,
    sigma: Callable[[View, _Interval], Tensor] | None,
) -> Strategy:
    """The rule above; ``sigma`` gives Float64[B, 1] or [B, L], None is 0 throughout."""
    check_schedule(schedule)
    _checks.integer(steps, "steps", 1)

    def rank(view: View) -> Tensor:
        return -view.uniform(RANK)

    def quota(view: View, score: Tensor) -> Tensor:
        now = _Interval.of(view, schedule)
        view.memory["time"] = now.s
        gain = (now.alpha_s - now.alpha_t)[:, None]
        if sigma is not None:
            gain = gain + sigma(view, now) * now.alpha_t[:, None]
        # The score is -u, so the positions with u < p are the first of the ranking.
        return (view.masked & (-score * now.masked_t[:, None] < gain)).sum(-1)

    def revise(view: View, score: Tensor, reveal: Tensor) -> Tensor:
        assert sigma is not None
        return view.uniform(REMASK) < sigma(view, _Interval.of(view, schedule))

    return Strategy(
        name,
        rank,
        quota,
        None if sigma is None else revise,
        steps=steps,
        rounds=None if sigma is None else lambda size, budget: budget * (size > 0),
        start=lambda view: {
            "time": torch.ones_like(view.n_masked, dtype=torch.float64)
        },
        clocked=sigma is not None,
    )


def ancestral(schedule: Schedule, steps: int) -> Strategy:
    r"""Ancestral sampling: each masked position reveals independently.

    With probability :math:`(\alpha_s - \alpha_t)/(1 - \alpha_t)` in each of T equal
    steps of a block, T = ``steps // blocks`` (Sahoo et al. 2024; Shi et al. 2024). A
    step may reveal nothing; the last one reveals the rest.
    """
    return _clocked(f"ancestral({schedule}, {steps})", schedule, steps, None)


def remdm_cap(schedule: Schedule, steps: int, eta: float = 0.02) -> Strategy:
    r"""ReMDM, capped: :math:`\sigma = \min(\eta, \sigma_{max})` (Wang et al. 2025)."""
    _checks.in_unit_interval(eta, "eta")

    def sigma(view: View, now: _Interval) -> Tensor:
        return now.sigma_max.clamp(max=eta)[:, None]

    return _clocked(f"remdm_cap({schedule}, {steps}, {eta:g})", schedule, steps, sigma)


def remdm_rescale(schedule: Schedule, steps: int, eta: float = 0.02) -> Strategy:
    r"""ReMDM, rescaled: :math:`\sigma = \eta\,\sigma_{max}` (Wang et al. 2025)."""
    _checks.in_unit_interval(eta, "eta")

    def sigma(view: View, now: _Interval) -> Tensor:
        return eta * now.sigma_max[:, None]

    return _clocked(
        f"remdm_rescale({schedule}, {steps}, {eta:g})", schedule, steps, sigma
    )


def remdm_conf(schedule: Schedule, steps: int) -> Strategy:
    r"""ReMDM by confidence: unsure tokens are masked again more often.

    :math:`\sigma^i = \sigma_{max}\, e^{-\psi_i} / \sum_j e^{-\psi_j}` over the revealed
    positions of the block, :math:`\psi_i` the probability that token i had when it was
    revealed; 0 at masked positions (Wang et al. 2025). What is masked again is thus not
    made up for by revealing more: the masked share stays above :math:`1 - \alpha`.
    """

    def sigma(view: View, now: _Interval) -> Tensor:
        revealed = view.fillable & ~view.masked
        weight = torch.where(revealed, (-view.shown).exp(), 0.0)
        share = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo().tiny)
        return share * now.sigma_max[:, None]

    return _clocked(f"remdm_conf({schedule}, {steps})", schedule, steps, sigma)


@dataclass(frozen=True)
class _Loop(Schedule):
    """alpha rises to alpha_on until t_on, waits until t_off, rises to 1 at t = 0."""

    t_on: float
    t_off: float
    alpha_on: float

    def alpha(self, t):
        early = self.alpha_on * (1 - t) / (1 - self.t_on)
        late = 1 - (1 - self.alpha_on) * t / self.t_off
        return torch.where(
            t > self.t_on, early, torch.where(t > self.t_off, self.alpha_on, late)
        )


def remdm_loop(
    steps: int,
    eta: float = 0.02,
    t_on: float = 0.55,
    t_off: float = 0.05,
    alpha_on: float = 0.9,
) -> Strategy:
    r"""ReMDM's loop: hold :math:`\alpha` at ``alpha_on`` between t_on and t_off.

    Tokens are masked again only there, with :math:`\min(\eta, \sigma_{max})`; before
    and after, :math:`\alpha` rises linearly without revision (Wang et al. 2025). In
    the published code :math:`\sigma = \eta` has no cap, and the step that crosses t_on
    overshoots ``alpha_on``; here it stops there.
    """
    _checks.in_unit_interval(eta, "eta")
    _checks.in_unit_interval(t_on, "t_on", open_left=True, open_right=True)
    _checks.number(t_off, "t_off", 0, t_on, open_left=True, open_right=True)
    _checks.in_unit_interval(alpha_on, "alpha_on", open_left=True, open_right=True)

    def sigma(view: View, now: _Interval) -> Tensor:
        inside = (now.t <= t_on) & (now.t > t_off)
        return torch.where(inside, now.sigma_max.clamp(max=eta), 0.0)[:, None]

    name = f"remdm_loop({steps}, {eta:g}, {t_on:g}, {t_off:g}, {alpha_on:g})"
    return _clocked(name, _Loop(t_on, t_off, alpha_on), steps, sigma)


# --- keep the best: P2 and RCR -----------------------------------------------------


def _keep_best(
    name: str,
    steps: int,
    score: Callable[[View], Tensor],
    kept: Callable[[View], Tensor],
    needs: frozenset[str],
    favor_revealed: bool = False,
) -> Strategy:
    """After each step the ``kept`` best positions of the block are revealed."""
    _checks.integer(steps, "steps", 1)

    def keep(view: View, score: Tensor) -> Tensor:
        favored = ~view.masked if favor_revealed else None
        order = order_of(score, view.fillable, view.rounding, favored)
        return order < kept(view)[:, None]

    return Strategy(
        name,
        rank=score,
        quota=lambda view, score: (view.masked & keep(view, score)).sum(-1),
        revise=lambda view, score, reveal: ~keep(view, score),
        steps=steps,
        needs=needs,
    )


def p2(steps: int, eta: float = 1.0) -> Strategy:
    r"""P2, path planning by the denoiser itself (Peng et al. 2025).

    Every position of the block draws a fresh token and scores its log-probability,
    times ``eta`` where a token is already revealed; after step i of T the lowest
    :math:`\lfloor N (1 - i/T) \rfloor` are masked. Among equal scores a revealed token
    stays; eta > 1 masks more of the revealed tokens again, eta = 0 none. The published
    score is that of logits divided by the temperature, with Gumbel noise; here it is
    the untempered log-probability of the token drawn.
    """
    eta = _checks.number(eta, "eta", 0, open_right=True)

    def score(view: View) -> Tensor:
        p = view.found.confidence  # p**eta is ordered as eta log p, equals as equals
        return torch.where(view.masked, p, p**eta)

    def kept(view: View) -> Tensor:
        left = view.steps - view.step - 1
        return view.size - view.size * left // view.steps

    return _keep_best(
        f"p2({steps}, {eta:g})",
        steps,
        score,
        kept,
        frozenset(["revealed"]),
        favor_revealed=True,
    )


def rcr(steps: int) -> Strategy:
    """RCR, running confidence remasking (He et al. 2025).

    Each step draws all masked positions of the block and then masks the lowest running
    confidences again: a token keeps the confidence with which it was drawn. The number
    masked falls linearly, by LLaDA's share of each step. The published code compares
    all answer positions decoded so far, by probabilities after temperature and top-p;
    here those of the current block, untempered.
    """

    def score(view: View) -> Tensor:
        return torch.where(view.masked, view.found.confidence, view.shown)

    def kept(view: View) -> Tensor:
        done = view.step + 1
        base, remainder = view.size // view.steps, view.size % view.steps
        return done * base + torch.minimum(done, remainder)

    return _keep_best(f"rcr({steps})", steps, score, kept, frozenset())


# --- draft and verify: WINO --------------------------------------------------------


def wino(draft: float = 0.6, verify: float = 0.9, most: int = 20) -> Strategy:
    r"""WINO: draft widely, verify narrowly (Hong et al. 2025).

    A step reveals every position of the block with c > ``draft``: at least one, at most
    :math:`\min(\max(\lfloor 0.7 n \rfloor, 5), most)` of the n masked ones. When it
    reveals more than one, revealed tokens whose probability given all other tokens of
    the state before the step is below ``verify`` are masked again, the least probable
    first, always fewer than the previous step revealed, so a block ends.

    The published rule verifies in the same forward pass, by a shadow block of mask
    tokens whose attention leaves out the token they check (which still leaks through
    other positions from the second layer on). A denoiser is a function of tokens, so
    here each token is masked in a copy of the row: the conditional that the shadow
    block approximates, without the leak. NFE counts such a step once, as published;
    it evaluates 1 + block length sequences.
    """
    _checks.in_unit_interval(draft, "draft")
    _checks.in_unit_interval(verify, "verify")
    _checks.integer(most, "most", 1)

    def quota(view: View, score: Tensor) -> Tensor:
        confident = (view.masked & exceeds(score, draft, view.rounding)).sum(-1)
        limit = (view.n_masked * 7 // 10).clamp(min=5).clamp(max=most)
        return torch.minimum(confident, limit).clamp(min=1)

    def revise(view: View, score: Tensor, reveal: Tensor) -> Tensor:
        accepted = reveal.sum(-1)
        before = torch.where(view.step == 0, 1, view.memory["accepted"])
        view.memory["accepted"] = accepted
        verified = view.leave_one_out()
        doubtful = view.fillable & ~view.masked
        doubtful &= exceeds(verify, verified, view.rounding)
        allowed = torch.where(accepted > 1, before - 1, 0)
        worst = order_of(-verified, doubtful, view.rounding)
        return doubtful & (worst < allowed[:, None])

    return Strategy(
        f"wino({draft:g}, {verify:g}, {most})",
        rank=lambda view: view.found.confidence,
        quota=quota,
        revise=revise,
        start=lambda view: {"accepted": torch.ones_like(view.n_masked)},
    )
