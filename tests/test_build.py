"""What makes a notebook execute again, what mends a build, and what does not."""

from __future__ import annotations

import shutil

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
        "book/intro.md": "# A book",
        "_config.yml": "",
        "_toc.yml": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
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
    path.write_text(build_book.read(path) + "\n# changed\n", encoding="utf-8")
    after = keys(project)
    assert {name for name in NAMES if after[name] != before[name]} == stale


@pytest.fixture
def made(project, monkeypatch):
    """Tools that do no work, on the small book; the list says what they did."""
    log = []

    def execute(source, target):
        log.append(source.stem)
        target.write_text(f"all of {source.stem}", encoding="utf-8")

    def run_sphinx():
        log.append("site")
        for page in build_book.SOURCE.rglob("*.*"):
            copy = build_book.HTML / page.relative_to(build_book.SOURCE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(b"a page of " + page.read_bytes())

    build = project / "_build"
    places = {"EXECUTED": "executed", "SOURCE": "source", "HTML": "html"}
    monkeypatch.setattr(build_book, "NOTEBOOKS", project / "notebooks")
    monkeypatch.setattr(build_book, "BUILD", build)
    for name, folder in places.items():
        monkeypatch.setattr(build_book, name, build / folder)
    monkeypatch.setattr(build_book, "execute", execute)
    monkeypatch.setattr(build_book, "run_sphinx", run_sphinx)
    return log


def built(project):
    """All files below _build after a build."""
    build_book.main()
    files = [path for path in (project / "_build").rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


def test_only_stale_notebooks_are_executed(project, made):
    """A second build makes nothing, a changed module only its notebook and the site."""
    built(project)
    assert sorted(made) == ["one", "site", "two"]
    built(project)
    assert len(made) == 3
    (project / "toy/near.py").write_text("", encoding="utf-8")
    built(project)
    assert made[3:] == ["one", "site"]


DAMAGE = {
    "lost": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "garbage": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name, again",
    [
        ("executed/one.ipynb", "one"),
        ("executed/one.key", "one"),
        ("html/book/intro.md", "site"),
        ("html/notebooks/two.ipynb", "site"),
        ("html.key", "site"),
    ],
)
def test_a_damaged_build_is_mended(project, made, name, again, damage):
    whole = built(project)
    del made[:]
    DAMAGE[damage](project / "_build" / name)
    assert built(project) == whole
    assert made == [again]


@pytest.mark.parametrize("folder", ["executed", "source", "html", ""])
def test_a_lost_folder_is_made_again(project, made, folder):
    whole = built(project)
    shutil.rmtree(project / "_build" / folder)
    assert built(project) == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("tool", ["execute", "run_sphinx"])
def test_what_was_interrupted_is_made_again(project, made, monkeypatch, tool, error):
    """In the middle, with a file half written: the next build is as a first one."""
    whole = built(project)
    shutil.rmtree(project / "_build")

    def stop(*paths):
        half = paths[1] if paths else build_book.HTML / "book/intro.md"
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"a")
        raise error("stopped")

    with monkeypatch.context() as broken:
        broken.setattr(build_book, tool, stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            build_book.main()
    assert built(project) == whole


def test_a_real_chapter_depends_on_the_modules_it_imports():
    """On the real package: joints need the checks, and no network."""
    code = "from dllm_tutorial import joints"
    names = {path.name for path in build_book.reached(code)}
    assert {"__init__.py", "joints.py", "_checks.py"} <= names
    assert "networks.py" not in names
