"""Muon against the singular value decomposition and against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_tutorial import training
from dllm_tutorial.muon import Muon, orthogonalized
from dllm_tutorial.networks import Transformer, TransformerConfig


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_orthogonalized_keeps_singular_vectors_and_evens_out_values(m, n, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(m, n, generator=generator, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalized(matrix) @ v.T
    large = s > 0.01 * s.norm()  # five rounds lift what is not too small
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-8, rtol=0)
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.3))[large].all()


def test_updates_agree_with_torchs_own():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with torch 2.9")
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(24, 40, generator=generator)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}
    one = Muon([ours], **settings)
    other = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(3):
        gradient = torch.randn(24, 40, generator=generator)
        for p, optimizer in ((ours, one), (theirs, other)):
            p.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.03 * moved  # theirs rounds to bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_momentum_is_a_mean_whatever_the_weights_are(dtype):
    """2 ^ -9 of the gradient at each step, in closed form."""
    p = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    optimizer = Muon([p], 0.01, momentum=1 - 2**-9)
    p.grad = torch.arange(12).view(3, 4).to(dtype)
    for _ in range(1000):
        optimizer.step()
    momentum = optimizer.state[p]["momentum"]
    expected = (1 - (1 - 2**-9) ** 1000) * p.grad.double()
    torch.testing.assert_close(momentum.double(), expected, rtol=1e-4, atol=0)
    assert p.dtype == dtype and bool(p.isfinite().all())


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"params must be matrices, got .*\(3,\)"):
        Muon([torch.zeros(3)], 0.1)


def test_every_parameter_has_one_optimizer_and_resumes(tmp_path):
    config = training.TrainingConfig(6, 4, warmup=0, optimizer="muon")

    def network():
        torch.manual_seed(0)
        return Transformer(TransformerConfig(5, 8, 16, 1, 2))

    def draw(n, generator):
        return torch.randint(5, (n, 8), generator=generator)

    model = network()
    found = training._optimizers(model, config)
    held = [id(p) for o in found for g in o.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())

    whole = network()
    list(training.train(whole, draw, config))
    steps = training.train(
        network(), draw, config, checkpoint=tmp_path, checkpoint_every=3
    )
    for record in steps:
        if record.step == 4:  # killed after the checkpoint at 3
            break
    again = network()
    list(training.train(again, draw, config, checkpoint=tmp_path))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
