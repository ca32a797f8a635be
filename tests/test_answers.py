"""Joints of valid answers against enumeration, closed forms and the book's joints."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dllm_tutorial import joints
from dllm_tutorial.tasks.answers import AnswerShuffle, AnswerTable
from dllm_tutorial.tasks.base import AnswerJoint
from dllm_tutorial.tasks.vocabulary import EOS, MASK, PAD, SEPARATOR
from helpers import all_sequences, chi_square_p

ALPHA = 1e-4  # error rate of each sampled test
EXACT = {"atol": 1e-12, "rtol": 0}
FIRST = 70  # tokens from here on are items

Answers = list[list[tuple[int, ...]]]  # of each row, the valid ones


def prompts(rows: int) -> Tensor:
    """Prompts that only say which row it is."""
    return torch.stack([torch.arange(rows) + 10, torch.full((rows,), SEPARATOR)], 1)


def table(seed: int = 0) -> tuple[AnswerTable, Answers]:
    """Rows with 1 ... 6 valid answers out of 6, over few tokens."""
    generator = torch.Generator().manual_seed(seed)
    everything = all_sequences(3, 4) + FIRST
    picks = torch.rand(6, len(everything), generator=generator).argsort(1)[:, :6]
    support = everything[picks]  # [6, 6, 4]
    valid = torch.rand(6, 6, generator=generator).argsort(1) <= torch.arange(6)[:, None]
    listed = [
        [tuple(answer) for answer, keep in zip(*row, strict=True) if keep]
        for row in zip(support.tolist(), valid.tolist(), strict=True)
    ]
    return AnswerTable(prompts(6), support, valid), listed


def shuffle(
    counts: list[int], width: int, new_order: bool = False, spare: int = 1
) -> tuple[AnswerShuffle, Answers]:
    """Items with tokens in no particular order, and all their orders, one by one."""
    generator = torch.Generator().manual_seed(sum(counts) + width)
    size = max(counts) + 1  # one item of padding at least
    keys = torch.rand(len(counts), size, width, generator=generator)
    items = FIRST + keys.argsort(1) + size * torch.arange(width)
    length = max(counts) * width + spare
    joint = AnswerShuffle(
        prompts(len(counts)), items, torch.tensor(counts), length, new_order=new_order
    )
    listed: Answers = []
    for row, count in zip(items.tolist(), counts, strict=True):
        orders = list(itertools.permutations(row[:count]))[new_order:]
        end = (EOS,) * (length - count * width)
        listed.append([(*itertools.chain(*order), *end) for order in orders])
    return joint, listed


CASES = {
    "table": table,
    "one word": lambda: shuffle([3, 1, 4, 2], 1),
    "two words": lambda: shuffle([3, 1, 2], 2, spare=2),
    "three words": lambda: shuffle([2, 3], 3),
    "new order": lambda: shuffle([4, 2, 3], 1, new_order=True, spare=3),
    "new order, two words": lambda: shuffle([2, 3, 3], 2, new_order=True),
}
cases = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


def states(joint: AnswerJoint, listed: Answers, per_row: int, seed: int = 0) -> Tensor:
    """Partly masked answers Long[B * per_row, A], possible and impossible ones."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    found = []
    for row in listed:
        answers = torch.tensor(row)[(random(per_row) * len(row)).long()]
        words = torch.tensor(row).unique()
        words = torch.cat([words, torch.tensor([PAD, EOS, MASK + 3, FIRST + 40])])
        wild = words[(random(*answers.shape) * len(words)).long()]
        share = torch.tensor([0.0, 0.0, 0.1, 1.0])[(random(per_row) * 4).long()]
        answers = torch.where(random(*answers.shape) < share[:, None], wild, answers)
        hidden = random(*answers.shape) < random(per_row, 1)
        found.append(answers.masked_fill(hidden, MASK))
    return torch.cat(found)


def enumerated(listed: Answers, x: Tensor) -> Tensor:
    """Probabilities Float64[R, A, V], by a plain walk through the valid answers."""
    copies = len(x) // len(listed)
    p = torch.zeros(*x.shape, AnswerJoint.vocab_size, dtype=torch.float64)
    for r, state in enumerate(x.tolist()):
        agreeing = [
            answer
            for answer in listed[r // copies]
            if all(s in (MASK, a) for s, a in zip(state, answer, strict=True))
        ]
        for i, tokens in enumerate(zip(*agreeing, strict=True)):
            for token in tokens:
                p[r, i, token] += 1 / len(agreeing)
        if not agreeing:
            p[r] = 1 / AnswerJoint.vocab_size
    return p


def with_prompts(joint: AnswerJoint, answers: Tensor) -> Tensor:
    copies = len(answers) // len(joint)
    return torch.cat([joint.prompts.repeat_interleave(copies, 0), answers], 1)


@cases
def test_conditionals_are_those_of_the_enumerated_answers(make):
    """For any evidence, also half an item, contradictions and misplaced ends."""
    joint, listed = make()
    x = states(joint, listed, 120)
    expected = enumerated(listed, x)
    found = joint(with_prompts(joint, x)).exp()
    torch.testing.assert_close(found[:, 2:], expected, **EXACT)
    assert torch.equal(found[:, 2:] == 0, expected == 0)
    impossible = (expected == 1 / joint.vocab_size).all(2).all(1)
    assert 0.1 < impossible.float().mean() < 0.9, "the states must be of both kinds"


@cases
def test_mass_has_a_common_total_which_is_zero_for_impossible_evidence(make):
    joint, listed = make()
    x = states(joint, listed, 60)
    rows = torch.arange(len(joint)).repeat_interleave(60)
    mass, total = joint.conditionals(x, rows)
    assert mass.dtype == total.dtype == torch.float64
    possible = total > 0
    sums = mass.sum(2)[possible]
    torch.testing.assert_close(sums, total[possible, None].expand_as(sums), **EXACT)
    expected = enumerated(listed, x)
    assert torch.equal(~possible, (expected == 1 / joint.vocab_size).all(2).all(1))


@cases
def test_rows_may_be_asked_for_in_any_order(make):
    joint, listed = make()
    x = states(joint, listed, 5)
    rows = torch.arange(len(joint)).repeat_interleave(5)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    mass, total = joint.conditionals(x, rows)
    again = joint.conditionals(x[order], rows[order])
    assert torch.equal(again[0], mass[order]) and torch.equal(again[1], total[order])


@cases
def test_log_prob_is_uniform_on_the_valid_answers_and_nothing_else(make):
    joint, listed = make()
    sizes = torch.tensor([len(row) for row in listed], dtype=torch.float64)
    torch.testing.assert_close(joint.log_size(), sizes.log(), **EXACT)
    x = states(joint, listed, 300, seed=1)
    everything = torch.cat([x[i::300] for i in range(300)])  # of row 0, 1, ..., 0, 1
    for answers in everything.split(len(joint)):
        valid = [
            tuple(answer) in row
            for answer, row in zip(answers.tolist(), listed, strict=True)
        ]
        expected = torch.where(torch.tensor(valid), -sizes.log(), -math.inf)
        torch.testing.assert_close(joint.log_prob(answers), expected, **EXACT)
    for place in range(max(map(len, listed))):
        answers = torch.tensor([row[place % len(row)] for row in listed])
        torch.testing.assert_close(joint.log_prob(answers), -sizes.log(), **EXACT)


@cases
def test_samples_are_uniform_and_come_back_with_the_seed(make):
    joint, listed = make()
    generator = torch.Generator().manual_seed(3)
    drawn = torch.stack([joint.sample(generator) for _ in range(1500)])
    for row, support in enumerate(listed):
        p = torch.full((len(support),), 1 / len(support))
        assert chi_square_p(drawn[:, row], torch.tensor(support), p) > ALPHA
    assert torch.equal(drawn[0], joint.sample(torch.Generator().manual_seed(3)))


@cases
def test_a_row_answers_as_it_would_alone_to_the_last_bit(make):
    joint, listed = make()
    x = with_prompts(joint, states(joint, listed, 40))
    together = joint(x)
    for row, answers in enumerate(listed):
        if isinstance(joint, AnswerTable):
            support = torch.tensor([answers])
            valid = torch.ones(1, len(answers), dtype=torch.bool)
            alone = AnswerTable(joint.prompts[row : row + 1], support, valid)
        else:
            alone = AnswerShuffle(
                joint.prompts[row : row + 1],
                joint.items[row : row + 1],
                joint.count[row : row + 1],
                joint.answer_length,
                new_order=joint.new_order,
            )
        mine = slice(40 * row, 40 * (row + 1))
        assert torch.equal(alone(x[mine]), together[mine])
        assert torch.equal(alone.log_size()[0], joint.log_size()[row])


@cases
def test_total_correlation_is_that_of_the_enumerated_answers(make):
    joint, listed = make()
    empty = torch.full((len(joint), joint.answer_length), MASK)
    p = enumerated(listed, empty)
    sizes = torch.tensor([len(row) for row in listed], dtype=torch.float64)
    expected = -torch.special.xlogy(p, p).sum((1, 2)) - sizes.log()
    torch.testing.assert_close(joint.total_correlation(), expected, **EXACT)


@pytest.mark.parametrize("width", [1, 2])
def test_total_correlation_of_a_shuffle_in_closed_form(width):
    """w n log n - log n!: all n! orders, each of w n tokens uniform over n."""
    counts = list(range(1, 21))
    joint, n = big_shuffle(counts, width), torch.tensor(counts, dtype=torch.float64)
    expected = width * n * n.log() - (n + 1).lgamma()
    torch.testing.assert_close(joint.total_correlation(), expected, atol=1e-9, rtol=0)


def big_shuffle(counts: list[int], width: int, new_order: bool = False):
    items = FIRST + torch.arange(20 * width).view(20, width)
    items = items.expand(len(counts), -1, -1)
    length = 20 * width + 1
    return AnswerShuffle(
        prompts(len(counts)), items, torch.tensor(counts), length, new_order=new_order
    )


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("new_order", [False, True])
def test_the_chain_rule_holds_in_any_order_up_to_twenty_items(width, new_order):
    """The conditionals along any order of the positions add up to log P(answer)."""
    counts = list(range(2, 21))
    joint = big_shuffle(counts, width, new_order)
    generator = torch.Generator().manual_seed(width)
    answers = joint.sample(generator)
    # The last row's answer is one exchange away from the order that may be excluded.
    answers[-1] = answers_in_order(joint)[-1]
    answers[-1, : 2 * width] = joint.items[-1, [1, 0]].flatten()
    x = torch.full_like(answers, MASK)
    total = torch.zeros(len(joint), dtype=torch.float64)
    for i in torch.randperm(joint.answer_length, generator=generator).tolist():
        log_p = joint(with_prompts(joint, x))[:, 2 + i]
        total += log_p.gather(1, answers[:, i, None])[:, 0]
        x[:, i] = answers[:, i]
    torch.testing.assert_close(total, joint.log_prob(answers), atol=1e-9, rtol=0)
    if new_order:
        given = answers_in_order(joint)
        assert (joint.log_prob(given) == -math.inf).all()


def answers_in_order(joint: AnswerShuffle) -> Tensor:
    tokens = torch.nn.functional.pad(joint.items.flatten(1), (0, 1), value=EOS)
    beyond = torch.arange(joint.answer_length) >= joint.count[:, None] * joint.width
    return tokens.masked_fill(beyond, EOS)


def test_a_shuffle_agrees_with_the_joint_of_the_book():
    n = 5
    book = joints.shuffle(n)
    items = FIRST + torch.arange(n)
    joint = AnswerShuffle(prompts(1), items.view(1, n, 1), torch.tensor([n]), n + 1)
    theirs = states(joint, [[tuple(items.tolist())]], 300, seed=2)[:, :n] - FIRST
    theirs = theirs.where((theirs >= 0) & (theirs < n), n)  # masked or one of the items
    mine = torch.where(theirs == n, MASK, theirs + FIRST)
    mine = torch.cat([mine, torch.full((300, 1), EOS)], 1)
    rows = torch.zeros(300, dtype=torch.long)
    mass, total = joint.conditionals(mine, rows)
    expected_mass, expected_total = book._conditionals(theirs)
    assert torch.equal(total, expected_total) and 0 < int((total == 0).sum()) < 300
    possible = total > 0
    assert torch.equal(mass[possible][:, :n, items], expected_mass[possible])


def test_a_table_agrees_with_the_joint_of_the_book():
    n = 5
    book = joints.replace_random(n)
    support = torch.cat([book.support + FIRST, torch.full((n, 1), EOS)], 1)[None]
    joint = AnswerTable(prompts(1), support, torch.ones(1, n, dtype=torch.bool))
    listed = [[tuple(answer) for answer in support[0].tolist()]]
    mine = states(joint, listed, 300)
    mine[:, n] = EOS
    # What lies outside the book's small vocabulary is impossible in both.
    theirs = torch.where(mine == MASK, n + 1, mine - FIRST)[:, :n]
    mass, total = joint.conditionals(mine, torch.zeros(300, dtype=torch.long))
    expected_mass, expected_total = book._conditionals(theirs)
    assert torch.equal(total, expected_total) and 0 < int((total == 0).sum()) < 300
    assert torch.equal(mass[:, :n, FIRST : FIRST + n + 1], expected_mass)


@cases
def test_conditionals_never_look_at_a_value(make):
    """A fake tensor has no values: whatever needs one, stops the device, raises."""
    joint, listed = make()
    x = states(joint, listed, 2)
    rows = torch.arange(len(joint)).repeat_interleave(2)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        mass, total = joint.conditionals(mode.from_tensor(x), mode.from_tensor(rows))
        assert mass.shape == (*x.shape, joint.vocab_size) and total.shape == (len(x),)
        with pytest.raises(DataDependentOutputException):
            bool(total.sum() > 0)


def test_bad_arguments_are_named():
    support = torch.tensor([[[70, 71, 1], [71, 70, 1]]])
    yes = torch.ones(1, 2, dtype=torch.bool)
    items, two = support[:, :1, :2].transpose(1, 2), torch.tensor([2])
    for error, match, call in [
        (TypeError, "support", lambda: AnswerTable(prompts(1), support.float(), yes)),
        (ValueError, "support", lambda: AnswerTable(prompts(2), support, yes)),
        (ValueError, "support", lambda: AnswerTable(prompts(1), support + 900, yes)),
        (ValueError, "valid", lambda: AnswerTable(prompts(1), support, yes[:, :1])),
        (ValueError, "valid", lambda: AnswerTable(prompts(1), support, yes.long())),
        (ValueError, "valid", lambda: AnswerTable(prompts(1), support, ~yes)),
        (
            ValueError,
            "distinct",
            lambda: AnswerTable(prompts(1), support[:, [0, 0]], yes),
        ),
        (ValueError, "items", lambda: AnswerShuffle(prompts(2), items, two, 3)),
        (ValueError, "count", lambda: AnswerShuffle(prompts(1), items, two + 1, 4)),
        (ValueError, "count", lambda: AnswerShuffle(prompts(1), items, two - 2, 4)),
        (
            ValueError,
            "count",
            lambda: AnswerShuffle(prompts(1), items, two - 1, 4, new_order=True),
        ),
        (ValueError, "answer_length", lambda: AnswerShuffle(prompts(1), items, two, 2)),
        (
            ValueError,
            "items",
            lambda: AnswerShuffle(prompts(1), items[:, [0, 0]], two, 3),
        ),
    ]:
        with pytest.raises(error, match=match):
            call()
    joint = AnswerShuffle(prompts(1), items, two, 3)
    with pytest.raises(ValueError, match="answers"):
        joint.log_prob(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="answers"):
        joint.log_prob(torch.zeros(1, 4, dtype=torch.long))


def test_answers_left_out_may_repeat():
    """Padding of a table is no answer: it may be anything, also a copy of one."""
    support = torch.tensor([[[70, 1], [70, 1], [71, 1]]])
    joint = AnswerTable(prompts(1), support, torch.tensor([[True, False, True]]))
    assert joint.log_size().exp().round().tolist() == [2]
    assert joint.log_prob(torch.tensor([[70, 1]])).exp().item() == pytest.approx(0.5)
