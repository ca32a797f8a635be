"""Decoded instances per second: a batch against a loop of batch 1.

    python tests/benchmarks/bench_throughput.py --out runs

decodes instances of the benchmark study, a prompt of 26 tokens and 24 masked ones, by
confidence top-k at temperature 0, with what the study decodes: a network of its size
(untrained: what it predicts does not change what it costs) and exact denoisers of two
tasks. In turn within each repetition:

* loop: LLaDA's published rule written straight from its description, one instance
  after the other, as the public benchmark runs it;
* batched: ``generate`` on a whole batch;
* bound: the calls of the model for that batch alone. No decoder can be faster without
  making fewer or cheaper ones.

On a CPU everything has one thread; the last rows are two processes of one thread
each, decoding a batch each, against the loop in one process. The rows go to
``benchmark_throughput.csv`` in the folder ``--out``, with ``--ship`` into the package,
too: medians over the repetitions of instances per second, median and quartiles of
batched / loop within repetitions.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dllm_tutorial import _programs, grid, tasks, train_tasks
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.denoiser import Denoiser
from dllm_tutorial.study import provenance

MODELS = ("network", "exact shuffle", "exact sudoku")
KS = (1, 4, 24)
CPU = [(1, 1), (2, 1)]  # processes and threads of each
BATCHES = {"cpu": (32, 512), "cuda": (1, 32, 512)}
LOOPED = 4  # instances that a repetition of the loop decodes
SEED = 0

Problem = tuple[Denoiser, Tensor]  # a model and Long[B, P + A] with masked answers


@functools.cache
def network(device: str) -> Denoiser:
    return train_tasks.network(train_tasks.RUNS["dllm-0"]).eval().to(device)


@functools.cache
def drawn(name: str, batch: int, device: str) -> tuple[tasks.Task, tasks.Instances]:
    task = tasks.make(name)
    generator = torch.Generator().manual_seed(SEED)
    return task, task.draw(batch, generator=generator).to(device)


def problem(model: str, batch: int, device: str, rows: slice = slice(None)) -> Problem:
    """A model and some rows of a batch, as the study meets them."""
    task, instances = drawn(model.split()[-1].replace("network", "copy"), batch, device)
    some = instances[rows]
    denoiser = network(device) if model == "network" else task.joint(some)
    return denoiser, task.inputs(some)


@torch.no_grad()
def published(model: Denoiser, x: Tensor, k: int) -> Tensor:
    """Fill Long[B, L] by LLaDA's rule: float64 softmax, topk row by row."""
    x = x.clone()
    for _ in range(tasks.ANSWER_LENGTH // k):
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


def batched(model: Denoiser, x: Tensor, k: int) -> Tensor:
    return generate(model, x, strategies.confidence_top_k(k)).sequences


@torch.no_grad()
def calls(model: Denoiser, x: Tensor, k: int) -> None:
    for _ in range(tasks.ANSWER_LENGTH // k):
        model(x)


def per_second(run: Callable[[], object], instances: int, device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return instances / (time.perf_counter() - start)


def loop_rate(model: str, k: int, device: str) -> float:
    each = [problem(model, LOOPED, device, slice(i, i + 1)) for i in range(LOOPED)]
    return per_second(lambda: [published(*one, k) for one in each], LOOPED, device)


def batch_rate(decode: Callable, model: str, batch: int, k: int, device: str) -> float:
    denoiser, x = problem(model, batch, device)
    return per_second(lambda: decode(denoiser, x, k), batch, device)


def measure(
    device: str, pool, processes: int, threads: int, repeats: int, cells=None
) -> Iterator[dict[str, Any]]:
    """Rows of all models, batches and k with one number of processes and threads."""

    def together(*arguments) -> float:
        """A batch in each process at the same time, instances per second of all."""
        if processes == 1:
            return batch_rate(*arguments)
        futures = [pool.submit(batch_rate, *arguments) for _ in range(processes)]
        return sum(future.result() for future in futures)

    torch.set_num_threads(threads)
    for model, batch, k in cells or itertools.product(MODELS, BATCHES[device], KS):
        runs = [
            functools.partial(loop_rate, model, k, device),
            functools.partial(together, batched, model, batch, k, device),
            functools.partial(together, calls, model, batch, k, device),
        ]
        for run in runs if device == "cuda" else ():
            run()  # the first call loads kernels
        rates = np.array([[run() for run in runs] for _ in range(repeats)])
        loop, ours, bound = np.median(rates, axis=0)
        low, times, high = np.quantile(rates[:, 1] / rates[:, 0], [0.25, 0.5, 0.75])
        yield {
            "device": device,
            "processes": processes,
            "threads": threads,
            "model": model,
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


def main() -> None:
    parser = _programs.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = _programs.parse(parser, None)
    rows = []
    with grid.workers(2) as pool:
        settings = [("cpu", *numbers) for numbers in CPU]
        if torch.cuda.is_available():
            settings.append(("cuda", 1, 1))
        for device, processes, threads in settings:
            # One instance alone: both decoders see the same logits to the last bit.
            one = problem("network", 1, device)
            for k in KS:
                ours, theirs = (decode(*one, k) for decode in (batched, published))
                assert torch.equal(ours, theirs), f"answers differ at k = {k}"
            for future in [pool.submit(network, device) for _ in range(processes)]:
                future.result()  # the processes have started
            for row in measure(device, pool, processes, threads, arguments.repeats):
                rows.append(row)
                print(row, flush=True)
    command = "python tests/benchmarks/bench_throughput.py --out runs --ship"
    origin = provenance(command, SEED)
    _programs.publish(arguments, "benchmark_throughput", rows, origin)


if __name__ == "__main__":
    main()
