r"""Reading logits: the token proposed at each position and how sure it is.

The logits of a large model are far bigger than a processor's cache, and much of the
cost of a step is fetching them. So on a CPU they are read in tiles of as many positions
as fit: a tile is fetched once and everything about it is worked out while it is there.
A token is found in two levels, first its chunk of the vocabulary, then its place in
it. Every operation treats each position alike, whatever tile or batch it lies in, so
equal logits give equal numbers to the last bit: ties are decided by those bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Candidates", "propose"]

TILE = 2**21  # elements read at a time, 8 MB of float32
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
        0 takes the most probable token, the lowest id among equals.
    top_p : float or None
        Draw from the smallest set of most probable tokens whose tempered probability
        reaches ``top_p`` (Holtzman et al. 2020).
    suppressed : Tensor or None
        Bool[V], tokens that get no probability.
    want : frozenset of str
        Any of "margin", "entropy", "log_probs".
    """
    rows, u = logits.flatten(0, 1), uniform.flatten()
    size, vocab_size = rows.shape
    count = size if logits.is_cuda else min(size, max(1, TILE // vocab_size))
    dtype = torch.float32 if logits.element_size() < 4 else logits.dtype
    buffer = torch.empty(count, vocab_size, dtype=dtype, device=logits.device)
    tiles = []
    for start in range(0, size, count):
        tile = rows[start : start + count].to(dtype)
        if suppressed is not None:
            tile = tile.masked_fill(suppressed, -torch.inf)
        tiles.append(
            _propose(tile, u[start : start + count], temperature, top_p, want, buffer)
        )
    joined: list[Any] = [
        None if parts[0] is None else torch.cat(parts).unflatten(0, logits.shape[:2])
        for parts in zip(*tiles, strict=True)
    ]
    return Candidates(*joined)


def _propose(
    logits: Tensor,
    uniform: Tensor,
    temperature: float,
    top_p: float | None,
    want: frozenset[str],
    buffer: Tensor,
) -> Candidates:
    """For one tile Float[R, V], uniform Float64[R]; the buffer takes probabilities."""
    width = _width(logits)
    p = torch.softmax(logits, -1, out=buffer[: len(logits)])
    peaks = _by_chunk(torch.amax, logits, width)  # [R, C]
    peak, best = peaks.max(-1, keepdim=True)  # the first one, so the lowest token

    if temperature == 0:
        place = _first(_chunk(logits, best, width, -torch.inf), peak)
        token = best * width + place
    else:
        hot = p if temperature == 1 else (logits / temperature).softmax(-1)
        if top_p is None:
            chunk, rest = _draw(_by_chunk(torch.sum, hot, width), uniform[:, None])
            place, _ = _draw(_chunk(hot, chunk, width, 0.0), rest)
            token = chunk * width + place
        else:
            token = _nucleus(hot, uniform[:, None], top_p)
    confidence = p.gather(-1, token)[:, 0].to(torch.float64)

    margin = entropy = log_probs = None
    if "margin" in want:
        inside = _chunk(logits, best, width, -torch.inf)
        inside = inside.scatter(-1, _first(inside, peak), -torch.inf)
        others = torch.cat([inside, peaks.scatter(-1, best, -torch.inf)], -1)
        ratio = (others.amax(-1) - peak[:, 0]).to(torch.float64)
        margin = -torch.expm1(ratio) * p.amax(-1)
    if "entropy" in want:  # H = -log p_max - sum of p (l - m)
        below = (logits - peak).clamp_(min=NEVER)
        mean = below.mul_(p).sum(-1, dtype=torch.float64)
        entropy = (-p.amax(-1).to(torch.float64).log() - mean).clamp(min=0)
    if "log_probs" in want:
        log_probs = logits.log_softmax(-1)
    return Candidates(token[:, 0], confidence, peak[:, 0], margin, entropy, log_probs)


def _width(logits: Tensor) -> int:
    """Of a chunk; one chunk is all where that costs less than two levels."""
    vocab_size = logits.shape[-1]
    if logits.is_cuda or vocab_size <= 128:
        return vocab_size
    return 32 if vocab_size <= 1024 else 512


def _by_chunk(reduce, values: Tensor, width: int) -> Tensor:
    """Float[R, C]: ``reduce`` over each chunk of the last axis; the last is shorter."""
    whole = values.shape[-1] // width * width
    parts = reduce(values[:, :whole].unflatten(-1, (-1, width)), -1)
    if whole == values.shape[-1]:
        return parts
    return torch.cat([parts, reduce(values[:, whole:], -1, keepdim=True)], -1)


def _chunk(values: Tensor, index: Tensor, width: int, outside: float) -> Tensor:
    """Float[R, width]: chunk ``index``: Long[R, 1], the last one filled up."""
    if width == values.shape[-1]:
        return values
    columns = index * width + torch.arange(width, device=values.device)
    inside = values.gather(-1, columns.clamp(max=values.shape[-1] - 1))
    return inside.masked_fill_(columns >= values.shape[-1], outside)


def _first(values: Tensor, peak: Tensor) -> Tensor:
    """Long[R, 1]: the first place where values[R, n] == peak[R, 1].

    argmax in three vectorised passes; ATen's own takes several times as long.
    """
    n = values.shape[-1]
    countdown = torch.arange(n, 0, -1, dtype=values.dtype, device=values.device)
    hit = torch.eq(values, peak, out=torch.empty_like(values))
    first = n - hit.mul_(countdown).amax(-1, keepdim=True).to(torch.int64)
    return first.clamp_(max=n - 1)  # NaN is nowhere


def _draw(p: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Index i with probability proportional to p[i], by inverting the running sum.

    p is Float[R, n], uniform Float64[R, 1]. Also returns what is left of ``uniform``:
    given i, uniform on [0, 1) again.
    """
    if p.shape[-1] == 1:
        return torch.zeros_like(uniform, dtype=torch.int64), uniform
    running = p.to(torch.float64, copy=True).cumsum_(-1)
    # uniform < 1 keeps the target below the last entry, so a token of mass 0 never wins
    target = uniform * running[:, -1:]
    index = torch.searchsorted(running, target, right=True)
    index = index.clamp(max=p.shape[-1] - 1)  # only NaN reaches this far
    end = running.gather(-1, index)
    start = running.gather(-1, (index - 1).clamp(min=0)) * (index > 0)
    return index, ((target - start) / (end - start)).clamp(max=BELOW_ONE)


def _nucleus(p: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Draw among the most probable tokens that together reach ``top_p``: Long[R, 1]."""
    p, order = p.sort(dim=-1, descending=True, stable=True)
    before = p.cumsum(-1, dtype=torch.float64) - p
    return order.gather(-1, _draw(p * (before < top_p), uniform)[0])
