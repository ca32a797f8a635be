"""Figures of executed notebooks are compared by what they draw, not by their bytes."""

from __future__ import annotations

import pytest

from drawings import difference

SVG = "image/svg+xml"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """After nbval has run a cell and compared all else, compare its figures."""
    if not hasattr(item, "test_outputs"):  # no cell of a notebook
        return (yield)
    item.parent.skip_compare = (*item.parent.skip_compare, SVG)
    result = yield
    if item.options["check"]:
        wanted, found = (
            [o["data"][SVG] for o in outputs if SVG in o.get("data", {})]
            for outputs in (item.cell.outputs, item.test_outputs)
        )
        if len(wanted) != len(found):
            item.raise_cell_error(f"{len(found)} figures instead of {len(wanted)}")
        for pair in zip(wanted, found, strict=True):
            if told := difference(*pair):
                about = item.cell.metadata.get("mystnb", {}).get("figure", {})
                item.raise_cell_error(f"{about.get('name', 'A figure')} differs", told)
    return result
