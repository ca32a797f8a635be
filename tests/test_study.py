"""Intervals against scipy and direct formulas; rows and provenance on disk."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dllm_tutorial import config, study


@given(st.integers(1, 500), st.data(), st.sampled_from([0.8, 0.95, 0.999]))
def test_wilson_equals_scipys(n, data, level):
    k = data.draw(st.integers(0, n))
    theirs = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    assert study.wilson(k, n, level) == pytest.approx((theirs.low, theirs.high))


def test_wilson_is_elementwise_and_stays_in_the_unit_interval():
    low, high = study.wilson([0, 3, 7], 7)
    assert low[0] == 0 and high[-1] == 1
    assert np.all(low <= np.array([0, 3, 7]) / 7) and np.all(high <= 1)
    single = [study.wilson(k, 7) for k in (0, 3, 7)]
    assert np.allclose(np.stack([low, high], 1), single, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("successes", "n"),
    [(3, 2), (-1, 2), (0, 0), (math.nan, 10), (1, math.nan), (None, 3), ([1, None], 3)],
)
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes must lie between 0 and n"):
        study.wilson(successes, n)


def test_mean_interval_equals_the_test_that_it_inverts():
    values = np.random.default_rng(0).exponential(size=(3, 12))
    low, high = study.mean_interval(values, 0.9)
    for row, a, b in zip(values, low, high, strict=True):
        # At its ends the two-sided t test has p-value 1 - level.
        assert stats.ttest_1samp(row, a).pvalue == pytest.approx(0.1)
        assert stats.ttest_1samp(row, b).pvalue == pytest.approx(0.1)


def test_mean_interval_by_hand():
    # Two values: t quantile with one degree of freedom is tan(pi (level / 2)).
    low, high = study.mean_interval([1.0, 3.0], 0.95)
    half = math.tan(math.pi * 0.475)
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def test_paired_interval_ignores_what_both_share():
    rng = np.random.default_rng(1)
    shared, noise = 100 * rng.normal(size=40), rng.normal(size=40)
    low, high = study.paired_interval(shared + noise, shared)
    assert (low, high) == pytest.approx(study.mean_interval(noise))
    with pytest.raises(ValueError, match="one shape"):
        study.paired_interval([1, 2, 3], [1, 2])


def test_bootstrap_agrees_with_t_on_a_large_normal_sample():
    values = np.random.default_rng(2).normal(size=600)
    ours = np.array(study.bootstrap_interval(values))
    assert ours == pytest.approx(study.mean_interval(values), abs=1e-2)
    assert tuple(ours) == study.bootstrap_interval(values)  # the seed decides
    low, high = study.bootstrap_interval(values, np.median)
    assert low < np.median(values) < high


def test_intervals_cover_as_often_as_they_say():
    # 95 % of 2000 intervals: standard error 0.5 %, bound at more than 5 of them.
    rng = np.random.default_rng(3)
    low, high = study.mean_interval(rng.normal(size=(2000, 5)))
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("level", [0, 1, 1.5])
def test_levels_lie_strictly_between_0_and_1(level):
    for interval in (study.mean_interval, study.bootstrap_interval):
        with pytest.raises(ValueError, match="level must lie"):
            interval([1.0, 2.0], level=level)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least two numbers"):
        study.mean_interval([1.0])


def test_what_was_not_measured_is_no_number():
    gaps = [1.0, math.nan, 2.0]
    for interval in (study.mean_interval, study.bootstrap_interval):
        with pytest.raises(ValueError, match="values must hold numbers, got NaN"):
            interval(gaps)
    with pytest.raises(ValueError, match="b must hold numbers, got NaN"):
        study.paired_interval([1.0, 2.0, 3.0], gaps)
    with pytest.raises(ValueError, match="values must lie between"):
        study.crossed_interval([gaps, gaps])


def test_rows_come_back_as_they_were_written(tmp_path, monkeypatch):
    p = 0.123456789012345  # as many digits as every version of pandas reads exactly
    rows = [{"rule": "random", "k": 2, "p": p}, {"rule": "x", "k": 3, "p": 1.0}]
    origin = study.provenance("python -m study", [0, 1])
    folder = tmp_path / "data" / "results"
    study.write_rows(folder / "toy.csv", rows, origin)
    monkeypatch.setattr(study.resources, "files", lambda package: tmp_path)
    back = study.read_rows("toy")
    pd.testing.assert_frame_equal(back, pd.DataFrame(rows), check_exact=True)
    assert back.attrs == origin
    with pytest.raises(ValueError, match="name must be one of 'toy'"):
        study.read_rows("missing")


def test_shipped_numbers_are_read_to_the_last_bit():
    """As Python reads them, by whichever version of pandas."""
    files = list((Path(study.__file__).parent / "data/results").glob("*.csv"))
    for file in files:
        table = study.read_rows(file.stem).select_dtypes("float")
        with file.open(encoding="utf-8", newline="") as lines:
            texts = list(csv.DictReader(lines))
        for name in table:
            exact = np.array([float(row[name] or "nan") for row in texts])
            assert np.array_equal(table[name], exact, equal_nan=True), (file, name)
    assert len(files) > 10


def test_rows_need_a_csv_file_and_contents(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.csv"):
        study.write_rows(tmp_path / "toy.txt", [{"a": 1}])
    with pytest.raises(ValueError, match="rows must not be empty"):
        study.write_rows(tmp_path / "toy.csv", [])


def test_rows_stand_beside_their_own_provenance_or_none(tmp_path):
    path, origin = tmp_path / "toy.csv", tmp_path / "toy.json"
    study.write_rows(path, [{"a": 1}], {"command": "make"})
    before = path.read_bytes(), origin.read_bytes()
    for bad in ({"seeds": {1, 2}}, [1], "x"):
        with pytest.raises(TypeError):
            study.write_rows(path, [{"a": 2}], bad)
        assert (path.read_bytes(), origin.read_bytes()) == before
    study.write_rows(path, [{"a": 2}])
    assert path.read_bytes() == b"a\n2\n" and not origin.exists()


@pytest.mark.parametrize("seeds", [None, "", "12", 1.5, [0.5], True])
def test_seeds_are_whole_numbers(seeds):
    with pytest.raises(TypeError, match="seeds must be"):
        study.provenance("make", seeds)


def test_provenance_says_where_rows_come_from():
    assert study.provenance("make", np.int64(3))["seeds"] == [3]
    origin = study.provenance("make rows", 7)
    assert origin["command"] == "make rows" and origin["seeds"] == [7]
    assert origin["commit"] is None or len(origin["commit"]) == 40
    assert {"device", "python", "torch", "package", "time", "dirty"} < set(origin)
    assert json.loads(json.dumps(origin)) == origin
    with pytest.raises(TypeError, match="command must be a non-empty string"):
        study.provenance("", 0)


def test_a_package_outside_its_checkout_has_no_commit(tmp_path, monkeypatch):
    elsewhere = tmp_path / "site-packages" / "dllm_tutorial" / "__init__.py"
    monkeypatch.setattr(study.dllm_tutorial, "__file__", str(elsewhere))
    assert study.provenance("x", 0)["commit"] is None


def test_shipped_rows_can_be_read():
    folder = study.resources.files("dllm_tutorial") / "data" / "results"
    for file in folder.iterdir():
        if file.name.endswith(".csv"):
            assert len(study.read_rows(file.name.removesuffix(".csv"))) > 0


def test_sizes_are_found_by_chapter_and_profile(monkeypatch):
    monkeypatch.setitem(config.CHAPTERS, "00_toy", {"smoke": 1})
    assert config.load("00_toy", "smoke") == 1
    with pytest.raises(ValueError, match="profile must be one of 'smoke'"):
        config.load("00_toy", "huge")
    with pytest.raises(ValueError, match="chapter must be one of"):
        config.load("99_none", "smoke")


# -------------------------------------------------------- seeds crossed with instances

ENDS = (0, 1), (-1, 1)


@given(st.data(), st.sampled_from(ENDS), st.integers(1, 4), st.integers(1, 30))
def test_crossed_interval_holds_its_mean_and_stays_on_the_scale(data, ends, s, n):
    score = st.integers(*ends)
    values = np.array(data.draw(st.lists(score, min_size=s * n, max_size=s * n)))
    low, high = study.crossed_interval(values.reshape(s, n), ends)
    assert ends[0] <= low <= values.mean() <= high <= ends[1]
    assert high - low > 1 / (n + 2)  # scores that agree leave doubt
    mirrored = study.crossed_interval(sum(ends) - values.reshape(s, n), ends)
    assert mirrored == pytest.approx((sum(ends) - high, sum(ends) - low))


@pytest.mark.parametrize("ends", ENDS)
def test_crossed_interval_is_welchs_of_seeds_and_instances(ends):
    """Of scores with an instance added at either end: scipy's interval, cut."""
    for s, n in ((2, 12), (3, 100), (5, 40)):
        values = np.random.default_rng(n).integers(*ends, (s, n), endpoint=True)
        more = np.pad(values, ((0, 0), (1, 1)), constant_values=(ends,))
        seeds, instances = more.mean(1), more.mean(0)
        welch = stats.ttest_ind(seeds, more.mean() - instances, equal_var=False)
        wanted = np.clip(welch.confidence_interval(0.95), *ends)
        assert study.crossed_interval(values, ends) == pytest.approx(wanted)


def test_crossed_interval_of_one_seed_is_over_instances():
    values = np.random.default_rng(1).integers(0, 2, 200)
    wanted = study.mean_interval([0, *values, 1])
    assert study.crossed_interval(values[None]) == pytest.approx(wanted)


def test_crossed_interval_is_elementwise():
    values = np.random.default_rng(2).integers(0, 2, (4, 5, 3, 20))
    low, high = study.crossed_interval(values)
    assert low.shape == high.shape == (4, 5)
    assert (low[1, 2], high[1, 2]) == pytest.approx(
        study.crossed_interval(values[1, 2])
    )


def _latent(rng, s, n, of_seeds, of_instances):
    """Normal numbers [1000, S, N]; seeds and instances have these shares of variance.

    A score is right where its number is below the quantile of the rate.
    """
    rest = 1 - of_seeds - of_instances
    sizes = {(1000, s, 1): of_seeds, (1000, 1, n): of_instances, (1000, s, n): rest}
    return sum(np.sqrt(a) * rng.normal(size=size) for size, a in sizes.items())


def _coverage(interval, truth):
    """Of 1000 intervals: one standard error is below 0.9 %."""
    low, high = interval
    return ((low <= truth) & (truth <= high)).mean(-1)


@pytest.mark.slow
@pytest.mark.parametrize("s", [3, 5])
@pytest.mark.parametrize("n", [50, 100, 400])
def test_intervals_of_rates_cover_near_one(s, n):
    """The docstring's coverage, less two standard errors, and widths like Wilson's."""
    rng = np.random.default_rng(s * n)
    rates = np.array([0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1])[:, None]
    quantiles = stats.norm.ppf(rates)[..., None, None]
    for of_instances in (0, 0.5, 0.9):
        # as shares of variance, standard deviations of 0.0, 0.04, 0.08 at a rate of 0.5
        for of_seeds, least in ((0, 0.925), (0.01, 0.925), (0.04, 0.9)):
            latent = _latent(rng, s, n, of_seeds, of_instances)
            low, high = study.crossed_interval(latent < quantiles)  # [rates, runs]
            assert _coverage((low, high), rates).min() > least
            if of_seeds == 0:  # no wider than Wilson's of one seed
                wilson = np.subtract(*study.wilson(rates * n, n)[::-1])
                assert np.all((high - low).mean(1) < 1.5 * wilson[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", [(0.5, 0.4), (0.9, 0.9), (0.99, 0.95), (1, 1), (1, 0.99), (1, 0.97)]
)
@pytest.mark.parametrize("shared", [0.5, 0.95])
def test_intervals_of_paired_differences_cover_near_zero(pair, shared):
    """Of two rates on the same seeds and instances."""
    rng = np.random.default_rng(7)
    for s, n in ((3, 100), (5, 100), (3, 400)):
        both, *own = (_latent(rng, s, n, 0.02, 0.5) for _ in range(3))
        one, two = (
            np.sqrt(shared) * both + np.sqrt(1 - shared) * mine < stats.norm.ppf(rate)
            for mine, rate in zip(own, pair, strict=True)
        )
        found = study.crossed_interval(one.astype(int) - two, (-1, 1))
        assert _coverage(found, pair[0] - pair[1]) > 0.925


def test_crossed_interval_checks_its_numbers():
    with pytest.raises(ValueError, match=r"values must be \[seeds, instances\]"):
        study.crossed_interval([0.0, 1.0])
    with pytest.raises(ValueError, match="values must lie between 0 and 1"):
        study.crossed_interval([[0.0, 2.0]], (0, 1))
    with pytest.raises(ValueError, match="ends must be the lowest and the highest"):
        study.crossed_interval([[0.0, 1.0]], (1, 0))
    with pytest.raises(ValueError, match="seed must be at least 0"):
        study.bootstrap_interval([0.0, 1.0], seed=-1)
