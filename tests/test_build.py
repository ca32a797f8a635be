"""What makes a notebook execute again, and what does not."""

from __future__ import annotations

import pytest

import build_book


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small book: two notebooks, four modules, two kinds of data."""
    files = {
        "notebooks/one.py": "# %%\nfrom toy import near\n# %pip install x\n",
        "notebooks/two.py": "# %%\nimport toy.sub.deep as deep\n",
        "toy/__init__.py": "",
        "toy/near.py": "from toy import base\n",
        "toy/base.py": "from importlib import resources\n",
        "toy/sub/__init__.py": "from . import deep\nfrom ..sub import tools\n",
        "toy/sub/deep.py": "def load(path):\n    return path / 'data' / 'results'\n",
        "toy/sub/tools.py": "STYLE = 'toy.css'\n",
        "toy/alone.py": "",
        "toy/toy.css": "",
        "toy/data/results/rows.csv": "1",
        "toy/data/weights/w.bin": "2",
        "requirements.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(build_book, "ROOT", tmp_path)
    monkeypatch.setattr(build_book, "PACKAGE", tmp_path / "toy")
    return tmp_path


def keys(project):
    return {name: build_book.key_of(project / f"notebooks/{name}.py") for name in NAMES}


NAMES = ("one", "two")


@pytest.mark.parametrize(
    "changed, stale",
    [
        ("notebooks/one.py", {"one"}),
        ("toy/near.py", {"one"}),
        ("toy/base.py", {"one"}),  # through near
        ("toy/__init__.py", {"one", "two"}),  # every import runs it
        ("toy/sub/__init__.py", {"two"}),  # a parent package
        ("toy/sub/tools.py", {"two"}),  # a relative import of the parent
        ("toy/toy.css", {"two"}),
        ("toy/data/results/rows.csv", {"two"}),
        ("toy/data/weights/w.bin", set()),  # nobody reads it
        ("toy/alone.py", set()),
        ("requirements.txt", {"one", "two"}),
    ],
)
def test_a_change_reaches_what_depends_on_it(project, changed, stale):
    before = keys(project)
    assert keys(project) == before
    path = project / changed
    path.write_text(path.read_text() + "\n# changed\n")
    after = keys(project)
    assert {name for name in NAMES if after[name] != before[name]} == stale


def test_only_stale_notebooks_are_executed(project, monkeypatch):
    """A second build executes nothing, a changed module only its notebook."""
    executed = []

    def execute(source, target):
        executed.append(source.stem)
        target.write_text("{}")

    monkeypatch.setattr(build_book, "NOTEBOOKS", project / "notebooks")
    monkeypatch.setattr(build_book, "EXECUTED", project / "_build/executed")
    monkeypatch.setattr(build_book, "execute", execute)
    build_book.execute_changed()
    assert sorted(executed) == ["one", "two"]
    build_book.execute_changed()
    assert len(executed) == 2
    (project / "toy/near.py").write_text("")
    build_book.execute_changed()
    assert executed[2:] == ["one"]


def test_a_failed_notebook_stays_stale(project, monkeypatch):
    def fail(source, target):
        raise RuntimeError("a cell raised")

    monkeypatch.setattr(build_book, "NOTEBOOKS", project / "notebooks")
    monkeypatch.setattr(build_book, "EXECUTED", project / "_build/executed")
    monkeypatch.setattr(build_book, "execute", fail)
    with pytest.raises(RuntimeError, match="a cell raised"):
        build_book.execute_changed()
    assert not list((project / "_build/executed").glob("*.key"))


def test_a_real_chapter_depends_on_the_modules_it_imports():
    """On the real package: joints need the checks, and no network."""
    code = "from dllm_tutorial import joints"
    names = {path.name for path in build_book.reached(code)}
    assert {"__init__.py", "joints.py", "_checks.py"} <= names
    assert "networks.py" not in names
