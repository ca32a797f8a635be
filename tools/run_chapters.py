"""Run the chapters with other versions, one after the other, and say how long.

``python tools/run_chapters.py ENVIRONMENT [NAME ...]`` runs all of them, or those that
are named, in an environment of tools/environment.py; each in a folder that is empty
before and gone after.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from derive import NOTEBOOKS
from environment import ROOT
from make_notebooks import execute

MINUTE = 60  # what a chapter may take, alone on two cores


def run_chapter(name: str, kernel: str) -> str:
    """How long it took, or that it did not come to its end."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            execute(NOTEBOOKS / f"{name}.py", Path(folder) / "executed.ipynb", kernel)
        except RuntimeError as error:
            print(error, flush=True)
            return "FAILED"
    seconds = time.monotonic() - started
    return f"{seconds:.0f} s{' (OVER A MINUTE)' if seconds > MINUTE else ''}"


def main() -> None:
    environment, *names = sys.argv[1:]
    os.environ.pop("PYTHONPATH", None)  # the kernel imports what is installed
    os.environ["JUPYTER_PATH"] = str(ROOT / f".venv-{environment}/share/jupyter")
    names = names or sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
    said = {name: run_chapter(name, environment) for name in names}
    for name, words in said.items():
        print(f"{name:30} {words}")
    if failed := [name for name, words in said.items() if words == "FAILED"]:
        raise SystemExit(f"In .venv-{environment} these stop: {', '.join(failed)}")


if __name__ == "__main__":
    main()
