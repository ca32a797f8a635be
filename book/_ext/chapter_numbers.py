"""Give a chapter the number in the name of its file: ``notebooks/09_name`` is 9.

Sphinx numbers chapters by their place in the table of contents. Where chapters are
still to be written, all later ones would move up, and move again later. Here the first
number of a chapter's title, of its sections and of its figures and tables is set to
that of its file, once Sphinx has given out its own.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

CHAPTER = re.compile(r"notebooks/(\d+)_")


def renumber(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Write a chapter's number wherever Sphinx keeps the numbers of its page.

    No page has to be written again for it: the number of a file never changes.
    """
    for docname, sections in env.toc_secnumbers.items():
        match = CHAPTER.match(docname)
        if match is None or not sections.get(""):  # no chapter, or without a number
            continue
        first = int(match[1])
        # headings and cross-references
        for anchor, number in sections.items():
            sections[anchor] = (first, *number[1:]) if number else number
        # figures, tables, listings; without a section the count goes over all pages
        for numbers in env.toc_fignumbers.get(docname, {}).values():
            for name, number in numbers.items():
                numbers[name] = (first, *number[1:]) if len(number) > 1 else number
        # links to the page: contents at the side, previous, next, parents
        links = [env.titles[docname], *env.tocs[docname].findall(nodes.reference)]
        for link in links:
            if link.get("secnumber"):
                link["secnumber"] = [first, *link["secnumber"][1:]]
    return []


def setup(app: Sphinx) -> dict[str, bool]:
    # After the collectors of Sphinx and of the table of contents.
    app.connect("env-get-updated", renumber, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
