"""A network that answers for a set of orders, and sources that suit such a set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dllm_tutorial import _checks, losses, orders
from dllm_tutorial.joints import TableJoint
from dllm_tutorial.networks import Transformer, TransformerConfig

__all__ = ["OrderMixture", "either_direction", "one_way"]


class OrderMixture(Transformer):
    r"""An any-order network and p(o): :math:`p(x) = \sum_o p(o)\,p^{(o)}(x)`.

    Parameters
    ----------
    config : TransformerConfig
        With ``attention="any-order"``.
    orders : Long[K, L]
        The set of orders, all answered by one set of weights.
    learned : bool
        Whether p(o) is trained with the weights; uniform otherwise.
    dtype : torch.dtype, optional
        Of the weights, as in :class:`~dllm_tutorial.networks.Transformer`.

    Raises
    ------
    ValueError
        For another kind of attention, or if ``orders`` are no permutations.
    """

    orders: Tensor

    def __init__(
        self,
        config: TransformerConfig,
        orders_: Tensor,
        learned: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, dtype)
        if not self.any_order:
            raise ValueError(
                f"config must have attention='any-order', got {config.attention!r}"
            )
        orders_ = _checks.tokens(orders_, "orders")
        orders.check_orders(orders_, orders_.shape[1], "orders")
        self.register_buffer("orders", orders_, persistent=False)
        prior = torch.zeros(len(orders_), dtype=dtype)
        self.prior = nn.Parameter(prior, requires_grad=learned)

    def log_prior(self) -> Tensor:
        """log p(o), Float[K]."""
        return self.prior.log_softmax(0)

    def log_probs(self, x: Tensor) -> Tensor:
        """Log-probability of ``x: Long[B, L]`` in every order, Float[K, B], nats."""
        return orders.log_probs(self, x, self.orders)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of ``x: Long[B, L]`` under the mixture, Float[B], nats."""
        return -losses.log_sum_loss(self.log_probs(x), self.log_prior()).loss


def one_way(
    n: int = 8, symbols: int = 3, generator: torch.Generator | None = None
) -> TableJoint:
    """Free symbols u_1 ... u_n, then n sums v_i = u_a + u_b of two of them each.

    From left to right each token is free or a sum of two known ones. From right to left
    the sums come first and look free, and a u is a sum of up to all tokens after it.
    Both directions cost n log(symbols) nats to an exact model; networks trained by
    gradient descent are known to find sums of a few places and not of many (Shalev-
    Shwartz et al. 2017).

    Parameters
    ----------
    n : int
        Half the length, at least 3.
    symbols : int
        An odd prime; sums are taken modulo it. The joint has symbols**n sequences.
    generator : torch.Generator, optional
        Draws which places are summed, until the sums determine the u.
    """
    _checks.integer(n, "n", 3)
    if _checks.integer(symbols, "symbols", 3) ** n > 1 << 16:
        raise ValueError(f"symbols ** n must be at most 65536, got {symbols} ** {n}")
    if any(symbols % k == 0 for k in range(2, symbols)):
        raise ValueError(f"symbols must be an odd prime, got {symbols}")
    values = torch.arange(symbols)
    u = torch.cartesian_prod(*[values] * n)
    while True:
        places = torch.rand(n, n, generator=generator).topk(2, dim=1).indices
        v = u[:, places].sum(-1) % symbols
        if len(v.unique(dim=0)) == len(u):
            return TableJoint(torch.cat([u, v], 1), None, symbols)


def either_direction(joint: TableJoint) -> TableJoint:
    """Sequences of a joint, every other one written backward."""
    both = torch.cat([joint.support, joint.support.flip(1)])
    p = torch.cat([joint.probs, joint.probs]) / 2
    support, place = both.unique(dim=0, return_inverse=True)
    total = p.new_zeros(len(support)).index_add(0, place, p)
    return TableJoint(support, total, joint.vocab_size)
