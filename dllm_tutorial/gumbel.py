r"""What finite precision does to Gumbel-max sampling.

Adding Gumbel noise :math:`-\log(-\log u)` to log-probabilities and taking the argmax
draws from the distribution, if u can come as close to 1 as it likes. A float32 uniform
number cannot: the largest is :math:`1 - 2^{-24}`, so no noise exceeds 16.64, and tokens
of small probability can no longer win. A float64 number allows 36.74.

``python -m dllm_tutorial.gumbel --out runs`` simulates the effect with float32 and
float64 numbers (minutes), the rows ``gumbel_precision``; with ``--ship`` they go into
the package, too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks, _programs, study

__all__ = [
    "FLOAT32",
    "FLOAT64",
    "grid_reveal",
    "simulate_reveals",
    "truncated_law",
    "unmask_law",
    "zipf",
]

# Largest uniform numbers below 1 that torch.rand returns.
FLOAT32 = 1 - 2.0**-24
FLOAT64 = 1 - 2.0**-53


def truncated_law(probs: Tensor, largest: float = FLOAT32) -> Tensor:
    r"""Law of the Gumbel-max token when the uniform numbers stop at ``largest``.

    With probabilities in increasing order, :math:`S_i = \sum_{k \ge i} \pi_k` and
    :math:`c = -\log` ``largest``,

    .. math:: P(n) = \pi_n \sum_{i \le n} \frac{e^{(K + 1 - i - S_i/\pi_i) c}
        - e^{(K + 1 - i - S_i/\pi_{i-1}) c}}{S_i}

    (Zheng et al. 2024, proposition 5.2): token i stops being a rival once the others
    have passed its ceiling :math:`\log\pi_i - \log c`.

    Parameters
    ----------
    probs : Float[K]
        Probabilities; zeros are allowed and stay zero.
    largest : float
        Largest uniform number, in (0, 1).

    Returns
    -------
    Float64[K]
    """
    probs = _checks.probabilities(probs, "probs")
    if probs.ndim != 1:
        raise ValueError(f"probs must be [K], got {tuple(probs.shape)}")
    _checks.in_unit_interval(largest, "largest", open_left=True, open_right=True)
    c = -math.log(largest)
    rising, order = probs[probs > 0].sort()
    rivals = torch.arange(len(rising), 0, -1, dtype=torch.float64)  # K + 1 - i
    tail = rising.flip(0).cumsum(0).flip(0)  # S_i
    ceiling = tail / rising * c  # S_i c / pi_i
    gap = torch.full_like(ceiling, math.inf)  # to S_i c / pi_(i-1)
    gap[1:] = tail[1:] / rising[:-1] * c - ceiling[1:]
    beta = (rivals * c - ceiling).exp() * -torch.expm1(-gap) / tail
    law = torch.zeros_like(probs)
    law[probs > 0] = torch.empty_like(rising).scatter_(
        0, order, rising * beta.cumsum(0)
    )
    return law


def unmask_law(
    tokens: Tensor, reveal: float, largest: float = FLOAT32
) -> tuple[float, Tensor]:
    """What a masked position does in one ancestral step drawn by Gumbel-max.

    The step is one draw from V + 1 outcomes: stay masked with probability
    ``1 - reveal``, otherwise one of the tokens. This is how the published samplers of
    masked diffusion draw it.

    Parameters
    ----------
    tokens : Float[V]
        Token probabilities if revealed.
    reveal : float
        Intended probability of being revealed, in (0, 1).

    Returns
    -------
    float
        Actual probability of being revealed.
    Float64[V]
        Actual token probabilities if revealed.
    """
    _checks.in_unit_interval(reveal, "reveal", open_left=True, open_right=True)
    tokens = _checks.probabilities(tokens, "tokens")
    outcomes = torch.cat([tokens * reveal, tokens.new_tensor([1 - reveal])])
    law = truncated_law(outcomes, largest)
    revealed = law[:-1].sum()
    return revealed.item(), law[:-1] / revealed


def grid_reveal(tokens: Tensor, reveal: float, bits: int = 24) -> float:
    r"""Probability of a reveal when uniform numbers are multiples of ``2**-bits``.

    :func:`truncated_law` takes them as continuous up to their largest value. Those of
    ``torch.rand`` lie on the grid :math:`k\,2^{-24}`, whose top value alone has the
    probability of the whole gap above it, so that rare tokens win more often.

    Seen as a race of times :math:`-\log u / \pi`, no token is faster than the mask at
    time :math:`e / \pi_m` with probability
    :math:`\prod_v P(-\log u \ge e\,\pi_v/\pi_m)`; e is exponential, and the mean over
    it is taken by 64 Gauss-Laguerre nodes: three digits from 16 bits on. With fewer
    bits the steps of the grid fall between the nodes (5 % off at 8 bits).

    Parameters
    ----------
    tokens, reveal
        As in :func:`unmask_law`.
    """
    tokens = _checks.probabilities(tokens, "tokens")
    _checks.in_unit_interval(reveal, "reveal", open_left=True, open_right=True)
    levels = 2.0 ** _checks.integer(bits, "bits", 1)
    total = 0.0
    for e, weight in zip(*np.polynomial.laguerre.laggauss(64), strict=True):
        x = e * tokens * reveal / (1 - reveal)
        faster = (levels - (levels * (-x).exp()).floor() - 1).clamp(min=0)
        nobody = torch.log1p(-faster / levels).sum()
        total -= weight * torch.expm1(nobody).item()
    return total


def simulate_reveals(
    tokens: Tensor,
    reveal: float,
    draws: int,
    *,
    dtype: torch.dtype = torch.float32,
    generator: Generator | None = None,
) -> int:
    """How many of ``draws`` masked positions an actual Gumbel-max step reveals.

    The uniform numbers are those of ``torch.rand`` in ``dtype``.

    Parameters
    ----------
    tokens, reveal
        As in :func:`unmask_law`.
    """
    tokens = _checks.probabilities(tokens, "tokens")
    outcomes = torch.cat([tokens * reveal, tokens.new_tensor([1 - reveal])]).to(dtype)
    rows, revealed = max(1, 2**22 // len(outcomes)), 0
    for start in range(0, _checks.integer(draws, "draws", 1), rows):
        n = min(rows, draws - start)
        u = torch.rand(n, len(outcomes), dtype=dtype, generator=generator)
        # argmax of log pi - log(-log u) is argmax of pi / -log u
        winner = (outcomes / -u.log()).argmax(-1)
        revealed += int((winner < len(tokens)).sum())
    return revealed


def zipf(vocab_size: int) -> Tensor:
    """Zipf's law, p(v) proportional to 1 / (v + 1): Float64[V]."""
    weight = 1 / torch.arange(1, vocab_size + 1, dtype=torch.float64)
    return weight / weight.sum()


def main(arguments: list[str] | None = None) -> None:
    """Simulate one step of T for several vocabularies and write the rows."""
    a = _programs.parse(_programs.parser(__doc__), arguments)
    torch.set_num_threads(1)
    rows, seed = [], 0
    command = "python -m dllm_tutorial.gumbel --out runs --ship"
    origin = study.provenance(command, seed)  # of the code that measures
    for vocab, steps, draws in (
        (27, 64, 2_000_000),
        (1000, 64, 400_000),
        (50257, 64, 20_000),
        (50257, 256, 60_000),
        (50257, 1024, 160_000),
    ):
        for dtype in (torch.float32, torch.float64):
            generator = torch.Generator().manual_seed(seed)
            revealed = simulate_reveals(
                zipf(vocab), 1 / steps, draws, dtype=dtype, generator=generator
            )
            rows.append(
                {
                    "vocab": vocab,
                    "steps": steps,
                    "dtype": str(dtype).removeprefix("torch."),
                    "draws": draws,
                    "revealed": revealed,
                }
            )
            print(rows[-1], flush=True)
    _programs.publish(a, "gumbel_precision", rows, origin)


if __name__ == "__main__":
    main()
