"""Text Writing: sentences that contain given words, and paraphrases.

After Kang et al. 2025, section 4, with a small English grammar in the place of a
language model's judgment: the exact joint counts all valid sentences
(:mod:`~dllm_tutorial.tasks.sentences`), the score asks a parser
(:mod:`~dllm_tutorial.tasks.grammar`).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks
from dllm_tutorial._random import uniform
from dllm_tutorial.tasks import reading
from dllm_tutorial.tasks.answers import AnswerTable
from dllm_tutorial.tasks.base import (
    ANSWER_LENGTH,
    PROMPT_LENGTH,
    AnswerJoint,
    Instances,
    Task,
    ended,
    padded,
)
from dllm_tutorial.tasks.grammar import grammatical, meaning
from dllm_tutorial.tasks.lexicon import (
    ADJECTIVES,
    ADVERBS,
    NOUNS,
    VERBS,
    WORDS,
    Concepts,
)
from dllm_tutorial.tasks.sentences import CLASSES, Language, SentenceJoint
from dllm_tutorial.tasks.vocabulary import (
    EOS,
    MASK,
    PAD,
    SEPARATOR,
    VOCABULARY,
    decode,
    encode,
)

__all__ = ["LEVELS", "Paraphrase", "WordsToSentence"]


_ASKED = "Answer with the sentence only."


class _Writing(Task):
    """A task whose answer is one sentence.

    Parameters
    ----------
    given, longest : int
        Words of the longest prompt and of the longest answer.
    prompt_length, answer_length : int
        See :class:`Task`; ``ValueError`` if these do not fit.
    """

    def __init__(
        self, given: int, longest: int, prompt_length: int, answer_length: int
    ) -> None:
        super().__init__(prompt_length, answer_length)
        if self.prompt_length < given + 2 or self.answer_length <= longest:
            raise ValueError(
                f"sentences of {longest} words need a prompt_length of {given + 2} and "
                f"an answer_length of {longest + 1}, got {prompt_length} and "
                f"{answer_length}"
            )

    def answer_text(self, answers: Tensor) -> list[str]:
        return [_text(row) for row in answers]

    def parse(self, texts: list[str]) -> Tensor:
        """Free-text answers as tokens, Long[B, A]; all ``<pad>`` if unreadable.

        Formatting is taken off first (:func:`~dllm_tutorial.tasks.reading.plain`), and
        the question where it is repeated. Full stops, colons, line ends, brackets and
        longer quotations then separate pieces; quotes and commas are dropped. A piece
        of three words or more, all of the task's vocabulary, is a candidate, be it
        grammatical or not; what else is written around the sentence does not count.

        Not a candidate is what is announced as given ("original", "words") or refused.
        Those that are left must agree, or the last one be announced as the answer
        (:func:`~dllm_tutorial.tasks.reading.chosen`).
        """
        return reading.answers(texts, _readable, self.answer_length)


def _text(tokens: Tensor) -> str:
    """A sentence as people write it."""
    sentence = " ".join(decode(tokens))
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _words(answer: list[int]) -> tuple[str, ...] | None:
    """The words of an answer, None unless ``<eos>`` ends it and nothing follows."""
    if EOS not in answer:
        return None
    length = answer.index(EOS)
    if set(answer[length:]) != {EOS} or MASK in answer:
        return None
    return tuple(VOCABULARY[token] for token in answer[:length])


_FEWEST, _LONG = 3, 5  # words of an attempt, of a right sentence
_WORD = rf"(?<!\w)(?<!\w['-])(?:{'|'.join(WORDS)})(?!['-]?\w)"
_RUN = re.compile(rf"(?i)({_WORD}(?:[\s,\"'*–—-]+{_WORD})*)")
_LIST = re.compile(rf"(?im)(^|[:;.] ){_WORD}(?:, ?{_WORD})+,?(?=[.;]|$)")
_QUOTATION = re.compile(r'"((?:[^\s"]+\s+){2,}[^\s"]+)"')
_UNDERLINE = re.compile(r"(?<!\w)_+(?=[^\W_])|(?<=[^\W_]|[.!?])_+(?!\w)")
_BULLET = re.compile(r"(?m)^[-*+•–—] ?")
_START = re.compile(
    r"(?:[.!?;()\[\]{}|\n]|(?:(?<=[\w)\]])|(?<=\w[\"'])):)[ \"'*,–—-]*\Z"
)
_END = re.compile(r"[ \"'*,–—-]*(?:[.!?;()\[\]{}|\n]|(?<! ):|\Z)")
_ABOVE = re.compile(r"(?<=\s)(\S[^\n]*)\s*\n\s*\Z")
_BELOW = re.compile(r"\A\s*\n\s*(\S[^\n]*)")
_CAPITALS = {w for w in VOCABULARY if w.lower() in WORDS} - {*WORDS}  # "A", "Young"
_ALL = {word.lower() for word in VOCABULARY} | {"_"}


def _readable(text: str) -> tuple[str, ...] | None:
    """The one sentence of a free-text answer, None where there is none or several."""
    text = _BULLET.sub("|", _UNDERLINE.sub("", reading.plain(text, _ASKED)))
    text = "\n" + _QUOTATION.sub(r"|\1|", _LIST.sub(r"\1#.", text))
    parts = _RUN.split(text)  # every other one a run of words
    around, runs = parts[::2], parts[1::2]
    apart = [
        bool(_START.search(before) and _END.match(after))
        for before, after in itertools.pairwise(around)
    ]
    size = [len(run.split()) for run in runs]
    stub = [end and n < _FEWEST for end, n in zip(apart, size, strict=True)]
    found, done = [], 0
    for i, run in enumerate(runs):
        rank = reading.rank("".join(parts[done : 2 * i + 1]))
        fewest = _FEWEST if apart[i] or rank == 2 else _LONG
        if size[i] < fewest:
            continue
        # a word or two, or a line of other words of the vocabulary, may belong to it
        before, after = around[i : i + 2]
        cut = any(stub[i - 1 : i]) and not re.search(r"[\w#]", before)
        cut |= any(stub[i + 1 : i + 2]) and not re.search(r"[\w#]", after)
        cut |= any(_is_other(line, -1) for line in _ABOVE.findall(before))
        cut |= any(_is_other(line, 0) for line in _BELOW.findall(after))
        value = None if cut or not apart[i] else _joined(run)
        found.append((value, rank))
        done = 2 * i + 2
    return reading.chosen(found)


def _is_other(line: str, place: int) -> bool:
    """Whether a line begins (0) or ends (-1) with vocabulary that is no English."""
    part = (
        ":"
        if line.strip(".\"'") == ":"
        else re.split(r"[|:;,!?(]|[.](?!$)| - ", line)[place]
    )
    words = re.findall(r"[^\s.*\"')]+", part.lower())
    return bool(words) and _ALL.issuperset(words)


def _joined(run: str) -> tuple[str, ...] | None:
    """The words of a run, None if its lines are not one sentence.

    A line that begins with a capital is a sentence of its own. The whole may be there
    several times.
    """
    lines = [re.findall(r"\w+", line) for line in run.split("\n")]
    lines = [words for words in lines if words]
    low = [[word.lower() for word in words] for words in lines]
    size = next(i for i, _ in enumerate(low, 1) if low == low[:i] * (len(low) // i))
    loud = run.isupper()
    if not loud and any(words[0][0].isupper() for words in lines[1:size]):
        return None
    if not loud and _CAPITALS.intersection(list(itertools.chain(*lines[:size]))[1:]):
        return None
    return tuple(itertools.chain(*low[:size]))


# ------------------------------------------------------------------ words to sentence


@dataclass(frozen=True)
class Level:
    """How hard it is to put given words into a sentence.

    Parameters
    ----------
    longest : int
        Words that the sentence may have: room for what the given words leave open.
    given : int
        Words that it must contain.
    first : dict of str to int
        Which kinds of words are given rather than others.
    one_of_a_kind, in_order : bool
        Whether all given words are of different kinds; whether they stand in the
        order of a sentence rather than in random order.
    """

    longest: int
    given: int
    first: dict[str, int]
    one_of_a_kind: bool = False
    in_order: bool = False


LEVELS = {
    "easy": Level(6, 3, {}, one_of_a_kind=True, in_order=True),
    "medium": Level(8, 3, {}),
    "hard": Level(10, 4, {"noun": 2, "verb": 2, "auxiliary": 1}),
}

# Kinds of words that are given; an auxiliary only where a level asks for it.
_KINDS = ("noun", "verb", "adjective", "adverb", "place", "time", "auxiliary")


def _kind(name: str) -> str | None:
    if name in ("yesterday", "today", "tomorrow"):
        return "time"
    if name in ("is", "are", "was", "were", "has", "have", "will", "be", "been"):
        return "auxiliary"
    kind = name.split("_")[0]
    return kind if kind in _KINDS else None


class WordsToSentence(_Writing):
    """Write a grammatical sentence that contains all given words.

    Parameters
    ----------
    level : str
        ``easy``: three words of different kinds, in the order of a sentence, for a
        sentence of at most six words. ``medium``: any three words, shuffled, for at
        most eight. ``hard``: four words, shuffled, for at most ten: the verb, the two
        nouns and, where there is one, an auxiliary, whose forms have to agree.

    Notes
    -----
    Instances are drawn by choosing different words from a random sentence, so each has
    a solution. ``Instances.given`` holds ``words`` Long[B, k].
    """

    def __init__(
        self,
        level: str,
        prompt_length: int = PROMPT_LENGTH,
        answer_length: int = ANSWER_LENGTH,
    ) -> None:
        self.level = LEVELS[_checks.one_of(level, "level", LEVELS)]
        given, longest = self.level.given, self.level.longest
        super().__init__(given, longest, prompt_length, answer_length)
        self.name = f"w2s_{level}"
        self.language = _language(self.level.longest)
        # of each class: its kind, and how early it is chosen, -inf for never
        kinds = [_kind(name) for name in (*CLASSES, "")]
        first = {**dict.fromkeys(_KINDS[:-1], 0), **self.level.first}
        self._kind = torch.tensor([_KINDS.index(k) if k else -1 for k in kinds])
        self._first = torch.tensor([first.get(k or "", -torch.inf) for k in kinds])

    def _propose(self, count: int, generator: Generator | None) -> Instances:
        """Sentences with too few different words are left out."""
        sentences = self.language.sample(count, generator)
        name = self.language.class_of[sentences]
        score = self._first[name] + uniform(name.shape, generator, name.device)
        # a word, or one of its kind, is given once: where it has the best score
        what = self._kind[name] if self.level.one_of_a_kind else sentences
        same = what[:, :, None] == what[:, None]
        beaten = (same & (score[:, :, None] < score[:, None])).any(2)
        score = score.masked_fill(beaten, -torch.inf)
        best, place = score.topk(self.level.given, dim=1)
        if self.level.in_order:
            place = place.sort(1).values
        else:
            order = uniform(place.shape, generator, place.device).argsort(1)
            place = place.gather(1, order)
        enough = best.isfinite().all(1)
        words = sentences.gather(1, place)[enough]
        prompts = _prompts(self, words, self.prompt_length)
        return Instances(prompts, {"words": words})

    def joint(self, instances: Instances) -> AnswerJoint:
        words = instances.given["words"]
        return SentenceJoint(
            instances.prompts, self.answer_length, self.language, words
        )

    def score(self, instances: Instances, answers: Tensor) -> Tensor:
        self._check_answers(instances, answers)
        _checks.token_range(answers, "answers", MASK + 1)
        right = []
        for given, answer in zip(
            instances.given["words"].tolist(), answers.tolist(), strict=True
        ):
            words = _words(answer)
            right.append(
                words is not None
                and len(words) <= self.level.longest
                and set(given) <= set(answer)
                and grammatical(words)
            )
        return torch.tensor(right, dtype=torch.bool, device=answers.device)

    def prompt_text(self, instances: Instances) -> list[str]:
        return [
            f"Write one English sentence of at most {self.level.longest} words that "
            f"contains all of these words in exactly these forms: "
            f"{', '.join(decode(words))}. {_RULES} {_ASKED}"
            for words in instances.given["words"]
        ]


# The rules of the grammar, in the same order.
_RULES = (
    "Someone does something to someone in it, in the active or in the passive voice; "
    "each of the two has an article or a word like this or some, and at most one "
    "adjective. One adverb may stand right before the main verb (has been often seen) "
    "or behind the second person, then one place (near the park), and one time word "
    "may be the first word or the last. "
    f"Use no words other than: {', '.join(WORDS)}."
)


@cache
def _language(longest: int) -> Language:
    return Language(longest)


def _prompts(task: Task, tokens: Tensor, length: int) -> Tensor:
    """``<task>`` tokens ``:``, padded."""
    name, end = VOCABULARY.index(f"<{task.name}>"), SEPARATOR
    parts = [torch.full_like(tokens[:, :1], token) for token in (name, end)]
    return padded(torch.cat([parts[0], tokens, parts[1]], 1), length)


# ------------------------------------------------------------------------- paraphrase

# What can be chosen when a meaning is put into words, each between two: the voice, the
# place of the adverb and of the time word, and a synonym for each other word.
_CHOICES = (
    "passive",
    "adverb_last",
    "time_last",
    "verb",
    "agent",
    "patient",
    "adjective",
    "adverb",
)
_LONGEST = 11  # today an old kid has been often seen by the nurse: one adjective
_DETERMINERS = (  # singular before a consonant and a vowel, plural
    ("a", "an", "some"),
    ("the", "the", "the"),
    ("this", "this", "these"),
    ("that", "that", "those"),
)
# by tense, voice and number
_AUXILIARIES = (
    ((("", ""), ("", "")), (("is", ""), ("are", ""))),
    ((("", ""), ("", "")), (("was", ""), ("were", ""))),
    ((("will", ""), ("will", "")), (("will", "be"), ("will", "be"))),
    ((("has", ""), ("have", "")), (("has", "been"), ("have", "been"))),
)
# which form of the verb: base, third person, past, participle
_FORMS = (((1, 0), (3, 3)), ((2, 2), (3, 3)), ((0, 0), (3, 3)), ((3, 3), (3, 3)))
_TIMES = (
    ("", "today", ""),
    ("", "today", "yesterday"),
    ("", "today", "tomorrow"),
    ("", "today", ""),
)


def _tokens(words: Any) -> Tensor:
    """Nested sequences of words as tokens, ``<eos>`` for the empty word."""
    if isinstance(words, str):
        return encode([words])[0] if words else torch.tensor(EOS)
    return torch.stack([_tokens(part) for part in words])


def _synonyms(concepts: Concepts, *, optional: bool = False) -> Tensor:
    """Long[concepts, 2, forms]; an optional concept has number 0 for its absence."""
    nothing = ("",) * len(concepts[0][0])
    pairs = [(*concept, nothing)[:2] for concept in concepts]
    return _tokens([(nothing, nothing)] * optional + pairs)


@cache
def _tables(device: torch.device) -> dict[str, Tensor]:
    tables = {
        "noun": _synonyms(NOUNS),
        "verb": _synonyms(VERBS),
        "adjective": _synonyms(ADJECTIVES, optional=True)[..., 0],
        "adverb": _synonyms(ADVERBS, optional=True)[..., 0],
        "determiner": _tokens(_DETERMINERS),
        "auxiliary": _tokens(_AUXILIARIES),
        "time": _tokens(_TIMES),
        "form": torch.tensor(_FORMS),
        "vowel": torch.tensor([word[0] in "aeiou" for word in VOCABULARY]).long(),
        "by": _tokens("by"),
        "choices": torch.cartesian_prod(*[torch.arange(2)] * len(_CHOICES)),
    }
    return {name: table.to(device) for name, table in tables.items()}


def _free(given: dict[str, Tensor]) -> Tensor:
    """Bool[B, 8]: which choices there are; there may be no adverb, or no synonym."""
    table = _tables(given["verb"].device)
    adverb, time, adjective = given["adverb"], given["time"], given["adjective"]
    free = [
        torch.ones_like(time, dtype=torch.bool),
        adverb > 0,
        time > 0,
        table["verb"][given["verb"], 1, 0] != EOS,
        table["noun"][given["agent"][:, 0], 1, 0] != EOS,
        table["noun"][given["patient"][:, 0], 1, 0] != EOS,
        table["adjective"][adjective, 1] != EOS,
        table["adverb"][adverb, 1] != EOS,
    ]
    return torch.stack(free, 1)


def _said(given: dict[str, Tensor], choices: Tensor) -> Tensor:
    """Meanings in words, Long[B, G, 14], for G choices each, Long[B, G, 8].

    ``<eos>`` stands for whatever is not said.
    """
    table = _tables(choices.device)
    way = dict(zip(_CHOICES, choices.unbind(-1), strict=True))
    passive = way["passive"] == 1
    verb, tense, adverb, time, adjective, described = (
        given[name][:, None]  # [B, 1]
        for name in ("verb", "tense", "adverb", "time", "adjective", "described")
    )

    def noun_phrase(role: int, name: str) -> Tensor:
        noun, number, determiner = given[name][:, None].unbind(-1)
        head = table["noun"][noun, way[name], number]
        quality = table["adjective"][adjective, way["adjective"]]
        quality = quality.where(described == role, EOS)
        vowel = table["vowel"][head.where(quality == EOS, quality)]
        article = table["determiner"][determiner, torch.where(number == 1, 2, vowel)]
        return torch.stack([article, quality, head])

    agent, patient = noun_phrase(0, "agent"), noun_phrase(1, "patient")
    number = torch.where(
        passive, given["patient"][:, None, 1], given["agent"][:, None, 1]
    )
    voice = passive.long()
    auxiliary = table["auxiliary"][tense, voice, number]
    how = table["adverb"][adverb, way["adverb"]]
    when = table["time"][tense, time].expand_as(how)
    return torch.stack(
        [
            when.where(way["time_last"] == 0, EOS),
            *patient.where(passive, agent),
            *auxiliary.movedim(-1, 0),
            how.where(way["adverb_last"] == 0, EOS),
            table["verb"][verb, way["verb"], table["form"][tense, voice, number]],
            table["by"].where(passive, EOS).expand_as(how),
            *agent.where(passive, patient),
            how.where(way["adverb_last"] == 1, EOS),
            when.where(way["time_last"] == 1, EOS),
        ],
        -1,
    )


class Paraphrase(_Writing):
    """Say the same as a given sentence in other words.

    Any other sentence with the same meaning is valid: in the other voice, with the
    adverb or the time word in another place, with synonyms, or all of these, which
    makes 1 to 255 answers. The given sentences name no place.

    Parameters
    ----------
    prompt_length, answer_length : int
        See :class:`Task`; ``ValueError`` if the longest sentence does not fit.

    Notes
    -----
    ``Instances.given`` holds the meaning as numbers of concepts in the lexicon, each
    Long[B]: ``verb``, ``tense``, ``time``, ``adverb`` and ``adjective`` (0 for none),
    ``described`` (whom the adjective describes: 0 the agent, 1 the patient); ``agent``
    and ``patient``, Long[B, 3]: noun, number, determiner; and ``way``, Long[B, 8], the
    choices that lead to the given sentence.
    """

    name = "paraphrase"

    def __init__(
        self, prompt_length: int = PROMPT_LENGTH, answer_length: int = ANSWER_LENGTH
    ) -> None:
        super().__init__(_LONGEST, _LONGEST, prompt_length, answer_length)

    def _propose(self, count: int, generator: Generator | None) -> Instances:
        device = "cpu" if generator is None else generator.device

        def draw(size: int, *shape: int) -> Tensor:
            shape = (count, *shape)
            return torch.randint(size, shape, generator=generator, device=device).cpu()

        def person() -> Tensor:
            return torch.stack([draw(len(NOUNS)), draw(2), draw(len(_DETERMINERS))], -1)

        given = {
            "verb": draw(len(VERBS)),
            "tense": draw(len(_TIMES)),
            "time": draw(len(_TIMES[0])),
            "adverb": draw(len(ADVERBS) + 1),
            "adjective": draw(len(ADJECTIVES) + 1),
            "described": draw(2),
            "agent": person(),
            "patient": person(),
        }
        timeless = _tables(torch.device("cpu"))["time"] == EOS
        given["time"] *= ~timeless[given["tense"], given["time"]]
        free = _free(given)
        given["way"] = draw(2, len(_CHOICES)) * free
        said = _said(given, given["way"][:, None])[:, 0]
        prompts = _prompts(self, said.where(said != EOS, PAD), self.prompt_length)
        return Instances(prompts, given)

    def joint(self, instances: Instances) -> AnswerJoint:
        given = instances.given
        choices = _tables(given["verb"].device)["choices"]
        other = (choices != given["way"][:, None]).any(-1)
        valid = ((choices <= _free(given)[:, None]).all(-1) & other).long()  # [B, G]
        # the valid ones first, and no more than the most that a row has
        way = valid.argsort(dim=1, descending=True, stable=True)[
            :, : valid.sum(1).max()
        ]
        said = _said(given, choices[way])
        gap = (said == EOS).long().argsort(dim=-1, stable=True)
        answers = ended(said.gather(-1, gap).flatten(0, 1), self.answer_length)
        return AnswerTable(
            instances.prompts,
            answers.unflatten(0, way.shape),
            valid.gather(1, way).bool(),
        )

    def score(self, instances: Instances, answers: Tensor) -> Tensor:
        self._check_answers(instances, answers)
        _checks.token_range(answers, "answers", MASK + 1)
        right = []
        for prompt, answer in zip(instances.prompts, answers.tolist(), strict=True):
            given, words = tuple(decode(prompt)[1:-1]), _words(answer)
            same = words is not None and meaning(words) == meaning(given)
            right.append(same and words != given)
        return torch.tensor(right, dtype=torch.bool, device=answers.device)

    def prompt_text(self, instances: Instances) -> list[str]:
        return [
            "Say the same in other words, in an English sentence other than this one: "
            f"{_text(encode(decode(prompt)[1:-1]))} Who does what to whom, "
            "how and when must stay the same. You may use the active or the passive "
            f"voice, move the adverb and the time word, and use synonyms. {_RULES} "
            f"{_ASKED}"
            for prompt in instances.prompts
        ]
