"""One vocabulary for all tasks.

Token ids are positions in ``VOCABULARY``. A mask has the id after the last one, as for
every denoiser of the book.
"""

from __future__ import annotations

import string
from collections.abc import Iterable

import torch
from torch import Tensor

from dllm_tutorial import _checks
from dllm_tutorial.tasks.lexicon import WORDS

__all__ = [
    "EOS",
    "FIRST_NAMES",
    "LAST_NAMES",
    "MASK",
    "PAD",
    "SEPARATOR",
    "SYMBOLS",
    "TASK_NAMES",
    "VOCABULARY",
    "decode",
    "encode",
]

TASK_NAMES = (
    "copy",
    "reverse",
    "sort",
    "shuffle",
    "replace_index",
    "insert_index",
    "remove_index",
    "replace_random",
    "insert_random",
    "remove_random",
    "w2s_easy",
    "w2s_medium",
    "w2s_hard",
    "paraphrase",
    "latin_square",
    "sudoku",
    "sudoku_9x9",
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    """
    Ada Ben Cara Dan Eve Finn Gina Hugo Iris Jack Kate Leo Mia Ned Olga Paul
    Quinn Rosa Sam Tara Uma Vera Walt Xenia Yara Zoe Amos Bella Carl Dora Emil Fay
    Greg Hana Ivan Jane Karl Lena Mark Nina Otto Pia Rolf Sara Tom Ursa Vito Wendy
    """
)
LAST_NAMES = _words(
    """
    Adams Baker Clark Davis Evans Frank Green Hill Ingram Jones King Lewis Moore
    Nolan Owens Price Quill Reed Smith Turner Upton Vance White Xu Young Zimmer
    Archer Brown Cooper Drake Ellis Foster Grant Hayes Irwin Jensen Kelly Lang
    Mason Noble Olsen Parker Rivers Stone Taylor Unger Voss Wood
    """
)
SYMBOLS = (*string.ascii_uppercase, *string.digits)  # of squares and indices
NUMBERS = tuple(str(number) for number in range(10, 21))

VOCABULARY = (
    "<pad>",
    "<eos>",
    ":",
    *(f"<{name}>" for name in TASK_NAMES),
    *SYMBOLS,
    *NUMBERS,
    *FIRST_NAMES,
    *LAST_NAMES,
    *WORDS,
)
PAD, EOS, SEPARATOR = range(3)
MASK = len(VOCABULARY)

_ID = {word: token for token, word in enumerate(VOCABULARY)}
if len(_ID) < len(VOCABULARY):
    twice = sorted({word for word in VOCABULARY if VOCABULARY.count(word) > 1})
    raise ValueError(f"VOCABULARY must hold distinct words, got twice: {twice}")


def encode(words: Iterable[str]) -> Tensor:
    """Long[n]: the ids of words; an unknown word raises ``ValueError``."""
    listed = list(words)
    unknown = [word for word in listed if word not in _ID]
    if unknown:
        raise ValueError(f"words must be in the vocabulary, got {unknown}")
    return torch.tensor([_ID[word] for word in listed], dtype=torch.long)


def decode(tokens: Tensor) -> list[str]:
    """The words of Long[n] up to the first ``<eos>``; padding is left out.

    A mask is shown as ``_``; what is no token raises ``ValueError``.
    """
    _checks.tokens(tokens, "tokens", ndim=1)
    _checks.token_range(tokens, "tokens", MASK + 1)
    words = []
    for token in tokens.tolist():
        if token == EOS:
            break
        if token != PAD:
            words.append("_" if token == MASK else VOCABULARY[token])
    return words
