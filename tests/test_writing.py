"""Words to sentence and paraphrase, against enumeration and the parser."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dllm_tutorial.decoding import generate
from dllm_tutorial.decoding.strategies import random_top_k
from dllm_tutorial.joints import TableJoint
from dllm_tutorial.tasks import lexicon
from dllm_tutorial.tasks.grammar import Meaning, meaning
from dllm_tutorial.tasks.sentences import Language, SentenceJoint
from dllm_tutorial.tasks.vocabulary import EOS, MASK, PAD, VOCABULARY, decode, encode
from dllm_tutorial.tasks.writing import LEVELS, Paraphrase, WordsToSentence
from helpers import chi_square_p
from test_grammar import all_by_parser

ALPHA = 1e-4
TASKS = {level: WordsToSentence(level) for level in LEVELS}
TASKS["paraphrase"] = Paraphrase()
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=str)

# ------------------------------------------- the joint on a small language, enumerated

SMALL = (
    *("a", "an", "the", "some", "doctor", "attorney", "kids", "old", "often"),
    *("see", "sees", "saw", "seen", "was", "are", "by", "yesterday"),
)
LONGEST, LENGTH = 8, 11
GIVEN = (
    ("doctor", "saw", "old"),
    ("kids", "the", "a"),  # words that a sentence can have twice
    ("saw", "attorney", "yesterday"),
    ("seen", "was", "often"),
    ("attorney", "doctor", "kids"),  # too many nouns: no sentence
)
POSSIBLE = GIVEN[:-1]


@cache
def all_answers() -> Tensor:
    """Every sentence of the small language as an answer, Long[M, 11]."""
    answers = torch.full((len(all_by_parser(SMALL, LONGEST)), LENGTH), EOS)
    for row, words in zip(answers, sorted(all_by_parser(SMALL, LONGEST)), strict=True):
        row[: len(words)] = encode(words)
    return answers


@cache
def table(words: tuple[str, ...]) -> TableJoint:
    """The answers with these words, all equally likely."""
    answers = all_answers()
    has = torch.stack([(answers == word).any(1) for word in encode(words)])
    return TableJoint(answers[has.all(0)], None, len(VOCABULARY))


def joint(*given: tuple[str, ...]) -> SentenceJoint:
    prompts = torch.zeros(len(given), 2, dtype=torch.long)
    words = torch.stack([encode(words) for words in given])
    return SentenceJoint(prompts, LENGTH, Language(LONGEST, SMALL), words)


def evidence(words: tuple[str, ...], count: int, seed: int) -> Tensor:
    """Partly masked answers: valid ones, ones with other words, and nonsense."""
    generator = torch.Generator().manual_seed(seed)
    pool = [table(words).support] if words in POSSIBLE else []
    rows = []
    for answers in (*pool, all_answers()):
        pick = torch.randint(len(answers), (count,), generator=generator)
        rows.append(answers[pick])
    wild = torch.randint(MASK, (count, LENGTH), generator=generator)
    x = torch.cat([*rows, wild, torch.full((1, LENGTH), MASK)])
    share = torch.rand(len(x), 1, generator=generator)
    return torch.where(torch.rand(x.shape, generator=generator) < share, MASK, x)


def with_prompt(answers: Tensor) -> Tensor:
    return torch.cat([torch.zeros(len(answers), 2, dtype=torch.long), answers], 1)


@pytest.mark.parametrize("words", POSSIBLE)
def test_conditionals_equal_enumeration(words):
    x = evidence(words, 60, seed=0)
    found = joint(words)(with_prompt(x))
    assert torch.equal(found[:, 2:], table(words)(x))
    assert torch.equal(found[:, :2].argmax(-1), torch.zeros(len(x), 2).long())


def test_words_without_a_sentence_leave_nothing():
    x = evidence(GIVEN[-1], 20, seed=1)
    impossible = joint(GIVEN[-1])
    uniform = torch.full((len(x), LENGTH, len(VOCABULARY)), 1 / len(VOCABULARY))
    found = impossible(with_prompt(x))[:, 2:].exp()
    torch.testing.assert_close(found, uniform.double(), rtol=1e-6, atol=0)
    assert impossible.log_size().item() == -math.inf
    with pytest.raises(ValueError, match="words must fit in a sentence"):
        impossible.sample()


def test_sizes_entropies_and_probabilities_equal_enumeration():
    found = joint(*POSSIBLE)
    sizes = [len(table(words).support) for words in POSSIBLE]
    correlation = [table(words).total_correlation() for words in POSSIBLE]
    expected = torch.tensor(sizes).double().log()
    torch.testing.assert_close(found.log_size(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        found.total_correlation(),
        torch.tensor(correlation, dtype=torch.float64),
        rtol=0,
        atol=1e-9,
    )
    for answers in (found.sample(), all_answers()[: len(POSSIBLE)]):
        for row, words, got in zip(
            answers, POSSIBLE, found.log_prob(answers), strict=True
        ):
            want = table(words).log_prob(row[None])[0]
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    hidden = found.sample()
    hidden[:, 3] = MASK
    assert found.log_prob(hidden).tolist() == [-math.inf] * len(POSSIBLE)


def test_samples_are_uniform():
    """Chi-square with error rate 1e-4 over all sentences with the given words."""
    words = ("seen", "was", "often")
    many = joint(*[words] * 10 * len(table(words).support))
    samples = many.sample(torch.Generator().manual_seed(3))
    support = table(words).support
    assert chi_square_p(samples, support, torch.ones(len(support))) > ALPHA


def test_a_row_is_answered_alone_as_in_a_batch():
    """To the last bit, and with several rows for an instance."""
    both = joint(*POSSIBLE)
    x = torch.cat([evidence(words, 5, seed=4)[:11] for words in POSSIBLE])
    found = both(with_prompt(x)).view(len(POSSIBLE), 11, 2 + LENGTH, -1)
    for words, rows, got in zip(POSSIBLE, x.split(11), found, strict=True):
        alone = [joint(words)(with_prompt(row[None])) for row in rows]
        assert torch.equal(torch.cat(alone), got)


def test_a_sentence_without_given_words_is_any_sentence():
    none = SentenceJoint(
        torch.zeros(1, 2, dtype=torch.long),
        LENGTH,
        Language(LONGEST, SMALL),
        torch.zeros(1, 0, dtype=torch.long),
    )
    assert none.log_size().exp().round().item() == len(all_answers())


def test_bad_joints_are_refused():
    language, prompts = Language(LONGEST, SMALL), torch.zeros(1, 2, dtype=torch.long)
    for words in (["saw", "saw"], ["saw", "nurse"]):
        with pytest.raises(ValueError, match="words must be distinct words of lang"):
            SentenceJoint(prompts, LENGTH, language, encode(words)[None])
    with pytest.raises(ValueError, match="words must be distinct words of language"):
        SentenceJoint(prompts, LENGTH, language, torch.tensor([[EOS]]))
    with pytest.raises(ValueError, match="words must be at most 4 a row, got 5"):
        SentenceJoint(prompts, LENGTH, language, encode(SMALL[:5])[None])
    with pytest.raises(ValueError, match="answer_length must be above 8, got 8"):
        SentenceJoint(prompts, 8, language, encode(["saw"])[None])


# ----------------------------------------------------------------------------- tasks


@each_task
def test_every_drawn_answer_is_right(task):
    generator = torch.Generator().manual_seed(5)
    for split in ("train", "test"):
        instances = task.draw(200, split=split, generator=generator)
        answers = task.joint(instances).sample(generator)
        assert task.score(instances, answers).all()
        assert (task.joint(instances).log_prob(answers) > -math.inf).all()


@each_task
def test_score_and_joint_agree_on_broken_answers(task):
    """Two words exchanged, a word replaced, dropped or doubled, masked, padded; no end,
    a word behind it; the answer to another instance: valid for both or for neither."""
    generator = torch.Generator().manual_seed(6)
    instances = task.draw(120, generator=generator)
    law = task.joint(instances)
    verdicts = []
    for kind in range(9):
        answers = law.sample(generator)
        for row in answers:
            length = int((row != EOS).sum())
            i, j = torch.randint(length, (2,), generator=generator).tolist()
            if kind == 0:
                row[[i, j]] = row[[j, i]]
            elif kind == 1:
                words = encode(lexicon.WORDS)
                row[i] = words[torch.randint(len(words), (), generator=generator)]
            elif kind == 2:
                row[i:] = torch.cat([row[i + 1 :], torch.tensor([EOS])])
            elif kind == 3:
                row[i:] = torch.cat([row[i : i + 1], row[i:-1]])
            elif kind in (4, 5):
                row[i] = MASK if kind == 4 else PAD
            elif kind in (6, 7):  # without an end, or with a word behind it
                row[length if kind == 6 else -1 :] = row[i]
        answers = answers.roll(1, 0) if kind == 8 else answers
        scores = task.score(instances, answers)
        assert torch.equal(scores, law.log_prob(answers) > -math.inf)
        if kind in (2, 3):
            assert not scores.all()
        if kind in (4, 5, 6, 7):
            assert not scores.any()
        verdicts += scores.tolist()
    assert any(verdicts)


@pytest.mark.parametrize("level", LEVELS)
def test_a_sentence_without_a_given_word_is_wrong(level):
    """The sentence is as grammatical with the synonym that stands for the word."""
    task = TASKS[level]
    instances = task.draw(300, generator=torch.Generator().manual_seed(7))
    answers = task.joint(instances).sample(torch.Generator().manual_seed(8))
    swap = {}
    for group in (lexicon.NOUNS, lexicon.VERBS, lexicon.ADJECTIVES, lexicon.ADVERBS):
        for concept in group:
            for form, other in zip(*concept[:2], strict=True) if concept[1:] else ():
                swap[form], swap[other] = other, form
    checked = 0
    for k, answer in enumerate(answers):
        word = decode(instances.given["words"][k])[0]
        if word in swap and swap[word][0] == word[0]:
            answer[answer == encode([word])] = encode([swap[word]])
            assert not task.score(instances[k : k + 1], answer[None]).any()
            checked += 1
    assert checked > 5


@each_task
def test_one_token_at_a_time_is_always_right(task):
    instances = task.draw(24, generator=torch.Generator().manual_seed(9))
    law = task.joint(instances)
    out = generate(
        law,
        task.inputs(instances),
        random_top_k(1),
        temperature=1.0,
        generator=torch.Generator().manual_seed(10),
    )
    assert task.score(instances, task.answers(out.sequences)).all()
    assert len(torch.unique(out.sequences, dim=0)) == 24


@each_task
def test_total_correlation_is_a_divergence(task):
    """Finite and not negative; zero where there is one answer."""
    instances = task.draw(60, generator=torch.Generator().manual_seed(11))
    law = task.joint(instances)
    correlation = law.total_correlation()
    assert correlation.isfinite().all()
    assert (correlation > -1e-9).all()
    single = law.log_size() == 0
    assert (correlation[single].abs() < 1e-9).all()
    assert (correlation[~single] > 1e-3).all()


@each_task
def test_same_seed_same_instances(task):
    first, second, other = (
        task.draw(20, generator=torch.Generator().manual_seed(seed))
        for seed in (12, 12, 13)
    )
    assert torch.equal(first.prompts, second.prompts)
    assert all(torch.equal(first.given[k], second.given[k]) for k in first.given)
    assert not torch.equal(first.prompts, other.prompts)


@pytest.mark.parametrize("level", LEVELS)
def test_levels_ask_for_what_they_promise(level):
    task = TASKS[level]
    assert task.language.size > 10**6
    instances, twice = task.draw(200, generator=torch.Generator().manual_seed(14)), 0
    for prompt, words in zip(instances.prompts, instances.given["words"], strict=True):
        shown = decode(words)
        assert decode(prompt) == [f"<w2s_{level}>", *shown, ":"]
        kinds = [lexicon.WORD_CLASS[word].split("_")[0] for word in shown]
        assert len(set(shown)) == len(shown) == (4 if level == "hard" else 3)
        if level == "easy":
            assert len(set(kinds)) == 3
        if level == "hard":
            assert kinds.count("verb") == 1
            assert kinds.count("noun") in (1, 2)  # the same noun twice is given once
            twice += kinds.count("noun") == 2
    assert level != "hard" or twice > 150
    answers = task.joint(instances).sample(torch.Generator().manual_seed(15))
    lengths = (answers != EOS).sum(1)
    assert lengths.max() <= {"easy": 6, "medium": 8, "hard": 10}[level]


def test_harder_levels_have_more_to_agree_on():
    """Total correlation, what one parallel step loses, grows with the level."""
    means = []
    for level in LEVELS:
        instances = TASKS[level].draw(100, generator=torch.Generator().manual_seed(16))
        means.append(TASKS[level].joint(instances).total_correlation().mean().item())
    assert means == sorted(means)
    assert means[0] > 1


def test_lengths_that_cannot_hold_a_sentence_are_refused():
    for make, longest in [
        *(
            (lambda k=level, **n: WordsToSentence(k, **n), LEVELS[level].longest)
            for level in LEVELS
        ),
        (Paraphrase, 11),
    ]:
        assert make(answer_length=longest + 1).answer_length == longest + 1
        with pytest.raises(ValueError, match=f"answer_length of {longest + 1}, got"):
            make(answer_length=longest)
    assert WordsToSentence("hard", prompt_length=6).draw(3).prompts.shape == (3, 6)
    with pytest.raises(ValueError, match="a prompt_length of 6 and"):
        WordsToSentence("hard", prompt_length=5)
    instances = Paraphrase(13, 12).draw(2000, split="train")
    assert (instances.prompts[:, -1] != PAD).any()  # the longest sentence just fits
    with pytest.raises(ValueError, match="a prompt_length of 13 and"):
        Paraphrase(12)


@each_task
def test_bad_answers_are_named(task):
    instances = task.draw(3, generator=torch.Generator().manual_seed(28))
    answers = task.joint(instances).sample()
    law = task.joint(instances)
    for call in (lambda a: task.score(instances, a), law.log_prob):
        with pytest.raises(ValueError, match="answers must have 3 rows, got 2"):
            call(answers[:2])
        with pytest.raises(TypeError, match="answers must be a torch"):
            call(answers.tolist())
    for token in (-1, MASK + 1):
        with pytest.raises(ValueError, match="answers must hold tokens between 0 and"):
            task.score(instances, answers.masked_fill(answers == EOS, token))


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="level must be one of 'easy'"):
        WordsToSentence("impossible")


# ------------------------------------------------------------------------ paraphrase


def synonyms(words: list[str]) -> int:
    """In how many ways the words of a sentence can be exchanged for synonyms."""
    sizes = {
        concept[0][0]: len(concept)
        for group in (lexicon.NOUNS, lexicon.VERBS, lexicon.ADJECTIVES, lexicon.ADVERBS)
        for concept in group
    }
    concepts = [lexicon.CONCEPT[word] for word in words if word in lexicon.CONCEPT]
    return math.prod(sizes[concept] for concept in concepts)


def test_paraphrases_mean_the_same_and_number_as_many_as_there_are_choices():
    task = TASKS["paraphrase"]
    instances = task.draw(50, generator=torch.Generator().manual_seed(17))
    law = task.joint(instances)
    for prompt, support, valid in zip(
        instances.prompts, law.support, law.valid, strict=True
    ):
        words = decode(prompt)[1:-1]
        said = [tuple(decode(answer)) for answer in support[valid]]
        assert {meaning(sentence) for sentence in said} == {meaning(tuple(words))}
        assert len(set(said)) == len(said) and tuple(words) not in said
        place = 2 ** sum(
            any(lexicon.WORD_CLASS[w] in group for w in words)
            for group in (("adverb",), ("yesterday", "today", "tomorrow"))
        )
        assert len(said) == 2 * place * synonyms(words) - 1
    assert law.valid.sum(1).max() > 50


def words_to_say(wanted: Meaning) -> set[str]:
    """All words that a sentence with this meaning can have, and some that it cannot."""
    auxiliaries = {
        "present": {"is", "are"},
        "past": {"was", "were"},
        "future": {"will", "be"},
        "perfect": {"has", "have", "been"},
    }
    people = (wanted.agent, wanted.patient)
    found = {"by", wanted.time} | auxiliaries[wanted.tense]
    for person in people:
        found |= {"a", "an"} if person.determiner == "a" else {person.determiner}
    nouns = {(person.noun, person.number == "plural") for person in people}
    other = {wanted.verb, wanted.adverb, *(person.adjective for person in people)}
    for word, concept in lexicon.CONCEPT.items():
        plural = lexicon.WORD_CLASS[word] == "noun_pl"
        if concept in other or (concept, plural) in nouns:
            found.add(word)
    return found - {None}


def test_paraphrases_are_all_there_are():
    """Against every sentence that the parser accepts over words that could serve."""
    task = TASKS["paraphrase"]
    instances = task.draw(80, generator=torch.Generator().manual_seed(18))
    law = task.joint(instances)
    sentences = [tuple(decode(prompt)[1:-1]) for prompt in instances.prompts]
    pools = [words_to_say(meaning(sentence)) for sentence in sentences]
    sizes = [Language(15, pool).size for pool in pools]
    chosen = [k for k, size in enumerate(sizes) if 1_000 < size < 5_000][:3]
    assert len(chosen) == 3
    for k in chosen:
        wanted = meaning(sentences[k])
        found = {s for s in all_by_parser(pools[k], 15) if meaning(s) == wanted}
        support = law.support[k][law.valid[k]]
        said = {tuple(decode(answer)) for answer in support}
        assert found == said | {sentences[k]}
        assert sentences[k] not in said


def test_a_sentence_is_no_paraphrase_of_itself():
    task = TASKS["paraphrase"]
    instances = task.draw(20, generator=torch.Generator().manual_seed(19))
    same = task.parse([" ".join(decode(row)[1:-1]) for row in instances.prompts])
    assert (same != PAD).all()
    assert not task.score(instances, same).any()


# ------------------------------------------------------------------------- free text


@each_task
def test_answers_in_english_can_be_read_back(task):
    instances = task.draw(50, generator=torch.Generator().manual_seed(20))
    answers = task.joint(instances).sample(torch.Generator().manual_seed(21))
    texts = task.answer_text(answers)
    assert all(text[0].isupper() and text.endswith(".") for text in texts)
    assert torch.equal(task.parse(texts), answers)
    assert task.parse([]).shape == (0, task.answer_length)


WAYS = [
    "{}",
    "{}\n",
    "  {}  ",
    '"{}"',
    "'{}'",
    "“{}”",
    "**{}**",
    "Here is a sentence:\n\n{}",
    "Here is a sentence: {}",
    'Sure! Here\'s the sentence: "{}"',
    "Answer: {}\n\nI hope this helps!",
    "1. {}",
    "- {}",
    "{}\n{}",
    "Words: old, doctor\nSentence: {}",
    "Given words: doctor, kids, often, seen\n\n{}",
    "Here is a sentence using the words doctor, kids and seen:\n\n{}",
    "Here’s one sentence that contains all of the given words: {}",
    "<answer>{}</answer>",
    "### {}",
    "> {}",
    "• {}",
    "```text\n{}\n```",
    "{}</s>",
    "{}<|eot_id|>The doctor saw kids.",
    "{} (passive).",
    'The sentence is "{}".',
    "The sentence is “{}”",
    "<think>The doctor saw kids.</think>\n\n{}",
    "Draft: The doctor saw kids.\nFinal answer: {}",
    r"\boxed{\text{{}}}",
]


@pytest.mark.parametrize("way", WAYS)
def test_what_stands_around_a_sentence_does_not_matter(way):
    task = TASKS["hard"]
    expected = task.parse(["The old doctor has often seen those kids."])
    plain = "the old doctor has often seen those kids"
    assert " ".join(decode(expected[0])) == plain
    for sentence in (f"{plain.capitalize()}.", plain, f"{plain.upper()}!"):
        assert torch.equal(task.parse([way.replace("{}", sentence)]), expected)


@each_task
def test_a_question_that_is_repeated_is_no_answer(task):
    instances = task.draw(20, generator=torch.Generator().manual_seed(24))
    asked = task.prompt_text(instances)
    assert (task.parse(asked) == PAD).all()
    answers = task.joint(instances).sample(torch.Generator().manual_seed(25))
    texts = map(" ".join, zip(asked, task.answer_text(answers), strict=True))
    assert torch.equal(task.parse(list(texts)), answers)


@pytest.mark.parametrize(
    "way",
    [
        "Original: {}\nParaphrase: {}",
        "Original sentence: {}\n\nParaphrased sentence: {}",
        "The sentence “{}” can be paraphrased as “{}”",
    ],
)
def test_a_given_sentence_beside_its_paraphrase_is_no_answer(way):
    task = TASKS["paraphrase"]
    instances = task.draw(20, generator=torch.Generator().manual_seed(26))
    answers = task.joint(instances).sample(torch.Generator().manual_seed(27))
    given = [" ".join(decode(row)[1:-1]) + "." for row in instances.prompts]
    told = task.answer_text(answers)
    texts = [way.format(g, a) for g, a in zip(given, told, strict=True)]
    assert torch.equal(task.parse(texts), answers)


def test_a_comma_behind_the_time_word_is_read():
    read = TASKS["hard"].parse(["Yesterday, the doctor saw a kid."])
    assert " ".join(decode(read[0])) == "yesterday the doctor saw a kid"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "I cannot do that.",
        "The old doctor saw the sick kid.",  # a word outside the vocabulary
        "The doctor's kid saw the nurse.",
        "The doctor saw a kid. A kid saw the doctor.",  # two sentences
        "The doctor saw kids park. The doctor saw the kids in the park.",
        "Doctor saw kids.\n\nThe doctor saw the kids.",
        "Answer: the doctor saw a kid.\nNo: a kid saw the doctor.",
        "I cannot say: the doctor saw a kid.",
        "Original: the doctor saw a kid.",
        "the " * 30,  # too long for an answer
    ],
)
def test_what_cannot_be_read_is_wrong_everywhere(text):
    for task in TASKS.values():
        answer = task.parse([text])
        assert answer.tolist() == [[PAD] * task.answer_length]
        instances = task.draw(1, generator=torch.Generator().manual_seed(22))
        assert not task.score(instances, answer).any()


TEXT = st.lists(
    st.one_of(
        st.sampled_from(lexicon.WORDS),
        st.sampled_from(
            ["The", "Here is:", ".", "\n", '"', ",", "\u2019", "\r\n", "*"]
        ),
        st.text(max_size=5),
    ),
    max_size=30,
).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_parsing_never_fails(texts):
    for task in (TASKS["easy"], TASKS["paraphrase"]):
        answers = task.parse(texts)
        assert answers.shape == (len(texts), task.answer_length)
        for row in answers:
            words = [VOCABULARY[token] for token in row[row != EOS]]
            unreadable = bool((row == PAD).all())
            assert unreadable or (set(words) <= set(lexicon.WORDS) and row[-1] == EOS)


@each_task
def test_prompts_in_english_say_what_is_asked(task):
    instances = task.draw(20, generator=torch.Generator().manual_seed(23))
    texts = task.prompt_text(instances)
    for text, prompt in zip(texts, instances.prompts, strict=True):
        request = text.split("Use no words")[0]
        shown = decode(prompt)[1:-1]
        assert all(word in request.lower() for word in shown)
        assert "before the main verb (has been often seen)" in request
        if task is not TASKS["paraphrase"]:
            assert f"at most {task.level.longest} words" in request
