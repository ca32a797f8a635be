"""Keep a page of the built site free of double and of remote scripts.

Jupyter Book loads sphinx-thebe twice. Its inline settings then stand on every page
twice, which is an error in the browser's console (two ``const`` of one name), and they
name a host from which a live kernel would be loaded. The book has no live kernels.
"""

from __future__ import annotations

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


def setup(app: Sphinx) -> dict[str, bool]:
    # After every other extension has added its scripts.
    app.connect("html-page-context", drop_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
