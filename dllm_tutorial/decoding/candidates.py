r"""Reading logits once: the token proposed at each position and how sure it is.

All quantities that rank positions come from sums over the vocabulary of
:math:`w_v = e^{l_v - m}`, m the largest logit: the confidence of token v is
:math:`w_v / \sum_u w_u`, and so on. The logits of a large model are far bigger than a
processor's cache, so on a CPU the vocabulary is read in chunks that fit: each chunk is
fetched from memory once and leaves its maximum and its sums. A token is then found in
two levels, first its chunk, then its place in it; no V-sized result is ever stored.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Candidates", "Suppressed", "propose"]

LOG2E = math.log2(math.e)  # ATen's exp2 is several times faster than its exp
NEVER = -1100.0  # exp(NEVER) and 2**NEVER are 0; stands for log 0 in products
BELOW_ONE = 1 - 2.0**-53
GRAIN = 32768  # at::internal::GRAIN_SIZE, the least share of a thread


class Candidates(NamedTuple):
    """What one step knows about each position; tensors [B, L], those not asked empty.

    ``token`` (Long) is the proposal, ``confidence`` the untempered probability of that
    token, ``margin`` the difference p1 - p2 of the two largest probabilities,
    ``entropy`` in nats, both of the untempered distribution; ``log_probs``
    [B, L, V] is the whole of it. ``peak`` is the largest logit that may be drawn: NaN
    or infinite where the logits are unusable.
    """

    token: Tensor
    confidence: Tensor
    peak: Tensor
    margin: Tensor
    entropy: Tensor
    log_probs: Tensor


class Suppressed(NamedTuple):
    """Token ids that are never drawn: as numbers and as Bool[V]."""

    ids: tuple[int, ...]
    flags: Tensor

    @classmethod
    def of(cls, ids: tuple[int, ...], vocab_size: int, device) -> Suppressed:
        """From ids below ``vocab_size``."""
        flags = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        flags[list(ids)] = True
        return cls(ids, flags)

    def touches(self, start: int, stop: int) -> bool:
        """Whether an id lies in this part of the vocabulary."""
        return any(start <= token < stop for token in self.ids)


class _Sums(NamedTuple):
    """Per chunk c, Float[B, L, C]: sums over its tokens relative to its maximum."""

    peak: Tensor  # m_c, in the dtype of the logits (at least float32)
    mass: Tensor  # sum of exp(l - m_c)
    tempered: Tensor  # sum of exp((l - m_c) / T)
    weighted: Tensor | None  # sum of exp(l - m_c) * (l - m_c) * log2(e)


def propose(
    logits: Tensor,
    uniform: Tensor | None,
    *,
    temperature: float = 0.0,
    top_p: float | None = None,
    suppressed: Suppressed | None = None,
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
    uniform : Tensor or None
        Float64[B, L] in (0, 1), one per position; not used at temperature 0.
    temperature : float
        0 takes the most probable token, the lowest id among equals.
    top_p : float or None
        Draw from the smallest set of most probable tokens whose tempered probability
        reaches ``top_p`` (Holtzman et al. 2020).
    suppressed : Suppressed or None
        Tokens that get no probability.
    want : frozenset of str
        Any of "margin", "entropy", "log_probs".
    """
    width = _width(logits)
    sums = _read(logits, width, temperature, suppressed, "entropy" in want)
    peak = sums.peak.amax(-1)
    shift = (sums.peak - _finite(peak)[..., None]).to(torch.float64)
    total = (sums.mass * shift.exp()).sum(-1)

    best = sums.peak.argmax(-1)
    if temperature == 0 or "margin" in want:
        values = _chunk(logits, best, width, suppressed)
    if temperature == 0:
        place = values.argmax(-1)
        token = best * width + place
        confidence = 1 / total
    else:
        assert uniform is not None  # the loop draws at every temperature above 0
        if top_p is None:
            token = _inverse_cdf(
                logits, sums, shift, uniform, temperature, width, suppressed
            )
        else:
            token = _nucleus(logits, uniform, temperature, top_p, suppressed)
        drawn = logits.gather(-1, token[..., None])[..., 0].to(peak.dtype)
        confidence = ((drawn - peak).to(torch.float64)).exp() / total

    margin = entropy = log_probs = logits.new_empty(0)
    if "margin" in want:
        others = values.scatter(-1, values.argmax(-1, keepdim=True), -torch.inf)
        runner_up = torch.cat([others, _without(sums.peak, best)], -1).amax(-1)
        margin = -torch.expm1((runner_up - peak).to(torch.float64)) / total
    if sums.weighted is not None:
        shift = shift.clamp(min=NEVER)
        mean = shift.exp() * (sums.weighted / LOG2E + shift * sums.mass)
        entropy = (total.log() - mean.sum(-1) / total).clamp(min=0)
    if "log_probs" in want:
        log_probs = _allowed(logits, suppressed).log_softmax(-1)
    return Candidates(token, confidence, peak, margin, entropy, log_probs)


def _width(logits: Tensor) -> int:
    """Of a chunk: on a CPU a thousand rows of it in float32 fit a few MB of cache.

    Never a function of the batch: sums of other chunks would round differently.
    """
    vocab_size = logits.shape[-1]
    if logits.device.type != "cpu":
        return vocab_size
    return min(vocab_size, 128 if vocab_size <= 1024 else 1024)


def _work_dtype(logits: Tensor) -> torch.dtype:
    return torch.float32 if logits.element_size() < 4 else logits.dtype


def _finite(peak: Tensor) -> Tensor:
    """Keeps -inf - peak from being NaN where a chunk holds nothing but -inf."""
    return peak.clamp(min=torch.finfo(peak.dtype).min)


def _allowed(logits: Tensor, suppressed: Suppressed | None) -> Tensor:
    logits = logits.to(_work_dtype(logits))
    if suppressed is None:
        return logits
    return logits.masked_fill(suppressed.flags, -torch.inf)


def _read(
    logits: Tensor,
    width: int,
    temperature: float,
    suppressed: Suppressed | None,
    weighted: bool,
) -> _Sums:
    """One pass over the vocabulary, a chunk at a time, in the same few buffers."""
    flat = _buffer(logits, width)
    flat_hot = _buffer(logits, width) if temperature not in (0, 1) else None
    peaks, masses, tempereds, weighteds = [], [], [], []
    for start in range(0, logits.shape[-1], width):
        chunk = logits[..., start : start + width]
        z = flat[: chunk.numel()].view(chunk.shape).copy_(chunk)
        if suppressed is not None and suppressed.touches(start, start + width):
            z.masked_fill_(suppressed.flags[start : start + width], -torch.inf)
        peak = z.amax(-1, keepdim=True)
        z.sub_(_finite(peak)).mul_(LOG2E)
        if flat_hot is not None:
            hot = flat_hot[: chunk.numel()].view(chunk.shape)
            hot.copy_(z).div_(temperature)
            flat_hot.exp2_()
            tempereds.append(hot.sum(-1))
        log2 = z.clamp(min=NEVER) if weighted else None
        flat.exp2_()
        if log2 is not None:
            weighteds.append(log2.mul_(z).sum(-1))
        peaks.append(peak[..., 0])
        masses.append(z.sum(-1))
    mass = torch.stack(masses, -1)
    return _Sums(
        torch.stack(peaks, -1),
        mass,
        torch.stack(tempereds, -1) if tempereds else mass,
        torch.stack(weighteds, -1) if weighteds else None,
    )


def _buffer(logits: Tensor, width: int) -> Tensor:
    """A flat tensor with room for one chunk of all rows, and a little more.

    ATen's vector loops end in a scalar loop whose exp2 rounds differently, so a row's
    last bits would depend on where the batch and the threads put it. The buffer is so
    long that every thread's share is whole vectors: of 32 elements in one thread, up
    to GRAIN of them; equal parts of a multiple of GRAIN beyond.
    """
    size, unit = logits[..., :width].numel(), 32
    if size > GRAIN:
        threads = torch.get_num_threads()
        unit = GRAIN * (threads // (threads & -threads))  # times its odd part
    return logits.new_zeros(-(-size // unit) * unit, dtype=_work_dtype(logits))


def _chunk(
    logits: Tensor, index: Tensor, width: int, suppressed: Suppressed | None
) -> Tensor:
    """Float[B, L, width]: the logits of chunk ``index``: Long[B, L], -inf outside."""
    vocab_size = logits.shape[-1]
    if vocab_size <= width:
        return _allowed(logits, suppressed)
    offsets = torch.arange(width, device=logits.device)
    columns = index[..., None] * width + offsets
    missing = columns >= vocab_size
    columns = columns.clamp(max=vocab_size - 1)
    if suppressed is not None:
        missing |= suppressed.flags[columns]
    values = logits.gather(-1, columns).to(_work_dtype(logits))
    return values.masked_fill_(missing, -torch.inf)


def _without(peaks: Tensor, best: Tensor) -> Tensor:
    """The chunk maxima, that of the best chunk taken out."""
    return peaks.scatter(-1, best[..., None], -torch.inf)


def _draw(mass: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Index i with probability mass[i] / sum(mass), by inverting the running sum.

    Also returns what is left of ``uniform``: given i, uniform on [0, 1) again.
    """
    running = mass.cumsum(-1, dtype=torch.float64)
    # uniform < 1 keeps the target below the last entry, so a token of mass 0 never wins
    target = uniform[..., None] * running[..., -1:]
    index = torch.searchsorted(running, target, right=True)
    index = index.clamp(max=mass.shape[-1] - 1)  # only NaN reaches this far
    end = running.gather(-1, index)
    start = running.gather(-1, (index - 1).clamp(min=0)) * (index > 0)
    rest = ((target - start) / (end - start)).clamp(max=BELOW_ONE)
    return index[..., 0], rest[..., 0]


def _inverse_cdf(
    logits: Tensor,
    sums: _Sums,
    shift: Tensor,
    uniform: Tensor,
    temperature: float,
    width: int,
    suppressed: Suppressed | None,
) -> Tensor:
    """Two levels: the chunk by the chunks' masses, then the token inside it."""
    mass = sums.tempered * (shift / temperature).exp()
    chunk, rest = _draw(mass, uniform)
    values = _chunk(logits, chunk, width, suppressed)
    peak = sums.peak.gather(-1, chunk[..., None])
    weight = ((values - _finite(peak)) / temperature).exp_()
    return chunk * width + _draw(weight, rest)[0]


def _nucleus(
    logits: Tensor,
    uniform: Tensor,
    temperature: float,
    top_p: float,
    suppressed: Suppressed | None,
) -> Tensor:
    """Draw among the most probable tokens that together reach ``top_p``."""
    logits = _allowed(logits, suppressed)
    values, order = logits.sort(dim=-1, descending=True, stable=True)
    weight = ((values - _finite(values[..., :1])) / temperature).exp()
    before = weight.cumsum(-1, dtype=torch.float64) - weight
    kept = before < top_p * weight.sum(-1, keepdim=True, dtype=torch.float64)
    index, _ = _draw(weight * kept, uniform)
    return order.gather(-1, index[..., None])[..., 0]
