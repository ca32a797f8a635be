"""The small English grammar as rules for a parser, and what its sentences mean.

A sentence says who does what to whom. Subject and verb agree in number, ``a`` and
``an`` with the next sound, ``yesterday`` and ``tomorrow`` with the tense. There may be
one adverb, before the main verb or after the object, one place after the object, and
one time word, first or last.

:mod:`dllm_tutorial.tasks.sentences` counts the same sentences; it shares the lexicon
with this file and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from lark import Lark, Token, Tree, UnexpectedInput
from lark.lexer import Lexer

from dllm_tutorial.tasks.lexicon import CONCEPT, WORD_CLASS

__all__ = ["GRAMMAR", "Meaning", "NounPhrase", "grammatical", "meaning", "parse_tree"]

GRAMMAR = r"""
start: clause | TODAY clause | clause TODAY
     | YESTERDAY past | past YESTERDAY
     | TOMORROW future | future TOMORROW
?clause: present | past | future | perfect

present: singular active{third_person} | plural active{base}
       | singular IS passive | plural ARE passive
past:    singular active{past_form} | plural active{past_form}
       | singular WAS passive | plural WERE passive
future:  singular WILL active{base} | plural WILL active{base}
       | singular WILL BE passive | plural WILL BE passive
perfect: singular HAS active{participle} | plural HAVE active{participle}
       | singular HAS BEEN passive | plural HAVE BEEN passive

active{verb}: verb _noun_phrase place?
            | ADVERB verb _noun_phrase place?
            | verb _noun_phrase ADVERB place?
passive: participle BY _noun_phrase place?
       | ADVERB participle BY _noun_phrase place?
       | participle BY _noun_phrase ADVERB place?

_noun_phrase: singular | plural
singular: (THE | DET_SG) _adjective? (NOUN_CONSONANT | NOUN_VOWEL)
        | A (NOUN_CONSONANT | ADJECTIVE_CONSONANT (NOUN_CONSONANT | NOUN_VOWEL))
        | AN (NOUN_VOWEL | ADJECTIVE_VOWEL (NOUN_CONSONANT | NOUN_VOWEL))
plural: (THE | DET_PL) _adjective? NOUN_PL
_adjective: ADJECTIVE_CONSONANT | ADJECTIVE_VOWEL

base: VERB
third_person: VERB_S
past_form: VERB_ED | VERB_PAST
participle: VERB_ED | VERB_PARTICIPLE
place: PREPOSITION THE PLACE
"""
TENSES = ("present", "past", "future", "perfect")
_VERB_FORMS = ("base", "third_person", "past_form", "participle")
_TIME_WORDS = ("YESTERDAY", "TODAY", "TOMORROW")
_TERMINALS = sorted({name.upper() for name in WORD_CLASS.values()})


class _Words(Lexer):
    """Hands the words of a sentence to the parser, each with its class."""

    def __init__(self, config: Any) -> None:
        pass

    def lex(self, words: Any, _: Any = None) -> Iterator[Token]:
        for word in words:
            yield Token(WORD_CLASS[word].upper(), word)


_PARSER = Lark(
    GRAMMAR + "%declare " + " ".join(_TERMINALS),
    parser="lalr",
    lexer=_Words,
    strict=True,  # a conflict in the rules is an error
    maybe_placeholders=False,
)


@lru_cache(maxsize=1 << 16)
def parse_tree(words: tuple[str, ...]) -> Tree | None:
    """The syntax tree of a sentence, None where it has none.

    The grammar is LALR(1), so a sentence has at most one tree.
    """
    if not all(word in WORD_CLASS for word in words):
        return None
    try:
        return _PARSER.parse(words)
    except UnexpectedInput:
        return None


def grammatical(words: Sequence[str]) -> bool:
    """Whether words, in lower case and without a full stop, are a sentence."""
    return parse_tree(tuple(words)) is not None


class NounPhrase(NamedTuple):
    """One or several persons; ``determiner`` is ``a`` also where ``an`` is written."""

    determiner: str
    adjective: str | None
    noun: str
    number: str


class Meaning(NamedTuple):
    """Who does what to whom, how, where and when; concepts stand for their words."""

    verb: str
    tense: str
    agent: NounPhrase
    patient: NounPhrase
    adverb: str | None
    place: tuple[str, str] | None
    time: str | None


@lru_cache(maxsize=1 << 16)
def meaning(words: tuple[str, ...]) -> Meaning | None:
    """What a sentence says, None where it is not grammatical.

    Two sentences say the same if they differ in voice, in the place of the adverb or
    of the time word, and in synonyms, and in nothing else.
    """
    tree = parse_tree(words)
    if tree is None:
        return None
    sentence = _parts(tree)
    tense = next(name for name in TENSES if name in sentence)
    subject, *_, predicate = sentence[tense].children
    parts = _parts(predicate)
    verb = next(parts[form].children[0] for form in _VERB_FORMS if form in parts)
    other = parts["singular" if "singular" in parts else "plural"]
    agent, patient = (
        (subject, other) if predicate.data == "active" else (other, subject)
    )
    adverb, place = parts.get("ADVERB"), parts.get("place")
    return Meaning(
        verb=CONCEPT[verb],
        tense=tense,
        agent=_noun_phrase(agent),
        patient=_noun_phrase(patient),
        adverb=CONCEPT[adverb] if adverb else None,
        place=(CONCEPT[place.children[0]], CONCEPT[place.children[2]])
        if place
        else None,
        time=next((word.lower() for word in _TIME_WORDS if word in sentence), None),
    )


def _parts(tree: Tree) -> dict[str, Any]:
    """What a node consists of, by the names of rules and terminals."""
    return {
        child.type if isinstance(child, Token) else str(child.data): child
        for child in tree.children
    }


def _noun_phrase(tree: Tree[Any]) -> NounPhrase:
    determiner, *adjective, noun = map(str, tree.children)
    return NounPhrase(
        determiner="a" if determiner == "an" else determiner,
        adjective=CONCEPT[adjective[0]] if adjective else None,
        noun=CONCEPT[noun],
        number=str(tree.data),
    )
