"""Masking: exact probabilities where there are any, else tests at level 1e-4."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from dllm_tutorial import masking
from dllm_tutorial.schedules import Cosine, Linear, Polynomial

LEVEL = 1e-4
MASK = 9


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes(x: torch.Tensor) -> torch.Tensor:
    """The masked set of each row as an integer."""
    return ((x == MASK) << torch.arange(x.shape[1])).sum(-1)


# ------------------------------------------------------------------ forward process


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(0.5)], ids=repr)
def test_forward_masks_each_token_by_itself(schedule):
    x0 = torch.tensor([[1, 2, 3]]).expand(20_000, -1)
    x_t = masking.forward(x0, 0.3, schedule, MASK, generator=seeded(1))
    assert bool(((x_t == x0) | (x_t == MASK)).all())
    p = 1 - schedule.alpha(0.3).item()
    masks = masking.all_masks(3)
    expected = [p**m * (1 - p) ** (3 - m) * len(x0) for m in masks.sum(-1).tolist()]
    observed = torch.bincount(codes(x_t), minlength=8)
    assert stats.chisquare(observed, expected).pvalue > LEVEL


def test_forward_takes_a_time_for_each_row():
    x0 = torch.zeros(4, 1000, dtype=torch.long)
    t = torch.tensor([0.0, 1.0, 0.25, 0.75])
    share = (
        masking.forward(x0, t, Linear(), MASK, generator=seeded()) == MASK
    ).double()
    assert share[0].sum() == 0 and share[1].sum() == 1000
    for row, p in ((2, 0.25), (3, 0.75)):
        hits = int(share[row].sum())
        assert stats.binomtest(hits, 1000, p).pvalue > LEVEL


def test_forward_leaves_a_prompt_alone():
    x0 = torch.arange(6).expand(50, -1)
    maskable = torch.tensor([False, False, True, True, True, True])
    x_t = masking.forward(x0, 1.0, Linear(), MASK, maskable=maskable)
    assert torch.equal(x_t[:, :2], x0[:, :2]) and bool((x_t[:, 2:] == MASK).all())


def test_same_generator_same_draws():
    x0 = torch.arange(12).reshape(2, 6)
    counts = torch.tensor([2, 5])
    for draw in (
        lambda g: masking.forward(x0, 0.5, Cosine(), 99, generator=g),
        lambda g: masking.mask_exactly(x0, counts, 99, generator=g),
        lambda g: masking.draw_times(5, "stratified", generator=g),
        lambda g: masking.draw_counts(5, 7, "antithetic", generator=g),
    ):
        assert torch.equal(draw(seeded(7)), draw(seeded(7)))
        assert not torch.equal(draw(seeded(7)), draw(seeded(8)))


# ------------------------------------------------------------------- exact counts


def test_mask_exactly_is_uniform_over_sets_of_that_size():
    length, count, n = 5, 2, 20_000
    x0 = torch.arange(length).expand(n, -1)
    x = masking.mask_exactly(x0, torch.full((n,), count), MASK, generator=seeded(2))
    sets = [
        sum(1 << i for i in c) for c in itertools.combinations(range(length), count)
    ]
    observed = torch.bincount(codes(x), minlength=2**length)
    assert observed.sum() == observed[sets].sum()
    assert stats.chisquare(observed[sets]).pvalue > LEVEL
    assert torch.equal(x[x != MASK], x0[x != MASK])


def test_mask_exactly_counts_and_prompt():
    x0 = torch.arange(6).expand(4, -1)
    maskable = torch.tensor([True, False, True, True, False, True])
    counts = torch.tensor([0, 1, 3, 4])
    x = masking.mask_exactly(x0, counts, MASK, maskable=maskable, generator=seeded())
    assert torch.equal((x == MASK).sum(-1), counts)
    assert torch.equal(x[:, ~maskable], x0[:, ~maskable])


# ------------------------------------------------------------------- draws of times


@pytest.mark.parametrize("method", masking.METHODS)
def test_each_row_alone_is_uniform(method):
    g = seeded(3)
    draws = torch.stack(
        [masking.draw_times(4, method, generator=g) for _ in range(4000)]
    )
    assert bool(((draws > 0) & (draws <= 1)).all())
    for row in range(4):
        assert stats.kstest(draws[:, row].numpy(), "uniform").pvalue > LEVEL / 4


@pytest.mark.parametrize("seed", range(20))
def test_rows_share_out_the_range(seed):
    batch = 16
    t = masking.draw_times(batch, "stratified", generator=seeded(seed))
    intervals = (t * batch).ceil().long().sort().values
    assert intervals.tolist() == list(range(1, batch + 1))
    t = masking.draw_times(batch, "antithetic", generator=seeded(seed)).sort().values
    assert torch.allclose(t.diff(), torch.full((batch - 1,), 1 / batch).double())


@pytest.mark.parametrize("method", masking.METHODS)
@pytest.mark.parametrize(("batch", "length"), [(4, 6), (6, 4), (5, 5)])
def test_counts_are_exactly_uniform_in_every_row(method, batch, length):
    g, n = seeded(4), 4000
    draws = torch.stack(
        [masking.draw_counts(batch, length, method, generator=g) for _ in range(n)]
    )
    assert draws.min() == 1 and draws.max() == length
    for row in range(batch):
        observed = torch.bincount(draws[:, row], minlength=length + 1)[1:]
        assert stats.chisquare(observed).pvalue > LEVEL / batch


def test_stratified_counts_take_each_value_equally_often():
    # length divides batch: every count appears batch / length times, whatever the draw
    for seed in range(20):
        counts = masking.draw_counts(12, 4, "stratified", generator=seeded(seed))
        assert torch.bincount(counts).tolist() == [0, 3, 3, 3, 3]


def test_half_even_rounding_would_be_biased_and_is_not_used():
    # LLaDA's published evaluation rounds equally spaced counts k + j L / B (then wraps
    # them into 1 ... L). With L / B = 2.5 they end in .5, and torch.round prefers even
    # counts: averaged over the random start k the counts are not uniform.
    length, batch = 10, 4
    k = torch.arange(1, length + 1)[:, None]
    rounded = torch.round(k + torch.arange(batch) * length / batch).long()
    published = torch.bincount((rounded.flatten() - 1) % length + 1)[1:]
    assert len(set(published.tolist())) > 1  # exactly enumerated, not uniform
    # ours: enumerate a fine grid of u and all strata
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t = 1 - (u[:, None] + torch.arange(batch)) / batch
    ours = torch.bincount((t * length).ceil().long().flatten())[1:]
    assert ours.tolist() == [1000 * batch // length] * length


def test_counts_for_rows_of_different_length():
    length = torch.tensor([1, 5, 1000]).repeat(2000)
    counts = masking.draw_counts(6000, length, "iid", generator=seeded(5))
    assert bool(((counts >= 1) & (counts <= length)).all())
    mean = counts.double().reshape(-1, 3).mean(0)
    for got, n in zip(mean.tolist(), (1, 5, 1000), strict=True):
        se = math.sqrt((n * n - 1) / 12 / 2000)
        assert abs(got - (n + 1) / 2) <= 4 * se


# ----------------------------------------------------------------- reverse posterior


def brute_posterior(x_t, x0, s, t, schedule):
    """q(x_s | x_t, x_0) by Bayes' rule from the forward chain, one token."""
    alpha = {u: schedule.alpha(u).item() for u in (0.0, s, t)}

    def forward(a, b, u, v):  # q(x_v = b | x_u = a) for u < v
        if a == MASK:
            return float(b == MASK)
        keep = alpha[v] / alpha[u]
        return keep if b == a else (1 - keep) * (b == MASK)

    joint = [
        forward(x0, x_s, 0.0, s) * forward(x_s, x_t, s, t) for x_s in range(MASK + 1)
    ]
    return torch.tensor(joint, dtype=torch.float64) / sum(joint)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(3)], ids=repr)
@pytest.mark.parametrize(("s", "t"), [(0.0, 0.4), (0.2, 0.7), (0.3, 0.999)])
def test_posterior_is_bayes_rule(schedule, s, t):
    x0 = torch.tensor([[3, 5]])
    x_t = torch.tensor([[MASK, 5]])
    probs = torch.nn.functional.one_hot(x0, MASK).double()
    got = masking.reverse_posterior(x_t, probs, s, t, schedule, MASK)
    assert got.shape == (1, 2, MASK + 1)
    for i in range(2):
        wanted = brute_posterior(x_t[0, i].item(), x0[0, i].item(), s, t, schedule)
        assert torch.allclose(got[0, i], wanted, atol=1e-12)


def test_posterior_with_a_mask_column():
    # a hub model's mask id can lie inside the vocabulary
    x_t = torch.tensor([[2, 0]])
    probs = torch.full((1, 2, 3), 0.5, dtype=torch.float64)
    probs[..., 2] = 0
    got = masking.reverse_posterior(x_t, probs, 0.25, 0.5, Linear(), 2)
    assert torch.allclose(got[0, 0], torch.tensor([0.25, 0.25, 0.5]).double())
    assert got[0, 1].tolist() == [1, 0, 0]


def test_all_masks():
    masks = masking.all_masks(4)
    assert masks.shape == (16, 4) and len(masks.unique(dim=0)) == 16
    assert not masks[0].any()


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda x: masking.forward(x[0], 0.5, Linear(), MASK), ValueError, "x0"),
        (lambda x: masking.forward(x.float(), 0.5, Linear(), MASK), TypeError, "x0"),
        (lambda x: masking.forward(x, 1.5, Linear(), MASK), ValueError, "t "),
        (lambda x: masking.forward(x, torch.rand(3), Linear(), MASK), ValueError, "t "),
        (
            lambda x: masking.forward(x, torch.tensor([0.5, 1.5]), Linear(), MASK),
            ValueError,
            "t ",
        ),
        (
            lambda x: masking.forward(
                x, 0.5, Linear(), MASK, maskable=torch.ones(2, 3).bool()
            ),
            ValueError,
            "maskable",
        ),
        (
            lambda x: masking.mask_exactly(x, torch.tensor([1, 5]), MASK),
            ValueError,
            "counts",
        ),
        (
            lambda x: masking.mask_exactly(x, torch.tensor([1.0, 2.0]), MASK),
            TypeError,
            "counts",
        ),
        (lambda x: masking.draw_times(0), ValueError, "batch"),
        (lambda x: masking.draw_times(4, "sobol"), ValueError, "method"),
        (lambda x: masking.draw_counts(4, 0), ValueError, "length"),
        (
            lambda x: masking.reverse_posterior(
                x, torch.rand(2, 4, 9), 0.5, 0.5, Linear(), MASK
            ),
            ValueError,
            "s ",
        ),
        (
            lambda x: masking.reverse_posterior(
                x, torch.rand(2, 9), 0.2, 0.5, Linear(), MASK
            ),
            ValueError,
            "probs",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, argument):
    with pytest.raises(error, match=argument):
        call(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_small_integers_count_and_mask_like_large_ones(dtype):
    x = torch.zeros(2, 300, dtype=dtype)
    hidden = masking.mask_exactly(x, torch.tensor([100, 7], dtype=dtype), 999)
    assert (hidden == 999).sum(1).tolist() == [100, 7]
    assert hidden.dtype == torch.long
    every = masking.forward(x, 1.0, Linear(), 999)
    assert bool((every == 999).all())
    x_t = torch.tensor([[0, 4]])
    probs = torch.full((1, 2, 4), 0.25)
    small = masking.reverse_posterior(x_t.to(dtype), probs, 0.2, 0.4, Linear(), 4)
    wanted = masking.reverse_posterior(x_t, probs, 0.2, 0.4, Linear(), 4)
    assert torch.equal(small, wanted)


@pytest.mark.parametrize("method", masking.METHODS)
def test_no_time_is_zero_even_if_the_largest_numbers_come(method, monkeypatch):
    def largest(n, **_):
        return torch.full((n,), 1 - 2.0**-53, dtype=torch.float64)

    monkeypatch.setattr(masking.torch, "rand", largest)
    t = masking.draw_times(7, method)
    assert bool((t > 0).all()) and bool((t <= 1).all())


def test_counts_of_rows_with_nothing_to_mask_are_zero():
    length = torch.tensor([0, 3], dtype=torch.uint8)
    counts = torch.stack([masking.draw_counts(2, length) for _ in range(50)])
    assert bool((counts[:, 0] == 0).all())
    assert set(counts[:, 1].tolist()) == {1, 2, 3}
    with pytest.raises(ValueError, match="length"):
        masking.draw_counts(2, torch.tensor([-3, 0]))


def test_the_posterior_names_what_is_wrong():
    x_t, probs = torch.tensor([[0, 4]]), torch.full((1, 2, 4), 0.25)
    with pytest.raises(ValueError, match="s must lie"):
        masking.reverse_posterior(x_t, probs, -1.0, 0.5, Linear(), 4)
    with pytest.raises(ValueError, match="probs must sum to 1"):
        masking.reverse_posterior(x_t, 2 * probs, 0.2, 0.5, Linear(), 4)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        p = torch.randn(1, 2, 500, generator=seeded(0)).to(dtype).softmax(-1)
        masking.reverse_posterior(x_t, p, 0.2, 0.5, Linear(), 500)
