r"""Reading logits: the token proposed at each position and how sure it is.

The logits of a large model are far bigger than a processor's cache, and most of the
cost of a step is fetching them. So on a CPU they are read in tiles that fit: a tile is
fetched once and leaves, per chunk of the vocabulary, its largest logit and its
probability. A token is then found in two levels, first its chunk, then its place in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Candidates", "propose"]

TILE = 2**20  # elements read at a time, 4 MB of float32
NEVER = -1100.0  # exp(NEVER) == 0; stands for log 0 in products
BELOW_ONE = 1 - 2.0**-53


class Candidates(NamedTuple):
    """What one step knows about each position; tensors [B, L], those not asked None.

    ``token`` (Long) is the proposal, ``confidence`` (Float64, as all that follow) the
    untempered probability of that token, ``margin`` the difference p1 - p2 of the two
    largest probabilities, ``entropy`` in nats, both of the untempered distribution;
    ``log_probs`` [B, L, V] is the whole of it. ``peak`` is the largest logit that may
    be drawn: NaN or infinite where the logits are unusable.
    """

    token: Tensor
    confidence: Tensor
    peak: Tensor
    margin: Any = None
    entropy: Any = None
    log_probs: Any = None


class _Sums(NamedTuple):
    """Per chunk of the vocabulary, Float[..., C]; ``entropy`` [...] or None."""

    peak: Tensor  # largest logit
    mass: Tensor  # probability of the chunk
    hot: Tensor  # the same at the temperature of the draw
    entropy: Any


def propose(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float | None = None,
    suppressed: Tensor | None = None,
    want: frozenset[str] = frozenset(),
) -> Candidates:
    r"""Draw a token at each position from :math:`\mathrm{softmax}(l / T)`.

    Temperature and ``top_p`` act on what is drawn only. Confidence, margin and entropy
    are those of softmax(l), renormalised over the tokens that are not suppressed
    (LLaDA's convention; tempered confidences tie and collapse to left-to-right).

    Parameters
    ----------
    logits : Tensor
        Float[B, L, V], left as they are; half precision is read as float32.
    uniform : Tensor
        Float64[B, L] in (0, 1), one per position; not looked at at temperature 0.
    temperature : float
        0 takes the most probable token, the lowest id among equals.
    top_p : float or None
        Draw from the smallest set of most probable tokens whose tempered probability
        reaches ``top_p`` (Holtzman et al. 2020).
    suppressed : Tensor or None
        Bool[V], tokens that get no probability.
    want : frozenset of str
        Any of "margin", "entropy", "log_probs".
    """
    width = _width(logits)
    sums = _read(logits, width, temperature, suppressed, "entropy" in want)
    best = sums.peak.argmax(-1)  # the first one, so the lowest token among equals
    if temperature == 0:
        chunk = best
        values = _chunk(logits, chunk, width, suppressed)
        place = values.argmax(-1)
    elif top_p is None:
        chunk, rest = _draw(sums.hot, uniform)
        values = _chunk(logits, chunk, width, suppressed)
        place, _ = _draw((values / temperature).softmax(-1), rest)
    else:
        token = _nucleus(_allowed(logits, suppressed) / temperature, uniform, top_p)
        chunk, place = token // width, token % width
        values = _chunk(logits, chunk, width, suppressed)
    confidence = _probability(sums.mass, chunk, values, place)

    margin = None
    if "margin" in want:
        values = _chunk(logits, best, width, suppressed)
        first = values.argmax(-1)
        peak = values.gather(-1, first[..., None])
        others = values.scatter(-1, first[..., None], -torch.inf).amax(-1, keepdim=True)
        chunks = sums.peak.scatter(-1, best[..., None], -torch.inf)
        runner_up = torch.maximum(others, chunks.amax(-1, keepdim=True))
        ratio = (runner_up - peak).to(torch.float64)
        margin = -torch.expm1(ratio)[..., 0]
        margin = margin * _probability(sums.mass, best, values, first)
    log_probs = None
    if "log_probs" in want:
        log_probs = _allowed(logits, suppressed).log_softmax(-1)
    return Candidates(
        chunk * width + place,
        confidence,
        sums.peak.amax(-1),
        margin,
        sums.entropy,
        log_probs,
    )


def _width(logits: Tensor) -> int:
    """Width of a chunk; never a function of the batch, which would change last bits."""
    vocab_size = logits.shape[-1]
    if logits.device.type != "cpu" or vocab_size <= 128:
        return vocab_size
    return 32 if vocab_size <= 1024 else 256


def _work_dtype(logits: Tensor) -> torch.dtype:
    return torch.float32 if logits.element_size() < 4 else logits.dtype


def _allowed(logits: Tensor, suppressed: Tensor | None) -> Tensor:
    logits = logits.to(_work_dtype(logits))
    if suppressed is None:
        return logits
    return logits.masked_fill(suppressed, -torch.inf)


def _read(
    logits: Tensor,
    width: int,
    temperature: float,
    suppressed: Tensor | None,
    entropy: bool,
) -> _Sums:
    """One pass over the logits, a tile of positions at a time, in the same buffer."""
    vocab_size = logits.shape[-1]
    rows = logits.flatten(0, 1)
    if width == vocab_size:  # one chunk holds everything
        rows = _allowed(rows, suppressed)
        peak = rows.amax(-1, keepdim=True)
        one = torch.ones_like(peak)
        h = _entropy(rows, peak, rows.softmax(-1)) if entropy else None
        tiles = [_Sums(peak, one, one, h)]
    else:
        count = max(1, TILE // vocab_size)
        shape = min(count, len(rows)), vocab_size
        buffer = torch.empty(shape, dtype=_work_dtype(rows), device=rows.device)
        tiles = [
            _read_tile(
                tile, buffer[: len(tile)], width, temperature, suppressed, entropy
            )
            for tile in rows.split(count)
        ]

    def joined(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(parts)).unflatten(0, logits.shape[:2])

    return _Sums(
        joined(tile.peak for tile in tiles),
        joined(tile.mass for tile in tiles),
        joined(tile.hot for tile in tiles),
        joined(tile.entropy for tile in tiles) if entropy else None,
    )


def _read_tile(
    tile: Tensor,
    buffer: Tensor,
    width: int,
    temperature: float,
    suppressed: Tensor | None,
    entropy: bool,
) -> _Sums:
    """For some positions at once: tile and buffer Float[R, V]."""
    if suppressed is not None or tile.dtype != buffer.dtype:
        tile = _allowed(tile, suppressed)
    p = torch.softmax(tile, -1, out=buffer)
    peak, mass = _by_chunk(torch.amax, tile, width), _by_chunk(torch.sum, p, width)
    h = _entropy(tile, peak.amax(-1, keepdim=True), p) if entropy else None
    hot = mass
    if temperature not in (0, 1):
        torch.softmax(tile / temperature, -1, out=buffer)
        hot = _by_chunk(torch.sum, buffer, width)
    return _Sums(peak, mass, hot, h)


def _by_chunk(reduce, values: Tensor, width: int) -> Tensor:
    """Float[R, C]: ``reduce`` over each chunk of the last axis; the last is shorter."""
    whole = values.shape[-1] // width * width
    parts = reduce(values[:, :whole].unflatten(-1, (-1, width)), -1)
    if whole == values.shape[-1]:
        return parts
    return torch.cat([parts, reduce(values[:, whole:], -1, keepdim=True)], -1)


def _entropy(values: Tensor, peak: Tensor, p: Tensor) -> Tensor:
    r"""Float64[...]: :math:`-\log p_{max} - \sum_v p_v (l_v - m)`, in nats."""
    below = (values - peak).clamp_(min=NEVER)
    mean = below.mul_(p).sum(-1, dtype=torch.float64)
    return (-p.amax(-1).to(torch.float64).log() - mean).clamp(min=0)


def _chunk(
    logits: Tensor, index: Tensor, width: int, suppressed: Tensor | None
) -> Tensor:
    """Float[B, L, width]: the logits of chunk ``index``: Long[B, L], -inf outside."""
    vocab_size = logits.shape[-1]
    if width == vocab_size:
        return _allowed(logits, suppressed)
    columns = index[..., None] * width + torch.arange(width, device=logits.device)
    missing = columns >= vocab_size
    columns = columns.clamp_(max=vocab_size - 1)
    if suppressed is not None:
        missing |= suppressed[columns]
    values = logits.gather(-1, columns).to(_work_dtype(logits))
    return values.masked_fill_(missing, -torch.inf)


def _probability(mass: Tensor, chunk: Tensor, values: Tensor, place: Tensor) -> Tensor:
    """Float64[B, L]: of the token at ``place`` of ``chunk``; ``values`` its logits."""
    inside = values.softmax(-1).gather(-1, place[..., None])[..., 0].to(torch.float64)
    if mass.shape[-1] == 1:
        return inside
    return (mass.gather(-1, chunk[..., None])[..., 0] * inside).clamp_(max=1)


def _draw(p: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Index i with probability proportional to p[i], by inverting the running sum.

    Also returns what is left of ``uniform``: given i, uniform on [0, 1) again.
    """
    if p.shape[-1] == 1:
        return torch.zeros_like(uniform, dtype=torch.int64), uniform
    running = p.to(torch.float64, copy=True).cumsum_(-1)
    # uniform < 1 keeps the target below the last entry, so a token of mass 0 never wins
    target = uniform[..., None] * running[..., -1:]
    index = torch.searchsorted(running, target, right=True)
    index = index.clamp(max=p.shape[-1] - 1)  # only NaN reaches this far
    end = running.gather(-1, index)
    start = running.gather(-1, (index - 1).clamp(min=0)) * (index > 0)
    rest = ((target - start) / (end - start)).clamp(max=BELOW_ONE)
    return index[..., 0], rest[..., 0]


def _nucleus(logits: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Draw among the most probable tokens that together reach ``top_p``."""
    p, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = p.cumsum(-1, dtype=torch.float64) - p
    index, _ = _draw(p * (before < top_p), uniform)
    return order.gather(-1, index[..., None])[..., 0]
