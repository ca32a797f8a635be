"""The reversal study: what is taught and asked, how answers are scored, its rows.

Which sentences are taught is checked on the printed text. Scores are checked on exact
joints, whose answers are known by hand, and against sums over single tokens.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Generator

from dllm_tutorial import orders, reversal, study
from dllm_tutorial.joints import TableJoint
from dllm_tutorial.networks import Transformer, TransformerConfig

HELPERS, ASKED = 5, 12
SIZE = HELPERS + ASKED


def draw(share: float = 0.5, seed: int = 0) -> reversal.World:
    generator = Generator().manual_seed(seed)
    return reversal.draw_world(HELPERS, ASKED, share, generator)


def names(tokens: torch.Tensor) -> list[str]:
    return reversal.read(tokens)


def spoken(world: reversal.World, direction: str, taught_only: bool) -> set[str]:
    """The sentences of a world, put together from text."""
    pairs = zip(names(world.pupil), names(world.mentor), strict=True)
    found = set()
    for n, (pupil, mentor) in enumerate(pairs):
        kind = reversal.FACTS[world.taught[n]]
        if taught_only and direction == "backward" and kind == "forward-only":
            continue
        pair = (pupil, mentor) if direction == "forward" else (mentor, pupil)
        for k, words in enumerate(reversal.WORDINGS[direction]):
            if not (taught_only and k == world.unused[n]):
                found.add(f"{pair[0]} {words} {pair[1]}")
    return found


def everything(world: reversal.World) -> torch.Tensor:
    """All facts in both directions and all wordings, Long[6 N, 7]."""
    wording = [torch.full((len(world),), k) for k in range(3)]
    return torch.cat(
        [reversal.sentences(world, d, k) for d in reversal.WORDINGS for k in wording]
    )


def joint(rows: torch.Tensor) -> TableJoint:
    return TableJoint(rows, None, len(reversal.VOCABULARY))


def untrained(attention: str) -> Transformer:
    torch.manual_seed(1)
    size = len(reversal.VOCABULARY)
    model = Transformer(TransformerConfig(size, 7, 16, 1, 2, attention=attention))
    torch.nn.init.normal_(model.head.weight)  # far from the uniform first guess
    return model.eval()


# --------------------------------------------------------------- what is taught, asked


def test_the_words():
    assert len(set(reversal.VOCABULARY)) == len(reversal.VOCABULARY)
    assert len(set(reversal.FIRST + reversal.LAST)) == 48
    both = [*reversal.WORDINGS["forward"], *reversal.WORDINGS["backward"]]
    assert len(set(both)) == 6
    assert all(len(words.split()) == 3 for words in both)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_what_is_taught(share, seed):
    world = draw(share, seed)
    people = names(world.pupil) + names(world.mentor)
    assert len(set(people)) == 2 * SIZE
    for person in people:
        first, last = person.split()
        assert first in reversal.FIRST and last in reversal.LAST
    both = int(share * ASKED)
    counts = np.bincount(world.taught, minlength=3).tolist()
    assert counts == [HELPERS, both, ASKED - both]

    rows = reversal.read(reversal.training_rows(world))
    assert len(set(rows)) == len(rows) == 2 * SIZE + 2 * (HELPERS + both)
    assert set(rows) == spoken(world, "forward", True) | spoken(world, "backward", True)
    # no sentence at all puts a mentor known forward only before the pupil
    for n in np.flatnonzero(world.taught == reversal.FACTS.index("forward-only")):
        mentor = names(world.mentor[n : n + 1])[0]
        assert not any(row.startswith(mentor) for row in rows)
        assert sum(row.endswith(mentor) for row in rows) == 2


def test_worlds_of_a_seed_share_people_and_facts():
    first, again, more = draw(0.25), draw(0.25), draw(0.5)
    for name in ("pupil", "mentor", "taught", "unused"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for name in ("pupil", "mentor", "unused"):
        assert torch.equal(getattr(first, name), getattr(more, name))
    both = reversal.FACTS.index("both")
    assert bool((more.taught[first.taught == both] == both).all())
    assert not torch.equal(first.pupil, draw(0.25, seed=1).pupil)


@pytest.mark.parametrize("question", reversal.QUESTIONS)
def test_what_is_asked(question):
    world = draw()
    x0, answers = reversal.answer(world, question)
    direction = "backward" if question == "backward" else "forward"
    asked = reversal.read(x0)
    assert set(asked) <= spoken(world, direction, False)
    person = world.mentor if question in ("forward", "reworded") else world.pupil
    assert torch.equal(answers, person)
    place = str.startswith if question == "infill" else str.endswith
    assert all(
        place(text, name) for text, name in zip(asked, names(person), strict=True)
    )
    taught = set(reversal.read(reversal.training_rows(world)))
    known = [text in taught for text in asked]
    forward_only = world.taught == reversal.FACTS.index("forward-only")
    if question == "backward":
        assert known == (~forward_only).tolist()
    else:
        assert set(known) == {question != "reworded"}


def test_a_mask_is_read_as_a_gap():
    x = reversal.sentences(draw(), "forward", torch.zeros(SIZE, dtype=torch.long))[:1]
    x[:, :2] = len(reversal.VOCABULARY)
    assert reversal.read(x)[0].startswith("_ _ 's mentor is ")


# ------------------------------------------------------------------------------ scores

WAYS = [reversal.write, reversal.rank]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("question", reversal.QUESTIONS)
def test_who_knows_everything_is_right(way, question):
    world = draw()
    right, nats = way(joint(everything(world)), world, question)
    assert right.shape == nats.shape == (SIZE,)
    assert right.all() and nats.abs().max() < 1e-6


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("question", reversal.QUESTIONS)
def test_who_mixes_up_all_pairs_is_wrong(way, question):
    world = draw()
    mixed = reversal.World(
        world.pupil, world.mentor.roll(1, 0), world.taught, world.unused
    )
    right, nats = way(joint(everything(mixed)), world, question)
    assert not right.any() and (nats == math.inf).all()


@pytest.mark.parametrize("question", ["forward", "backward", "infill"])
def test_who_knows_the_sentences_by_heart_cannot_turn_them_round(question):
    # the exact joint of what was taught: it fills both ends of a sentence it knows, and
    # is uniform where a sentence is new to it
    world = draw()
    model = joint(reversal.training_rows(world))
    new = world.taught == reversal.FACTS.index("forward-only")
    new = new & torch.tensor(question == "backward")
    size = len(reversal.VOCABULARY)
    for way, guess in ((reversal.write, 2 * math.log(size)), (reversal.rank, None)):
        right, nats = way(model, world, question)
        assert torch.equal(right, ~new)
        assert nats[~new].abs().max() < 1e-6
        guess = guess or math.log(SIZE)
        assert torch.allclose(nats[new].double(), torch.tensor(guess).double())


@pytest.mark.parametrize("question", reversal.QUESTIONS)
def test_a_causal_model_ranks_by_whole_sentences(question):
    world, model = draw(), untrained("causal")
    x0, candidates = reversal.answer(world, question)
    slots = [0, 1] if question == "infill" else [5, 6]
    right, nats = reversal.rank(model, world, question)
    for n in (0, SIZE - 1):
        total = []
        for name in candidates:
            x = x0[n : n + 1].clone()
            x[0, slots] = name
            total.append(0.0)
            for i in range(7):  # token by token, each from its prefix alone
                prefix = torch.cat((x[:, :i], torch.zeros(1, 7 - i).long()), 1)
                p = model(prefix)[0, i].detach().double().softmax(0)
                total[-1] += math.log(p[x[0, i]])
        norm = math.log(sum(math.exp(one) for one in total))
        assert nats[n].item() == pytest.approx(norm - total[n], abs=1e-4)
        assert bool(right[n]) == (max(total) == total[n])


def test_a_bidirectional_model_is_scored_given_the_rest():
    world, model = draw(), untrained("bidirectional")
    for question in ("backward", "infill"):
        x0, _ = reversal.answer(world, question)
        slots = [0, 1] if question == "infill" else [5, 6]
        order = torch.tensor([i for i in range(7) if i not in slots] + slots)
        with torch.no_grad():
            terms = orders.step_log_prob(model, x0, order)
        _, nats = reversal.write(model, world, question)
        assert torch.allclose(nats, -terms[:, -2:].sum(1), atol=1e-5)


def test_a_causal_model_writes_the_front_without_seeing_the_back():
    world, model = draw(), untrained("causal")
    other = reversal.World(
        world.pupil, world.mentor.roll(1, 0), world.taught, world.unused
    )
    assert torch.equal(
        reversal.write(model, world, "infill")[1],
        reversal.write(model, other, "infill")[1],
    )


def test_rows_of_a_model():
    world = draw(share=0.0)
    rows = pd.DataFrame(reversal.score(joint(reversal.training_rows(world)), world))
    assert set(rows["facts"]) == {"helper", "forward-only"}  # none is taught both ways
    assert len(rows) == 4 * 2 * 2
    sizes = {"helper": HELPERS, "forward-only": ASKED}
    assert (rows["n"] == rows["facts"].map(sizes)).all()
    marks = rows["right"].str.split()
    assert (marks.str.len() == rows["n"]).all()
    assert (marks.map(lambda row: row.count("1")) == rows["correct"]).all()
    back = rows[(rows["question"] == "backward") & (rows["how"] == "write")]
    assert dict(zip(back["facts"], back["correct"], strict=True)) == {
        "helper": HELPERS,
        "forward-only": 0,
    }


# ---------------------------------------------------------------------------- training


def test_twins_start_alike():
    for share in reversal.SHARES:
        pair = [reversal.Run(model, share, 2) for model in ("dllm", "ar")]
        one, two = (reversal.network(run).state_dict() for run in pair)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert reversal.plan(pair[0]) == reversal.plan(pair[1])
        one, two = (reversal.training_rows(reversal.world_of(run)) for run in pair)
        assert torch.equal(one, two)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A study of three runs that take no time."""
    few = list(reversal.RUNS)[:3]
    budget = reversal.Budget(3, 4, d_model=8, n_layers=1, n_heads=2, steps=4)
    monkeypatch.setattr(reversal, "RUNS", {n: reversal.RUNS[n] for n in few})
    monkeypatch.setattr(reversal, "BUDGET", budget)
    return tmp_path


def test_a_cell_trains_its_run_and_asks_everything(small):
    first, second, third = (reversal.measure(cell) for cell in reversal.cells())
    assert reversal.measure(reversal.cells()[0]) == first
    assert len({rows[0]["weights"] for rows in (first, second, third)}) == 3
    for rows in (first, second, third):
        asked = {(row["question"], row["how"]) for row in rows}
        assert asked == set(itertools.product(reversal.QUESTIONS, reversal.WAYS))


def test_rows_of_another_budget_are_not_taken_for_these(small, monkeypatch):
    before = reversal.version()
    longer = reversal.Budget(3, 4, d_model=8, n_layers=1, n_heads=2, steps=5)
    monkeypatch.setattr(reversal, "BUDGET", longer)
    assert reversal.version() != before


def test_a_small_world_is_learned():
    # one wording of two facts is enough to see the way from rows to answers
    torch.manual_seed(0)
    world = reversal.draw_world(0, 2, 0.0, Generator().manual_seed(0))
    size = len(reversal.VOCABULARY)
    model = Transformer(TransformerConfig(size, 7, 32, 1, 2, attention="causal"))
    config = reversal.training.TrainingConfig(150, 8, 4e-3, 20, optimizer="muon")
    rows = reversal.training.random_rows(reversal.training_rows(world))
    for _ in reversal.training.train(model, rows, config):
        pass
    assert reversal.write(model, world, "forward")[0].all()
    assert reversal.rank(model, world, "infill")[0].all()


# ----------------------------------------------------------------------------- results


def made(model: str, seed: int, right: str, nats: float = 0.0) -> dict:
    cell = {"share": 0.5, "question": "backward", "facts": "both", "how": "write"}
    return {"model": model, "seed": seed} | cell | {"right": right, "nats": nats}


def test_summary_is_over_seeds_and_facts():
    answers = ["1 0 0 1 0", "1 0 1 1 0", "0 1 1 1 1"]
    nats = (1, 2, 6)
    rows = [made("ar", s, answers[s], nats[s]) for s in range(3)]
    rows += [made("dllm", s, "1 1 1 1 1") for s in range(3)]
    table = reversal.summary(pd.DataFrame(rows))
    ar = table.loc[("ar", 0.5, "backward", "both", "write")]
    digits = [[int(digit) for digit in answer.split()] for answer in answers]
    assert ar["accuracy"] == pytest.approx(9 / 15)
    wanted = study.crossed_interval(digits)
    assert (ar["low"], ar["high"]) == pytest.approx(wanted)
    assert ar["nats"] == pytest.approx(3)
    half = stats.t.ppf(0.975, 2) * math.sqrt(7) / math.sqrt(3)
    assert (ar["nats_low"], ar["nats_high"]) == pytest.approx((3 - half, 3 + half))
    assert ar["seeds"] == 3
    dllm = table.loc[("dllm", 0.5, "backward", "both", "write")]
    assert dllm["accuracy"] == dllm["high"] == 1 and 0.4 < dllm["low"] < 0.8
    with pytest.raises(ValueError, match="at least two"):
        reversal.summary(pd.DataFrame(rows[:1]))


def test_gaps_are_paired():
    """Each seed's fact of the diffusion model beside the same of its twin."""
    rows = [made("ar", seed, "0 0 1 1") for seed in range(4)]
    rows += [made("dllm", seed, "0 1 1 1") for seed in (3, 1, 0, 2)]
    gap = reversal.gaps(pd.DataFrame(rows)).loc[(0.5, "backward", "both", "write")]
    wanted = study.crossed_interval([[0, 1, 0, 0]] * 4, ends=(-1, 1))
    assert gap.tolist() == pytest.approx([0.25, *wanted])


def test_shipped_rows_hold_together():
    rows = study.read_rows("reversal")
    runs = rows[["model", "share", "seed"]].drop_duplicates()
    assert {reversal.Run(*run) for run in runs.itertuples(index=False)} == set(
        reversal.RUNS.values()
    )
    key = ["model", "share", "seed", "question", "facts", "how"]
    assert not rows.duplicated(key).any()
    marks = rows["right"].str.split()
    assert (marks.str.len() == rows["n"]).all()
    assert (marks.map(lambda row: row.count("1")) == rows["correct"]).all()
    assert (rows["nats"] >= 0).all()
    budget = reversal.BUDGET
    size = rows.groupby(["model", "share", "seed", "question", "how"])["n"].sum()
    assert (size == budget.helpers + budget.asked).all()
    assert rows.attrs["command"].startswith(reversal.COMMAND)
    assert rows.attrs["seeds"] == list(reversal.SEEDS)
    assert len(reversal.gaps(rows)) == len(reversal.summary(rows)) // 2


# -------------------------------------------------------------------------- bad inputs


def test_bad_inputs():
    generator = Generator().manual_seed(0)
    with pytest.raises(ValueError, match="share"):
        reversal.draw_world(1, 1, 1.5, generator)
    with pytest.raises(TypeError, match="helpers"):
        reversal.draw_world(1.0, 1, 0.5, generator)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="asked"):
        reversal.draw_world(1, 0, 0.5, generator)
    with pytest.raises(ValueError, match=r"helpers \+ asked"):
        reversal.draw_world(100, 189, 0.5, generator)
    world = draw()
    with pytest.raises(ValueError, match="question"):
        reversal.write(untrained("causal"), world, "sideways")
    with pytest.raises(ValueError, match="direction"):
        reversal.sentences(world, "sideways", world.unused)
    with pytest.raises(ValueError, match="wording"):
        reversal.sentences(world, "forward", world.unused + 3)
    with pytest.raises(ValueError, match="wording"):
        reversal.sentences(world, "forward", world.unused[1:])
    with pytest.raises(ValueError, match="x must hold tokens"):
        reversal.read(torch.full((1, 7), len(reversal.VOCABULARY) + 1))
