"""Tables of the benchmark study, on rows made by hand with known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dllm_tutorial import bench, joints, measure, study
from dllm_tutorial.decoding import strategies


def row(model, right, *, task="copy", rule="random", value=1, calls=None, nfe=None):
    """A row of the study; ``calls`` is one number for all instances, or a list."""
    if calls is None:
        calls = 24 if nfe is None else nfe
    listed = calls if isinstance(calls, list) else [calls] * len(right)
    return {
        "model": model,
        "task": task,
        "rule": rule,
        "value": value,
        "instances": len(right),
        "correct": right.count("1"),
        "nfe": float(np.mean(listed)),
        "right": right,
        "calls": " ".join(map(str, listed)),
    }


def table(*rows):
    return pd.DataFrame(list(rows))


# ------------------------------------------------------------- accuracy and intervals


def test_names_of_models_and_digits():
    assert [bench.kind(m) for m in ("exact", "ar-2", "tuned-copy-0")] == [
        "exact",
        "ar",
        "tuned",
    ]
    assert [bench.seed(m) for m in ("exact", "ar-2", "tuned-copy-0")] == ["", "2", "0"]
    two = table(row("exact", "01"), row("ar-0", "11"))
    assert bench.scores(two).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(ValueError, match="rows of one length"):
        bench.scores(table(row("exact", "01"), row("exact", "011")))


def test_accuracy_of_one_model_and_of_seeds():
    rows = table(row("exact", "0111"), row("dllm-0", "0011"), row("dllm-1", "0111"))
    found = bench.accuracy(rows, ["task"]).set_index("kind")
    assert found.accuracy.to_dict() == {"exact": 0.75, "dllm": 0.625}
    scores = {"exact": [[0, 1, 1, 1]], "dllm": [[0, 0, 1, 1], [0, 1, 1, 1]]}
    for name, right in scores.items():
        expected = study.crossed_interval(right)
        assert (found.low[name], found.high[name]) == pytest.approx(expected)
    assert found.n.tolist() == [4, 4] and found.speed.tolist() == [1, 1]
    with pytest.raises(ValueError, match="two rows of one model"):
        bench.accuracy(table(row("exact", "0"), row("exact", "1")), ["task"])


def test_length_of_lists_is_not_overwritten():
    rows = table(row("exact", "01")).assign(n=7)
    assert bench.accuracy(rows, ["task", "n"]).n.tolist() == [7]


# -------------------------------------------------------------------------- comparisons


def test_difference_is_paired_by_seed_and_setting():
    first = table(
        row("dllm-0", "1111", value=2),
        row("dllm-1", "1100", value=2),
        row("dllm-1", "1110", value=4),
        row("dllm-0", "1011", value=4),
    )
    second = first.assign(right=["0111", "1000", "1110", "1011"])
    found = bench.difference(first, second, ["task"], ["value"]).iloc[0]
    assert found.difference == pytest.approx(2 / 16)
    assert (found.seeds, found.n) == (2, 4)
    expected = study.crossed_interval([[0.5, 0, 0, 0], [0, 0.5, 0, 0]], (-1, 1))
    assert (found.low, found.high) == pytest.approx(expected)
    each = bench.difference(first, second, ["value"]).set_index("value")
    assert each.difference.to_dict() == {2: 0.25, 4: 0}


def test_an_exact_denoiser_is_paired_with_every_seed():
    exact = table(row("exact", "1110"))
    trained = table(row("dllm-0", "1100"), row("dllm-1", "1000"))
    found = bench.difference(exact, trained, ["task"]).iloc[0]
    assert found.difference == pytest.approx(3 / 8) and found.seeds == 2
    back = bench.difference(trained, exact, ["task"]).iloc[0]
    assert back.difference == -found.difference
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_equal_differences_leave_doubt():
    right, wrong = table(row("exact", "1" * 98)), table(row("exact", "0" * 98))
    same = bench.difference(right, right, ["task"])
    half = stats.t.isf(0.025, 99) * math.sqrt(2 / 99 / 100)  # of 98 times 0, -1 and 1
    assert (same.low[0], same.high[0]) == pytest.approx((-half, half))
    all_lost = bench.difference(right, wrong, ["task"])
    assert 0.9 < all_lost.low[0] < all_lost.high[0] == 1


def test_difference_refuses_what_it_cannot_pair():
    one, other = table(row("dllm-0", "1")), table(row("dllm-1", "1"))
    with pytest.raises(ValueError, match="same seeds"):
        bench.difference(one, other, ["task"])
    with pytest.raises(ValueError, match="share a setting"):
        bench.difference(one, one.assign(task="sort"), ["task"])
    twice = table(row("dllm-0", "1", value=1), row("dllm-0", "1", value=2))
    with pytest.raises(ValueError, match="two rows of dllm-0"):
        bench.difference(twice, twice, ["task"])
    with pytest.raises(ValueError, match="same seeds and settings"):
        bench.difference(one.assign(value=1), one.assign(value=2), ["task"], ["value"])


def test_cost_of_parallelism_has_three_verdicts():
    rows = []
    for task, slow, fast in (
        ("down", "1" * 30, "0" * 30),
        ("up", "0" * 30, "1" * 30),
        ("flat", "10" * 15, "01" * 15),
    ):
        rows += [row("exact", slow, task=task), row("exact", fast, task=task, value=24)]
    rows.append(row("ar-0", "1" * 30, task="down"))  # has no fast setting
    found = bench.cost_of_parallelism(table(*rows), "random").set_index("task")
    assert found.verdict.to_dict() == {"down": "falls", "up": "rises", "flat": "flat"}
    assert found.loc["down", ["slow", "fast", "difference"]].tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="'margin' at 1"):
        bench.cost_of_parallelism(table(*rows), "margin")


def test_able_names_what_can_be_done_one_token_at_a_time():
    rows = table(
        row("dllm-0", "1100", task="copy"),
        row("dllm-1", "1100", task="copy"),
        row("dllm-0", "1000", task="sort"),
        row("dllm-0", "1111", task="sort", value=2),
        row("exact", "1111", task="sort"),
    )
    assert bench.able(rows) == ["copy"]
    assert bench.able(rows, 0.25) == ["copy", "sort"]
    with pytest.raises(ValueError, match="rows of ar by random"):
        bench.able(rows, model="ar")


def test_best_rules_are_fast_enough_and_not_worse():
    rows = table(
        row("exact", "1" * 40, rule="random", value=1, nfe=24),
        row("exact", "1" * 20 + "0" * 20, rule="random", value=4, nfe=6),
        row("exact", "0" * 40, rule="random", value=8, nfe=3),
        row("exact", "01" * 20, rule="margin", value=4, nfe=6),
        row("exact", "0" * 40, rule="factor", value=4, nfe=4),
        row("exact", "1" * 40, rule="factor", value=1, nfe=24),
    )
    found = bench.best_rules(rows, 4).set_index("rule")
    assert found.value.to_dict() == {"random": 4, "margin": 4, "factor": 4}
    assert found.best.to_dict() == {"random": True, "margin": True, "factor": False}
    assert found.speed["factor"] == 6
    with pytest.raises(ValueError, match="25 tokens per step"):
        bench.best_rules(rows, 25)


def test_pbx_is_the_fastest_setting_that_keeps_the_mean_score():
    rows = []
    for value, nfe, a, b in ((1, 24, 100, 100), (2, 12, 100, 88), (4, 6, 60, 40)):
        for task, right in (("copy", a), ("sort", b)):
            digits = "1" * right + "0" * (100 - right)
            rows.append(row("exact", digits, task=task, value=value, nfe=nfe))
    found = bench.pbx(table(*rows), (0.9, 0.95, 0.4, 0.5)).set_index("level")
    assert found.speed.to_dict() == {0.9: 2, 0.95: 1, 0.4: 4, 0.5: 4}
    assert found.value.to_dict() == {0.9: 2, 0.95: 1, 0.4: 4, 0.5: 4}
    # 94 % [90 %, 96 %] may be 95 %, and 50 % may be less
    assert found.possible[0.95] == 2 and found.sure[0.95] == 1
    assert found.sure[0.5] == 2
    slow = table(row("exact", "0001", value=1))
    assert math.isnan(bench.pbx(slow, [0.9]).speed[0])
    with pytest.raises(ValueError, match=r"random 4 must have every task.*sort"):
        bench.pbx(table(*rows[:-1]), [0.9])


# ----------------------------------------------------------------------- decomposition


digits = st.text("01", min_size=12, max_size=12)


@given(digits, st.lists(digits, min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_decomposition_adds_up(truth, trained):
    rows = [row("exact", truth)] + [row(f"dllm-{i}", t) for i, t in enumerate(trained)]
    found = bench.decomposition(table(*rows), "random").iloc[0]
    assert found.decoding + found.learning == pytest.approx(1 - found.trained)
    assert found.decoding == pytest.approx(1 - truth.count("1") / 12)
    assert found.decoding_low <= found.decoding <= found.decoding_high
    assert found.learning_low <= found.learning_high


def test_decomposition_needs_both():
    with pytest.raises(ValueError, match="exact and of dllm by margin"):
        bench.decomposition(table(row("exact", "1")), "margin")


# ------------------------------------------------------------- thresholds and an oracle


def thresholds(*settings, model="dllm-0", task="copy"):
    return [
        row(model, right, task=task, rule="confidence_threshold", value=i, calls=calls)
        for i, (right, calls) in enumerate(settings)
    ]


def test_oracle_by_hand():
    rows = table(*thresholds(("1110", [9, 9, 9, 9]), ("0100", [2, 3, 4, 5])))
    assert bench.chosen(rows, "all").iloc[0].tolist() == [0.75, 9, 24 / 9]
    # 9 for the first and third, 3 for the second, the fewest for the hopeless one
    assert bench.chosen(rows, "instance").nfe[0] == (9 + 3 + 9 + 5) / 4
    found = bench.oracle(rows)
    assert found.accuracy.tolist() == [0.25, 0.5, 0.75]
    assert found.nfe.tolist() == [14 / 4, 19 / 4, 26 / 4]
    assert bench.oracle_calls(found, 0.3) == 19 / 4
    with pytest.raises(ValueError, match=r"at most 0\.75"):
        bench.oracle_calls(found, 0.9)


@st.composite
def threshold_rows(draw):
    n, values = draw(st.integers(2, 6)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    rows = []
    for model, task in itertools.product(("dllm-0", "dllm-1"), ("copy", "sort")):
        pairs = [
            (
                "".join(map(str, rng.integers(0, 2, n))),
                rng.integers(1, 25, n).tolist(),
            )
            for _ in range(values)
        ]
        rows += thresholds(*pairs, model=model, task=task)
    return table(*rows)


@given(threshold_rows())
@settings(max_examples=25, deadline=None)
def test_an_oracle_is_never_slower_at_equal_accuracy(rows):
    frontier = bench.oracle(rows)
    assert (np.diff(frontier.accuracy) > 0).all() and (np.diff(frontier.nfe) > 0).all()
    everything = bench.chosen(rows, "instance").iloc[0]
    assert everything.accuracy == pytest.approx(frontier.accuracy.max())
    assert everything.nfe == pytest.approx(frontier.nfe.max())
    before = 0.0
    for per in ("all", "task", "instance"):
        found = bench.chosen(rows, per).iloc[0]
        assert found.accuracy >= before - 1e-12
        before = found.accuracy
        assert bench.oracle_calls(frontier, found.accuracy) <= found.nfe + 1e-9
    for _, own in rows.groupby("value"):
        right, nfe = bench.scores(own).mean(), own.nfe.mean()
        if right <= frontier.accuracy.max():
            assert bench.oracle_calls(frontier, right) <= nfe + 1e-9


def test_only_what_belongs_to_the_instance_is_transferred():
    # the first instance needs value 0 for every seed, the second is luck
    rows = table(
        *thresholds(("11", [9, 9]), ("00", [2, 2]), model="dllm-0"),
        *thresholds(("10", [9, 9]), ("01", [2, 2]), model="dllm-1"),
    )
    assert bench.chosen(rows, "instance").accuracy[0] == 1
    found = bench.transferred(rows).iloc[0]
    # seed 0 chose (0, 0), seed 1 chose (0, 1): each is wrong on the other's second
    assert found.accuracy == 0.5 and found.nfe == (9 + 9 + 9 + 2) / 4
    with pytest.raises(ValueError, match="at least two models"):
        bench.transferred(rows[rows.model == "dllm-0"])


def test_oracle_refuses_mixed_rows():
    rows = table(row("exact", "1"), row("exact", "1", rule="margin"))
    with pytest.raises(ValueError, match="one rule"):
        bench.oracle(rows)
    with pytest.raises(ValueError, match="one row for each"):
        bench.oracle(table(row("exact", "1"), row("exact", "1")))
    with pytest.raises(ValueError, match="per must be one of"):
        bench.chosen(table(row("exact", "1")), "seed")


# ------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("n", [3, 4, 6, 7])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_greedy_closed_forms_are_what_the_decoder_does(n, k):
    """Every rank of the new item among the old ones is equally likely."""
    rule = strategies.left_to_right(k)
    right = []
    for joint in _replacements(n):
        right.append(measure.accuracy(joint, rule, 1, temperature=0.0).rate)
    # left to right the last step holds the same positions, whatever the ranks
    assert np.mean(right) == pytest.approx(
        bench.closed_form("replace_random", n, k, 0), abs=1e-9
    )
    found = measure.accuracy(joints.shuffle(n), rule, 1, temperature=0.0).rate
    assert found == bench.closed_form("shuffle", n, k, 0)


def _replacements(n):
    """Replace Random with the last three numbers in every order, others fixed."""
    for names in itertools.permutations((n - 2, n - 1, n)):
        items = [*range(n - 2), *names[:2]]
        support = [
            [names[2] if i == at else item for i, item in enumerate(items)]
            for at in range(n)
        ]
        yield joints.TableJoint(torch.tensor(support), None, n + 1)


def test_closed_forms_at_temperature_one_and_their_errors():
    assert bench.closed_form("shuffle", 3, 3, 1) == pytest.approx(6 / 27)
    assert bench.closed_form("replace_random", 3, 3, 1) == pytest.approx(4 / 9)
    assert bench.closed_threshold("shuffle", 10, 0.51, 1) == 1
    assert bench.closed_threshold("replace_random", 10, 0.89, 0) == 0
    assert bench.closed_threshold("replace_random", 10, 0.91, 0) == 1
    with pytest.raises(ValueError, match="task must be one of"):
        bench.closed_form("sort", 3, 1, 0)
    for form in (bench.closed_form, bench.closed_threshold):
        with pytest.raises(ValueError, match="temperature must be 0 or 1"):
            form("shuffle", 3, 1, 0.5)
    for temperature in (0, 1):
        with pytest.raises(TypeError, match="n must be an integer"):
            bench.closed_threshold("shuffle", 4.5, 0.5, temperature)
        with pytest.raises(ValueError, match="n must be at least 1"):
            bench.closed_threshold("replace_random", 0, 0.5, temperature)
        with pytest.raises(ValueError, match="gamma must lie"):
            bench.closed_threshold("shuffle", 4, 2.0, temperature)


# ------------------------------------------------------------------------- published


def test_published_numbers_have_intervals():
    found = bench.published()
    assert len(found) == 7 * 2 * 6 and (found.n == 100).all()
    assert ((found.low <= found.accuracy) & (found.accuracy <= found.high)).all()
    gap = bench.published_difference((1, 32)).set_index("task")
    assert gap.difference["reverse"] == pytest.approx((0.99 + 0.23 - 0.88 - 0.23) / 2)
    assert (gap.low < gap.difference).all() and (gap.difference < gap.high).all()
    for ks in ([99], [1, 3], []):
        with pytest.raises(ValueError, match="ks must be some of"):
            bench.published_difference(ks)


# ------------------------------------------------- one right answer, seen part by part


MASKED = pd.DataFrame(
    [
        ["dllm-0", 4, 10, "list", 0, 20, 3, 8],
        ["dllm-0", 4, 10, "list", 1, 10, 0, 8],
        ["dllm-0", 4, 10, "end", 1, 10, 0, 8],
        ["dllm-1", 4, 10, "list", 0, 30, 0, 9],
        ["dllm-1", 4, 10, "end", 0, 0, 0, 9],
        ["dllm-1", 4, 10, "end", 1, 10, 1, 9],
    ],
    columns=[
        "model",
        "masked",
        "instances",
        "part",
        "position",
        "tokens",
        "wrong",
        "whole",
    ],
)


def test_mask_errors_by_hand():
    found = bench.mask_errors(MASKED).set_index("part")
    assert found.error.to_dict() == pytest.approx(
        {"list": 0.05, "end": 0.05, "all": 0.05}
    )
    assert found.error_high["list"] == pytest.approx(0.1)
    assert found.error_low["all"] == pytest.approx(1 / 40)
    assert found.whole["all"] == pytest.approx(0.85)
    assert found.seeds.tolist() == [2, 2, 2]


def test_position_errors_by_hand():
    found = bench.position_errors(MASKED, 4).set_index(["part", "position"])
    assert found.tokens.to_dict() == {("list", 0): 50, ("list", 1): 10, ("end", 1): 20}
    assert found.error["list", 0] == pytest.approx(3 / 50)
    assert (found.low["end", 1], found.high["end", 1]) == study.wilson(1, 20)
    with pytest.raises(ValueError, match="3 masked"):
        bench.position_errors(MASKED, 3)


LENGTH = 4
STATES = [s for s in range(1, 1 << LENGTH)]  # sets of masked positions


def accuracy_by_enumeration(wrong, k):
    """Random top-k over all orders: right if no revealed token is wrong then."""
    right = 0
    for order in itertools.permutations(range(LENGTH)):
        ok = True
        for start in range(0, LENGTH, k):
            state = sum(1 << i for i in order[start:])
            ok &= not any(wrong[state] >> i & 1 for i in order[start : start + k])
        right += ok
    return right / math.factorial(LENGTH)


@given(st.lists(st.integers(0, 15), min_size=15, max_size=15))
@settings(max_examples=60, deadline=None)
def test_bounds_from_true_states_hold_for_every_denoiser(values):
    """A denoiser is, in each state, a set of masked positions it gets wrong."""
    wrong = {state: value & state for state, value in zip(STATES, values, strict=True)}
    rows = []
    for m in range(1, LENGTH + 1):
        states = [s for s in STATES if s.bit_count() == m]
        rows.append(
            {
                "model": "dllm-0",
                "masked": m,
                "part": "list",
                "instances": len(states),
                "tokens": m * len(states),
                "wrong": sum(wrong[s].bit_count() for s in states),
                "whole": sum(wrong[s] == 0 for s in states),
            }
        )
    found = bench.from_true_states(pd.DataFrame(rows), range(1, LENGTH + 1))
    for bound in found.itertuples():
        accuracy = accuracy_by_enumeration(wrong, bound.k)
        assert bound.lower - 1e-9 <= accuracy <= bound.upper + 1e-9
    last = found.iloc[-1]  # one step: known exactly
    assert last.lower == pytest.approx(last.upper)


def test_counts_that_were_not_measured_are_read_off_lines():
    rows = pd.DataFrame(
        [
            ["dllm-0", m, "list", 100, 100 * m, wrong, 90]
            for m, wrong in ((1, 0), (3, 6))
        ],
        columns=["model", "masked", "part", "instances", "tokens", "wrong", "whole"],
    )
    found = bench.from_true_states(rows, [1]).iloc[0]
    assert found.independent == pytest.approx((1 - 0.02) * (1 - 0.01) * 1)
