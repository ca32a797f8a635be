"""Networks for a set of orders, and the sources of one and of two directions.

Everything is small enough to be enumerated, so the truth is a sum over all sequences.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor, nn

from dllm_tutorial import mixtures, orders
from dllm_tutorial.joints import TableJoint
from dllm_tutorial.networks import TransformerConfig
from helpers import all_sequences

LENGTH, VOCAB = 4, 3
CONFIG = TransformerConfig(
    VOCAB, LENGTH, 16, 1, 2, attention="any-order", positions="learned"
)
THREE = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def network(taught: Tensor = THREE, learned: bool = False) -> mixtures.OrderMixture:
    """A network that was taught nothing and has an opinion on everything."""
    torch.manual_seed(0)
    model = mixtures.OrderMixture(CONFIG, taught, learned=learned).double().eval()
    nn.init.normal_(model.head.weight)
    nn.init.normal_(model.prior)
    return model


# -------------------------------------------------------------------------- the network


@torch.no_grad()
def test_every_order_and_the_mixture_sum_to_one():
    model, x = network(), all_sequences(VOCAB, LENGTH)
    each = model.log_probs(x)
    assert each.shape == (3, len(x))
    assert torch.allclose(each.exp().sum(1), torch.ones(3).double(), atol=1e-10)
    assert model.log_prob(x).exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert (each[0] - each[1]).abs().max() > 0.1  # it does matter


@torch.no_grad()
def test_the_mixture_step_by_step():
    model, x = network(), all_sequences(VOCAB, LENGTH)[::7]
    weight = model.prior.exp() / model.prior.exp().sum()
    for row in x:
        total = 0.0
        for k, order in enumerate(THREE):
            p = model.in_order(row[None], order)[0].softmax(-1)
            steps = (p[n, row[i]].item() for n, i in enumerate(order.tolist()))
            total += weight[k].item() * math.prod(steps)
        found = model.log_prob(row[None]).item()
        assert found == pytest.approx(math.log(total), abs=1e-10)


def test_weights_of_the_orders():
    torch.manual_seed(0)
    model = mixtures.OrderMixture(CONFIG, THREE)
    assert torch.allclose(model.log_prior().exp(), torch.full((3,), 1 / 3))
    for learned in (False, True):
        model = network(learned=learned)
        model.log_prob(all_sequences(VOCAB, LENGTH)[:5]).sum().backward()
        assert (model.prior.grad is not None) == learned
        assert model.head.weight.grad is not None


def test_the_first_weights_do_not_depend_on_the_set_of_orders():
    def first(taught, learned):
        torch.manual_seed(5)
        state = mixtures.OrderMixture(CONFIG, taught, learned).state_dict()
        state.pop("prior")
        return state

    one = first(THREE[:1], False)
    assert not any("orders" in name for name in one)
    for taught, learned in ((THREE, False), (THREE, True), (THREE[1:2], False)):
        other = first(taught, learned)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_only_an_any_order_network_has_orders(attention):
    config = TransformerConfig(VOCAB, LENGTH, 16, 1, 2, attention=attention)
    with pytest.raises(ValueError, match="attention"):
        mixtures.OrderMixture(config, THREE)


@pytest.mark.parametrize(
    ("taught", "error"),
    [
        (torch.tensor([[0, 1, 2, 2]]), ValueError),
        (torch.tensor([[1, 2, 3, 4]]), ValueError),
        (torch.tensor([[0.0, 1.0, 2.0, 3.0]]), TypeError),
        (torch.arange(4), (TypeError, ValueError, IndexError)),
    ],
)
def test_orders_have_to_be_permutations(taught, error):
    with pytest.raises(error):
        mixtures.OrderMixture(CONFIG, taught)


# --------------------------------------------------------------------- the one-way code


@pytest.mark.parametrize(("n", "symbols", "seed"), [(3, 3, 0), (4, 3, 1), (3, 5, 2)])
def test_a_one_way_source_is_free_symbols_and_sums_of_two(n, symbols, seed):
    joint = mixtures.one_way(n, symbols, seeded(seed))
    x = joint.support
    assert x.shape == (symbols**n, 2 * n) and joint.vocab_size == symbols
    assert torch.allclose(joint.probs, torch.tensor(symbols**-n).double())
    free, sums = {tuple(row) for row in x[:, :n].tolist()}, x[:, n:]
    assert free == set(itertools.product(range(symbols), repeat=n))
    for j in range(n):
        rules = [
            (a, b)
            for a, b in itertools.combinations(range(n), 2)
            if ((x[:, a] + x[:, b] - sums[:, j]) % symbols == 0).all()
        ]
        assert len(rules) == 1
    # the sums determine the symbols: they are free too, if they come first
    assert len({tuple(row) for row in sums.tolist()}) == symbols**n


@pytest.mark.parametrize(("n", "symbols"), [(3, 3), (4, 3)])
def test_both_directions_of_a_one_way_source_cost_the_same(n, symbols):
    joint = mixtures.one_way(n, symbols, seeded(1))
    directed = torch.stack([orders.left_to_right(2 * n), orders.right_to_left(2 * n)])
    log_p = orders.log_probs(joint, joint.support, directed)
    expected = torch.tensor(-n * math.log(symbols)).double()
    assert torch.allclose(log_p, expected, atol=1e-9)
    assert joint.entropy() == pytest.approx(n * math.log(symbols), abs=1e-9)
    for order in directed:  # in either direction the first n tokens look free
        steps = orders.step_log_prob(joint, joint.support, order)
        assert torch.allclose(steps[:, :n], torch.tensor(-math.log(symbols)).double())
        assert torch.allclose(steps[:, n:], torch.zeros(()).double(), atol=1e-9)


def test_a_one_way_source_follows_its_generator():
    one, again, other = (mixtures.one_way(4, 3, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(one.support, again.support)
    assert not torch.equal(one.support, other.support)


@pytest.mark.parametrize(
    ("n", "symbols", "match"),
    [
        (2, 3, "n"),
        (3, 2, "symbols"),
        (3, 4, "odd prime"),
        (3, 9, "odd prime"),
        (11, 3, "at most 65536"),
    ],
)
def test_one_way_says_what_is_wrong(n, symbols, match):
    with pytest.raises(ValueError, match=match):
        mixtures.one_way(n, symbols)


# ----------------------------------------------------------------------- two directions


def law(joint: TableJoint) -> dict[tuple[int, ...], float]:
    rows = map(tuple, joint.support.tolist())
    return dict(zip(rows, joint.probs.tolist(), strict=True))


def lopsided() -> TableJoint:
    """A palindrome, a sequence and its reverse, and one whose reverse is impossible."""
    support = torch.tensor([[0, 1, 0], [0, 1, 2], [2, 1, 0], [0, 0, 1]])
    return TableJoint(support, torch.tensor([0.4, 0.3, 0.1, 0.2]).double(), 3)


@pytest.mark.parametrize(
    "joint", [lopsided(), mixtures.one_way(3, 3, seeded(0))], ids=["table", "one way"]
)
def test_either_direction_is_the_mean_of_a_sequence_and_its_reverse(joint):
    both = mixtures.either_direction(joint)
    given, found = law(joint), law(both)
    assert len(found) == len(both.support)  # each sequence once
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)
    for row in {*given, *(row[::-1] for row in given)}:
        mean = (given.get(row, 0.0) + given.get(row[::-1], 0.0)) / 2
        assert found.pop(row) == pytest.approx(mean, abs=1e-12)
    assert not found
    assert both.vocab_size == joint.vocab_size and both.length == joint.length


def test_the_direction_is_a_coin_that_has_to_be_paid():
    """One bit more than one direction, but for sequences possible in both."""
    joint = mixtures.one_way(4, 3, seeded(3))
    rows = {tuple(row) for row in joint.support.tolist()}
    shared = sum(row[::-1] in rows for row in rows)  # these have all of their 3^-4
    expected = math.log(2) + 4 * math.log(3) - shared / 3**4 * math.log(2)
    both = mixtures.either_direction(joint)
    assert both.entropy() == pytest.approx(expected, abs=1e-9)
