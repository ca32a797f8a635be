"""Puzzles: Latin squares, and Sudoku of order 4 and 9 (Kang et al. 2025, section 4).

A Latin square leaves everything open; a Sudoku has one completion or several. The text
of an answer is read as a grid or not at all: nothing is cut off or filled up.
"""

from __future__ import annotations

import math
import random
import re
from abc import abstractmethod
from collections.abc import Iterable
from functools import cache

import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks, joints
from dllm_tutorial.tasks import reading
from dllm_tutorial.tasks.answers import AnswerTable
from dllm_tutorial.tasks.base import (
    ANSWER_LENGTH,
    PROMPT_LENGTH,
    SPLITS,
    Instances,
    Task,
    ended,
    in_test,
    padded,
)
from dllm_tutorial.tasks.vocabulary import (
    EOS,
    SEPARATOR,
    SYMBOLS,
    VOCABULARY,
    decode,
    encode,
)

__all__ = ["LatinSquare", "Sudoku", "Sudoku9"]

SOLUTIONS = ("unique", "several", "any")
_ZERO = VOCABULARY.index("0")  # a blank cell; the digits follow it

_ASKED = (
    "Answer with the full grid only: one line for each row, {} separated by spaces."
)


class _Square(Task):
    """A task whose answer is a square of symbols, row by row, then ``<eos>``."""

    _asked: str  # the last sentence of the question

    def __init__(
        self, order: int, prompt_tokens: int, prompt_length: int, answer_length: int
    ) -> None:
        super().__init__(prompt_length, answer_length)
        self.order = order
        if self.prompt_length < prompt_tokens or self.answer_length <= order**2:
            raise ValueError(
                f"a square of order {order} needs a prompt_length of {prompt_tokens} "
                f"and an answer_length of {order**2 + 1}, got {prompt_length} and "
                f"{answer_length}"
            )

    @abstractmethod
    def _symbols(self, instances: Instances) -> Tensor:
        """Long[B, n]: what every line of a right answer holds."""

    def _lines(self, grid: Tensor) -> Tensor:
        """Long[B, K, n]: the lines of Long[B, n, n] that hold every symbol once."""
        return torch.cat([grid, grid.transpose(1, 2)], 1)

    def _prompts(self, words: Tensor) -> Tensor:
        """``<name>``, the words Long[B, m] of the instance, ``:``."""
        first = words.new_full((len(words), 1), VOCABULARY.index(f"<{self.name}>"))
        last = torch.full_like(first, SEPARATOR)
        return padded(torch.cat([first, words, last], 1), self.prompt_length)

    def score(self, instances: Instances, answers: Tensor) -> Tensor:
        self._check_answers(instances, answers)
        cells = self.order**2
        ends = (answers[:, cells:] == EOS).all(1)
        lines = self._lines(answers[:, :cells].unflatten(1, (self.order, self.order)))
        symbols = self._symbols(instances)
        # n cells that hold all n symbols hold each of them once
        holds = (lines[..., None] == symbols[:, None, None]).any(2).all(2)
        return ends & holds.all(1)

    def answer_text(self, answers: Tensor) -> list[str]:
        return [_drawn(decode(row), self.order) for row in answers]

    def parse(self, texts: list[str]) -> Tensor:
        """Free-text answers as tokens, Long[B, A]; all ``<pad>`` if unreadable.

        Rows stand on lines of their own, or in brackets, or one after the other on one
        line. Between the cells of a row there are spaces, commas, bars, quotes or
        nothing. Formatting (:func:`~dllm_tutorial.tasks.reading.plain`), lines of
        prose, a word in capitals, rules between the rows, ticks behind them and
        ``Row 1:`` or other numbers before them are left out.

        Of several grids the last is the answer, as the earlier ones are the puzzle or
        attempts; the last lines that could be rows must be a grid, of the right width
        and height, without blank cells. What is announced as columns or boxes is never
        the answer, what is announced as rows or a check not after another grid.
        """

        def read(text: str) -> str | None:
            return _last_grid(reading.plain(text, self._asked), self.order)

        return reading.answers(texts, read, self.answer_length)


class LatinSquare(_Square):
    """Fill a square with n symbols so that each row and column holds each of them once.

    A prompt reads ``<latin_square> symbols :``; the symbols are letters and digits, all
    different. Every Latin square in these symbols is a right answer: 2, 12 or 576.

    Parameters
    ----------
    order : int
        Number of symbols n, from 2 to 4.
    prompt_length, answer_length : int
        See :class:`Task`; ``ValueError`` if the square does not fit.

    Notes
    -----
    ``Instances.given`` holds ``symbols`` Long[B, n].
    """

    name = "latin_square"
    _asked = _ASKED.format("the symbols")

    def __init__(
        self,
        order: int = 4,
        *,
        prompt_length: int = PROMPT_LENGTH,
        answer_length: int = ANSWER_LENGTH,
    ) -> None:
        if _checks.integer(order, "order", 2) > 4:
            raise ValueError(f"order must be at most 4, got {order}")
        super().__init__(order, order + 2, prompt_length, answer_length)

    def _propose(self, count: int, generator: Generator | None) -> Instances:
        order = _uniform((count, len(SYMBOLS)), generator).argsort(1)
        symbols = encode(SYMBOLS).to(order.device)[order[:, : self.order]]
        return Instances(self._prompts(symbols), {"symbols": symbols})

    def joint(self, instances: Instances) -> AnswerTable:
        squares = joints.latin_square(self.order).support  # [M, n * n]
        symbols = instances.given["symbols"]
        support = symbols[:, squares.to(symbols.device)]  # [B, M, n * n]
        return _table(self, instances, support)

    def _symbols(self, instances: Instances) -> Tensor:
        return instances.given["symbols"]

    def prompt_text(self, instances: Instances) -> list[str]:
        n = self.order
        grid = _drawn(["_"] * n**2, n)
        texts = []
        for symbols in instances.given["symbols"]:
            *some, last = decode(symbols)
            texts.append(
                f"Fill this {n} by {n} grid with the symbols {', '.join(some)} and "
                f"{last} so that every row and every column holds each symbol exactly "
                f"once. Any such grid is right.\n\n{grid}\n\n" + self._asked
            )
        return texts


class _Sudoku(_Square):
    """A Sudoku of any order: ``<name> cells :``, a blank cell as ``0``."""

    _asked = _ASKED.format("the digits")

    def _instances(self, cells: Tensor, **given: Tensor) -> Instances:
        """Puzzles, and what else is given, as digits Long[B, n * n]."""
        given = {name: _ZERO + value for name, value in given.items()}
        tokens = _ZERO + cells
        return Instances(self._prompts(tokens), {"cells": tokens, **given})

    def _symbols(self, instances: Instances) -> Tensor:
        cells = instances.given["cells"]
        digits = torch.arange(1, self.order + 1, device=cells.device)
        return (_ZERO + digits).expand(len(cells), -1)

    def _lines(self, grid: Tensor) -> Tensor:
        side = math.isqrt(self.order)
        parts = grid.unflatten(2, (side, side)).unflatten(1, (side, side))
        boxes = parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return torch.cat([super()._lines(grid), boxes], 1)

    def score(self, instances: Instances, answers: Tensor) -> Tensor:
        right = super().score(instances, answers)
        cells = instances.given["cells"]
        kept = (cells == _ZERO) | (cells == answers[:, : self.order**2])
        return right & kept.all(1)

    def prompt_text(self, instances: Instances) -> list[str]:
        n, side = self.order, math.isqrt(self.order)
        texts = []
        for cells in instances.given["cells"]:
            grid = ["_" if word == "0" else word for word in decode(cells)]
            texts.append(
                f"Complete this {n} by {n} Sudoku. Every row, every column and every "
                f"{side} by {side} box must hold each of the digits 1 to {n} exactly "
                f"once. An empty cell is shown as _.\n\n{_drawn(grid, n)}\n\n"
                + self._asked
            )
        return texts


class Sudoku(_Sudoku):
    """Complete a Sudoku of order 4; all completions are right answers.

    A prompt reads ``<sudoku> cells :``, 16 cells row by row, ``0`` for a blank.

    Parameters
    ----------
    blanks : int or iterable of int
        Numbers of blank cells, from 1 to 15; each instance draws one of them, all
        equally likely. A unique completion leaves at most 12 blanks, and several take
        at least 4. (The empty grid is one single prompt: see :meth:`pose`.)
    solutions : str
        ``"unique"``: puzzles with exactly one completion; ``"several"``: with two or
        more; ``"any"``. Among the puzzles with the number of blanks, a full grid and
        its blanks are drawn uniformly.
    prompt_length, answer_length : int
        See :class:`Task`; ``ValueError`` if the grid does not fit.

    Notes
    -----
    ``Instances.given`` holds ``cells`` Long[B, 16], the tokens of the prompt.
    """

    name = "sudoku"

    def __init__(
        self,
        blanks: int | Iterable[int] = range(4, 11),
        solutions: str = "unique",
        *,
        prompt_length: int = PROMPT_LENGTH,
        answer_length: int = ANSWER_LENGTH,
    ) -> None:
        super().__init__(4, 18, prompt_length, answer_length)
        self.solutions = _checks.one_of(solutions, "solutions", SOLUTIONS)
        numbers = blanks if isinstance(blanks, Iterable) else [blanks]
        self.blanks = tuple(_checks.integer(number, "blanks") for number in numbers)
        least = 4 if solutions == "several" else 1
        most = 12 if solutions == "unique" else 15
        if not self.blanks or min(self.blanks) < least or max(self.blanks) > most:
            raise ValueError(
                f"blanks must lie in {least} ... {most} for solutions={solutions!r}, "
                f"got {self.blanks}"
            )

    def _propose(self, count: int, generator: Generator | None) -> Instances:
        device = "cpu" if generator is None else generator.device
        sizes = torch.tensor(self.blanks, device=device)
        size = sizes[(_uniform((count,), generator) * len(sizes)).long()]
        grids, differs = (table.to(device) for table in _grids())
        grid = torch.zeros(count, dtype=torch.long, device=device)
        blank = torch.zeros(count, 16, dtype=torch.bool, device=device)
        rows = torch.arange(count, device=device)  # that have no puzzle yet
        while len(rows):
            pick = (_uniform(rows.shape, generator) * len(grids)).long()
            hidden = _uniform((len(rows), 16), generator).argsort(1) < size[rows, None]
            grid[rows], blank[rows] = pick, hidden
            # a grid that differs in blank cells only is a completion too
            outside = differs[pick] & ~_as_bits(hidden)[:, None]
            completions = (outside == 0).sum(1)
            rows = rows[~self._wanted(completions)]
        return self._instances(grids[grid].masked_fill(blank, 0))

    def _wanted(self, completions: Tensor) -> Tensor:
        """Bool[B]: whether puzzles with so many completions are among those drawn."""
        if self.solutions == "any":
            return completions > 0
        return (completions == 1) == (self.solutions == "unique")

    def pose(self, cells: Tensor) -> Instances:
        """Puzzles of your own: digits Long[B, 16], 0 for a blank.

        They need a completion, but neither the number of blanks nor the number of
        solutions of the task.
        """
        _checks.tokens(cells, "cells", length=16)
        _checks.token_range(cells, "cells", 5)
        if not len(cells):
            raise ValueError("cells must have one row at least, got none")
        instances = self._instances(cells.long())
        if not bool(self._completes(instances).any(1).all()):
            raise ValueError(f"cells must have a completion, got {cells.tolist()}")
        return instances

    def _completes(self, instances: Instances) -> Tensor:
        """Bool[B, 288]: which grids agree with the cells that are given."""
        cells = instances.given["cells"][:, None] - _ZERO
        grids = _grids()[0].to(cells.device)
        return ((cells == 0) | (cells == grids)).all(2)

    def joint(self, instances: Instances) -> AnswerTable:
        fits = self._completes(instances)
        most = int(fits.sum(1).max())
        order = fits.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        support = _ZERO + _grids()[0].to(order.device)[order]  # [B, M, 16]
        return _table(self, instances, support, fits.gather(1, order))


class Sudoku9(_Sudoku):
    """Complete a Sudoku of order 9, which has one solution.

    A prompt reads ``<sudoku_9x9> cells :``, 81 cells row by row, ``0`` for a blank. The
    package sudoku-engine makes each puzzle from a full grid of its own: it takes away
    cells, in random order, as long as no second solution arises. That takes about
    0.1 s for half of the cells, and 0.4 s for as many as it can.

    Parameters
    ----------
    difficulty : float
        Share of cells to leave blank, between 0 and 1. Where a second solution would
        arise the cell stays, so that hardly more than 0.7 can be reached.
    prompt_length, answer_length : int
        See :class:`Task`; ``ValueError`` if the grid does not fit.

    Notes
    -----
    ``Instances.given`` holds ``cells`` and ``solution``, Long[B, 81] tokens.
    """

    name = "sudoku_9x9"

    def __init__(
        self,
        difficulty: float = 0.5,
        *,
        prompt_length: int = 83,
        answer_length: int = 82,
    ) -> None:
        super().__init__(9, 83, prompt_length, answer_length)
        self.difficulty = _checks.in_unit_interval(
            difficulty, "difficulty", open_left=True, open_right=True
        )

    def _propose(self, count: int, generator: Generator | None) -> Instances:
        device = "cpu" if generator is None else generator.device
        high = 2**62
        seeds = torch.randint(high, (count,), generator=generator, device=device)
        # one by one: the generator knows no batches
        made = [_generated(seed, self.difficulty) for seed in seeds.tolist()]
        cells, solution = torch.tensor(made, device=device).unbind(1)
        return self._instances(cells, solution=solution)

    def draw(
        self, count: int, *, split: str = "test", generator: Generator | None = None
    ) -> Instances:
        """``count`` instances of a split, drawn independently.

        A puzzle costs too much to be thrown away: one whose prompt belongs to the other
        split gets its digits renamed at random until it does not.
        """
        _checks.integer(count, "count", 1)
        _checks.generator(generator)
        wants_test = _checks.one_of(split, "split", SPLITS) == "test"
        instances = self._propose(count, generator)
        given = instances.given["cells"], instances.given["solution"]
        puzzle = torch.stack(given, 1) - _ZERO  # [B, 2, 81]
        while bool((wrong := in_test(instances.prompts) != wants_test).any()):
            keys = _uniform((int(wrong.sum()), 10), generator)
            keys[:, 0] = -1.0  # a blank stays a blank
            new = keys.argsort(1)[:, None].expand(-1, 2, -1)
            puzzle[wrong] = new.gather(2, puzzle[wrong])
            instances = self._instances(puzzle[:, 0], solution=puzzle[:, 1])
        return instances

    def joint(self, instances: Instances) -> AnswerTable:
        support = instances.given["solution"][:, None]  # [B, 1, 81]
        return _table(self, instances, support)


def _table(
    task: Task, instances: Instances, support: Tensor, valid: Tensor | None = None
) -> AnswerTable:
    """The joint of the squares Long[B, M, n * n] that are valid; None means all."""
    if valid is None:
        valid = support.new_ones(support.shape[:2], dtype=torch.bool)
    answers = ended(support.flatten(0, 1), task.answer_length)
    answers = answers.unflatten(0, valid.shape)
    return AnswerTable(instances.prompts, answers, valid)


@cache
def _grids() -> tuple[Tensor, Tensor]:
    """The full grids of order 4, and where they differ.

    Returns
    -------
    Long[288, 16]
        Digits 1 ... 4.
    Int[288, 288]
        The cells in which two grids differ, as bits.
    """
    grids = 1 + joints.sudoku().support
    return grids, _as_bits(grids[:, None] != grids)


def _as_bits(cells: Tensor) -> Tensor:
    """A set of cells Bool[..., 16] as a number Int[...]: bit i stands for cell i."""
    weights = 2 ** torch.arange(16, dtype=torch.int32, device=cells.device)
    return (cells * weights).sum(-1, dtype=torch.int32)


def _generated(seed: int, difficulty: float) -> tuple[list[int], list[int]]:
    """A puzzle of order 9 and its solution: 81 digits each, 0 for a blank."""
    try:  # here, as only this task needs it and other packages have its name
        from sudoku import ClassicSudoku
        from sudoku.base_sudoku import PuzzleGenerator, Solver
    except ImportError as error:
        raise ImportError(
            "Sudoku9 needs the package sudoku-engine (pip install sudoku-engine); "
            f"another package named sudoku may stand in its way: {error}"
        ) from error
    state = random.getstate()  # the generator draws from, and seeds, the global one
    try:
        puzzle = PuzzleGenerator.make_puzzle(ClassicSudoku, 9, difficulty, seed=seed)
        solver = Solver(puzzle, max_solutions=2)
        solutions = solver.solve_count()
    finally:
        random.setstate(state)
    if solutions != 1:
        raise RuntimeError(f"sudoku-engine gave {solutions} solutions at seed {seed}")
    cells = [digit or 0 for row in puzzle.board for digit in row]
    return cells, [digit for row in solver.first_solution for digit in row]


def _uniform(shape: Iterable[int], generator: Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), Float64, on the generator's device."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(
        tuple(shape), generator=generator, dtype=torch.float64, device=device
    )


def _drawn(words: list[str], width: int) -> str:
    """Rows of words, one a line."""
    starts = range(0, len(words), width)
    return "\n".join(" ".join(words[i : i + width]) for i in starts)


# ------------------------------------------------------------------ free-text answers

_BLANK = "_.?·"
_CELL = re.compile(rf"[A-Z0-9{_BLANK}]")
# What may stand beside the cells of a row: drawn lines, quotes, bullets, ticks.
_MARK = r"\s,;/|&'\"*+=()\[\]{}–—\u2500-\u257F•◦▪‣✓✔✅☑\uFE0F-"
_GRID_LINE = re.compile(rf"[A-Z0-9{_BLANK}{_MARK}]*")
_RULE = re.compile(rf"[:{_MARK}]*")
_NESTED = re.compile(r"\[(?:[\s,]*+\[[^\[\]]*+\])++[\s,]*+\]")
_LETTER = re.compile(r"[A-Za-z]")
_PROSE = "#"
_NUMBER = r" ?(?:\d+[.):]|[(\[]\d+[)\]]|[Rr]\d+:?) +"  # of a row
_COUNTED = (
    "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|last|"
    r"\d(?:st|nd|rd|th)"
)
_ROW_LABEL = re.compile(
    rf"\"?\b(?:(?:{_COUNTED}) (?:row|line)|(?:row|line)[ _]?(?:\d|[A-I]\b|one|two|"
    r"three|four)|(?<=\")\d(?=\"))[^:\n\[\]]{0,12}:",
    re.IGNORECASE,
)
_BOXED = re.compile(r"[(\[{] ?([A-Z0-9]) ?[)\]}]")  # a cell that was filled in
_BEHIND = re.compile(r"\A((?:.*(?:[:=!?>]|[a-z]\.|\b(?:is|are)\b))?)(.*)")  # a label
_WORDS = re.compile(r"[^\w]*[A-Z]{2,}(?:[^\w]+[A-Z]+)*[^\w]*")  # as in "DONE"
_DENSE = re.compile(rf"[{_MARK}]*(?:[A-Z0-9{_BLANK}]{{2,}}[{_MARK}]*)+")

# What announces a grid that is no answer: never, or not after another grid.
_START = r"\W*(?:(?:let'?s|let me|let us|now|to|the|we|i|can|also|and|next|then)\s+)*"
_COLUMNS = re.compile(rf"{_START}(?:col|box|block|sub-?grid|quadrant)", re.I)
_CHECK = re.compile(rf"{_START}(?:double[ -])?(?:check|verif|rows\b)", re.I)

# Marks between two cells, from weak to strong.
_NOTHING, _SPACE, _COMMA, _SEMICOLON, _NEWLINE, _BRACKET = range(6)
_STRENGTH = [
    (")]}", _BRACKET),
    ("\n", _NEWLINE),
    (";/", _SEMICOLON),
    (",", _COMMA),
]


def _last_grid(text: str, side: int) -> str | None:
    """The cells of the last grid in a text, row by row; None if it cannot be read."""
    answer = None
    for heading, region in _regions(text, side):
        is_check = answer is not None and _CHECK.match(heading)
        if not is_check and not _COLUMNS.match(heading):
            answer = region
    if answer is None:
        return None
    grids = [answer]
    if not _is_square(answer, side):  # or several of them, with empty lines between
        grids = [p for p in re.split(r"\n\s*\n", answer) if _CELL.search(p)]
    cells = "".join(_CELL.findall(grids[-1]))
    whole = all(_is_square(grid, side) for grid in grids)
    return cells if whole and not set(cells) & set(_BLANK) else None


def _regions(text: str, side: int) -> list[tuple[str, str]]:
    """Runs of lines that may be a grid, each with the line of prose before it.

    Single cells, as in "4", are no row.
    """
    text = _first_row(side).sub(r"\1\n\2", _ROW_LABEL.sub("\n", text))
    lines = _NESTED.sub(rf"\n{_PROSE}\n\g<0>\n{_PROSE}\n", text).splitlines()
    dense = [bool(_DENSE.fullmatch(line)) for line in lines if line.strip()]
    around = zip([False, *dense], [*dense[1:], False], strict=False)
    lone = iter([not any(pair) for pair in around])  # of each line that is not empty
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        label, shown = _shown(line, side)
        if line.strip() and next(lone) and _is_word(line, side):
            shown = None
        heading, rows = found[-1]
        begun = any(map(_CELL.search, rows))
        if shown is None:
            shown = _broken(line, side, begun=begun)
        if shown is None:
            found.append((line if begun or _LETTER.search(line) else heading, []))
        elif label:
            found += [(label, [shown]), ("", [])]
        else:
            rows.append(shown)
    regions = [(heading, "\n".join(rows)) for heading, rows in found]
    return [(h, region) for h, region in regions if len(_CELL.findall(region)) >= side]


@cache
def _first_row(side: int) -> re.Pattern[str]:
    """A label and, on its line, the first row of a grid; not the symbols to use."""
    cell, gap = _CELL.pattern, rf"(?:(?!\n)[{_MARK}])"
    row = (
        rf"(?:{gap}*(?:{cell}{gap}+){{{side - 1}}}{cell}|{gap}*{cell}{{{side}}}){gap}*"
    )
    symbols = r".*(?i:\b(?:symbol|digit|letter|number|row\b|us(?:e|ing)\b))"
    return re.compile(
        rf"(?m)^(?!{symbols}|{_NUMBER}{row}$)(.*(?:[a-z](?!\w)\.?|[:=!?>]))"
        rf"((?:{_NUMBER})?{row})$(?=\n[:{_MARK}]*(?:{_NUMBER})?{row}$)"
    )


def _shown(line: str, side: int) -> tuple[str, str | None]:
    """A line's label, and what it shows of a grid: None if it is no part of one.

    A row may have a number or a full stop, and a whole grid any label.
    """
    if _RULE.fullmatch(line):
        return "", line.replace(":", "-")
    if "|" in line and re.findall(r"\w+", line) == [f"C{i + 1}" for i in range(side)]:
        return "", None  # the head of a table
    cells = re.sub(rf"\A{_NUMBER}", "", line)
    for text in (cells, line):
        label, _, rest = text.rpartition(":")
        bare = _BOXED.sub(r"\1", rest).rstrip().removesuffix(".")
        sizes = (side**2,) if label else (side, side**2)
        if _GRID_LINE.fullmatch(bare) and len(_CELL.findall(bare)) in sizes:
            return label, bare
    return "", cells if _GRID_LINE.fullmatch(cells) else None


def _broken(line: str, side: int, *, begun: bool) -> str | None:
    """A row with other words of the vocabulary, as "?", or with a remark behind it.

    It makes a grid unreadable. A label may be before it where the grid has not begun,
    or where it announces the answer, but then whole rows are something else.
    """
    label, rest = _BEHIND.findall(line)[0]
    is_answer = reading.rank(label) == 2
    if begun and not is_answer:
        label, rest = "", line
    row = re.split(r"\(| - ", re.sub(rf"\A{_NUMBER}", "", rest))[0]
    words = [word for word in re.split(rf"[{_MARK}]+", row.rstrip(". ")) if word]
    cells = [word if _CELL.fullmatch(word) else "?" for word in words]
    if is_answer and words and re.fullmatch("[A-Z0-9]*", "".join(words)):
        return " ".join("?" * side)
    if not words or not {*VOCABULARY, "_"}.issuperset(words):
        return None
    return (
        None if label and len(cells) == side and "?" not in cells else " ".join(cells)
    )


def _is_word(line: str, side: int) -> bool:
    """Whether a line, like "DONE", could be a row of letters but not a whole grid."""
    return bool(_WORDS.fullmatch(line)) and len(_CELL.findall(line)) < side**2


def _is_square(region: str, side: int) -> bool:
    """Whether the marks between the cells of a region make it a square.

    Either those that end a row are stronger than all inside a row, or the cells stand
    on one line: evenly, or with one mark inside rows and another between them.
    """
    parts = _CELL.split(region)
    gaps = [_strength(gap) for gap in parts[1:-1]]
    if len(gaps) != side**2 - 1:
        return False
    ends = set(gaps[side - 1 :: side])
    inside = {gap for i, gap in enumerate(gaps, 1) if i % side}
    one_line = max(ends | inside) <= _COMMA
    return max(inside) < min(ends) or (
        one_line and (len(ends | inside) == 1 or not ends & inside)
    )


def _strength(gap: str) -> int:
    for marks, strength in _STRENGTH:
        if set(marks) & set(gap):
            return strength
    return _SPACE if gap else _NOTHING
