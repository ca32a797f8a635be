"""Write every text that follows from the public address, the version or the rows.

The address stands once, in pyproject.toml, and the version once, in the package.
What depends on them stands between a line with ``begin:NAME`` and a line with
``end:NAME``, or in the cells of a notebook tagged ``colab``, ``install`` and
``report``. ``python tools/derive.py`` rewrites all of it; ``--url URL`` moves the
address first; ``tests/test_structure.py`` checks that nothing is out of date.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import jupytext
import nbformat
import yaml

import dllm_tutorial
from dllm_tutorial import study
from environment import PROJECT, ROOT, read

NOTEBOOKS = ROOT / "notebooks"
COVER = ROOT / "book/_static/cover.svg"  # the picture of the README
COVER_FROM = ("03_parallel_decoding", "fig-tasks")  # its chapter and figure
TITLE = "The Limits of Diffusion Language Models"


def address() -> str:
    """The repository's public address, without a slash at the end."""
    project = tomllib.loads(read(PROJECT))["project"]
    return project["urls"]["Repository"].rstrip("/")


def tag() -> str:
    """The release that the install cell and the Colab links ask for."""
    return f"v{dllm_tutorial.__version__}"


def pip_source() -> str:
    return f"git+{address()}@{tag()}"


def colab(name: str) -> str:
    """Colab opens a GitHub file by its path after the host."""
    repository = address().removeprefix("https://github.com/")
    base = "https://colab.research.google.com/github"
    return f"{base}/{repository}/blob/{tag()}/notebooks/{name}.ipynb"


# --- blocks of text ----------------------------------------------------------


def clone_block() -> str:
    folder = address().rsplit("/", 1)[-1]
    return f"```bash\ngit clone {address()}\ncd {folder}\nmake book\nmake test\n```"


def install_block() -> str:
    return f'```bash\npip install "{pip_source()}"\n```'


def chapters_block() -> str:
    """One row per chapter: title, file, Colab link."""
    rows = ["| Chapter | Source | Colab |", "|---|---|---|"]
    for path in sorted(NOTEBOOKS.glob("*.py")):
        title = re.search(r"^# # (.+)$", read(path), re.M)
        if title is None:
            raise ValueError(f"{path.name}: no title line '# # ...'")
        source = f"[{path.stem}](notebooks/{path.stem}.ipynb)"
        rows.append(f"| {title[1]} | {source} | [open]({colab(path.stem)}) |")
    return "\n".join(rows)


def cite_block() -> str:
    authors = yaml.safe_load(read(ROOT / "CITATION.cff"))["authors"]
    return "\n".join(
        [
            "```bibtex",
            "@software{dllm_tutorial,",
            f"  title   = {{{TITLE}}},",
            f"  author  = {{{{{authors[0]['name']}}}}},",
            f"  version = {{{dllm_tutorial.__version__}}},",
            "  year    = {2026},",
            f"  url     = {{{address()}}}",
            "}",
            "```",
        ]
    )


def cover_cell() -> nbformat.NotebookNode:
    """The cell of the committed notebook that drew the cover."""
    chapter, figure = COVER_FROM
    cells = nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4).cells
    return next(cell for cell in cells if figure_of(cell).get("name") == figure)


def figure_of(cell: nbformat.NotebookNode) -> dict[str, str]:
    return cell.metadata.get("mystnb", {}).get("figure", {})


def cover() -> str:
    """The cover as the chapter shows it."""
    (image,) = [o for o in cover_cell().outputs if "image/svg+xml" in o.get("data", {})]
    return image["data"]["image/svg+xml"]


def cover_block() -> str:
    cell = cover_cell()
    alt = cell.metadata["mystnb"]["image"]["alt"]
    picture = f"![{alt}]({COVER.relative_to(ROOT)})"
    return f"{picture}\n\n*{figure_of(cell)['caption']}*"


def repository_block() -> str:
    return f"repository:\n  url: {address()}\n  branch: {tag()}"


def citation_block() -> str:
    return f"version: {dllm_tutorial.__version__}\nrepository-code: {address()}"


def benchmark_block() -> str:
    """The rows of the decoding benchmark as a table, and how to measure them again."""
    rows = study.read_rows("benchmark_decoding")
    lines = [
        "| batch x positions x vocabulary | temperature | floor | step | step / floor "
        "(quartiles) | LLaDA's rule / step |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows.itertuples():
        lines.append(
            f"| {row.batch} x {row.positions} x {row.vocabulary:,} | {row.temperature} "
            f"| {row.floor_ms} ms | {row.step_ms} ms "
            f"| {row.step_over_floor} ({row.q25} to {row.q75}) "
            f"| {row.plain_over_step} |"
        )
    origin = rows.attrs
    where = f"{origin['device']}, {origin['threads']} threads, torch {origin['torch']}"
    again = "python tests/benchmarks/bench_decoding.py --out runs"
    lines += ["", f"Measured on {where}. To measure again:", ""]
    lines += ["```bash", f"OMP_WAIT_POLICY=passive {again}", "```"]
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "clone": clone_block,
    "install": install_block,
    "chapters": chapters_block,
    "cite": cite_block,
    "cover": cover_block,
    "repository": repository_block,
    "citation": citation_block,
    "benchmark": benchmark_block,
}
FILES = ["README.md", "book/intro.md", "_config.yml", "CITATION.cff"]


def fill_blocks(text: str) -> str:
    """Replace what stands between each pair of marker lines."""

    def fill(match: re.Match[str]) -> str:
        return f"{match['begin']}{BLOCKS[match['name']]()}\n{match['end']}"

    marked = r"(?P<begin>^.*begin:(?P<name>\w+).*\n)(?s:.*?)(?P<end>^.*end:(?P=name))"
    return re.sub(marked, fill, text, flags=re.M)


# --- notebooks ---------------------------------------------------------------

INSTALL = """\
try:
    import dllm_tutorial
except ImportError:
    source = "{source}"
    %pip install -q {{source}}
    import dllm_tutorial"""

REPORT = "print(dllm_tutorial.environment(PROFILE))"


def managed_cells(name: str) -> dict[str, nbformat.NotebookNode]:
    """The cells that every notebook shares, by tag."""
    link = f"[Open this chapter in Google Colab]({colab(name)})"
    cells = {
        "colab": nbformat.v4.new_markdown_cell(link),
        "install": nbformat.v4.new_code_cell(INSTALL.format(source=pip_source())),
        "report": nbformat.v4.new_code_cell(REPORT),
    }
    tags = {
        "colab": ["colab"],
        "install": ["install", "remove-cell"],  # of no use on a static page
        # Versions and devices differ from machine to machine.
        "report": ["report", "remove-input", "nbval-ignore-output"],
    }
    for key, cell in cells.items():
        cell.metadata["tags"] = tags[key]
    return cells


def tagged(notebook: nbformat.NotebookNode, tag_name: str) -> list[int]:
    return [
        index
        for index, cell in enumerate(notebook.cells)
        if tag_name in cell.metadata.get("tags", [])
    ]


def fill_notebook(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Put the shared cells in: title, colab, install, parameters, report."""
    cells = managed_cells(name)
    for key in cells:
        for index in reversed(tagged(notebook, key)):
            del notebook.cells[index]
    (parameters,) = tagged(notebook, "parameters")
    notebook.cells.insert(parameters + 1, cells["report"])
    notebook.cells.insert(1, cells["install"])
    notebook.cells.insert(1, cells["colab"])
    return notebook


def fill_source(path: Path) -> str:
    """The text that the percent script ``path`` should have."""
    notebook = jupytext.read(path)
    return jupytext.writes(fill_notebook(notebook, path.stem), fmt="py:percent")


# --- all of it ---------------------------------------------------------------


def derived_paths() -> list[Path]:
    """Every file of which some part follows from the address, version or rows."""
    return [*(ROOT / name for name in FILES), COVER, *sorted(NOTEBOOKS.glob("*.py"))]


def derive(path: Path) -> str:
    """The text that the file at ``path`` should have."""
    if path.parent == NOTEBOOKS:
        return fill_source(path)
    if path == COVER:
        return cover()
    return fill_blocks(read(path))


def set_address(url: str) -> None:
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+?/?", url):
        raise SystemExit(f"URL: expected https://github.com/OWNER/NAME, got {url!r}")
    text = read(PROJECT).replace(address(), url.rstrip("/"))
    PROJECT.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="the new public address")
    arguments = parser.parse_args()
    if arguments.url:
        set_address(arguments.url)
    for path in derived_paths():
        text = derive(path)
        if not path.is_file() or read(path) != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
