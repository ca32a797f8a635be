"""Train the book's text models: ``python -m dllm_tutorial.train_text --help``."""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch
from tqdm import tqdm

from dllm_tutorial import losses, text, training
from dllm_tutorial.networks import Transformer, TransformerConfig

LENGTH = 128  # tokens in a window
ATTENTION = {"dllm": "bidirectional", "ar": "causal"}


def held_out_nats(model: Transformer, x: torch.Tensor, draws: int = 8):
    """Nats per window, Float[n]: exact for a causal model, else the NELBO by draws.

    The draws of the NELBO are the same for every model: seed 0, exact mask counts.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    parts = []
    with torch.no_grad():
        for rows in x.split(32):
            if model.config.attention == "causal":
                parts.append(losses.ar_loss(model, rows).double())
            else:
                parts.append(
                    losses.nelbo_estimate(model, rows, draws, generator=generator).value
                )
    return torch.cat(parts)


def main(arguments: list[str] | None = None) -> None:
    """Train one model and leave checkpoint and learning curve in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=ATTENTION)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--tokenizer", choices=("bpe", "char"), default="bpe")
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args(arguments)

    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    tokenizer = text.tokenizer(a.tokenizer)
    stream = text.stream(text.split("train"), tokenizer).to(a.device)
    # every eighth held-out window: enough for a curve
    x = text.windows(text.split("held-out"), tokenizer, LENGTH)[::8].to(a.device)
    characters = sum(len(tokenizer.decode(row)) for row in x)
    config = TransformerConfig(
        tokenizer.vocab_size, LENGTH, attention=ATTENTION[a.model]
    )
    model = Transformer(config).to(a.device)
    plan = training.TrainingConfig(a.steps, a.batch_size, a.lr, seed=a.seed)

    def evaluate(model):
        bits = held_out_nats(model, x) / torch.log(torch.tensor(2.0))
        scale = len(x) / characters  # windows per character
        return bits.mean().item() * scale, bits.std().item() / len(x) ** 0.5 * scale

    a.out.mkdir(parents=True, exist_ok=True)
    curve = a.out / "curve.csv"
    start, losses_seen = time.process_time(), []
    steps = training.train(
        model,
        training.random_crops(stream, LENGTH),
        plan,
        evaluate=evaluate,
        evaluate_every=a.evaluate_every,
        checkpoint=a.out,
        checkpoint_every=a.evaluate_every,
    )
    for record in tqdm(steps, total=a.steps, mininterval=30):
        losses_seen.append(record.loss)
        if record.held_out is None:
            continue
        row = {
            "model": a.model,
            "seed": a.seed,
            "step": record.step,
            "tokens": record.step * a.batch_size * LENGTH,
            "train_nats_per_token": sum(losses_seen) / len(losses_seen),
            "held_out_bits_per_character": record.held_out[0],
            "standard_error": record.held_out[1],
            "cpu_seconds": time.process_time() - start,
        }
        losses_seen.clear()
        new = not curve.exists()
        with open(curve, "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
