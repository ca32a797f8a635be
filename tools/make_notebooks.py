"""Make notebooks from their scripts, in place: shared cells, execution, clean-up.

``python tools/make_notebooks.py``              all notebooks
``python tools/make_notebooks.py 02_schedules`` one of them
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat

from derive import NOTEBOOKS, fill_source
from dllm_tutorial._files import write_whole
from environment import read

# Clocks, paths and language versions that papermill and the kernel write down.
VOLATILE = (
    "metadata.papermill metadata.language_info "
    "cell.metadata.papermill cell.metadata.execution"
)


def run(*command: str) -> None:
    """Run a Python tool; on failure show the end of what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)}\n{(done.stdout + done.stderr)[-4000:]}"
        )


def execute(source: Path, target: Path, kernel: str = "python3") -> None:
    """Execute the percent script ``source`` in an empty folder, write ``target``.

    The parameters are those of the script: PROFILE = "smoke". ``python3`` is the kernel
    of the environment that this runs in.
    """
    started = time.monotonic()
    print(f"  {source.stem}: running", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.ipynb", Path(folder) / "after.ipynb"
        jupytext.write(jupytext.read(source), before)
        where = ["--kernel", kernel, "--cwd", folder, "--no-progress-bar"]
        run("papermill", *where, str(before), str(after))
        clean(after)
        write_whole(target, after.read_bytes())
    print(f"  {source.stem}: done in {time.monotonic() - started:.0f} s", flush=True)


def join_streams(path: Path) -> None:
    """Put the printed pieces of a cell together; a clock decides where they break."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        joined: list[nbformat.NotebookNode] = []
        for output in cell.get("outputs", []):
            last = joined[-1] if joined else {}
            if output.get("name") and output.get("name") == last.get("name"):
                last["text"] += output.text
            else:
                joined.append(output)
        if cell.cell_type == "code":
            cell.outputs = joined
    nbformat.write(notebook, path)


def clean(path: Path) -> None:
    """Drop what differs from run to run though nothing changed."""
    join_streams(path)
    keep = ["--keep-output", "--keep-count"]
    run("nbstripout", *keep, "--extra-keys", VOLATILE, str(path))


def two_at_a_time(work, items) -> None:
    """Call ``work`` on every item, two at a time; raise the first error."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        for future in [pool.submit(work, item) for item in items]:
            future.result()


def refresh(name: str) -> None:
    """Update the shared cells of the script and make its notebook anew."""
    script = NOTEBOOKS / f"{name}.py"
    text = fill_source(script)
    if read(script) != text:
        script.write_text(text, encoding="utf-8")
    execute(script, script.with_suffix(".ipynb"))


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
    try:
        two_at_a_time(refresh, names)
    except RuntimeError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
