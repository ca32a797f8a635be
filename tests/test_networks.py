"""The Transformer: who may look at whom, what it depends on, what it refuses."""

from __future__ import annotations

import pytest
import torch

from dllm_tutorial import losses, networks
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


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size"),
        ({"length": 2.5}, TypeError, "length"),
        ({"n_heads": 3}, ValueError, "d_model"),
        ({"d_model": 6}, ValueError, "rotary"),
        ({"attention": "sideways"}, ValueError, "attention"),
        ({"positions": "none"}, ValueError, "positions"),
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
