"""Watch a decoding history: a small HTML player without dependencies.

It works on a static page, in a notebook and in Colab, makes no request, and may stand
on one page many times. Its HTML is a function of the history alone, so that running a
notebook again gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from dllm_tutorial import _checks

__all__ = ["Player", "player", "players"]

_CONTROLS = """
<div class="bar">
<button type="button" data-do="play">Play</button>
<button type="button" data-do="back" aria-label="One step back">&#8592;</button>
<button type="button" data-do="next" aria-label="One step on">&#8594;</button>
<input type="range" min="0" value="0" aria-label="Step">
<span class="place"></span>
<select aria-label="Speed"><option value="0.5">&#189;&#215;</option>
<option value="1" selected>1&#215;</option><option value="2">2&#215;</option>
<option value="4">4&#215;</option></select>
<button type="button" data-do="order" aria-pressed="false">Order</button>
</div>
<p class="detail" aria-live="polite"></p>
<p class="legend">Shade <i class="ramp"></i> from 0 to 1: confidence, the probability
of a token when it was revealed; with <b>Order</b> on, the step of its reveal.
<i class="fresh">Framed</i>: revealed in this step. <i>&#9617;</i>: masked. Bold: given.
{revision}Point at a token, or tap it, for its numbers. Keys: arrows, space, home, end.
</p>
"""
_REVISION = (
    '<i class="back">&#9617;</i>: masked again in this step. '
    '<i class="revised">Underlined</i>: revised earlier.\n'
)


@dataclass(frozen=True)
class Player:
    """What :func:`player` returns; a notebook shows it by its HTML.

    Attributes
    ----------
    title : str
        Heading and accessible name.
    panes : tuple of dict
        One recorded row each: ``name``, ``start`` (text of each position, None where
        masked), ``frames`` (for each step the list of changes ``(position, text or
        None, confidence or None)``), ``block`` (for each state), ``blocks`` (their
        number) and ``revisions`` (tokens taken back, over all steps).
    autoplay : bool
        Start at once, unless the reader prefers reduced motion.
    """

    title: str
    panes: tuple[dict[str, Any], ...]
    autoplay: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The final text of each pane; a position still masked is shown as ``_``."""
        return tuple(_final_text(pane) for pane in self.panes)

    def _repr_html_(self) -> str:
        package = resources.files("dllm_tutorial")
        css, js = (
            (package / name).read_text(encoding="utf-8")
            for name in ("player.css", "player.js")
        )
        data = json.dumps(
            {"panes": self.panes, "autoplay": self.autoplay}, separators=(",", ":")
        ).replace("<", "\\u003c")  # a token may spell the end of the script
        key = hashlib.sha256((self.title + data).encode()).hexdigest()[:16]
        revision = _REVISION if any(p["revisions"] for p in self.panes) else ""
        panes = "".join(
            f"<div>{_heading(pane['name'])}"
            '<p class="count" aria-live="polite"></p><div class="text"></div></div>'
            for pane in self.panes
        )
        final = "".join(f"<pre>{escape(text)}</pre>" for text in self.texts)
        return (
            f"<style>{css}</style>"
            f'<div class="dllm-player" data-dllm-player="{key}" role="group" '
            f'tabindex="0" aria-label="{escape(self.title)}">'
            f'{_heading(self.title)}<div class="panes">{panes}</div>'
            f"{_CONTROLS.format(revision=revision)}"
            f"<noscript>{final}</noscript></div>"
            f'<script>{js.strip()}("{key}",{data});</script>'
        )

    def __repr__(self) -> str:
        rows = "; ".join(
            f"{len(pane['frames'])} steps, {len(pane['start'])} tokens, "
            f"{pane['revisions']} revised"
            for pane in self.panes
        )
        return f"Player({self.title!r}: {rows})"


def _heading(name: str) -> str:
    return f'<p class="name">{escape(name)}</p>' if name else ""


def _final_text(pane: dict[str, Any]) -> str:
    tokens = list(pane["start"])
    for frame in pane["frames"]:
        for position, text, _ in frame:
            tokens[position] = text
    return "".join("_" if token is None else token for token in tokens)


def player(
    source: Any,
    decode: Callable[[int], str],
    *,
    row: int = 0,
    title: str = "Decoding",
    autoplay: bool = False,
) -> Player:
    """Play one row of a decoding history.

    Parameters
    ----------
    source : Generation or History
        What ``generate(..., record=True)`` returned, or its ``history``.
    decode : callable
        The text of a token id. The texts of the positions are joined as they are, so
        that the text of a word should hold its space.
    row : int
        Row of the batch.
    title : str
        Heading and accessible name.
    autoplay : bool
        Start at once, unless the reader prefers reduced motion.
    """
    history = getattr(source, "history", source)
    if history is None:
        raise ValueError("source must hold a history: generate(..., record=True)")
    if not hasattr(history, "states"):
        raise TypeError(
            f"source must be a Generation or a History, got {type(source).__name__}"
        )
    _checks.function(decode, "decode")
    states = history.states[:, _row(row, history.states.shape[1])].tolist()  # [S+1][L]
    confidence = history.confidence[:, row].tolist()  # [S][L]
    block = history.block[:, row].tolist()  # [S]

    def text(token: int) -> str | None:
        if token == history.mask_id:
            return None
        if not isinstance(word := decode(token), str):
            raise TypeError(f"decode must return a string, got {word!r} of {token}")
        return word

    frames: list[list[tuple[int, str | None, float | None]]] = []
    revisions = 0
    for before, after, probability in zip(states, states[1:], confidence, strict=False):
        changed = [i for i, token in enumerate(after) if token != before[i]]
        revisions += sum(before[i] != history.mask_id for i in changed)
        frames.append(
            [
                (i, text(after[i]), _number(after[i], probability[i], history.mask_id))
                for i in changed
            ]
        )
    # A row that is finished waits for the others: drop its idle steps at the end.
    while frames and not frames[-1]:
        frames.pop()
    working = block[: len(frames)]
    pane = {
        "name": "",
        "start": [text(token) for token in states[0]],
        "frames": frames,
        "block": [*working, working[-1] if working else 0],
        "blocks": int(history.n_blocks[row]),
        "revisions": revisions,
    }
    return Player(_title(title), (pane,), autoplay)


def players(
    several: Iterable[Player], *, title: str = "Side by side", autoplay: bool = False
) -> Player:
    """Several players under one set of controls; their titles name the panes."""
    panes = [
        {**pane, "name": one.title if len(one.panes) == 1 else pane["name"]}
        for one in several
        for pane in one.panes
    ]
    if not panes:
        raise ValueError("several must hold at least one player")
    return Player(_title(title), tuple(panes), autoplay)


def _title(title: str) -> str:
    if not isinstance(title, str):
        raise TypeError(f"title must be a string, got {title!r}")
    return title


def _row(row: int, size: int) -> int:
    if _checks.integer(row, "row", 0) >= size:
        raise ValueError(f"row must lie below {size}, got {row}")
    return row


def _number(token: int, probability: float, mask_id: int) -> float | None:
    """Confidence to show: none for a token that was masked again, nor for NaN."""
    if token == mask_id or probability != probability:
        return None
    return round(probability, 3)
