"""What one decoding step costs beside the forward pass.

    OMP_WAIT_POLICY=passive python tests/benchmarks/bench_decoding.py

times, in turn within each repetition, on the same logits:

* the floor: one read of the logits, their largest value at each position;
* our step: everything ``generate`` does in one step of confidence top-k;
* the plain rule: LLaDA's published step, written straight from its description.

The rows go to ``dllm_tutorial/data/results/benchmark_decoding.csv``: medians over the
repetitions in milliseconds, and median and quartiles of the ratios within repetitions.
Milliseconds are processor time over two threads, which other work on the machine moves
less than the clock on the wall; the wait policy keeps idle threads from counting.
Logits are float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dllm_tutorial.decoding import loop, strategies, task
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.study import provenance, write_rows

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "dllm_tutorial" / "data" / "results" / "benchmark_decoding.csv"
SHAPES = [(8, 128, 32_000), (8, 128, 126_464), (32, 128, 64), (64, 256, 512)]
THREADS = 2
SEED = 0


def plain_step(x: Tensor, logits: Tensor, temperature: float, mask_id: int) -> Tensor:
    """LLaDA's rule: Gumbel-max in float64, softmax confidence, topk row by row."""
    noisy = logits
    if temperature > 0:
        noise = torch.rand(logits.shape, dtype=torch.float64)
        noisy = logits.to(torch.float64).exp() / (-noise.log()) ** temperature
    token = noisy.argmax(-1)
    p = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
    masked = x == mask_id
    confidence = torch.where(masked, p, -torch.inf)
    reveal = torch.zeros_like(masked)
    for row in range(len(x)):
        reveal[row, confidence[row].topk(1).indices] = True
    return torch.where(reveal, token, x)


def our_step(logits: Tensor, temperature: float) -> Callable[[], object]:
    """One step of ``generate`` on rows that are masked throughout."""
    batch, length, vocab_size = logits.shape
    x = torch.full((batch, length), vocab_size)
    setting = task.Task(
        FunctionDenoiser(lambda x: logits, vocab_size),
        seeds=torch.arange(batch),
        temperature=temperature,
        top_p=None,
        suppressed=None,
        **task.lay_blocks(x == vocab_size, None, None),
    )
    state, rule = task.first_state(x), strategies.confidence_top_k(1)
    return lambda: loop.step(rule, setting, state, logits)


def milliseconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start) / THREADS


def measure(shape: tuple[int, int, int], temperature: float, repeats: int) -> dict:
    """One row: medians in milliseconds and ratios within repetitions."""
    generator = torch.Generator().manual_seed(SEED)
    logits = torch.randn(shape, generator=generator)
    x = torch.full(shape[:2], shape[2])
    runs = [
        lambda: logits.amax(-1),
        our_step(logits, temperature),
        lambda: plain_step(x, logits, temperature, shape[2]),
    ]
    for run in runs:
        run()
    with torch.no_grad():
        times = [[milliseconds(run) for run in runs] for _ in range(repeats)]
    floor, step, plain = np.array(times).T
    low, ratio, high = np.quantile(step / floor, [0.25, 0.5, 0.75])
    return {
        "batch": shape[0],
        "positions": shape[1],
        "vocabulary": shape[2],
        "temperature": int(temperature),
        "floor_ms": round(float(np.median(floor)), 2),
        "step_ms": round(float(np.median(step)), 2),
        "plain_ms": round(float(np.median(plain)), 2),
        "step_over_floor": round(float(ratio), 2),
        "q25": round(float(low), 2),
        "q75": round(float(high), 2),
        "plain_over_step": round(float(np.median(plain / step)), 2),
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows = []
    for shape in SHAPES:
        for temperature in (0.0, 1.0):
            # Small shapes take a millisecond: more repetitions cost nothing.
            small = 10 if shape[2] < 1000 else 1
            rows.append(measure(shape, temperature, small * arguments.repeats))
            print(rows[-1], flush=True)
    command = "OMP_WAIT_POLICY=passive python tests/benchmarks/bench_decoding.py"
    write_rows(arguments.out, rows, provenance(command, SEED))


if __name__ == "__main__":
    main()
