"""Decoding rules against independent truth.

Three sources: the slow references of ``reference_decoding`` (state by state at
temperature 0, by enumeration of every random choice at temperature 1), closed forms in
fractions, and the joints themselves. Sampled statements are chi-square or z tests with
fixed seeds; each of them rejects a correct program with probability ``ALPHA``.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from scipy import stats

import reference_decoding as ref
from dllm_tutorial import joints, schedules
from dllm_tutorial.decoding import generate, strategies
from helpers import RandomTableDenoiser, chi_square_p

ALPHA = 1e-5
LINEAR = schedules.Linear()


def linear(t):
    return 1 - t


def masks(joint, n):
    """``n`` fully masked rows."""
    return torch.full((n, joint.length), joint.mask_id)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def sample(joint, strategy, n, seed=0, temperature=1.0, **options):
    x = masks(joint, n)
    options = {"temperature": temperature, "generator": generator(seed), **options}
    return generate(joint, x, strategy, **options)


def accuracy(joint, sequences):
    return torch.isfinite(joint.log_prob(sequences)).double().mean().item()


def z_score(hits, n, p):
    """Standard score of ``hits`` of ``n``; exact cases (p = 0, 1) must be hit."""
    if p in (0, 1):
        return 0.0 if hits == n * p else math.inf
    return (hits - n * p) / math.sqrt(n * p * (1 - p))


def assert_accuracy(joint, sequences, p):
    """Two-sided z test of the share of valid answers at level ALPHA."""
    n = len(sequences)
    hits = round(accuracy(joint, sequences) * n)
    assert abs(z_score(hits, n, p)) < stats.norm.isf(ALPHA / 2), (p, hits / n)


def assert_laws_agree(sequences, law):
    """Chi-square of samples against a law {sequence: probability}."""
    support = torch.tensor(list(law))
    probs = torch.tensor(list(law.values()), dtype=torch.float64)
    assert probs.sum().item() == pytest.approx(1, abs=1e-10)
    assert chi_square_p(sequences, support, probs) > ALPHA


# --- the references themselves -------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4])
def test_closed_forms_equal_enumeration(n):
    for k in range(1, n + 1):
        shuffle, replace = joints.shuffle(n), joints.replace_random(n)
        pairs = (
            (shuffle, ref.shuffle_accuracy(ref.quotas(n, k))),
            (replace, ref.replace_accuracy(ref.quotas(n, k))),
        )
        for joint, closed in pairs:
            for rule in (ref.random_k(k), ref.top_k(ref.left, k)):
                law = ref.law(joint, [joint.mask_id] * n, rule)
                valid = torch.isfinite(joint.log_prob(torch.tensor(list(law))))
                weights = torch.tensor(list(law.values()), dtype=torch.float64)
                assert weights[valid].sum().item() == pytest.approx(float(closed))


def test_closed_forms_equal_the_published_numbers():
    # Kang et al. 2025, Theorem 2, and the numbers they print for it
    assert ref.shuffle_accuracy([3]) == Fraction(2, 9)
    assert ref.shuffle_accuracy([2, 2]) == Fraction(3, 8)
    assert ref.replace_accuracy([4]) == Fraction(3, 4) ** 3
    for n, printed in ((6, 0.734), (10, 0.812), (16, 0.867)):
        assert float(ref.replace_accuracy(ref.quotas(n, 2))) == pytest.approx(
            printed, abs=5e-4
        )


# --- temperature 0: state by state ---------------------------------------------------

RANKS = {
    "left_to_right": ref.left,
    "right_to_left": ref.right,
    "confidence_top_k": ref.confident,
    "margin_top_k": ref.margins,
    "entropy_top_k": ref.negentropy,
}
GREEDY = [
    *[
        (getattr(strategies, name)(k), ref.top_k(rank, k))
        for (name, rank), k in itertools.product(RANKS.items(), (1, 2, 3))
    ],
    *[
        (getattr(strategies, name)(steps=s), ref.top_k_steps(rank, s))
        for (name, rank), s in itertools.product(RANKS.items(), (4, 5))
    ],
    *[
        (strategies.confidence_threshold(g), ref.threshold(g))
        for g in (0.3, 0.5, 0.7, 0.9, 1.0)
    ],
    *[(strategies.factor(f), ref.factor(f)) for f in (0.5, 1.0, 1.5, 1.9, 3.0)],
    *[
        (strategies.entropy_bounded(g), ref.entropy_bounded(g))
        for g in (0.0, 0.1, 0.5, 1.0, 2.0)
    ],
    *[
        (strategies.klass(k, confidence=c, kl=kl), ref.klass(k, c, kl))
        for k, c, kl in ((1, 0.9, 0.01), (2, 0.4, 5.0), (1, 0.4, 1.0))
    ],
    (strategies.dilated(), ref.dilated()),
    (strategies.dilated(3), ref.dilated(3)),
]


def ragged_prompts(vocab, length, n, seed):
    """Random prompts with random given tokens, at least one mask a row."""
    g = generator(seed)
    x = torch.randint(vocab, (n, length), generator=g)
    hidden = torch.rand(n, length, generator=g) < torch.rand(n, 1, generator=g)
    hidden[:, -1] |= ~hidden.any(1)
    hidden[0] = True
    return torch.where(hidden, vocab, x)


def assert_same_states(denoiser, x, strategy, rule, block_length):
    out = generate(denoiser, x, strategy, block_length=block_length, record=True)
    for b, prompt in enumerate(x.tolist()):
        states = ref.greedy(denoiser, prompt, rule, block_length=block_length)
        ours = [tuple(s) for s in out.history.states[:, b].tolist()]
        assert ours[: len(states)] == states, (b, prompt)
        assert set(ours[len(states) :]) <= {states[-1]}
        assert out.sequences[b].tolist() == list(states[-1])
        assert out.nfe[b] == len(states) - 1


@pytest.mark.parametrize("block_length", [None, 2, 3])
@pytest.mark.parametrize("case", range(len(GREEDY)))
def test_greedy_states_equal_the_reference(case, block_length):
    strategy, rule = GREEDY[case]
    denoiser = RandomTableDenoiser(3, 6, seed=case)
    x = ragged_prompts(3, 6, 10, seed=100 + case)
    assert_same_states(denoiser, x, strategy, rule, block_length)


REVISING = [
    *[
        (lambda d, s=s, eta=eta: (strategies.p2(s, eta), ref.p2(s, eta)))
        for s, eta in itertools.product((3, 6), (0.0, 0.5, 1.0, 2.0))
    ],
    *[(lambda d, s=s: (strategies.rcr(s), ref.rcr(s))) for s in (1, 3, 4, 6)],
    lambda d: (strategies.wino(), ref.wino(d)),
    lambda d: (strategies.wino(0.3, 0.5, 3), ref.wino(d, 0.3, 0.5, 3)),
    lambda d: (strategies.wino(0.3, 0.95), ref.wino(d, 0.3, 0.95)),
]


@pytest.mark.parametrize("case", range(len(REVISING)))
def test_greedy_revision_equals_the_reference(case):
    denoiser = RandomTableDenoiser(3, 6, seed=50 + case)
    strategy, rule = REVISING[case](denoiser)
    x = ragged_prompts(3, 6, 10, seed=200 + case)
    assert_same_states(denoiser, x, strategy, rule, None)


@pytest.mark.parametrize("block_length", [2, 3, 4])
def test_draft_and_verify_inside_blocks(block_length):
    denoiser = RandomTableDenoiser(3, 6, seed=block_length)
    x = ragged_prompts(3, 6, 20, seed=300)
    strategy, rule = strategies.wino(0.3, 0.5), ref.wino(denoiser, 0.3, 0.5)
    assert_same_states(denoiser, x, strategy, rule, block_length)


# --- temperature 1: the law of the answer, every random choice enumerated ------------

SAMPLED = {
    "random 1": (strategies.random_top_k(1), ref.random_k(1)),
    "random 2": (strategies.random_top_k(2), ref.random_k(2)),
    "confidence 1": (strategies.confidence_top_k(1), ref.top_k(ref.confident, 1)),
    "confidence 2": (strategies.confidence_top_k(2), ref.top_k(ref.confident, 2)),
    "margin 2": (strategies.margin_top_k(2), ref.top_k(ref.margins, 2)),
    "entropy 2": (strategies.entropy_top_k(2), ref.top_k(ref.negentropy, 2)),
    "steps 3": (
        strategies.confidence_top_k(steps=3),
        ref.top_k_steps(ref.confident, 3),
    ),
    "threshold": (strategies.confidence_threshold(0.6), ref.threshold(0.6)),
    "factor": (strategies.factor(1.2), ref.factor(1.2)),
    "entropy bounded": (strategies.entropy_bounded(0.4), ref.entropy_bounded(0.4)),
    "first hitting": (strategies.first_hitting(LINEAR), ref.random_k(1)),
    "first hitting, cosine": (
        strategies.first_hitting(schedules.Cosine()),
        ref.random_k(1),
    ),
}


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("block_length", [None, 2])
def test_sampled_law_equals_enumeration(name, temperature, block_length):
    strategy, rule = SAMPLED[name]
    denoiser = RandomTableDenoiser(2, 5, seed=len(name))
    prompt = [2, 1, 2, 2, 2]
    law = ref.law(
        denoiser, prompt, rule, temperature=temperature, block_length=block_length
    )
    x = torch.tensor([prompt]).expand(6000, -1)
    out = generate(
        denoiser,
        x,
        strategy,
        temperature=temperature,
        block_length=block_length,
        generator=generator(7),
    )
    assert_laws_agree(out.sequences, law)


CLOCKED = {
    "ancestral": lambda n: (
        strategies.ancestral(LINEAR, n),
        ref.ancestral(linear, n),
    ),
    "cap": lambda n: (
        strategies.remdm_cap(LINEAR, n, eta=0.3),
        ref.remdm(linear, n, lambda a_t, a_s: min(0.3, ref.sigma_max(a_t, a_s))),
    ),
    "rescale": lambda n: (
        strategies.remdm_rescale(LINEAR, n, eta=0.5),
        ref.remdm(linear, n, lambda a_t, a_s: 0.5 * ref.sigma_max(a_t, a_s)),
    ),
    "conf": lambda n: (
        strategies.remdm_conf(LINEAR, n),
        ref.remdm_conf(linear, n),
    ),
    "loop": lambda n: (
        strategies.remdm_loop(n, eta=0.2, t_on=0.6, t_off=0.3, alpha_on=0.7),
        ref.remdm(*(lambda a, s: (a, n, s))(*ref.sigma_loop(0.2, 0.6, 0.3, 0.7))),
    ),
}


@pytest.mark.parametrize("name", CLOCKED)
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_clocked_law_equals_enumeration(name, steps):
    strategy, rule = CLOCKED[name](steps)
    denoiser = RandomTableDenoiser(2, 4, seed=steps)
    prompt = [2, 2, 0, 2]
    law = ref.law(denoiser, prompt, rule, steps=steps)
    x = torch.tensor([prompt]).expand(6000, -1)
    out = generate(denoiser, x, strategy, temperature=1.0, generator=generator(11))
    assert_laws_agree(out.sequences, law)
    if name not in ("ancestral",):
        assert (out.nfe == steps).all()


@pytest.mark.parametrize(
    "make",
    [
        *[lambda d, e=e: (strategies.p2(3, e), ref.p2(3, e)) for e in (0.0, 1.0, 2.0)],
        lambda d: (strategies.rcr(3), ref.rcr(3)),
        lambda d: (strategies.wino(0.5, 0.8), ref.wino(d, 0.5, 0.8)),
        lambda d: (strategies.klass(1, confidence=0.6, kl=9.0), ref.klass(1, 0.6, 9.0)),
    ],
)
def test_sampled_revision_equals_enumeration(make):
    denoiser = RandomTableDenoiser(2, 4, seed=21)
    strategy, rule = make(denoiser)
    prompt = [2, 2, 0, 2]
    law = ref.law(denoiser, prompt, rule)
    x = torch.tensor([prompt]).expand(6000, -1)
    out = generate(denoiser, x, strategy, temperature=1.0, generator=generator(13))
    assert_laws_agree(out.sequences, law)


# --- one token at a time reproduces the joint ----------------------------------------

VALUE_BLIND = {
    "random": strategies.random_top_k(1),
    "left to right": strategies.left_to_right(1),
    "right to left": strategies.right_to_left(1),
    "margin": strategies.margin_top_k(1),
    "entropy": strategies.entropy_top_k(1),
    "first hitting": strategies.first_hitting(LINEAR),
    "entropy bounded": strategies.entropy_bounded(0.0),
}


def small_chain():
    transition = torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.6, 0.3], [0.5, 0.0, 0.5]])
    return joints.MarkovChain(transition.double(), 5)


JOINTS = {
    "cities": joints.cities,
    "shuffle 3": lambda: joints.shuffle(3),
    "shuffle 4": lambda: joints.shuffle(4),
    "replace random 5": lambda: joints.replace_random(5),
    "Markov chain": small_chain,
    "sudoku": joints.sudoku,
}


@pytest.mark.parametrize("rule", VALUE_BLIND)
@pytest.mark.parametrize("name", JOINTS)
def test_one_token_at_a_time_samples_the_joint(name, rule):
    joint = JOINTS[name]()
    table = joint.table()
    n = 10 * len(table.support) if name == "sudoku" else 4000
    out = sample(joint, VALUE_BLIND[rule], n, seed=3)
    assert accuracy(joint, out.sequences) == 1
    law = dict(
        zip(map(tuple, table.support.tolist()), table.probs.tolist(), strict=True)
    )
    assert_laws_agree(out.sequences, law)


def test_given_tokens_condition_the_joint():
    joint = joints.sudoku()
    prompt = joint.support[0].clone()
    prompt[torch.tensor([1, 2, 3, 4, 6, 7, 9, 10, 12, 13, 14, 15])] = joint.mask_id
    agree = ((joint.support == prompt) | (prompt == joint.mask_id)).all(1)
    rest = joint.support[agree]
    assert len(rest) > 1
    x = prompt.expand(4000, -1)
    strategy = strategies.entropy_bounded(0.0)
    out = generate(joint, x, strategy, temperature=1.0, generator=generator(5))
    assert_laws_agree(out.sequences, {tuple(s): 1 / len(rest) for s in rest.tolist()})


def test_confidence_ranking_bends_the_law_by_exactly_this_much():
    # n = 3, by hand: 1/27 that all three propose "replace"; then the leftmost
    # "keep" is revealed; the last two share the replacement evenly.
    law = {(0, 1, 3): 4 / 9, (0, 3, 2): 10 / 27, (3, 1, 2): 5 / 27}
    out = sample(joints.replace_random(3), strategies.confidence_top_k(1), 10_000)
    assert_laws_agree(out.sequences, law)


# --- shuffle and replace-random in closed form ---------------------------------------


def every_size():
    return [(n, k) for n in range(3, 17) for k in range(1, n + 1)]


@pytest.mark.parametrize(
    ("make", "closed"),
    [
        (joints.shuffle, ref.shuffle_accuracy),
        (joints.replace_random, ref.replace_accuracy),
    ],
    ids=["shuffle", "replace random"],
)
def test_temperature_one_accuracy_is_the_closed_form_at_every_n_and_k(make, closed):
    rows, total, degrees, rare_hits, rare = 300, 0.0, 0, 0, 0.0
    for n, k in every_size():
        p = float(closed(ref.quotas(n, k)))
        joint = make(n)
        out = sample(joint, strategies.random_top_k(k), rows, seed=100 * n + k)
        assert (out.nfe == math.ceil(n / k)).all()
        hits = round(accuracy(joint, out.sequences) * rows)
        if 5 < rows * p < rows - 5:  # where the normal approximation holds
            total, degrees = total + z_score(hits, rows, p) ** 2, degrees + 1
        elif p < 0.5:
            rare_hits, rare = rare_hits + hits, rare + rows * p
        else:
            assert k == 1 and p == 1 and hits == rows
    assert stats.chi2.sf(total, degrees) > ALPHA
    if rare:
        assert stats.poisson.sf(rare_hits - 1, rare) > ALPHA / 2
        assert stats.poisson.cdf(rare_hits, rare) > ALPHA / 2


@pytest.mark.parametrize("name", sorted(set(RANKS) - {"confidence_top_k"}))
def test_accuracy_does_not_depend_on_a_value_blind_rank(name):
    strategy, rows = getattr(strategies, name)(4), 4000
    for joint, closed in (
        (joints.shuffle(9), ref.shuffle_accuracy),
        (joints.replace_random(9), ref.replace_accuracy),
    ):
        p = float(closed(ref.quotas(9, 4)))
        assert_accuracy(joint, sample(joint, strategy, rows).sequences, p)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 11])
def test_steps_put_the_remainder_first(steps):
    n, rows = 11, 4000
    joint = joints.shuffle(n)
    strategy = strategies.random_top_k(steps=steps)
    out = sample(joint, strategy, rows, record=True)
    left = (out.history.states == joint.mask_id).sum(-1)
    sizes = (left[:-1] - left[1:]).T
    assert (sizes == torch.tensor(ref.quotas(n, steps=steps))).all()
    p = float(ref.shuffle_accuracy(ref.quotas(n, steps=steps)))
    assert_accuracy(joint, out.sequences, p)


def greedy_is_valid(joint, strategy):
    out = generate(joint, masks(joint, 1), strategy)
    return accuracy(joint, out.sequences) == 1, out.nfe.item()


def test_greedy_shuffle_repeats_itself_whenever_two_are_revealed():
    # Equal predictions have equal arg maxima: k >= 2 always writes a token twice.
    for n, k in every_size():
        valid, nfe = greedy_is_valid(joints.shuffle(n), strategies.random_top_k(k))
        assert valid == (k == 1), (n, k)
        assert nfe == math.ceil(n / k)


def test_greedy_replace_random_is_decided_by_the_last_step():
    # Every earlier step keeps; only a last step of one position can replace.
    for n, k in every_size():
        joint = joints.replace_random(n)
        valid, _ = greedy_is_valid(joint, strategies.left_to_right(k))
        assert valid == (ref.quotas(n, k)[-1] == 1), (n, k)


# --- thresholds ----------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.51, 0.6, 0.75, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_threshold_above_one_half_solves_shuffle(gamma, temperature):
    joint = joints.shuffle(8)
    strategy = strategies.confidence_threshold(gamma)
    out = sample(joint, strategy, 500, temperature=temperature)
    assert accuracy(joint, out.sequences) == 1
    assert (out.nfe == 8).all()


@pytest.mark.parametrize("n", [3, 5, 8])
def test_shuffle_accuracy_falls_in_stairs_of_one_over_gamma(n):
    # gamma strictly between 1 / (r + 1) and 1 / r: the last r come together
    rows = 4000
    joint = joints.shuffle(n)
    for r in range(1, n + 1):
        gamma = (1 / r + 1 / (r + 1)) / 2
        strategy = strategies.confidence_threshold(gamma)
        out = sample(joint, strategy, rows, seed=r)
        p = math.factorial(r) / r**r
        assert_accuracy(joint, out.sequences, p)
        assert (out.nfe == n - r + 1).all()
        valid, nfe = greedy_is_valid(joint, strategy)
        assert (valid, nfe) == (r == 1, n - r + 1)


def test_one_half_itself_loses_the_last_two():
    joint, strategy = joints.shuffle(8), strategies.confidence_threshold(0.5)
    out = sample(joint, strategy, 4000)
    assert (out.nfe == 7).all()
    assert_accuracy(joint, out.sequences, 0.5)
    assert greedy_is_valid(joint, strategy) == (False, 7)


def test_greedy_threshold_on_replace_random_is_all_or_nothing():
    for n in range(3, 17):
        joint, edge = joints.replace_random(n), (n - 1) / n
        for gamma, valid, nfe in (
            (edge - 1e-9, False, 1),
            (edge + 1e-9, True, n),
            (1.0, True, n),
        ):
            strategy = strategies.confidence_threshold(gamma)
            assert greedy_is_valid(joint, strategy) == (valid, nfe), (n, gamma)


def threshold_replace(n, gamma):
    """Accuracy at temperature 1, by recursion over the open positions.

    Every open position proposes "replace" with chance 1/r. Above the edge only one
    position is revealed. Below it all that propose "keep" are; the others stay open,
    and if nobody proposes "replace" the answer is wrong.
    """
    if n == 1 or (n - 1) / n < gamma:
        return 1.0  # one at a time to the end: the edge only falls
    if 1 / n >= gamma:  # everything is revealed at once
        return (1 - 1 / n) ** (n - 1)
    p = 0.0
    for j in range(1, n + 1):
        chance = stats.binom.pmf(j, n, 1 / n)
        p += chance * (1.0 if j == n else threshold_replace(j, gamma))
    return p


@pytest.mark.parametrize("gamma", [0.3, 0.45, 0.55, 0.7, 0.81, 0.97])
def test_sampled_threshold_on_replace_random(gamma):
    rows = 2000
    for n in (3, 4, 6, 10, 16):
        joint = joints.replace_random(n)
        out = sample(joint, strategies.confidence_threshold(gamma), rows, seed=n)
        p = threshold_replace(n, gamma)
        assert_accuracy(joint, out.sequences, 1.0 if p > 1 - 1e-12 else p)


@pytest.mark.parametrize("f", [0.5, 1.0, 1.49, 1.51, 1.9])
def test_factor_rule_on_shuffle_has_its_edge_at_three_halves(f):
    # (m + 1)(1 - c) = 3 (1 - 1/2) = 3/2 for the last two, and at least 2 before
    joint, rows = joints.shuffle(8), 4000
    out = sample(joint, strategies.factor(f), rows)
    p = 1.0 if f < 1.5 else 0.5
    assert_accuracy(joint, out.sequences, p)
    assert (out.nfe == (8 if f < 1.5 else 7)).all()


# --- budgets without rounding defects ------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 7, 10, 49, 64, 100])
def test_as_many_steps_as_tokens_reveal_one_each(length):
    joint = joints.copy(list(range(length)))
    x = masks(joint, 2)
    strategy = strategies.confidence_top_k(steps=length)
    out = generate(joint, x, strategy, record=True)
    left = (out.history.states == joint.mask_id).sum(-1)
    assert (left[:-1] - left[1:] == 1).all()
    assert (out.nfe == length).all()


CLOCKS = [
    (lambda n: strategies.ancestral(LINEAR, n), linear),
    (lambda n: strategies.ancestral(schedules.Cosine(), n), schedules.Cosine().alpha),
    (lambda n: strategies.remdm_cap(LINEAR, n, eta=0.2), linear),
    (
        lambda n: strategies.remdm_rescale(schedules.Cosine(), n, eta=0.7),
        schedules.Cosine().alpha,
    ),
    (
        lambda n: strategies.remdm_loop(n, 0.2, 0.7, 0.3, 0.8),
        ref.sigma_loop(0.2, 0.7, 0.3, 0.8)[0],
    ),
]


@pytest.mark.parametrize(("make", "alpha"), CLOCKS)
def test_revealed_counts_are_binomial_at_every_step(make, alpha):
    # Each position is revealed at time s with probability alpha_s, independently:
    # ReMDM keeps this marginal for every admissible sigma (Wang et al. 2025).
    length, steps, rows = 12, 6, 5000
    joint = joints.copy([0] * length)
    out = sample(joint, make(steps), rows, record=True)
    left = (out.history.states == joint.mask_id).sum(-1)  # [steps + 1, rows]
    counts = torch.arange(length + 1)[:, None]
    for j in range(1, len(left)):
        masked = 1 - float(alpha(1 - j / steps)) if j < steps else 0.0
        law = torch.tensor(stats.binom.pmf(range(length + 1), length, masked))
        assert chi_square_p(left[j][:, None], counts, law) > ALPHA
    assert (left[-1] == 0).all()


@pytest.mark.parametrize("schedule", [LINEAR, schedules.Cosine()])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 100])
def test_ancestral_cities_meet_with_the_sum_of_squares(schedule, steps):
    # Both words fall in one step with chance sum (alpha_s - alpha_t)^2, and are then
    # wrong half the time; with many steps the joint is reached.
    alpha = [float(schedule.alpha(j / steps)) for j in range(steps + 1)]
    meet = sum((a - b) ** 2 for a, b in itertools.pairwise(alpha))
    joint = joints.cities()
    out = sample(joint, strategies.ancestral(schedule, steps), 4000, seed=steps)
    assert_accuracy(joint, out.sequences, 1 - meet / 2)


# --- adaptive and revising rules on exact joints -------------------------------------


@pytest.mark.parametrize(
    ("gamma", "p", "nfe"),
    [
        (0.0, 1.0, 7),
        (0.69, 1.0, 7),
        (0.70, 1 / 2, 6),
        (1.09, 1 / 2, 6),
        (1.1, 2 / 3, 6),
    ],
)
def test_entropy_budget_on_shuffle(gamma, p, nfe):
    # m of r left cost (m - 1) log r: log 2 = .693 joins the last two; log 3 = 1.0986
    # joins two of the last three instead, and then one is left.
    joint = joints.shuffle(7)
    out = sample(joint, strategies.entropy_bounded(gamma), 4000)
    assert_accuracy(joint, out.sequences, p)
    assert (out.nfe == nfe).all()


def test_zero_entropy_budget_adds_certain_tokens_only():
    # Once an item is replaced everything else is certain and comes in one step,
    # together with nothing uncertain; before that every position is uncertain.
    n = 6
    joint = joints.replace_random(n)
    out = sample(joint, strategies.entropy_bounded(0.0), 3000)
    where = (out.sequences == n).int().argmax(-1)
    assert (out.nfe == torch.clamp(where + 2, max=n)).all()
    assert_laws_agree(out.sequences, {tuple(s): 1 / n for s in joint.support.tolist()})


def pairs(m, apart=1):
    """``m`` fair coins, each written twice, ``apart`` positions from its copy."""
    support = []
    for coins in itertools.product((0, 1), repeat=m):
        row = [None] * (2 * m)
        for coin in coins:
            i = row.index(None)
            row[i] = row[i + apart] = coin
        support.append(row)
    return joints.TableJoint(torch.tensor(support), None, 2)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_threshold_budget_and_coins(m):
    # threshold: coin, copy, coin, copy ...; zero entropy budget: copy with next coin
    joint = pairs(m)
    for strategy, nfe in (
        (strategies.confidence_threshold(0.9), 2 * m),
        (strategies.entropy_bounded(0.0), m + 1),
    ):
        out = sample(joint, strategy, 3000)
        assert (out.nfe == nfe).all()
        law = {tuple(s): 0.5**m for s in joint.support.tolist()}
        assert_laws_agree(out.sequences, law)


def test_dilated_is_exact_where_dependence_is_local():
    near, far = pairs(4), pairs(4, apart=4)
    out = sample(near, strategies.dilated(), 3000)
    assert (out.nfe == 3).all()
    assert_laws_agree(out.sequences, {tuple(s): 1 / 16 for s in near.support.tolist()})
    out = sample(far, strategies.dilated(), 3000)  # every copy in its coin's step
    assert_accuracy(far, out.sequences, 0.5**4)


def test_klass_waits_for_two_stable_steps():
    joint = joints.copy(list(range(10)))
    out = generate(joint, masks(joint, 1), strategies.klass(1), record=True)
    left = (out.history.states == joint.mask_id).sum(-1)[:, 0]
    assert left.tolist() == [10, 9, 8, 0]
    joint = joints.shuffle(6)  # never confident: one token at a time
    out = sample(joint, strategies.klass(1), 2000)
    assert (out.nfe == 6).all() and accuracy(joint, out.sequences) == 1


@pytest.mark.parametrize("strategy", [strategies.p2(6, 2.0), strategies.wino()])
def test_some_revision_leaves_one_at_a_time_alone(strategy):
    # Valid states never look wrong to these rules, so nothing is masked again.
    joint = joints.shuffle(6)
    out = sample(joint, strategy, 500)
    assert (out.nfe == 6).all()
    assert accuracy(joint, out.sequences) == 1


def test_running_confidence_undoes_one_at_a_time():
    # Three items in three steps. Step 1 keeps one token of confidence 1/3. Step 2
    # draws the other two with confidence 1/2 each and keeps these, drawn together:
    # they differ half the time. Step 3 fills the first position again.
    joint = joints.shuffle(3)
    out = sample(joint, strategies.rcr(3), 4000)
    assert (out.nfe == 3).all()
    assert_accuracy(joint, out.sequences, 1 / 2)


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda d: (strategies.p2(2, 1.5), ref.p2(2, 1.5)), None),
        (lambda d: (strategies.rcr(2), ref.rcr(2)), None),
        (lambda d: (strategies.wino(0.2, 0.9), ref.wino(d, 0.2, 0.9)), None),
        (lambda d: CLOCKED["cap"](3), 3),
        (lambda d: CLOCKED["rescale"](3), 3),
        (lambda d: CLOCKED["conf"](3), 3),
    ],
)
@pytest.mark.parametrize(
    "joint", [joints.cities(), joints.shuffle(3), joints.replace_random(3)]
)
def test_revision_on_exact_joints_equals_enumeration(joint, make, steps):
    strategy, rule = make(joint)
    law = ref.law(joint, [joint.mask_id] * joint.length, rule, steps=steps)
    out = sample(joint, strategy, 4000)
    assert not (out.sequences == joint.mask_id).any()
    assert_laws_agree(out.sequences, law)


# --- blocks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sizes", "block_length"),
    [
        ({"k": 3}, [3, 1, 3, 1, 2], 4),
        ({"k": 1}, [1] * 10, 3),
        ({"steps": 7}, [2, 2, 2, 2, 1, 1], 4),  # 7 // 3 = 2 steps a block
        ({"steps": 3}, [4, 4, 2], 4),
    ],
)
def test_blocks_have_the_closed_form_of_their_sizes(options, sizes, block_length):
    strategy = strategies.random_top_k(**options)
    for joint, closed in (
        (joints.shuffle(10), ref.shuffle_accuracy),
        (joints.replace_random(10), ref.replace_accuracy),
    ):
        out = sample(joint, strategy, 4000, block_length=block_length, record=True)
        left = (out.history.states == joint.mask_id).sum(-1)
        assert (left[:-1] - left[1:]).T.tolist() == [sizes] * 4000
        assert_accuracy(joint, out.sequences, float(closed(sizes)))
