"""What a batch is decoded with: blocks, seeds, counters, and checks of the input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_tutorial import _checks, counter_rng
from dllm_tutorial.decoding.strategy import Strategy
from dllm_tutorial.denoiser import MASKED, Denoiser

__all__ = ["State", "Task"]


@dataclass(frozen=True)
class Task:
    """What stays fixed while a batch is decoded."""

    denoiser: Denoiser
    seeds: Tensor  # Long[B]
    given: Tensor  # Bool[B, L]
    block_of: Tensor  # Long[B, L]
    place: Tensor  # Long[B, L], within the block
    length: Tensor  # Long[B, L], of the block
    sizes: Tensor  # Long[B, N], positions to fill in each block
    budgets: Tensor  # Long[B, N], steps that each block may take
    n_blocks: Tensor  # Long[B]
    block_length: int
    temperature: float
    top_p: float | None
    suppressed: Tensor | None  # Bool[V]


class State(NamedTuple):
    """What a step changes."""

    x: Tensor  # Long[B, L]
    block: Tensor  # Long[B], n_blocks when the row is done
    block_step: Tensor  # Long[B]
    nfe: Tensor  # Long[B]
    shown: Tensor  # Float64[B, L], confidence with which a token was revealed
    proposed: Tensor  # Float64[B, L], confidence of the last proposals, NaN elsewhere
    fault: Tensor  # Bool[3]: NaN or +inf logits; no token left to draw; NaN score
    memory: dict[str, Tensor]

    def active(self, task: Task) -> Tensor:
        """Bool[B]: rows with work to do."""
        return self.block < task.n_blocks


def lay_blocks(
    masked: Tensor, block_length: int | None, steps: int | None
) -> dict[str, Any]:
    """Where each row's blocks lie, and their steps: fields of ``Task``."""
    batch, length = masked.shape
    width = length
    if block_length is not None:
        width = min(_checks.integer(block_length, "block_length", 1), length)
    places = torch.arange(length, device=masked.device)
    first = masked.int().argmax(-1, keepdim=True)  # 0 where nothing is masked
    place = places - first
    tile = (place.clamp(min=0)) // width
    per_tile = torch.zeros(batch, -(-length // width), dtype=torch.int64)
    per_tile = per_tile.to(masked.device).scatter_add_(-1, tile, masked.long())
    number = (per_tile > 0).cumsum(-1) - 1  # of a tile among those with work to do
    block_of = number.clamp(min=0).gather(-1, tile)
    sizes = torch.zeros_like(per_tile).scatter_add_(-1, block_of, masked.long())
    n_blocks = (sizes > 0).sum(-1)
    budgets = sizes
    if steps is not None:
        share = steps // n_blocks.clamp(min=1)
        if not bool((share > 0).all()):
            raise ValueError(
                f"steps must be at least the number of blocks, got steps={steps} for "
                f"{int(n_blocks.max())} blocks"
            )
        budgets = share[:, None] * (sizes > 0)
    return {
        "given": ~masked,
        "block_of": torch.where(place < 0, -1, block_of),
        "place": place % width,
        "length": (length - first - tile * width).clamp(max=width),
        "sizes": sizes,
        "budgets": budgets,
        "n_blocks": n_blocks,
        "block_length": width,
    }


def first_state(x: Tensor) -> State:
    """Before the first step."""
    zero = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    shown = torch.ones(x.shape, dtype=torch.float64, device=x.device)
    fault = torch.zeros(3, dtype=torch.bool, device=x.device)
    return State(x, zero, zero, zero, shown, shown * torch.nan, fault, {})


def check_rule(strategy: Any, denoiser: Any, *, from_the_left: bool = False) -> None:
    """A strategy, and a denoiser that can be asked in its order."""
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy must be a Strategy, got {strategy!r}")
    from_the_left = from_the_left or strategy.reads == "prefix"
    _checks.denoiser(denoiser, "denoiser", *(() if from_the_left else MASKED))


def check_tokens(x: Tensor, denoiser: Any) -> Tensor:
    """Prompts: Long[B, L], not empty, no negative id, none that the denoiser does not
    know, if it says what it knows."""
    _checks.tokens(x, "x")
    if x.dtype != torch.int64:
        raise TypeError(f"x must be torch.int64, got {x.dtype}")
    if x.numel() == 0 or int(x.min()) < 0:
        raise ValueError(f"x must hold token ids, got shape {tuple(x.shape)}, {x}")
    if getattr(denoiser, "vocab_size", None) is not None:
        _checks.token_range(x, "x", denoiser.vocab_size, denoiser.mask_id)
    return x


def check_logits(logits: Tensor, x: Tensor) -> Tensor:
    """What a denoiser must return for x; looks at shape and dtype only."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            "denoiser must return a floating-point tensor of logits, got "
            f"{getattr(logits, 'dtype', type(logits).__name__)}"
        )
    if logits.ndim != 3 or logits.shape[:2] != x.shape or logits.shape[2] == 0:
        raise ValueError(
            f"denoiser must return logits [B, L, V] for x of shape {tuple(x.shape)}, "
            f"got {tuple(logits.shape)}"
        )
    return logits


def forbidden_tokens(suppress: Any) -> set[int]:
    """The ids in ``suppress``: None, an iterable of integers, a tensor or array [n]."""
    if suppress is None:
        return set()
    # elements of a tensor are tensors: its numbers are wanted
    listed = suppress.tolist() if hasattr(suppress, "tolist") else suppress
    if not isinstance(listed, Iterable):
        raise TypeError(f"suppress must be a sequence of token ids, got {suppress!r}")
    return {_checks.integer(token, "each id in suppress", 0) for token in listed}


def suppressed_flags(
    forbidden: set[int], mask_id: int, logits: Tensor
) -> Tensor | None:
    """Bool[V], True for tokens that are never drawn; None if there are none."""
    vocab_size = logits.shape[-1]
    if forbidden and max(forbidden) >= vocab_size:
        raise ValueError(
            f"suppress must hold tokens below {vocab_size}, got {max(forbidden)}"
        )
    if mask_id < vocab_size:
        forbidden = forbidden | {mask_id}
    if not forbidden:
        return None
    flags = torch.zeros(vocab_size, dtype=torch.bool)
    flags[list(forbidden)] = True
    return flags.to(logits.device)


def row_seeds(
    seeds: Tensor | None, generator: torch.Generator | None, x: Tensor
) -> Tensor:
    """Long[B]: those given, or drawn from the generator."""
    if seeds is None:
        return counter_rng.draw_seeds(len(x), generator).to(x.device)
    if generator is not None:
        raise ValueError("give seeds or generator, not both")
    _checks.tokens(seeds, "seeds", ndim=1, length=len(x))
    return seeds.to(x.device, torch.int64)
