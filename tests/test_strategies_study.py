"""The shipped rows of chapter 4 against closed forms, and the functions behind them."""

from __future__ import annotations

import math

import pytest
from scipy import stats

import reference_decoding as ref
from dllm_tutorial import strategies_study, study

ALPHA = 1e-5  # chance that a correct row is rejected


def rows(exhibit):
    table = study.read_rows("strategies_exact")
    return table[table.exhibit == exhibit]


def assert_share(row, p):
    if p in (0, 1):
        assert row.successes == row.draws * p
    else:
        spread = math.sqrt(row.draws * p * (1 - p))
        z = (row.successes - row.draws * p) / spread
        assert abs(z) < stats.norm.isf(ALPHA / 2), (row, p)


def test_copied_pairs_are_coins_and_copies():
    near = strategies_study.copied_pairs(4).support
    assert len(near) == 16 and (near[:, 0::2] == near[:, 1::2]).all()
    far = strategies_study.copied_pairs(4, apart=4).support
    assert len(far) == 16 and (far[:, :4] == far[:, 4:]).all()
    mixed = strategies_study.copied_pairs(4, apart=2).support
    assert (mixed[:, [0, 1, 4, 5]] == mixed[:, [2, 3, 6, 7]]).all()


def test_rows_of_a_fixed_quota_are_the_closed_forms():
    table = rows("revision")
    for row in table[table.rule == "random"].itertuples():
        steps = min(row.setting, 6)
        if row.task == "Shuffle":
            assert_share(row, float(ref.shuffle_accuracy(ref.quotas(6, steps=steps))))
        if row.task == "Replace Random":
            assert_share(row, float(ref.replace_accuracy(ref.quotas(6, steps=steps))))


def test_rows_of_ancestral_sampling_are_the_closed_form_on_pairs():
    # a coin and its copy share a step with chance 1/T, and then differ half the time
    table = rows("revision")
    pairs = table[(table.rule == "ancestral") & (table.task == "copied pairs")]
    assert len(pairs) > 3
    for row in pairs.itertuples():
        assert_share(row, (1 - 1 / (2 * row.setting)) ** 4)


def test_rows_of_blocks_are_the_closed_forms_of_the_ends():
    table = rows("blocks")
    short = table[table.setting == 2]
    for row in short.itertuples():
        near = row.task == "copy next to its coin"
        assert_share(row, 0.5**4 if near else 1)
    sudoku = table[(table.task == "Sudoku") & (table.setting == 16)]
    assert_share(next(sudoku[sudoku.rule == "confidence"].itertuples()), 1)


def test_nothing_is_repaired_without_revision():
    table = rows("revision")
    kept = table[table.rule.isin(["random", "ancestral"])]
    assert (kept.repaired == 0).all()
    assert (kept.broken + kept.successes == kept.draws).all()


def test_rows_say_where_they_come_from():
    origin = study.read_rows("strategies_exact").attrs
    assert origin["command"].startswith("python -m dllm_tutorial.strategies_study")
    assert origin["seeds"] == [0]


@pytest.mark.parametrize("k", [1, 3])
def test_sudoku_rows_are_deterministic_and_count_puzzles(k):
    first, again = (strategies_study.sudoku(30, (k,), 4) for _ in range(2))
    assert first == again
    assert all(row["draws"] == 30 for row in first)
    assert {row["rule"] for row in first} == {"random", "left_to_right", "confidence"}


def test_revision_counts_broken_and_repaired():
    table = strategies_study.revision(200, (3,), 1, ["copied pairs"])
    for row in table:
        assert 0 <= row["repaired"] <= row["broken"] <= row["draws"] == 200
        assert row["successes"] == row["draws"] - row["broken"] + row["repaired"]
