"""What is read off the rows of the study of orders: hand-made tables, closed forms."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from dllm_tutorial import joints, order_study, orders, study, text
from dllm_tutorial.order_study import Size

A, B, C = "left-to-right", "uniform random", "diffusion"


def table(curves: dict[tuple[str, int], list[tuple[float, float]]]) -> pd.DataFrame:
    """Rows of curves given as {(order, seed): [(updates, value), ...]}.

    An update is ten supervised tokens, of diffusion five, and two petaflops.
    """
    return pd.DataFrame(
        {
            "corpus": "x",
            "order": order,
            "seed": seed,
            "score": "own",
            "updates": updates,
            "supervised_tokens": updates * (5 if order == C else 10),
            "petaflops": updates * 2,
            "value": value,
        }
        for (order, seed), points in curves.items()
        for updates, value in points
    )


def power(scale: float, exponent: float = -1.0) -> list[tuple[float, float]]:
    return [(u, scale * u**exponent) for u in (10, 20, 40, 80, 160)]


def test_final_is_the_last_point_whatever_the_order_of_the_rows():
    rows = table({(A, 0): [(10, 3.0), (20, 2.0)], (B, 1): [(20, 4.0), (5, 1.0)]})
    other = rows.assign(score="NELBO", updates=np.nan, value=-1.0)
    for given in (rows, rows.iloc[::-1], pd.concat([rows, other])):
        last = order_study.final(given).set_index(["order", "seed"])["value"]
        assert last.to_dict() == {(A, 0): 2.0, (B, 1): 4.0}


def test_gap_is_a_paired_t_interval_over_common_seeds():
    a, b = [3.0, 3.5, 2.9, 3.3], [2.0, 2.1, 2.4, 2.2]
    rows = table(
        {(A, s): [(10, 9.0), (20, v)] for s, v in enumerate(a)}
        | {(B, s): [(10, 8.0), (20, v)] for s, v in enumerate(b)}
        | {(B, 7): [(10, 8.0), (20, 100.0)]}  # without a partner
    )
    found = order_study.gap(rows, "x", A, B)
    low, high = stats.ttest_rel(a, b).confidence_interval()
    assert (found.mean, found.low, found.high) == pytest.approx(
        (np.mean(a) - np.mean(b), low, high)
    )
    assert (found.seeds, found.resolved) == (4, True)
    assert found.half == pytest.approx((high - low) / 2)
    assert not order_study.gap(rows, "x", A, A).resolved
    first = order_study.gap(rows, "x", A, B, at=10)
    assert (first.mean, first.low, first.high) == (1.0, 1.0, 1.0)


def test_gap_at_a_budget_lies_on_the_line_between_points():
    rows = table({(A, 0): [(10, 4.0), (20, 2.0)], (C, 0): [(10, 6.0), (50, 2.0)]})
    at = {
        "updates": (15, 3.0, 5.5),
        "supervised_tokens": (120, 3.6, 4.6),
        "petaflops": (40, 2.0, 5.0),
    }
    for by, (budget, left, diffusion) in at.items():
        found = order_study.gap(rows, "x", C, A, at=budget, by=by)
        assert found.mean == pytest.approx(diffusion - left)
        assert (found.low, found.high, found.seeds) == (-math.inf, math.inf, 1)
    assert order_study.gap(rows, "x", C, A, at=30).seeds == 0  # beyond one of them
    with pytest.raises(ValueError, match="by must be one of"):
        order_study.gap(rows, "x", C, A, at=30, by="hours")
    with pytest.raises(ValueError, match="order must be one of"):
        order_study.gap(rows, "x", C, "sideways")
    with pytest.raises(ValueError, match="corpus must be one of"):
        order_study.gap(rows, "y", C, A)


@pytest.mark.parametrize("exponent", [-1.0, -0.5])
def test_a_power_law_reaches_a_value_where_its_formula_says(exponent):
    rows = table({(A, s): power(3.0 + s, exponent) for s in range(2)})
    for value in (0.29, 0.25):
        found = order_study.updates_to_reach(rows, "x", A, value)
        expected = [(value / (3.0 + s)) ** (1 / exponent) for s in range(2)]
        inside = [e if 10 < e <= 160 else math.nan for e in expected]
        np.testing.assert_allclose(found, inside)


def test_a_value_out_of_reach_or_met_at_once_is_nan():
    rows = table({(A, 0): power(1.0), (A, 1): power(100.0)})
    found = order_study.updates_to_reach(rows, "x", A, 0.5)
    assert found.isna().all()  # begins at 0.1; ends at 0.625
    assert order_study.updates_to_reach(rows, "x", A, 2.0).isna().tolist() == [
        True,
        False,
    ]


def test_the_first_time_counts_and_values_below_zero_do_no_harm():
    rows = table({(A, 0): [(10, 4.0), (20, 1.0), (30, 2.0), (40, -1.0)]})
    assert order_study.updates_to_reach(rows, "x", A, 2.0)[0] == pytest.approx(
        10 * 2**0.5
    )
    assert 30 < order_study.updates_to_reach(rows, "x", A, 0.5)[0] <= 40
    assert order_study.updates_to_reach(rows, "x", A, 1e-3)[0] <= 40


def test_ratio_of_two_power_laws_is_that_of_their_constants():
    slow = {0: 6.0, 1: 8.0, 2: 7.0}
    rows = table(
        {(C, s): power(scale) for s, scale in slow.items()}
        | {(B, s): power(2.0 + s) for s in slow}
    )
    factors = [scale / (2.0 + s) for s, scale in slow.items()]
    logs = np.log(factors)
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    expected = np.exp([logs.mean(), low, high])
    for by, unit in (("updates", 1), ("supervised_tokens", 0.5), ("petaflops", 1)):
        found = order_study.ratio(rows, "x", (0.05, 0.06), by=by)
        got = found[["ratio", "low", "high"]].to_numpy()
        np.testing.assert_allclose(got, np.tile(expected * unit, (2, 1)))
        assert found["seeds"].tolist() == [3, 3]
    none = order_study.ratio(rows, "x", (1e-6,)).iloc[0]
    assert none["seeds"] == 0
    assert math.isnan(none["ratio"])


def test_levels_are_met_by_every_curve():
    rows = table({(C, 0): power(6.0), (C, 1): power(9.0), (B, 0): power(2.0)})
    found = order_study.levels(rows, "x", (B, C), n=4)
    assert len(found) == 4
    assert (np.diff(found) < 0).all()
    np.testing.assert_allclose(found[1:] / found[:-1], found[1] / found[0])
    for name in (B, C):
        for value in found:
            reached = order_study.updates_to_reach(rows, "x", name, value)
            assert reached.notna().all()
    far = table({(C, 0): power(600.0), (B, 0): power(2.0)})
    assert len(order_study.levels(far, "x", (B, C))) == 0


def test_curves_are_means_over_seeds():
    values = {0: [4.0, 2.0], 1: [5.0, 4.0], 2: [9.0, 3.0]}
    rows = table(
        {(B, s): list(zip((10, 20), v, strict=True)) for s, v in values.items()}
        | {(A, 0): [(10, 1.0)]}
    )
    found = order_study.curves(rows, "x")
    assert found["order"].tolist() == [A, B, B]
    last = found.iloc[2]
    low, high = stats.t.interval(0.95, 2, 3.0, stats.sem([2.0, 4.0, 3.0]))
    assert tuple(last[["value", "low", "high"]]) == pytest.approx((3.0, low, high))
    assert tuple(last[["updates", "supervised_tokens", "petaflops", "seeds"]]) == (
        20,
        200,
        40,
        3,
    )
    assert order_study.curves(rows, "x", [A])["value"].tolist() == [1.0]


def test_scores_of_one_network_are_moved_by_what_the_windows_make():
    rows = table({(C, s): [(10, 5.0), (20, 3.0 + s)] for s in (0, 1)})
    more = [
        {"corpus": "x", "order": C, "seed": s, "score": name, "value": value + s}
        for s in (0, 1)
        for name, value in (("NELBO", 3.25), (A, 2.5))
    ]
    rows = pd.concat([rows, pd.DataFrame(more)])
    plain = order_study.scores(rows, "x", C)
    assert plain[A].to_dict() == {0: 2.5, 1: 3.5}
    moved = order_study.scores(rows, "x", C, moved=True)
    assert moved["NELBO"].to_dict() == {0: 3.0, 1: 4.0}
    assert moved[A].to_dict() == {0: 2.25, 1: 3.25}


# ---------------------------------------------------------------------- floors, errors


@pytest.fixture
def cycle(monkeypatch):
    """Text "abcabc...": a letter tells the next one; windows of 4 letters."""
    letters = torch.arange(3000) % 3 + 1
    monkeypatch.setattr(text, "letters", lambda corpus, part: letters)
    small = Size(16, 1, 2, length=4, batch_size=4, updates=20, windows=6)
    monkeypatch.setattr(order_study, "SIZES", {"cpu": small})
    order_study.floors.cache_clear()
    yield
    order_study.floors.cache_clear()


@pytest.mark.parametrize("backward", [False, True])
def test_floors_of_a_cycle_are_known(cycle, backward):
    found = order_study.floors("sotu", 2, backward=backward)
    assert list(found) == [1, 2]
    # one letter in three; with one letter of context only the first of four is open
    assert found[1] == pytest.approx(math.log2(3), abs=1e-2)
    assert found[2] == pytest.approx(math.log2(3) / 4, abs=1e-2)


def test_floors_backward_read_the_text_backward(monkeypatch, cycle):
    """After an a comes b or c; before each of these always an a."""
    generator = torch.Generator().manual_seed(0)
    second = torch.randint(2, 4, (3000,), generator=generator)
    letters = torch.stack([torch.ones_like(second), second], 1).flatten()
    monkeypatch.setattr(text, "letters", lambda corpus, part: letters)
    # windows are a x a x: the first letter is an a half the time, else b or c
    first, last = 1.0, 2.0
    forward = (first + 1 + 0 + 1) / 4
    backward = (last + 0 + 1 + 0) / 4
    assert order_study.floors("sotu", 2)[2] == pytest.approx(forward, abs=0.05)
    order_study.floors.cache_clear()
    found = order_study.floors("sotu", 2, backward=True)[2]
    assert found == pytest.approx(backward, abs=0.05)


@pytest.fixture(scope="module")
def chain():
    transition = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    return joints.MarkovChain(transition, 4)


def test_without_errors_predictions_are_exact(chain):
    guess = order_study.with_errors(chain, 0.0)
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    torch.testing.assert_close(guess(x).softmax(-1), chain(x).softmax(-1))


def test_errors_are_fixed_and_of_the_given_size(chain):
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    guess = order_study.with_errors(chain, 0.5, seed=3)
    assert torch.equal(guess(x), guess(x))
    assert torch.equal(guess(x), order_study.with_errors(chain, 0.5, seed=3)(x))
    one, two = (order_study.with_errors(chain, 0.5, seed=s)(x) for s in (1, 2))
    off = (one - two)[one.isfinite()]  # a revealed token is certain
    spread = off.std().item() / 2**0.5
    assert spread == pytest.approx(0.5, rel=5 / (2 * len(off)) ** 0.5)


def test_with_errors_every_order_is_a_distribution_of_its_own(chain):
    x = torch.cartesian_prod(*[torch.arange(2)] * 4)
    guess = order_study.with_errors(chain, 1.0)
    log_p = orders.log_probs(guess, x, orders.all_orders(4))
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(24).double())
    assert (log_p.std(0) > 0.1).any()


def test_shipped_floors_are_those_of_the_text():
    rows = study.read_rows("order_floors")
    assert set(rows["corpus"]) == set(order_study.TEXTS)
    one = rows[(rows["corpus"] == "sotu") & ~rows["backward"]].set_index("n")["value"]
    found = order_study.floors("sotu", 3)
    assert one[:3].to_dict() == pytest.approx(found, abs=1e-6)
    # nothing is known before the first letter: both directions count the same
    single = rows[rows["n"] == 1].groupby("corpus")["value"].nunique()
    assert (single == 1).all()


def test_ends_tell_trainings_apart_by_their_length():
    usual = {(A, 0): [(20, 9.0)], (B, 0): [(10, 8.0), (60, 7.0)], (C, 0): [(60, 6.0)]}
    longer = {(B, 0): [(10, 5.0), (240, 4.0)], (C, 0): [(240, 3.0)]}
    found = order_study.ends(table(usual), table(longer))
    found = found.set_index(["updates", "order"])["value"].to_dict()
    assert found == {(60, B): 7.0, (60, C): 6.0, (240, B): 4.0, (240, C): 3.0}
