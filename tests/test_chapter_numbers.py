"""Chapters carry the number of their file on every page of a small book.

The book has the chapters 1, 2 and 5, and a page of theory that refers to them. It is
built twice: with Sphinx's own table of contents, and with the extensions by which
Jupyter Book reads ``_toc.yml``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = {1: "01_one", 2: "02_two", 5: "05_five"}

CHAPTER = """\
.. _chapter-{number}:

Title {number}
==============

.. figure:: dot.svg

   Early {number}

First {number}
--------------

.. _fig-{number}:

.. figure:: dot.svg

   Late {number}

Second {number}
---------------

.. _section-{number}:

Inner {number}
..............

.. table:: Numbers {number}

   ===  ===
   a    b
   ===  ===
"""

THEORY = """\
Theory
======

.. figure:: ../notebooks/dot.svg

   Of theory

See :numref:`fig-5`, :numref:`fig-2`, :numref:`section-5` and :numref:`chapter-5`.
"""

CONTENTS = """\
Book
====
"""

TOCTREE = """
.. toctree::
   :numbered:

   notebooks/01_one
   notebooks/02_two
   notebooks/05_five

.. toctree::

   book/theory
"""

TOC = {
    "format": "jb-book",
    "root": "index",
    "parts": [
        {
            "caption": "Chapters",
            "numbered": True,
            "chapters": [{"file": f"notebooks/{name}"} for name in CHAPTERS.values()],
        },
        {"caption": "Theory", "chapters": [{"file": "book/theory"}]},
    ],
}

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


@pytest.fixture(scope="module", params=["sphinx", "jupyter-book"])
def pages(request, tmp_path_factory) -> dict[str, BeautifulSoup]:
    """Each page of the built book by its last name."""
    source = tmp_path_factory.mktemp("book")
    extensions = ["chapter_numbers"]
    if request.param == "jupyter-book":
        extensions += ["sphinx_multitoc_numbering", "sphinx_external_toc"]
        (source / "_toc.yml").write_text(yaml.safe_dump(TOC), encoding="utf-8")
    files = {
        "conf.py": f"""\
import sys
sys.path.insert(0, {str(ROOT / "book/_ext")!r})
extensions = {extensions}
html_theme = "basic"
html_theme_options = {{"globaltoc_includehidden": True, "globaltoc_collapse": False}}
html_sidebars = {{"**": ["globaltoc.html", "localtoc.html", "relations.html"]}}
numfig = True
""",
        "index.rst": CONTENTS + (TOCTREE if len(extensions) == 1 else ""),
        "book/theory.rst": THEORY,
        "notebooks/dot.svg": SVG,
    }
    for number, name in CHAPTERS.items():
        files[f"notebooks/{name}.rst"] = CHAPTER.format(number=number)
    for name, text in files.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    built = source / "built"
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "-b", "html"]
    done = subprocess.run(
        [*command, source, built], capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    return {
        page.stem: BeautifulSoup(page.read_bytes(), "html.parser")
        for page in built.rglob("*.html")
    }


def text(tag) -> str:
    """The words of a tag, without the sign that links to a heading."""
    return " ".join(tag.get_text().replace("¶", "").split())


def texts(page: BeautifulSoup, selector: str) -> list[str]:
    return [text(tag) for tag in page.select(selector)]


@pytest.mark.parametrize("number, name", CHAPTERS.items())
def test_headings_figures_and_tables(pages, number, name):
    page, n = pages[name], number
    assert texts(page, "div.body :is(h1, h2, h3)") == [
        f"{n}. Title {n}",
        f"{n}.1. First {n}",
        f"{n}.2. Second {n}",
        f"{n}.2.1. Inner {n}",
    ]
    assert texts(page, "figcaption") == [
        f"Fig. {n}.1 Early {n}",
        f"Fig. {n}.2 Late {n}",
    ]
    assert texts(page, "table caption") == [f"Table {n}.1 Numbers {n}"]


def test_contents_name_every_chapter_by_its_number(pages):
    for page in pages.values():
        shown = texts(page, "div.sphinxsidebar li.toctree-l1 > a")
        assert shown == ["1. Title 1", "2. Title 2", "5. Title 5", "Theory"]


def test_contents_of_a_page(pages):
    shown = texts(pages["05_five"], "div.sphinxsidebar a")
    for heading in ("5. Title 5", "5.1. First 5", "5.2. Second 5", "5.2.1. Inner 5"):
        assert heading in shown


def test_next_and_previous(pages):
    def neighbors(name: str) -> list[str]:
        links = pages[name].select("div.sphinxsidebar h4")
        return [text(link.find_next("p")) for link in links]

    assert neighbors("02_two") == ["1. Title 1", "5. Title 5"]
    assert neighbors("theory")[0] == "5. Title 5"


def test_references_from_elsewhere(pages):
    (line,) = [t for t in texts(pages["theory"], "p") if t.startswith("See")]
    assert line == "See Fig. 5.2, Fig. 2.2, Section 5.2.1 and Section 5."


def test_pages_without_a_number_keep_none(pages):
    assert texts(pages["theory"], "h1") == ["Theory"]
    assert texts(pages["theory"], "figcaption") == ["Fig. 1 Of theory"]


def test_the_book_numbers_its_chapters_so():
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert settings["sphinx"]["local_extensions"]["chapter_numbers"] == "book/_ext"
