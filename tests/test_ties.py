"""Ties and bounds that are met exactly, against fractions.

The probabilities of a position are fractions of small numbers. Its logits are their
logarithms up to a constant, with digits in the last places that arithmetic leaves, and
that must decide nothing.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_tutorial.decoding import generate
from dllm_tutorial.decoding import strategies as rules
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.joints import TableJoint

LENGTH, VOCAB = 5, 4

weights = st.lists(
    st.lists(st.integers(1, 4), min_size=VOCAB, max_size=VOCAB),
    min_size=LENGTH,
    max_size=LENGTH,
)
some_dtype = st.sampled_from([torch.float32, torch.float64])


def shares(rows: list[list[int]]) -> list[list[Fraction]]:
    return [[Fraction(w, sum(row)) for w in row] for row in rows]


def constant(logits: torch.Tensor) -> FunctionDenoiser:
    """A denoiser that says the same whatever it reads: Float[L, V]."""
    return FunctionDenoiser(lambda x: logits.expand(len(x), -1, -1), logits.shape[-1])


def noisy(law: list[list[Fraction]], dtype: torch.dtype, seed: int) -> FunctionDenoiser:
    """A denoiser that gives each position its law, the last digits of logits aside."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.tensor([[math.log(p) for p in row] for row in law], dtype=dtype)
    shift = torch.randn(len(law), 1, generator=generator).to(dtype)
    digits = torch.randint(-2, 3, logits.shape, generator=generator)
    logits = (logits + shift) * (1 + digits * torch.finfo(dtype).eps)
    return constant(logits)


def first_revealed(model: FunctionDenoiser, rule) -> list[int]:
    x = torch.full((1, LENGTH), VOCAB)
    state = generate(model, x, rule, record=True).history.states[1, 0]
    return (state != VOCAB).nonzero()[:, 0].tolist()


def best(scores: list, m: int) -> list[int]:
    """The m highest, of equals the first."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[: max(1, m)])


@given(weights, some_dtype, st.integers(0, 9), st.integers(1, LENGTH))
def test_top_k(rows, dtype, seed, k):
    law = shares(rows)
    model = noisy(law, dtype, seed)
    confidence = [max(p) for p in law]
    margin = [sorted(p)[-1] - sorted(p)[-2] for p in law]
    assert first_revealed(model, rules.confidence_top_k(k)) == best(confidence, k)
    assert first_revealed(model, rules.margin_top_k(k)) == best(margin, k)
    entropies = {}  # of equal laws up to their order the same number
    for p in map(sorted, law):
        terms = [-q * mpmath.log(mpmath.mpf(q.numerator) / q.denominator) for q in p]
        entropies[tuple(p)] = -mpmath.fsum(map(mpmath.mpmathify, terms))
    certainty = [entropies[tuple(sorted(p))] for p in law]
    assert first_revealed(model, rules.entropy_top_k(k)) == best(certainty, k)


@given(weights, some_dtype, st.integers(0, 9), st.integers(0, LENGTH - 1))
def test_a_threshold_that_is_met(rows, dtype, seed, which):
    """c >= gamma, where gamma is one of the confidences."""
    law = shares(rows)
    c = [max(p) for p in law]
    rule = rules.confidence_threshold(float(c[which]))
    wanted = best(c, sum(p >= c[which] for p in c))
    assert first_revealed(noisy(law, dtype, seed), rule) == wanted


@given(weights, some_dtype, st.integers(0, 9), st.integers(1, LENGTH))
def test_a_factor_that_is_met(rows, dtype, seed, which):
    """(m + 1)(1 - c_m) < f, where f is one of the left sides: not below itself."""
    law = shares(rows)
    c = sorted((max(p) for p in law), reverse=True)
    left = [(m + 1) * (1 - p) for m, p in enumerate(c, 1)]
    f = left[which - 1]
    m = max((m for m, value in enumerate(left, 1) if value < f), default=0)
    wanted = best([max(p) for p in law], m)
    assert first_revealed(noisy(law, dtype, seed), rules.factor(float(f))) == wanted


@given(st.permutations([1, 1, 2, 4, 4]), some_dtype, st.integers(0, 9))
def test_an_entropy_budget_that_is_met(sizes, dtype, seed):
    """Uniform on s tokens, log s nats. Budgets of log 1, log 1 + log 2 and so on."""
    law = [[Fraction(int(i < s), s) for i in range(VOCAB)] for s in sizes]
    logits = torch.tensor([[0.0 if p else -math.inf for p in row] for row in law])
    digits = torch.randn(LENGTH, 1, generator=torch.Generator().manual_seed(seed))
    model = constant((logits + digits).to(dtype))
    low = sorted(sizes)
    for budget in (1, 2, 8, 32):  # exp of nats
        m = max(m for m in range(1, 6) if math.prod(low[: m - 1]) <= budget)
        found = first_revealed(model, rules.entropy_bounded(math.log(budget)))
        assert found == best([-s for s in sizes], m)


@pytest.mark.parametrize("temperature", [1, 0.5])
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=6),
    some_dtype,
    st.integers(0, 9),
    st.integers(0, 5),
)
def test_top_p_that_is_met(temperature, row, dtype, seed, which):
    """The smallest set of most probable tokens that reaches it; of equals the first."""
    power = round(1 / temperature)
    law = shares([row])
    hot = shares([[w**power for w in row]])[0]
    order = sorted(range(len(row)), key=lambda i: (-hot[i], i))
    reached = list(itertools.accumulate(hot[i] for i in order))
    which %= len(row)
    nucleus = set(order[: which + 1])

    drawn = generate(
        noisy(law, dtype, seed),
        torch.full((2000, 1), len(row)),
        rules.left_to_right(1),
        temperature=temperature,
        top_p=float(reached[which]),
        generator=torch.Generator().manual_seed(0),
    ).sequences
    found = set(drawn[:, 0].tolist())
    # a token of one in 26 * 6 is missed by 2000 draws in 3 of a million cases
    assert found == nucleus


@given(st.permutations(range(6)), st.integers(2, 4))
def test_the_order_of_a_table_decides_nothing(order, n):
    """All permutations of three tokens: nothing but ties, at every step."""
    support = torch.tensor(list(itertools.permutations(range(3))))
    joint, other = (TableJoint(s, None, 3) for s in (support, support[list(order)]))
    x = torch.full((1, 3), joint.mask_id)
    for rule in (
        rules.confidence_top_k(1),
        rules.margin_top_k(1),
        rules.entropy_top_k(n - 1),
        rules.confidence_threshold(1 / n),
        rules.factor(4 / 3),
    ):
        found = [
            generate(m, x, rule, record=True).history.states for m in (joint, other)
        ]
        assert torch.equal(*found)
