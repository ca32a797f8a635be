"""The style: one look a name, legible colors, the same bytes at every run."""

from __future__ import annotations

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from dllm_tutorial import order_study, plots, schedules
from dllm_tutorial.decoding import strategies

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def styled():
    with matplotlib.rc_context():
        plots.style()
        yield
        plt.close("all")


def contrast_with_white(color: str) -> float:
    """Contrast ratio of WCAG 2.1."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_every_rule_and_schedule_has_a_look():
    rules = {name.removesuffix("_top_k") for name in strategies.__all__}
    missing = rules - set(plots.LOOKS)
    assert not missing
    for name in ("linear", "cosine", "cosine_mdlm", "polynomial", "geometric"):
        schedules.by_name(name)
        assert name in plots.LOOKS


def test_every_order_of_the_study_has_a_look_of_its_own():
    looks = {(plots.color(name), plots.marker(name)) for name in order_study.ORDERS}
    assert len(looks) == len(order_study.ORDERS)


def test_looks_can_be_told_apart_without_color():
    rules = [name.removesuffix("_top_k") for name in strategies.__all__]
    looks = {(plots.marker(name), plots.dash(name)) for name in rules}
    assert len(looks) == len(rules)
    for family in (
        ["random", "left_to_right", "confidence", "margin", "entropy"],
        ["linear", "cosine", "cosine_mdlm", "polynomial", "geometric", "log_linear"],
    ):
        assert len({plots.marker(name) for name in family}) == len(family)
        assert len({plots.color(name) for name in family}) == len(family)


def test_lines_stand_out_from_the_ground():
    # Thin sky and orange lines have less than 3:1; they come with a marker.
    for look in plots.LOOKS.values():
        assert contrast_with_white(look.color) > 2.2


def test_the_suffix_of_a_rule_may_be_left_out():
    assert plots.color("confidence_top_k") == plots.color("confidence")
    assert plots.label("confidence") == "confidence"
    with pytest.raises(ValueError, match="name must be one of"):
        plots.color("magic")


def test_a_figure_is_the_same_at_every_run():
    def draw() -> bytes:
        figure, (ax, other) = plots.panels(2)
        plots.exact(ax, [1, 2, 3], [1, 4, 9], "linear")
        plots.measured(ax, [1, 2], [1, 4], ([0, 3], [2, 5]), "random")
        plots.band(ax, [1, 2], [0, 1], [1, 2], "cosine")
        plots.level(ax, 5, "ceiling")
        ax.legend()
        plots.reveal_map(other, [[0, 1], [1, np.nan]], names=["a", "b"])
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()

    first = draw()
    assert first == draw()
    assert b"fill: #ffffff" in first  # opaque ground


def test_panels_make_small_multiples_that_fit_a_phone():
    figure, axes = plots.panels(3, height=2)
    assert len(axes) == len(figure.axes) == 3
    assert tuple(figure.get_size_inches()) == (plots.WIDTH, 4)
    # A letter of the smallest size, on a page 350 CSS pixels wide.
    smallest = min(plt.rcParams["font.size"], 9.5)
    assert smallest / 72 * 350 / plots.WIDTH > 8


def test_error_bars_reach_from_low_to_high():
    _, (ax,) = plots.panels()
    plots.measured(ax, [1, 2], [0.5, 0.6], ([0.4, 0.1], [0.7, 0.8]), "random")
    bars = ax.containers[0].lines[2][0].get_segments()
    assert np.allclose([bar[:, 1] for bar in bars], [[0.4, 0.7], [0.1, 0.8]])
    with pytest.raises(ValueError, match="interval must contain y"):
        plots.measured(ax, [1], [0.5], ([0.6], [0.7]), "random")


def test_exact_lines_have_no_markers_and_options_override():
    _, (ax,) = plots.panels()
    plots.exact(ax, [1, 2], [1, 2], "cosine", label=None, linestyle=":")
    (line,) = ax.lines
    assert line.get_marker() == "None" and line.get_linestyle() == ":"
    assert line.get_color() == plots.color("cosine")


def test_reveal_map_shows_the_steps_it_was_given():
    _, (ax,) = plots.panels()
    plots.reveal_map(ax, [[2, 0, 1]])
    assert ax.images[0].get_array().tolist() == [[2, 0, 1]]
    with pytest.raises(ValueError, match="two dimensions"):
        plots.reveal_map(ax, [1, 2])
    with pytest.raises(ValueError, match="names must name 1 rows"):
        plots.reveal_map(ax, [[1, 2]], names=["a", "b"])
