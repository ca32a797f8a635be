"""Philox against its published answers; uniformity and independence of the numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from dllm_tutorial.counter_rng import draw_seeds, philox, uniform

ALPHA = 1e-4  # a correct generator fails one of these fixed draws this rarely

# Known answers of Random123 (Salmon et al. 2011), philox4x32 with 10 rounds.
ONES = 0xFFFFFFFF
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox_by_hand(counter: list[int], key: list[int]) -> list[int]:
    """The definition in Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers(counter, key, answer):
    assert philox_by_hand(counter, key) == answer
    assert philox(torch.tensor(counter), torch.tensor(key)).tolist() == answer


def test_blocks_of_a_batch_are_those_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    counter = torch.randint(2**32, (4, 3, 5), generator=generator)
    key = torch.randint(2**32, (2, 3, 1), generator=generator)
    words = philox(counter, key)
    for b, i in itertools.product(range(3), range(5)):
        expected = philox_by_hand(counter[:, b, i].tolist(), key[:, b, 0].tolist())
        assert words[:, b, i].tolist() == expected


def test_a_number_is_52_bits_of_its_own_block():
    seed, step, position, stream = -3, 2**33 + 5, 7, 2
    u = uniform(torch.tensor([seed]), step, torch.tensor([position]), stream)
    words = philox_by_hand(
        [step % 2**32, position, stream, step >> 32],
        [seed % 2**32, (seed % 2**64) >> 32],
    )
    bits = (words[0] << 20) + (words[1] >> 12)
    assert u.item() == (2 * bits + 1) / 2**53


def test_open_interval_at_its_ends(monkeypatch):
    for word, end in ((0, 2.0**-53), (ONES, 1 - 2.0**-53)):
        monkeypatch.setattr(
            "dllm_tutorial.counter_rng.philox",
            lambda counter, key, word=word: torch.full_like(counter, word),
        )
        u = uniform(torch.zeros(1, dtype=torch.int64), 0, torch.arange(1), 0)
        assert u.item() == end and 0 < u.item() < 1


def numbers(seeds=8, steps=8, positions=64, streams=2) -> torch.Tensor:
    """Float64[streams, steps, seeds, positions], for small consecutive counters."""
    rows, places = torch.arange(seeds), torch.arange(positions)
    return torch.stack(
        [
            torch.stack([uniform(rows, step, places, stream) for step in range(steps)])
            for stream in range(streams)
        ]
    )


def test_uniform():
    u = numbers(seeds=32, steps=16)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > ALPHA
    low_bits = (u.flatten() * 2**26) % 1  # the lower half of the 52 bits
    assert stats.kstest(low_bits.numpy(), "uniform").pvalue > ALPHA


@pytest.mark.parametrize("axis", range(4), ids=["stream", "step", "seed", "position"])
def test_independent_across(axis):
    """Pairs of neighbours fill the unit square evenly: chi-square on a 16 x 16 grid."""
    u = numbers(seeds=32, steps=32, streams=4).movedim(axis, 0)
    a, b = u[0::2].flatten(), u[1::2].flatten()
    cell = (a * 16).long() * 16 + (b * 16).long()
    assert stats.chisquare(torch.bincount(cell, minlength=256)).pvalue > ALPHA
    assert len(torch.unique(u)) == u.numel()


def test_rows_do_not_depend_on_the_batch():
    seeds = torch.tensor([5, -1, 2**40])
    step = torch.tensor([3, 0, 9])
    together = uniform(seeds, step, torch.arange(6), 1)
    for b in range(3):
        alone = uniform(seeds[b : b + 1], int(step[b]), torch.arange(6), 1)
        assert torch.equal(alone[0], together[b])
    own = uniform(seeds, step, torch.arange(6).expand(3, 6), 1)
    assert torch.equal(own, together)


def test_short_integers_are_the_same_seeds():
    seeds, positions = torch.tensor([5, 7]), torch.arange(4)
    expected = uniform(seeds, 3, positions, 1)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        found = uniform(seeds.to(dtype), 3, positions.to(dtype), 1)
        assert torch.equal(found, expected)


def test_seeds_come_from_the_generator():
    draws = [draw_seeds(4, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    torch.manual_seed(0)
    default = draw_seeds(4)
    torch.manual_seed(0)
    assert torch.equal(draw_seeds(4), default)


@pytest.mark.parametrize("generator", [0, "cpu", torch.tensor(1)])
def test_the_generator_is_checked(generator):
    with pytest.raises(TypeError, match="generator must be"):
        draw_seeds(2, generator)


def test_stream_is_checked():
    with pytest.raises(ValueError, match="stream"):
        uniform(torch.zeros(1, dtype=torch.int64), 0, torch.arange(2), -1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_bits_on_a_gpu():
    seeds, places = draw_seeds(64, torch.Generator().manual_seed(0)), torch.arange(512)
    on_cpu = uniform(seeds, 3, places, 1)
    on_gpu = uniform(seeds.cuda(), 3, places.cuda(), 1)
    assert torch.equal(on_cpu, on_gpu.cpu())
