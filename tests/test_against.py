"""Chapter 6: orders of filling against enumeration, rows against sums by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from dllm_tutorial import against, joints, limited, study
from dllm_tutorial.decoding import generate, strategies

FOUR = against.neighbors(4, 2)
LATIN = against.neighbors(4)

# ------------------------------------------------------------------- squares, by hand


def symbols_left(cells: list[int], i: int, side: int, box: int | None) -> set[int]:
    """What row, column and box of a cell do not show; the mask is ``side``."""
    row, column = divmod(i, side)
    shown = set()
    for j, symbol in enumerate(cells):
        r, c = divmod(j, side)
        together = box and (r // box, c // box) == (row // box, column // box)
        if j != i and (r == row or c == column or together):
            shown.add(symbol)
    return set(range(side)) - shown


def chance(puzzle, solution, order, side=4, box=2) -> Fraction:
    """Probability that uniform draws in this order write the solution."""
    cells, p = list(puzzle), Fraction(1)
    for i in order:
        p /= len(symbols_left(cells, i, side, box))
        cells[i] = solution[i]
    return p


def blanks(puzzle: torch.Tensor, side: int = 4) -> list[int]:
    return [i for i, symbol in enumerate(puzzle.tolist()) if symbol == side]


def few_blanks(most: int, n: int):
    """Puzzles of the study with at most so many blanks."""
    puzzles, solutions = against.study_puzzles()
    few = ((puzzles == 4).sum(1) <= most).nonzero()[:n, 0]
    return zip(puzzles[few], solutions[few], strict=True)


def sparse(joint, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return zip(*limited.unique_puzzles(joint, n, generator), strict=True)


@pytest.mark.parametrize(("side", "box"), [(3, None), (4, None), (4, 2), (9, 3)])
def test_neighbors_are_what_the_rules_say(side, box):
    near = against.neighbors(side, box)
    for i in range(0, side**2, 5):
        seen = [k for k in range(side**2) if near[i, k]]
        alone = [
            k
            for k in range(side**2)
            if len(symbols_left([0 if j == k else side for j in range(side**2)], i,
                                side, box)) < side
        ]  # fmt: skip
        assert seen == alone


def test_study_puzzles_have_one_solution():
    grids = joints.sudoku().support
    puzzles, solutions = against.study_puzzles()
    assert puzzles.shape == (100, 16)
    fits = ((puzzles[:, None] == grids) | (puzzles == 4)[:, None]).all(-1)
    assert (fits.sum(1) == 1).all()
    assert (grids[fits.nonzero()[:, 1]] == solutions).all()


def test_every_order_agrees_with_all_permutations():
    for puzzle, solution in few_blanks(most=6, n=4):
        rows = puzzle.tolist(), solution.tolist()
        chances = [
            chance(*rows, order) for order in itertools.permutations(blanks(puzzle))
        ]
        found = against.every_order(puzzle, solution, FOUR)
        assert found.best == pytest.approx(float(max(chances)))
        assert found.worst == pytest.approx(float(min(chances)))
        assert found.mean == pytest.approx(float(sum(chances) / len(chances)))
        assert found.forced == pytest.approx(chances.count(1) / len(chances))


@pytest.mark.parametrize("joint", [joints.sudoku(), joints.latin_square(4)])
def test_the_search_finds_the_best_of_all_orders(joint):
    box = 2 if len(joint.support) == 288 else None
    near = against.neighbors(4, box)
    for puzzle, solution in sparse(joint, 6):
        found = against.best_filling(puzzle, solution, near)
        assert sorted(found.order) == blanks(puzzle)
        assert found == against.fill(puzzle, solution, near, found.order)
        best = against.every_order(puzzle, solution, near).best
        assert found.chance == pytest.approx(best)


def test_the_search_also_finds_the_best_order_where_guesses_are_needed():
    # blanks at random: some of these have several completions
    solution = joints.latin_square(4).support[100]
    generator = torch.Generator().manual_seed(1)
    for hidden in (8, 10, 12):
        order = torch.randperm(16, generator=generator)[:hidden]
        puzzle = solution.clone()
        puzzle[order] = 4
        found = against.best_filling(puzzle, solution, LATIN)
        truth = against.every_order(puzzle, solution, LATIN)
        assert found.chance == pytest.approx(truth.best)
        assert found == against.fill(puzzle, solution, LATIN, found.order)
        for rule in ("left_to_right", "confidence"):
            filled = against.fill(puzzle, solution, LATIN, rule)
            assert truth.worst - 1e-12 <= filled.chance <= truth.best + 1e-12


@pytest.mark.parametrize("rule", against.RULES)
def test_fill_multiplies_what_the_neighbors_leave(rule):
    generator = torch.Generator().manual_seed(0)
    for puzzle, solution in sparse(joints.sudoku(), 5):
        found = against.fill(puzzle, solution, FOUR, rule, generator)
        assert sorted(found.order) == blanks(puzzle)
        if rule == "left_to_right":
            assert list(found.order) == blanks(puzzle)
        p = chance(puzzle.tolist(), solution.tolist(), found.order)
        assert found.chance == pytest.approx(float(p))
        assert (found.guesses == 0) == (p == 1)


def test_confidence_is_the_order_that_decoding_takes():
    puzzles, solutions = zip(*sparse(joints.sudoku(), 20), strict=True)
    out = generate(
        limited.pencil_marks(),
        torch.stack(puzzles),
        strategies.confidence_top_k(1),
        temperature=1.0,
        record=True,
    )
    assert (out.sequences == torch.stack(solutions)).all()  # nothing was guessed
    masked = out.history.states == 4
    for b, (puzzle, solution) in enumerate(zip(puzzles, solutions, strict=True)):
        order = against.fill(puzzle, solution, FOUR, "confidence").order
        step = masked[:, b].sum(0)
        assert list(order) == sorted(blanks(puzzle), key=lambda i: int(step[i]))


def test_confidence_finds_an_order_without_guesses_whenever_there_is_one():
    seen = set()
    for joint, near in ((joints.sudoku(), FOUR), (joints.latin_square(4), LATIN)):
        for solution in joint.sample(15, torch.Generator().manual_seed(3)):
            for hidden in (8, 11):
                puzzle = solution.clone()
                cells = torch.randperm(
                    16, generator=torch.Generator().manual_seed(hidden)
                )
                puzzle[cells[:hidden]] = 4
                possible = against.every_order(puzzle, solution, near).forced > 0
                found = against.fill(puzzle, solution, near, "confidence")
                assert (found.guesses == 0) == possible
                seen.add(possible)
    assert seen == {True, False}


@pytest.mark.parametrize("rule", ["left_to_right", "confidence"])
def test_law_of_an_empty_square_agrees_with_a_walk_through_all_choices(rule):
    law: dict[tuple[int, ...], Fraction] = {}

    def walk(cells: list[int], p: Fraction) -> None:
        open_cells = [i for i, symbol in enumerate(cells) if symbol == 3]
        if not open_cells:
            law[tuple(cells)] = law.get(tuple(cells), Fraction(0)) + p
            return
        left = {i: symbols_left(cells, i, 3, None) for i in open_cells}
        i = open_cells[0]
        if rule == "confidence":
            i = min(open_cells, key=lambda j: (len(left[j]), j))
        for symbol in left[i]:
            walk([*cells[:i], symbol, *cells[i + 1 :]], p / len(left[i]))

    walk([3] * 9, Fraction(1))
    squares, probs = against.square_law(against.neighbors(3), rule)
    assert len(squares) == len(law) == 12
    for square, p in zip(squares.tolist(), probs.tolist(), strict=True):
        assert p == pytest.approx(float(law[tuple(square)]))


@pytest.mark.parametrize(("box", "count"), [(None, 576), (2, 288)])
def test_law_of_an_empty_square_holds_valid_squares_only(box, count):
    near = against.neighbors(4, box)
    joint = joints.latin_square(4) if box is None else joints.sudoku()
    for rule in ("left_to_right", "confidence"):
        squares, probs = against.square_law(near, rule)
        assert len(squares) == count
        assert torch.isfinite(joint.log_prob(squares)).all()
        assert 0 < probs.sum() <= 1 + 1e-12


def test_guesses_are_counted_in_a_shuffle_and_in_copies():
    generator = torch.Generator().manual_seed(0)
    rule = strategies.random_top_k(1)
    found = against.guesses(joints.shuffle(5), rule, 20, generator)
    assert found.tolist() == [4] * 20  # the last item is certain
    coin = joints.TableJoint(torch.tensor([[0] * 4, [1] * 4]), None, 2)
    assert against.guesses(coin, rule, 20, generator).tolist() == [1] * 20


def test_squares_are_checked():
    (puzzle, solution), *_ = few_blanks(most=6, n=1)
    wrong = solution.clone()
    wrong[(puzzle != 4).nonzero()[0, 0]] = (solution[(puzzle != 4)][0] + 1) % 4
    with pytest.raises(ValueError, match="puzzle must agree with solution"):
        against.fill(puzzle, wrong, FOUR, "confidence")
    with pytest.raises(ValueError, match="solution must hold no symbol twice"):
        against.fill(torch.full((16,), 0), torch.full((16,), 0), FOUR, "confidence")
    with pytest.raises(ValueError, match="rule must be one of"):
        against.fill(puzzle, solution, FOUR, "best")
    with pytest.raises(ValueError, match="rule must be an order of"):
        against.fill(puzzle, solution, FOUR, [0])
    with pytest.raises(ValueError, match="puzzle must have 1 to 14 blanks, got 16"):
        against.every_order(torch.full((16,), 4), solution, FOUR)
    with pytest.raises(ValueError, match="near must be"):
        against.square_law(torch.zeros(3, 3, dtype=torch.bool), "confidence")
    with pytest.raises(TypeError, match="near must be a tensor of bools"):
        against.square_law(torch.zeros(4, 4), "confidence")
    with pytest.raises(ValueError, match="box must be the root of side"):
        against.neighbors(6, 2)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        against.guesses(joints.shuffle(3), strategies.random_top_k(1), 0)


# ------------------------------------------------------------------------ rows by hand


def rows(*cells: tuple) -> pd.DataFrame:
    """Rows of the study from (model, task, rule, value, n, right, nfe)."""
    names = ["model", "task", "rule", "value", "n", "right", "nfe"]
    table = pd.DataFrame(cells, columns=names)
    calls = [" ".join([str(nfe)] * len(right)) for *_, right, nfe in cells]
    counts = table["right"].str.count("1")
    return table.assign(calls=calls, instances=table["right"].str.len(), correct=counts)


def on_lists(shuffle: str, reverse: str, *, kind: str = "dllm") -> pd.DataFrame:
    """Two seeds, lists of 4 and 8 items; all right at 4, the given digits at 8."""
    cells = []
    for seed, (task, end) in itertools.product(
        (0, 1), (("shuffle", shuffle), ("reverse", reverse))
    ):
        every = "1" * len(end)
        cells.append((f"{kind}-{seed}", task, "confidence", 1, 4, every, 24))
        cells.append((f"{kind}-{seed}", task, "confidence", 1, 8, end, 24))
    return rows(*cells)


def test_crossing_is_the_slope_between_two_lengths():
    table = on_lists("1100110010" * 4, "1111111110" * 4)
    (found,) = against.crossing(table).to_dict("records")
    assert found["shuffle"] == pytest.approx((0.5 - 1) / 4)
    assert found["reverse"] == pytest.approx((0.9 - 1) / 4)
    assert found["gap"] == pytest.approx(0.4 / 4)
    for name in ("shuffle", "reverse", "gap"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert found["falls_faster"] == "shuffle"
    assert (found["seeds"], found["n"], found["kind"]) == (2, 40, "dllm")
    other = on_lists("1111111110" * 4, "1100110010" * 4, kind="ar")
    assert against.crossing(other)["falls_faster"].item() == "reverse"
    same = on_lists("1111100000" * 4, "0000011111" * 4)
    assert against.crossing(same)["falls_faster"].item() == "neither"


def test_crossing_is_least_squares_over_many_lengths():
    rng = np.random.default_rng(0)
    sizes, cells, means = [3, 5, 9, 20], [], {}
    for task in against.TWO:
        for n in sizes:
            for seed in (0, 1):
                digits = "".join(rng.choice(["0", "1"], 30))
                cells.append((f"ar-{seed}", task, "left_to_right", 1, n, digits, 24))
                means.setdefault((task, n), []).append(digits.count("1") / 30)
    found = against.crossing(rows(*cells)).iloc[0]
    short = against.crossing(rows(*cells), lengths=[3, 5, 9]).iloc[0]
    for task in against.TWO:
        y = [np.mean(means[task, n]) for n in sizes]
        assert found[task] == pytest.approx(np.polyfit(sizes, y, 1)[0])
        assert short[task] == pytest.approx(np.polyfit(sizes[:3], y[:3], 1)[0])


def test_interval_of_a_slope_covers_as_often_as_it_says():
    """One seed, binomial answers: about 95 of 100 intervals hold the true slope."""
    rng = np.random.default_rng(1)
    rates = {4: 0.8, 8: 0.5}
    held = 0
    for _ in range(100):
        cells = [
            ("dllm-0", task, "confidence", 1, n,
             "".join(rng.choice(["0", "1"], 100, p=[1 - p, p])), 24)
            for task in against.TWO
            for n, p in rates.items()
        ]  # fmt: skip
        found = against.crossing(rows(*cells)).iloc[0]
        held += found["shuffle_low"] <= (0.5 - 0.8) / 4 <= found["shuffle_high"]
    assert held >= 86  # chance of fewer at 95%: below 1e-3


def test_fewest_calls_takes_the_cheapest_setting_that_is_good_enough():
    good, half, bad = "1" * 20, "10" * 10, "0" * 20
    cells = []
    for seed in (0, 1):
        cells += [
            (f"ar-{seed}", "copy", "left_to_right", 1, None, good, 24),
            (f"dllm-{seed}", "copy", "random", 1, None, good, 24),
            (f"dllm-{seed}", "copy", "random", 8, None, good, 3),
            (f"dllm-{seed}", "copy", "random", 24, None, half, 1),
            (f"ar-{seed}", "sort", "left_to_right", 1, None, good, 24),
            (f"dllm-{seed}", "sort", "random", 24, None, bad, 1),
            (f"ar-{seed}", "shuffle", "left_to_right", 1, None, bad, 24),
            (f"ar-{seed}", "paraphrase", "left_to_right", 1, None, good, 24),
        ]
    found = against.fewest_calls(rows(*cells)).set_index("task")
    assert list(found.index) == ["copy", "sort"]
    copy = found.loc["copy"]
    assert (copy["calls"], copy["rule"], copy["value"]) == (3, "random", 8)
    assert (copy["ar"], copy["ar_calls"], copy["dllm"]) == (1, 24, 1)
    assert (copy["difference"], copy["settings"]) == (0, 3)
    assert math.isnan(found.loc["sort", "calls"]) and found.loc["sort", "settings"] == 1


def test_a_margin_asks_for_more():
    left, right = "1" * 18 + "00", "0" + "1" * 17 + "01"  # 18 of 20 each, not the same
    cells = [("ar-0", "copy", "left_to_right", 1, None, left, 24)]
    cells += [("dllm-0", "copy", "random", 24, None, right, 1)]
    cells += [("ar-1", "copy", "left_to_right", 1, None, left, 24)]
    cells += [("dllm-1", "copy", "random", 24, None, right, 1)]
    table = rows(*cells)
    assert against.fewest_calls(table)["calls"].item() == 1
    assert against.fewest_calls(table, margin=0.9)["calls"].item() == 1
    assert math.isnan(against.fewest_calls(table, margin=0.01)["calls"].item())


def test_part_keeps_some_instances():
    table = rows(("ar-0", "copy", "left_to_right", 1, None, "0110", 24))
    found = against.part(table, torch.tensor([False, True, False, True]))
    assert found["right"].item() == "10"
    assert (found["correct"].item(), found["instances"].item()) == (1, 2)


def test_rows_are_checked():
    table = on_lists("1010", "1010")
    with pytest.raises(ValueError, match="table must have reverse and shuffle"):
        against.crossing(table, lengths=[4])
    with pytest.raises(ValueError, match="one row for each model"):
        against.crossing(pd.concat([table, table]))
    with pytest.raises(ValueError, match="table must have rows of dllm and ar"):
        against.fewest_calls(table)
    with pytest.raises(ValueError, match="margin must lie in"):
        against.fewest_calls(table, margin=2.0)
    with pytest.raises(ValueError, match="keep must have a flag"):
        against.part(table, [True])
    with pytest.raises(ValueError, match="keep must keep at least one"):
        against.part(table, [False] * 4)


def test_shipped_rows_serve_the_chapter():
    table = study.read_rows("bench_lengths", text=("right", "calls"))
    found = against.crossing(table)
    assert set(found["kind"]) == {"dllm", "ar"} and len(found) == 7
    assert found["gap"].between(found["gap_low"], found["gap_high"]).all()


def test_published_curves_are_those_of_the_reference():
    table = study.read_rows("mercury")
    ends = {
        (row.model, row.task): row.accuracy for row in table[table.n == 20].itertuples()
    }
    assert ends == {
        ("Mercury", "reverse"): 1.0,
        ("Mercury", "shuffle"): 0.39,
        ("Qwen3-4B", "reverse"): 0.42,
        ("Qwen3-4B", "shuffle"): 0.78,
    }
    assert (table[table.n == 5].accuracy == 1).all()
    assert "by eye" in table.attrs["about"] and "2025" in table.attrs["source"]


# ------------------------------------------------------------------------------- costs


def test_positions_are_calls_times_length_without_a_cache():
    assert against.positions(24, cached=True) == 50
    assert against.positions(24, cached=False) == 24 * 50
    assert against.positions(2.5, prompt=0, answer=8, cached=False) == 20
    with pytest.raises(ValueError, match="calls must lie in"):
        against.positions(0, cached=True)


def test_answer_tokens_count_the_end():
    assert against.answer_tokens("sudoku") == 17
    lists = against.answer_tokens("copy")
    assert 4 <= lists <= 11


def test_seconds_are_measured_and_lengths_are_checked():
    assert 0 < against.seconds_per_call(50, 1, repeats=3) < 60
    with pytest.raises(ValueError, match="length must be at most 50"):
        against.seconds_per_call(51, 1)
