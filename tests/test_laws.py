"""Exact laws of rules, the independence oracle, padded lists and pencil marks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

import reference_decoding as ref
from dllm_tutorial import exact, joints, laws, limited
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.denoiser import FunctionDenoiser
from helpers import RandomTableDenoiser
from test_exact import with_mask_column

CASES = {
    "confidence": (strategies.confidence_top_k(2), ref.top_k(ref.confident, 2)),
    "threshold": (strategies.confidence_threshold(0.6), ref.threshold(0.6)),
    "margin": (strategies.margin_top_k(steps=2), ref.top_k_steps(ref.margins, 2)),
    "factor": (strategies.factor(1.2), ref.factor(1.2)),
    "entropy bounded": (strategies.entropy_bounded(0.4), ref.entropy_bounded(0.4)),
    "dilated": (strategies.dilated(), ref.dilated()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_answer_law_equals_the_slow_enumeration(name, temperature):
    strategy, rule = CASES[name]
    for seed, prompt in ((1, [2, 2, 2, 2]), (2, [0, 2, 1, 2])):
        denoiser = RandomTableDenoiser(2, 4, seed)
        slow = ref.law(denoiser, prompt, rule, temperature=temperature)
        law = laws.answer_law(
            denoiser, torch.tensor(prompt), strategy, temperature=temperature
        )
        support = [tuple(row) for row in law.answers.support.tolist()]
        assert set(support) == set(slow)
        for row, p in zip(support, law.answers.probs.tolist(), strict=True):
            assert p == pytest.approx(slow[row], abs=1e-12)


def test_mean_calls_of_a_rule():
    n = 5
    joint = joints.replace_random(n)
    x = torch.full((n,), joint.mask_id)
    law = laws.answer_law(joint, x, strategies.entropy_bounded(0.0))
    # the replaced item is found at step j = 1 ... n with chance 1/n; then one more
    calls = [min(j + 1, n) for j in range(1, n + 1)]
    assert law.nfe == pytest.approx(sum(calls) / n, abs=1e-12)
    assert exact.kl_divergence(joint, law.answers) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "strategy", [strategies.random_top_k(1), strategies.rcr(2), strategies.klass(1)]
)
def test_rules_with_other_randomness_or_memory_are_refused(strategy):
    joint = joints.cities()
    x = torch.full((2,), joint.mask_id)
    with pytest.raises(ValueError, match="strategy must"):
        laws.answer_law(joint, x, strategy)


@pytest.mark.parametrize("f", [0.3, 0.7, 1.0])
def test_factor_up_to_one_is_always_valid(f):
    # union bound: P(all revealed tokens) >= 1 - m (1 - c_(m)) > 0
    for joint in (joints.replace_random(6), joints.cities(), joints.shuffle(5)):
        x = torch.full((joint.length,), joint.mask_id)
        for temperature in (0.0, 1.0):
            law = laws.answer_law(
                joint, x, strategies.factor(f), temperature=temperature
            )
            assert exact.valid_probability(joint, law.answers) == pytest.approx(1)


@pytest.mark.parametrize("gamma", [0.15, 0.3, 0.45, 0.55, 0.7, 0.77, 0.9, 1.0])
@pytest.mark.parametrize(
    ("make", "closed"),
    [
        (joints.shuffle, laws.threshold_shuffle),
        (joints.replace_random, laws.threshold_replace_random),
    ],
)
def test_threshold_closed_forms_equal_enumeration(make, closed, gamma):
    for n in (2, 3, 4, 5):
        joint = make(n)
        x = torch.full((n,), joint.mask_id)
        law = laws.answer_law(joint, x, strategies.confidence_threshold(gamma))
        p = exact.valid_probability(joint, law.answers)
        assert closed(n, gamma) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("n", [4, 9, 30])
def test_greedy_factor_solves_replace_random_in_three_calls(n):
    # (m + 1) / n < 1 reveals n - 2 at first, then the last two one by one
    joint = joints.replace_random(n)
    x = torch.full((1, n), joint.mask_id)
    out = generate(joint, x, strategies.factor(0.999999))
    assert out.nfe.item() == 3
    assert torch.isfinite(joint.log_prob(out.sequences)).all()


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_oracle_calls_in_closed_form(n):
    assert laws.oracle_nfe(joints.shuffle(n).table()) == pytest.approx(n)
    found = sum(min(j + 1, n) for j in range(1, n + 1)) / n
    assert laws.oracle_nfe(joints.replace_random(n)) == pytest.approx(found)
    assert laws.oracle_nfe(joints.copy(list(range(n)))) == 1
    coins = torch.tensor(list(itertools.product((0, 1), repeat=n)))
    assert laws.oracle_nfe(joints.TableJoint(coins, None, 2)) == 1
    twice = joints.TableJoint(coins.repeat_interleave(2, 1), None, 2)
    assert laws.oracle_nfe(twice) == 2


@pytest.mark.parametrize(
    ("joint", "calls"),
    [
        (joints.cities(), 2),
        (joints.copy([0, 1, 2, 3]), 1),
        (
            joints.TableJoint(
                torch.stack([torch.arange(4).roll(k) for k in range(4)]), None, 4
            ),
            2,
        ),
        (
            joints.TableJoint(
                torch.tensor(
                    [
                        row
                        for row in itertools.product((0, 1), repeat=5)
                        if sum(row) % 2 == 0
                    ]
                ),
                None,
                2,
            ),
            2,
        ),
        (
            joints.TableJoint(
                torch.tensor(
                    [[0, 2, 3, 4]]
                    + [[1, *order] for order in itertools.permutations((2, 3, 4))]
                ),
                torch.tensor([6.0] + [1.0] * 6) / 12,
                5,
            ),
            3,
        ),
    ],
    ids=["cities", "one answer", "rotations", "parity of five", "in order or any"],
)
def test_fewest_lossless_calls_by_hand(joint, calls):
    """Rotations: one token tells all. Parity: all but one are free. Where the first of
    four tokens says whether the others come in order or in any: 1 + (1 + 3) / 2."""
    assert laws.oracle_nfe(joint) == pytest.approx(calls)


@pytest.mark.parametrize(("length", "calls"), [(3, 2), (6, 3), (7, 3)])
def test_a_chain_is_halved(length, calls):
    """The middle first, then the middles of both halves: log2 of the length."""
    stay = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    chain = joints.MarkovChain(stay, length)
    assert laws.oracle_nfe(chain) == pytest.approx(calls)


def test_a_joint_that_is_too_large_for_the_oracle_is_refused():
    with pytest.raises(ValueError, match="joint must"):
        laws.oracle_nfe(joints.sudoku())


def padded_shuffle(n, length):
    """A shuffled list in every second position, the other positions certain."""
    orders = torch.tensor(list(itertools.permutations(range(n))))
    support = torch.full((len(orders), length), n)
    support[:, 0 : 2 * n : 2] = orders
    return joints.TableJoint(support, None, n + 1)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_padded_accuracy_is_what_generate_does(k):
    n, length, rows = 4, 8, 4000
    joint = padded_shuffle(n, length)
    x = torch.full((rows, length), joint.mask_id)
    for strategy, first in (
        (strategies.random_top_k(k), False),
        (strategies.confidence_top_k(k), True),
    ):
        p = laws.padded_accuracy(
            n,
            length,
            k,
            valid=lambda m, j: math.perm(m, j) / m**j,
            certain_first=first,
        )
        g = torch.Generator().manual_seed(k)
        out = generate(joint, x, strategy, temperature=1.0, generator=g)
        hits = int(torch.isfinite(joint.log_prob(out.sequences)).sum())
        if p > 1 - 1e-12:
            assert hits == rows
        else:
            z = (hits - rows * p) / math.sqrt(rows * p * (1 - p))
            assert abs(z) < stats.norm.isf(5e-6)  # wrong once in 10^5


def test_padding_changes_nothing_when_all_comes_at_once_or_one_by_one():
    def valid(m, j):
        return math.perm(m, j) / m**j

    for first in (False, True):
        one = laws.padded_accuracy(5, 32, 1, valid=valid, certain_first=first)
        all_ = laws.padded_accuracy(5, 32, 32, valid=valid, certain_first=first)
        assert one == pytest.approx(1)
        assert all_ == pytest.approx(math.factorial(5) / 5**5)


def test_pencil_marks_are_the_symbols_that_peers_leave():
    denoiser, g = limited.pencil_marks(), torch.Generator().manual_seed(0)
    x = torch.randint(5, (50, 16), generator=g)
    p = denoiser(x).softmax(-1)
    for row, chances in zip(x.tolist(), p.tolist(), strict=True):
        for i in range(16):
            r, c = divmod(i, 4)
            seen = set()
            for j in range(16):
                s, d = divmod(j, 4)
                box = s // 2 == r // 2 and d // 2 == c // 2
                if j != i and (s == r or d == c or box):
                    seen.add(row[j])
            left = [v for v in range(4) if v not in seen] or range(4)
            for v in range(4):
                share = 1 / len(left) if v in left else 0.0
                assert chances[i][v] == pytest.approx(share, abs=1e-12)


def test_puzzles_have_one_solution_and_no_clue_to_spare():
    joint = joints.sudoku()
    puzzles, solutions = limited.unique_puzzles(
        joint, 20, torch.Generator().manual_seed(1)
    )
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        clues = (puzzle != joint.mask_id).nonzero()[:, 0].tolist()
        agree = (joint.support[:, clues] == puzzle[clues]).all(1)
        assert joint.support[agree].tolist() == [solution.tolist()]
        for spare in clues:
            kept = [i for i in clues if i != spare]
            assert (joint.support[:, kept] == puzzle[kept]).all(1).sum() > 1


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_column_for_the_mask_changes_no_law(place, name, temperature):
    inner = RandomTableDenoiser(2, 4, 1)
    denoiser, tokens = with_mask_column(inner, place)
    strategy = CASES[name][0]
    wanted, got = (
        laws.answer_law(
            d, torch.full((4,), d.mask_id), strategy, temperature=temperature
        )
        for d in (inner, denoiser)
    )
    log_q = got.answers.log_prob(tokens[wanted.answers.support])
    assert torch.allclose(log_q.exp(), wanted.answers.probs, atol=1e-12)
    assert got.nfe == pytest.approx(wanted.nfe, abs=1e-12)


def test_a_denoiser_without_a_token_to_draw_is_refused():
    logits = torch.tensor([0.0, -math.inf, -math.inf])  # the mask has the only one
    denoiser = FunctionDenoiser(lambda x: logits.expand(*x.shape, 3), 0)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="denoiser must leave a token"):
            laws.answer_law(
                denoiser,
                torch.zeros(2, dtype=torch.long),
                strategies.left_to_right(1),
                temperature=temperature,
            )


def test_grids_of_probability_zero_are_no_second_solutions():
    support = torch.tensor([[0, 0], [1, 1], [0, 1]])
    joint = joints.TableJoint(support, torch.tensor([0.5, 0.5, 0.0]), 2)
    generator = torch.Generator().manual_seed(0)
    puzzles, _ = limited.unique_puzzles(joint, 20, generator)
    assert ((puzzles != joint.mask_id).sum(1) == 1).all()  # one cell says it all


def test_a_rank_that_is_not_a_number_is_named():
    rule = strategies.Strategy(
        "lost", lambda view: view.found.confidence * torch.nan, lambda v, s: v.size
    )
    denoiser = RandomTableDenoiser(2, 3, 0)
    for law in (laws.answer_law, lambda d, x, s: generate(d, x[None], s)):
        with pytest.raises(ValueError, match="strategy lost must rank every position"):
            law(denoiser, torch.full((3,), 2), rule)
