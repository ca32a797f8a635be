"""Train and score the book's text models.

``python -m dllm_tutorial.train_text --out runs/text`` trains whatever of ``RUNS``
is not finished in that folder, one run after the other on one core each, and then
writes the result rows there; with ``--ship`` rows and weights go into the package,
too. With names of runs it trains those and stops, so that several can go side by
side.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from dllm_tutorial import _programs, losses, ngrams, pretrained, text, training
from dllm_tutorial._files import put_rows
from dllm_tutorial.networks import Transformer, TransformerConfig

SEEDS = (0, 1, 2)
SHIPPED = 0  # the seed whose weights go into the package
DRAWS = 8  # of the mask, for each held-out window of a NELBO
ATTENTION = {"dllm": "bidirectional", "ar": "causal"}
COMMAND = "python -m dllm_tutorial.train_text --out runs/text --ship"


@dataclass(frozen=True)
class Budget:
    """What one training may spend: updates, windows in each, the network's size."""

    steps: int
    batch_size: int
    length: int  # tokens in a window
    d_model: int
    n_layers: int
    n_heads: int
    evaluate_every: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.length


BUDGETS = {
    "long": Budget(3000, 32, 64, 128, 3, 4, evaluate_every=300),
    "short": Budget(1000, 32, 64, 96, 2, 3, evaluate_every=250),
}


@dataclass(frozen=True)
class Run:
    """One training: a model, a budget, a seed and a tokenizer."""

    model: str
    budget: str
    seed: int
    tokenizer: str = "bpe"


RUNS = {
    **{
        f"{model}-long-{seed}": Run(model, "long", seed)
        for seed in SEEDS
        for model in ATTENTION
    },
    # which reads better per minute, byte pairs or characters?
    "dllm-short-0": Run("dllm", "short", 0),
    "dllm-char-0": Run("dllm", "short", 0, tokenizer="char"),
}


def network(run: Run) -> Transformer:
    """The untrained network of a run: the same numbers for the model and its twin."""
    size = BUDGETS[run.budget]
    torch.manual_seed(run.seed)
    return Transformer(
        TransformerConfig(
            text.tokenizer(run.tokenizer).vocab_size,
            size.length,
            size.d_model,
            size.n_layers,
            size.n_heads,
            attention=ATTENTION[run.model],
        )
    )


def plan(run: Run) -> training.TrainingConfig:
    """How a run is trained; the same for the model and its twin."""
    size = BUDGETS[run.budget]
    return training.TrainingConfig(
        size.steps, size.batch_size, lr=4e-3, seed=run.seed, optimizer="muon"
    )


def held_out(run: Run, every: int = 1) -> tuple[Tensor, Tensor]:
    """Held-out windows Long[n, L] as a run sees them, and their characters Long[n]."""
    tokenizer = text.tokenizer(run.tokenizer)
    length = BUDGETS[run.budget].length
    x = text.windows(text.split("held-out"), tokenizer, length)[::every]
    return x, torch.tensor([len(tokenizer.decode(row)) for row in x])


def held_out_nats(model: Transformer, x: Tensor) -> Tensor:
    """Nats of each window, Float64[n]: exact if causal, else a draw of the NELBO.

    Every bidirectional model meets the same masks (seed 0, exact counts).
    """
    generator = torch.Generator(x.device).manual_seed(0)
    parts = []
    with torch.no_grad():
        for rows in x.split(32):
            if model.config.attention == "causal":
                part = losses.ar_loss(model, rows)
            else:
                part = losses.nelbo_estimate(
                    model, rows, DRAWS, generator=generator
                ).value
            parts.append(part.double().cpu())
    return torch.cat(parts)


def train(run: Run, folder: Path, device: str) -> None:
    """Train one run, or finish it, and keep its learning curve in ``curve.csv``."""
    size = BUDGETS[run.budget]
    tokenizer = text.tokenizer(run.tokenizer)
    stream = text.stream(text.split("train"), tokenizer).to(device)
    # every thirty-second window is enough for a curve
    x, characters = held_out(run, every=32)
    x = x.to(device)

    def evaluate(model):
        return text.bits_per_character(held_out_nats(model, x), characters)

    _programs.begin(folder, COMMAND, run.seed)
    records = training.train(
        network(run).to(device),
        training.random_crops(stream, size.length),
        plan(run),
        evaluate=evaluate,
        evaluate_every=size.evaluate_every,
        checkpoint=folder,
        checkpoint_every=size.evaluate_every,
    )
    start, seen = time.process_time(), []
    bar = tqdm(records, total=size.steps, mininterval=30)
    for record in bar:
        seen.append(record.loss)
        bar.set_postfix(loss=np.mean(seen[-50:]), refresh=False)
        if record.held_out is None:
            continue
        row = {
            "step": record.step,
            "train_nats_per_token": np.mean(seen),
            "held_out_bits_per_character": record.held_out[0],
            "standard_error": record.held_out[1],
            "cpu_seconds": time.process_time() - start,
        }
        put_rows(folder / "curve.csv", [row])
        seen, start = [], time.process_time()


def finished(run: Run, folder: Path) -> bool:
    """Whether a folder holds the last checkpoint of a run."""
    if not (folder / "checkpoint.json").exists():
        return False
    return training.averaged_weights(folder)[1]["step"] == BUDGETS[run.budget].steps


def half_precision(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """The averaged weights of a run as they ship, and what is known about them."""
    weights, about = training.averaged_weights(folder)
    return {name: value.half() for name, value in weights.items()}, about


def ship(run: Run, folder: Path) -> None:
    """Put the averaged weights of a run into the package, in half precision."""
    weights, about = half_precision(folder)
    about["tokenizer"] = run.tokenizer
    about["origin"] = _programs.origin([folder])
    training.save_weights(pretrained.FOLDER / f"{run.model}.json", weights, about)


def score(name: str, folder: Path) -> tuple[dict, Tensor]:
    """The result row of a finished run, and nats of each held-out window.

    Every run is scored in the precision in which weights ship. The minutes are those
    of training and its evaluations on one core, which others may have shared.
    """
    run = RUNS[name]
    size = BUDGETS[run.budget]
    model = network(run)
    weights, _ = half_precision(folder)
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    x, characters = held_out(run)
    nats = held_out_nats(model.eval(), x)
    bits, error = text.bits_per_character(nats, characters)
    bound = "exact" if run.model == "ar" else f"upper bound, {DRAWS} draws a window"
    row = {
        "model": run.model,
        "budget": run.budget,
        "unit": run.tokenizer,
        "seed": run.seed,
        "parameters": model.n_parameters(),
        "tokens_seen": size.steps * size.tokens_per_step,
        "cpu_minutes": pd.read_csv(folder / "curve.csv")["cpu_seconds"].sum() / 60,
        "bits_per_character": bits,
        "standard_error": error,
        "windows": len(x),
        "characters": int(characters.sum()),
        "bound": bound,
        "weights": training.fingerprint(model),
    }
    return row, nats


def ngram_rows() -> list[dict]:
    """n-grams over characters and over tokens on the same windows as the networks."""
    x, characters = held_out(RUNS["dllm-long-0"])
    bpe = text.tokenizer("bpe")
    rows = []
    for unit, order in (("char", 7), ("bpe", 4)):
        tokenizer = text.tokenizer(unit)
        stream = text.stream(text.split("train"), tokenizer).numpy()
        model = ngrams.WittenBell(stream, order, tokenizer.vocab_size)
        inputs = [np.array(tokenizer.encode(bpe.decode(row))) for row in x]
        if unit == "bpe":
            inputs = list(x.numpy())
        for n in range(1, order + 1):
            nats = torch.tensor([-model.log_prob(row, n).sum() for row in inputs])
            bits, error = text.bits_per_character(nats, characters)
            rows.append(
                {
                    "model": f"{n}-gram",
                    "budget": "counts",
                    "unit": unit,
                    "tokens_seen": len(stream),
                    "bits_per_character": bits,
                    "standard_error": error,
                    "windows": len(x),
                    "characters": int(characters.sum()),
                    "bound": "exact",
                }
            )
    return rows


def gap_row(seed: int, nats: dict[str, Tensor]) -> dict:
    """Diffusion minus autoregressive on the same windows, with its paired error."""
    _, characters = held_out(RUNS[f"dllm-long-{seed}"])
    gap = nats[f"dllm-long-{seed}"] - nats[f"ar-long-{seed}"]
    bits, error = text.bits_per_character(gap, characters)
    return {
        "seed": seed,
        "gap_bits_per_character": bits,
        "standard_error": error,
        "windows": len(gap),
    }


def curve(name: str, folder: Path) -> pd.DataFrame:
    """The learning curve of a finished run."""
    run = RUNS[name]
    table = pd.read_csv(folder / "curve.csv")
    seen = table["step"] * BUDGETS[run.budget].tokens_per_step
    columns = {"model": run.model, "seed": run.seed, "tokens_seen": seen}
    return table.assign(**columns)[[*columns, *table.columns]]


def report(a: argparse.Namespace) -> None:
    """Score every run, write the result rows, and ship the weights of one pair."""
    out = a.out
    origin = _programs.origin(out / name for name in RUNS)
    scored = {name: score(name, out / name) for name in tqdm(RUNS)}
    nats = {name: values for name, (_, values) in scored.items()}
    long = [name for name, run in RUNS.items() if run.budget == "long"]
    tables = {
        "text_curves": pd.concat([curve(name, out / name) for name in long]),
        "text_held_out": pd.DataFrame(
            [row for row, _ in scored.values()] + ngram_rows()
        ).astype({"seed": "Int64", "parameters": "Int64"}),  # n-grams have neither
        "text_gap": pd.DataFrame([gap_row(seed, nats) for seed in SEEDS]),
    }
    for name, table in tables.items():
        table = table.round(dict.fromkeys(table.select_dtypes("float").columns, 5))
        _programs.publish(a, name, table, origin)
    for name in [f"{model}-long-{SHIPPED}" for model in ATTENTION] if a.ship else []:
        ship(RUNS[name], out / name)


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    parser = _programs.parser(__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=", ".join(RUNS))
    parser.add_argument("--device", default="cpu")
    a = _programs.parse(parser, arguments)
    torch.set_num_threads(1)
    for name in a.runs or RUNS:
        if name not in RUNS:
            parser.error(f"RUN must be one of {', '.join(RUNS)}, got {name}")
        if not finished(RUNS[name], a.out / name):
            print(name, flush=True)
            train(RUNS[name], a.out / name, a.device)
    if not a.runs:
        report(a)


if __name__ == "__main__":
    main()
