"""Two joints of valid answers: tables, and all orders of some items in closed form."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks
from dllm_tutorial._random import uniform
from dllm_tutorial.tasks.base import AnswerJoint, same_size
from dllm_tutorial.tasks.vocabulary import EOS, MASK

__all__ = ["AnswerShuffle", "AnswerTable"]


class AnswerTable(AnswerJoint):
    """Each instance has its own table of valid answers, all equally likely.

    Parameters
    ----------
    prompts : Long[B, P]
    support : Long[B, M, A]
        Distinct answers; the device is that of the prompts.
    valid : Bool[B, M]
        Which of them count, at least one in each row: the number may differ.

    Notes
    -----
    A conditional is a ratio of two counts of answers that agree with the evidence.
    Counts are exact in float64, so a row's answer does not depend on its batch.
    """

    def __init__(self, prompts: Tensor, support: Tensor, valid: Tensor) -> None:
        _checks.tokens(support, "support", ndim=3)
        super().__init__(prompts, support.shape[2])
        _checks.token_range(support, "support", self.vocab_size)
        same_size(support, "support", prompts)
        if valid.dtype != torch.bool or valid.shape != support.shape[:2]:
            raise ValueError(
                f"valid must be Bool{list(support.shape[:2])}, got {valid.dtype} "
                f"{list(valid.shape)}"
            )
        if not bool(valid.any(1).all()):
            raise ValueError("valid must leave an answer in every row")
        if _repeats(support, valid):
            raise ValueError("support must hold distinct valid answers in every row")
        self.support = support
        self.valid = valid

    def conditionals(self, answers: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        support = self.support[rows]  # [R, M, A]
        shown = answers[:, None]
        agrees = ((shown == support) | (shown == MASK)).all(2) & self.valid[rows]
        count = agrees.double()[:, None].expand(-1, support.shape[2], -1)  # [R, A, M]
        mass = count.new_zeros(*answers.shape, self.vocab_size)
        mass.scatter_add_(2, support.transpose(1, 2), count)
        return mass, count[:, 0].sum(1)

    def log_prob(self, answers: Tensor) -> Tensor:
        self._check_answers(answers)
        found = (answers[:, None] == self.support).all(2) & self.valid
        return torch.where(found.any(1), -self.log_size(), -math.inf)

    def sample(self, generator: Generator | None = None) -> Tensor:
        keys = uniform(self.valid.shape, generator, self.prompts.device)
        pick = keys.masked_fill(~self.valid, -1.0).argmax(1)
        return self.support[torch.arange(len(self), device=pick.device), pick]

    def log_size(self) -> Tensor:
        return self.valid.sum(1).double().log()


class AnswerShuffle(AnswerJoint):
    """All orders of an instance's items, equally likely, then ``<eos>``.

    A place no token of which is revealed holds each unused item with the same
    probability; any revealed token names its item. The total correlation for items of
    w tokens is w n log n - log n! nats (Kang et al. 2025 for w = 1).

    Parameters
    ----------
    prompts : Long[B, P]
    items : Long[B, N, w]
        Items of w tokens. Two items of a row differ in every token.
    count : Long[B]
        The row's items are its first ``count``, at least one; the others are ignored.
    answer_length : int
        At least one more than the tokens of the longest list.
    new_order : bool
        Whether the order in which the items are given is no valid answer, as in the
        published scorer. Then a row needs two items.
    """

    def __init__(
        self,
        prompts: Tensor,
        items: Tensor,
        count: Tensor,
        answer_length: int,
        *,
        new_order: bool = False,
    ) -> None:
        super().__init__(prompts, answer_length)
        _checks.tokens(items, "items", ndim=3)
        same_size(items, "items", prompts)
        same_size(_checks.tokens(count, "count", ndim=1), "count", prompts)
        least, most = int(count.min()), int(count.max())
        if least < 1 + new_order or most > items.shape[1]:
            raise ValueError(
                f"count must lie in {1 + new_order} ... {items.shape[1]}, "
                f"got {least} to {most}"
            )
        self.width = items.shape[2]
        if self.answer_length <= most * self.width:
            raise ValueError(
                f"answer_length must be at least {most * self.width + 1}, "
                f"got {answer_length}"
            )
        self.items = _checks.token_range(items[:, :most], "items", self.vocab_size)
        self.count = count
        self.real = torch.arange(most, device=items.device) < count[:, None]  # [B, N]
        same = (self.items[:, :, None] == self.items[:, None]).any(3).triu(1)
        if bool((same & self.real[:, None]).any()):
            raise ValueError("items must differ in every token within a row")
        self.new_order = new_order
        # The share of the given order among the (u - 1)! orders of u unused items in
        # which one of them has its given place: 1 / (u - 1)!, at u = 1 ... N.
        share = [1 / math.factorial(u) for u in range(most)]
        self.share = torch.tensor(share, dtype=torch.float64, device=items.device)

    def _evidence(
        self, answers: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the revealed tokens say.

        Returns
        -------
        Bool[R, N, N]
            Whether the tokens of a place (first) leave an item (second) possible.
        Bool[R, N]
            Whether a token of the place is revealed.
        Bool[R, N]
            Whether the item is not used yet.
        Bool[R]
            Whether an order of the items agrees with the evidence.
        """
        items, real = self.items[rows], self.real[rows]
        places = real.shape[1]
        fits = real[:, :, None] & real[:, None]
        named = torch.zeros_like(real)
        for j in range(self.width):
            token = answers[:, j : places * self.width : self.width]  # [R, N]
            shown = token != MASK
            fits = fits & (
                ~shown[..., None] | (token[..., None] == items[:, None, :, j])
            )
            named = named | shown
        named = named & real
        unused = real & ~(fits & named[..., None]).any(1)
        # Two places that name one item, or one that names none, leave too many unused.
        possible = unused.sum(1) == (real & ~named).sum(1)
        ended = ~self._inside(rows) & (answers != EOS) & (answers != MASK)
        return fits, named, unused, possible & ~ended.any(1)

    def _inside(self, rows: Tensor) -> Tensor:
        """Bool[R, A]: positions of the list, before the first ``<eos>``."""
        place = torch.arange(self.answer_length, device=rows.device)
        return place < self.count[rows, None] * self.width

    def conditionals(self, answers: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        fits, named, unused, possible = self._evidence(answers, rows)
        # Orders are counted in units of (u - 1)!, the orders with one more item placed.
        size = unused.sum(1).clamp(min=1)
        total = size.double()
        free = unused.double()[:, None] * self.real[rows, :, None]  # [R, place, item]
        if self.new_order:
            given = torch.eye(fits.shape[1], dtype=torch.bool, device=fits.device)
            still = (fits | ~(given & self.real[rows, None])).all(2).all(1)
            missing = still * self.share[size - 1]
            total = total - missing
            free = free - given * free * missing[:, None, None]
        fixed = fits * total[:, None, None]
        law = torch.where(named[..., None], fixed, free)
        mass = law.new_zeros(*answers.shape, self.vocab_size)
        items, end = self.items[rows], fits.shape[1] * self.width
        for j in range(self.width):
            token = items[:, None, :, j].expand_as(law)
            mass[:, j : end : self.width].scatter_add_(2, token, law)
        mass[..., EOS] += ~self._inside(rows) * total[:, None]
        return mass, torch.where(possible, total, 0.0)

    def log_prob(self, answers: Tensor) -> Tensor:
        self._check_answers(answers)
        rows = torch.arange(len(self), device=answers.device)
        fits, _, _, possible = self._evidence(answers, rows)
        valid = possible & (answers != MASK).all(1)
        if self.new_order:
            place = torch.arange(fits.shape[1], device=fits.device)
            valid = valid & (self.real & ~fits[:, place, place]).any(1)
        return torch.where(valid, -self.log_size(), -math.inf)

    def sample(self, generator: Generator | None = None) -> Tensor:
        order = self._orders(generator)
        if self.new_order:
            given = torch.arange(order.shape[1], device=order.device)
            while bool((kept := (order == given).all(1)).any()):
                order = torch.where(kept[:, None], self._orders(generator), order)
        order = order[..., None].expand_as(self.items)
        answers = self.prompts.new_full((len(self), self.answer_length), EOS)
        tokens = self.items.gather(1, order).flatten(1)
        answers[:, : tokens.shape[1]] = tokens
        rows = torch.arange(len(self), device=answers.device)
        return torch.where(self._inside(rows), answers, EOS)

    def _orders(self, generator: Generator | None) -> Tensor:
        """Long[B, N]: a random order of the row's items; the padding stays last."""
        keys = uniform(self.real.shape, generator, self.prompts.device)
        place = torch.arange(self.real.shape[1], device=keys.device)
        return torch.where(self.real, keys, 1.0 + place).argsort(1)

    def log_size(self) -> Tensor:
        log_orders = (self.count.double() + 1).lgamma()
        if self.new_order:
            log_orders = log_orders + torch.log1p(-(-log_orders).exp())
        return log_orders


def _repeats(support: Tensor, valid: Tensor) -> bool:
    """Whether two valid answers of a row are equal: two 64-bit hashes of them are."""
    weight = torch.full_like(support[0, 0], 0x5851F42D4C957F2D, dtype=torch.long)
    code = (support * weight.cumprod(0)).sum(2)  # wraps around modulo 2^64
    other = -1 - torch.arange(code.shape[1], device=code.device)
    code = torch.where(valid, code, other).sort(1).values
    return bool((code[:, 1:] == code[:, :-1]).any())
