"""What runs on a GPU: as far as a pretended one can tell, and on a real one."""

from __future__ import annotations

import runpy
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

import dllm_tutorial
from dllm_tutorial import (
    config,
    counter_rng,
    joints,
    log_sum_study,
    losses,
    masking,
    measure,
    mixtures,
    order_study,
    orders,
    pretrained,
    tasks,
    training,
)
from dllm_tutorial.decoding import generate, loop, strategies
from dllm_tutorial.denoiser import NoisyDenoiser
from dllm_tutorial.networks import Transformer, TransformerConfig

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench_gpu

from pretend_gpu import GPU, OnGpu, PretendGpu

ROOT = Path(__file__).resolve().parents[1]
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def gpu(monkeypatch):
    """A pretended GPU that the chapters find."""
    monkeypatch.setattr(dllm_tutorial, "device", lambda: GPU)
    with PretendGpu() as pretended:
        yield pretended


@pytest.fixture
def strict(gpu):
    """While it lasts nothing may wait for the pretended GPU."""

    @contextmanager
    def no_waiting():
        gpu.waits = False
        try:
            yield
        finally:
            gpu.waits = True

    return no_waiting


# ------------------------------------------------------------------- the pretended GPU


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3)[x.long()],
        lambda x: x.numpy(),
        lambda x: torch.stack([x, torch.ones(3)]),
        lambda x: torch.rand(3, device=GPU, generator=seeded()),
        lambda x: x.uniform_(generator=seeded()),
    ],
)
def test_the_pretended_gpu_refuses_what_a_gpu_refuses(act, gpu):
    with pytest.raises((RuntimeError, TypeError)):
        act(torch.arange(3.0, device=GPU))


def test_the_pretended_gpu_computes(gpu):
    x = torch.arange(6.0).view(2, 3).to(GPU)
    x[0] = 7
    x[:, 1].add_(5)
    assert isinstance(x, OnGpu) and x.device == GPU
    assert x.tolist() == [[7, 12, 7], [3, 9, 5]]
    assert torch.equal(x[torch.tensor([1])].cpu(), torch.tensor([[3.0, 9.0, 5.0]]))
    assert torch.where(x > 6, x, 0.0).sum().item() == 35


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.cpu(),
        lambda x: torch.ones(3).to(GPU),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: torch.tensor([1.0], device=GPU),
    ],
)
def test_the_pretended_gpu_sees_who_waits(act, gpu, strict):
    x = torch.arange(3.0, device=GPU)
    act(x)
    with strict(), pytest.raises(RuntimeError, match="synchronizing"):
        act(x)


# --------------------------------------------------------------------- where things are


def test_the_device_is_the_gpu_if_there_is_one(monkeypatch):
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert dllm_tutorial.device() == torch.device(name)


@pytest.mark.parametrize("name", ["dllm", "tasks-half-0", "tasks-tuned-copy-0"])
def test_networks_come_on_the_device(name, monkeypatch):
    monkeypatch.setattr(dllm_tutorial, "device", lambda: torch.device("meta"))
    model, _ = pretrained.load_network(name)
    assert all(p.is_meta for p in model.parameters())
    model, _ = pretrained.load_network(name, "cpu")
    assert not any(p.is_meta for p in model.parameters())


CHAIN = joints.MarkovChain(torch.full((3, 3), 0.1).fill_diagonal_(0.8).double(), 8)
X = torch.arange(24).view(3, 8) % 3


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, joint: masking.forward(
            x, 0.5, dllm_tutorial.schedules.Linear(), 3, generator=seeded()
        ),
        lambda x, joint: masking.mask_exactly(
            x, torch.tensor([1, 2, 8], device=x.device), 3, generator=seeded()
        ),
        *(
            lambda x, joint, method=method: masking.draw_times(
                5, method, generator=seeded(), device=x.device
            )
            for method in masking.METHODS
        ),
        lambda x, joint: masking.draw_counts(5, 8, generator=seeded(), device=x.device),
        lambda x, joint: joint.sample(5, seeded()),
        lambda x, joint: NoisyDenoiser(joint, 1.0, 0.3, seeded())(x),
        lambda x, joint: losses.exact_count_loss(joint, x, generator=seeded()),
        lambda x, joint: losses.llada_loss(joint, x, generator=seeded()),
        lambda x, joint: losses.nelbo_estimate(joint, x, 4, generator=seeded()).value,
        lambda x, joint: losses.any_order_loss(joint, x, generator=seeded()),
        lambda x, joint: training.random_rows(x)(5, seeded()),
        lambda x, joint: training.random_crops(x.flatten(), 4)(5, seeded()),
        lambda x, joint: counter_rng.uniform(x[:, 0], 3, x[0], 1),
        lambda x, joint: (
            generate(
                joint,
                torch.full_like(x, 3),
                strategies.confidence_top_k(2),
                temperature=1.0,
                generator=seeded(),
            ).sequences
        ),
    ],
)
def test_a_generator_gives_the_same_numbers_on_a_gpu(draw, gpu):
    found = draw(X.to(GPU), CHAIN.to(GPU))
    assert isinstance(found, OnGpu)
    torch.testing.assert_close(found.cpu(), draw(X, CHAIN), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["shuffle", "copy", "w2s_easy", "sudoku"])
def test_tasks_draw_and_score_the_same_on_a_gpu(name, gpu):
    task = tasks.make(name)
    drawn = task.draw(3, generator=seeded())
    moved = drawn.to(GPU)
    answers = [task.joint(d).sample(seeded()) for d in (drawn, moved)]
    assert torch.equal(answers[0], answers[1].cpu())
    assert task.score(moved, answers[1]).tolist() == [True] * 3
    rule = strategies.confidence_top_k(4)
    assert torch.equal(
        *(generate(task.joint(d), task.inputs(d), rule).sequences.cpu()
          for d in (drawn, moved))
    )  # fmt: skip


# ----------------------------------------------------------------- trainings and sweeps


def untrained(attention, device):
    torch.manual_seed(0)
    positions = "learned" if attention == "any-order" else "rotary"
    shape = TransformerConfig(3, 8, 16, 1, 2, attention=attention, positions=positions)
    return Transformer(shape).double().to(device)


def mixture(device):
    torch.manual_seed(0)
    shape = TransformerConfig(
        3, 8, 16, 1, 2, attention="any-order", positions="learned"
    )
    both = torch.stack([orders.left_to_right(8), orders.right_to_left(8)])
    return mixtures.OrderMixture(shape, both).double().to(device)


TRAININGS = {
    "diffusion": (lambda d: untrained("bidirectional", d), training.natural_loss),
    "autoregressive": (lambda d: untrained("causal", d), training.natural_loss),
    "random orders": (
        lambda d: untrained("any-order", d),
        order_study.order_loss("uniform random", 8),
    ),
    "log-sum": (mixture, log_sum_study.method_loss("log-sum", 6)),
}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_the_same_on_a_gpu(name, optimizer, gpu):
    make, loss = TRAININGS[name]
    plan = training.TrainingConfig(6, 8, 1e-2, warmup=2, optimizer=optimizer)
    seen = []
    for device in ("cpu", GPU):
        model = make(device)
        records = training.train(model, CHAIN.sample, plan, loss=loss)
        seen.append([record.loss for record in records])
        assert {p.device for p in model.parameters()} == {torch.device(device)}
    assert seen[0] == pytest.approx(seen[1], rel=1e-9)


def test_a_sweep_is_the_same_on_a_gpu(gpu):
    joint, rule = joints.shuffle(5), strategies.random_top_k(2)
    found = [
        measure.accuracy(j, rule, 200, temperature=1.0, generator=seeded())
        for j in (joint, joint.to(GPU))
    ]
    assert found[0] == found[1]


def test_nothing_waits_in_a_step_of_decoding_or_training(gpu, strict):
    setting = bench_gpu.Setting(str(GPU), True, time.time() + 600)
    rows = list(bench_gpu.waits(setting, strict))
    assert {row["what"] for row in rows} == {"step", "update"}
    assert [row for row in rows if not row["ok"]] == []


TINY = {
    "01_text_from_noise": {"steps": 5, "seeds": 2, "sequences": 20, "batches": 3},
    "02_schedules": {"draws": 100, "batches": 5},
    "03_parallel_decoding": {"draws": 20},
    "04_decoding_strategies": {"draws": 20, "puzzles": 4, "lists": (4,)},
    "05_parallelbench": {"instances": 4, "planned": 20},
    "06_dllm_against_ar": {"puzzles": 2, "large": 2, "draws": 5, "lists": 2},
    "09_any_order_factorisation": {"updates": 8, "seeds": 2, "repeats": 5},
    "10_why_order_matters": {"updates": 8, "seeds": 2, "orders": 3, "puzzles": 2},
    "11_log_sum": {"updates": 10, "starts": 1},
}
TRIED = ("01", "05", "06", "09", "11")  # what the others run, in less time


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name[:2] in TRIED])
def test_a_chapter_trains_and_decodes_on_the_gpu(name, gpu, monkeypatch):
    """The whole chapter, in small: nothing mixes devices, every training and every
    batch that is decoded is on the GPU."""
    update, step = training._update, loop.step
    sizes = replace(config.load(name, "smoke"), **TINY[name])
    monkeypatch.setattr(config, "load", lambda *_: sizes)
    elsewhere = []

    def watched_update(model, *rest):
        if next(model.parameters()).device != GPU:
            elsewhere.append("an update")
        return update(model, *rest)

    def watched_step(strategy, task, state, logits):
        if len(state.x) > 1 and state.x.device != GPU:
            elsewhere.append(f"a step of {strategy}")
        return step(strategy, task, state, logits)

    monkeypatch.setattr(training, "_update", watched_update)
    monkeypatch.setattr(loop, "step", watched_step)
    matplotlib.use("Agg")
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(ROOT / "notebooks" / f"{name}.py"))
    finally:
        torch.set_num_threads(threads)
        plt.close("all")
    assert elsewhere == []
    assert gpu.calls > 0


# ------------------------------------------------------------------------- make gpu


@pytest.mark.parametrize("part", ["equal", "steps", "half", "throughput"])
def test_a_part_of_make_gpu_runs_in_small(part, tmp_path):
    setting = bench_gpu.Setting("cpu", True, time.time() + 600)
    threads = torch.get_num_threads()
    try:
        assert bench_gpu.measure(part, setting, tmp_path)
    finally:
        torch.set_num_threads(threads)
    rows = pd.read_csv(tmp_path / f"gpu_{part}.csv")
    assert len(rows) and (tmp_path / f"gpu_{part}.json").exists()


def part_of(*rows, error=None):
    def yielded(setting):
        yield from rows
        if error:
            raise error

    return bench_gpu.Part(yielded, 60)


def test_rows_are_kept_when_their_part_ends_in_an_error(tmp_path, monkeypatch):
    setting = bench_gpu.Setting("cpu", True, time.time() + 600)
    bad = part_of({"name": "one", "ok": True}, error=RuntimeError("device lost"))
    monkeypatch.setitem(bench_gpu.PARTS, "bad", bad)
    with pytest.raises(RuntimeError, match="device lost"):
        bench_gpu.measure("bad", setting, tmp_path)
    assert pd.read_csv(tmp_path / "gpu_bad.csv")["name"].tolist() == ["one"]
    for ok, wanted in ((True, True), (None, True), (False, False)):
        monkeypatch.setitem(bench_gpu.PARTS, "bad", part_of({"ok": ok}))
        assert bench_gpu.measure("bad", setting, tmp_path) is wanted


def test_what_became_of_each_part_is_told(tmp_path):
    """Each in a process of its own; those that need a GPU are named and skipped."""
    words = ["steps", "waits", "--device", "cpu", "--small", "--out", str(tmp_path)]
    assert bench_gpu.main(words) == 0
    told = pd.read_csv(tmp_path / "gpu_parts.csv").set_index("part")
    assert told["status"].to_dict() == {"steps": "done", "waits": "skipped"}
    assert told["note"]["waits"] == "needs a CUDA device"
    assert (tmp_path / "gpu_steps.csv").exists()


def test_a_program_whose_time_is_over_is_ended():
    start = time.time()
    status, said = bench_gpu.ran(
        ["-c", "import time; print('begun', flush=True); time.sleep(60)"], 5
    )
    assert status is None and said.strip() == "begun"
    assert time.time() - start < 50
    assert bench_gpu.ran(["-c", "raise SystemExit('no')"], 60) == (1, "no\n")


def test_without_time_a_part_is_skipped(tmp_path):
    setting = bench_gpu.Setting("cpu", True, time.time() + 3)
    row = bench_gpu.started("equal", setting, tmp_path)
    assert row["status"] == "skipped" and "seconds were left" in row["note"]


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([], "--out"),
        (["nothing", "--out", "x"], "PART must be one of"),
        (["--out", "x", "--minutes", "0"], "--minutes must be positive"),
        (["--out", "x", "--small", "--ship"], "not for --small"),
        (["--out", "x"], "needs a CUDA device"),
    ],
)
def test_wrong_words_are_refused(words, complaint, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        bench_gpu.main(words)
    assert complaint in capsys.readouterr().err


# ------------------------------------------------------------------------- a real GPU


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("part", [bench_gpu.equal, bench_gpu.waits])
def test_a_gpu_answers_as_the_processor_and_nobody_waits(part):
    setting = bench_gpu.Setting("cuda", True, time.time() + 600)
    assert [row for row in part(setting) if row["ok"] is False] == []


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_on_a_real_gpu_follows_the_processor(name):
    make, loss = TRAININGS[name]
    plan = training.TrainingConfig(20, 8, 1e-2, warmup=2)
    seen = []
    for device in ("cpu", "cuda"):
        records = training.train(make(device), CHAIN.sample, plan, loss=loss)
        seen.append([record.loss for record in records])
    assert seen[0] == pytest.approx(seen[1], rel=1e-6)


@pytest.mark.gpu
@on_a_gpu
def test_a_shipped_model_writes_on_a_gpu():
    model, _ = pretrained.load("dllm")
    assert next(model.parameters()).is_cuda
    x = torch.full((4, 64), model.mask_id, device="cuda")
    out = generate(model, x, strategies.confidence_top_k(8), generator=seeded())
    assert out.sequences.is_cuda and bool((out.sequences != model.mask_id).all())
