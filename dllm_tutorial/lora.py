"""Low-rank adaptation: fine-tuning that ships as a few numbers (Hu et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from dllm_tutorial import _checks
from dllm_tutorial.networks import Transformer

__all__ = ["LowRank", "adapt", "adapters", "merge"]


class LowRank(nn.Module):
    r"""The weight :math:`W_0 + B A` of a linear map (Hu et al. 2021, section 4.1).

    Their scale :math:`\alpha / r` is one. A starts normal and B at zero, so that
    nothing changes before the first update.

    Attributes
    ----------
    a : Float[rank, in]
    b : Float[out, rank]
    """

    def __init__(self, weight: Tensor, rank: int, generator: Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        draw = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.a = nn.Parameter(draw.to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, Float[out, in]."""
        return weight + self.b @ self.a


def _linear_maps(model: Transformer) -> list[nn.Linear]:
    return [m for m in model.blocks.modules() if isinstance(m, nn.Linear)]


def adapt(model: Transformer, rank: int, generator: Generator) -> Transformer:
    """Freeze a network and give each linear map of its blocks two trainable factors.

    Parameters
    ----------
    model
        Changed in place and returned.
    rank
        Columns of B and rows of A, at least 1.
    generator
        Draws A; on the CPU.
    """
    _checks.integer(rank, "rank", 1)
    model.requires_grad_(False)
    for layer in _linear_maps(model):
        if parametrize.is_parametrized(layer):
            raise ValueError("model must not be adapted already")
        factors = LowRank(layer.weight, rank, generator)
        parametrize.register_parametrization(layer, "weight", factors)
    return model


def adapters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors alone, out of the weights of an adapted network."""
    ends = (".parametrizations.weight.0.a", ".parametrizations.weight.0.b")
    return {key: value for key, value in weights.items() if key.endswith(ends)}


def merge(model: Transformer) -> Transformer:
    """Put each product B A into its weight: a plain network again, in place."""
    for layer in _linear_maps(model):
        if not parametrize.is_parametrized(layer):
            raise ValueError("model must be adapted, got a plain network")
        parametrize.remove_parametrizations(layer, "weight")
    return model
