"""From measurements to rows with intervals, and where the rows came from.

A result is a CSV file of tidy rows in ``dllm_tutorial/data/results``, with a JSON file
of the same name beside it that tells its provenance. Every interval is a pair
``(low, high)`` of arrays, or of floats where the input is scalar.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import stats

import dllm_tutorial
from dllm_tutorial import _checks, _files

__all__ = [
    "bootstrap_interval",
    "crossed_interval",
    "mean_interval",
    "paired_interval",
    "provenance",
    "read_rows",
    "wilson",
    "write_rows",
]

Interval = tuple[Any, Any]
RESULTS = Path(str(resources.files("dllm_tutorial"))) / "data" / "results"


# ------------------------------------------------------------------- rows and origin


def _git(*command: str) -> str | None:
    """Answer of git about the checkout this package lies in, None where there is none.

    A package installed inside some other repository has no commit of its own.
    """
    package = Path(dllm_tutorial.__file__).resolve().parent
    answers = []
    for arguments in (("rev-parse", "--show-toplevel"), command):
        try:
            done = subprocess.run(
                ["git", "-C", str(package), *arguments],
                capture_output=True,
                encoding="utf-8",
            )
        except OSError:
            return None
        if done.returncode:
            return None
        answers.append(done.stdout.strip())
    return answers[1] if Path(answers[0]).resolve() == package.parent else None


def provenance(command: str, seeds: int | Sequence[int]) -> dict[str, Any]:
    """Where rows come from, ready to be written beside them.

    Parameters
    ----------
    command : str
        The command that produces the rows again.
    seeds : int or sequence of int
        Seeds of all generators that were used.

    Returns
    -------
    dict
        ``command``, ``seeds``, ``commit`` (None outside a checkout), ``dirty`` (whether
        tracked files differ from that commit, other than rows that were just measured),
        ``device``, ``threads``, ``python``, ``torch``, ``package`` (version) and
        ``time`` (UTC, ISO 8601).
    """
    _checks.string(command, "command")
    if isinstance(seeds, str) or not isinstance(seeds, Integral | Iterable):
        raise TypeError(f"seeds must be one integer or several, got {seeds!r}")
    listed = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    others = [":/", ":(top,exclude)dllm_tutorial/data/results"]
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", *others)
    cuda = torch.cuda.is_available()
    return {
        "command": command,
        "seeds": [_checks.integer(seed, "seeds") for seed in listed],
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "device": torch.cuda.get_device_name() if cuda else f"CPU {platform.machine()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "package": dllm_tutorial.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_rows(
    path: str | Path,
    rows: pd.DataFrame | Iterable[Mapping[str, Any]],
    origin: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Write tidy rows as CSV and return them as a table.

    Parameters
    ----------
    path : str or Path
        The file, ending in ``.csv``; its folder is made if it is missing.
    rows : DataFrame or iterable of mappings
        One measurement each.
    origin : mapping, optional
        The answer of :func:`provenance`, written to ``path`` with suffix ``.json``,
        with ``weights``, the hashes in the column of that name, if there is one.
        Without it a file of that name is removed: it told of other rows.
    """
    path = Path(path)
    if path.suffix != ".csv":
        raise ValueError(f"path must end in .csv, got {path}")
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if table.empty:
        raise ValueError("rows must not be empty")
    if origin is not None and not isinstance(origin, Mapping):
        raise TypeError(f"origin must be a mapping or None, got {origin!r}")
    known = dict(origin or {})
    if "weights" in table:
        known["weights"] = sorted(set(table["weights"].dropna()) - {""})
    text = json.dumps(known, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.write_whole(path, table.to_csv(index=False, lineterminator="\n").encode())
    if origin is None:
        path.with_suffix(".json").unlink(missing_ok=True)
    else:
        _files.write_whole(path.with_suffix(".json"), text.encode())
    return table


def read_rows(name: str, text: Iterable[str] = ()) -> pd.DataFrame:
    """Rows that ship with the package, with their provenance in ``.attrs``.

    Parameters
    ----------
    name : str
        File name in ``dllm_tutorial/data/results``, without ``.csv``.
    text : iterable of str
        Columns that are kept as text where pandas would read numbers, such as ``0110``.

    Numbers of up to 15 digits are read to the last bit by every version of pandas; of
    longer ones those before 3 may miss it.
    """
    folder = resources.files("dllm_tutorial") / "data" / "results"
    names = sorted(
        file.name.removesuffix(".csv")
        for file in folder.iterdir()
        if file.name.endswith(".csv")
    )
    _checks.one_of(name, "name", names)
    with (folder / f"{name}.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=dict.fromkeys(text, str))
    origin = folder / f"{name}.json"
    if origin.is_file():
        table.attrs.update(json.loads(origin.read_text(encoding="utf-8")))
    return table


# ------------------------------------------------------------------------- intervals


def _level(level: float) -> float:
    return _checks.in_unit_interval(level, "level", open_left=True, open_right=True)


def _sample(values: ArrayLike, name: str = "values") -> np.ndarray:
    """Numbers Float64[..., n] with at least two along the last axis."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] < 2:
        raise ValueError(f"{name} must hold at least two numbers, got {array.shape}")
    if np.isnan(array).any():
        raise ValueError(f"{name} must hold numbers, got NaN among them: {array}")
    return array


def wilson(successes: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927), elementwise.

    Parameters
    ----------
    successes, n : array_like of int
        Successes out of n trials, n >= 1; they broadcast.
    level : float
        Coverage, between 0 and 1.
    """
    k, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    if not np.all((n >= 1) & (k >= 0) & (k <= n)):  # NaN is refused, too
        raise ValueError(
            f"successes must lie between 0 and n, and n be positive: got {k} of {n}"
        )
    z = stats.norm.isf((1 - _level(level)) / 2)
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    # At k = 0 and k = n the ends are exactly 0 and 1; rounding may miss them.
    low = np.where(k == 0, 0.0, middle - half)
    high = np.where(k == n, 1.0, middle + half)
    return low[()], high[()]


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval for the mean of ``values: Float[..., n]``, last axis."""
    values = _sample(values)
    n = values.shape[-1]
    mean = values.mean(-1)
    error = values.std(-1, ddof=1) / np.sqrt(n)
    half = stats.t.isf((1 - _level(level)) / 2, n - 1) * error
    return mean - half, mean + half


def paired_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """t interval for the mean of a - b, measured on the same instances (last axis)."""
    a, b = _sample(a, "a"), _sample(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {a.shape} and {b.shape}")
    return mean_interval(a - b, level)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of ``values: Float[n]``.

    Parameters
    ----------
    values : array_like
        Independent measurements.
    statistic : callable
        ``statistic(values, axis=...)``; the mean by default.
    level : float
        Coverage, between 0 and 1.
    resamples, seed : int
        Number of resamples and the seed that draws them.
    """
    values = _sample(values)
    if values.ndim != 1:
        raise ValueError(f"values must be one-dimensional, got shape {values.shape}")
    result = stats.bootstrap(
        (values,),
        statistic,
        n_resamples=_checks.integer(resamples, "resamples", 1),
        confidence_level=_level(level),
        method="percentile",
        random_state=np.random.default_rng(_checks.integer(seed, "seed", 0)),
    )
    return result.confidence_interval.low, result.confidence_interval.high


def crossed_interval(
    values: ArrayLike, ends: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    r"""95 % interval for a mean of bounded scores ``values: Float[..., S, N]``.

    S training seeds were measured on the same N instances, and another study would
    have other seeds and other instances. With :math:`v_S` the variance of the seeds'
    means and :math:`v_N` that of the instances' means, the half-width is

    .. math:: t \sqrt{v_S / S + v_N / N},

    where t has the degrees of freedom of Welch (1947) and Satterthwaite (1946). What
    belongs to one seed on one instance is in both terms, as in the bootstrap over rows
    and columns of Owen (2007), which makes the interval rather too wide. One seed has
    no :math:`v_S`: its interval is over instances and speaks of this seed alone.

    Scores that all agree leave doubt, too. So each seed gets two more instances, one
    at either end of the scale: for a rate a success and a failure, for a paired
    difference +1 and -1 (Agresti and Caffo 2000).

    Simulated with three or five seeds, 50 to 400 instances and rates from 0.5 to 1,
    the interval holds the truth in 94 % or more if the seeds' own rates have a standard
    deviation of at most 0.04 where the rate is 0.5 and of 0.01 where it is 0.95; in
    about 92 % or more with twice these, and in 90 % with three times. Three seeds
    cannot tell of a larger spread near one: with 0.06 at a rate of 0.95 it is 89 % at
    100 instances, 82 % at 400.

    Parameters
    ----------
    values : array_like
        Scores, ``[..., S, N]``. For a comparison give paired differences.
    ends : (float, float)
        The lowest and the highest score there can be: (0, 1) for rates, (-1, 1) for
        differences of rates.

    Examples
    --------
    >>> low, high = crossed_interval([[1] * 100] * 3)
    >>> print(f"{low:.3f} {high:.0f}")
    0.971 1
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"values must be [seeds, instances], got {array.shape}")
    least, most = ends
    if not least < most:
        raise ValueError(f"ends must be the lowest and the highest score, got {ends}")
    slack = 1e-9 * (most - least)  # for sums whose rounding passes an end
    if not np.all((array >= least - slack) & (array <= most + slack)):  # nor NaN
        raise ValueError(f"values must lie between {least} and {most}, got {array}")
    added = np.broadcast_to([least, most], (*array.shape[:-1], 2))
    array = np.concatenate([array, added], axis=-1)
    s, n = array.shape[-2:]
    of_instances = array.mean(-2).var(-1, ddof=1) / n
    of_seeds = array.mean(-1).var(-1, ddof=1) / s if s > 1 else 0.0
    variance = of_seeds + of_instances
    freedom = variance**2 / (of_seeds**2 / max(s - 1, 1) + of_instances**2 / (n - 1))
    half = stats.t.isf(0.025, freedom) * np.sqrt(variance)
    mean = array.mean((-2, -1))
    return np.maximum(mean - half, least), np.minimum(mean + half, most)
