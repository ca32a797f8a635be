"""What decoding promises for every strategy, whatever the denoiser says.

The values that the rules compute are tested in test_strategies_exact.py, against slow
references; here are the guarantees, the reading of the logits and the compiled step.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dllm_tutorial import joints
from dllm_tutorial.decoding import Strategy, candidates, generate, loop, task
from dllm_tutorial.decoding import strategies as rules
from dllm_tutorial.decoding.strategy import order_of
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.schedules import Cosine, Linear, LogLinear

ALPHA = 1e-4  # rate at which a test of sampled numbers would fail by chance
V, L, MASK = 5, 10, 5

RULES: dict[str, Strategy] = {
    rule.name: rule
    for rule in (
        rules.random_top_k(2),
        rules.left_to_right(1),
        rules.right_to_left(3),
        rules.confidence_top_k(steps=4),
        rules.margin_top_k(2),
        rules.entropy_top_k(steps=5),
        rules.confidence_threshold(0.5),
        rules.factor(1.0),
        rules.entropy_bounded(0.6),
        rules.klass(1, kl=0.5, confidence=0.3),
        rules.klass(steps=4),
        rules.dilated(2),
        rules.ancestral(Cosine(), 7),
        rules.first_hitting(Linear()),
        rules.remdm_cap(LogLinear(), 9, eta=0.3),
        rules.remdm_rescale(Linear(), 9, eta=0.5),
        rules.remdm_conf(Cosine(), 9),
        rules.remdm_loop(12, eta=0.3),
        rules.rcr(6),
        rules.p2(6, eta=2.0),
        rules.wino(draft=0.3, verify=0.6),
    )
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
temperatures = pytest.mark.parametrize("temperature", [0.0, 1.0])
blocks = pytest.mark.parametrize("block_length", [None, 4])


def pairwise(seed: int = 0, columns: int = V, dtype=torch.float64) -> FunctionDenoiser:
    """Logits that add a random vector for each token seen, given or masked.

    Indexing and a sum over one short axis: a row's logits do not depend on its batch.
    """
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(L, V + 1, L, columns, generator=generator, dtype=dtype)

    def logits(x):
        total = torch.zeros(*x.shape, columns, dtype=dtype)
        for i in range(L):
            total = total + table[i, x[:, i]]
        return total

    return FunctionDenoiser(logits, MASK)


def prompts() -> torch.Tensor:
    """Rows of different shape: all masked, a prompt, infilling, holes, nothing."""
    x = torch.full((6, L), MASK)
    x[1, :4] = torch.tensor([1, 0, 3, 2])
    x[2, 3:8] = 4
    x[3, ::2] = 2
    x[4, 1:] = 0
    x[5] = 1
    return x


SEEDS = torch.tensor([11, -4, 2**50, 0, 7, 3])


# --- guarantees --------------------------------------------------------------------


@every_rule
@temperatures
@blocks
def test_rows_are_filled_and_decode_as_they_would_alone(
    rule, temperature, block_length
):
    model, x = pairwise(), prompts()
    options = {"temperature": temperature, "block_length": block_length, "record": True}
    out = generate(model, x, rule, seeds=SEEDS, **options)

    given_tokens = x != MASK
    assert ((out.sequences >= 0) & (out.sequences < V)).all()
    assert torch.equal(out.sequences[given_tokens], x[given_tokens])
    assert out.nfe[5] == 0 and (out.nfe[:5] > 0).all()

    history = out.history
    steps = int(out.nfe.max())
    assert history.states.shape == (steps + 1, 6, L)
    assert history.confidence.shape == (steps, 6, L)
    assert history.block.shape == (steps, 6)
    assert torch.equal(history.states[0], x)
    assert torch.equal(history.states[-1], out.sequences)

    for b in range(6):
        n = int(out.nfe[b])
        alone = generate(model, x[b : b + 1], rule, seeds=SEEDS[b : b + 1], **options)
        assert torch.equal(alone.sequences[0], out.sequences[b])
        assert int(alone.nfe) == n
        assert torch.equal(alone.history.states[:, 0], history.states[: n + 1, b])
        assert torch.equal(alone.history.block[:, 0], history.block[:n, b])
        assert torch.equal(alone.history.n_blocks[0], history.n_blocks[b])
        torch.testing.assert_close(
            alone.history.confidence[:, 0],
            history.confidence[:n, b],
            rtol=0,
            atol=0,
            equal_nan=True,
        )
        assert (history.states[n:, b] == out.sequences[b]).all()


@every_rule
@temperatures
@blocks
def test_history_changes_only_the_current_block(rule, temperature, block_length):
    x = prompts()
    history = generate(
        pairwise(),
        x,
        rule,
        temperature=temperature,
        block_length=block_length,
        seeds=SEEDS,
        record=True,
    ).history
    before, after = history.states[:-1], history.states[1:]
    # The tile of each position, counted among those that hold a mask, row by row.
    width = block_length or L
    for b in range(5):
        holes = [i for i in range(L) if x[b, i] == MASK]
        tiles = sorted({(i - holes[0]) // width for i in holes})
        assert int(history.n_blocks[b]) == len(tiles)
        for s in range(len(before)):
            changed = (before[s, b] != after[s, b]).nonzero().flatten().tolist()
            for i in changed:
                tile = (i - holes[0]) // width
                assert tiles.index(tile) == int(history.block[s, b])
            if rule.revise is None:
                assert all(before[s, b, i] == MASK for i in changed)
    # Rows work on one block after the other.
    assert (history.block[1:] >= history.block[:-1]).all()
    # A confidence is there exactly where a position of an unfinished row was masked.
    finished = (before == history.states[-1]).all(-1)
    known = ~history.confidence.isnan()
    masked = before == MASK
    assert torch.equal(known[~finished], masked[~finished])
    inside = history.confidence[known]
    assert ((inside > 0) & (inside <= 1)).all()


@every_rule
def test_same_seed_same_answer(rule):
    model, x = pairwise(), torch.full((64, L), MASK)

    def sequences(seed):
        generator = torch.Generator().manual_seed(seed)
        out = generate(model, x, rule, temperature=1.0, generator=generator)
        return out.sequences

    assert torch.equal(sequences(0), sequences(0))
    assert not torch.equal(sequences(0), sequences(1))
    assert len(sequences(0).unique(dim=0)) > 1  # rows have seeds of their own


@every_rule
@temperatures
def test_a_denoiser_that_wants_the_mask_gets_none(rule, temperature):
    plain = pairwise(columns=V + 1)

    def wants_mask(x):
        logits = plain(x)
        logits[..., MASK] = 1e4
        return logits

    model = FunctionDenoiser(wants_mask, MASK)
    out = generate(model, prompts(), rule, temperature=temperature, block_length=4)
    assert (out.sequences < V).all()
    bound = L if rule.steps is None else rule.steps
    assert int(out.nfe.max()) <= bound


@every_rule
@temperatures
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_unusable_logits_are_an_error(rule, temperature, bad):
    plain = pairwise()

    def spoiled(x):
        logits = plain(x)
        if bad == -math.inf:
            logits[2, 9] = bad  # nothing left to draw
        else:
            logits[2, 9, 3] = bad
        return logits

    with pytest.raises(ValueError, match="denoiser must"):
        generate(
            FunctionDenoiser(spoiled, MASK), prompts(), rule, temperature=temperature
        )


@every_rule
def test_logits_that_are_not_used_may_be_anything(rule):
    """NaN at given positions, in a row with nothing to do, in a suppressed column."""
    plain = pairwise(columns=V + 1)

    def spoiled(x):
        logits = plain(x)
        logits[:, :, MASK] = math.nan
        logits[1, :4] = math.nan
        logits[5] = math.inf
        return logits

    model = FunctionDenoiser(spoiled, MASK)
    out = generate(model, prompts(), rule, seeds=SEEDS, temperature=1.0)
    assert (out.sequences < V).all()


@every_rule
@temperatures
def test_impossible_tokens_are_never_drawn_and_make_no_nan(rule, temperature):
    """An exact denoiser says -inf; k = 1 rules then give a permutation."""
    n = 5
    x = torch.full((20, n), n)
    x[:10, 2] = 3
    out = generate(
        joints.shuffle(n),
        x,
        rule,
        temperature=temperature,
        record=True,
        seeds=torch.arange(20),
    )
    assert (out.sequences < n).all()
    masked = out.history.states[:-1] == n
    assert ((out.history.confidence > 0) | ~masked).all()


@every_rule
def test_suppressed_tokens_are_never_drawn(rule):
    out = generate(pairwise(), prompts()[:1], rule, temperature=1.0, suppress=[0, 3])
    assert not torch.isin(out.sequences, torch.tensor([0, 3])).any()
    with pytest.raises(ValueError, match="leave a token to draw"):
        generate(pairwise(), prompts(), rule, suppress=range(V))


@every_rule
def test_number_of_calls(rule):
    """Never more than the bound; no call in vain where the number is known."""
    calls = []
    model = pairwise()

    def counted(x):
        calls.append(len(x))
        return model(x)

    x = prompts()
    denoiser = FunctionDenoiser(counted, MASK)
    out = generate(denoiser, x, rule, temperature=1.0, block_length=4)
    forward = sum(n == len(x) for n in calls)
    longest = int(out.nfe.max())
    if rule.rounds is not None:
        assert forward == longest
    else:
        assert longest <= forward < longest + loop.LOOK
    calls.clear()
    assert generate(denoiser, x[5:], rule).nfe.tolist() == [0] and not calls


@st.composite
def scored_rows(draw):
    """Scores with many ties, the lowest among them, and two flags per position."""
    n = draw(st.integers(1, 8))
    values = st.sampled_from([-math.inf, -1.0, 0.0, 0.5])
    scores = draw(st.lists(values, min_size=n, max_size=n))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    return scores, draw(flags), draw(flags)


@given(scored_rows(), st.booleans())
def test_order_is_by_eligibility_score_favor_and_position(row, favor):
    scores, eligible, favored = row

    def key(i):
        score = -scores[i] if eligible[i] else 0.0
        return (not eligible[i], score, favor and not favored[i], i)

    wanted = [0] * len(scores)
    for rank, i in enumerate(sorted(range(len(scores)), key=key)):
        wanted[i] = rank
    ahead = torch.tensor([favored]) if favor else None
    scores = torch.tensor([scores], dtype=torch.float64)
    found = order_of(scores, torch.tensor([eligible]), 1e-10, ahead)
    assert found.tolist() == [wanted]


def test_a_score_of_minus_infinity_leaves_no_mask():
    """Nor does it come behind a given position to its left."""
    flat = FunctionDenoiser(lambda x: torch.zeros(*x.shape, 2), 2)
    rule = Strategy(
        "far ones",
        rank=lambda view: (view.place > 5).double().log(),
        quota=lambda view, score: torch.ones_like(view.size),
    )
    x = torch.full((1, 5), 2)
    x[0, 0] = 0
    out = generate(flat, x, rule, record=True)
    left = (out.history.states == 2).sum(-1)[:, 0]
    assert left.tolist() == [4, 3, 2, 1, 0]
    # the probability of the second token underflows to 0
    steep = torch.tensor([0.0, -200.0])
    model = FunctionDenoiser(lambda x: steep.expand(*x.shape, 2), 2)
    x = torch.full((20, 6), 2)
    x[:, :3] = 0
    for eta in (0.0, 1.0, 2.0):
        out = generate(
            model, x, rules.p2(3, eta), temperature=200.0, seeds=torch.arange(20)
        )
        assert (out.sequences < 2).all() and (out.sequences == 1).any()


def test_a_score_that_is_no_number_is_an_error():
    rule = Strategy(
        "broken",
        rank=lambda view: torch.where(view.place == 3, torch.nan, 0.0),
        quota=lambda view, score: torch.ones_like(view.size),
    )
    with pytest.raises(ValueError, match="strategy broken must rank"):
        generate(pairwise(), prompts(), rule)
    x = prompts()[1:2]  # position 3 is given, and the block begins at position 4
    x[0, 7] = 1  # so is the place 3 of the block
    assert (generate(pairwise(), x, rule).sequences < V).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_p2_without_weight_on_revealed_tokens_masks_none_again(temperature):
    """The last position is revealed first; then the others are certain, a tie."""

    def logits(x):
        first = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 2.0]]).expand(len(x), 3, 2)
        sure = torch.tensor([0.0, -math.inf]).expand(len(x), 3, 2)
        return torch.where((x[:, 2] == 2)[:, None, None], first, sure)

    out = generate(
        FunctionDenoiser(logits, 2),
        torch.full((30, 3), 2),
        rules.p2(3, eta=0.0),
        temperature=temperature,
        seeds=torch.arange(30),
        record=True,
    )
    states = out.history.states
    assert (states[1, :, 2] != 2).any()
    assert not ((states[1:] == 2) & (states[:-1] != 2)).any()
    assert (states == 2).sum(-1)[:, 0].tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("later", [0, 5])
@pytest.mark.parametrize("rule", [rules.random_top_k(1), rules.rcr(200)], ids=str)
def test_unusable_logits_are_found_before_the_last_step(rule, later):
    """After 1, 2, 4, 8, ... steps, so that at most as many calls again are in vain."""
    calls = []

    def spoiled(x):
        calls.append(len(x))
        return torch.full((*x.shape, 2), math.nan if len(calls) > later else 0.0)

    with pytest.raises(ValueError, match="without NaN"):
        generate(FunctionDenoiser(spoiled, 2), torch.full((1, 200), 2), rule)
    assert len(calls) == (8 if later else 1)


def test_ties_go_to_the_lowest_token_and_the_lowest_position():
    flat = FunctionDenoiser(lambda x: torch.zeros(*x.shape, 2000), 2000)
    x = torch.full((1, 6), 2000)
    ranked = ["confidence_top_k", "margin_top_k", "entropy_top_k", "left_to_right"]
    for name in ranked:
        out = generate(flat, x, getattr(rules, name)(1), record=True)
        assert (out.sequences == 0).all()
        for i, state in enumerate(out.history.states[:, 0]):
            assert (state == 2000).tolist() == [False] * i + [True] * (6 - i)
    for rule in (rules.confidence_threshold(0.9), rules.factor(1.0), rules.wino()):
        first = generate(flat, x, rule, record=True).history.states[1, 0]
        assert (first == 2000).tolist() == [False] + [True] * 5
    out = generate(flat, x, rules.right_to_left(1), record=True)
    assert (out.history.states[1, 0] == 2000).tolist() == [True] * 5 + [False]


@pytest.mark.parametrize("name", ["random", "confidence", "margin", "entropy"])
@pytest.mark.parametrize(
    "masked, steps, quota",
    [
        (32, 5, [7, 7, 6, 6, 6]),
        (32, 32, [1] * 32),
        (10, 3, [4, 3, 3]),
        (3, 7, [1, 1, 1]),
        (8, 1, [8]),
    ],
)
def test_steps_put_the_remainder_first(name, masked, steps, quota):
    model = FunctionDenoiser(lambda x: torch.rand(*x.shape, 3), 3)
    x = torch.full((2, 40), 3)
    x[:, : 40 - masked] = 0
    x[1] = x[1].flip(0)  # the same number elsewhere
    rule = getattr(rules, f"{name}_top_k")(steps=steps)
    states = generate(model, x, rule, record=True).history.states
    left = (states == 3).sum(-1)
    assert (left[:-1] - left[1:]).T.tolist() == [quota, quota]


def test_steps_are_shared_by_the_blocks_of_a_row():
    """Ten positions in blocks of four: 4, 4, 2; seven steps give each block two."""
    model = FunctionDenoiser(lambda x: torch.rand(*x.shape, 3), 3)
    rule = rules.random_top_k(steps=7)
    history = generate(
        model, torch.full((1, 10), 3), rule, block_length=4, record=True
    ).history
    assert history.n_blocks.tolist() == [3]
    assert history.block[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    left = (history.states == 3).sum(-1)[:, 0].tolist()
    assert left == [10, 8, 6, 4, 2, 1, 0]
    with pytest.raises(ValueError, match="number of blocks"):
        generate(model, torch.full((1, 10), 3), rules.rcr(2), block_length=4)


@temperatures
def test_a_threshold_above_one_half_solves_shuffle(temperature):
    """Two positions left share their items half and half: never revealed together."""
    n, rows = 8, 200
    out = generate(
        joints.shuffle(n),
        torch.full((rows, n), n),
        rules.confidence_threshold(0.51),
        temperature=temperature,
        seeds=torch.arange(rows),
    )
    assert torch.equal(out.sequences.sort(-1).values, torch.arange(n).expand(rows, n))
    assert (out.nfe == n).all()  # the last two are 1/2 each, then the last one is sure


def test_factor_does_not_reveal_the_last_two_together():
    n = 6
    out = generate(joints.shuffle(n), torch.full((1, n), n), rules.factor(1.0))
    assert out.sequences.sort(-1).values.tolist() == [list(range(n))]


def test_first_hitting_times_are_order_statistics():
    """alpha of n reveal times, in any order, are n independent uniform numbers."""
    n, rows = 6, 2000
    schedule = Cosine()
    model = FunctionDenoiser(lambda x: torch.zeros(*x.shape, 2), 2)
    out = generate(
        model,
        torch.full((rows, n), 2),
        rules.first_hitting(schedule),
        seeds=torch.arange(rows),
        record=True,
    )
    time = out.history.time
    assert time.shape == (n, rows) and (time[1:] < time[:-1]).all()
    u = schedule.alpha(time)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > ALPHA
    assert stats.kstest(u[0].numpy(), stats.beta(1, n).cdf).pvalue > ALPHA
    # The position revealed first is uniform.
    first = (out.history.states[1] != 2).long().argmax(-1)
    assert stats.chisquare(torch.bincount(first, minlength=n)).pvalue > ALPHA


@pytest.mark.parametrize(
    "rule",
    [
        rules.first_hitting(Linear()),
        rules.ancestral(Linear(), 8),
        rules.remdm_cap(Linear(), 8, eta=0.3),
    ],
    ids=str,
)
@blocks
def test_the_time_of_a_finished_row_stands_still(rule, block_length):
    options = {"block_length": block_length, "record": True}
    out = generate(pairwise(), prompts(), rule, seeds=SEEDS, **options)
    time, block = out.history.time, out.history.block
    assert time.shape == block.shape
    assert time[:, 5].isnan().all()  # nothing to fill
    for b, n in enumerate(out.nfe[:5].tolist()):
        assert (time[n - 1 :, b] == time[n - 1, b]).all()
        assert ((time[:n, b] >= 0) & (time[:n, b] < 1)).all()
        within = block[1:n, b] == block[: n - 1, b]
        falls = time[1:n, b] < time[: n - 1, b]
        assert falls[within].all()
        if rule.clocked:  # ReMDM, alone, works until the end of each block
            ends = time[: n - 1, b][~within]
            assert time[n - 1, b] == 0 and (ends == 0).all()
        if rule.name.startswith(("remdm", "ancestral")):
            share = 8 // int(out.history.n_blocks[b])
            assert float(time[0, b]) == 1 - 1 / share
        alone = generate(
            pairwise(), prompts()[b : b + 1], rule, seeds=SEEDS[b : b + 1], **options
        )
        assert torch.equal(alone.history.time[:, 0], time[:n, b])


@pytest.mark.parametrize(
    "rule, alpha",
    [
        (rules.ancestral(Cosine(), 8), Cosine().alpha),
        (rules.remdm_cap(Linear(), 8, eta=0.2), Linear().alpha),
        (rules.remdm_rescale(Cosine(), 8, eta=0.7), Cosine().alpha),
    ],
    ids=str,
)
def test_clocks_keep_the_marginals(rule, alpha):
    """P(masked at time s) = 1 - alpha(s) for every sigma (Wang et al. 2025)."""
    rows = 2000
    model = FunctionDenoiser(lambda x: torch.zeros(*x.shape, 2), 2)
    x = torch.full((rows, L), 2)
    history = generate(model, x, rule, seeds=torch.arange(rows), record=True).history
    for s in range(1, 8):
        p = 1 - float(alpha(1 - s / 8))
        masked = int((history.states[s] == 2).sum())
        assert stats.binomtest(masked, rows * L, p).pvalue > ALPHA / 8
    if rule.revise is not None:
        taken_back = (history.states[1:] == 2) & (history.states[:-1] != 2)
        assert taken_back.any()


def test_remdm_conf_leaves_more_masks_than_the_process():
    """Its sigma is 0 where a token is masked, so less is revealed than taken back."""
    rows, n = 2000, 8
    model = FunctionDenoiser(lambda x: torch.zeros(*x.shape, 2), 2)
    out = generate(
        model,
        torch.full((rows, L), 2),
        rules.remdm_conf(Linear(), n),
        seeds=torch.arange(rows),
        record=True,
    )
    for s in range(2, n):
        masked = int((out.history.states[s] == 2).sum())
        more = stats.binomtest(masked, rows * L, 1 - s / n, alternative="greater")
        assert more.pvalue < ALPHA


def test_wino_verifies_with_the_token_itself_masked():
    joint = joints.replace_random(4)
    x = torch.tensor([[0, 4, 2, 3], [0, 1, joint.mask_id, 3], [4, 4, 2, 3]])
    setting = task.Task(
        joint,
        seeds=torch.arange(3),
        temperature=0.0,
        top_p=None,
        suppressed=None,
        **task.lay_blocks(torch.ones_like(x).bool(), None, None),
    )
    p = loop.leave_one_out(setting, task.first_state(x))
    for b in range(2):
        for i in range(4):
            if x[b, i] != joint.mask_id:
                others = x[b : b + 1].clone()
                others[0, i] = joint.mask_id
                expected = joint(others)[0, i, x[b, i]].exp()
                assert float(p[b, i]) == pytest.approx(float(expected), abs=1e-12)
    assert p[0].tolist() == pytest.approx([1.0] * 4)  # one replaced: the rest is sure


# --- reading the logits ------------------------------------------------------------


def reference(logits, temperature=0.0, suppress=()):
    """Probabilities (float64), untempered and tempered, by torch's own softmax."""
    logits = logits.to(torch.float64).clone()
    logits[..., list(suppress)] = -math.inf
    return logits.softmax(-1), (logits / (temperature or 1.0)).softmax(-1)


@given(
    vocab=st.one_of(
        st.integers(1, 300), st.integers(1000, 1100), st.integers(2040, 2060)
    ),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    seed=st.integers(0, 10**6),
    holes=st.booleans(),
)
def test_candidates_are_those_of_softmax(vocab, dtype, temperature, seed, holes):
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(3, 4, vocab, generator=generator)).to(dtype)
    suppressed, suppress = None, ()
    if holes and vocab > 2:
        away = torch.rand(3, 4, vocab, generator=generator) < 0.5
        away.scatter_(
            -1, torch.randint(vocab - 1, (3, 4, 1), generator=generator), False
        )
        logits = logits.masked_fill(away, -math.inf)
        suppress = (vocab - 1,)
        suppressed = torch.arange(vocab) == vocab - 1
    kept = logits.clone()
    u = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    found = candidates.propose(
        logits,
        u,
        temperature=temperature,
        suppressed=suppressed,
        want=frozenset(["margin", "entropy", "log_probs"]),
    )
    assert torch.equal(logits, kept)
    p, tempered = reference(logits, temperature, suppress)
    exact = dtype == torch.float64
    tolerance = {"rtol": 1e-12 if exact else 3e-6, "atol": 1e-12 if exact else 3e-6}
    top = p.topk(min(2, vocab)).values
    second = top[..., 1] if vocab > 1 else torch.zeros(3, 4, dtype=torch.float64)
    drawn = p.gather(-1, found.token[..., None])[..., 0]
    torch.testing.assert_close(found.confidence, drawn, **tolerance)
    torch.testing.assert_close(found.margin, top[..., 0] - second, **tolerance)
    torch.testing.assert_close(
        found.entropy, torch.special.entr(p).sum(-1), rtol=1e-5, atol=tolerance["atol"]
    )
    torch.testing.assert_close(found.log_probs.double().exp(), p, **tolerance)
    assert (drawn > 0).all()
    if temperature == 0:
        masked = logits.clone()
        masked[..., list(suppress)] = -math.inf
        assert torch.equal(found.token, masked.argmax(-1))
    else:  # the token is where u falls on the running sum of the tempered distribution
        running = torch.cat([torch.zeros(3, 4, 1), tempered.cumsum(-1)], -1)
        below = running.gather(-1, found.token[..., None])[..., 0]
        above = running.gather(-1, found.token[..., None] + 1)[..., 0]
        slack = 1e-12 if exact else 1e-5
        assert ((below - slack <= u) & (u <= above + slack)).all()


@pytest.mark.parametrize("vocab", [3, 128, 129, 700, 1024, 1025, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_the_batch_or_on_threads(vocab, dtype):
    """Ties are decided by the last bit, so it must not depend on where a row lies."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 12, vocab, generator=generator, dtype=dtype)
    u = torch.rand(7, 12, generator=generator, dtype=torch.float64)
    options = {
        "temperature": 0.7,
        "want": frozenset(["margin", "entropy", "log_probs"]),
    }
    together = candidates.propose(logits, u, **options)
    again = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            again.append(candidates.propose(logits, u, **options))
    finally:
        torch.set_num_threads(1)
    again += [
        candidates.Candidates(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        for rows in [
            [
                candidates.propose(logits[b : b + 1], u[b : b + 1], **options)
                for b in range(7)
            ]
        ]
    ]
    for other in again:
        for ours, theirs in zip(together, other, strict=True):
            assert torch.equal(ours, theirs)
    # Equal logits at two positions give equal numbers.
    twins = candidates.propose(logits[:, :1].expand(7, 12, vocab), u, **options)
    assert (twins.entropy == twins.entropy[:, :1]).all()
    assert (twins.margin == twins.margin[:, :1]).all()


@pytest.mark.parametrize("vocab", [6, 1500])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [None, 0.9])
def test_tokens_are_drawn_from_the_tempered_distribution(vocab, temperature, top_p):
    n = 20_000 if vocab < 100 else 3_000
    generator = torch.Generator().manual_seed(1)
    logits = torch.full((vocab,), -math.inf, dtype=torch.float64)
    seen = torch.randperm(vocab, generator=generator)[:6]
    logits[seen] = torch.randn(6, generator=generator, dtype=torch.float64)
    p = (logits / temperature).softmax(-1)
    if top_p is not None:
        order = p.argsort(descending=True)
        enough = int((p[order].cumsum(0) < top_p).sum()) + 1
        p[order[enough:]] = 0
        p /= p.sum()
    model = FunctionDenoiser(lambda x: logits.expand(*x.shape, vocab), vocab)
    out = generate(
        model,
        torch.full((n, 1), vocab),
        rules.random_top_k(1),
        temperature=temperature,
        top_p=top_p,
        seeds=torch.arange(n),
    )
    counts = torch.bincount(out.sequences[:, 0], minlength=vocab)
    assert counts[p == 0].sum() == 0
    result = stats.chisquare(counts[p > 0].numpy(), (n * p[p > 0]).numpy())
    assert result.pvalue > ALPHA


def test_extreme_logits_stay_finite():
    for scale in (1e3, 1e9, 1e30):
        logits = scale * torch.tensor([[[0.0, 1.0, -1.0, 0.5]]])
        for temperature in (0.0, 0.01, 1.0):
            found = candidates.propose(
                logits,
                torch.tensor([[0.5]], dtype=torch.float64),
                temperature=temperature,
                want=frozenset(["margin", "entropy"]),
            )
            assert found.token.item() == 1 and found.confidence.item() == 1
            assert found.margin.item() == 1 and found.entropy.item() == 0


WIDE = [129, 1030, 40_001]  # read in chunks, of which the last one is short


def wide(vocab: int, positions: int = 6, dtype=torch.float32):
    """Logits [1, positions, vocab] and a uniform number for each position."""
    generator = torch.Generator().manual_seed(vocab)
    logits = 3 * torch.randn(1, positions, vocab, generator=generator)
    u = torch.rand(1, positions, generator=generator, dtype=torch.float64)
    return logits.to(dtype), u


def assert_same_bits(ours, theirs):
    for name, a, b in zip(ours._fields, ours, theirs, strict=True):
        assert (a is None) == (b is None), name
        assert a is None or torch.equal(a, b), name


@pytest.mark.parametrize("vocab", WIDE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_bits_of_a_wide_vocabulary_are_those_of_the_position_alone(
    vocab, dtype, temperature, monkeypatch
):
    """Whatever tile a position is read in, and by however many threads."""
    logits, u = wide(vocab, dtype=dtype)
    logits[:, 4], u[:, 4] = logits[:, 1], u[:, 1]
    options = {"temperature": temperature, "want": frozenset(["margin", "entropy"])}
    together = candidates.propose(logits, u, **options)
    for field in together[:5]:
        assert field[0, 4] == field[0, 1]
    for threads, tile in [(1, 1), (2, 2 * vocab), (3, 4 * vocab)]:
        monkeypatch.setattr(candidates, "TILE", tile)
        torch.set_num_threads(threads)
        try:
            again = candidates.propose(logits, u, **options)
            alone = candidates.propose(logits[:, 1:2], u[:, 1:2], **options)
        finally:
            torch.set_num_threads(1)
        assert_same_bits(again, together)
        assert_same_bits(
            alone, together._make(x if x is None else x[:, 1:2] for x in together)
        )


@pytest.mark.parametrize("vocab", [3, 128, 129, 1030])
def test_the_largest_logit_is_found_wherever_it_lies(vocab):
    """At each place of the vocabulary, and the lowest of two that are equal."""
    places = torch.arange(vocab)
    logits, _ = wide(vocab, 1)
    logits = logits[0].repeat(vocab, 1)
    top = logits.amax() + 1
    logits[places, places] = top
    later = places + (vocab - places) // 2
    logits[places, later.clamp(max=vocab - 1)] = top
    u = torch.full((1, vocab), 0.5, dtype=torch.float64)
    found = candidates.propose(logits[None], u, want=frozenset(["margin"]))
    assert torch.equal(found.token[0], places)
    assert (found.peak == top).all()
    tied = later.clamp(max=vocab - 1) != places
    assert (found.margin[0][tied] == 0).all() and (found.margin[0][~tied] > 0).all()


@pytest.mark.parametrize("vocab", [5, *WIDE])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("top_p", [None, 0.9])
def test_a_suppressed_token_is_one_whose_logit_is_minus_infinity(
    vocab, temperature, top_p
):
    logits, u = wide(vocab)
    away = torch.rand(vocab, generator=torch.Generator().manual_seed(0)) < 0.5
    away[0] = False
    options = {"temperature": temperature, "top_p": top_p}
    options["want"] = frozenset(["margin", "entropy", "log_probs"])
    found = candidates.propose(logits, u, suppressed=away, **options)
    masked = logits.masked_fill(away, -math.inf)
    assert_same_bits(found, candidates.propose(masked, u, **options))
    assert not away[found.token].any()


def test_logits_may_be_a_view():
    """Of a wider tensor, as when a padded vocabulary is cut off."""
    for vocab in WIDE:
        logits, u = wide(vocab + 3)
        cut = logits[..., :vocab]
        for temperature in (0.0, 1.0):
            found = candidates.propose(cut, u, temperature=temperature)
            copy = candidates.propose(cut.contiguous(), u, temperature=temperature)
            assert_same_bits(found, copy)


@pytest.mark.parametrize("vocab", [5, 1030])
@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-6])
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_a_temperature_near_0_takes_the_most_probable_token(vocab, temperature, scale):
    logits, u = wide(vocab)
    found = candidates.propose(scale * logits, u, temperature=temperature)
    assert torch.equal(found.token, logits.argmax(-1))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_unusable_logits_of_a_wide_vocabulary_are_an_error(temperature, bad):
    logits, _ = wide(1030)
    word = "leave a token to draw" if bad == -math.inf else "without NaN"
    if bad == -math.inf:
        logits[0, 3] = bad
    else:
        logits[0, 3, 1029] = bad
    model = FunctionDenoiser(lambda x: logits, 1030)
    with pytest.raises(ValueError, match=word):
        generate(
            model,
            torch.full((1, 6), 1030),
            rules.confidence_top_k(1),
            temperature=temperature,
        )


@pytest.mark.parametrize("vocab", [5, 129, 1030])
@temperatures
def test_compiled_and_eager_code_find_the_same(vocab, temperature):
    """They read the logits in different ways, which may differ by rounding only."""
    logits, u = wide(vocab, dtype=torch.float64)
    options = {"temperature": temperature, "want": frozenset(["margin", "entropy"])}
    torch._dynamo.reset()
    compiled = torch.compile(candidates.propose, fullgraph=True, backend="eager")
    ours, theirs = (
        compiled(logits, u, **options),
        candidates.propose(logits, u, **options),
    )
    assert torch.equal(ours.token, theirs.token)
    for a, b in zip(ours[1:5], theirs[1:5], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# --- one graph, no host sync -------------------------------------------------------


class NoLook(TorchDispatchMode):
    """Fails on operations whose result the host must wait for."""

    LOOKS = ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        looks = any(look in str(func) for look in self.LOOKS)
        if "index" in str(func):  # by a mask: the size of the result must be known
            found = tree_leaves(args)
            looks |= any(getattr(a, "dtype", None) == torch.bool for a in found[1:])
        if looks:
            raise AssertionError(f"{func} inside a step")
        return func(*args, **(kwargs or {}))


def test_the_mode_that_catches_looks_works():
    with pytest.raises(AssertionError), NoLook():
        torch.ones(1).item()
    with pytest.raises(AssertionError), NoLook():
        torch.ones(3)[torch.ones(3).bool()]


@every_rule
@temperatures
def test_no_look_inside_a_step(rule, temperature, monkeypatch):
    step = loop.step

    def watched(*arguments):
        with NoLook():
            return step(*arguments)

    monkeypatch.setattr(loop, "step", watched)
    top_p = None if temperature == 0 else 0.9
    generate(
        pairwise(),
        prompts(),
        rule,
        temperature=temperature,
        top_p=top_p,
        suppress=[1],
        block_length=4,
    )


@temperatures
def test_no_look_at_a_wide_vocabulary(temperature):
    logits, u = wide(1030)
    away = torch.arange(1030) == 7
    want = frozenset(["margin", "entropy", "log_probs"])
    with NoLook():
        candidates.propose(
            logits, u, temperature=temperature, suppressed=away, want=want
        )


@pytest.mark.parametrize(
    "rule, temperature",
    [
        (rules.confidence_top_k(steps=4), 0.0),
        (rules.entropy_bounded(0.6), 1.0),
        (rules.wino(draft=0.3, verify=0.6), 0.0),
        (rules.remdm_conf(Cosine(), 6), 0.7),
        (rules.p2(6, eta=2.0), 1.0),
        (rules.rcr(6), 1.0),
    ],
    ids=str,
)
def test_a_step_compiles_as_one_graph(rule, temperature, monkeypatch):
    options = {"temperature": temperature, "suppress": [1], "seeds": SEEDS}
    eager = generate(pairwise(), prompts(), rule, **options)
    torch._dynamo.reset()
    compiled = torch.compile(loop.step, fullgraph=True, backend="eager")
    monkeypatch.setattr(loop, "step", compiled)
    assert torch.equal(
        generate(pairwise(), prompts(), rule, **options).sequences, eager.sequences
    )


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(0.0, None), (1.0, None), (0.5, None), (1.0, 0.9)]
)
@pytest.mark.parametrize("vocab", [V, 200, 1030])
@every_rule
def test_a_step_stays_on_its_device(rule, vocab, temperature, top_p):
    """On the meta device, which takes the ways of a GPU: nothing can be looked at, and
    a tensor made on the CPU meets the others in an error.
    """
    x = prompts()
    blocks = task.lay_blocks(x == MASK, 4, rule.steps)
    moved = {k: v.to("meta") if torch.is_tensor(v) else v for k, v in blocks.items()}
    logits = torch.empty(*x.shape, vocab, device="meta")
    setting = task.Task(
        FunctionDenoiser(lambda x: logits[0].expand(*x.shape, vocab), MASK),
        seeds=torch.empty(len(x), dtype=torch.long, device="meta"),
        temperature=temperature,
        top_p=top_p,
        suppressed=torch.empty(vocab, dtype=torch.bool, device="meta"),
        **moved,
    )
    state = task.first_state(x.to("meta"))
    for _ in range(2):
        state = loop.step(rule, setting, state, logits)
    assert all(leaf.is_meta for leaf in tree_leaves(state))


# --- bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: rules.random_top_k(),
        lambda: rules.confidence_top_k(1, steps=2),
        lambda: rules.left_to_right(0),
        lambda: rules.margin_top_k(steps=0),
        lambda: rules.confidence_threshold(1.5),
        lambda: rules.factor(-1.0),
        lambda: rules.entropy_bounded(-0.1),
        lambda: rules.klass(1, history=0),
        lambda: rules.dilated(1),
        lambda: rules.ancestral(Linear(), 0),
        lambda: rules.remdm_cap(Linear(), 4, eta=2.0),
        lambda: rules.remdm_loop(4, t_on=0.2, t_off=0.4),
        lambda: rules.p2(4, eta=-1.0),
        lambda: rules.p2(4, eta=math.inf),
        lambda: rules.wino(draft=2.0),
    ],
)
def test_strategies_check_their_parameters(make):
    with pytest.raises(ValueError):
        make()


def test_generate_checks_its_arguments():
    model, x, rule = pairwise(), prompts(), rules.random_top_k(1)
    for options, word in [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"suppress": [V]}, "suppress"),
        ({"block_length": 0}, "block_length"),
        ({"seeds": torch.arange(2)}, "seeds"),
        ({"seeds": SEEDS, "generator": torch.Generator()}, "seeds"),
    ]:
        with pytest.raises(ValueError, match=word):
            generate(model, x, rule, **options)
    with pytest.raises(TypeError, match="strategy"):
        generate(model, x, "confidence")
    with pytest.raises(TypeError, match="x must"):
        generate(model, x.double(), rule)
    with pytest.raises(TypeError, match="x must"):
        generate(model, x.int(), rule)
    with pytest.raises(ValueError, match="x must"):
        generate(model, x - 1, rule)
    for wrong, error in [
        (lambda x: torch.zeros(len(x), V), ValueError),
        (lambda x: torch.zeros(len(x), L + 1, V), ValueError),
        (lambda x: torch.zeros(*x.shape, V, dtype=torch.int64), TypeError),
    ]:
        with pytest.raises(error, match="denoiser must return"):
            generate(FunctionDenoiser(wrong, MASK), x, rule)
    for wrong in ("linear", None, Linear):
        for make in (rules.first_hitting, lambda s: rules.ancestral(s, 4)):
            with pytest.raises(TypeError, match="schedule must be a Schedule"):
                make(wrong)
    with pytest.raises(TypeError, match="generator must be"):
        generate(model, x, rule, generator=0)


@pytest.mark.parametrize(
    "suppress",
    [
        [0, 3],
        (3, 0),
        {0, 3},
        iter([0, 3]),
        np.array([0, 3]),
        torch.tensor([0, 3]),
        torch.tensor([3, 0], dtype=torch.uint8),
        [np.int64(0), np.int32(3)],
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_tokens_to_suppress_come_in_any_sequence(suppress):
    model, x, rule = pairwise(), prompts(), rules.confidence_top_k(1)
    wanted = generate(model, x[:1], rule, suppress=[0, 3])
    found = generate(model, x[:1], rule, suppress=suppress)
    assert torch.equal(found.sequences, wanted.sequences)
    assert not torch.isin(found.sequences, torch.tensor([0, 3])).any()


def test_the_token_0_can_be_suppressed():
    flat = FunctionDenoiser(lambda x: torch.zeros(*x.shape, 2), 2)
    for suppress in ([0], np.array([0]), torch.tensor([0])):
        out = generate(
            flat, torch.full((1, 3), 2), rules.left_to_right(1), suppress=suppress
        )
        assert out.sequences.tolist() == [[1, 1, 1]]
    for nothing in (None, [], (), torch.tensor([], dtype=torch.int64)):
        out = generate(
            flat, torch.full((1, 3), 2), rules.left_to_right(1), suppress=nothing
        )
        assert out.sequences.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    "suppress",
    [
        0,
        3,
        True,
        np.int64(0),
        np.array(0),
        torch.tensor(0),
        torch.tensor([[0]]),
        torch.tensor([0.0]),
        torch.tensor([True]),
        [0.0],
        "0",
    ],
    ids=repr,
)
def test_tokens_to_suppress_must_be_a_sequence_of_ids(suppress):
    with pytest.raises(TypeError, match="suppress must be"):
        generate(pairwise(), prompts(), rules.random_top_k(1), suppress=suppress)


def test_the_answer_is_not_the_tensor_that_was_given():
    for x in (prompts(), prompts()[5:]):
        kept = x.clone()
        out = generate(pairwise(), x, rules.random_top_k(1), record=True)
        out.sequences[:] = 0
        assert torch.equal(x, kept)
        assert torch.equal(out.history.states[0], kept)


def test_no_gradient_is_kept():
    weight = torch.zeros(V, requires_grad=True)
    model = FunctionDenoiser(lambda x: weight.expand(*x.shape, V), MASK)
    out = generate(model, prompts(), rules.confidence_threshold(0.5), record=True)
    assert not out.history.confidence.requires_grad


# --- on a GPU ----------------------------------------------------------------------

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@on_gpu
@every_rule
def test_no_sync_on_a_gpu(rule, monkeypatch):
    table = torch.randn(V + 1, L, V, device="cuda")
    model = FunctionDenoiser(lambda x: table[x].sum(1), MASK)
    step = loop.step

    def watched(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "step", watched)
    out = generate(model, prompts().cuda(), rule, temperature=1.0, block_length=4)
    assert (out.sequences < V).all()


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_step_is_captured_as_a_cuda_graph(temperature):
    x = torch.full((4, L), MASK, device="cuda")
    logits = torch.randn(4, L, V, device="cuda")
    setting = task.Task(
        FunctionDenoiser(lambda x: logits, MASK),
        seeds=torch.arange(4, device="cuda"),
        temperature=temperature,
        top_p=None,
        suppressed=None,
        **task.lay_blocks(x == MASK, None, None),
    )
    rule, state = rules.confidence_threshold(0.5), task.first_state(x)
    expected = loop.step(rule, setting, state, logits)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loop.step(rule, setting, state, logits)
    graph.replay()
    torch.cuda.synchronize()
    for ours, theirs in zip(tree_leaves(captured), tree_leaves(expected), strict=True):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
