"""The study of sets of orders: its losses, its rows, and what is read off them.

Losses are compared with formulas on given probabilities, readings with hand-made
tables; trainings are tiny.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor, nn

from dllm_tutorial import joints, log_sum_study, losses, mixtures, orders, text
from dllm_tutorial.grid import Cell
from dllm_tutorial.log_sum_study import EQUAL_COMPUTE, METHODS, SETS, SINGLE, SOURCES
from dllm_tutorial.networks import TransformerConfig
from dllm_tutorial.order_study import Gap, Size

LEFT, RIGHT = SINGLE
SMALL = Size(16, 1, 2, length=8, batch_size=4, updates=40, windows=24)
BOTH = pytest.mark.parametrize("source", SOURCES)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def small(monkeypatch):
    """All sizes are small, and a text is a short stream of random letters."""
    sizes = {key: dataclasses.replace(SMALL) for key in log_sum_study.SIZES}
    monkeypatch.setattr(log_sum_study, "SIZES", sizes)

    def letters(corpus: str, part: str) -> Tensor:
        return torch.randint(len(text.LETTERS), (400,), generator=seeded(len(part)))

    monkeypatch.setattr(text, "letters", letters)
    log_sum_study._source.cache_clear()
    yield
    log_sum_study._source.cache_clear()


def cell(source: str, method: str, seed: int = 0) -> Cell:
    return Cell({"source": source, "method": method, "seed": seed, "size": "cpu"})


# ------------------------------------------------------------------------------- losses


class Given:
    """Log-probabilities that do not depend on the sequences, in a model's place."""

    def __init__(self, log_p: Tensor, prior: Tensor | None = None) -> None:
        self.log_p = log_p
        self.prior = torch.zeros(len(log_p)).double() if prior is None else prior

    def log_probs(self, x: Tensor) -> Tensor:
        return self.log_p

    def log_prior(self) -> Tensor:
        return self.prior.log_softmax(0)


LOG_P = torch.tensor([[-5.0, -3.0], [-2.0, -4.0], [-6.0, -3.5]]).double()
X = torch.zeros(2, 4, dtype=torch.long)


def power_mean(beta: float, weight: list[float]) -> float:
    """-1/beta log sum p(o) p^beta, mean of the two sequences, per token."""
    each = []
    for column in LOG_P.T.tolist():
        pairs = zip(weight, column, strict=True)
        total = sum(w * math.exp(beta * v) for w, v in pairs)
        each.append(-math.log(total) / beta)
    return sum(each) / 2 / 4


def test_losses_of_the_methods():
    even, prior = [1 / 3] * 3, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    average = -LOG_P.mean().item() / 4
    for method in ("average", *SINGLE, EQUAL_COMPUTE):
        found = log_sum_study.method_loss(method, 10)(Given(LOG_P), X, seeded())
        assert found.item() == pytest.approx(average, abs=1e-12)
    found = log_sum_study.method_loss("log-sum", 10)(Given(LOG_P), X, seeded())
    assert found.item() == pytest.approx(power_mean(1.0, even), abs=1e-12)
    model = Given(LOG_P, prior.log())
    found = log_sum_study.method_loss("learned p(o)", 10)(model, X, seeded())
    assert found.item() == pytest.approx(power_mean(1.0, prior.tolist()), abs=1e-12)


def test_the_annealed_loss_goes_from_the_average_to_log_sum():
    updates, even = 100, [1 / 3] * 3
    loss = log_sum_study.method_loss("annealed", updates)
    found = [loss(Given(LOG_P), X, seeded()).item() for _ in range(updates)]
    for calls, value in enumerate(found):
        beta = min(1.0, 0.01 + (calls / 70) ** 2)
        assert value == pytest.approx(power_mean(beta, even), abs=1e-9)
    average = -LOG_P.mean().item() / 4
    assert found[0] == pytest.approx(average, abs=0.01)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(found))
    assert found[70:] == pytest.approx([power_mean(1.0, even)] * 30, abs=1e-12)
    # each training counts for itself
    again = log_sum_study.method_loss("annealed", updates)
    assert again(Given(LOG_P), X, seeded()).item() == found[0]


# -------------------------------------------------------------------- sources and cells


@BOTH
def test_sets_of_orders(source):
    every = orders.check_orders(log_sum_study.order_set(source, 10), 10)
    assert len(every) == len(SETS[source]) == len(every.unique(dim=0))
    assert torch.equal(every[0], torch.arange(10))
    assert torch.equal(every[1], torch.arange(10).flip(0))
    assert torch.equal(every, log_sum_study.order_set(source, 10))
    assert SETS[source][:2] == SINGLE


def test_the_source_of_two_directions_is_its_own_mirror_image():
    joint = log_sum_study.two_directions(8)
    rows = map(tuple, joint.support.tolist())
    p = dict(zip(rows, joint.probs.tolist(), strict=True))
    assert all(p[row[::-1]] == pytest.approx(v, abs=1e-15) for row, v in p.items())


@pytest.mark.parametrize("size", ["cpu", "gpu"])
def test_cells_and_what_they_cost(size):
    cells = log_sum_study.cells(size)
    assert len(set(cells)) == len(cells) == 2 * 7 * 5
    cost = {}
    for one in cells:
        shape, taught, names, batch = log_sum_study._plan(one)
        assert len(taught) == len(names)
        assert set(names) <= set(SETS[one["source"]])
        cost[one["source"], one["method"]] = (
            len(names) * batch / shape.batch_size,
            log_sum_study._cost(one),
        )
    for source in SOURCES:
        k, base = len(SETS[source]), cost[source, LEFT]
        assert base[0] == 1
        for method in (*METHODS, EQUAL_COMPUTE):
            assert cost[source, method][0] == k
            assert cost[source, method][1] == k * base[1]
    _, taught, names, _ = log_sum_study._plan(cell("sotu", RIGHT))
    assert names == [RIGHT] and (taught[0].diff() == -1).all()
    assert log_sum_study._plan(cell("sotu", EQUAL_COMPUTE))[2] == [LEFT]


# ------------------------------------------------------------------------ rows measured


@torch.no_grad()
def test_scores_of_every_single_sequence_respect_the_bounds():
    torch.manual_seed(0)
    config = TransformerConfig(
        3, 6, 16, 1, 2, attention="any-order", positions="learned"
    )
    taught = log_sum_study.order_set("sotu", 6)
    model = mixtures.OrderMixture(config, taught, learned=True).double().eval()
    nn.init.normal_(model.head.weight)
    nn.init.normal_(model.prior, std=0.5)
    names = list(SETS["sotu"])
    prior = model.prior.exp() / model.prior.exp().sum()
    for x in torch.randint(3, (20, 1, 6), generator=seeded()):
        rows = log_sum_study.scores(model, x.repeat(2, 1), names)
        found = {(row["quantity"], row["order"]): row["value"] for row in rows}
        assert len(found) == len(rows) == 3 * 4 + 2
        nll = torch.tensor([found["nll", n] for n in names], dtype=torch.float64)
        for k, order in enumerate(taught):
            assert nll[k] == pytest.approx(-orders.log_prob(model, x, order).item())
        share = [found["responsibility", name] for name in names]
        assert sum(share) == pytest.approx(1, abs=1e-9)
        mixed, average = found["mixture nll", None], found["average nll", None]
        total = (prior * (-nll).exp()).sum()
        assert mixed == pytest.approx(-total.log().item(), abs=1e-6)
        assert average == pytest.approx((prior * nll).sum().item(), abs=1e-6)
        assert nll.min() <= mixed <= (nll - prior.log()).min() + 1e-9
        assert mixed <= average
        for k, name in enumerate(names):
            assert found["prior", name] == pytest.approx(prior[k].item(), abs=1e-9)
            expected = prior[k] * math.exp(mixed - nll[k])
            assert share[k] == pytest.approx(expected.item(), abs=1e-6)


def table_of(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).assign(source="x", method="y", seed=0)


@pytest.mark.parametrize("method", ["average", "log-sum", "annealed", "learned p(o)"])
@BOTH
def test_rows_of_a_set_of_orders(source, method, small):
    rows = pd.DataFrame(log_sum_study.measure(cell(source, method)))
    names = SETS[source]
    k = len(names)
    assert sorted(rows["updates"].unique()) == list(range(2, 41, 2))
    assert (rows["sequences"] == 4 * rows["updates"]).all()
    assert rows["cpu_seconds_per_update"].nunique() == 1
    assert (rows["cpu_seconds_per_update"] > 0).all()
    each = rows["petaflops"] / rows["updates"]
    single = log_sum_study.measure(cell(source, LEFT))[0]
    assert np.allclose(each, k * single["petaflops"] / single["updates"])
    for _, point in rows.groupby("updates"):
        values = point.set_index(["quantity", "order"])["value"]
        assert values["responsibility"].sum() == pytest.approx(1, abs=1e-6)
        assert values["prior"].sum() == pytest.approx(1, abs=1e-6)
        assert set(values["nll"].index) == set(names)
        mixed, average = values["mixture nll"].item(), values["average nll"].item()
        assert mixed <= average + 1e-6
        if method != "learned p(o)":
            assert np.allclose(values["prior"], 1 / k)
            assert mixed <= values["nll"].min() + math.log(k) + 1e-6
            assert average == pytest.approx(values["nll"].mean(), abs=1e-4)
    last = rows[(rows["updates"] == 40) & (rows["quantity"] == "prior")]["value"]
    moved = (last - 1 / k).abs().max()
    assert (moved > 1e-7) == (method == "learned p(o)")


@BOTH
def test_rows_of_one_order(source, small):
    rows = pd.DataFrame(log_sum_study.measure(cell(source, RIGHT)))
    assert set(rows["order"].dropna()) == {RIGHT}
    by = rows.groupby("quantity")["value"]
    assert (by.get_group("responsibility") == 1).all()
    nll = by.get_group("nll").to_numpy()
    assert np.allclose(nll, by.get_group("mixture nll"))
    assert np.allclose(nll, by.get_group("average nll"))
    equal = pd.DataFrame(log_sum_study.measure(cell(source, EQUAL_COMPUTE)))
    k = len(SETS[source])
    assert (equal["sequences"] == 4 * k * equal["updates"]).all()
    ratio = equal["petaflops"].iloc[-1] / rows["petaflops"].iloc[-1]
    assert ratio == pytest.approx(k)


def test_a_training_can_be_repeated(small):
    def values(seed):
        rows = log_sum_study.measure(cell("either direction", "log-sum", seed))
        return [row["value"] for row in rows]

    first = values(0)
    assert values(0) == first
    assert values(1) != first


def test_no_mixture_is_better_than_the_truth(small, monkeypatch):
    """Long enough to see a leak."""
    shape = Size(32, 2, 2, length=6, batch_size=32, updates=80, windows=400)
    monkeypatch.setitem(log_sum_study.SIZES, ("either direction", "cpu"), shape)
    rows = log_sum_study.measure(cell("either direction", "log-sum"))
    joint = log_sum_study.two_directions(6)
    truth = -joint.log_prob(joint.sample(400, seeded(1)))
    mixed = [row for row in rows if row["quantity"] == "mixture nll"]
    assert mixed[-1]["value"] < mixed[0]["value"] - 0.1
    error = truth.std().item() / 20
    assert all(row["value"] > truth.mean().item() - 4 * error for row in mixed)


# ------------------------------------------------------------------------------ reading


def rows_of(runs: dict[tuple[str, int], list[dict]], source="s") -> pd.DataFrame:
    """Rows of runs {(method, seed): [point, ...]}, a point each 10 updates.

    A point gives the nll, responsibility and prior of the orders "a" and "b", and
    "mixture" and "average".
    """
    found = []
    for (method, seed), points in runs.items():
        for number, point in enumerate(points, 1):
            common = {
                "source": source,
                "method": method,
                "seed": seed,
                "updates": 10 * number,
                "sequences": 20 * number,
                "petaflops": 1e-6 * number * len(point["nll"]),
                "cpu_seconds_per_update": 0.1 * len(point["nll"]) + 0.01 * seed,
            }
            for quantity in ("nll", "responsibility", "prior"):
                for order, value in point[quantity].items():
                    row = {"quantity": quantity, "order": order, "value": value}
                    found.append(common | row)
            for name in ("mixture", "average"):
                row = {"quantity": f"{name} nll", "order": None, "value": point[name]}
                found.append(common | row)
    return pd.DataFrame(found).sample(frac=1, random_state=0, ignore_index=True)


def point(a: float, b: float, share: float, prior: float = 0.5) -> dict:
    mixed = -math.log(prior * math.exp(-a) + (1 - prior) * math.exp(-b))
    return {
        "nll": {"a": a, "b": b},
        "responsibility": {"a": share, "b": 1 - share},
        "prior": {"a": prior, "b": 1 - prior},
        "mixture": mixed,
        "average": prior * a + (1 - prior) * b,
    }


RUNS = {
    ("log-sum", 0): [point(9, 9.5, 0.6), point(5, 20, 0.995), point(4, 30, 1.0)],
    ("log-sum", 1): [point(9, 9, 0.5), point(9, 8, 0.3), point(12, 6, 0.02)],
    ("log-sum", 2): [point(9, 9, 0.991), point(8, 9, 0.9), point(5, 25, 0.999)],
    ("average", 0): [point(9, 9, 0.5), point(8, 8, 0.5), point(7, 7.5, 0.6)],
    ("average", 1): [point(9, 9, 0.5), point(8, 8, 0.5), point(7.5, 7, 0.4)],
    ("average", 2): [point(9, 9, 0.5), point(8, 8, 0.5), point(7.2, 7, 0.5)],
}
ROWS = rows_of(RUNS)


def test_paths_and_values():
    path = log_sum_study.paths(ROWS, "s", "log-sum", "a")
    assert path.index.tolist() == [10, 20, 30] and path.columns.tolist() == [0, 1, 2]
    assert path[0].tolist() == [9, 5, 4]
    best = log_sum_study.paths(ROWS, "s", "log-sum", "best order")
    assert best[1].tolist() == [9, 8, 6]
    share = log_sum_study.paths(ROWS, "s", "log-sum", "b", "responsibility")
    assert share[1].tolist() == pytest.approx([0.5, 0.7, 0.98])
    mixed = log_sum_study.paths(ROWS, "s", "log-sum", "mixture")
    assert mixed[2].tolist() == [p["mixture"] for p in RUNS["log-sum", 2]]
    last = log_sum_study.values(ROWS, "s", "average", "average")
    assert last.to_dict() == pytest.approx({0: 7.25, 1: 7.25, 2: 7.1})
    assert set(log_sum_study.final(ROWS)["updates"]) == {30}


def test_final_takes_the_end_of_every_training_for_itself():
    short = rows_of({("average", 0): RUNS["average", 0][:2]}, "t")
    last = log_sum_study.final(pd.concat([ROWS, short]))
    assert last.groupby("source")["updates"].unique().map(list).to_dict() == {
        "s": [30],
        "t": [20],
    }


def test_curves_have_t_intervals():
    curve = log_sum_study.curves(ROWS, "s", "log-sum", "best order")
    assert curve["updates"].tolist() == [10, 20, 30]
    assert curve["sequences"].tolist() == [20, 40, 60]
    assert curve["petaflops"].tolist() == pytest.approx([2e-6, 4e-6, 6e-6])
    end = stats.ttest_1samp([4, 6, 5], 0).confidence_interval()
    row = curve.iloc[-1]
    assert row["value"] == 5
    assert (row["low"], row["high"]) == pytest.approx((end.low, end.high))


def test_gap_is_paired_by_seed():
    a, b = ("average", "best order"), ("log-sum", "best order")
    found = log_sum_study.gap(ROWS, "s", a, b)
    test = stats.ttest_rel([7, 7, 7], [4, 6, 5])
    end = test.confidence_interval()
    assert found.seeds == 3 and found.mean == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((end.low, end.high))


def test_tax_of_a_collapsed_mixture_is_log_k():
    runs = {("log-sum", s): [point(4 + s, 60, 1.0)] for s in range(3)}
    found = log_sum_study.tax(rows_of(runs), "s", "log-sum")
    assert found.mean == pytest.approx(math.log(2))
    assert found.half == pytest.approx(0, abs=1e-9)


def test_winners():
    table = log_sum_study.winners(ROWS, "s")
    assert table["method"].tolist() == ["average"] * 3 + ["log-sum"] * 3
    assert table["seed"].tolist() == [0, 1, 2] * 2
    won = table[table["method"] == "log-sum"].set_index("seed")
    assert won["order"].tolist() == ["a", "b", "a"]
    assert won["responsibility"].tolist() == pytest.approx([1.0, 0.98, 0.999])
    assert won["nll"].tolist() == [4, 6, 5]
    assert won["prior"].tolist() == [0.5] * 3
    assert won["collapsed"].tolist() == [True, False, True]
    # seed 2 was above .99 once before, and came down again
    assert won["update"][0] == 20 and won["update"][2] == 30
    assert pd.isna(won["update"][1])
    assert not table[table["method"] == "average"]["collapsed"].any()
    first = rows_of({("log-sum", 0): [point(4, 60, 0.999), point(4, 60, 1.0)]})
    assert log_sum_study.winners(first, "s")["update"].tolist() == [10]


def test_winners_are_of_methods_with_several_orders_on_one_source():
    single = {key: value for key, value in RUNS.items() if key[0] == "log-sum"}
    more = pd.concat(
        [
            rows_of(single),
            rows_of({(LEFT, 0): RUNS["average", 0]}),
            rows_of({("log-sum", 7): RUNS["average", 0]}, "t"),
        ]
    )
    table = log_sum_study.winners(more, "s")
    assert table["seed"].tolist() == [0, 1, 2]


def test_recovered_compares_with_one_order_alone():
    def both(left: float, right: float, share: float) -> dict:
        made = point(left, right, share)
        for quantity in ("nll", "responsibility", "prior"):
            made[quantity] = dict(zip(SINGLE, made[quantity].values(), strict=True))
        return made

    def alone(order: str, nll: float) -> dict:
        made = {"nll": {order: nll}, "mixture": nll, "average": nll}
        return made | {"responsibility": {order: 1.0}, "prior": {order: 1.0}}

    runs = {
        ("log-sum", 0): [both(5, 5, 0.9), both(4.5, 30, 0.999)],
        ("log-sum", 1): [both(5, 5, 0.9), both(20, 4.7, 0.001)],
    }
    for seed, (left, right) in enumerate([(4.0, 4.25), (4.5, 4.75)]):
        runs[LEFT, seed] = [alone(LEFT, 9), alone(LEFT, left)]
        runs[RIGHT, seed] = [alone(RIGHT, 9), alone(RIGHT, right)]
    found = log_sum_study.recovered(rows_of(runs), "s", "log-sum")
    assert found["winner"].tolist() == pytest.approx([0.5, -0.05])
    assert found["other"].tolist() == pytest.approx([25.75, 15.5])


def test_price_of_an_update():
    alone = {"nll": {"a": 5.0}, "responsibility": {"a": 1.0}, "prior": {"a": 1.0}}
    alone |= {"mixture": 5.0, "average": 5.0}
    rows = pd.concat([ROWS, rows_of({(LEFT, s): [alone] * 3 for s in range(3)})])
    cost = log_sum_study.price(rows, "s")
    assert cost.loc["log-sum", "sequences"] == cost.loc[LEFT, "sequences"] == 2
    assert cost.loc[LEFT, "gigaflops"] == pytest.approx(0.1)
    assert cost.loc["log-sum", "gigaflops"] == pytest.approx(0.2)
    assert cost.loc["log-sum", "cpu_seconds"] == pytest.approx(0.21)


def test_bits_per_letter():
    unit = log_sum_study.SIZES["sotu", "cpu"].length * math.log(2)
    assert log_sum_study.in_bits("sotu", 2 * unit) == pytest.approx(2)
    both = log_sum_study.in_bits("sotu", pd.Series([unit, 3 * unit]))
    assert both.tolist() == pytest.approx([1, 3])
    found = log_sum_study.in_bits("sotu", Gap(unit, 0.5 * unit, 2 * unit, 5))
    assert (found.mean, found.low, found.high) == pytest.approx((1, 0.5, 2))
    assert found.seeds == 5


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("t", "log-sum", "a"), "source"),
        (("s", "annealed", "a"), "method"),
        (("s", "log-sum", "c"), "score"),
    ],
)
def test_reading_what_is_not_there(arguments, match):
    with pytest.raises(ValueError, match=match):
        log_sum_study.paths(ROWS, *arguments)


def test_the_shipped_rows_are_those_of_the_study():
    rows = log_sum_study.read()
    runs = rows.groupby(["source", "method"])["seed"].nunique()
    assert set(runs.index) == {
        (c["source"], c["method"]) for c in log_sum_study.cells()
    }
    assert set(runs) == {5}
    k = rows["source"].map({name: len(SETS[name]) for name in SOURCES})
    mixed = log_sum_study.final(rows[rows["quantity"] == "mixture nll"])
    nll = log_sum_study.final(rows[rows["quantity"] == "nll"])
    best = nll.groupby(["source", "method", "seed"])["value"].min()
    keys = pd.MultiIndex.from_frame(mixed[["source", "method", "seed"]])
    over = mixed["value"].to_numpy() - best[keys].to_numpy()
    even = (mixed["method"] != "learned p(o)").to_numpy()
    assert (over[even] <= np.log(k[mixed.index])[even] + 1e-5).all()


# -------------------------------------------------------------------------- hard tokens


def table(rows: list[tuple[int, ...]], vocab: int) -> joints.TableJoint:
    return joints.TableJoint(torch.tensor(rows), None, vocab)


def test_hard_tokens_by_hand():
    bits = list(itertools.product(range(2), repeat=3))
    parity = table([(*row, sum(row) % 2) for row in bits], 2)
    copies = table([(a, b, a, b) for a, b in itertools.product(range(2), repeat=2)], 2)
    fixed = table([(0, a, 1) for a in range(2)], 2)
    for order in orders.all_orders(4):
        found = [log_sum_study.hard_tokens(parity, order, few) for few in range(4)]
        assert found == [1, 1, 1, 0]  # the last token is the sum of the three others
        found = [log_sum_study.hard_tokens(copies, order, few) for few in range(3)]
        assert found == [2, 0, 0]
    assert log_sum_study.hard_tokens(fixed, orders.left_to_right(3), 0) == 0


@pytest.mark.parametrize("seed", range(3))
def test_hard_tokens_of_a_one_way_source(seed):
    joint = mixtures.one_way(4, 3, seeded(seed))
    assert log_sum_study.hard_tokens(joint, orders.left_to_right(8)) == 0
    order = orders.right_to_left(8).tolist()
    hard = 0
    for n, place in enumerate(order):

        def known(given, place=place):
            return joint.entropy([place], list(given)) < 1e-9

        few = itertools.chain.from_iterable(
            itertools.combinations(order[:n], k) for k in range(3)
        )
        hard += known(order[:n]) and not any(known(given) for given in few)
    assert log_sum_study.hard_tokens(joint, orders.right_to_left(8)) == hard


def test_hard_tokens_check_the_order():
    joint = mixtures.one_way(3, 3, seeded())
    with pytest.raises(ValueError, match="order"):
        log_sum_study.hard_tokens(joint, torch.zeros(6, dtype=torch.long))


def test_levels_of_a_limited_mixture():
    """A denoiser that knows pairs only, on a sequence in either direction."""
    length = 8
    one = mixtures.one_way(4, 3, seeded(3))
    entropy = log_sum_study.two_directions(length).entropy()
    hard = log_sum_study.hard_tokens(one, orders.right_to_left(length))
    assert hard > 0
    assert log_sum_study.limited_level(length, 0.0) == pytest.approx(entropy)
    levels = [log_sum_study.limited_level(length, w) for w in (0.5, 1.0)]
    lost = [level - entropy for level in levels]
    assert lost == pytest.approx([hard * math.log(3) / 2, hard * math.log(3)])


def test_the_losses_that_are_compared_are_those_of_the_book():
    """On given probabilities, :mod:`losses` and the study's loss agree."""
    found = log_sum_study.method_loss("log-sum", 10)(Given(LOG_P), X, seeded())
    assert found.item() == pytest.approx(losses.log_sum_loss(LOG_P).loss.mean() / 4)
