r"""Training losses and likelihood estimators.

Every function here takes a denoiser and clean tokens and returns nats per sequence,
``Float[B]``, unless it says otherwise. A random loss is an *unbiased* estimate of its
bound, so it can be trained on and averaged; it takes one pass of the denoiser per row
(:func:`any_order_loss` one per token, unless the network is an any-order one). The
``exact_*`` functions enumerate all 2**L masks instead, for short sequences.

With ideal schedules, :func:`nelbo` (any schedule), :func:`llada_loss`,
:func:`exact_count_loss` and :func:`any_order_loss` all have the same expectation: the
negative evidence lower bound (NELBO) of masked diffusion, which is at least the
negative log-likelihood (NLL) of the order-agnostic model, with equality when all
orders agree.

A column of logits for the mask itself is ignored: the mask never gets probability, and
clean tokens must not hold it.

Sources: Shi et al. 2024 (MD4); Sahoo et al. 2024 (MDLM); Ou et al. 2025 (RADD); Nie et
al. 2025 (LLaDA); Uria et al. 2014, Hoogeboom et al. 2022 (any-order models).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dllm_tutorial import _checks, masking, orders
from dllm_tutorial.denoiser import FROM_THE_LEFT, MASKED, Denoiser
from dllm_tutorial.schedules import Linear, Schedule

__all__ = [
    "Estimate",
    "LogSum",
    "any_order_loss",
    "ar_loss",
    "average_loss",
    "exact_count_loss",
    "exact_nelbo",
    "exact_t_step",
    "llada_loss",
    "log_mean_exp_orders",
    "log_sum_loss",
    "masked_nll",
    "nelbo",
    "nelbo_estimate",
    "nelbo_t_step",
    "token_nll",
]

# Rows given to a denoiser at once when all masks are enumerated.
CHUNK = 2**15
MAX_LENGTH = 20
NOT_A_TOKEN = torch.iinfo(torch.int64).min


def token_nll(denoiser: Denoiser, x: Tensor, x0: Tensor, *, name: str = "x0") -> Tensor:
    """-log p(x0_i | x) at every position i, from one pass.

    Parameters
    ----------
    x : Long[B, L]
        What the denoiser sees.
    x0 : Long[B, L]
        Clean tokens. The mask, or one outside the vocabulary, raises ``ValueError`` on
        the CPU; on another device, where a look would have to wait, the kernel fails,
        or the loss is infinite where the mask has a column.
    name : str
        What errors call ``x0``.

    Returns
    -------
    Float[B, L]
        Nats, in float32 at least.
    """
    _checks.denoiser(denoiser, "denoiser")
    vocab_size = getattr(denoiser, "vocab_size", None)
    x0 = _checks.clean(x0, name, denoiser.mask_id, vocab_size, wait=False)
    logits = orders.without_mask(denoiser, denoiser(x))
    _checks.token_range(x0, name, logits.shape[-1], wait=False)
    nll = F.cross_entropy(
        logits.flatten(0, 1),
        x0.flatten(),
        reduction="none",
        ignore_index=NOT_A_TOKEN,  # by default -100, which would then cost nothing
    )
    return nll.view(x0.shape)


def masked_nll(denoiser: Denoiser, x_t: Tensor, x0: Tensor) -> Tensor:
    """Sum of -log p(x0_i | x_t) over the masked positions i of ``x_t``: Float[B]."""
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    nll = token_nll(denoiser, x_t, x0)
    # where, not a product: an unmasked position may hold inf
    return torch.where(x_t == denoiser.mask_id, nll, 0.0).sum(-1)


def nelbo(
    denoiser: Denoiser,
    x0: Tensor,
    schedule: Schedule | None = None,
    *,
    times: str = "stratified",
    maskable: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""One-draw estimate of the continuous-time NELBO, **unbiased** in every row.

    .. math:: \int_0^1 \frac{-\alpha'_t}{1-\alpha_t}\, \mathbb E_{q(x_t|x_0)}
        \Big[\sum_{i: x_t^i = m} -\log p(x_0^i \mid x_t)\Big] dt

    (Shi et al. 2024, eq. 5; Sahoo et al. 2024, eq. 10.) The integral is the same for
    every ideal schedule; the variance of this estimate is not. It is infinite where
    :math:`1 - \alpha_t` is proportional to t at 0 (linear, MD4's cosine), because few
    masks then carry weights up to 1/t; :func:`exact_count_loss` has no such tail. A
    schedule with :math:`\alpha_0 < 1` or :math:`\alpha_1 > 0` leaves out the mask rates
    beyond its ends: the result is then slightly low, and no longer a bound.

    Parameters
    ----------
    denoiser : Denoiser
    x0 : Long[B, L]
    schedule : Schedule, optional
        Linear by default.
    times : {"stratified", "antithetic", "iid"}
        See :func:`dllm_tutorial.masking.draw_times`.
    maskable : Bool[L] or Bool[B, L], optional
        Positions that may be masked; the others are a prompt.

    Returns
    -------
    Float[B]
        Nats per sequence.
    """
    x0 = _batch(denoiser, x0)
    schedule = schedule or Linear()
    t = masking.draw_times(len(x0), times, generator=generator, device=x0.device)
    x_t = masking.forward(
        x0, t, schedule, denoiser.mask_id, maskable=maskable, generator=generator
    )
    # where 1 - alpha underflows nothing is masked, and the weight is infinite or 0 / 0
    weight = torch.where(schedule.masked(t) > 0, schedule.weight(t), 0.0)
    return _scaled(masked_nll(denoiser, x_t, x0), weight)


def llada_loss(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    times: str = "stratified",
    maskable: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""LLaDA's loss: :math:`\frac1t \sum_{masked} -\log p`, mask rate t, **unbiased**.

    (Nie et al. 2025, eq. 3.) It is :func:`nelbo` with the linear schedule; divide by
    the length for nats per token.
    """
    return nelbo(
        denoiser, x0, Linear(), times=times, maskable=maskable, generator=generator
    )


def exact_count_loss(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    times: str = "stratified",
    maskable: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""The NELBO with exactly l masks, l uniform on 1 ... L, **unbiased**.

    .. math:: L \cdot \mathbb E_{l}\, \mathbb E_{|M| = l}
        \Big[\frac1l \sum_{i \in M} -\log p(x_0^i \mid x_0^{-M})\Big]

    The form of RADD's ``k_DCE_loss`` (Ou et al. 2025) and of LLaDA's likelihood
    evaluation (Nie et al. 2025, eq. 6); less noisy than drawing each mask by itself.
    With ``maskable``, L counts the positions that may be masked; a row with none costs
    nothing.
    """
    x0 = _batch(denoiser, x0)
    t = masking.draw_times(len(x0), times, generator=generator, device=x0.device)
    return _exact_count(denoiser, x0, t, maskable, generator)


def _exact_count(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    maskable: Tensor | None,
    generator: Generator | None,
) -> Tensor:
    """One draw with exactly ceil(t n) of the n maskable tokens of each row masked."""
    n = torch.full((len(x0),), x0.shape[1], device=x0.device)
    if maskable is not None:
        n = _checks.flags(maskable, "maskable", x0.shape).sum(-1)
    counts = (t * n).ceil().long()
    x_t = masking.hide(x0, counts, denoiser.mask_id, maskable, generator)
    return _scaled(masked_nll(denoiser, x_t, x0), n.double() / counts.clamp(min=1))


def _batch(denoiser: Denoiser, x0: Tensor) -> Tensor:
    """Tokens, of which there is at least one row to draw a mask for."""
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    x0 = _checks.tokens(x0, "x0")
    if not len(x0):
        raise ValueError(f"x0 must hold a sequence, got shape {tuple(x0.shape)}")
    return x0


def nelbo_t_step(
    denoiser: Denoiser,
    x0: Tensor,
    steps: int,
    schedule: Schedule | None = None,
    *,
    times: str = "stratified",
    maskable: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""One-draw estimate of the NELBO of sampling in T equal steps, **unbiased**.

    .. math:: L_T = \sum_{i=1}^{T} \frac{\alpha_s - \alpha_t}{1 - \alpha_t}\,
        \mathbb E_{q(x_t|x_0)}\Big[\sum_{masked} -\log p(x_0^i \mid x_t)\Big],
        \qquad t = \tfrac iT,\; s = t - \tfrac1T

    One of the T steps is drawn per row. The value depends on the schedule, tends to the
    continuous NELBO as T grows, and bounds the NLL of the T-step ancestral sampler. As
    in :func:`nelbo` it is no bound for a schedule with :math:`\alpha_0 < 1` or
    :math:`\alpha_1 > 0`: the sampler starts from all masks and reveals every token,
    the sum leaves out what lies beyond the ends.

    There is no reconstruction term: the last step goes down to s = 0 and its tokens
    come from the denoiser like all others. MD4 stops at t = 1/T, decodes what is left
    uniformly and so adds :math:`(1 - \alpha_{1/T}) L \log V` in place of the step
    i = 1 (Shi et al. 2024, eq. 4).
    """
    x0 = _batch(denoiser, x0)
    _checks.integer(steps, "steps", 1)
    schedule = schedule or Linear()
    i = masking.draw_counts(
        len(x0), steps, times, generator=generator, device=x0.device
    )
    t, s = i.double() / steps, (i - 1).double() / steps
    x_t = masking.forward(
        x0, t, schedule, denoiser.mask_id, maskable=maskable, generator=generator
    )
    return _scaled(masked_nll(denoiser, x_t, x0), steps * _reveal(schedule, s, t))


def ar_loss(denoiser: Denoiser, x0: Tensor) -> Tensor:
    r"""**Exact** left-to-right NLL from one pass of a causal denoiser.

    :math:`-\sum_i \log p(x_0^i \mid x_0^{<i})`. Row i of the logits may depend on
    tokens before i only, as those of a causal
    :class:`~dllm_tutorial.networks.Transformer` do. A bidirectional denoiser, which
    would read its own answer here, is refused where it says what it reads; use
    :func:`dllm_tutorial.orders.log_prob` for one.

    Returns
    -------
    Float[B]
        Nats per sequence.
    """
    _checks.denoiser(denoiser, "denoiser", *FROM_THE_LEFT)
    x0 = _checks.tokens(x0, "x0")
    return token_nll(denoiser, x0, x0).sum(-1)


def any_order_loss(
    denoiser: Denoiser, x0: Tensor, *, generator: Generator | None = None
) -> Tensor:
    r"""NLL of each sequence in its own random order, **unbiased** for the NELBO.

    :math:`-\sum_n \log p(x_0^{\pi(n)} \mid x_0^{\pi(<n)})` with uniform
    :math:`\pi`, all terms with the same weight (Uria et al. 2014). It takes one pass
    per token, or one pass in all of an any-order network. From a bidirectional network
    :func:`exact_count_loss` gets the same expectation in a single pass.

    Returns
    -------
    Float[B]
        Nats per sequence: the exact NLL in the order that was drawn.
    """
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    x0 = _checks.tokens(x0, "x0")
    order = orders.random_orders(x0.shape[1], len(x0), generator)
    return -orders.log_prob(denoiser, x0, order, name="x0")


def average_loss(log_p: Tensor, log_prior: Tensor | None = None) -> Tensor:
    r"""The sum-log loss over a set of orders: :math:`-\sum_o p(o)\log p^{(o)}(x)`.

    **Upper bound** on :func:`log_sum_loss`, by Jensen's inequality. The gap is the
    divergence of the responsibilities from the prior, KL(p(o) || r(o)), for each
    sequence.

    Parameters
    ----------
    log_p : Float[K, B]
        log-probability of each whole sequence in each order
        (:func:`dllm_tutorial.orders.log_probs`), nats.
    log_prior : Float[K], optional
        log p(o); uniform by default. That it sums to 1 is checked on the CPU, where the
        look costs no waiting.

    Returns
    -------
    Float[B]
        Nats per sequence.
    """
    log_p, log_prior = _orders_and_prior(log_p, log_prior)
    weight = log_prior.exp().unsqueeze(-1)
    # where, not a product: an order that is never used may hold -inf
    return -torch.where(weight > 0, weight * log_p, 0.0).sum(0)


@dataclass(frozen=True)
class LogSum:
    """Result of :func:`log_sum_loss`.

    Attributes
    ----------
    loss : Float[B]
        NLL of the mixture over orders, nats per sequence; a bound on it if tempered.
    log_responsibilities : Float[K, B]
        log of the posterior probability of each order given the sequence. The gradient
        of the loss is the mean of the per-order gradients with these weights.
    """

    loss: Tensor
    log_responsibilities: Tensor


def log_sum_loss(
    log_p: Tensor, log_prior: Tensor | None = None, power: float = 1.0
) -> LogSum:
    r"""NLL of a mixture over K orders: :math:`-\log\sum_o p(o)\,p^{(o)}(x)`, **exact**.

    The sum over a sequence's tokens has to happen before the sum over orders: per-token
    averages in the exponent would give the average loss back. Order o pays at most
    :math:`-\log p(o)` nats for not being named beforehand: :math:`\log K` if uniform.

    With a ``power`` :math:`\beta` below 1 the loss is
    :math:`-\tfrac1\beta\log\sum_o p(o)\,p^{(o)}(x)^\beta` and the responsibilities are
    those of the tempered probabilities: an **upper bound** that falls from
    :func:`average_loss`, its limit at 0, to the mixture at 1. Raised during training it
    keeps an order from taking all before the others have learned anything. The rounding
    of the sum is divided by :math:`\beta` too: in float32 the loss is off by about
    1e-7 / :math:`\beta`, so give float64 for very small powers.

    A sequence that no order can produce has an infinite loss, and no order is
    responsible for it: the logarithms are -inf.

    Parameters
    ----------
    log_p : Float[K, B]
        log-probability of each whole sequence in each order
        (:func:`dllm_tutorial.orders.log_probs`), nats.
    log_prior : Float[K], optional
        log p(o); uniform by default, checked as in :func:`average_loss`.
    power : float
        In (0, 1].
    """
    log_p, log_prior = _orders_and_prior(log_p, log_prior)
    _checks.in_unit_interval(power, "power", open_left=True)
    joint = log_prior.unsqueeze(-1) + power * log_p
    impossible = (joint == -math.inf).all(0)
    # its logsumexp would be -inf, and NaN both its gradient and -inf from -inf
    evidence = joint.masked_fill(impossible, 0.0).logsumexp(0)
    loss = -evidence / power
    return LogSum(loss.masked_fill(impossible, math.inf), joint - evidence)


def _orders_and_prior(log_p: Tensor, log_prior: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both in float32 at least, the prior uniform by default."""
    for value, name in ((log_p, "log_p"), (log_prior, "log_prior")):
        if value is not None and not value.is_floating_point():
            raise TypeError(f"{name} must hold floats, got {value.dtype}")
    if log_p.ndim != 2 or not len(log_p):
        raise ValueError(f"log_p must be [K, B], K >= 1, got {tuple(log_p.shape)}")
    log_p = log_p.to(torch.promote_types(log_p.dtype, torch.float32))
    if log_prior is None:
        log_prior = log_p.new_full((len(log_p),), -math.log(len(log_p)))
    if log_prior.shape != log_p.shape[:1]:
        raise ValueError(
            f"log_prior must be [{len(log_p)}], got {tuple(log_prior.shape)}"
        )
    if log_prior.device.type == "cpu":  # elsewhere the host would wait for the answer
        _checks.probabilities(log_prior.detach().exp(), "exp(log_prior)")
    return log_p, log_prior.to(log_p)


@dataclass(frozen=True)
class Estimate:
    """A sampled bound on the negative log-likelihood.

    Attributes
    ----------
    value : Float[B]
        Nats per sequence.
    standard_error : Float[B]
        Of ``value``, over the draws of the estimator.
    draws : int
        Draws per sequence.
    bias : str
        What ``value`` is on average.
    """

    value: Tensor
    standard_error: Tensor
    draws: int
    bias: str


@torch.no_grad()
def nelbo_estimate(
    denoiser: Denoiser,
    x0: Tensor,
    draws: int = 64,
    *,
    maskable: Tensor | None = None,
    generator: Generator | None = None,
) -> Estimate:
    r"""Likelihood by the NELBO: **unbiased for the NELBO, an upper bound on the NLL**.

    Two exact-count draws in each of ``draws / 2`` equal strata of the mask rate. The
    difference of the two is all the noise that stratification leaves, so it gives a
    standard error without bias.

    Parameters
    ----------
    draws : int
        Passes per sequence, an even number.
    """
    x0 = _batch(denoiser, x0)
    if _checks.integer(draws, "draws", 2) % 2:
        raise ValueError(f"draws must be even, got {draws}")
    strata = draws // 2
    twice = x0.repeat(2, 1)
    if maskable is not None:
        maskable = _checks.flags(maskable, "maskable", x0.shape).repeat(2, 1)
    pairs = torch.empty(strata, 2, len(x0), dtype=torch.float64, device=x0.device)
    for k in range(strata):
        u = masking.draw_times(len(twice), "iid", generator=generator, device=x0.device)
        t = (k + u) / strata
        loss = _exact_count(denoiser, twice, t, maskable, generator)
        pairs[k] = loss.reshape(2, -1)
    half_gap = (pairs[:, 0] - pairs[:, 1]) / 2
    return Estimate(
        value=pairs.mean((0, 1)),
        standard_error=half_gap.square().sum(0).sqrt() / strata,
        draws=draws,
        bias="unbiased for the NELBO; an upper bound on the NLL in expectation",
    )


@torch.no_grad()
def log_mean_exp_orders(
    denoiser: Denoiser,
    x0: Tensor,
    draws: int = 16,
    *,
    generator: Generator | None = None,
) -> Estimate:
    r"""Likelihood from K random orders: a **stochastic upper bound on the NLL**.

    :math:`-\log \frac1K \sum_k p^{(\pi_k)}(x)`, orders independent and uniform. In
    expectation it is the NELBO at K = 1, falls with K, and reaches the NLL of the
    uniform mixture over all orders (Burda et al. 2016). The smallest NLL among the
    sampled orders would be no bound at all: that choice has to look at x.

    The standard error is that of the mean of the K probabilities, carried through the
    logarithm (NaN for K = 1); it says nothing about the bias, which is of the order of
    its square.
    """
    _checks.integer(draws, "draws", 1)
    log_p = torch.stack(
        [-any_order_loss(denoiser, x0, generator=generator) for _ in range(draws)]
    ).double()
    loss = log_sum_loss(log_p).loss
    ratio = (log_p + loss).exp()  # [K, B], p / mean p
    spread = (ratio - 1).square().sum(0) / (draws - 1 or math.nan)
    return Estimate(
        value=loss,
        standard_error=(spread / draws).sqrt(),
        draws=draws,
        bias="an upper bound on the NLL in expectation, falling with the draws",
    )


def exact_nelbo(
    denoiser: Denoiser, x0: Tensor, schedule: Schedule | None = None
) -> Tensor:
    r"""The continuous-time NELBO, **exact**, by enumeration of all masks.

    A mask of m out of L tokens counts with
    :math:`c_m = \int_0^1 \frac{-\alpha'_t}{1-\alpha_t}(1-\alpha_t)^m\alpha_t^{L-m}dt`.
    Without a schedule this is :math:`1/\big(m\binom Lm\big)`, the value for every ideal
    schedule; with one it is integrated over t, so that invariance can be tested and
    the truncation of a schedule with other ends can be seen. The nodes come as near to
    0 as e**-700 and to 1 as the dtype allows. Where they miss more than 1e-8 of
    :math:`\alpha_0 - \alpha_1` (a schedule too steep at an end, such as
    ``Polynomial(0.02)``, with a kink, or whose ``dalpha`` is no derivative of
    ``alpha``), it raises ``ValueError``.

    Parameters
    ----------
    x0 : Long[B, L]
        The cost is 2**L - 1 rows per sequence.

    Returns
    -------
    Float64[B]
        Nats per sequence.
    """
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    x0 = _checks.tokens(x0, "x0")
    length = x0.shape[1]
    m = torch.arange(1, length + 1, dtype=torch.float64)
    if schedule is None:
        factorial = torch.lgamma
        # 1 / (m C(L, m)) = (m - 1)! (L - m)! / L!
        log_c = factorial(m) + factorial(length - m + 1)
        c = (log_c - math.lgamma(length + 1)).exp()
    else:
        t, dt = _quadrature()
        # weight times odds, with the 1 - alpha of the weight cancelled by hand
        rate = -schedule.dalpha(t) * dt
        missed = (schedule.alpha(0.0) - schedule.alpha(1.0) - rate.sum()).item()
        if not abs(missed) < 1e-8:
            raise ValueError(
                "schedule must be smooth and not too steep at its ends, got "
                f"{schedule}: the integral of dalpha is off by {missed:.3g}"
            )
        masked, kept = schedule.masked(t), schedule.alpha(t)
        m = m.unsqueeze(-1)
        c = (rate * masked ** (m - 1) * kept ** (length - m)).sum(-1)
    return _weighted_masks(denoiser, x0, c)


def exact_t_step(
    denoiser: Denoiser, x0: Tensor, steps: int, schedule: Schedule | None = None
) -> Tensor:
    """The T-step NELBO of :func:`nelbo_t_step`, **exact**, by enumeration of masks.

    Returns
    -------
    Float64[B]
        Nats per sequence.
    """
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    x0 = _checks.tokens(x0, "x0")
    _checks.integer(steps, "steps", 1)
    schedule = schedule or Linear()
    m = torch.arange(1, x0.shape[1] + 1, dtype=torch.float64)
    grid = torch.arange(steps + 1, dtype=torch.float64) / steps
    s, t = grid[:-1], grid[1:]
    c = (_reveal(schedule, s, t) * _mask_odds(schedule, t, m)).sum(-1)
    return _weighted_masks(denoiser, x0, c)


def _weighted_masks(denoiser: Denoiser, x0: Tensor, c: Tensor) -> Tensor:
    """Sum over masks M of c[|M| - 1] times the NLL of the masked tokens."""
    if x0.shape[1] > MAX_LENGTH:
        raise ValueError(
            f"x0 must have at most {MAX_LENGTH} positions to enumerate its masks, got "
            f"{x0.shape[1]}"
        )
    masks = masking.all_masks(x0.shape[1], device=x0.device)[1:]  # [2^L - 1, L]
    weights = c.to(x0.device)[masks.sum(-1) - 1]
    total = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    with torch.no_grad():
        for part in torch.arange(len(masks)).split(max(1, CHUNK // max(1, len(x0)))):
            clean = x0.repeat(len(part), 1)
            hidden = masks[part].repeat_interleave(len(x0), 0)
            x_t = clean.masked_fill(hidden, denoiser.mask_id)
            nll = masked_nll(denoiser, x_t, clean).double().reshape(len(part), len(x0))
            total += weights[part] @ nll
    return total


def _mask_odds(schedule: Schedule, t: Tensor, m: Tensor) -> Tensor:
    """Probability at time t of one given mask of m tokens, [len(m), len(t)]."""
    masked, kept = schedule.masked(t), schedule.alpha(t)
    m = m.unsqueeze(-1)
    return masked**m * kept ** (len(m) - m)


def _quadrature(half_width: float = 6.1, points: int = 977) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1), exact to rounding even with singular ends.

    The double exponential rule of Takahasi and Mori (1974).
    """
    u = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    v = math.pi * u.sinh()
    t = torch.sigmoid(v)
    dt = math.pi * u.cosh() * t * torch.sigmoid(-v) * (u[1] - u[0])
    return t, dt


def _reveal(schedule: Schedule, s: Tensor, t: Tensor) -> Tensor:
    """Probability that a token masked at t is revealed by s < t."""
    return 1 - masking.still_masked(schedule, s, t)


def _scaled(nll: Tensor, weight: Tensor) -> Tensor:
    return nll * weight.to(nll.dtype)
