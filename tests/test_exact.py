"""Laws of parallel decoding against sums of total correlations and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_tutorial import exact, joints, orders
from dllm_tutorial.denoiser import Denoiser, FunctionDenoiser, NoisyDenoiser
from dllm_tutorial.schedules import Linear, Polynomial
from helpers import RandomTableDenoiser, all_sequences

ALPHA = 1e-4  # error rate of each sampled test
CLOSE = {"abs": 1e-10}


def masked(joint) -> torch.Tensor:
    return torch.full((joint.length,), joint.mask_id)


def some_table(seed: int, vocab: int = 3, length: int = 4) -> joints.TableJoint:
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, 30, (), generator=generator))
    rows = torch.randperm(vocab**length, generator=generator)[:size]
    probs = torch.rand(size, generator=generator, dtype=torch.float64)
    support = all_sequences(vocab, length)[rows]
    return joints.TableJoint(support, probs / probs.sum(), vocab)


JOINTS = {
    "cities": joints.cities(),
    "shuffle": joints.shuffle(4),
    "replace_random": joints.replace_random(4),
    "table": some_table(0),
    "chain": joints.MarkovChain(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), 6),
}
every_joint = pytest.mark.parametrize("joint", JOINTS.values(), ids=JOINTS.keys())


# -------------------------------------------------------------------- the theorem


@every_joint
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_divergence_is_the_sum_of_conditional_total_correlations(joint, k):
    """(c): KL(p || law of decoding in blocks) = sum_b C(block b | earlier blocks)."""
    generator = torch.Generator().manual_seed(k)
    for _ in range(4):
        blocks = exact.blocks_of(orders.random_order(joint.length, generator), k)
        law = exact.parallel_law(joint, masked(joint), blocks)
        assert law.probs.sum().item() == pytest.approx(1, **CLOSE)
        divergence = exact.kl_divergence(joint, law)
        assert divergence == pytest.approx(
            sum(exact.step_costs(joint, blocks)), **CLOSE
        )


@given(st.integers(0, 10**6), st.permutations(range(4)), st.sets(st.integers(1, 3)))
def test_divergence_identity_for_any_table_and_any_blocks(seed, order, cuts):
    joint = some_table(seed)
    edges = [0, *sorted(cuts), 4]
    blocks = [order[a:b] for a, b in itertools.pairwise(edges)]
    law = exact.parallel_law(joint, masked(joint), blocks)
    costs = exact.step_costs(joint, blocks)
    assert min(costs) > -1e-10
    assert exact.kl_divergence(joint, law) == pytest.approx(sum(costs), **CLOSE)


@given(st.integers(0, 10**6), st.permutations(range(4)), st.sets(st.integers(1, 3)))
def test_splitting_a_block_never_costs_more(seed, order, cuts):
    """Why the best cost is non-increasing in the number of steps."""
    joint = some_table(seed)
    edges = [0, *sorted(cuts), 4]
    coarse = [order[a:b] for a, b in itertools.pairwise(edges)]
    fine = [part for block in coarse for part in exact.blocks_of(block, 1)]
    assert (
        sum(exact.step_costs(joint, fine))
        <= sum(exact.step_costs(joint, coarse)) + 1e-10
    )


def test_ordered_partitions_are_all_and_different():
    counts = [len(list(exact.ordered_partitions(range(n)))) for n in range(1, 6)]
    assert counts == [1, 3, 13, 75, 541]  # the Fubini numbers
    seen = {tuple(map(tuple, p)) for p in exact.ordered_partitions(range(4))}
    assert len(seen) == 75
    assert all(sorted(itertools.chain(*p)) == [0, 1, 2, 3] for p in seen)


@every_joint
def test_one_token_at_a_time_is_exact(joint):
    for order in (
        orders.left_to_right(joint.length),
        orders.right_to_left(joint.length),
    ):
        law = exact.parallel_law(joint, masked(joint), exact.blocks_of(order, 1))
        assert exact.kl_divergence(joint, law) == pytest.approx(0, **CLOSE)
    law = exact.random_top_k_law(joint, masked(joint), 1)
    assert exact.kl_divergence(joint, law) == pytest.approx(0, **CLOSE)


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_accuracy_is_at_least_the_exponential_of_minus_the_divergence(seed, k):
    joint = some_table(seed)
    law = exact.random_top_k_law(joint, masked(joint), k)
    bound = math.exp(-exact.kl_divergence(joint, law))
    assert exact.valid_probability(joint, law) >= bound - 1e-10


def test_a_law_starts_from_its_prompt():
    joint = joints.shuffle(4)
    x = torch.tensor([4, 2, 4, 4])
    law = exact.parallel_law(joint, x, [[3], [0, 2]])
    assert bool((law.support[:, 1] == 2).all())
    assert exact.valid_probability(joint, law) == pytest.approx(0.5, **CLOSE)
    law = exact.random_top_k_law(joint, x, 3)
    assert exact.valid_probability(joint, law) == pytest.approx(6 / 27, **CLOSE)


def test_random_top_k_is_the_mean_over_partitions_of_a_model_without_truth():
    model = RandomTableDenoiser(2, 3, seed=0)
    x = torch.full((3,), 2)
    law = exact.random_top_k_law(model, x, 2)
    sequences = all_sequences(2, 3)
    expected = torch.zeros(8, dtype=torch.float64)
    for last in range(3):
        first = [i for i in range(3) if i != last]
        part = exact.parallel_law(model, x, [first, [last]])
        expected += part.log_prob(sequences).exp() / 3
    torch.testing.assert_close(
        law.log_prob(sequences).exp(), expected, atol=1e-10, rtol=0
    )


# ------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("k", range(1, 7))
def test_closed_forms_are_the_enumerated_laws(n, k):
    for make, closed in [
        (joints.shuffle, exact.shuffle_accuracy),
        (joints.replace_random, exact.replace_random_accuracy),
    ]:
        joint = make(n)
        if n < 6 or k in (2, 3):
            law = exact.random_top_k_law(joint, masked(joint), k)
            assert exact.valid_probability(joint, law) == pytest.approx(
                closed(n, k), **CLOSE
            )
        blocks = exact.blocks_of(range(n), k)
        law = exact.parallel_law(joint, masked(joint), blocks)
        assert exact.valid_probability(joint, law) == pytest.approx(
            closed(n, k), **CLOSE
        )


def double_factorial(n: int) -> int:
    return math.prod(range(n, 0, -2))


@pytest.mark.parametrize("n", [2, 4, 6, 10, 16, 64])
def test_closed_forms_as_published(n):
    """Kang et al. 2025: one step, pairs, and the recursion of Replace Random."""
    pairs = double_factorial(n - 1) / double_factorial(n)
    assert exact.shuffle_accuracy(n, 2) == pytest.approx(pairs, **CLOSE)
    assert exact.shuffle_accuracy(n, n) == pytest.approx(
        math.factorial(n) / n**n, **CLOSE
    )
    one_step = ((n - 1) / n) ** (n - 1)
    assert exact.replace_random_accuracy(n, n) == pytest.approx(one_step, **CLOSE)
    success = 0.0
    for r in range(2, n + 1, 2):
        success = 2 / r * (1 - 1 / r) + (1 - 1 / r) ** 2 * success
    assert exact.replace_random_accuracy(n, 2) == pytest.approx(success, **CLOSE)


def test_published_values():
    for n, one, two in [(4, 9.375, 37.5), (6, 1.543, 31.25), (10, 0.036, 24.61)]:
        assert 100 * exact.shuffle_accuracy(n, n) == pytest.approx(one, abs=5e-4)
        assert 100 * exact.shuffle_accuracy(n, 2) == pytest.approx(two, abs=5e-3)
    for n, one in [(3, 44.44), (4, 42.19), (6, 40.19), (10, 38.74), (16, 37.98)]:
        assert 100 * exact.replace_random_accuracy(n, n) == pytest.approx(one, abs=6e-3)
    for n, two in [(6, 0.734), (10, 0.812), (16, 0.867)]:
        assert exact.replace_random_accuracy(n, 2) == pytest.approx(two, abs=1e-3)
    limit = exact.replace_random_accuracy(10**6, 10**6)
    assert limit == pytest.approx(1 / math.e, abs=1e-6)


def test_accuracy_is_two_to_minus_the_cost_for_shuffle_but_not_for_replace_random():
    """The law given a valid answer is the joint for Shuffle; for Replace Random in a
    fixed partition it is not, and the accuracy is strictly larger."""
    for n, k in [(4, 2), (5, 3), (6, 2)]:
        blocks = exact.blocks_of(range(n), k)
        cost = sum(exact.step_costs(joints.shuffle(n), blocks))
        assert exact.shuffle_accuracy(n, k) == pytest.approx(math.exp(-cost), **CLOSE)
    cost = sum(exact.step_costs(joints.replace_random(4), [[0, 1], [2, 3]]))
    assert exact.replace_random_accuracy(4, 2) > math.exp(-cost) + 1e-3


# ------------------------------------------------------------------ greedy Shuffle


@pytest.mark.parametrize("rho", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_two_options_in_closed_form(rho):
    """For two options the sign of a difference decides: Sheppard's formula."""
    p = exact.distinct_choice_probability(2, rho)
    assert p == pytest.approx(math.acos(rho) / math.pi, abs=1e-6)


@pytest.mark.parametrize("m", [1, 2, 3, 6, 16, 30])
def test_independent_and_shared_choices(m):
    assert exact.distinct_choice_probability(m, 0.0) == pytest.approx(
        1 - 1 / m, abs=1e-6
    )
    assert exact.distinct_choice_probability(m, 1.0) == 0
    values = [exact.distinct_choice_probability(m, r) for r in (0, 0.3, 0.6, 0.9)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("m", "rho"), [(3, 0.5), (6, 0.8), (16, 0.6)])
def test_choice_probability_against_simulation(m, rho):
    draws = 40_000
    logits = torch.zeros(draws, 2, m, dtype=torch.float64)
    noisy = NoisyDenoiser(still(logits), 1e-3, rho, torch.Generator().manual_seed(m))
    choice = noisy(torch.zeros(draws, 2, dtype=torch.long)).argmax(-1)
    distinct = (choice[:, 0] != choice[:, 1]).double().mean().item()
    p = exact.distinct_choice_probability(m, rho)
    z = (distinct - p) / math.sqrt(p * (1 - p) / draws)
    assert abs(z) < 3.9  # error rate 1e-4


def test_greedy_shuffle_with_independent_ties_is_the_closed_form():
    for n in (2, 3, 6, 10, 16):
        assert exact.greedy_shuffle_accuracy(n, 0.0) == pytest.approx(
            exact.shuffle_accuracy(n, 2), abs=1e-6
        )
        assert exact.greedy_shuffle_accuracy(n, 1.0) == 0


@pytest.mark.parametrize("n", [3, 6, 16])
def test_all_masked_positions_of_shuffle_have_one_conditional_to_the_bit(n):
    """So any tie rule that the positions share makes them choose the same item."""
    joint = joints.shuffle(n)
    x = joint.sample(20, torch.Generator().manual_seed(0))
    x[:, : n - 2] = torch.where(torch.rand(20, n - 2) < 0.5, x[:, : n - 2], n)
    x[:, n - 2 :] = n
    logits = joint(x)
    last = logits[:, -1:].expand_as(logits)
    assert torch.equal(logits[x == n], last[x == n])


# --------------------------------------------------------------------- the noise


class still:
    """A denoiser that answers with fixed logits."""

    def __init__(self, logits):
        self.logits, self.mask_id = logits, logits.shape[-1]

    def __call__(self, x):
        return self.logits[: len(x)]


def test_noise_has_the_stated_size_and_correlation():
    logits = torch.zeros(20_000, 3, 2, dtype=torch.float64)
    noisy = NoisyDenoiser(still(logits), 0.5, 0.36, torch.Generator().manual_seed(0))
    error = noisy(torch.zeros(20_000, 3, dtype=torch.long))
    assert isinstance(noisy, Denoiser)
    table = torch.corrcoef(error.flatten(1).T)  # (position, token) pairs
    expected = torch.eye(6, dtype=torch.float64)
    for a, b in itertools.product(range(6), repeat=2):
        if a != b and a % 2 == b % 2:
            expected[a, b] = 0.36
    assert (table - expected).abs().max() < 4.5 / math.sqrt(20_000)
    assert error.std().item() == pytest.approx(0.5, rel=0.02)


def test_noise_leaves_impossible_tokens_impossible():
    joint = joints.cities()
    x = torch.tensor([[0, 6]])
    noisy = NoisyDenoiser(joint, 3.0, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(noisy(x) == -math.inf, joint(x) == -math.inf)
    same = NoisyDenoiser(joint, 0.0, 0.5)
    assert torch.equal(same(x), joint(x))


BAD_INPUT = [
    (lambda: exact.blocks_of(range(4), 0), ValueError, "k must"),
    (
        lambda: exact.parallel_law(joints.cities(), torch.tensor([6, 6]), [[0]]),
        ValueError,
        "blocks",
    ),
    (
        lambda: exact.random_top_k_law(joints.cities(), torch.tensor([[6, 6]]), 1),
        ValueError,
        "x must",
    ),
    (lambda: exact.shuffle_accuracy(0, 1), ValueError, "n must"),
    (lambda: exact.replace_random_accuracy(3, 0), ValueError, "k must"),
    (lambda: exact.distinct_choice_probability(3, 1.5), ValueError, "rho"),
    (lambda: NoisyDenoiser(joints.cities(), -1.0, 0.5), ValueError, "scale"),
]


@pytest.mark.parametrize(("call", "error", "name"), BAD_INPUT)
def test_bad_input_is_named(call, error, name):
    with pytest.raises(error, match=name):
        call()


def with_mask_column(inner, place):
    """The same denoiser with a likely column for the mask, which has id ``place``."""
    tokens = torch.tensor([v for v in range(inner.mask_id + 1) if v != place])
    inside = torch.full((inner.mask_id + 1,), inner.mask_id)
    inside[tokens] = torch.arange(inner.mask_id)

    def logits(x):
        wide = torch.full((*x.shape, inner.mask_id + 1), 5.0, dtype=torch.float64)
        wide[..., tokens] = inner(inside[x])
        return wide

    return FunctionDenoiser(logits, place), tokens


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_a_column_for_the_mask_changes_no_law(place, dtype):
    inner = RandomTableDenoiser(2, 3, seed=5)
    denoiser, tokens = with_mask_column(inner, place)
    x, start = torch.full((3,), 2), torch.full((3,), place, dtype=dtype)
    blocks = [[0, 2], [1]]
    for wanted, got in (
        (
            exact.parallel_law(inner, x, blocks),
            exact.parallel_law(denoiser, start, blocks),
        ),
        (
            exact.random_top_k_law(inner, x, 2),
            exact.random_top_k_law(denoiser, start, 2),
        ),
    ):
        log_q = got.log_prob(tokens[wanted.support])
        assert torch.allclose(log_q.exp(), wanted.probs, atol=1e-12)


def test_a_sequence_of_weight_zero_costs_nothing():
    support = torch.tensor([[0, 0], [1, 1], [0, 1]])
    joint = joints.TableJoint(support, torch.tensor([0.5, 0.5, 0.0]), 2)
    # T = 1 draws both at once: log 2; T = 2 does so with probability 1/2, and then KL
    # is that of the mixture: log(1 / 2) - log(1/2 (1/2 + 1/4))
    kl = exact.ancestral_kl(joint, Linear(), [1, 2])
    assert kl == pytest.approx([math.log(2), math.log(4 / 3)], abs=1e-12)


def test_a_steep_schedule_reveals_everything_in_its_last_steps():
    inner = RandomTableDenoiser(2, 3, seed=5)
    x = all_sequences(2, 3)
    log_p = exact.ancestral_log_prob(inner, x, Polynomial(200.0), 64)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_an_ancestral_law_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="joint must have"):
        exact.ancestral_law(joints.shuffle(9), Linear(), 2)
