"""The grammar's two definitions, parser and automaton, against each other and English.

The parser's rules and the automaton's plans share the lexicon and nothing else.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from lark import Token
from scipy import stats

from dllm_tutorial.tasks import grammar, lexicon
from dllm_tutorial.tasks.grammar import grammatical, meaning
from dllm_tutorial.tasks.sentences import CLASSES, Language, automaton
from dllm_tutorial.tasks.vocabulary import EOS, VOCABULARY, decode, encode

ALPHA = 1e-4
LONGEST = 15
SMALL = (
    *("a", "an", "the", "some", "doctor", "attorney", "kids", "old", "often"),
    *("see", "sees", "saw", "seen", "helped", "was", "are", "by", "yesterday"),
)


def members(words=lexicon.WORDS) -> dict[str, list[str]]:
    """The words of each terminal of the parser."""
    found: dict[str, list[str]] = {}
    for word in words:
        found.setdefault(lexicon.WORD_CLASS[word].upper(), []).append(word)
    return found


@cache
def sizes_by_parser(longest: int) -> list[int]:
    """How many sentences have 0 ... longest words, asking only the parser.

    What can follow depends on the stack of parser states alone, so prefixes that end
    in the same stack are counted once.
    """
    words, known = members(), {}

    def completions(state, left: int) -> list[int]:
        key = (*state.parser_state.state_stack, left)
        if key not in known:
            total = [0] * (left + 1)
            for terminal in state.accepts():
                if terminal == "$END":
                    total[0] += 1
                elif left:
                    after = state.copy()
                    after.feed_token(Token(terminal, ""))
                    for length, count in enumerate(completions(after, left - 1)):
                        total[length + 1] += len(words[terminal]) * count
            known[key] = total
        return known[key]

    return completions(grammar._PARSER.parse_interactive(()), longest)


def all_by_parser(words, longest: int) -> set[tuple[str, ...]]:
    """Every sentence over ``words``, by walking through what the parser accepts."""
    known, found = members(words), set()
    waiting = [((), grammar._PARSER.parse_interactive(()))]
    while waiting:
        prefix, state = waiting.pop()
        for terminal in state.accepts():
            if terminal == "$END":
                found.add(prefix)
            elif len(prefix) < longest:
                after = state.copy()
                after.feed_token(Token(terminal, ""))
                waiting += [((*prefix, w), after) for w in known.get(terminal, ())]
    return found


def all_by_automaton(words, longest: int) -> set[tuple[str, ...]]:
    """Every sentence over ``words``, by walking through the automaton."""
    known, found = members(words), set()
    waiting = [((), len(automaton()) - 1)]
    while waiting:
        prefix, state = waiting.pop()
        for name, after in automaton()[state].items():
            if name == 0:
                found.add(prefix)
            elif len(prefix) < longest:
                group = known.get(CLASSES[name].upper(), ())
                waiting += [((*prefix, word), after) for word in group]
    return found


def accepted_by_automaton(words: tuple[str, ...]) -> bool:
    state = len(automaton()) - 1
    for word in words:
        state = automaton()[state].get(CLASSES.index(lexicon.WORD_CLASS[word]), -1)
        if state < 0:
            return False
    return 0 in automaton()[state]


def test_both_definitions_have_as_many_sentences_of_every_length():
    sizes = sizes_by_parser(LONGEST + 2)
    assert sizes[LONGEST] > 0
    assert sizes[LONGEST + 1 :] == [0, 0]  # nothing is longer
    for longest in range(5, LONGEST + 3):
        assert Language(longest).size == sum(sizes[: longest + 1])


def test_the_language_is_large():
    assert sum(sizes_by_parser(LONGEST + 2)[:7]) > 10**6
    assert sum(sizes_by_parser(LONGEST + 2)) > 10**12


def test_both_definitions_have_the_same_sentences():
    """All sentences of at most eight words over a small lexicon."""
    by_parser = all_by_parser(SMALL, 8)
    assert by_parser == all_by_automaton(SMALL, 8)
    assert len(by_parser) == Language(8, SMALL).size > 1_000


def test_random_sentences_are_grammatical():
    sentences = Language(LONGEST).sample(1000, torch.Generator().manual_seed(0))
    assert all(grammatical(decode(row)) for row in sentences)


def test_both_definitions_agree_on_broken_sentences():
    """A word replaced, dropped, doubled, or two exchanged: right or wrong for both."""
    generator = torch.Generator().manual_seed(1)
    verdicts = []

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    for row in Language(LONGEST).sample(2000, generator):
        words = decode(row)
        i, j, kind = pick(len(words)), pick(len(words)), pick(4)
        if kind == 0:
            words[i] = lexicon.WORDS[pick(len(lexicon.WORDS))]
        elif kind == 1:
            del words[i]
        elif kind == 2:
            words.insert(j, words[i])
        else:
            words[i], words[j] = words[j], words[i]
        verdicts.append(grammatical(words))
        assert verdicts[-1] == accepted_by_automaton(tuple(words)), words
    assert 200 < sum(verdicts) < 1800  # both verdicts occur


def test_sentences_are_drawn_uniformly():
    """Chi-square over all sentences of a tiny lexicon; error rate 1e-4."""
    words = ("a", "an", "the", "doctor", "attorney", "old", "sees", "saw", "was", "by")
    language = Language(7, words)
    found = all_by_parser(words, 7)
    counts = dict.fromkeys(found, 0)
    sentences = language.sample(20 * len(found), torch.Generator().manual_seed(2))
    for row in sentences:
        counts[tuple(decode(row))] += 1
    assert stats.chisquare(list(counts.values())).pvalue > ALPHA


@pytest.mark.parametrize(
    "sentence",
    [
        "the doctors see a child",
        "an old attorney was often helped by some young kids",
        "yesterday these nurses quietly forgave that tired pilot in the park",
        "this eager teacher has been chosen by the children today",
        "some artists will draw an engineer carefully behind the library tomorrow",
        "a keen aviator will be praised by the author",
        "those lawyers have hidden the singers",
        "the kids have been often seen by a nurse in the park today",
    ],
)
def test_english_is_accepted(sentence):
    assert grammatical(sentence.split())


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "the doctors sees a child",  # number of subject and verb
        "the doctor see a child",
        "the doctors was seen by a child",
        "the doctor have seen a child",
        "a attorney sees the child",  # a and an
        "an doctor sees the child",
        "a old doctor sees the child",
        "an young attorney sees the child",
        "these doctor sees the child",  # number within a noun phrase
        "a doctors see the child",
        "the doctor has saw the child",  # form of the verb
        "the doctor was saw by the child",
        "the doctor will sees the child",
        "the doctor seen the child",
        "the doctor was help by the child",
        "tomorrow the doctor saw the child",  # tense and time
        "the doctor sees the child yesterday",
        "yesterday the doctor saw the child yesterday",  # once at most
        "the doctor often saw the child often",
        "the doctor saw the child in the park behind the shop",
        "the doctor saw often the child",  # order
        "the doctor saw in the park the child",
        "the child has often been seen by the doctor",
        "often the doctor saw the child",
        "in the park the doctor saw the child",
        "the doctor saw the child today in the park",
        "the doctor saw the child in a park",
        "doctors see the child",
        "doctor sees the child",  # something is missing
        "the doctor sees",
        "the doctor was seen by",
        "the doctor sees the child in park",
        "the doctor sees the child the nurse",
        "The doctor sees the child",  # not in lower case
        "the physicist sees the child",  # not in the lexicon
    ],
)
def test_what_is_not_english_is_rejected(sentence):
    assert not grammatical(sentence.split())
    assert meaning(tuple(sentence.split())) is None


SAME = [
    "the doctor often helped an old kid today",
    "the physician often helped an old kid today",
    "the doctor frequently helped an old kid today",
    "the doctor helped an old kid often today",
    "today the doctor often assisted an elderly child",
    "today an old child was assisted by the physician frequently",
    "an elderly child was often helped by the doctor today",
]
OTHER = [
    "the doctor was often helped by an old kid today",  # who does it to whom
    "the old doctor often helped a kid today",
    "the doctor often helped an old nurse today",
    "the doctor often praised an old kid today",
    "the doctor often helped a young kid today",
    "the doctor often helped a kid today",
    "the doctor sometimes helped an old kid today",
    "the doctor helped an old kid today",
    "the doctor often helped an old kid yesterday",
    "the doctor often helped an old kid",
    "the doctor often helps an old kid today",  # tense
    "the doctor has often helped an old kid today",
    "the doctor will often help an old kid today",
    "the doctors often helped an old kid today",  # number, determiner
    "the doctor often helped some old kids today",
    "the doctor often helped the old kid today",
    "that doctor often helped an old kid today",
    "the doctor often helped an old kid in the park today",
    "the doctor often helped an old kid near the park today",
    "the doctor often helped an old kid near the shop today",
]


def test_meaning_is_what_voice_place_and_synonyms_leave():
    same = {meaning(tuple(sentence.split())) for sentence in SAME}
    other = {meaning(tuple(sentence.split())) for sentence in OTHER}
    assert len(same) == 1
    assert len(other) == len(OTHER)
    assert not same & other and None not in same | other


def test_meaning_of_a_place_by_synonyms():
    first, second = (
        meaning(tuple(sentence.split()))
        for sentence in (
            "the doctor saw the kid in the shop",
            "the kid was spotted by the doctor inside the store",
        )
    )
    assert first == second
    assert first.place == ("in", "shop")


def test_every_word_stands_once_in_the_lexicon():
    groups = (
        lexicon.NOUNS,
        lexicon.VERBS,
        lexicon.ADJECTIVES,
        lexicon.ADVERBS,
        lexicon.PREPOSITIONS,
        lexicon.PLACES,
    )
    synonyms = [s for group in groups for concept in group for s in concept]
    content = [form for synonym in synonyms for form in dict.fromkeys(synonym)]
    assert len(content) == len(set(content))
    assert set(content) == set(lexicon.CONCEPT)
    assert len(set(lexicon.WORDS) - set(content)) == 21
    assert set(lexicon.WORD_CLASS.values()) == set(CLASSES) - {"<eos>"}
    assert all(word == word.lower() for word in lexicon.WORDS)


def test_bad_languages_are_refused():
    with pytest.raises(ValueError, match="longest must be at least 1"):
        Language(0)
    with pytest.raises(ValueError, match="between 1 and 2\\^49 sentences"):
        Language(4)
    with pytest.raises(ValueError, match="between 1 and 2\\^49 sentences"):
        Language(9, ["the", "doctor"])


def test_tokens_of_a_language_have_its_classes():
    language = Language(9, SMALL)
    words = {
        VOCABULARY[token] for token in (language.class_of < len(CLASSES)).nonzero()
    }
    assert words == {*SMALL, "<eos>"}
    assert language.class_of[EOS] == 0
    assert language.sizes[:-1].sum() == len(SMALL) + 1
    assert language.class_of[encode(["old"])] == CLASSES.index("adjective_vowel")
