"""A grid of settings, measured cell by cell into tidy rows, that survives a kill.

A *cell* is one combination of settings and ``measure(cell)`` returns its rows. A run
measures the cells that have no file yet in its folder, on any executor of
``concurrent.futures``, and returns the rows of all::

    cells = grid.product(task=["shuffle", "sort"], k=[1, 2, 4], seed=[0, 1])
    with grid.workers(2) as pool:
        rows = grid.run(
            cells, measure, "runs/toy", executor=pool, command="make toy", seeds=[0, 1]
        )
    study.write_rows("toy.csv", rows, rows.attrs)

A cell's file is written whole or not at all, by the process that calls :func:`run` and
as soon as the rows are known. A kill at any moment loses the cells that were being
measured and nothing else; the same call again measures what is missing.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dllm_tutorial import _checks, _files, study

__all__ = ["Cell", "FailedCells", "cell_seed", "folder", "product", "run", "workers"]

Measure = Callable[[Any], list[dict[str, Any]]]
Record = dict[str, Any]  # what the file of a cell holds

WHERE = ("commit", "dirty", "device", "threads", "python", "torch", "package")
SHOWN = 10  # failed cells that an error lists
_FOLDER: ContextVar[Path | None] = ContextVar("folder", default=None)


# ------------------------------------------------------------------------------ cells


def _plain(value: Any, name: str) -> Any:
    """A value that JSON keeps to the last bit; numpy's scalars become Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is not None and type(value) not in (str, int, float, bool):
        raise TypeError(
            f"{name} must be a string, a number, a bool or None, got a "
            f"{type(value).__name__}"
        )
    return value


class Cell(Mapping[str, Any]):
    """One combination of settings: a frozen mapping of names to plain values.

    Cells are equal if their settings are, in whatever order: numbers by their value, 1
    and 1.0 alike, but a bool is no number. Equal cells have one seed and one file. They
    can be keys of a dict and travel between processes.

    Parameters
    ----------
    settings : mapping or iterable of pairs
        Names and strings, finite numbers, bools or None. Anything else raises an
        error that names the setting.
    """

    def __init__(self, settings: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        try:
            given = dict(settings)
        except (TypeError, ValueError):
            raise TypeError(
                f"a cell must be a mapping of names to values, got {settings!r}"
            ) from None
        for name in given:
            _checks.string(name, "name of a setting")
        self._settings = {k: _plain(v, k) for k, v in given.items()}
        for name, value in self._settings.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        self._key = _digest(self._settings)

    def __getitem__(self, name: str) -> Any:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        try:
            return self._key == Cell(other)._key
        except (TypeError, ValueError):  # what no cell can hold
            return False

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Cell({self._settings})"


def product(
    valid: Callable[[Cell], bool] | None = None, /, **axes: Iterable[Any]
) -> list[Cell]:
    """All combinations of the axes' values, the last axis running fastest.

    Parameters
    ----------
    valid : callable, optional
        Combinations for which it is false are left out.
    axes
        Values of each setting; None says that a cell has none. Grids of different
        shape are put together by adding lists.
    """
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"{name} must be an iterable of values, got {values!r}")
    cells = [Cell(zip(axes, v, strict=True)) for v in itertools.product(*axes.values())]
    return [cell for cell in cells if valid is None or valid(cell)]


def cell_seed(
    cell: Mapping[str, Any], seed: int = 0, *, exclude: Iterable[str] = ()
) -> int:
    """Seed of a cell, from 0 to 2^63 - 1: a hash of its settings and ``seed``.

    It does not depend on order, executor or what else the grid holds.

    Parameters
    ----------
    cell : mapping
    seed : int
    exclude : iterable of str
        Settings that do not count: cells that differ in these alone share their seed,
        and with it instances and noise, so that they can be compared in pairs.
    """
    settings = dict(Cell(cell))
    for name in exclude:
        _checks.one_of(name, "exclude", tuple(cell))
        settings.pop(name, None)
    digest = _digest([_checks.integer(seed, "seed"), settings])
    return int(digest[:16], 16) >> 1


def _digest(content: Any) -> str:
    """128 bits in hexadecimal of anything that JSON can write, equal for equal ones."""
    text = json.dumps(_one_spelling(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _one_spelling(content: Any) -> Any:
    """The same with whole numbers as integers: 1.0 as 1, and -0.0 as 0."""
    if isinstance(content, Mapping):
        return {name: _one_spelling(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_one_spelling(value) for value in content]
    whole = isinstance(content, float) and content.is_integer()
    return int(content) if whole else content


# -------------------------------------------------------------------------------- run


class FailedCells(RuntimeError):
    """Some cells could not be measured; the rows of all others are in the folder.

    Attributes
    ----------
    cells : list of Cell
    """

    def __init__(self, message: str, cells: Sequence[Cell] = ()) -> None:
        super().__init__(message)
        self.cells = list(cells)


def run(
    cells: Iterable[Mapping[str, Any]],
    measure: Measure,
    folder: str | Path,
    *,
    command: str,
    seeds: int | Sequence[int],
    version: str | int | None = None,
    executor: Executor | None = None,
    in_flight: int = 128,
    cost: Callable[[Cell], float] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure the cells that are not finished yet and return the rows of all.

    Parameters
    ----------
    cells : iterable of mappings
        Distinct settings, for instance from :func:`product`.
    measure : callable
        ``measure(cell)`` returns a list of rows, dicts of plain values without the
        cell's own settings. For an executor of processes it has to be a function of a
        module. Its randomness should come from :func:`cell_seed`.
    folder : str or Path
        Where finished cells are kept, a JSON file each. It belongs to one grid, which
        may grow, and to one run at a time.
    command, seeds
        See :func:`dllm_tutorial.study.provenance`.
    version : str or int, optional
        Whatever else the rows depend on, such as a hash of weights. Rows of another
        version are not taken for these.
    executor : concurrent.futures.Executor, optional
        Where cells are measured: :func:`workers`, threads, Dask's
        ``Client(...).get_executor(pure=False)`` and so on; None is this process. It is
        not shut down.
    in_flight : int
        Largest number of cells handed to the executor at a time; not less than its
        number of workers.
    cost : callable, optional
        Work in a cell, positive, in any unit; it makes the time left a better estimate.
    progress : bool
        Whether to show a bar with the time left.

    Returns
    -------
    DataFrame
        The rows in the order of ``cells``, settings first. ``.attrs`` is their
        provenance, for :func:`dllm_tutorial.study.write_rows`: where the cells were
        measured at one commit and in one environment it tells those, otherwise
        ``measured`` lists them with the number of cells of each, and there is no one
        ``commit``. ``time`` is that of the last cell.

    Raises
    ------
    ValueError
        If cells repeat, or if the folder holds cells of another measure, of another
        version or from outside the grid; no file there is changed then.
    FailedCells
        After all cells were tried, if some of them raised. The next run tries these
        again.
    RuntimeError
        If another run is filling the folder.
    """
    grid = _distinct(cells)
    owner = {"measure": _name(measure), **Cell({"version": version})}
    _checks.integer(in_flight, "in_flight", 1)
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(f"executor must be an Executor or None, got {executor!r}")
    origin = study.provenance(command, seeds)
    work = {cell: _work(cost, cell) for cell in grid}
    folder = Path(folder)
    files = {cell: folder / f"{_digest([owner, dict(cell)])}.json" for cell in grid}
    failed: list[Cell] = []
    first = ""
    with _files.locked(folder):
        done = _finished(folder, files, owner)
        left = [cell for cell in grid if cell not in done]
        with _bar(work, done, progress) as bar:
            for cell, outcome in _outcomes(executor, measure, left, folder, in_flight):
                if "error" in outcome:
                    failed.append(cell)
                    first = first or outcome["error"]
                else:
                    done[cell] = owner | {"cell": dict(cell)} | outcome
                    _files.write_whole(files[cell], json.dumps(done[cell]).encode())
                bar.set_description_str(_counts(done, failed, work), refresh=False)
                bar.update(work[cell])
    if failed:
        raise FailedCells(_complaint(failed, grid, first), failed)
    return _table(grid, done, origin)


def _distinct(cells: Iterable[Mapping[str, Any]]) -> list[Cell]:
    listed = [Cell(cell) for cell in cells]
    if not listed:
        raise ValueError("cells must not be empty")
    seen: set[Cell] = set()
    for cell in listed:
        if cell in seen:
            raise ValueError(f"cells must be distinct, got twice {cell}")
        seen.add(cell)
    return listed


def _name(measure: Measure) -> str:
    """Module and name of a function, the same where its module is run as a program."""
    name = getattr(measure, "__qualname__", None)
    if name is None or inspect.ismethod(measure):
        raise TypeError(
            "measure must be a function, so that its rows can be told from others, got "
            f"{measure!r}; what it is bound to belongs into the cells"
        )
    module = measure.__module__
    if module == "__main__":
        main = sys.modules[module]
        file = getattr(main, "__file__", module)
        module = main.__spec__.name if main.__spec__ else Path(file).stem
    return f"{module}.{name}"


def _work(cost: Callable[[Cell], float] | None, cell: Cell) -> float:
    work = 1.0 if cost is None else _checks.function(cost, "cost")(cell)
    return _checks.number(work, "cost", 0, open_left=True, open_right=True)


# ----------------------------------------------------------------- what a folder holds


def _finished(
    folder: Path, files: Mapping[Cell, Path], owner: Record
) -> dict[Cell, Record]:
    """The records of finished cells, by the files that are whole.

    A draft that a kill left is overwritten when its cell is measured.
    """
    cells = {path.name: cell for cell, path in files.items()}
    found = sorted(folder.glob("*.json"))
    for path in found:
        if path.name not in cells or path.is_dir():
            raise ValueError(_foreign(path, owner))
    done = {}
    for path in found:
        cell, record = cells[path.name], _read(path)
        if _is_whole(record, owner, cell):
            done[cell] = record
        else:
            path.unlink()
            warnings.warn(f"{path} was damaged: {cell} is measured again", stacklevel=3)
    return done


def _read(path: Path) -> Record:
    """What a file holds, {} if it was cut off."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError, IsADirectoryError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_whole(record: Record, owner: Record, cell: Cell) -> bool:
    """Whether a record has all that :func:`run` wrote for the cell."""
    try:
        _plain_rows(record.get("rows"), cell)
    except (TypeError, ValueError):
        return False
    expected = owner | {"cell": dict(cell)}
    known = isinstance(record.get("where"), dict) and isinstance(
        record.get("time"), str
    )
    return known and expected.items() <= record.items()


def _foreign(path: Path, owner: Record) -> str:
    record = _read(path)
    theirs = {key: record.get(key) for key in owner}
    if theirs["measure"] is None:
        return f"folder must hold cells of {owner} only, found {path}"
    if theirs != owner:
        return f"folder must belong to {owner}, but {path.parent} holds {theirs}"
    cell = record.get("cell")
    return f"folder must hold cells of this grid only, {path.parent} also has {cell}"


# -------------------------------------------------------------------------- measuring


def folder() -> Path | None:
    """The folder of the run whose cell is being measured, None outside of a run.

    What a cell wants to keep beside its rows, such as a network, goes into a folder
    there, whole or not at all.
    """
    return _FOLDER.get()


def workers(n: int, threads: int = 1) -> ProcessPoolExecutor:
    """``n`` processes with ``threads`` torch threads each.

    They start afresh, so a program that calls this needs the usual
    ``if __name__ == "__main__"``, and they end when the calling process does, even by
    a kill, which processes of a plain pool do not.
    """
    _checks.integer(threads, "threads", 1)
    return ProcessPoolExecutor(
        _checks.integer(n, "n", 1),
        multiprocessing.get_context("spawn"),
        _start_worker,
        (threads,),
    )


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _outcomes(
    executor: Executor | None,
    measure: Measure,
    cells: Iterable[Cell],
    folder: Path,
    in_flight: int,
) -> Iterator[tuple[Cell, Record]]:
    """Cells with their outcomes, as they are done."""
    if executor is None:
        for cell in cells:
            yield cell, _attempt(measure, cell, folder)
        return
    queue = iter(cells)
    waiting: dict[Future, Cell] = {}
    try:
        while True:
            for cell in itertools.islice(queue, in_flight - len(waiting)):
                waiting[_submit(executor, measure, cell, folder)] = cell
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), _result(future)
    finally:  # whoever stopped listening wants no more cells
        for future in waiting:
            future.cancel()


def _submit(executor: Executor, measure: Measure, cell: Cell, folder: Path) -> Future:
    try:
        return executor.submit(_attempt, measure, cell, folder)
    except BrokenExecutor as error:  # a worker was killed: no cell can be measured
        future: Future = Future()
        future.set_exception(error)
        return future


def _result(future: Future) -> Record:
    """The outcome of a cell; an executor that lost it is an error like others."""
    error = future.exception()
    if error is None:
        return future.result()
    return {"error": "".join(traceback.format_exception(error))}


def _attempt(measure: Measure, cell: Cell, folder: Path) -> Record:
    """Measure a cell where it is to be measured: rows, seconds, where and when, or the
    error."""
    before = _FOLDER.set(folder)
    try:
        start = time.perf_counter()
        rows = measure(cell)
        seconds = time.perf_counter() - start
        return {
            "rows": _plain_rows(rows, cell),
            "seconds": seconds,
            "where": _where(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    except Exception:
        return {"error": traceback.format_exc()}
    finally:
        _FOLDER.reset(before)


def _plain_rows(rows: Any, cell: Cell) -> list[Record]:
    if not isinstance(rows, list) or not all(isinstance(r, Mapping) for r in rows):
        raise TypeError(f"measure must return a list of dicts, got {rows!r}")
    for row in rows:
        if twice := [name for name in row if name in cell]:
            raise ValueError(f"rows must not repeat settings of the cell, got {twice}")
    return [{str(k): _plain(v, f"{k} of a row") for k, v in r.items()} for r in rows]


@functools.cache
def _where() -> Record:
    """Commit and environment of this process, asked for once."""
    origin = study.provenance("measure", ())
    return {name: origin[name] for name in WHERE}


# -------------------------------------------------------------------------- reporting


def _bar(work: Mapping[Cell, float], done: Mapping[Cell, Record], progress: bool):
    """A bar in units of work, whose time left comes from the work of this run."""
    return tqdm(
        desc=_counts(done, (), work),
        total=sum(work.values()),
        initial=sum(work[cell] for cell in done),
        disable=not progress,
        smoothing=0,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
    )


def _counts(done: Sized, failed: Sized, grid: Sized) -> str:
    counts = f"{len(done)}/{len(grid)} cells"
    return f"{counts}, {len(failed)} failed" if failed else counts


def _complaint(failed: Sequence[Cell], grid: Sequence[Cell], first: str) -> str:
    listed = [f"  {dict(cell)}" for cell in failed[:SHOWN]]
    if len(failed) > SHOWN:
        listed.append(f"  and {len(failed) - SHOWN} more")
    return "\n".join(
        [
            f"{len(failed)} of {len(grid)} cells failed, the rows of others are kept:",
            *listed,
            f"The first of them:\n{first}",
        ]
    )


def _table(
    grid: Sequence[Cell], done: Mapping[Cell, Record], origin: Record
) -> pd.DataFrame:
    rows = [dict(cell) | row for cell in grid for row in done[cell]["rows"]]
    names = dict.fromkeys(itertools.chain.from_iterable((*grid, *rows)))
    table = pd.DataFrame({n: _column([row.get(n) for row in rows]) for n in names})
    table.attrs = origin | _places(done)
    return table


def _column(values: list) -> pd.Series:
    """A column; whole numbers and bools stay what they are where some are missing."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    dtype = None
    if len(present) < len(values) and kinds == {int}:
        fits = all(-(2**63) <= value < 2**63 for value in present)
        dtype = "Int64" if fits else "object"
    elif len(present) < len(values) and kinds == {bool}:
        dtype = "boolean"
    return pd.Series(values, dtype=dtype)


def _places(done: Mapping[Cell, Record]) -> Record:
    """Where and when the cells were measured, for the provenance of the table."""
    counts: dict[str, int] = {}
    for record in done.values():
        place = json.dumps(record["where"])
        counts[place] = counts.get(place, 0) + 1
    last = {"time": max(record["time"] for record in done.values())}
    if len(counts) == 1:
        return json.loads(next(iter(counts))) | last
    several = [json.loads(place) | {"cells": n} for place, n in counts.items()]
    return dict.fromkeys(WHERE) | last | {"measured": several}
