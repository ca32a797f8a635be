"""Windows over orders, against enumeration, simulation and plain counting."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dllm_tutorial import exact, joints, ngrams, orders
from dllm_tutorial import neighborhood as nb
from test_joints import random_chain

LEVEL = 1e-4  # error rate of each sampled test
TIGHT = {"atol": 1e-10, "rtol": 0}


def stationary(seed: int, length: int, vocab: int = 3) -> joints.MarkovChain:
    """A chain of order one with random transitions, started stationary."""
    return joints.MarkovChain(random_chain(seed, vocab, 1, length).transition, length)


# --------------------------------------------------------------- what a prediction sees


def plain_view(order: list[int], n: int, k: int, by: str) -> list[int]:
    """What step n sees, first in the queue first, in plain Python."""
    past = order[:n]
    if by == "time":
        return past[::-1][:k]
    return sorted(past, key=lambda i: (abs(i - order[n]), i))[:k]


@pytest.mark.parametrize("by", nb.VIEWS)
@given(st.permutations(range(7)), st.integers(0, 8))
def test_a_window_is_what_a_pencil_finds(by, order, k):
    tensor = torch.tensor(order)
    shown, place = nb.seen(tensor, k, by), nb.queue(tensor, by)
    for n in range(7):
        view = plain_view(order, n, k, by)
        assert shown[n].nonzero()[:, 0].tolist() == sorted(view)
        assert place[n].argsort()[: len(view)].tolist() == view


def test_orders_can_be_stacked():
    order = orders.random_orders(6, 4, torch.Generator().manual_seed(0))
    for by in nb.VIEWS:
        together = nb.seen(order.view(2, 2, 6), 2, by).flatten(0, 1)
        assert torch.equal(together, torch.stack([nb.seen(o, 2, by) for o in order]))


def test_blocks_see_all_earlier_blocks():
    order = torch.tensor([3, 0, 4, 1, 2])
    shown = nb.seen_in_blocks(order, 2)
    assert [row.nonzero()[:, 0].tolist() for row in shown] == [
        [],
        [],
        [0, 3],
        [0, 3],
        [0, 1, 3, 4],
    ]


# ---------------------------------------------------------------------- chains, exactly


@pytest.mark.parametrize("seed", range(3))
def test_lag_entropies_are_conditional_entropies(seed):
    chain = stationary(seed, 6)
    h = nb.lag_entropies(chain)
    expected = [chain.entropy([a], [0]) for a in range(6)] + [chain.entropy([0])]
    assert h.tolist() == pytest.approx(expected, abs=1e-10)
    for a, b in [(1, 1), (2, 3), (1, 4)]:
        value = chain.entropy([a], [0, a + b])
        assert (h[a] + h[b] - h[a + b]).item() == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("by", nb.VIEWS)
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_step_entropies_are_those_of_the_joint(by, k):
    chain = stationary(1, 6)
    order = orders.random_orders(6, 5, torch.Generator().manual_seed(k))
    shown = nb.seen(order, k, by)
    value = nb.step_entropies(chain, order, shown)
    for o, rows, each in zip(order, shown, value, strict=True):
        expected = [
            chain.entropy([int(i)], row.nonzero()[:, 0])
            for i, row in zip(o, rows, strict=True)
        ]
        assert each.tolist() == pytest.approx(expected, abs=1e-10)


def test_windows_in_both_directions_are_lossless_and_the_whole_past_always_is():
    chain = stationary(2, 12)
    total = chain.entropy()
    for order in (orders.left_to_right(12), orders.right_to_left(12)):
        for by in nb.VIEWS:
            cost = nb.step_entropies(chain, order, nb.seen(order, 1, by)).sum()
            assert cost.item() == pytest.approx(total, abs=1e-10)
    order = orders.random_orders(12, 50, torch.Generator().manual_seed(0))
    costs = torch.stack(
        [
            nb.step_entropies(chain, order, nb.seen(order, k)).sum(-1)
            for k in (0, 1, 2, 4, 8, 11)
        ]
    )
    assert bool((costs.diff(dim=0) <= 1e-10).all())  # more to see never hurts
    torch.testing.assert_close(costs[-1], torch.full_like(costs[-1], total), **TIGHT)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_random_sets_in_closed_form_are_all_sets(length):
    chain = stationary(3, length)
    table = nb.random_set_entropies(chain)
    for s in range(length):
        every = [
            chain.entropy([i], chosen)
            for i in range(length)
            for chosen in itertools.combinations(set(range(length)) - {i}, s)
        ]
        assert table[s].item() == pytest.approx(np.mean(every), abs=1e-10)


def test_random_windows_in_closed_form_are_all_orders():
    chain = stationary(4, 6)
    every = orders.all_orders(6)
    for k in range(7):
        cost = nb.step_entropies(chain, every, nb.seen(every, k)).mean()
        assert nb.random_window_nll(chain, k) == pytest.approx(cost.item(), abs=1e-10)
    for k in range(1, 7):
        cost = nb.parallel_kl(chain, every, k).mean().item()
        assert nb.random_parallel_kl(chain, k) == pytest.approx(cost, abs=1e-10)


@pytest.mark.parametrize("length", [64, 256, 1100])
def test_the_whole_past_of_a_random_order_costs_the_entropy(length):
    chain = stationary(5, length, vocab=4)
    h = nb.lag_entropies(chain)
    total = (h[length] + (length - 1) * h[1]).item()
    mean = nb.random_set_entropies(chain).sum().item()
    assert mean == pytest.approx(total, abs=1e-7)


@pytest.mark.parametrize("make", [orders.left_to_right, orders.bit_reversed])
@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_parallel_cost_is_the_sum_of_total_correlations(make, k):
    chain, order = stationary(6, 8), make(8)
    expected = sum(exact.step_costs(chain, exact.blocks_of(order, k)))
    assert nb.parallel_kl(chain, order, k).item() == pytest.approx(expected, abs=1e-10)


def test_parallel_cost_is_a_divergence():
    chain, order = stationary(7, 5), torch.tensor([2, 4, 0, 3, 1])
    start = torch.full((5,), chain.mask_id)
    law = exact.parallel_law(chain, start, exact.blocks_of(order, 2))
    expected = exact.kl_divergence(chain, law)
    assert nb.parallel_kl(chain, order, 2).item() == pytest.approx(expected, abs=1e-10)


def test_the_printed_contrast():
    """A random order is hard to learn and easy to decode in parallel."""
    chain = nb.noisy_sum(64)
    h = chain.entropy() / 64
    order = orders.left_to_right(64)
    for k, cost in [(1, 1.3193), (4, 1.1550), (16, 0.8102), (32, 0.6557), (63, h)]:
        assert nb.random_window_nll(chain, k) == pytest.approx(cost, abs=5e-5)
    assert nb.parallel_kl(chain, order, 8).item() == pytest.approx(35.107, abs=5e-4)
    assert nb.random_parallel_kl(chain, 8) == pytest.approx(4.150, abs=5e-4)


def test_noisy_sums():
    chain = nb.noisy_sum(5, 2, vocab=3, keep=0.7)
    assert chain.entropy([4], [2, 3]) == pytest.approx(
        -0.7 * math.log(0.7) - 0.3 * math.log(0.15)
    )
    assert chain.entropy([4], [3]) == pytest.approx(math.log(3))  # one says nothing
    assert nb.noisy_sum(3, keep=0.9).transition.diagonal().tolist() == pytest.approx(
        [0.9] * 4
    )


# ------------------------------------------------------------------------- by sequences


@pytest.mark.parametrize(
    "make", [lambda: nb.noisy_sum(5, 2, 2), lambda: stationary(8, 5)]
)
@pytest.mark.parametrize("by", nb.VIEWS)
def test_sequences_average_to_the_entropies(make, by):
    joint = make()
    table = joint.table()
    order = torch.tensor([3, 0, 4, 2, 1])
    for k in (0, 1, 2, 4):
        shown = nb.seen(order, k, by)
        nll = nb.step_nll(joint, table.support, order, shown, rows=100)
        expected = [
            joint.entropy([int(i)], row.nonzero()[:, 0])
            for i, row in zip(order, shown, strict=True)
        ]
        assert (table.probs @ nll).tolist() == pytest.approx(expected, abs=1e-10)


def test_each_sequence_may_have_its_own_order():
    joint = nb.noisy_sum(6, 2)
    generator = torch.Generator().manual_seed(0)
    x, order = joint.sample(8, generator), orders.random_orders(6, 8, generator)
    together = nb.step_nll(joint, x, order, nb.seen(order, 3))
    each = [
        nb.step_nll(joint, row[None], o, nb.seen(o, 3))
        for row, o in zip(x, order, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(each), **TIGHT)
    whole = nb.step_nll(joint, x, order, nb.seen(order, 5)).sum(1)
    torch.testing.assert_close(whole, -joint.log_prob(x), **TIGHT)


# -------------------------------------------------------------------- how many, how far


@pytest.mark.parametrize(("n", "k"), [(3, 1), (5, 2), (6, 3), (6, 5), (6, 9)])
def test_recency_by_enumeration(n, k):
    """Positions: the predicted one, two neighbors, others; all pasts are tried."""
    pasts = list(itertools.permutations(range(n - 1)))  # 0 and 1 are the neighbors
    one = sum(0 in past[max(0, n - 1 - k) :] for past in pasts)
    two = sum({0, 1} <= set(past[max(0, n - 1 - k) :]) for past in pasts)
    expected = one / len(pasts), two / len(pasts)
    assert nb.recency(n, k) == pytest.approx(expected, abs=1e-12)


def test_recency_of_the_nearest_neighbors_in_long_random_orders():
    """An interior position of 201; only the gaps to the ends are an approximation."""
    generator = torch.Generator().manual_seed(0)
    n, k, draws = 33, 16, 4000
    order = orders.random_orders(201, draws, generator)
    target = torch.full((draws, 1), 100)
    order = torch.cat([order[order != 100].view(draws, 200)[:, : n - 1], target], 1)
    offset = order[:, :-1] - 100
    left = torch.where(offset < 0, offset, -1000).argmax(1)
    right = torch.where(offset > 0, offset, 1000).argmin(1)
    first = n - 1 - k
    one, two = nb.recency(n, k)
    hits = int((left >= first).sum()), int(((left >= first) & (right >= first)).sum())
    for hit, p in zip(hits, (one, two), strict=True):
        assert stats.binomtest(hit, draws, p).pvalue > LEVEL


@pytest.mark.parametrize(("m", "u"), [(1, 0.3), (2, 0.5), (4, 0.5), (3, 0.7)])
def test_radius_of_a_run(m, u):
    # expected waiting time from its linear equations: E_j after j revealed in a row
    matrix, ones = np.eye(m), np.ones(m)
    for j in range(m):
        matrix[j, 0] -= 1 - u
        if j + 1 < m:
            matrix[j, j + 1] -= u
    assert nb.run_radius(u, m) == pytest.approx(np.linalg.solve(matrix, ones)[0])
    generator = torch.Generator().manual_seed(m)
    shown = torch.rand(4000, 600, generator=generator) < u
    run = shown.unfold(1, m, 1).all(-1)
    assert bool(run.any(1).all())
    radius = (run.int().argmax(1) + m).double()
    assert stats.ttest_1samp(radius, nb.run_radius(u, m)).pvalue > LEVEL


def test_radius_in_print():
    assert nb.run_radius(0.5, 4) == 30
    assert nb.run_radius(0.25, 4) == pytest.approx(340)


@pytest.mark.parametrize("n", range(1, 7))
def test_conditionals_are_counted(n):
    every = orders.all_orders(n)
    known = nb.conditionals(n)
    assert known["one order"] == nb.count_conditionals(orders.left_to_right(n), n)
    assert known["any order, set"] == nb.count_conditionals(every, n)
    lists = {tuple(o[: j + 1]) for o in every.tolist() for j in range(n)}
    assert known["any order, list"] == len(lists)
    assert known["any order, list"] == math.floor(math.e * math.factorial(n)) - (n > 0)
    gaps = set()
    for o in every.tolist():
        for j, i in enumerate(o):
            left = [i - p for p in o[:j] if p < i]
            right = [p - i for p in o[:j] if p > i]
            gaps.add((min(left, default=None), min(right, default=None)))
    assert known["any order, chain"] == len(gaps)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_patterns_and_ages_by_a_list_of_steps(k):
    for seed in range(5):
        order = orders.random_order(8, torch.Generator().manual_seed(seed))
        kinds, ages = set(), []
        for n, i in enumerate(order.tolist()):
            known = order[:n].tolist()
            near = sorted(known, key=lambda j, i=i: (abs(j - i), j > i))[:k]
            kinds.add(tuple(j - i for j in near))
            ages.append(max((n - known.index(j) for j in near), default=0))
        assert nb.patterns(order, k) == len(kinds)
        assert nb.oldest(order, k).item() == pytest.approx(sum(ages) / 8)


def test_left_to_right_needs_few_patterns_and_recent_tokens():
    order = orders.left_to_right(20)
    assert nb.patterns(order, 4) == 5
    assert nb.oldest(order, 4).item() == pytest.approx((1 + 2 + 3 + 4 * 16) / 20)
    both = torch.stack([order, order.flip(0)])
    assert nb.patterns(both, 4) == 9  # nothing seen is common to both


# ---------------------------------------------------------------------------- real text


def plain_counts(stream, row, offsets, vocab):
    """The formula of Witten and Bell by dictionaries, for one token."""
    low, high = -min(0, *offsets), len(stream) - max(0, *offsets)
    p = 1 / vocab
    for j in range(len(offsets) + 1):
        after = defaultdict(Counter)
        for t in range(low, high):
            after[tuple(stream[t + d] for d in offsets[:j])][stream[t]] += 1
        seen = after.get(tuple(row[:j]))
        if seen:
            p = (seen[row[-1]] + len(seen) * p) / (seen.total() + len(seen))
        yield math.log(p)


@pytest.mark.parametrize("offsets", [(-1,), (1, -2), (3, -1, 2), (-4, -1)])
def test_counts_at_offsets(offsets):
    rng = np.random.default_rng(0)
    stream = rng.choice(4, 60, p=[0.6, 0.3, 0.1, 0])
    x = rng.integers(0, 4, (30, len(offsets) + 1))
    value = nb.offset_log_prob(stream, x, offsets, 4)
    for column, row in zip(value.T, x.tolist(), strict=True):
        assert column == pytest.approx(list(plain_counts(stream, row, offsets, 4)))
    total = np.exp(
        [
            nb.offset_log_prob(stream, np.c_[x[:, :-1], np.full(30, c)], offsets, 4)
            for c in range(4)
        ]
    ).sum(0)
    assert np.allclose(total, 1)


def test_left_to_right_is_the_n_gram_of_the_book():
    rng = np.random.default_rng(1)
    stream, x = rng.integers(0, 3, 20_000), rng.integers(0, 3, (7, 9))
    model = ngrams.WittenBell(stream, 4, 3)
    order = orders.left_to_right(9)
    for by in nb.VIEWS:
        nats = nb.order_nats(stream, x, order, 3, by, 3)
        expected = [[-model.log_prob(row, n).sum() for row in x] for n in range(1, 5)]
        # the streams differ by the few places that have no whole context
        np.testing.assert_allclose(nats, expected, rtol=1e-3)


@pytest.mark.parametrize("by", nb.VIEWS)
def test_an_order_is_the_sum_of_its_steps(by):
    rng = np.random.default_rng(2)
    stream, x = rng.integers(0, 3, 500), rng.integers(0, 3, (5, 6))
    order = [2, 5, 0, 1, 4, 3]
    nats = nb.order_nats(stream, x, torch.tensor(order), 2, by, 3)
    for k in range(3):
        total = np.zeros(5)
        for n, target in enumerate(order):
            view = plain_view(order, n, 2, by)
            columns = x[:, [*view, target]]
            offsets = [i - target for i in view]
            log_p = nb.offset_log_prob(stream, columns, offsets, 3)
            total -= log_p[min(k, len(view))]
        np.testing.assert_allclose(nats[k], total)


def test_tables_that_an_order_needs():
    assert set(nb.offset_groups(orders.left_to_right(6), 2, "time")) == {
        (),
        (-1,),
        (-1, -2),
    }
    groups = nb.offset_groups(orders.bit_reversed(8), 2, "space")
    assert groups[(-1, 1)] == [1, 5, 3]
    assert sorted(itertools.chain(*groups.values())) == list(range(8))


# ------------------------------------------------------------------------- rows, errors


def test_rows_of_chains():
    rows = pd.DataFrame(
        nb.chain_rows(8, (1, 7), n=5) + nb.sequence_rows(5, (0, 2), n=60)
    )
    rows = rows.set_index(["chain_order", "order", "by", "k"])
    entropy = nb.noisy_sum(8).entropy() / 8
    one = rows.xs((1, 7), level=("chain_order", "k"))
    assert np.allclose(one.nats_per_token, entropy)
    assert rows.loc[(1, "random", "time", 1), "standard_error"] == 0
    two = rows.loc[(2, "left-to-right", "time", 2)]
    assert two.nats_per_token == pytest.approx(nb.noisy_sum(5, 2).entropy() / 5)
    none = rows.loc[(2, "random", "time", 0)]
    assert none.nats_per_token == pytest.approx(math.log(4))
    parallel = pd.DataFrame(nb.parallel_rows(8, (1, 8))).set_index(["k", "blocks"]).kl
    assert parallel[1].max() < 1e-10 and np.ptp(parallel[8]) < 1e-10


def test_rows_of_swaps():
    rows = pd.DataFrame(nb.swap_rows(6, (0, 1), (0, 2, 5), n=400))
    cost = rows.set_index(["swaps", "by", "k"]).nats_per_token
    chain = nb.noisy_sum(6)
    entropy = chain.entropy() / 6
    # without exchanges both windows see the token before; all of the past always does
    assert np.allclose(cost[0].drop(index=0, level="k"), entropy, atol=1e-10)
    assert np.allclose(cost.xs(5, level="k"), entropy, atol=1e-10)
    assert np.allclose(cost.xs(0, level="k"), math.log(4), atol=1e-10)
    # after one exchange: the mean over all pairs, each as likely as any other
    for by in nb.VIEWS:
        every = []
        for i, j in itertools.combinations(range(6), 2):
            order = list(range(6))
            order[i], order[j] = j, i
            views = [plain_view(order, n, 2, by) for n in range(6)]
            pairs = zip(order, views, strict=True)
            every.append(sum(chain.entropy([i], view) for i, view in pairs) / 6)
        error = np.std(every, ddof=1) / 400**0.5
        known = rows.query("swaps == 1 and k == 2 and by == @by").standard_error.item()
        assert known == pytest.approx(error, rel=0.2)
        z = (cost[1, by, 2] - np.mean(every)) / error
        assert abs(z) < stats.norm.isf(LEVEL / 2)


def test_rows_of_text():
    rows = pd.DataFrame(nb.text_rows(8, 1, seeds=(0, 1), every=400))
    bits = rows.pivot_table("bits_per_character", ["order", "by"], "k")
    assert bits[0].max() - bits[0].min() < 1e-4  # without context orders are equal
    assert bits.loc[("left-to-right", "time"), 1] < bits.loc[("random", "time"), 1]
    tables = rows.set_index(["order", "by", "k", "seed"]).tables
    assert tables["left-to-right", "space", 1, 0] == 2
    assert set(rows[rows.seed == 1].order) == {"random"}


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda o: nb.queue(o, "place"), ValueError, "by"),
        (lambda o: nb.seen(o, -1), ValueError, "k"),
        (lambda o: nb.seen_in_blocks(o, 0), ValueError, "k"),
        (lambda o: nb.seen(torch.zeros(3).long(), 1), ValueError, "order"),
        (lambda o: nb.lag_entropies(nb.noisy_sum(4, 2)), ValueError, "order 1"),
        (
            lambda o: nb.lag_entropies(random_chain(0, 3, 1, 4)),
            ValueError,
            "stationary",
        ),
        (lambda o: nb.recency(2, 1), ValueError, "n"),
        (lambda o: nb.run_radius(1.0, 2), ValueError, "revealed"),
        (lambda o: nb.noisy_sum(4, keep=1.0), ValueError, "keep"),
        (lambda o: nb.noisy_sum(4, order=1.5), TypeError, "order"),
        (
            lambda o: nb.offset_log_prob(np.arange(4), np.zeros((1, 2)), [0], 4),
            ValueError,
            "offsets",
        ),
    ],
)
def test_errors_name_the_argument(call, error, name):
    with pytest.raises(error, match=name):
        call(orders.left_to_right(3))


def test_one_order_for_each_sequence_or_one_for_all():
    joint, x = joints.cities(), torch.tensor([[0, 1], [1, 0], [0, 1]])
    shown = torch.zeros(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="order must be one order or one for each"):
        nb.step_nll(joint, x, torch.tensor([[0, 1], [1, 0]]), shown)
    wanted = nb.step_nll(joint, x, torch.tensor([1, 0]), shown)
    small = torch.tensor([1, 0], dtype=torch.int8)
    assert torch.equal(nb.step_nll(joint, x.to(torch.uint8), small, shown), wanted)
