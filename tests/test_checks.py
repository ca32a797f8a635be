"""Checks that all modules share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dllm_tutorial import _checks, joints
from dllm_tutorial.denoiser import FunctionDenoiser


def uniform(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*x.shape, 3)


def test_a_denoiser_is_called_with_tokens_and_has_a_mask():
    for denoiser in (joints.shuffle(3), FunctionDenoiser(uniform, 3)):
        assert _checks.denoiser(denoiser, "denoiser") is denoiser


@pytest.mark.parametrize(
    "value",
    [
        None,
        uniform,  # a plain function
        torch.zeros(2, 3, dtype=torch.long),  # swapped with the tokens
        joints.Shuffle,  # the class, not a joint
        SimpleNamespace(mask_id=3),
        torch.nn.Linear(2, 2),  # has no mask
    ],
)
def test_what_is_no_denoiser_is_refused_by_name(value):
    with pytest.raises(TypeError, match="model must be a denoiser"):
        _checks.denoiser(value, "model")


@pytest.mark.parametrize("mask_id", [None, 3.0, True, torch.tensor(3)])
def test_a_mask_id_is_an_integer(mask_id):
    fake = type("Fake", (), {"mask_id": mask_id, "__call__": lambda self, x: x})()
    with pytest.raises(TypeError, match=r"denoiser must be .* integer mask_id"):
        _checks.denoiser(fake, "denoiser")


def test_a_mask_id_is_not_negative():
    fake = type("Fake", (), {"mask_id": -1, "__call__": lambda self, x: x})()
    with pytest.raises(ValueError, match=r"denoiser\.mask_id"):
        _checks.denoiser(fake, "denoiser")
