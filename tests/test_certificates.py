"""The certificates: what has to hold exactly if the package says what it means.

One test for each of the statements (a) to (l). Exact ones hold to 1e-10 in float64;
sampled ones are chi-square tests that reject a true statement once in 10,000 times.
Both sides of each identity are computed by different routes, one of them without the
function under test.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import integrate, stats

from dllm_tutorial import exact, joints, losses, masking, orders
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.gumbel import (
    FLOAT32,
    FLOAT64,
    grid_reveal,
    simulate_reveals,
    truncated_law,
    unmask_law,
    zipf,
)
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.schedules import (
    Cosine,
    CosineMDLM,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
)
from helpers import RandomTableDenoiser, all_sequences, chi_square_p

LEVEL = 1e-4
TOLERANCE = 1e-10
IDEAL = [Linear(), Cosine(), CosineMDLM(), Polynomial(2), Polynomial(0.5)]


def markov(length: int, vocab: int = 3, seed: int = 0) -> joints.MarkovChain:
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(vocab, vocab, generator=generator, dtype=torch.float64)
    return joints.MarkovChain(logits.softmax(-1), length)


JOINTS = {
    "cities": joints.cities,
    "shuffle": lambda: joints.shuffle(4),
    "replace random": lambda: joints.replace_random(4),
    "markov": lambda: markov(4),
}
every_joint = pytest.mark.parametrize("make", JOINTS.values(), ids=JOINTS)


def masked_nll(denoiser, x, mask) -> float:
    """Sum over the mask of -log p(x_i | rest) for one sequence, from scratch."""
    log_p = denoiser(x.masked_fill(mask, denoiser.mask_id)[None])[0].log_softmax(-1)
    return -sum(log_p[i, x[i]].item() for i in mask.nonzero()[:, 0].tolist())


# ------------------------------------------------------------------------------- (a)


@pytest.mark.parametrize(("vocab", "length"), [(2, 4), (3, 3)])
def test_a_four_forms_of_the_nelbo_agree_for_any_model(vocab, length):
    denoiser = RandomTableDenoiser(vocab, length, seed=length)
    x = all_sequences(vocab, length)[[1, -2]]
    package = losses.exact_nelbo(denoiser, x)

    # 1. continuous time: adaptive quadrature of the definition
    def integrand(t, row):
        total = 0.0
        for bits in itertools.product([False, True], repeat=length):
            mask = torch.tensor(bits)
            if mask.any():
                m = int(mask.sum())
                odds = t**m * (1 - t) ** (length - m)
                total += odds / t * nll[row][bits]
        return total

    nll = [
        {
            bits: masked_nll(denoiser, row, torch.tensor(bits))
            for bits in itertools.product([False, True], repeat=length)
        }
        for row in x
    ]
    for row in range(len(x)):
        area, _ = integrate.quad(integrand, 0, 1, args=(row,), epsabs=1e-13)
        assert area == pytest.approx(package[row].item(), abs=TOLERANCE)

    # 2. the average over orders of the autoregressive NLL
    every = orders.all_orders(length)
    average = -torch.stack([orders.log_prob(denoiser, x, o) for o in every]).mean(0)
    assert torch.allclose(average, package, atol=TOLERANCE, rtol=0)

    for row in range(len(x)):
        # 3. L times the mean over counts l and sets of size l of the mean masked NLL
        by_count = []
        for count in range(1, length + 1):
            sets = [v / count for bits, v in nll[row].items() if sum(bits) == count]
            by_count.append(sum(sets) / len(sets))
        value = length * sum(by_count) / length
        assert value == pytest.approx(package[row].item(), abs=TOLERANCE)

        # 4. Kim et al. 2025, proposition 2.1: sets weighted 1 / (|M| C(L, |M|))
        value = sum(
            v / (sum(bits) * math.comb(length, sum(bits)))
            for bits, v in nll[row].items()
            if any(bits)
        )
        assert value == pytest.approx(package[row].item(), abs=TOLERANCE)


# ------------------------------------------------------------------------------- (b)


@every_joint
def test_b_under_the_truth_all_orders_agree_and_the_nelbo_is_tight(make):
    joint = make()
    table = joint.table()
    truth = table.probs.log()
    for order in orders.all_orders(joint.length):
        value = orders.log_prob(joint, table.support, order)
        assert torch.allclose(value, truth, atol=TOLERANCE, rtol=0)
    nelbo = losses.exact_nelbo(joint, table.support)
    assert torch.allclose(nelbo, -truth, atol=TOLERANCE, rtol=0)


# ------------------------------------------------------------------------------- (c)


@every_joint
def test_c_fixed_partition_costs_the_conditional_total_correlations(make):
    joint = make()
    start = torch.full((joint.length,), joint.mask_id)
    for order in orders.all_orders(joint.length)[::5].tolist():
        for k in range(1, joint.length + 1):
            blocks = exact.blocks_of(order, k)
            law = exact.parallel_law(joint, start, blocks)
            table = joint.table()
            log_q = law.log_prob(table.support)
            divergence = (table.probs * (table.probs.log() - log_q)).sum().item()
            cost, known = 0.0, []
            for block in blocks:
                cost += joint.total_correlation(block, known)
                known += block
            assert divergence == pytest.approx(cost, abs=TOLERANCE)


@every_joint
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
def test_c_t_step_bound_minus_entropy_is_the_expected_total_correlation(make, schedule):
    joint, steps = make(), 3
    length, table = joint.length, joint.table()
    bound = losses.exact_t_step(joint, table.support, steps, schedule)
    gap = (table.probs * bound).sum().item() - joint.entropy()
    share = schedule.expected_reveals(1, steps).tolist()  # P(a token's step is j)
    expected = 0.0
    for step_of in itertools.product(range(steps), repeat=length):
        chance = math.prod(share[j] for j in step_of)
        for j in range(steps):
            now = [i for i in range(length) if step_of[i] == j]
            past = [i for i in range(length) if step_of[i] < j]
            if now:
                expected += chance * joint.total_correlation(now, past)
    assert gap == pytest.approx(expected, abs=TOLERANCE)


# ------------------------------------------------------------------------------- (d)


@pytest.mark.parametrize("schedule", IDEAL, ids=repr)
def test_d_the_nelbo_does_not_depend_on_the_schedule(schedule):
    # integrated over t with this schedule, for conditionals that fit no joint
    denoiser = RandomTableDenoiser(3, 4, seed=1)
    x = all_sequences(3, 4)[::16]
    free = losses.exact_nelbo(denoiser, x)
    value = losses.exact_nelbo(denoiser, x, schedule)
    assert torch.allclose(value, free, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("schedule", [*IDEAL, Geometric(), LogLinear()], ids=repr)
def test_d_weight_is_minus_the_numeric_derivative_over_one_minus_alpha(schedule):
    # Richardson extrapolation of central differences
    for t in (0.2, 0.5, 0.8):
        a = schedule.alpha
        slopes = [(a(t + h) - a(t - h)).item() / (2 * h) for h in (2e-3, 1e-3, 5e-4)]
        once = [(4 * fine - c) / 3 for c, fine in itertools.pairwise(slopes)]
        slope = (16 * once[1] - once[0]) / 15
        assert schedule.dalpha(t).item() == pytest.approx(slope, rel=1e-7)
        weight = -slope / schedule.masked(t).item()
        assert schedule.weight(t).item() == pytest.approx(weight, rel=1e-7)


# ------------------------------------------------------------------------------- (e)


@pytest.mark.parametrize("schedule", [*IDEAL, Geometric(), LogLinear()], ids=repr)
def test_e_posterior_rows_sum_to_one_and_two_steps_compose(schedule):
    vocab, (r, s, t) = 3, (0.15, 0.4, 0.9)
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(1, 2, vocab, generator=generator, dtype=torch.float64)
    probs /= probs.sum(-1, keepdim=True)
    every = torch.arange(vocab + 1)  # a token of every kind, and the mask

    def rows(a, b):  # row z: law of x_a given x_b = z, Float64[V + 1, V + 1]
        x_b = torch.stack([every, every], 1)
        p = probs.expand(len(x_b), -1, -1)
        return masking.reverse_posterior(x_b, p, a, b, schedule, vocab)[:, 0]

    for a, b in ((r, s), (s, t), (r, t)):
        assert torch.allclose(rows(a, b).sum(-1), torch.ones(vocab + 1).double())
    assert torch.allclose(rows(s, t) @ rows(r, s), rows(r, t), atol=TOLERANCE, rtol=0)
    # and the posterior carries the forward marginal at t to the one at s
    for a, b in ((r, s), (s, t)):
        kept_a, kept_b = schedule.alpha(a), schedule.alpha(b)
        at_b = torch.cat([probs[0, 0] * kept_b, (1 - kept_b)[None]])
        at_a = torch.cat([probs[0, 0] * kept_a, (1 - kept_a)[None]])
        assert torch.allclose(at_b @ rows(a, b), at_a, atol=TOLERANCE, rtol=0)


# ------------------------------------------------------------------------------- (f)


@pytest.mark.parametrize(
    ("joint", "entropy", "correlation", "valid"),
    [
        (joints.cities(), 2 * math.log(2), math.log(2), 1 / 2),
        *(
            (
                joints.shuffle(n),
                math.log(math.factorial(n)),
                n * math.log(n) - math.log(math.factorial(n)),
                math.factorial(n) / n**n,
            )
            for n in (3, 4, 5)
        ),
        # each cell alone is uniform over four symbols
        (
            joints.latin_square(4),
            math.log(576),
            16 * math.log(4) - math.log(576),
            576 / 4**16,
        ),
        (
            joints.sudoku(),
            math.log(288),
            16 * math.log(4) - math.log(288),
            288 / 4**16,
        ),
    ],
    ids=["cities", "shuffle 3", "shuffle 4", "shuffle 5", "latin 4", "sudoku 4"],
)
def test_f_table_of_exactly_solvable_cases(joint, entropy, correlation, valid):
    assert joint.entropy() == pytest.approx(entropy, abs=TOLERANCE)
    assert joint.total_correlation() == pytest.approx(correlation, abs=TOLERANCE)
    # P(valid) of one-shot decoding: the product of marginals over the support
    support = joint.table().support
    marginals = joint(torch.full((1, joint.length), joint.mask_id))[0].exp()
    product = torch.ones(len(support), dtype=torch.float64)
    for i in range(joint.length):
        product *= marginals[i, support[:, i]]
    assert product.sum().item() == pytest.approx(valid, rel=TOLERANCE)


def test_f_printed_digits():
    # the digits of the published and reference tables
    assert round(joints.latin_square(4).entropy(), 4) == 6.3561
    assert round(joints.latin_square(4).total_correlation(), 4) == 15.8246
    assert round(joints.sudoku().entropy(), 4) == 5.6630
    assert round(joints.sudoku().total_correlation(), 4) == 16.5177
    assert round(math.factorial(4) / 4**4, 5) == 0.09375
    assert round(math.factorial(5) / 5**5, 4) == 0.0384


@pytest.mark.parametrize(("n", "m", "k"), [(4, 0, 4), (5, 2, 2), (6, 1, 3), (7, 6, 1)])
def test_f_shuffle_blocks(n, m, k):
    # a block of k after m: k ln(n - m) - ln[(n - m)! / (n - m - k)!]
    cost = joints.shuffle(n).total_correlation(range(m, m + k), range(m))
    closed = k * math.log(n - m) - math.log(math.perm(n - m, k))
    assert cost == pytest.approx(closed, abs=TOLERANCE)


# ------------------------------------------------------------------------------- (g)


@every_joint
@pytest.mark.parametrize("schedule", IDEAL, ids=repr)
def test_g_one_step_costs_the_marginal_entropies(make, schedule):
    joint = make()
    table = joint.table()
    bound = losses.exact_t_step(joint, table.support, 1, schedule)
    value = (table.probs * bound).sum().item()
    marginal = sum(joint.entropy([i]) for i in range(joint.length))
    assert value == pytest.approx(marginal, abs=TOLERANCE)


# ------------------------------------------------------------------------------- (h)


def draw(joint, strategy, n, seed=0):
    x = torch.full((n, joint.length), joint.mask_id)
    generator = torch.Generator().manual_seed(seed)
    answer = generate(joint, x, strategy, temperature=1.0, generator=generator)
    return answer.sequences


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), CosineMDLM()], ids=repr)
@pytest.mark.parametrize(
    "denoiser",
    [joints.cities(), joints.shuffle(3), RandomTableDenoiser(2, 3, seed=4)],
    ids=["cities", "shuffle", "random table"],
)
def test_h_ancestral_samples_follow_the_enumerated_law(denoiser, schedule, steps):
    every = all_sequences(denoiser.vocab_size, denoiser.length)
    law = exact.ancestral_log_prob(denoiser, every, schedule, steps).exp()
    assert law.sum().item() == pytest.approx(1, abs=TOLERANCE)
    samples = draw(denoiser, strategies.ancestral(schedule, steps), 8000)
    assert chi_square_p(samples, every, law) > LEVEL


def test_h_cities_in_closed_form():
    # both tokens in one step with probability w = sum of squared shares: the law is
    # (1 - w) p + w p1 p2, and each city's probability 1/4 (1 - w) + 1/8 w
    joint = joints.cities()
    for schedule, steps in itertools.product(IDEAL, (1, 2, 7)):
        share = schedule.expected_reveals(1, steps)
        w = share.square().sum().item()
        law = exact.ancestral_law(joint, schedule, steps)
        city = law.log_prob(joint.support).exp()
        assert torch.allclose(city, torch.full_like(city, 0.25 - w / 8), atol=1e-12)
        divergence = exact.ancestral_kl(joint, schedule, [steps])[0]
        assert divergence == pytest.approx(-math.log(1 - w / 2), abs=TOLERANCE)


@pytest.mark.parametrize(
    "denoiser",
    [joints.cities(), joints.shuffle(3), RandomTableDenoiser(2, 3, seed=4)],
    ids=["cities", "shuffle", "random table"],
)
def test_h_first_hitting_is_the_limit_of_many_steps(denoiser):
    every = all_sequences(denoiser.vocab_size, denoiser.length)
    # the limit is a mixture over orders; a model without truth tells orders apart
    limit = orders.mixture_log_prob(
        denoiser, every, orders.all_orders(denoiser.length)
    ).exp()
    gaps = [
        (exact.ancestral_log_prob(denoiser, every, Cosine(), steps).exp() - limit)
        .abs()
        .max()
        .item()
        for steps in (100, 200, 400)
    ]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)  # O(1 / T)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.05)
    samples = draw(denoiser, strategies.first_hitting(Cosine()), 8000, seed=1)
    assert chi_square_p(samples, every, limit) > LEVEL


# ------------------------------------------------------------------------------- (i)


def test_i_every_order_and_every_mixture_is_normalized():
    # a model whose prediction leaked its target would sum to more than one
    vocab, length = 3, 3
    denoiser = RandomTableDenoiser(vocab, length, seed=7)
    every = all_sequences(vocab, length)
    some = orders.all_orders(length)
    for order in some:
        total = orders.log_prob(denoiser, every, order).exp().sum().item()
        assert total == pytest.approx(1, abs=TOLERANCE)
    weights = torch.rand(len(some), generator=torch.Generator().manual_seed(0)).double()
    weights /= weights.sum()
    mixture = orders.mixture_log_prob(denoiser, every, some, weights).exp().sum()
    assert mixture.item() == pytest.approx(1, abs=TOLERANCE)
    log_p = torch.stack([orders.log_prob(denoiser, every, o) for o in some])
    loss = losses.log_sum_loss(log_p, weights.log()).loss
    assert (-loss).exp().sum().item() == pytest.approx(1, abs=TOLERANCE)


def test_i_causal_network_is_normalized():
    network = tiny("causal")
    every = all_sequences(3, 4)
    with torch.no_grad():
        total = (-losses.ar_loss(network, every)).exp().sum().item()
    assert total == pytest.approx(1, abs=TOLERANCE)


# ------------------------------------------------------------------------------- (j)


def tiny(attention: str) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=3, length=4, d_model=16, n_layers=2, n_heads=2, attention=attention
    )
    network = Transformer(config).double().eval()
    with torch.no_grad():  # fresh networks may start with a zero head
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return network


def test_j_step_n_does_not_see_what_comes_later():
    denoiser = RandomTableDenoiser(3, 4, seed=2)
    generator = torch.Generator().manual_seed(0)
    for order in orders.all_orders(4)[::3]:
        x = torch.randint(3, (1, 4), generator=generator)
        terms = orders.step_log_prob(denoiser, x, order)
        for n in range(3):
            changed = x.clone()
            later = order[n + 1 :]
            changed[:, later] = (changed[:, later] + 1) % 3
            moved = orders.step_log_prob(denoiser, changed, order)
            assert torch.equal(moved[:, : n + 1], terms[:, : n + 1])


def test_j_causal_network_sees_only_earlier_tokens():
    network = tiny("causal")
    x = torch.tensor([[0, 2, 1, 2]])
    with torch.no_grad():
        before = network(x)
        for i in range(4):
            changed = x.clone()
            changed[0, i:] = (changed[0, i:] + 1) % 3
            after = network(changed)
            assert torch.allclose(after[:, : i + 1], before[:, : i + 1], atol=1e-12)
            if i < 3:  # it does see them later: the test can fail
                assert not torch.allclose(after[:, i + 1], before[:, i + 1], atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        losses.nelbo,
        losses.exact_count_loss,
        losses.any_order_loss,
        lambda d, x, generator: losses.nelbo_t_step(d, x, 3, generator=generator),
    ],
)
def test_j_losses_never_show_a_token_they_ask_for(loss):
    # Uniform predictions, except that a token the denoiser can see gets probability 1.
    # A loss that showed what it asks for would come out below its value for uniform
    # predictions, weight * masks * ln V.
    vocab = 3

    class Peeking:
        mask_id = vocab

        def __call__(self, x):
            logits = torch.zeros(*x.shape, vocab, dtype=torch.float64)
            seen = torch.nn.functional.one_hot(x.clamp(max=vocab - 1), vocab).bool()
            seen &= (x != vocab)[..., None]
            return logits.masked_fill(seen, 50.0)

    class Uniform:
        mask_id = vocab

        def __call__(self, x):
            return torch.zeros(*x.shape, vocab, dtype=torch.float64)

    x = all_sequences(vocab, 4)
    values = [
        loss(denoiser, x, generator=torch.Generator().manual_seed(3))
        for denoiser in (Peeking(), Uniform())
    ]
    assert values[1].sum() > 0
    assert torch.allclose(values[0], values[1], atol=1e-12)


# ------------------------------------------------------------------------------- (k)


def test_k_average_loss_exceeds_the_mixture_by_a_divergence_of_orders():
    vocab, length = 3, 3
    denoiser = RandomTableDenoiser(vocab, length, seed=9)
    x = all_sequences(vocab, length)
    every = orders.all_orders(length)
    log_p = torch.stack([orders.log_prob(denoiser, x, o) for o in every])  # [O, B]
    average = -log_p.mean(0)
    out = losses.log_sum_loss(log_p)
    # KL(u || r), r_o proportional to p(o) p^(o)(x), from probabilities
    p = log_p.exp()
    r = p / p.sum(0)
    u = 1 / len(every)
    divergence = (u * (math.log(u) - r.log())).sum(0)
    assert torch.allclose(average - out.loss, divergence, atol=TOLERANCE, rtol=0)
    assert torch.allclose(average, losses.exact_nelbo(denoiser, x), atol=TOLERANCE)
    best = -log_p.max(0).values
    assert bool((best <= out.loss).all())
    assert bool((out.loss <= best + math.log(len(every))).all())


# ------------------------------------------------------------------------------- (l)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_l_truncated_gumbel_law_matches_simulation(bits):
    # a coarse ceiling, so that 400,000 draws see the effect
    largest = 1 - 2.0**-bits
    probs = 1 / torch.arange(1, 13, dtype=torch.float64) ** 2
    probs /= probs.sum()
    law = truncated_law(probs, largest)
    assert law.sum().item() == pytest.approx(1, abs=TOLERANCE)
    generator = torch.Generator().manual_seed(bits)
    u = torch.rand(400_000, 12, generator=generator, dtype=torch.float64) * largest
    drawn = (probs.log() - (-u.log()).log()).argmax(-1)
    observed = torch.bincount(drawn, minlength=12)
    assert stats.chisquare(observed, law * len(u)).pvalue > LEVEL
    # and the intended law is rejected: the simulation can tell
    assert stats.chisquare(observed, probs * len(u)).pvalue < LEVEL


def test_l_direct_integration():
    # P(n) by numeric integration over the value of the winner
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    largest = 0.9
    ceiling = -math.log(-math.log(largest))

    def cdf(z, log_pi):
        g = z - log_pi
        return 1.0 if g >= ceiling else math.exp(-math.exp(-g)) / largest

    wanted = []
    for n in range(4):
        log_pi = [math.log(v) for v in probs.tolist()]

        def density(z, n=n, log_pi=log_pi):
            g = z - log_pi[n]
            value = math.exp(-g - math.exp(-g)) / largest
            for k in range(4):
                if k != n:
                    value *= cdf(z, log_pi[k])
            return value

        kinks = sorted(v + ceiling for v in log_pi if v <= log_pi[n])
        edges = [kinks[0] - 40, *kinks]
        wanted.append(
            sum(
                integrate.quad(density, a, b, epsabs=1e-13, limit=200)[0]
                for a, b in itertools.pairwise(edges)
                if b > a
            )
        )
    assert truncated_law(probs, largest).tolist() == pytest.approx(wanted, abs=1e-9)


def test_l_float32_constants_and_published_effect():
    largest = [-math.log(-math.log(u)) for u in (FLOAT32, FLOAT64)]
    assert largest == pytest.approx([16.6355, 36.7368], abs=1e-4)
    u = torch.rand(10_000_000, generator=torch.Generator().manual_seed(0))
    assert u.dtype == torch.float32 and u.max().item() <= FLOAT32
    # Zipf tokens, one step of T = 1024: the digits of an independent computation
    for vocab, kept, entropy in (
        (27, 0.998, 2.7497),
        (1000, 0.945, None),
        (50257, 0.638, 5.31),
    ):
        tokens = zipf(vocab)
        reveal, law = unmask_law(tokens, 1 / 1024)
        assert reveal * 1024 == pytest.approx(kept, abs=5e-4)
        if entropy is not None:
            found = torch.special.entr(law).sum().item()
            assert found == pytest.approx(entropy, abs=5e-3)
        exact_reveal, exact_law = unmask_law(tokens, 1 / 1024, FLOAT64)
        assert exact_reveal * 1024 == pytest.approx(1, abs=1e-7)
        assert torch.allclose(exact_law, tokens, atol=1e-8)


def test_l_no_truncation_no_change():
    probs = torch.tensor([0.0, 0.2, 0.5, 0.3], dtype=torch.float64)
    assert torch.allclose(truncated_law(probs, 1 - 2.0**-53), probs, atol=1e-14)
    assert truncated_law(torch.ones(1)).tolist() == [1]
    for bad, name in ((1.0, "largest"), (0.0, "largest")):
        with pytest.raises(ValueError, match=name):
            truncated_law(probs, bad)
    with pytest.raises(ValueError, match="probs"):
        truncated_law(probs[None])
    with pytest.raises(ValueError, match="reveal"):
        unmask_law(probs, 1.0)


@pytest.mark.parametrize("bits", [8, 12])
def test_l_uniform_numbers_on_a_grid(bits):
    # uniform numbers k / 2^bits, as torch.rand makes them with 24 bits
    tokens, reveal, n = zipf(40), 1 / 8, 200_000
    generator = torch.Generator().manual_seed(bits)
    u = torch.rand(n, 41, generator=generator, dtype=torch.float64)
    u = (u * 2**bits).floor() / 2**bits
    u[:, 40] = torch.rand(n, generator=generator, dtype=torch.float64)
    outcomes = torch.cat([tokens * reveal, torch.tensor([1 - reveal])])
    revealed = int(((outcomes / -u.log()).argmax(-1) < 40).sum())
    wanted = grid_reveal(tokens, reveal, bits)
    # three digits of quadrature beside the error of sampling
    z = stats.norm.isf(LEVEL / 2)
    slack = z * math.sqrt(wanted * (1 - wanted) / n) + 1e-3 * wanted
    assert abs(revealed / n - wanted) < slack
    # cutting a continuous number at its largest value overstates the effect
    cut, _ = unmask_law(tokens, reveal, 1 - 2.0**-bits)
    assert cut < wanted < reveal


def test_l_real_float32_draws():
    tokens, draws = zipf(1000), 30_000
    generator = torch.Generator().manual_seed(0)
    revealed = simulate_reveals(tokens, 1 / 64, draws, generator=generator)
    wanted = grid_reveal(tokens, 1 / 64)
    assert stats.binomtest(revealed, draws, wanted).pvalue > LEVEL
