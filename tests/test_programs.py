"""Programs that measure: what they write, and what they refuse to ship."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

import dllm_tutorial
from dllm_tutorial import _programs, grid, study

PACKAGE = Path(dllm_tutorial.__file__).parent
PROGRAMS = sorted(
    path.stem
    for path in PACKAGE.glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
    and path.stem != "grid"
)
CELLS = grid.product(k=[1, 2, 3])


def measure(cell):
    if where := grid.folder():
        (where / "weights").mkdir(exist_ok=True)
        (where / "weights" / f"{cell['k']}.json").write_text("{}", encoding="utf-8")
    return [{"square": cell["k"] ** 2, "weights": "abc"}]


def run(words, monkeypatch, results):
    monkeypatch.setattr(study, "RESULTS", results)
    a = _programs.parse(_programs.grid_parser("Toy.", ["toy"]), words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "workers", lambda n: _Here())
        _programs.run_grids(
            a, {"toy": (CELLS, measure)}, command="toy", cost=lambda cell: 1.0
        )


class _Here:
    """No pool: cells are measured in this process."""

    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


@pytest.fixture
def changes(monkeypatch):
    """What git says of the checkout; a test sets it."""
    said = {"status": "", "rev-parse": "c" * 40}
    monkeypatch.setattr(study, "_git", lambda name, *rest: said[name])
    grid._where.cache_clear()
    yield said
    grid._where.cache_clear()


def test_there_are_programs():
    assert {"bench_study", "order_study", "gumbel", "train_tasks"} <= set(PROGRAMS)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("words", [["--help"], []], ids=["help", "nothing"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_help_prints_and_without_a_folder_nothing_is_done(
    name, words, tmp_path, monkeypatch, capsys
):
    """As ``python -m dllm_tutorial.name``, but for a start of Python each."""
    files = [path for path in (PACKAGE / "data").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as done:
        runpy.run_module(f"dllm_tutorial.{name}", run_name="__main__")
    assert done.value.code == (0 if words else 2)
    said = capsys.readouterr()
    assert "--out" in said.out + said.err
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert not list(tmp_path.iterdir())


def test_rows_go_to_the_folder_and_into_the_package_with_ship_alone(
    tmp_path, monkeypatch, changes
):
    package, out = tmp_path / "package" / "results", tmp_path / "out"
    run(["--out", str(out)], monkeypatch, package)
    assert (out / "toy.csv").exists() and not package.exists()
    run(["--out", str(out), "--ship"], monkeypatch, package)
    rows = pd.read_csv(package / "toy.csv")
    assert rows["square"].tolist() == [1, 4, 9]
    origin = json.loads((package / "toy.json").read_text(encoding="utf-8"))
    assert origin["commit"] == "c" * 40 and origin["dirty"] is False
    assert (
        origin["weights"] == ["abc"]
        and origin["command"] == "toy toy --out runs --ship"
    )
    kept = {path.name for path in (package / "networks").iterdir()}
    assert kept == {"1.json", "2.json", "3.json"}


def test_nothing_ships_from_a_checkout_with_changes(tmp_path, monkeypatch, changes):
    changes["status"] = " M dllm_tutorial/joints.py"
    with pytest.raises(SystemExit):
        run(["--out", str(tmp_path / "out"), "--ship"], monkeypatch, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("later", ["other commit", "other changes"])
def test_rows_of_two_states_of_the_code_do_not_ship(
    tmp_path, monkeypatch, changes, later
):
    """Two cells measured before, one after: spliced rows stay where they are."""
    folder = tmp_path / "out" / "toy"
    grid.run(
        CELLS[:2], measure, folder, command="x", seeds=0, version=None, progress=False
    )
    grid._where.cache_clear()
    if later == "other commit":
        changes["rev-parse"] = "d" * 40
    else:
        changes["status"] = " M x"
        run(["--out", str(tmp_path / "out")], monkeypatch, tmp_path / "results")
        changes["status"] = ""
    with pytest.raises(ValueError, match="of one commit without changes"):
        run(
            ["--out", str(tmp_path / "out"), "--ship"],
            monkeypatch,
            tmp_path / "results",
        )
    assert not (tmp_path / "results").exists()


def test_an_unknown_study_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        _programs.parse(
            _programs.grid_parser(None, ["toy"]), ["walk", "--out", str(tmp_path)]
        )
