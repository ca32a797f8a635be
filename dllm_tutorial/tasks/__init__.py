"""Tasks whose valid answers are known exactly, after ParallelBench (Kang et al. 2025).

A task draws instances, gives the exact joint of their valid answers, which is a
denoiser, and scores an answer by its rules. :func:`make` builds one by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks
from dllm_tutorial.tasks.base import (
    ANSWER_LENGTH,
    PROMPT_LENGTH,
    AnswerJoint,
    Instances,
    Task,
)
from dllm_tutorial.tasks.puzzles import LatinSquare, Sudoku, Sudoku9
from dllm_tutorial.tasks.vocabulary import EOS, MASK, PAD, VOCABULARY
from dllm_tutorial.tasks.waiting_line import WaitingLine
from dllm_tutorial.tasks.writing import LEVELS, Paraphrase, WordsToSentence

__all__ = [
    "ANSWER_LENGTH",
    "DECK",
    "EOS",
    "MASK",
    "NAMES",
    "PAD",
    "PROMPT_LENGTH",
    "TRAINED",
    "VOCABULARY",
    "AnswerJoint",
    "Instances",
    "LatinSquare",
    "Paraphrase",
    "Sudoku",
    "Sudoku9",
    "Task",
    "WaitingLine",
    "WordsToSentence",
    "dataset",
    "make",
]

CHUNK = 500  # instances drawn at a time
LENGTHS = range(3, 11)  # of the lists that networks are trained on

_MAKERS: dict[str, Callable[[], Task]] = {
    **{kind: partial(WaitingLine, kind, LENGTHS) for kind in WaitingLine.KINDS},
    **{
        f"{kind}_names": partial(WaitingLine, kind, LENGTHS, words_per_item=2)
        for kind in WaitingLine.KINDS
    },
    **{f"w2s_{level}": partial(WordsToSentence, level) for level in LEVELS},
    "paraphrase": Paraphrase,
    "latin_square": LatinSquare,
    "sudoku": Sudoku,
}
NAMES = tuple(_MAKERS)

# What the networks of the study are trained on: lists of single words.
TRAINED = tuple(name for name in NAMES if not name.endswith("_names"))

# The ten panels (a) ... (j) of the deck, in its order.
DECK = (
    "copy",
    "reverse",
    "replace_index",
    "replace_random",
    "shuffle",
    "paraphrase",
    "w2s_easy",
    "w2s_hard",
    "sudoku",
    "latin_square",
)


@cache
def make(name: str) -> Task:
    """The task of this name with the sizes that networks are trained on.

    Lists have 3 to 10 items: single words, or first and last names where the task's
    name ends in ``_names``.
    """
    return _MAKERS[_checks.one_of(name, "name", NAMES)]()


def dataset(size: int, generator: Generator, names: Sequence[str] = TRAINED) -> Tensor:
    """Training instances of several tasks: Long[size, P + A], prompts with answers.

    Tasks have equal shares, and each row's answer is drawn from the exact joint.
    """
    _checks.integer(size, "size", 1)
    if not names:
        raise ValueError(f"names must hold one task at least, got {names!r}")
    edges = [round(size * i / len(names)) for i in range(len(names) + 1)]
    rows = []
    for name, (start, end) in zip(names, itertools.pairwise(edges), strict=True):
        task = make(name)
        for done in range(start, end, CHUNK):
            count = min(CHUNK, end - done)
            instances = task.draw(count, split="train", generator=generator)
            answers = task.joint(instances).sample(generator)
            rows.append(torch.cat([instances.prompts, answers], 1))
    return torch.cat(rows)
