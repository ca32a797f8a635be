"""Weights in a few bits: how far they move, how much room they take."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from dllm_tutorial.packing import GROUP, pack, unpack


def matrix(seed: int, rows: int = 3, groups: int = 2) -> torch.Tensor:
    generator = Generator().manual_seed(seed)
    sizes = 10 ** torch.empty(rows, groups, 1).uniform_(-3, 1, generator=generator)
    w = torch.randn(rows, groups, GROUP, generator=generator) * sizes
    return w.flatten(1)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8))
def test_no_entry_is_nearer_to_another_multiple_of_its_scale(seed, bits):
    w = matrix(seed)
    packed = pack({"w": w}, bits)
    found = unpack(packed)["w"].double().unflatten(1, (-1, GROUP))
    scale = packed["w.scale"].double()[..., None]
    multiples = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) * scale  # [m, g, c]
    groups = w.double().unflatten(1, (-1, GROUP))
    nearest = (groups[..., None] - multiples[:, :, None]).abs().amin(-1)
    torch.testing.assert_close((groups - found).abs(), nearest, atol=1e-12, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8))
def test_multiples_of_a_scale_come_back_as_they_were(seed, bits):
    half = 2 ** (bits - 1)
    generator = Generator().manual_seed(seed)
    codes = torch.randint(-half, half, (4, 2 * GROUP), generator=generator)
    codes[:, ::GROUP] = -half  # each group reaches its largest multiple
    w = codes * 2.0 ** torch.randint(-8, 3, (4, 1), generator=generator)
    assert torch.equal(unpack(pack({"w": w}, bits))["w"], w.float())


@pytest.mark.parametrize("bits", range(2, 9))
def test_room(bits):
    w = matrix(0, rows=5, groups=3)
    packed = pack({"w": w}, bits)
    assert packed["w.codes"].shape == (5, 3 * GROUP * bits // 8)
    assert packed["w.codes"].dtype == torch.uint8
    assert packed["w.scale"].shape == (5, 3)
    assert packed["w.scale"].dtype == torch.half


def test_the_error_of_a_normal_matrix_is_a_quantizers():
    """Of the best uniform quantizer of a normal variable (Max, 1960), as a share of the
    variance: .1188 with 2 bits, .01154 with 4. A group knows its own range, so it can
    be a little better, and not much.
    """
    w = torch.randn(400, 4 * GROUP, generator=Generator().manual_seed(0))
    for bits, known in ((2, 0.1188), (4, 0.01154)):
        error = (unpack(pack({"w": w}, bits))["w"] - w).square().mean()
        assert 0.6 * known < error < 1.15 * known


def test_what_is_no_matrix_of_whole_groups_stays():
    weights = {"bias": torch.randn(GROUP), "thin": torch.randn(3, GROUP + 1)}
    packed = pack(weights, 4)
    assert set(packed) == set(weights)
    assert all(value.dtype == torch.half for value in packed.values())
    found = unpack(packed)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, atol=0, rtol=2**-10)


def test_a_group_of_zeros_stays_zero():
    w = torch.zeros(2, GROUP)
    assert torch.equal(unpack(pack({"w": w}, 4))["w"], w)


def test_half_precision_is_unpacked_as_it_is():
    weights = {"w": torch.randn(2, GROUP).half()}
    assert torch.equal(unpack(weights)["w"], weights["w"].float())


def test_errors():
    for bits in (1, 9):
        with pytest.raises(ValueError, match=f"bits must be .* got {bits}"):
            pack({}, bits)
    with pytest.raises(TypeError, match="bits must be an integer"):
        pack({}, 4.0)
    for value in (torch.nan, torch.inf, 1e5):  # half precision ends at 65504
        for shape in ((1, GROUP), (GROUP,)):
            with pytest.raises(ValueError, match="finite as half, but w is not"):
                pack({"w": torch.full(shape, value)}, 4)
    assert pack({}, 4) == {}


def test_a_scale_without_codes_is_a_weight_like_any_other():
    weights = {"norm.scale": torch.ones(3)}
    assert torch.equal(unpack(pack(weights, 4))["norm.scale"], weights["norm.scale"])
