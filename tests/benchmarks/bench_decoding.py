"""What one decoding step costs beside the forward pass.

    OMP_WAIT_POLICY=passive python tests/benchmarks/bench_decoding.py --out runs
    python tests/benchmarks/bench_decoding.py --out runs --device cuda --compile

times, in turn within each repetition, on the same logits:

* the floor: one read of the logits, their largest value at each position;
* our step: everything ``generate`` does in one step of confidence top-k;
* the plain rule: LLaDA's published step, written straight from its description.

Each is called twice in a row and the second call counts, as in the middle of a decoding
loop: no one pays for memory that another one has given back.

The rows go to ``benchmark_decoding.csv`` in the folder ``--out``, those of a GPU to
``benchmark_decoding_cuda.csv``, with ``--ship`` into the package, too: medians over the
repetitions in milliseconds, and median and quartiles of the ratios within repetitions.
Logits are float32.

On a CPU milliseconds are processor time over two threads, which other work on the
machine moves less than the clock on the wall; the wait policy keeps idle threads from
counting. On a GPU they are the time between two events. There our step has a ``form``:
``eager``, as it is written, ``graph``, replayed as a CUDA graph, and with ``--compile``
also ``compiled``, a graph of what ``torch.compile`` makes of it. The floor is always a
graph, the plain rule always runs as it is written.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from dllm_tutorial import _programs
from dllm_tutorial.decoding import loop, strategies, task
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.study import provenance

NAMES = {"cpu": "benchmark_decoding", "cuda": "benchmark_decoding_cuda"}
SHAPES = [(8, 128, 32_000), (8, 128, 126_464), (32, 128, 64), (64, 256, 512)]
FORMS = {"cpu": ("eager",), "cuda": ("eager", "graph", "compiled")}
THREADS = 2
SEED = 0

Run = Callable[[], object]


def plain_step(x: Tensor, logits: Tensor, temperature: float, mask_id: int) -> Tensor:
    """LLaDA's rule: Gumbel-max in float64, softmax confidence, topk row by row."""
    noisy = logits
    if temperature > 0:
        noise = torch.rand(logits.shape, dtype=torch.float64, device=logits.device)
        noisy = logits.to(torch.float64).exp() / (-noise.log()) ** temperature
    token = noisy.argmax(-1)
    p = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
    masked = x == mask_id
    confidence = torch.where(masked, p, -torch.inf)
    reveal = torch.zeros_like(masked)
    for row in range(len(x)):
        reveal[row, confidence[row].topk(1).indices] = True
    return torch.where(reveal, token, x)


def masked_rows(
    logits: Tensor, temperature: float, steps: int | None = None
) -> tuple[task.Task, task.State]:
    """What ``generate`` begins with on rows that are masked throughout."""
    batch, length, vocab_size = logits.shape
    x = torch.full((batch, length), vocab_size, device=logits.device)
    setting = task.Task(
        FunctionDenoiser(lambda x: logits[:1].expand(*x.shape, -1), vocab_size),
        seeds=torch.arange(batch, device=logits.device),
        temperature=temperature,
        top_p=None,
        suppressed=None,
        **task.lay_blocks(x == vocab_size, None, steps),
    )
    return setting, task.first_state(x)


def our_step(logits: Tensor, temperature: float, *, compiled: bool = False) -> Run:
    """One step of ``generate`` by confidence top-k."""
    setting, state = masked_rows(logits, temperature)
    rule, step = strategies.confidence_top_k(1), loop.step
    if compiled:
        torch.compiler.reset()
        step = torch.compile(step, fullgraph=True, dynamic=False)
    return lambda: step(rule, setting, state, logits)


def as_graph(run: Run) -> Run:
    """``run`` captured as a CUDA graph, after the warm-up on a stream of its own that
    PyTorch asks for. It reads its inputs and writes its results where they lie now, so
    both are kept."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> object:
        graph.replay()
        return run, result

    return replay


def milliseconds(run: Run, device: str) -> float:
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    begin = time.process_time()
    run()
    return 1e3 * (time.process_time() - begin) / THREADS


def settled(run: Run, device: str) -> float:
    """Time of the second of two calls: the first one pays for memory that whoever ran
    before has given back to the system."""
    run()
    return milliseconds(run, device)


def measure(
    shape: tuple[int, int, int],
    temperature: float,
    repeats: int,
    *,
    device: str = "cpu",
    form: str = "eager",
) -> dict[str, int | float | str]:
    """One row: medians in milliseconds and ratios within repetitions."""
    generator = torch.Generator().manual_seed(SEED)
    logits = torch.randn(shape, generator=generator).to(device)
    x = torch.full(shape[:2], shape[2], device=device)
    with torch.no_grad():
        runs: list[Run] = [
            lambda: logits.amax(-1),
            our_step(logits, temperature, compiled=form == "compiled"),
            lambda: plain_step(x, logits, temperature, shape[2]),
        ]
        if device == "cuda":
            runs[0] = as_graph(runs[0])
        if form != "eager":
            runs[1] = as_graph(runs[1])
        times = [[settled(run, device) for run in runs] for _ in range(repeats)]
    floor, step, plain = np.array(times).T
    low, ratio, high = np.quantile(step / floor, [0.25, 0.5, 0.75])
    digits = 2 if device == "cpu" else 4
    row = {
        "batch": shape[0],
        "positions": shape[1],
        "vocabulary": shape[2],
        "temperature": int(temperature),
        "floor_ms": round(float(np.median(floor)), digits),
        "step_ms": round(float(np.median(step)), digits),
        "plain_ms": round(float(np.median(plain)), digits),
        "step_over_floor": round(float(ratio), 2),
        "q25": round(float(low), 2),
        "q75": round(float(high), 2),
        "plain_over_step": round(float(np.median(plain / step)), 2),
        "repeats": repeats,
    }
    return row if device == "cpu" else {"form": form, **row}


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = _programs.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--device", choices=NAMES, default="cpu")
    parser.add_argument("--compile", action="store_true", help="with --device cuda")
    arguments = _programs.parse(parser, words)
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    if arguments.compile and arguments.device != "cuda":
        parser.error("--compile needs --device cuda: eager code is what a CPU runs")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and torch sees none")
    return arguments


def origin_of(arguments: argparse.Namespace) -> dict[str, object]:
    """Provenance of the rows: the device is the one that was measured."""
    command = "python tests/benchmarks/bench_decoding.py --out runs --ship"
    if arguments.device == "cpu":
        command = f"OMP_WAIT_POLICY=passive {command}"
    else:
        command += " --device cuda" + " --compile" * arguments.compile
    origin = provenance(command, SEED)
    if arguments.device == "cpu":
        origin["device"] = f"CPU {platform.machine()}"
    return origin


def main(words: list[str] | None = None) -> None:
    arguments = arguments_of(words)
    torch.set_num_threads(THREADS)
    forms = FORMS[arguments.device][: None if arguments.compile else 2]
    rows = []
    for shape, temperature, form in product(SHAPES, (0.0, 1.0), forms):
        # Small shapes take a millisecond: more repetitions cost nothing.
        repeats = arguments.repeats * (10 if shape[2] < 1000 else 1)
        device = arguments.device
        rows.append(measure(shape, temperature, repeats, device=device, form=form))
        print(rows[-1], flush=True)
    _programs.publish(arguments, NAMES[arguments.device], rows, origin_of(arguments))


if __name__ == "__main__":
    main()
