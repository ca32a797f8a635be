"""Training on all tasks: the twins are twins, and what ships is what was trained."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import Generator

from dllm_tutorial import pretrained, study, tasks, train_tasks, training
from dllm_tutorial.tasks import PROMPT_LENGTH
from dllm_tutorial.train_tasks import Budget, Run
from test_train_text import check_kills

TINY = {
    "cpu": Budget(4, 2, 1e-3, 64, 1, 2, evaluate_every=2, data=64),
    "tuned": Budget(2, 2, 1e-2, 64, 1, 2, evaluate_every=2, rank=2, data=64),
}
FEW = {
    "half-0": Run("dllm", "cpu", 0, bits=8),
    "dllm-0": Run("dllm", "cpu", 0, "half-0"),
    "ar-0": Run("ar", "cpu", 0),
    "tuned-copy-0": Run("dllm", "tuned", 0, "dllm-0", ("copy",)),
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Four runs of seconds; their results go to a folder of this test."""
    for name, value in {"BUDGETS": TINY, "RUNS": FEW, "PROBES": 2}.items():
        monkeypatch.setattr(train_tasks, name, value)
    monkeypatch.setattr(train_tasks, "CURVES", {"task_curves": list(FEW)})
    monkeypatch.setattr(study, "_git", lambda *command: "")  # a clean checkout
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "weights")
    return tmp_path


def test_runs_are_trained_once_and_shipped(small):
    out = ["--out", str(small / "runs")]
    train_tasks.main(["half-0", *out])
    assert train_tasks.finished("half-0", small / "runs")
    assert not train_tasks.finished("ar-0", small / "runs")
    first = (small / "runs" / "half-0" / "checkpoint.json").read_bytes()
    train_tasks.main([*out, "--ship"])
    assert (small / "runs" / "half-0" / "checkpoint.json").read_bytes() == first
    curves = pd.read_csv(small / "results" / "task_curves.csv")
    shown = curves.groupby("run")["step"].unique().map(list).to_dict()
    whole = {name: [2, 4] for name in ("half-0", "dllm-0", "ar-0")}
    assert shown == whole | {"tuned-copy-0": [2]}
    assert set(curves[curves["run"] == "ar-0"]["task"]) == set(tasks.TRAINED)
    assert set(curves[curves["run"] == "tuned-copy-0"]["task"]) == {"copy"}
    x = torch.randint(len(tasks.VOCABULARY), (2, 50))
    for name in ("half-0", "dllm-0", "ar-0"):
        model, about = pretrained.load_network(f"tasks-{name}")
        trained = train_tasks.network(FEW[name]).eval()
        trained.load_state_dict(training.averaged_weights(small / "runs" / name)[0])
        torch.testing.assert_close(model(x), trained(x), atol=0.02, rtol=0.02)
        assert about["step"] == 4 and about["vocabulary"]
    changed = [pretrained.load_network(f"tasks-{m}-0")[0](x) for m in ("half", "dllm")]
    assert not torch.equal(*changed)
    tuned, _ = pretrained.load_network("tasks-tuned-copy-0")
    base, _ = pretrained.load_network("tasks-dllm-0")
    assert not torch.equal(tuned(x), base(x))
    assert torch.equal(tuned.embed.weight, base.embed.weight)
    with pytest.raises(SystemExit):
        train_tasks.main(["walk", *out])


def test_curves_ship_with_all_of_their_runs_or_not_at_all(small):
    out = ["--out", str(small / "runs")]
    train_tasks.main(["half-0", *out, "--ship"])
    file = small / "results" / "task_curves.csv"
    assert (small / "weights" / "tasks-half-0.json").exists() and not file.exists()
    train_tasks.main([*out, "--ship"])
    rows, origin = pd.read_csv(file), json.loads(file.with_suffix(".json").read_bytes())
    assert origin["dirty"] is False and origin["seeds"] == [0]
    used = rows.groupby("run")["weights"].unique().map(list).to_dict()
    assert used == {name: [pretrained.weights_hash(f"tasks-{name}")] for name in FEW}
    assert origin["weights"] == sorted(hash for (hash,) in used.values())


def test_what_was_trained_with_changes_does_not_ship(small, monkeypatch):
    out = ["--out", str(small / "runs")]
    monkeypatch.setattr(study, "_git", lambda *command: " M joints.py")
    train_tasks.main(["half-0", *out])
    with pytest.raises(SystemExit):  # nor does it begin to
        train_tasks.main([*out, "--ship"])
    monkeypatch.setattr(study, "_git", lambda *command: "")
    with pytest.raises(ValueError, match="at one commit without changes"):
        train_tasks.main(["half-0", *out, "--ship"])
    assert not (small / "weights").exists()


def test_a_kill_at_any_moment_of_writing_changes_no_row_of_the_curve(
    small, monkeypatch
):
    run = Run("dllm", "cpu", 0, tasks=("copy", "sort"))
    moments = check_kills(
        lambda folder: train_tasks.train(run, folder, "cpu"), small, monkeypatch
    )
    assert moments == 14


def test_a_run_goes_on_from_what_ships_where_the_folder_lacks_it(tmp_path):
    run = Run("dllm", "long", 0, "dllm-0", ("copy",))
    expected = pretrained.load_network("tasks-dllm-0")[0].state_dict()
    found = train_tasks.begin(run, tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("seed", train_tasks.SEEDS)
def test_the_twins_differ_in_nothing_but_who_may_look_at_whom(seed):
    half, ar = (train_tasks.RUNS[f"{model}-{seed}"] for model in ("half", "ar"))
    assert train_tasks.plan(half) == train_tasks.plan(ar)
    one, other = (train_tasks.network(run) for run in (half, ar))
    for (name, a), (same, b) in zip(
        one.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert name == same and torch.equal(a, b)
    kinds = one.config.attention, other.config.attention
    assert kinds == ("bidirectional", "causal")


def test_the_larger_twins_have_one_start_and_equal_supervision():
    """Half of the answers' tokens are masked on average, in twice as many updates."""
    large, twin = (train_tasks.RUNS[f"{name}-0"] for name in ("large", "twin"))
    plans = [train_tasks.plan(run) for run in (large, twin)]
    assert plans[0] == replace(plans[1], steps=2 * plans[1].steps)
    data = [train_tasks.BUDGETS[run.budget].data for run in (large, twin)]
    assert large.tasks == twin.tasks and data[0] == data[1]
    one, other = (train_tasks.network(run).state_dict() for run in (large, twin))
    assert all(torch.equal(one[name], other[name]) for name in other)
    size = sum(value.numel() for value in one.values())
    assert 9e6 < size < 50e6


def test_the_causal_loss_is_the_answers_negative_log_probability():
    model = train_tasks.network(Run("ar", "cpu", 0)).double().eval()
    x = tasks.dataset(3, Generator().manual_seed(0))
    given = model(x).log_softmax(-1)
    nll = 0.0
    for row, position in itertools.product(range(3), range(PROMPT_LENGTH, x.shape[1])):
        nll -= given[row, position, x[row, position]].item()
    loss = train_tasks.answer_loss(model, x, Generator())
    assert loss.item() == pytest.approx(nll / 3 / tasks.ANSWER_LENGTH, rel=1e-9)


def test_the_diffusion_loss_never_masks_a_prompt():
    seen = []

    class Spy(torch.nn.Module):
        config = train_tasks.network(Run("dllm", "cpu", 0)).config
        mask_id = tasks.MASK

        def forward(self, x):
            seen.append(x)
            return torch.zeros(*x.shape, len(tasks.VOCABULARY))

    x = tasks.dataset(64, Generator().manual_seed(0))
    loss = train_tasks.answer_loss(Spy(), x, Generator().manual_seed(1))
    masked = torch.cat(seen) == tasks.MASK
    assert not masked[:, :PROMPT_LENGTH].any() and masked[:, PROMPT_LENGTH:].any()
    # uniform predictions: every masked token costs log V, so the bound is exact
    uniform = torch.tensor(len(tasks.VOCABULARY)).log()
    torch.testing.assert_close(loss, uniform)


def test_one_at_a_time_counts_what_an_oracle_gets_right():
    task = tasks.make("sort")
    drawn = task.draw(6, generator=Generator().manual_seed(0))
    joint = task.joint(drawn)

    class Known(torch.nn.Module):
        config = train_tasks.network(Run("dllm", "cpu", 0)).config
        mask_id = tasks.MASK

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return joint(x)

    assert train_tasks.one_at_a_time(Known(), task, 6).all()


# --- what ships


SHIPPED = sorted(path.stem for path in pretrained.FOLDER.glob("tasks-*.json"))


def test_everything_that_is_trained_ships():
    assert sorted(f"tasks-{name}" for name in train_tasks.RUNS) == SHIPPED
    size = sum(path.stat().st_size for path in pretrained.FOLDER.iterdir())
    assert size < 30e6


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_of_the_run_that_is_listed(name):
    about = json.loads((pretrained.FOLDER / f"{name}.json").read_bytes())["about"]
    run = train_tasks.RUNS[name.removeprefix("tasks-")]
    # a setting that came later has its default
    assert training.TrainingConfig(**about["training"]) == train_tasks.plan(run)
    assert about["step"] == train_tasks.BUDGETS[run.budget].steps
    assert about["model"] == vars(train_tasks.network(run).config)
    assert about["vocabulary"] == train_tasks.vocabulary_hash()


@pytest.mark.parametrize(("name", "runs"), train_tasks.CURVES.items())
def test_curves_cover_their_runs_to_the_end(name, runs):
    curves = study.read_rows(name)
    last = curves.groupby("run")["step"].max().to_dict()
    plans = {run: train_tasks.plan(train_tasks.RUNS[run]) for run in runs}
    assert last == {run: plan.steps for run, plan in plans.items()}
    assert (curves["correct"] <= curves["n"]).all()
