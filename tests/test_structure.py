"""The shape of the book: pairs, shared cells, figures, addresses, pins."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

import derive
from environment import ROOT, read

SCRIPTS = sorted(derive.NOTEBOOKS.glob("*.py"))
# The root of a path on somebody's machine.
ABSOLUTE = re.compile(r"(?<![\w.:/<])/(?:home|root|usr|opt|tmp|work|Users|content)/\w")

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def committed(script: Path) -> nbformat.NotebookNode:
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def code_cells(script: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in committed(script).cells if cell.cell_type == "code"]


def files_of(toc: object) -> list[str]:
    """All file and root entries of the table of contents."""
    if isinstance(toc, dict):
        own = [toc[key] for key in ("root", "file") if key in toc]
        return own + [name for value in toc.values() for name in files_of(value)]
    if isinstance(toc, list):
        return [name for item in toc for name in files_of(item)]
    return []


def test_table_of_contents_lists_every_page_once():
    listed = files_of(yaml.safe_load(read(ROOT / "_toc.yml")))
    prose = [path.relative_to(ROOT) for path in (ROOT / "book").rglob("*.md")]
    pages = [*prose, *(path.relative_to(ROOT) for path in SCRIPTS)]
    assert sorted(listed) == sorted(str(path.with_suffix("")) for path in pages)


def test_api_pages_show_every_public_module():
    text = "".join(read(page) for page in (ROOT / "book/api").glob("*.md"))
    shown = set(re.findall(r"automodule:: dllm_tutorial\.([\w.]+)", text))
    package = ROOT / "dllm_tutorial"
    modules = {f.stem for f in package.glob("*.py")} | {"decoding.strategies"}
    tasks = {f"tasks.{f.stem}" for f in package.glob("tasks/*.py")}
    modules |= tasks - {"tasks.__init__"}
    folders = {f.parent.name for f in package.glob("*/__init__.py")}
    assert shown == {name for name in modules | folders if not name.startswith("_")}


def test_every_notebook_has_its_script():
    notebooks = sorted(path.stem for path in derive.NOTEBOOKS.glob("*.ipynb"))
    assert notebooks == [script.stem for script in SCRIPTS]


@each_script
def test_pair_is_in_sync(script):
    written = [(c.cell_type, c.source) for c in jupytext.read(script).cells]
    executed = [(c.cell_type, c.source) for c in committed(script).cells]
    assert executed == written, f"run: make notebook NB={script.stem}"


@each_script
def test_one_parameters_cell(script):
    notebook = committed(script)
    (index,) = derive.tagged(notebook, "parameters")
    assert notebook.cells[index].source == 'PROFILE = "smoke"\nSEED = 0'


@each_script
def test_outputs_are_whole_and_clean(script):
    """Every cell ran in order, without errors, complaints or volatile metadata."""
    cells = [cell for cell in code_cells(script) if cell.source]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
        assert not {"papermill", "execution"} & set(cell.metadata)
    assert not {"papermill", "language_info"} & set(committed(script).metadata)


@each_script
def test_no_path_of_a_machine_in_outputs(script):
    for cell in code_cells(script):
        for output in cell.outputs:
            text = output.get("text", "") + str(output.get("data", {}).get("text/html"))
            assert not ABSOLUTE.search(text), text


@each_script
def test_every_figure_has_alt_text_and_caption(script):
    for cell in code_cells(script):
        shown = [" ".join(o["data"]) for o in cell.outputs if "data" in o]
        if not any("image/" in kinds for kinds in shown):
            continue
        assert len(shown) == 1, f"the caption belongs to one output: {cell.source}"
        render = cell.metadata.get("mystnb", {})
        assert len(render.get("image", {}).get("alt", "")) >= 20, cell.source
        assert len(render.get("figure", {}).get("caption", "")) >= 40, cell.source
        assert render["figure"].get("name", "").startswith("fig-"), cell.source


@each_script
def test_code_fits_the_page(script):
    wide = [
        line
        for cell in code_cells(script)
        for line in cell.source.splitlines()
        if len(line) > 78
    ]
    assert not wide


@each_script
def test_colab_link_maps_to_a_file(script):
    notebook = committed(script)
    (index,) = derive.tagged(notebook, "colab")
    path = re.search(r"/blob/v[\d.]+/(\S+\.ipynb)\)", notebook.cells[index].source)
    assert path and (ROOT / path[1]).is_file()


@pytest.mark.parametrize("path", derive.derived_paths(), ids=lambda path: path.name)
def test_derived_text_is_up_to_date(path):
    """Address, version, chapter list and tables follow from their one source."""
    assert read(path) == derive.derive(path), "run: make address"


def test_new_address_reaches_every_place(monkeypatch):
    """With another address, no derived text keeps the old one."""
    old = derive.address()
    monkeypatch.setattr(derive, "address", lambda: "https://github.com/some-one/abc")
    for path in derive.derived_paths():
        assert old.removeprefix("https://") not in derive.derive(path)


def test_recipes_work_as_written():
    recipes = read(ROOT / "CONTRIBUTING.md")
    blocks = re.findall(r"```python\n(.*?)```", recipes, re.S)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(textwrap.dedent(block), "CONTRIBUTING.md", "exec"), {})


def test_package_has_lower_bounds_only_and_pins_meet_them():
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    lines = read(ROOT / "requirements.txt").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {}
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.operator == "==", f"{pin} is not an exact pin"
        pinned[pin.name] = exact.version
    for bound in map(Requirement, project["dependencies"]):
        assert [s.operator for s in bound.specifier] == [">="], str(bound)
        assert bound.specifier.contains(pinned[bound.name]), str(bound)


def texts(*suffixes: str) -> list[Path]:
    """Files of the repository, as its folders have them: an archive has no git."""
    other = {"_build", "build", "dist", "runs"}
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in other and not f.startswith(".")]
        found += [Path(folder, name) for name in names if name.endswith(suffixes)]
    return found


def test_text_names_no_path_of_a_machine():
    here = re.compile(re.escape(str(ROOT)) + r"|/(?:home|Users)/\w")
    listed = texts(".py", ".md", ".yml", ".toml", ".cff", ".json")
    listed.remove(Path(__file__).resolve())
    assert ROOT / "dllm_tutorial/data/claims.toml" in listed
    for path in listed:
        assert not here.search(read(path)), path


READERS = {"open", "fdopen", "read_text", "write_text"}
PROGRAMS = {"run", "Popen", "check_output"}  # with text=True text goes in and out


def without_encoding(code: str) -> list[int]:
    """Lines that leave it to the machine's locale what a text's bytes mean."""
    lines = []
    for call in [node for node in ast.walk(ast.parse(code)) if type(node) is ast.Call]:
        named = {keyword.arg for keyword in call.keywords}
        called = ast.unparse(call.func)
        name = called.rpartition(".")[2]
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        modes = [v.value for v in values if isinstance(v, ast.Constant)]
        binary = any(re.fullmatch("[rwax+]*b[rwax+]*", str(mode)) for mode in modes)
        text = name in READERS and called not in {"os.open", "webbrowser.open"}
        text = text and not binary
        text |= name in PROGRAMS and bool({"text", "universal_newlines"} & named)
        if text and "encoding" not in named:
            lines.append(call.lineno)
    return lines


@pytest.mark.parametrize(
    "code, found",
    [
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("path.open()", True),
        ("os.fdopen(3, 'a')", True),
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("subprocess.run(command, text=True)", True),
        ("open(path, 'ab')", False),
        ("path.open(mode='rb')", False),
        ("os.open(path, flags)", False),
        ("open(path, encoding='utf-8')", False),
        ("path.write_text(text, encoding='utf-8')", False),
        ("subprocess.run(command)", False),
        ("subprocess.run(command, text=True, encoding='utf-8')", False),
    ],
)
def test_a_text_without_an_encoding_is_seen(code, found):
    assert without_encoding(code) == [1] * found


def test_every_text_is_read_and_written_as_utf8():
    """Whatever the locale says, which on Windows is cp1252 and in a container ASCII."""
    found = {str(p.relative_to(ROOT)): without_encoding(read(p)) for p in texts(".py")}
    assert "dllm_tutorial/study.py" in found
    assert not {path: lines for path, lines in found.items() if lines}


def test_tools_work_where_the_locale_is_ascii():
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = (
        "import derive; print(*[len(derive.derive(p)) for p in derive.derived_paths()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tools",
        env={**os.environ, **ascii_only},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    lengths = [len(derive.derive(path)) for path in derive.derived_paths()]
    assert [int(length) for length in done.stdout.split()] == lengths
