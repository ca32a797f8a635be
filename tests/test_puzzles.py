"""Latin squares and Sudoku against brute force, an integer program and known counts."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import optimize, sparse, stats
from torch import Tensor

from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.tasks.base import Instances, in_test
from dllm_tutorial.tasks.puzzles import LatinSquare, Sudoku, Sudoku9
from dllm_tutorial.tasks.vocabulary import (
    EOS,
    MASK,
    PAD,
    SYMBOLS,
    VOCABULARY,
    decode,
    encode,
)

ALPHA = 1e-4  # error rate of each sampled test
ANY = range(1, 16)
SMALL = {
    "latin 2": LatinSquare(2),
    "latin 3": LatinSquare(3),
    "latin 4": LatinSquare(4),
    "unique": Sudoku(),
    "several": Sudoku(range(5, 13), "several"),
    "any": Sudoku(ANY, "any"),
}
small = pytest.mark.parametrize("task", SMALL.values(), ids=SMALL.keys())
every = pytest.mark.parametrize(
    "task", [*SMALL.values(), Sudoku9()], ids=[*SMALL.keys(), "9x9"]
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def is_square(cells, side: int, symbols, box: int = 0) -> bool:
    """The rules, one line after the other, in plain Python."""
    rows = [cells[i * side : (i + 1) * side] for i in range(side)]
    lines = [*rows, *zip(*rows, strict=True)]
    corners = itertools.product(range(0, side, box), repeat=2) if box else ()
    for top, left in corners:
        lines.append(
            [c for row in rows[top : top + box] for c in row[left : left + box]]
        )
    return all(sorted(line) == sorted(symbols) for line in lines)


def puzzle_of(task, instances, b: int) -> tuple[list[str], list[str], int]:
    """Cells as read off the prompt, ``0`` for a blank; the symbols; the box's side."""
    words = decode(instances.prompts[b])[1:-1]
    if isinstance(task, LatinSquare):
        return ["0"] * task.order**2, words, 0
    return words, [str(d) for d in range(1, task.order + 1)], math.isqrt(task.order)


def completions(cells, symbols, box) -> set[tuple[str, ...]]:
    """All fillings of the blanks that obey the rules: brute force."""
    places = [i for i, cell in enumerate(cells) if cell == "0"]
    found, filled = set(), list(cells)
    for filling in itertools.product(symbols, repeat=len(places)):
        for place, symbol in zip(places, filling, strict=True):
            filled[place] = symbol
        if is_square(filled, len(symbols), symbols, box):
            found.add(tuple(filled))
    return found


def tokens(cells, length: int = 24) -> Tensor:
    return torch.cat([encode(cells), torch.full((length - len(cells),), EOS)])


# ------------------------------------------------------------------ joint and score


@pytest.mark.parametrize(
    "task",
    [LatinSquare(2), LatinSquare(3), Sudoku(range(1, 7)), Sudoku([4, 5, 6], "several")],
)
def test_joint_and_score_are_those_of_brute_force(task):
    """The valid answers are the fillings that plain Python accepts, and no others."""
    instances = task.draw(10, generator=seeded())
    joint = task.joint(instances)
    for b in range(3 if task.order == 3 else len(instances)):
        cells, symbols, box = puzzle_of(task, instances, b)
        truth = completions(cells, symbols, box)
        table = joint.support[b, joint.valid[b]]
        assert {tuple(decode(row)) for row in table} == truth
        assert joint.log_size()[b].item() == pytest.approx(math.log(len(truth)))
        # the score says the same about every filling
        places = [i for i, cell in enumerate(cells) if cell == "0"]
        fillings = itertools.product(encode(symbols).tolist(), repeat=len(places))
        fillings = torch.tensor(list(fillings))
        answers = tokens(cells).repeat(len(fillings), 1)
        answers[:, places] = fillings
        right = task.score(instances[[b] * len(answers)], answers)
        assert {tuple(decode(row)) for row in answers[right]} == truth


@every
def test_answers_drawn_from_the_joint_are_right(task):
    """By the score and by plain Python, which also looks at the given cells."""
    count = 200 if task.order < 9 else 4
    instances = task.draw(count, generator=seeded(1))
    answers = task.joint(instances).sample(seeded(2))
    assert bool(task.score(instances, answers).all())
    for b in range(count):
        cells, symbols, box = puzzle_of(task, instances, b)
        answer = decode(answers[b])
        assert is_square(answer, task.order, symbols, box)
        assert all(c in ("0", a) for c, a in zip(cells, answer, strict=True))


@every
def test_one_changed_token_is_right_only_if_the_joint_says_so(task):
    """Every position changed to every symbol, to <eos>, <pad> and a name.

    For the 9 x 9 puzzle to three of these, which is enough there.
    """
    instances = task.draw(3, generator=seeded(3))
    joint = task.joint(instances)
    answers = joint.sample(seeded(4))
    others = [*encode(SYMBOLS).tolist(), EOS, PAD, VOCABULARY.index("Ada")]
    if task.order == 9:
        others = [*encode("19").tolist(), EOS]
    seen = 0
    for i in range(task.answer_length):
        for token in others:
            changed = answers.clone()
            changed[:, i] = token
            right = task.score(instances, changed)
            assert torch.equal(right, joint.log_prob(changed) > -math.inf)
            # one cell never leads to another square: its row would hold a symbol twice
            assert torch.equal(right, (changed == answers).all(1))
            seen += int((~right).sum())
    assert seen > 0


@given(data=st.data())
def test_score_and_joint_agree_on_any_answer(data):
    """Squares of other instances, exchanged rows, columns and symbols."""
    task = data.draw(st.sampled_from(list(SMALL.values())))
    instances = task.draw(5, generator=seeded(data.draw(st.integers(0, 99))))
    joint = task.joint(instances)
    n = task.order
    grid = joint.sample(seeded()).clone()
    order = torch.tensor(data.draw(st.permutations(range(n))))
    square = grid[:, : n * n].view(-1, n, n)
    kind = data.draw(st.sampled_from(["rows", "columns", "transpose", "roll", "cells"]))
    if kind == "rows":
        square = square[:, order]
    elif kind == "columns":
        square = square[:, :, order]
    elif kind == "transpose":
        square = square.transpose(1, 2)
    elif kind == "roll":
        square = square.roll(1, 0)
    else:  # two cells exchanged
        square = square.flatten(1)[:, data.draw(st.permutations(range(n * n)))]
    grid[:, : n * n] = square.reshape(-1, n * n)
    right = task.score(instances, grid)
    assert torch.equal(right, joint.log_prob(grid) > -math.inf)


def test_half_of_the_latin_squares_are_no_sudoku():
    """The empty Sudoku accepts 288 of the 576 squares: those of the joint."""
    latin = LatinSquare()
    instances = latin.draw(1, generator=seeded())
    squares = latin.joint(instances).support[0]
    order = instances.given["symbols"][0]
    digits = (squares[:, :16, None] == order).int().argmax(2)
    answers = torch.cat([encode("1234")[digits], squares[:, 16:]], 1)
    puzzles = Sudoku().pose(torch.zeros(576, 16, dtype=torch.long))
    right = Sudoku().score(puzzles, answers)
    assert int(right.sum()) == 288
    assert torch.equal(right, Sudoku().joint(puzzles).log_prob(answers) > -math.inf)


def test_a_fifth_column_is_not_accepted():
    """The published scorer accepts a 4 x 5 grid whose last column is there twice."""
    task = LatinSquare()
    instances = task.draw(50, generator=seeded())
    answers = task.joint(instances).sample(seeded(1))
    assert bool(task.score(instances, answers).all())
    wide = answers[:, :16].view(-1, 4, 4)[:, :, [0, 1, 2, 3, 3]].flatten(1)
    high = answers[:, :16].view(-1, 4, 4)[:, [0, 1, 2, 3, 3]].flatten(1)
    for squares, width in ((wide, 5), (high, 4)):
        longer = answers.clone()
        longer[:, :20] = squares
        assert not task.score(instances, longer).any()
        words = [[VOCABULARY[t] for t in row] for row in squares.tolist()]
        texts = [
            "\n".join(" ".join(row[i : i + width]) for i in range(0, 20, width))
            for row in words
        ]
        assert bool((task.parse(texts) == PAD).all())


@every
def test_exactly_all_cells_and_then_eos(task):
    instances = task.draw(3, generator=seeded())
    answers = task.joint(instances).sample(seeded())
    cells = task.order**2
    for change in (
        {cells - 1: EOS},
        {cells: PAD},
        {cells: MASK},
        {cells - 1: MASK},
        {task.answer_length - 1: answers[:, 0]},
    ):
        broken = answers.clone()
        for i, token in change.items():
            broken[:, i] = token
        assert not task.score(instances, broken).any()
    with pytest.raises(ValueError, match="answers must have 3 rows, got 2"):
        task.score(instances, answers[:2])
    with pytest.raises(ValueError, match="answers must have"):
        task.score(instances, answers[:, 1:])


def test_closed_values():
    """16 log 4 minus the log of 576 Latin squares (OEIS A002860) or 288 grids."""
    latin = LatinSquare()
    joint = latin.joint(latin.draw(3, generator=seeded()))
    empty = Sudoku().joint(Sudoku().pose(torch.zeros(1, 16, dtype=torch.long)))
    for found, size, entropy, correlation in (
        (joint, 576, 6.3561, 15.8246),
        (empty, 288, 5.6630, 16.5177),
    ):
        h, c = found.log_size(), found.total_correlation()
        assert torch.allclose(h, torch.full_like(h, math.log(size)), atol=1e-12)
        assert torch.allclose(h + c, torch.full_like(h, 16 * math.log(4)), atol=1e-12)
        assert h[0].item() == pytest.approx(entropy, abs=1e-4)
        assert c[0].item() == pytest.approx(correlation, abs=1e-4)


@small
def test_samples_of_the_joint_are_uniform(task):
    """Chi-square over all valid answers of one instance, error rate 1e-4."""
    instances = task.draw(50, generator=seeded(5))
    largest = task.joint(instances).log_size().argmax()
    joint = task.joint(instances[[int(largest)] * 300])
    generator = seeded(6)
    samples = torch.cat([joint.sample(generator) for _ in range(15)])
    _, counts = torch.unique(samples, dim=0, return_counts=True)
    valid = int(joint.valid[0].sum())
    assert len(counts) == valid
    if valid > 1:
        assert stats.chisquare(counts.numpy()).pvalue > ALPHA


@every
def test_one_token_at_a_time_is_always_right(task):
    """Exact conditionals lead to a valid answer in any order."""
    instances = task.draw(20 if task.order < 9 else 1, generator=seeded(7))
    joint = task.joint(instances)
    out = generate(
        joint,
        task.inputs(instances),
        strategies.random_top_k(1),
        temperature=1.0,
        generator=seeded(8),
    )
    assert bool(task.score(instances, task.answers(out.sequences)).all())


# ------------------------------------------------------------------------ instances


@pytest.mark.parametrize("solutions", ["unique", "several", "any"])
def test_puzzles_have_the_solutions_and_blanks_that_were_asked_for(solutions):
    """Completions are counted by brute force; blanks are uniform (chi-square)."""
    numbers = [5, 6, 7] if solutions == "several" else [3, 5, 7]
    task = Sudoku(numbers, solutions)
    instances = task._propose(600, seeded())
    blanks = [decode(prompt).count("0") for prompt in instances.prompts]
    counts = [blanks.count(number) for number in numbers]
    assert sum(counts) == 600 and stats.chisquare(counts).pvalue > ALPHA
    sizes = task.joint(instances).log_size().exp().round()
    few = [b for b in range(600) if blanks[b] == min(numbers)][:10]
    for b in few:
        assert sizes[b] == len(completions(*puzzle_of(task, instances, b)))
    if solutions == "unique":
        assert bool((task.joint(instances).log_size() == 0).all())
    elif solutions == "several":
        assert bool((sizes >= 2).all())
    else:
        assert 0 < int((sizes == 1).sum()) < 600


def test_the_grids_behind_puzzles_without_choice_are_uniform():
    """One blank leaves one solution: all 288 grids equally often (chi-square)."""
    task = Sudoku(1, "any")
    instances = task._propose(8000, seeded())
    answers = task.joint(instances).sample(seeded())
    _, counts = torch.unique(answers, dim=0, return_counts=True)
    assert len(counts) == 288 and stats.chisquare(counts.numpy()).pvalue > ALPHA


@every
def test_splits_share_no_prompt_and_seeds_repeat(task):
    count = 200 if task.order < 9 else 2
    drawn = {}
    for split in ("train", "test"):
        instances = task.draw(count, split=split, generator=seeded())
        again = task.draw(count, split=split, generator=seeded())
        assert torch.equal(instances.prompts, again.prompts)
        assert len(instances) == count
        assert bool((in_test(instances.prompts) == (split == "test")).all())
        drawn[split] = {tuple(prompt) for prompt in instances.prompts.tolist()}
    assert len(drawn["test"]) > min(count, 50) * 0.9
    assert not drawn["train"] & drawn["test"]


def test_latin_symbols_are_all_used_and_distinct():
    instances = LatinSquare().draw(500, split="train", generator=seeded())
    symbols = instances.given["symbols"]
    assert bool((symbols.sort(1).values.diff(dim=1) > 0).all())
    assert set(symbols.flatten().tolist()) == set(encode(SYMBOLS).tolist())
    assert [decode(p)[1:-1] for p in instances.prompts] == [decode(s) for s in symbols]


def test_posed_puzzles():
    cells = torch.tensor([[1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 0, 0, 0, 0]])
    joint = Sudoku().joint(Sudoku().pose(cells))
    assert decode(joint.sample()[0])[12:] == ["4", "3", "2", "1"]
    with pytest.raises(ValueError, match="cells must have a completion"):
        Sudoku().pose(torch.ones_like(cells))
    with pytest.raises(ValueError, match="cells must hold tokens between 0 and 4"):
        Sudoku().pose(5 * cells)
    with pytest.raises(ValueError, match="cells must have one row at least"):
        Sudoku().pose(cells[:0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LatinSquare(5), "order must be at most 4, got 5"),
        (lambda: LatinSquare(1), "order must be at least 2"),
        (lambda: LatinSquare(answer_length=16), "an answer_length of 17"),
        (lambda: LatinSquare(prompt_length=5), "a prompt_length of 6"),
        (lambda: Sudoku(0), r"blanks must lie in 1 \.\.\. 12"),
        (lambda: Sudoku([]), r"blanks must lie in 1 \.\.\. 12"),
        (lambda: Sudoku(13), r"blanks must lie in 1 \.\.\. 12"),
        (lambda: Sudoku(range(3, 5), "several"), r"blanks must lie in 4 \.\.\. 15"),
        (lambda: Sudoku(16, "any"), r"blanks must lie in 1 \.\.\. 15"),
        (lambda: Sudoku(4, "one"), "solutions must be one of"),
        (lambda: Sudoku9(0.0), "difficulty must lie in"),
        (lambda: Sudoku9(answer_length=81), "an answer_length of 82"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_limits_of_blanks_are_sharp():
    """12 blanks can leave one solution and 4 blanks two; 13 and 3 cannot.

    Every set of three cells on every grid: as givens they leave several completions,
    and so do fewer; as blanks they leave one, and so do fewer.
    """
    assert len(Sudoku(12).draw(3, generator=seeded())) == 3
    assert len(Sudoku(4, "several").draw(3, generator=seeded())) == 3
    empty = Sudoku().pose(torch.zeros(1, 16, dtype=torch.long))
    grids = Sudoku().joint(empty).support[0, :, :16]
    weights = 2 ** torch.arange(16)
    differ = ((grids[:, None] != grids) * weights).sum(2)  # [288, 288], a bit a cell
    for cells in itertools.combinations(weights.tolist(), 3):
        as_givens, as_blanks = differ & sum(cells), differ & ~sum(cells)
        assert bool(((as_givens == 0).sum(1) > 1).all())
        assert bool(((as_blanks == 0).sum(1) == 1).all())


# ---------------------------------------------------------------------- Sudoku 9 x 9


def second_solution(cells: np.ndarray, solution: np.ndarray) -> bool:
    """Whether an integer program finds a completion other than ``solution``.

    One binary variable for each cell and digit; HiGHS, by scipy. A completion that
    shares at most 80 cells with the solution must not exist.
    """
    assert solution.min() >= 1
    at = np.arange(729).reshape(9, 9, 9)  # row, column, digit
    boxes = at.reshape(3, 3, 3, 3, 9).transpose(0, 2, 4, 1, 3).reshape(81, 9)
    groups = [at.reshape(81, 9), at.transpose(0, 2, 1).reshape(81, 9)]
    groups += [at.transpose(1, 2, 0).reshape(81, 9), boxes]
    index = np.concatenate(groups)  # each of 324 groups holds exactly one 1
    ones = sparse.csr_array(
        (np.ones(index.size), (np.repeat(np.arange(324), 9), index.ravel())),
        shape=(324, 729),
    )
    known = np.flatnonzero(cells)
    lower = np.zeros(729)
    lower[known * 9 + cells[known] - 1] = 1
    same = np.zeros((1, 729))
    same[0, np.arange(81) * 9 + solution - 1] = 1
    found = optimize.milp(
        np.zeros(729),
        integrality=np.ones(729),
        bounds=optimize.Bounds(lower, 1),
        constraints=[
            optimize.LinearConstraint(ones, 1, 1),
            optimize.LinearConstraint(same, 0, 80),
        ],
    )
    assert found.status in (0, 2), found.message  # solved, or shown to be infeasible
    return found.status == 0


@pytest.mark.parametrize(
    ("difficulty", "split"),
    [(0.3, "train"), (0.5, "test"), (0.5, "train"), (0.99, "test")],
)
def test_sudoku_9x9_has_one_solution(difficulty, split):
    """By an integer program, which does find the second one when it is there."""
    task = Sudoku9(difficulty)
    instances = task.draw(2, split=split, generator=seeded(11))
    answers = task.joint(instances).sample()
    assert bool(task.score(instances, answers).all())
    assert task.joint(instances).log_size().tolist() == [0, 0]
    for b in range(2):
        cells = np.array([int(w) for w in puzzle_of(task, instances, b)[0]])
        solution = np.array([int(w) for w in decode(answers[b])])
        assert not second_solution(cells, solution)
        if difficulty < 0.9:
            assert (cells == 0).sum() == int(difficulty * 81)
        else:  # no given cell can be spared
            fewer = cells.copy()
            fewer[np.flatnonzero(cells)[0]] = 0
            assert second_solution(fewer, solution)


def test_sudoku_9x9_leaves_the_global_random_state_alone():
    random.seed(5)
    before = random.getstate()
    Sudoku9().draw(1, generator=seeded())
    assert random.getstate() == before


def test_a_missing_generator_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sudoku", types.ModuleType("sudoku"))
    with pytest.raises(ImportError, match="pip install sudoku-engine"):
        Sudoku9().draw(1, generator=seeded())


# -------------------------------------------------------------------------- English


@every
def test_written_answers_are_read_back(task):
    instances = task.draw(2, generator=seeded(12))
    answers = task.joint(instances).sample(seeded(13))
    assert torch.equal(task.parse(task.answer_text(answers)), answers)
    assert task.parse([]).shape == (0, task.answer_length)


@every
def test_the_request_shows_the_puzzle(task):
    instances = task.draw(2, generator=seeded(14))
    for b, text in enumerate(task.prompt_text(instances)):
        cells, symbols, _ = puzzle_of(task, instances, b)
        request, grid, _ = text.split("\n\n")
        assert grid.split() == ["_" if cell == "0" else cell for cell in cells]
        assert [len(row.split()) for row in grid.split("\n")] == [
            task.order
        ] * task.order
        if isinstance(task, LatinSquare):
            assert all(f" {s}" in request for s in symbols)
    # the request itself, given back as an answer, is no answer
    assert bool((task.parse(task.prompt_text(instances)) == PAD).all())


@given(
    st.sampled_from(list(SMALL.values())),
    st.lists(st.integers(0, MASK), min_size=24, max_size=24),
)
def test_any_tokens_can_be_written_and_are_read_right_or_not_at_all(task, row):
    """Whatever a network writes, reading it gives these tokens or <pad>."""
    answers = torch.tensor([row])
    (text,) = task.answer_text(answers)
    (read,) = task.parse([text])
    assert bool((read == PAD).all()) or decode(read) == decode(answers[0])


_COUNT = ("First", "Second", "Third", "4th", "5th")
STYLES = {
    "spaces": lambda rows: "\n".join(map(" ".join, rows)),
    "commas": lambda rows: ",\n".join(map(", ".join, rows)),
    "nothing": lambda rows: "\n".join(map("".join, rows)),
    "windows": lambda rows: "\r\n".join(map("\t".join, rows)),
    "double spaced": lambda rows: "\n\n".join(map(" ".join, rows)),
    "json": json.dumps,
    "json lines": lambda rows: json.dumps(rows, indent=2),
    "json rows": lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]",
    "json strings": lambda rows: json.dumps([" ".join(row) for row in rows], indent=1),
    "python": repr,
    "tuples": lambda rows: repr(tuple(map(tuple, rows))),
    "numbers": lambda rows: json.dumps(rows).replace('"', ""),
    "bars": lambda rows: "\n".join(f"| {' | '.join(row)} |" for row in rows),
    "markdown": lambda rows: "\n".join(
        f"| {' | '.join(row)} |" + ("\n|" + ":---:|" * len(row)) * (i == 0)
        for i, row in enumerate(rows)
    ),
    "frame": lambda rows: (
        "\n".join("+---" * len(row) + "+\n| " + " | ".join(row) + " |" for row in rows)
        + "\n"
        + "-" * 17
    ),
    "box": lambda rows: (
        "┌────┐\n"
        + "\n├────┤\n".join(f"│{'│'.join(row)}│" for row in rows)
        + "\n└────┘"
    ),
    "bold": lambda rows: "\n".join("**" + " ".join(row) + "**" for row in rows),
    "labels": lambda rows: "\n".join(
        f"Row {i}: {' '.join(row)}" for i, row in enumerate(rows, 1)
    ),
    "bold labels": lambda rows: "\n".join(
        f"- **Row {i}:** {', '.join(row)}" for i, row in enumerate(rows, 1)
    ),
    "bullets": lambda rows: "\n".join("• " + " ".join(row) for row in rows),
    "quoted": lambda rows: "\n".join("> " + " ".join(row) for row in rows),
    "ticks": lambda rows: "\n".join(" ".join(row) + " ✓" for row in rows),
    "counted": lambda rows: "\n".join(
        f"{name} row: {' '.join(row)}" for name, row in zip(_COUNT, rows, strict=False)
    ),
    "lines": lambda rows: "\n".join(
        f"Line {i}: {' '.join(row)}" for i, row in enumerate(rows, 1)
    ),
    "short labels": lambda rows: "\n".join(
        f"R{i}: {' '.join(row)}" for i, row in enumerate(rows, 1)
    ),
    "digits": lambda rows: "\n".join(
        f"{i}: {' '.join(row)}" for i, row in enumerate(rows, 1)
    ),
    "columns": lambda rows: "\n".join(
        [
            "".join(f"| C{i + 1} " for i in range(len(rows[0]))) + "|",
            "|---" * len(rows[0]) + "|",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    ),
    "json object": lambda rows: json.dumps(
        {f"row{i}": row for i, row in enumerate(rows, 1)}
    ),
    "json numbers": lambda rows: json.dumps(dict(enumerate(rows, 1)), indent=1),
    "latex": lambda rows: (
        r"$$\begin{bmatrix} "
        + r" \\ ".join(map(" & ".join, rows))
        + r" \end{bmatrix}$$"
    ),
    "latex array": lambda rows: (
        "\\[\n\\begin{array}{|c|c|c|c|}\n\\hline\n"
        + "".join(" & ".join(row) + " \\\\ \\hline\n" for row in rows)
        + "\\end{array}\n\\]"
    ),
    "numbered": lambda rows: "\n".join(
        f"{i}. {' '.join(row)}" for i, row in enumerate(rows, 1)
    ),
    "one line": lambda rows: " ".join(map("".join, rows)),
    "one line, commas": lambda rows: ", ".join(map(" ".join, rows)),
    "one line, comma cells": lambda rows: " ".join(map(",".join, rows)),
    "one line, slashes": lambda rows: " / ".join(map(" ".join, rows)),
    "flat": lambda rows: " ".join(map(" ".join, rows)),
    "compact": lambda rows: "".join(map("".join, rows)),
}
AROUND = {
    "alone": "{}",
    "preamble": "Sure! Here is the completed 4x4 grid:\n\n{}",
    "same line": "The answer is: {}",
    "tight": "Answer:\n{}\nEvery row and column is right, I think.",
    "remark": "A, B and C are symbols; 4 rows follow.\n\n{}\n\nThere are 2 others. OK.",
    "fence": "Here you are:\n```\n{}\n```\nDone.",
    "language": "```text\n{}\n```",
    "spaces": "\n \n{}\n\n\n",
    "tag": "<think>Is it\n1 2 3 4?</think><answer>{}</answer>",
    "end": "{}<|eot_id|>1 2 3 4",
    "end of text": "{}</s>",
    "columns": "{}\n\nColumns:\n1 3 2 4\n2 4 1 3\n3 1 4 2\n4 2 3 1",
    "check": "{}\n\nLet me check: 1 2 3 4, 1 2 3 4, 1 2 3 4, 1 2 3 4\n"
    "Columns: {{1,2,3,4}}, {{1,2,3,4}}, {{1,2,3,4}}, {{1,2,3,4}}",
    "rows": "{}\n\nRows: {{1,2,3,4}}, {{3,4,1,2}}, {{2,1,4,3}}, {{4,3,2,1}}",
    "attempt": "First try:\n1 2 3 4\n3 4 1 2\nNo, that fails. So:\n{}",
}
MULTILINE = [name for name in STYLES if "\n" in STYLES[name]([["A", "B"], ["C", "D"]])]


def flat(rows: list[list[str]]) -> list[str]:
    return list(itertools.chain(*rows))


def rows_of(order: int, seed: int) -> list[list[str]]:
    """Any cells: the parser reads, it does not judge."""
    picks = torch.randint(0, len(SYMBOLS), (order, order), generator=seeded(seed))
    return [[SYMBOLS[pick] for pick in row] for row in picks.tolist()]


@pytest.mark.parametrize(
    ("style", "around"),
    [
        (style, around)
        for style, around in itertools.product(STYLES, AROUND)
        # a drawn grid does not begin beside a label
        if around != "same line" or style not in MULTILINE or "json" in style
    ],
)
def test_a_grid_is_read_in_any_dress(style, around):
    """And with a cell or a row more or less it is not read at all."""
    task = LatinSquare()
    for seed in range(5):
        rows = rows_of(4, seed)
        text = AROUND[around].format(STYLES[style](rows))
        assert decode(task.parse([text])[0]) == flat(rows), text
        wide = [[*row, "A"] for row in rows]
        ragged = [rows[0], [*rows[1], "A"], rows[2][:3], rows[3]]
        for wrong in (
            wide,
            rows[:3],
            [*rows, rows[0]],
            [row[:3] for row in rows],
            ragged,
        ):
            text = AROUND[around].format(STYLES[style](wrong))
            # sixteen cells without a mark between rows cannot be ragged
            if wrong is not ragged or style not in ("flat", "compact"):
                assert bool((task.parse([text]) == PAD).all()), text


@given(
    st.integers(2, 4),
    st.integers(0, 10**6),
    st.sampled_from(list(STYLES)),
    st.sampled_from(["alone", "tight", "fence", "spaces"]),
)
def test_grids_of_any_symbols_and_order_are_read(order, seed, style, around):
    rows = rows_of(order, seed)
    text = AROUND[around].format(STYLES[style](rows))
    read = decode(LatinSquare(order).parse([text])[0])
    assert read == flat(rows), text


@pytest.mark.parametrize("word", ["ANSWER", "DONE", "OK", "THE FINAL GRID"])
@pytest.mark.parametrize("style", ["spaces", "double spaced", "bars", "commas"])
def test_a_word_in_capitals_is_no_row(style, word):
    for side in (3, 4):
        rows = [row[:side] for row in rows_of(4, 1)][:side]
        if side == 3 and len(word) >= 9:  # as many letters as the grid has cells
            continue
        grid = STYLES[style](rows)
        for text in (f"{word}\n\n{grid}", f"{word}\n{grid}", f"{grid}\n\n{word}"):
            assert decode(LatinSquare(side).parse([text])[0]) == flat(rows), text


@pytest.mark.parametrize("left, right", ["[]", "()"])
def test_a_cell_that_was_filled_in_may_be_in_brackets(left, right):
    rows = [list("1234"), list("3412"), list("2143"), list("4321")]
    for column in range(4):
        lines = [
            " ".join(left + c + right if i == column else c for i, c in enumerate(row))
            for row in rows
        ]
        assert decode(Sudoku().parse(["\n".join(lines)])[0]) == flat(rows)
    numbered = [f"{left}{i}{right} {' '.join(row)}" for i, row in enumerate(rows, 1)]
    assert decode(Sudoku().parse(["\n".join(numbered)])[0]) == flat(rows)


@pytest.mark.parametrize(
    "check",
    [
        "Columns: {A,B,C,D}, {B,C,D,A}, {C,D,A,B}, {D,A,B,C}",
        "Columns: [[A,B,C,D], [B,C,D,A], [C,D,A,B], [D,A,B,C]]",
        "Rows: {A,B,C,D}, {B,C,D,A}, {C,D,A,B}, {D,A,B,C}",
        "**Verification:**\n\nA B C D\nB C D A\nC D A B\nD A B C",
    ],
)
def test_a_check_behind_a_wrong_grid_does_not_make_it_right(check):
    task = LatinSquare()
    symbols = encode("ABCD")[None]
    instances = Instances(task._prompts(symbols), {"symbols": symbols})
    wrong = "A B C D\nA B C D\nC D A B\nD A B C"
    (read,) = task.parse([f"{wrong}\n\n{check}"])
    assert " ".join(decode(read)) == " ".join(wrong.split())
    assert not task.score(instances, read[None]).any()


def test_columns_by_themselves_are_no_rows():
    text = "Columns: 1 3 2 4, 2 4 1 3, 3 1 4 2, 4 2 3 1"
    assert (Sudoku().parse([text]) == PAD).all()


@every
def test_a_question_before_an_answer_is_left_out(task):
    instances = task.draw(1, generator=seeded(15))
    answers = task.joint(instances).sample(seeded(16))
    (asked,), (told,) = task.prompt_text(instances), task.answer_text(answers)
    assert torch.equal(task.parse([f"{asked}\n\n{told}"]), answers)


def test_a_sudoku_9x9_drawn_with_boxes_is_read():
    task = Sudoku9()
    rows = rows_of(9, 3)
    lines = [
        "| " + " | ".join(" ".join(row[i : i + 3]) for i in (0, 3, 6)) + " |"
        for row in rows
    ]
    bands = ["\n".join(lines[i : i + 3]) for i in (0, 3, 6)]
    rule = "\n+-------+-------+-------+\n"
    for text in (rule.join(["", *bands, ""]), "\n\n".join(bands), "\n\n".join(lines)):
        assert decode(task.parse([text])[0]) == flat(rows)
    one_more = rule.join(["", *bands, bands[0], ""])
    assert bool((task.parse([one_more, "\n\n".join(bands[:2])]) == PAD).all())


@pytest.mark.parametrize(
    "between", ["\n\n", "\n\n\n", "\nor, better:\n", "\n\n---\n\n"]
)
@pytest.mark.parametrize(
    "style", ["spaces", "commas", "nothing", "bars", "json", "box"]
)
def test_the_last_of_several_grids_is_the_answer(style, between):
    task = Sudoku()
    first, second = rows_of(4, 1), rows_of(4, 2)
    blank = [["_", *row[1:]] for row in rows_of(4, 3)]
    write = STYLES[style]
    for earlier in (first, blank):
        text = write(earlier) + between + write(second)
        assert decode(task.parse([text])[0]) == flat(second), text
    # a last grid with an empty cell, or of another size, is no answer
    short = write(first) + between + write(second[:3])
    unfilled = write(first) + between + write(blank)
    assert bool((task.parse([short, unfilled]) == PAD).all())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot do this.",
        "1 2 3 4",
        "1 2 3 4\n3 4 1 2\n2 1 4 3",
        "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2",
        "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 _",
        "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 ?",
        "1 2 3 4\n3 4 1 2\nand so on\n2 1 4 3\n4 3 2 1",
        "1 2 3 4 5\n3 4 1 2\n2 1 4 3\n4 3 2",
        "1 2 3 4 3 4 1 2\n2 1 4 3 4 3 2 1",
        "1\n2\n3\n4\n3\n4\n1\n2\n2\n1\n4\n3\n4\n3\n2\n1",
        "1 2 3 4\n\n1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1",
        "[[1, 2, 3, 4, 3], [4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]",
        "[[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2",
        "5 1 2 3\n1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1",
        "12341 3412 214 4321",
        "1 2 3 4 5. \n3 4 1 2 5. \n2 1 4 3 5. \n4 3 2 1 5. ",
        "1 2 3 4 x\n3 4 1 2 x\n2 1 4 3 x\n4 3 2 1 x",
        "| | 1 | 2 | 3 | 4 |\n| 1 | 1 2 3 4 |\n| 2 | 3 4 1 2 |",
        "R1: 1 2 3 4 5\nR2: 3 4 1 2\nR3: 2 1 4 3\nR4: 4 3 2 1",
        "1 2 3 4\nOK\n3 4 1 2\n2 1 4 3\n4 3 2 1",
    ],
)
def test_what_is_no_grid_is_not_read(text):
    (read,) = Sudoku().parse([text])
    assert read.tolist() == [PAD] * 24


@given(st.lists(st.text(), max_size=3))
@example(["[" * 20_000, "[[1]" * 10_000, "\0", "#\n#", "A\x85B\u2028C"])
@example(["[" + "[1], " * 10_000, "[[" + " " * 20_000, "row" * 10_000 + ":"])
def test_reading_never_fails(texts):
    for task in (LatinSquare(2), LatinSquare(), Sudoku9()):
        assert task.parse(texts).shape == (len(texts), task.answer_length)


@given(st.text(alphabet="1234 \n,|[]-_:.\"'", max_size=60))
def test_what_is_read_was_written(text):
    """Of any characters: what is read are the last sixteen cells of the text."""
    (read,) = Sudoku().parse([text])
    cells = decode(read)
    if not cells:
        assert bool((read == PAD).all())
    else:
        digits = [c for c in text if c in "1234"]
        assert len(cells) == 16 and "".join(cells) in "".join(digits)
