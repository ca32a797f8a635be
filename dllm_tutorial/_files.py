"""Files that are there whole or not at all, and tables that grow."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DRAFT = ".part"  # what a file is called while it is being written


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a run after a kill, sees all of it or none."""
    draft = path.with_name(path.name + DRAFT)
    with open(draft, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows, one at least, to a CSV file; the first ones name its columns."""
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
