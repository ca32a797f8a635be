"""Losses against enumeration of orders and of whole diffusion trajectories.

Sampled statements are z tests or chi-square tests at level 1e-4 with fixed seeds.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dllm_tutorial import losses, masking, orders
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.schedules import (
    Cosine,
    CosineMDLM,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
    Schedule,
)
from helpers import RandomTableDenoiser, all_sequences
from test_networks import any_order, small

LEVEL = 1e-4
Z = stats.norm.isf(LEVEL / 2)
VOCAB, LENGTH = 3, 3
DENOISER = RandomTableDenoiser(VOCAB, LENGTH, seed=0)
X = torch.tensor([[0, 1, 2], [2, 2, 0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain_rule(denoiser, x, order) -> float:
    """-log p^(order)(x) of one sequence, token by token, with nothing shared."""
    state, total = torch.full_like(x, denoiser.mask_id), 0.0
    for position in order:
        log_p = denoiser(state[None])[0, position].log_softmax(-1)
        total -= log_p[x[position]].item()
        state[position] = x[position]
    return total


def order_average(denoiser, x) -> torch.Tensor:
    every = list(itertools.permutations(range(x.shape[1])))
    return torch.tensor(
        [sum(chain_rule(denoiser, row, o) for o in every) / len(every) for row in x],
        dtype=torch.float64,
    )


def assert_mean(draws: torch.Tensor, wanted: torch.Tensor) -> None:
    """Columns of draws [n, B] have the wanted means, by z tests."""
    error = draws.double().std(0) / math.sqrt(len(draws))
    z = (draws.double().mean(0) - wanted) / error
    assert bool((z.abs() < stats.norm.isf(LEVEL / 2 / len(wanted))).all()), z


def causal(vocab: int, length: int, seed: int = 0) -> FunctionDenoiser:
    """Row i of the logits depends on the tokens before i only."""
    tables = [
        RandomTableDenoiser(vocab, max(i, 1), seed + i).logits for i in range(length)
    ]

    def logits(x):
        rows = []
        for i in range(length):
            code = torch.zeros(len(x), dtype=torch.long)
            for j in range(i):
                code = code * (vocab + 1) + x[:, j]
            rows.append(tables[i][code, 0])
        return torch.stack(rows, 1)

    return FunctionDenoiser(logits, vocab)


# ------------------------------------------------------------------------- one pass


def test_token_nll_ignores_a_mask_column():
    logits = torch.tensor([[[1.0, 2.0, 50.0, 0.5]]])
    denoiser = FunctionDenoiser(lambda x: logits, mask_id=2)
    nll = losses.token_nll(denoiser, torch.tensor([[2]]), torch.tensor([[1]]))
    total = math.exp(1) + math.exp(2) + math.exp(0.5)
    assert nll.item() == pytest.approx(math.log(total) - 2, rel=1e-6)


def test_half_precision_logits_are_read_in_float32():
    logits = torch.randn(2, 3, 5, generator=seeded()).bfloat16()
    denoiser = FunctionDenoiser(lambda x: logits, mask_id=5)
    x0 = torch.tensor([[0, 1, 2], [3, 4, 0]])
    nll = losses.token_nll(denoiser, torch.full_like(x0, 5), x0)
    assert nll.dtype == torch.float32
    wanted = -logits.double().log_softmax(-1).gather(2, x0[..., None])[..., 0]
    assert torch.allclose(nll.double(), wanted, atol=1e-6)


def test_only_masked_positions_count():
    # an unmasked position may be impossible (infinite) without spoiling the sum
    logits = torch.full((1, 2, 2), -math.inf)
    logits[0, 0, 0] = 0.0
    logits[0, 1] = 0.0
    denoiser = FunctionDenoiser(lambda x: logits, mask_id=2)
    nll = losses.masked_nll(denoiser, torch.tensor([[1, 2]]), torch.tensor([[1, 0]]))
    assert nll.item() == pytest.approx(math.log(2))


# ------------------------------------------------------------ unbiased estimators

ESTIMATORS = {
    f"{name}-{times}": (lambda d, x, g, loss=loss, times=times: loss(d, x, times, g))
    for times in masking.METHODS
    for name, loss in {
        "nelbo-linear": lambda d, x, m, g: losses.nelbo(d, x, times=m, generator=g),
        "nelbo-cosine": lambda d, x, m, g: losses.nelbo(
            d, x, Cosine(), times=m, generator=g
        ),
        "nelbo-mdlm": lambda d, x, m, g: losses.nelbo(
            d, x, CosineMDLM(), times=m, generator=g
        ),
        "llada": lambda d, x, m, g: losses.llada_loss(d, x, times=m, generator=g),
        "exact-count": lambda d, x, m, g: losses.exact_count_loss(
            d, x, times=m, generator=g
        ),
    }.items()
}
ESTIMATORS["any-order"] = lambda d, x, g: losses.any_order_loss(d, x, generator=g)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_random_losses_are_unbiased_for_the_average_over_orders(name):
    # independent batches of 8 rows: within one, stratified rows are dependent
    wanted = order_average(DENOISER, X)
    g, batch = seeded(len(name)), X.repeat(4, 1)
    draws = torch.stack(
        [
            ESTIMATORS[name](DENOISER, batch, g).reshape(4, 2).mean(0)
            for _ in range(2000)
        ]
    )
    assert_mean(draws, wanted)


@pytest.mark.parametrize("loss", [losses.nelbo, losses.exact_count_loss])
def test_a_prompt_gives_the_conditional_nelbo(loss):
    maskable = torch.tensor([False, True, True])

    def conditional(row):  # average over the two orders of positions 1, 2
        total = 0.0
        for order in ((0, 1, 2), (0, 2, 1)):
            total += chain_rule(DENOISER, row, order) / 2
        first = DENOISER(torch.full((1, 3), VOCAB))[0, 0].log_softmax(-1)[row[0]]
        return total + first.item()

    wanted = torch.tensor([conditional(row) for row in X], dtype=torch.float64)
    g = seeded(3)
    draws = torch.stack(
        [loss(DENOISER, X, maskable=maskable, generator=g) for _ in range(4000)]
    )
    assert_mean(draws, wanted)


# ------------------------------------------------------------------------- T-step bound


def trajectory_bound(denoiser, x, steps, schedule) -> float:
    """E_q[log q(x_1..T | x_0) - log p(x_0..T)] over all trajectories of masked sets.

    The definition of the evidence bound for the T-step sampler, which starts fully
    masked, term by term: no formula of the T-step loss is used.
    """
    length = len(x)
    alpha = [schedule.alpha(i / steps).item() for i in range(steps + 1)]
    total = 0.0
    # a token's trajectory is the first time index at which it is masked: 1 ... T
    for first in itertools.product(range(1, steps + 1), repeat=length):
        log_q = sum(math.log(alpha[k - 1] - alpha[k]) for k in first)
        log_p = 0.0
        for i in range(steps, 0, -1):  # from time i to time i - 1
            reveal = (alpha[i - 1] - alpha[i]) / (1 - alpha[i])
            hidden = [j for j in range(length) if first[j] <= i]
            state = x.clone()
            state[hidden] = denoiser.mask_id
            log_mu = denoiser(state[None])[0].log_softmax(-1)
            for j in hidden:
                if first[j] == i:
                    log_p += math.log(reveal) + log_mu[j, x[j]].item()
                else:
                    log_p += math.log(1 - reveal)
        total += math.exp(log_q) * (log_q - log_p)
    return total


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(3)], ids=repr)
def test_t_step_bound_is_the_evidence_bound_of_trajectories(steps, schedule):
    wanted = [trajectory_bound(DENOISER, x, steps, schedule) for x in X]
    got = losses.exact_t_step(DENOISER, X, steps, schedule)
    assert got.tolist() == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("times", masking.METHODS)
@pytest.mark.parametrize("steps", [1, 3])
def test_t_step_draw_is_unbiased(times, steps):
    wanted = losses.exact_t_step(DENOISER, X, steps, Cosine())
    g = seeded(5)
    draws = torch.stack(
        [
            losses.nelbo_t_step(DENOISER, X, steps, Cosine(), times=times, generator=g)
            for _ in range(4000)
        ]
    )
    if steps == 1:  # everything is masked: no randomness is left
        assert torch.allclose(draws.double(), wanted.expand_as(draws), atol=1e-10)
    else:
        assert_mean(draws, wanted)


def test_t_step_tends_to_the_continuous_bound():
    limit = losses.exact_nelbo(DENOISER, X)
    gaps = [
        (losses.exact_t_step(DENOISER, X, steps, Cosine()) - limit).abs().max().item()
        for steps in (64, 256, 1024)
    ]
    # the gap is O(1/T): a factor 4 each time
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.1)


# ------------------------------------------------------------------------ exact nelbo


@pytest.mark.parametrize("schedule", [LogLinear(), LogLinear(0.05), Geometric()])
def test_truncation_leaves_out_the_mask_rates_beyond_the_ends(schedule):
    # each mask size loses the integral of u^(m-1) (1-u)^(L-m) over the missing mask
    # rates u, which scipy knows as the incomplete beta function
    low, high = schedule.masked(0.0).item(), schedule.masked(1.0).item()
    missing = torch.zeros(len(X), dtype=torch.float64)
    for mask in masking.all_masks(LENGTH)[1:]:
        m = int(mask.sum())
        log_p = DENOISER(X.masked_fill(mask, VOCAB)).log_softmax(-1)
        nll = -log_p.gather(2, X[..., None])[..., 0]
        beta = stats.beta(m, LENGTH - m + 1)
        share = beta.cdf(low) + beta.sf(high)
        missing += share / (m * math.comb(LENGTH, m)) * (nll * mask).sum(-1)
    got = losses.exact_nelbo(DENOISER, X, schedule)
    assert torch.allclose(got, losses.exact_nelbo(DENOISER, X) - missing, atol=1e-10)
    assert bool((missing > 0).all())


def test_a_schedule_of_two_formulas_needs_nothing_else():
    class Quadratic(Schedule):
        def alpha(self, t):
            return (1 - t) ** 2

        def dalpha(self, t):
            return -2 * (1 - t)

    value = losses.exact_nelbo(DENOISER, X, Quadratic())
    assert torch.allclose(value, losses.exact_nelbo(DENOISER, X), atol=1e-10)
    assert bool(torch.isfinite(losses.nelbo(DENOISER, X, Quadratic())).all())


def test_many_rows_in_chunks(monkeypatch):
    x = all_sequences(VOCAB, LENGTH)
    whole = losses.exact_nelbo(DENOISER, x)
    monkeypatch.setattr(losses, "CHUNK", 2 * len(x))
    assert torch.allclose(losses.exact_nelbo(DENOISER, x), whole, atol=1e-12)


# ---------------------------------------------------------------- orders and their sums


def test_ar_loss_is_the_likelihood_of_a_causal_denoiser():
    denoiser = causal(VOCAB, 3)
    x = all_sequences(VOCAB, 3)
    loss = losses.ar_loss(denoiser, x)
    wanted = [chain_rule(denoiser, row, range(3)) for row in x]
    assert loss.tolist() == pytest.approx(wanted, abs=1e-10)
    assert (-loss).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_log_sum_by_hand():
    log_p = torch.tensor([[0.5, 0.2], [0.25, 0.1]], dtype=torch.float64).log()
    prior = torch.tensor([0.75, 0.25], dtype=torch.float64)
    out = losses.log_sum_loss(log_p, prior.log())
    mass = [0.75 * 0.5 + 0.25 * 0.25, 0.75 * 0.2 + 0.25 * 0.1]
    assert out.loss.tolist() == pytest.approx([-math.log(m) for m in mass])
    assert out.log_responsibilities.exp()[0].tolist() == pytest.approx(
        [0.375 / mass[0], 0.15 / mass[1]]
    )
    # one order: its own NLL
    assert torch.allclose(losses.log_sum_loss(log_p[:1]).loss, -log_p[0])


def test_log_sum_over_all_orders_is_a_normalized_mixture():
    x = all_sequences(VOCAB, LENGTH)
    every = orders.all_orders(LENGTH)
    log_p = torch.stack([orders.log_prob(DENOISER, x, o) for o in every])
    out = losses.log_sum_loss(log_p)
    assert (-out.loss).exp().sum().item() == pytest.approx(1, abs=1e-10)
    shares = out.log_responsibilities.exp()
    assert torch.allclose(shares.sum(0), torch.ones(len(x)).double(), atol=1e-12)
    best = -log_p.max(0).values
    assert bool((out.loss >= best - 1e-12).all())
    assert bool((out.loss <= best + math.log(len(every)) + 1e-12).all())
    # the average over orders (the NELBO) is looser than the sum inside the logarithm
    assert bool((out.loss <= -log_p.mean(0) + 1e-12).all())


def test_gradient_of_log_sum_weighs_orders_by_responsibility():
    log_p = torch.randn(4, 3, dtype=torch.float64, generator=seeded()).requires_grad_()
    out = losses.log_sum_loss(log_p)
    out.loss.sum().backward()
    assert torch.allclose(log_p.grad, -out.log_responsibilities.exp(), atol=1e-12)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_no_order_is_responsible_for_what_none_can_produce(power):
    """Beside it, everything is as if it were not there."""
    possible = torch.tensor([[-1.0], [-2.0], [-math.inf]])
    log_p = torch.cat([torch.full((3, 1), -math.inf), possible], 1).requires_grad_()
    out = losses.log_sum_loss(log_p, power=power)
    alone = losses.log_sum_loss(possible, power=power)
    assert out.loss.tolist() == [math.inf, alone.loss.item()]
    shares = out.log_responsibilities.exp()
    assert torch.equal(shares[:, 0], torch.zeros(3))
    assert torch.equal(shares[:, 1:], alone.log_responsibilities.exp())
    out.loss[1].backward()
    assert torch.allclose(log_p.grad, -shares)


def test_log_sum_of_very_unlikely_sequences():
    log_p = torch.tensor([[-30_000.0], [-30_001.0]]).half().float()
    loss = losses.log_sum_loss(log_p).loss.item()
    assert math.isfinite(loss) and loss == pytest.approx(
        -log_p.max().item() + math.log(2), rel=1e-4
    )
    assert losses.log_sum_loss(log_p.bfloat16()).loss.dtype == torch.float32


def drawn(seed: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of four sequences in k orders and a prior over these, far from uniform."""
    g = seeded(seed)
    log_p = -20 * torch.rand(k, 4, generator=g, dtype=torch.float64)
    return log_p, (2 * torch.randn(k, generator=g, dtype=torch.float64)).softmax(0)


cases = given(st.integers(0, 2**32), st.integers(1, 6))


@cases
def test_average_exceeds_log_sum_by_the_divergence_of_prior_and_posterior(seed, k):
    """KL(p || r), with r by Bayes' rule from plain probabilities."""
    log_p, prior = drawn(seed, k)
    joint = prior[:, None] * log_p.exp()
    posterior = joint / joint.sum(0)
    divergence = (prior[:, None] * (prior[:, None] / posterior).log()).sum(0)
    out = losses.log_sum_loss(log_p, prior.log())
    gap = losses.average_loss(log_p, prior.log()) - out.loss
    assert torch.allclose(gap, divergence, rtol=0, atol=1e-10)
    assert torch.allclose(out.log_responsibilities.exp(), posterior, atol=1e-12)


@cases
def test_log_sum_lies_between_the_best_order_and_the_price_of_its_name(seed, k):
    log_p, _ = drawn(seed, k)
    best, loss = -log_p.amax(0), losses.log_sum_loss(log_p).loss
    assert bool((best - 1e-12 <= loss).all())
    assert bool((loss <= best + math.log(k) + 1e-12).all())
    # equal orders cost nothing, orders without a chance cost all of log k
    assert torch.allclose(losses.log_sum_loss(log_p[:1].expand(k, -1)).loss, -log_p[0])
    alone = torch.full_like(log_p, -math.inf)
    alone[0] = log_p[0]
    assert torch.allclose(losses.log_sum_loss(alone).loss, -log_p[0] + math.log(k))
    assert bool(losses.average_loss(alone).isinf().all()) == (k > 1)


@cases
def test_tempered_loss_falls_from_the_average_to_the_mixture(seed, k):
    log_p, prior = drawn(seed, k)
    values = torch.stack(
        [
            losses.log_sum_loss(log_p, prior.log(), power).loss
            for power in (1e-6, 0.05, 0.2, 0.5, 0.9, 1.0)
        ]
    )
    assert bool((values.diff(dim=0) <= 1e-8).all())
    average = -(prior[:, None] * log_p).sum(0)
    # by the next term of the series in the power, its half times a variance <= 100
    assert bool(((average - values[0]) <= 1e-6 * 50 + 1e-8).all())
    assert torch.allclose(values[-1], -(prior @ log_p.exp()).log(), atol=1e-10)


@pytest.mark.parametrize("power", [1.0, 0.3])
def test_gradient_on_a_network_is_that_of_the_orders_by_responsibility(power):
    """And the responsibilities are those of the tempered probabilities."""
    model = any_order(vocab_size=3, length=4)
    x, some = all_sequences(3, 4)[[5, 40, 77]], orders.all_orders(4)[[0, 9, 23]]
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    log_p = orders.log_probs(model, x, some)
    weights = list(model.parameters())
    loss = losses.log_sum_loss(log_p, prior.log(), power).loss.sum()
    got = torch.autograd.grad(loss, weights)

    joint = prior[:, None] * log_p.detach().exp() ** power
    shares = joint / joint.sum(0)
    assert shares.std() > 0.05
    wanted = [torch.zeros_like(p) for p in weights]
    for k, order in enumerate(some):
        for b in range(3):
            nll = -orders.log_prob(model, x[b : b + 1], order).sum()
            for total, grad in zip(
                wanted, torch.autograd.grad(nll, weights), strict=True
            ):
                total += shares[k, b] * grad
    for one, two in zip(got, wanted, strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-11)
    assert max(g.abs().max() for g in got) > 0.1


@pytest.mark.parametrize("power", [1.0, 0.4])
def test_a_learned_prior_moves_towards_the_mean_responsibilities(power):
    log_p, prior = drawn(1, 5)
    logits = prior.log().requires_grad_()
    loss = losses.log_sum_loss(log_p, logits.log_softmax(0), power).loss.mean()
    (got,) = torch.autograd.grad(loss, logits)
    joint = prior[:, None] * log_p.exp() ** power
    shares = (joint / joint.sum(0)).mean(1)
    assert torch.allclose(got, -(shares - prior) / power, rtol=0, atol=1e-12)
    # ... and the average loss drags it to the easiest order: -p_o (log p_o - mean)
    loss = losses.average_loss(log_p, logits.log_softmax(0)).mean()
    (got,) = torch.autograd.grad(loss, logits)
    each = log_p.mean(1)
    assert torch.allclose(got, -prior * (each - prior @ each), rtol=0, atol=1e-12)


def test_half_precision_is_summed_in_float32():
    log_p = -300 * torch.rand(4, 3, generator=seeded()).bfloat16()
    wanted = -log_p.double().mean(0)
    got = losses.average_loss(log_p)
    assert got.dtype == torch.float32 and torch.allclose(got.double(), wanted)


# ------------------------------------------------------------------ networks and orders


@torch.no_grad()
def test_nelbo_of_a_network_is_its_mean_over_all_orders():
    model, x = small(vocab_size=3, length=5), all_sequences(3, 5)[::40]
    each = orders.log_probs(model, x, orders.all_orders(5))
    assert each.std(0).min() > 1e-3
    got = losses.exact_nelbo(model, x)
    assert torch.allclose(got, -each.mean(0), rtol=0, atol=1e-10)


@torch.no_grad()
def test_any_order_loss_and_nelbo_of_an_any_order_network():
    """The loss shows the order in which tokens came, the NELBO shows them sorted."""
    model, x = any_order(vocab_size=3, length=4), all_sequences(3, 4)[[3, 64]]
    every = orders.all_orders(4)
    mean = -orders.log_probs(model, x, every).mean(0)
    g, batch = seeded(2), x.repeat(4000, 1)
    draws = losses.any_order_loss(model, batch, generator=g).view(-1, 2)
    assert_mean(draws, mean)

    total = torch.zeros(2, dtype=torch.float64)
    for order in every.tolist():
        for n in range(4):
            ascending = torch.tensor([*sorted(order[:n]), *order[n:]])
            log_p = model.in_order(x, ascending)[:, n].log_softmax(-1)
            total -= log_p[range(2), x[:, order[n]]] / len(every)
    nelbo = losses.exact_nelbo(model, x)
    assert torch.allclose(nelbo, total, rtol=0, atol=1e-10)
    assert (nelbo - mean).abs().min() > 1e-3


# --------------------------------------------------------------- likelihood estimators


def test_nelbo_estimate_is_unbiased_and_knows_its_error():
    wanted = order_average(DENOISER, X)
    g = seeded(6)
    runs = [losses.nelbo_estimate(DENOISER, X, 6, generator=g) for _ in range(1500)]
    value = torch.stack([r.value for r in runs])
    assert_mean(value, wanted)
    # the squared standard errors average to the variance of the value
    squares = torch.stack([r.standard_error for r in runs]) ** 2
    assert_mean(squares - (value - wanted) ** 2, torch.zeros(len(X)).double())
    assert runs[0].draws == 6 and "upper bound" in runs[0].bias


def test_an_exact_count_of_a_uniform_denoiser_is_the_nll_to_the_last_digits():
    """n / m masked tokens times m log V: whatever is drawn."""
    uniform = FunctionDenoiser(lambda x: torch.zeros(*x.shape, 3).double(), 3)
    x0 = torch.zeros(200, 7).long()
    found = losses.exact_count_loss(uniform, x0, generator=seeded())
    wanted = torch.full((200,), 7 * math.log(3), dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=0)


def test_nelbo_estimate_with_a_prompt_and_full_mask():
    maskable = torch.tensor([[False, False, True], [False, True, False]])
    got = losses.nelbo_estimate(DENOISER, X, 2, maskable=maskable, generator=seeded())
    for b, hidden in enumerate(([2], [1])):
        state = X[b].clone()
        state[hidden] = VOCAB
        log_p = DENOISER(state[None])[0, hidden[0]].log_softmax(-1)[X[b, hidden[0]]]
        assert got.value[b].item() == pytest.approx(-log_p.item(), abs=1e-10)
        assert got.standard_error[b] == 0


@pytest.mark.parametrize("draws", [1, 2])
def test_log_mean_exp_orders_has_the_enumerated_expectation(draws):
    every = list(itertools.permutations(range(LENGTH)))
    p = torch.tensor(
        [[math.exp(-chain_rule(DENOISER, x, o)) for x in X] for o in every]
    ).double()
    picks = itertools.product(range(len(every)), repeat=draws)
    wanted = torch.stack([-p[list(k)].mean(0).log() for k in picks]).mean(0)
    g = seeded(7)
    batch = X.repeat(3000, 1)  # every row draws its own orders
    got = losses.log_mean_exp_orders(DENOISER, batch, draws, generator=g)
    assert_mean(got.value.reshape(-1, 2), wanted)
    # between the NLL of the mixture over all orders and the NELBO
    nll = -p.mean(0).log()
    assert bool((nll <= wanted).all())
    assert bool(got.standard_error.isnan().all()) == (draws == 1)
    assert bool((wanted <= order_average(DENOISER, X) + 1e-12).all())


def test_bounds_fall_with_more_orders():
    g, batch = seeded(8), X.repeat(2000, 1)
    means = [
        losses.log_mean_exp_orders(DENOISER, batch, k, generator=g).value.mean().item()
        for k in (1, 4, 16)
    ]
    assert means[0] > means[1] > means[2]


# ---------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "loss",
    [
        losses.nelbo,
        losses.llada_loss,
        losses.exact_count_loss,
        losses.any_order_loss,
        lambda d, x, generator: losses.nelbo_t_step(d, x, 4, generator=generator),
    ],
)
def test_losses_have_finite_gradients_that_a_step_follows(loss):
    weights = torch.zeros(LENGTH, VOCAB, requires_grad=True)
    denoiser = FunctionDenoiser(lambda x: weights.expand(len(x), -1, -1), VOCAB)
    x = X.repeat(50, 1)
    before = loss(denoiser, x, generator=seeded(9)).mean()
    before.backward()
    assert bool(torch.isfinite(weights.grad).all()) and weights.grad.abs().sum() > 0
    with torch.no_grad():
        weights -= 0.1 * weights.grad
    after = loss(denoiser, x, generator=seeded(9)).mean()
    assert after < before


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda: losses.nelbo(DENOISER, X[0]), ValueError, "x0"),
        (lambda: losses.nelbo(DENOISER, X, times="often"), ValueError, "method"),
        (lambda: losses.nelbo_t_step(DENOISER, X, 0), ValueError, "steps"),
        (lambda: losses.exact_t_step(DENOISER, X, 1.5), TypeError, "steps"),
        (lambda: losses.nelbo_estimate(DENOISER, X, 5), ValueError, "draws"),
        (lambda: losses.log_mean_exp_orders(DENOISER, X, 0), ValueError, "draws"),
        (lambda: losses.log_sum_loss(torch.zeros(3)), ValueError, "log_p"),
        (
            lambda: losses.log_sum_loss(torch.zeros(3, 2), torch.zeros(2)),
            ValueError,
            "log_prior",
        ),
        (lambda: losses.average_loss(torch.zeros(3)), ValueError, "log_p"),
        (
            lambda: losses.average_loss(torch.zeros(3, 2), torch.zeros(1)),
            ValueError,
            "log_prior",
        ),
        (
            lambda: losses.log_sum_loss(torch.zeros(3, 2), power=0.0),
            ValueError,
            "power",
        ),
        (
            lambda: losses.log_sum_loss(torch.zeros(3, 2), power=1.5),
            ValueError,
            "power",
        ),
        (
            lambda: losses.exact_nelbo(DENOISER, torch.zeros(1, 30, dtype=torch.long)),
            ValueError,
            "x0",
        ),
        (lambda: losses.ar_loss(DENOISER, X.float()), TypeError, "x0"),
    ],
)
def test_bad_arguments_are_named(call, error, argument):
    with pytest.raises(error, match=argument):
        call()


def test_an_order_that_is_never_used_may_be_impossible():
    log_p = torch.tensor([[-1.0, -2.0], [-math.inf, -3.0]])
    log_prior = torch.tensor([0.0, -math.inf])
    average = losses.average_loss(log_p, log_prior)
    assert torch.equal(average, torch.tensor([1.0, 2.0]))


def test_a_row_with_nothing_to_mask_costs_nothing():
    maskable = torch.tensor([[False] * 3, [True] * 3])
    for seed in range(5):
        loss = losses.exact_count_loss(
            DENOISER, X, maskable=maskable, generator=seeded(seed)
        )
        assert loss[0] == 0 and loss[1] > 0
    found = losses.nelbo_estimate(DENOISER, X, 512, maskable=maskable)
    assert found.value[0] == 0 and found.standard_error[0] == 0
    wanted = losses.exact_nelbo(DENOISER, X)[1]
    assert (found.value[1] - wanted).abs() < 5 * found.standard_error[1]


def fixed(mask_id: int = VOCAB) -> FunctionDenoiser:
    """Predictions that do not depend on what is seen: every bound is the NLL."""
    logits = torch.randn(LENGTH, VOCAB, generator=seeded(11), dtype=torch.float64)
    return FunctionDenoiser(lambda x: logits.expand(len(x), -1, -1), mask_id)


@pytest.mark.parametrize("schedule", [Polynomial(0.04), Polynomial(200.0)])
def test_steep_schedules_are_integrated_and_summed(schedule):
    wanted = losses.ar_loss(fixed(), X)  # each token is revealed once
    assert torch.allclose(losses.exact_nelbo(fixed(), X, schedule), wanted, atol=1e-9)
    value = losses.exact_t_step(fixed(), X, 64, schedule)
    assert torch.allclose(value, wanted, atol=1e-9)
    for seed in range(20):
        loss = losses.nelbo_t_step(fixed(), X, 64, schedule, generator=seeded(seed))
        assert bool(loss.isfinite().all())


def test_a_schedule_that_cannot_be_integrated_is_refused():
    class Kink(Schedule):
        def alpha(self, t):
            return torch.where(t < 0.3, 1 - 2 * t, 4 * (1 - t) / 7)

        def dalpha(self, t):
            return torch.where(t < 0.3, -2.0, -4 / 7).to(t)

    for schedule in (Polynomial(0.01), Kink()):
        with pytest.raises(ValueError, match="schedule must be smooth"):
            losses.exact_nelbo(DENOISER, X, schedule)


def test_a_time_that_masks_nothing_costs_nothing(monkeypatch):
    class Square(Schedule):
        def alpha(self, t):
            return 1 - t**2  # rounds to 1 below 1e-8

        def dalpha(self, t):
            return -2 * t

    early = torch.tensor([1e-9, 1e-9], dtype=torch.float64)
    monkeypatch.setattr(masking, "draw_times", lambda *_, **__: early)
    assert losses.nelbo(DENOISER, X, Square()).tolist() == [0, 0]


def test_empty_batches():
    none = X[:0]
    for value in (
        losses.exact_nelbo(DENOISER, none),
        losses.exact_t_step(DENOISER, none, 3),
        losses.any_order_loss(DENOISER, none),
        losses.ar_loss(DENOISER, none),
    ):
        assert value.shape == (0,)
    for call in (
        losses.nelbo,
        losses.llada_loss,
        losses.exact_count_loss,
        losses.nelbo_estimate,
        lambda d, x: losses.nelbo_t_step(d, x, 3),
    ):
        with pytest.raises(ValueError, match="x0 must hold a sequence"):
            call(DENOISER, none)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
)
def test_every_type_of_token_gives_the_same_loss(dtype):
    x = X.to(dtype)
    for loss in (
        losses.nelbo,
        losses.exact_count_loss,
        losses.any_order_loss,
        lambda d, x, generator: losses.exact_nelbo(d, x),
        lambda d, x, generator: losses.ar_loss(fixed(), x),
    ):
        got = loss(DENOISER, x, generator=seeded(3))
        assert torch.equal(got, loss(DENOISER, X, generator=seeded(3)))


@pytest.mark.parametrize("token", [-100, -1, VOCAB + 1])
def test_tokens_outside_the_vocabulary_are_refused(token):
    x = torch.tensor([[0, token, 2]])
    for loss in (losses.exact_nelbo, losses.ar_loss):
        with pytest.raises(ValueError, match="x0 must hold tokens between 0 and 2"):
            loss(fixed(), x)


@pytest.mark.parametrize(
    ("maskable", "error"),
    [
        (torch.ones(2).bool(), ValueError),
        (torch.ones(4, 3).bool(), ValueError),
        (torch.ones(3), ValueError),
        ([True, True, False], TypeError),
    ],
)
def test_a_maskable_that_does_not_fit_is_named(maskable, error):
    for loss in (losses.nelbo, losses.exact_count_loss, losses.nelbo_estimate):
        with pytest.raises(error, match="maskable"):
            loss(DENOISER, X, maskable=maskable)


@pytest.mark.parametrize("loss", [losses.log_sum_loss, losses.average_loss])
def test_log_probabilities_are_floats_and_the_prior_is_a_distribution(loss):
    with pytest.raises(TypeError, match="log_p "):
        loss(torch.tensor([[-3], [-4]]))
    with pytest.raises(TypeError, match="log_prior"):
        loss(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="log_p "):
        loss(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="log_prior"):
        loss(torch.zeros(2, 2), torch.zeros(2))  # sums to 2
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        logits = torch.randn(500, generator=seeded(1)).to(dtype).requires_grad_()
        loss(torch.zeros(500, 2), logits.log_softmax(0))
