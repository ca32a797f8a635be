"""The one interface of the book: a denoiser.

Everything that predicts masked tokens is a denoiser: an exact joint distribution, a
trained network, a model from a hub. Strategies, losses and plots ask nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dllm_tutorial import _checks, _random

__all__ = ["FROM_THE_LEFT", "MASKED", "Denoiser", "FunctionDenoiser", "NoisyDenoiser"]

# What a denoiser has to read for masks that may stand anywhere, and for predictions at
# all positions of a clean sequence, each from the tokens before it.
MASKED = ("set", "order")
FROM_THE_LEFT = ("prefix", "order")


@runtime_checkable
class Denoiser(Protocol):
    """A callable from partly masked sequences to logits over the tokens.

    ``denoiser(x)`` takes ``x: Long[B, L]``, in which masked positions hold ``mask_id``,
    and returns unnormalised log-probabilities ``Float[B, L, V]``; row ``b``, position
    ``i`` predicts token ``i`` of sequence ``b`` from the tokens that ``x[b]`` reveals.
    The mask itself is never predicted: either ``mask_id == V`` (it has no column) or
    its column is ignored by whoever reads the logits.

    A denoiser may say what a prediction depends on, in an attribute ``reads``:
    ``"set"``, the revealed tokens wherever they stand; ``"prefix"``, the tokens before
    the predicted one and no others; ``"order"``, also the order in which they were
    revealed, for which it has ``in_order(x, order)``, as an any-order
    :class:`~dllm_tutorial.networks.Transformer` does. What a function cannot use it
    refuses. A denoiser that says nothing is trusted. It may also say its
    ``vocab_size``, V, so that other tokens are found before it is asked about them.
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
    reads : {"set", "prefix"}, optional
        See :class:`Denoiser`.
    """

    fn: Callable[[Tensor], Tensor]
    mask_id: int
    reads: str | None = None

    def __post_init__(self) -> None:
        _checks.function(self.fn, "fn")
        _checks.integer(self.mask_id, "mask_id", 0)
        _checks.one_of(self.reads, "reads", (None, "set", "prefix"))

    def __call__(self, x: Tensor) -> Tensor:
        return self.fn(x)


class NoisyDenoiser:
    """A denoiser with Gaussian errors added to its logits, fresh at every call.

    A stand-in for learning error of a known size and shape. The error of token v at
    position i is ``scale * (sqrt(rho) * z[v] + sqrt(1 - rho) * e[i, v])``, where all z
    and e are standard normal and z is shared by the positions of a row: the errors of
    one token at two positions have correlation ``rho``.

    Parameters
    ----------
    denoiser : Denoiser
        Gives the logits without error. Where they are -inf they stay so.
    scale : float
        Standard deviation of an error, in nats.
    rho : float
        Correlation between positions, from 0 to 1.
    generator : torch.Generator, optional
        Draws the errors.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        rho: float,
        generator: torch.Generator | None = None,
    ) -> None:
        self.denoiser = _checks.denoiser(denoiser, "denoiser")
        reads = getattr(denoiser, "reads", None)
        # it is only called, which asks an any-order network about a set
        self.reads = "set" if reads == "order" else reads
        self.mask_id = denoiser.mask_id
        self.scale = _checks.number(scale, "scale", 0.0)
        self.rho = _checks.in_unit_interval(rho, "rho")
        self.generator = generator

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.denoiser(x)  # [B, L, V]
        own = self._normal(logits)
        shared = self._normal(logits[:, :1])
        error = math.sqrt(self.rho) * shared + math.sqrt(1 - self.rho) * own
        return logits + self.scale * error

    def _normal(self, like: Tensor) -> Tensor:
        origin = like.device if self.generator is None else self.generator.device
        error = torch.randn(
            like.shape, generator=self.generator, dtype=like.dtype, device=origin
        )
        return _random.move(error, like.device)
