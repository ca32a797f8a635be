"""What a decoding strategy is: rank x quota x revise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dllm_tutorial.decoding.candidates import Candidates

__all__ = [
    "RANK",
    "REMASK",
    "TIME",
    "TOKEN",
    "Strategy",
    "View",
    "exceeds",
    "order_of",
    "reaches",
]

# Streams of random numbers: which token is drawn, which position is revealed, which
# revealed position is masked again, when the next token is revealed.
TOKEN, RANK, REMASK, TIME = range(4)


@dataclass
class View:
    """What a strategy sees at one step. A row is at work on one block of positions."""

    masked: Tensor  # Bool[B, L], positions of the block that may be revealed now
    fillable: Tensor  # Bool[B, L], those of them that were masked at the start
    n_masked: Tensor  # Long[B]
    size: Tensor  # Long[B], number of fillable positions
    step: Tensor  # Long[B], steps already spent on the block
    steps: Tensor  # Long[B], steps that the block may take; the last one fills it
    place: Tensor  # Long[B, L], of a position within its block, from 0
    length: Tensor  # Long[B, L], of that block, given tokens included
    found: Candidates  # what the logits say at each position
    rounding: float  # relative difference of two equal numbers, see candidates.rounding
    shown: Tensor  # Float64[B, L], confidence with which a token was revealed
    memory: dict[str, Tensor]  # the strategy's own, kept from step to step
    uniform: Callable[[int], Tensor]  # stream -> Float64[B, L]
    leave_one_out: Callable[[], Tensor]  # -> Float64[B, L], see loop.leave_one_out


@dataclass(frozen=True)
class Strategy:
    """How to decode: what to reveal first, how much at a time, what to take back.

    Parameters
    ----------
    name : str
        Published name and parameters.
    rank : callable
        View -> Float[B, L]: scores; the highest are revealed first, the lowest position
        first among equals. Scores are equal if they differ by no more than
        ``view.rounding`` of their size, what computing them leaves: 1e-10 for float64
        logits, 4e-6 for others. Minus infinity is the lowest score; NaN at a masked
        position makes ``generate`` raise ``ValueError``.
    quota : callable
        (View, scores) -> Long[B]: how many masked positions each row reveals.
    revise : callable or None
        (View, scores, revealed now: Bool[B, L]) -> Bool[B, L]: tokens revealed at
        earlier steps that are masked again.
    steps : int or None
        Steps in all; each block of a row gets ``steps // blocks``, its last step fills
        it. None: as many as the block has positions to fill. A rule of this kind ends
        in time if j steps of a block leave at least j of its tokens revealed, as those
        of the package do (WINO may take back more than it reveals in a single step).
    rounds : callable or None
        (sizes, budgets: Long[B, N]) -> Long[B, N]: the exact number of steps of each
        block, where the masks alone decide it; None where the denoiser does.
    start : callable or None
        View -> memory, before the first step.
    needs : frozenset of str
        Any of "margin", "entropy", "log_probs" and "revealed" (proposals are used at
        revealed positions too).
    reads : {"set", "prefix"}
        What a denoiser has to read: ``"prefix"`` where no position is revealed before
        one to its left.
    clocked : bool
        A block is worked on until its steps are used up, even when nothing is masked,
        because a revealed token may still be masked again.
    """

    name: str
    rank: Callable[[View], Tensor]
    quota: Callable[[View, Tensor], Tensor]
    revise: Callable[[View, Tensor, Tensor], Tensor] | None = None
    steps: int | None = None
    rounds: Callable[[Tensor, Tensor], Tensor] | None = None
    start: Callable[[View], dict[str, Tensor]] | None = None
    needs: frozenset[str] = frozenset()
    reads: str = "set"
    clocked: bool = False

    def __repr__(self) -> str:
        return self.name


def order_of(
    score: Tensor, eligible: Tensor, rounding: float, favored: Tensor | None = None
) -> Tensor:
    """Rank 0, 1, ... of each position among the eligible ones: Long[B, L].

    Highest score first. In sorted order a score that lies below the one before it by
    no more than ``rounding`` times its size is equal to it: rounding does not decide.
    Among equals those in ``favored`` Bool[B, L] come first, then the lowest position.
    Positions that are not eligible come last, behind an eligible score of minus
    infinity too.
    """
    most = torch.finfo(torch.float64).max
    key = score.to(torch.float64).clamp(-most, most)  # before the ineligible ones
    key, order = key.masked_fill(~eligible, -torch.inf).sort(-1, descending=True)
    better, worse = key[:, :-1], key[:, 1:]
    level = torch.zeros_like(order)  # number of the group of equals
    level[:, 1:] = (better - worse > rounding * better.abs()).cumsum(-1)
    if favored is not None:
        level = 2 * level + ~favored.gather(-1, order)
    length = score.shape[-1]
    order = (level * length + order).sort(-1).values % length
    places = torch.arange(length, device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def reaches(a: Any, b: Any, rounding: float) -> Any:
    """a >= b for probabilities and nats, tensors or numbers; equals reach each other.

    >>> reaches(0.1 + 0.7, 0.8, 1e-10), exceeds(0.1 + 0.2, 0.3, 1e-10)
    (True, False)
    """
    return a >= b - rounding * (1 + abs(b))


def exceeds(a: Any, b: Any, rounding: float) -> Any:
    """a > b for probabilities and nats, tensors or numbers; equals do not."""
    return a > b + rounding * (1 + abs(b))
