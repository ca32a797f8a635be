"""Shipped rows: where they come from, and a few of each measured again.

The networks are the shipped ones and the code is today's. Rows of clocks cannot be
measured again, and rows read off other people's papers have a source instead.
"""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
import torch

from dllm_tutorial import (
    bench_study,
    gumbel,
    log_sum_study,
    neighborhood,
    order_search,
    order_study,
    pretrained,
    reversal,
    strategies_study,
    study,
    tasks,
    text,
    train_tasks,
    train_text,
    training,
)
from dllm_tutorial.mixtures import OrderMixture

NAMES = sorted(path.stem for path in study.RESULTS.glob("*.csv"))
ORIGINS = {
    name: json.loads((study.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    for name in NAMES
}
PUBLISHED = {name for name, origin in ORIGINS.items() if "source" in origin}
CLOCKS = {name for name in NAMES if name.startswith("benchmark_")}
# Not yet measured again since rows have to be of one clean commit, with hashes of the
# weights and exact ties. This list only gets shorter.
MEASURED = {
    *("bench_blocks", "bench_losses", "bench_masks", "bench_panels", "bench_theory"),
    *("bench_thresholds", "bench_tuned"),
}
UNTRACED = {
    *({*bench_study.STUDIES} - MEASURED),
    *("order_learning", "order_longer", "order_variants", "order_swaps"),
    "log_sum",
    *("text_curves", "text_gap", "text_held_out"),
}
KEPT = sorted((study.RESULTS / "networks").glob("*.json"))


def shipped(name: str) -> pd.DataFrame:
    return study.read_rows(name, text=["right", "calls", "weights"])


def the_row(rows: pd.DataFrame, settings: dict) -> dict:
    """The one row with these settings, as plain values; a missing one is None."""
    for column, value in settings.items():
        same = rows[column].isna() if value is None else rows[column] == value
        rows = rows[same]
    (row,) = rows.to_dict("records")
    return row


# --------------------------------------------------------------------------- where from


@pytest.mark.parametrize("name", sorted({*NAMES} - PUBLISHED))
def test_rows_are_of_one_clean_commit(name):
    origin = ORIGINS[name]
    if name in UNTRACED:
        rows = shipped(name)
        old = origin["dirty"] or "measured" in origin or "weights" not in rows
        assert old, "it may leave the list"
        return
    assert origin["dirty"] is False and re.fullmatch("[0-9a-f]{40}", origin["commit"])
    assert not {"measured", "earlier", "rows"} & set(origin)
    assert {"command", "device", "threads", "python", "torch", "time"} <= set(origin)
    rows = shipped(name)
    used = set(rows["weights"].dropna()) if "weights" in rows else set()
    assert origin.get("weights", []) == sorted(used - {""})


@pytest.mark.parametrize(
    "path", sorted(pretrained.FOLDER.glob("*.json")), ids=lambda path: path.stem
)
def test_weights_say_how_they_were_trained(path):
    """At a clean commit; the oldest ones say in words that it was not one."""
    _, about = training.load_weights(path)
    if "history" in about:
        assert "not committed" in about["history"] and "origin" not in about
    else:
        assert about["origin"]["dirty"] is False and about["origin"]["commit"]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_numbers_of_others_have_a_source(name):
    assert len(ORIGINS[name]["source"]) > 20


def test_rows_name_the_weights_that_ship():
    """Whatever a row calls by the name of a shipped network was measured with it."""
    for name in sorted({*NAMES} - PUBLISHED - UNTRACED):
        rows = shipped(name)
        if not {"model", "weights"} <= set(rows) or "text" in name:
            continue
        for model, part in rows.groupby("model"):
            if (pretrained.FOLDER / f"tasks-{model}.json").exists():
                assert set(part["weights"]) == {
                    pretrained.weights_hash(f"tasks-{model}")
                }


def test_every_table_is_measured_again():
    again = {*EXACT, *bench_study.STUDIES, *TRAINED, *TEXTS, *train_tasks.CURVES}
    assert {*NAMES} - PUBLISHED - CLOCKS == again


# ------------------------------------------------------------------------ exact tables


def rounded(rows: list[dict], digits: int) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.round(dict.fromkeys(table.select_dtypes("float").columns, digits))


EXACT = {
    "order_chain": lambda: rounded(neighborhood.chain_rows(64, (0, 3)), 5),
    "order_parallel": lambda: rounded(neighborhood.parallel_rows(64, (1, 8)), 5),
    "order_text": lambda: rounded(neighborhood.text_rows(k=1, seeds=(0,)), 5),
    "order_search": lambda: rounded(
        order_search.search_rows(
            {
                name: joint
                for name, joint in order_search.named_joints().items()
                if name in ("copy", "chain")
            }
        ),
        5,
    ),
    "order_puzzles": lambda: rounded(order_search.puzzle_rows(), 5),
    "order_floors": lambda: rounded(
        [
            {"corpus": "sotu", "backward": True, "size": "cpu", "n": n, "value": value}
            for n, value in order_study.floors("sotu", backward=True).items()
        ],
        6,
    ),
    "strategies_exact": lambda: rounded(
        strategies_study.sudoku(3000, (4, 12), 0)
        + strategies_study.revision(4000, (6,), 0, ["copied pairs"]),
        6,
    ),
    "gumbel_precision": lambda: pd.DataFrame(
        [
            {
                "vocab": 27,
                "steps": 64,
                "dtype": str(dtype).removeprefix("torch."),
                "draws": 2_000_000,
                "revealed": gumbel.simulate_reveals(
                    gumbel.zipf(27),
                    1 / 64,
                    2_000_000,
                    dtype=dtype,
                    generator=torch.Generator().manual_seed(0),
                ),
            }
            for dtype in (torch.float32, torch.float64)
        ]
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_tables_come_out_again(name):
    found, rows = EXACT[name](), shipped(name)
    keys = [
        column
        for column in found
        if column not in ("weights",)
        and not pd.api.types.is_float_dtype(found[column])
        and column not in ("revealed", "successes", "broken", "repaired", "best_order")
    ]
    for row in found.to_dict("records"):
        old = the_row(rows, {key: row[key] for key in keys})
        row.pop("best_order", None)  # one of several, as rounding has it
        for column, value in row.items():
            if isinstance(value, float):
                # the last digit that ships is of rounding
                again = pytest.approx(value, abs=2e-5, nan_ok=True)
                assert old[column] == again, (row, column)
            else:
                assert old[column] == value, (row, column)


# ------------------------------------------------------------------------ the benchmark


def few(name: str) -> list[dict]:
    """The cheapest cells of a study: networks that ship, and an exact denoiser."""
    _, make_cells = bench_study.STUDIES[name]
    cells = sorted(make_cells(), key=bench_study.steps)
    if "stage" in name:
        model, k = bench_study.KEPT
        chosen = [c for c in cells if c["model"] == model]
        return [c for c in chosen if c.get("value", c.get("masked")) == k]
    trained = [c for c in cells if c["model"] != "exact"]
    models = dict.fromkeys(c["model"] for c in trained)
    first = {model: next(c for c in trained if c["model"] == model) for model in models}
    exact = [c for c in cells if c["model"] == "exact"]
    return [*list(first.values())[:2], *exact[:1]]


@pytest.fixture
def stage(monkeypatch):
    """The one stage of fine-tuning that ships, in place of training it."""
    updates, seed = bench_study._stage(bench_study.KEPT[0])
    for path in [p for p in KEPT if p.stem.startswith("bench_stages-")]:
        tensors, _ = training.load_weights(path)
        model = train_tasks.network(train_tasks.RUNS[f"dllm-{seed}"]).eval()
        model.load_state_dict({name: value.float() for name, value in tensors.items()})
        found = {updates: model}
        monkeypatch.setattr(bench_study, "stages", lambda seed, found=found: found)
    bench_study.load.cache_clear()
    yield
    bench_study.load.cache_clear()


@pytest.mark.parametrize("name", sorted({*bench_study.STUDIES} - UNTRACED))
def test_cells_of_the_benchmark_come_out_again(name, stage):
    measure, _ = bench_study.STUDIES[name]
    rows = shipped(name)
    for cell in few(name):
        for row in measure(cell):
            keys = {key: row[key] for key in ("part", "position") if key in row}
            old = the_row(rows, cell | keys)
            for column, value in row.items():
                if value == "":  # the exact denoiser has no weights
                    assert pd.isna(old[column])
                else:  # rows are rounded to six digits
                    assert old[column] == pytest.approx(value, abs=6e-7), (cell, column)


# ------------------------------------------------------------------ trained in a study


def kept(name: str) -> list[tuple[dict, dict[str, torch.Tensor]]]:
    """Cells whose networks ship, and the weights."""
    found = [p for p in KEPT if re.fullmatch(rf"{name}-[0-9a-f]+", p.stem)]
    loaded = [training.load_weights(path) for path in found]
    assert loaded, f"no network of {name} ships"
    return [(a["cell"], {k: v.float() for k, v in t.items()}) for t, a in loaded]


def order_again(name: str) -> None:
    for cell, weights in kept(name):
        corpus = order_study._corpus(cell["corpus"], cell["size"])
        size = order_study._size(cell)
        model = order_study.network(cell["order"], corpus.vocab_size, size, 0).eval()
        model.load_state_dict(weights)
        rows = shipped(name)
        same = {key: value for key, value in cell.items() if key in rows}
        last = {"score": "own", "updates": order_study.n_updates(cell)}
        old = the_row(rows, same | last)
        with torch.no_grad():
            value, error = corpus.evaluate(model, cell["order"], cell["seed"])
        assert old["value"] == pytest.approx(value, abs=3e-6)
        assert old["standard_error"] == pytest.approx(error, abs=3e-6)
        assert old["weights"] == training.fingerprint(model)


def log_sum_again(name: str) -> None:
    for cell, weights in kept(name):
        _, every, orders, _ = log_sum_study._plan(cell)
        source = log_sum_study._source(cell["source"], cell["size"])
        config = log_sum_study.configuration(cell)
        model = OrderMixture(config, every, learned=False).eval()
        model.load_state_dict(weights)
        rows = shipped(name)
        rows = rows[
            rows["updates"]
            == rows["updates"].where(rows["source"] == cell["source"]).max()
        ]
        for row in log_sum_study.scores(model, source.held_out, orders):
            keys = {key: row.get(key) for key in ("quantity", "order")}
            old = the_row(rows, dict(cell) | keys)
            assert old["value"] == pytest.approx(row["value"], abs=3e-5)
            assert old["weights"] == training.fingerprint(model)


def reversal_again(name: str) -> None:
    for cell, weights in kept(name):
        run = reversal.Run(**cell)
        model = reversal.network(run).eval()
        model.load_state_dict(weights)
        for row in reversal.score(model, reversal.world_of(run)):
            keys = {key: row[key] for key in ("question", "facts", "how")}
            old = the_row(shipped(name), dict(cell) | keys)
            assert (old["correct"], old["right"]) == (row["correct"], row["right"])
            assert old["nats"] == pytest.approx(row["nats"], abs=1e-3)
            assert old["weights"] == training.fingerprint(model)


TRAINED = {
    "order_learning": order_again,
    "order_longer": order_again,
    "order_variants": order_again,
    "order_swaps": order_again,
    "log_sum": log_sum_again,
    "reversal": reversal_again,
}


@pytest.mark.parametrize("name", sorted({*TRAINED} - UNTRACED))
def test_ends_of_trainings_come_out_again(name):
    TRAINED[name](name)


@pytest.mark.parametrize("name", sorted(train_tasks.CURVES))
def test_the_last_probes_of_a_curve_come_out_again(name):
    """What the run could do at the end, from the weights that ship."""
    rows = shipped(name)
    (run,) = train_tasks.CURVES[name]
    model, _ = pretrained.load_network(f"tasks-{run}")
    for task in ("copy", "w2s_easy", "sort"):
        last = the_row(rows[rows["step"] == rows["step"].max()], {"task": task})
        n = int(last["n"])
        right = train_tasks.one_at_a_time(model, tasks.make(task), n)
        # they were probed before they were rounded to 4 bits
        assert abs(last["correct"] - int(right.sum())) <= 2, task


# ---------------------------------------------------------------------------- the texts

TEXTS = ("text_curves", "text_gap", "text_held_out")


@pytest.mark.slow
def test_the_shipped_text_models_score_what_the_rows_say():
    """Bits per character of both, their difference, and the end of their curves."""
    x, characters = train_text.held_out(train_text.RUNS["dllm-long-0"])
    few = slice(None, None, 32)  # the windows of a curve
    nats = {}
    for name in pretrained.NAMES:
        model, _ = pretrained.load_network(name)
        nats[name] = train_text.held_out_nats(model, x[few])
        bits, _ = text.bits_per_character(nats[name], characters[few])
        curve = shipped("text_curves").query(f"model == '{name}' and seed == 0")
        last = curve.sort_values("step").iloc[-1]
        # the curve was measured before its weights were rounded to half precision
        assert last["held_out_bits_per_character"] == pytest.approx(bits, abs=2e-3)
    model, _ = pretrained.load_network("ar")
    bits, _ = text.bits_per_character(train_text.held_out_nats(model, x), characters)
    old = shipped("text_held_out").query("model == 'ar' and seed == 0").iloc[0]
    assert old["bits_per_character"] == pytest.approx(bits, abs=3e-5)
    gap, error = text.bits_per_character(nats["dllm"] - nats["ar"], characters[few])
    old = shipped("text_gap").query("seed == 0").iloc[0]
    assert abs(old["gap_bits_per_character"] - gap) < 4 * error
