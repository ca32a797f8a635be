"""Upper bounds on the log-likelihood against enumeration of all orders.

Expectations over draws are sums over all tuples of orders wherever that is possible.
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

from dllm_tutorial import joints, losses, orders, upper_bound
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.networks import Transformer, TransformerConfig
from helpers import RandomTableDenoiser, all_sequences, chi_square_p

LEVEL = 1e-4
EXACT = {"atol": 1e-10, "rtol": 0}
SIZES = [(2, 4), (3, 4), (2, 6)]  # tokens, length
log_probs = st.lists(st.floats(-30, 0, allow_nan=False), min_size=1, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)[:, None]
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain_rule(denoiser, x, order) -> float:
    """log p^(order)(x) of one sequence, token by token, with nothing shared."""
    state, total = torch.full_like(x, denoiser.mask_id), 0.0
    for position in order:
        log_p = denoiser(state[None])[0, position].log_softmax(-1)
        total += log_p[x[position]].item()
        state[position] = x[position]
    return total


def by_order(denoiser, x) -> torch.Tensor:
    """log p^(o)(x) for all orders, Float64[O, B]."""
    every = itertools.permutations(range(x.shape[1]))
    return torch.tensor(
        [[chain_rule(denoiser, row, order) for row in x] for order in every],
        dtype=torch.float64,
    )


def mild(vocab: int, length: int, seed: int, scale: float = 0.3):
    """Inconsistent conditionals of which no few orders carry everything."""
    denoiser = RandomTableDenoiser(vocab, length, seed)
    denoiser.logits *= scale
    return denoiser


def any_order_network(vocab: int, length: int, seed: int = 0) -> Transformer:
    config = TransformerConfig(
        vocab_size=vocab,
        length=length,
        d_model=16,
        n_layers=1,
        n_heads=2,
        attention="any-order",
        positions="learned",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Transformer(config).double().eval()
    with torch.no_grad():
        network.head.weight.mul_(60)  # far from uniform, so that orders disagree
    return network


def tuples(log_p: torch.Tensor, draws: int) -> torch.Tensor:
    """All ordered choices of ``draws`` of the O values, Float64[draws, O**draws]."""
    index = list(itertools.product(range(len(log_p)), repeat=draws))
    return log_p[torch.tensor(index).T]


def excess(ratio: torch.Tensor) -> torch.Tensor:
    """g(a) = a - 1 - log a."""
    return ratio - 1 - ratio.log()


def assert_mean(draws: torch.Tensor, wanted: torch.Tensor) -> None:
    """Columns of draws [n, B] have the wanted means, by z tests."""
    z = (draws.mean(0) - wanted) / (draws.std(0) / math.sqrt(len(draws)))
    assert bool((z.abs() < stats.norm.isf(LEVEL / 2 / len(wanted))).all()), z


# -------------------------------------------------------------------- exact values


@pytest.mark.parametrize(("vocab", "length"), SIZES)
def test_recursion_over_sets_is_the_sum_over_orders(vocab, length):
    denoiser = RandomTableDenoiser(vocab, length, seed=length)
    x = all_sequences(vocab, length)[[1, -2]]
    p = by_order(denoiser, x).exp()
    mean = p.mean(0)
    bounds = upper_bound.exact_bounds(denoiser, x)
    assert torch.allclose(bounds.nll, -mean.log(), **EXACT)
    assert torch.allclose(bounds.nelbo, -p.log().mean(0), **EXACT)
    posterior = p / p.sum(0)
    assert torch.allclose(bounds.posterior, -(posterior * p.log()).sum(0), **EXACT)
    assert torch.allclose(bounds.chi_square, -p.square().mean(0).log() / 2, **EXACT)
    # the same from a given set of orders
    given_orders = upper_bound.order_bounds(p.log())
    for name, value in vars(bounds).items():
        assert torch.allclose(getattr(given_orders, name), value, **EXACT), name
    # distances from the truth are the divergences between the two laws of the order
    uniform = 1 / len(p)
    forward = (uniform * (uniform / posterior).log()).sum(0)
    backward = (posterior * (posterior / uniform).log()).sum(0)
    assert torch.allclose(bounds.nelbo - bounds.nll, forward, **EXACT)
    assert torch.allclose(bounds.nll - bounds.posterior, backward, **EXACT)


@pytest.mark.parametrize(("vocab", "length"), SIZES)
def test_the_mixture_over_orders_is_a_distribution(vocab, length):
    denoiser = RandomTableDenoiser(vocab, length, seed=1)
    x = all_sequences(vocab, length)
    bounds = upper_bound.exact_bounds(denoiser, x)
    assert (-bounds.nll).exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(bounds.nelbo, losses.exact_nelbo(denoiser, x), **EXACT)
    assert bool((bounds.posterior < bounds.nll).all())
    assert bool((bounds.nll < bounds.nelbo).all())


def test_a_long_sequence():
    joint = joints.MarkovChain(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), 12)
    x = joint.sample(2, seeded())
    bounds = upper_bound.exact_bounds(joint, x)
    for value in vars(bounds).values():
        assert torch.allclose(value, -joint.log_prob(x), **EXACT)


def test_chunks_do_not_show(monkeypatch):
    denoiser, x = RandomTableDenoiser(3, 4, seed=2), all_sequences(3, 4)[:5]
    network = any_order_network(3, 4)
    wanted = [upper_bound.exact_bounds(model, x) for model in (denoiser, network)]
    monkeypatch.setattr(upper_bound, "CHUNK", 7)
    for model, bounds in zip((denoiser, network), wanted, strict=True):
        for name, value in vars(upper_bound.exact_bounds(model, x)).items():
            assert torch.allclose(value, getattr(bounds, name), **EXACT), name


def test_an_any_order_network_is_enumerated():
    network, x = any_order_network(2, 4), all_sequences(2, 4)
    bounds = upper_bound.exact_bounds(network, x)
    each = [orders.log_prob(network, x, order) for order in orders.all_orders(4)]
    p = torch.stack(each).exp()
    assert torch.allclose(bounds.nll, -p.mean(0).log(), **EXACT)
    assert (-bounds.nll).exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert bool((bounds.nelbo - bounds.nll > 1e-3).any())  # orders do disagree


@given(log_probs)
def test_the_bounds_stand_in_order(log_p):
    bounds = upper_bound.order_bounds(log_p)
    for below in (bounds.posterior, bounds.chi_square):
        assert below.item() <= bounds.nll.item() + 1e-10
    assert bounds.nll.item() <= bounds.nelbo.item() + 1e-10


JOINTS = {
    "cities": joints.cities,
    "shuffle": lambda: joints.shuffle(4),
    "replace random": lambda: joints.replace_random(4),
}


@pytest.mark.parametrize("make", JOINTS.values(), ids=JOINTS)
@pytest.mark.parametrize("block_length", [None, 1, 2, 3])
def test_everything_is_tight_under_the_truth(make, block_length):
    # consistent conditionals: one value, no noise, whatever is drawn
    joint = make()
    x = joint.table().support
    nll = -joint.log_prob(x)
    lower, upper = upper_bound.bracket(
        joint, x, 3, block_length=block_length, generator=seeded()
    )
    order = upper_bound.posterior_orders(joint, x, generator=seeded())[0]
    last = upper_bound.posterior_estimate(joint, x, order, 4, generator=seeded())
    for estimate in (lower, upper, last):
        assert torch.allclose(estimate.value, nll, **EXACT)
        assert torch.allclose(estimate.standard_error, torch.zeros(()).to(nll), **EXACT)
    for value in vars(upper_bound.exact_bounds(joint, x)).values():
        assert torch.allclose(value, nll, **EXACT)


def test_an_impossible_sequence_has_no_finite_bound_but_the_trivial_one():
    joint, x = joints.shuffle(3), torch.tensor([[0, 0, 1]])
    bounds = upper_bound.exact_bounds(joint, x)
    assert all(value.item() == math.inf for value in vars(bounds).values())
    lower, upper = upper_bound.bracket(joint, x, 4, generator=seeded())
    assert lower.value.item() == -math.inf and upper.value.item() == math.inf
    with pytest.raises(ValueError, match="positive probability"):
        upper_bound.posterior_orders(joint, x)


# ------------------------------------------------------------------- tangent bound


@given(log_probs, st.floats(-30, 5))
def test_tangent_is_a_bound_for_every_surrogate(log_p, log_surrogate):
    psi = torch.tensor([log_surrogate], dtype=torch.float64)
    nll = -log_p.exp().mean(0).log()
    value = upper_bound.tangent(log_p, psi).mean(0)
    gap = excess((-nll - psi).exp())
    slack = 1e-10 * max(1.0, gap.item())
    assert value.item() <= nll.item() + slack
    assert (nll - value).item() == pytest.approx(gap.item(), abs=slack)
    best = upper_bound.tangent(log_p, -nll).mean(0)
    assert best.item() == pytest.approx(nll.item(), abs=1e-10)


@given(st.lists(st.floats(-40, 0) | st.just(-math.inf), min_size=2, max_size=7))
def test_leave_one_out_is_the_mean_of_the_others(values):
    log_p = torch.tensor(values, dtype=torch.float64)
    got = upper_bound.leave_one_out(log_p).exp()
    p = log_p.exp().tolist()
    wanted = [math.fsum(p[:k] + p[k + 1 :]) / (len(p) - 1) for k in range(len(p))]
    assert got.tolist() == pytest.approx(wanted, rel=1e-10, abs=0)


@given(st.lists(st.floats(-40, 0), min_size=2, max_size=7))
def test_leave_one_out_lies_below_the_log_mean_of_the_same_draws(values):
    # Chebyshev's sum inequality: a large p stands beside a small mean of the others
    log_p = torch.tensor(values, dtype=torch.float64)
    below = upper_bound.tangent(log_p, upper_bound.leave_one_out(log_p)).mean()
    above = -(log_p.exp().mean().log())
    assert below.item() <= above.item() + 1e-9 * max(1, abs(below.item()))


def test_a_surrogate_of_zero_says_nothing():
    log_p = torch.tensor([[-1.0], [-math.inf]])
    value = upper_bound.tangent(log_p, torch.tensor([-math.inf]))
    assert value.tolist() == [[-math.inf], [-math.inf]]


@pytest.mark.parametrize("draws", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_leave_one_out_bound_in_expectation_exactly(draws, seed):
    # all 6**K tuples of orders, conditionals consistent with no joint
    denoiser = RandomTableDenoiser(2, 3, seed)
    for row in all_sequences(2, 3)[::3]:
        log_p = by_order(denoiser, row[None])[:, 0]
        nll = -log_p.exp().mean().log()
        drawn = tuples(log_p, draws)
        surrogate = upper_bound.leave_one_out(drawn)
        value = upper_bound.tangent(drawn, surrogate).mean()
        assert value < nll
        gap = excess((-nll - tuples(log_p, draws - 1).exp().mean(0).log()).exp()).mean()
        assert (nll - value).item() == pytest.approx(gap.item(), rel=1e-9)


def test_the_gap_falls_like_one_over_the_draws():
    # c**2 / 2 (K - 1) to first order; the terms are tested on 20,000 surrogates
    denoiser, x = mild(2, 5, seed=0), all_sequences(2, 5)[[3]]
    log_p = by_order(denoiser, x)[:, 0]
    nll = -log_p.exp().mean().log()
    variance = (log_p + nll).exp().var(correction=0).item()
    for draws in (64, 256):
        index = torch.randint(len(log_p), (draws, 20_000), generator=seeded(draws))
        surrogate = upper_bound.leave_one_out(log_p[index])[0]
        gap = excess((-nll - surrogate).exp())
        error = gap.std().item() / math.sqrt(len(gap))
        wanted = variance / 2 / (draws - 1)
        off = abs(gap.mean().item() - wanted)
        assert off < stats.norm.isf(LEVEL / 4) * error + 4 * wanted / draws


def test_the_gap_need_not_fall_with_every_draw():
    # one order in 720 is a hundred times as probable as the others
    p = torch.ones(720, dtype=torch.float64)
    p[0] = 100
    mean, rare = p.mean(), 1 / 720

    def gap(others):  # exact: how many of the others are the rare order
        number = torch.arange(others + 1, dtype=torch.float64)
        odds = stats.binom.pmf(number.numpy(), others, rare)
        ratio = mean / (1 + 99 * number / others)
        return (torch.from_numpy(odds) * excess(ratio)).sum().item()

    assert gap(1) < gap(2) < gap(8)
    assert gap(10**5) < gap(1)


@pytest.mark.parametrize("block_length", [None, 2])
def test_sampled_tangent_has_the_mean_of_its_surrogate(block_length):
    denoiser, x = mild(3, 3, seed=4), torch.tensor([[0, 1, 2], [2, 2, 0]])
    blocks = [(0, 1, 2)] if block_length is None else [(0, 1), (2,)]
    wanted, surrogate = torch.zeros(2, dtype=torch.float64), []
    for block in blocks:
        known = torch.arange(3) < block[0]
        p = []
        for order in itertools.permutations(block):
            terms = []
            for row in x:
                state, total = row.where(known, 3), 0.0
                for i in order:
                    log_p = denoiser(state[None])[0, i].log_softmax(-1)
                    total += log_p[row[i]].item()
                    state[i] = row[i]
                terms.append(total)
            p.append(terms)
        mean = torch.tensor(p, dtype=torch.float64).exp().mean(0)
        psi = mean * torch.tensor([0.8, 1.5], dtype=torch.float64)
        wanted += 1 - psi.log() - mean / psi
        surrogate.append(psi.log())
    psi = surrogate[0] if block_length is None else torch.stack(surrogate, 1)
    repeats = 3000
    estimate = upper_bound.tangent_estimate(
        denoiser,
        x.repeat(repeats, 1),
        2,
        log_surrogate=psi.repeat(repeats, *[1] * (psi.ndim - 1)),
        block_length=block_length,
        generator=seeded(7),
    )
    assert_mean(estimate.value.view(repeats, 2), wanted)
    # the standard error is that of the value, to a tenth
    spread = estimate.value.view(repeats, 2).var(0)
    claimed = estimate.standard_error.square().view(repeats, 2).mean(0)
    assert torch.allclose(claimed, spread, rtol=0.1)
    assert "lower bound on the NLL in expectation" in estimate.bias


def test_sampled_bracket_has_the_exact_expectations():
    draws, repeats = 3, 6000
    denoiser, x = mild(2, 3, seed=5), torch.tensor([[0, 1, 1], [1, 0, 0]])
    log_p = by_order(denoiser, x)
    nll = upper_bound.exact_bounds(denoiser, x).nll
    below, above = [], []
    for b in range(2):
        drawn = tuples(log_p[:, b], draws)
        surrogate = upper_bound.leave_one_out(drawn)
        below.append(upper_bound.tangent(drawn, surrogate).mean())
        above.append(-(drawn.exp().mean(0).log().mean()))
        assert below[b] < nll[b] < above[b]
    lower, upper = upper_bound.bracket(
        denoiser, x.repeat(repeats, 1), draws, generator=seeded(3)
    )
    assert_mean(lower.value.view(repeats, 2), torch.stack(below))
    assert_mean(upper.value.view(repeats, 2), torch.stack(above))
    assert lower.draws == upper.draws == draws


def test_the_upper_end_is_the_log_mean_over_orders():
    denoiser, x = RandomTableDenoiser(3, 4, seed=0), all_sequences(3, 4)[::9]
    lower, upper = upper_bound.bracket(denoiser, x, 8, generator=seeded(1))
    known = losses.log_mean_exp_orders(denoiser, x, 8, generator=seeded(1))
    assert torch.allclose(upper.value, known.value, **EXACT)
    assert torch.allclose(upper.standard_error, known.standard_error, **EXACT)
    alone = upper_bound.tangent_estimate(denoiser, x, 8, generator=seeded(1))
    assert torch.equal(alone.value, lower.value)
    whole = upper_bound.bracket(denoiser, x, 8, block_length=9, generator=seeded(1))
    assert torch.equal(whole[0].value, lower.value)


@pytest.mark.parametrize("block_length", [1, 2, 3])
def test_blocks_bound_the_block_model(block_length):
    # many draws: both ends come within five standard errors of the truth
    denoiser, x = mild(2, 5, seed=2), all_sequences(2, 5)[[0, 9, 22]]
    nll = torch.zeros(3, dtype=torch.float64)
    for start in range(0, 5, block_length):
        block = range(start, min(5, start + block_length))
        logs = []
        for inner in itertools.permutations(block):
            order = [*range(start), *inner, *range(block.stop, 5)]
            terms = orders.step_log_prob(denoiser, x, torch.tensor(order))
            logs.append(terms[:, block.start : block.stop].sum(1))
        nll -= torch.stack(logs).exp().mean(0).log()
    lower, upper = upper_bound.bracket(
        denoiser, x, 200, block_length=block_length, generator=seeded(8)
    )
    for estimate in (lower, upper):
        off = (estimate.value - nll).abs()
        assert bool((off <= 5 * estimate.standard_error + 0.01).all())
    if block_length == 1:  # a single order: left to right
        left = orders.log_prob(denoiser, x, orders.left_to_right(5))
        assert torch.allclose(lower.value, -left, **EXACT)


# --------------------------------------------------------------- what is no bound


def trap(length: int, error: float) -> FunctionDenoiser:
    """Says 0 everywhere, but with probability ``error`` where a token is skipped.

    So 0 0 ... 0 has probability 1 from left to right, and at most ``error`` in any
    other order.
    """

    def logits(x):
        known = x != 2
        count = known.sum(1, keepdim=True)
        straight = known.long().cumprod(1).sum(1, keepdim=True) == count
        skips = straight & (torch.arange(length) != count)
        p = torch.where(skips, error, 1.0).double()
        return torch.stack([p, 1 - p], -1).log()

    return FunctionDenoiser(logits, 2)


def test_a_single_tangent_value_is_no_bound_and_a_posterior_draw_is():
    denoiser, x = trap(6, 1e-8), torch.zeros(50, 6, dtype=torch.long)
    nll = upper_bound.exact_bounds(denoiser, x).nll
    assert nll[0].item() == pytest.approx(math.log(720), abs=1e-4)
    lower, upper = upper_bound.bracket(denoiser, x, 16, generator=seeded(0))
    # one order in 720 decides: most of the 50 values never see it
    assert (lower.value > nll + 1).double().mean() > 0.9
    assert (upper.value > nll).double().mean() > 0.9
    # ... and their mean is a bound because of the others
    drawn = tuples(torch.tensor([0.0] + [-9.2] * 5, dtype=torch.float64), 3)
    surrogate = upper_bound.leave_one_out(drawn)
    values = upper_bound.tangent(drawn, surrogate).mean(0)
    truth = -(drawn[0].exp().mean().log())
    assert (values > truth).double().mean() > 0.5 and values.mean() < truth
    order = upper_bound.posterior_orders(denoiser, x, generator=seeded(1))[0]
    sure = upper_bound.posterior_estimate(denoiser, x, order, 16, generator=seeded(2))
    assert bool((sure.value <= nll).all())


def test_the_chi_square_bound_sampled_is_on_the_wrong_side():
    log_p = by_order(RandomTableDenoiser(2, 3, 0), torch.tensor([[0, 1, 0]]))[:, 0]
    bounds = upper_bound.order_bounds(log_p[:, None])
    means = [
        -(2 * tuples(log_p, draws)).exp().mean(0).log().mean() / 2
        for draws in (1, 2, 3, 4)
    ]
    # with one draw it is the NELBO; it comes down to its own value only in the limit
    assert means[0].item() == pytest.approx(bounds.nelbo.item())
    assert means[0] > means[1] > means[2] > means[3] > bounds.chi_square
    assert means[1] > bounds.nll > bounds.chi_square


def test_orders_weighed_by_their_probability_are_no_posterior_draw():
    # pick one of two random orders in proportion to p: the mean of -log p stays above
    log_p = by_order(RandomTableDenoiser(2, 3, 0), torch.tensor([[0, 1, 0]]))[:, 0]
    drawn = tuples(log_p, 2)
    value = -(drawn.softmax(0) * drawn).sum(0).mean()
    assert value > upper_bound.order_bounds(log_p[:, None]).nll


# ----------------------------------------------------------------- posterior bound


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_posterior_bound_in_expectation_exactly(seed):
    # r for the first order, uniform for the others: all 6**K tuples
    log_p = by_order(RandomTableDenoiser(2, 3, seed), torch.tensor([[1, 0, 1]]))[:, 0]
    bounds = upper_bound.order_bounds(log_p[:, None])
    means = []
    for draws in (1, 2, 3, 4):
        drawn = tuples(log_p, draws)
        weight = drawn[0].exp() / drawn[0].exp().sum()
        mean = drawn.exp().mean(0)
        means.append(-(weight * mean.log()).sum())
        # what gives the confidence: Markov's inequality for this ratio
        ratio = (weight * (-bounds.nll).exp() / mean).sum()
        assert ratio.item() == pytest.approx(1, abs=1e-12)
    assert means[0].item() == pytest.approx(bounds.posterior.item())
    assert means[0] < means[1] < means[2] < means[3] < bounds.nll


@pytest.mark.parametrize("draws", [1, 3])
def test_sampled_posterior_bound_has_its_expectation(draws):
    repeats = 4000
    denoiser, x = RandomTableDenoiser(2, 3, 6), torch.tensor([[0, 1, 1], [1, 1, 0]])
    log_p, wanted = by_order(denoiser, x), []
    for b in range(2):
        drawn = tuples(log_p[:, b], draws)
        weight = drawn[0].exp() / drawn[0].exp().sum()
        wanted.append(-(weight * drawn.exp().mean(0).log()).sum())
    order = upper_bound.posterior_orders(denoiser, x, repeats, generator=seeded(0))
    estimate = upper_bound.posterior_estimate(
        denoiser, x.repeat(repeats, 1), order.flatten(0, 1), draws, generator=seeded(1)
    )
    assert_mean(estimate.value.view(repeats, 2), torch.stack(wanted))
    # with probability 1 - delta no more than log 1 / delta above the NLL
    nll = upper_bound.exact_bounds(denoiser, x).nll
    for delta in (0.5, 0.1, 0.01):
        above = estimate.value.view(repeats, 2) > nll + math.log(1 / delta)
        for column in above.T:
            found = int(column.sum())
            test = stats.binomtest(found, repeats, delta, alternative="greater")
            assert test.pvalue > LEVEL / 6


def models():
    return {"sets": RandomTableDenoiser(2, 3, 3), "network": any_order_network(2, 3)}


@pytest.mark.parametrize("name", ["sets", "network"])
def test_posterior_orders_follow_their_law(name):
    denoiser, x = models()[name], torch.tensor([[0, 1, 1], [1, 0, 0]])
    every = orders.all_orders(3)
    drawn = upper_bound.posterior_orders(denoiser, x, 6000, generator=seeded(2))
    for b in range(2):
        log_p = torch.stack([orders.log_prob(denoiser, x, o) for o in every])[:, b]
        law = log_p.detach().double().softmax(0)
        assert chi_square_p(drawn[:, b], every, law) > LEVEL / 4


@pytest.mark.parametrize("name", ["sets", "network"])
def test_sequence_and_order_are_drawn_together(name):
    # every pair of an order and a sequence has probability p^(o)(x) / L!
    denoiser, every, x = models()[name], orders.all_orders(3), all_sequences(2, 3)
    order = orders.random_orders(3, 20_000, seeded(3))
    drawn = upper_bound.sample_in_order(denoiser, order, generator=seeded(4))
    pairs = torch.cat([every.repeat_interleave(len(x), 0), x.repeat(6, 1)], 1)
    log_p = [orders.log_prob(denoiser, x, o).detach() for o in every]
    law = torch.cat(log_p).double().exp() / 6
    assert law.sum().item() == pytest.approx(1, abs=1e-10)
    assert chi_square_p(torch.cat([order, drawn], 1), pairs, law) > LEVEL


def test_the_mask_is_never_generated():
    # logits with a column for the mask, which it would win
    logits = torch.tensor([0.0, 9.0, 0.0]).expand(4, 2, 3)
    denoiser = FunctionDenoiser(lambda x: logits, mask_id=1)
    order = orders.random_orders(2, 4, seeded())
    x = upper_bound.sample_in_order(denoiser, order, generator=seeded())
    assert not bool((x == 1).any())


def test_a_bracket_for_generated_sequences_holds_with_confidence():
    # both totals within log(1 / delta) of the truth's side, delta = 1e-4
    denoiser = RandomTableDenoiser(2, 6, 0)
    order = orders.random_orders(6, 300, seeded(5))
    x = upper_bound.sample_in_order(denoiser, order, generator=seeded(6))
    truth = upper_bound.exact_bounds(denoiser, x).nll.sum()
    lower = upper_bound.posterior_estimate(denoiser, x, order, 32, generator=seeded(7))
    upper = losses.log_mean_exp_orders(denoiser, x, 32, generator=seeded(8))
    margin = math.log(1 / LEVEL)
    assert lower.value.sum() - margin <= truth <= upper.value.sum() + margin
    assert (upper.value - lower.value).mean() < 0.5  # and it says something


# ------------------------------------------------------------------------- manners


def test_draws_come_from_the_generator_alone():
    denoiser, x = RandomTableDenoiser(2, 4, 0), all_sequences(2, 4)[:3]

    def everything(g):
        order = upper_bound.posterior_orders(denoiser, x, generator=g)[0]
        return [
            order,
            upper_bound.sample_in_order(denoiser, order, generator=g),
            upper_bound.tangent_estimate(denoiser, x, 3, generator=g).value,
            upper_bound.posterior_estimate(denoiser, x, order, 3, generator=g).value,
            upper_bound.bracket(denoiser, x, 3, generator=g)[1].value,
        ]

    state = torch.get_rng_state()
    one, two = everything(seeded(1)), everything(seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_float32_networks_answer_in_float64():
    network, x = any_order_network(2, 4).float(), all_sequences(2, 4)[:3]
    lower, upper = upper_bound.bracket(network, x, 4, generator=seeded())
    bounds = upper_bound.exact_bounds(network, x)
    for value in (lower.value, upper.value, *vars(bounds).values()):
        assert value.dtype == torch.float64 and not value.requires_grad


def test_standard_errors_are_those_of_the_values():
    # 600 repetitions: the variance is known to a tenth
    denoiser, draws = mild(2, 5, seed=2), 50
    x = all_sequences(2, 5)[[9]].repeat(600, 1)
    for block_length in (None, 3):
        for estimate in upper_bound.bracket(
            denoiser, x, draws, block_length=block_length, generator=seeded(1)
        ):
            claimed, found = estimate.standard_error.square(), estimate.value.var()
            assert claimed.mean().item() == pytest.approx(found.item(), rel=0.25)


def test_standard_error_beside_a_posterior_draw():
    # by hand for one order of the posterior and two random ones
    denoiser, x = RandomTableDenoiser(2, 4, 0), all_sequences(2, 4)[:5]
    order = upper_bound.posterior_orders(denoiser, x, generator=seeded(1))[0]
    estimate = upper_bound.posterior_estimate(denoiser, x, order, 3, generator=seeded())
    again = seeded()
    fresh = [orders.random_orders(4, 5, again) for _ in range(2)]
    p, q, r = (orders.log_prob(denoiser, x, o).exp() for o in (order, *fresh))
    assert torch.allclose(estimate.value, -((p + q + r) / 3).log(), **EXACT)
    assert torch.allclose(estimate.standard_error, (q - r).abs() / (p + q + r), **EXACT)


def test_standard_errors_need_enough_draws():
    denoiser, x = RandomTableDenoiser(2, 4, 0), all_sequences(2, 4)[:3]
    order = orders.random_orders(4, 3, seeded())
    for draws in (1, 2):
        estimate = upper_bound.posterior_estimate(denoiser, x, order, draws)
        assert bool(estimate.standard_error.isnan().all())
    surrogate = torch.zeros(3)
    estimate = upper_bound.tangent_estimate(denoiser, x, 1, log_surrogate=surrogate)
    assert bool(estimate.standard_error.isnan().all())


def test_bad_arguments_are_named():
    denoiser, x = RandomTableDenoiser(2, 4, 0), all_sequences(2, 4)[:3]
    order = orders.random_orders(4, 3, seeded())
    masked = torch.full((1, 4), 2)
    long = torch.zeros(1, 21, dtype=torch.long)
    network = any_order_network(2, 4)
    ten = any_order_network(2, 10)
    floats = torch.zeros(3, 2)
    cases = [
        (TypeError, "x0", lambda: upper_bound.bracket(denoiser, x.float())),
        (ValueError, "x0", lambda: upper_bound.exact_bounds(denoiser, x[0])),
        (ValueError, "x0", lambda: upper_bound.exact_bounds(denoiser, masked)),
        (ValueError, "x0", lambda: upper_bound.exact_bounds(denoiser, long)),
        (ValueError, "9", lambda: upper_bound.exact_bounds(ten, long[:, :10])),
        (ValueError, "draws", lambda: upper_bound.bracket(denoiser, x, 1)),
        (TypeError, "draws", lambda: upper_bound.tangent_estimate(denoiser, x, 2.0)),
        (ValueError, "draws", lambda: upper_bound.posterior_orders(denoiser, x, 0)),
        (
            ValueError,
            "block_length",
            lambda: upper_bound.bracket(denoiser, x, block_length=0),
        ),
        (
            ValueError,
            "block_length",
            lambda: upper_bound.bracket(network, x, block_length=2),
        ),
        (
            ValueError,
            "log_surrogate",
            lambda: upper_bound.tangent_estimate(
                denoiser, x, log_surrogate=torch.zeros(2)
            ),
        ),
        (
            ValueError,
            "order",
            lambda: upper_bound.posterior_estimate(denoiser, x, order[:2]),
        ),
        (
            ValueError,
            "order",
            lambda: upper_bound.posterior_estimate(denoiser, x, order * 0),
        ),
        (
            ValueError,
            "order",
            lambda: upper_bound.sample_in_order(denoiser, order * 0),
        ),
        (
            ValueError,
            "draws",
            lambda: upper_bound.posterior_estimate(denoiser, x, order, 0),
        ),
        (TypeError, "log_p", lambda: upper_bound.leave_one_out(x)),
        (ValueError, "log_p", lambda: upper_bound.leave_one_out(floats[:1])),
        (ValueError, "log_p", lambda: upper_bound.order_bounds(floats[0])),
        (TypeError, "log_p", lambda: upper_bound.tangent(x, floats)),
        (ValueError, "log_surrogate", lambda: upper_bound.tangent(floats, floats[:2])),
    ]
    for error, name, call in cases:
        with pytest.raises(error, match=name):
            call()


def test_empty_batches():
    none = torch.zeros(0, 3, dtype=torch.long)
    for denoiser in (RandomTableDenoiser(2, 3, 0), any_order_network(2, 3)):
        assert upper_bound.exact_bounds(denoiser, none).nll.shape == (0,)
        assert upper_bound.posterior_orders(denoiser, none, 2).shape == (2, 0, 3)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_small_integers_are_tokens_and_positions(dtype):
    denoiser, x = RandomTableDenoiser(2, 3, 0), all_sequences(2, 3)
    order = orders.random_orders(3, len(x), seeded())
    bounds = upper_bound.exact_bounds(denoiser, x.to(dtype))
    assert torch.equal(bounds.nll, upper_bound.exact_bounds(denoiser, x).nll)
    got = upper_bound.posterior_estimate(denoiser, x.to(dtype), order.to(dtype))
    wanted = upper_bound.posterior_estimate(denoiser, x, order)
    assert torch.equal(got.value, wanted.value)
    drawn = upper_bound.sample_in_order(denoiser, order.to(dtype), generator=seeded())
    wanted = upper_bound.sample_in_order(denoiser, order, generator=seeded())
    assert torch.equal(drawn, wanted)
