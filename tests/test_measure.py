"""The measured accuracy against the exact one."""

from __future__ import annotations

import math

import pytest
import torch

from dllm_tutorial import exact, joints, measure
from dllm_tutorial.decoding import strategies
from dllm_tutorial.denoiser import NoisyDenoiser

Z = 3.9  # error rate 1e-4 of each test


def z_score(found: measure.Accuracy, p: float) -> float:
    return (found.rate - p) / math.sqrt(p * (1 - p) / found.draws)


@pytest.mark.parametrize(("n", "k"), [(3, 3), (6, 2), (8, 4)])
def test_shuffle_and_replace_random_at_temperature_one(n, k):
    generator = torch.Generator().manual_seed(n)
    for joint, closed in [
        (joints.shuffle(n), exact.shuffle_accuracy),
        (joints.replace_random(n), exact.replace_random_accuracy),
    ]:
        found = measure.accuracy(
            joint,
            strategies.random_top_k(k),
            4000,
            temperature=1.0,
            generator=generator,
        )
        assert abs(z_score(found, closed(n, k))) < Z
        assert found.nfe <= -(-n // k)
        low, high = found.interval
        assert low < found.rate < high


@pytest.mark.parametrize("n", [2, 4, 8])
def test_greedy_shuffle_with_exact_conditionals_fails_at_two_a_step(n):
    joint = joints.shuffle(n)
    for rule in (strategies.random_top_k, strategies.confidence_top_k):
        assert measure.accuracy(joint, rule(2), 50).successes == 0
        assert measure.accuracy(joint, rule(1), 50).successes == 50


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_greedy_shuffle_with_noise_is_the_product_of_choices(rho):
    joint = joints.shuffle(6)
    generator = torch.Generator().manual_seed(0)
    noisy = NoisyDenoiser(joint, 1e-3, rho, generator)
    found = measure.accuracy(
        joint, strategies.random_top_k(2), 4000, denoiser=noisy, generator=generator
    )
    assert abs(z_score(found, exact.greedy_shuffle_accuracy(6, rho))) < Z
