"""The Transformer: who may look at whom, what it depends on, what it refuses."""

from __future__ import annotations

import pytest
import torch

from dllm_tutorial import losses, networks, orders
from dllm_tutorial.networks import Transformer, TransformerConfig
from helpers import all_sequences


def small(seed: int = 0, **options) -> Transformer:
    """A network in float64 whose weights are large enough to matter."""
    settings = {"vocab_size": 5, "length": 9, "d_model": 16, "n_layers": 2}
    torch.manual_seed(seed)
    config = TransformerConfig(**{**settings, "n_heads": 2, **options})
    model = Transformer(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def influence(model: Transformer, length: int) -> torch.Tensor:
    """Bool[L, L]: entry (i, j) says whether logits at i move when token j changes."""
    x = torch.arange(length).remainder(5).repeat(length, 1)
    changed = x.clone()
    changed[range(length), range(length)] = (x.diagonal() + 1) % 5
    gap = (model(changed) - model(x)).abs().amax(-1)  # [j, i]
    return gap.T > 0


@pytest.mark.parametrize("positions", networks.POSITIONS)
def test_causal_sees_strictly_earlier_tokens_and_nothing_else(positions):
    model = small(attention="causal", positions=positions)
    expected = torch.ones(9, 9).tril(-1).bool()
    assert torch.equal(influence(model, 9), expected)


@pytest.mark.parametrize("positions", networks.POSITIONS)
def test_bidirectional_sees_everything(positions):
    assert influence(small(positions=positions), 9).all()


@pytest.mark.parametrize("positions", networks.POSITIONS)
def test_causal_chain_rule_sums_to_one(positions):
    model = small(vocab_size=3, length=5, attention="causal", positions=positions)
    log_p = -losses.ar_loss(model, all_sequences(3, 5))
    assert log_p.logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)
    assert log_p.std() > 0.1  # not the uniform law, for which it would be trivial


def test_first_causal_prediction_is_the_same_for_all_inputs():
    model = small(attention="causal")
    x = torch.randint(5, (20, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x)[:, 0], model(x[:1])[:, 0].expand(20, -1))


def test_rotary_product_depends_on_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    cos, sin = networks.rotary_angles(torch.arange(40), 8)
    q, k = (networks.rotate(v.expand(40, 8), cos, sin) for v in (q, k))
    product = q @ k.T  # [i, j]
    for distance in range(-10, 11):
        diagonal = product.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-12
    assert product.std() > 0.1
    # rotation keeps lengths
    assert torch.allclose(q.norm(dim=-1), q[0].norm())


def test_rotation_is_complex_multiplication():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    positions = torch.arange(7)
    turned = networks.rotate(x, *networks.rotary_angles(positions, 6))
    frequency = networks.ROTARY_BASE ** (-torch.arange(3, dtype=torch.float64) / 3)
    phase = torch.polar(torch.ones(7, 3).double(), positions[:, None] * frequency)
    expected = torch.complex(x[:, :3], x[:, 3:]) * phase
    assert (turned - torch.cat((expected.real, expected.imag), -1)).abs().max() < 1e-12


@pytest.mark.parametrize(("positions", "blind"), [("rotary", True), ("learned", False)])
def test_learned_positions_are_absolute_and_rotary_ones_are_not(positions, blind):
    """All tokens alike: only absolute positions can tell the places apart."""
    model = small(positions=positions)
    logits = model(torch.full((1, 9), 2))
    assert ((logits - logits[:, :1]).abs().max().item() < 1e-12) == blind


def test_shapes_types_and_batches():
    model = small()
    for length in (1, 4, 9):
        x = torch.randint(6, (3, length), generator=torch.Generator().manual_seed(1))
        logits = model(x)
        assert logits.shape == (3, length, 5)
        assert logits.dtype == torch.float64
        for row in range(3):
            alone = model(x[row : row + 1])
            assert torch.allclose(logits[row], alone[0], atol=1e-12)
    assert model.float()(x).dtype == torch.float32
    assert model.mask_id == 5
    assert model(torch.empty(0, 4, dtype=torch.long)).shape == (0, 4, 5)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = small()
    x = torch.randint(6, (3, 9), generator=torch.Generator().manual_seed(1))
    expected = model(x)
    logits = model.cuda()(x.cuda())
    assert logits.device.type == "cuda"
    assert torch.allclose(logits.cpu(), expected, atol=1e-10)


def test_the_twins_have_the_same_parameters():
    one, two = small(), small(attention="causal")
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (one, two)]
    assert shapes[0] == shapes[1]
    d, v, layers = 16, 5, 2
    block = 12 * d * d + (3 + 4 + 1) * d + 4 * d  # matrices, biases, two norms
    assert one.n_parameters() == layers * block + (v + 1) * d + v * d + 2 * d


def test_initial_predictions_are_nearly_uniform_at_any_depth():
    for layers in (1, 8):
        torch.manual_seed(0)
        model = Transformer(TransformerConfig(50, 16, 64, layers, 4))
        x = torch.randint(50, (8, 16), generator=torch.Generator().manual_seed(0))
        log_p = model(x).log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        assert entropy.min() > 0.99 * torch.log(torch.tensor(50.0))


def test_dropout_acts_in_training_only():
    model = small(dropout=0.5)
    x = torch.zeros(1, 4, dtype=torch.long)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


# ------------------------------------------------------------------------- any order


def any_order(seed: int = 0, **options) -> Transformer:
    return small(seed, attention="any-order", positions="learned", **options)


def draw(high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


ORDERS = torch.stack(
    [
        orders.left_to_right(9),
        orders.right_to_left(9),
        orders.bit_reversed(9),
        *orders.random_orders(9, 3, torch.Generator().manual_seed(0)),
    ]
)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: str(order.tolist()))
def test_a_step_sees_the_tokens_before_it_in_the_order_and_nothing_else(order):
    model, x = any_order(), draw(5, 1, 9).repeat(9, 1)
    changed = x.clone()
    step = torch.arange(9)
    changed[step, order] = (x[step, order] + 1) % 5  # row m: the token of step m
    gap = (model.in_order(changed, order) - model.in_order(x, order)).abs().amax(-1)
    assert torch.equal(gap.T > 0, torch.ones(9, 9).tril(-1).bool())


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: str(order.tolist()))
def test_a_step_knows_the_order_up_to_itself(order):
    model, x = any_order(), draw(5, 1, 9)
    logits = model.in_order(x, order)
    for n in range(8):
        other = torch.cat((order[:n], order[n:].flip(0)))  # another position at n
        again = model.in_order(x, other)
        assert torch.equal(again[:, :n], logits[:, :n])
        assert not torch.equal(again[:, n], logits[:, n])


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: str(order.tolist()))
def test_no_gradient_comes_from_later_steps(order):
    """Each token stands in one place, so that rows of the tables tell who is read."""
    model = any_order(vocab_size=9)
    x = orders.random_order(9, torch.Generator().manual_seed(1))
    logits = model.in_order(x[None], order)
    tables = [model.embed.weight, model.place.weight, model.source.weight]
    for n in range(9):
        value = logits[0, n].square().sum()
        grads = torch.autograd.grad(value, tables, retain_graph=True)
        read = [set(g.abs().sum(1).nonzero()[:, 0].tolist()) for g in grads]
        before = order[:n].tolist()
        assert read[0] == {x[i].item() for i in before} | {model.mask_id}
        assert read[1] == set(order[: n + 1].tolist())
        assert read[2] == {*before, 9}  # 9 is the place of the start


def test_from_left_to_right_it_is_the_causal_network():
    one, twin = any_order(), small(attention="causal", positions="learned")
    weights = one.state_dict()
    source = weights.pop("source.weight")
    weights["place.weight"] = weights["place.weight"] + source.roll(1, 0)[:9]
    twin.load_state_dict(weights)
    x = draw(5, 20, 9)
    logits = one.in_order(x, orders.left_to_right(9))
    assert logits.std(0).max() > 0.1
    assert torch.allclose(logits, twin(x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_masked_position_is_the_step_after_the_revealed_ones():
    """For every set of revealed positions and every masked one."""
    model, length = any_order(), 5  # shorter than the network allows
    x = draw(5, 3, length)
    for code in range(2**length - 1):
        revealed = [i for i in range(length) if code >> i & 1]
        masked = [i for i in range(length) if i not in revealed]
        state = x.clone()
        state[:, masked] = model.mask_id
        logits = model(state)
        for i in masked:
            rest = [j for j in masked if j != i]
            row = model.in_order(x, torch.tensor([*revealed, i, *rest]))
            expected = row[:, len(revealed)]
            assert torch.allclose(logits[:, i], expected, rtol=0, atol=1e-12)


def test_any_order_rows_do_not_depend_on_their_batch():
    model, x = any_order(), draw(5, 6, 9)
    logits = model.in_order(x, ORDERS)
    states = x.masked_fill(draw(2, 6, 9).bool(), model.mask_id)  # some more, some less
    filled = model(states)
    for row in range(6):
        alone = slice(row, row + 1)
        pairs = [
            (logits[alone], model.in_order(x[alone], ORDERS[alone])),
            (logits[alone], model.in_order(x[alone], ORDERS[row])),
            (filled[alone], model(states[alone])),
        ]
        for one, two in pairs:
            assert one.shape == two.shape == (1, 9, 5)
            assert torch.allclose(one, two, rtol=0, atol=1e-12)
    assert model.in_order(x[:0], ORDERS[0]).shape == (0, 9, 5)


@pytest.mark.parametrize("attention", networks.ATTENTION)
def test_only_an_any_order_network_is_asked_for_an_order(attention):
    model = small(attention=attention, positions="learned")
    assert model.any_order == (attention == "any-order")
    if not model.any_order:
        with pytest.raises(TypeError, match=attention):
            model.in_order(draw(5, 1, 9), ORDERS[0])


# --------------------------------------------------------------------------- manners


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size"),
        ({"length": 2.5}, TypeError, "length"),
        ({"n_heads": 3}, ValueError, "d_model"),
        ({"d_model": 6}, ValueError, "rotary"),
        ({"attention": "sideways"}, ValueError, "attention"),
        ({"positions": "none"}, ValueError, "positions"),
        ({"attention": "any-order"}, ValueError, "positions must be 'learned'"),
        ({"dropout": 1.0}, ValueError, "dropout"),
    ],
)
def test_bad_configurations_are_refused(options, error, name):
    with pytest.raises(error, match=name):
        small(**options)


def test_bad_inputs_are_refused():
    model = small()
    with pytest.raises(ValueError, match="at most 9"):
        model(torch.zeros(1, 10, dtype=torch.long))
    with pytest.raises(TypeError, match="Long"):
        model(torch.zeros(1, 4))
    with pytest.raises(TypeError, match="Long"):
        model(torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="at most 9"):
        any_order().in_order(torch.zeros(1, 10, dtype=torch.long), torch.arange(10))
