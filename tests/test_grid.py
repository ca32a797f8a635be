"""A study is killed, broken and resumed, and ends in the rows of an undisturbed one."""

from __future__ import annotations

import collections
import json
import multiprocessing
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import toy_grid
from dllm_tutorial import grid, study
from toy_grid import CELLS

FORK = multiprocessing.get_context("fork")  # a process of its own without imports
IN_FLIGHT = 3


def run(cells, measure, folder, **options):
    """The arguments that hardly any test cares about."""
    usual = {"command": "toy", "seeds": 0, "progress": False}
    return grid.run(cells, measure, folder, **usual | options)


def square(cell):
    return [{"square": cell["k"] ** 2}]


def toy_cells(n):
    return grid.product(k=range(n))


def same(left, right):
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def forked_pool():
    return ProcessPoolExecutor(2, FORK, grid._start_worker, (1,))


def measured(log):
    """How often each cell was begun, by the log that the cells write."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    names = {str(sorted(cell.items())): cell for cell in CELLS}
    return collections.Counter(names[line] for line in lines)


def finished(folder):
    """Cells whose file is whole, read without the help of the package."""
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.json")]
    return {grid.Cell(json.loads(text)["cell"]) for text in texts}


@pytest.fixture(scope="module", autouse=True)
def _no_git():
    """Provenance without its commit: asking git takes longer than these grids."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "_git", lambda *command: None)
        yield


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setenv(toy_grid.LOG, str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of the toy grid, measured in this process in one go."""
    return run(CELLS, toy_grid.measure, tmp_path_factory.mktemp("undisturbed"))


# ------------------------------------------------------------------------------ kills


def kill_at(event, folder):
    """Run a small grid and die by SIGKILL at the given one of its writing's events.

    Each cell has three: its draft is half written, its draft is whole but not yet in
    place, and it is in place.
    """
    events = iter(range(1000))
    fsync, replace = os.fsync, os.replace

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def half_written(file):
        if next(events) == event:
            os.ftruncate(file, os.fstat(file).st_size // 2)
            die()
        fsync(file)

    def put_in_place(draft, path):
        if next(events) == event:
            die()
        replace(draft, path)
        if next(events) == event:
            die()

    os.fsync, os.replace = half_written, put_in_place
    run(CELLS[:4], toy_grid.measure, folder)


@pytest.mark.parametrize("event", range(3 * 4))
def test_a_kill_at_any_point_of_writing_loses_the_cell_in_work_alone(
    event, tmp_path, log, undisturbed
):
    folder = tmp_path / "cells"
    process = FORK.Process(target=kill_at, args=(event, folder))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    whole, (cell, point) = finished(folder), divmod(event, 3)
    assert whole == set(CELLS[: cell + (point == 2)])
    table = run(CELLS[:4], toy_grid.measure, folder)
    same(table, undisturbed[: len(table)])
    twice = set() if point == 2 else {CELLS[cell]}
    assert {c for c, n in measured(log).items() if n > 1} == twice
    assert not list(folder.glob("*.part")) and finished(folder) == set(CELLS[:4])


def run_in_two_processes(folder):
    with forked_pool() as pool:
        run(CELLS, toy_grid.measure, folder, executor=pool, in_flight=IN_FLIGHT)


def test_five_kills_at_random_moments_change_no_row(
    tmp_path, log, undisturbed, monkeypatch
):
    """Two processes measure; a cell is begun again only by a kill that hit it."""
    monkeypatch.setenv(toy_grid.PAUSE, "0.02")
    chance, folder = random.Random(0), tmp_path / "cells"
    for kill in range(5):
        before = finished(folder), measured(log)
        gone, alive = os.pipe()  # its end is read when all that hold it have died
        process = FORK.Process(target=run_in_two_processes, args=(folder,))
        process.start()
        os.close(alive)
        begun = before[1].total() + chance.randint(1, 6)
        while measured(log).total() < begun and process.is_alive():
            time.sleep(0.002)
        time.sleep(0.02 * chance.random())
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert select.select([gone], [], [], 30)[0], "workers outlived their program"
        os.close(gone)
        again = measured(log) - before[1]
        assert not again.keys() & before[0], "a finished cell was measured again"
        assert before[0] <= finished(folder)
        assert max(measured(log).values()) <= kill + 1
        lost = again.total() - len(finished(folder) - before[0])
        assert lost <= IN_FLIGHT
    whole = finished(folder)
    assert 0 < len(whole) < len(CELLS)
    # What a power failure may leave, beyond a kill: a file in place that was cut off.
    victim = next(folder.glob("*.json"))
    (folder / f"{victim.name}.part").write_text('{"measure": "toy', encoding="utf-8")
    victim.write_bytes(victim.read_bytes()[:100])
    before = measured(log)
    with pytest.warns(UserWarning, match="was damaged: Cell.* is measured again"):
        table = run(CELLS, toy_grid.measure, folder)
    same(table, undisturbed)
    assert (measured(log) - before).total() == len(CELLS) - len(whole) + 1


@pytest.mark.slow
def test_a_program_and_its_workers_end_by_a_kill_and_leave_what_is_finished(
    tmp_path, log, undisturbed
):
    """A fresh interpreter: hashes have another salt and the measure is in __main__."""
    folder, table = tmp_path / "cells", tmp_path / "rows.csv"
    command = [sys.executable, toy_grid.__file__, str(folder), str(table)]
    pause = os.environ | {toy_grid.PAUSE: "0.1"}
    with subprocess.Popen(command, env=pause, stdout=subprocess.PIPE) as program:
        while measured(log).total() < 4 and program.poll() is None:
            time.sleep(0.02)
        os.kill(program.pid, signal.SIGKILL)
        # Its end is read when all that hold it have died, the workers among them.
        assert program.communicate(timeout=30) == (b"", None)
    left = finished(folder)
    assert 0 < len(left) < len(CELLS) and not table.exists()
    records = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]
    assert {record["where"]["threads"] for record in records} == {1}
    same(run(CELLS, toy_grid.measure, folder), undisturbed)
    assert all(n == 1 for cell, n in measured(log).items() if cell in left)


@settings(max_examples=25)
@given(st.data())
def test_a_resumed_grid_equals_a_fresh_one(data):
    """Any grid, any part of it finished before, any order."""
    values = st.one_of(
        st.integers(-99, 99), st.floats(-9, 9), st.text(max_size=3), st.none()
    )
    axis = st.lists(values, min_size=1, max_size=4, unique=True)
    axes = data.draw(st.dictionaries(st.sampled_from("abc"), axis, min_size=1))
    cells = data.draw(st.permutations(grid.product(**axes)))
    part = data.draw(st.lists(st.sampled_from(cells), unique=True))
    calls = []

    def measure(cell):
        calls.append(cell)
        return [{"row": i, "hash": grid.cell_seed(cell, i)} for i in range(len(cell))]

    with tempfile.TemporaryDirectory() as fresh, tempfile.TemporaryDirectory() as again:
        whole = run(cells, measure, fresh)
        calls.clear()
        if part:
            run(part, measure, again)
        resumed = run(cells, measure, again)
    same(resumed, whole)
    assert len(calls) == len(set(calls)) == len(cells)
    for name in axes:  # against the cells themselves
        theirs = [cell[name] for cell in cells for _ in cell]
        for ours, value in zip(whole[name], theirs, strict=True):
            assert pd.isna(ours) if value is None else ours == value


# -------------------------------------------------------------------------- executors


@pytest.mark.parametrize("executor", [lambda: ThreadPoolExecutor(3), forked_pool])
def test_rows_do_not_depend_on_the_executor(executor, tmp_path, log, undisturbed):
    backwards = CELLS[::-1]
    with executor() as pool:
        run(backwards, toy_grid.measure, tmp_path / "cells", executor=pool)
        again = run(CELLS, toy_grid.measure, tmp_path / "cells", executor=pool)
    same(again, undisturbed)
    assert measured(log) == dict.fromkeys(CELLS, 1)


@pytest.mark.slow
def test_a_dask_cluster_measures_the_same_rows(tmp_path, undisturbed):
    """A scheduler and a worker process on the loopback address."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=tmp_path,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pool = client.get_executor(pure=False)
        table = run(CELLS, toy_grid.measure, tmp_path / "cells", executor=pool)
        assert "//127.0.0.1:" in cluster.scheduler_address
    same(table, undisturbed)


def test_cells_are_handed_out_a_few_at_a_time(tmp_path):
    class Counting(ThreadPoolExecutor):
        most, futures = 0, ()

        def submit(self, *arguments):
            future = super().submit(*arguments)
            self.futures = [f for f in (*self.futures, future) if not f.done()]
            self.most = max(self.most, len(self.futures))
            return future

    with Counting(2) as pool:
        run(toy_cells(100), square, tmp_path, executor=pool, in_flight=5)
    assert 2 <= pool.most <= 5


# ----------------------------------------------------------------------------- errors


@pytest.mark.parametrize("pool", [None, forked_pool])
def test_a_failing_cell_stops_no_other(pool, tmp_path):
    executor = pool and pool()
    with pytest.raises(grid.FailedCells) as caught:
        run(CELLS, toy_grid.measure_or_fail, tmp_path, executor=executor)
    if executor:
        executor.shutdown()
    assert set(caught.value.cells) == set(CELLS[::3])
    assert finished(tmp_path) == set(CELLS) - set(CELLS[::3])
    text = str(caught.value)
    assert f"{len(CELLS[::3])} of {len(CELLS)} cells failed" in text
    assert str(dict(caught.value.cells[0])) in text
    task = caught.value.cells[0]["task"]
    assert re.search(rf"Traceback .*ArithmeticError: no luck with {task}", text, re.S)


def test_failed_cells_are_tried_again(tmp_path):
    bad, calls = {2, 5}, []

    def measure(cell):
        calls.append(cell["k"])
        if cell["k"] in bad:
            raise KeyError("nothing")
        return square(cell)

    with pytest.raises(grid.FailedCells, match="2 of 7 cells failed"):
        run(toy_cells(7), measure, tmp_path)
    bad.clear()
    table = run(toy_cells(7), measure, tmp_path)
    assert table["square"].tolist() == [k**2 for k in range(7)]
    assert calls == [*range(7), 2, 5]


def die(cell):
    if cell["k"] == 3:
        os._exit(1)
    return square(cell)


def test_a_dead_worker_is_an_error_and_loses_nothing_finished(tmp_path):
    with forked_pool() as pool, pytest.raises(grid.FailedCells, match="BrokenProcess"):
        run(toy_cells(40), die, tmp_path, executor=pool, in_flight=2)
    left = {cell["k"] for cell in finished(tmp_path)}
    assert {0, 1} <= left and 3 not in left and len(left) < 40


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"p": 1}, r"TypeError: measure must return a list of dicts"),
        ([{"p": torch.tensor(1)}], "TypeError: p of a row must be .* got a Tensor"),
        ([{"k": 1}], r"ValueError: rows must not repeat settings .* got \['k'\]"),
    ],
)
def test_rows_that_are_no_rows_fail_their_cell(rows, message, tmp_path):
    with pytest.raises(grid.FailedCells, match=message):
        run(toy_cells(1), lambda cell: rows, tmp_path)


def test_a_folder_belongs_to_one_measure_one_version_and_one_grid(tmp_path):
    def other(cell):
        return square(cell)

    run(toy_cells(5), square, tmp_path, version="a")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    attempts = [
        (toy_cells(5), other, "a", "folder must belong to .*other.* holds .*square"),
        (toy_cells(5), square, "b", "folder must belong to .*'b'.* holds .*'a'"),
        (toy_cells(4), square, "a", r"of this grid only, .* also has \{'k': 4\}"),
    ]
    for cells, measure, version, message in attempts:
        with pytest.raises(ValueError, match=message):
            run(cells, measure, tmp_path, version=version)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(run(toy_cells(6), square, tmp_path, version="a")) == 6  # may grow
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"only, found .*notes\.json"):
        run(toy_cells(6), square, tmp_path, version="a")


def hold(folder, held, release):
    def measure(cell):
        held.set()
        release.wait(20)
        return square(cell)

    run(toy_cells(1), measure, folder)


def test_two_runs_cannot_fill_one_folder(tmp_path):
    held, release = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path, held, release))
    process.start()
    assert held.wait(20)
    with pytest.raises(RuntimeError, match="another run is filling"):
        run(toy_cells(1), square, tmp_path)
    release.set()
    process.join()
    assert process.exitcode == 0 and len(finished(tmp_path)) == 1


def test_two_threads_cannot_fill_one_folder(tmp_path):
    held, release = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold, args=(tmp_path, held, release))
    thread.start()
    assert held.wait(20)
    with pytest.raises(RuntimeError, match="another run is filling"):
        run(toy_cells(1), square, tmp_path)
    release.set()
    thread.join()
    hold(tmp_path, held, release)  # the lock is free again
    assert len(finished(tmp_path)) == 1


DAMAGED = {
    "no place": lambda record: {k: v for k, v in record.items() if k != "where"},
    "place": lambda record: record | {"where": "here"},
    "null": lambda record: record | {"rows": None},
    "string": lambda record: record | {"rows": "rows"},
    "numbers": lambda record: record | {"rows": [1]},
    "deep row": lambda record: record | {"rows": [{"square": [1]}]},
    "setting": lambda record: record | {"rows": [{"k": 1}]},
    "list": lambda record: [record],
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_file_that_is_json_and_no_cell_is_measured_again(damage, tmp_path):
    whole = run(toy_cells(2), square, tmp_path)
    victim = sorted(tmp_path.glob("*.json"))[0]
    record = json.loads(victim.read_bytes())
    victim.write_text(json.dumps(DAMAGED[damage](record)), encoding="utf-8")
    with pytest.warns(UserWarning, match="was damaged: Cell.* is measured again"):
        same(run(toy_cells(2), square, tmp_path), whole)
    again = json.loads(victim.read_bytes())
    assert again["rows"] == record["rows"] and again.keys() == record.keys()


def test_a_file_of_a_thousand_brackets_is_measured_again(tmp_path):
    whole = run(toy_cells(2), square, tmp_path)
    sorted(tmp_path.glob("*.json"))[0].write_text("[" * 100_000, encoding="utf-8")
    with pytest.warns(UserWarning, match="was damaged"):
        same(run(toy_cells(2), square, tmp_path), whole)


def test_a_folder_in_place_of_a_file_is_named_and_left_alone(tmp_path):
    run(toy_cells(2), square, tmp_path)
    victim = sorted(tmp_path.glob("*.json"))[0]
    victim.unlink()
    victim.mkdir()
    with pytest.raises(ValueError, match=f"cells of .* only, found {victim}"):
        run(toy_cells(2), square, tmp_path)
    assert victim.is_dir()


class Power:
    def __init__(self, n):
        self.n = n

    def measure(self, cell):
        return [{"power": cell["k"] ** self.n}]

    @classmethod
    def of_class(cls, cell):
        return [{"name": cls.__name__}]


def test_arguments_are_checked_before_anything_is_measured(tmp_path):
    def never(cell):
        raise AssertionError

    one = toy_cells(1)
    for cells in ([*one, {"k": 0}], [*one, {"k": 0.0}]):
        with pytest.raises(ValueError, match=r"cells must be distinct, got twice Cell"):
            run(cells, never, tmp_path)
    with pytest.raises(ValueError, match="cells must not be empty"):
        run([], never, tmp_path)
    with pytest.raises(ValueError, match="in_flight must be at least 1"):
        run(one, never, tmp_path, in_flight=0)
    with pytest.raises(ValueError, match=r"cost must lie in \(0"):
        run(one, never, tmp_path, cost=lambda cell: 0)
    with pytest.raises(TypeError, match="command must be a non-empty string"):
        run(one, never, tmp_path, command="")
    with pytest.raises(TypeError, match="version must be a string"):
        run(one, never, tmp_path, version=[1])
    for version in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="version must be finite"):
            run(one, never, tmp_path, version=version)
    for bound in (np.vectorize(never), Power(2).measure, Power.of_class):
        with pytest.raises(TypeError, match="measure must be a function"):
            run(one, bound, tmp_path)
    with pytest.raises(TypeError, match="executor must be an Executor or None, got 3"):
        run(one, never, tmp_path, executor=3)
    with pytest.raises(TypeError, match="cost must be callable, got 3"):
        run(one, never, tmp_path, cost=3)
    with pytest.raises(TypeError, match=r"a cell must be a mapping .* got 1"):
        run([1, 2], never, tmp_path)
    with pytest.raises(TypeError, match=r"name of a setting must be .* got 3"):
        run([{3: "k"}], never, tmp_path)
    with pytest.raises(ValueError, match="n must be at least 1"):
        grid.workers(0)


# ------------------------------------------------------------------- cells and seeds


def test_product_is_every_valid_combination_in_order():
    cells = grid.product(lambda c: c["k"] <= c["n"], n=range(1, 4), k=[1, 2, None][:2])
    assert [(c["n"], c["k"]) for c in cells] == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)]
    with pytest.raises(TypeError, match="task must be an iterable of values"):
        grid.product(task="sort")


@pytest.mark.parametrize("value", [object(), [1], (1, 2), {"a": 1}, torch.tensor(1)])
def test_a_setting_that_cannot_be_kept_is_named(value):
    with pytest.raises(TypeError, match=f"gamma must be .* {type(value).__name__}"):
        grid.product(task=["sort"], gamma=[0.5, value])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="gamma must be finite"):
        grid.Cell({"gamma": value})


def test_cells_are_frozen_and_equal_in_any_order():
    cell = grid.Cell({"n": np.int64(3), "gamma": np.float64(0.1)})
    assert cell == grid.Cell({"gamma": 0.1, "n": 3}) == {"n": 3, "gamma": 0.1}
    assert len({cell, grid.Cell({"gamma": 0.1, "n": 3})}) == 1
    with pytest.raises(TypeError):
        cell["n"] = 4
    with pytest.raises(KeyError):
        cell["k"]


def test_seeds_depend_on_settings_that_count_and_on_nothing_else():
    a = {"task": "sort", "k": 2, "rule": "random"}
    b = {"rule": "margin", "k": 2, "task": "sort"}
    assert grid.cell_seed(a) == grid.cell_seed(dict(reversed(a.items())))
    assert grid.cell_seed(a) != grid.cell_seed(b)
    assert grid.cell_seed(a) != grid.cell_seed(a, 1)
    assert grid.cell_seed(a) != grid.cell_seed(a | {"k": 3})
    paired = [grid.cell_seed(c, 5, exclude=["rule"]) for c in (a, b)]
    assert paired[0] == paired[1] != grid.cell_seed(a, 5)
    assert paired[0] != grid.cell_seed(a | {"k": 3}, 5, exclude=["rule"])
    with pytest.raises(ValueError, match="exclude must be one of 'task', 'k', 'rule'"):
        grid.cell_seed(a, exclude=["rules"])


def test_seeds_are_spread_evenly_over_63_bits():
    """Chi-square over 64 bins of the leading bits: p > 1e-4, cells are fixed."""
    seeds = [grid.cell_seed(cell) for cell in toy_cells(6400)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0 and max(seeds) < 2**63
    bins = np.bincount([seed >> 57 for seed in seeds], minlength=64)
    assert len(bins) == 64 and stats.chisquare(bins).pvalue > 1e-4
    torch.Generator().manual_seed(max(seeds))


# ----------------------------------------------------------- the table and its origin


def test_whole_numbers_stay_whole_where_some_are_missing(tmp_path):
    cells = [{"rule": "top", "k": 2**53 + 1}, {"rule": "threshold", "gamma": 0.9}]
    table = run(cells, lambda cell: [{"ok": True}, {"p": 0.5}], tmp_path)
    assert list(table) == ["rule", "k", "gamma", "ok", "p"]
    assert table["k"].dtype == "Int64" and table["k"][0] == 2**53 + 1
    assert table["ok"].dtype == "boolean" and table["ok"][0] is np.True_
    assert table["gamma"].dtype == table["p"].dtype == np.float64
    study.write_rows(tmp_path / "toy.csv", table, table.attrs)
    lines = (tmp_path / "toy.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1:3] == [f"top,{2**53 + 1},,True,", f"top,{2**53 + 1},,,0.5"]


@pytest.mark.parametrize("large", [2**63, -(2**63) - 1, 2**80])
def test_a_whole_number_of_any_size_may_be_missing_somewhere(large, tmp_path):
    cells = [{"k": 0, "n": large}, {"k": 1}]
    table = run(cells, lambda cell: [{"x": cell.get("n")}], tmp_path)
    assert table["n"].tolist() == table["x"].tolist() == [large, None]


def test_seconds_are_kept_beside_the_rows(tmp_path):
    def measure(cell):
        time.sleep(0.05)
        return square(cell)

    table = run(toy_cells(1), measure, tmp_path)
    (path,) = tmp_path.glob("*.json")
    assert 0.05 <= json.loads(path.read_bytes())["seconds"] < 5
    assert list(table) == ["k", "square"]


def test_provenance_tells_every_place_where_cells_were_measured(tmp_path, monkeypatch):
    def here(commit):
        monkeypatch.setattr(grid, "_where", lambda: {"commit": commit, "threads": 1})

    here("a" * 40)
    first = run(toy_cells(3), square, tmp_path, command="make toy", seeds=[4, 2])
    assert first.attrs["command"] == "make toy" and first.attrs["seeds"] == [4, 2]
    assert (first.attrs["commit"], first.attrs["threads"]) == ("a" * 40, 1)
    assert first.attrs.keys() == study.provenance("x", 0).keys()
    here("b" * 40)
    second = run(toy_cells(5), square, tmp_path)
    places = second.attrs["measured"]
    assert [(p["commit"][0], p["cells"]) for p in places] == [("a", 3), ("b", 2)]
    same(second[:3], first)


def test_time_left_is_estimated_from_the_work_of_this_run(tmp_path, monkeypatch):
    """The cell of before took no time; a cell's work counts, not its number."""
    seconds = {1: 10, 9: 180, 10: 0, 80: 0}  # 10 a unit of work, then 20
    clock, shown = [0.0], []

    def measure(cell):
        clock[0] += seconds[cell["k"]]
        return square(cell)

    class Bar(grid.tqdm):
        def update(self, n):
            super().update(n)
            shown.append(str(self))

    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    run([{"k": 80}], measure, tmp_path)
    monkeypatch.setattr(grid, "tqdm", Bar)
    cells = [{"k": k} for k in seconds]
    run(cells, measure, tmp_path, cost=lambda cell: cell["k"], progress=True)
    assert "2/4 cells  81%" in shown[0] and "00:10<03:10" in shown[0]
    assert "3/4 cells  90%" in shown[1] and "03:10<03:10" in shown[1]
    assert "4/4 cells 100%" in shown[2] and "03:10<00:00" in shown[2]


def test_the_bar_counts_failures_and_can_be_off(tmp_path, capsys):
    with pytest.raises(grid.FailedCells):
        run(CELLS, toy_grid.measure_or_fail, tmp_path, progress=True)
    assert "24/36 cells, 12 failed 100%" in capsys.readouterr().err
    with pytest.raises(grid.FailedCells):
        run(CELLS, toy_grid.measure_or_fail, tmp_path)
    assert capsys.readouterr().err == ""
