"""Checks of arguments, shared by all modules.

Each check returns the value it was given (of several types that are allowed, in one),
so it can stand where the value is used, and raises an error that names the argument,
says what was expected and what came. None of them looks at the contents of a tensor
unless its docstring says so: a look would stop the host until the device has finished.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

_INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def generator(value: Any) -> torch.Generator | None:
    """A source of random numbers, or None for the global one."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {value!r}")
    return value


def integer(value: Any, name: str, minimum: int | None = None) -> int:
    """An integer (not a bool), at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def number(
    value: Any,
    name: str,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    open_left: bool = False,
    open_right: bool = False,
) -> float:
    """A real number in an interval; ``open_left`` / ``open_right`` exclude its ends."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    given = float(value)
    above = given > minimum if open_left else given >= minimum
    below = given < maximum if open_right else given <= maximum
    if not (above and below):
        left, right = "[("[open_left], "])"[open_right]
        raise ValueError(
            f"{name} must lie in {left}{minimum:g}, {maximum:g}{right}, got {value}"
        )
    return given


def in_unit_interval(
    value: Any, name: str, *, open_left: bool = False, open_right: bool = False
) -> float:
    """A real number between 0 and 1."""
    return number(value, name, 0.0, 1.0, open_left=open_left, open_right=open_right)


def one_of(value: Any, name: str, options: Collection[Any]) -> Any:
    """One of a few options."""
    if value not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")
    return value


def string(value: Any, name: str) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} must be a non-empty string, got {value!r}")
    return value


def function(value: Any, name: str) -> Any:
    """Anything that can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, got {value!r}")
    return value


def denoiser(value: Any, name: str, *reads: str) -> Any:
    """A :class:`~dllm_tutorial.denoiser.Denoiser`: called with tokens, has a mask id.

    Where it says what it reads, that must be one of ``reads``, if any are given.
    """
    mask_id = getattr(value, "mask_id", None)
    whole = isinstance(mask_id, Integral) and not isinstance(mask_id, bool)
    if not callable(value) or isinstance(value, type) or not whole:
        raise TypeError(
            f"{name} must be a denoiser, which is called with tokens and has an integer"
            f" mask_id (FunctionDenoiser makes one of a function), got {_named(value)}"
        )
    integer(mask_id, f"{name}.mask_id", 0)
    told = getattr(value, "reads", None)
    if reads and told is not None and told not in reads:
        wanted = " or ".join(map(repr, reads))
        raise ValueError(f"{name} must read {wanted}, got {_named(value)}: {told!r}")
    return value


def _named(value: Any) -> str:
    """The type of a value, or the name of a class or function."""
    return getattr(value, "__qualname__", None) or f"a {type(value).__name__}"


def tokens(x: Any, name: str, *, ndim: int = 2, length: int | None = None) -> Tensor:
    """Token ids in ``ndim`` dimensions, the last of size ``length``, as int64."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in _INTEGER_DTYPES:
        raise TypeError(f"{name} must hold integers (token ids), got {x.dtype}")
    if x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got {tuple(x.shape)}")
    if length is not None and x.shape[-1] != length:
        raise ValueError(
            f"{name} must have {length} positions, got shape {tuple(x.shape)}"
        )
    return x.long()


def clean(
    x: Any, name: str, mask_id: int, vocab_size: int | None = None, *, wait: bool = True
) -> Tensor:
    """Long[B, L] without a mask, below ``vocab_size`` if it is known.

    Looks at the contents, without ``wait`` as :func:`token_range` does.
    """
    x = tokens(x, name)
    if _may_look(x, wait) and bool((x == mask_id).any()):
        raise ValueError(
            f"{name} must be fully revealed, got sequences that hold the mask {mask_id}"
        )
    return x if vocab_size is None else token_range(x, name, vocab_size, wait=wait)


def _may_look(x: Tensor, wait: bool) -> bool:
    return wait or (x.device.type == "cpu" and not torch.compiler.is_compiling())


def token_range(
    x: Tensor,
    name: str,
    vocab_size: int,
    mask_id: int | None = None,
    *,
    wait: bool = True,
) -> Tensor:
    """Token ids in 0 ... vocab_size - 1, or the mask if one is given.

    Looks at the contents; without ``wait`` only where that costs no waiting, which is
    on the CPU.
    """
    if not _may_look(x, wait):
        return x
    token = (x >= 0) & (x < vocab_size)
    if mask_id is not None:
        token |= x == mask_id
    if not bool(token.all()):
        mask = "" if mask_id is None else f" or the mask {mask_id}"
        raise ValueError(
            f"{name} must hold tokens between 0 and {vocab_size - 1}{mask}, got values "
            f"from {int(x.min())} to {int(x.max())}"
        )
    return x


def flags(value: Any, name: str, shape: Sequence[int]) -> Tensor:
    """Bool[L] or Bool[B, L] for ``shape`` [B, L], one row for each of the B."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    batch, length = shape
    fits = value.shape in ((length,), (1, length), (batch, length))
    if value.dtype != torch.bool or not fits:
        raise ValueError(
            f"{name} must be Bool[{length}] or Bool[{batch}, {length}], got "
            f"{value.dtype} {tuple(value.shape)}"
        )
    return value.expand(batch, length)


def probabilities(p: Any, name: str, tolerance: float = 1e-6) -> Tensor:
    """Distributions over the last dimension, as float64. Looks at the contents.

    Entries must be finite and nonnegative and sum to 1 within ``tolerance``, which is
    what float32 input can keep (half precision is allowed its own rounding); the
    float64 copy that is returned is divided by its sum, so that the rounding of the
    input does not stay in it.
    """
    if not isinstance(p, Tensor) or not p.is_floating_point():
        raise TypeError(f"{name} must be a tensor of floats, got {p!r}")
    tolerance = max(tolerance, 8 * torch.finfo(p.dtype).eps)
    p = p.to(torch.float64)
    # summed in sorted order, so that the order of the entries leaves no trace
    total = p.sort(-1).values.sum(-1, keepdim=True)
    if not bool(torch.isfinite(p).all()) or bool((p < 0).any()):
        raise ValueError(f"{name} must be finite and nonnegative, got {p}")
    if bool(((total - 1).abs() > tolerance).any()):
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        raise ValueError(f"{name} must sum to 1 over its last dimension, got {worst}")
    return p / total


def positions(values: Iterable[int] | None, name: str, length: int) -> tuple[int, ...]:
    """Distinct positions in 0 ... length - 1, sorted; ``None`` means all of them."""
    if values is None:
        return tuple(range(length))
    listed = values.tolist() if isinstance(values, Tensor) else list(values)
    chosen = sorted({integer(value, name, 0) for value in listed})
    if chosen and chosen[-1] >= length:
        raise ValueError(f"{name} must lie below {length}, got {chosen[-1]}")
    return tuple(chosen)
