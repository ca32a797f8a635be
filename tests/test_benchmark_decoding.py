"""The decoding benchmark: its rule, its rows and its arguments, on tiny shapes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench_decoding as bench

COLUMNS = [
    *("batch", "positions", "vocabulary", "temperature"),
    *("floor_ms", "step_ms", "plain_ms", "step_over_floor", "q25", "q75"),
    *("plain_over_step", "repeats"),
]
TINY = [(2, 3, 5), (1, 2, 300)]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs no CUDA device")


def test_our_step_and_the_plain_rule_agree_at_temperature_0():
    """What is timed is one and the same thing, done in two ways."""
    for shape in [(4, 6, 7), (3, 5, 200)]:
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        x = torch.full(shape[:2], shape[2])
        ours = bench.our_step(logits, 0.0)().x
        plain = bench.plain_step(x, logits, 0.0, shape[2])
        assert torch.equal(ours, plain)
        assert ((ours != shape[2]).sum(-1) == 1).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_says_what_was_measured(temperature):
    row = bench.measure((2, 3, 5), temperature, 4)
    assert list(row) == COLUMNS
    assert [row[name] for name in COLUMNS[:4]] == [2, 3, 5, int(temperature)]
    assert row["repeats"] == 4
    assert row["q25"] <= row["step_over_floor"] <= row["q75"]


def test_rows_and_their_origin_are_written_where_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SHAPES", TINY)
    threads = torch.get_num_threads()
    try:
        bench.main(["--repeats", "2", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    rows = tmp_path / "benchmark_decoding.csv"
    lines = rows.read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",") == COLUMNS
    assert len(lines) == 1 + 2 * len(TINY)
    origin = json.loads(rows.with_suffix(".json").read_text(encoding="utf-8"))
    assert origin["device"].startswith("CPU") and origin["threads"] == bench.THREADS
    assert "bench_decoding.py --out" in origin["command"]


def test_each_device_has_a_file_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    arguments = bench.arguments_of(["--out", "x", "--device", "cuda", "--compile"])
    assert bench.NAMES[arguments.device] == "benchmark_decoding_cuda"
    origin = bench.origin_of(arguments)
    assert origin["device"] == "Some GPU"
    assert origin["command"].endswith("--device cuda --compile")
    # rows of the processor name the processor, also where there is a GPU
    origin = bench.origin_of(bench.arguments_of(["--out", "x"]))
    assert origin["device"].startswith("CPU")


@no_gpu
@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--device", "cuda"], "needs a CUDA device"),
        (["--compile"], "--compile needs --device cuda"),
        (["--device", "tpu"], "invalid choice"),
        (["--repeats", "0"], "--repeats must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(words, complaint, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--out", "x", *words])
    assert complaint in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", bench.FORMS["cuda"])
def test_a_row_of_a_gpu(form):
    row = bench.measure((2, 3, 300), 0.0, 4, device="cuda", form=form)
    assert list(row) == ["form", *COLUMNS]
    assert row["form"] == form
