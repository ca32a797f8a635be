"""Make the environment that a command runs in, or see that it is there.

``python tools/environment.py``         .venv: the book, at requirements.txt
``python tools/environment.py colab``   .venv-colab: the package as Colab runs it
``python tools/environment.py lowest``  .venv-lowest: the package at its lower bounds

The first needs nothing but a Python, the others the first. A stamp in the environment,
written last, says what it was made of. Without the stamp the installation has not come
to its end, and with another Python or folder in it the environment is of no use: it is
made anew. With other requirements they are installed into it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "pyproject.toml"
BASE = os.path.realpath(sys._base_executable)  # also where this runs in an environment
TOOLS = ["distributed", "hypothesis", "ipykernel", "mpmath", "pytest", "pytest-xdist"]


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def prepare(
    folder: Path,
    key: Sequence[str],
    install: Callable[[], None],
    python: str = BASE,
    choose: Callable[[], str] = lambda: BASE,
) -> None:
    """Bring an environment up to date.

    It is made anew by the Python that ``choose`` finds where ``python``, what that
    choice depends on, has changed; ``install`` runs again where ``key`` has.
    """
    stamp = folder / ".ready"
    made_of = [hashed(f"{sys.version} {python} {folder}"), hashed(" ".join(key))]
    whole = stamp.is_file() and python_of(folder).exists()
    old = stamp.read_bytes().decode(errors="replace").split() if whole else []
    if old == made_of:
        return
    if old[:1] != made_of[:1]:
        if folder.exists():
            print(
                f"{folder.name}: of another Python, or unfinished; made anew",
                flush=True,
            )
            shutil.rmtree(folder)
        try:
            run(choose(), "-m", "venv", folder)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    stamp.unlink(missing_ok=True)
    install()
    stamp.write_text("\n".join(made_of), encoding="utf-8")


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def is_of(folder: Path, base: str) -> bool:
    return os.path.realpath(python_of(folder)) == base


def pip_install(folder: Path, *arguments: str | Path) -> None:
    run(python_of(folder), "-m", "pip", "install", *arguments)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """The lines ``package==version`` of a file of requirements, by package."""
    found = re.findall(r"^\S+==\S+", read(ROOT / name), re.M)
    return {pin.split("==")[0]: pin for pin in found}


def add_kernel(folder: Path, name: str) -> None:
    """Let a notebook be run in the environment, by the first one's tools."""
    kernel = ["ipykernel", "install", "--prefix", folder, "--name", name]
    run(python_of(folder), "-m", *kernel)


def bounds() -> list[str]:
    """What the package requires, as in pyproject.toml: ``package>=version``."""
    return tomllib.loads(read(PROJECT))["project"]["dependencies"]


# --- the three environments ---------------------------------------------------


def main_environment() -> None:
    folder, wanted = ROOT / ".venv", ROOT / "requirements.txt"

    def install() -> None:
        pip_install(folder, "-r", wanted)
        pip_install(folder, "--no-deps", "-e", ROOT)

    prepare(folder, [read(wanted), read(PROJECT)], install)


def colab() -> None:
    """Colab's packages and a kernel; then this tree's package, from a wheel."""
    folder = ROOT / ".venv-colab"
    wanted = pins("tools/colab.txt")
    torch = wanted.pop("torch")
    python = shutil.which(os.environ.get("COLAB_PYTHON", "python3.13")) or BASE

    def choose() -> str:
        return python if has_torch(python, torch) else BASE

    def install() -> None:
        if is_of(folder, BASE):
            borrow(folder, torch_links(folder))
        else:
            pip_install(folder, for_cpu(torch))
        pip_install(folder, *wanted.values())
        add_kernel(folder, "colab")

    key = [torch, *wanted.values(), metadata.version("torch")]
    prepare(folder, key, install, f"{BASE} {python}", choose)
    # Not editable, and no files of the repository but those that a wheel takes along.
    # Colab's versions are named once more: no requirement of ours may move them.
    with tempfile.TemporaryDirectory() as scratch:
        package = wheel(Path(scratch))
        run(python_of(folder), "-m", "pip", "uninstall", "-qqy", "dllm-tutorial")
        pip_install(folder, "-q", package, *wanted.values())


def lowest() -> None:
    """Every ``>=`` of pyproject.toml becomes ``==``; torch alone is the first one's.

    The package is the tree itself, as in the first environment.
    """
    folder = ROOT / ".venv-lowest"
    own = [b.replace(">=", "==") for b in bounds() if not b.startswith("torch>")]
    tools = [pins("requirements.txt")[name] for name in TOOLS]

    def install() -> None:
        borrow(folder, torch_links(folder), ROOT)
        pip_install(folder, "--only-binary", ":all:", *own, *tools)
        add_kernel(folder, "lowest")

    prepare(folder, [*own, *tools, metadata.version("torch")], install)


# --- torch --------------------------------------------------------------------


def for_cpu(torch: str) -> str:
    """The requirement of a build without CUDA; outside Linux none has it."""
    return f"{torch}+cpu" if sys.platform == "linux" else torch


def has_torch(python: str, torch: str) -> bool:
    """Does it run, and does its pip find a torch for CPUs?"""
    ask = ["-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary", ":all:"]
    found = subprocess.run([python, *ask, for_cpu(torch)], capture_output=True)
    return found.returncode == 0


def torch_links(folder: Path) -> Path:
    """A folder of links to this environment's torch and all that it requires.

    It lies beside ``folder``: inside, pip would take the packages for its own.
    """
    links = folder.with_name(f"{folder.name}-torch")
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    waiting, known = ["torch"], set()
    while waiting:
        name = waiting.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another platform
            continue
        known.add(name)
        required = [r for r in found.requires or [] if "extra ==" not in r]
        names = {re.match(r"[\w.-]+", r)[0] for r in required}
        waiting += names - known
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            (links / top).unlink(missing_ok=True)
            (links / top).symlink_to(found.locate_file(top))
    return links


def borrow(folder: Path, *places: Path) -> None:
    """Let an environment import what lies in ``places``, after what is its own."""
    (site,) = (folder / "lib").glob("python*/site-packages")
    lines = "".join(f"{place}\n" for place in places)
    (site / "borrowed.pth").write_text(lines, encoding="utf-8")


# --- the package --------------------------------------------------------------


def wheel(scratch: Path) -> Path:
    """Build the package from a copy: a folder build/ of old files would get in."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, scratch)
    shutil.copytree(ROOT / "dllm_tutorial", scratch / "dllm_tutorial")
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "-q", "--no-deps", "-w", scratch, scratch)
    (built,) = scratch.glob("*.whl")
    return built


def main() -> None:
    os.environ.pop("PYTHONPATH", None)  # an environment has its own packages alone
    makers = {"main": main_environment, "colab": colab, "lowest": lowest}
    try:
        makers[sys.argv[1] if sys.argv[1:] else "main"]()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"Not installed: {error}") from None


if __name__ == "__main__":
    main()
