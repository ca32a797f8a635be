"""The search for orders, against all orders and against what a pencil finds."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest
import torch

from dllm_tutorial import exact, joints, limited, neighborhood, orders
from dllm_tutorial import order_search as search
from helpers import RandomTableDenoiser, all_sequences
from test_joints import random_chain, uneven

CLOSE = {"abs": 1e-9}


def random_joint(seed: int, length: int) -> joints.TableJoint:
    """Binary sequences with random weights, some far more likely than others."""
    generator = torch.Generator().manual_seed(seed)
    support = all_sequences(2, length)
    weight = torch.rand(len(support), generator=generator, dtype=torch.float64) ** 6
    return joints.TableJoint(support, weight / weight.sum(), 2)


def starts(length: int, n: int = 12) -> torch.Tensor:
    return orders.random_orders(length, n, torch.Generator().manual_seed(0))


# --------------------------------------------------------------------------- the joints


def test_prompts_and_answers():
    for task, answer in [
        ("copy", [2, 0, 1]),
        ("reverse", [1, 0, 2]),
        ("sort", [0, 1, 2]),
    ]:
        joint = search.prompt_and_answer(task, 3, 3)
        assert [2, 0, 1, *answer] in joint.support.tolist()
        assert joint.entropy() == pytest.approx(3 * math.log(3), **CLOSE)
        assert joint.entropy([3, 4, 5], [0, 1, 2]) == pytest.approx(0, **CLOSE)


def test_a_moved_joint_says_the_same_elsewhere():
    joint, order = uneven(), torch.tensor([2, 0, 3, 1])
    there = search.moved(joint, order)
    x = joint.support
    assert torch.allclose(there.log_prob(x[:, order]), joint.log_prob(x))
    assert there.entropy([0, 3]) == pytest.approx(joint.entropy([2, 1]), **CLOSE)


# ----------------------------------------------------------------- models with a window


def test_entropies_of_all_small_sets():
    joint = uneven()
    table = search.block_entropies(joint, 2)
    assert table[0b1010].item() == pytest.approx(joint.entropy([1, 3]), **CLOSE)
    assert table[0].item() == 0
    assert torch.isnan(table).nonzero()[:, 0].tolist() == [7, 11, 13, 14, 15]


@pytest.mark.parametrize("by", neighborhood.VIEWS)
@pytest.mark.parametrize("k", range(5))
def test_window_costs_are_sums_of_conditional_entropies(by, k):
    joint = random_joint(0, 4)
    every = orders.all_orders(4)
    table = search.block_entropies(joint, k + 1)
    costs = search.window_cost(table, every, k, by).tolist()
    shown = neighborhood.seen(every, k, by)
    for order, rows, cost in zip(every, shown, costs, strict=True):
        expected = math.fsum(
            joint.entropy([int(i)], row.nonzero()[:, 0])
            for i, row in zip(order, rows, strict=True)
        )
        assert cost == pytest.approx(expected, **CLOSE)
        assert cost >= joint.entropy() - 1e-9
        if k >= 3:
            assert cost == pytest.approx(joint.entropy(), **CLOSE)


def test_window_needed_to_copy_and_to_reverse():
    n = 3
    ahead = orders.left_to_right(2 * n)
    copy, reverse = (search.prompt_and_answer(t, n, 2) for t in ("copy", "reverse"))
    assert search.window_needed(copy, ahead) == n
    assert search.window_needed(reverse, ahead) == 2 * n - 1
    pairs = torch.tensor([0, 5, 1, 4, 2, 3])
    assert search.window_needed(reverse, pairs) == 1
    assert search.window_needed(neighborhood.noisy_sum(6, 2, 2), ahead) == 2
    with pytest.raises(ValueError, match="tolerance"):
        search.window_needed(copy, ahead, tolerance=-1.0)


# ------------------------------------------------------------------------------- search


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("length", [1, 2, 5, 7])
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_the_best_order_by_time_is_the_best_of_all_orders(seed, length, k):
    table = search.block_entropies(random_joint(seed, length), k + 1)

    def cost(order):
        return search.window_cost(table, order, k)

    best = search.best_window_order(table, k)
    assert best.cost.item() == pytest.approx(cost(best.order[None]).item(), **CLOSE)
    found = search.exhaustive(cost, length)
    assert best.cost.item() == pytest.approx(found.cost.item(), **CLOSE)


def test_the_best_order_does_not_depend_on_how_it_is_computed(monkeypatch):
    table = search.block_entropies(random_joint(1, 6), 3)
    together = search.best_window_order(table, 2)
    monkeypatch.setattr(search, "_MAX_STATES", 2**6 * 6**2)  # a few sets at a time
    apart = search.best_window_order(table, 2)
    assert torch.equal(together.order, apart.order) and together.cost == apart.cost


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_the_best_order_by_space_is_the_best_of_all_orders(seed, k):
    table = search.block_entropies(random_joint(seed, 6), k + 1)

    def cost(order):
        return search.window_cost(table, order, k, "space")

    order, value = search.best_set_order(search.nearest_costs(table, k)[None])
    assert value.item() == pytest.approx(cost(order).item(), **CLOSE)
    found = search.exhaustive(cost, 6)
    assert value.item() == pytest.approx(found.cost.item(), **CLOSE)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: random_joint(5, 7),
        lambda: search.prompt_and_answer("sort", 4, 2),
        lambda: search.prompt_and_answer("reverse", 4, 2),
        lambda: search.moved(random_chain(0, 2, 1, 7), orders.random_order(7)),
    ],
    ids=["random", "sort", "reverse", "moved chain"],
)
def test_local_search_finds_the_best_of_all_orders(make, k):
    joint = make()
    table = search.block_entropies(joint, k + 1)

    def cost(order):
        return search.window_cost(table, order, k)

    order, value = search.local_search(cost, starts(joint.length))
    assert torch.allclose(cost(order), value)
    best = search.exhaustive(cost, joint.length).cost.item()
    assert value.min().item() == pytest.approx(best, **CLOSE)
    assert bool((value <= cost(starts(joint.length)) + 1e-12).all())
    again = search.local_search(cost, order)  # nothing is left to improve
    assert torch.equal(again.order, order)


def test_moves_are_permutations():
    moves = search._moves(5)
    assert bool((moves.sort(1).values == torch.arange(5)).all())
    assert len(torch.unique(moves, dim=0)) == len(moves)
    listed = moves.tolist()
    for move in ([4, 1, 2, 3, 0], [1, 2, 3, 4, 0], [4, 0, 1, 2, 3], [4, 3, 2, 1, 0]):
        assert move in listed
    assert search._moves(1).tolist() == [[0]]


def test_a_shuffled_chain_is_put_back_in_order():
    chain = neighborhood.noisy_sum(9, vocab=2)
    order = orders.random_order(9, torch.Generator().manual_seed(1))
    joint = search.moved(chain, order)
    found = search.best_window_order(search.block_entropies(joint, 2), 1)
    assert found.cost.item() == pytest.approx(chain.entropy(), **CLOSE)
    there = order[found.order].tolist()  # where the found order walks in the chain
    assert there in (list(range(9)), list(range(9))[::-1])


def test_what_a_pencil_finds():
    reverse = search.prompt_and_answer("reverse", 4, 3)
    table = search.block_entropies(reverse, 2)
    ahead = search.window_cost(table, orders.left_to_right(8), 1).item()
    assert ahead == pytest.approx(7 * math.log(3), **CLOSE)  # one free: the turn
    best = search.best_window_order(table, 1)
    assert best.cost.item() == pytest.approx(4 * math.log(3), **CLOSE)
    pairs = best.order.view(4, 2).sum(1)
    assert pairs.tolist() == [7] * 4  # each letter, then its copy
    table = search.block_entropies(joints.shuffle(5), 3)
    costs = search.window_cost(table, orders.all_orders(5), 2)
    assert costs.max() - costs.min() < 1e-9  # all positions are alike


# ---------------------------------------------- models that see all and conclude little


def test_the_best_order_through_the_sets_is_the_best_of_all_orders():
    denoiser = RandomTableDenoiser(3, 5, seed=1)
    x = all_sequences(3, 5)[::20]
    start = torch.full_like(x, 3)
    positions, costs = search.set_costs(denoiser, start, x)
    assert positions.tolist() == [list(range(5))] * len(x)
    order, value = search.best_set_order(costs)
    nats = torch.stack([-orders.log_prob(denoiser, x, o) for o in orders.all_orders(5)])
    assert torch.allclose(value, nats.min(0).values)
    along = -orders.log_prob(denoiser, x, order[0])
    assert along[0].item() == pytest.approx(value[0].item(), **CLOSE)
    mean, best = costs.mean(0, keepdim=True), nats.mean(1).min().item()
    assert search.best_set_order(mean).cost.item() == pytest.approx(best, **CLOSE)


def test_clues_cost_nothing():
    denoiser = RandomTableDenoiser(3, 4, seed=2)
    solutions = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    puzzles = torch.tensor([[3, 1, 3, 3], [2, 3, 1, 3]])
    positions, costs = search.set_costs(denoiser, puzzles, solutions)
    assert positions[0].tolist() == [0, 2, 3] and positions[1, :2].tolist() == [1, 3]
    _, value = search.best_set_order(costs)
    for row, masked in enumerate([[0, 2, 3], [1, 3]]):
        tried = []
        for order in itertools.permutations(masked):
            state, nats = puzzles[row].clone(), 0.0
            for i in order:
                p = denoiser(state[None])[0, i].log_softmax(-1)
                nats -= p[solutions[row, i]].item()
                state[i] = solutions[row, i]
            tried.append(nats)
        assert value[row].item() == pytest.approx(min(tried), **CLOSE)


def test_rules_follow_the_state():
    denoiser = RandomTableDenoiser(3, 4, seed=3)
    x = all_sequences(3, 4)[::7]
    start = torch.full_like(x, 3)
    nats = search.follow(denoiser, start, x, search.first_position)
    ahead = -orders.log_prob(denoiser, x, orders.left_to_right(4))
    assert torch.allclose(nats, ahead)
    part = start.clone()
    part[:, 1] = x[:, 1]
    part[0] = x[0]  # nothing is left to fill
    nats = search.follow(denoiser, part, x, search.first_position)
    assert nats[0] == 0
    _, costs = search.set_costs(denoiser, part[1:], x[1:])
    steps = costs[:, [0, 1, 3], [0, 1, 2]].sum(1)
    assert torch.allclose(nats[1:], steps)


def test_a_rule_that_sees_the_state_alone_is_normalized():
    denoiser = RandomTableDenoiser(2, 4, seed=4)
    every = all_sequences(2, 4)

    def least_uncertain(p):
        return -torch.special.entr(p).sum(-1)

    nats = search.follow(denoiser, torch.full_like(every, 2), every, least_uncertain)
    assert (-nats).exp().sum().item() == pytest.approx(1, **CLOSE)


def test_pencil_marks_on_sudoku():
    joint, marks = joints.sudoku(), limited.pencil_marks()
    generator = torch.Generator().manual_seed(0)
    puzzles, solutions = limited.unique_puzzles(joint, 20, generator)
    _, costs = search.set_costs(marks, puzzles, solutions)
    best = search.best_set_order(costs).cost
    rule = search.follow(marks, puzzles, solutions, search.fewest_candidates)
    ahead = search.follow(marks, puzzles, solutions, search.first_position)
    assert bool((best <= rule + 1e-9).all()) and bool((best <= ahead + 1e-9).all())
    assert rule.mean() < ahead.mean()
    # the candidates of a cell by hand: the symbols that its row, column and box lack
    x = joint.support[:1]
    state = x.clone()
    state[0, [0, 5]] = joint.mask_id
    p = marks(state)[0].softmax(-1)
    grid = x[0].view(4, 4).tolist()
    assert p[0, grid[0][0]] > 0.999 and p[5, grid[1][1]] > 0.999


# ------------------------------------------------------------------------- rows, errors


def test_rows_of_searches():
    named = {
        "reverse": search.prompt_and_answer("reverse", 3, 2),
        "chain": neighborhood.noisy_sum(5, vocab=2),
    }
    rows = pd.DataFrame(search.search_rows(named, (1, 2)))
    assert len(rows) == 8
    assert bool((rows.best <= rows.left_to_right + 1e-9).all())
    assert bool((rows.best <= rows.right_to_left + 1e-9).all())
    assert bool((rows.best >= rows.entropy - 1e-9).all())
    chain = rows[rows.joint == "chain"]
    assert chain.left_to_right.tolist() == pytest.approx(chain.entropy.tolist())
    reverse = rows[(rows.joint == "reverse") & (rows.by == "time")]
    assert reverse.best.tolist() == pytest.approx([3 * math.log(2)] * 2)
    assert bool(reverse.exact.all())


def test_all_joints_of_the_chapter_are_small_enough():
    for joint in search.named_joints().values():
        assert joint.length <= 16
        order = orders.left_to_right(joint.length)
        table = search.block_entropies(joint, 2)
        cost = search.window_cost(table, order, 1).item()
        assert cost >= joint.entropy() - 1e-9


def test_a_window_of_everything_is_a_perfect_model():
    joint = random_joint(3, 5)
    costs = exact.step_costs(joint, [[i] for i in range(5)])
    assert sum(costs) == pytest.approx(0, **CLOSE)  # one token a step loses nothing
    table = search.block_entropies(joint, 5)
    value = search.window_cost(table, orders.all_orders(5), 4)
    assert torch.allclose(value, torch.full_like(value, joint.entropy()))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: search.prompt_and_answer("rotate", 2, 2), "task"),
        (lambda: search.prompt_and_answer("copy", 0, 2), "n"),
        (lambda: search.block_entropies(joints.shuffle(21), 1), "joint"),
        (lambda: search.best_window_order(torch.zeros(6), 1), "entries"),
        (lambda: search.best_window_order(torch.zeros(2**16), 3), "k"),
        (lambda: search.nearest_costs(torch.zeros(8), -1), "k"),
        (lambda: search.best_set_order(torch.zeros(1, 2**17, 17)), "entries"),
        (lambda: search.moved(joints.shuffle(3), torch.tensor([0, 0, 1])), "order"),
        (
            lambda: search.local_search(torch.sum, torch.tensor([[0, 0]])),
            "starts",
        ),
        (
            lambda: search.set_costs(
                joints.shuffle(3), torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 2]])
            ),
            "puzzles",
        ),
    ],
)
def test_errors_name_the_argument(call, name):
    with pytest.raises(ValueError, match=name):
        call()
