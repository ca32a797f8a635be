"""Measurements of chapter 4 that need many draws.

``python -m dllm_tutorial.strategies_study --out runs`` measures the rows
``strategies_exact`` again, in a minute or two on one CPU thread; with ``--ship`` they
go into the package, too. The chapter calls the same functions with fewer draws.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

import dllm_tutorial

from . import _programs, joints, limited, schedules, study
from .decoding import Strategy, generate, strategies
from .denoiser import Denoiser
from .joints import TableJoint

__all__ = ["blocks", "copied_pairs", "revision", "sudoku"]

Row = dict[str, Any]


def copied_pairs(pairs: int, apart: int = 1) -> TableJoint:
    """Fair coins, each written twice, the copy ``apart`` positions after its coin.

    ``apart`` divides ``pairs``: coins and copies alternate in runs of ``apart``.
    """
    coins = torch.tensor(list(itertools.product((0, 1), repeat=pairs)))
    runs = coins.view(-1, pairs // apart, 1, apart).expand(-1, -1, 2, -1)
    return TableJoint(runs.reshape(len(coins), 2 * pairs), None, 2)


def _decode(
    denoiser: Denoiser,
    x: Tensor,
    strategy: Strategy,
    seed: int,
    temperature: float = 1.0,
    **options: Any,
):
    """Decode ``x: Long[B, L]``; the same seeds for every rule."""
    generator = torch.Generator().manual_seed(seed)
    return generate(
        denoiser,
        x,
        strategy,
        temperature=temperature,
        generator=generator,
        **options,
    )


def _possible(joint: TableJoint, states: Tensor) -> Tensor:
    """Bool[...]: whether partly masked ``states: Long[..., L]`` can be completed."""
    unique, place = torch.unique(states.flatten(0, -2), dim=0, return_inverse=True)
    agrees = (unique[:, None] == joint.support) | (unique == joint.mask_id)[:, None]
    return agrees.all(-1).any(1)[place].view(states.shape[:-1])


# --------------------------------------------------------------------------- revision

REVISING = {
    "random": lambda n: strategies.random_top_k(steps=n),
    "ancestral": lambda n: strategies.ancestral(schedules.Linear(), n),
    "remdm_cap": lambda n: strategies.remdm_cap(schedules.Linear(), n, eta=0.1),
    "remdm_rescale": lambda n: strategies.remdm_rescale(schedules.Linear(), n, eta=0.5),
    "remdm_conf": lambda n: strategies.remdm_conf(schedules.Linear(), n),
    "remdm_loop": lambda n: strategies.remdm_loop(n, eta=0.1),
    "rcr": lambda n: strategies.rcr(n),
    "p2": lambda n: strategies.p2(n, eta=2.0),
}

EXACT = {
    "Shuffle": lambda: joints.shuffle(6),
    "Replace Random": lambda: joints.replace_random(6),
    "copied pairs": lambda: copied_pairs(4),
}


def revision(
    draws: int, steps: Iterable[int], seed: int, tasks: Iterable[str] = tuple(EXACT)
) -> list[Row]:
    """Valid answers at temperature 1, rules with and without revision.

    ``broken`` counts the answers that passed through a state of probability zero,
    ``repaired`` those of them that were valid at the end.
    """
    rows = []
    for task, budget in itertools.product(tasks, steps):
        joint = EXACT[task]().to(dllm_tutorial.device())
        x = torch.full((draws, joint.length), joint.mask_id, device=joint.device)
        for rule, make in REVISING.items():
            out = _decode(joint, x, make(budget), seed, record=True)
            possible = _possible(joint.table(), out.history.states)
            broken, valid = ~possible.all(0), possible[-1]
            rows.append(
                {
                    "exhibit": "revision",
                    "task": task,
                    "rule": rule,
                    "temperature": 1,
                    "setting": budget,
                    "successes": int(valid.sum()),
                    "draws": draws,
                    "nfe": out.nfe.double().mean().item(),
                    "broken": int(broken.sum()),
                    "repaired": int((broken & valid).sum()),
                }
            )
    return rows


# ----------------------------------------------------------------------------- sudoku

TOP_K = {
    "random": strategies.random_top_k,
    "left_to_right": strategies.left_to_right,
    "confidence": strategies.confidence_top_k,
}


def sudoku(draws: int, ks: Iterable[int], seed: int) -> list[Row]:
    """Puzzles with one solution, solved by pencil marks, k cells a step, greedy."""
    puzzles, solutions = _puzzles(draws, seed)
    rows = []
    for k, (rule, make) in itertools.product(ks, TOP_K.items()):
        out = _decode(limited.pencil_marks(), puzzles, make(k), seed, 0.0)
        solved = (out.sequences == solutions).all(1)
        rows.append(_row("sudoku", "pencil marks", rule, 0, k, solved, out))
    return rows


def _puzzles(draws: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return limited.unique_puzzles(
        joints.sudoku().to(dllm_tutorial.device()), draws, generator
    )


def _row(exhibit, task, rule, temperature, setting, success, out) -> Row:
    return {
        "exhibit": exhibit,
        "task": task,
        "rule": rule,
        "temperature": temperature,
        "setting": setting,
        "successes": int(success.sum()),
        "draws": len(success),
        "nfe": out.nfe.double().mean().item(),
    }


# ----------------------------------------------------------------------------- blocks


def blocks(draws: int, seed: int) -> list[Row]:
    """Valid answers against block length, the total number of steps held fixed.

    Copied pairs: 8 tokens in 4 steps at temperature 1, copies next to their coin or 4
    places on. Sudoku by pencil marks: one cell a step, greedy.
    """
    rows = []
    for task, joint in (
        ("copy next to its coin", copied_pairs(4)),
        ("copy 4 places on", copied_pairs(4, apart=4)),
    ):
        joint = joint.to(dllm_tutorial.device())
        x = torch.full((draws, joint.length), joint.mask_id, device=joint.device)
        for length, (rule, make) in itertools.product((2, 4, 8), TOP_K.items()):
            out = _decode(joint, x, make(steps=4), seed, block_length=length)
            valid = _possible(joint, out.sequences)
            rows.append(_row("blocks", task, rule, 1, length, valid, out))
    puzzles, solutions = _puzzles(draws, seed)
    for length, (rule, make) in itertools.product((4, 8, 16), TOP_K.items()):
        model = limited.pencil_marks()
        out = _decode(model, puzzles, make(1), seed, 0.0, block_length=length)
        solved = (out.sequences == solutions).all(1)
        rows.append(_row("blocks", "Sudoku", rule, 0, length, solved, out))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Write the rows that the chapter shows."""
    a = _programs.parse(_programs.parser(__doc__), arguments)
    command = "python -m dllm_tutorial.strategies_study --out runs --ship"
    origin = study.provenance(command, 0)  # of the code that measures
    torch.set_num_threads(1)
    rows = revision(4000, (1, 2, 3, 4, 6, 12, 24), 0)
    rows += sudoku(3000, (1, 2, 3, 4, 6, 8, 12), 0)
    rows += blocks(3000, 0)
    _programs.publish(a, "strategies_exact", rows, origin)


if __name__ == "__main__":
    main()
