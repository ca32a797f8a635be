r"""Counter-based random numbers: a number is a function of what it is for.

A generator with a hidden state gives a row other numbers when the batch around it
changes. Here the numbers of a row depend only on its own seed, the step, the position
and the stream (what the number is used for), so a row decodes in a batch as it does
alone, on a GPU as on a CPU.

The function is Philox4x32-10 of Salmon et al. 2011 ("Parallel random numbers: as easy
as 1, 2, 3"): ten rounds of multiplication and exclusive-or on a counter of four 32-bit
words, keyed by two. It runs in int64 tensors, whose products wrap around modulo
:math:`2^{64}`, so only the ways to take a product's high and low word matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_tutorial import _checks

__all__ = ["draw_seeds", "philox", "uniform"]

ROUNDS = 10
WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key words after each round


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Philox4x32-10, the block function.

    Parameters
    ----------
    counter : Tensor
        Long[4, ...], the 32-bit words of the counter.
    key : Tensor
        Long[2, ...], the 32-bit words of the key, broadcast against ``counter[0]``.

    Returns
    -------
    Tensor
        Long[4, ...], four random 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    # Python numbers, not tensors: making a tensor would be a copy to the device, which
    # a captured CUDA graph cannot hold.
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) & WORD) ^ c1 ^ k0, p1 & WORD
        c2, c3 = ((p0 >> 32) & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return torch.stack([c0, c1, c2, c3])


def uniform(
    seeds: Tensor, step: int | Tensor, positions: Tensor, stream: int
) -> Tensor:
    r"""Uniform numbers in the open interval (0, 1), one per row and position.

    Each is :math:`(n + \frac12)\,2^{-52}` with 52 random bits n: exact in float64,
    never 0 or 1, the same bits on every device.

    Parameters
    ----------
    seeds : Tensor
        Long[B], one 64-bit seed per row: the key. Shorter integers mean the same seed.
    step : int or Tensor
        Number of the step, or Long[B] where rows are at different steps.
    positions : Tensor
        Long[L] or Long[B, L], between 0 and 2**32 - 1.
    stream : int
        What the numbers are for; different streams are independent.

    Returns
    -------
    Tensor
        Float64[B, L]
    """
    _checks.integer(stream, "stream", 0)
    seeds, positions = seeds.long(), positions.long()
    if isinstance(step, int):
        step = torch.full_like(seeds, step)
    shape = torch.broadcast_shapes(seeds[:, None].shape, positions.shape)
    step = step[:, None].expand(shape)
    counter = torch.stack(
        [
            step & WORD,
            positions.expand(shape),
            torch.full_like(step, stream),
            (step >> 32) & WORD,
        ]
    )
    key = torch.stack([seeds & WORD, (seeds >> 32) & WORD])[..., None]
    words = philox(counter, key)
    bits = (words[0] << 20) | (words[1] >> 12)
    return (bits.to(torch.float64) + 0.5) * 2.0**-52


def draw_seeds(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Long[n] seeds of rows, drawn from ``generator`` (on its device).

    Raises ``TypeError`` if ``generator`` is anything but a torch.Generator or None.
    """
    _checks.generator(generator)
    device = "cpu" if generator is None else generator.device
    return torch.randint(2**63 - 1, (n,), generator=generator, device=device)
