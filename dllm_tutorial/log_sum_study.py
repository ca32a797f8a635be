"""Does a log-sum objective repair the bound? Sets of orders trained in several ways.

``python -m dllm_tutorial.log_sum_study --out runs`` trains whatever is not finished in
that folder; with ``--ship`` the rows go into the package, too. It may be killed at any
moment.

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

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

import dllm_tutorial
from dllm_tutorial import (
    _checks,
    _programs,
    grid,
    losses,
    mixtures,
    orders,
    study,
    text,
    training,
)
from dllm_tutorial.grid import Cell
from dllm_tutorial.mixtures import OrderMixture
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.order_study import (
    Gap,
    Size,
    flops,
    gap_between,
    held_out,
    program,
)

__all__ = [
    "COLLAPSED",
    "METHODS",
    "SETS",
    "SIZES",
    "SOURCES",
    "TOGETHER",
    "cells",
    "curves",
    "final",
    "gap",
    "hard_tokens",
    "in_bits",
    "limited_level",
    "measure",
    "method_loss",
    "paths",
    "price",
    "read",
    "recovered",
    "tax",
    "two_directions",
    "values",
    "winners",
]

COMMAND = "python -m dllm_tutorial.log_sum_study"
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


def configuration(cell: Cell) -> TransformerConfig:
    """Of the network of a cell, the same for all methods."""
    size = SIZES[cell["source"], cell["size"]]
    return TransformerConfig(
        _source(cell["source"], cell["size"]).vocab_size,
        size.length,
        size.d_model,
        size.n_layers,
        size.n_heads,
        attention="any-order",
        positions="learned",
    )


def measure(cell: Cell) -> list[dict[str, Any]]:
    """Train one set of orders; rows of its curves, nats per sequence."""
    size, every, names, batch = _plan(cell)
    source = _source(cell["source"], cell["size"])
    device = dllm_tutorial.device()
    torch.manual_seed(cell["seed"])
    model = OrderMixture(
        configuration(cell), every, learned=cell["method"] == "learned p(o)"
    )
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

    steps: list[int] = []  # of each row
    seconds = []  # of each update without an evaluation
    start = time.process_time()
    for record in training.train(
        model,
        source.draw,
        plan,
        loss=method_loss(cell["method"], size.updates),
        evaluate=evaluate,
        evaluate_every=size.updates // POINTS,
    ):
        if record.held_out is None:
            seconds.append(time.process_time() - start)
        steps += [record.step] * (len(rows) - len(steps))
        start = time.process_time()
    first = cell["seed"] == 0 and cell["size"] == "cpu"
    used = _programs.keep(model, cell, first and cell["method"] == "log-sum")
    return [
        {
            **row,
            "weights": used,
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


# --- reading

# What chapter 11 and the ledger read off the rows. Seeds are paired: two methods with
# the same seed begin with the same weights and, but for the run at equal compute, meet
# the same batches.

COLLAPSED = 0.99  # responsibility of one order, mean over held-out sequences
# Scores that are not those of one order, by the quantity they are in the rows.
TOGETHER = {"mixture": "mixture nll", "average": "average nll"}
RUN = ["source", "method", "seed"]


def read() -> pd.DataFrame:
    """The rows of this study that ship with the package, see :func:`measure`."""
    return study.read_rows("log_sum")


def final(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last evaluation of every training."""
    last = rows.groupby(RUN)["updates"].transform("max")
    return rows[rows["updates"] == last]


def _chosen(rows: pd.DataFrame, source: str, method: str) -> pd.DataFrame:
    """Rows of one method on one source; they must exist."""
    for column, value in (("source", source), ("method", method)):
        _checks.one_of(value, column, set(rows[column]))
        rows = rows[rows[column] == value]
    return rows


def paths(
    rows: pd.DataFrame, source: str, method: str, score: str, quantity: str = "nll"
) -> pd.DataFrame:
    """What every training went through.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`read`.
    source, method : str
    score : str
        An order; ``"best order"``, the lowest value among the orders at each point; or
        ``"mixture"`` or ``"average"``, the negative log-likelihood of all together.
    quantity : {"nll", "responsibility", "prior"}
        Of an order.

    Returns
    -------
    DataFrame
        Updates down, seeds across; nats per sequence, or a probability.
    """
    part = _chosen(rows, source, method)
    part = part[part["quantity"] == TOGETHER.get(score, quantity)]
    if score not in TOGETHER and score != "best order":
        _checks.one_of(score, "score", {*part["order"], *TOGETHER, "best order"})
        part = part[part["order"] == score]
    return part.groupby(["updates", "seed"])["value"].min().unstack()


def values(rows: pd.DataFrame, source: str, method: str, score: str) -> pd.Series:
    """Negative log-likelihood at the end by seed, nats per sequence: see `paths`."""
    return paths(final(rows), source, method, score).iloc[-1]


def curves(rows: pd.DataFrame, source: str, method: str, score: str) -> pd.DataFrame:
    """Mean over seeds along a training, nats per sequence.

    Returns
    -------
    DataFrame
        A row for each point: ``updates``, ``sequences`` and ``petaflops`` so far;
        ``value`` with its 95 % interval ``low`` and ``high``.
    """
    budget = _chosen(rows, source, method).groupby("updates")
    budget = budget[["sequences", "petaflops"]].first()
    each = paths(rows, source, method, score)
    low, high = study.mean_interval(each)
    found = budget.assign(value=each.mean(axis=1), low=low, high=high)
    return found.reset_index()


def gap(rows: pd.DataFrame, source: str, a: tuple[str, str], b: tuple[str, str]) -> Gap:
    """How much worse ``a`` is than ``b`` at the end, paired by seed.

    Parameters
    ----------
    rows : DataFrame
    source : str
    a, b : (method, score)
        See :func:`paths`.

    Returns
    -------
    Gap
        Nats per sequence; :func:`in_bits` for bits per letter.
    """
    return gap_between(*(values(rows, source, *which) for which in (a, b)))


def tax(rows: pd.DataFrame, source: str, method: str) -> Gap:
    """What a mixture pays over its order that is best on average, nats per sequence.

    At most log K for K orders of equal weight, and negative where it is better than
    each of its orders because different sequences are carried by different ones.
    """
    return gap(rows, source, (method, "mixture"), (method, "best order"))


def winners(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """Which order won each training with several orders, and by how much.

    Returns
    -------
    DataFrame
        A row for each method and seed: the ``order`` with the highest
        ``responsibility`` at the end (mean over held-out sequences), its ``prior`` and
        its ``nll``, nats per sequence; ``collapsed``, whether the responsibility is
        above ``COLLAPSED``; and the ``update`` from which on it has been so.
    """
    rows = rows[(rows["source"] == source) & rows["method"].isin(METHODS)]
    share = rows[rows["quantity"] == "responsibility"]
    best = final(share).sort_values("value").drop_duplicates(RUN, keep="last")
    found = []
    for row in best.itertuples():
        run = rows[(rows["method"] == row.method) & (rows["seed"] == row.seed)]
        own = run[run["order"] == row.order]
        last = own[own["updates"] == row.updates].set_index("quantity")["value"]
        path = own[own["quantity"] == "responsibility"].sort_values("updates")
        below = path["updates"][path["value"] <= COLLAPSED].max()
        after = path["updates"][~(path["updates"] <= below)]
        found.append(
            {
                "method": row.method,
                "seed": row.seed,
                "order": row.order,
                **last[["responsibility", "prior", "nll"]],
                "collapsed": row.value > COLLAPSED,
                "update": after.min() if row.value > COLLAPSED else None,
            }
        )
    table = pd.DataFrame(found).astype({"update": "Int64"})
    rank = table["method"].map(METHODS.index)
    table = table.assign(rank=rank).sort_values(["rank", "seed"], ignore_index=True)
    return table.drop(columns="rank")


def recovered(rows: pd.DataFrame, source: str, method: str) -> pd.DataFrame:
    """How both directed orders end, above networks that were trained in one alone.

    Returns
    -------
    DataFrame
        Nats per sequence, indexed by seed: ``winner`` is the directed order with the
        higher responsibility at the end, ``other`` the second one.
    """
    above, share = {}, {}
    for order in SINGLE:
        own = values(rows, source, method, order)
        above[order] = own - values(rows, source, order, order)
        path = paths(final(rows), source, method, order, "responsibility")
        share[order] = path.iloc[-1]
    first, second = SINGLE
    ahead = share[first] > share[second]
    return pd.DataFrame(
        {
            "winner": above[first].where(ahead, above[second]),
            "other": above[second].where(ahead, above[first]),
        }
    )


def price(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """What one update of each method costs, mean over seeds.

    Returns
    -------
    DataFrame
        Indexed by method: ``sequences``, ``gigaflops`` and ``cpu_seconds``.
    """
    last = final(rows[rows["source"] == source]).drop_duplicates(RUN)
    each = {
        "sequences": last["sequences"] / last["updates"],
        "gigaflops": last["petaflops"] / last["updates"] * 1e6,
        "cpu_seconds": last["cpu_seconds_per_update"],
    }
    listed = [*METHODS, *SINGLE, EQUAL_COMPUTE]
    return pd.DataFrame(each).groupby(last["method"]).mean().reindex(listed)


def in_bits(source: str, nats: Any, size: str = "cpu") -> Any:
    """Nats per sequence, a number, a table or a :class:`Gap`, in bits per token."""
    unit = SIZES[source, size].length * math.log(2)
    if isinstance(nats, Gap):
        return Gap(nats.mean / unit, nats.low / unit, nats.high / unit, nats.seeds)
    return nats / unit


def hard_tokens(joint: mixtures.TableJoint, order: Tensor, few: int = 2) -> int:
    """How many tokens their predecessors determine, but no ``few`` of them do.

    Parameters
    ----------
    joint : TableJoint
        Only its support matters.
    order : Long[L]
    few : int
    """
    orders.check_orders(order, joint.length)
    _checks.integer(few, "few", 0)

    columns = joint.support.T.cpu().numpy()

    def distinct(places: tuple[int, ...]) -> int:
        code = 0
        for place in places:
            code = code * joint.vocab_size + columns[place]
        return len(np.unique(code))

    def determined(place: int, given: tuple[int, ...]) -> bool:
        return distinct((*given, place)) == distinct(given)

    hard = 0
    for step, place in enumerate(order.tolist()):
        known = order[:step].tolist()
        if known and determined(place, tuple(known)):
            some = itertools.combinations(known, min(few, step))
            hard += not any(determined(place, given) for given in some)
    return hard


def limited_level(length: int = 16, wrong: float = 1.0) -> float:
    """NLL on :func:`two_directions` of a mixture that finds only sums of two tokens.

    A share ``wrong`` of the sequences is carried by the order in which some tokens
    are sums of three or more (:func:`hard_tokens`); these stay unknown and cost
    log(symbols) each. Nats per sequence: with a share of 0 this is the entropy.
    """
    entropy, lost = _two_levels(length)
    return entropy + wrong * lost


@functools.lru_cache(4)
def _two_levels(length: int) -> tuple[float, float]:
    joint = mixtures.one_way(length // 2, 3, torch.Generator().manual_seed(3))
    hard = hard_tokens(joint, orders.right_to_left(length))
    return two_directions(length).entropy(), hard * math.log(joint.vocab_size)


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    program(__doc__, COMMAND, {"log_sum": (cells, measure)}, _cost, arguments)


if __name__ == "__main__":
    main()
