"""What no function of the core takes: every such input, for all functions at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dllm_tutorial import (
    exact,
    joints,
    losses,
    masking,
    neighborhood,
    order_search,
    orders,
    upper_bound,
)
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.denoiser import FunctionDenoiser, NoisyDenoiser
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.schedules import Linear

V, L = 4, 4  # tokens and positions; V is the mask
CLEAN = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]])
L2R = orders.left_to_right(L)
EVERY = orders.all_orders(L)[::7]
SOME = torch.tensor([True, True, False, False])  # what may be masked


def confidence(log_p: Tensor) -> Tensor:
    return log_p.amax(-1)


def step_nll(denoiser, x):
    return neighborhood.step_nll(denoiser, x, L2R, neighborhood.seen(L2R, 2))


def set_costs(denoiser, x):
    puzzles = torch.full_like(x, V)
    return order_search.set_costs(denoiser, puzzles, x)


# function of a denoiser and clean tokens, and what it calls these
LEFT = {  # asks nothing that a prefix does not answer
    "token_nll": (lambda d, x: losses.token_nll(d, x, x), "x0"),
    "ar_loss": (losses.ar_loss, "x0"),
    "step_log_prob": (lambda d, x: orders.step_log_prob(d, x, L2R), "x"),
    "log_prob": (lambda d, x: orders.log_prob(d, x, L2R), "x"),
}
ANYWHERE = {  # puts masks anywhere
    "masked_nll": (lambda d, x: losses.masked_nll(d, CLEAN, x), "x0"),
    "nelbo": (losses.nelbo, "x0"),
    "nelbo, prompt": (lambda d, x: losses.nelbo(d, x, maskable=SOME), "x0"),
    "llada_loss": (losses.llada_loss, "x0"),
    "exact_count_loss": (losses.exact_count_loss, "x0"),
    "exact_count, prompt": (
        lambda d, x: losses.exact_count_loss(d, x, maskable=SOME),
        "x0",
    ),
    "nelbo_t_step": (lambda d, x: losses.nelbo_t_step(d, x, 3), "x0"),
    "nelbo_estimate": (lambda d, x: losses.nelbo_estimate(d, x, 4), "x0"),
    "any_order_loss": (losses.any_order_loss, "x0"),
    "log_mean_exp_orders": (lambda d, x: losses.log_mean_exp_orders(d, x, 2), "x0"),
    "exact_nelbo": (losses.exact_nelbo, "x0"),
    "exact_t_step": (lambda d, x: losses.exact_t_step(d, x, 3), "x0"),
    "right to left": (lambda d, x: orders.log_prob(d, x, L2R.flip(0)), "x"),
    "log_probs": (lambda d, x: orders.log_probs(d, x, EVERY), "x"),
    "mixture_log_prob": (lambda d, x: orders.mixture_log_prob(d, x, EVERY), "x"),
    "adaptive_log_prob": (
        lambda d, x: orders.adaptive_log_prob(d, x, confidence),
        "x",
    ),
    "tangent_estimate": (lambda d, x: upper_bound.tangent_estimate(d, x, 2), "x0"),
    "bracket": (lambda d, x: upper_bound.bracket(d, x, 2), "x0"),
    "posterior_estimate": (
        lambda d, x: upper_bound.posterior_estimate(d, x, L2R.expand(len(x), L)),
        "x0",
    ),
    "posterior_orders": (upper_bound.posterior_orders, "x0"),
    "exact_bounds": (upper_bound.exact_bounds, "x0"),
    "ancestral_log_prob": (
        lambda d, x: exact.ancestral_log_prob(d, x, Linear(), 2),
        "x",
    ),
    "step_nll": (step_nll, "x"),
    "set_costs": (set_costs, "solutions"),
}
CALLS = {**LEFT, **ANYWHERE}


def network(attention: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        TransformerConfig(V, L, 8, 1, 1, attention=attention, positions="learned")
    )


def flat(width: int) -> FunctionDenoiser:
    return FunctionDenoiser(lambda x: torch.zeros(*x.shape, width), V)


DENOISERS = {
    "no column for the mask": lambda: flat(V),
    "a column for the mask": lambda: flat(V + 1),
    "a joint": lambda: joints.shuffle(L),
    "a table": lambda: joints.shuffle(L).table(),
    "a network": lambda: network("bidirectional"),
    "an any-order network": lambda: network("any-order"),
}
pairs = pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in CALLS
        for kind, make in DENOISERS.items()
        if name != "ar_loss" or getattr(make(), "reads", None) != "set"
    ],
)


@pairs
def test_clean_tokens_are_taken(name, kind):
    CALLS[name][0](DENOISERS[kind](), CLEAN)


@pairs
@pytest.mark.parametrize("place", [0, -1])  # one that may be masked, one that may not
def test_the_mask_among_clean_tokens_is_refused(name, kind, place):
    x = CLEAN.clone()
    x[1, place] = V
    function, argument = CALLS[name]
    with pytest.raises(ValueError, match=f"^{argument} must be fully revealed"):
        function(DENOISERS[kind](), x)


@pairs
@pytest.mark.parametrize("token", [-100, -1, V + 1, 1000])
def test_a_token_outside_the_vocabulary_is_refused(name, kind, token):
    x = CLEAN.clone()
    x[1, 2] = token
    function, argument = CALLS[name]
    with pytest.raises(ValueError, match=f"^{argument} must hold tokens .*{token}"):
        function(DENOISERS[kind](), x)


@pytest.mark.parametrize("token", [-1, V + 1])
@pytest.mark.parametrize("make", DENOISERS.values(), ids=DENOISERS.keys())
def test_a_prompt_outside_the_vocabulary_is_refused(make, token):
    x = torch.tensor([V, V, token, 0])
    for law in (
        lambda: exact.parallel_law(make(), x, [[0], [1]]),
        lambda: exact.random_top_k_law(make(), x, 1),
    ):
        with pytest.raises(ValueError, match=f"^x must hold tokens .*{token}"):
            law()


@pytest.mark.parametrize("mask_id", [0, V])
def test_masking_takes_clean_tokens(mask_id):
    x = CLEAN.clone()
    x[1, 2] = mask_id
    for mask in (
        lambda: masking.forward(x, 0.5, Linear(), mask_id, maskable=SOME),
        lambda: masking.mask_exactly(x, torch.ones(2).long(), mask_id, maskable=SOME),
    ):
        with pytest.raises(ValueError, match=r"^x0 must be fully revealed"):
            mask()


def test_the_reverse_process_knows_the_mask_and_the_vocabulary():
    probs = torch.full((2, L, V), 1 / V)
    x_t = CLEAN.clone()
    x_t[0] = V
    masking.reverse_posterior(x_t, probs, 0.1, 0.5, Linear(), V)
    x_t[0] = V + 1
    with pytest.raises(ValueError, match=r"^x_t must hold tokens"):
        masking.reverse_posterior(x_t, probs, 0.1, 0.5, Linear(), V)


LAWS = {
    "parallel_law": lambda d, x: exact.parallel_law(d, x[0], []),
    "random_top_k_law": lambda d, x: exact.random_top_k_law(d, x[0], 1),
    "sample_in_order": lambda d, x: upper_bound.sample_in_order(d, EVERY),
    "generate": lambda d, x: generate(d, x, strategies.confidence_top_k(1)),
    "NoisyDenoiser": lambda d, x: NoisyDenoiser(d, 1.0, 0.0),
}


WHATEVER = {**{name: call for name, (call, _) in CALLS.items()}, **LAWS}


@pytest.mark.parametrize("name", WHATEVER)
@pytest.mark.parametrize(
    "given",
    [lambda x: torch.zeros(*x.shape, V), CLEAN, joints.Shuffle, torch.nn.Linear(2, 2)],
    ids=["plain function", "tokens", "class", "no mask id"],
)
def test_what_is_no_denoiser_is_refused(name, given):
    with pytest.raises(TypeError, match=r"^denoiser must be a denoiser"):
        WHATEVER[name](given, CLEAN)


@pytest.mark.parametrize(
    "call",
    [
        losses.nelbo,
        losses.llada_loss,
        losses.exact_count_loss,
        losses.nelbo_estimate,
        losses.any_order_loss,
        losses.ar_loss,
        losses.exact_nelbo,
        losses.log_mean_exp_orders,
        upper_bound.exact_bounds,
        upper_bound.bracket,
        lambda x, d: losses.token_nll(x, d, x),
        lambda x, d: losses.masked_nll(x, d, x),
        lambda x, d: orders.log_prob(x, d, L2R),
        lambda x, d: orders.log_probs(x, d, EVERY),
        lambda x, d: orders.mixture_log_prob(x, d, EVERY),
        lambda x, d: orders.adaptive_log_prob(x, d, confidence),
        lambda x, d: exact.parallel_law(x, d, [[0]]),
        lambda x, d: exact.random_top_k_law(x, d, 1),
        lambda x, d: exact.ancestral_log_prob(x, d, Linear(), 2),
    ],
)
def test_swapped_arguments_are_named(call):
    with pytest.raises(TypeError, match=r"^denoiser must be a denoiser"):
        call(CLEAN, joints.shuffle(L))


# ------------------------------------------------------------------ what is read


PREFIX = {
    "a causal network": lambda: network("causal"),
    "noise on it": lambda: NoisyDenoiser(network("causal"), 0.1, 0.0),
    "a function that says so": lambda: FunctionDenoiser(
        lambda x: torch.zeros(*x.shape, V), V, reads="prefix"
    ),
}
prefix = pytest.mark.parametrize("make", PREFIX.values(), ids=PREFIX.keys())


@prefix
@pytest.mark.parametrize(
    "name", [*ANYWHERE, "parallel_law", "random_top_k_law", "sample_in_order"]
)
def test_what_reads_from_the_left_is_asked_nothing_else(name, make):
    for _ in range(5):  # not even where an order is drawn that would do
        with pytest.raises(ValueError, match=r"^denoiser must read 'set' or 'order'"):
            WHATEVER[name](make(), CLEAN)


@prefix
@pytest.mark.parametrize("name", LEFT)
def test_what_reads_from_the_left_goes_from_left_to_right(name, make):
    LEFT[name][0](make(), CLEAN)
    denoiser = make()
    if not isinstance(denoiser, NoisyDenoiser):
        log_p = orders.log_prob(denoiser, CLEAN, L2R)
        torch.testing.assert_close(log_p, -losses.ar_loss(denoiser, CLEAN))
        one_by_one = L2R.expand(len(CLEAN), L)
        torch.testing.assert_close(orders.log_prob(denoiser, CLEAN, one_by_one), log_p)
        with pytest.raises(ValueError, match=r"^denoiser must read"):
            mixed = torch.stack([L2R, L2R[[0, 1, 3, 2]]])  # one row of two
            orders.log_prob(denoiser, CLEAN, mixed)
    upper_bound.sample_in_order(denoiser, L2R.expand(3, L))


def test_a_bidirectional_network_is_not_asked_to_read_its_own_answer():
    for denoiser in (joints.shuffle(L), network("bidirectional")):
        with pytest.raises(
            ValueError, match=r"^denoiser must read 'prefix' or 'order'"
        ):
            losses.ar_loss(denoiser, CLEAN)
    losses.ar_loss(network("any-order"), CLEAN)  # tokens in order: a causal network


RULES = {
    "random_top_k": strategies.random_top_k(1),
    "right_to_left": strategies.right_to_left(1),
    "confidence_top_k": strategies.confidence_top_k(1),
    "confidence_threshold": strategies.confidence_threshold(0.9),
    "ancestral": strategies.ancestral(Linear(), 4),
}


@prefix
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_rule_that_leaves_holes_is_refused_by_what_reads_from_the_left(rule, make):
    masks = torch.full((2, L), V)
    with pytest.raises(ValueError, match=r"^denoiser must read"):
        generate(make(), masks, rule)
    with pytest.raises(ValueError, match=r"^denoiser must read"):
        generate(make(), masks, rule, block_length=2)


@prefix
def test_what_reads_from_the_left_writes_from_left_to_right(make):
    masks = torch.full((2, L), V)
    for rule in (strategies.left_to_right(1), strategies.left_to_right(steps=L)):
        assert generate(make(), masks, rule).nfe.tolist() == [L, L]
    torch.manual_seed(0)
    plain = network("causal")
    wanted = generate(plain, masks, strategies.left_to_right(1)).sequences
    one = generate(plain, masks, strategies.confidence_top_k(1), block_length=1)
    assert torch.equal(one.sequences, wanted)
