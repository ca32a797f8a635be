"""Which orders are easy to learn? One network a corpus, an order and a seed.

``python -m dllm_tutorial.order_study --out runs/orders`` trains whatever is not
finished in that folder and writes the rows that ship with the package; it may be killed
at any moment. ``--size gpu`` is for larger networks on a GPU.

Corpora are Markov chains, where the exact model is known, and the letters of two books
of English. All networks but the diffusion models are any-order Transformers of the same
size: the same weights at the start, the same batches, one term of the loss for each
token. Only the order of generation differs. A diffusion model has the same blocks and
sees in both directions. A batch teaches it half as many tokens, because the other half
is shown; its curve therefore goes on to twice as many updates. On chains, uniform
random orders and diffusion go on to three times as many.

What we expected before the first run: left to right and right to left are equal within
the error of five seeds; block 4, block 16, fixed random and uniform random follow in
this order; the diffusion model needs about twice the updates of uniform random and
meets it in the end; on a chain all of them come down to the exact model.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.flop_counter import FlopCounterMode

from dllm_tutorial import (
    grid,
    joints,
    losses,
    masking,
    orders,
    pretrained,
    study,
    text,
    training,
)
from dllm_tutorial.grid import Cell
from dllm_tutorial.networks import Transformer, TransformerConfig

__all__ = [
    "CHAINS",
    "ORDERS",
    "SIZES",
    "TEXTS",
    "Size",
    "cells",
    "chain",
    "draw_orders",
    "measure",
    "network",
    "order_loss",
]

COMMAND = "python -m dllm_tutorial.order_study --out runs/orders"
RESULTS = pretrained.FOLDER.parent / "results"
FIXED_SEED = 7  # of the one random order that a "fixed" network is taught

# Orders by the name that rows carry; diffusion sees all of them at once.
DIFFUSION = ("diffusion", "diffusion, learned positions")
ORDERS = (
    "left-to-right",
    "right-to-left",
    "block 4",
    "block 16",
    "fixed random",
    "uniform random",
    *DIFFUSION,
)


@dataclass(frozen=True)
class Size:
    """What a network and its training may cost.

    Attributes
    ----------
    d_model, n_layers, n_heads, length, batch_size
        Of the network and its batches; ``length`` in tokens.
    updates
        Of one order; see :func:`n_updates`.
    windows
        Held-out sequences that are scored.
    """

    d_model: int
    n_layers: int
    n_heads: int
    length: int
    batch_size: int
    updates: int
    windows: int


# Order and vocabulary of each chain are its name.
CHAINS = {
    ("cpu", "order 2, 3 symbols, 12 tokens"): (2, 3, Size(64, 3, 4, 12, 32, 1200, 512)),
    ("cpu", "order 1, 8 symbols, 16 tokens"): (1, 8, Size(64, 3, 4, 16, 32, 400, 512)),
    ("cpu", "order 2, 4 symbols, 16 tokens"): (2, 4, Size(64, 3, 4, 16, 32, 400, 512)),
    ("gpu", "order 2, 4 symbols, 64 tokens"): (
        2,
        4,
        Size(256, 6, 8, 64, 256, 10_000, 4096),
    ),
}
TEXTS = ("sotu", "bible")
SIZES = {
    "cpu": Size(96, 4, 4, 32, 32, 1000, 600),
    "gpu": Size(512, 8, 8, 256, 256, 10_000, 2000),
}
CHAIN_SEEDS = (0, 1, 2, 3, 4)
TEXT_SEEDS = (0, 1, 2)
POINTS = 10  # of a curve
STATES = 8  # masked states for each sequence of a chain, draws for each window
SCORED = 200  # windows on which one network is scored in many orders
MIXED = (1, 2, 4, 8, 16, 32)  # sizes of the mixtures of random orders


# ------------------------------------------------------------------------------ orders


def draw_orders(name: str, length: int) -> Callable[[int, Generator | None], Tensor]:
    """A source of orders ``draw(n, generator) -> Long[n, length]`` by its name.

    ``"left-to-right"``, ``"right-to-left"``, ``"fixed random"`` (one order for all),
    ``"uniform random"``, and ``"block b"``: blocks of b tokens from left to right, in a
    random order within each.
    """
    if name == "uniform random":
        return lambda n, generator: orders.random_orders(length, n, generator)
    if name.startswith("block "):
        block = int(name.removeprefix("block "))
        return lambda n, generator: orders.block_orders(length, n, block, generator)
    fixed = {
        "left-to-right": orders.left_to_right(length),
        "right-to-left": orders.right_to_left(length),
        "fixed random": orders.random_order(length, _generator(FIXED_SEED)),
    }
    if name not in fixed:
        raise ValueError(
            f"name must be 'uniform random', 'block b' or one of {', '.join(fixed)}, "
            f"got {name!r}"
        )
    return lambda n, generator: fixed[name].expand(n, -1)


def order_loss(name: str, length: int) -> Callable[..., Tensor]:
    """``loss(model, x, generator)``, nats per token, for an order or for diffusion."""
    if name in DIFFUSION:
        return training.natural_loss
    draw = draw_orders(name, length)

    def loss(model: Transformer, x: Tensor, generator: Generator) -> Tensor:
        order = draw(len(x), generator).to(x.device)
        return -orders.log_prob(model, x, order).mean() / length

    return loss


def network(name: str, vocab_size: int, size: Size, seed: int) -> Transformer:
    """The untrained network for an order, the same for all orders but diffusion."""
    torch.manual_seed(seed)
    return Transformer(
        TransformerConfig(
            vocab_size,
            size.length,
            size.d_model,
            size.n_layers,
            size.n_heads,
            attention="bidirectional" if name in DIFFUSION else "any-order",
            positions="rotary" if name == "diffusion" else "learned",
        )
    )


def n_updates(cell: Cell) -> int:
    """Updates of a training: more where all orders are learned at once."""
    size, name = _size(cell), cell["order"]
    if cell["corpus"] in TEXTS:
        return size.updates * (2 if name in DIFFUSION else 1)
    return size.updates * (3 if name in (*DIFFUSION, "uniform random") else 1)


def flops(model: Transformer, size: Size) -> int:
    """Floating-point operations of one update: forward, and twice as much backward."""
    x = torch.zeros(size.batch_size, size.length, dtype=torch.long)
    order = orders.left_to_right(size.length)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.in_order(x, order) if model.any_order else model(x)
    return 3 * counter.get_total_flops()


def _generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------ corpora


def chain(corpus: str, size: str = "cpu") -> joints.MarkovChain:
    """The chain of a name: transitions drawn from a Dirichlet law with weights 1/2."""
    order, vocab, shape = CHAINS[size, corpus]
    weights = torch.full((vocab**order, vocab), 0.5, dtype=torch.float64)
    rows = torch._sample_dirichlet(weights, _generator(order))
    return joints.MarkovChain(rows.view([vocab] * (order + 1)), shape.length)


@dataclass(frozen=True)
class _Corpus:
    """Where batches come from and how a network is scored."""

    size: Size
    vocab_size: int
    draw: Callable[[int, Generator], Tensor]
    evaluate: Callable[[Transformer, str], tuple[float, float]]


def _chain_corpus(corpus: str, size: str) -> _Corpus:
    """Scores are excess nats per token over the exact model, on the same sequences.

    A diffusion model is compared with the exact conditionals mask by mask: what is left
    is its NELBO minus the entropy, nearly without noise.
    """
    source, shape = chain(corpus, size), CHAINS[size, corpus][2]
    generator = _generator(1)
    x = source.sample(shape.windows, generator)
    exact = source.log_prob(x)
    order = {
        name: draw_orders(name, shape.length)(len(x), generator)
        for name in ORDERS
        if name not in DIFFUSION
    }
    many = x.repeat(STATES, 1)
    counts = masking.draw_counts(
        len(many), shape.length, "stratified", generator=generator
    )
    states = masking.mask_exactly(many, counts, source.mask_id, generator=generator)
    known = losses.masked_nll(source, states, many)

    def evaluate(model: Transformer, name: str) -> tuple[float, float]:
        device = next(model.parameters()).device
        if name in DIFFUSION:
            nll = losses.masked_nll(model, states.to(device), many.to(device)).cpu()
            each = (nll.double() - known) / counts  # times L / count, per token
            each = each.view(STATES, -1).mean(0)
        else:
            log_p = orders.log_prob(model, x.to(device), order[name].to(device)).cpu()
            each = (exact - log_p.double()) / shape.length
        return _mean(each)

    draw = lambda n, generator: source.sample(n, generator)  # noqa: E731
    return _Corpus(shape, source.vocab_size, draw, evaluate)


def _text_corpus(corpus: str, size: str) -> _Corpus:
    """Scores are bits per letter of held-out windows."""
    shape = SIZES[size]
    stream = text.letters(corpus, "train")
    x = held_out(corpus, shape)

    def evaluate(model: Transformer, name: str) -> tuple[float, float]:
        return _mean(bits(model, x, name))

    draw = training.random_crops(stream, shape.length)
    return _Corpus(shape, len(text.LETTERS), draw, evaluate)


def held_out(corpus: str, shape: Size) -> Tensor:
    """Windows Long[n, L] spread evenly over the held-out part of a text."""
    stream = text.letters(corpus, "held-out")
    rows = stream[: len(stream) // shape.length * shape.length].view(-1, shape.length)
    chosen = torch.linspace(0, len(rows) - 1, shape.windows).long()
    return rows[chosen]


@torch.no_grad()
def bits(model: Transformer, x: Tensor, name: str) -> Tensor:
    """Bits per letter of each window, Float64[n], in an order drawn for each window.

    A diffusion model is scored by its NELBO. Every model meets the same orders and the
    same masks.
    """
    generator = _generator(0)
    rows = x.to(next(model.parameters()).device)
    if name in DIFFUSION:
        nats = losses.nelbo_estimate(model, rows, STATES, generator=generator).value
    else:
        order = draw_orders(name, x.shape[1])(len(x), generator)
        nats = -orders.log_prob(model, rows, order.to(rows.device))
    return nats.double().cpu() / x.shape[1] / math.log(2)


def _mean(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


# --------------------------------------------------------------------------- measuring


def cells(size: str = "cpu") -> list[Cell]:
    """Every training of the study."""
    common: dict[str, Any] = {"size": [size]}
    found = []
    for number, name in enumerate(name for where, name in CHAINS if where == size):
        kinds = [k for k in ORDERS if not k.startswith("block")]
        if number:  # the first chain and the first text are studied at length
            kinds.remove(DIFFUSION[1])
        found += grid.product(corpus=[name], order=kinds, seed=CHAIN_SEEDS, **common)
    for number, name in enumerate(TEXTS):
        kinds = [k for k in ORDERS if not number or k not in (DIFFUSION[1], "block 16")]
        found += grid.product(corpus=[name], order=kinds, seed=TEXT_SEEDS, **common)
    return found


def _cost(cell: Cell) -> float:
    """Relative work of a cell, for the estimate of the time that is left."""
    size = _size(cell)
    return n_updates(cell) * size.batch_size * size.length * size.d_model


def _size(cell: Cell) -> Size:
    key = cell["size"], cell["corpus"]
    return CHAINS[key][2] if key in CHAINS else SIZES[cell["size"]]


@functools.lru_cache(1)
def _corpus(corpus: str, size: str) -> _Corpus:
    if (size, corpus) in CHAINS:
        return _chain_corpus(corpus, size)
    return _text_corpus(corpus, size)


def measure(cell: Cell) -> list[dict[str, Any]]:
    """Train one network; rows of its curve and of its scores at the end."""
    corpus = _corpus(cell["corpus"], cell["size"])
    size, name = corpus.size, cell["order"]
    on_text = cell["corpus"] in TEXTS
    diffusion = name in DIFFUSION
    updates = n_updates(cell)
    model = network(name, corpus.vocab_size, size, cell["seed"])
    cost = flops(model, size)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    plan = training.TrainingConfig(
        updates,
        size.batch_size,
        lr=4e-3,
        seed=cell["seed"],
        optimizer="muon",
        decay="cosine" if on_text else "constant",
    )
    records = training.train(
        model,
        _on(corpus.draw, model),
        plan,
        loss=order_loss(name, size.length),
        evaluate=lambda model: corpus.evaluate(model, name),
        evaluate_every=updates // POINTS,
    )
    # a batch masks (L + 1) / 2 tokens of each sequence on average
    share = (size.length + 1) / 2 / size.length if diffusion else 1
    rows = []
    for record in records:
        if record.held_out is None:
            continue
        value, error = record.held_out
        rows.append(
            {
                "score": "own",
                "updates": record.step,
                "supervised_tokens": round(
                    record.step * size.batch_size * size.length * share
                ),
                "petaflops": record.step * cost / 1e15,
                "value": value,
                "standard_error": error,
                "sequences": size.windows,
            }
        )
    if on_text:
        rows += final_scores(model, name, held_out(cell["corpus"], size))
    return [{**row, "parameters": model.n_parameters()} for row in rows]


def _on(draw: Callable[[int, Generator], Tensor], model: Transformer):
    """The same batches on the device of the model, drawn on the CPU."""
    device = next(model.parameters()).device

    def moved(n: int, generator: Generator) -> Tensor:
        return draw(n, _generator(generator.initial_seed())).to(device)

    return moved


@torch.no_grad()
def final_scores(model: Transformer, name: str, x: Tensor) -> list[dict[str, Any]]:
    """One network of all orders in many orders, on every third window; else nothing."""
    if name not in (*DIFFUSION, "uniform random"):
        return []
    x = x[:: max(1, len(x) // SCORED)][:SCORED]
    each = {score: bits(model, x, score) for score in ORDERS if score not in DIFFUSION}
    rows = x.to(next(model.parameters()).device)
    scale = x.shape[1] * math.log(2)
    confident = orders.adaptive_log_prob(model, rows, lambda log_p: log_p.amax(-1))
    each["confidence"] = -confident.double().cpu() / scale
    each["NELBO"] = (
        losses.nelbo_estimate(model, rows, 64, generator=_generator(0)).value.cpu()
        / scale
    )
    log_p = torch.stack(  # [32, n], one random order a row and a window
        [
            -losses.any_order_loss(model, rows, generator=_generator(seed))
            for seed in range(MIXED[-1])
        ]
    ).double()
    for k in MIXED:
        mixtures = log_p.unflatten(0, (-1, k)).logsumexp(1) - math.log(k)
        each[f"mixture of {k}"] = -mixtures.mean(0).cpu() / scale
    return [
        dict(
            zip(("value", "standard_error"), _mean(value), strict=True),
            score=score,
            sequences=len(x),
        )
        for score, value in each.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--size", choices=tuple(SIZES), default="cpu")
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
            seeds=CHAIN_SEEDS,
        )
    study.write_rows(RESULTS / "order_learning.csv", rows.round(6), rows.attrs)


if __name__ == "__main__":
    main()
