"""Let a page of the built site be read from a plain file, without a network, by all.

Jupyter Book loads sphinx-thebe twice. Its inline settings then stand on every page
twice, which is an error in the browser's console (two ``const`` of one name), and they
name a host from which a live kernel would be loaded. The book has no live kernels.

The theme asks the browser to load its icon fonts early, in a way that a page opened
from the file system is not allowed. The style sheets load them anyway. And its arrows
that unfold a part of the contents have no name for a reader who hears the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def drop_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Remove sphinx-thebe's scripts and every script that was there before."""
    kept, seen = [], set()
    for script in context.get("script_files", []):
        body = (getattr(script, "attributes", None) or {}).get("body", "")
        key = (str(getattr(script, "filename", script)), body)
        if key in seen or "thebe" in "".join(key).lower():
            continue
        seen.add(key)
        kept.append(script)
    context["script_files"] = kept


PRELOAD = re.compile(r'<link rel="preload" as="font"[^>]*>\n?')
ARROW = '<summary><span class="toctree-toggle"'
NAMED_ARROW = ARROW.replace("<summary>", '<summary aria-label="Pages inside">')


def mend_theme(app: Sphinx, error: Exception | None) -> None:
    """Drop the preloaded fonts and name the arrows, on every page."""
    for page in Path(app.outdir).rglob("*.html"):
        text = PRELOAD.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace(ARROW, NAMED_ARROW), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    # After every other extension has added its scripts.
    app.connect("html-page-context", drop_scripts, priority=900)
    app.connect("build-finished", mend_theme)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
