"""Which orders are easy to learn? One network a corpus, an order and a seed.

``python -m dllm_tutorial.order_study --out runs`` trains whatever is not finished in
that folder; with ``--ship`` the rows go into the package, too. It may be killed at any
moment. ``--size gpu`` is for larger networks on a GPU.

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

On chains the diffusion model was ahead instead, and no curve had ended. So uniform
random orders and diffusion are trained three times as long, on the first chain (rows
``order_longer``). What we expected of that before its first run: the excess of
diffusion falls by half again, that of uniform random orders hardly, since its curve was
flat, so that the two do not meet.

They did not, but they differ in their positions, and one size is one size. So two more
trainings of that length (rows ``order_variants``): diffusion with learned positions,
and random orders in networks of twice the width and of twice the depth. What we
expected before the first run: learned positions cost diffusion something and it stays
well ahead of random orders; twice the width or depth lowers the excess of random orders
by less than a third, and depth by more than width.

Orders between left to right and random are left to right after a few exchanges of two
places (rows ``order_swaps``), another such order for each seed, as Kim et al. (2025,
section 3.3) compare them. What we expected before the first run: the cost rises with
the number of exchanges, fastest with the first ones; the order after 16 of them costs
as much as the fixed random one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import dllm_tutorial
from dllm_tutorial import (
    _checks,
    _programs,
    grid,
    joints,
    losses,
    masking,
    ngrams,
    orders,
    study,
    text,
    training,
)
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.grid import Cell
from dllm_tutorial.joints import Joint
from dllm_tutorial.networks import Transformer, TransformerConfig

__all__ = [
    "CHAINS",
    "DIFFUSION",
    "Gap",
    "ORDERS",
    "SIZES",
    "TEXTS",
    "Size",
    "cells",
    "chain",
    "curves",
    "draw_orders",
    "ends",
    "final",
    "final_scores",
    "floors",
    "gap",
    "gap_between",
    "levels",
    "longer_cells",
    "measure",
    "n_updates",
    "network",
    "order_loss",
    "program",
    "ratio",
    "read",
    "scores",
    "swap_cells",
    "updates_to_reach",
    "variant_cells",
    "with_errors",
]

COMMAND = "python -m dllm_tutorial.order_study"
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
    ("cpu", "order 2, 3 symbols, 12 tokens"): (2, 3, Size(64, 3, 4, 12, 32, 800, 512)),
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
    "cpu": Size(96, 4, 4, 32, 32, 800, 600),
    "gpu": Size(512, 8, 8, 256, 256, 10_000, 2000),
}
CHAIN_SEEDS = (0, 1, 2, 3, 4)
TEXT_SEEDS = (0, 1, 2)
POINTS = 10  # of a curve
STATES = 8  # masked states for each sequence of a chain, draws for each window
SCORED = 200  # windows on which one network is scored in many orders
SWAPS = (1, 2, 4, 16)  # exchanges between left to right and random
MIXED = (1, 2, 4, 8, 16, 32)  # sizes of the mixtures of random orders
# Networks of seed 0 that ship, so that their last rows can be measured again.
_CHAINS = tuple(name for size, name in CHAINS if size == "cpu")
KEPT = (
    *((_CHAINS[0], kind) for kind in ("uniform random", *DIFFUSION)),
    (_CHAINS[-1], "swaps 1"),
    ("sotu", "uniform random"),
)


# ------------------------------------------------------------------------------ orders


def draw_orders(
    name: str, length: int, seed: int = 0
) -> Callable[[int, Generator | None], Tensor]:
    """A source of orders ``draw(n, generator) -> Long[n, length]`` by its name.

    ``"left-to-right"``, ``"right-to-left"``, ``"fixed random"`` (one order for all),
    ``"uniform random"``, ``"block b"``: blocks of b tokens from left to right, in a
    random order within each; and ``"swaps s"``: left to right after s exchanges, one
    order for each ``seed``.
    """
    kind, _, number = name.partition(" ")
    if name == "uniform random":
        return lambda n, generator: orders.random_orders(length, n, generator)
    if kind == "block":
        block = int(number)
        return lambda n, generator: orders.block_orders(length, n, block, generator)
    if kind == "swaps":
        order = orders.swap_order(length, int(number), _generator(seed))
        return lambda n, generator: order.expand(n, -1)
    fixed = {
        "left-to-right": orders.left_to_right(length),
        "right-to-left": orders.right_to_left(length),
        "fixed random": orders.random_order(length, _generator(FIXED_SEED)),
    }
    if name not in fixed:
        raise ValueError(
            "name must be 'uniform random', 'block b', 'swaps s' or one of "
            f"{', '.join(fixed)}, got {name!r}"
        )
    return lambda n, generator: fixed[name].expand(n, -1)


def order_loss(name: str, length: int, seed: int = 0) -> Callable[..., Tensor]:
    """``loss(model, x, generator)``, nats per token, for an order or for diffusion."""
    if name in DIFFUSION:
        return training.natural_loss
    draw = draw_orders(name, length, seed)

    def loss(model: Transformer, x: Tensor, generator: Generator) -> Tensor:
        return -orders.log_prob(model, x, draw(len(x), generator)).mean() / length

    return loss


def network(
    name: str,
    vocab_size: int,
    size: Size,
    seed: int,
    dtype: torch.dtype | None = None,
) -> Transformer:
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
        ),
        dtype,
    )


def n_updates(cell: Cell) -> int:
    """Updates of a training: more where all orders are learned at once."""
    size, name = _size(cell), cell["order"]
    if "budget" in cell:
        return cell["budget"]
    if cell["corpus"] in TEXTS:
        return size.updates * (2 if name in DIFFUSION else 1)
    return size.updates * (3 if name in (*DIFFUSION, "uniform random") else 1)


def flops(model: Transformer, size: Size) -> int:
    """Floating-point operations of one update: forward, and twice as much backward."""
    x = torch.zeros(size.batch_size, size.length, dtype=torch.long)
    order = orders.left_to_right(size.length)
    # the counter does not know the fused attention of a CPU
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, plain, torch.no_grad():
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

    vocab_size: int
    draw: Callable[[int, Generator], Tensor]
    evaluate: Callable[[Transformer, str, int], tuple[float, float]]


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

    def evaluate(model: Transformer, name: str, seed: int) -> tuple[float, float]:
        device = next(model.parameters()).device
        if name in DIFFUSION:
            nll = losses.masked_nll(model, states.to(device), many.to(device)).cpu()
            each = (nll.double() - known) / counts  # times L / count, per token
            each = each.view(STATES, -1).mean(0)
        else:
            if name.startswith("swaps"):
                told = draw_orders(name, shape.length, seed)(len(x), None)
            else:
                told = order[name]
            log_p = orders.log_prob(model, x.to(device), told.to(device)).cpu()
            each = (exact - log_p.double()) / shape.length
        return _mean(each)

    draw = lambda n, generator: source.sample(n, generator)  # noqa: E731
    return _Corpus(source.vocab_size, draw, evaluate)


def _text_corpus(corpus: str, size: str) -> _Corpus:
    """Scores are bits per letter of held-out windows."""
    shape = SIZES[size]
    stream = text.letters(corpus, "train")
    x = held_out(corpus, shape)

    def evaluate(model: Transformer, name: str, seed: int) -> tuple[float, float]:
        return _mean(bits(model, x, name, seed))

    draw = training.random_crops(stream, shape.length)
    return _Corpus(len(text.LETTERS), draw, evaluate)


def held_out(corpus: str, shape: Size) -> Tensor:
    """Windows Long[n, L] spread evenly over the held-out part of a text."""
    stream = text.letters(corpus, "held-out")
    rows = stream[: len(stream) // shape.length * shape.length].view(-1, shape.length)
    chosen = torch.linspace(0, len(rows) - 1, shape.windows).long()
    return rows[chosen]


@torch.no_grad()
def bits(model: Transformer, x: Tensor, name: str, seed: int = 0) -> Tensor:
    """Bits per letter of each window, Float64[n], in an order drawn for each window.

    A diffusion model is scored by its NELBO. Every model meets the same orders and the
    same masks; ``seed`` is that of :func:`draw_orders`.
    """
    generator = _generator(0)
    rows = x.to(next(model.parameters()).device)
    if name in DIFFUSION:
        nats = losses.nelbo_estimate(model, rows, STATES, generator=generator).value
    else:
        order = draw_orders(name, x.shape[1], seed)(len(x), generator)
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
        kinds = [k for k in ORDERS if k != DIFFUSION[1]]
        if number:
            kinds.remove("block 16")
        found += grid.product(corpus=[name], order=kinds, seed=TEXT_SEEDS, **common)
    return found


def longer_cells(size: str = "cpu") -> list[Cell]:
    """All orders at once on the first chain, three times as long."""
    corpus = next(name for where, name in CHAINS if where == size)
    common: dict[str, Any] = {"corpus": [corpus], "size": [size]}
    kinds = ["uniform random", "diffusion"]
    usual = grid.product(order=kinds, seed=CHAIN_SEEDS, **common)
    return [Cell(dict(cell) | {"budget": 3 * n_updates(cell)}) for cell in usual]


def variant_cells(size: str = "cpu") -> list[Cell]:
    """As long as ``longer_cells``: what those leave open, positions and capacity."""
    found = []
    for cell in longer_cells(size):
        shape = _size(cell)
        if cell["order"] == DIFFUSION[0]:
            changes: list[dict[str, Any]] = [{"order": DIFFUSION[1]}]
        else:
            changes = [{"d_model": 2 * shape.d_model}, {"n_layers": 2 * shape.n_layers}]
        found += [Cell(dict(cell) | change) for change in changes]
    return found


def swap_cells(size: str = "cpu") -> list[Cell]:
    """Orders between left to right and random, on the last chain and the first text."""
    corpus = [name for where, name in CHAINS if where == size][-1]
    kinds = [f"swaps {n}" for n in SWAPS]
    axes: list[dict[str, Any]] = [
        {"corpus": [corpus], "order": kinds, "seed": CHAIN_SEEDS},
        {"corpus": TEXTS[:1], "order": kinds, "seed": TEXT_SEEDS},
    ]
    return [cell for each in axes for cell in grid.product(**each, size=[size])]


def _cost(cell: Cell) -> float:
    """Relative work of a cell, for the estimate of the time that is left."""
    size = _size(cell)
    if "order" not in cell:
        return size.windows
    return (
        n_updates(cell) * size.batch_size * size.length * size.d_model * size.n_layers
    )


def _size(cell: Cell) -> Size:
    key = cell["size"], cell["corpus"]
    usual = CHAINS[key][2] if key in CHAINS else SIZES[cell["size"]]
    own = {name: cell[name] for name in ("d_model", "n_layers") if name in cell}
    return replace(usual, **own)


@functools.lru_cache(1)
def _corpus(corpus: str, size: str) -> _Corpus:
    if (size, corpus) in CHAINS:
        return _chain_corpus(corpus, size)
    return _text_corpus(corpus, size)


def measure(cell: Cell) -> list[dict[str, Any]]:
    """Train one network; rows of its curve and of its scores at the end."""
    corpus = _corpus(cell["corpus"], cell["size"])
    size, name = _size(cell), cell["order"]
    on_text = cell["corpus"] in TEXTS
    diffusion = name in DIFFUSION
    updates = n_updates(cell)
    model = network(name, corpus.vocab_size, size, cell["seed"])
    cost = flops(model, size)
    model.to(dllm_tutorial.device())
    plan = training.TrainingConfig(
        updates,
        size.batch_size,
        lr=4e-3,
        seed=cell["seed"],
        optimizer="muon",
        decay="cosine" if on_text else "trapezoid",
    )
    records = training.train(
        model,
        _apart(corpus.draw),
        plan,
        loss=order_loss(name, size.length, cell["seed"]),
        evaluate=lambda model: corpus.evaluate(model, name, cell["seed"]),
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
    wanted = cell["size"] == "cpu" and (cell["corpus"], name) in KEPT
    wanted = wanted and cell["seed"] == 0 and {"d_model", "n_layers"}.isdisjoint(cell)
    used = _programs.keep(model, cell, wanted)
    common = {"parameters": model.n_parameters(), "weights": used}
    return [row | common for row in rows]


def _apart(draw: Callable[[int, Generator], Tensor]):
    """Batches that are the same for all orders, from a seed of their own: the numbers
    of ``generator`` are for the loss."""
    return lambda n, generator: draw(n, _generator(generator.initial_seed() ^ 1))


@torch.no_grad()
def final_scores(model: Transformer, name: str, x: Tensor) -> list[dict[str, Any]]:
    """One network of all orders in many orders, on every third window; else nothing."""
    if name not in (*DIFFUSION, "uniform random"):
        return []
    x = x[:: max(1, len(x) // SCORED)][:SCORED]
    each = {score: bits(model, x, score) for score in ORDERS if score not in DIFFUSION}
    rows = x.to(next(model.parameters()).device)
    scale = x.shape[1] * math.log(2)
    # rounded: masks that all look alike are a tie, and the leftmost is taken
    confidence = lambda log_p: log_p.amax(-1).round(decimals=3)  # noqa: E731
    confident = orders.adaptive_log_prob(model, rows, confidence)
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


def floor_cells(size: str = "cpu") -> list[Cell]:
    """Both texts, in both directions."""
    return grid.product(corpus=TEXTS, backward=[False, True], size=[size])


def measure_floors(cell: Cell) -> list[dict[str, Any]]:
    """Bits per letter of n-grams; nothing is trained."""
    found = floors(cell["corpus"], backward=cell["backward"], size=cell["size"])
    return [{"n": n, "value": value} for n, value in found.items()]


Study = tuple[Callable[[str], list[Cell]], Callable[[Cell], list[dict[str, Any]]]]
STUDIES: dict[str, Study] = {
    "order_learning": (cells, measure),
    "order_longer": (longer_cells, measure),
    "order_variants": (variant_cells, measure),
    "order_swaps": (swap_cells, measure),
    "order_floors": (floor_cells, measure_floors),
}

# --- reading

# What chapters 9 and 10 and the ledger read off the rows. Seeds are paired: two orders
# with the same seed begin with the same weights and meet the same batches.

BUDGETS = ("updates", "supervised_tokens", "petaflops")
TITLES = {"sotu": "State of the Union", "bible": "King James Bible"}


@dataclass(frozen=True)
class Gap:
    """A difference between two trainings, mean over seeds with a 95 % t interval.

    Attributes
    ----------
    mean, low, high
        In the unit of the rows: nats per token on chains, bits per letter on texts.
    seeds
        How many pairs are behind it. The interval is infinite if there is only one.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def half(self) -> float:
        """Half the width: an effect that is smaller is not resolved."""
        return (self.high - self.low) / 2

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def read() -> pd.DataFrame:
    """The rows of this study that ship with the package, see :func:`measure`."""
    return study.read_rows("order_learning")


def _own(rows: pd.DataFrame) -> pd.DataFrame:
    """The learning curves: each network scored in the order it was taught."""
    return rows[rows["score"] == "own"]


def final(rows: pd.DataFrame) -> pd.DataFrame:
    """The own score of each network at the end of its training.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`read`.

    Returns
    -------
    DataFrame
        A row for each corpus, order and seed: the last point of its curve.
    """
    last = _own(rows).sort_values("updates", kind="stable")
    keys = ["corpus", "order", "seed"]
    return last.drop_duplicates(keys, keep="last").sort_values(keys, ignore_index=True)


def ends(rows: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """Where trainings of all orders at once end, by their length.

    Parameters
    ----------
    rows, more : DataFrame
        Of ``order_learning`` and of ``order_longer``.

    Returns
    -------
    DataFrame
        ``updates``, ``order``, ``seed`` and ``value``, the own score at the end, on
        the corpus of ``more``: its trainings, and those of ``rows`` with the same
        orders.
    """
    corpus = more["corpus"].iloc[0]
    same = rows[(rows["corpus"] == corpus) & rows["order"].isin(more["order"])]
    found = pd.concat([final(same), final(more)], ignore_index=True)
    return found[["updates", "order", "seed", "value"]]


def scores(
    rows: pd.DataFrame, corpus: str, order: str, *, moved: bool = False
) -> pd.DataFrame:
    """How one network scores in many orders at the end: see :func:`final_scores`.

    Parameters
    ----------
    rows : DataFrame
    corpus, order : str
    moved : bool
        These scores are of every third window of those behind the own scores. If true,
        a constant for each seed makes up for that, so that the score which is measured
        on both, the bound for diffusion and random orders for the other, agrees with
        the own one. Only then compare them with the own score of another network.

    Returns
    -------
    DataFrame
        Values, seeds down, scores across.
    """
    chosen = _of(rows[rows["score"] != "own"], corpus, order)
    table = chosen.pivot(index="seed", columns="score", values="value")
    if moved:
        same = table["NELBO" if order in DIFFUSION else order]
        table = table.add(
            _value_at(rows, corpus, order, None, "updates") - same, axis=0
        )
    return table


def curves(
    rows: pd.DataFrame, corpus: str, names: Iterable[str] | None = None
) -> pd.DataFrame:
    """Learning curves, mean over seeds.

    Parameters
    ----------
    rows : DataFrame
    corpus : str
    names : iterable of str, optional
        Orders; all by default, in the order of ``ORDERS``.

    Returns
    -------
    DataFrame
        A row for each order and point: ``updates``, ``supervised_tokens``,
        ``petaflops``; ``value`` with its 95 % interval ``low`` and ``high``; ``seeds``.
    """
    if names is None:
        known = set(_of(rows, corpus)["order"])
        names = [name for name in ORDERS if name in known]
    found = []
    for name in names:
        for updates, point in _of(_own(rows), corpus, name).groupby("updates"):
            mean = _gap(point["value"])
            budget = {by: point[by].iloc[0] for by in BUDGETS} | {"updates": updates}
            ends = {"value": mean.mean, "low": mean.low, "high": mean.high}
            found.append({"order": name, **budget, **ends, "seeds": mean.seeds})
    return pd.DataFrame(found)


def gap_between(a: pd.Series, b: pd.Series) -> Gap:
    """Mean of a - b over the seeds that both have; both are indexed by seed."""
    return _gap((a - b).dropna())


def gap(
    rows: pd.DataFrame,
    corpus: str,
    a: str,
    b: str,
    at: float | None = None,
    by: str = "updates",
) -> Gap:
    """How much worse order ``a`` scores than order ``b``, paired by seed.

    Parameters
    ----------
    rows : DataFrame
    corpus, a, b : str
    at : float, optional
        Budget at which the curves are compared, between points on the line through its
        neighbors; by default each at the end of its own training. Where the learning
        rate decays, as on texts, a network in the middle of its training has not yet
        had the benefit of that.
    by : {"updates", "supervised_tokens", "petaflops"}
        What the budget counts.
    """
    values = (_value_at(rows, corpus, name, at, by) for name in (a, b))
    return gap_between(*values)


def _value_at(
    rows: pd.DataFrame, corpus: str, order: str, at: float | None, by: str
) -> pd.Series:
    """Own scores at a budget, by seed; NaN where the curve does not reach so far."""
    if at is None:
        return _of(final(rows), corpus, order).set_index("seed")["value"]
    found = {}
    for seed, budget, value in _by_seed(rows, corpus, order, by):
        inside = budget[0] <= at <= budget[-1]
        found[seed] = np.interp(at, budget, value) if inside else math.nan
    return pd.Series(found, dtype=float)


def updates_to_reach(
    rows: pd.DataFrame, corpus: str, order: str, value: float, by: str = "updates"
) -> pd.Series:
    """The budget at which the curve of each seed first comes down to a value.

    Between points both are interpolated in logarithms. NaN where the curve never gets
    there, or was there at its first point.

    Returns
    -------
    Series
        Float64, indexed by seed, in units of ``by``.
    """
    found = {}
    for seed, budget, score in _by_seed(rows, corpus, order, by):
        low = (score <= value).nonzero()[0]
        found[seed] = math.nan
        if len(low) and low[0] > 0:
            i = low[0]
            height = np.log(np.maximum(score[i - 1 : i + 1], 1e-9))
            share = (height[0] - np.log(value)) / (height[0] - height[1])
            found[seed] = math.exp(
                np.log(budget[i - 1]) + share * np.log(budget[i] / budget[i - 1])
            )
    return pd.Series(found, dtype=float)


def ratio(
    rows: pd.DataFrame,
    corpus: str,
    values: Iterable[float],
    a: str = "diffusion",
    b: str = "uniform random",
    by: str = "updates",
) -> pd.DataFrame:
    """How many times the budget of order ``b`` order ``a`` needs for the same score.

    Returns
    -------
    DataFrame
        A row for each value: the geometric mean over seeds of the paired ``ratio``,
        with the t interval of its logarithm, ``low`` and ``high`` (95 %), and
        ``seeds``: those where both curves come down to the value.
    """
    found = []
    for value in values:
        one, other = (
            updates_to_reach(rows, corpus, name, value, by) for name in (a, b)
        )
        mean = gap_between(one.map(np.log), other.map(np.log))
        ends = [math.exp(end) for end in (mean.mean, mean.low, mean.high)]
        names = ("ratio", "low", "high")
        row = {"value": value, **dict(zip(names, ends, strict=True))}
        found.append(row | {"seeds": mean.seeds})
    return pd.DataFrame(found)


def levels(
    rows: pd.DataFrame, corpus: str, names: Iterable[str], n: int = 5
) -> np.ndarray:
    """Scores that every curve of these orders comes down to: Float64[n], falling.

    Evenly spaced in logarithms between the lowest first point and the highest last
    one; empty if some network begins lower than another one ends.
    """
    lists = [
        value
        for name in names
        for _, _, value in _by_seed(rows, corpus, name, "updates")
    ]
    top = min(value[0] for value in lists)
    bottom = max(1e-9, *(value.min() for value in lists))
    if bottom >= top:
        return np.empty(0)
    return np.geomspace(top, bottom, n + 2)[1:-1]


@functools.lru_cache(8)
def floors(
    corpus: str, n: int = 5, *, backward: bool = False, size: str = "cpu"
) -> dict[int, float]:
    """What counting alone can do: bits per letter of n-grams on the held-out windows.

    Interpolated n-grams (:class:`~dllm_tutorial.ngrams.WittenBell`) of the whole
    training text, which know nothing of what stands before a window.

    Parameters
    ----------
    corpus : {"sotu", "bible"}
    n : int
        The longest n-gram.
    backward : bool
        From right to left.
    size : str
        Of the study, which fixes the windows.

    Returns
    -------
    dict
        Bits per letter for 1 ... n.
    """
    stream = text.letters(corpus, "train").numpy()
    x = held_out(corpus, SIZES[size]).numpy()
    if backward:
        stream, x = stream[::-1], x[:, ::-1]
    model = ngrams.WittenBell(stream, n, len(text.LETTERS))
    nats = (
        (k, sum(model.log_prob(row, k).sum() for row in x)) for k in range(1, n + 1)
    )
    return {k: -total / x.size / math.log(2) for k, total in nats}


def with_errors(joint: Joint, scale: float, seed: int = 0) -> FunctionDenoiser:
    """Exact predictions plus a fixed normal error for every state, position and token.

    A stand-in for a learned denoiser that can be enumerated: it answers the same
    question always in the same way, and the answers to different questions do not fit
    together.

    Parameters
    ----------
    joint : Joint
        Short: (V + 1)^L states are tabulated, where L is its length.
    scale : float
        Standard deviation of the errors, in logits.
    seed : int
    """
    base = joint.mask_id + 1
    states = torch.cartesian_prod(*[torch.arange(base)] * joint.length)
    logits = joint(states.view(-1, joint.length)).double()
    error = torch.randn(logits.shape, generator=_generator(seed), dtype=logits.dtype)
    logits += scale * error
    place = base ** torch.arange(joint.length).flip(0)
    return FunctionDenoiser(lambda x: logits[x @ place], joint.mask_id)


def _of(rows: pd.DataFrame, corpus: str, order: str | None = None) -> pd.DataFrame:
    """Rows of a corpus and an order; they must exist."""
    for column, value in (("corpus", corpus), ("order", order)):
        if value is not None:
            known = sorted(set(rows[column]))
            rows = rows[rows[column] == _checks.one_of(value, column, known)]
    return rows


def _by_seed(
    rows: pd.DataFrame, corpus: str, order: str, by: str
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Seed, budgets and own scores of each curve, Float64[n] each."""
    _checks.one_of(by, "by", BUDGETS)
    for seed, part in _of(_own(rows), corpus, order).groupby("seed"):
        curve = part.sort_values("updates")
        columns = (curve[name].to_numpy(dtype=float) for name in (by, "value"))
        yield int(seed), *columns


def _gap(values: pd.Series) -> Gap:
    seeds = len(values)
    if not seeds:
        return Gap(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    low, high = study.mean_interval(values) if seeds > 1 else (-math.inf, math.inf)
    return Gap(mean, float(low), float(high), seeds)


def program(
    description: str | None,
    command: str,
    studies: Mapping[str, Study],
    cost: Callable[[Cell], float],
    arguments: list[str] | None = None,
) -> None:
    """The command line of studies: by name, the cells of a size and their measure."""
    parser = _programs.grid_parser(description, studies)
    parser.add_argument("--size", choices=("cpu", "gpu"), default="cpu")
    a = _programs.parse(parser, arguments)
    chosen = {
        name: (make(a.size), measure) for name, (make, measure) in studies.items()
    }
    command = command if a.size == "cpu" else f"{command} --size {a.size}"
    _programs.run_grids(a, chosen, command=command, cost=cost)


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    program(__doc__, COMMAND, STUDIES, _cost, arguments)


if __name__ == "__main__":
    main()
