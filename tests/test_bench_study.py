"""The benchmark study: its cells against closed forms and oracles, and under kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from scipy import stats

import small_study
from dllm_tutorial import (
    bench_study,
    exact,
    grid,
    study,
    tasks,
    train_tasks,
    training,
)
from dllm_tutorial.bench_study import cell, measure, measure_masks
from dllm_tutorial.decoding import Strategy

CLOSED = {
    "shuffle": exact.shuffle_accuracy,
    "replace_random": exact.replace_random_accuracy,
}


@pytest.mark.parametrize("name", bench_study.STUDIES)
def test_cells_are_distinct_and_name_rules_tasks_and_models_that_exist(name):
    cells = [grid.Cell(c) for c in bench_study.STUDIES[name][1]()]
    assert len(set(cells)) == len(cells) > 0
    assert {c["task"] for c in cells} <= set(tasks.NAMES)
    known = {"exact", *train_tasks.RUNS, *bench_study.staged_models()}
    assert {c["model"] for c in cells} <= known
    assert all(bench_study.steps(c) > 0 for c in cells)
    for c in {(c["rule"], c["value"]) for c in cells if "rule" in c}:
        assert isinstance(bench_study.rule(*c), Strategy)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("task", CLOSED)
def test_exact_cells_follow_the_closed_forms(task, k):
    """Six exact binomial tests, together wrong in one of 10^4 runs of other seeds."""
    n = 6 if k == 2 else 5
    settings = cell("exact", task, "random", k, n=n, temperature=1, known_length=True)
    [row] = measure(settings | {"instances": 400})
    p = CLOSED[task](n, k)
    if p > 1 - 1e-12:
        assert row["correct"] == 400
    else:
        assert stats.binomtest(row["correct"], 400, p).pvalue > 1e-4 / 6


def test_a_row_counts_what_its_digits_say():
    [row] = measure(cell("exact", "sort", "confidence", 8, instances=20))
    assert row["right"] == "1" * 20 and row["correct"] == 20
    assert row["calls"] == " ".join(["3"] * 20) and row["nfe"] == 3
    [row] = measure(cell("exact", "shuffle", "random", 24, instances=20))
    assert row["right"].count("1") == row["correct"] < 20


def test_the_end_is_given_where_the_length_is_known():
    one_by_one = cell("exact", "copy", "left_to_right", 1, n=4, instances=5)
    assert measure(one_by_one)[0]["nfe"] == tasks.ANSWER_LENGTH
    assert measure(one_by_one | {"known_length": True})[0]["nfe"] == 4


def test_cells_of_a_task_meet_the_same_instances():
    instances = bench_study.problems("sudoku", None, 10)[1]
    same = bench_study.problems.__wrapped__("sudoku", None, 10)[1]
    assert torch.equal(instances.prompts, same.prompts)
    assert tasks.base.in_test(instances.prompts).all()


class Oracle:
    """Knows one answer of each instance, except what stands at one position."""

    mask_id = tasks.MASK

    def __init__(self, instances: int, mistaken: int | None = None) -> None:
        task, drawn = bench_study.problems("replace_index", None, instances)
        answers = task.joint(drawn).sample(torch.Generator().manual_seed(1))
        if mistaken is not None:
            answers[:, mistaken] = tasks.PAD
        whole = torch.cat([drawn.prompts, answers], 1)
        self.logits = torch.nn.functional.one_hot(whole, len(tasks.VOCABULARY)) * 1e3

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize("masked", [1, 7, 24])
@pytest.mark.parametrize("mistaken", [None, 0, 23])
def test_masks_count_what_is_predicted_wrongly(masked, mistaken, monkeypatch):
    monkeypatch.setattr(bench_study, "load", lambda name: Oracle(40, mistaken))
    monkeypatch.setattr(bench_study, "weights", lambda name: "")
    settings = {"task": "replace_index", "masked": masked, "instances": 40}
    rows = pd.DataFrame(measure_masks(settings | {"model": "oracle"}))
    assert rows["tokens"].sum() == 40 * masked
    wrong = rows.groupby("position")[["tokens", "wrong"]].sum()
    hit = 0 if mistaken is None else wrong["tokens"][mistaken]
    assert wrong["wrong"].sum() == hit
    assert (rows["whole"] == 40 - hit).all()
    # a list is never empty and never longer than the longest that is trained
    listed = rows[rows["part"] == "list"].set_index("position")["tokens"]
    assert listed[max(tasks.LENGTHS) :].sum() == 0
    ended = rows[rows["part"] == "end"].set_index("position")["tokens"]
    assert ended[: min(tasks.LENGTHS)].sum() == 0


def test_the_last_stage_is_the_fine_tuned_network(tmp_path, monkeypatch):
    budget = train_tasks.BUDGETS["stages"]
    size = 6 * budget.batch_size
    budget = replace(budget, steps=6, evaluate_every=6, data=size)
    monkeypatch.setitem(train_tasks.BUDGETS, "stages", budget)
    monkeypatch.setattr(bench_study, "STAGES", (2, 6))
    monkeypatch.setattr(train_tasks, "PROBES", 1)
    found = bench_study.stages.__wrapped__(1)
    run = train_tasks.Run("dllm", "stages", 1, "dllm-1", (bench_study.STAGED,))
    train_tasks.train(run, tmp_path / "tuned", "cpu")
    after = training.averaged_weights(tmp_path / "tuned")[0]
    for name, value in found[6].state_dict().items():
        torch.testing.assert_close(value, after[name].half().float())
    last, first = (found[n].blocks[0].up.weight for n in (6, 2))
    start = bench_study.load("dllm-1").blocks[0].up.weight
    assert 0 < (first - start).norm() < (last - start).norm()


def test_a_version_belongs_to_the_models_that_are_measured(tmp_path, monkeypatch):
    def put(name, weights, **about):
        content = {"about": about, "sha256": weights}
        (tmp_path / f"tasks-{name}.json").write_text(
            json.dumps(content), encoding="utf-8"
        )

    for name in ("dllm-0", "ar-0", "long-0"):
        put(name, "first")
    put("tuned-copy-0", "first", base="tasks-dllm-0")
    monkeypatch.setattr(bench_study.pretrained, "FOLDER", tmp_path)
    cells = [{"model": "exact"}, {"model": "dllm-0"}, {"model": "stage40-0"}]
    before = bench_study.version(cells)
    adapted = bench_study.version([{"model": "tuned-copy-0"}])
    put("long-0", "other")
    assert bench_study.version(cells) == before
    assert bench_study.version([{"model": "stage40-0"}]) == before
    assert bench_study.version([{"model": "tuned-copy-0"}]) == adapted
    put("dllm-0", "other")
    assert bench_study.version(cells) != before
    assert bench_study.version([{"model": "tuned-copy-0"}]) != adapted


@pytest.mark.slow
def test_two_kills_end_in_the_rows_of_an_undisturbed_study(tmp_path):
    """SIGKILL to the command and its workers once some cells are there, twice."""
    command = [sys.executable, small_study.__file__, "--workers", "1"]
    command += ["--out", str(tmp_path / "out")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    cells = tmp_path / "out" / f"bench_small-{bench_study.version(small_study.CELLS)}"
    for fewest in (3, 8):
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        while process.poll() is None and len(list(cells.glob("*.json"))) < fewest:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not list((tmp_path / "out").glob("*.csv"))
    done = {path: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 8 <= len(done) < len(small_study.CELLS)
    subprocess.run(command, check=True, **quiet)
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    rows = [dict(c) | r for c in small_study.CELLS for r in measure(c)]
    table = pd.read_csv(tmp_path / "out" / "bench_small.csv", dtype=str)
    for row, line in zip(rows, table.to_dict("records"), strict=True):
        for column in ("task", "rule", "right", "calls", "correct"):
            assert line[column] == str(row[column])


def test_rows_of_exact_models_alone_do_not_replace_all(tmp_path, monkeypatch, capsys):
    cells = [cell("exact", "copy", "random", 24, instances=2)]
    monkeypatch.setattr(bench_study, "STUDIES", {"toy": (measure, lambda: cells)})
    monkeypatch.setattr(study, "_git", lambda *command: "")  # a clean checkout
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    with pytest.raises(SystemExit):
        bench_study.main(["--exact", "--ship", "--out", str(tmp_path / "out")])
    assert "--exact goes without --ship" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_study_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        bench_study.main(["bench_walk", "--out", str(tmp_path)])
