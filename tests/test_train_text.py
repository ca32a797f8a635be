"""The training command, and whether its result rows agree with each other."""

from __future__ import annotations

import itertools
import json
import os

import pandas as pd
import pytest
import torch

from dllm_tutorial import pretrained, study, text, train_text, training


def test_one_run_from_the_command_line(tmp_path, monkeypatch):
    budget = train_text.Budget(3, 2, 16, 8, 1, 2, evaluate_every=2)
    run = train_text.Run("dllm", "tiny", 0, tokenizer="char")
    monkeypatch.setattr(train_text, "BUDGETS", {"tiny": budget})
    monkeypatch.setattr(train_text, "RUNS", {"run": run})
    few = text.split("held-out")[:1]
    monkeypatch.setattr(text, "split", lambda name: few)  # the tokenizer, too
    assert not train_text.finished(run, tmp_path / "run")
    train_text.main(["run", "--out", str(tmp_path)])
    assert train_text.finished(run, tmp_path / "run")
    curve = pd.read_csv(tmp_path / "run" / "curve.csv")
    assert curve["step"].tolist() == [2, 3]
    assert (curve["held_out_bits_per_character"] > 0).all()
    before = (tmp_path / "run" / "checkpoint.json").read_bytes()
    train_text.main(["run", "--out", str(tmp_path)])  # nothing is left to do
    assert (tmp_path / "run" / "checkpoint.json").read_bytes() == before
    with pytest.raises(SystemExit):
        train_text.main(["walk", "--out", str(tmp_path)])


def check_kills(train, folder, monkeypatch) -> int:
    """Die before and after each move of a file into place, go on, compare curves.

    ``train(folder)`` trains; returns the number of moments.
    """

    def curve(name):
        # of what is written the time alone may differ
        return pd.read_csv(folder / name / "curve.csv").drop(columns="cpu_seconds")

    train(folder / "whole")
    move = os.replace
    for moment in itertools.count():
        events = itertools.count()

        def dies(*names, moment=moment, events=events):
            if next(events) == moment:
                raise KeyboardInterrupt
            move(*names)
            if next(events) == moment:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", dies)
        try:
            train(folder / str(moment))
            return moment
        except KeyboardInterrupt:
            monkeypatch.setattr(os, "replace", move)
        train(folder / str(moment))
        pd.testing.assert_frame_equal(curve(str(moment)), curve("whole"))


def test_a_kill_at_any_moment_of_writing_changes_no_row_of_the_curve(
    tmp_path, monkeypatch
):
    budget = train_text.Budget(4, 2, 16, 8, 1, 2, evaluate_every=2)
    run = train_text.Run("ar", "tiny", 0, tokenizer="char")
    monkeypatch.setattr(train_text, "BUDGETS", {"tiny": budget})
    few = text.split("held-out")[:1]
    monkeypatch.setattr(text, "split", lambda name: few)
    monkeypatch.setattr(train_text.tqdm, "monitor_interval", 0)
    moments = check_kills(
        lambda folder: train_text.train(run, folder, "cpu"), tmp_path, monkeypatch
    )
    # where it was trained, then two points, each a row and the files of a checkpoint
    assert moments == 14


def test_gaps_are_differences_of_scores():
    scores, gaps = study.read_rows("text_held_out"), study.read_rows("text_gap")
    table = scores[scores["budget"] == "long"].pivot(
        index="seed", columns="model", values="bits_per_character"
    )
    for gap in gaps.itertuples():
        pair = table.loc[gap.seed]
        assert gap.gap_bits_per_character == pytest.approx(
            pair["dllm"] - pair["ar"], abs=3e-5
        )
    assert tuple(gaps["seed"]) == train_text.SEEDS


def test_twins_saw_the_same_budget():
    scores = study.read_rows("text_held_out")
    runs = scores[scores["budget"] == "long"]
    assert runs["model"].value_counts().to_dict() == {"dllm": 3, "ar": 3}
    matched = ["parameters", "tokens_seen", "windows", "characters"]
    assert (runs.groupby("seed")[matched].nunique() == 1).all(axis=None)
    size = train_text.BUDGETS["long"]
    curves = study.read_rows("text_curves")
    assert curves["step"].max() == size.steps
    assert (curves["tokens_seen"] == curves["step"] * size.tokens_per_step).all()


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_shipped_weights_are_of_the_run_that_is_listed(name):
    about = json.loads((pretrained.FOLDER / f"{name}.json").read_bytes())["about"]
    run = train_text.RUNS[f"{name}-long-{train_text.SHIPPED}"]
    # a setting that came later has its default
    assert training.TrainingConfig(**about["training"]) == train_text.plan(run)
    assert about["step"] == train_text.BUDGETS[run.budget].steps
    network = train_text.network(run)
    assert about["model"] == vars(network.config)
    again = train_text.network(run)
    assert torch.equal(network.head.weight, again.head.weight)
