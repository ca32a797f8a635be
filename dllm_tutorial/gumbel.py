r"""What finite precision does to Gumbel-max sampling.

Adding Gumbel noise :math:`-\log(-\log u)` to log-probabilities and taking the argmax
draws from the distribution, if u can come as close to 1 as it likes. A float32 uniform
number cannot: the largest is :math:`1 - 2^{-24}`, so no noise exceeds 16.64, and tokens
of small probability can no longer win. A float64 number allows 36.74.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dllm_tutorial import _checks

__all__ = ["FLOAT32", "FLOAT64", "truncated_law", "unmask_law"]

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
