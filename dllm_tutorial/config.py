"""Sizes of the runs, one frozen dataclass a chapter, one instance a profile.

``smoke`` is what the book executes on two CPU cores in under a minute. A chapter adds
its dataclass at the end of this file and registers it::

    @dataclass(frozen=True)
    class Schedules:
        samples: int
        steps: tuple[int, ...]


    CHAPTERS["02_schedules"] = {"smoke": Schedules(samples=2000, steps=(1, 2, 4))}
"""

from __future__ import annotations

from dataclasses import dataclass  # noqa: F401  (the chapters below)
from typing import Any

from dllm_tutorial import _checks

__all__ = ["CHAPTERS", "load"]

CHAPTERS: dict[str, dict[str, Any]] = {}


def load(chapter: str, profile: str) -> Any:
    """The sizes of one chapter: ``load("02_schedules", "smoke").samples``."""
    profiles = CHAPTERS[_checks.one_of(chapter, "chapter", CHAPTERS)]
    return profiles[_checks.one_of(profile, "profile", profiles)]
