"""What a GPU has to be asked once: one call, under ten minutes.

    make gpu
    python tests/benchmarks/bench_gpu.py --out runs/gpu
    python tests/benchmarks/bench_gpu.py --device cpu --small --out runs/try equal half

Parts, each a process of its own that writes its rows one by one, so that neither an
error on the device nor the end of the time loses rows of another part:

* ``equal``: the same answers as on the CPU, where they have to be: counter random
  numbers, proposals, every strategy on exact joints, losses;
* ``waits``: every strategy and a training step under sync-debug mode, where a wait for
  the device is an error;
* ``steps``: a decoding step, eager and as a CUDA graph, against the floor;
* ``half``: losses, training, answers and moving averages in bfloat16 against float32;
* ``throughput``: a cell of the study in batches, against a loop over instances;
* ``tests``: ``pytest -m gpu``;
* ``compiled``: ``steps`` again, compiled;
* ``chapters``: all notebooks executed.

A row with ``ok`` False, or a part that ends in an error, is a failure, and the exit
status says so. Speed is reported, not judged. ``gpu_parts.csv`` tells what became of
each part; what the time was too short for is skipped and named there. ``--ship``
copies the rows into the package.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench_decoding
import bench_throughput
import torch
from torch import Tensor

from dllm_tutorial import (
    counter_rng,
    joints,
    losses,
    pretrained,
    schedules,
    tasks,
    text,
    training,
)
from dllm_tutorial.decoding import Strategy, candidates, generate, loop, strategies
from dllm_tutorial.decoding.task import State, Task
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.study import provenance, write_rows

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
RESULTS = ROOT / "dllm_tutorial" / "data" / "results"
COMMAND = "python tests/benchmarks/bench_gpu.py --out runs/gpu"
MINUTES = 9.0
SEED = 0

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Where to measure, whether in small, and when it has to be over (time.time())."""

    device: str
    small: bool
    until: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()


def seeded(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rules() -> dict[str, Strategy]:
    """All strategies, with the parameters that their tests give them."""
    sys.path.insert(0, str(HERE.parents[1]))
    from test_decoding import RULES

    return RULES


# -------------------------------------------------------------- equal to the processor


def equal(setting: Setting) -> Iterator[Row]:
    """``ok`` is None where rounding may decide: the share that agrees is reported."""
    yield from equal_numbers(setting)
    yield from equal_proposals(setting)
    yield from equal_answers(setting)
    yield from equal_losses(setting)


def compared(what: str, name: str, cpu: Tensor, other: Tensor, **more: Any) -> Row:
    same = (cpu == other.cpu()).double().mean().item()
    return {"what": what, "name": name, "same": same, "ok": same == 1, **more}


def equal_numbers(setting: Setting) -> Iterator[Row]:
    """Every bit of the counter random numbers, at large and negative seeds too."""
    seeds = torch.cat([torch.arange(-3, 4), torch.tensor([2**62, -(2**63), 2**40 + 1])])
    for step, stream in itertools.product((0, 7, 2**33), range(4)):
        numbers = [
            counter_rng.uniform(seeds.to(d), step, torch.arange(500).to(d), stream)
            for d in ("cpu", setting.device)
        ]
        yield compared("counter", f"step {step}, stream {stream}", *numbers)


def equal_proposals(setting: Setting) -> Iterator[Row]:
    """Tokens drawn from fixed logits. At temperature 0 they must be the same."""
    want = frozenset(["margin", "entropy"])
    for vocab, temperature, top_p in itertools.product(
        (64, 1000, 32_000), (0.0, 0.7, 1.0), (None, 0.9)
    ):
        logits = torch.randn(4, 64, vocab, generator=seeded())
        uniform = torch.rand(4, 64, generator=seeded(1), dtype=torch.float64)
        found = [
            candidates.propose(
                logits.to(d),
                uniform.to(d),
                temperature=temperature,
                top_p=top_p,
                want=want,
            )
            for d in ("cpu", setting.device)
        ]
        name = f"{vocab} tokens, temperature {temperature:g}, top_p {top_p}"
        row = compared("proposal", name, found[0].token, found[1].token)
        off = [
            (getattr(found[0], field) - getattr(found[1], field).cpu()).abs().max()
            for field in ("confidence", "margin", "entropy")
        ]
        row["off"] = max(off).item()
        row["ok"] = row["ok"] if temperature == 0 else None
        yield row


def exact_denoisers() -> dict[str, joints.Joint]:
    sticky = torch.full((4, 4), 0.1, dtype=torch.float64).fill_diagonal_(0.7)
    return {
        "shuffle": joints.shuffle(6),
        "sudoku": joints.sudoku(),
        "chain": joints.MarkovChain(sticky, 12),
    }


def equal_answers(setting: Setting) -> Iterator[Row]:
    """Whole answers of every strategy on exact denoisers, in float64.

    The chain's probabilities carry rounding, which may break ties on one device and not
    on the other: its answers are reported, not required to be the same.
    """
    rows = 4 if setting.small else 64
    chosen = list(rules().items())[: 4 if setting.small else None]
    for (task, joint), (name, rule), temperature in itertools.product(
        exact_denoisers().items(), chosen, (0.0, 1.0)
    ):
        x = torch.full((rows, joint.length), joint.mask_id)
        found = [
            generate(
                joint.to(d),
                x.to(d),
                rule,
                temperature=temperature,
                seeds=torch.arange(rows),
            )
            for d in ("cpu", setting.device)
        ]
        same = (found[0].sequences == found[1].sequences.cpu()).all(1)
        calls = found[0].nfe == found[1].nfe.cpu()
        row = compared("answer", f"{task}, {name}", same & calls, torch.ones(rows) > 0)
        row["temperature"] = temperature
        row["ok"] = None if task == "chain" else row["ok"]
        yield row


def equal_losses(setting: Setting) -> Iterator[Row]:
    """Same masks on both devices, values to rounding."""
    x = torch.randint(64, (16, 32), generator=seeded())
    ways = {
        "ar": lambda model, x, g: losses.ar_loss(model, x),
        "exact count": lambda model, x, g: losses.exact_count_loss(
            model, x, generator=g
        ),
        "LLaDA": lambda model, x, g: losses.llada_loss(model, x, generator=g),
        "cosine": lambda model, x, g: losses.nelbo(
            model, x, schedules.Cosine(), generator=g
        ),
    }
    for dtype, (name, loss) in itertools.product(
        (torch.float64, torch.float32), ways.items()
    ):
        attention = "causal" if name == "ar" else "bidirectional"
        torch.manual_seed(SEED)
        model = Transformer(TransformerConfig(64, 32, 64, 2, 4, attention=attention))
        with torch.no_grad():
            cpu, other = (
                loss(model.to(d, dtype).eval(), x.to(d), seeded()).cpu()
                for d in ("cpu", setting.device)
            )
        off = ((cpu - other).abs() / cpu.abs().clamp(min=1e-9)).max().item()
        most = 1e-9 if dtype == torch.float64 else 1e-3
        what = f"{name}, {str(dtype).removeprefix('torch.')}"
        yield {"what": "loss", "name": what, "off": off, "ok": off <= most}


# ------------------------------------------------------------ nothing waits for it


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def attempted(what: str, name: str, run: Callable[[], object], guard) -> Row:
    """Once to load kernels, once under ``guard``."""
    error = ""
    try:
        run()
        with guard():
            run()
    except Exception as problem:  # the row tells it
        error = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
    return {"what": what, "name": name, "error": error, "ok": not error}


def waits(setting: Setting, guard=no_waiting) -> Iterator[Row]:
    """Two decoding steps of every strategy; one update of every kind of training."""
    logits = torch.randn(4, 16, 300, generator=seeded()).to(setting.device)

    for (name, rule), temperature in itertools.product(rules().items(), (0.0, 1.0)):
        # laying out blocks is done once for a batch, and may look
        begun = bench_decoding.masked_rows(logits, temperature, rule.steps)
        run = partial(two_steps, *begun, rule, logits)
        yield attempted("step", f"{name}, temperature {temperature:g}", run, guard)
    for attention, optimizer in itertools.product(
        ("bidirectional", "causal"), ("adamw", "muon")
    ):
        run = one_update(setting.device, attention, optimizer)
        yield attempted("update", f"{attention}, {optimizer}", run, guard)


@torch.no_grad()
def two_steps(task: Task, state: State, rule: Strategy, logits: Tensor) -> State:
    """The second one meets what the first has kept in memory."""
    state = loop.step(rule, task, state, logits)
    return loop.step(rule, task, state, logits)


def one_update(device: str, attention: str, optimizer: str) -> Callable[[], object]:
    torch.manual_seed(SEED)
    model = Transformer(TransformerConfig(8, 16, 32, 2, 4, attention=attention))
    model.to(device)
    plan = training.TrainingConfig(100, 32, optimizer=optimizer)
    rows = torch.randint(8, (200, 16), generator=seeded())
    return partial(
        training._update,
        model,
        training.random_rows(rows),
        training.natural_loss,
        training._optimizers(model, plan),
        plan,
        1e-3,
        seeded(),
    )


# ------------------------------------------------------------------- a decoding step


def steps(setting: Setting, forms: tuple[str, ...] = ("eager", "graph")):
    """Rows of :mod:`bench_decoding`. What does not fit into memory says so."""
    shapes = [(2, 8, 64), (2, 8, 600)] if setting.small else bench_decoding.SHAPES
    if setting.device == "cpu":
        forms = forms[:1]
    for form, shape, temperature in itertools.product(forms, shapes, (0.0, 1.0)):
        repeats = 2 if setting.small else 51
        try:
            yield bench_decoding.measure(
                shape, temperature, repeats, device=setting.device, form=form
            )
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            names = ("batch", "positions", "vocabulary")
            yield {
                "form": form,
                **dict(zip(names, shape, strict=True)),
                "temperature": int(temperature),
                "note": "out of memory",
            }


# --------------------------------------------------------------------- half precision


def half(setting: Setting) -> Iterator[Row]:
    """bfloat16 against float32: value, what it is compared with, and their relation."""
    yield from half_losses(setting)
    yield from half_training(setting)
    yield from half_answers(setting)
    yield half_average(setting)


def half_losses(setting: Setting) -> Iterator[Row]:
    count = 4 if setting.small else 64
    for name in pretrained.NAMES:
        model, tokenizer = pretrained.load(name, setting.device)
        x = text.windows(text.split("held-out"), tokenizer, model.config.length)
        x = x[:: len(x) // count][:count].to(setting.device)
        with torch.no_grad():
            full = training.natural_loss(model, x, seeded()).item()
            short = training.natural_loss(model.bfloat16(), x, seeded()).item()
        yield {"what": "loss", "name": name, "bfloat16": short, "float32": full}


def half_training(setting: Setting) -> Iterator[Row]:
    """Nats per token of a chain after training with and without autocast."""
    updates = 5 if setting.small else 300
    chain = exact_denoisers()["chain"]
    fresh = chain.sample(500, seeded(1)).to(setting.device)
    for optimizer in ("adamw", "muon"):
        row: Row = {"what": "training", "name": f"{optimizer}, {updates} updates"}
        for name, bf16 in (("bfloat16", True), ("float32", False)):
            torch.manual_seed(SEED)
            shape = TransformerConfig(4, chain.length, 64, 2, 4, attention="causal")
            model = Transformer(shape).to(setting.device)
            plan = training.TrainingConfig(
                updates, 64, 4e-3, ema=0.98, optimizer=optimizer, bf16=bf16
            )
            start = time.perf_counter()
            for _ in training.train(model, chain.sample, plan):
                pass
            row[f"{name}_seconds"] = time.perf_counter() - start
            with torch.no_grad():
                row[name] = losses.ar_loss(model, fresh).mean().item() / chain.length
        yield {**row, "entropy": chain.entropy() / chain.length}


def half_answers(setting: Setting) -> Iterator[Row]:
    """Right answers of a trained network, and how often both precisions agree."""
    count = 4 if setting.small else 256
    for name in ("copy", "shuffle", "sudoku"):
        task = tasks.make(name)
        drawn = task.draw(count, generator=seeded()).to(setting.device)
        found = {}
        for kind, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            model, _ = pretrained.load_network("tasks-dllm-0", setting.device)
            rule = strategies.confidence_top_k(4)
            out = generate(model.to(dtype), task.inputs(drawn), rule)
            found[kind] = task.answers(out.sequences)
        right = {
            kind: task.score(drawn, answers).double().mean().item()
            for kind, answers in found.items()
        }
        same = (found["bfloat16"] == found["float32"]).all(1).double().mean().item()
        yield {"what": "answers", "name": name, **right, "same": same}


def half_average(setting: Setting) -> Row:
    """How far an average of bfloat16 weights follows them, 1 is all the way."""
    model = torch.nn.Linear(1, 1, bias=False, device=setting.device)
    model = model.to(torch.bfloat16)
    torch.nn.init.zeros_(model.weight)
    average = training.Ema(model, 0.995)
    torch.nn.init.ones_(model.weight)
    for _ in range(2000):
        average.update(model, 10**6)  # late in a training
    moved = average.weights["weight"].float().item()
    row = {"what": "average", "name": "2000 updates", "bfloat16": moved}
    return row | {"float32": 1 - 0.995**2000, "ok": abs(moved - 1) < 0.01}


# ------------------------------------------------------------------------- throughput


def throughput(setting: Setting) -> Iterator[Row]:
    """Rows of :mod:`bench_throughput`; a batch that does not fit says so."""
    cells = itertools.product(
        bench_throughput.MODELS, bench_throughput.BATCHES["cuda"], bench_throughput.KS
    )
    if setting.small:
        cells = iter([("network", 2, 24)])
    for cell in cells:
        try:
            yield from bench_throughput.measure(
                setting.device, None, 1, torch.get_num_threads(), 3, [cell]
            )
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            model, batch, k = cell
            yield {"model": model, "batch": batch, "k": k, "note": "out of memory"}


# ------------------------------------------------------------------ tests and chapters


def ran(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Exit status, None where the time was over, and all that was printed.

    The program finds this checkout; what it has started ends with it.
    """
    path = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
            return process.returncode, said
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]


def last_line(said: str) -> str:
    return (said.strip().splitlines() or [""])[-1][:200]


def tests(setting: Setting) -> Iterator[Row]:
    status, said = ran(["-m", "pytest", "-m", "gpu", "tests"], setting.left - 5)
    print(said)
    yield {"name": "pytest -m gpu", "note": last_line(said), "ok": status == 0}


EXECUTE = """
import sys
from pathlib import Path
from make_notebooks import execute
execute(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def chapters(setting: Setting) -> Iterator[Row]:
    """Four at a time; those that the time is too short for are named."""
    scripts = sorted((ROOT / "notebooks").glob("*.py"))

    def executed(script: Path) -> Row:
        row, start = {"name": script.stem}, time.time()
        if setting.left < 60:
            return row | {"note": "skipped: no time"}
        target = str(Path(folder) / f"{script.stem}.ipynb")
        status, said = ran(["-c", EXECUTE, str(script), target], setting.left - 5)
        if status is None:
            return row | {"note": "stopped: no time"}
        row |= {"seconds": round(time.time() - start, 1), "ok": status == 0}
        return row | {"note": last_line(said)} if status else row

    with TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool:
        yield from pool.map(executed, scripts)


# -------------------------------------------------------------------------- the program


@dataclass(frozen=True)
class Part:
    """What it yields, the seconds it may take, and whether it needs a CUDA device."""

    rows: Callable[[Setting], Iterator[Row]]
    seconds: float
    cuda: bool = False


PARTS = {
    "equal": Part(equal, 120),
    "waits": Part(waits, 60, cuda=True),
    "steps": Part(steps, 90),
    "half": Part(half, 90),
    "throughput": Part(throughput, 150),
    "tests": Part(tests, 120, cuda=True),
    "compiled": Part(partial(steps, forms=("compiled",)), 200, cuda=True),
    "chapters": Part(chapters, 400, cuda=True),
}


def origin_of(setting: Setting) -> dict[str, Any]:
    origin = provenance(COMMAND, SEED)
    if setting.device == "cpu":
        origin["device"] = f"CPU {platform.machine()}"
    return origin


def measure(name: str, setting: Setting, out: Path) -> bool:
    """One part in this process; its rows are on disk as soon as they are known."""
    origin, rows = origin_of(setting), []
    for row in PARTS[name].rows(setting):
        rows.append(row)
        print(row, flush=True)
        write_rows(out / f"gpu_{name}.csv", rows, origin)
    return all(row.get("ok") is not False for row in rows)


def started(name: str, setting: Setting, out: Path) -> Row:
    """One part in a process of its own, and what became of it."""
    part, start = PARTS[name], time.time()
    row: Row = {"part": name, "status": "skipped", "seconds": 0.0, "note": ""}
    if part.cuda and setting.device == "cpu":
        return {**row, "note": "needs a CUDA device"}
    most = min(part.seconds, setting.left)
    if most < min(30.0, part.seconds):
        return {**row, "note": f"{setting.left:.0f} seconds were left"}
    command = [str(HERE), name, "--inside", "--out", str(out.absolute())]
    command += ["--device", setting.device, "--minutes", str(most / 60)]
    command += ["--small"] * setting.small
    status, said = ran(command, most)
    print(said, flush=True)
    row["seconds"] = round(time.time() - start, 1)
    if status is None:
        return row | {"status": "stopped", "note": "its time was over"}
    return (
        row
        | {"status": "failed" if status else "done"}
        | ({"note": last_line(said)} if status else {})
    )


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts")
    parser.add_argument("--ship", action="store_true", help="into the package, too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    for name in arguments.parts:
        if name not in PARTS:
            parser.error(f"PART must be one of {', '.join(PARTS)}, got {name}")
    if arguments.minutes <= 0:
        parser.error(f"--minutes must be positive, got {arguments.minutes}")
    if arguments.ship and arguments.small:
        parser.error("--ship is for whole measurements, not for --small")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and torch sees none")
    return arguments


def main(words: list[str] | None = None) -> int:
    """0 if nothing failed, 1 otherwise."""
    arguments = arguments_of(words)
    until = time.time() + 60 * arguments.minutes
    setting = Setting(arguments.device, arguments.small, until)
    names = arguments.parts or list(PARTS)
    if arguments.inside:
        return int(not all(measure(name, setting, arguments.out) for name in names))
    told = []
    for name in names:
        told.append(started(name, setting, arguments.out))
        write_rows(arguments.out / "gpu_parts.csv", told, origin_of(setting))
    for row in told:
        print(f"{row['part']:>10}: {row['status']} {row['note']}")
    if arguments.ship:
        for file in sorted(arguments.out.glob("gpu_*")):
            shutil.copy(file, RESULTS)
    return int(any(row["status"] in ("failed", "stopped") for row in told))


if __name__ == "__main__":
    sys.exit(main())
