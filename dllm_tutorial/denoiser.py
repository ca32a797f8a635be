"""The one interface of the book: a denoiser.

Everything that predicts masked tokens is a denoiser: an exact joint distribution, a
trained network, a model from a hub. Strategies, losses and plots ask nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Denoiser", "FunctionDenoiser"]


@runtime_checkable
class Denoiser(Protocol):
    """A callable from partly masked sequences to logits over the tokens.

    ``denoiser(x)`` takes ``x: Long[B, L]``, in which masked positions hold ``mask_id``,
    and returns unnormalised log-probabilities ``Float[B, L, V]``; row ``b``, position
    ``i`` predicts token ``i`` of sequence ``b`` from the tokens that ``x[b]`` reveals.
    The mask itself is never predicted: either ``mask_id == V`` (it has no column) or
    its column is ignored by whoever reads the logits.
    """

    @property
    def mask_id(self) -> int:
        """Token id that marks a masked position."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """Logits ``Float[B, L, V]`` for the tokens ``x: Long[B, L]``."""
        ...


@dataclass(frozen=True)
class FunctionDenoiser:
    """A denoiser made from a plain function and a mask id.

    Parameters
    ----------
    fn : callable
        Maps ``Long[B, L]`` to logits ``Float[B, L, V]``.
    mask_id : int
        Token id that marks a masked position.
    """

    fn: Callable[[Tensor], Tensor]
    mask_id: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.fn(x)
