"""Figures are compared by what they draw: a wrong one is caught, rounding is not."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import derive
from dllm_tutorial import plots
from drawings import difference

matplotlib.use("agg")
X = np.linspace(0, 1, 7)


def draw(
    shift=0.0, label="found", points=7, color=plots.BLUE, mark="o", size=5.0, cell=0.4
) -> str:
    """A figure of two panels with all that the book draws, as SVG."""
    with matplotlib.rc_context():
        plots.style()
        figure, (ax, image) = plots.panels(2)
        ax.plot(X[:points], X[:points] ** 2 + shift, color=color, label=label)
        ax.plot(X, 1 - X, mark, markersize=size)
        ax.scatter(X, X / 2, c=X)
        ax.fill_between(X, 0, X / 3, alpha=0.2)
        ax.set(xlim=(0, 1), ylim=(-1, 2))
        ax.legend()
        image.imshow([[0.1, cell], [0.9, 0.3]], vmin=0, vmax=1)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
    return file.getvalue()


@pytest.fixture(scope="module")
def figure() -> str:
    return draw()


def jittered(svg: str, size: float) -> str:
    """With noise of at most ``size`` on points of paths, markers and letters."""
    noise = np.random.default_rng(0)
    return re.sub(
        r"(L | x=\"|translate\()(-?[\d.]+)",
        lambda m: f"{m[1]}{float(m[2]) + noise.uniform(-size, size):.6f}",
        svg,
    )


def test_a_figure_is_like_itself(figure):
    assert difference(figure, figure) is None
    assert difference(figure, draw(shift=1e-9, cell=0.4 + 1e-9)) is None


def test_rounding_passes(figure):
    other = jittered(figure, 1e-3)
    assert other != figure and difference(figure, other) is None
    assert difference(figure, jittered(figure, 10))


def test_names_that_are_hashes_do_not_count(figure):
    other = re.sub(r"(?<=[pm])[0-9a-f]{10}\b", lambda m: m[0][::-1], figure)
    assert other != figure and difference(figure, other) is None
    crossed = re.findall(r"url\(#(p[0-9a-f]{10})\)", figure)
    first, last = crossed[0], crossed[-1]
    assert first != last  # two panels
    wrong = figure.replace(f"url(#{first})", f"url(#{last})", 1)
    assert "line2d" in difference(figure, wrong) or "patch" in difference(figure, wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"shift": 0.03},  # of 3 on an axis of some 150 points
        {"label": "fonud"},
        {"label": "foun"},
        {"points": 6},
        {"color": plots.RED},
        {"mark": "s"},
        {"mark": "^"},
        {"size": 8.0},
        {"cell": 0.45},
    ],
    ids=str,
)
def test_another_drawing_fails(figure, change):
    other = draw(**change)
    assert difference(figure, other) and difference(other, figure)


def test_a_missing_element_fails(figure):
    paths = [m.span() for m in re.finditer(r"<path [^>]*/>", figure)]
    start, stop = paths[-3]
    assert difference(figure, figure[:start] + figure[stop:])
    used = [m.span() for m in re.finditer(r"<use [^>]*/>", figure)]
    start, stop = used[-1]
    assert difference(figure[:start] + figure[stop:], figure)


def test_a_letter_of_another_size_fails(figure):
    assert "scale(0.1 -0.1)" in figure
    other = figure.replace("scale(0.1 -0.1)", "scale(0.12 -0.12)", 1)
    assert "text" in difference(figure, other)


def test_the_message_says_where(figure):
    told = difference(figure, draw(shift=0.5))
    assert "line2d" in told and "points away" in told


def test_notebooks_are_compared_so(figure, tmp_path):
    """nbval accepts a figure that rounding moved, and names one that is wrong."""
    cells, text = [], "<IPython.core.display.SVG object>"
    for count, drawn in enumerate((figure, jittered(figure, 1e-3), draw(shift=1)), 1):
        file = tmp_path / f"{count}.svg"
        file.write_text(drawn, encoding="utf-8")
        source = f"from IPython.display import SVG\nSVG(filename={str(file)!r})"
        data = {"image/svg+xml": figure, "text/plain": text}
        output = new_output("execute_result", data, execution_count=count)
        about = {"mystnb": {"figure": {"name": f"fig-{count}"}}}
        cells.append(new_code_cell(source, metadata=about, outputs=[output]))
        cells[-1].execution_count = count
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=cells, metadata=about), tmp_path / "a.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "--nbval", str(tmp_path)],
        cwd=derive.ROOT,
        env={**os.environ, "PYTHONPATH": str(derive.ROOT / "tests")},
        capture_output=True,
        encoding="utf-8",
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "fig-3 differs" in done.stdout and "points away" in done.stdout
