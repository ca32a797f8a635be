"""Exact joints against enumeration, published constants and one another."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from dllm_tutorial import joints
from dllm_tutorial.denoiser import Denoiser
from helpers import all_sequences, chi_square_p

ALPHA = 1e-4  # error rate of each sampled test
EXACT = {"atol": 1e-10, "rtol": 0}


def uneven(seed: int = 0, size: int = 7, length: int = 4, vocab: int = 3):
    """A table with random support and probabilities."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(vocab**length, generator=generator)[:size]
    probs = torch.rand(size, generator=generator, dtype=torch.float64)
    support = all_sequences(vocab, length)[rows]
    return joints.TableJoint(support, probs / probs.sum(), vocab)


def random_chain(seed: int, vocab: int, order: int, length: int, zeros: float = 0.0):
    """A chain with random transitions, some of them impossible."""
    generator = torch.Generator().manual_seed(seed)
    shape = (vocab,) * (order + 1)
    p = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.01
    p[torch.rand(shape, generator=generator) < zeros] = 0
    p[..., 0] += p.sum(-1) == 0
    initial = torch.rand((vocab,) * order, generator=generator, dtype=torch.float64)
    p, initial = p / p.sum(-1, keepdim=True), initial / initial.sum()
    return joints.MarkovChain(p, length, initial)


def brute_force(table: joints.TableJoint, row: Tensor) -> Tensor:
    """Conditionals of one state, by a plain walk through the support."""
    mass = torch.zeros(table.length, table.vocab_size, dtype=torch.float64)
    for sequence, p in zip(table.support.tolist(), table.probs.tolist(), strict=True):
        if all(
            r in (s, table.mask_id) for r, s in zip(row.tolist(), sequence, strict=True)
        ):
            for i, token in enumerate(sequence):
                mass[i, token] += p
    total = mass.sum(-1, keepdim=True)
    if float(total[0]) == 0:
        return torch.full_like(mass, 1 / table.vocab_size)
    return mass / total


def brute_entropy(table: joints.TableJoint, positions) -> float:
    law: dict[tuple[int, ...], float] = {}
    for sequence, p in zip(table.support.tolist(), table.probs.tolist(), strict=True):
        key = tuple(sequence[i] for i in positions)
        law[key] = law.get(key, 0.0) + p
    return -math.fsum(p * math.log(p) for p in law.values() if p > 0)


def masked_states(joint: joints.Joint, n: int, seed: int = 0) -> Tensor:
    """Randomly masked samples, and arbitrary, often impossible, states."""
    generator = torch.Generator().manual_seed(seed)
    x = joint.sample(n, generator)
    x[torch.rand(x.shape, generator=generator) < 0.5] = joint.mask_id
    shape = (n, joint.length)
    wild = torch.randint(0, joint.vocab_size + 1, shape, generator=generator)
    return torch.cat([x, wild])


SMALL = {
    "cities": joints.cities,
    "shuffle": lambda: joints.shuffle(4),
    "replace_random": lambda: joints.replace_random(4),
    "latin_square": lambda: joints.latin_square(3),
    "reverse": lambda: joints.reverse([2, 0, 1, 1]),
    "uneven": uneven,
    "chain 1": lambda: random_chain(1, 3, 1, 5, 0.2),
    "chain 2": lambda: random_chain(2, 3, 2, 5, 0.3),
    "chain 3": lambda: random_chain(3, 2, 3, 6, 0.2),
    "chain of length m": lambda: random_chain(4, 2, 3, 3),
}
small = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


# ---------------------------------------------------------------- the denoiser


@small
def test_conditionals_are_those_of_the_enumerated_joint(make):
    joint = make()
    table = joint.table()
    x = masked_states(joint, 40)
    expected = torch.stack([brute_force(table, row) for row in x])
    torch.testing.assert_close(joint(x).exp(), expected, **EXACT)
    assert isinstance(joint, Denoiser) and joint.mask_id == joint.vocab_size


@small
def test_impossible_tokens_get_exactly_no_probability(make):
    joint = make()
    x = masked_states(joint, 40)
    expected = torch.stack([brute_force(joint.table(), row) for row in x])
    assert torch.equal(joint(x) == -math.inf, expected == 0)


@small
def test_a_row_does_not_depend_on_its_batch(make):
    joint = make()
    x = masked_states(joint, 60)
    together = joint(x)
    assert torch.equal(together, torch.cat([joint(row[None]) for row in x]))
    assert torch.equal(together[5:12], joint(x[5:12]))


def test_a_row_does_not_depend_on_chunks(monkeypatch):
    joint = uneven()
    x = masked_states(joint, 30)
    together = joint(x), joint.log_prob(joint.support)
    monkeypatch.setattr(joints, "_MATCH_CELLS", 20)  # two or three rows at a time
    assert torch.equal(together[0], joint(x))
    assert torch.equal(together[1], joint.log_prob(joint.support))


def test_uneven_weights_do_not_depend_on_the_order_of_the_support():
    """Sums of the same weights tie exactly, in whatever order they are added."""
    joint = uneven(size=40)
    x = masked_states(joint, 100)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        order = torch.randperm(40, generator=generator)
        other = joints.TableJoint(joint.support[order], joint.probs[order], 3)
        assert torch.equal(joint(x), other(x))


# ------------------------------------------------------------------- rare events


def log_ratio(part: Fraction, whole: Fraction) -> float:
    """log(part / whole), right whatever their size; nothing of nothing is -inf."""
    ratio = part / whole if whole else Fraction(0)
    if not ratio:
        return -math.inf
    return math.log(ratio.numerator) - math.log(ratio.denominator)


def agrees(row, x, mask: int) -> bool:
    return all(r in (v, mask) for r, v in zip(row, x, strict=True))


def exact_logits(law: dict[tuple[int, ...], Fraction], row, vocab: int) -> Tensor:
    """log P(x_i = v | row), from exact probabilities of whole sequences."""
    agreeing = {x: p for x, p in law.items() if agrees(row, x, vocab)}
    total = sum(agreeing.values())
    return torch.tensor(
        [
            [
                log_ratio(sum(p for x, p in agreeing.items() if x[i] == v), total)
                for v in range(vocab)
            ]
            for i in range(len(row))
        ],
        dtype=torch.float64,
    )


def exact_chain(transition: Tensor, length: int, initial: Tensor):
    """Every sequence of a chain of order one with its exact probability."""
    step = [[Fraction(p) for p in row] for row in transition.tolist()]
    start = [Fraction(p) for p in initial.tolist()]
    law = {}
    for x in itertools.product(range(len(step)), repeat=length):
        p = start[x[0]] / sum(start)
        for u, v in itertools.pairwise(x):
            p *= step[u][v] / sum(step[u])
        law[x] = p
    return law


def possible_states(law, vocab: int, length: int) -> list[tuple[int, ...]]:
    seen = [x for x, p in law.items() if p]
    states = itertools.product(range(vocab + 1), repeat=length)
    return [s for s in states if any(agrees(s, x, vocab) for x in seen)]


NINE = {"atol": 1e-9, "rtol": 0}  # of logarithms: probabilities right to 1e-9


@given(st.integers(0, 10**6), st.integers(2, 9), st.sampled_from([30, 150, 400, 1070]))
def test_conditionals_of_a_table_are_right_whatever_the_range(seed, size, depth):
    """Probabilities from 1 down to 2^-depth, against fractions, for every evidence."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
    probs *= 2.0 ** -torch.randint(1, depth, (size,), generator=generator)
    probs[0] = 1 - probs[1:].sum()
    support = all_sequences(2, 4)[torch.randperm(16, generator=generator)[:size]]
    joint = joints.TableJoint(support, probs, 2)
    law = {
        tuple(x): Fraction(p)
        for x, p in zip(support.tolist(), probs.tolist(), strict=True)
    }
    states = possible_states(law, 2, 4)
    expected = torch.stack([exact_logits(law, row, 2) for row in states])
    torch.testing.assert_close(joint(torch.tensor(states)), expected, **NINE)


@pytest.mark.parametrize("a", [2.0**-140, 1e-15, 1e-60, 1e-200, 5e-324])
def test_the_ratio_of_two_rare_rows_is_kept(a):
    support = torch.tensor([[0, 0], [1, 0], [1, 1]])
    probs = torch.tensor([1 - 4 * a, a, 3 * a], dtype=torch.float64)
    joint = joints.TableJoint(support, probs, 2)
    assert torch.isfinite(joint.log_prob(support)).all()
    p = joint(torch.tensor([[1, 2]])).exp()[0]
    expected = torch.tensor([[0.0, 1.0], [0.25, 0.75]]).double()
    torch.testing.assert_close(p, expected, **EXACT)
    x = masked_states(joint, 50)
    assert torch.equal(joint(x), torch.cat([joint(row[None]) for row in x]))


def test_the_table_of_a_chain_knows_what_the_chain_knows():
    """A token of 2 % over 14 positions: 2^-79 against 1."""
    p = torch.tensor([[0.98, 0.02], [0.97, 0.03]], dtype=torch.float64)
    chain = joints.MarkovChain(p, 14)
    x = masked_states(chain, 30)
    x[:10] = torch.where(torch.rand(10, 14) < 0.5, 1, 2)
    torch.testing.assert_close(chain.table()(x), chain(x), **NINE)


@given(st.integers(0, 10**6), st.sampled_from([40, 160, 500, 1000]))
def test_conditionals_of_a_chain_are_right_whatever_the_range(seed, depth):
    """What comes before speaks against what comes after: products of 2^-4000."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 3)
    p = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    p *= 2.0 ** -torch.randint(0, depth, shape, generator=generator)
    p[torch.rand(shape, generator=generator) < 0.2] = 0
    p += (p.sum(-1, keepdim=True) == 0) * torch.eye(3)
    p /= p.sum(-1, keepdim=True)
    chain = joints.MarkovChain(p, 5, p[0])
    law = exact_chain(p, 5, p[0])
    states = possible_states(law, 3, 5)[:: 1 + seed % 7]
    expected = torch.stack([exact_logits(law, row, 3) for row in states])
    x = torch.tensor(states)
    torch.testing.assert_close(chain(x), expected, **NINE)
    assert torch.equal(chain(x), torch.cat([chain(row[None]) for row in x]))


def test_forward_and_backward_may_be_rare_together():
    """Of three states, one fits the beginning, one the end, and one both, hardly."""
    a = 1e-200
    p = torch.tensor(
        [[1.0, a, 0.0], [0.0, 1.0, a], [0.0, 0.0, 1.0]], dtype=torch.float64
    )
    chain = joints.MarkovChain(p, 5, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    found = chain(torch.tensor([[0, 3, 3, 3, 2]]))[0].exp()
    # 1 is entered and left at any two of four steps: six ways of probability a^2
    ways = torch.tensor([[6, 0, 0], [3, 3, 0], [1, 4, 1], [0, 3, 3], [0, 0, 6]])
    torch.testing.assert_close(found, ways.double() / 6, **EXACT)


@pytest.mark.parametrize("a", [0.3, 1e-9, 1e-20, 1e-140])
def test_a_stationary_law_is_right_where_it_is_rare(a):
    """Birth and death: pi_(i+1) / pi_i = up / down, in closed form, at 70 states."""
    up = torch.full((69,), 0.2, dtype=torch.float64)
    up[:2] = a
    down = torch.full((69,), 0.3, dtype=torch.float64)
    p = up.diag(1) + down.diag(-1)
    p += (1 - p.sum(1)).diag()
    chain = joints.MarkovChain(p, 1)
    law = [Fraction(1)]
    for i in range(69):
        rise, fall = chain.transition[i, i + 1], chain.transition[i + 1, i]
        law.append(law[-1] * Fraction(rise.item()) / Fraction(fall.item()))
    expected = torch.tensor([log_ratio(q, sum(law)) for q in law], dtype=torch.float64)
    torch.testing.assert_close(chain.initial.log(), expected, **NINE)


def test_a_stationary_law_that_underflows_is_refused():
    a = 1e-200  # the last state has probability a^2
    p = torch.tensor([[1, a, 0], [1, 0, a], [1, 0, 0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="initial must be given"):
        joints.MarkovChain(p, 4)


def test_a_table_that_would_lose_sequences_is_refused():
    p = torch.tensor([[1.0, 1e-100], [1.0, 1e-100]], dtype=torch.float64)
    assert joints.MarkovChain(p, 3).table().log_prob(torch.ones(1, 3).long()) < -690
    with pytest.raises(ValueError, match="every possible sequence"):
        joints.MarkovChain(p, 4).table()


@small
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_tokens_of_any_integer_type(make, dtype):
    joint = make()
    x, full = masked_states(joint, 20), joint.sample(20)
    assert torch.equal(joint(x.to(dtype)), joint(x))
    assert torch.equal(joint.log_prob(full.to(dtype)), joint.log_prob(full))
    assert joint.text(full[0].to(dtype)) == joint.text(full[0])


def test_small_integers_meet_a_large_vocabulary():
    """Nothing wraps around where the mask does not fit the type."""
    joint = joints.shuffle(300)
    x = torch.full((2, 300), 44)  # 300 modulo 256
    assert torch.equal(joint(x.to(torch.uint8)), joint(x))
    assert joint.log_prob(x.to(torch.uint8)).tolist() == [-math.inf] * 2


@small
def test_a_batch_may_be_empty(make):
    joint = make()
    x = torch.empty(0, joint.length, dtype=torch.long)
    assert joint(x).shape == (0, joint.length, joint.vocab_size)
    assert joint.log_prob(x).shape == (0,)
    assert joint.sample(0).shape == (0, joint.length)


@small
def test_impossible_evidence_is_answered_uniformly(make):
    joint = make()
    x = all_sequences(joint.vocab_size, joint.length)
    x = x[joint.log_prob(x) == -math.inf]
    uniform = torch.full_like(joint(x), 1 / joint.vocab_size)
    torch.testing.assert_close(joint(x).exp(), uniform, **EXACT)


@small
@pytest.mark.parametrize("beyond", [-1, 1, 5])
def test_a_token_outside_the_vocabulary_is_refused(make, beyond):
    joint = make()
    token = beyond if beyond < 0 else joint.vocab_size + beyond
    x = joint.sample(2, torch.Generator().manual_seed(0))
    x[1, -1] = token
    for call in (joint, joint.log_prob, lambda x: joint.table().condition(x[1])):
        with pytest.raises(ValueError, match=f"x must hold tokens .* {token}"):
            call(x)


def test_shuffle_with_a_repeated_item_is_impossible_evidence():
    joint = joints.shuffle(20)
    x = torch.full((1, 20), joint.mask_id)
    x[0, 3] = x[0, 7] = 2
    uniform = torch.full((1, 20, 20), 1 / 20, dtype=torch.float64)
    assert torch.equal(joint(x), uniform.log())
    assert joint.log_prob(torch.zeros(1, 20, dtype=torch.long)).item() == -math.inf


def test_shuffle_in_closed_form_is_the_table_of_all_orders():
    closed = joints.shuffle(5)
    table = closed.table()
    x = masked_states(closed, 200)
    torch.testing.assert_close(closed(x), table(x), **EXACT)
    for positions, past in [([0], []), ([1, 4], [2]), (range(5), []), ([0, 1], [2, 3])]:
        here = closed.entropy(positions, past)
        assert here == pytest.approx(table.entropy(positions, past), abs=1e-10)


# --------------------------------------------------------------- probabilities


@small
def test_log_prob_is_a_distribution_and_matches_the_chain_rule(make):
    joint = make()
    everything = all_sequences(joint.vocab_size, joint.length)[: 1 << 13]
    p = joint.log_prob(everything).exp()
    if joint.vocab_size**joint.length <= 1 << 13:
        assert p.sum().item() == pytest.approx(1, abs=1e-10)
    table = joint.table()
    index = {tuple(row): i for i, row in enumerate(table.support.tolist())}
    expected = [
        table.probs[index[row]].item() if row in index else 0.0
        for row in map(tuple, everything.tolist())
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(p, expected, **EXACT)


@small
def test_samples_follow_the_joint(make):
    joint = make()
    samples = joint.sample(4000, torch.Generator().manual_seed(7))
    table = joint.table()
    assert chi_square_p(samples, table.support, table.probs) > ALPHA
    again = joint.sample(4000, torch.Generator().manual_seed(7))
    assert torch.equal(samples, again)


def test_sampling_never_draws_what_is_impossible():
    p = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    u = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert joints._inverse_cdf(p, u).tolist() == [1, 1, 3, 3, 3]
    assert joints._inverse_cdf(p.expand(5, -1), u).tolist() == [1, 1, 3, 3, 3]


# ------------------------------------------------------------------- entropies


@small
def test_entropies_of_every_pair_of_sets(make):
    joint = make()
    table = joint.table()
    sets = [
        tuple(i for i in range(joint.length) if bits >> i & 1)
        for bits in range(1 << joint.length)
    ]
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(0, len(sets), (30, 2), generator=generator).tolist()
    for a, b in picks:
        both = sorted({*sets[a], *sets[b]})
        expected = brute_entropy(table, both) - brute_entropy(table, sets[b])
        assert joint.entropy(sets[a], sets[b]) == pytest.approx(expected, abs=1e-10)


def test_positions_may_be_tensors_ranges_and_sets():
    joint = joints.shuffle(5)
    expected = joint.entropy([0, 1], [3, 4])
    for block, past in [(range(2), {3, 4}), (torch.arange(2), torch.tensor([4, 3]))]:
        assert joint.entropy(block, past) == expected
    assert joint.entropy([], [0]) == joint.total_correlation([], [0]) == 0
    assert joint.entropy([1, 1]) == joint.entropy([1])


@small
def test_total_correlation_is_a_divergence_from_independence(make):
    """C(S | G) is the mean over x_G of KL(p(x_S | x_G) || product of marginals)."""
    joint = make()
    table = joint.table()
    past, block = (0,), tuple(range(1, joint.length))
    if joint.length == 2:
        past, block = (), (0, 1)
    expected = 0.0
    for sequence, p in zip(table.support.tolist(), table.probs.tolist(), strict=True):
        state = torch.full((1, joint.length), joint.mask_id)
        state[0, list(past)] = torch.tensor(sequence)[list(past)]
        apart = joint(state)[0]
        together = brute_entropy_log_ratio(table, sequence, past)
        expected += p * (together - sum(apart[i, sequence[i]].item() for i in block))
    assert joint.total_correlation(block, past) == pytest.approx(expected, abs=1e-10)


def brute_entropy_log_ratio(table, sequence, past) -> float:
    """log p(x_rest | x_past) of one sequence."""
    seen = 0.0
    for other, p in zip(table.support.tolist(), table.probs.tolist(), strict=True):
        seen += p * all(other[i] == sequence[i] for i in past)
    match = (table.support == torch.tensor(sequence)).all(1)
    return math.log(table.probs[match].item() / seen)


@given(st.integers(0, 10**6), st.integers(1, 3), st.data())
def test_markov_entropies_for_any_sets(seed, order, data):
    chain = random_chain(seed, 2, order, 6, zeros=0.2)
    table = chain.table()
    sets = st.sets(st.integers(0, 5))
    block, past = data.draw(sets), data.draw(sets)
    here = chain.entropy(block, past)
    assert here == pytest.approx(table.entropy(block, past), abs=1e-10)


@given(st.integers(0, 10**6), st.integers(1, 3), st.data())
def test_markov_conditionals_for_any_evidence(seed, order, data):
    chain = random_chain(seed, 3, order, 5, zeros=0.3)
    row = data.draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))
    x = torch.tensor([row])
    expected = brute_force(chain.table(), x[0])
    torch.testing.assert_close(chain(x)[0].exp(), expected, **EXACT)


# (f): constants of the literature. C in nats; one-shot validity where it is exact.


def test_constants_of_the_cities():
    joint = joints.cities()
    assert joint.entropy() == pytest.approx(2 * math.log(2), abs=1e-10)
    assert joint.total_correlation() == pytest.approx(math.log(2), abs=1e-10)
    p = joint(torch.full((1, 2), joint.mask_id))[0].exp()
    valid = sum(p[0, a] * p[1, b] for a, b in joint.support.tolist())
    assert valid.item() == pytest.approx(0.5, abs=1e-10)
    new, city = joint.words.index("New"), joint.words.index("City")
    assert (p[0, new] * p[1, city]).item() == pytest.approx(0.25, abs=1e-10)
    assert joint.text(torch.tensor([new, joint.mask_id])) == "New _"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 10, 16, 20])
def test_constants_of_shuffle(n):
    joint = joints.shuffle(n)
    log_factorial = math.lgamma(n + 1)
    assert joint.entropy() == pytest.approx(log_factorial, abs=1e-10)
    c = n * math.log(n) - log_factorial
    assert joint.total_correlation() == pytest.approx(c, abs=1e-10)
    # A block of k after m, equation of the conditional total correlation.
    m, k = n // 3, n // 2
    c = k * math.log(n - m) - math.lgamma(n - m + 1) + math.lgamma(n - m - k + 1)
    here = joint.total_correlation(range(m, m + k), range(m))
    assert here == pytest.approx(c, abs=1e-10)


@pytest.mark.parametrize(
    ("n", "bits", "percent"), [(3, 2.170, 22.22), (4, 3.415, 9.375), (6, 6.018, 1.543)]
)
def test_shuffle_in_one_step_as_published(n, bits, percent):
    joint = joints.shuffle(n)
    c = joint.total_correlation() / math.log(2)
    assert c == pytest.approx(bits, abs=5e-4)
    p = joint(torch.full((1, n), joint.mask_id))[0].exp()
    orders = itertools.permutations(range(n))
    valid = sum(math.prod(p[i, v].item() for i, v in enumerate(o)) for o in orders)
    assert 100 * valid == pytest.approx(percent, abs=5e-3)
    assert valid == pytest.approx(math.exp(-joint.total_correlation()), abs=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 10, 16, 64])
def test_constants_of_replace_random(n):
    joint = joints.replace_random(n)
    c = (n - 1) * math.log(n / (n - 1)) if n > 1 else 0.0
    assert joint.entropy() == pytest.approx(math.log(n), abs=1e-10)
    assert joint.total_correlation() == pytest.approx(c, abs=1e-10)
    p = joint(torch.full((1, n), joint.mask_id))[0].exp()
    assert p.diagonal(dim1=0, dim2=1).sum() == pytest.approx(n - 1, abs=1e-10)
    assert p[:, n].tolist() == pytest.approx([1 / n] * n, abs=1e-10)


@pytest.mark.parametrize(
    ("joint", "size", "entropy", "c", "valid"),
    [
        (joints.latin_square(4), 576, 6.3561, 15.8246, 1.34e-7),
        (joints.sudoku(), 288, 5.6630, 16.5177, 6.7e-8),
    ],
    ids=["latin square", "sudoku"],
)
def test_constants_of_the_puzzles(joint, size, entropy, c, valid):
    assert joint.support.shape == (size, 16)
    assert joint.entropy() == pytest.approx(entropy, abs=5e-5)
    assert joint.entropy() == pytest.approx(math.log(size), abs=1e-10)
    assert joint.total_correlation() == pytest.approx(c, abs=5e-5)
    p = joint(torch.full((1, 16), 4))[0].exp()
    assert size * p[0, 0].item() ** 16 == pytest.approx(valid, rel=5e-3)


def test_puzzles_are_what_they_are_called():
    for grid in joints.sudoku().support.view(-1, 4, 4).tolist():
        lines = [*grid, *zip(*grid, strict=True)]
        lines += [
            [grid[r + i][c + j] for i in (0, 1) for j in (0, 1)]
            for r in (0, 2)
            for c in (0, 2)
        ]
        assert all(sorted(line) == [0, 1, 2, 3] for line in lines)
    sizes = [len(joints.latin_square(n).support) for n in (1, 2, 3, 4)]
    assert sizes == [1, 2, 12, 576]


def test_point_masses():
    items = [3, 1, 2, 1]
    answers = {
        joints.copy(items): [3, 1, 2, 1],
        joints.reverse(items): [1, 2, 1, 3],
        joints.sort(items): [1, 1, 2, 3],
        joints.replace_index(items, 2, 5): [3, 1, 5, 1],
    }
    for joint, answer in answers.items():
        assert joint.sample(3).tolist() == [answer] * 3
        assert joint.entropy() == joint.total_correlation() == 0
        logits = joint(torch.full((1, 4), joint.mask_id))
        assert logits.argmax(-1).tolist() == [answer] and logits.max() == 0
    assert joints.copy(items, vocab_size=9).vocab_size == 9
    assert joints.sort(torch.tensor(items)).sample(1).tolist() == [[1, 1, 2, 3]]


# --------------------------------------------------------------- Markov chains


def test_stationary_law_is_stationary():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64)
    chain = joints.MarkovChain(p / p.sum(-1, keepdim=True), 6)
    table = chain.table()
    first = [brute_entropy(table, (i, i + 1)) for i in range(5)]
    assert first == pytest.approx([first[0]] * 5, abs=1e-10)
    moved = chain._push(chain.initial[None])[0]
    torch.testing.assert_close(moved, chain.initial, **EXACT)


def test_stationary_law_gives_transient_states_exactly_nothing():
    """Token 2 is left at once and never comes back."""
    p = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    chain = joints.MarkovChain(p, 2)
    expected = torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64)
    torch.testing.assert_close(chain.initial, expected, **EXACT)
    assert chain.initial[2] == 0


def test_two_state_chain_in_closed_form():
    """Powers of a 2 x 2 chain: p(x_i = x_0) decays with the eigenvalue 1 - a - b."""
    a, b = 0.3, 0.2
    p = torch.tensor([[1 - a, a], [b, 1 - b]], dtype=torch.float64)
    chain = joints.MarkovChain(p, 64)
    pi = torch.tensor([b, a], dtype=torch.float64) / (a + b)
    x = torch.full((1, 64), 2)
    x[0, 0] = 0
    p = chain(x)[0].exp()
    steps = torch.arange(64, dtype=torch.float64)
    expected = pi[0] + pi[1] * (1 - a - b) ** steps
    torch.testing.assert_close(p[:, 0], expected, **EXACT)
    rate = pi[0] * h(a) + pi[1] * h(b)
    assert chain.entropy_rate() == pytest.approx(rate.item(), abs=1e-10)
    entropy = h(pi[0].item()) + 63 * rate.item()
    assert chain.entropy() == pytest.approx(entropy, abs=1e-9)


def h(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_long_chains_of_order_one_see_only_their_neighbours():
    """p(x_i | left neighbour at a, right one at b) from powers of the transition."""
    chain = random_chain(5, 4, 1, 80)
    power = torch.linalg.matrix_power
    x = torch.full((1, 80), 4)
    x[0, 3], x[0, 10], x[0, 40] = 2, 1, 3
    p = chain(x)[0].exp()
    for i in (11, 25, 39):
        left = power(chain.transition, i - 10)[1]
        right = power(chain.transition, 40 - i)[:, 3]
        expected = left * right / (left * right).sum()
        torch.testing.assert_close(p[i], expected, **EXACT)
    torch.testing.assert_close(p[45], power(chain.transition, 5)[3], **EXACT)


def test_long_chain_entropy_is_initial_plus_transitions():
    chain = random_chain(6, 4, 2, 64)
    window, total = chain.initial, torch.special.entr(chain.initial).sum().item()
    for _ in range(62):
        total += (window @ torch.special.entr(chain.transition).sum(-1)).item()
        window = (
            (window.view(4, 4, 1) * chain.transition.view(4, 4, 4)).sum(0).flatten()
        )
    assert chain.entropy() == pytest.approx(total, abs=1e-9)


def test_order_two_that_ignores_its_oldest_token_is_order_one():
    p = random_chain(7, 3, 1, 10).transition
    one = joints.MarkovChain(p, 10)
    two = joints.MarkovChain(p.expand(3, 3, 3), 10)
    x = masked_states(one, 50)
    torch.testing.assert_close(one(x).exp(), two(x).exp(), **EXACT)
    evens = range(0, 10, 2)
    assert one.entropy(evens) == pytest.approx(two.entropy(evens), abs=1e-9)


def test_a_deterministic_chain_keeps_its_zeros():
    """0 -> 1 -> 2 -> 0: one token tells all, and a contradiction is impossible."""
    chain = joints.MarkovChain(torch.eye(3).roll(1, 1), 64)
    assert chain.entropy() == pytest.approx(math.log(3), abs=1e-10)
    assert chain.total_correlation() == pytest.approx(63 * math.log(3), abs=1e-9)
    x = torch.full((2, 64), 3)
    x[0, 10] = 0
    x[1, 10], x[1, 11] = 0, 0
    p = chain(x).exp()
    assert p[0].argmax(-1).tolist() == [(i - 10) % 3 for i in range(64)]
    assert torch.equal(p[0].amax(-1), torch.ones(64).double())
    assert p[1].flatten().tolist() == pytest.approx([1 / 3] * 192, abs=1e-10)


def test_too_many_histories_is_an_error():
    chain = random_chain(8, 4, 2, 64)
    with pytest.raises(ValueError, match="histories"):
        chain.entropy(range(0, 64, 2))


def test_a_chain_samples_its_transitions():
    chain = random_chain(9, 3, 1, 40, zeros=0.2)
    x = chain.sample(200, torch.Generator().manual_seed(0))
    pairs = torch.zeros(3, 3, dtype=torch.float64)
    pairs.index_put_(
        (x[:, :-1].flatten(), x[:, 1:].flatten()), torch.ones(7800).double(), True
    )
    assert bool((pairs[chain.transition == 0] == 0).all())
    for counts, p in zip(pairs, chain.transition, strict=True):
        seen = p > 0
        expected = (p * counts.sum())[seen].numpy()
        assert stats.chisquare(counts[seen].numpy(), expected).pvalue > ALPHA


# ------------------------------------------------------------ tables, devices, errors


def test_condition_is_the_posterior_table():
    joint = uneven(3)
    x = torch.full((4,), joint.mask_id)
    x[1] = joint.support[0, 1]
    posterior = joint.condition(x)
    torch.testing.assert_close(
        posterior(torch.full((1, 4), 3)).exp(), joint(x[None]).exp(), **EXACT
    )
    assert joints.cities().condition(torch.tensor([0, 6])).entropy() == pytest.approx(
        math.log(2), abs=1e-10
    )
    with pytest.raises(ValueError, match="positive probability"):
        joints.cities().condition(torch.tensor([0, 4]))


def test_to_changes_the_answers_type_and_device():
    for make in SMALL.values():
        joint = make()
        single = joint.to(dtype=torch.float32)
        x = masked_states(joint, 5)
        assert (
            single(x).dtype == single.log_prob(joint.sample(2)).dtype == torch.float32
        )
        assert joint(x).dtype == torch.float64
        moved = joint.to("meta")
        assert moved(x.to("meta")).device.type == "meta"
        assert joint(x).device.type == "cpu"


@small
def test_a_call_never_waits_for_the_device(make):
    """On the meta device nothing can be looked at: a look would raise."""
    joint = make().to("meta")
    shape = 3, joint.length, joint.vocab_size
    x = torch.full((3, joint.length), joint.mask_id, device="meta")
    assert joint(x).shape == shape


BAD_INPUT = [
    # call, error, the argument it names
    (lambda: table([[0, 1], [0, 1]]), ValueError, "support"),
    (lambda: table([[0, 2]]), ValueError, "support"),
    (lambda: table([[0.0, 1.0]]), TypeError, "support"),
    (lambda: table([[0], [1]], [0.5, 0.6]), ValueError, "probs"),
    (lambda: table([[0], [1]], [1.5, -0.5]), ValueError, "probs"),
    (lambda: table([[0], [1]], [1.0]), ValueError, "probs"),
    (lambda: joints.shuffle(0), ValueError, "n must"),
    (lambda: joints.shuffle(2.0), TypeError, "n must"),
    (lambda: joints.shuffle(12).table(), ValueError, "too large"),
    (lambda: joints.latin_square(6), ValueError, "n must"),
    (lambda: joints.copy([]), ValueError, "items"),
    (lambda: joints.replace_index([1, 2], 2, 0), ValueError, "index"),
    (lambda: joints.cities().entropy([2]), ValueError, "positions"),
    (lambda: joints.cities().total_correlation([0], [-1]), ValueError, "given"),
    (lambda: joints.cities()(torch.zeros(1, 3).long()), ValueError, "x must"),
    (lambda: joints.cities()(torch.zeros(1, 2)), TypeError, "x must"),
    (lambda: joints.cities().log_prob(torch.tensor([[0, 6]])), ValueError, "x must"),
    (lambda: joints.cities().to(dtype=torch.long), TypeError, "dtype"),
    (lambda: chain(torch.eye(3)), ValueError, "closed classes"),
    (lambda: chain(torch.ones(2, 3) / 3), ValueError, "transition"),
    (lambda: chain(torch.ones(2, 2)), ValueError, "transition"),
    (lambda: chain(torch.ones(2)), TypeError, "transition"),
    (lambda: chain(torch.full((2, 2, 2), 0.5), 1), ValueError, "length"),
    (lambda: chain(HALVES, 4, torch.ones(3) / 3), ValueError, "initial"),
    (lambda: chain(HALVES, 40).table(), ValueError, "too large"),
    (lambda: chain(HALVES, 3, [0.5, 0.5]), TypeError, "initial must"),
    (lambda: joints.copy([0, 1], vocab_size=0), ValueError, "vocab_size"),
    (lambda: joints.copy(None), TypeError, "items must"),
    (lambda: joints.copy(3), TypeError, "items must"),
    (lambda: joints.reverse([0, -1]), ValueError, "items must"),
    (lambda: joints.sort(None), TypeError, "items must"),
    (lambda: joints.sort([1, "a"]), TypeError, "items must"),
    (lambda: joints.replace_index(None, 0, 0), TypeError, "items must"),
    (lambda: joints.replace_index([1, 2], 0, "a"), TypeError, "token must"),
    (lambda: joints.shuffle(3).entropy(1), TypeError, "positions must"),
    (lambda: joints.shuffle(3).entropy([1], given=2), TypeError, "given must"),
    (lambda: joints.shuffle(3).entropy(torch.tensor(1)), TypeError, "positions must"),
    (lambda: joints.shuffle(3).total_correlation(1), TypeError, "positions must"),
    (lambda: joints.shuffle(3).text(torch.tensor([0, 7, 1])), ValueError, "x must.* 7"),
    (lambda: joints.shuffle(3).text(torch.tensor([-1, 0])), ValueError, "x must.* -1"),
    (lambda: joints.shuffle(3).text([0, 1]), TypeError, "x must"),
    (lambda: joints.shuffle(3).sample(2, 0), TypeError, "generator must"),
]
HALVES = torch.full((2, 2), 0.5)


def table(support, probs=None):
    probs = None if probs is None else torch.tensor(probs)
    return joints.TableJoint(torch.tensor(support), probs, 2)


def chain(transition, length=4, initial=None):
    return joints.MarkovChain(transition, length, initial)


@pytest.mark.parametrize(("call", "error", "name"), BAD_INPUT)
def test_bad_input_is_named(call, error, name):
    with pytest.raises(error, match=name):
        call()


@pytest.mark.parametrize("name", ["uneven", "shuffle", "chain"])
def test_a_plan_tells_the_answer_and_costs_its_entropy(name):
    joint = {
        "uneven": uneven(),
        "shuffle": joints.shuffle(3),
        "chain": random_chain(1, vocab=2, order=1, length=4),
    }[name]
    planned = joints.after_plan(joint)
    length, vocab = joint.length, joint.vocab_size
    h, c = joint.entropy(), joint.total_correlation()
    assert planned.entropy() == pytest.approx(h, abs=1e-10)
    assert planned.total_correlation() == pytest.approx(2 * c + h, abs=1e-10)
    x = planned.sample(50, torch.Generator().manual_seed(0))
    plan, answer = x[:, :length], x[:, length:]
    assert torch.equal(answer, plan + vocab)
    torch.testing.assert_close(planned.log_prob(x), joint.log_prob(plan), **EXACT)
    # once the plan is there nothing is open: one step writes the answer
    assert planned.total_correlation(
        range(length, 2 * length), range(length)
    ) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_table_of_a_chain_is_exact_whatever_its_dtype(dtype):
    chain = joints.MarkovChain(
        torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64), 4
    )
    table = chain.to(dtype=dtype).table()
    assert table.dtype == dtype
    assert table.entropy() == pytest.approx(chain.entropy(), abs=1e-12)
