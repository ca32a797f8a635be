"""The reversal curse in a small closed world: A -> B was taught, B -> A is asked.

``python -m dllm_tutorial.reversal --out runs`` trains whatever of ``RUNS`` is not
finished in that folder; with ``--ship`` the rows go into the package, too.

A fact pairs a pupil A with a mentor B. Names have two tokens, a first and a last one,
which all people share, so that no single token tells who is meant. A forward sentence
names the pupil first ("A 's mentor is B"), a backward one the mentor ("B 's pupil is
A"). All sentences have seven tokens and the same three slots. Every fact is taught
forward; a ``share`` of the facts is taught backward, too.

A model that has never met the words "'s pupil is" cannot be asked with them. As in
Berglund et al. (2023), a separate set of *helper* facts is therefore taught in both
directions whatever the share: they teach what the backward words mean, and whoever
answers backward questions about them knows how to answer. The other way out, to
complete the one wording that was taught, is a question of its own here: ``"infill"``
asks for A in "___ 's mentor is B". That is how LLaDA was tested on poems (Nie et al.
2025, section 3.3), and what training on any order teaches in so many words (Kitouni et
al. 2024); that it should carry over to "B 's pupil is ___" does not follow, and is
what Shin et al. (2026, arXiv 2602.02133) explain by shared weights.

Each fact has three wordings in each direction and is never taught in one of them. The
question ``"reworded"`` is asked in that one, forward: a model that only knows strings
by heart fails there, and then says nothing about direction.

Each question is answered in two ways. ``"write"``: greedy, one token at a time from
left to right, all other tokens given; a causal model filling the front of a sentence
does not see the rest. ``"rank"``: all names of the closed world are tried in the slot
and the most probable one is taken, which asks what a model knows and not whether it can
say it. For a causal model that is Bayes' rule on the likelihood of whole sentences.

What we expected before the first run, of facts that were taught forward only: the
autoregressive model writes them backward at chance but ranks them right in the wording
that was taught; the diffusion model fills them in right in that wording, and carries
between a tenth and a half of them over to the backward words, more the more other facts
were taught both ways. Everything that was taught is answered by both.
"""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks, _programs, grid, losses, study, training
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.denoiser import Denoiser
from dllm_tutorial.networks import Transformer, TransformerConfig

__all__ = [
    "FACTS",
    "QUESTIONS",
    "RUNS",
    "VOCABULARY",
    "Run",
    "World",
    "answer",
    "draw_world",
    "gaps",
    "rank",
    "read",
    "sentences",
    "summary",
    "training_rows",
    "write",
]

ATTENTION = {"dllm": "bidirectional", "ar": "causal"}
COMMAND = "python -m dllm_tutorial.reversal"
SEEDS = (0, 1, 2, 3, 4)
SHARES = (0.0, 0.5, 1.0)

# ------------------------------------------------------------------------- language

_NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gil Hana Ivo Jane Karl Lea "
    "Max Nina Otto Pia Quinn Rosa Sam Tess Uma Vera Will Zoe",
    "Ames Bond Cole Dunn East Ford Gray Hill Irwin Jung King Lamb "
    "Moor Nash Owen Park Reed Shaw Todd Ueda Vale Webb York Zorn",
)
FIRST, LAST = (tuple(names.split()) for names in _NAMES)
WORDINGS = {
    "forward": ("'s mentor is", "was taught by", "had lessons from"),
    "backward": ("'s pupil is", "was teacher of", "gave lessons to"),
}
_WORDS = " ".join(" ".join(three) for three in WORDINGS.values()).split()
VOCABULARY = (*FIRST, *LAST, *dict.fromkeys(_WORDS))
LENGTH = 7
FRONT, BACK = (0, 1), (5, 6)  # the slots of the two names


def _ids(text: str) -> list[int]:
    return [VOCABULARY.index(word) for word in text.split()]


# Long[3, 3]: the three words of each wording
_MIDDLE = {
    direction: torch.tensor([_ids(wording) for wording in three])
    for direction, three in WORDINGS.items()
}


def read(x: Tensor) -> list[str]:
    """The sentences ``x: Long[B, L]`` in letters; a mask is an underscore."""
    _checks.token_range(_checks.tokens(x, "x"), "x", len(VOCABULARY) + 1)
    words = (*VOCABULARY, "_")
    return [" ".join(words[token] for token in row) for row in x.tolist()]


# ---------------------------------------------------------------------------- facts

FACTS = ("helper", "both", "forward-only")  # how a fact is taught


@dataclass(frozen=True)
class World:
    """N facts and how they are taught.

    Attributes
    ----------
    pupil, mentor : Long[N, 2]
        Names. All 2 N people are different, and each has one fact.
    taught : Long[N]
        Index into ``FACTS``. A helper and a fact of kind ``"both"`` are taught in both
        directions; helpers are the same at every share.
    unused : Long[N]
        The wording, 0 to 2, in which a fact is not taught.
    """

    pupil: Tensor
    mentor: Tensor
    taught: Tensor
    unused: Tensor

    def __len__(self) -> int:
        return len(self.pupil)


def draw_world(helpers: int, asked: int, share: float, generator: Generator) -> World:
    """``helpers`` facts taught both ways, and ``asked`` ones of which a share is.

    A generator in the same state gives the same people, facts and wordings at every
    share, and the facts taught both ways at a share are among those at a larger one.
    """
    n = _checks.integer(helpers, "helpers", 0) + _checks.integer(asked, "asked", 1)
    _checks.in_unit_interval(share, "share")
    if 2 * n > len(FIRST) * len(LAST):
        raise ValueError(
            f"helpers + asked must be at most {len(FIRST) * len(LAST) // 2}, one name "
            f"for each person, got {n}"
        )
    chosen = torch.randperm(len(FIRST) * len(LAST), generator=generator)[: 2 * n]
    name = torch.stack((chosen // len(LAST), len(FIRST) + chosen % len(LAST)), 1)
    both = round(share * asked)
    counts = torch.tensor([helpers, both, asked - both])
    return World(
        pupil=name[:n],
        mentor=name[n:],
        taught=torch.arange(len(FACTS)).repeat_interleave(counts),
        unused=torch.randint(3, (n,), generator=generator),
    )


def sentences(world: World, direction: str, wording: Tensor) -> Tensor:
    """Every fact said once, Long[N, 7], in ``wording: Long[N]`` (0 to 2)."""
    _checks.one_of(direction, "direction", tuple(WORDINGS))
    _checks.tokens(wording, "wording", ndim=1, length=len(world))
    _checks.token_range(wording, "wording", 3)
    names = [world.pupil, world.mentor]
    first, second = names if direction == "forward" else names[::-1]
    return torch.cat((first, _MIDDLE[direction][wording], second), 1)


def training_rows(world: World) -> Tensor:
    """All sentences that are taught, Long[M, 7], in two wordings each."""
    backward = world.taught != FACTS.index("forward-only")
    rows = []
    for other in (1, 2):
        wording = (world.unused + other) % 3
        rows.append(sentences(world, "forward", wording))
        rows.append(sentences(world, "backward", wording)[backward])
    return torch.cat(rows)


# ------------------------------------------------------------------------ questions


@dataclass(frozen=True)
class Question:
    """One name of every fact is asked for: direction, wording, and where it stands."""

    direction: str
    reworded: bool
    slots: tuple[int, int]


QUESTIONS = {
    "forward": Question("forward", False, BACK),
    "reworded": Question("forward", True, BACK),
    "backward": Question("backward", False, BACK),
    "infill": Question("forward", False, FRONT),
}


def answer(world: World, question: str) -> tuple[Tensor, Tensor]:
    """The right sentences of a question, and the names one could have answered.

    Returns
    -------
    x0 : Long[N, 7]
        One question for each fact, with its answer. But for ``"reworded"`` it stands in
        a wording in which the fact was taught, if it was taught in that direction.
    names : Long[N, 2]
        Row n is the answer to question n: all mentors, or all pupils.
    """
    asked = QUESTIONS[_checks.one_of(question, "question", tuple(QUESTIONS))]
    wording = world.unused if asked.reworded else (world.unused + 1) % 3
    x0 = sentences(world, asked.direction, wording)
    return x0, x0[:, list(asked.slots)]


def _causal(model: Denoiser) -> bool:
    return isinstance(model, Transformer) and model.config.attention == "causal"


@torch.no_grad()
def answer_nats(model: Denoiser, x0: Tensor, slots: tuple[int, int]) -> Tensor:
    """-log p(tokens at the slots | the others), Float[B], from left to right, nats.

    A causal model does not see what stands behind the slots.
    """
    x = x0.clone()
    x[:, list(slots)] = model.mask_id
    nats = torch.zeros(len(x0))
    for slot in slots:
        nats = nats + losses.token_nll(model, x, x0)[:, slot]
        x[:, slot] = x0[:, slot]
    return nats


def write(model: Denoiser, world: World, question: str) -> tuple[Tensor, Tensor]:
    """Answer by writing the name, greedily, one token at a time from left to right.

    Returns
    -------
    right : Bool[N]
        Whether both tokens of the name are right.
    nats : Float[N]
        -log p(right name | the rest of the sentence), one token at a time.
    """
    x0, _ = answer(world, question)
    slots = QUESTIONS[question].slots
    x = x0.clone()
    x[:, list(slots)] = model.mask_id
    found = generate(model, x, strategies.left_to_right(1)).sequences
    return (found == x0).all(1), answer_nats(model, x0, slots)


@torch.no_grad()
def rank(model: Denoiser, world: World, question: str) -> tuple[Tensor, Tensor]:
    """Answer with the most probable of all N names that could stand there.

    A causal Transformer gives each candidate the likelihood of its whole sentence, any
    other denoiser the probability of the name given the rest, as in :func:`write`. Both
    are the posterior over candidates up to a factor, which the sum over them removes.

    Returns
    -------
    right : Bool[N]
        Whether the right name is the most probable one.
    nats : Float[N]
        -log of the posterior of the right name; guessing costs log N.
    """
    x0, names = answer(world, question)
    slots = QUESTIONS[question].slots
    right, nats = [], []
    for n, sentence in enumerate(x0):
        tried = sentence.repeat(len(names), 1)
        tried[:, list(slots)] = names
        if _causal(model):
            loss = losses.ar_loss(model, tried)
        else:
            loss = answer_nats(model, tried, slots)
        posterior = (-loss.double()).log_softmax(0)
        right.append(posterior.argmax() == n)
        nats.append(-posterior[n])
    return torch.stack(right), torch.stack(nats)


WAYS = {"write": write, "rank": rank}

# ----------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Budget:
    """Numbers of facts, the network's size, and what one training may spend."""

    helpers: int = 24
    asked: int = 96
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    steps: int = 2500
    batch_size: int = 64
    lr: float = 4e-3


BUDGET = Budget()  # 40 seconds of one core for a run


@dataclass(frozen=True)
class Run:
    """One training: a model, the share of facts taught both ways, and a seed."""

    model: str
    share: float
    seed: int


RUNS = {
    f"{model}-{share}-{seed}": Run(model, share, seed)
    for seed in SEEDS
    for share in SHARES
    for model in ATTENTION
}


def world_of(run: Run) -> World:
    """The facts of a run: the same for a model and its twin, others for each seed."""
    generator = Generator().manual_seed(run.seed)
    return draw_world(BUDGET.helpers, BUDGET.asked, run.share, generator)


def network(run: Run) -> Transformer:
    """The untrained network of a run: the same numbers for the model and its twin."""
    torch.manual_seed(run.seed)
    return Transformer(
        TransformerConfig(
            len(VOCABULARY),
            LENGTH,
            BUDGET.d_model,
            BUDGET.n_layers,
            BUDGET.n_heads,
            attention=ATTENTION[run.model],
        )
    )


def plan(run: Run) -> training.TrainingConfig:
    """How a run is trained; the same for the model and its twin."""
    return training.TrainingConfig(
        BUDGET.steps, BUDGET.batch_size, BUDGET.lr, seed=run.seed, optimizer="muon"
    )


def train(run: Run) -> Transformer:
    """The trained network of a run."""
    model = network(run)
    draw = training.random_rows(training_rows(world_of(run)))
    for _ in training.train(model, draw, plan(run)):
        pass
    return model


def score(model: Denoiser, world: World) -> list[dict]:
    """Rows ``question, facts, how, correct, n, right, nats`` of one model.

    ``right`` has a digit for each fact of the group, 1 where it was answered right, in
    the order of the world, with spaces between them so that no reader takes them for a
    number; ``nats`` is a mean. A group without facts has no row.
    """
    rows = []
    for question in QUESTIONS:
        for how, way in WAYS.items():
            right, nats = way(model, world, question)
            for index, facts in enumerate(FACTS):
                group = world.taught == index
                if not bool(group.any()):
                    continue
                digits = [str(int(one)) for one in right[group]]
                rows.append(
                    {
                        "question": question,
                        "facts": facts,
                        "how": how,
                        "correct": digits.count("1"),
                        "n": len(digits),
                        "right": " ".join(digits),
                        "nats": round(nats[group].double().mean().item(), 4),
                    }
                )
    return rows


def cells() -> list[grid.Cell]:
    """Every training."""
    return [grid.Cell(asdict(run)) for run in RUNS.values()]


def version(cells: object = None) -> str:
    """The budget: rows of another one are not taken for these."""
    return "-".join(map(str, astuple(BUDGET)))


def measure(cell: grid.Cell) -> list[dict]:
    """Train one network and ask it everything."""
    run = Run(cell["model"], cell["share"], cell["seed"])
    model = train(run)
    kept = _programs.keep(model, cell, run.seed == 0 and run.share == 0.5)
    return [row | {"weights": kept} for row in score(model, world_of(run))]


# -------------------------------------------------------------------------- results

_CELL = ["model", "share", "question", "facts", "how"]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and nats of every model, share, question, kind of facts and way.

    Intervals are at 95 %: of accuracies over seeds and facts, with something left for
    doubt where all are right (:func:`dllm_tutorial.study.crossed_interval`; every seed
    has facts of its own here, which makes it rather too wide), of nats Student's t over
    seeds (:func:`dllm_tutorial.study.mean_interval`).

    Parameters
    ----------
    rows : DataFrame
        ``study.read_rows("reversal")``, or a part of it with two seeds at least.

    Returns
    -------
    DataFrame
        Indexed by ``model, share, question, facts, how``, with columns ``accuracy``,
        ``low``, ``high``, ``nats`` (mean), ``nats_low``, ``nats_high`` and ``seeds``.
    """
    cells = {}
    for cell, part in rows.groupby(_CELL, sort=False):
        right = _digits(part["right"])
        low, high = study.crossed_interval(right)
        nats_low, nats_high = study.mean_interval(part["nats"])
        cells[cell] = {
            "accuracy": right.mean(),
            "low": float(low),
            "high": float(high),
            "nats": part["nats"].mean(),
            "nats_low": nats_low,
            "nats_high": nats_high,
            "seeds": len(part),
        }
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis(_CELL)


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the diffusion model minus that of its twin on the same facts.

    Returns
    -------
    DataFrame
        Indexed by ``share, question, facts, how``, with columns ``gap``, ``low`` and
        ``high``: the mean of the paired differences and its 95 % interval over seeds
        and facts, as in :func:`summary`.
    """
    table = rows.pivot(index=[*_CELL[1:], "seed"], columns="model", values="right")
    cells = {}
    for cell, part in table.groupby(_CELL[1:], sort=False):
        difference = _digits(part["dllm"]) - _digits(part["ar"])
        low, high = study.crossed_interval(difference, ends=(-1, 1))
        gap = float(difference.mean())
        cells[cell] = {"gap": gap, "low": float(low), "high": float(high)}
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis(_CELL[1:])


def _digits(right: pd.Series) -> np.ndarray:
    """Int[seeds, facts] of rows such as "1 0 1"."""
    return np.array([[int(digit) for digit in text.split()] for text in right])


def main(arguments: list[str] | None = None) -> None:
    """See the text at the top of this module."""
    a = _programs.parse(_programs.grid_parser(__doc__, ["reversal"]), arguments)
    studies = {"reversal": (cells(), measure)}
    _programs.run_grids(
        a, studies, command=COMMAND, cost=lambda cell: 1.0, version=version
    )


if __name__ == "__main__":
    main()
