"""Train the models of the benchmark study on all tasks at once.

``python -m dllm_tutorial.train_tasks --out runs/tasks`` trains whatever of ``RUNS`` is
not finished in that folder. With names of runs it trains those only, so that several
can go side by side. With ``--ship`` it then puts their weights into the package, and
the learning curves of ``CURVES`` whose runs are all among them.

A masked diffusion model and its autoregressive twin have the same network, instances
and batches; they differ in who may look at whom. Of an answer's tokens the twin is
taught all in one update and the diffusion model those that are masked, half of them on
average. So it is trained twice as long: ``half-0`` had the updates of ``ar-0``, and
``dllm-0``, which goes on from there, the number of supervised tokens. Fine-tuned models
are ``dllm-0`` with adapters (:mod:`dllm_tutorial.lora`) that saw 10,000 instances of
one task. ``long-0`` goes on from ``dllm-0``, with all weights, on what that one could
not do yet: Latin squares, paraphrases, and lists of names with two words.

``large-0`` and its autoregressive ``twin-0`` have thirteen times the parameters and
learn all tasks at once, those with names of two words too. Here the twin has half the
updates, and so the same number of supervised tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from tqdm import tqdm

from dllm_tutorial import (
    _programs,
    lora,
    losses,
    packing,
    pretrained,
    tasks,
    training,
)
from dllm_tutorial._files import put_rows
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.networks import Transformer, TransformerConfig

ATTENTION = {"dllm": "bidirectional", "ar": "causal"}
COMMAND = "python -m dllm_tutorial.train_tasks --out runs/tasks --ship"
SEEDS = (0, 1, 2)
# As often as a task stands here, so large is its share of the instances.
LONG = (
    *["latin_square"] * 4,
    *["paraphrase"] * 2,
    "replace_index_names",
    "shuffle_names",
)
# All tasks, of one word and of two, and more of those that take long to learn.
LARGE = (*tasks.NAMES, *["latin_square"] * 3, "paraphrase")
PROBES = 16  # test instances of each task behind a point of a learning curve


@dataclass(frozen=True)
class Budget:
    """What one training may spend, and the network's size.

    With a ``rank`` only adapters of that rank are trained.
    """

    steps: int
    batch_size: int
    lr: float
    d_model: int
    n_layers: int
    n_heads: int
    evaluate_every: int
    rank: int | None = None
    bf16: bool | None = None
    data: int = 192_000  # training instances; a model and its twin see the same


BUDGETS = {
    # under half an hour of one core
    "cpu": Budget(6000, 32, 4e-3, 128, 3, 4, evaluate_every=1000),
    "tuned": Budget(320, 32, 3e-3, 128, 3, 4, evaluate_every=320, rank=8),
    "stages": Budget(200, 32, 4e-3, 128, 3, 4, evaluate_every=10),
    "long": Budget(8000, 32, 4e-3, 128, 3, 4, evaluate_every=1000),
    # 9 million parameters; two hours, and one, of a core that multiplies in bfloat16
    "large": Budget(4800, 64, 2e-3, 384, 5, 6, 1200, bf16=True, data=384_000),
    "twin": Budget(2400, 64, 2e-3, 384, 5, 6, 600, bf16=True, data=384_000),
}


@dataclass(frozen=True)
class Run:
    """One training: a model, a budget, a seed, the run it goes on from, its tasks.

    With ``bits`` its weights ship rounded to so many (:mod:`dllm_tutorial.packing`).
    """

    model: str
    budget: str
    seed: int
    start: str | None = None
    tasks: tuple[str, ...] = tasks.TRAINED
    bits: int | None = None


RUNS = {
    **{f"half-{seed}": Run("dllm", "cpu", seed, bits=5) for seed in SEEDS},
    **{f"dllm-{seed}": Run("dllm", "cpu", seed, f"half-{seed}") for seed in SEEDS},
    **{f"ar-{seed}": Run("ar", "cpu", seed) for seed in SEEDS},
    **{
        f"tuned-{task}-{seed}": Run("dllm", "tuned", seed, f"dllm-{seed}", (task,))
        for task in tasks.DECK
        for seed in SEEDS
    },
    **{
        f"long-{seed}": Run("dllm", "long", seed, f"dllm-{seed}", LONG)
        for seed in SEEDS
    },
    "large-0": Run("dllm", "large", 0, tasks=LARGE, bits=4),
    "twin-0": Run("ar", "twin", 0, tasks=LARGE, bits=4),
}


# Tables of learning curves: the runs of one were trained at one commit.
CURVES = {
    "task_curves_large": ["large-0"],
    "task_curves_twin": ["twin-0"],
}


def network(run: Run) -> Transformer:
    """The untrained network of a run: the same numbers for the model and its twin."""
    size = BUDGETS[run.budget]
    torch.manual_seed(run.seed)
    return Transformer(
        TransformerConfig(
            len(tasks.VOCABULARY),
            tasks.PROMPT_LENGTH + tasks.ANSWER_LENGTH,
            size.d_model,
            size.n_layers,
            size.n_heads,
            attention=ATTENTION[run.model],
        )
    )


def begin(run: Run, out: Path) -> Transformer:
    """The network that a run starts with: its adapters, if any, do nothing yet.

    The run that it goes on from is taken from the folder ``out`` or, if it is not
    there, from what ships, rounded.
    """
    model = network(run)
    if run.start and finished(run.start, out):
        model.load_state_dict(training.averaged_weights(out / run.start)[0])
    elif run.start:
        model = pretrained.load_network(f"tasks-{run.start}", "cpu")[0]
    if rank := BUDGETS[run.budget].rank:
        lora.adapt(model, rank, Generator().manual_seed(run.seed))
    return model


def plan(run: Run) -> training.TrainingConfig:
    """How a run is trained; the same for the model and its twin."""
    size = BUDGETS[run.budget]
    return training.TrainingConfig(
        size.steps,
        size.batch_size,
        size.lr,
        seed=run.seed + 100 * bool(run.start),  # what goes on meets other batches
        optimizer="adamw" if size.rank else "muon",
        bf16=size.bf16,
    )


def answer_loss(model: Transformer, x0: Tensor, generator: Generator) -> Tensor:
    """The model's own loss on the answers, in nats per answer token.

    The exact NLL given the prompt if causal, else its NELBO with the prompt unmasked.
    """
    start = tasks.PROMPT_LENGTH
    if model.config.attention == "causal":
        per_row = losses.token_nll(model, x0, x0)[:, start:].sum(-1)
    else:
        answer = torch.arange(x0.shape[1], device=x0.device) >= start
        per_row = losses.exact_count_loss(
            model, x0, maskable=answer, generator=generator
        )
    return per_row.mean() / (x0.shape[1] - start)


def one_at_a_time(model: Transformer, task: tasks.Task, count: int) -> Tensor:
    """Bool[count]: test instances answered right at one token a step, temperature 0.

    Left to right if causal, most confident first if not. Every model meets the same
    instances (seed 0).
    """
    device = next(model.parameters()).device
    instances = task.draw(count, generator=Generator().manual_seed(0)).to(device)
    causal = model.config.attention == "causal"
    rule = strategies.left_to_right(1) if causal else strategies.confidence_top_k(1)
    found = generate(model, task.inputs(instances), rule)
    return task.score(instances, task.answers(found.sequences))


def train(run: Run, folder: Path, device: str) -> None:
    """Train one run, or finish it, and keep its learning curve in ``curve.csv``."""
    size = BUDGETS[run.budget]
    rows = tasks.dataset(size.data, Generator().manual_seed(run.seed), run.tasks)
    _programs.begin(folder, COMMAND, run.seed)
    model = begin(run, folder.parent)

    def evaluate(model: Transformer) -> tuple[float, float]:
        for name in dict.fromkeys(run.tasks):
            right = one_at_a_time(model, tasks.make(name), PROBES)
            probes.append({"task": name, "correct": int(right.sum()), "n": PROBES})
        rates = [probe["correct"] / probe["n"] for probe in probes]
        return float(np.mean(rates)), float(np.std(rates) / len(rates) ** 0.5)

    probes: list[dict] = []
    records = training.train(
        model.to(device),
        training.random_rows(rows.to(device)),
        plan(run),
        loss=answer_loss,
        evaluate=evaluate,
        evaluate_every=size.evaluate_every,
        checkpoint=folder,
        checkpoint_every=size.evaluate_every,
    )
    clock, seen = time.process_time(), []
    for record in tqdm(records, total=size.steps, mininterval=30):
        seen.append(record.loss)
        if record.held_out is None:
            continue
        common = {
            "step": record.step,
            "train_nats_per_token": float(np.mean(seen)),
            "cpu_seconds": time.process_time() - clock,
        }
        put_rows(folder / "curve.csv", [common | p for p in probes])
        print(record.step, f"{common['train_nats_per_token']:.3f}", probes, flush=True)
        probes.clear()
        clock, seen = time.process_time(), []


def finished(name: str, out: Path) -> bool:
    """Whether the folder holds the last checkpoint of a run."""
    folder = out / name
    if not (folder / "checkpoint.json").exists():
        return False
    steps = BUDGETS[RUNS[name].budget].steps
    return training.averaged_weights(folder)[1]["step"] == steps


def vocabulary_hash() -> str:
    """Of the words in their order: weights mean nothing with another vocabulary."""
    return hashlib.sha256("\n".join(tasks.VOCABULARY).encode()).hexdigest()[:12]


def ship(a: argparse.Namespace, names: Sequence[str]) -> None:
    """Put rounded weights and learning curves into the package."""
    for name in tqdm(names, desc="ship"):
        run = RUNS[name]
        weights, known = training.averaged_weights(a.out / name)
        known["vocabulary"] = vocabulary_hash()
        known["origin"] = _programs.origin([a.out / name])
        if rank := BUDGETS[run.budget].rank:
            weights = lora.adapters(weights)
            known |= {"base": f"tasks-{run.start}", "rank": rank}
        rounded = {key: value.half() for key, value in weights.items()}
        if run.bits:
            rounded = packing.pack(weights, run.bits)
        training.save_weights(pretrained.FOLDER / f"tasks-{name}.json", rounded, known)
    for table, runs in CURVES.items():
        if set(runs) <= set(names):
            rows = pd.concat(curve(name, a.out) for name in runs)
            origin = _programs.origin(a.out / name for name in runs)
            _programs.publish(a, table, rows, origin)


def curve(name: str, out: Path) -> pd.DataFrame:
    """The learning curve of a run that has shipped."""
    run = RUNS[name]
    tuned = run.tasks[0] if BUDGETS[run.budget].rank else None
    about = {"run": name, "model": run.model, "tuned": tuned, "seed": run.seed}
    about["weights"] = pretrained.weights_hash(f"tasks-{name}")
    table = pd.read_csv(out / name / "curve.csv")
    table = table.round({"train_nats_per_token": 5, "cpu_seconds": 1})
    return table.assign(**about)[[*about, *table.columns]]


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
        if not finished(name, a.out):
            print(name, flush=True)
            train(RUNS[name], a.out / name, a.device)
    if a.ship:
        ship(a, a.runs or list(RUNS))


if __name__ == "__main__":
    main()
