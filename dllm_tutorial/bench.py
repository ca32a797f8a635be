"""From rows of the benchmark study to accuracies, differences and what was lost.

A row is one model on one task by one rule, with a digit for each test instance. All
models and rules of a task met the same instances, so that differences are paired.
Trained models come in several seeds: intervals are at 95 %, over seeds and instances
(:func:`dllm_tutorial.study.crossed_interval`). An exact denoiser is one model: its
interval is over instances alone.

An answer has ``TOKENS`` positions: what is said and the ``<eos>`` after it. *Tokens
per step* are these positions divided by the calls of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dllm_tutorial import _checks, exact, laws, study
from dllm_tutorial.tasks import ANSWER_LENGTH

__all__ = [
    "NAMES",
    "TOKENS",
    "able",
    "accuracy",
    "best_rules",
    "chosen",
    "closed_form",
    "closed_threshold",
    "cost_of_parallelism",
    "decomposition",
    "difference",
    "from_true_states",
    "kind",
    "mask_errors",
    "oracle",
    "oracle_calls",
    "over_tasks",
    "pbx",
    "position_errors",
    "published",
    "published_difference",
    "read",
    "scores",
    "seed",
    "transferred",
]

TOKENS = ANSWER_LENGTH

# The ten panels of the deck.
NAMES = {
    "copy": "(a) Copy",
    "reverse": "(b) Reverse",
    "replace_index": "(c) Replace Index",
    "replace_random": "(d) Replace Random",
    "shuffle": "(e) Shuffle",
    "paraphrase": "(f) Paraphrase",
    "w2s_easy": "(g) W2S easy",
    "w2s_hard": "(h) W2S hard",
    "sudoku": "(i) Sudoku",
    "latin_square": "(j) Latin square",
}


def read(name: str) -> pd.DataFrame:
    """Rows of a study as they ship: ``read("panels")`` for ``bench_panels.csv``."""
    return study.read_rows(f"bench_{name}", text=("right", "calls"))


def kind(model: str) -> str:
    """What a model is, without its seed: ``exact``, ``dllm``, ``tuned``, ..."""
    return model.split("-")[0]


def seed(model: str) -> str:
    """The training seed at the end of a model's name; empty for an exact denoiser."""
    return model.rpartition("-")[2] if "-" in model else ""


def scores(table: pd.DataFrame) -> np.ndarray:
    """Float64[rows, N]: one for each right answer, from the digits of ``right``.

    Raises ``ValueError`` where rows have different numbers of instances.
    """
    lengths = table["right"].str.len().unique()
    if len(lengths) != 1:
        raise ValueError(f"table must have rows of one length, got {sorted(lengths)}")
    text = "".join(table["right"])
    return np.frombuffer(text.encode(), np.uint8).reshape(len(table), -1) - 48.0


def _calls(table: pd.DataFrame) -> np.ndarray:
    """Float64[rows, N]: calls of the model for each instance."""
    return np.array([row.split() for row in table["calls"]], dtype=np.float64)


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
        ``n`` (instances, unless ``by`` names the lists' length ``n``), ``nfe`` (mean
        calls of the model for an answer) and ``speed`` (tokens per step).
    """
    keys = ["kind", *by]
    groups = table.assign(kind=table["model"].map(kind)).groupby(
        keys, sort=False, dropna=False
    )
    return pd.DataFrame(
        [
            (named := dict(zip(keys, key, strict=True))) | _measured(rows) | named
            for key, rows in groups
        ]
    )


def _measured(rows: pd.DataFrame) -> dict[str, float]:
    if rows["model"].duplicated().any():
        raise ValueError(
            "by must tell settings apart, got two rows of one model: "
            f"{rows.iloc[0].drop(['right', 'calls']).to_dict()}"
        )
    right = scores(rows)
    seeds, n = right.shape
    low, high = study.crossed_interval(right)
    return {
        "accuracy": right.mean(),
        "low": low,
        "high": high,
        "seeds": seeds,
        "n": n,
        "nfe": rows["nfe"].mean(),
        "speed": TOKENS / rows["nfe"].mean(),
    }


# -------------------------------------------------------------------------- comparisons


def difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    by: Sequence[str],
    over: Sequence[str] = (),
) -> pd.DataFrame:
    """Accuracy of ``first`` minus that of ``second`` on the same instances.

    Parameters
    ----------
    first, second : DataFrame
        Rows of one kind of model each. Models are paired by their seeds; a model
        without one, an exact denoiser, is paired with each seed of the other table.
    by : sequence of str
        Columns that tell settings apart; settings that one table lacks are left out.
    over : sequence of str
        Columns over whose values the mean is taken, the same in both tables.

    Returns
    -------
    DataFrame
        The columns of ``by``, ``difference``, ``low``, ``high`` (paired, over seeds and
        instances), ``seeds`` and ``n``.
    """
    keys, found = list(by), []
    others = {_tuple(key): rows for key, rows in second.groupby(keys, sort=False)}
    for key, rows in first.groupby(keys, sort=False):
        if _tuple(key) not in others:
            continue
        values = _paired(rows, others[_tuple(key)], list(over))
        low, high = study.crossed_interval(values, (-1, 1))
        found.append(
            dict(zip(keys, _tuple(key), strict=True))
            | {"difference": values.mean(), "low": low, "high": high}
            | {"seeds": values.shape[0], "n": values.shape[1]}
        )
    if not found:
        raise ValueError(f"first and second must share a setting of {keys}")
    return pd.DataFrame(found)


def _tuple(key: Any) -> tuple:
    return key if isinstance(key, tuple) else (key,)


def _paired(first: pd.DataFrame, second: pd.DataFrame, over: list[str]) -> np.ndarray:
    """Float64[seeds, N]: differences of scores, averaged over the columns ``over``."""
    a, b = (_by_seed(rows, over) for rows in (first, second))
    seeds = sorted(a if "" not in a else b)
    per_seed = []
    for s in seeds:
        one, two = a.get(s, a.get("")), b.get(s, b.get(""))
        if one is None or two is None or one.keys() != two.keys():
            raise ValueError(
                f"first and second must have the same seeds and settings of {over}, "
                f"got {sorted(a)} and {sorted(b)} at {first.iloc[0][['task', 'rule']]}"
            )
        per_seed.append(np.mean([one[key] - two[key] for key in one], 0))
    return np.stack(per_seed)


def _by_seed(rows: pd.DataFrame, over: list[str]) -> dict[str, dict[tuple, np.ndarray]]:
    """Scores Float64[N] of each seed and setting."""
    settings = map(tuple, rows[over].to_numpy())  # no columns: a row is ()
    found: dict[str, dict[tuple, np.ndarray]] = {}
    for model, setting, right in zip(
        rows["model"], settings, scores(rows), strict=True
    ):
        mine = found.setdefault(seed(model), {})
        if setting in mine:
            raise ValueError(
                "by and over must tell settings apart, got two rows of "
                f"{model} at {setting}"
            )
        mine[setting] = right
    return found


def _verdict(low: float, high: float, names: tuple[str, str, str]) -> str:
    """One of three words: the interval is below, around or above zero."""
    return names[0] if high < 0 else names[2] if low > 0 else names[1]


def cost_of_parallelism(
    table: pd.DataFrame, rule: str, few: float = 1, many: float = TOKENS
) -> pd.DataFrame:
    """What the fastest setting of a rule loses against the slowest.

    Returns
    -------
    DataFrame
        ``kind``, ``task``, the accuracies ``slow`` and ``fast`` at ``few`` and ``many``
        tokens per step, ``difference`` = slow - fast with its paired interval and
        ``verdict``: ``falls`` or ``rises`` if the interval leaves zero out, else
        ``flat``.
    """
    table = table[table["rule"] == rule]
    found = []
    for name, rows in table.groupby(table["model"].map(kind), sort=False):
        slow, fast = rows[rows["value"] == few], rows[rows["value"] == many]
        if slow.empty or fast.empty:
            continue
        change = difference(slow, fast, ["task"])
        for column, part in (("slow", slow), ("fast", fast)):
            means = accuracy(part, ["task"]).set_index("task")["accuracy"]
            change.insert(1, column, change["task"].map(means))
        change.insert(0, "kind", name)
        found.append(change)
    if not found:
        raise ValueError(f"table must have rows of {rule!r} at {few} and at {many}")
    result = pd.concat(found, ignore_index=True)
    result["verdict"] = [
        _verdict(row.low, row.high, ("rises", "flat", "falls"))
        for row in result.itertuples()
    ]
    return result


def able(
    table: pd.DataFrame, least: float = 0.5, model: str = "dllm", rule: str = "random"
) -> list[str]:
    """Tasks a kind of model answers right at least so often, one token at a time.

    What a model cannot do at this speed says nothing about parallel decoding.
    """
    _checks.in_unit_interval(least, "least")
    one = table[
        (table["model"].map(kind) == model)
        & (table["rule"] == rule)
        & (table["value"] == 1)
    ]
    if one.empty:
        raise ValueError(f"table must have rows of {model} by {rule} at k = 1")
    found = one.assign(rate=one["correct"] / one["instances"]).groupby(
        "task", sort=False
    )["rate"]
    return [task for task, rate in found.mean().items() if rate >= least]


def best_rules(table: pd.DataFrame, speed: float) -> pd.DataFrame:
    """The best setting of each rule among those that are fast enough.

    Parameters
    ----------
    table : DataFrame
        Rows of one kind of model.
    speed : float
        Least tokens per step that a setting must reach on the task, mean over seeds.

    Returns
    -------
    DataFrame
        ``task``, ``rule``, its best ``value``, ``accuracy``, ``speed`` and ``best``:
        whether the paired interval of its difference to the task's highest accuracy
        holds zero. The value is chosen on the instances it is measured on, which
        flatters rules with many values a little.
    """
    _checks.number(speed, "speed", 0)
    settings = table.groupby(["task", "rule", "value"], sort=False)
    means = settings[["correct", "nfe"]].mean().reset_index()
    means["speed"] = TOKENS / means["nfe"]
    fast = means[means["speed"] >= speed]
    found = []
    for task, part in fast.groupby("task", sort=False):
        order = part.sort_values("correct", ascending=False, kind="stable")
        picks = order.drop_duplicates("rule")  # the best value of each rule
        rows = [
            settings.get_group((task, pick.rule, pick.value))
            for pick in picks.itertuples()
        ]
        for pick, own in zip(picks.itertuples(), rows, strict=True):
            gap = difference(rows[0], own, ["task"]).iloc[0]
            found.append(
                {
                    "task": task,
                    "rule": pick.rule,
                    "value": pick.value,
                    "accuracy": scores(own).mean(),
                    "speed": pick.speed,
                    "best": bool(gap["low"] <= 0),
                }
            )
    if not found:
        raise ValueError(f"table must have settings of {speed} tokens per step")
    return pd.DataFrame(found)


def pbx(table: pd.DataFrame, levels: Sequence[float]) -> pd.DataFrame:
    """PBx of Kang et al. 2025: the largest speed at which the mean score is kept.

    The score of a rule with one value is the mean over all tasks of the table, its
    speed all tokens divided by all calls.

    Parameters
    ----------
    table : DataFrame
        Rows of one kind of model; every setting has every task.
    levels : sequence of float
        Mean scores that are to be kept, such as 0.9 for PB90.

    Returns
    -------
    DataFrame
        ``rule``, ``level``, ``speed`` of the fastest setting whose mean score reaches
        the level (NaN if none does) and its ``value``; ``sure`` and ``possible`` are
        the speeds of the fastest settings whose score reaches it with the lower and
        with the upper end of its interval (seeds and the tasks' instances resampled).
    """
    settings = over_tasks(table)
    found = []
    for rule, rows in settings.groupby("rule", sort=False):
        for level in levels:
            _checks.in_unit_interval(level, "level")
            best = {
                name: rows[rows[column] >= level - 1e-12].nlargest(1, "speed")
                for name, column in (
                    ("speed", "accuracy"),
                    ("sure", "low"),
                    ("possible", "high"),
                )
            }
            found.append(
                {"rule": rule, "level": level}
                | {k: v["speed"].iloc[0] if len(v) else np.nan for k, v in best.items()}
                | {
                    "value": best["speed"]["value"].iloc[0]
                    if len(best["speed"])
                    else np.nan
                }
            )
    return pd.DataFrame(found)


def over_tasks(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score and speed over all tasks, for each rule and value.

    Parameters
    ----------
    table : DataFrame
        Rows of one kind of model; every setting has every task.

    Returns
    -------
    DataFrame
        ``rule``, ``value``, ``accuracy``, its interval ``low``, ``high`` and ``speed``:
        all tokens divided by all calls.
    """
    names = set(table["task"])
    found = []
    for (rule, value), rows in table.groupby(["rule", "value"], sort=False):
        if set(rows["task"]) != names:
            missing = sorted(names - set(rows["task"]))
            raise ValueError(f"{rule} {value} must have every task, lacks {missing}")
        by_model = [
            scores(part.sort_values("task")).ravel()
            for _, part in rows.groupby("model", sort=True)
        ]
        right = np.stack(by_model)
        low, high = study.crossed_interval(right)
        found.append(
            {
                "rule": rule,
                "value": value,
                "accuracy": right.mean(),
                "low": low,
                "high": high,
                "speed": TOKENS / rows["nfe"].mean(),
            }
        )
    return pd.DataFrame(found)


# ----------------------------------------------------------------------- decomposition


def decomposition(table: pd.DataFrame, rule: str, model: str = "dllm") -> pd.DataFrame:
    """How much of the accuracy decoding loses, and how much learning does.

    1 - trained = (1 - exact) + (exact - trained). The first bracket is lost by the rule
    with exact predictions, the second is what the trained model adds. It is negative
    where a model errs less than the rule would with exact predictions: errors that
    differ from position to position break ties that exact predictions break everywhere
    alike, and a model that prefers one right answer to the others has less to choose.

    Returns
    -------
    DataFrame
        ``task``, ``value``, ``exact``, ``trained``; ``decoding`` with
        ``decoding_low``, ``decoding_high``; ``learning`` with ``learning_low``,
        ``learning_high`` (paired, over seeds and instances).
    """
    rows = table[table["rule"] == rule]
    truth = rows[rows["model"] == "exact"]
    trained = rows[rows["model"].map(kind) == model]
    if truth.empty or trained.empty:
        raise ValueError(f"table must have rows of exact and of {model} by {rule}")
    by = ["task", "value"]
    ceiling = accuracy(truth, by).set_index(by)
    reached = accuracy(trained, by).set_index(by)
    lost = difference(truth, trained, by).set_index(by)
    ceiling = ceiling.loc[lost.index]
    return pd.DataFrame(
        {
            "exact": ceiling["accuracy"],
            "trained": reached.loc[lost.index, "accuracy"],
            "decoding": 1 - ceiling["accuracy"],
            "decoding_low": 1 - ceiling["high"],
            "decoding_high": 1 - ceiling["low"],
            "learning": lost["difference"],
            "learning_low": lost["low"],
            "learning_high": lost["high"],
        }
    ).reset_index()


# ------------------------------------------------------------- thresholds and an oracle


def _units(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each model, task, instance and value of one rule: right, calls."""
    if table["rule"].nunique() != 1:
        raise ValueError(f"table must be of one rule, got {set(table['rule'])}")
    right, calls = scores(table), _calls(table)
    n = right.shape[1]
    long = {
        name: np.repeat(table[name].to_numpy(), n)
        for name in ("model", "task", "value")
    }
    units = pd.DataFrame(
        long
        | {"instance": np.tile(np.arange(n), len(table))}
        | {"right": right.ravel(), "calls": calls.ravel()}
    )
    if units.duplicated(["model", "task", "value", "instance"]).any():
        raise ValueError("table must have one row for each model, task and value")
    return units


def chosen(table: pd.DataFrame, per: str) -> pd.DataFrame:
    """One value of a rule for all, for each task, or for each instance.

    For each group the value with the highest score is taken and, among these, the one
    with the fewest calls. The choice knows the answers it is judged by. With
    ``per="instance"`` it is the oracle: an upper bound, and an optimistic one, because
    among several values one may be right by chance.

    Parameters
    ----------
    table : DataFrame
        Rows of one rule with several values, of one kind of model.
    per : str
        ``"all"``, ``"task"`` or ``"instance"``; always for each model by itself.

    Returns
    -------
    DataFrame
        One row with ``accuracy``, ``nfe`` and ``speed``.
    """
    groups = {
        "all": ["model"],
        "task": ["model", "task"],
        "instance": ["model", "task", "instance"],
    }
    keys = groups[_checks.one_of(per, "per", groups)]
    means = _units(table).groupby([*keys, "value"], sort=False)[["right", "calls"]]
    ranked = means.mean().reset_index()
    ranked = ranked.sort_values(["right", "calls"], ascending=[False, True])
    best = ranked.drop_duplicates(keys)
    nfe = best["calls"].mean()
    return pd.DataFrame(
        {"accuracy": [best["right"].mean()], "nfe": [nfe], "speed": [TOKENS / nfe]}
    )


def oracle(table: pd.DataFrame) -> pd.DataFrame:
    """What the best value for each instance could reach, at every accuracy.

    Each instance costs the fewest calls of any value; to be right it costs the fewest
    of a value that is right. Instances are made right in the order of what that adds,
    so no way of choosing values is both faster and right more often.

    Parameters
    ----------
    table : DataFrame
        Rows of one rule with several values, of one kind of model.

    Returns
    -------
    DataFrame
        ``accuracy`` (rising), ``nfe`` (mean calls) and ``speed``.
    """
    units = _units(table)
    keys = ["model", "task", "instance"]
    least = units.groupby(keys)["calls"].min()
    if_right = units[units["right"] == 1].groupby(keys)["calls"].min()
    extra = np.sort((if_right - least.loc[if_right.index]).to_numpy())
    n, free = len(least), int((extra == 0).sum())
    added = np.concatenate([[0.0], np.cumsum(extra[free:])])
    nfe = (least.sum() + added) / n
    right = (free + np.arange(len(added))) / n
    return pd.DataFrame({"accuracy": right, "nfe": nfe, "speed": TOKENS / nfe})


def oracle_calls(frontier: pd.DataFrame, accuracy: float) -> float:
    """Mean calls that :func:`oracle` needs to be right at least so often."""
    enough = frontier[frontier["accuracy"] >= accuracy - 1e-9]
    if enough.empty:
        raise ValueError(
            f"accuracy must be at most {frontier['accuracy'].max()}, got {accuracy}"
        )
    return float(enough["nfe"].iloc[0])


def transferred(table: pd.DataFrame) -> pd.DataFrame:
    """Each instance's best value by one seed, used on the other seeds.

    What an oracle gains by luck does not carry over to a model with another seed; what
    belongs to the instance does. Where no value is right the one with the most calls is
    taken.

    Returns
    -------
    DataFrame
        One row with ``accuracy``, ``low``, ``high`` (over seeds and instances), ``nfe``
        and ``speed``.
    """
    units = _units(table)
    if units["model"].nunique() < 2:
        raise ValueError("table must have at least two models")
    keys = ["task", "instance"]
    cost = units["calls"].where(units["right"] == 1, 1e9 - units["calls"])
    order = units.assign(cost=cost).sort_values("cost", kind="stable")
    picks = order.drop_duplicates(["model", *keys])[["model", *keys, "value"]]
    used = units.merge(picks, on=[*keys, "value"], suffixes=("", "_of_choice"))
    others = used[used["model"] != used["model_of_choice"]]
    means = others.groupby(["model", *keys])[["right", "calls"]].mean()
    low, high = study.crossed_interval(means["right"].unstack(keys))
    nfe = means["calls"].mean()
    return pd.DataFrame(
        {"accuracy": [means["right"].mean()], "low": [low], "high": [high]}
        | {"nfe": [nfe], "speed": [TOKENS / nfe]}
    )


# ------------------------------------------------------------------------ closed forms


def closed_form(task: str, n: int, k: int, temperature: float) -> float:
    """P(right) with exact predictions and ``k`` tokens a step: the theory check.

    Shuffle and Replace Random of known length ``n``, in any order that does not look at
    the draws. At temperature 1 see :func:`~dllm_tutorial.exact.shuffle_accuracy` and
    :func:`~dllm_tutorial.exact.replace_random_accuracy`. At temperature 0 equal
    predictions write equal tokens, so that Shuffle fails as soon as a step has two
    items. Replace Random copies until its last step. A single position left is right;
    two are tied between their own and the new item, and the lowest token wins: right if
    the new item's number lies between theirs, a third of all cases; three or more copy.
    """
    drawn: dict[str, Callable[[int, int], float]] = {
        "shuffle": exact.shuffle_accuracy,
        "replace_random": exact.replace_random_accuracy,
    }
    form = drawn[_checks.one_of(task, "task", drawn)]
    _checks.integer(n, "n", 2)
    _checks.integer(k, "k", 1)
    if temperature == 1:
        return form(n, k)
    if temperature != 0:
        raise ValueError(f"temperature must be 0 or 1, got {temperature}")
    if task == "shuffle":
        return float(k == 1)
    last = n % k or min(k, n)  # positions of the last step
    return {1: 1.0, 2: 1 / 3}.get(last, 0.0)


def closed_threshold(task: str, n: int, gamma: float, temperature: float) -> float:
    """P(right) with exact predictions under a confidence threshold.

    At temperature 0 all or nothing: right if gamma is above 1/2 on Shuffle and above
    (n - 1)/n on Replace Random. See :func:`~dllm_tutorial.laws.threshold_shuffle` and
    :func:`~dllm_tutorial.laws.threshold_replace_random` for temperature 1.
    """
    _checks.integer(n, "n", 1)
    forms = {
        "shuffle": (laws.threshold_shuffle, 1 / 2),
        "replace_random": (laws.threshold_replace_random, (n - 1) / n),
    }
    form, edge = forms[_checks.one_of(task, "task", forms)]
    _checks.in_unit_interval(gamma, "gamma")
    if temperature == 1:
        return form(n, gamma)
    if temperature != 0:
        raise ValueError(f"temperature must be 0 or 1, got {temperature}")
    return float(gamma > edge)


# ------------------------------------------------------------------------ published


def published() -> pd.DataFrame:
    """LLaDA-1.5 on seven tasks as published by Kang et al. 2025.

    Returns
    -------
    DataFrame
        ``task``, ``rule``, ``k`` (tokens per step, of 32), ``accuracy`` and its Wilson
        interval ``low``, ``high`` for the ``n`` prompts.
    """
    rows = study.read_rows("llada_1_5")
    low, high = study.wilson(rows["accuracy"] * rows["n"], rows["n"])
    return rows.assign(low=low, high=high)


def published_difference(ks: Sequence[int]) -> pd.DataFrame:
    """LLaDA-1.5, confidence minus random order: the mean of the published numbers.

    Only percentages are published, so the interval is the normal one for independent
    samples, with Wilson's half-widths added in squares; the prompts were the same, and
    a paired one would be narrower or wider.

    Returns
    -------
    DataFrame
        ``task``, ``difference`` (mean over ``ks``), ``low``, ``high``.
    """
    rows = published()
    known = sorted(set(rows["k"]))
    if not len(ks) or not set(ks) <= set(known):
        raise ValueError(f"ks must be some of {known}, got {ks}")
    rows = rows[rows["k"].isin(ks)]
    found = []
    for task, part in rows.groupby("task", sort=False):
        half = (part["high"] - part["low"]) / 2
        error = float(np.sqrt((half**2).sum())) / len(ks)
        means = part.groupby("rule")["accuracy"].mean()
        gap = means["confidence"] - means["random"]
        found.append({"task": task, "difference": gap})
        found[-1] |= {"low": gap - error, "high": gap + error}
    return pd.DataFrame(found)


# ------------------------------------------------- one right answer, seen part by part


def mask_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Errors in one parallel prediction from true answers with m tokens masked.

    Parameters
    ----------
    table : DataFrame
        Rows of ``bench_masks``: ``model``, ``masked``, ``part`` (``list`` and ``end``),
        ``position``, ``tokens``, ``wrong``, ``whole`` and ``instances``.

    Returns
    -------
    DataFrame
        ``kind``, ``part`` (also ``all``, both together), ``masked``, ``error`` (share
        of masked tokens that are predicted wrongly), ``whole`` (share of answers with
        no masked token wrong), both means over seeds, with the smallest and largest
        seed in ``error_low``, ``error_high``, ``whole_low``, ``whole_high``, and
        ``seeds``.
    """
    rows = pd.concat([_masked(table, ["part"]), _masked(table, []).assign(part="all")])
    rows["error"] = rows["wrong"] / rows["tokens"].clip(lower=1)
    rows["whole"] = rows["whole"] / rows["instances"]
    rows["kind"] = rows["model"].map(kind)
    groups = rows.groupby(["kind", "part", "masked"], sort=False)
    return groups.agg(
        error=("error", "mean"),
        error_low=("error", "min"),
        error_high=("error", "max"),
        whole=("whole", "mean"),
        whole_low=("whole", "min"),
        whole_high=("whole", "max"),
        seeds=("model", "nunique"),
    ).reset_index()


def _masked(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Sums over positions for each model and number of masks, and ``by``."""
    groups = table.groupby(["model", "masked", *by], sort=False, as_index=False)
    return groups.agg(
        tokens=("tokens", "sum"),
        wrong=("wrong", "sum"),
        whole=("whole", "first"),
        instances=("instances", "first"),
    )


def position_errors(table: pd.DataFrame, masked: int) -> pd.DataFrame:
    """Errors at each position of the answer with so many tokens masked.

    Returns
    -------
    DataFrame
        ``kind``, ``part``, ``position``, ``tokens`` (over seeds and instances) and
        ``error``, the share of them that is predicted wrongly, with its Wilson interval
        ``low``, ``high``. Positions without tokens of a part have no row.
    """
    rows = table[(table["masked"] == masked) & (table["tokens"] > 0)]
    if rows.empty:
        raise ValueError(f"table must have rows with {masked} masked tokens")
    keys = ["kind", "part", "position"]
    groups = rows.assign(kind=rows["model"].map(kind)).groupby(keys, sort=False)
    sums = groups[["tokens", "wrong"]].sum().reset_index()
    low, high = study.wilson(sums["wrong"], sums["tokens"])
    error = sums.pop("wrong") / sums["tokens"]
    return sums.assign(error=error, low=low, high=high)


def from_true_states(table: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    r"""What errors from true states say about random top-k at temperature 0.

    For a task with one right answer and a rule that takes nothing back, the first error
    decides: until it is made, all revealed tokens are right, and their places are
    random. So the accuracy at k follows from predictions on *true* answers with m
    masks. Let step t have m masks and reveal q of them, e(m) be the share of masked
    tokens that are predicted wrongly and w(m) that of answers with any such token. A
    random q of m tokens hold one of the wrong ones with a chance between
    max(e(m), w(m) q / m) and min(q e(m), w(m)). Hence

    .. math:: 1 - \sum_t \min(q_t e(m_t), w(m_t)) \;\le\; a(k) \;\le\;
        1 - \max_t \max(e(m_t), w(m_t) q_t / m_t).

    Counts m that were not measured are read off straight lines between those that were.

    Parameters
    ----------
    table : DataFrame
        Rows of ``bench_masks``; the largest ``masked`` is the whole answer.
    ks : sequence of int
        Tokens per step.

    Returns
    -------
    DataFrame
        ``kind``, ``k``, the bounds ``lower`` and ``upper``, and ``independent``: the
        accuracy if each token erred by itself, the product over steps of
        (1 - e(m))^q. Means over seeds.
    """
    table = table.assign(kind=table["model"].map(kind))
    found = []
    for (name, model), rows in table.groupby(["kind", "model"], sort=False):
        sums = _masked(rows, []).set_index("masked").sort_index()
        error = sums["wrong"] / sums["tokens"]
        broken = 1 - sums["whole"] / sums["instances"]
        for k in ks:
            length = int(sums.index.max())
            m = np.arange(length, 0, -_checks.integer(k, "k", 1))
            q = np.minimum(k, m)
            e = np.interp(m, sums.index, error)
            w = np.interp(m, sums.index, broken)
            found.append(
                {
                    "kind": name,
                    "model": model,
                    "k": k,
                    "lower": max(0.0, 1 - np.minimum(q * e, w).sum()),
                    "upper": 1 - np.maximum(e, w * q / m).max(),
                    "independent": np.prod((1 - e) ** q),
                }
            )
    means = pd.DataFrame(found).groupby(["kind", "k"], sort=False)
    return means[["lower", "upper", "independent"]].mean().reset_index()
