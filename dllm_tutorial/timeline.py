"""Papers on diffusion language models, as data and as a figure."""

from __future__ import annotations

from importlib import resources

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dllm_tutorial import plots

__all__ = ["KINDS", "draw", "papers"]

KINDS = {"continuous": plots.BLUE, "discrete": plots.RED, "multimodal": plots.GREEN}


def papers() -> pd.DataFrame:
    """One row a paper, oldest first: name, kind, arXiv identifier, title, year.

    ``year`` is the middle of the month of the first version, which the identifier
    tells: 2107.03006 was submitted in July 2021.
    """
    path = resources.files("dllm_tutorial") / "data" / "timeline.csv"
    with path.open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=str)
    year = 2000 + table["arxiv"].str[:2].astype(int)
    month = table["arxiv"].str[2:4].astype(int)
    table["year"] = year + (month - 0.5) / 12
    return table.sort_values("arxiv", ignore_index=True)


def draw(table: pd.DataFrame, gap: float = 0.155) -> Figure:
    """Three columns of names along a time axis that runs down.

    Names keep ``gap`` years between them; a thin line leads from a name that had to
    move to its date.
    """
    figure, ax = plt.subplots(figsize=(plots.WIDTH, 6.8))
    for column, (kind, color) in enumerate(KINDS.items()):
        rows = table[table["kind"] == kind]
        ax.axvline(column, color=color, linewidth=1.2, zorder=1)
        ax.plot(np.full(len(rows), column), rows["year"], "o", color=color, ms=5)
        place = -np.inf
        for name, year in zip(rows["name"], rows["year"], strict=True):
            place = max(year, place + gap)
            ax.plot([column, column + 0.08], [year, place], color=color, linewidth=0.8)
            ax.text(column + 0.1, place, name, va="center", fontsize=9.5)
    ax.set_xlim(-0.1, 2.75)
    ax.set_xticks([0.3, 1.3, 2.3], [f"{kind}" for kind in KINDS])
    ax.xaxis.tick_top()
    ax.set_yticks(range(2021, 2027))
    ax.set_ylim(2026.05, 2020.95)
    ax.grid(axis="x", visible=False)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return figure
