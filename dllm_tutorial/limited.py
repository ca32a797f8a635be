"""A denoiser that knows the rules of a puzzle but does not think ahead.

The exact denoiser of a puzzle with one solution knows every cell at once. This one
writes pencil marks, as a beginner does: a cell may hold any symbol that its row, column
and box do not show yet. It stands for a model that has learned the local constraints
and nothing beyond; what it knows about a cell depends on which cells are filled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _checks, _random
from .denoiser import FunctionDenoiser
from .joints import TableJoint

__all__ = ["pencil_marks", "unique_puzzles"]

_EXCLUDED = -60.0  # logit of a symbol seen nearby; finite: a cell may have none left


def pencil_marks(box: int = 2) -> FunctionDenoiser:
    """Uniform over the symbols that row, column and box leave, Sudoku of order box^2.

    A cell whose symbols are all taken, which a wrong guess can cause, is uniform.
    """
    _checks.integer(box, "box", 1)
    side = box * box
    cell = torch.arange(side * side)
    row, column = cell // side, cell % side
    square = row // box * box + column // box
    near = torch.stack([line[:, None] == line for line in (row, column, square)]).any(0)
    near = near & ~torch.eye(side * side, dtype=torch.bool)

    def logits(x: Tensor) -> Tensor:
        shown = x[..., None] == torch.arange(side, device=x.device)  # [B, L, V]
        seen = _random.move(near, x.device).double() @ shown.double() > 0
        return torch.where(seen, _EXCLUDED, 0.0).double()

    return FunctionDenoiser(logits, side)


def unique_puzzles(
    joint: TableJoint, n: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """``n`` puzzles with one solution each, as few clues as a random removal leaves.

    Cells of a random grid are masked one after another in random order, unless a
    second solution would appear.

    Returns
    -------
    puzzles, solutions : Long[n, L]
    """
    _checks.integer(n, "n", 1)
    grids = joint.support[joint.probs > 0]
    solutions = joint.sample(n, generator)
    puzzles = solutions.clone()
    order = torch.rand(solutions.shape, generator=generator).argsort(-1)
    order = _random.move(order, joint.device)
    for cells in order.T:  # one cell of every puzzle at a time
        trial = puzzles.scatter(1, cells[:, None], joint.mask_id)
        agrees = (trial[:, None] == grids) | (trial == joint.mask_id)[:, None]
        one = agrees.all(-1).sum(1) == 1
        puzzles = torch.where(one[:, None], trial, puzzles)
    return puzzles, solutions
