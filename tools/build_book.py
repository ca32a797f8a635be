"""Build the web book: execute what changed, collect the sources, run Sphinx.

A notebook is executed again when its script, a module that it reaches by imports, a
data file that those read, or requirements.txt has changed. What was built is signed
when it is whole; what is missing, cut off or unsigned is made again. The committed
notebooks are not touched: results lie in _build/executed, the site in _build/html.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import jupytext

from derive import NOTEBOOKS
from environment import ROOT, read
from make_notebooks import execute, two_at_a_time

PACKAGE = ROOT / "dllm_tutorial"
BUILD = ROOT / "_build"
EXECUTED, SOURCE, HTML = BUILD / "executed", BUILD / "source", BUILD / "html"


# --- what a notebook depends on ----------------------------------------------


def code_of(script: Path) -> str:
    """The Python code of a percent script, without markdown and magics."""
    cells = jupytext.read(script).cells
    lines = "\n".join(c.source for c in cells if c.cell_type == "code").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def imported_names(code: str, package: str) -> set[str]:
    """Dotted names that ``code`` imports; ``package`` resolves relative imports."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def module_files(name: str, root: Path) -> set[Path]:
    """Files that importing ``name`` runs: its own and those of its parent packages."""
    parts = name.split(".")
    files = set()
    for size in range(1, len(parts) + 1):
        stem = root.joinpath(*parts[:size])
        files |= {stem.with_suffix(".py"), stem / "__init__.py"}
    return {file for file in files if file.is_file()}


def reached(code: str) -> set[Path]:
    """Modules of the package that ``code`` imports, directly or through others."""
    root, found = PACKAGE.parent, set()
    waiting = [(code, "")]
    while waiting:
        text, parent = waiting.pop()
        for name in imported_names(text, parent):
            if name.split(".")[0] != PACKAGE.name:
                continue
            for file in module_files(name, root) - found:
                found.add(file)
                inside = ".".join(file.relative_to(root).parent.parts)
                waiting.append((read(file), inside))
    return found


def words(code: str) -> set[str]:
    """The parts, split at slashes, of all string constants in ``code``."""
    constants = (n.value for n in ast.walk(ast.parse(code)) if type(n) is ast.Constant)
    return {part for c in constants if isinstance(c, str) for part in c.split("/")}


def data_files(codes: Iterable[str]) -> set[Path]:
    """Package data that any of ``codes`` reads.

    Who reads a file under data/ has to name the first part of its path (a folder, such
    as "results", or the file); then it may read all of that folder.
    """
    named = set().union(*map(words, codes))
    data = {f for f in (PACKAGE / "data").rglob("*") if f.is_file()}
    assets = {f for f in PACKAGE.iterdir() if f.suffix in {".js", ".css"}}
    return {f for f in data if f.relative_to(PACKAGE / "data").parts[0] in named} | {
        f for f in assets if f.name in named
    }


def digest(files: Iterable[Path]) -> str:
    """One hash over names and contents."""
    total = hashlib.sha256(platform.python_version().encode())
    for file in sorted(files):
        total.update(str(file.relative_to(ROOT)).encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def key_of(script: Path) -> str:
    """Changes when, and only when, the notebook has to be executed again."""
    code = code_of(script)
    modules = reached(code)
    data = data_files([code, *(read(module) for module in modules)])
    return digest({script, ROOT / "requirements.txt"} | modules | data)


# --- the build ---------------------------------------------------------------


def signature(key: str, made: Path) -> bytes:
    """``key``, and a hash of the file or the folder that was made for it."""
    files = made.rglob("*") if made.is_dir() else [made]
    return f"{key} {digest(filter(Path.is_file, files))}".encode()


def is_whole(stamp: Path, key: str, made: Path) -> bool:
    return stamp.is_file() and stamp.read_bytes() == signature(key, made)


def execute_changed() -> None:
    """Bring _build/executed up to date, two notebooks at a time."""
    scripts = sorted(NOTEBOOKS.glob("*.py"))
    keys = {script.stem: key_of(script) for script in scripts}

    def files(script: Path) -> tuple[Path, str, Path]:
        """The stamp of a notebook, its key, and the notebook."""
        name = script.stem
        return EXECUTED / f"{name}.key", keys[name], EXECUTED / f"{name}.ipynb"

    def work(script: Path) -> None:
        stamp, key, notebook = files(script)
        execute(script, notebook)
        stamp.write_bytes(signature(key, notebook))

    stale = [script for script in scripts if not is_whole(*files(script))]
    print(f"Notebooks: {len(stale)} of {len(scripts)} to execute", flush=True)
    EXECUTED.mkdir(parents=True, exist_ok=True)
    two_at_a_time(work, stale)


def collect_sources() -> None:
    """Lay out what Jupyter Book reads: settings, prose, executed notebooks."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "book", SOURCE / "book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, SOURCE / name)
    (SOURCE / "notebooks").mkdir()
    for script in NOTEBOOKS.glob("*.py"):
        shutil.copy2(EXECUTED / f"{script.stem}.ipynb", SOURCE / "notebooks")


def site_key() -> str:
    """Covers all that a page can depend on: the sources and the package."""
    files = {file for file in SOURCE.rglob("*") if file.is_file()}
    files |= {f for f in PACKAGE.rglob("*") if f.is_file() and f.suffix != ".pyc"}
    return digest(files | {ROOT / "requirements.txt"})


def build_site() -> None:
    """Run Jupyter Book with warnings as errors, from scratch if anything changed.

    Not incremental: Sphinx would not repeat the warnings of a page that it keeps.
    """
    stamp, key = BUILD / "html.key", site_key()
    if is_whole(stamp, key, HTML):
        print("Site: nothing changed", flush=True)
        return
    stamp.unlink(missing_ok=True)
    for old in (HTML, BUILD / ".doctrees", BUILD / ".jupyter_cache"):
        shutil.rmtree(old, ignore_errors=True)
    print("Site: building", flush=True)
    run_sphinx()
    stamp.write_bytes(signature(key, HTML))


def run_sphinx() -> None:
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    where = ["build", SOURCE, "--path-output", ROOT]
    strict = ["-W", "-n", "--keep-going"]
    if subprocess.run([jupyter_book, *where, *strict]).returncode:
        raise RuntimeError("The site did not build; the warnings above say why.")


def main() -> None:
    started = time.monotonic()
    try:
        execute_changed()
        collect_sources()
        build_site()
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    print(f"Built in {time.monotonic() - started:.0f} s.")
    print(f"The book is ready. Open {HTML / 'index.html'}")


if __name__ == "__main__":
    main()
