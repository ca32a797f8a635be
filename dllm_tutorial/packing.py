"""Weights in a few bits each, so that a larger network fits into the package.

The entries of a matrix's row are cut into groups of 64. Each entry is a whole multiple
of its group's scale, which is kept in half precision: with b bits one of the multiples
from -2^(b-1) to 2^(b-1) - 1. This is rounding to the nearest, the simplest of the ways
to quantize a trained network; accuracies of the book are those of the rounded weights.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dllm_tutorial import _checks

__all__ = ["GROUP", "pack", "unpack"]

GROUP = 64
# A smaller range than from the largest entry on serves the many small ones better.
RANGES = torch.linspace(0.6, 1, 9)


def pack(weights: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Matrices in ``bits`` bits an entry and everything else in half precision.

    Of a matrix ``name: Float[m, n]`` become ``name.codes: UInt8[m, n * bits / 8]`` and
    ``name.scale: Half[m, n / 64]``. A matrix whose n is no multiple of 64 stays whole.

    Raises ValueError for other ``bits`` than 2 to 8, or weights that are not finite in
    half precision.
    """
    _checks.integer(bits, "bits", 2)
    if bits > 8:
        raise ValueError(f"bits must be at most 8, got {bits}")
    packed = {}
    for name, w in weights.items():
        if not w.half().isfinite().all():
            raise ValueError(f"weights must be finite as half, but {name} is not")
        if w.ndim == 2 and w.shape[1] % GROUP == 0:
            codes, packed[f"{name}.scale"] = _rounded(w.float(), bits)
            packed[f"{name}.codes"] = _to_bytes(codes, bits)
        else:
            packed[name] = w.half()
    return packed


def unpack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float32 weights from what :func:`pack` made, or from unpacked ones."""
    weights = {}
    for name, value in tensors.items():
        if name.endswith(".codes"):
            name = name.removesuffix(".codes")
            weights[name] = _multiplied(value, tensors[f"{name}.scale"].float())
        elif name.removesuffix(".scale") + ".codes" not in tensors:
            weights[name] = value.float()
    return weights


def _rounded(w: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes, Long[m, n] from 0 on, and scales, Half[m, n / GROUP].

    A scale has the sign that gives the group's largest entry the longer, negative side.
    """
    half = 2 ** (bits - 1)
    groups = w.unflatten(1, (-1, GROUP))
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    best = torch.full_like(largest, torch.inf)
    scale, codes = torch.zeros_like(largest), torch.zeros_like(groups)
    for part in RANGES:
        tried = (largest * -part / half).half().float()
        whole = (groups / tried).nan_to_num().round().clamp(-half, half - 1)
        error = (whole * tried - groups).square().sum(2, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, tried, scale)
        codes = torch.where(better, whole, codes)
    return codes.flatten(1).long() + half, scale[..., 0].half()


def _to_bytes(codes: Tensor, bits: int) -> Tensor:
    """UInt8[m, n * bits / 8] from codes below 2^bits, Long[m, n]."""
    single = codes.numpy().astype(np.uint8)[..., None]
    parts = np.unpackbits(single, axis=2, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(parts.reshape(len(codes), -1), axis=1))


def _multiplied(packed: Tensor, scale: Tensor) -> Tensor:
    """Float[m, n]: the codes in ``packed`` times the scales of their groups."""
    rows, groups = scale.shape
    parts = np.unpackbits(packed.numpy(), axis=1).reshape(rows, groups * GROUP, -1)
    codes = np.packbits(parts, axis=2, bitorder="little")[..., 0].astype(np.int64)
    whole = torch.from_numpy(codes) - 2 ** (parts.shape[2] - 1)
    return (whole.unflatten(1, (groups, GROUP)) * scale[..., None]).flatten(1)
