"""The study of orders: its sources, its scores against exact models, its rows.

The exact model of a chain has an excess of zero in any order; a uniform model has one
that a pencil finds. Trainings are tiny.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import pytest
import torch
from torch import Generator, Tensor, nn

from dllm_tutorial import joints, losses, order_study, orders, text
from dllm_tutorial.grid import Cell
from dllm_tutorial.order_study import DIFFUSION, ORDERS, Size

CHAIN = "order 2, 3 symbols, 12 tokens"
ORDERED = [name for name in ORDERS if name not in DIFFUSION]
SMALL = Size(16, 1, 2, length=8, batch_size=4, updates=20, windows=24)
BOTH = pytest.mark.parametrize("size", ["cpu", "gpu"])


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


class Known(nn.Module):
    """A denoiser without anything to learn, in the clothes of a network."""

    any_order = False

    def __init__(self, denoiser, vocab_size: int) -> None:
        super().__init__()
        self.denoiser, self.mask_id = denoiser, vocab_size
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.denoiser(x)


def uniform(vocab_size: int) -> Known:
    return Known(lambda x: torch.zeros(*x.shape, vocab_size).double(), vocab_size)


@pytest.fixture
def small(monkeypatch):
    """All sizes are small, and the letters of a text come from a small chain."""
    chains = {
        key: (order, vocab, dataclasses.replace(SMALL))
        for key, (order, vocab, _) in order_study.CHAINS.items()
    }
    monkeypatch.setattr(order_study, "CHAINS", chains)
    monkeypatch.setattr(order_study, "SIZES", {"cpu": SMALL, "gpu": SMALL})
    monkeypatch.setattr(order_study, "SCORED", 12)

    def letters(corpus: str, part: str) -> Tensor:
        rows = source(50).sample(8, seeded(len(part)))
        return rows.flatten()

    monkeypatch.setattr(text, "letters", letters)
    order_study._corpus.cache_clear()
    yield
    order_study._corpus.cache_clear()


def source(length: int, vocab: int = 3) -> joints.MarkovChain:
    p = torch.rand(vocab, vocab, generator=seeded(3), dtype=torch.float64) ** 3
    return joints.MarkovChain(p / p.sum(1, keepdim=True), length)


def chain_log_prob(chain: joints.MarkovChain, x: Tensor) -> Tensor:
    """Word by word, from the table of the chain."""
    m, v = chain.order, chain.vocab_size
    start, follow = chain.initial.view([v] * m), chain.transition.view([v] * (m + 1))
    total = []
    for row in x.tolist():
        p = start[tuple(row[:m])].log()
        for i in range(m, len(row)):
            p = p + follow[tuple(row[i - m : i + 1])].log()
        total.append(p.item())
    return torch.tensor(total, dtype=torch.float64)


# ------------------------------------------------------------------ orders and networks


def test_orders_by_name():
    def draw(name):
        found = order_study.draw_orders(name, 9)(200, seeded(1))
        return orders.check_orders(found, 9)

    assert (draw("left-to-right") == torch.arange(9)).all()
    assert (draw("right-to-left") == torch.arange(8, -1, -1)).all()
    fixed = draw("fixed random")
    assert (fixed == fixed[0]).all()
    assert torch.equal(fixed, order_study.draw_orders("fixed random", 9)(200, None))
    assert (fixed[0].diff().abs() != 1).any()
    for name, block in (("block 4", 4), ("block 16", 16), ("block 1", 1)):
        found = draw(name)
        assert ((found // block).diff() >= 0).all()
        assert len(found.unique(dim=0)) == (1 if block == 1 else 200) or block == 4
    assert len(draw("block 4").unique(dim=0)) > 100  # of 24 * 24
    assert len(draw("uniform random").unique(dim=0)) == 200
    for name in ("diffusion", "blocks", "random"):
        with pytest.raises(ValueError, match="name"):
            order_study.draw_orders(name, 9)
    with pytest.raises(ValueError, match="block"):
        order_study.draw_orders("block 0", 9)(2, None)


def test_all_orders_start_from_the_same_network():
    one = order_study.network("left-to-right", 4, SMALL, 0).state_dict()
    for name in ORDERED[1:]:
        model = order_study.network(name, 4, SMALL, 0)
        assert model.any_order
        other = model.state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one)
    again = order_study.network("left-to-right", 4, SMALL, 1)
    assert not torch.equal(again.head.weight, one["head.weight"])
    for name in DIFFUSION:
        model = order_study.network(name, 4, SMALL, 0)
        assert model.config.attention == "bidirectional"
        for key, value in model.state_dict().items():
            assert value.shape == one[key].shape


@torch.no_grad()
def test_the_loss_is_that_of_the_named_order():
    model = order_study.network("left-to-right", 3, SMALL, 0).double().eval()
    nn.init.normal_(model.head.weight)
    x = source(8).sample(5, seeded())
    for name in ("left-to-right", "right-to-left", "fixed random"):
        order = order_study.draw_orders(name, 8)(1, None)[0]
        total = 0.0
        for row in x:
            p = model.in_order(row[None], order)[0].softmax(-1)
            total -= sum(math.log(p[n, row[i]]) for n, i in enumerate(order.tolist()))
        got = order_study.order_loss(name, 8)(model, x, seeded())
        assert got.item() == pytest.approx(total / 40, abs=1e-12)


@pytest.mark.parametrize("name", ORDERED)
def test_the_truth_has_the_same_loss_in_any_order(name):
    chain = source(8)
    x = chain.sample(6, seeded())
    got = order_study.order_loss(name, 8)(Known(chain, 3), x, seeded(1))
    expected = -chain_log_prob(chain, x).mean().item() / 8
    assert got.item() == pytest.approx(expected, abs=1e-10)


def test_the_price_of_an_update():
    """Six for each weight of a matrix and token; products of attention come on top."""
    d, length, vocab = SMALL.d_model, SMALL.length, 4
    tokens = SMALL.batch_size * length
    matrices = 6 * tokens * (12 * d * d * SMALL.n_layers + d * vocab)
    attention = 6 * tokens * 2 * length * d * SMALL.n_layers
    found = {
        order_study.flops(order_study.network(name, vocab, SMALL, 0), SMALL)
        for name in ORDERS
    }
    assert len(found) == 1
    assert matrices <= found.pop() <= matrices + attention


# ------------------------------------------------------------------------------ corpora


@pytest.mark.parametrize(("size", "name"), order_study.CHAINS)
def test_a_chain_is_what_its_name_says(size, name):
    chain = order_study.chain(name, size)
    numbers = [int(n) for n in re.findall(r"\d+", name)]
    assert [chain.order, chain.vocab_size, chain.length] == numbers
    again = order_study.chain(name, size)
    assert torch.equal(chain.transition, again.transition)
    assert chain.length == order_study.CHAINS[size, name][2].length
    # stationary: the law of the first tokens is that of the last ones
    v, m = chain.vocab_size, chain.order
    joint = chain.initial.view([v] * m)[..., None] * chain.transition.view(
        [v] * m + [v]
    )
    assert torch.allclose(joint.sum(0).flatten(), chain.initial, atol=1e-12)


@pytest.mark.parametrize("name", ORDERS)
def test_the_exact_model_has_no_excess_and_a_uniform_one_that_of_a_pencil(name, small):
    corpus = order_study._chain_corpus(CHAIN, "cpu")
    chain = order_study.chain(CHAIN)
    mean, error = corpus.evaluate(Known(chain, 3), name, 0)
    assert mean == pytest.approx(0, abs=1e-10) and error < 1e-10
    mean, error = corpus.evaluate(uniform(3), name, 0)
    expected = math.log(3) - chain.entropy() / 8
    assert abs(mean - expected) < 4 * error < 1
    if name in ORDERED:  # on these very sequences
        x = chain.sample(SMALL.windows, seeded(1))
        each = math.log(3) + chain_log_prob(chain, x) / 8
        assert mean == pytest.approx(each.mean().item(), abs=1e-10)
        assert error == pytest.approx(each.std().item() / 24**0.5, abs=1e-10)


def test_batches_of_a_chain_follow_it(small):
    corpus = order_study._chain_corpus(CHAIN, "cpu")
    chain, x = order_study.chain(CHAIN), corpus.draw(4000, seeded())
    each = -chain_log_prob(chain, x)
    error = each.std() / len(x) ** 0.5
    assert abs(each.mean() - chain.entropy()) < 4 * error  # z test at level 1e-4
    assert corpus.vocab_size == 3


def test_held_out_windows_are_spread_over_the_text(monkeypatch):
    monkeypatch.setattr(text, "letters", lambda corpus, part: torch.arange(1000))
    x = order_study.held_out("sotu", SMALL)
    assert x.shape == (24, 8)
    assert (x.diff() == 1).all()
    assert (x[:, 0] % 8 == 0).all()  # windows do not overlap
    assert x[0, 0] == 0 and x[-1, -1] == 999
    steps = x[:, 0].diff() // 8
    assert set(steps.tolist()) == {5, 6}  # 125 windows, 24 of them


# ------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("name", ORDERS)
def test_bits_of_the_truth_and_of_ignorance(name):
    chain = source(8)
    x = chain.sample(60, seeded())
    truth = -chain_log_prob(chain, x) / 8 / math.log(2)
    got = order_study.bits(Known(chain, 3), x, name)
    if name in ORDERED:
        assert torch.allclose(got, truth, atol=1e-10)
    else:  # a NELBO from a few draws
        gap = got - truth
        assert abs(gap.mean()) < 4 * gap.std() / len(x) ** 0.5 < 0.1
    assert torch.equal(got, order_study.bits(Known(chain, 3), x, name))
    blind = order_study.bits(uniform(3), x, name)
    assert torch.allclose(blind, torch.tensor(math.log2(3)).double())


def by_name(rows: list[dict]) -> dict[str, dict]:
    assert len({row["score"] for row in rows}) == len(rows)
    return {row["score"]: row for row in rows}


@pytest.mark.parametrize("name", ["uniform random", *DIFFUSION])
def test_under_the_truth_all_final_scores_agree(name):
    chain = source(6)
    x = chain.sample(40, seeded())
    rows = by_name(order_study.final_scores(Known(chain, 3), name, x))
    each = -chain_log_prob(chain, x) / 6 / math.log(2)
    nelbo = rows.pop("NELBO")
    for row in rows.values():
        assert row["value"] == pytest.approx(each.mean().item(), abs=1e-10)
        error = each.std().item() / 40**0.5
        assert row["standard_error"] == pytest.approx(error, abs=1e-10)
        assert row["sequences"] == 40
    assert set(rows) == {
        *ORDERED,
        "confidence",
        *(f"mixture of {k}" for k in order_study.MIXED),
    }
    error = nelbo["standard_error"] + error
    assert abs(nelbo["value"] - each.mean()) < 4 * error < 1


@pytest.mark.parametrize("name", ["uniform random", "diffusion, learned positions"])
def test_final_scores_of_a_network(name):
    size = dataclasses.replace(SMALL, length=5)
    model = order_study.network(name, 3, size, 0).double().eval()
    nn.init.normal_(model.head.weight)
    x = source(5).sample(20, seeded())
    rows = by_name(order_study.final_scores(model, name, x))
    mixtures = [rows[f"mixture of {k}"]["value"] for k in (1, 2, 4, 8, 16, 32)]
    assert all(a > b for a, b in itertools.pairwise(mixtures))

    every = orders.log_probs(model, x, orders.all_orders(5)).detach()
    scale = 5 * math.log(2)
    # the mean of 32 orders a window: the mean over all orders, but for noise
    error = (every.var(0).mean() / 32 / len(x)).sqrt().item() / scale
    mean = -every.mean().item() / scale
    assert abs(mixtures[0] - mean) < 4 * error
    # a mixture of few is a bound on the mixture of all
    all_of_them = -(every.logsumexp(0) - math.log(120)).mean().item() / scale
    assert mixtures[-1] > all_of_them - 4 * error
    exact = losses.exact_nelbo(model, x) / scale
    nelbo = rows["NELBO"]
    assert abs(nelbo["value"] - exact.mean()) < 4 * nelbo["standard_error"]
    if name == "diffusion, learned positions":
        assert mean == pytest.approx(exact.mean().item(), abs=1e-10)
    assert order_study.final_scores(model, name, x) == list(rows.values())


def test_final_scores_are_for_models_of_all_orders():
    model = order_study.network("left-to-right", 3, SMALL, 0)
    x = source(8).sample(4, seeded())
    for name in set(ORDERED) - {"uniform random"}:
        assert order_study.final_scores(model, name, x) == []


def test_final_scores_take_windows_from_all_of_the_text(monkeypatch):
    monkeypatch.setattr(order_study, "SCORED", 6)
    monkeypatch.setattr(order_study, "MIXED", (1,))
    seen = []

    def watch(x):
        seen.append(x)
        return torch.zeros(*x.shape, 20).double()

    x = torch.arange(20)[:, None].repeat(1, 4)
    rows = order_study.final_scores(Known(watch, 20), "uniform random", x)
    assert {row["sequences"] for row in rows} == {6}
    shown = torch.cat([s.flatten() for s in seen]).unique()
    assert shown.tolist() == [0, 3, 6, 9, 12, 15, 20]  # 20 is the mask


# ---------------------------------------------------------------------------- measuring


@BOTH
def test_cells_are_distinct_and_can_be_measured(size):
    cells = order_study.cells(size)
    assert len(set(cells)) == len(cells)
    assert {cell["size"] for cell in cells} == {size}
    corpora = {name for where, name in order_study.CHAINS if where == size}
    assert {cell["corpus"] for cell in cells} == {*corpora, *order_study.TEXTS}
    seeds: dict[tuple, set] = {}
    for cell in cells:
        assert cell["order"] in ORDERS and order_study._cost(cell) > 0
        seeds.setdefault((cell["corpus"], cell["order"]), set()).add(cell["seed"])
    for (corpus, _), found in seeds.items():
        assert found == set(range(3 if corpus in order_study.TEXTS else 5))
    for corpus in corpora:  # the orders that the text compares are all there
        assert {"left-to-right", "right-to-left", "fixed random", "uniform random"} <= {
            order for where, order in seeds if where == corpus
        }


def cell(corpus: str, order: str, seed: int = 0) -> Cell:
    return Cell({"corpus": corpus, "order": order, "seed": seed, "size": "cpu"})


@pytest.mark.parametrize("name", ["right-to-left", "uniform random", "diffusion"])
def test_rows_of_a_chain(name, small):
    rows = order_study.measure(cell(CHAIN, name))
    each = 2 if name == "right-to-left" else 6  # three times as many for all orders
    assert [row["updates"] for row in rows] == [each * n for n in range(1, 11)]
    # 4 sequences of 8 tokens; of them a diffusion batch masks 4.5 on average
    tokens = 18 if name == "diffusion" else 32
    for row in rows:
        assert row["score"] == "own" and row["sequences"] == 24
        assert row["supervised_tokens"] == tokens * row["updates"]
        each = row["petaflops"] / row["updates"]
        assert each == pytest.approx(rows[0]["petaflops"] / rows[0]["updates"])
        # no worse than not to know anything at all, no better than the truth
        ignorance = math.log(3) - order_study.chain(CHAIN).entropy() / 8
        assert 0 < row["value"] < 1.5 * ignorance
        assert row["standard_error"] > 0
    model = order_study.network(name, 3, SMALL, 0)
    assert {row["parameters"] for row in rows} == {model.n_parameters()}
    assert order_study.measure(cell(CHAIN, name)) == rows
    assert order_study.measure(cell(CHAIN, name, 1))[-1]["value"] != rows[-1]["value"]


@pytest.mark.parametrize("name", ["left-to-right", "uniform random", "diffusion"])
def test_rows_of_a_text(name, small):
    rows = order_study.measure(cell("bible", name))
    curve = [row for row in rows if row["score"] == "own"]
    updates = 40 if name == "diffusion" else 20
    assert [row["updates"] for row in curve] == [
        updates // 10 * n for n in range(1, 11)
    ]
    others = by_name(rows[10:])
    if name == "left-to-right":
        assert not others
        return
    assert all("updates" not in row for row in others.values())
    assert {row["sequences"] for row in others.values()} == {12}
    assert {row["parameters"] for row in rows} == {rows[0]["parameters"]}
    assert others["mixture of 32"]["value"] < others["mixture of 1"]["value"]
    assert order_study.measure(cell("bible", name)) == rows


@pytest.mark.parametrize("name", ["left-to-right", "uniform random", "diffusion"])
def test_a_curve_comes_down_and_never_below_the_truth(name, small, monkeypatch):
    """Long enough to see a leak, too short to learn everything."""
    shape = Size(32, 2, 2, length=6, batch_size=32, updates=60, windows=400)
    key = "cpu", "order 1, 8 symbols, 16 tokens"
    monkeypatch.setitem(order_study.CHAINS, key, (1, 8, shape))
    rows = order_study.measure(cell(key[1], name))
    first, last = rows[0], rows[-1]
    assert last["value"] < first["value"] - 0.1
    assert last["value"] > -4 * last["standard_error"]


def test_batches_depend_on_the_step_alone():
    """Not on noise that was drawn before: all networks of a seed read the same."""
    batches = []
    for used in (0, 3):
        generator = seeded(5)
        torch.rand(used, generator=generator)
        batches.append(order_study._apart(source(8).sample)(4, generator))
    assert torch.equal(*batches)
    assert not torch.equal(
        order_study._apart(source(8).sample)(4, seeded(6)), batches[0]
    )


def test_longer_trainings_are_longer(small):
    cells = order_study.longer_cells()
    usual = order_study.n_updates(cell(CHAIN, "diffusion"))
    assert {c["budget"] for c in cells} == {3 * usual}
    assert {(c["order"], c["seed"]) for c in cells} == {
        (name, seed)
        for name in ("uniform random", "diffusion")
        for seed in order_study.CHAIN_SEEDS
    }
    short = order_study.measure(cell(CHAIN, cells[0]["order"], cells[0]["seed"]))
    rows = order_study.measure(cells[0])
    assert [r["updates"] for r in rows] == [3 * r["updates"] for r in short]
    assert {r["parameters"] for r in rows} == {short[0]["parameters"]}


def test_variants_differ_in_one_thing_from_the_longer_trainings(small):
    cells = order_study.variant_cells()
    longer = order_study.longer_cells()
    changes = set()
    for c in cells:
        base = next(
            b
            for b in longer
            if b["seed"] == c["seed"]
            and (b["order"] == "diffusion") == (c["order"] in DIFFUSION)
        )
        changed = {key: v for key, v in c.items() if base.get(key) != v}
        assert len(changed) == 1
        changes |= set(changed.items())
    assert changes == {
        ("order", DIFFUSION[1]),
        ("d_model", 2 * SMALL.d_model),
        ("n_layers", 2 * SMALL.n_layers),
    }
    assert len(cells) == 3 * len(order_study.CHAIN_SEEDS)
    (usual,) = {
        row["parameters"]
        for row in order_study.measure(cell(CHAIN, "uniform random", 0))
    }
    wide = next(c for c in cells if "d_model" in c)
    rows = order_study.measure(wide)
    assert rows[0]["parameters"] > 2 * usual
    assert rows[-1]["updates"] == wide["budget"]


def test_a_network_of_swapped_orders_has_one_order_for_each_seed(small):
    found = {
        tuple(order_study.draw_orders("swaps 3", 9, seed)(4, None)[0].tolist())
        for seed in range(6)
    }
    assert len(found) > 4
    none = order_study.draw_orders("swaps 0", 9, 5)(2, None)
    assert torch.equal(none, orders.left_to_right(9).expand(2, -1))
    cells = order_study.swap_cells()
    assert len(cells) == 8 * len(order_study.SWAPS)
    # the network is scored in the order that it was taught
    chosen = next(c for c in cells if c["seed"] == 2)
    told = orders.swap_order(8, int(chosen["order"].split()[1]), seeded(2))
    corpus = order_study._corpus(chosen["corpus"], "cpu")
    model = order_study.network(chosen["order"], 4, SMALL, 0).eval()
    nn.init.normal_(model.head.weight)
    value, _ = corpus.evaluate(model, chosen["order"], 2)
    chain = order_study.chain(chosen["corpus"])
    x = chain.sample(SMALL.windows, seeded(1))
    with torch.no_grad():
        each = chain.log_prob(x) - orders.log_prob(model, x, told).double()
    assert value == pytest.approx(each.mean().item() / 8, abs=1e-9)


def test_an_unknown_study_of_orders_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        order_study.main(["order_walk", "--out", str(tmp_path)])
