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

from dataclasses import dataclass
from typing import Any

from dllm_tutorial import _checks

__all__ = ["CHAPTERS", "load"]

CHAPTERS: dict[str, dict[str, Any]] = {}


def load(chapter: str, profile: str) -> Any:
    """The sizes of one chapter: ``load("02_schedules", "smoke").samples``."""
    profiles = CHAPTERS[_checks.one_of(chapter, "chapter", CHAPTERS)]
    return profiles[_checks.one_of(profile, "profile", profiles)]


@dataclass(frozen=True)
class ParallelDecoding:
    """Chapter 3: how many answers are drawn, and at which sizes."""

    draws: int  # answers behind a measured point
    lists: tuple[int, ...]  # lengths of the lists
    rhos: tuple[float, ...]  # correlations of the noise that breaks ties
    chain: int  # length of the Markov chain


CHAPTERS["03_parallel_decoding"] = {
    "smoke": ParallelDecoding(
        draws=2000,
        lists=(4, 8, 12, 16),
        rhos=(0.0, 0.25, 0.5, 0.7, 0.85),
        chain=32,
    ),
    "full": ParallelDecoding(
        draws=40_000,
        lists=(4, 6, 8, 10, 12, 14, 16),
        rhos=(0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95),
        chain=64,
    ),
}


@dataclass(frozen=True)
class Schedules:
    """Chapter 2: sizes of what is sampled; the exact parts need none."""

    draws: int  # answers behind a measured point
    batch: int  # sequences in a training batch
    batches: int  # batches behind a measured spread
    chain: int  # tokens of the Markov chain trained on


CHAPTERS["02_schedules"] = {
    "smoke": Schedules(draws=2000, batch=32, batches=300, chain=16),
    "full": Schedules(draws=40_000, batch=64, batches=4000, chain=64),
}


@dataclass(frozen=True)
class DecodingStrategies:
    """Chapter 4: draws behind a point that is measured while the chapter runs."""

    draws: int
    puzzles: int
    lists: tuple[int, ...]  # list lengths in the mixture of tasks


CHAPTERS["04_decoding_strategies"] = {
    "smoke": DecodingStrategies(draws=1000, puzzles=200, lists=(4, 6, 8, 10)),
    "full": DecodingStrategies(
        draws=10_000, puzzles=2000, lists=(3, 4, 5, 6, 7, 8, 9, 10)
    ),
}


@dataclass(frozen=True)
class TextFromNoise:
    """Chapter 1: how long the live network trains and how much is measured."""

    steps: int  # updates of the live network
    seeds: int  # of the live network
    sequences: int  # held-out sequences it is measured on
    batches: int  # batches behind the spread of a loss
    windows: int  # windows of real text behind the value of context


CHAPTERS["01_text_from_noise"] = {
    "smoke": TextFromNoise(steps=250, seeds=3, sequences=400, batches=40, windows=80),
    "full": TextFromNoise(
        steps=4000, seeds=5, sequences=4000, batches=1000, windows=1000
    ),
}


@dataclass(frozen=True)
class ParallelBench:
    """Chapter 5: what is decoded while the chapter runs."""

    instances: int  # of each task
    planned: int  # lists of four items, without and after a plan


CHAPTERS["05_parallelbench"] = {
    "smoke": ParallelBench(instances=100, planned=2000),
    "full": ParallelBench(instances=1000, planned=50_000),
}


@dataclass(frozen=True)
class DiffusionAgainstAutoregression:
    """Chapter 6: how many squares are filled while the chapter runs."""

    puzzles: int  # Sudokus of order 4 for each number of blanks
    large: int  # Sudokus of order 9 for each share of blanks
    draws: int  # empty squares filled by an exact denoiser
    lists: int  # lists that an exact denoiser shuffles


CHAPTERS["06_dllm_against_ar"] = {
    "smoke": DiffusionAgainstAutoregression(puzzles=40, large=20, draws=200, lists=10),
    "full": DiffusionAgainstAutoregression(
        puzzles=400, large=200, draws=4000, lists=100
    ),
}


@dataclass(frozen=True)
class WhyOrderMatters:
    """Chapter 10: what is drawn, counted and trained while the chapter runs."""

    chain: int  # tokens of the chain that is seen through a window
    orders: int  # random orders behind a mean
    letters: int  # letters of text that are counted
    updates: int  # of a live network
    seeds: int  # of a live network
    puzzles: int  # Sudokus of order 4


CHAPTERS["10_why_order_matters"] = {
    "smoke": WhyOrderMatters(
        chain=64, orders=100, letters=1_000_000, updates=160, seeds=3, puzzles=50
    ),
    "full": WhyOrderMatters(
        chain=128, orders=1000, letters=5_000_000, updates=700, seeds=5, puzzles=500
    ),
}


@dataclass(frozen=True)
class AnyOrderFactorization:
    """Chapter 9: an enumerable source and the networks that learn it live."""

    tokens: int  # of the source: all its sequences and orders are enumerated
    updates: int  # of a live network of one order; of all orders twice as many
    seeds: int
    draws: tuple[int, ...]  # random orders behind a bracket
    repeats: int  # brackets of one sequence


CHAPTERS["09_any_order_factorisation"] = {
    "smoke": AnyOrderFactorization(
        tokens=5, updates=100, seeds=3, draws=(2, 4, 8, 16, 32, 64), repeats=400
    ),
    "full": AnyOrderFactorization(
        tokens=6,
        updates=1000,
        seeds=5,
        draws=(2, 4, 8, 16, 32, 64, 128, 256),
        repeats=4000,
    ),
}


@dataclass(frozen=True)
class LogSum:
    """Chapter 11: an enumerable model, and networks for two orders that train live."""

    tokens: int  # of the source whose sequences are all enumerated
    errors: tuple[float, ...]  # standard deviations of the errors of a model
    symbols: int  # free symbols of the source of two directions
    updates: int  # of a live network
    starts: int  # trainings with the log-sum loss


CHAPTERS["11_log_sum"] = {
    "smoke": LogSum(
        tokens=5,
        errors=(0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0),
        symbols=5,
        updates=300,
        starts=3,
    ),
    "full": LogSum(
        tokens=6,
        errors=(0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0),
        symbols=6,
        updates=2000,
        starts=5,
    ),
}
