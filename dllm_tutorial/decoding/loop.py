r"""The one decoding loop.

Each step asks the denoiser for logits, proposes a token at every position, ranks the
masked positions of each row's current block, reveals as many as the strategy's quota
says and lets it mask some again. All of it is batched tensor arithmetic of fixed shape:
rows advance at their own pace, each with its own counters, and nothing inside a step
waits for the device.

Blocks (semi-autoregressive decoding) tile a row from its first masked position. Tiles
without a masked position need no work and are not counted. A row works on one block
until it is filled, then on the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dllm_tutorial import _checks, counter_rng
from dllm_tutorial.decoding.candidates import propose, rounding
from dllm_tutorial.decoding.strategy import TOKEN, Strategy, View, order_of
from dllm_tutorial.decoding.task import (
    State,
    Task,
    check_logits,
    check_rule,
    check_tokens,
    first_state,
    forbidden_tokens,
    lay_blocks,
    row_seeds,
    suppressed_flags,
)
from dllm_tutorial.denoiser import Denoiser

__all__ = ["Generation", "History", "generate", "step"]

LOOK = 4  # steps between two looks at whether all rows are done


@dataclass(frozen=True)
class History:
    """What happened at each of S steps; a finished row repeats its last state and time.

    Parameters
    ----------
    states : Tensor
        Long[S + 1, B, L]; state 0 is the prompt.
    confidence : Tensor
        Float64[S, B, L], the untempered probability of the token proposed at each
        masked position; NaN where the position was not masked or the row was finished.
    block : Tensor
        Long[S, B], the block being worked on, from 0.
    n_blocks : Tensor
        Long[B]
    mask_id : int
    time : Tensor or None
        Float64[S, B], the time at the end of each step, for strategies with a clock
        (ancestral, first-hitting, ReMDM); NaN in a row with nothing to fill. It falls
        within a block, which begins at t = 1; that beginning itself is not stored, so
        T equal steps begin with 1 - 1/T. ReMDM ends each block at 0. Ancestral and
        first-hitting end it when it is filled, most often at a time above 0.
    """

    states: Tensor
    confidence: Tensor
    block: Tensor
    n_blocks: Tensor
    mask_id: int
    time: Tensor | None = None


@dataclass(frozen=True)
class Generation:
    """``sequences`` Long[B, L], ``nfe`` Long[B] (evaluations of the denoiser while the
    row still had work to do), ``history`` (None unless recorded)."""

    sequences: Tensor
    nfe: Tensor
    history: History | None = None


def generate(
    denoiser: Denoiser,
    x: Tensor,
    strategy: Strategy,
    *,
    temperature: float = 0.0,
    top_p: float | None = None,
    suppress: Iterable[int] | None = None,
    block_length: int | None = None,
    generator: torch.Generator | None = None,
    seeds: Tensor | None = None,
    record: bool = False,
) -> Generation:
    """Fill the masked positions of ``x``; all other positions are kept.

    Prompting, infilling and blocks are one thing: ``x`` holds ``denoiser.mask_id``
    where a token is wanted. A row's answer depends on its own tokens and seed alone,
    not on the batch around it, as far as its logits do: those of an exact joint to the
    last bit; those of a network may differ in their last bits with the size of the
    batch, and the answer then only where two candidates are that close.

    Parameters
    ----------
    denoiser : Denoiser
        Gives logits Float[B, L, V]. The column of ``mask_id``, if it has one, is never
        drawn. Minus infinity marks an impossible token.
    x : Tensor
        Long[B, L], ids below V or the mask.
    strategy : Strategy
        From :mod:`dllm_tutorial.decoding.strategies`.
    temperature : float
        Tokens are drawn from softmax(logits / temperature); 0 takes the most probable
        one, the lowest id among equals (up to the rounding of the logits' dtype).
    top_p : float, optional
        Draw from the smallest set of most probable tokens whose tempered probability
        reaches this, up to rounding.
    suppress : iterable of int, optional
        Tokens never drawn, a list or a tensor [n] of ids, say; confidences are
        renormalised over the others.
    block_length : int, optional
        Tile each row from its first masked position and fill block after block.
    generator : torch.Generator, optional
        Draws one seed per row; None takes torch's default generator.
    seeds : Tensor, optional
        Long[B], the seeds of the rows, instead of drawing them.
    record : bool
        Keep the history.

    Raises
    ------
    TypeError
        Where an argument is not of its kind.
    ValueError
        For ids or arguments out of range, for fewer steps than blocks, where the
        denoiser reads from the left and the strategy goes another way, and where it
        gives a position that is to be filled NaN, +inf, or no token with a finite logit
        that is not suppressed, or the strategy ranks it NaN. These are looked for after
        1, 2, 4, 8, ... steps and at the end: each look waits for the device.
    """
    check_rule(strategy, denoiser, from_the_left=block_length == 1)
    mask_id = int(denoiser.mask_id)
    task = Task(
        denoiser,
        seeds=row_seeds(seeds, generator, check_tokens(x, denoiser)),
        temperature=_checks.number(temperature, "temperature", 0, open_right=True),
        top_p=top_p,
        suppressed=None,
        **lay_blocks(x == mask_id, block_length, strategy.steps),
    )
    if top_p is not None:
        _checks.in_unit_interval(top_p, "top_p", open_left=True)
    forbidden = forbidden_tokens(suppress)

    # A row takes at most this many steps, exactly this many where rounds is known.
    bound = task.budgets
    if strategy.rounds is not None:
        bound = strategy.rounds(task.sizes, task.budgets)
    state = first_state(x.clone())  # the caller's tensor is never handed on
    records = []
    with torch.no_grad():
        for i in range(int(bound.sum(-1).max())):
            logits = check_logits(denoiser(state.x), x)
            if i == 0:
                _checks.token_range(x, "x", logits.shape[-1], mask_id)
                vocabulary = suppressed_flags(forbidden, mask_id, logits)
                task = replace(task, suppressed=vocabulary)
            before, state = state, step(strategy, task, state, logits)
            if record:
                records.append(_record(task, before, state))
            look = strategy.rounds is None and i % LOOK == LOOK - 1
            if look or (i + 1) & i == 0:  # the latter after 1, 2, 4, 8, ... steps
                _check_faults(strategy, state)
            if look and not bool(state.active(task).any()):
                break
    _check_faults(strategy, state)
    history = _history(task, x, state, records) if record else None
    return Generation(state.x, state.nfe, history)


def step(strategy: Strategy, task: Task, state: State, logits: Tensor) -> State:
    """One step of all rows, without the forward pass that gave ``logits``.

    Fixed shapes and no look at any value: it compiles as one graph.
    """
    view = _look(strategy, task, state, logits)
    if strategy.start is not None and not state.memory:
        view.memory.update(strategy.start(view))
    score = strategy.rank(view)
    quota = strategy.quota(view, score)
    last = view.step + 1 >= view.steps
    quota = torch.where(last, view.n_masked, quota)
    order = order_of(score, view.masked, view.rounding)
    reveal = view.masked & (order < quota[:, None])
    x = torch.where(reveal, view.found.token, state.x)
    shown = torch.where(reveal, view.found.confidence, state.shown)
    if strategy.revise is not None:
        again = strategy.revise(view, score, reveal)
        again = again & view.fillable & ~view.masked & ~last[:, None]
        x = torch.where(again, task.denoiser.mask_id, x)

    finished = ~(view.fillable & (x == task.denoiser.mask_id)).any(-1)
    if strategy.clocked:
        finished = finished & last
    active = state.active(task)
    waiting = active[:, None] & (state.x == task.denoiser.mask_id)
    return State(
        x,
        state.block + (active & finished),
        torch.where(finished, 0, state.block_step + 1),
        state.nfe + active,
        shown,
        torch.where(waiting, view.found.confidence, torch.nan),
        state.fault | _faults(view, strategy, score),
        view.memory,
    )


def _look(strategy: Strategy, task: Task, state: State, logits: Tensor) -> View:
    current = task.block_of == state.block[:, None]  # nowhere where the row is done
    fillable = current & ~task.given
    masked = fillable & (state.x == task.denoiser.mask_id)
    block = state.block.clamp(max=task.sizes.shape[-1] - 1)[:, None]
    places = torch.arange(state.x.shape[-1], device=state.x.device)

    def uniform(stream: int) -> Tensor:
        return counter_rng.uniform(task.seeds, state.nfe, places, stream)

    found = propose(
        logits,
        uniform(TOKEN) if task.temperature > 0 else state.shown,
        temperature=task.temperature,
        top_p=task.top_p,
        suppressed=task.suppressed,
        want=strategy.needs,
    )
    return View(
        masked=masked,
        fillable=fillable,
        n_masked=masked.sum(-1),
        size=task.sizes.gather(-1, block)[:, 0],
        step=state.block_step,
        steps=task.budgets.gather(-1, block)[:, 0].clamp(min=1),
        place=task.place,
        length=task.length,
        found=found,
        rounding=rounding(logits.dtype),
        shown=state.shown,
        memory=dict(state.memory),
        uniform=uniform,
        leave_one_out=partial(leave_one_out, task, state),
    )


def leave_one_out(task: Task, state: State) -> Tensor:
    """Float64[B, L]: probability of each token of the current block given all others.

    One extra call of the denoiser on B * block_length rows, each with one position
    masked; meaningless outside the block and where the token is masked already.
    """
    batch, length = state.x.shape
    first = (task.block_of < state.block[:, None]).sum(-1, keepdim=True)
    width = torch.arange(task.block_length, device=state.x.device)
    places = (first + width).clamp(max=length - 1)[..., None]  # [B, W, 1]
    rows = state.x[:, None].expand(-1, task.block_length, -1)
    logits = task.denoiser(
        rows.scatter(-1, places, task.denoiser.mask_id).flatten(0, 1)
    )
    logits = logits.view(batch, task.block_length, length, -1)
    logits = logits.gather(2, places[..., None].expand(-1, -1, 1, logits.shape[-1]))
    if task.suppressed is not None:
        logits = logits.masked_fill(task.suppressed, -torch.inf)
    token = rows.gather(-1, places).clamp(max=logits.shape[-1] - 1)
    p = logits[:, :, 0].to(torch.float64).softmax(-1).gather(-1, token)[..., 0]
    return torch.zeros_like(state.shown).scatter_(-1, places[..., 0], p)


def _faults(view: View, strategy: Strategy, score: Tensor) -> Tensor:
    """Bool[3]: is a peak that is used NaN or +inf; is one -inf; is a score NaN?"""
    used = view.fillable if "revealed" in strategy.needs else view.masked
    peak = torch.where(used, view.found.peak, 0.0)
    broken, empty = ~(peak.amax() < torch.inf), peak.amin() == -torch.inf
    return torch.stack([broken, empty, (view.masked & score.isnan()).any()])


def _check_faults(strategy: Strategy, state: State) -> None:
    broken, empty, unranked = state.fault.tolist()
    if broken:
        raise ValueError(
            "denoiser must give logits without NaN and +inf at positions to fill"
        )
    if empty:
        raise ValueError(
            "denoiser must leave a token to draw at every position to fill: all logits "
            "of the tokens that are not suppressed (the mask is) were -inf"
        )
    if unranked:
        raise ValueError(
            f"strategy {strategy} must rank every position to fill, its scores held NaN"
        )


def _record(task: Task, before: State, after: State) -> tuple[Tensor | None, ...]:
    block = torch.minimum(before.block, (task.n_blocks - 1).clamp(min=0))
    return after.x, after.proposed, block, after.memory.get("time")


def _history(task: Task, x: Tensor, state: State, records: list) -> History:
    """The steps until the last row finished; those before that was seen are dropped."""
    records = records[: int(state.nfe.max())]
    states, proposed, block, time = zip(*records, strict=True) if records else [()] * 4
    batch, length = x.shape
    none = state.proposed.new_empty(0, batch, length)
    clocked = bool(records) and time[0] is not None
    return History(
        states=torch.stack([x, *states]),
        confidence=torch.stack(proposed) if records else none,
        block=torch.stack(block) if records else none[..., 0].long(),
        n_blocks=task.n_blocks,
        mask_id=task.denoiser.mask_id,
        time=_until_done(torch.stack(time), state.nfe) if clocked else None,
    )


def _until_done(time: Tensor, nfe: Tensor) -> Tensor:
    """``time`` Float64[S, B]: a row is at work for its first ``nfe`` steps; after that
    it repeats the last of them, NaN if it has none."""
    steps = torch.arange(len(time), device=time.device)[:, None]
    kept = time.gather(0, torch.minimum(steps, (nfe - 1).clamp(min=0)))
    return torch.where(nfe > 0, kept, torch.nan)
