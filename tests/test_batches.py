"""A row's answer and the batch it sits in, with a trained Transformer.

The products of matrices of a batch may add up in another order than those of a row, so
on some processors the last bits of a network's logits depend on the batch. The decoder
must add nothing to that.
"""

from __future__ import annotations

import pytest
import torch

from dllm_tutorial import pretrained, tasks
from dllm_tutorial.decoding import generate
from dllm_tutorial.decoding import strategies as rules
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.schedules import Linear

ROWS = 32


def network(dtype):
    return pretrained.load_network("tasks-dllm-0", "cpu")[0].to(dtype)


def prompts():
    """Eight rows of each of four tasks, and where they stand in a shuffled batch."""
    parts = []
    for name in ("shuffle", "copy", "sudoku", "paraphrase"):
        task = tasks.make(name)
        drawn = task.draw(ROWS // 4, generator=torch.Generator().manual_seed(0))
        parts.append(task.inputs(drawn))
    shuffled = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    return torch.cat(parts)[shuffled]


def batches():
    """Rows of batches of 1 and 3, of half a batch, and of all rows in another order."""
    yield from torch.arange(0, ROWS, 16).split(1)
    yield from torch.arange(0, ROWS, 6).split(3)
    yield torch.arange(ROWS // 2)
    yield torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "rule, temperature",
    [
        (rules.confidence_top_k(4), 0.0),
        (rules.entropy_top_k(3), 1.0),
        (rules.confidence_threshold(0.7), 0.0),
        (rules.random_top_k(6), 1.0),
        (rules.remdm_conf(Linear(), 6), 1.0),
    ],
    ids=str,
)
def test_equal_logits_give_equal_answers_in_any_batch(rule, temperature):
    """Logits with an error that the size of the batch decides, as on a processor of
    another kind, and rounded, so that rows have the same ones again."""
    model, x = network(torch.float64), prompts()

    def logits(x):
        dice = torch.Generator().manual_seed(len(x))
        exact = model(x)
        error = torch.randn(exact.shape, generator=dice, dtype=exact.dtype)
        return (exact + 1e-13 * error).mul(2**10).round().div(2**10)

    denoiser, seeds = FunctionDenoiser(logits, model.mask_id), torch.arange(ROWS)
    whole = generate(denoiser, x, rule, temperature=temperature, seeds=seeds)
    for some in batches():
        part = generate(
            denoiser, x[some], rule, temperature=temperature, seeds=seeds[some]
        )
        assert torch.equal(part.sequences, whole.sequences[some])
        assert torch.equal(part.nfe, whole.nfe[some])


def tied(model, before, one, other, close) -> bool:
    """Whether two steps from one state, Long[L] each, differ by a near tie alone: of
    tokens or of positions whose probabilities are less than ``close`` apart."""
    with torch.no_grad():
        p = model(before[None])[0].softmax(-1)  # [L, V]
    masked = before == model.mask_id
    both = masked & (one != model.mask_id) & (other != model.mask_id)
    place = torch.arange(len(before))[both]
    gap = (p[place, one[both]] - p[place, other[both]]).abs()
    best = p.amax(-1)
    chosen = [best[masked & (a != model.mask_id) & ~both] for a in (one, other)]
    if all(len(values) for values in chosen):
        gap = torch.cat([gap, (chosen[0].min() - chosen[1].max()).abs()[None]])
    return bool((gap < close).all())


@pytest.mark.parametrize("error, close", [(0.0, 1e-3), (0.05, 0.3)])
def test_a_trained_network_answers_alike_but_for_ties(error, close):
    """As it ships, in float32; then with a large error in the place of rounding, so
    that there are ties to look at on any processor."""
    model, x = network(torch.float32), prompts()
    judge = network(torch.float64)

    def logits(x):
        dice = torch.Generator().manual_seed(len(x))
        exact = model(x)
        return exact + error * torch.randn(exact.shape, generator=dice)

    denoiser, rule = FunctionDenoiser(logits, model.mask_id), rules.confidence_top_k(4)
    whole = generate(denoiser, x, rule, record=True)
    differ = 0
    for some in batches():
        part = generate(denoiser, x[some], rule, record=True)
        for i, row in enumerate(some.tolist()):
            ours, theirs = part.history.states[:, i], whole.history.states[:, row]
            apart = (ours != theirs).any(-1).nonzero()[:, 0].tolist()
            if apart:
                differ += 1
                step = apart[0]
                assert tied(judge, ours[step - 1], ours[step], theirs[step], close)
    assert differ or not error
