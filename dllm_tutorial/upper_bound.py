r"""Upper bounds on the log-likelihood: the other side of the NELBO.

A model that draws its order o uniformly and then generates along it gives a sequence

.. math:: \bar p(x) = \mathbb E_{o \sim u}\big[p^{(o)}(x)\big],

and :func:`dllm_tutorial.losses.log_mean_exp_orders` bounds its log-likelihood from
below. Here are bounds from above. As in :mod:`dllm_tutorial.losses` everything is said
of the negative log-likelihood (NLL), in nats per sequence: an upper bound on the
log-likelihood is a *lower* bound on the NLL, and with the NELBO it makes a bracket.

====================== ============================== ===============================
bound                  needs                          what holds for finite draws
====================== ============================== ===============================
tangent                random orders                  in expectation, for each number
posterior              one order drawn given x        in expectation and, with a margin
                                                      of log 1/delta, with probability
                                                      1 - delta
chi-square             all orders                     nothing: a mean of squares inside
                                                      the logarithm errs upwards
====================== ============================== ===============================

The difference between the first two is real. Random orders cannot exclude that an order
which was not drawn carries the sequence, so no useful value computed from them is a
bound with a stated confidence: the tangent bound holds on average because the rare draw
that finds such an order gives a very low value. An order drawn from
:math:`r(o) \propto p^{(o)}(x)` finds it.

If every order gives x the same probability, as exact conditionals do, all bounds equal
the NLL, except the tangent at a surrogate of one's own: it is tight where the surrogate
is right.

Sources: Ivanov et al. 2026 (TUBE, the tangent bound); Grosse et al. 2015, 2016 (upper
bounds from an exact draw of the posterior); Dieng et al. 2017 (chi-square, CUBO).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dllm_tutorial import _checks, losses, masking, orders
from dllm_tutorial.denoiser import MASKED, Denoiser
from dllm_tutorial.losses import Estimate

__all__ = [
    "Bounds",
    "bracket",
    "exact_bounds",
    "leave_one_out",
    "order_bounds",
    "posterior_estimate",
    "posterior_orders",
    "sample_in_order",
    "tangent",
    "tangent_estimate",
]

# Rows given to a denoiser at once when sets or orders are enumerated.
CHUNK = 2**15
MAX_LENGTH = 20


# ------------------------------------------------------------------- tangent bound


def tangent(log_p: Tensor, log_surrogate: Tensor) -> Tensor:
    r"""The tangent bound on the NLL, one value a draw: :math:`1-\log\psi-p/\psi`.

    The logarithm lies below its tangent at any :math:`\psi > 0`,
    :math:`\log \bar p \le \log\psi + \bar p/\psi - 1`, with equality at
    :math:`\psi = \bar p` (Ivanov et al. 2026). The right side is linear in
    :math:`\bar p`, so an unbiased estimate of :math:`\bar p` that does not depend on
    :math:`\psi` may take its place: the mean over the draws is a bound in expectation.

    Parameters
    ----------
    log_p : Float[K, ...]
        log-probabilities in K orders, nats.
    log_surrogate : Float[...] or Float[K, ...]
        log psi. Each entry may depend on anything but the draw it stands beside.

    Returns
    -------
    Float64[K, ...]
        Nats; -inf, which says nothing, where the surrogate is zero.
    """
    log_p, log_surrogate = _nats(log_p, "log_p"), _nats(log_surrogate, "log_surrogate")
    if log_surrogate.shape not in (log_p.shape, log_p.shape[1:]):
        raise ValueError(
            f"log_surrogate must have shape {tuple(log_p.shape[1:])} or "
            f"{tuple(log_p.shape)}, got {tuple(log_surrogate.shape)}"
        )
    value = 1 - log_surrogate - (log_p - log_surrogate).exp()
    return value.masked_fill(log_surrogate == -math.inf, -math.inf)


def leave_one_out(log_p: Tensor) -> Tensor:
    """For each draw the log of the mean probability of all *other* draws.

    A surrogate for :func:`tangent` that costs nothing and is independent of its draw.

    Parameters
    ----------
    log_p : Float[K, ...]
        log-probabilities of K >= 2 independent draws, nats.

    Returns
    -------
    Float64[K, ...]
    """
    log_p = _nats(log_p, "log_p")
    if log_p.ndim < 1 or len(log_p) < 2:
        raise ValueError(f"log_p must hold at least 2 draws, got {tuple(log_p.shape)}")
    nothing = torch.full_like(log_p[:1], -math.inf)
    before = torch.cat([nothing, log_p[:-1]]).logcumsumexp(0)
    after = torch.cat([nothing, log_p.flip(0)[:-1]]).logcumsumexp(0).flip(0)
    return torch.logaddexp(before, after) - math.log(len(log_p) - 1)


@torch.no_grad()
def tangent_estimate(
    denoiser: Denoiser,
    x0: Tensor,
    draws: int = 16,
    *,
    log_surrogate: Tensor | None = None,
    block_length: int | None = None,
    generator: Generator | None = None,
) -> Estimate:
    r"""TUBE: a **lower bound on the NLL in expectation**, from K random orders.

    With a surrogate (Ivanov et al. 2026) the mean is
    :math:`\mathrm{NLL} - g(\bar p/\psi)`, :math:`g(a) = a - 1 - \log a`, whatever K is.
    Without one each draw is set against the mean of the others: the mean is
    :math:`\mathrm{NLL} - \mathbb E[g(\bar p/\hat p_{K-1})]`, which tends to the NLL.
    The gap is about :math:`c^2 / 2(K-1)`, with c the standard deviation of
    :math:`p^{(o)}(x) / \bar p(x)` over the orders, once K is large beside
    :math:`c^2`; before that it may also grow with K.

    One value may lie above the NLL, and most do where few orders carry the sequence:
    average over sequences or repetitions before reading it as a bound.

    Parameters
    ----------
    denoiser : Denoiser
    x0 : Long[B, L]
    draws : int
        Orders per sequence, at least 2 without a surrogate. Each takes L passes of a
        masked denoiser.
    log_surrogate : Float[B], optional
        log psi(x), nats: for instance the log-likelihood under an autoregressive
        model. It must not have seen the draws. Float[B, blocks] with ``block_length``.
    block_length : int, optional
        The model of semi-autoregressive decoding: blocks from left to right, the order
        drawn anew within each. Its log-likelihood is a sum over blocks, bounded block
        by block. Not for an any-order network, whose answers depend on the order of
        what it has read: there the blocks do not come apart.

    Returns
    -------
    Estimate
        The standard error treats the K values as independent; it is NaN for K = 1.
    """
    _checks.integer(draws, "draws", 2 if log_surrogate is None else 1)
    log_p = _draw(denoiser, x0, draws, block_length, generator)
    if log_surrogate is None:
        return _tangent_estimate(log_p)
    log_surrogate = _nats(log_surrogate, "log_surrogate")
    shape = log_p.shape[1:2] if block_length is None else log_p.shape[1:]
    if log_surrogate.shape != shape:
        raise ValueError(
            f"log_surrogate must have shape {tuple(shape)}, "
            f"got {tuple(log_surrogate.shape)}"
        )
    return _tangent_estimate(log_p, log_surrogate.view(log_p.shape[1:]).to(log_p))


@torch.no_grad()
def bracket(
    denoiser: Denoiser,
    x0: Tensor,
    draws: int = 16,
    *,
    block_length: int | None = None,
    generator: Generator | None = None,
) -> tuple[Estimate, Estimate]:
    r"""A lower and an upper bound on the NLL, in expectation, from the same K orders.

    :func:`tangent_estimate` without a surrogate, and the log of the mean probability
    (:func:`dllm_tutorial.losses.log_mean_exp_orders`), block by block if there are
    blocks. Both gaps are about :math:`c^2/2K` for large K. The lower value never
    exceeds the upper one, but both come from the same draws and may lie on one side of
    the NLL.

    Parameters
    ----------
    denoiser, x0, draws, block_length
        As in :func:`tangent_estimate`.

    Returns
    -------
    lower, upper : Estimate
        Nats per sequence.
    """
    _checks.integer(draws, "draws", 2)
    log_p = _draw(denoiser, x0, draws, block_length, generator)
    lower = _tangent_estimate(log_p)
    log_mean = log_p.logsumexp(0) - math.log(draws)  # [B, blocks]
    share = (log_p - log_mean).exp().sum(-1)
    upper = Estimate(
        value=-log_mean.sum(-1),
        standard_error=share.std(0) / math.sqrt(draws),
        draws=draws,
        bias="an upper bound on the NLL in expectation, falling with the draws",
    )
    return lower, upper


def _tangent_estimate(log_p: Tensor, log_surrogate: Tensor | None = None) -> Estimate:
    """The tangent bound from log_p: Float64[K, B, blocks], summed over blocks."""
    bias = "a lower bound on the NLL in expectation; single values may exceed it"
    if log_surrogate is None:
        log_surrogate = leave_one_out(log_p)
    else:
        bias = f"unbiased for the tangent bound of the surrogate, {bias}"
    values = tangent(log_p, log_surrogate).sum(-1)
    draws = len(values)
    spread = values.std(0) if draws > 1 else torch.full_like(values[0], math.nan)
    return Estimate(values.mean(0), spread / math.sqrt(draws), draws, bias)


def _draw(
    denoiser: Denoiser,
    x0: Tensor,
    draws: int,
    block_length: int | None,
    generator: Generator | None,
) -> Tensor:
    """log p of each block in its own random order, Float64[draws, B, blocks]."""
    x0 = _tokens(denoiser, x0)
    size, length = x0.shape
    block = length
    if block_length is not None:
        block = min(length, _checks.integer(block_length, "block_length", 1))
    if block < length and orders.reads_order(denoiser):
        raise ValueError(
            "block_length needs a denoiser whose answers do not depend on the order "
            "of what it has read, got an any-order network"
        )
    drawn = []
    for _ in range(draws):
        order = orders.block_orders(length, size, block, generator)
        steps = orders.step_log_prob(denoiser, x0, order, name="x0").double()
        drawn.append(F.pad(steps, (0, -length % block)).view(size, -1, block).sum(-1))
    return torch.stack(drawn)


# ----------------------------------------------------------------- posterior bound


@torch.no_grad()
def sample_in_order(
    denoiser: Denoiser, order: Tensor, *, generator: Generator | None = None
) -> Tensor:
    """Generate one sequence along each given order, one token a step.

    With orders drawn uniformly this samples the model of this module, and each order
    that was used is an exact draw of the posterior given its sequence: what
    :func:`posterior_estimate` asks for.

    Parameters
    ----------
    denoiser : Denoiser
    order : Long[B, L]

    Returns
    -------
    Long[B, L]
    """
    order = _checks.tokens(order, "order")
    size, length = order.shape
    orders.check_along(denoiser, orders.check_orders(order, length))
    x = torch.full_like(order, denoiser.mask_id)
    row = torch.arange(size, device=order.device)
    for step in range(length):
        position = order[:, step]
        if orders.reads_order(denoiser):
            logits = denoiser.in_order(x, order)[:, step]  # type: ignore[attr-defined]
        else:
            logits = denoiser(x)[row, position]
        logits = orders.without_mask(denoiser, logits)
        x[row, position] = _categorical(logits, generator)
    return x


@torch.no_grad()
def posterior_estimate(
    denoiser: Denoiser,
    x0: Tensor,
    order: Tensor,
    draws: int = 1,
    *,
    generator: Generator | None = None,
) -> Estimate:
    r"""NLL from one order of the posterior and K - 1 random ones: a **lower bound**.

    .. math:: -\log \frac1K \Big[p^{(o_1)}(x) + \sum_{k=2}^K p^{(o_k)}(x)\Big],
        \qquad o_1 \sim r(o) \propto p^{(o)}(x), \quad o_k \sim u

    In expectation it is :math:`\mathrm{NLL} - \mathrm{KL}(r \Vert u)` at K = 1, rises
    with K and tends to the NLL (Grosse et al. 2015, with importance sampling in place
    of annealing): :func:`dllm_tutorial.losses.log_mean_exp_orders` with one draw
    exchanged. The expectation of :math:`\bar p(x)` divided by the mean in brackets is
    at most 1, so with probability :math:`1 - \delta` the sum of ``value`` over any
    number of independent sequences exceeds the sum of their NLLs by less than
    :math:`\log 1/\delta` nats.

    Parameters
    ----------
    denoiser : Denoiser
    x0 : Long[B, L]
    order : Long[B, L]
        One exact draw from r for each sequence: the order in which
        :func:`sample_in_order` generated it, or one of :func:`posterior_orders`. An
        order chosen otherwise, by a Markov chain that has not converged or by weighing
        random orders, gives no bound.
    draws : int
        K, orders per sequence.

    Returns
    -------
    Estimate
        The standard error is that of the random orders alone (NaN for K < 3). What the
        draw from the posterior adds shows only over many sequences.
    """
    x0 = _tokens(denoiser, x0)
    _checks.integer(draws, "draws", 1)
    order = orders.check_orders(order, x0.shape[1])
    if order.shape != x0.shape:
        raise ValueError(
            f"order must have shape {tuple(x0.shape)}, got {tuple(order.shape)}"
        )
    given = orders.log_prob(denoiser, x0, order, name="x0").double()[None]
    log_p = given
    if draws > 1:
        fresh = _draw(denoiser, x0, draws - 1, None, generator)[..., 0]
        log_p = torch.cat([given, fresh])
    log_mean = log_p.logsumexp(0) - math.log(draws)
    error = torch.full_like(log_mean, math.nan)
    if draws > 2:
        share = (log_p[1:] - log_mean).exp()
        error = share.std(0) * math.sqrt(draws - 1) / draws
    return Estimate(
        value=-log_mean,
        standard_error=error,
        draws=draws,
        bias="a lower bound on the NLL in expectation, rising with the draws, "
        "if order was drawn from the posterior",
    )


@torch.no_grad()
def posterior_orders(
    denoiser: Denoiser,
    x0: Tensor,
    draws: int = 1,
    *,
    generator: Generator | None = None,
) -> Tensor:
    r"""Exact draws of the order given the sequence, :math:`r(o) \propto p^{(o)}(x)`.

    The last position of the order is drawn first, from the probabilities of reaching
    the sets without it (see :func:`exact_bounds`, whose limits apply).

    Parameters
    ----------
    denoiser : Denoiser
    x0 : Long[B, L]
        Sequences of positive probability.
    draws : int
        Orders per sequence.

    Returns
    -------
    Long[draws, B, L]
    """
    x0 = _tokens(denoiser, x0)
    size, length = x0.shape
    _checks.integer(draws, "draws", 1)
    if orders.reads_order(denoiser):
        every, log_p = _all_orders(denoiser, x0)
        _possible(log_p.logsumexp(0))
        index = _categorical(log_p.T.expand(draws, size, -1), generator)
        return every.to(x0.device)[index]
    steps = _set_table(denoiser, x0)
    reached = _reached(steps)
    _possible(reached[-1])
    place = torch.arange(length, device=x0.device)
    bit = 2**place
    row = torch.arange(size, device=x0.device)[:, None]
    code = torch.full((draws, size), 2**length - 1, device=x0.device)
    order = torch.empty((draws, size, length), dtype=torch.long, device=x0.device)
    for n in reversed(range(length)):
        inside = code[..., None] & bit > 0  # [draws, B, L]
        before = torch.where(inside, code[..., None] - bit, 0)
        path = reached[before, row] + steps[before, row, place]
        order[..., n] = _categorical(path.where(inside, -math.inf), generator)
        code = code - bit[order[..., n]]
    return order


# ------------------------------------------------------------------- exact values


@dataclass(frozen=True)
class Bounds:
    r"""The NLL of a uniform mixture over orders and exact bounds on it, Float64[B].

    All in nats per sequence, with u the uniform law over the orders and
    :math:`r(o) \propto p^{(o)}(x)` their posterior. ``posterior`` and ``chi_square``
    are at most ``nll``, which is at most ``nelbo``.

    Attributes
    ----------
    nelbo
        :math:`\mathrm{NLL} + \mathrm{KL}(u \Vert r)`, the mean NLL over u.
    nll
        :math:`-\log \mathbb E_u[p^{(o)}(x)]`.
    posterior
        :math:`\mathrm{NLL} - \mathrm{KL}(r \Vert u)`, the mean NLL over r.
    chi_square
        :math:`-\frac12 \log \mathbb E_u[p^{(o)}(x)^2]`, which is the NLL less half the
        Rényi divergence of order 2, (Dieng et al. 2017, with exponent 2).
    """

    nelbo: Tensor
    nll: Tensor
    posterior: Tensor
    chi_square: Tensor


def order_bounds(log_p: Tensor) -> Bounds:
    """Exact bounds for the uniform mixture over the K given orders.

    Parameters
    ----------
    log_p : Float[K, B]
        log-probability of each sequence in each order
        (:func:`dllm_tutorial.orders.log_prob`), nats.
    """
    log_p = _nats(log_p, "log_p")
    if log_p.ndim != 2 or not len(log_p):
        raise ValueError(f"log_p must be [K, B], got {tuple(log_p.shape)}")
    nll = losses.log_sum_loss(log_p).loss
    weight = log_p.softmax(0)
    return Bounds(
        nelbo=-log_p.mean(0),
        nll=nll,
        posterior=-_mean(weight, log_p, 0).where(nll < math.inf, -math.inf),
        chi_square=losses.log_sum_loss(2 * log_p).loss / 2,
    )


@torch.no_grad()
def exact_bounds(denoiser: Denoiser, x0: Tensor) -> Bounds:
    r"""The NLL of the model that draws its order uniformly, and bounds: **exact**.

    A masked denoiser answers by the *set* of tokens it has read. Let F(S) be the mean,
    over the orders of a set S of positions, of the probability of its tokens; then

    .. math:: F(S) = \frac1{|S|} \sum_{i \in S}
        F(S \setminus i)\, p(x_i \mid x_{S \setminus i}),
        \qquad F(\varnothing) = 1,

    and F of all positions is the likelihood: 2**L passes in place of L * L!. The same
    recursion gives the other means. An any-order network answers by the order of what
    it has read as well, so for one all orders are enumerated.

    Parameters
    ----------
    denoiser : Denoiser
    x0 : Long[B, L]
        At most 20 positions, at most 9 for an any-order network.
    """
    x0 = _tokens(denoiser, x0)
    if orders.reads_order(denoiser):
        return order_bounds(_all_orders(denoiser, x0)[1])
    steps = _set_table(denoiser, x0)
    reached = _reached(steps)
    average, posterior = torch.zeros_like(reached), torch.zeros_like(reached)
    for code, before, position in _by_size(x0):
        step = steps[before, :, position]  # [sets, size, B]
        weight = (reached[before] + step).softmax(1)
        average[code] = (average[before] + step).mean(1)
        posterior[code] = _mean(weight, posterior[before] + step, 1)
    nll = -reached[-1]
    return Bounds(
        nelbo=-average[-1],
        nll=nll,
        posterior=-posterior[-1].where(nll < math.inf, -math.inf),
        chi_square=-_reached(2 * steps)[-1] / 2,
    )


def _reached(steps: Tensor) -> Tensor:
    """log F(S) of :func:`exact_bounds` for every set S, Float64[2**L, B]."""
    reached = steps.new_zeros(len(steps) + 1, steps.shape[1])
    for code, before, position in _by_size(steps[0]):
        path = reached[before] + steps[before, :, position]
        reached[code] = path.logsumexp(1) - math.log(path.shape[1])
    return reached


def _set_table(denoiser: Denoiser, x0: Tensor) -> Tensor:
    """log p(x_i | x_S), Float64[2**L - 1, B, L]; bit i of S says that i is revealed."""
    size, length = x0.shape
    if length > MAX_LENGTH:
        raise ValueError(
            f"x0 must have at most {MAX_LENGTH} positions to enumerate their sets, "
            f"got {length}"
        )
    sets = masking.all_masks(length, device=x0.device)[:-1]
    table = []
    for part in sets.split(max(1, CHUNK // max(1, size))):
        states = torch.where(part[:, None], x0, denoiser.mask_id).flatten(0, 1)
        nll = losses.token_nll(denoiser, states, x0.repeat(len(part), 1))
        table.append(-nll.double().view(len(part), size, length))
    return torch.cat(table)


def _by_size(x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Nonempty sets of the L positions of x: [..., L], the small ones first.

    For the sets of m positions: codes [n], and for each of their positions the code of
    the set without it [n, m], and the position itself [n, m].
    """
    sets = masking.all_masks(x.shape[-1], device=x.device)
    for m in range(1, x.shape[-1] + 1):
        code = (sets.sum(1) == m).nonzero()[:, 0]
        position = sets[code].nonzero()[:, 1].view(-1, m)
        yield code, code[:, None] - 2**position, position


def _all_orders(denoiser: Denoiser, x0: Tensor) -> tuple[Tensor, Tensor]:
    """All orders Long[O, L] and log p in each, Float64[O, B]."""
    size, length = x0.shape
    every = orders.all_orders(length)
    log_p = [
        orders.log_probs(denoiser, x0, part.to(x0.device), name="x0")
        for part in every.split(max(1, CHUNK // max(1, size * length)))
    ]
    return every, torch.cat(log_p).double()


# ------------------------------------------------------------------------- helpers


def _tokens(denoiser: Denoiser, x0: Tensor) -> Tensor:
    """Tokens for a denoiser that can be asked in any order."""
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    return _checks.tokens(x0, "x0")


def _nats(value: Tensor, name: str) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a tensor of floats, got {value!r}")
    return value.double()


def _mean(weight: Tensor, value: Tensor, dim: int) -> Tensor:
    """Weighted sum in which an infinite value of weight zero does not count."""
    return torch.where(weight > 0, weight * value, 0.0).sum(dim)


def _categorical(logits: Tensor, generator: Generator | None) -> Tensor:
    """One draw for each distribution over the last dimension."""
    device = logits.device if generator is None else generator.device
    probs = logits.double().softmax(-1).to(device)
    flat = torch.multinomial(probs.flatten(0, -2), 1, generator=generator)
    return flat.view(logits.shape[:-1]).to(logits.device)


def _possible(log_p: Tensor) -> None:
    if bool((log_p == -math.inf).any()):
        raise ValueError("x0 must hold sequences of positive probability only")
