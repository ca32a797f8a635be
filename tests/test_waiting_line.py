"""The ten Waiting Line tasks against list operations, enumeration and closed forms."""

from __future__ import annotations

import itertools
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from dllm_tutorial import exact, joints
from dllm_tutorial.decoding import generate
from dllm_tutorial.decoding import strategies as rules
from dllm_tutorial.tasks.base import SPLITS, Instances, in_test
from dllm_tutorial.tasks.vocabulary import (
    EOS,
    FIRST_NAMES,
    LAST_NAMES,
    MASK,
    PAD,
    VOCABULARY,
    decode,
    encode,
)
from dllm_tutorial.tasks.waiting_line import WaitingLine
from helpers import all_sequences, chi_square_p

ALPHA = 1e-4  # error rate of each sampled test
EXACT = {"atol": 1e-10, "rtol": 0}
KINDS = WaitingLine.KINDS
ONE_ANSWER = [kind for kind in KINDS if kind.endswith("_index")]
ONE_ANSWER += ["copy", "reverse", "sort"]
RANDOM = [kind for kind in KINDS if kind.endswith("_random")]

every_kind = pytest.mark.parametrize("kind", KINDS)
widths = pytest.mark.parametrize("width", [1, 2])
# Shuffle once more, as the published scorer understands it.
every_task = pytest.mark.parametrize("kind", [*KINDS, "shuffle, new order"])


def make(kind: str, lengths=(3, 4, 5, 6), width: int = 1, **options) -> WaitingLine:
    kind, *new_order = kind.split(", ")
    return WaitingLine(kind, lengths, width, new_order=bool(new_order), **options)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(task: WaitingLine, count: int = 60, seed: int = 0) -> Instances:
    return task.draw(count, split="train", generator=generator(seed))


def read_prompt(task: WaitingLine, row: Tensor) -> tuple[list[str], int, str]:
    """Items, index from 1 and new item, from the words of the prompt alone."""
    width, words = task.words_per_item, decode(row)
    assert words.pop(0) == f"<{task.name}>" and words.pop() == ":"
    index = int(words.pop(0)) if task.name.endswith("_index") else 0
    items = [" ".join(words[i : i + width]) for i in range(0, len(words), width)]
    has_new = task.name.startswith(("replace", "insert"))
    return items[has_new:], index, items[0] if has_new else ""


def right_lists(task: WaitingLine, row: Tensor) -> list[list[str]]:
    """All right answers to a prompt, as plain list operations make them."""
    items, index, new = read_prompt(task, row)
    if task.name == "copy":
        return [items]
    if task.name == "reverse":
        return [items[::-1]]
    if task.name == "sort":
        return [sorted(items)]
    if task.name == "shuffle":
        orders = [list(order) for order in itertools.permutations(items)]
        return [order for order in orders if not task.new_order or order != items]
    n = len(items)
    places = [index - 1]
    if task.name.endswith("_random"):
        places = list(range(n + 1 if task.name.startswith("insert") else n))
    found = []
    for place in places:
        edited = list(items)
        if task.name.startswith("replace"):
            edited[place] = new
        elif task.name.startswith("insert"):
            edited.insert(place, new)
        else:
            del edited[place]
        found.append(edited)
    return found


def tokens(task: WaitingLine, items: list[str]) -> list[int]:
    known = encode(itertools.chain(*map(str.split, items))).tolist()
    return known + [EOS] * (task.answer_length - len(known))


def right_answers(task: WaitingLine, row: Tensor) -> set[tuple[int, ...]]:
    return {tuple(tokens(task, items)) for items in right_lists(task, row)}


def repeated(instances: Instances, row: int, times: int) -> Instances:
    return instances[torch.full((times,), row)]


# ------------------------------------------------------------------------- instances


@every_kind
@widths
def test_prompts_say_what_is_given(kind, width):
    task = WaitingLine(kind, (2, 4, 7), width)
    drawn = draw(task, 200)
    assert drawn.prompts.shape == (200, task.prompt_length)
    for b, row in enumerate(drawn.prompts):
        items, index, new = read_prompt(task, row)
        assert len(items) == drawn.given["count"][b]
        shown = [" ".join(decode(item)) for item in drawn.given["items"][b]]
        assert items == [item for item in shown if item]
        if "index" in drawn.given:
            assert index == drawn.given["index"][b] + 1
            assert 1 <= index <= len(items) + (kind == "insert_index")
        if "new" in drawn.given:
            assert new == " ".join(decode(drawn.given["new"][b]))
        everyone = [item.split() for item in (*items, new) if item]
        for column, names in zip(
            zip(*everyone, strict=True), (FIRST_NAMES, LAST_NAMES), strict=False
        ):
            assert len(set(column)) == len(column) and set(column) <= set(names)
        assert all(len(item) == width for item in everyone)


@pytest.mark.parametrize("kind", ["copy", "insert_index", "remove_index"])
def test_lengths_indices_and_names_are_uniform(kind):
    task = WaitingLine(kind, (3, 5, 20), 1)
    given = draw(task, 3000).given
    lengths = torch.tensor([[3], [5], [20]])
    assert chi_square_p(given["count"][:, None], lengths, torch.ones(3)) > ALPHA
    names = encode(FIRST_NAMES)[:, None]
    for place in (0, 2):
        found = given["items"][:, place]
        assert chi_square_p(found, names, torch.ones(len(names))) > ALPHA
    if kind != "copy":
        for n in (3, 5, 20):
            found = given["index"][given["count"] == n, None]
            # the vocabulary has no 21, so 20 items have no name for a 21st place
            places = torch.arange(min(20, n + (kind == "insert_index")))[:, None]
            assert chi_square_p(found, places, torch.ones(len(places))) > ALPHA


@every_kind
def test_splits_are_disjoint_and_draws_come_back_with_their_seed(kind):
    task = WaitingLine(kind, (2, 3))
    seen = {}
    for split in SPLITS:
        drawn = task.draw(400, split=split, generator=generator(1))
        again = task.draw(400, split=split, generator=generator(1))
        assert torch.equal(drawn.prompts, again.prompts)
        assert drawn.given.keys() == again.given.keys()
        for name, value in drawn.given.items():
            assert torch.equal(value, again.given[name])
        assert (in_test(drawn.prompts) == (split == "test")).all()
        seen[split] = set(map(tuple, drawn.prompts.tolist()))
    assert not seen["train"] & seen["test"]
    share = in_test(task._propose(4000, generator(2)).prompts).sum()
    assert stats.binomtest(int(share), 4000, 0.1).pvalue > ALPHA


@pytest.mark.parametrize("kind", ["copy", "insert_index", "replace_random"])
def test_budgets_are_kept_to_the_last_token(kind):
    extra = {"copy": (2, 1), "insert_index": (5, 3), "replace_random": (4, 1)}[kind]
    n, width = 15, 2
    exact_fit = {
        "prompt_length": n * width + extra[0],
        "answer_length": n * width + extra[1],
    }
    task = WaitingLine(kind, [n], width, **exact_fit)
    drawn = draw(task, 20)
    answers = task.joint(drawn).sample(generator())
    assert task.score(drawn, answers).all()
    assert (drawn.prompts != PAD).all() and (answers[:, -1] == EOS).all()
    for name in exact_fit:
        with pytest.raises(ValueError, match=name):
            WaitingLine(kind, [n], width, **{**exact_fit, name: exact_fit[name] - 1})


def test_bad_arguments_are_named():
    for match, arguments in [
        ("kind", ("sing",)),
        ("lengths", ("copy", (1, 2))),
        ("lengths", ("copy", (3, 21))),
        ("lengths", ("copy", ())),
        ("lengths", ("copy", (20,), 2)),  # does not fit the usual lengths
        ("words_per_item", ("copy", (3,), 3)),
    ]:
        with pytest.raises(ValueError, match=match):
            WaitingLine(*arguments)
    with pytest.raises(ValueError, match="new_order"):
        WaitingLine("copy", new_order=True)
    for lengths in ((3.0,), 5):
        with pytest.raises(TypeError, match="lengths must be an"):
            WaitingLine("copy", lengths)
    for words in (2.0, True):
        with pytest.raises(TypeError, match="words_per_item must be an integer"):
            WaitingLine("copy", (3,), words)
    task = WaitingLine("copy")
    drawn = draw(task, 3)
    for bad in (drawn.prompts, torch.zeros(1, task.answer_length, dtype=torch.long)):
        with pytest.raises(ValueError, match="answers"):
            task.score(drawn, bad)


# ------------------------------------------------------------- right and wrong answers


@every_task
@widths
def test_joint_and_score_know_all_right_answers(kind, width):
    """Those that list operations make, as many as the joint counts, and no more."""
    task = make(kind, (2, 3, 5), width)
    drawn = draw(task, 30)
    sizes = task.joint(drawn).log_size()
    for b, row in enumerate(drawn.prompts):
        right = torch.tensor(sorted(right_answers(task, row)))
        assert sizes[b].item() == pytest.approx(math.log(len(right)), abs=1e-12)
        mine = repeated(drawn, b, len(right))
        assert task.score(mine, right).all()
        log_p = task.joint(mine).log_prob(right)
        torch.testing.assert_close(log_p, torch.full_like(log_p, -sizes[b]), **EXACT)


@every_task
@widths
@pytest.mark.parametrize("lengths", [(2,), (3, 4, 6), (10,), (15, 20)])
def test_an_answer_drawn_from_the_joint_is_right(kind, width, lengths):
    task = make(kind, lengths, width, prompt_length=50, answer_length=43)
    drawn = draw(task, 200)
    joint = task.joint(drawn)
    answers = joint.sample(generator(1))
    assert task.score(drawn, answers).all()
    assert torch.equal(joint.log_prob(answers), -joint.log_size())
    for b in range(0, 200, 20):
        if task.name != "shuffle":
            assert tuple(answers[b].tolist()) in right_answers(task, drawn.prompts[b])


@every_task
@widths
def test_a_corrupted_answer_is_wrong(kind, width):
    """A foreign word, a mask, padding or an end in the list; a word after its end."""
    task = make(kind, (2, 3, 8), width)
    drawn = draw(task, 300)
    joint = task.joint(drawn)
    right = joint.sample(generator(1))
    place = torch.randint(24, (300, 1), generator=generator(2))
    before = right.gather(1, place)
    used = set(drawn.prompts.unique().tolist()) | {EOS}
    foreign = next(token for token in range(3, MASK) if token not in used)
    for token in (foreign, MASK, PAD, EOS):
        wrong = right.scatter(1, place, token)
        changed = before[:, 0] != token
        assert not (task.score(drawn, wrong) & changed).any()
        assert not ((joint.log_prob(wrong) > -math.inf) & changed).any()


def near_misses(answers: Tensor, pool: Tensor, seed: int) -> Tensor:
    """Each answer with one to three small changes: swap, overwrite, delete or insert.

    Overwritten and inserted tokens come from the row of ``pool`` Long[B, K].
    """
    mixer = generator(seed)
    batch, length = answers.shape

    def pick(below: int) -> Tensor:
        return torch.randint(below, (batch, 1), generator=mixer)

    for _ in range(3):
        used = min(int((answers != EOS).sum(1).max()) + 1, length)
        a, b, token = pick(used), pick(used), pool.gather(1, pick(pool.shape[1]))
        here = torch.arange(length)
        swap = torch.where(here == a, b, torch.where(here == b, a, here))
        delete = (here + (here >= a)).clamp(max=length - 1)
        insert = (here - (here > a).long()).clamp(min=0)
        order = torch.stack([swap, here.expand(batch, -1), delete, insert, swap])
        change = pick(6)[:, 0]  # 5: none
        changed = answers.gather(1, order[change.clamp(max=3), torch.arange(batch)])
        written = ((change == 1) | (change == 3))[:, None] & (here == a)
        changed = torch.where(written, token, changed)
        answers = torch.where((change < 5)[:, None], changed, answers)
    return answers


@every_task
@widths
def test_score_and_joint_agree_on_near_misses(kind, width):
    task = make(kind, (2, 3, 4), width, answer_length=11)
    drawn = draw(task, 2000)
    joint = task.joint(drawn)
    # words of the prompt, its end, padding, a mask, a name that may be foreign
    others = torch.tensor([EOS, PAD, MASK, *encode(["Ada", "Adams"]).tolist()])
    pool = torch.cat([drawn.prompts[:, -11:-1], others.expand(2000, -1)], 1)
    scores = []
    for seed in range(3):
        answers = near_misses(joint.sample(generator(seed)), pool, seed)
        scores.append(task.score(drawn, answers))
        assert torch.equal(scores[-1], joint.log_prob(answers) > -math.inf)
        for b in range(0, 2000, 25):
            truth = tuple(answers[b].tolist()) in right_answers(task, drawn.prompts[b])
            assert scores[-1][b] == truth
    share = torch.cat(scores).double().mean()
    assert 0.02 < share < 0.7, "the answers must be right and wrong"


@every_task
@pytest.mark.parametrize("width, n", [(1, 2), (1, 3), (2, 2)])
def test_no_other_sequence_is_right(kind, width, n):
    """Brute force over all sequences of the answers' words, ends, padding and masks."""
    growth = {"insert": 1, "remove": -1}.get(kind.split("_")[0], 0)
    length = (n + growth) * width + 1
    task = make(kind, [n], width, answer_length=length)
    drawn = draw(task, 3)
    for b, row in enumerate(drawn.prompts):
        right = torch.tensor(sorted(right_answers(task, row)))
        if length > 5:  # only first names at the places of first names, or an end
            choices = [
                [EOS, *right[:, i : length - 1 : width].unique().tolist()]
                for i in (0, 1)
            ]
            sequences = itertools.product(*[choices[i % 2] for i in range(length)])
            everything = torch.tensor(list({*sequences}))
        else:
            words = torch.cat([right.unique(), torch.tensor([PAD, MASK])])
            everything = words[all_sequences(len(words), length)]
        mine = repeated(drawn, b, len(everything))
        right = everything[task.score(mine, everything)]
        assert set(map(tuple, right.tolist())) == right_answers(task, row)
        log_p = task.joint(mine).log_prob(everything)
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-10)
        assert torch.equal(everything[log_p > -math.inf], right)


@every_task
@widths
def test_conditionals_are_those_of_the_enumerated_answers(kind, width):
    task = make(kind, (2, 4), width)
    drawn = draw(task, 40)
    joint = task.joint(drawn)
    answers = joint.sample(generator(1))
    hidden = torch.rand(answers.shape, generator=generator(2))
    hidden = hidden < torch.rand(40, 1, generator=generator(3))
    answers = answers.masked_fill(hidden, MASK)
    answers[::4, 0] = answers[::4, width]  # often impossible
    p = joint(torch.cat([drawn.prompts, answers], 1)).exp()[:, task.prompt_length :]
    for b, row in enumerate(drawn.prompts):
        right = torch.tensor(sorted(right_answers(task, row)))
        agreeing = right[((answers[b] == right) | (answers[b] == MASK)).all(1)]
        expected = torch.full_like(p[b], 1 / len(VOCABULARY))
        if len(agreeing):
            counts = torch.nn.functional.one_hot(agreeing, len(VOCABULARY))
            expected = counts.double().mean(0)
        torch.testing.assert_close(p[b], expected, **EXACT)


@every_task
@widths
def test_a_row_of_a_ragged_batch_answers_as_it_would_alone(kind, width):
    task = make(kind, (2, 5, 9), width)
    drawn = draw(task, 12)
    joint = task.joint(drawn)
    answers = joint.sample(generator(1))
    hidden = torch.rand(answers.shape, generator=generator(2)) < 0.6
    x = torch.cat([drawn.prompts, answers.masked_fill(hidden, MASK)], 1)
    together = joint(x)
    for b in range(12):
        alone = drawn[b : b + 1]
        assert torch.equal(task.joint(alone)(x[b : b + 1]), together[b : b + 1])
        assert task.score(alone, answers[b : b + 1]).all()


# ----------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("n", [2, 3, 6, 11])
def test_sizes_and_total_correlations_in_closed_form(n):
    """In nats; with two words an item each entropy of a position counts twice."""
    log = math.log
    position = log(n) + (n - 1) / n * log(1 - 1 / n) * -n - log(n)  # n h(1/n) - log n
    sizes = {"shuffle": math.lgamma(n + 1), "replace_random": log(n)}
    apart = {"shuffle": n * log(n), "replace_random": log(n) + position}
    for kind, width in itertools.product(sizes, (1, 2)):
        task = WaitingLine(kind, [n], width)
        joint = task.joint(draw(task, 5))
        size = torch.full((5,), sizes[kind], dtype=torch.float64)
        torch.testing.assert_close(joint.log_size(), size, **EXACT)
        expected = torch.full_like(size, width * apart[kind] - sizes[kind])
        torch.testing.assert_close(joint.total_correlation(), expected, **EXACT)
    published = (n - 1) * log(n / (n - 1))  # Kang et al. 2025, of one word an item
    assert apart["replace_random"] - log(n) == pytest.approx(published, abs=1e-12)


@pytest.mark.parametrize("kind", ONE_ANSWER)
def test_one_right_answer_has_no_total_correlation(kind):
    task = WaitingLine(kind, (2, 7), 2)
    joint = task.joint(draw(task, 10))
    assert (joint.total_correlation() == 0).all() and (joint.log_size() == 0).all()


@pytest.mark.parametrize("kind", RANDOM)
def test_numbers_of_answers_to_random_edits(kind):
    task = WaitingLine(kind, (2, 5, 11))
    drawn = draw(task, 30)
    answers = drawn.given["count"] + (kind == "insert_random")
    expected = answers.double().log()
    torch.testing.assert_close(task.joint(drawn).log_size(), expected, **EXACT)


def decoded_accuracy(
    task: WaitingLine, k: int, count: int = 1000, *, ends: bool = True, seed: int = 0
) -> tuple[int, int]:
    """Right answers of random top-k at temperature 1 on the exact joint, of how many.

    The ends of the answers are given, so that each step reveals k tokens of the list.
    """
    drawn = draw(task, count, seed)
    joint = task.joint(drawn)
    x = task.inputs(drawn)
    if ends:
        size = (drawn.given["count"] + task.growth)[:, None]
        x[:, task.prompt_length :].masked_fill_(
            torch.arange(task.answer_length) >= size, EOS
        )
    out = generate(
        joint, x, rules.random_top_k(k), temperature=1.0, generator=generator(seed)
    )
    right = task.score(drawn, task.answers(out.sequences))
    assert torch.equal(right, joint.log_prob(task.answers(out.sequences)) > -math.inf)
    return int(right.sum()), count


def small(kind: str, n: int, **options) -> WaitingLine:
    """No padding and one end, so that decoding is fast."""
    return WaitingLine(kind, [n], prompt_length=n + 3, answer_length=n + 2, **options)


@pytest.mark.parametrize("n, k", [(3, 3), (4, 2), (5, 2), (6, 3)])
def test_decoding_a_shuffle_is_as_accurate_as_the_closed_form(n, k):
    right, count = decoded_accuracy(small("shuffle", n), k)
    p = exact.shuffle_accuracy(n, k)
    assert stats.binomtest(right, count, p).pvalue > ALPHA


@pytest.mark.parametrize("n", [3, 4])
def test_one_step_decodes_a_shuffle_with_its_ends(n):
    """n! / n^n also where the ends are decoded: they are certain."""
    right, count = decoded_accuracy(small("shuffle", n), n + 2, ends=False)
    p = math.factorial(n) / n**n
    assert stats.binomtest(right, count, p).pvalue > ALPHA


@pytest.mark.parametrize("n, k", [(3, 3), (5, 2), (6, 6)])
def test_decoding_replace_random_is_as_accurate_as_the_closed_form(n, k):
    right, count = decoded_accuracy(small("replace_random", n), k)
    p = exact.replace_random_accuracy(n, k)
    assert stats.binomtest(right, count, p).pvalue > ALPHA


def test_the_published_scorer_lowers_one_step_accuracy_at_three_items_to_5_of_27():
    """Six orders of three items, one of them not allowed, each with probability 1/27.

    Excluding an order leaves every position with probabilities that are not 1/3, so
    the model that knows of it does a little worse: the law is enumerated here.
    """
    task = small("shuffle", 3, new_order=True)
    orders = list(itertools.permutations(range(3)))[1:]
    law = torch.tensor(
        [[sum(o[i] == item for o in orders) / 5 for item in range(3)] for i in range(3)]
    )
    p = sum(math.prod(law[i, o[i]].item() for i in range(3)) for o in orders)
    right, count = decoded_accuracy(task, 3, count=2000)
    assert stats.binomtest(right, count, p).pvalue > ALPHA
    # answers of the uniform model, scored by the published rule
    plain = small("shuffle", 3)
    drawn = draw(plain, 2000)
    x = plain.inputs(drawn)
    out = generate(
        plain.joint(drawn),
        x,
        rules.random_top_k(5),
        temperature=1.0,
        generator=generator(),
    )
    right = int(task.score(drawn, plain.answers(out.sequences)).sum())
    assert stats.binomtest(right, 2000, 5 / 27).pvalue > ALPHA


@every_task
@widths
def test_one_token_at_a_time_is_always_right(kind, width):
    task = make(kind, (2, 4), width, prompt_length=14, answer_length=11)
    right, count = decoded_accuracy(task, 1, 30, ends=False)
    assert right == count


@pytest.mark.parametrize("kind", ONE_ANSWER)
def test_one_step_is_enough_where_there_is_one_answer(kind):
    task = WaitingLine(kind, (2, 4))
    right, count = decoded_accuracy(task, 24, 100, ends=False)
    assert right == count


@pytest.mark.parametrize("kind", ["shuffle", "replace_random"])
def test_conditionals_are_those_of_the_joints_of_the_book(kind):
    n = 5
    book = getattr(joints, kind)(n)
    task = small(kind, n)
    drawn = draw(task, 200)
    names = drawn.given["items"][..., 0]
    if kind == "replace_random":
        names = torch.cat([names, drawn.given["new"]], 1)  # the book's token n
    theirs = book.sample(200, generator(1))
    theirs[torch.rand(200, n, generator=generator(2)) < 0.5] = book.mask_id
    theirs[::5, 0] = theirs[::5, 1]  # often impossible
    mine = torch.cat([names, torch.full((200, 1), MASK)], 1).gather(1, theirs)
    answers = torch.cat([mine, torch.full((200, 2), EOS)], 1)
    mass, total = task.joint(drawn).conditionals(answers, torch.arange(200))
    expected_mass, expected_total = book._conditionals(theirs)
    assert torch.equal(total, expected_total) and 0 < int((total == 0).sum()) < 100
    columns = names[:, None].expand(-1, n, -1)
    possible = total > 0
    mine = mass[:, :n].gather(2, columns)
    assert torch.equal(mine[possible], expected_mass[possible])


# --------------------------------------------------------------------------- English


@every_kind
@widths
def test_requests_name_everything_that_the_prompt_does(kind, width):
    task = WaitingLine(kind, (2, 3, 6), width)
    drawn = draw(task, 30)
    for text, row in zip(task.prompt_text(drawn), drawn.prompts, strict=True):
        items, index, new = read_prompt(task, row)
        assert json.loads(re.search(r"\[.*?\]", text)[0]) == items
        around = re.sub(r"\[.*?\]", "", text)
        assert re.findall(r'"([^"]*)"', around) == ([new] if new else [])
        stated = re.findall(r"position (\d+)", around)
        assert stated == ([str(index), "1"] if index else [])
        assert ("random" in text) == (kind.endswith("_random") or kind == "shuffle")
        assert text.endswith("Answer with the new list only, in the same format.")
    assert "differ" in "".join(
        WaitingLine("shuffle", new_order=True).prompt_text(drawn[:1])
    )


@every_kind
@widths
def test_answers_are_written_as_lists(kind, width):
    task = WaitingLine(kind, (2, 3, 6), width)
    drawn = draw(task, 30)
    answers = task.joint(drawn).sample(generator(1))
    for text, answer in zip(task.answer_text(answers), answers, strict=True):
        assert " ".join(json.loads(text)).split() == decode(answer)
    assert torch.equal(task.parse(task.answer_text(answers)), answers)


def test_wrong_answers_are_written_as_they_are():
    ada, adams = encode(["Ada", "Adams"]).tolist()
    answer = torch.tensor([[ada, PAD, MASK, ada, adams, EOS, ada]])
    task = WaitingLine("copy", (2,), 1, answer_length=7)
    assert task.answer_text(answer) == ['["Ada", "<pad>", "_", "Ada", "Adams"]']
    task = WaitingLine("copy", (2,), 2, answer_length=7)
    assert task.answer_text(answer) == ['["Ada <pad>", "_ Ada", "Adams"]']


READABLE = [
    '["Ada", "Ben"]',
    "['Ada', 'Ben']",
    "[Ada, Ben]",
    '["Ada","Ben",]',
    '[\n  "Ada",\n  "Ben"\n]',
    '["Ada"\n"Ben"]',
    '[["Ada", "Ben"]]',
    "[“Ada”, ‘Ben’]",
    "[`Ada`, `Ben`]",
    'Sure! Here is the list:\n\n["Ada", "Ben"]\n\nI left Cara out.',
    '```json\n["Ada", "Ben"]\n```',
    '```["Ada", "Ben"]```',
    "```\nAda\nBen\n```",
    'names = ["Ada", "Ben"]  # [copied]',
    '{"list": ["Ada", "Ben"]}',
    '["Ada", "Ben"] :]',
    'The answer is ["Ada", "Ben"]. Again: ["Ada", "Ben"]',
    "1. Ada\n2. Ben",
    "1) Ada\r\n2) Ben\r\n",
    "1.Ada\n2.Ben",
    "Here you are:\n- Ada\n- Ben\n\nCara was removed.",
    '* "Ada",\n\n* "Ben",',
    "• **Ada**\n• **Ben**",
    "Ada\nBen",
    "Ada, Ben",
    "Ada, Ben.",
    "Ada,\nBen,\n",
    '"Ada", "Ben"',
    "Answer: Ada, Ben",
    "The new list:\nAda\nBen\n\nHope that helps!",
    "\tAda ,  Ben ",
    "**Answer:** Ada, Ben",
    "**Ada, Ben**",
    "*Ada*, *Ben*",
    "_Ada_, _Ben_",
    "Ada, and Ben",
    "[Ada and Ben]",
    "Ada; Ben",
    "Ada | Ben",
    "Ada → Ben",
    '"Ada, Ben"',
    '("Ada", "Ben")',
    "answer = {'Ada', 'Ben'}",
    '{"1": "Ada", "2": "Ben"}',
    "1. Ada.\n2. Ben.",
    "1. Ada\n2. Ben.",
    "**1.** Ada\n**2.** Ben",
    "(1) Ada\n(2) Ben",
    "1. Ada, 2. Ben",
    "1) Ada 2) Ben",
    "Position 1: Ada\nPosition 2: Ben",
    "– Ada\n– Ben",
    "Ada\n\nBen",
    "### Answer\nAda, Ben",
    "ANSWER\nAda, Ben",
    "Sure!\nAda, Ben\nI hope this helps.",
    "The new list is Ada, Ben.",
    "| # | Name |\n|---|:---|\n| 1 | Ada |\n| 2 | Ben |",
    "| Name |\n|---|\n| Ada |\n| Ben |",
    "| 1 | 2 |\n|---|---|\n| Ada | Ben |",
    "> Ada, Ben",
    "```python3\nAda, Ben\n```",
    "```Text\nAda, Ben\n```",
    "```Ada\nBen\n```",
    "~~~\nAda, Ben\n~~~",
    "<answer>Ada, Ben</answer>",
    "<b>Ada</b><br>Ben",
    "<ul><li>Ada</li><li>Ben</li></ul>",
    "<think>First Ben, Ada?</think>\n\nAda, Ben",
    "First Ben, Ada?\n</think>Ada, Ben",
    "Ada, Ben</s>",
    "Ada, Ben<|eot_id|>Ben, Ada",
    "<|im_start|>assistant\nAda, Ben<|im_end|>",
    r"\boxed{\text{Ada}, \text{Ben}}",
    r'\["Ada", "Ben"\]',
    "Ada, Ben\n\nRemoved: Cara",
    "Ada, Ben\n\n(Cara is left out)",
    "From [Ada, Ben, Cara] I take:\n\nAda, Ben",
    "Original list: Cara, Ada\nNew list: Ada, Ben",
    "old = [Ben, Ada]\nnew_list = [Ada, Ben]",
    "Here is a copy of the given list: Ada, Ben",
    "Copy the list [Ben, Cara].\n\nAda, Ben",
    "[Ben, Ada]\n\nCorrected answer: [Ada, Ben]",
    "Answer: Ada, Ben\n\nThe original list was Ben, Ada.",
    "Steps:\n1. The input is Ben, Ada.\n2. I turn it round.\n\nResult: Ada, Ben",
]
UNREADABLE = [
    "",
    " \n ",
    "[]",
    "Hello!",
    "Ada and then Ben",
    "[Ada Ben]",
    '["Ada" "Ben"]',
    '["Ada",, "Ben"]',
    '["Ada", "Ben\']',
    '["Ada", "Ben"',
    '[\n"Ada",\n"Ben",',
    'The list is: ["Ada", "Ben"',
    '["Ada", "Bob"]',
    '["Ada", "Adams"]',
    '["Ada Adams", "Ben"]',
    '["ada", "ben"]',
    '["Ada", ["Ben"]]',
    '["Ada"], ["Ben"]',
    'The list ["Ada", "Ben", "Cara"] becomes ["Ada", "Ben"].',
    '["Ada", "Ben"] or ["Ben", "Ada"]',
    "1. Ada\n2. Ben\n3. Bob",
    "1. Ada, Ben",
    "- Ada\n- Ben\n\nor\n\n- Ben\n- Ada",
    "Ada\nBen\nBob",
    "Bob\nAda\nBen",
    "Ada.\nBen.\nBob.",
    "Ada\nBen\n\nBen\nAda",
    "Ada, Bob\nBen, Cara",
    "1. Ada\n2. Bob\n3. Ben\n4. Cara",
    "- Ada\n- I forgot the second\n- Ben",
    "Input: Ada, Ben",
    'I cannot copy the list ["Ada", "Ben"].',
    'The list ["Ada", "Ben"] cannot be copied.',
    "I can’t help with Ada, Ben.\n\nThe names are not Ada, Ben.",
    "Answer: Ada, Ben\n\nAnswer: Ben, Ada",
    "Answer: Ada, Ben\n\nNo, wait: Ben, Ada",
    "<think>Ada, Ben",
    "<answer></answer>Ada, Ben, or Ben, Ada",
    "Ada, Ben\n\nBen, Ada",
    "[" * 5000,
    "[Ada]" * 5000 + "[Ben]",
    " \n" * 50000 + "x",
    "9" * 10000 + ". Ada Bob",
    "a\n" * 50000,
    "a\n\n" * 50000,
    '["Ada", "Ben"]'.replace("Ben", ", ".join(["Ben"] * 40)),
]


@pytest.mark.parametrize("text", READABLE)
def test_lists_are_read_however_they_are_written(text):
    task = WaitingLine("copy", (2,))
    assert task.parse([text]).tolist() == [tokens(task, ["Ada", "Ben"])]


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:30])
def test_what_cannot_be_read_becomes_padding(text):
    task = WaitingLine("copy", (2,))
    parsed = task.parse([text])
    assert parsed.tolist() == [[PAD] * task.answer_length]
    drawn = draw(task, 1)
    assert not task.score(drawn, parsed).any()
    assert (task.joint(drawn).log_prob(parsed) == -math.inf).all()


def named(kind: str) -> tuple[WaitingLine, Instances]:
    """A task with the list Ada, Ben, Cara."""
    task = WaitingLine(kind, (3,))
    given = draw(task, 1).given
    given["items"] = encode(["Ada", "Ben", "Cara"]).view(1, 3, 1)
    return task, Instances(task._prompts(given), given)


LIST = '["Ada", "Ben", "Cara"]'


@pytest.mark.parametrize(
    ("kind", "right", "text"),
    [
        (
            "copy",
            0,
            f"The original list is {LIST}.\n\nA copy:\n1. Ada\n2. Cara\n3. Ben",
        ),
        ("copy", 0, "Input:\n- Ada\n- Ben\n- Cara\n\nOutput: Ada, Cara"),
        ("shuffle", 0, f"Given: {LIST}\n\nShuffled: Ben, Ben, Cara"),
        ("reverse", 0, "Cara, Ben, Ada\n\nSorry, the reversed list is Ada, Ben, Cara."),
        ("copy", 0, f"I cannot copy the list {LIST}."),
        ("copy", 1, f"Copied: {LIST}."),
        ("reverse", 1, f"Original: {LIST}\n\nReversed:\n1. Cara\n2. Ben\n3. Ada"),
        ("reverse", 1, f"{LIST} reversed is Cara, Ben, Ada."),
        ("remove_random", 1, f"From {LIST} I remove Cara.\n\nAda, Ben"),
        ("remove_random", 1, "Ada, Ben\n\nRemoved: Cara"),
        ("remove_random", 1, "The original list with Cara removed:\nAda, Ben"),
        ("reverse", 1, f"The list {LIST} in reverse order is Cara, Ben, Ada."),
        ("reverse", 1, "1. Ada\n2. Ben\n3. Cara\n\nReversed:\n- Cara\n- Ben\n- Ada"),
        ("copy", 0, f"{LIST} or Cara, Ben, Ada"),
    ],
)
def test_a_text_is_scored_as_a_careful_reader_would(kind, right, text):
    task, instances = named(kind)
    assert task.score(instances, task.parse([text])).tolist() == [bool(right)]


@every_kind
@widths
def test_a_question_that_is_repeated_is_no_answer(kind, width):
    task = WaitingLine(kind, (3, 5), width)
    drawn = draw(task, 5)
    asked = task.prompt_text(drawn)
    assert (task.parse(asked) == PAD).all()
    answers = task.joint(drawn).sample(generator(1))
    for way in ("{}\n\n{}", "> {}\n\n{}", "Question: {}\n\nAnswer: {}"):
        told = zip(asked, task.answer_text(answers), strict=True)
        assert torch.equal(task.parse([way.format(*both) for both in told]), answers)


def test_a_batch_of_texts_is_read_row_by_row():
    task = WaitingLine("copy", (2,), 2)
    texts = ["['Ada Adams']", "?", "Ben Baker, Ada Adams", "[Ada, Adams]"]
    one, two = tokens(task, ["Ada Adams"]), tokens(task, ["Ben Baker", "Ada Adams"])
    none = [PAD] * task.answer_length
    assert task.parse(texts).tolist() == [one, none, two, none]
    assert task.parse([]).shape == (0, task.answer_length)


CHATTER = st.sampled_from(
    ["", "Sure!", "Here is the new list:", "I kept Ada where she was.", "Note (1): ok"]
)
LINES = st.sampled_from([", ", ",", " , ", ",\n", "\n", ",\r\n  ", "\n\t"])


@st.composite
def decorated(draw_, items: list[str]) -> str:
    """A list as a language model might write it."""
    quote = draw_(st.sampled_from(['"', "'", "`", ""]))
    quoted = [f"{quote}{item}{quote}" for item in items]
    forms = ["brackets", "marks", "bare", "table", "apart", "answer"]
    form = draw_(st.sampled_from(forms))
    if form == "marks":
        mark = draw_(st.sampled_from(["{}. ", "{}) ", "- ", "* ", "  • ", "{}: "]))
        bold = draw_(st.sampled_from(["", "**"])) if not quote else ""
        gap = draw_(st.sampled_from(["\n", ",\n", "\n\n", " \r\n"]))
        body = gap.join(
            mark.format(i + 1) + bold + item + bold for i, item in enumerate(quoted)
        )
    elif form == "table":
        rows = [f"| {i} | {item} |" for i, item in enumerate(quoted, 1)]
        body = "\n".join(["| # | Name |", "|---|---|", *rows])
    elif form == "apart":
        body = "\n\n".join(quoted)
    elif form == "answer":
        between = draw_(st.sampled_from([", ", "; ", " and ", "\n"]))
        body = f"<answer>{between.join(quoted)}</answer></s>"
    else:
        body = draw_(LINES).join(quoted) + draw_(st.sampled_from(["", ",", ", "]))
    if form == "brackets":
        space = draw_(st.sampled_from(["", " ", "\n"]))
        body = f"{draw_(st.sampled_from(['', 'x = ']))}[{space}{body}{space}]"
    if draw_(st.booleans()):
        body = (
            f"```{draw_(st.sampled_from(['', 'json', 'python', 'text']))}\n{body}\n```"
        )
    return f"{draw_(CHATTER)}\n\n{body}\n\n{draw_(CHATTER)}"


@widths
@given(data=st.data(), kind=st.sampled_from(KINDS))
@settings(max_examples=150)
def test_decorated_answers_are_read_as_they_were_meant(width, kind, data):
    task = WaitingLine(kind, (2, 3, 6), width)
    drawn = task._propose(1, generator(data.draw(st.integers(0, 1000))))
    answer = task.joint(drawn).sample(generator(1))
    text = data.draw(decorated(json.loads(task.answer_text(answer)[0])))
    assert torch.equal(task.parse([text]), answer)
    assert task.score(drawn, task.parse([text])).all()


PIECES = [
    *"[]\"',\n.:-*`1 ",
    "``" + "`",
    "Ada",
    "Ben",
    "Cara Adams",
    "Bob",
    "\r",
    "’",
    "_",
]


@settings(max_examples=300)
@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_any_text_is_read_as_a_list_of_its_names_or_not_at_all(text):
    """Whatever is read is made of names that stand in the text, in its order."""
    for width in (1, 2):
        task = WaitingLine("copy", (2,), width)
        (answer,) = task.parse([text])
        if (answer == PAD).all():
            continue
        words = decode(answer)
        assert answer.tolist() == tokens(task, words) and len(words) % width == 0
        spoken = iter(re.findall(r"\w+", text.replace("_", " ")))
        assert all(word in spoken for word in words)
