r"""Reading logits: the token proposed at each position and how sure it is.

The logits of a large model are far bigger than a processor's cache, and fetching them
is much of what a step costs. So on a CPU they are read in tiles of as many positions as
fit: a tile is fetched once, and what stays of it is the maximum and the mass of each
chunk of the vocabulary (``_in_chunks``). A token is then found in two levels, first its
chunk, then its place in it. On a GPU, and for a compiler that fuses operations by
itself, few operations on all logits at once cost least (``_whole``).

Every operation treats each position alike, whatever tile or batch it lies in. Numbers
that differ by no more than ``rounding`` are one value to all who compare them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Candidates", "propose", "rounding"]

TILE = 2**20  # elements read at a time, 4 MB of float32
NARROW = 128  # vocabularies up to this size are not cut into chunks
COLDEST = 1e-30  # a temperature between 0 and this does what this one does
NEVER = -1100.0  # exp(NEVER) == 0; stands for log 0 in products
BELOW_ONE = 1 - 2.0**-53


def rounding(dtype: torch.dtype) -> float:
    """How far apart two equal probabilities may come out, relative to their size.

    It covers what is left in them by logits of ``dtype`` and the arithmetic on these:
    1e-10 for float64, 32 units in the last place of float32 for all others, which are
    read as float32.

    >>> rounding(torch.float64)
    1e-10
    """
    if dtype == torch.float64:
        return 1e-10
    return 32 * torch.finfo(torch.float32).eps


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
        Float64[B, L] in (0, 1), one per position; of no effect at temperature 0.
    temperature : float
        0 takes the most probable token, the lowest id among those that are equally
        probable up to :func:`rounding`.
    top_p : float or None
        Draw from the smallest set of most probable tokens whose tempered probability
        reaches ``top_p`` (Holtzman et al. 2020), up to the rounding of the logits; of
        equally probable tokens the lowest ids are in it. None and 1: from all.
    suppressed : Tensor or None
        Bool[V], tokens that get no probability.
    want : frozenset of str
        Any of "margin", "entropy", "log_probs".
    """
    rows, u = logits.flatten(0, 1), uniform.reshape(-1, 1)
    size, vocab_size = rows.shape
    if temperature > 0:
        temperature = max(temperature, COLDEST)
    tie = rounding(logits.dtype)
    top_p = None if top_p == 1 else top_p
    if top_p is not None:  # less what the last digits of two logits do to a share
        top_p -= tie + 4 * torch.finfo(logits.dtype).eps * top_p * (1 - top_p)

    fused = _fused(logits)
    count = size if fused else max(1, TILE // vocab_size)
    if fused or vocab_size <= NARROW or top_p is not None:
        tiles = zip(rows.split(count), u.split(count), strict=True)
        each = [
            _whole(_read(part, suppressed), v, tie, temperature, top_p, want)
            for part, v in tiles
        ]
        found = _join(each)
    else:
        found = _in_chunks(rows, u, tie, temperature, want, suppressed, count)
    shaped: list[Any] = [x if x is None else x.view(logits.shape[:2]) for x in found]
    if "log_probs" in want:
        shaped.append(_read(logits, suppressed).log_softmax(-1))
    return Candidates(*shaped)


def _fused(x: Tensor) -> bool:
    """Whether operations are fused, or memory is so fast that tiles do not pay."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def _read(logits: Tensor, suppressed: Tensor | None) -> Tensor:
    """Float32 or Float64, minus infinity for suppressed tokens."""
    logits = logits.float() if logits.element_size() < 4 else logits
    if suppressed is None:
        return logits
    return logits.masked_fill(suppressed, -torch.inf)


def _join(tiles: list[list[Any]]) -> list[Any]:
    """Column by column; what was not asked for is None in every tile."""
    if len(tiles) == 1:
        return tiles[0]
    columns = zip(*tiles, strict=True)
    return [None if parts[0] is None else torch.cat(parts) for parts in columns]


def _whole(
    logits: Tensor,
    uniform: Tensor,
    tie: float,
    temperature: float,
    top_p: float | None,
    want: frozenset[str],
) -> list[Any]:
    """For logits Float[n, V], uniform Float64[n, 1]: few operations, on all logits.

    Returns token, confidence, peak, margin and entropy, each [n, 1].
    """
    # Fresh memory costs page faults: the search and p take turns in the same.
    scratch = None if _fused(logits) else torch.empty_like(logits)
    peak, best = _largest(logits, tie, scratch)
    p = torch.softmax(logits, -1, out=scratch)
    token = best
    if temperature > 0:
        hot = p if temperature == 1 else _tempered(logits, temperature)
        if top_p is not None:
            token = _nucleus(hot, uniform, top_p, tie)
        elif hot.shape[-1] <= NARROW:
            token = _invert(hot, uniform)[0]
        else:
            chunk, rest = _draw_chunk(_by_chunk(torch.sum, hot), uniform)
            inside, first = _inside(hot, chunk, 0.0)
            token = first + _invert(inside, rest)[0]
    confidence = p.gather(-1, token).to(torch.float64)

    margin = entropy = None
    if "margin" in want or "entropy" in want:
        top = p.gather(-1, best).to(torch.float64)
    if "margin" in want:
        second = logits.scatter(-1, best, -torch.inf).amax(-1, keepdim=True)
        margin = _margin(second - peak, top, tie)
    if "entropy" in want:
        entropy = _entropy(_moments(logits, peak, p), top)
    return [token, confidence, peak, margin, entropy]


def _in_chunks(
    rows: Tensor,
    uniform: Tensor,
    tie: float,
    temperature: float,
    want: frozenset[str],
    suppressed: Tensor | None,
    count: int,
) -> list[Any]:
    """For logits Float[N, V], ``count`` rows at a time: returns what ``_whole`` does.

    A tile leaves a few numbers per chunk behind; what remains is done for all rows
    together, on the one chunk that holds the token of a row.
    """
    tiles = []
    buffer = _read(rows[:0], None).new_empty(min(count, len(rows)), rows.shape[-1])
    for part in rows.split(count):
        tiles.append(_survey(_read(part, suppressed), temperature, want, buffer))
    maxima, masses, hot, moments = _join(tiles)
    peak = maxima.amax(-1, keepdim=True)
    best = _first(maxima, peak - tie)
    total = masses.sum(-1, keepdim=True, dtype=torch.float64)

    def inside(chunk: Tensor) -> tuple[Tensor, Tensor]:
        logits, first = _inside(rows, chunk, -torch.inf)
        away = suppressed
        if suppressed is not None:
            away = suppressed.unfold(-1, logits.shape[-1], 1)[first[:, 0]]
        return _read(logits, away), first

    margin = entropy = None
    if temperature == 0 or "margin" in want:
        logits, first = inside(best)
        place = _first(logits, peak - tie)
        token, confidence = first + place, 1 / total
    if "margin" in want:
        near = logits.scatter(-1, place, -torch.inf).amax(-1, keepdim=True)
        far = maxima.scatter(-1, best, -torch.inf).amax(-1, keepdim=True)
        margin = _margin(torch.maximum(near, far) - peak, 1 / total, tie)
    if "entropy" in want:
        entropy = _entropy(moments / total, 1 / total)
    if temperature > 0:
        chunk, rest = _draw_chunk(masses if temperature == 1 else hot, uniform)
        logits, first = inside(chunk)
        place = _invert(_tempered(logits, temperature), rest)[0]
        token = first + place
        below = logits.gather(-1, place) - peak
        confidence = below.to(torch.float64).exp() / total
    return [token, confidence, peak, margin, entropy]


def _survey(
    logits: Tensor, temperature: float, want: frozenset[str], buffer: Tensor
) -> list[Any]:
    """What is kept of each chunk of a tile Float[n, V]: Float[n, C], or None if nobody
    asks. The maxima; the masses, sums of w = exp(l - max l); those of softmax(l / T);
    the sums of w (l - max l)."""
    maxima = _by_chunk(torch.amax, logits)
    peak = maxima.amax(-1, keepdim=True)
    weights = torch.sub(logits, peak, out=buffer[: len(logits)]).exp_()
    masses = _by_chunk(torch.sum, weights)
    hot = moments = None
    if temperature not in (0, 1):
        hot = _by_chunk(torch.sum, _tempered(logits, temperature))
    if "entropy" in want:
        moments = _moments(logits, peak, weights)
    return [maxima, masses, hot, moments]


def _largest(
    logits: Tensor, tie: float, scratch: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The largest of Float[n, V] and the first place that is as large up to ``tie``,
    a relative difference of probabilities: [n, 1]. ``scratch`` as in ``_first``."""
    if logits.shape[-1] <= NARROW:
        peak = logits.amax(-1, keepdim=True)
        return peak, _first(logits, peak - tie, scratch)
    maxima = _by_chunk(torch.amax, logits)
    peak = maxima.amax(-1, keepdim=True)
    inside, first = _inside(logits, _first(maxima, peak - tie), -torch.inf)
    return peak, first + _first(inside, peak - tie)


def _first(values: Tensor, bar: Tensor, scratch: Tensor | None = None) -> Tensor:
    """The first place where Float[n, k] reaches Float[n, 1]: Long[n, 1].

    ATen's search for a place is not vectorised on a CPU; a maximum, of how far the end
    is from the places that reach the bar, takes less time. It is worked out in
    ``scratch`` Float[n, k], if given.
    """
    n = values.shape[-1]
    countdown = torch.arange(n, 0, -1, dtype=values.dtype, device=values.device)
    if scratch is None:
        found = (values >= bar) * countdown
    else:
        found = torch.ge(values, bar, out=scratch).mul_(countdown)
    place = n - found.amax(-1, keepdim=True).to(torch.int64)
    return place.clamp_(max=n - 1)  # NaN is nowhere


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """softmax(l / T) of Float[n, k], with the peak taken off lest l / T overflow."""
    if temperature != 1:
        below = logits - logits.amax(-1, keepdim=True)
        logits = below.div_(temperature)
    return logits.softmax(-1)


def _margin(gap: Tensor, top: Tensor, tie: float) -> Tensor:
    """p1 - p2, from l2 - l1 and p1; 0 where the two are equal up to ``tie``."""
    gap = torch.where(gap < -tie, gap.to(torch.float64), 0.0)
    return -torch.expm1(gap) * top


def _moments(logits: Tensor, peak: Tensor, p: Tensor) -> Tensor:
    """Sum of p (l - max l) over each chunk: Float[n, C]."""
    return _by_chunk(torch.sum, (logits - peak).clamp_(min=NEVER).mul_(p))


def _entropy(moments: Tensor, top: Tensor) -> Tensor:
    """H = -log p1 - sum of p (l - max l), Float64[n, 1]."""
    mean = moments.sum(-1, keepdim=True, dtype=torch.float64)
    return (-top.log() - mean).clamp(min=0)


def _width(vocab_size: int) -> int:
    """Tokens in a chunk; the last chunk may have fewer."""
    if vocab_size <= NARROW:
        return vocab_size
    return 32 if vocab_size <= 1024 else 512


def _by_chunk(reduce: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Float[n, C]: ``reduce`` over each chunk of the last axis of Float[n, V]."""
    vocab_size, width = values.shape[-1], _width(values.shape[-1])
    whole = vocab_size // width * width
    parts = reduce(values[:, :whole].unflatten(-1, (-1, width)), -1)
    if whole == vocab_size:
        return parts
    return torch.cat([parts, reduce(values[:, whole:], -1, keepdim=True)], -1)


def _inside(values: Tensor, chunk: Tensor, outside: float) -> tuple[Tensor, Tensor]:
    """A chunk Long[n, 1] of Float[n, V]: Float[n, W], and its first token Long[n, 1].

    A last chunk that is shorter begins earlier, with the value ``outside`` there.
    """
    vocab_size, width = values.shape[-1], _width(values.shape[-1])
    start = chunk * width
    first = start.clamp(max=vocab_size - width)
    row = torch.arange(len(values), device=values.device)
    inside = values.unfold(-1, width, 1)[row, first[:, 0]]
    if vocab_size % width:
        column = torch.arange(width, device=values.device)
        inside.masked_fill_(column < start - first, outside)
    return inside, first


def _invert(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index i with probability proportional to weights[i], by inverting their running
    sum. For Float[n, k] and Float64[n, 1]: Long[n, 1]; the target and the sums, too."""
    running = weights.to(torch.float64, copy=True).cumsum_(-1)
    # uniform < 1 keeps the target below the last entry, so a weight of 0 never wins
    target = uniform * running[:, -1:]
    index = torch.searchsorted(running, target, right=True)
    return index.clamp_(max=weights.shape[-1] - 1), target, running  # NaN is beyond


def _draw_chunk(masses: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A chunk Long[n, 1] drawn by mass, and what is left of ``uniform``: given the
    chunk, it is uniform on [0, 1) again."""
    chunk, target, running = _invert(masses, uniform)
    end = running.gather(-1, chunk)
    start = running.gather(-1, (chunk - 1).clamp(min=0)) * (chunk > 0)
    return chunk, ((target - start) / (end - start)).clamp(max=BELOW_ONE)


def _nucleus(p: Tensor, uniform: Tensor, top_p: float, tie: float) -> Tensor:
    """Draw among the most probable tokens that together reach ``top_p``, of those that
    are equal up to ``tie`` the lowest ids: Long[n, 1]."""
    best = p.sort(dim=-1, descending=True).values
    before = best.cumsum(-1, dtype=torch.float64) - best
    size = (before < top_p).sum(-1, keepdim=True).clamp(min=1)
    least = best.gather(-1, size - 1)
    above = p > least * (1 + tie)
    equal = (p >= least * (1 - tie)) & ~above
    room = size - above.sum(-1, keepdim=True)
    kept = above | (equal & (equal.cumsum(-1) <= room))
    return _invert(p * kept, uniform)[0]
