"""Random numbers that are the same on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks


def uniform(
    shape: Sequence[int], generator: Generator | None, device: torch.device | str
) -> Tensor:
    """Uniform numbers in [0, 1) on ``device``, Float64[shape].

    They are drawn on the generator's device and moved: one generator gives the same
    numbers wherever they are used. In float32 there would be only 2**24 values, a bias
    of up to 6e-8.
    """
    _checks.generator(generator)
    origin = device if generator is None else generator.device
    u = torch.rand(*shape, generator=generator, device=origin, dtype=torch.float64)
    return move(u, device)


def move(x: Tensor, device: torch.device | str) -> Tensor:
    """``x`` on ``device``. On the way from the CPU the host does not wait: CUDA has
    taken ordinary memory in before it returns."""
    return x.to(device, non_blocking=x.device.type == "cpu")
