"""The benchmark study: exact denoisers and trained models on every task, by every rule.

``python -m dllm_tutorial.bench_study --out runs`` measures what is not yet in that
folder, the rows of chapters 5 and 6; with ``--ship`` they go into the package, too. It
can be stopped at any moment and goes on where it was. A cell is one model on one task,
decoded by one rule; every cell of a task meets the same test instances and the same
seeds, so that rules and models can be compared in pairs.

What we expected of ``bench_stages`` before the first run. While ``dllm`` is fine-tuned
on Replace Index with names of two words, all its weights, it is no longer too good to
err. Tokens around a mask help, so a model that errs is right more often the fewer
tokens it reveals at once: accuracy falls with k at every stage, and at none of them is
it lowest in the middle. Of ``bench_blocks``: blocks cost nothing at k = 1 and help
confidence on Shuffle, where the sure ends of the answer no longer crowd the names
together.

Of ``bench_large`` and ``bench_twin``, thirteen times the parameters: at one token a
step ``large-0`` is right in more than 90 % of the cases on all lists, with names of two
words too, but not on Shuffle of such names, and the autoregressive twin everywhere but
on squares. What parallel decoding costs stays: where an exact denoiser falls with k the
large network falls as far, and at k = 24 it is no more accurate than the small one.
Replace Index does not rise again at high k. The twins' curves against length do not
cross. Of random order in ``bench_lengths``: with two tokens a step Shuffle falls little
by little with the length, as Mercury's does, and Reverse stays in the trained lengths.
Of ``bench_rise``, after ``bench_large`` had 89 right answers of 100 to Replace Index at
k = 4 and 96 at k = 24, and 24 and 32 to Reverse: both rises are there with 400 other
instances, in a random order, too. After that was seen for ``large-0`` (by confidence
they are, Replace Index in a random order stays flat), of ``half-*``, three seeds: the
same, and Reverse in a random order does not rise.

Of ``bench_losses``: the losses of solved tasks, and of tasks hardly ever answered
right, differ by less than a tenth of a nat per token.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

import dllm_tutorial
from dllm_tutorial import _programs, pretrained, tasks, train_tasks, training
from dllm_tutorial.decoding import Strategy, generate, strategies
from dllm_tutorial.denoiser import Denoiser
from dllm_tutorial.grid import Cell
from dllm_tutorial.networks import Transformer
from dllm_tutorial.tasks import PROMPT_LENGTH, Instances, Task

COMMAND = "python -m dllm_tutorial.bench_study"
SEED = 0  # of instances and of decoding
DLLMS = tuple(f"dllm-{seed}" for seed in train_tasks.SEEDS)
HALVES = tuple(f"half-{seed}" for seed in train_tasks.SEEDS)
ARS = tuple(f"ar-{seed}" for seed in train_tasks.SEEDS)
TUNED = tuple(f"tuned-replace_index-{seed}" for seed in train_tasks.SEEDS)
LONGS = tuple(f"long-{seed}" for seed in train_tasks.SEEDS)
LARGE, TWIN = "large-0", "twin-0"
LISTS = (3, 4, 6, 8, 10, 12, 15, 20)  # lengths in and beyond the trained ones
STAGED = "replace_index_names"
STAGES = (90, 100, 110, 120, 140, 160, 200)  # updates of fine-tuning
KEPT = ("stage120-0", 24)  # the cell whose network ships beside its rows

KS = (1, 2, 4, 8, 16, 24)
TOP_K = ("random", "left_to_right", "confidence", "margin", "entropy")
ADAPTIVE = {
    "confidence_threshold": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
    "factor": (0.3, 0.7, 1.0, 1.3, 1.6, 1.9),
    "entropy_bounded": (0.01, 0.03, 0.1, 0.3, 1.0),
}


def rule(name: str, value: float) -> Strategy:
    """A decoding rule by its short name and its one parameter: k, gamma or f."""
    if name in ADAPTIVE:
        return getattr(strategies, name)(value)
    suffix = "" if name == "left_to_right" else "_top_k"
    return getattr(strategies, name + suffix)(int(value))


@functools.cache
def load(model: str) -> Denoiser:
    """A trained network by the name of its run, as it ships.

    ``stage140-0`` is ``dllm-0`` after 140 updates of fine-tuning on ``STAGED``.
    """
    if model.startswith("stage"):
        updates, seed = _stage(model)
        return stages(seed)[updates]
    return pretrained.load_network(f"tasks-{model}")[0]


def _stage(model: str) -> tuple[int, int]:
    """Updates and seed in a name such as ``stage140-0``."""
    updates, seed = model.removeprefix("stage").split("-")
    return int(updates), int(seed)


def weights(model: str) -> str:
    """The hash of a model's weights; of none, "", where it is the exact denoiser."""
    if model.startswith("stage"):  # trained here
        updates, seed = _stage(model)
        return training.fingerprint(stages(seed)[updates])
    return "" if model == "exact" else pretrained.weights_hash(f"tasks-{model}")


@functools.cache
def stages(seed: int) -> dict[int, Transformer]:
    """Networks by their updates in the course of one fine-tuning; it takes a minute.

    Rounded to half precision, as what ships.
    """
    run = train_tasks.Run("dllm", "stages", seed, f"dllm-{seed}", (STAGED,))
    plan = train_tasks.plan(run)
    size = plan.steps * plan.batch_size
    rows = tasks.dataset(size, Generator().manual_seed(seed), run.tasks)
    kept: list[dict[str, Tensor]] = []

    def keep(model: Transformer) -> tuple[float, float]:
        kept.append({k: v.clone() for k, v in model.state_dict().items()})
        return 0.0, 0.0

    def network(updates: int) -> Transformer:
        model = train_tasks.begin(run, Path())
        weights = kept[updates // every - 1]
        model.load_state_dict({name: w.half().float() for name, w in weights.items()})
        return model.to(dllm_tutorial.device()).eval()

    every = math.gcd(*STAGES)
    for _ in training.train(
        train_tasks.begin(run, Path()),
        training.random_rows(rows),
        plan,
        loss=train_tasks.answer_loss,
        evaluate=keep,
        evaluate_every=every,
    ):
        pass
    return {updates: network(updates) for updates in STAGES}


@functools.cache
def problems(name: str, n: int | None, count: int) -> tuple[Task, Instances]:
    """A task and its test instances; with ``n``, lists of that many items."""
    task = tasks.make(name) if n is None else tasks.WaitingLine(name, [n])
    return task, task.draw(count, generator=Generator().manual_seed(SEED))


def _asked(cell: Mapping[str, Any]) -> tuple[Task, Instances]:
    """The task and the test instances of a cell, where the networks are."""
    task, instances = problems(cell["task"], cell.get("n"), cell["instances"])
    return task, instances.to(dllm_tutorial.device())


def measure(cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One cell of the study: a row with the answers' scores and calls.

    With ``known_length`` the end of the answer is given and only the n items are
    masked, as the closed forms of Shuffle and Replace Random suppose. ``right`` has a
    digit for each instance and ``calls`` a number, in the order of the instances.
    """
    task, instances = _asked(cell)
    joint = task.joint(instances)
    model = joint if cell["model"] == "exact" else load(cell["model"])
    x = task.inputs(instances)
    if cell["known_length"]:
        x[:, PROMPT_LENGTH + cell["n"] :] = tasks.EOS
    found = generate(
        model,
        x,
        rule(cell["rule"], cell["value"]),
        temperature=cell["temperature"],
        block_length=cell["block_length"],
        generator=Generator().manual_seed(SEED),
    )
    right = task.score(instances, task.answers(found.sequences)).tolist()
    if (cell["model"], cell["value"]) == KEPT:
        updates, seed = _stage(cell["model"])
        _programs.keep(stages(seed)[updates], Cell(cell), True)
    return [
        {
            "weights": weights(cell["model"]),
            "correct": sum(right),
            "nfe": found.nfe.double().mean().item(),
            "right": "".join(str(int(ok)) for ok in right),
            "calls": " ".join(map(str, found.nfe.tolist())),
        }
    ]


# --- the grids ------------------------------------------------------------------------


def cell(model: str, task: str, rule: str, value: float, **options: Any) -> dict:
    """Settings of one cell; what ``options`` do not name has its usual value."""
    usual = {
        "n": None,
        "temperature": 0,
        "block_length": None,
        "known_length": False,
        "instances": 100,
    }
    return (
        {"model": model, "task": task, "rule": rule, "value": value} | usual | options
    )


def settings() -> list[tuple[str, float]]:
    """Every rule with each of its values."""
    static = list(itertools.product(TOP_K, KS))
    return static + [(name, v) for name, values in ADAPTIVE.items() for v in values]


def panels() -> list[dict]:
    """Accuracy against tokens per step: ten tasks, every rule, temperature 0."""
    cells = [
        cell(model, task, name, value)
        for task in tasks.DECK
        for model in ("exact", *DLLMS)
        for name, value in settings()
    ]
    # one token at a time: what the models can do at all, on every task
    rest = [task for task in tasks.TRAINED if task not in tasks.DECK]
    cells += [cell(m, task, "confidence", 1) for task in rest for m in DLLMS]
    cells += [cell(m, t, "confidence", 1) for t in tasks.TRAINED for m in HALVES]
    cells += [cell(m, task, "left_to_right", 1) for task in tasks.TRAINED for m in ARS]
    return cells


def theory() -> list[dict]:
    """Shuffle and Replace Random of known length against n, where closed forms hold."""
    return [
        cell(model, task, "random", k, n=n, temperature=t, known_length=True)
        | {"instances": 400}
        for task in ("shuffle", "replace_random")
        for model in ("exact", *DLLMS)
        for n in (3, 4, 6, 8, 10, 12, 14, 16)
        for t in (0, 1)
        for k in sorted({1, 2, min(4, n), n})
    ]


GAMMAS = (0.3, 0.4, 0.51, 0.6, 0.7, 0.8, 0.85, 0.89, 0.91, 0.95, 0.99)


def thresholds() -> list[dict]:
    """Shuffle and Replace Random of ten items against the threshold gamma."""
    return [
        cell(model, task, "confidence_threshold", gamma, n=10, temperature=t)
        | {"instances": 200, "known_length": True}
        for task in ("shuffle", "replace_random")
        for model in ("exact", *DLLMS)
        for t in (0, 1)
        for gamma in GAMMAS
    ]


def tuned() -> list[dict]:
    """Each task after fine-tuning on it, by random top-k; before it see ``panels``."""
    return [
        cell(f"tuned-{task}-{seed}", task, "random", k)
        for task in tasks.DECK
        for seed in train_tasks.SEEDS
        for k in KS
    ]


def replace_index() -> list[dict]:
    """The deck's open question: Replace Index before and after, at every k."""
    return [
        cell(model, "replace_index", name, k, instances=400)
        for model in (*DLLMS, *TUNED)
        for name in ("random", "confidence")
        for k in (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)
    ]


def lengths() -> list[dict]:
    """Four tasks against the list's length, in and beyond the trained ones."""
    rules = [
        *(
            (m, r, k)
            for m in DLLMS
            for r in ("confidence", "random")
            for k in (1, 2, 4)
        ),
        *((m, "left_to_right", 1) for m in ARS),
    ]
    return [
        cell(model, task, name, k, n=n)
        for task in ("copy", "reverse", "sort", "shuffle")
        for n in LISTS
        for model, name, k in rules
    ]


def longer() -> list[dict]:
    """What models learned that were trained longer: deck tasks by every rule."""
    return [
        cell(model, task, name, value)
        for task in dict.fromkeys(train_tasks.LONG)
        for model in ("exact", *LONGS)
        for name, value in settings()
        if task in tasks.DECK or name in ("random", "confidence")
    ]


def larger() -> list[dict]:
    """The larger diffusion model: every task, and two lists against their length."""
    model = LARGE
    names = [task for task in tasks.NAMES if task.endswith("_names")]
    rest = [task for task in tasks.TRAINED if task not in tasks.DECK]
    cells = [cell(model, task, "confidence", k) for task in tasks.DECK for k in KS]
    cells += [
        cell(who, task, "confidence", k)
        for task in names
        for who in ("exact", model)
        for k in (1, 4, 24)
    ]
    cells += [cell(model, task, "confidence", 1) for task in rest]
    return cells + [
        cell(model, task, "confidence", k, n=n)
        for task in ("reverse", "shuffle")
        for n in LISTS
        for k in (1, 4)
    ]


def rise() -> list[dict]:
    """Does accuracy come back with k? Models in the middle of their learning, on two
    tasks with one right answer, by confidence and in a random order."""
    return [
        cell(model, task, name, k, instances=400)
        for model in (LARGE, *HALVES)
        for task in ("replace_index", "reverse")
        for name in ("confidence", "random")
        for k in KS
    ]


def larger_twin() -> list[dict]:
    """The larger autoregressive model on the same, one token at a time."""
    lists = itertools.product(("reverse", "shuffle"), LISTS)
    cells = [cell(TWIN, task, "left_to_right", 1) for task in tasks.NAMES]
    return cells + [cell(TWIN, task, "left_to_right", 1, n=n) for task, n in lists]


def blocks() -> list[dict]:
    """Semi-autoregressive: the same rules inside blocks of 4, of 8, and without."""
    rules = [
        ("confidence", 1),
        ("confidence", 2),
        ("random", 2),
        ("confidence_threshold", 0.9),
        ("entropy_bounded", 0.1),
    ]
    return [
        cell(model, task, name, value, block_length=length)
        for task in ("reverse", "shuffle", "replace_random", "w2s_easy", "sudoku")
        for model in ("exact", *DLLMS)
        for length in (4, 8, 24)
        for name, value in rules
    ]


def staged_models() -> list[str]:
    """From the first right answers to the end of fine-tuning, three seeds each."""
    return [f"stage{n}-{seed}" for n in STAGES for seed in train_tasks.SEEDS]


def staged() -> list[dict]:
    """Replace Index with names of two words, at every stage of fine-tuning on it."""
    return [
        cell(model, STAGED, "random", k, instances=200)
        for model in staged_models()
        for k in (1, 2, 4, 6, 8, 12, 24)
    ]


def staged_masks() -> list[dict]:
    """One parallel step from true answers, at every stage; see ``masks``."""
    return [
        {"model": model, "task": STAGED, "masked": m, "instances": 400}
        for model in staged_models()
        for m in (1, 2, 4, 8, 12, 16, 20, 24)
    ]


def masks() -> list[dict]:
    """Replace Index: one parallel step from true answers with m tokens masked."""
    return [
        {"model": model, "task": "replace_index", "masked": m, "instances": 400}
        for model in (*DLLMS, *TUNED)
        for m in (1, 2, 4, 6, 8, 12, 16, 20, 22, 23, 24)
    ]


def measure_masks(cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each position of the answer and what stands there in truth.

    ``part`` is ``list`` or ``end``, the ``<eos>`` after it. ``tokens`` are masked at
    this position over all instances and ``wrong`` of them predicted wrongly, with the
    true answer wherever nothing is masked: the model without its own mistakes.
    ``whole`` counts the instances without an error at any masked position.
    """
    task, instances = _asked(cell)
    generator = Generator().manual_seed(SEED)
    truth = task.joint(instances).sample(generator)
    keys = torch.rand(truth.shape, generator=generator).to(truth.device)
    hidden = keys.argsort(1).argsort(1) < cell["masked"]
    x = torch.cat([instances.prompts, truth.masked_fill(hidden, tasks.MASK)], 1)
    with torch.no_grad():
        guess = load(cell["model"])(x)[:, PROMPT_LENGTH:].argmax(-1)
    wrong = hidden & (guess != truth)
    whole = int((~wrong.any(1)).sum())
    used = weights(cell["model"])
    return [
        {
            "weights": used,
            "part": part,
            "position": position,
            "tokens": int((hidden & where)[:, position].sum()),
            "wrong": int((wrong & where)[:, position].sum()),
            "whole": whole,
        }
        for part, where in (("list", truth != tasks.EOS), ("end", truth == tasks.EOS))
        for position in range(tasks.ANSWER_LENGTH)
    ]


def loss_cells() -> list[dict]:
    """What the models of all tasks say of true answers, half-way and at the end."""
    return [
        {"model": model, "task": task, "instances": 100}
        for model in (*HALVES, *DLLMS, *ARS)
        for task in tasks.TRAINED
    ]


def measure_loss(cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row: the loss on true answers, and their entropy, which is its floor.

    Both in nats per answer token. Every instance is met eight times, with other masks
    for a diffusion model, whose loss is the NELBO.
    """
    task, instances = _asked(cell)
    joint = task.joint(instances)
    generator = Generator().manual_seed(SEED)
    truth = joint.sample(generator)
    rows = torch.cat([instances.prompts, truth], 1).repeat(8, 1)
    model = load(cell["model"])
    assert isinstance(model, Transformer)
    with torch.no_grad():
        loss = train_tasks.answer_loss(model, rows, generator)
    return [
        {
            "weights": weights(cell["model"]),
            "nats": loss.item(),
            "entropy": joint.log_size().mean().item() / tasks.ANSWER_LENGTH,
        }
    ]


STUDIES: dict[str, tuple[Callable, Callable[[], list[dict]]]] = {
    "bench_panels": (measure, panels),
    "bench_losses": (measure_loss, loss_cells),
    "bench_theory": (measure, theory),
    "bench_thresholds": (measure, thresholds),
    "bench_lengths": (measure, lengths),
    "bench_tuned": (measure, tuned),
    "bench_replace_index": (measure, replace_index),
    "bench_masks": (measure_masks, masks),
    "bench_longer": (measure, longer),
    "bench_large": (measure, larger),
    "bench_twin": (measure, larger_twin),
    "bench_rise": (measure, rise),
    "bench_blocks": (measure, blocks),
    "bench_stages": (measure, staged),
    "bench_stage_masks": (measure_masks, staged_masks),
}


def steps(cell: Mapping[str, Any]) -> float:
    """Calls of the model in a cell, roughly: its share of the work."""
    static = cell.get("rule") in TOP_K
    return cell["instances"] * (tasks.ANSWER_LENGTH / cell["value"] if static else 8)


def version(cells: Sequence[Mapping[str, Any]]) -> str:
    """Changes with the shipped weights of the models that are measured."""
    models = {c["model"] for c in cells} - {"exact"}
    starts = {f"dllm-{m.partition('-')[2]}" if "stage" in m else m for m in models}
    hashes = sorted(pretrained.weights_hash(f"tasks-{name}") for name in starts)
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    parser = _programs.grid_parser(__doc__, STUDIES)
    parser.add_argument(
        "--exact", action="store_true", help="exact denoisers only: needs no weights"
    )
    a = _programs.parse(parser, arguments)
    if a.exact and a.ship:
        parser.error("--exact goes without --ship: its rows are not all that ship")
    chosen = {}
    for name, (function, make_cells) in STUDIES.items():
        cells = [c for c in make_cells() if not a.exact or c["model"] == "exact"]
        if cells:
            chosen[name] = (cells, function)
    a.studies = [name for name in a.studies or STUDIES if name in chosen]
    _programs.run_grids(a, chosen, command=COMMAND, cost=steps, version=version)


if __name__ == "__main__":
    main()
