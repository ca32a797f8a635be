r"""The forward process (tokens are replaced by the mask) and its reverse.

Two ways to mask a batch for training, with one way to draw how much:

- :func:`forward` masks each token by itself with probability
  :math:`1 - \alpha_t`, at a time from :func:`draw_times`;
- :func:`mask_exactly` masks a set of exactly the given size, from
  :func:`draw_counts`. It removes the noise in *how many* tokens are masked.

Every method of drawing leaves each single row exactly uniform. Antithetic and
stratified draws make the rows of a batch share out the range among them, so that the
batch average is less noisy.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks, _random
from dllm_tutorial.schedules import Schedule

__all__ = [
    "all_masks",
    "draw_counts",
    "draw_times",
    "forward",
    "mask_exactly",
    "reverse_posterior",
]

METHODS = ("iid", "antithetic", "stratified")


def forward(
    x0: Tensor,
    t: float | Tensor,
    schedule: Schedule,
    mask_id: int,
    *,
    maskable: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""Draw :math:`x_t \sim q(x_t \mid x_0)`: mask tokens independently.

    Each token becomes ``mask_id`` with probability :math:`1 - \alpha_t`
    (Shi et al. 2024, eq. 2; Sahoo et al. 2024, eq. 3).

    Parameters
    ----------
    x0 : Long[B, L]
        Clean tokens; holding the mask raises ``ValueError`` on the CPU.
    t : float or Float[B]
        Time in [0, 1], one for all rows or one a row.
    maskable : Bool[L] or Bool[B, L], optional
        Positions that may be masked (leave a prompt out); all of them by default.

    Returns
    -------
    Long[B, L]
    """
    x0 = _clean(x0, mask_id)
    p = schedule.masked(_times(t, x0)).unsqueeze(-1)  # [B, 1]
    hidden = _uniform(x0, generator) < p
    if maskable is not None:
        hidden &= _checks.flags(maskable, "maskable", x0.shape)
    return x0.masked_fill(hidden, mask_id)


def mask_exactly(
    x0: Tensor,
    counts: Tensor,
    mask_id: int,
    *,
    maskable: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Mask a uniformly random set of exactly ``counts[b]`` tokens in row b.

    Parameters
    ----------
    x0 : Long[B, L]
        Clean tokens, as in :func:`forward`.
    counts : Long[B]
        Number of masks per row, from 0 to the number of maskable positions. Looked
        at, which waits for the device.
    maskable : Bool[L] or Bool[B, L], optional
        Positions that may be masked (leave a prompt out); all of them by default.

    Returns
    -------
    Long[B, L]
    """
    x0 = _clean(x0, mask_id)
    counts = _checks.tokens(counts, "counts", ndim=1, length=len(x0))
    available = torch.full_like(counts, x0.shape[1])
    if maskable is not None:
        maskable = _checks.flags(maskable, "maskable", x0.shape)
        available = maskable.sum(-1)
    if bool(((counts < 0) | (counts > available)).any()):
        raise ValueError(
            "counts must lie between 0 and the number of maskable positions, got "
            f"{counts.tolist()} for {available.tolist()}"
        )
    return hide(x0, counts, mask_id, maskable, generator)


def hide(
    x0: Tensor,
    counts: Tensor,
    mask_id: int,
    maskable: Tensor | None,
    generator: Generator | None,
) -> Tensor:
    """:func:`mask_exactly` for counts that are known to be right: nothing is looked at,
    so a step of training does not wait for the device."""
    noise = _uniform(x0, generator)
    if maskable is not None:
        noise = noise.masked_fill(~maskable, 2.0)  # behind every uniform number
    rank = noise.argsort(-1).argsort(-1)  # a random permutation of the positions
    return x0.masked_fill(rank < counts.unsqueeze(-1), mask_id)


def draw_times(
    batch: int,
    method: str = "stratified",
    *,
    generator: Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draw one time in (0, 1] for each row of a batch.

    ``iid``
        independent uniform times.
    ``antithetic``
        one uniform u, then :math:`(u + i/B) \bmod 1` (Kingma et al. 2021; MD4).
    ``stratified``
        one time in each of B equal intervals, :math:`(u_i + i)/B` (MDLM), the
        intervals dealt to the rows at random, so that each row by itself is uniform.

    Zero is left out because the loss weight is infinite there.

    Returns
    -------
    Float64[B]
    """
    _checks.integer(batch, "batch", 1)
    _checks.one_of(method, "method", METHODS)
    n = 1 if method == "antithetic" else batch
    device = torch.device(device or "cpu")
    origin = device if generator is None else generator.device
    u = _random.uniform((n,), generator, origin)
    if method == "antithetic":
        u = (u + torch.arange(batch, device=origin) / batch) % 1
    if method == "stratified":
        rows = torch.randperm(batch, generator=generator, device=origin)
        u = (u + rows) / batch
    # u can be 0, never 1, but (u + i) / B can round to 1
    return _random.move((1 - u).clamp(min=2.0**-53), device)


def draw_counts(
    batch: int,
    length: int | Tensor,
    method: str = "stratified",
    *,
    generator: Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draw how many tokens to mask in each row: uniform on 1 ... ``length``.

    The count is :math:`\lceil t L \rceil` for a time t of :func:`draw_times`, which
    is exactly uniform in every row. (Rounding half to even, as ``torch.round`` does to
    the equally spaced counts of LLaDA's published evaluation, is not.)

    Parameters
    ----------
    length : int or Long[B]
        Number of maskable positions, the same for all rows or one a row. A tensor is
        looked at; a row of length 0 in it gets the count 0.

    Returns
    -------
    Long[B]
    """
    if isinstance(length, Tensor):
        length = _checks.tokens(length, "length", ndim=1, length=batch)
        if bool((length < 0).any()):
            raise ValueError(f"length must not be negative, got {length.tolist()}")
    else:
        _checks.integer(length, "length", 1)
    t = draw_times(batch, method, generator=generator, device=device)
    return (t * length).ceil().long()


def reverse_posterior(
    x_t: Tensor,
    probs: Tensor,
    s: float | Tensor,
    t: float | Tensor,
    schedule: Schedule,
    mask_id: int,
) -> Tensor:
    r"""Distribution of :math:`x_s` given :math:`x_t` and a guess at :math:`x_0`, s < t.

    A masked token is revealed with probability
    :math:`(\alpha_s - \alpha_t)/(1 - \alpha_t)`, drawn from ``probs``, and stays masked
    otherwise; a revealed token stays as it is. With one-hot ``probs`` this is the true
    posterior :math:`q(x_s \mid x_t, x_0)` (Shi et al. 2024, eq. 4).

    Parameters
    ----------
    x_t : Long[B, L]
        Partly masked tokens.
    probs : Float[B, L, V]
        Prediction of each clean token, summing to 1. Looked at, like the times.
    s, t : float or Float[B]
        Times, 0 <= s < t <= 1.

    Returns
    -------
    Float[B, L, W]
        Probabilities over tokens and the mask; W = V, or V + 1 when the mask id is V.
    """
    x_t = _checks.tokens(x_t, "x_t")
    if probs.ndim != 3 or probs.shape[:2] != x_t.shape:
        raise ValueError(
            f"probs must be [B, L, V] with [B, L] = {tuple(x_t.shape)}, got "
            f"{tuple(probs.shape)}"
        )
    s, t = _times(s, x_t, "s"), _times(t, x_t)
    if not bool((s < t).all()):
        raise ValueError(f"s must be smaller than t, got s = {s} and t = {t}")
    _checks.probabilities(probs, "probs")
    stay = still_masked(schedule, s, t).to(probs).reshape(-1, 1, 1)
    vocab_size = probs.shape[-1]
    _checks.token_range(x_t, "x_t", vocab_size, _checks.integer(mask_id, "mask_id", 0))
    width = max(vocab_size, mask_id + 1)
    one_hot = torch.nn.functional.one_hot(x_t, width).to(probs)
    reveal = torch.nn.functional.pad(probs, (0, width - vocab_size))
    # one_hot is the mask itself where x_t is masked
    mixture = (1 - stay) * reveal + stay * one_hot
    return torch.where((x_t == mask_id).unsqueeze(-1), mixture, one_hot)


def still_masked(schedule: Schedule, s: Tensor, t: Tensor) -> Tensor:
    """Probability that a token masked at t is masked at s < t too.

    0 where 1 - alpha underflows at t: nothing is masked there.
    """
    masked_t = schedule.masked(t)
    return torch.where(masked_t > 0, schedule.masked(s) / masked_t, 0.0)


def all_masks(length: int, *, device: torch.device | str | None = None) -> Tensor:
    """Every subset of positions, as Bool[2**length, length]; row 0 is the empty one."""
    _checks.integer(length, "length", 1)
    codes = torch.arange(2**length, device=device).unsqueeze(-1)
    return (codes >> torch.arange(length, device=device)) & 1 == 1


def _clean(x0: Tensor, mask_id: int) -> Tensor:
    _checks.integer(mask_id, "mask_id", 0)
    return _checks.clean(x0, "x0", mask_id, wait=False)


def _times(t: float | Tensor, x: Tensor, name: str = "t") -> Tensor:
    """Times as Float[1] or Float[B] on x's device."""
    if not isinstance(t, Tensor):
        t = torch.tensor([_checks.in_unit_interval(t, name)], dtype=torch.float64)
    if t.shape not in ((), (1,), (len(x),)):
        raise ValueError(f"{name} must be one time or {len(x)}, got {tuple(t.shape)}")
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"{name} must lie in [0, 1], got {t}")
    return t.to(x.device).reshape(-1)


def _uniform(x: Tensor, generator: Generator | None) -> Tensor:
    return _random.uniform(x.shape, generator, x.device)
