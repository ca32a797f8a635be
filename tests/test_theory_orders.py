"""What the page "Orders: definitions and proofs" states and no other test covers."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from dllm_tutorial import losses, neighborhood, order_search, orders
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.joints import TableJoint
from helpers import RandomTableDenoiser, all_sequences

EXACT = {"atol": 1e-10, "rtol": 0}


def joint(length: int = 5, vocab: int = 2, seed: int = 0) -> TableJoint:
    """A joint without any structure."""
    x = all_sequences(vocab, length)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(x), dtype=torch.float64, generator=generator) ** 3
    return TableJoint(x, weights / weights.sum(), vocab)


def window_law(table: TableJoint, k: int) -> torch.Tensor:
    """Windows of k + 1 over inner windows of k, from sums over the table."""
    x, p, length = table.support, table.probs, table.support.shape[1]

    def marginal(start: int, size: int) -> torch.Tensor:
        part = x[:, start : start + size]
        same = (part[:, None] == part).all(-1)  # [M, M]
        return same.double() @ p

    q = torch.ones(len(x), dtype=torch.float64)
    for start in range(length - k):
        q *= marginal(start, k + 1)
    for start in range(1, length - k):
        q /= marginal(start, k)
    return q


@pytest.mark.parametrize("k", range(5))
def test_both_directions_have_one_law(k):
    table = joint()
    wanted = window_law(table, k)
    assert wanted.sum().item() == pytest.approx(1, abs=1e-12)
    for order in (orders.left_to_right(5), orders.right_to_left(5)):
        shown = neighborhood.seen(order, k)
        nll = neighborhood.step_nll(table, table.support, order, shown).sum(1)
        assert torch.allclose(nll, -wanted.log(), **EXACT)


@pytest.mark.parametrize("k", range(5))
def test_an_order_costs_what_its_reverse_costs(k):
    entropies = order_search.block_entropies(joint(), k + 1)
    every = orders.all_orders(5)
    cost = order_search.window_cost(entropies, every, k)
    back = order_search.window_cost(entropies, every.flip(1), k)
    assert torch.allclose(cost, back, **EXACT)
    if 0 < k < 4:  # while another order may cost something else
        assert cost.max() - cost.min() > 1e-3


def test_the_best_order_of_every_sequence_is_no_model():
    denoiser, x = RandomTableDenoiser(2, 3, 0), all_sequences(2, 3)
    log_p = orders.log_probs(denoiser, x, orders.all_orders(3))
    assert torch.allclose(log_p.exp().sum(1), torch.ones(6).to(log_p), **EXACT)
    assert log_p.amax(0).exp().sum() > 1.1


@pytest.mark.parametrize("j", [1, 2, 3, 5])
def test_an_order_that_carries_everything_may_stay_unseen(j):
    """The denoiser of the proof: all orders that begin 0 ... j-1, and no others."""
    length = 5

    def logits(x: torch.Tensor) -> torch.Tensor:
        known = x != 2
        sure = torch.zeros_like(known)
        for i in range(length):
            left = torch.arange(length) < (i if i < j else j)
            sure[:, i] = (known == left).all(1) if i < j else known[:, :j].all(1)
        column = torch.tensor([[-math.inf, 0.0], [0.0, -math.inf]])  # token 0 or 1
        return column[sure.long()]

    x = torch.zeros(1, length, dtype=torch.long)
    every = orders.all_orders(length)
    log_p = orders.log_probs(FunctionDenoiser(logits, 2), x, every)[:, 0]
    begins = (every[:, :j] == torch.arange(j)).all(1)
    assert torch.equal(log_p.exp(), begins.to(log_p))
    share = math.factorial(length - j) / math.factorial(length)
    assert log_p.exp().mean().item() == pytest.approx(share)


def test_example_of_a_gap_that_grows_first():
    """One order of 720 is a hundred times as probable as each of the others."""
    p = torch.ones(720, dtype=torch.float64)
    p[0] = 100
    assert (p / p.mean()).var(correction=0).item() == pytest.approx(10.5, abs=0.01)

    def gap(draws: int) -> float:
        rare = torch.arange(draws, dtype=torch.float64)
        odds = torch.from_numpy(stats.binom.pmf(rare.numpy(), draws - 1, 1 / 720))
        ratio = p.mean() / (1 + 99 * rare / max(1, draws - 1))
        return (odds * (ratio - 1 - ratio.log())).sum().item()

    stated = {2: 0.013, 30: 0.033, 1000: 0.005}
    for draws, value in stated.items():
        assert gap(draws) == pytest.approx(value, abs=6e-4)


def test_gradients_are_responsibilities():
    generator = torch.Generator().manual_seed(0)
    nll = torch.rand(4, 3, dtype=torch.float64, generator=generator).mul(9)
    scores = torch.rand(4, dtype=torch.float64, generator=generator)
    nll.requires_grad_(), scores.requires_grad_()
    for power in (0.3, 1.0):
        prior = scores.log_softmax(0)
        loss = losses.log_sum_loss(-nll, prior, power=power).loss.sum()
        by_order, by_score = torch.autograd.grad(loss, (nll, scores))
        share = prior.exp()[:, None] * (-power * nll).exp()
        share = share / share.sum(0)
        assert torch.allclose(by_order, share, **EXACT)
        wanted = (prior.exp()[:, None] - share).sum(1) / power
        assert torch.allclose(by_score, wanted, **EXACT)
