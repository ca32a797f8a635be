"""Two SVG figures of matplotlib, compared by what they draw."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from matplotlib.image import imread

PIXEL = 0.75  # of a screen, in points, the unit of these figures
PLACES = {"d", "x", "y", "width", "height", "viewBox", "transform"}
NUMBER = re.compile(r"(?:scale|rotate)\([^)]*\)|[-+]?(?:\d*\.)?\d+(?:e[-+]?\d+)?")
HASH = re.compile(r"[0-9a-f]{10}\b")  # ends a name that matplotlib made of sizes
IMAGE = "data:image/png;base64,"


class Element(NamedTuple):
    """What has to be equal, and numbers that may be a pixel apart."""

    where: str  # names of the nearest groups, such as axes_1 line2d_3
    what: tuple[str, ...]  # tag, style, the letters it uses, commands of its path
    places: np.ndarray  # all coordinates; of an image also its colors, 0 to 50


def elements(svg: str) -> list[Element]:
    """All elements of a figure, in the order in which they are drawn."""
    names: dict[str, str] = {}

    def renamed(value: str) -> str:
        """Names by the order of their appearance."""
        return HASH.sub(lambda m: names.setdefault(m[0], f"#{len(names)}"), value)

    def read(node: ET.Element, where: str) -> Iterator[Element]:
        what = [node.tag.split("}")[-1], (node.text or "").strip()]
        places = [np.zeros(0)]
        for name, value in sorted(node.attrib.items()):
            name = name.split("}")[-1]  # without its namespace
            if value.startswith(IMAGE):
                data = base64.b64decode(value.removeprefix(IMAGE))
                image = 50 * imread(io.BytesIO(data))
                places.append(image.ravel())
                value = str(image.shape)
            elif name in PLACES:
                found = NUMBER.findall(value)
                moving = [v for v in found if v[0] not in "sr"]
                places.append(np.array(moving, dtype=float))
                value = NUMBER.sub(lambda m: m[0] if m[0][0] in "sr" else "", value)
            else:
                value = renamed(value)
            what.append(f"{name}={value}")
        if node.tag.endswith("}g") and "id" in node.attrib:
            where = " ".join([*where.split(), node.attrib["id"]][-2:])
        yield Element(where, tuple(what), np.concatenate(places))
        for child in node:
            if not child.tag.endswith("}metadata"):
                yield from read(child, where)

    return list(read(ET.fromstring(svg), "figure"))


def difference(first: str, second: str, tolerance: float = PIXEL) -> str | None:
    """The first thing that only one of two figures draws; None if there is none.

    Structure, letters and styles have to be equal. Coordinates may be ``tolerance``
    points apart: a processor's rounding is not seen by the eye.
    """
    for a, b in zip_longest(elements(first), elements(second)):
        if a is None or b is None:
            return f"{(a or b).where}: a {(a or b).what[0]} is in one figure only"
        if a.what != b.what or a.places.shape != b.places.shape:
            parts = [part for part in a.what if part not in b.what] or a.what
            other = [part for part in b.what if part not in a.what] or b.what
            return f"{a.where}: {parts}, but {b.where}: {other}"
        apart = np.abs(a.places - b.places).max(initial=0)
        if not apart <= tolerance:
            return f"{a.where}: a {a.what[0]} is {apart:.3g} points away"
    return None
