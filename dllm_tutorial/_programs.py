"""The command line of every program that measures rows.

Rows go into the folder ``--out``. Into the package they go with ``--ship`` alone, and
only if they can be traced: all of them measured at one commit, with nothing changed
since.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dllm_tutorial import grid, study, training
from dllm_tutorial._files import write_whole
from dllm_tutorial.networks import Transformer

Study = tuple[Sequence[Mapping[str, Any]], grid.Measure]  # the cells, and what to do


def parser(description: str | None) -> argparse.ArgumentParser:
    """``--out`` and ``--ship``, and the module's text as help."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--out", type=Path, required=True, help="folder of the rows")
    found.add_argument(
        "--ship", action="store_true", help="put the rows into the package, too"
    )
    return found


def grid_parser(
    description: str | None, studies: Iterable[str]
) -> argparse.ArgumentParser:
    """The same for studies whose cells are measured by :func:`run_grids`."""
    found, names = parser(description), list(studies)
    found.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(names))
    found.add_argument("--workers", type=int, default=2, help="processes")
    found.set_defaults(known=names)
    return found


def parse(
    found: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Read the command line; what would fail at the end is refused at the start."""
    a = found.parse_args(arguments)
    for name in getattr(a, "studies", ()):
        if name not in a.known:
            found.error(f"STUDY must be one of {', '.join(a.known)}, got {name}")
    if a.ship and study.provenance("ship", ())["dirty"] is not False:
        found.error("--ship needs a checkout without changes: commit first")
    return a


def publish(
    a: argparse.Namespace,
    name: str,
    rows: pd.DataFrame | Iterable[Mapping[str, Any]],
    origin: Mapping[str, Any],
) -> None:
    """Write rows to ``--out`` and, with ``--ship``, into the package."""
    study.write_rows(a.out / f"{name}.csv", rows, origin)
    if a.ship:
        if origin.get("dirty") is not False:
            raise ValueError(
                "rows that ship must be of one commit without changes, but those of "
                f"{name} were measured at {origin.get('measured', [dict(origin)])}: "
                f"measure them again in another folder than {a.out}"
            )
        study.write_rows(study.RESULTS / f"{name}.csv", rows, origin)


def run_grids(
    a: argparse.Namespace,
    studies: Mapping[str, Study],
    *,
    command: str,
    cost: Callable[[grid.Cell], float],
    version: Callable[[Sequence[Mapping[str, Any]]], str | None] = lambda cells: None,
) -> None:
    """Measure what is not finished yet of the studies asked for, and publish the rows.

    ``version`` names what the rows of cells depend on beside their settings, such as
    shipped weights. Weights that a cell keeps (:func:`dllm_tutorial.grid.folder`) ship
    with the rows.
    """
    with grid.workers(a.workers) as pool:
        for name in a.studies or studies:
            cells, measure = studies[name]
            which = version(cells)
            folder = a.out / (f"{name}-{which}" if which else name)
            print(f"{name}: {len(cells)} cells", flush=True)
            rows = grid.run(
                cells,
                measure,
                folder,
                command=f"{command} {name} --out runs --ship",
                seeds=sorted({int(cell.get("seed", 0)) for cell in cells}),
                version=which,
                executor=pool,
                cost=cost,
            )
            publish(a, name, rows.round(6), rows.attrs)
            if a.ship:
                ship_weights(folder / "weights")


def keep(model: Transformer, cell: grid.Cell, wanted: bool) -> str:
    """The hash of the network that a cell has trained; it is kept if it is wanted.

    To the last bit: in half precision only what is rounded to it already.
    """
    folder = grid.folder()
    if wanted and folder is not None:
        study_name = folder.name.partition("-")[0]
        name = f"{study_name}-{grid.cell_seed(cell):x}"
        about = {"model": asdict(model.config), "cell": dict(cell)}
        path = folder / "weights" / f"{name}.json"
        weights = {
            name: value.half() if torch.equal(value.half().float(), value) else value
            for name, value in model.state_dict().items()
        }
        training.save_weights(path, weights, about)
    return training.fingerprint(model)


def begin(folder: Path, command: str, seed: int) -> None:
    """Note in the folder of a training where it runs, each time it is started."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "origin.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    text = json.dumps([*known, study.provenance(command, seed)])
    write_whole(path, text.encode())


def origin(folders: Iterable[Path]) -> dict[str, Any]:
    """The provenance of trainings, from what :func:`begin` noted.

    Raises ValueError where they cannot be traced to one commit without changes.
    """
    files = [folder / "origin.json" for folder in folders]
    starts = [s for f in files for s in json.loads(f.read_text(encoding="utf-8"))]
    places = {(s["commit"], s["dirty"]) for s in starts}
    if len(places) != 1 or not all(dirty is False for _, dirty in places):
        raise ValueError(
            "what ships must be trained at one commit without changes, but it was "
            f"trained at (commit, changed) = {sorted(map(str, places))}"
        )
    seeds = sorted({seed for s in starts for seed in s["seeds"]})
    return max(starts, key=lambda s: s["time"]) | {"seeds": seeds}


def ship_weights(folder: Path) -> None:
    """Copy kept weights, each a JSON file and the tensors it names, beside the rows."""
    if folder.is_dir():
        target = study.RESULTS / "networks"
        for old in target.glob(f"{folder.parent.name.partition('-')[0]}-*"):
            old.unlink()
        shutil.copytree(folder, target, dirs_exist_ok=True)
