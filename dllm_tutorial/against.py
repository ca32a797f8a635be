"""Chapter 6: diffusion against autoregression, from rows and from puzzles.

The first half reads rows of the benchmark study (:mod:`dllm_tutorial.bench`): paired
differences between two models, how fast accuracy falls with the length of a list, and
how few calls a diffusion model needs to be as accurate as its autoregressive twin.

The second half is about the order in which a square is filled. Its solver, that of
:func:`dllm_tutorial.limited.pencil_marks`, sees the neighbors of a cell and nothing
else, and draws uniformly from the symbols that they leave. All chances are exact. A
square is given row by row; its side is the number of symbols, which are 0 ... side - 1;
a blank cell holds ``side``, the mask.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks, bench, bench_study, study, tasks, train_tasks
from dllm_tutorial.decoding import Strategy, generate
from dllm_tutorial.joints import Joint
from dllm_tutorial.tasks.vocabulary import VOCABULARY

__all__ = [
    "Chances",
    "Filling",
    "answer_tokens",
    "best_filling",
    "crossing",
    "every_order",
    "fewest_calls",
    "fill",
    "guesses",
    "neighbors",
    "part",
    "positions",
    "puzzles",
    "seconds_per_call",
    "square_law",
    "study_puzzles",
]

# ------------------------------------------------------------------- rows of the study


def part(table: pd.DataFrame, keep: Tensor | Sequence[bool]) -> pd.DataFrame:
    """The same rows on some of the instances: those where ``keep: Bool[N]`` is true."""
    kept = np.asarray(keep, dtype=bool)
    if not kept.any():
        raise ValueError("keep must keep at least one instance")
    if kept.shape != (bench.scores(table).shape[1],):
        raise ValueError(
            f"keep must have a flag for each instance, got shape {kept.shape} for "
            f"{table['right'].str.len().iloc[0]} instances"
        )
    right = ["".join(itertools.compress(digits, kept)) for digits in table["right"]]
    return table.assign(
        right=right,
        correct=[digits.count("1") for digits in right],
        instances=int(kept.sum()),
    )


TWO = ("reverse", "shuffle")


def crossing(table: pd.DataFrame, lengths: Iterable[int] | None = None) -> pd.DataFrame:
    """How fast Reverse and Shuffle fall with the length of the list, for each model.

    The deck's figure 4 has a crossing: a diffusion model keeps Reverse and loses
    Shuffle, autoregressive ones lose Reverse faster. In numbers: ``gap``, the slope of
    Reverse minus that of Shuffle, is above zero for the one, below zero for the other.

    Parameters
    ----------
    table : DataFrame
        Rows of ``bench.read("lengths")``.
    lengths : iterable of int, optional
        Lengths to use, two at least; all of them by default.

    Returns
    -------
    DataFrame
        A row for each kind of model and its ``rule`` and ``value``: least-squares
        slopes ``reverse`` and ``shuffle`` and their ``gap``, in accuracy per item, each
        with ``_low`` and ``_high`` (95 %, over seeds and instances); ``falls_faster``:
        the task whose slope is lower, or "neither" where the interval of the gap holds
        zero; ``seeds``, ``n``.
    """
    chosen = table[table["task"].isin(TWO)]
    if lengths is not None:
        chosen = chosen[chosen["n"].isin(list(lengths))]
    sizes = np.sort(chosen["n"].unique())
    if len(sizes) < 2 or set(chosen["task"]) != set(TWO):
        raise ValueError(
            f"table must have reverse and shuffle at two lengths at least, got "
            f"{sorted(set(chosen['task']))} at {sizes.tolist()}"
        )
    centered = sizes - sizes.mean()
    weights = centered / (centered**2).sum()
    found = []
    kinds = chosen["model"].map(bench.kind).rename("kind")
    for key, rows in chosen.groupby([kinds, "rule", "value"], sort=False):
        right = np.array([[_by_seed(rows, t, n) for n in sizes] for t in TWO])
        slopes = np.einsum("tlsn,l->tsn", right, weights)  # [task, seed, instance]
        names = dict(zip(("kind", "rule", "value"), key, strict=True))
        found.append(names | _slopes(slopes, weights.clip(0).sum()))
        found[-1] |= {"seeds": right.shape[2], "n": right.shape[3]}
    return pd.DataFrame(found)


def _by_seed(rows: pd.DataFrame, task: str, n: int) -> np.ndarray:
    """Float64[S, N]: scores on one task and length, in the order of the seeds."""
    chosen = rows[(rows["task"] == task) & (rows["n"] == n)].sort_values("model")
    if chosen.empty or chosen["model"].duplicated().any():
        raise ValueError(
            f"table must have one row for each model and setting, got "
            f"{list(chosen['model'])} on {task} of length {n}"
        )
    return bench.scores(chosen)


def _slopes(slopes: np.ndarray, steepest: float) -> dict[str, Any]:
    """Mean slopes of both tasks [2, seeds, N] and their gap, with intervals."""
    row: dict[str, Any] = {}
    for name, values, most in (
        ("reverse", slopes[0], steepest),
        ("shuffle", slopes[1], steepest),
        ("gap", slopes[0] - slopes[1], 2 * steepest),
    ):
        low, high = study.crossed_interval(values, (-most, most))
        row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
    falls = "shuffle" if low > 0 else "reverse" if high < 0 else "neither"
    return row | {"falls_faster": falls}


def fewest_calls(table: pd.DataFrame, margin: float | None = None) -> pd.DataFrame:
    """The fewest calls at which a diffusion model is as accurate as its AR twin.

    Parameters
    ----------
    table : DataFrame
        Rows of ``bench.read("panels")``: every rule with each of its values for
        ``dllm-*``, one token a call from left to right for ``ar-*``.
    margin : float, optional
        None: a setting counts as as accurate unless the paired 95% interval of the
        difference lies below zero. A number, such as 0.05: the whole interval must lie
        above ``-margin``, so that a larger loss is excluded. The first criterion is
        lenient where there are few instances, the second strict.

    Returns
    -------
    DataFrame
        A row a task that both kinds of model met: ``ar``, ``ar_low``, ``ar_high`` (its
        accuracy), ``ar_calls``; the cheapest setting ``rule`` and ``value``, with its
        accuracy ``dllm``, ``calls`` (mean over seeds and instances) and ``difference``,
        ``low``, ``high``; these are NaN where no setting will do;
        ``settings``: how many were tried. Among equally cheap ones the most accurate is
        taken.
    """
    if margin is not None:
        _checks.in_unit_interval(margin, "margin")
    kinds = table["model"].map(bench.kind)
    ar, dllm = table[kinds == "ar"], table[kinds == "dllm"]
    ar, dllm = (
        one[one["task"].isin(other["task"])] for one, other in ((ar, dllm), (dllm, ar))
    )
    if ar.empty:
        raise ValueError("table must have rows of dllm and ar models on one task")
    base = bench.accuracy(ar, ["task"])
    means = (
        dllm.assign(accuracy=dllm["correct"] / dllm["instances"])
        .groupby(["task", "rule", "value"], sort=False)[["accuracy", "nfe"]]
        .mean()
        .reset_index()
    )
    gaps = [
        bench.difference(rows, ar, ["task"]).assign(rule=rule, value=value)
        for (rule, value), rows in dllm.groupby(["rule", "value"], sort=False)
    ]
    tried = means.merge(pd.concat(gaps), on=["task", "rule", "value"])
    enough = tried["high"] >= 0 if margin is None else tried["low"] >= -margin
    best = (
        tried[enough]
        .sort_values(["nfe", "accuracy"], ascending=[True, False], kind="stable")
        .drop_duplicates("task")
        .rename(columns={"accuracy": "dllm", "nfe": "calls"})
    )
    names = {"accuracy": "ar", "low": "ar_low", "high": "ar_high", "nfe": "ar_calls"}
    columns = ["rule", "value", "dllm", "calls", "difference", "low", "high"]
    return (
        base.rename(columns=names)[["task", *names.values()]]
        .assign(settings=lambda rows: rows["task"].map(tried["task"].value_counts()))
        .merge(best[["task", *columns]], on="task", how="left")
    )


# --------------------------------------------------------------------- what calls cost


def positions(
    calls: float,
    *,
    prompt: int = tasks.PROMPT_LENGTH,
    answer: int = tasks.ANSWER_LENGTH,
    cached: bool,
) -> float:
    """How many positions the network computes for one answer.

    With a cache of keys and values each position is computed once, in however many
    calls. Without one every call computes prompt and answer again; a bidirectional
    network cannot keep what it computed, because each new token changes all of it.
    """
    _checks.number(calls, "calls", 0, open_left=True)
    total = _checks.integer(prompt, "prompt", 0) + _checks.integer(answer, "answer", 1)
    return float(total) if cached else calls * total


def answer_tokens(name: str, instances: int = 100) -> float:
    """Mean tokens of a right answer with its first ``<eos>``, on the study's instances.

    An autoregressive model can stop there; a diffusion model fills the whole answer.
    """
    task, drawn = bench_study.problems(name, None, instances)
    answers = task.joint(drawn).sample(Generator().manual_seed(bench_study.SEED))
    return ((answers != tasks.EOS).sum(1) + 1).double().mean().item()


def seconds_per_call(length: int, batch: int, repeats: int = 12) -> float:
    """Median processor seconds of one forward pass of the study's network.

    Seconds of this process, summed over its threads: what else runs on the machine does
    not count. The network is untrained: its speed does not depend on its weights.

    Parameters
    ----------
    length : int
        Positions computed for each of ``batch`` sequences: 50 for prompt and answer, 1
        for a step from a cache. (The step then leaves out the look at the cache, so
        that its time is a lower bound.)
    batch, repeats : int
    """
    model = train_tasks.network(train_tasks.RUNS["ar-0"]).eval()
    most = tasks.PROMPT_LENGTH + tasks.ANSWER_LENGTH
    if _checks.integer(length, "length", 1) > most:
        raise ValueError(f"length must be at most {most}, got {length}")
    x = torch.zeros(_checks.integer(batch, "batch", 1), length, dtype=torch.long)
    seconds = []
    with torch.inference_mode():
        model(x)
        for _ in range(_checks.integer(repeats, "repeats", 1)):
            start = time.process_time()
            model(x)
            seconds.append(time.process_time() - start)
    return float(np.median(seconds))


# --------------------------------------------------------- the order of filling squares

RULES = ("left_to_right", "confidence", "random")
MOST_BLANKS = 14  # every_order looks at 2^14 states


class Filling(NamedTuple):
    """A square filled with its solution, cell by cell, as the solver sees it.

    Parameters
    ----------
    order : tuple of int
        The blank cells in the order of filling.
    choices : tuple of int
        For each of them, how many symbols its neighbors left when its turn came.
    """

    order: tuple[int, ...]
    choices: tuple[int, ...]

    @property
    def chance(self) -> float:
        """Probability that the solver, drawing uniformly, makes every choice right."""
        return 1 / math.prod(self.choices)

    @property
    def guesses(self) -> int:
        """Cells with more than one symbol left; all others are forced."""
        return sum(ways > 1 for ways in self.choices)


class Chances(NamedTuple):
    """What the solver can reach over all orders of filling one puzzle.

    Parameters
    ----------
    best, worst, mean : float
        Chance of the solution in the best and the worst order, and in a random one.
    forced : float
        Share of the orders in which every cell is forced when its turn comes.
    """

    best: float
    worst: float
    mean: float
    forced: float


def neighbors(side: int, box: int | None = None) -> Tensor:
    """Bool[L, L]: which of the L = side^2 cells share a row, a column or a box.

    ``box`` is the side of a box, for Sudoku the root of ``side``; None for a Latin
    square, which has no boxes. No cell is its own neighbor.
    """
    cell = torch.arange(_checks.integer(side, "side", 1) ** 2)
    row, column = cell // side, cell % side
    lines = [row, column]
    if box is not None:
        if _checks.integer(box, "box", 1) ** 2 != side:
            raise ValueError(f"box must be the root of side, got {box} for {side}")
        lines.append(row // box * box + column // box)
    near = torch.stack([line[:, None] == line for line in lines]).any(0)
    return near & ~torch.eye(len(cell), dtype=torch.bool)


def puzzles(
    task: tasks.Sudoku | tasks.Sudoku9, instances: tasks.Instances
) -> tuple[Tensor, Tensor]:
    """Instances of a Sudoku task as squares of this module: puzzles, solutions [B, L].

    Where a puzzle has several completions, one of them is drawn.
    """
    first, side = VOCABULARY.index("1"), task.order
    cells = instances.given["cells"] - first  # a blank is "0"
    answers = task.joint(instances).sample(Generator().manual_seed(0))
    return cells.where(cells >= 0, side), answers[:, : side**2] - first


def study_puzzles(count: int = 100) -> tuple[Tensor, Tensor]:
    """The Sudokus of the study and their solutions, Long[count, 16], 4 is a blank."""
    task, instances = bench_study.problems("sudoku", None, count)
    assert isinstance(task, tasks.Sudoku)
    return puzzles(task, instances)


class _Marks:
    """Pencil marks: which symbols the neighbors of each cell show, as bits."""

    def __init__(self, puzzle: Tensor, solution: Tensor, near: Tensor) -> None:
        cells = _square(near)
        self.side = math.isqrt(cells)
        _checks.tokens(solution, "solution", ndim=1, length=cells)
        _checks.token_range(solution, "solution", self.side)
        _checks.tokens(puzzle, "puzzle", ndim=1, length=cells)
        if not bool(((puzzle == self.side) | (puzzle == solution)).all()):
            raise ValueError(f"puzzle must agree with solution, got {puzzle.tolist()}")
        self.near = [row.nonzero()[:, 0].tolist() for row in near]
        self.bits = [1 << symbol for symbol in solution.tolist()]
        self.blanks = [i for i, s in enumerate(puzzle.tolist()) if s == self.side]
        shown = [0 if i in self.blanks else bit for i, bit in enumerate(self.bits)]
        self.seen = [0] * cells
        for i, row in enumerate(self.near):
            for j in row:
                self.seen[i] |= shown[j]
            if self.seen[i] & self.bits[i]:
                raise ValueError("solution must hold no symbol twice among neighbors")

    def ways(self, cell: int, seen: list[int]) -> int:
        return self.side - seen[cell].bit_count()

    def put(self, cell: int, seen: list[int]) -> None:
        """Write the solution's symbol into a cell."""
        for j in self.near[cell]:
            seen[j] |= self.bits[cell]

    def close(self, left: set[int], seen: list[int]) -> list[int]:
        """Fill forced cells until there is none; the order in which they came."""
        order = []
        while forced := [i for i in sorted(left) if self.ways(i, seen) == 1]:
            for cell in forced:  # what is forced stays forced
                self.put(cell, seen)
                left.remove(cell)
            order += forced
        return order


def _square(near: Tensor) -> int:
    """Number of cells of ``near: Bool[L, L]``, a square number."""
    if not isinstance(near, Tensor) or near.dtype != torch.bool:
        raise TypeError("near must be a tensor of bools")
    cells = len(near)
    if near.shape != (cells, cells) or math.isqrt(cells) ** 2 != cells:
        raise ValueError(f"near must be [L, L] with L = side^2, got {near.shape}")
    return cells


def fill(
    puzzle: Tensor,
    solution: Tensor,
    near: Tensor,
    rule: str | Sequence[int],
    generator: Generator | None = None,
) -> Filling:
    """Fill the blanks with the solution, in the order that a rule finds.

    Parameters
    ----------
    puzzle, solution : Long[L]
    near : Bool[L, L]
        See :func:`neighbors`.
    rule : str or sequence of int
        ``"left_to_right"``; ``"confidence"``: fewest symbols left first, which is what
        ranking by confidence or entropy does here, ties to the left; ``"random"``; or
        the blank cells in an order of your own.
    generator : torch.Generator, optional
        Draws the random order.
    """
    marks = _Marks(puzzle, solution, near)
    seen, left = list(marks.seen), list(marks.blanks)
    if isinstance(rule, str):
        _checks.one_of(rule, "rule", RULES)
        if rule == "random":
            left = [left[i] for i in torch.randperm(len(left), generator=generator)]
    else:
        if sorted(rule) != left:
            raise ValueError(f"rule must be an order of {left}, got {list(rule)}")
        left = list(rule)
    order, choices = [], []
    while left:
        cell = left[0]
        if rule == "confidence":
            cell = min(left, key=lambda i: (marks.ways(i, seen), i))
        left.remove(cell)
        order.append(cell)
        choices.append(marks.ways(cell, seen))
        marks.put(cell, seen)
    return Filling(tuple(order), tuple(choices))


def best_filling(puzzle: Tensor, solution: Tensor, near: Tensor) -> Filling:
    """An order in which the solver is right with the highest probability.

    Dijkstra's search over sets of filled cells, where a cell with c symbols left costs
    log c. Forced cells are filled at once: they cost nothing and can only leave others
    fewer symbols. The search knows the solution; it is a ceiling, not a method.

    Parameters are those of :func:`fill`.
    """
    marks = _Marks(puzzle, solution, near)
    seen, left = list(marks.seen), set(marks.blanks)
    forced = marks.close(left, seen)
    count = itertools.count()
    first = Filling(tuple(forced), (1,) * len(forced))
    heap = [(0.0, next(count), frozenset(left), seen, first)]
    done: set[frozenset[int]] = set()
    while True:
        cost, _, open_cells, seen, filling = heapq.heappop(heap)
        if not open_cells:
            return filling
        if open_cells in done:
            continue
        done.add(open_cells)
        for cell in sorted(open_cells):
            ways = marks.ways(cell, seen)
            after, left = list(seen), set(open_cells)
            left.remove(cell)
            marks.put(cell, after)
            forced = marks.close(left, after)
            longer = Filling(
                (*filling.order, cell, *forced),
                (*filling.choices, ways, *(1 for _ in forced)),
            )
            step = (cost + math.log(ways), next(count), frozenset(left), after, longer)
            heapq.heappush(heap, step)


def every_order(puzzle: Tensor, solution: Tensor, near: Tensor) -> Chances:
    """What the solver reaches over all m! orders of m blanks, from their 2^m subsets.

    Parameters are those of :func:`fill`; there may be 14 blanks at most.
    """
    marks = _Marks(puzzle, solution, near)
    m = len(marks.blanks)
    if not 1 <= m <= MOST_BLANKS:
        raise ValueError(f"puzzle must have 1 to {MOST_BLANKS} blanks, got {m}")
    sets = torch.arange(2**m)
    filled = (sets[:, None] >> torch.arange(m) & 1).bool()  # [2^m, m]
    x = puzzle.repeat(2**m, 1)
    x[:, marks.blanks] = torch.where(filled, solution[marks.blanks], marks.side)
    ways = _left(x, near).sum(-1)[:, marks.blanks].double()
    best, worst, mean, forced = torch.ones(4, 2**m, dtype=torch.float64)
    size = filled.sum(1)
    for k in range(1, m + 1):
        now = (size == k).nonzero()[:, 0]
        last = filled[now]  # [K, m]: which cell may have been the last one
        before = (now[:, None] - (1 << torch.arange(m))).clamp(min=0)
        c = ways[before, torch.arange(m)]
        best[now] = (best[before] / c).where(last, -1.0).max(1).values
        worst[now] = (worst[before] / c).where(last, 2.0).min(1).values
        mean[now] = (mean[before] / c).where(last, 0.0).sum(1) / k
        forced[now] = forced[before].where(last & (c == 1), 0.0).sum(1) / k
    return Chances(*(table[-1].item() for table in (best, worst, mean, forced)))


def _left(x: Tensor, near: Tensor) -> Tensor:
    """Bool[B, L, V]: which symbols no neighbor of a cell shows."""
    side = math.isqrt(len(near))
    shown = x[..., None] == torch.arange(side)
    return near.double() @ shown.double() == 0


def square_law(near: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """How the solver fills an empty square: all squares it completes, and how often.

    Parameters
    ----------
    near : Bool[L, L]
        Which cells may not hold the same symbol, as from ``neighbors(4)``.
    rule : str
        ``"left_to_right"`` or ``"confidence"`` (fewest symbols left first, ties to the
        left).

    Returns
    -------
    squares : Long[M, L]
    probs : Float64[M]
        They add up to the probability of a valid square; the rest ran into a cell that
        had no symbol left.
    """
    cells = _square(near)
    _checks.one_of(rule, "rule", RULES[:2])
    side = math.isqrt(cells)
    x = torch.full((1, cells), side)
    probs = torch.ones(1, dtype=torch.float64)
    for _ in range(cells):
        left = _left(x, near)
        ways, blank = left.sum(-1), x == side
        if rule == "confidence":
            cell = ways.masked_fill(~blank, side + 1).argmin(1)  # [B]
        else:
            cell = blank.long().argmax(1)
        here = left[torch.arange(len(x)), cell]  # [B, V]
        row, symbol = here.nonzero(as_tuple=True)
        probs = probs[row] / here.sum(1)[row]
        x = x[row].scatter(1, cell[row, None], symbol[:, None])
        x, place = torch.unique(x, dim=0, return_inverse=True)
        probs = torch.zeros(len(x), dtype=torch.float64).index_add_(0, place, probs)
    return x, probs


def guesses(
    joint: Joint, rule: Strategy, draws: int, generator: Generator | None = None
) -> Tensor:
    """How many tokens of an answer were uncertain when they were revealed, Long[draws].

    The joint is decoded from masks at temperature 1; a token is certain if its exact
    conditional probability is one.
    """
    shape = _checks.integer(draws, "draws", 1), joint.length
    x = torch.full(shape, joint.mask_id, device=joint.device)
    found = generate(
        joint, x, rule, temperature=1.0, generator=generator, record=True
    ).history
    assert found is not None  # it was asked for
    masked = found.states == found.mask_id
    revealed = masked[:-1] & ~masked[1:]
    return (revealed & (found.confidence < 1 - 1e-9)).sum((0, 2))
