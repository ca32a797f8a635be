"""Files that are there whole or not at all, curves that grow, folders in use."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: there nobody stops two runs in one folder
    fcntl = None  # type: ignore[assignment]

DRAFT = ".part"  # what a file is called while it is being written


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a run after a kill, sees all of it or none."""
    draft = path.with_name(path.name + DRAFT)
    with open(draft, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def put_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add the rows of one ``"step"`` to a learning curve, a CSV file.

    Rows of this step or later go: they are of a run that was killed before its
    checkpoint, whose steps are taken again. So does a last line that was cut off.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    earlier = [
        row
        for row in csv.DictReader(whole.splitlines())
        if int(row["step"]) < rows[0]["step"]
    ]
    table = StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*earlier, *rows])
    write_whole(path, table.getvalue().encode())


@contextmanager
def locked(folder: Path, *, in_process: bool = True) -> Iterator[None]:
    """A folder, made if it is missing, for one run at a time.

    The system frees the lock of a process that is gone. With ``in_process`` two runs of
    one process are kept apart too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as file:
        if fcntl is None:
            yield
            return
        lock = fcntl.flock if in_process else fcntl.lockf  # of the file, of the process
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"folder must not be in use, but another run is filling {folder}"
            ) from None
        try:
            yield
        finally:  # by itself: a forked worker may keep the file open for longer
            lock(file, fcntl.LOCK_UN)
