"""Words of the small English grammar: their forms, and which mean the same.

A line is a concept. Its synonyms, two at most, are separated by slashes; the forms of
a synonym stand side by side: singular and plural of a noun; base form, third person,
past and participle of a verb. First letters tell ``a`` from ``an``: no word starts with
a silent h or with a vowel that is spoken as a consonant.
"""

from __future__ import annotations

__all__ = [
    "ADJECTIVES",
    "ADVERBS",
    "CONCEPT",
    "NOUNS",
    "PLACES",
    "PREPOSITIONS",
    "VERBS",
    "WORDS",
    "WORD_CLASS",
    "Concepts",
]

Concepts = tuple[tuple[tuple[str, ...], ...], ...]  # concept, synonym, form


def _concepts(lines: str) -> Concepts:
    return tuple(
        tuple(tuple(synonym.split()) for synonym in line.split("/"))
        for line in lines.strip().splitlines()
    )


NOUNS = _concepts("""
doctor doctors / physician physicians
lawyer lawyers / attorney attorneys
teacher teachers / instructor instructors
child children / kid kids
writer writers / author authors
singer singers / vocalist vocalists
pilot pilots / aviator aviators
farmer farmers
nurse nurses
artist artists
engineer engineers
""")

VERBS = _concepts("""
see sees saw seen / spot spots spotted spotted
choose chooses chose chosen / pick picks picked picked
forgive forgives forgave forgiven / pardon pardons pardoned pardoned
hide hides hid hidden / conceal conceals concealed concealed
draw draws drew drawn / sketch sketches sketched sketched
help helps helped helped / assist assists assisted assisted
chase chases chased chased / pursue pursues pursued pursued
praise praises praised praised / commend commends commended commended
invite invites invited invited
admire admires admired admired
""")

ADJECTIVES = _concepts("""
happy / cheerful
smart / clever
rich / wealthy
famous / renowned
brave / courageous
tired / weary
old / elderly
eager / keen
angry
young
tall
""")

ADVERBS = _concepts("""
often / frequently
sometimes / occasionally
quickly / rapidly
quietly / silently
carefully / cautiously
""")

PREPOSITIONS = _concepts("""
in / inside
near
behind
""")

PLACES = _concepts("""
park
garden
school
library
shop / store
forest / woods
""")

# Every word has exactly one class, so that a sentence is one sequence of classes.
_FUNCTION_WORDS = {
    "a": "a",
    "an": "an",
    "the": "the",
    "this": "det_sg",
    "that": "det_sg",
    "these": "det_pl",
    "those": "det_pl",
    "some": "det_pl",
    **{word: word for word in ("is", "are", "was", "were", "has", "have")},
    **{word: word for word in ("will", "be", "been", "by")},
    **{word: word for word in ("yesterday", "today", "tomorrow")},
}


def _initial(word: str) -> str:
    return "vowel" if word[0] in "aeiou" else "consonant"


def _classes() -> dict[str, str]:
    found = dict(_FUNCTION_WORDS)
    for singular, plural in (forms for concept in NOUNS for forms in concept):
        found[singular] = f"noun_{_initial(singular)}"
        found[plural] = "noun_pl"
    for base, third, past, participle in (v for concept in VERBS for v in concept):
        found[base] = "verb"
        found[third] = "verb_s"
        found[past] = "verb_ed" if past == participle else "verb_past"
        found[participle] = "verb_ed" if past == participle else "verb_participle"
    for (word,) in (forms for concept in ADJECTIVES for forms in concept):
        found[word] = f"adjective_{_initial(word)}"
    for name, group in (
        ("adverb", ADVERBS),
        ("preposition", PREPOSITIONS),
        ("place", PLACES),
    ):
        found.update({word: name for concept in group for (word,) in concept})
    return found


WORD_CLASS: dict[str, str] = _classes()
WORDS: tuple[str, ...] = tuple(WORD_CLASS)

# The concept of a content word, named by the first form of its first synonym.
CONCEPT: dict[str, str] = {
    form: concept[0][0]
    for group in (NOUNS, VERBS, ADJECTIVES, ADVERBS, PREPOSITIONS, PLACES)
    for concept in group
    for synonym in concept
    for form in synonym
}
