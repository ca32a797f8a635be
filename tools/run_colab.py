"""Run notebooks as a reader on Colab does, one after the other, and say how long.

``python tools/run_colab.py [NAME ...]`` runs them in the environment that
``python tools/environment.py colab`` makes, each in an empty folder, and keeps nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from derive import NOTEBOOKS, ROOT
from make_notebooks import execute

MINUTE = 60  # what a chapter may take, alone on two cores


def main() -> None:
    os.environ.pop("PYTHONPATH", None)  # the kernel imports what is installed
    os.environ["JUPYTER_PATH"] = str(ROOT / ".venv-colab/share/jupyter")
    names = sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
    verdicts = {}
    for name in names:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "executed.ipynb"
            try:
                execute(NOTEBOOKS / f"{name}.py", target, kernel="colab")
            except RuntimeError as error:
                print(error, flush=True)
                verdicts[name] = "FAILED"
                continue
        seconds = time.monotonic() - started
        late = " (OVER A MINUTE)" if seconds > MINUTE else ""
        verdicts[name] = f"{seconds:.0f} s{late}"
    for name, verdict in verdicts.items():
        print(f"{name:30} {verdict}")
    if failed := [name for name, verdict in verdicts.items() if verdict == "FAILED"]:
        raise SystemExit(f"With Colab's versions {len(failed)} stop: {failed}")


if __name__ == "__main__":
    main()
