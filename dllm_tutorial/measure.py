"""Measuring a decoder against an exact joint by drawing answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from dllm_tutorial import _checks, study
from dllm_tutorial.decoding import Strategy, generate
from dllm_tutorial.denoiser import Denoiser
from dllm_tutorial.joints import Joint

__all__ = ["Accuracy", "accuracy"]


@dataclass(frozen=True)
class Accuracy:
    """How many of ``draws`` answers were valid; mean calls of the denoiser."""

    successes: int
    draws: int
    nfe: float

    @property
    def rate(self) -> float:
        """Fraction of valid answers."""
        return self.successes / self.draws

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval for the probability of a valid answer."""
        low, high = study.wilson(self.successes, self.draws)
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.rate:.1%} [{low:.1%}, {high:.1%}]"


def accuracy(
    joint: Joint,
    strategy: Strategy,
    draws: int,
    *,
    denoiser: Denoiser | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Accuracy:
    """Decode from all masks and count the answers that ``joint`` can produce.

    Parameters
    ----------
    joint : Joint
        Says what is valid, and is the denoiser unless another one is given.
    strategy : Strategy
    draws : int
        Number of answers, decoded as one batch.
    denoiser : Denoiser, optional
        What is decoded instead of the joint, for instance a noisy or learned one.
    generator : torch.Generator, optional
        Draws the seeds of the answers.
    options
        Go to :func:`dllm_tutorial.decoding.generate`, such as ``temperature``.
    """
    shape = _checks.integer(draws, "draws", 1), joint.length
    x = torch.full(shape, joint.mask_id, device=joint.device)
    found = generate(denoiser or joint, x, strategy, generator=generator, **options)
    valid = joint.log_prob(found.sequences) > -math.inf
    return Accuracy(int(valid.sum()), draws, found.nfe.double().mean().item())
