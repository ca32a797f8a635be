"""What every task shares: vocabulary, padding, splits, drawing, the call of a joint."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from dllm_tutorial import tasks
from dllm_tutorial.decoding import generate
from dllm_tutorial.decoding import strategies as rules
from dllm_tutorial.denoiser import Denoiser
from dllm_tutorial.tasks import base, reading
from dllm_tutorial.tasks.answers import AnswerTable
from dllm_tutorial.tasks.base import Instances, Task
from dllm_tutorial.tasks.vocabulary import (
    EOS,
    MASK,
    PAD,
    SEPARATOR,
    SYMBOLS,
    VOCABULARY,
    decode,
    encode,
)
from helpers import chi_square_p

ALPHA = 1e-4  # error rate of each sampled test
words = st.lists(st.sampled_from(VOCABULARY[2:]), max_size=6)


class Repeat(Task):
    """A letter is answered by itself, once or twice: the smallest task there is."""

    name = "repeat"

    def __init__(self, letters: int = 3) -> None:
        super().__init__(prompt_length=4, answer_length=3)
        self.letters = encode(SYMBOLS[:letters])

    def _propose(self, count, generator):
        pick = torch.randint(len(self.letters), (count, 2), generator=generator)
        tokens = torch.cat(
            [self.letters[pick], torch.full((count, 1), SEPARATOR)], dim=1
        )
        prompts = base.padded(tokens, self.prompt_length)
        return Instances(prompts, {"letter": tokens[:, 0]})

    def joint(self, instances):
        letter = instances.given["letter"]
        once = torch.stack([letter, letter.new_full(letter.shape, EOS)], 1)
        twice = torch.stack([letter, letter], 1)
        support = torch.stack([base.ended(once, 3), base.ended(twice, 3)], 1)
        return AnswerTable(instances.prompts, support, support[..., 0] > 0)

    def score(self, instances, answers):
        raise NotImplementedError

    def prompt_text(self, instances):
        raise NotImplementedError

    def answer_text(self, answers):
        raise NotImplementedError

    def parse(self, texts):
        raise NotImplementedError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------ vocabulary


@given(words)
def test_words_come_back_from_their_tokens(listed):
    assert decode(encode(listed)) == listed
    assert [VOCABULARY[token] for token in encode(listed)] == listed


def test_decoding_stops_at_the_end_and_shows_masks():
    tokens = torch.tensor([PAD, *encode(["A"]).tolist(), MASK, EOS, 7, MASK])
    assert decode(tokens) == ["A", "_"]
    assert len(VOCABULARY) == MASK and len(set(VOCABULARY)) == MASK
    assert [VOCABULARY[token] for token in (PAD, EOS, SEPARATOR)] == [
        "<pad>",
        "<eos>",
        ":",
    ]


def test_an_unknown_word_is_an_error():
    with pytest.raises(ValueError, match="nobody"):
        encode(["A", "nobody"])


def test_what_is_no_token_cannot_be_decoded():
    for token in (-1, MASK + 1):
        with pytest.raises(ValueError, match="tokens must hold tokens between 0 and"):
            decode(torch.tensor([token]))
    with pytest.raises(TypeError, match="tokens must be a torch"):
        decode([1])


# --------------------------------------------------------------------------- padding

rows = st.lists(
    st.lists(st.sampled_from([PAD, 5, 6, 7]), min_size=4, max_size=4),
    min_size=1,
    max_size=4,
)


@given(rows, st.integers(4, 7))
def test_padding_moves_to_the_right_and_the_order_stays(listed, length):
    padded = base.padded(torch.tensor(listed), length).tolist()
    for row, before in zip(padded, listed, strict=True):
        kept = [token for token in before if token != PAD]
        assert row == kept + [PAD] * (length - len(kept))


@given(rows, st.integers(5, 7))
def test_answers_are_filled_up_with_ends(listed, length):
    answers = [[token for token in row if token != PAD] for row in listed]
    tokens = torch.tensor([row + [EOS] * (4 - len(row)) for row in answers])
    ended = base.ended(tokens, length).tolist()
    assert ended == [row + [EOS] * (length - len(row)) for row in answers]


def test_what_does_not_fit_is_an_error_and_what_just_fits_is_not():
    tokens = torch.tensor([[PAD, 5, 6], [7, PAD, PAD]])
    assert base.padded(tokens, 2).tolist() == [[5, 6], [7, PAD]]
    with pytest.raises(ValueError, match="prompt_length must be at least 2, got 1"):
        base.padded(tokens, 1)
    tokens = torch.tensor([[5, 6, EOS, EOS], [7, EOS, EOS, EOS]])
    assert base.ended(tokens, 3).tolist() == [[5, 6, EOS], [7, EOS, EOS]]
    with pytest.raises(ValueError, match="answer_length must be at least 3, got 2"):
        base.ended(tokens, 2)


# ---------------------------------------------------------------------------- splits


def reference_hash(tokens: list[int]) -> int:
    """The same with Python's integers, reduced to 64 signed bits by hand."""
    code = 0
    for token in tokens:
        code = ((code ^ (code >> 29)) * 0x5851F42D4C957F2D + token + 1) % 2**64
        code -= 2**64 * (code >= 2**63)
    return (code ^ (code >> 32)) & 0x7FFFFFFF


def random_prompts(count: int, seed: int = 0) -> Tensor:
    shape = (count, 9)
    tokens = torch.randint(3, len(VOCABULARY), shape, generator=generator(seed))
    used = torch.randint(1, 10, (count, 1), generator=generator(seed + 1))
    return tokens.masked_fill(torch.arange(9) < 9 - used, PAD)


def test_the_split_is_a_hash_of_the_tokens_without_padding():
    prompts = random_prompts(500)
    expected = [
        reference_hash([token for token in row if token != PAD]) % base.TEST_SHARE == 0
        for row in prompts.tolist()
    ]
    assert base.in_test(prompts).tolist() == expected
    wider = torch.nn.functional.pad(prompts, (5, 0), value=PAD)
    assert base.in_test(wider).tolist() == expected


def test_one_prompt_in_ten_is_a_test_also_among_similar_prompts():
    similar = torch.full((4000, 6), 50)
    similar[:, 1] = torch.arange(4000) % 400 + 3
    similar[:, 4] = torch.arange(4000) // 400 + 3
    for prompts in (random_prompts(4000), similar):
        chosen = int(base.in_test(prompts.unique(dim=0)).sum())
        size = len(prompts.unique(dim=0))
        assert stats.binomtest(chosen, size, 1 / base.TEST_SHARE).pvalue > ALPHA


# --------------------------------------------------------------------------- drawing


def test_draws_have_the_size_and_split_that_was_asked_for():
    task = Repeat(36)
    for split in base.SPLITS:
        drawn = task.draw(300, split=split, generator=generator())
        assert len(drawn) == len(drawn.given["letter"]) == 300
        assert (base.in_test(drawn.prompts) == (split == "test")).all()
        # what is given belongs to the prompt beside it
        assert torch.equal(drawn.prompts[:, 0], drawn.given["letter"])
        again = task.draw(300, split=split, generator=generator())
        assert torch.equal(drawn.prompts, again.prompts)
        other = task.draw(300, split=split, generator=generator(1))
        assert not torch.equal(drawn.prompts, other.prompts)


def test_no_prompt_is_in_both_splits():
    task = Repeat(36)
    train, test = (
        set(
            map(
                tuple,
                task.draw(20000, split=split, generator=generator()).prompts.tolist(),
            )
        )
        for split in base.SPLITS
    )
    assert len(train) + len(test) == 36**2, "every prompt has been drawn"
    assert not train & test


@pytest.mark.parametrize("split", base.SPLITS)
def test_draws_are_uniform_within_their_split(split):
    task = Repeat(6)
    pairs = torch.cartesian_prod(task.letters, task.letters)
    end = torch.full((36, 1), SEPARATOR)
    every = base.padded(torch.cat([pairs, end], 1), task.prompt_length)
    mine = every[base.in_test(every) == (split == "test")]
    drawn = task.draw(2000, split=split, generator=generator(5)).prompts
    assert len(mine) > 1
    assert chi_square_p(drawn, mine, torch.ones(len(mine))) > ALPHA


def test_bad_draws_are_errors():
    with pytest.raises(ValueError, match="split"):
        Repeat().draw(3, split="validation")
    with pytest.raises(ValueError, match="count"):
        Repeat().draw(0)
    with pytest.raises(TypeError, match="count"):
        Repeat().draw(2.0)
    for task in (Repeat(), tasks.make("copy"), tasks.Sudoku9()):
        with pytest.raises(TypeError, match="generator must be a torch"):
            task.draw(3, generator=0)
    with pytest.raises(ValueError, match="names must hold one task at least"):
        tasks.dataset(3, generator(), [])


def test_instances_can_be_taken_apart_and_moved():
    drawn = Repeat().draw(7, split="train", generator=generator())
    for rows_ in (slice(2, 5), torch.tensor([2, 3, 4])):
        part = drawn[rows_]
        assert len(part) == 3
        assert torch.equal(part.prompts, drawn.prompts[2:5])
        assert torch.equal(part.given["letter"], drawn.given["letter"][2:5])
    moved = drawn.to("meta")
    assert moved.prompts.is_meta and moved.given["letter"].is_meta


# --------------------------------------------------------------- the call of a joint


def test_a_joint_is_a_denoiser_that_decodes_valid_answers_one_by_one():
    task = Repeat()
    drawn = task.draw(40, split="train", generator=generator())
    joint = task.joint(drawn)
    x = task.inputs(drawn)
    assert isinstance(joint, Denoiser)
    assert torch.equal(x[:, : task.prompt_length], drawn.prompts)
    assert (task.answers(x) == MASK).all() and x.shape == (40, 7)
    out = generate(
        joint, x, rules.random_top_k(1), temperature=1.0, generator=generator()
    )
    answers = task.answers(out.sequences)
    assert (joint.log_prob(answers) == -math.log(2)).all()
    assert torch.equal(out.sequences[:, : task.prompt_length], drawn.prompts)


def test_the_prompt_answers_with_its_tokens_and_the_impossible_uniformly():
    task = Repeat()
    drawn = task.draw(2, split="train", generator=generator())
    x = task.inputs(drawn)
    x[1, -1] = MASK - 1  # no word ends like this
    p = task.joint(drawn)(x).exp()
    prompt = torch.nn.functional.one_hot(drawn.prompts, len(VOCABULARY)).double()
    assert torch.equal(p[:, : task.prompt_length], prompt)
    torch.testing.assert_close(p.sum(2), torch.ones_like(p[..., 0]))
    uniform = torch.full((3, len(VOCABULARY)), 1 / len(VOCABULARY)).double()
    torch.testing.assert_close(p[1, task.prompt_length :], uniform)


def test_an_instance_owns_consecutive_rows_of_a_larger_batch():
    task = Repeat()
    drawn = task.draw(4, split="train", generator=generator())
    joint, x = task.joint(drawn), task.inputs(drawn)
    assert torch.equal(
        joint(x.repeat_interleave(3, 0)), joint(x).repeat_interleave(3, 0)
    )
    for bad in (x[:3], x[:0], x.repeat(2, 1)[:7]):
        with pytest.raises(ValueError, match="multiple of 4 rows"):
            joint(bad)
    with pytest.raises(ValueError, match="7 positions"):
        joint(x[:, 1:])
    with pytest.raises(TypeError, match="x"):
        joint(x.float())


def test_total_correlation_of_an_answer_once_or_twice():
    """Tokens two and three: the end or the letter, and always the end: none at all."""
    task = Repeat()
    joint = task.joint(task.draw(3, split="train", generator=generator()))
    expected = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(joint.total_correlation(), expected)
    assert len(joint) == 3
    torch.testing.assert_close(joint.log_size().exp(), expected + 2)


def test_bad_lengths_are_errors():
    class Short(Repeat):
        def __init__(self, **lengths):
            Task.__init__(self, **lengths)

    with pytest.raises(ValueError, match="prompt_length"):
        Short(prompt_length=0)
    with pytest.raises(ValueError, match="answer_length"):
        Short(answer_length=0)
    assert repr(Repeat()) == "Repeat('repeat')"


# ------------------------------------------------------------------------- free text


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_single_string_is_no_list_of_texts(name):
    with pytest.raises(TypeError, match="texts must be a list of strings, got the str"):
        tasks.make(name).parse("Ada, Ben")
    with pytest.raises(TypeError, match="texts must hold strings, got None"):
        tasks.make(name).parse(["Ada, Ben", None])


@pytest.mark.parametrize(
    "text",
    [
        "**A** b",
        "<b>A</b> *b*",
        "> A `b`",
        "```python3\nA b\n```",
        "### A __b__",
        "Question? Tell me.\nA b",
        "<think>C</think>A b",
        "<s>A b</s> C",
        "<|im_start|>assistant\nA b<|im_end|>C",
        r"$\text{A} b \\$",
        "\u00a0A  b\r\n",
    ],
)
def test_formatting_is_taken_off(text):
    assert reading.plain(text, "Tell me.").strip() == "A b"


def test_what_a_network_writes_is_not_taken_for_a_tag():
    assert reading.plain('"<copy>", "<pad>"', "?") == '"<copy>", "<pad>"'


@pytest.mark.parametrize(
    ("said", "rank"),
    [
        ("", 0),
        ("Here you are:", 0),
        ("Corrected answer:", 2),
        ("The new list is", 1),
        ("a copy of the given list:", 1),
        ("The original list is", -1),
        ("The original list is long. Here:", 0),
        ("Original\n\nI see:", 0),
        ("I cannot reverse", -1),
        ("I will reverse the list", -1),
        ("Reverse the list:", 1),
        ("The original list with Cara removed:", 1),
        ("Here is a sentence with the given words:", 1),
        ("Using these words:", 1),
        ("In other words:", 0),
        ("Words:", -1),
        ("The given sentence in the passive voice:", 1),
        ("Original (active):", -1),
    ],
)
def test_announcements(said, rank):
    assert reading.rank(said) == rank


def test_candidates_of_the_highest_rank_must_agree_and_come_last():
    for candidates, expected in [
        ([], None),
        ([("A", -1)], None),
        ([("A", 0), ("A", 1), ("B", -1)], "A"),
        ([("A", 0), ("B", 0)], None),
        ([("A", 0), ("B", 1)], "B"),
        ([("A", 1), ("B", 0)], None),
        ([("A", 1), ("B", 2), ("B", 0)], "B"),
        ([("A", 2), ("B", 2)], None),
    ]:
        assert reading.chosen(candidates) == expected
