r"""Masking schedules: how likely a token is still kept at time t.

At time t every token of a sequence has been masked independently with
probability :math:`1 - \alpha_t`. Time runs from t = 0 (nothing masked) to t = 1
(everything masked). A schedule is *ideal* when :math:`\alpha_0 = 1` and
:math:`\alpha_1 = 0` hold exactly; :class:`LogLinear` misses the second and
:class:`Geometric` misses both by a little, as published.

A new schedule is two formulas, written for tensors::

    class Quadratic(Schedule):
        def alpha(self, t):
            return (1 - t) ** 2

        def dalpha(self, t):
            return -2 * (1 - t)

The base class makes them accept floats too, and supplies the rest. Override
``masked`` when ``1 - alpha`` cancels near t = 0, and ``inverse`` when a closed
form is at hand.

Sources: Shi et al. 2024 (MD4), table 4 and figure 1; Sahoo et al. 2024 (MDLM);
Chang et al. 2022 (MaskGIT).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_tutorial import _checks

__all__ = [
    "Cosine",
    "CosineMDLM",
    "Geometric",
    "Linear",
    "LogLinear",
    "Polynomial",
    "Schedule",
    "by_name",
]

# Halvings of [0, 1]: down to times of 1e-33, since alpha can be steep at t = 0.
BISECTIONS = 110


def _accepts_floats(method: Callable, name: str) -> Callable:
    """Let a tensor formula take a Python float in [0, 1], as a float64 tensor."""

    @functools.wraps(method)
    def wrapped(self, value):
        if isinstance(value, Tensor):
            if not value.is_floating_point():
                raise TypeError(f"{name} must be floating point, got {value.dtype}")
            if value.dtype in (torch.float16, torch.bfloat16):
                # too few exponents or digits for what stands inside the formulas
                return method(self, value.float()).to(value.dtype)
            return method(self, value)
        value = _checks.in_unit_interval(value, name)
        return method(self, torch.tensor(value, dtype=torch.float64))

    return wrapped


def _one_minus_cos(r: Tensor) -> Tensor:
    """1 - cos(pi/2 r) for r in [0, 1]: exact at both ends, no cancellation near 0."""
    near_0 = 2 * (math.pi / 4 * r).sin().square()
    near_1 = 1 - (math.pi / 2 * (1 - r)).sin()
    return torch.where(r < 0.5, near_0, near_1)


class Schedule:
    r"""A masking schedule :math:`\alpha_t`, decreasing in t.

    Every method takes a float in [0, 1] (and returns a float64 tensor) or a
    floating-point tensor of any shape (and keeps its dtype and device, computing half
    precision in float32; its range is the caller's promise, because checking it would
    wait for the device). ``alpha`` and ``dalpha`` can be differentiated by autograd.
    """

    def __init_subclass__(cls, **kwargs) -> None:
        # Subclasses state formulas for tensors only; floats are handled here, once.
        super().__init_subclass__(**kwargs)
        for name in ("alpha", "dalpha", "masked", "weight", "inverse"):
            if name in vars(cls):
                argument = "a" if name == "inverse" else "t"
                setattr(cls, name, _accepts_floats(vars(cls)[name], argument))

    def alpha(self, t: float | Tensor) -> Tensor:
        """Probability that a token is still kept at time t."""
        raise NotImplementedError

    def dalpha(self, t: float | Tensor) -> Tensor:
        """Derivative of ``alpha`` with respect to t (never positive)."""
        raise NotImplementedError

    def masked(self, t: float | Tensor) -> Tensor:
        """Probability 1 - alpha(t) that a token is masked at time t."""
        return 1 - self.alpha(t)

    def weight(self, t: float | Tensor) -> Tensor:
        r"""Loss weight :math:`-\alpha'_t / (1 - \alpha_t)`, positive.

        The rate, per unit of time, at which the reverse process reveals a masked
        token. Infinite at t = 0 for every ideal schedule, and wherever 1 - alpha has
        rounded to 0 on the way there.
        """
        masked = self.masked(t)
        return torch.where(masked > 0, -self.dalpha(t) / masked, math.inf)

    def inverse(self, a: float | Tensor) -> Tensor:
        """Time t at which ``alpha(t) == a``, to the last bits of the dtype.

        A value that the schedule never reaches gives the nearer end: 0 from alpha(0)
        on, 1 below alpha(1). The base class bisects, without a gradient, and stops at
        4e-34 in place of 0; a closed form may miss an end by its last bits.
        """
        if not isinstance(a, Tensor):
            a = torch.tensor(_checks.in_unit_interval(a, "a"), dtype=torch.float64)
        low = torch.zeros_like(a)
        high = torch.ones_like(low)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            later = self.alpha(middle) > a
            low = torch.where(later, middle, low)
            high = torch.where(later, high, middle)
        return (low + high) / 2

    def expected_reveals(self, length: int, steps: int) -> Tensor:
        r"""Expected number of tokens revealed at each of ``steps`` equal steps.

        Entry j is :math:`L(\alpha_s - \alpha_t)` for the step from
        :math:`t = 1 - j/T` to :math:`s = t - 1/T`: entry 0 is the first step of
        sampling. The entries sum to :math:`L(\alpha_0 - \alpha_1)`, which is ``length``
        for an ideal schedule. Otherwise :math:`L(1 - \alpha_0)` tokens are expected to
        be masked still at t = 0, and a sampler has to fill them in its last step.

        Returns
        -------
        Tensor
            Float64[steps]
        """
        _checks.integer(length, "length", 1)
        _checks.integer(steps, "steps", 1)
        kept = self.alpha(torch.arange(steps, -1, -1, dtype=torch.float64) / steps)
        return length * kept.diff()


@dataclass(frozen=True)
class Linear(Schedule):
    r""":math:`\alpha_t = 1 - t`, weight :math:`1/t` (Shi et al. 2024; LLaDA)."""

    def alpha(self, t):
        return 1 - t

    def dalpha(self, t):
        return -torch.ones_like(t)

    def masked(self, t):
        return t.clone()

    def weight(self, t):
        return 1 / t

    def inverse(self, a):
        return 1 - a


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""MD4's and MaskGIT's cosine: :math:`\alpha_t = 1 - \cos(\frac\pi2(1-t))`.

    Few tokens are revealed early in sampling, many late. Weight
    :math:`\frac\pi2\tan(\frac\pi2(1-t))` (Shi et al. 2024, table 4).
    :class:`CosineMDLM` is the other curve of that name.
    """

    def alpha(self, t):
        return _one_minus_cos(1 - t)

    def dalpha(self, t):
        return -math.pi / 2 * (math.pi / 2 * (1 - t)).sin()

    def masked(self, t):
        return (math.pi / 2 * t).sin()

    def inverse(self, a):
        return (1 - 4 / math.pi * (a / 2).sqrt().asin()).clamp(min=0)


@dataclass(frozen=True)
class CosineMDLM(Schedule):
    r"""MDLM's and BD3-LM's cosine: :math:`\alpha_t = \cos(\frac\pi2 t)`.

    Many tokens are revealed early in sampling, few late: the opposite of
    :class:`Cosine`. Published code adds a small floor (Sahoo et al. 2024); here the
    ends are exact. Weight :math:`\frac\pi2\cot(\frac\pi4 t)`.
    """

    def alpha(self, t):
        return (math.pi / 2 * (1 - t)).sin()

    def dalpha(self, t):
        return -math.pi / 2 * (math.pi / 2 * t).sin()

    def masked(self, t):
        return _one_minus_cos(t)

    def weight(self, t):
        return math.pi / 2 / (math.pi / 4 * t).tan()

    def inverse(self, a):
        return 1 - 2 / math.pi * a.asin()


@dataclass(frozen=True)
class Polynomial(Schedule):
    r""":math:`\alpha_t = 1 - t^w` with w > 0, weight :math:`w/t` (MD4, table 4)."""

    w: float = 2.0

    def __post_init__(self) -> None:
        _checks.number(self.w, "w", 0, open_left=True, open_right=True)

    def alpha(self, t):
        return 1 - t**self.w

    def dalpha(self, t):
        return -self.w * t ** (self.w - 1)

    def masked(self, t):
        return t**self.w

    def weight(self, t):
        return self.w / t

    def inverse(self, a):
        return (1 - a) ** (1 / self.w)


@dataclass(frozen=True)
class Geometric(Schedule):
    r""":math:`\alpha_t = e^{-b(t)}`, :math:`b(t) = \beta_{min}^{1-t}\beta_{max}^t`.

    Weight :math:`b(t)\ln(\beta_{max}/\beta_{min})\,/\,(e^{b(t)} - 1)`. Table 4 of Shi
    et al. 2024 prints :math:`\log(\sigma_{min}/\sigma_{max})` in this row, another
    symbol and the other sign. Not ideal: :math:`\alpha_0 = e^{-\beta_{min}}` (1 - 1e-5
    with the published values) and :math:`\alpha_1 = e^{-\beta_{max}}` (2e-9).
    """

    beta_min: float = 1e-5
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _checks.number(self.beta_min, "beta_min", 0, open_left=True)
        _checks.number(
            self.beta_max, "beta_max", self.beta_min, open_left=True, open_right=True
        )

    @property
    def _log_ratio(self) -> float:
        return math.log(self.beta_max / self.beta_min)

    def _b(self, t):
        return self.beta_min * (self._log_ratio * t).exp()

    def alpha(self, t):
        return (-self._b(t)).exp()

    def dalpha(self, t):
        b = self._b(t)
        return -self._log_ratio * b * (-b).exp()

    def masked(self, t):
        return -torch.expm1(-self._b(t))

    def weight(self, t):
        b = self._b(t)
        return self._log_ratio * b / torch.expm1(b)

    def inverse(self, a):
        return ((-a.log() / self.beta_min).log() / self._log_ratio).clamp(0, 1)


@dataclass(frozen=True)
class LogLinear(Schedule):
    r""":math:`\alpha_t = 1 - (1-\varepsilon)t`, weight :math:`1/t` (MDLM).

    Called log-linear for its noise level
    :math:`\sigma_t = -\log\alpha_t`. Not ideal: :math:`\alpha_1 = \varepsilon`, so a
    loss integrated over t leaves out the mask rates above
    :math:`1 - \varepsilon` and comes out slightly low.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        _checks.in_unit_interval(self.eps, "eps", open_right=True)

    def alpha(self, t):
        return 1 - (1 - self.eps) * t

    def dalpha(self, t):
        return torch.full_like(t, -(1 - self.eps))

    def masked(self, t):
        return (1 - self.eps) * t

    def weight(self, t):
        return 1 / t

    def inverse(self, a):
        return ((1 - a) / (1 - self.eps)).clamp(max=1)


_BY_NAME: dict[str, type[Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "cosine_mdlm": CosineMDLM,
    "polynomial": Polynomial,
    "geometric": Geometric,
    "log_linear": LogLinear,
}


def by_name(name: str, **parameters: float) -> Schedule:
    """Schedule by its name: ``by_name("polynomial", w=0.5)``.

    Names: linear, cosine, cosine_mdlm, polynomial, geometric, log_linear.
    """
    return _BY_NAME[_checks.one_of(name, "name", _BY_NAME)](**parameters)
