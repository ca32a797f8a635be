r"""Orders other than left to right: how good is the best one?

A perfect model does not care for the order. A limited one does, and what a limited
model pays is known exactly where the joint is known. Two kinds are searched.

* A model with a window sees k tokens, the last generated or the nearest revealed
  (:mod:`~dllm_tutorial.neighborhood`). Its cost is a sum of conditional entropies,
  :math:`\sum_n H(x_{o(n)} \mid x_{S_n})`.
* A model that sees everything but draws no far conclusions, such as the pencil marks
  of :mod:`~dllm_tutorial.limited`.

The best order is found exactly. Where the price of a token depends on the set that is
revealed, not on how it came about, as for pencil marks and for the k nearest tokens, it
is a shortest path through the sets (:func:`best_set_order`); for the last k tokens the
path remembers these, too (:func:`best_window_order`). What is too large for that is
searched (:func:`local_search`).

``python -m dllm_tutorial.order_search --out runs`` measures the rows ``order_search``
and ``order_puzzles`` again, in half a minute of one core; with ``--ship`` they go into
the package, too.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from dllm_tutorial import (
    _checks,
    _programs,
    joints,
    limited,
    neighborhood,
    orders,
    study,
)
from dllm_tutorial.denoiser import MASKED, Denoiser
from dllm_tutorial.joints import Joint, TableJoint
from dllm_tutorial.losses import token_nll
from dllm_tutorial.masking import all_masks

__all__ = [
    "ANSWERS",
    "Found",
    "best_set_order",
    "best_window_order",
    "block_entropies",
    "exhaustive",
    "fewest_candidates",
    "first_position",
    "follow",
    "local_search",
    "moved",
    "nearest_costs",
    "prompt_and_answer",
    "set_costs",
    "window_cost",
    "window_needed",
]


_MAX_STATES = 1 << 24  # sets and windows that a best order is sought among


class Found(NamedTuple):
    """An order ``Long[..., L]`` and what it costs, in nats, ``Float64[...]``."""

    order: Tensor
    cost: Tensor


# --------------------------------------------------------------------------- the joints

ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "copy": lambda words: words,
    "reverse": lambda words: words.flip(1),
    "sort": lambda words: words.sort(1).values,
}


def prompt_and_answer(task: str, n: int, vocab_size: int) -> TableJoint:
    """A random word of n letters and its ``"copy"``, ``"reverse"`` or ``"sort"``.

    All ``vocab_size ** n`` words are equally likely and the answer follows from the
    word, so the entropy of the 2n tokens is n log V.
    """
    answer = ANSWERS[_checks.one_of(task, "task", ANSWERS)]
    letters = range(_checks.integer(vocab_size, "vocab_size", 1))
    n = _checks.integer(n, "n", 1)
    words = torch.tensor(list(itertools.product(letters, repeat=n)))
    return TableJoint(torch.cat([words, answer(words)], 1), None, vocab_size)


def moved(joint: Joint, order: Tensor) -> TableJoint:
    """The joint with its positions permuted: j holds what ``order[j]`` held."""
    orders.check_orders(order, joint.length)
    table = joint.table()
    return TableJoint(table.support[:, order], table.probs, joint.vocab_size)


# ----------------------------------------------------------------- models with a window


def block_entropies(joint: Joint, size: int) -> Tensor:
    """Entropy of every set of at most ``size`` positions, ``Float64[2^L]``, in nats.

    Set c holds the positions whose bits are set in the number c; the entries of larger
    sets are nan. L <= 20.
    """
    length = joint.length
    if length > 20:
        raise ValueError(f"joint must have at most 20 positions, got {length}")
    table = torch.full((2**length,), torch.nan, dtype=torch.float64)
    for count in range(min(_checks.integer(size, "size", 0), length) + 1):
        for chosen in itertools.combinations(range(length), count):
            table[sum(1 << i for i in chosen)] = joint.entropy(chosen)
    return table


def window_cost(entropies: Tensor, order: Tensor, k: int, by: str = "time") -> Tensor:
    r"""What a model that sees k tokens pays: :math:`\sum_n H(x_{o(n)} \mid x_{S_n})`.

    Parameters
    ----------
    entropies : Float64[2^L]
        :func:`block_entropies` of sets of up to k + 1 positions.
    order : Long[..., L]
    k, by
        See :func:`dllm_tutorial.neighborhood.seen`.

    Returns
    -------
    Float64[...]
        Never below the entropy of the joint.
    """
    bits = 1 << torch.arange(order.shape[-1])
    known = (neighborhood.seen(order, k, by) * bits).sum(-1)
    return (entropies[known | bits[order]] - entropies[known]).sum(-1)


def nearest_costs(entropies: Tensor, k: int) -> Tensor:
    """What the k nearest revealed tokens leave of each position, at each revealed set.

    ``Float64[2^L, L]`` in nats, for :func:`best_set_order`: entry [c, i] is the entropy
    of position i given those k of the set c that :func:`window_cost` by ``"space"``
    shows. ``entropies`` as there, L <= 16.
    """
    length = _positions(entropies, 16)
    position = torch.arange(length)
    offset = position - position[:, None]
    near = (2 * offset.abs() + (offset > 0)).argsort(1)[:, 1:]  # [L, L - 1]
    shown = all_masks(length)[:, near]  # [2^L, L, L - 1], from near to far
    shown &= shown.cumsum(-1) <= _checks.integer(k, "k", 0)
    known = (shown * (1 << near)).sum(-1)
    return entropies[known | 1 << position] - entropies[known]


def window_needed(
    joint: Joint, order: Tensor, by: str = "time", tolerance: float = 1e-9
) -> int:
    """The smallest k with which an order loses nothing: cost = entropy + tolerance."""
    total = joint.entropy()
    for k in range(joint.length):
        shown = neighborhood.seen(order, k, by)
        cost = sum(
            joint.entropy([int(i)], row.nonzero()[:, 0])
            for i, row in zip(order, shown, strict=True)
        )
        if cost <= total + tolerance:
            return k
    raise ValueError(f"tolerance must exceed rounding, got {tolerance}")


# ------------------------------------------------------------------------------- search


def best_window_order(entropies: Tensor, k: int) -> Found:
    r"""The best order of all for a window of k tokens in time, exact.

    With k = 1 the cost is the sum of the single entropies less the mutual informations
    :math:`I(x_{o(n-1)}; x_{o(n)})` along the order: a heaviest Hamiltonian path, found
    by dynamic programming over sets of visited positions and the last one (Held and
    Karp 1962). With larger k the last k are kept apart, one after the other.

    Parameters
    ----------
    entropies : Float64[2^L]
        :func:`block_entropies` of sets of up to k + 1 positions, L <= 16.
    k : int
        At least 1, and small: 2^L L^k is at most 2^24.
    """
    length = _positions(entropies, 16)
    k = min(_checks.integer(k, "k", 1), length)
    if 2**length * length**k > _MAX_STATES:
        raise ValueError(f"k must leave at most {_MAX_STATES} states, got {k}")
    position = torch.arange(length)
    recent = torch.cartesian_prod(*[position] * k).view(-1, k)  # [L^k, k], newest last
    window = functools.reduce(torch.bitwise_or, (1 << recent).T)  # [L^k]
    bit = 1 << position
    price = entropies[window | bit[:, None]] - entropies[window]  # [L, L^k]
    price = price.view(length, length, -1)  # [next, oldest, others]

    cost = torch.full((2**length, length**k), torch.inf, dtype=torch.float64)
    forgotten = torch.zeros(cost.shape, dtype=torch.uint8)
    by_size = _sets_by_size(length)
    begin = torch.isin(window, by_size[k]).nonzero()[:, 0]  # k different positions
    cost[window[begin], begin] = entropies[window[begin]]
    for sets in by_size[k + 1 :]:
        for part in sets.split(max(1, _MAX_STATES // length ** (k + 1))):
            before = part[:, None] & ~bit  # [C, next]
            through = cost[before].view(len(part), length, length, -1) + price
            best, oldest = through.min(2)  # [C, next, others]
            best[(part[:, None] & bit) == 0] = torch.inf
            cost[part] = best.transpose(1, 2).flatten(1)
            forgotten[part] = oldest.transpose(1, 2).flatten(1).byte()

    place, code = int(cost[-1].argmin()), 2**length - 1
    order = recent[place].tolist()
    while len(order) < length:
        order.insert(0, int(forgotten[code, place]))
        code &= ~(1 << order[k])
        place = order[0] * length ** (k - 1) + place // length
    return Found(torch.tensor(order), cost[-1].min())


def best_set_order(costs: Tensor) -> Found:
    """The best order where a token's price depends on the set revealed so far, exact.

    Parameters
    ----------
    costs : Float64[B, 2^L, L]
        Price of position i at the set of revealed positions c, for each row; see
        :func:`set_costs`. L <= 16.

    Returns
    -------
    Found
        ``order: Long[B, L]``, ``cost: Float64[B]``.
    """
    size, _, length = costs.shape
    _positions(costs[0, :, 0], 16)
    bit = 1 << torch.arange(length)
    total = torch.zeros(costs.shape[:2], dtype=torch.float64)
    last = torch.zeros(costs.shape[:2], dtype=torch.long)
    for sets in _sets_by_size(length)[1:]:
        before = sets[:, None] & ~bit  # [C, L]: without position i
        price = total[:, before] + costs[:, before, torch.arange(length)]
        price = torch.where((sets[:, None] & bit) > 0, price, torch.inf)
        total[:, sets], last[:, sets] = price.min(-1)
    code, row, order = torch.full((size,), 2**length - 1), torch.arange(size), []
    for _ in range(length):
        order.append(last[row, code])
        code = code & ~bit[order[-1]]
    return Found(torch.stack(order[::-1], 1), total[:, -1])


def _sets_by_size(length: int) -> list[Tensor]:
    """The numbers below 2^L, grouped by how many bits they have: L + 1 groups."""
    size = all_masks(length).sum(1)
    return [(size == count).nonzero()[:, 0] for count in range(length + 1)]


def _positions(table: Tensor, most: int) -> int:
    """L of a table with an entry for each of 2^L sets."""
    length = len(table).bit_length() - 1
    if len(table) != 2**length or not 1 <= length <= most:
        raise ValueError(f"a table must have 2^L entries, L <= {most}: {len(table)}")
    return length


def exhaustive(cost: Callable[[Tensor], Tensor], length: int) -> Found:
    """The best of all orders, tried one by one; ``length`` at most 9."""
    every = orders.all_orders(length)
    value = torch.cat([cost(part) for part in every.split(1 << 14)])
    return Found(every[value.argmin()], value.min())


def local_search(cost: Callable[[Tensor], Tensor], starts: Tensor) -> Found:
    """Descend from each start to an order that no single move improves.

    A move exchanges two entries, takes one entry out and puts it in elsewhere, or
    reverses a stretch; the best of all moves is made. No promise of the global optimum:
    give several starts.

    Parameters
    ----------
    cost : callable
        ``Long[N, L] -> Float64[N]``.
    starts : Long[S, L]

    Returns
    -------
    Found
        The local optimum of every start, ``Long[S, L]`` and ``Float64[S]``.
    """
    orders.check_orders(_checks.tokens(starts, "starts"), starts.shape[1], "starts")
    moves = _moves(starts.shape[1])  # [M, L]
    order, value = starts.clone(), cost(starts)
    busy = torch.ones(len(starts), dtype=torch.bool)
    while bool(busy.any()):
        near = order[busy][:, moves]  # [S, M, L]
        tried = cost(near.flatten(0, 1)).view(near.shape[:2])
        best, place = tried.min(1)
        better = best < value[busy] - 1e-12
        rows = busy.nonzero()[:, 0][better]
        order[rows] = near[better, place[better]]
        value[rows] = best[better]
        busy = torch.zeros_like(busy).index_fill(0, rows, True)
    return Found(order, value)


def _moves(length: int) -> Tensor:
    """Every move of :func:`local_search` as a way to index an order, Long[M, L]."""
    same = list(range(length))
    found = {tuple(same)}
    for i, j in itertools.combinations(same, 2):
        swapped = same.copy()
        swapped[i], swapped[j] = j, i
        later = [*same[:i], *same[i + 1 : j + 1], i, *same[j + 1 :]]
        sooner = [*same[:i], j, *same[i:j], *same[j + 1 :]]
        turned = [*same[:i], *same[i : j + 1][::-1], *same[j + 1 :]]
        found |= {tuple(move) for move in (swapped, later, sooner, turned)}
    return torch.tensor(sorted(found))


# ---------------------------------------------- models that see all and conclude little


def set_costs(
    denoiser: Denoiser, puzzles: Tensor, solutions: Tensor
) -> tuple[Tensor, Tensor]:
    """What a denoiser pays for each masked token at each set of revealed ones.

    Parameters
    ----------
    puzzles, solutions : Long[B, L]
        Masked positions hold ``mask_id``; a row has at most n <= 16 of them.

    Returns
    -------
    positions : Long[B, n]
        The masked positions of each row; a row with fewer is filled up with clues,
        which cost nothing.
    costs : Float64[B, 2^n, n]
        -log p in nats of ``positions[:, i]`` when those in the set are revealed.
    """
    _checks.denoiser(denoiser, "denoiser", *MASKED)
    masked = _checks.tokens(puzzles, "puzzles") == denoiser.mask_id
    n = int(masked.sum(1).max())
    if not 1 <= n <= 16:
        raise ValueError(f"puzzles must have 1 to 16 masked positions, got {n}")
    slots = masked.int().argsort(dim=1, descending=True, stable=True)[:, :n]
    asked = masked.gather(1, slots)[:, None]  # [B, 1, n]: not a clue
    reveal = all_masks(n) & asked  # [B, 2^n, n]
    shown = torch.zeros(len(puzzles), 2**n, puzzles.shape[1], dtype=torch.bool)
    shown = shown.scatter(2, slots[:, None].expand_as(reveal), reveal)
    states = torch.where(shown, solutions[:, None], puzzles[:, None])
    clean = solutions[:, None].expand_as(states)
    chunks = [part.flatten(0, 1).split(1 << 16) for part in (states, clean)]
    pairs = zip(*chunks, strict=True)
    nll = torch.cat([token_nll(denoiser, *pair, name="solutions") for pair in pairs])
    nll = nll.double().view(states.shape).gather(2, slots[:, None].expand_as(reveal))
    return slots, torch.where(asked, nll, 0.0)


def follow(
    denoiser: Denoiser,
    puzzles: Tensor,
    solutions: Tensor,
    rule: Callable[[Tensor], Tensor],
) -> Tensor:
    """-log p of solutions when a rule picks the next position from the state.

    Parameters
    ----------
    puzzles, solutions : Long[B, L]
    rule : callable
        The denoiser's probabilities ``Float[B, L, V]`` to scores ``Float[B, L]``; of
        the masked positions the one with the highest score is revealed, the first of
        equals. A rule that looks at nothing else defines a proper model: its order
        depends on what is revealed, never on what is not.

    Returns
    -------
    Float64[B]
        Nats.
    """
    return -orders.adaptive_log_prob(
        denoiser, solutions, lambda log_p: rule(log_p.exp()), start=puzzles
    ).double()


def fewest_candidates(p: Tensor) -> Tensor:
    """A rule of :func:`follow`: the position with the fewest possible tokens first."""
    return -(p > 1e-9).sum(-1).double()


def first_position(p: Tensor) -> Tensor:
    """A rule of :func:`follow`: left to right."""
    return -torch.arange(p.shape[1]).expand(p.shape[:2]).double()


# ---------------------------------------------------------------------------- the rows

COMMAND = "python -m dllm_tutorial.order_search --out runs --ship"
SEED = 0
RANDOM = 1000  # random orders behind a mean and a spread
STARTS = 30  # random starts of a search, beside both directions


def named_joints(seed: int = SEED) -> dict[str, Joint]:
    """The joints of the chapter: tasks of word and answer, chains, lists, a puzzle."""
    chain = neighborhood.noisy_sum(10, 1, vocab=2)
    order = orders.random_order(10, torch.Generator().manual_seed(seed))
    return {
        **{task: prompt_and_answer(task, 5, 3) for task in ANSWERS},
        "chain": chain,
        "chain of order 2": neighborhood.noisy_sum(10, 2, vocab=2),
        "shuffled chain": moved(chain, order),
        "shuffle": joints.shuffle(8),
        "sudoku": joints.sudoku(),
    }


def search_rows(
    named: dict[str, Joint], windows: Sequence[int] = (1, 2, 3)
) -> list[dict]:
    """What the named orders, random ones and the best one found cost: a row for each k.

    Nats a sequence. ``random_better`` is the share of random orders that cost less than
    left to right; ``exact`` says whether ``best`` is proved to be the best of all.
    """
    rows: list[dict] = []
    for name, joint in named.items():
        table = block_entropies(joint, max(windows) + 1)
        for by in neighborhood.VIEWS:
            rows += [_search_row(name, joint, table, k, by) for k in windows]
    return rows


def _search_row(name: str, joint: Joint, table: Tensor, k: int, by: str) -> dict:
    def cost(order: Tensor) -> Tensor:
        return window_cost(table, order, k, by)

    length, generator = joint.length, torch.Generator().manual_seed(SEED)
    directed = torch.stack([orders.left_to_right(length), orders.right_to_left(length)])
    drawn = orders.random_orders(length, RANDOM, generator)
    proved = True
    if by == "space":
        found = best_set_order(nearest_costs(table, k)[None])
        best = Found(found.order[0], found.cost[0])
    elif 2**length * length**k <= _MAX_STATES:
        best = best_window_order(table, k)
    else:
        found = local_search(cost, torch.cat([directed, drawn[:STARTS]]))
        best = Found(found.order[found.cost.argmin()], found.cost.min())
        proved = best.cost.item() < joint.entropy() + 1e-9
    ahead, back = cost(directed).tolist()
    floor, values = joint.entropy(), cost(drawn)
    return {
        "joint": name,
        "length": length,
        "by": by,
        "k": k,
        "left_to_right": ahead,
        "right_to_left": back,
        "random_mean": values.mean().item(),
        "random_sd": values.std().item(),
        "random_better": (values < ahead - 1e-9).double().mean().item(),
        "best": best.cost.item(),
        "entropy": floor,
        "exact": proved,
        "best_order": " ".join(map(str, best.order.tolist())),
    }


def puzzle_rows(n: int = 100, draws: int = 20) -> list[dict]:
    """Sudoku of order 4 filled with pencil marks: what each order costs, in nats.

    From puzzles with one solution (entropy 0), and from the empty grid, where the mean
    over all 288 solutions is taken. ``best order`` is the cheapest order of each puzzle
    and looks at its solution; from the empty grid it is the best single order.
    ``certain`` is the share of runs that pay nothing. Random orders are drawn ``draws``
    times for each of the n puzzles and each of the 288 grids.
    """
    joint, marks = joints.sudoku(), limited.pencil_marks()
    generator = torch.Generator().manual_seed(SEED)
    puzzles, solutions = limited.unique_puzzles(joint, n, generator)
    _, prices = set_costs(marks, puzzles, solutions)
    empty = torch.full_like(joint.support, joint.mask_id)
    # renaming the symbols changes no number of candidates: 12 grids stand for all
    some = joint.support[(joint.support[:, :4] == torch.arange(4)).all(1)]
    _, mean_price = set_costs(marks, empty[: len(some)], some)
    cases = {
        "puzzle": (puzzles, solutions, best_set_order(prices).cost, 0.0),
        "empty grid": (
            empty,
            joint.support,
            best_set_order(mean_price.mean(0, keepdim=True)).cost,
            joint.entropy(),
        ),
    }
    rows = []
    rules = {"left-to-right": first_position, "fewest candidates": fewest_candidates}
    for start, (x, full, best, floor) in cases.items():
        costs = {name: follow(marks, x, full, rule) for name, rule in rules.items()}
        costs["random"] = torch.cat(
            [follow(marks, x, full, _anywhere(generator)) for _ in range(draws)]
        )
        costs["best order"] = best
        for name, value in costs.items():
            row = {"start": start, "order": name, "nats": value.mean().item()}
            row["certain"] = (value < 1e-9).double().mean().item()
            rows.append(row | {"entropy": floor, "rows": len(x), "runs": len(value)})
    return rows


def _anywhere(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A rule of :func:`follow`: any position."""
    return lambda p: torch.rand(p.shape[:2], generator=generator)


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    a = _programs.parse(_programs.parser(__doc__), arguments)
    origin = study.provenance(COMMAND, SEED)  # of the code that measures
    torch.set_num_threads(1)
    tables = {
        "order_search": search_rows(named_joints()),
        "order_puzzles": puzzle_rows(),
    }
    for name, rows in tables.items():
        table = pd.DataFrame(rows)
        table = table.round(dict.fromkeys(table.select_dtypes("float").columns, 5))
        _programs.publish(a, name, table, origin)


if __name__ == "__main__":
    main()
