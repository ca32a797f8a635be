"""The timeline: identifiers that tell their month, every paper in its column."""

from __future__ import annotations

import re

from dllm_tutorial import plots, timeline


def test_papers_are_well_formed_and_in_order():
    table = timeline.papers()
    assert all(re.fullmatch(r"\d{4}\.\d{5}", a) for a in table["arxiv"])
    assert table["arxiv"].is_unique and table["name"].is_unique
    assert set(table["kind"]) == set(timeline.KINDS)
    assert table["year"].is_monotonic_increasing
    d3pm = table[table["name"] == "D3PM"].iloc[0]
    assert d3pm["kind"] == "discrete"
    assert abs(d3pm["year"] - (2021 + 6.5 / 12)) < 1e-9  # July 2021


def test_every_paper_is_drawn_and_no_two_names_touch():
    plots.style()
    table = timeline.papers()
    figure = timeline.draw(table)
    figure.canvas.draw()
    texts = [t for t in figure.axes[0].texts if t.get_text()]
    assert sorted(t.get_text() for t in texts) == sorted(table["name"])
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
