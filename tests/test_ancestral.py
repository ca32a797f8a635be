"""The law of the T-step ancestral sampler, against other routes to it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dllm_tutorial import exact, joints, losses
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.schedules import (
    Cosine,
    CosineMDLM,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
)
from helpers import RandomTableDenoiser, all_sequences

SCHEDULES = [Linear(), Cosine(), CosineMDLM(), Polynomial(2), Geometric(), LogLinear()]


def mixture_of_partitions(denoiser, x, schedule, steps) -> float:
    """p_T(x) as a sum over the step at which each position is revealed."""
    masked = schedule.masked(torch.arange(steps + 1).double() / steps).tolist()
    masked[0] = 0.0  # the last step fills
    # the sampler starts from all masks at t = 1, whatever the schedule says there
    share = [(masked[i] - masked[i - 1]) / masked[steps] for i in range(1, steps + 1)]
    total = 0.0
    for step_of in itertools.product(range(steps), repeat=len(x)):
        p = math.prod(share[j] for j in step_of)
        state = torch.full_like(x, denoiser.mask_id)
        for j in reversed(range(steps)):
            conditionals = denoiser(state[None])[0].softmax(-1)
            now = [i for i in range(len(x)) if step_of[i] == j]
            for i in now:
                p *= conditionals[i, x[i]].item()
                state[i] = x[i]
        total += p
    return total


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("steps", [1, 3])
def test_law_is_the_mixture_over_partitions(schedule, steps):
    denoiser = RandomTableDenoiser(2, 3, seed=5)
    every = all_sequences(2, 3)
    law = exact.ancestral_log_prob(denoiser, every, schedule, steps).exp()
    wanted = [mixture_of_partitions(denoiser, x, schedule, steps) for x in every]
    assert law.tolist() == pytest.approx(wanted, abs=1e-12)
    assert law.sum().item() == pytest.approx(1, abs=1e-12)


def test_law_and_divergence_of_a_joint():
    joint = joints.shuffle(3)
    table = joint.table()
    for steps in (1, 2, 4):
        law = exact.ancestral_law(joint, Cosine(), steps)
        assert law.words == joint.words
        by_law = exact.kl_divergence(joint, law)
        (by_moves,) = exact.ancestral_kl(joint, Cosine(), [steps])
        assert by_moves == pytest.approx(by_law, abs=1e-10)
        # the bound that training sees is larger: partitions are averaged inside it
        bound = losses.exact_t_step(joint, table.support, steps, Cosine())
        assert by_moves <= (table.probs * bound).sum().item() - joint.entropy() + 1e-12


def test_one_step_draws_from_the_marginals():
    joint = joints.shuffle(3)
    law = exact.ancestral_law(joint, Linear(), 1)
    assert len(law.support) == 27
    assert torch.allclose(law.probs, torch.full((27,), 1 / 27).double(), atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_sequence_may_be_as_rare_as_it_likes(steps):
    """Independent tokens: the law is their product, here e^-2700."""
    log_p = torch.tensor([0.0, -300.0], dtype=torch.float64)
    denoiser = FunctionDenoiser(lambda x: log_p.expand(*x.shape, 2), 2)
    x = torch.ones(2, 9, dtype=torch.long)
    x[1, ::2] = 0
    found = exact.ancestral_log_prob(denoiser, x, Linear(), steps)
    expected = torch.tensor([-2700.0, -1200.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_what_cannot_be_generated():
    x = torch.tensor([[0, 4]])  # New City needs both words at once
    joint = joints.cities()
    value = exact.ancestral_log_prob(joint, x, Linear(), 2)
    # both words fall into the same of two steps with probability 1/2
    assert value.exp().item() == pytest.approx(1 / 2 * 1 / 4, abs=1e-12)
    x = torch.tensor([[1, 0]])
    assert exact.ancestral_log_prob(joint, x, Linear(), 2).item() == -math.inf


@pytest.mark.parametrize(
    "joint",
    [
        joints.shuffle(4),
        joints.TableJoint(torch.arange(3)[:, None].repeat(1, 5), None, 3),
    ],
    ids=["shuffle", "copies"],
)
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(2)], ids=repr)
def test_pair_dependence_gives_the_leading_cost_of_many_steps(joint, schedule):
    nodes = (torch.arange(4000).double() + 0.5) / 4000  # midpoint rule
    dependence = exact.pair_dependence(joint, schedule.alpha(nodes))
    limit = (schedule.dalpha(nodes).square() * dependence).mean().item()
    table = joint.table()

    def cost(steps):
        bound = losses.exact_t_step(joint, table.support, steps, schedule)
        return steps * ((table.probs * bound).sum().item() - joint.entropy())

    # T times the cost is limit + O(1/T): extrapolate
    assert 2 * cost(512) - cost(256) == pytest.approx(limit, rel=1e-3)


def test_pair_dependence_in_closed_form():
    a = torch.linspace(0, 1, 5)
    two = exact.pair_dependence(joints.cities(), a)
    assert torch.allclose(two, torch.full((5,), math.log(2)).double(), atol=1e-12)
    # n copies of one uniform token: pairs are dependent only while nothing is known
    n, vocab = 4, 3
    copies = joints.TableJoint(torch.arange(vocab)[:, None].repeat(1, n), None, vocab)
    wanted = math.comb(n, 2) * math.log(vocab) * (1 - a.double()) ** (n - 2)
    assert torch.allclose(exact.pair_dependence(copies, a), wanted, atol=1e-12)
    # shuffle: two of the m = n - s items that are left, log(m / (m - 1))
    wanted = sum(
        math.comb(n, 2)
        * math.comb(n - 2, s)
        * math.log((n - s) / (n - s - 1))
        * a.double() ** s
        * (1 - a.double()) ** (n - 2 - s)
        for s in range(n - 1)
    )
    found = exact.pair_dependence(joints.shuffle(n), a)
    assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (
            lambda: exact.ancestral_kl(joints.cities(), Linear(), [0]),
            ValueError,
            "steps",
        ),
        (
            lambda: exact.ancestral_log_prob(
                joints.cities(), torch.zeros(1, 13, dtype=torch.long), Linear(), 2
            ),
            ValueError,
            "x ",
        ),
        (
            lambda: exact.pair_dependence(joints.copy([0]), torch.ones(1)),
            ValueError,
            "joint",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, argument):
    with pytest.raises(error, match=argument):
        call()
