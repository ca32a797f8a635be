"""Orders, and the identities that certify likelihoods under them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dllm_tutorial import joints, orders
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.denoiser import FunctionDenoiser
from helpers import RandomTableDenoiser, all_sequences, chi_square_p
from test_networks import any_order, small

ALPHA = 1e-4  # error rate of each sampled test
EXACT = {"atol": 1e-10, "rtol": 0}

TRUTHS = {
    "cities": joints.cities,
    "shuffle": lambda: joints.shuffle(4),
    "replace_random": lambda: joints.replace_random(4),
    "latin_square": lambda: joints.latin_square(2),
    "chain": lambda: joints.MarkovChain(
        torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25]]), 4
    ),
}
truths = pytest.mark.parametrize("make", TRUTHS.values(), ids=TRUTHS.keys())


# -------------------------------------------------------------------------- orders


def test_named_orders():
    assert orders.left_to_right(4).tolist() == [0, 1, 2, 3]
    assert orders.right_to_left(4).tolist() == [3, 2, 1, 0]
    assert orders.all_orders(3).tolist() == [
        list(order) for order in itertools.permutations(range(3))
    ]


def test_random_orders_are_uniform():
    drawn = orders.random_orders(4, 4800, torch.Generator().manual_seed(0))
    every = orders.all_orders(4)
    assert chi_square_p(drawn, every, torch.full((24,), 1 / 24)) > ALPHA


def test_random_order_is_the_generators():
    one = orders.random_order(9, torch.Generator().manual_seed(3))
    two = orders.random_order(9, torch.Generator().manual_seed(3))
    assert torch.equal(one, two) and one.sort().values.tolist() == list(range(9))


@pytest.mark.parametrize(("length", "block"), [(8, 4), (7, 3), (5, 8), (6, 1)])
def test_block_order_finishes_a_block_before_the_next(length, block):
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        order = orders.block_order(length, block, generator)
        blocks = [position // block for position in order.tolist()]
        assert blocks == sorted(blocks)
        orders.check_orders(order, length)
        seen.add(tuple(order.tolist()))
    assert len(seen) > 1 or block == 1


@pytest.mark.parametrize(("length", "block"), [(5, 3), (4, 2), (4, 5)])
def test_block_orders_are_uniform_within_the_blocks(length, block):
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    drawn, again = (orders.block_orders(length, 4800, block, g) for g in seeds)
    assert torch.equal(drawn, again)
    blocks = [range(i, min(i + block, length)) for i in range(0, length, block)]
    inside = [itertools.permutations(each) for each in blocks]
    every = [sum(parts, ()) for parts in itertools.product(*inside)]
    law = torch.full((len(every),), 1 / len(every))
    assert chi_square_p(drawn, torch.tensor(every), law) > ALPHA


def test_one_swap_is_any_pair():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([orders.swap_order(5, 1, generator) for _ in range(4000)])
    every = []
    for i, j in itertools.combinations(range(5), 2):
        swapped = list(range(5))
        swapped[i], swapped[j] = j, i
        every.append(swapped)
    law = torch.full((10,), 1 / 10)
    assert chi_square_p(drawn, torch.tensor(every), law) > ALPHA


def test_swaps_are_made_one_after_the_other():
    for length in (1, 2, 9):
        assert orders.swap_order(length, 0).tolist() == list(range(length))
    # of two entries there is one pair: back and forth
    assert [orders.swap_order(2, n).tolist() for n in (1, 2, 3)] == [
        [1, 0],
        [0, 1],
        [1, 0],
    ]
    generator = torch.Generator().manual_seed(0)
    for swaps in range(1, 12):
        order = orders.swap_order(7, swaps, generator)
        orders.check_orders(order, 7)
        cycles, seen = 0, set()
        for start in range(7):
            cycles += start not in seen
            while start not in seen:
                seen.add(start)
                start = order[start].item()
        assert (7 - cycles) % 2 == swaps % 2  # the parity of a permutation


@pytest.mark.parametrize("digits", range(8))
def test_bit_reversed_reads_the_digits_backward(digits):
    length = 2**digits
    written = [format(i, f"0{digits}b") if digits else "0" for i in range(length)]
    expected = [int(one[::-1], 2) for one in written]
    order = orders.bit_reversed(length).tolist()
    assert order == expected
    for n in range(1, length + 1):  # spread evenly round the circle
        place = sorted(order[:n])
        around = itertools.pairwise([*place, place[0] + length])
        gaps = [b - a for a, b in around]
        assert max(gaps) <= 2 * min(gaps)


def test_bit_reversed_of_any_length_is_a_part_of_a_longer_one():
    longer = orders.bit_reversed(128).tolist()
    for length in range(1, 71):
        order = orders.bit_reversed(length).tolist()
        assert order == [i for i in longer if i < length]


# --------------------------------------------------------------------- certifying


@truths
def test_under_the_truth_every_order_gives_the_probability(make):
    """(b): a sequence costs the same in every order, each sequence by itself."""
    joint = make()
    x = joint.table().support
    every = orders.all_orders(joint.length)
    scores = torch.stack([orders.log_prob(joint, x, order) for order in every])
    torch.testing.assert_close(scores, joint.log_prob(x).expand_as(scores), **EXACT)
    mixture = orders.mixture_log_prob(joint, x, every)
    torch.testing.assert_close(mixture, joint.log_prob(x), **EXACT)


def test_under_the_truth_a_long_sequence_costs_the_same_in_every_order():
    """(b) for a chain of 64 tokens and a Sudoku, a few orders each."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64)
    chain = joints.MarkovChain(p / p.sum(-1, keepdim=True), 64)
    for joint in (chain, joints.sudoku()):
        x = joint.sample(3, generator)
        order = orders.random_orders(joint.length, 3, generator)
        scores = orders.log_prob(joint, x, order)
        torch.testing.assert_close(scores, joint.log_prob(x), **EXACT)


@pytest.mark.parametrize(("vocab", "length"), [(2, 4), (3, 3), (4, 2)])
def test_every_order_of_any_model_is_a_distribution(vocab, length):
    """(i): p^(o) sums to 1 over all sequences, and so does any mixture of orders."""
    model = RandomTableDenoiser(vocab, length, seed=1)
    x = all_sequences(vocab, length)
    every = orders.all_orders(length)
    scores = torch.stack([orders.log_prob(model, x, order) for order in every])
    ones = torch.ones(len(every), dtype=torch.float64)
    torch.testing.assert_close(scores.exp().sum(1), ones, **EXACT)
    assert scores.std(0).min() > 1e-3  # the orders do differ: no truth behind it
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(len(every), generator=generator, dtype=torch.float64)
    weights /= weights.sum()
    mixture = orders.mixture_log_prob(model, x, every, weights)
    assert mixture.exp().sum().item() == pytest.approx(1, abs=1e-10)
    expected = (weights[:, None] * scores.exp()).sum(0).log()
    torch.testing.assert_close(mixture, expected, **EXACT)


def test_a_step_does_not_see_what_is_revealed_later():
    """(j): changing the tokens after step n leaves the first n terms as they are."""
    model = RandomTableDenoiser(3, 4, seed=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        order = orders.random_order(4, generator)
        x = torch.randint(0, 3, (1, 4), generator=generator)
        terms = orders.step_log_prob(model, x, order)
        for n in range(1, 4):
            changed = x.clone()
            later = order[n:]
            changed[0, later] = torch.randint(0, 3, (len(later),), generator=generator)
            again = orders.step_log_prob(model, changed, order)
            assert torch.equal(terms[:, :n], again[:, :n])


def test_steps_are_the_conditionals_of_a_plain_loop():
    model = RandomTableDenoiser(3, 4, seed=3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (5, 4), generator=generator)
    each = orders.random_orders(4, 5, generator)
    terms = orders.step_log_prob(model, x, each, rows=7)
    for b in range(5):
        state = torch.full((1, 4), 3)
        for n, i in enumerate(each[b].tolist()):
            logp = model(state)[0, i].log_softmax(-1)[x[b, i]]
            assert terms[b, n].item() == pytest.approx(logp.item(), abs=1e-12)
            state[0, i] = x[b, i]
    whole = orders.log_prob(model, x, each)
    torch.testing.assert_close(whole, terms.sum(1), **EXACT)


def test_shuffle_costs_log_of_the_items_left_in_any_order():
    joint = joints.shuffle(16)
    generator = torch.Generator().manual_seed(0)
    terms = orders.step_log_prob(
        joint, joint.sample(4, generator), orders.random_order(16, generator)
    )
    expected = -torch.arange(16, 0, -1, dtype=torch.float64).log()
    torch.testing.assert_close(terms, expected.expand(4, -1), **EXACT)


def test_sudoku_profile_depends_on_the_order_but_its_sum_does_not():
    """Raster order pays log 4, log 3, log 2, 0 on its first row (any-order report)."""
    joint = joints.sudoku()
    x = joint.support
    terms = orders.step_log_prob(joint, x, orders.left_to_right(16))
    first = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64).log()
    torch.testing.assert_close(-terms[:, :4], first.expand(288, -1), **EXACT)
    backward = orders.log_prob(joint, x, orders.right_to_left(16))
    assert backward.tolist() == pytest.approx([-math.log(288)] * 288, abs=1e-10)


def test_what_cannot_be_generated_has_probability_zero():
    joint = joints.cities()
    new_city = torch.tensor([[0, 4]])
    for order in orders.all_orders(2):
        assert orders.log_prob(joint, new_city, order).item() == -math.inf
    assert orders.mixture_log_prob(joint, new_city, orders.all_orders(2)) == -math.inf


def test_a_column_for_the_mask_gets_no_probability():
    """A model from a hub may have mask_id < V."""
    base = RandomTableDenoiser(3, 2, seed=4)

    def with_mask_column(x):
        logits = base(x)
        return torch.cat([logits, torch.full_like(logits[..., :1], 9.0)], -1)

    model = FunctionDenoiser(with_mask_column, 3)
    x = all_sequences(3, 2)
    order = orders.right_to_left(2)
    torch.testing.assert_close(
        orders.log_prob(model, x, order), orders.log_prob(base, x, order), **EXACT
    )


# ------------------------------------------------------------------------- networks

NETWORKS = {
    "any-order": lambda length: any_order(vocab_size=3, length=length),
    # not rotary ones: these predict the same everywhere where all is masked, and
    # rounding would decide which position is the most confident
    "bidirectional": lambda length: small(
        vocab_size=3, length=length, positions="learned"
    ),
}
networks = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


@networks
@torch.no_grad()
def test_every_order_of_a_network_is_a_distribution(make):
    model, x, every = make(4), all_sequences(3, 4), orders.all_orders(4)
    scores = orders.log_probs(model, x, every)
    assert scores.shape == (24, 81)
    ones = torch.ones(24, dtype=torch.float64)
    torch.testing.assert_close(scores.exp().sum(1), ones, **EXACT)
    assert scores.std(0).min() > 1e-3  # orders do differ, and so do sequences
    assert scores.std(1).min() > 0.1
    some = every[[0, 7, 23]]
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mixture = orders.mixture_log_prob(model, x, some, weights)
    assert mixture.exp().sum().item() == pytest.approx(1, abs=1e-10)
    expected = (weights @ scores[[0, 7, 23]].exp()).log()
    torch.testing.assert_close(mixture, expected, **EXACT)


def test_log_probs_is_one_row_an_order():
    model, x = RandomTableDenoiser(3, 4, seed=5), all_sequences(3, 4)[::7]
    many = orders.random_orders(4, 3, torch.Generator().manual_seed(0))
    rows = torch.stack([orders.log_prob(model, x, order) for order in many])
    torch.testing.assert_close(orders.log_probs(model, x, many), rows, **EXACT)


@torch.no_grad()
def test_one_pass_from_left_to_right_is_one_token_at_a_time():
    """The denoiser reads what is revealed from left to right: the same contexts."""
    model, x = any_order(vocab_size=3, length=6), all_sequences(3, 6)[::11]
    one_by_one = FunctionDenoiser(model, model.mask_id)
    same, other = orders.left_to_right(6), orders.right_to_left(6)
    for rows in (7, 1024):
        terms = orders.step_log_prob(model, x, same, rows=rows)
        expected = orders.step_log_prob(one_by_one, x, same)
        torch.testing.assert_close(terms, expected, atol=1e-12, rtol=0)
    gap = orders.log_prob(model, x, other) - orders.log_prob(one_by_one, x, other)
    assert gap.abs().max() > 1e-3  # read in another order it is another function


@torch.no_grad()
def test_one_pass_terms_belong_to_the_tokens_of_the_steps():
    model, x = any_order(vocab_size=3, length=5), all_sequences(3, 5)[:40]
    each = orders.random_orders(5, 40, torch.Generator().manual_seed(1))
    terms = orders.step_log_prob(model, x, each, rows=9)
    for b in range(40):
        p = model.in_order(x[b : b + 1], each[b])[0].softmax(-1)
        for n, i in enumerate(each[b].tolist()):
            expected = math.log(p[n, x[b, i]])
            assert terms[b, n].item() == pytest.approx(expected, abs=1e-12)


# ------------------------------------------------------- the model chooses the order


def confidence(log_p):
    return log_p.amax(-1)


def certainty(log_p):
    return (log_p.exp() * log_p).sum(-1)


@torch.no_grad()
@pytest.mark.parametrize("kind", [*NETWORKS, "table"])
def test_an_order_that_the_model_chooses_is_a_distribution(kind):
    make = NETWORKS.get(kind, lambda length: RandomTableDenoiser(3, length, seed=6))
    model, x = make(5), all_sequences(3, 5)
    adaptive = orders.adaptive_log_prob(model, x, confidence)
    assert adaptive.exp().sum().item() == pytest.approx(1, abs=1e-10)
    fixed = orders.log_probs(model, x, orders.all_orders(5))
    if kind != "any-order":  # whose contexts are read from left to right here
        assert (adaptive - fixed).abs().amin(0).max() < 1e-10  # each x has its order
    assert (adaptive - fixed).abs().amax(1).min() > 1e-3  # but no order is that of all


def test_samples_of_a_deterministic_rule_follow_its_adaptive_likelihood():
    model, x = RandomTableDenoiser(2, 3, seed=7), all_sequences(2, 3)
    law = orders.adaptive_log_prob(model, x, certainty).exp()
    sampled = generate(
        model,
        torch.full((6000, 3), 2),
        strategies.entropy_top_k(1),
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    ).sequences
    assert chi_square_p(sampled, x, law) > ALPHA
    every = orders.log_probs(model, x, orders.all_orders(3)).exp()
    assert all(chi_square_p(sampled, x, each) < ALPHA for each in every)


@truths
def test_under_the_truth_the_chosen_order_does_not_matter(make):
    joint = make()
    x = joint.table().support
    for rule in (confidence, certainty, lambda log_p: -confidence(log_p)):
        value = orders.adaptive_log_prob(joint, x, rule)
        torch.testing.assert_close(value, joint.log_prob(x), **EXACT)


def test_from_a_start_all_ways_to_fill_it_sum_to_one():
    """Rows with none, one and all of the tokens revealed, side by side."""
    model, x = RandomTableDenoiser(2, 3, seed=8), all_sequences(2, 3)
    for shown in ([], [1], [0, 2], [0, 1, 2]):
        state = torch.full_like(x, 2)
        state[:, shown] = x[:, shown]
        filled = orders.adaptive_log_prob(model, x, confidence, state).exp()
        for start in state.unique(dim=0):
            here = (state == start).all(1)
            assert filled[here].sum().item() == pytest.approx(1, abs=1e-6)
        if not shown:
            torch.testing.assert_close(
                filled, orders.adaptive_log_prob(model, x, confidence).exp(), **EXACT
            )
    ragged = torch.tensor([[2, 2, 2], [0, 2, 2], [0, 1, 1]])
    some = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 1]])
    got = orders.adaptive_log_prob(model, some, confidence, ragged)
    for row in range(3):
        alone = slice(row, row + 1)
        value = orders.adaptive_log_prob(model, some[alone], confidence, ragged[alone])
        assert value.item() == pytest.approx(got[row].item(), abs=1e-12)
    with pytest.raises(ValueError, match="start"):
        orders.adaptive_log_prob(model, some, confidence, ragged.flip(0))


def test_the_leftmost_wins_a_tie():
    shown = []

    def uniform(x):
        shown.append((x != 3).tolist())
        return torch.zeros(*x.shape, 4)  # with a column for the mask

    x = torch.tensor([[2, 0, 1, 1]])
    model = FunctionDenoiser(uniform, 3)
    value = orders.adaptive_log_prob(model, x, confidence)
    assert value.item() == pytest.approx(-4 * math.log(3), abs=1e-6)
    assert shown == [[[i < n for i in range(4)]] for n in range(4)]


BAD_INPUT = [
    (lambda: orders.left_to_right(0), ValueError, "length"),
    (lambda: orders.all_orders(10), ValueError, "length"),
    (lambda: orders.block_order(4, 0), ValueError, "block"),
    (lambda: orders.random_order(2.5), TypeError, "length"),
    (lambda: orders.block_orders(4, 2, 0), ValueError, "block"),
    (lambda: orders.block_orders(4, -1, 2), ValueError, "n must"),
    (lambda: orders.swap_order(1, 1), ValueError, "length"),
    (lambda: orders.swap_order(4, -1), ValueError, "swaps"),
    (lambda: orders.bit_reversed(0), ValueError, "length"),
    (lambda: adaptive([[0, 6]]), ValueError, "x must be fully revealed"),
    (lambda: many([[0, 1], [1, 1]]), ValueError, "orders must be permutations"),
    (lambda: many([0, 1]), ValueError, "orders"),
    (lambda: score([[0, 6]], [0, 1]), ValueError, "x must be fully revealed"),
    (lambda: score([[0, 1]], [0, 0]), ValueError, "order must be permutations"),
    (lambda: score([[0, 1]], [0, 1, 2]), ValueError, "order"),
    (lambda: score([[0, 1]], [0.0, 1.0]), TypeError, "order"),
    (lambda: mix([[0, 1], [1, 0]], [0.5, 0.6]), ValueError, "weights"),
    (lambda: mix([[0, 1], [1, 0]], [1.0]), ValueError, "weights"),
    (lambda: mix([[0, 1], [1, 1]], None), ValueError, "orders"),
    (lambda: mix(torch.zeros(0, 2).long().numpy(), None), ValueError, "orders must"),
    (lambda: score([[0, 1]] * 3, [[0, 1], [1, 0]]), ValueError, "order must be one"),
    (lambda: score([[0, -100]], [0, 1]), ValueError, "x must hold tokens"),
    (lambda: adaptive([[0, -100]]), ValueError, "x must hold tokens"),
]


def score(x, order):
    return orders.log_prob(joints.cities(), torch.tensor(x), torch.tensor(order))


def adaptive(x):
    return orders.adaptive_log_prob(joints.cities(), torch.tensor(x), confidence)


def many(listed):
    x = torch.tensor([[0, 1]])
    return orders.log_probs(joints.cities(), x, torch.tensor(listed))


def mix(many, weights):
    weights = None if weights is None else torch.tensor(weights)
    x = torch.tensor([[0, 1]])
    return orders.mixture_log_prob(joints.cities(), x, torch.tensor(many), weights)


@pytest.mark.parametrize(("call", "error", "name"), BAD_INPUT)
def test_bad_input_is_named(call, error, name):
    with pytest.raises(error, match=name):
        call()


def test_scores_of_minus_infinity_leave_a_distribution():
    support = all_sequences(6, 2)
    for score in (
        lambda log_p: log_p.sort(-1).values[..., -2],  # -inf where one token is left
        lambda log_p: torch.full(log_p.shape[:2], -math.inf),
    ):
        log_p = orders.adaptive_log_prob(joints.cities(), support, score)
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    wanted = orders.log_prob(joints.cities(), support, torch.arange(2))
    assert torch.equal(log_p.exp(), wanted.exp())  # all tied: the leftmost first


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_small_integers_are_tokens_and_positions(dtype):
    denoiser = RandomTableDenoiser(3, 3, seed=1)
    x, order = torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([[2, 0, 1]])
    score = orders.log_prob(denoiser, x, order)
    assert torch.equal(orders.log_prob(denoiser, x.to(dtype), order.to(dtype)), score)
    both = orders.log_probs(denoiser, x.to(dtype), order.to(dtype))
    assert torch.equal(both[0], score)
    mixed = orders.mixture_log_prob(denoiser, x.to(dtype), order.to(dtype))
    assert torch.equal(mixed, score)
    start = torch.full_like(x, 3).to(dtype)
    value = orders.adaptive_log_prob(denoiser, x.to(dtype), confidence, start)
    assert torch.equal(value, orders.adaptive_log_prob(denoiser, x, confidence))
