"""Schedules against 50-digit arithmetic, autograd and closed forms."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_tutorial.schedules import (
    Cosine,
    CosineMDLM,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
    Schedule,
    by_name,
)

mp.mp.dps = 50
HALF_PI = mp.pi / 2

# alpha as the papers print it, in 50 digits, and the weight of MD4's table 4
# (of MDLM's code for its two curves)
PUBLISHED = {
    Linear(): (lambda t: 1 - t, lambda t: 1 / t),
    Cosine(): (
        lambda t: 1 - mp.cos(HALF_PI * (1 - t)),
        lambda t: HALF_PI * mp.tan(HALF_PI * (1 - t)),
    ),
    CosineMDLM(): (
        lambda t: mp.cos(HALF_PI * t),
        lambda t: HALF_PI * mp.sin(HALF_PI * t) / (1 - mp.cos(HALF_PI * t)),
    ),
    Polynomial(2): (lambda t: 1 - t**2, lambda t: 2 / t),
    Polynomial(0.5): (lambda t: 1 - mp.sqrt(t), lambda t: mp.mpf(1) / 2 / t),
    Polynomial(3.5): (lambda t: 1 - t ** mp.mpf(3.5), lambda t: mp.mpf(3.5) / t),
    Geometric(): (
        lambda t: mp.exp(-(mp.mpf(1e-5) ** (1 - t)) * mp.mpf(20) ** t),
        lambda t: (
            mp.exp(-(mp.mpf(1e-5) ** (1 - t) * 20**t))
            / (1 - mp.exp(-(mp.mpf(1e-5) ** (1 - t) * 20**t)))
            * (mp.mpf(1e-5) ** (1 - t) * 20**t)
            * mp.log(20 / mp.mpf(1e-5))
        ),
    ),
    LogLinear(): (lambda t: 1 - (1 - mp.mpf(1e-3)) * t, lambda t: 1 / t),
}
IDEAL = [s for s in PUBLISHED if not isinstance(s, Geometric | LogLinear)]
ALL = list(PUBLISHED)
# close to both ends, where naive formulas cancel
TIMES = [1e-9, 1e-6, 1e-3, 0.1, 0.25, 0.4999999, 0.5, 0.75, 0.999, 1 - 1e-6, 1 - 1e-9]
times = st.floats(1e-6, 1 - 1e-6)


def close(value: torch.Tensor, wanted: mp.mpf, rtol: float) -> bool:
    return abs(mp.mpf(value.item()) - wanted) <= rtol * abs(wanted)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
@pytest.mark.parametrize("t", TIMES)
def test_formulas_against_fifty_digits(schedule, t):
    alpha, weight = PUBLISHED[schedule]
    exact = mp.mpf(t)
    assert close(schedule.alpha(t), alpha(exact), 1e-12) or (
        # 1 - t**w is all there is of alpha near t = 1: absolute accuracy there
        isinstance(schedule, Polynomial)
        and abs(schedule.alpha(t).item() - alpha(exact)) < 1e-15
    )
    assert close(schedule.masked(t), 1 - alpha(exact), 1e-12)
    assert close(schedule.dalpha(t), mp.diff(alpha, exact), 1e-12)
    assert close(schedule.weight(t), weight(exact), 1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
@given(t=times)
def test_derivative_is_that_of_autograd(schedule, t):
    x = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.alpha(x), x)
    assert torch.allclose(slope, schedule.dalpha(t), rtol=1e-10, atol=1e-14)
    weight = -slope / schedule.masked(t)
    assert torch.allclose(weight, schedule.weight(t), rtol=1e-10)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
@given(a=st.floats(0, 1))
def test_inverse_round_trip(schedule, a):
    low, high = schedule.alpha(1.0).item(), schedule.alpha(0.0).item()
    wanted = min(max(a, low), high)
    for inverse in (schedule.inverse, lambda a: Schedule.inverse(schedule, a)):
        t = inverse(a).item()
        assert 0 <= t <= 1
        assert abs(schedule.alpha(t).item() - wanted) <= 1e-12


@pytest.mark.parametrize("schedule", ALL, ids=repr)
@given(t=st.floats(0.01, 1))
def test_inverse_recovers_time(schedule, t):
    # below t = 0.01 alpha can be flat to rounding, and no inverse could do it
    assert abs(schedule.inverse(schedule.alpha(t)).item() - t) <= 1e-10


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_decreases_with_time(schedule):
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert bool((schedule.alpha(t).diff() <= 0).all())
    assert bool((schedule.dalpha(t[1:-1]) <= 0).all())
    assert bool((schedule.weight(t[1:]) >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", IDEAL, ids=repr)
def test_ideal_ends_are_exact(schedule, dtype):
    ends = torch.tensor([0, 1], dtype=dtype)
    assert schedule.alpha(ends).tolist() == [1, 0]
    assert schedule.masked(ends).tolist() == [0, 1]
    assert torch.allclose(schedule.inverse(schedule.alpha(ends)), ends, atol=1e-7)
    assert math.isinf(schedule.weight(ends)[0])


def test_ends_of_the_others():
    assert LogLinear(0.001).alpha(0.0).item() == 1
    assert LogLinear(0.001).alpha(1.0).item() == pytest.approx(0.001, rel=1e-12)
    assert 1 - Geometric().alpha(0.0).item() == pytest.approx(1e-5, rel=1e-5)
    assert Geometric().alpha(1.0).item() == pytest.approx(math.exp(-20), rel=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_keeps_dtype_and_shape(schedule):
    t = torch.rand(2, 3, dtype=torch.float32)
    for method in ("alpha", "dalpha", "masked", "weight", "inverse"):
        value = getattr(schedule, method)(t)
        assert value.dtype == torch.float32 and value.shape == t.shape
        assert getattr(schedule, method)(0.3).dtype == torch.float64
        assert getattr(schedule, method)(1).shape == ()
    generic = Schedule.inverse(schedule, t)
    assert generic.dtype == torch.float32
    assert torch.allclose(schedule.alpha(generic), t.clamp(min=2e-3), atol=2e-3)


# Shi et al. 2024, figure 2 (right): N = 12288 tokens in T = 256 steps
N, T = 12288, 256


@pytest.mark.parametrize(
    ("schedule", "first", "middle", "last"),
    [
        (Linear(), 48.0, 48.0, 48.0),
        (
            Cosine(),
            N * (1 - math.cos(math.pi / 2 / T)),
            # cos(pi/4 - h) - cos(pi/4) with h = pi / (2 T)
            N * (math.cos(math.pi / 4) - math.cos(math.pi / 4 + math.pi / 2 / T)),
            N * math.sin(math.pi / 2 / T),
        ),
        (
            CosineMDLM(),
            N * math.sin(math.pi / 2 / T),
            N * (math.cos(math.pi / 4 - math.pi / 2 / T) - math.cos(math.pi / 4)),
            N * (1 - math.cos(math.pi / 2 / T)),
        ),
        (Polynomial(2), N * (2 * T - 1) / T**2, N * (T - 1) / T**2, N / T**2),
        (
            Polynomial(0.5),
            N * (1 - math.sqrt(1 - 1 / T)),
            N * (math.sqrt(0.5) - math.sqrt(0.5 - 1 / T)),
            N / math.sqrt(T),
        ),
    ],
    ids=repr,
)
def test_expected_reveals_in_closed_form(schedule, first, middle, last):
    reveals = schedule.expected_reveals(N, T)
    assert reveals.shape == (T,) and reveals.dtype == torch.float64
    assert reveals[0].item() == pytest.approx(first, rel=1e-9)
    assert reveals[T // 2].item() == pytest.approx(middle, rel=1e-9)
    assert reveals[-1].item() == pytest.approx(last, rel=1e-9)
    assert reveals.sum().item() == pytest.approx(N, rel=1e-12)


def test_expected_reveals_of_the_geometric_schedule():
    beta = [1e-5 * 2e6 ** (i / T) for i in range(T + 1)]  # time i / T
    wanted = [
        N * (math.exp(-beta[i - 1]) - math.exp(-beta[i])) for i in range(T, 0, -1)
    ]
    reveals = Geometric().expected_reveals(N, T)
    assert torch.allclose(reveals, torch.tensor(wanted, dtype=torch.float64), atol=1e-9)
    # -b e^{-b} ln(ratio) peaks at b = 1
    assert beta[T - int(reveals.argmax())] == pytest.approx(1, rel=0.06)
    assert reveals.sum().item() == pytest.approx(N * (math.exp(-1e-5) - math.exp(-20)))


def test_a_cosine_grid_with_linear_alpha_is_the_cosine_schedule():
    # MD4's "cosine grid": times cos(pi/2 (1 - i/T)) under the linear schedule
    i = torch.arange(T + 1, dtype=torch.float64)
    grid = torch.cos(math.pi / 2 * (1 - i / T))
    assert torch.allclose(Linear().alpha(grid), Cosine().alpha(i / T), atol=1e-14)


def test_published_geometric_row_has_the_wrong_sign():
    # Table 4 prints ... * log(sigma_min / sigma_max) without the minus sign's partner:
    # read with beta for sigma it is positive, and -alpha' is not
    b = 1e-5**0.5 * 20**0.5
    factor = -math.exp(-b) / (1 - math.exp(-b)) * b
    printed = factor * math.log(1e-5 / 20)
    ours = -Geometric().weight(0.5).item()

    def alpha(t: mp.mpf) -> mp.mpf:
        return mp.exp(-(mp.mpf(1e-5) ** (1 - t)) * mp.mpf(20) ** t)

    numeric = mp.diff(alpha, 0.5) / (1 - alpha(mp.mpf(0.5)))
    assert ours == pytest.approx(float(numeric), rel=1e-12)
    assert printed == pytest.approx(-float(numeric), rel=1e-12)


def test_two_formulas_make_a_schedule():
    class Quadratic(Schedule):
        def alpha(self, t):
            return (1 - t) ** 2

        def dalpha(self, t):
            return -2 * (1 - t)

    schedule = Quadratic()
    assert schedule.alpha(0.5).item() == 0.25
    assert schedule.weight(0.5).item() == pytest.approx(1 / 0.75)
    assert schedule.inverse(0.25).item() == pytest.approx(0.5, abs=1e-12)
    assert schedule.expected_reveals(4, 2).tolist() == [1, 3]


def test_by_name():
    assert by_name("cosine") == Cosine() and by_name("polynomial", w=3) == Polynomial(3)
    assert {type(by_name(n)) for n in ("linear", "cosine_mdlm", "geometric")} == {
        Linear,
        CosineMDLM,
        Geometric,
    }
    assert by_name("log_linear", eps=0.1).alpha(1.0).item() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="name"):
        by_name("sine")


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda: Linear().alpha(1.5), ValueError, "t "),
        (lambda: Linear().alpha(float("nan")), ValueError, "t "),
        (lambda: Linear().alpha("now"), TypeError, "t "),
        (lambda: Linear().alpha(torch.tensor([0, 1])), TypeError, "t "),
        (lambda: Cosine().inverse(-0.1), ValueError, "a "),
        (lambda: Schedule.inverse(Cosine(), 2.0), ValueError, "a "),
        (lambda: Linear().expected_reveals(0, 4), ValueError, "length"),
        (lambda: Linear().expected_reveals(4, 2.0), TypeError, "steps"),
        (lambda: Polynomial(0), ValueError, "w "),
        (lambda: Polynomial(float("inf")), ValueError, "w "),
        (lambda: Geometric(1, 0.5), ValueError, "beta_max"),
        (lambda: Geometric(0), ValueError, "beta_min"),
        (lambda: LogLinear(1.0), ValueError, "eps"),
    ],
)
def test_bad_arguments_are_named(call, error, argument):
    with pytest.raises(error, match=argument):
        call()


@pytest.mark.parametrize("schedule", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_truth(schedule, dtype):
    t = torch.tensor([0.1, 0.3, 0.5, 0.77, 0.8, 0.9, 0.99], dtype=dtype)
    tiny = torch.finfo(dtype).tiny
    for name in ("alpha", "dalpha", "masked", "weight"):
        got, wanted = getattr(schedule, name)(t), getattr(schedule, name)(t.double())
        assert got.dtype == dtype
        gap = (got.double() - wanted).abs()
        assert bool((gap <= torch.finfo(dtype).eps * wanted.abs() + tiny).all()), name
    a = torch.tensor([0.1, 0.5, 0.9], dtype=dtype)
    got, wanted = schedule.inverse(a), schedule.inverse(a.double())
    assert torch.allclose(got.double(), wanted, rtol=2 * torch.finfo(dtype).eps)


def test_the_weight_of_two_formulas_is_infinite_at_zero():
    class Square(Schedule):
        def alpha(self, t):
            return 1 - t**2

        def dalpha(self, t):
            return -2 * t

    t = torch.tensor([0.0, 1e-9, 0.5], dtype=torch.float64)
    assert Square().weight(t).tolist() == [math.inf, math.inf, 4.0]  # 2 / t
