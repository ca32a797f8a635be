"""Low-rank adaptation against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from dllm_tutorial import lora, training
from dllm_tutorial.networks import Transformer, TransformerConfig

X = torch.arange(12).reshape(2, 6) % 5


def tiny() -> Transformer:
    torch.manual_seed(3)
    return Transformer(TransformerConfig(5, 6, 8, 2, 2)).eval()


def adapted(seed: int = 0) -> Transformer:
    return lora.adapt(tiny(), 2, Generator().manual_seed(seed))


def test_nothing_changes_before_the_first_update():
    assert torch.equal(adapted()(X), tiny()(X))


def test_the_weight_is_the_old_one_plus_a_product_of_low_rank():
    model, old = adapted(), tiny().state_dict()
    factors = lora.adapters(model.state_dict())
    assert len(factors) == 2 * 2 * 4  # two factors, two blocks, four linear maps
    draw = Generator().manual_seed(1)
    new = {k: torch.randn(v.shape, generator=draw) for k, v in factors.items()}
    model.load_state_dict(new, strict=False)
    plain = tiny()
    for key in old:
        name = key.removesuffix("weight") + "parametrizations.weight.0."
        if name + "a" in new:
            old[key] = old[key] + new[name + "b"] @ new[name + "a"]
    plain.load_state_dict(old)
    torch.testing.assert_close(model(X), plain(X))
    merged = lora.merge(model)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(merged(X), model(X))
    torch.testing.assert_close(merged(X), plain(X))


def test_training_moves_the_factors_alone():
    model = adapted()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = training.TrainingConfig(5, 4, 1e-2, ema=0.0)
    rows = torch.arange(6).expand(8, 6) % 5
    for _ in training.train(model, training.random_rows(rows), config):
        pass
    after = model.state_dict()
    factors = lora.adapters(after)
    assert all(not torch.equal(after[k], before[k]) for k in factors)
    assert all(torch.equal(after[k], before[k]) for k in set(after) - set(factors))


def test_training_resumes_in_the_same_place(tmp_path):
    rows = training.random_rows(torch.arange(6).expand(8, 6) % 5)
    config = training.TrainingConfig(6, 4, 1e-2)
    whole, broken = adapted(), adapted()
    list(training.train(whole, rows, config))
    options = {"checkpoint": tmp_path, "checkpoint_every": 3}
    for record in training.train(broken, rows, config, **options):
        if record.step == 4:  # of which the fourth is lost
            break
    again = adapted(seed=9)  # what it starts from is in the checkpoint
    list(training.train(again, rows, config, **options))
    assert torch.equal(again(X), whole(X))


@pytest.mark.parametrize(("rank", "error"), [(0, ValueError), (1.5, TypeError)])
def test_bad_ranks_are_refused(rank, error):
    with pytest.raises(error, match="rank"):
        lora.adapt(tiny(), rank, Generator())


def test_adapting_twice_is_refused():
    with pytest.raises(ValueError, match="adapted already"):
        lora.adapt(adapted(), 2, Generator())


def test_a_plain_network_has_nothing_to_merge():
    with pytest.raises(ValueError, match="model must be adapted"):
        lora.merge(tiny())
