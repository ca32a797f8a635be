"""What several test files need: a model without truth, enumeration, chi-square."""

from __future__ import annotations

import itertools

import torch
from scipy import stats
from torch import Tensor


class RandomTableDenoiser:
    """A denoiser with arbitrary conditionals, consistent with no joint distribution.

    Every masked state has its own random logits ``Float64[L, V]``, so that a statement
    which holds for it holds for any model.
    """

    def __init__(self, vocab: int, length: int, seed: int) -> None:
        self.vocab_size, self.length, self.mask_id = vocab, length, vocab
        generator = torch.Generator().manual_seed(seed)
        shape = ((vocab + 1) ** length, length, vocab)
        self.logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        code = torch.zeros(len(x), dtype=torch.long)
        for i in range(self.length):
            code = code * (self.vocab_size + 1) + x[:, i]
        return self.logits[code]


def all_sequences(vocab: int, length: int) -> Tensor:
    """Every sequence of tokens below ``vocab``, Long[vocab ** length, length]."""
    return torch.tensor(list(itertools.product(range(vocab), repeat=length)))


def chi_square_p(samples: Tensor, support: Tensor, probs: Tensor) -> float:
    """P-value of samples Long[n, L] under the law that gives ``support`` its ``probs``.

    A sample outside the support makes it 0. Cells that expect less than five samples
    are put together.
    """
    index = {tuple(row): i for i, row in enumerate(support.tolist())}
    counts = torch.zeros(len(support), dtype=torch.float64)
    for row in samples.tolist():
        if tuple(row) not in index:
            return 0.0
        counts[index[tuple(row)]] += 1
    probs = probs.to(torch.float64)
    expected = probs / probs.sum() * len(samples)
    if bool((counts[expected == 0] > 0).any()):
        return 0.0
    rare = expected < 5
    observed, wanted = counts[~rare], expected[~rare]
    if bool((expected[rare] > 0).any()):
        observed = torch.cat([observed, counts[rare].sum()[None]])
        wanted = torch.cat([wanted, expected[rare].sum()[None]])
    if len(observed) < 2:
        return 1.0
    return float(stats.chisquare(observed.numpy(), wanted.numpy()).pvalue)
