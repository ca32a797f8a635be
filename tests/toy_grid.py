"""A grid whose cells leave a trace, and a program that runs it, for test_grid.py.

``python tests/toy_grid.py FOLDER TABLE`` measures the grid in a worker process, keeps
its cells in FOLDER and writes its rows to TABLE. It is there to be killed.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

from dllm_tutorial import grid, study

LOG = "TOY_GRID_LOG"  # environment variable: the file that cells are logged in
PAUSE = "TOY_GRID_PAUSE"  # environment variable: seconds that a cell takes

CELLS = grid.product(
    lambda cell: cell["k"] <= cell["n"],
    task=["sort", "shuffle"],
    n=[3, 4, 6],
    k=[1, 2, 4, 6],
    temperature=[0.0, 0.1 + 0.2],
)


def measure(cell):
    """Rows that the cell alone decides: numbers of all kinds, missing ones too."""
    if LOG in os.environ:
        with open(os.environ[LOG], "ab") as file:  # one write: lines do not mix
            file.write(f"{sorted(cell.items())}\n".encode())
    time.sleep(float(os.environ.get(PAUSE, 0)))
    rng = np.random.default_rng(grid.cell_seed(cell, exclude=["k"]))
    return [
        {
            "repeat": repeat,
            "score": rng.random(),
            "seed": grid.cell_seed(cell, repeat),
            "steps": None if repeat else cell["k"],
            "lost": float("nan"),
            "note": 'a "quoted",\nbroken line \N{GREEK SMALL LETTER GAMMA}',
        }
        for repeat in range(1 + cell["k"] % 2)
    ]


def measure_or_fail(cell):
    """Every third cell cannot be measured."""
    if CELLS.index(cell) % 3 == 0:
        raise ArithmeticError(f"no luck with {cell['task']}")
    return measure(cell)


def main() -> None:
    folder, table = sys.argv[1:]
    with grid.workers(1) as pool:
        rows = grid.run(
            CELLS,
            measure,
            folder,
            command="python tests/toy_grid.py",
            seeds=0,
            executor=pool,
            in_flight=3,
            progress=False,
        )
    study.write_rows(table, rows, rows.attrs)


if __name__ == "__main__":
    main()
