"""Decoded instances per second: a batch against a loop of batch 1.

    python tests/benchmarks/bench_throughput.py

decodes instances of the benchmark study's size, a prompt of 26 tokens and 24 masked
ones, by confidence top-k at temperature 0, with the same untrained network (what it
predicts does not change what it costs) and in turn within each repetition:

* loop: LLaDA's published rule written straight from its description, one instance
  after the other, as the public benchmark runs it;
* batched: ``generate`` on a whole batch;
* bound: the forward passes of that batch alone. No decoder can be faster without
  making fewer or cheaper ones.

On a CPU both have one or two threads; the last rows are two processes of one thread
each, decoding a batch each, against the loop in one process. The rows go to
``dllm_tutorial/data/results/benchmark_throughput.csv``: medians over the repetitions of
instances per second, median and quartiles of batched / loop within repetitions.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dllm_tutorial import grid
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.study import provenance, write_rows
from dllm_tutorial.train_text import BUDGETS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "dllm_tutorial" / "data" / "results" / "benchmark_throughput.csv"
VOCABULARY, PROMPT, ANSWER = 500, 26, 24
KS = (1, 2, 4, 8, 24)
CPU = [(1, 1), (1, 2), (2, 1)]  # processes and threads of each
BATCHES = {"cpu": (8, 32), "cuda": (64, 512, 4096)}
LOOPED = 4  # instances that a repetition of the loop decodes
SEED = 0


@functools.cache
def network(device: str) -> Transformer:
    size = BUDGETS["long"]
    torch.manual_seed(SEED)
    config = TransformerConfig(
        VOCABULARY, PROMPT + ANSWER, size.d_model, size.n_layers, size.n_heads
    )
    return Transformer(config).eval().to(device)


def prompts(batch: int, device: str) -> Tensor:
    """Random prompts with masked answers, Long[batch, PROMPT + ANSWER]."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch, PROMPT + ANSWER)
    x = torch.randint(VOCABULARY, shape, generator=generator)
    x[:, PROMPT:] = VOCABULARY
    return x.to(device)


@torch.no_grad()
def published(model: Transformer, x: Tensor, k: int) -> Tensor:
    """Fill Long[B, L] by LLaDA's rule: float64 softmax, topk row by row."""
    x = x.clone()
    for _ in range(ANSWER // k):
        masked = x == model.mask_id
        logits = model(x)
        token = logits.argmax(-1)
        p = logits.to(torch.float64).softmax(-1).gather(-1, token[..., None])[..., 0]
        confidence = torch.where(masked, p, -torch.inf)
        reveal = torch.zeros_like(masked)
        for row in range(len(x)):
            reveal[row, confidence[row].topk(k).indices] = True
        x[reveal] = token[reveal]
    return x


def batched(model: Transformer, x: Tensor, k: int) -> Tensor:
    return generate(model, x, strategies.confidence_top_k(k)).sequences


@torch.no_grad()
def forward_passes(model: Transformer, x: Tensor, k: int) -> None:
    for _ in range(ANSWER // k):
        model(x)


def per_second(run: Callable[[], object], instances: int, device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return instances / (time.perf_counter() - start)


def loop_rate(k: int, device: str) -> float:
    model, rows = network(device), prompts(LOOPED, device).split(1)
    return per_second(lambda: [published(model, x, k) for x in rows], LOOPED, device)


def batch_rate(decode: Callable, batch: int, k: int, device: str) -> float:
    model, x = network(device), prompts(batch, device)
    return per_second(lambda: decode(model, x, k), batch, device)


def measure(device: str, pool, processes: int, threads: int, repeats: int) -> list:
    """Rows of all batches and k with one number of processes and threads."""

    def together(*arguments) -> float:
        """A batch in each process at the same time, instances per second of all."""
        if processes == 1:
            return batch_rate(*arguments)
        futures = [pool.submit(batch_rate, *arguments) for _ in range(processes)]
        return sum(future.result() for future in futures)

    torch.set_num_threads(threads)
    rows = []
    for batch in BATCHES[device]:
        for k in KS:
            runs = [
                lambda k=k: loop_rate(k, device),
                lambda k=k, b=batch: together(batched, b, k, device),
                lambda k=k, b=batch: together(forward_passes, b, k, device),
            ]
            rates = np.array([[run() for run in runs] for _ in range(repeats)])
            loop, ours, bound = np.median(rates, axis=0)
            low, times, high = np.quantile(rates[:, 1] / rates[:, 0], [0.25, 0.5, 0.75])
            rows.append(
                {
                    "device": device,
                    "processes": processes,
                    "threads": threads,
                    "batch": batch,
                    "k": k,
                    "loop_per_s": round(float(loop), 2),
                    "batched_per_s": round(float(ours), 2),
                    "bound_per_s": round(float(bound), 2),
                    "batched_over_loop": round(float(times), 2),
                    "q25": round(float(low), 2),
                    "q75": round(float(high), 2),
                    "repeats": repeats,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    with grid.workers(2) as pool:
        settings = [("cpu", *numbers) for numbers in CPU]
        if torch.cuda.is_available():
            settings.append(("cuda", 1, 1))
        for device, processes, threads in settings:
            # One instance alone: both decoders see the same logits to the last bit.
            x = prompts(1, device)
            for k in KS:
                ours, theirs = (f(network(device), x, k) for f in (batched, published))
                assert torch.equal(ours, theirs), f"answers differ at k = {k}"
            for future in [pool.submit(network, device) for _ in range(processes)]:
                future.result()  # the processes have started
            rows += measure(device, pool, processes, threads, arguments.repeats)
    command = "python tests/benchmarks/bench_throughput.py"
    write_rows(arguments.out, rows, provenance(command, SEED))


if __name__ == "__main__":
    main()
