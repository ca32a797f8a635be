"""One style for every figure of the book.

A decoding rule and a schedule keep their color, marker and dash in all chapters. The
palette is that of Okabe and Ito (2008) without its yellow, which is too light for a
line; markers and dashes tell curves apart without color. Figures are small with large
letters, so that they can be read on a phone, and opaque, so that they can be read on
a dark page. The same figure always gives the same bytes.

Conventions: a *line* is exact (a closed form or an enumeration); *points with error
bars* are measured; a dotted horizontal line is a floor or a ceiling.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from dllm_tutorial import _checks

__all__ = [
    "band",
    "color",
    "dash",
    "exact",
    "label",
    "level",
    "marker",
    "measured",
    "panels",
    "reveal_map",
    "style",
]

BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
BLUE, RED, PURPLE, GRAY = "#0072b2", "#d55e00", "#cc79a7", "#767676"

WIDTH = 5.6  # inches: at 350 pixels a letter of 11 points is still 10 pixels high


class Look(NamedTuple):
    """How one named curve looks in every figure."""

    label: str
    color: str
    marker: str
    dash: str = "-"


LOOKS = {
    # decoding rules
    "random": Look("random", BLUE, "o"),
    "left_to_right": Look("left to right", BLACK, ">"),
    "right_to_left": Look("right to left", GRAY, "<", "--"),
    "dilated": Look("dilated", SKY, "d", "-."),
    "confidence": Look("confidence", RED, "s"),
    "margin": Look("margin", ORANGE, "v", "--"),
    "entropy": Look("entropy", PURPLE, "^", "-."),
    "confidence_threshold": Look("confidence threshold", GREEN, "D"),
    "factor": Look("factor", ORANGE, "P"),
    "entropy_bounded": Look("entropy-bounded (EB)", PURPLE, "X"),
    "klass": Look("KLASS", GREEN, "*", "--"),
    "ancestral": Look("ancestral", SKY, "p"),
    "first_hitting": Look("first-hitting", BLUE, "h", "--"),
    "remdm_cap": Look("ReMDM-cap", RED, "1"),
    "remdm_rescale": Look("ReMDM-rescale", ORANGE, "2", "--"),
    "remdm_conf": Look("ReMDM-conf", PURPLE, "3", "-."),
    "remdm_loop": Look("ReMDM-loop", GREEN, "4", ":"),
    "rcr": Look("RCR", BLACK, "x"),
    "p2": Look("P2", GRAY, "+", "--"),
    "wino": Look("WINO", SKY, "H"),
    # schedules
    "linear": Look("linear", BLACK, "o"),
    "cosine": Look("cosine (MD4)", RED, "s"),
    "cosine_mdlm": Look("cosine (MDLM)", ORANGE, "v", "--"),
    "polynomial": Look("polynomial", BLUE, "^"),
    "geometric": Look("geometric", GREEN, "D", "-."),
    "log_linear": Look("log-linear", PURPLE, "x", ":"),
    # orders of generation, and all of them at once
    "left-to-right": Look("left to right", BLACK, ">"),
    "right-to-left": Look("right to left", GRAY, "<", "--"),
    "block 4": Look("blocks of 4", SKY, "d", "-."),
    "blocks of 8": Look("blocks of 8", SKY, "d", "-."),
    "block 16": Look("blocks of 16", GREEN, "*", "--"),
    "bit-reversed": Look("bit-reversed", ORANGE, "v", "--"),
    "fixed random": Look("fixed random", PURPLE, "^", "-."),
    "uniform random": Look("uniform random", BLUE, "o"),
    "random 1": Look("random 1", BLUE, "o"),
    "random 2": Look("random 2", SKY, "d", "-."),
    "diffusion": Look("diffusion", RED, "o"),
    "diffusion, learned positions": Look("diffusion, learned positions", ORANGE, "v"),
    # models
    "dllm": Look("diffusion", RED, "o"),
    "half": Look("diffusion, half as long", ORANGE, "v"),
    "ar": Look("autoregressive", BLUE, "s"),
    "large": Look("larger diffusion", PURPLE, "D"),
    "twin": Look("larger autoregressive", SKY, "P"),
    "ngram": Look("n-gram", GRAY, "x", ":"),
    "oracle": Look("oracle", GRAY, "*", ":"),
}


def _look(name: str) -> Look:
    return LOOKS[_checks.one_of(name.removesuffix("_top_k"), "name", LOOKS)]


def color(name: str) -> str:
    """Color of a rule, schedule or model: ``color("confidence")``, any of ``LOOKS``.

    The suffix ``_top_k`` may be there or not.
    """
    return _look(name).color


def marker(name: str) -> str:
    """Marker of a rule, schedule or model."""
    return _look(name).marker


def dash(name: str) -> str:
    """Line style of a rule, schedule or model."""
    return _look(name).dash


def label(name: str) -> str:
    """The published name of a rule, schedule or model, for a legend."""
    return _look(name).label


def style() -> None:
    """Use the book's style from here on; in a notebook also make figures SVG."""
    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.4),
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "axes.facecolor": "white",
            "axes.prop_cycle": cycler(
                color=[BLUE, RED, GREEN, ORANGE, PURPLE, BLACK, SKY, GRAY]
            ),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.8,
            "font.size": 11,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
            "image.cmap": "viridis",
            "svg.fonttype": "path",  # letters as shapes: no font is needed to read it
            "svg.hashsalt": "dllm-tutorial",  # the same ids at every run
        }
    )
    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})


def panels(
    n: int = 1,
    *,
    columns: int = 2,
    height: float = 2.6,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of ``n`` small multiples, ``columns`` in a row, ``height`` inches each.

    One or two columns stay legible on a phone.
    """
    columns = min(_checks.integer(n, "n", 1), _checks.integer(columns, "columns", 1))
    rows = -(-n // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, height * rows),
        squeeze=False,
        sharex=sharex,
        sharey=sharey,
    )
    flat = list(axes.flat)
    for spare in flat[n:]:
        spare.remove()
    return figure, flat[:n]


def exact(ax: Axes, x: ArrayLike, y: ArrayLike, name: str, **options: Any) -> None:
    """Draw a closed form or an enumeration: a line without markers.

    ``options`` go to matplotlib and override the look of ``name`` (here and below);
    give ``label=None`` to leave it out of the legend.
    """
    look = _look(name)
    chosen = {"color": look.color, "linestyle": look.dash, "label": look.label}
    ax.plot(x, y, **{**chosen, **options})


def measured(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    interval: tuple[ArrayLike, ArrayLike],
    name: str,
    **options: Any,
) -> None:
    """Draw measurements: markers with error bars from ``interval = (low, high)``."""
    look = _look(name)
    y = np.asarray(y, dtype=float)
    low, high = (np.asarray(end, dtype=float) for end in interval)
    if np.any(low > y) or np.any(y > high):
        raise ValueError("interval must contain y: its ends are (low, high)")
    chosen = {
        "color": look.color,
        "marker": look.marker,
        "linestyle": "none",
        "capsize": 2.5,
        "elinewidth": 1.2,
        "label": look.label,
    }
    ax.errorbar(x, y, yerr=(y - low, high - y), **{**chosen, **options})


def band(
    ax: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, name: str, **options: Any
) -> None:
    """Shade the interval between ``low`` and ``high`` in the color of ``name``."""
    chosen = {"color": _look(name).color, "alpha": 0.18, "linewidth": 0}
    ax.fill_between(x, low, high, **{**chosen, **options})


def level(ax: Axes, y: float, text: str, *, above: bool = True) -> None:
    """A floor or a ceiling: a dotted line across, its name at the left end."""
    ax.axhline(y, color=GRAY, linestyle=":", linewidth=1.4, zorder=1)
    ax.annotate(
        text,
        (0.01, y),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3 if above else -3),
        textcoords="offset points",
        va="bottom" if above else "top",
        fontsize=9.5,
        color="#555555",
    )


def reveal_map(
    ax: Axes,
    steps: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    title: str = "step of reveal",
) -> None:
    """Heat map of the step at which each position was revealed.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    steps : array_like [rows, L]
        Step of each position, one sequence a row. NaN (never revealed) stays white.
    names : sequence of str, optional
        A name for each row.
    title : str
        What the color bar says.
    """
    steps = np.asarray(steps, dtype=float)
    if steps.ndim != 2:
        raise ValueError(f"steps must have two dimensions, got shape {steps.shape}")
    if names is not None and len(names) != len(steps):
        raise ValueError(f"names must name {len(steps)} rows, got {len(names)}")
    image = ax.imshow(steps, aspect="auto", interpolation="nearest")
    ax.grid(False)
    ax.set_xlabel("position")
    ax.set_yticks(range(len(steps)) if names else [], names or [])
    ax.figure.colorbar(image, ax=ax, label=title)
