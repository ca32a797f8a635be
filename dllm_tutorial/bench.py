"""From rows of the benchmark study to accuracies, differences and what was lost.

A row is one model on one task by one rule, with a digit for each test instance. All
models and rules of a task met the same instances, so that differences are paired. An
exact denoiser is one model: its interval (Wilson's) is over instances. Trained models
come in several seeds: theirs (:func:`dllm_tutorial.study.crossed_interval`) is over
seeds and instances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dllm_tutorial import study

__all__ = ["accuracy", "kind", "read", "scores"]


def read(name: str) -> pd.DataFrame:
    """Rows of a study as they ship: ``read("panels")`` for ``bench_panels.csv``."""
    return study.read_rows(f"bench_{name}", text=("right", "calls"))


def kind(model: str) -> str:
    """What a model is, without its seed: ``exact``, ``dllm``, ``ar`` or ``tuned``."""
    return model.split("-")[0]


def scores(table: pd.DataFrame) -> np.ndarray:
    """Float64[rows, N]: one for each right answer, from the digits of ``right``.

    Raises ``ValueError`` where rows have different numbers of instances.
    """
    lengths = table["right"].str.len().unique()
    if len(lengths) != 1:
        raise ValueError(f"table must have rows of one length, got {sorted(lengths)}")
    text = "".join(table["right"])
    return np.frombuffer(text.encode(), np.uint8).reshape(len(table), -1) - 48.0


def accuracy(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean accuracy with its 95 % interval for each kind of model and setting.

    Parameters
    ----------
    table : DataFrame
        Rows of a study, with the digits of ``right`` as text.
    by : sequence of str
        Columns that tell settings apart. Within a kind of model and a setting there is
        one row for each seed.

    Returns
    -------
    DataFrame
        ``kind``, the columns of ``by``, ``accuracy``, ``low``, ``high``, ``seeds``,
        ``n`` (instances), ``nfe`` (mean calls of the model for an answer).
    """
    keys = ["kind", *by]
    groups = table.assign(kind=table["model"].map(kind)).groupby(
        keys, sort=False, dropna=False
    )
    return pd.DataFrame(
        [dict(zip(keys, key, strict=True)) | _measured(rows) for key, rows in groups]
    )


def _measured(rows: pd.DataFrame) -> dict[str, float]:
    if rows["model"].duplicated().any():
        raise ValueError(
            "by must tell settings apart, got two rows of one model: "
            f"{rows.iloc[0].drop(['right', 'calls']).to_dict()}"
        )
    right = scores(rows)
    seeds, n = right.shape
    low, high = (
        study.wilson(right.sum(), n) if seeds == 1 else study.crossed_interval(right)
    )
    return {
        "accuracy": right.mean(),
        "low": low,
        "high": high,
        "seeds": seeds,
        "n": n,
        "nfe": rows["nfe"].mean(),
    }
