"""Show the claims ledger on a page.

``claims-ledger`` with a chapter's number shows its claims as cards; ``claims-summary``
counts the verdicts of all chapters. Both read ``dllm_tutorial/data/claims.toml`` and
compute the findings when the site is built.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from dllm_tutorial import ledger


class ClaimsLedger(SphinxDirective):
    """One card a claim, with an anchor ``claim-<id>``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        watch(self)
        chapter = directives.nonnegative_int(self.arguments[0])
        return [card(row) for row in ledger.table(chapter).rows()]


class ClaimsSummary(SphinxDirective):
    """A table: chapters down, verdicts and definitions across."""

    def run(self) -> list[nodes.Node]:
        watch(self)
        chapters = sorted({claim.chapter for claim in ledger.load()})
        counts = {str(c): ledger.table(c).counts() for c in chapters}
        counts["all"] = ledger.table().counts()
        rows = [[c, *(str(n) for n in found.values())] for c, found in counts.items()]
        return [table(["chapter", *counts["all"]], rows)]


def watch(directive: SphinxDirective) -> None:
    """Build the page again when the claims or their evidence change."""
    package = Path(ledger.__file__).parent
    for file in (package / "ledger.py", package / "data" / "claims.toml"):
        directive.env.note_dependency(str(file))


def card(row: dict) -> nodes.Node:
    """A claim: verdict and statement, then slide, measure and finding."""
    verdict = row["verdict"] if row["kind"] == "claim" else row["kind"]
    kind = ["claim", f"claim-{verdict}"]
    box = nodes.container(classes=kind, ids=[f"claim-{row['id']}"])
    head = nodes.paragraph(classes=["claim-statement"])
    head += nodes.inline(text=verdict, classes=["claim-verdict"])
    head += nodes.Text(" " + row["statement"])
    box += head
    for key in ("slide", "measure", "finding"):
        part = nodes.paragraph(classes=["claim-detail"])
        part += nodes.strong(text=key.capitalize())
        part += nodes.Text(" " + row[key])
        box += part
    return box


def table(header: list[str], rows: list[list[str]]) -> nodes.Node:
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    group += nodes.thead("", line(header))
    group += nodes.tbody("", *[line(row) for row in rows])
    return nodes.table("", group, classes=["claims-summary"])


def line(cells: list[str]) -> nodes.Node:
    entries = [nodes.entry("", nodes.paragraph(text=cell)) for cell in cells]
    return nodes.row("", *entries)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive("claims-summary", ClaimsSummary)
    app.add_css_file("ledger.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
