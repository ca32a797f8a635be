"""Training: it reaches a known entropy, and a kill leaves no trace."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from dllm_tutorial import _files, losses, training
from dllm_tutorial.joints import MarkovChain
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.training import TrainingConfig


def tiny(attention: str = "bidirectional", **options) -> Transformer:
    settings = {"vocab_size": 3, "length": 6, "d_model": 32, "n_layers": 2}
    torch.manual_seed(0)
    return Transformer(
        TransformerConfig(**{**settings, "n_heads": 2, **options}, attention=attention)
    )


def chain() -> MarkovChain:
    p = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.1, 0.8], [0.5, 0.4, 0.1]])
    return MarkovChain(p.double(), 6)


def from_chain(batch_size, generator):
    return chain().sample(batch_size, generator)


STREAM = torch.arange(400).remainder(3)


def run(model, config, **options):
    draw = training.random_crops(STREAM, 6)
    return list(training.train(model, draw, config, **options))


# -- does it learn? ------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_training_reaches_the_entropy_of_a_known_source(attention, bf16):
    """NLL and NELBO of the truth are both -log p: the excess is the learning error.

    It is measured exactly up to the choice of sequences, which are paired with their
    true log-probability. No excess may be negative beyond its noise (z test, error
    rate below 1e-4): that would be a leak.
    """
    model = tiny(attention)
    config = TrainingConfig(300, 64, 5e-3, warmup=50, ema=0.95, bf16=bf16)
    first, *_, last = training.train(model, from_chain, config)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    x = chain().sample(1000, torch.Generator().manual_seed(1))
    with torch.no_grad():
        bound = losses.ar_loss if attention == "causal" else losses.exact_nelbo
        excess = (bound(model, x).double() + chain().log_prob(x)) / 6
    mean, error = excess.mean().item(), excess.std().item() / len(x) ** 0.5
    assert first.loss > math.log(3) - 0.2
    assert last.loss < first.loss - 0.2
    assert -4 * error < mean < 0.02 + 4 * error
    assert error < 0.01


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_bf16_changes_the_products_of_matrices_and_little_else(optimizer):
    def after(**options):
        model = tiny()
        config = TrainingConfig(20, 16, warmup=0, optimizer=optimizer, **options)
        *_, last = training.train(model, from_chain, config)
        return last.loss, torch.cat([p.flatten() for p in model.parameters()])

    (loss, weights), (usual, exact), (again, same) = (
        after(bf16=True),
        after(),
        after(bf16=False),
    )
    assert usual == again and torch.equal(exact, same)  # on a CPU it is off
    assert not torch.equal(weights, exact)
    assert loss == pytest.approx(usual, abs=0.02)
    assert (weights - exact).norm() < 0.05 * exact.norm()


def in_random_orders(model, x, generator):
    return losses.any_order_loss(model, x, generator=generator).mean() / x.shape[1]


def test_an_any_order_network_learns_a_known_source_in_random_orders():
    """KL is what is left on average, in any order: never below zero but for noise."""
    model = tiny("any-order", positions="learned")
    config = TrainingConfig(200, 64, 5e-3, warmup=20, ema=0.9, decay="trapezoid")
    draw = from_chain
    first, *_, last = training.train(model, draw, config, loss=in_random_orders)
    generator = torch.Generator().manual_seed(1)
    x = chain().sample(2000, generator)
    with torch.no_grad():
        nll = losses.any_order_loss(model, x, generator=generator).double()
    excess = (nll + chain().log_prob(x)) / 6
    mean, error = excess.mean().item(), excess.std().item() / len(x) ** 0.5
    assert last.loss < first.loss - 0.2
    assert -4 * error < mean < 0.1 + 4 * error
    assert error < 0.01


def test_records_and_held_out_scores():
    model, seen = tiny(), []

    def evaluate(network):
        assert not network.training
        assert not torch.is_grad_enabled()
        seen.append(network.head.weight.clone())
        return 1.5, 0.25

    config = TrainingConfig(7, 4, warmup=2)
    records = run(model, config, evaluate=evaluate, evaluate_every=3)
    assert [r.step for r in records] == [1, 2, 3, 4, 5, 6, 7]
    assert [r.held_out for r in records] == [
        (1.5, 0.25) if step in (3, 6, 7) else None for step in range(1, 8)
    ]
    assert torch.equal(seen[-1], model.head.weight)  # the EMA is what is scored
    assert not model.training


# -- parts against closed forms ------------------------------------------------------


def test_learning_rate_is_a_ramp_and_half_a_cosine():
    config = TrainingConfig(110, lr=0.4, warmup=10)
    rates = [training.learning_rate(step, config) for step in range(110)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[9] == pytest.approx(0.4)
    assert rates[10] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[35] == pytest.approx(0.4 * math.cos(math.pi / 8) ** 2)
    assert training.learning_rate(110, config) == pytest.approx(0.0)
    assert sum(rates[10:]) == pytest.approx(0.2 * 101)  # trapezoid: (f0 + f1) / 2


def test_the_trapezoid_keeps_the_peak_and_falls_in_a_line():
    config = TrainingConfig(100, lr=0.4, warmup=10, decay="trapezoid")
    rates = [training.learning_rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.04 * n for n in range(1, 11)])
    assert rates[10:71] == [0.4] * 61
    assert rates[85] == pytest.approx(0.2)
    assert rates[70:] == pytest.approx([0.4 * n / 30 for n in range(30, -1, -1)])


def test_a_trapezoid_begins_as_a_longer_one():
    weights = []
    for steps in (6, 9):
        model = tiny()
        config = TrainingConfig(steps, 4, warmup=2, decay="trapezoid")
        seen = []
        for _ in training.train(
            model,
            training.random_crops(STREAM, 6),
            config,
            evaluate=lambda m, seen=seen: seen.append(m.head.weight.clone()),
            evaluate_every=4,
        ):
            pass
        weights.append(seen[0])
    assert torch.equal(*weights)


def test_ema_is_the_closed_form():
    """With decays d_n the average is sum_n (1 - d_n) prod_(m > n) d_m w_n."""
    model = torch.nn.Linear(1, 1, bias=False).double()
    ema = training.Ema(model, 0.5)
    values = [model.weight.item(), 3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0, 5.0]
    for step, value in enumerate(values[1:], start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(model, step)
    decays = [0.0] + [min(0.5, (1 + n) / (10 + n)) for n in range(1, 10)]
    assert decays[1] == pytest.approx(2 / 11)
    assert decays[9] == 0.5
    expected = sum(
        (1 - d) * math.prod(decays[n + 1 :]) * value
        for n, (d, value) in enumerate(zip(decays, values, strict=True))
    )
    assert ema.weights["weight"].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_average_moves_whatever_the_weights_are(dtype):
    """By 0.5 % of the way at each update: half precision has no such numbers."""
    model = torch.nn.BatchNorm1d(3).to(dtype)  # its state holds a count, too
    ema = training.Ema(model, 0.995)
    mean = model.weight.detach().double()
    for step in range(1, 2500):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([2.0, -3.0, step % 7]))
            model.num_batches_tracked.fill_(step)
        ema.update(model, step)
        decay = min(0.995, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * model.weight.detach().double()
    assert ema.weights["weight"].dtype == torch.float32
    torch.testing.assert_close(ema.weights["weight"].double(), mean, rtol=2e-5, atol=0)
    assert ema.weights["num_batches_tracked"] == 2499
    model.load_state_dict(ema.weights)
    assert torch.equal(model.weight, ema.weights["weight"].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_not_trained(dtype):
    run = training.train(tiny().to(dtype), None, TrainingConfig(2, 2))
    with pytest.raises(ValueError, match=f"model must be in float32 .*{dtype}"):
        next(run)


def test_crops_are_uniform_and_in_order():
    draw = training.random_crops(torch.arange(12), 5)
    x = draw(8000, torch.Generator().manual_seed(0))
    assert (x.diff() == 1).all()
    starts = x[:, 0].bincount()
    assert len(starts) == 8  # 0 ... 7
    chi_square = ((starts - 1000.0) ** 2 / 1000).sum()
    assert chi_square < 29.9  # 7 degrees of freedom, error rate 1e-4


def test_step_generators_differ_between_steps_and_seeds():
    draws = {
        torch.rand((), generator=training.step_generator(seed, step)).item()
        for seed in range(30)
        for step in range(30)
    }
    assert len(draws) == 900
    again = training.step_generator(2, 3)
    assert again.initial_seed() == training.step_generator(2, 3).initial_seed()


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    model = tiny(dropout=0.1)
    torch.set_rng_state(before)
    run(model, TrainingConfig(3, 2))
    assert torch.equal(torch.get_rng_state(), before)


# -- checkpoints ---------------------------------------------------------------------

CONFIG = TrainingConfig(40, 4, warmup=5)

SCRIPT = """
import sys, time
import torch
import test_training as t
torch.set_num_threads(1)
model = t.tiny(dropout=0.2)
draw = t.training.random_crops(t.STREAM, 6)
for record in t.training.train(
    model, draw, t.CONFIG, checkpoint=sys.argv[1], checkpoint_every=7
):
    time.sleep(0.02)
"""


def steps_in(folder) -> int:
    path = folder / "checkpoint.json"
    return json.loads(path.read_text())["about"]["step"] if path.exists() else 0


def test_resuming_after_kill_9_is_bit_identical(tmp_path):
    """Interrupted and resumed against undisturbed: weights and losses, to the bit."""
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while steps_in(tmp_path) < 14:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = steps_in(tmp_path)
    assert 14 <= done < 40

    resumed, whole = tiny(dropout=0.2), tiny(dropout=0.2)
    rest = run(resumed, CONFIG, checkpoint=tmp_path, checkpoint_every=7)
    full = run(whole, CONFIG)
    assert [r.step for r in rest] == list(range(done + 1, 41))
    assert rest == full[done:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not torch.equal(whole.head.weight, tiny().head.weight)

    # a finished run does nothing and still leaves the averaged weights in the model
    again = tiny(dropout=0.2)
    assert run(again, CONFIG, checkpoint=tmp_path) == []
    assert torch.equal(again.head.weight, whole.head.weight)
    weights, about = training.averaged_weights(tmp_path)
    assert torch.equal(weights["head.weight"], whole.head.weight)
    assert about["step"] == 40


def test_an_any_order_run_resumes_bit_identically(tmp_path):
    config = TrainingConfig(9, 4, warmup=2, optimizer="muon", decay="trapezoid")
    options = {"loss": in_random_orders, "checkpoint_every": 3}
    whole, stopped, resumed = (
        tiny("any-order", positions="learned", dropout=0.2) for _ in range(3)
    )
    full = run(whole, config, **options)
    draw = training.random_crops(STREAM, 6)
    for record in training.train(stopped, draw, config, checkpoint=tmp_path, **options):
        if record.step == 5:
            break
    assert steps_in(tmp_path) == 3
    assert run(resumed, config, checkpoint=tmp_path, **options) == full[3:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(tiny(), TrainingConfig(2, 2), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="configuration"):
        run(tiny(), TrainingConfig(3, 2), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="configuration"):
        run(tiny("causal"), TrainingConfig(2, 2), checkpoint=tmp_path)


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_training_in_the_folder_of_another_process_is_refused(tmp_path):
    config = TrainingConfig(4, 2)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=f"another run is filling {tmp_path}"):
            run(tiny(), config, checkpoint=tmp_path)
        holder.kill()
    assert len(run(tiny(), config, checkpoint=tmp_path)) == 4


def test_a_loop_that_was_broken_off_does_not_keep_the_folder(tmp_path):
    draw = training.random_crops(STREAM, 6)
    options = {"checkpoint": tmp_path, "checkpoint_every": 1}
    first = training.train(tiny(), draw, TrainingConfig(4, 2), **options)
    next(first), next(first)  # as after an interrupted cell: it is still there
    left = run(tiny(), TrainingConfig(4, 2), **options)
    assert [record.step for record in left] == [2, 3, 4]


def test_a_record_is_seen_before_its_checkpoint_is_written(tmp_path):
    draw = training.random_crops(STREAM, 6)
    options = {"checkpoint": tmp_path, "checkpoint_every": 2}
    seen = [
        (record.step, steps_in(tmp_path))
        for record in training.train(tiny(), draw, TrainingConfig(5, 2), **options)
    ]
    assert seen == [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4)]
    assert steps_in(tmp_path) == 5


def test_numbers_of_numpy_can_be_kept_in_a_checkpoint(tmp_path):
    numbers = {"lr": np.float32(0.5), "ema": np.float64(0.5), "seed": np.int32(1)}
    config = TrainingConfig(np.int64(2), np.int64(3), **numbers)
    assert config == TrainingConfig(2, 3, lr=0.5, ema=0.5, seed=1)
    run(tiny(), config, checkpoint=tmp_path)
    assert run(tiny(), config, checkpoint=tmp_path) == []


def test_a_curve_is_the_same_after_steps_were_taken_again(tmp_path):
    path = tmp_path / "curve.csv"
    rows = {n: [{"step": n, "task": t, "x": n / 7} for t in "ab"] for n in (2, 4, 6)}
    for n in (2, 4, 6, 4, 6):  # killed after 6, resumed after 2
        _files.put_rows(path, rows[n])
    whole = path.read_text()
    assert pd.read_csv(path).to_dict("records") == [*rows[2], *rows[4], *rows[6]]
    for cut in range(1, len(whole)):  # as earlier versions could leave it
        path.write_text(whole[:cut])
        _files.put_rows(path, rows[6])
        *left, second, last = pd.read_csv(path).to_dict("records")
        assert [second, last] == rows[6]
        assert left == [*rows[2], *rows[4]][: len(left)]


def test_weights_come_back_and_a_changed_bit_is_noticed(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    path = tmp_path / "w.json"
    training.save_weights(path, tensors, {"note": "x"})
    read, about = training.load_weights(path)
    assert about == {"note": "x"}
    assert all(torch.equal(read[k], v) for k, v in tensors.items())

    pointer = json.loads(path.read_text())
    binary = tmp_path / pointer["weights"]
    good = binary.read_bytes()
    binary.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match="SHA-256"):
        training.load_weights(path)
    binary.write_bytes(good)
    path.write_text(json.dumps({**pointer, "about": {"note": "y"}}))
    with pytest.raises(ValueError, match="SHA-256"):
        training.load_weights(path)


@pytest.mark.parametrize(
    "data", [b"", b'{"about": {"step"', b"{}", b"[]", b"3", b"\xff\xfe{}"]
)
def test_a_damaged_checkpoint_is_named(tmp_path, data):
    run(tiny(), TrainingConfig(2, 2), checkpoint=tmp_path)
    (tmp_path / "checkpoint.json").write_bytes(data)
    message = r"checkpoint\.json is damaged: put a copy"
    with pytest.raises(ValueError, match=message):
        run(tiny(), TrainingConfig(2, 2), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=message):
        training.averaged_weights(tmp_path)


@pytest.mark.parametrize("survives", [0, 1])
def test_a_kill_between_the_files_leaves_the_old_pair(tmp_path, monkeypatch, survives):
    path = tmp_path / "w.json"
    training.save_weights(path, {"a": torch.zeros(2)}, {"step": 1})
    move, moves = os.replace, []

    def dies(*names):
        if len(moves) == survives:
            raise KeyboardInterrupt
        moves.append(names)
        move(*names)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        training.save_weights(path, {"a": torch.ones(2)}, {"step": 2})
    read, about = training.load_weights(path)
    assert about == {"step": 1} and read["a"].sum() == 0
    monkeypatch.undo()
    training.save_weights(path, {"a": torch.ones(2)}, {"step": 2})
    assert training.load_weights(path)[1] == {"step": 2}
    assert len(list(tmp_path.glob("*.safetensors"))) == 1  # old ones are cleared away


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"steps": 0}, ValueError, "steps"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
        ({"lr": 0.0}, ValueError, "lr"),
        ({"lr": math.inf}, ValueError, "lr"),
        ({"lr": math.nan}, ValueError, "lr"),
        ({"lr": True}, TypeError, "lr"),
        ({"lr": "a"}, TypeError, "lr"),
        ({"weight_decay": math.inf}, ValueError, "weight_decay"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay"),
        ({"clip": 0}, ValueError, "clip"),
        ({"ema": 1.0}, ValueError, "ema"),
        ({"ema": "x"}, TypeError, "ema"),
        ({"seed": -1}, ValueError, "seed"),
        ({"decay": "linear"}, ValueError, "decay"),
        ({"bf16": 1}, TypeError, "bf16"),
    ],
)
def test_bad_configurations_are_refused(options, error, name):
    with pytest.raises(error, match=name):
        TrainingConfig(**{"steps": 5, **options})


def test_a_stream_shorter_than_a_crop_is_refused():
    with pytest.raises(ValueError, match="at least 9"):
        training.random_crops(STREAM[:8], 9)
    with pytest.raises(ValueError, match="length must be at least 1"):
        training.random_crops(STREAM, 0)


@pytest.mark.parametrize("every", [0, -1])
def test_checkpoints_are_whole_steps_apart(every, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1"):
        run(tiny(), CONFIG, checkpoint=tmp_path, checkpoint_every=every)
