"""A training loop that a notebook can watch, and checkpoints that survive a kill.

:func:`train` is a generator: it takes one step, yields what happened, and waits. Every
random number of step n comes from (seed, n) alone, so a run that was interrupted
and resumed makes the same steps as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dllm_tutorial import _checks, _random, losses
from dllm_tutorial._files import locked, write_whole
from dllm_tutorial.muon import Muon
from dllm_tutorial.networks import Transformer


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Parameters
    ----------
    steps, batch_size
        Number of updates and sequences per update.
    lr
        Peak learning rate, after a linear warmup over ``warmup`` steps.
    weight_decay
        Of the matrices; norms and biases are left alone.
    clip
        Largest norm of the gradient.
    ema
        Decay of the moving average of the weights.
    seed
        Of the order of the data and of all noise.
    decay
        ``"cosine"``: half a cosine down to a rate of zero. ``"trapezoid"``: none
        until the last 30 % of the steps, then linear to zero (Hägele et al., 2024):
        up to there, a run is what the beginning of a longer one would be.
    optimizer
        ``"adamw"`` (Loshchilov and Hutter, 2019), or ``"muon"``, which needs fewer
        steps: :class:`dllm_tutorial.muon.Muon` for the matrices of the blocks, AdamW
        for the rest.
    bf16
        Whether products of matrices are in bfloat16 (autocast), in the network and in
        Muon; the weights stay as they are. ``None``: on a GPU only. Wide networks on a
        processor with units for it (AMX) gain time, others lose it.
    """

    steps: int
    batch_size: int = 16
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    optimizer: str = "adamw"
    decay: str = "cosine"
    bf16: bool | None = None

    def __post_init__(self) -> None:
        _checks.one_of(self.optimizer, "optimizer", ("adamw", "muon"))
        _checks.one_of(self.decay, "decay", ("cosine", "trapezoid"))
        if not (self.bf16 is None or isinstance(self.bf16, bool)):
            raise TypeError(f"bf16 must be a bool or None, got {self.bf16!r}")
        decay, number = self.weight_decay, _checks.number
        checked = {
            "steps": _checks.integer(self.steps, "steps", 1),
            "batch_size": _checks.integer(self.batch_size, "batch_size", 1),
            "lr": number(self.lr, "lr", 0, open_left=True, open_right=True),
            "warmup": _checks.integer(self.warmup, "warmup", 0),
            "weight_decay": number(decay, "weight_decay", 0, open_right=True),
            "clip": number(self.clip, "clip", 0, open_left=True),
            "ema": number(self.ema, "ema", 0, 1, open_right=True),
            "seed": _checks.integer(self.seed, "seed", 0),
        }
        for name, value in checked.items():  # numpy's numbers become Python's
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Record:
    """What happened in one step.

    Attributes
    ----------
    step : int
        Updates made so far.
    loss : float
        Training loss of the step, nats per token.
    lr : float
        Learning rate of the step.
    held_out : tuple of float, optional
        What ``evaluate`` returned, where it was asked: (mean, standard error).
    """

    step: int
    loss: float
    lr: float
    held_out: tuple[float, float] | None = None


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate of update ``step`` (0-based): warmup, then the decay."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.decay == "trapezoid":
        return config.lr * min(1, (config.steps - step) / (0.3 * config.steps))
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (1 + math.cos(math.pi * progress)) / 2


def step_generator(seed: int, step: int) -> Generator:
    """The source of all random numbers of one step, a function of (seed, step).

    It draws on the CPU: a network meets the same batches and masks on any device.
    """
    state = np.random.SeedSequence([seed, step]).generate_state(2, np.uint32)
    joined = int(state[0]) << 31 | int(state[1]) >> 1
    return Generator().manual_seed(joined)


def random_crops(stream: Tensor, length: int) -> Callable[[int, Generator], Tensor]:
    """A source of batches: Long[B, length] cut anywhere from ``stream: Long[N]``."""
    _checks.tokens(stream, "stream", ndim=1)
    if len(stream) < _checks.integer(length, "length", 1):
        raise ValueError(
            f"stream must have at least {length} tokens, got {len(stream)}"
        )

    def draw(batch_size: int, generator: Generator) -> Tensor:
        start = torch.randint(
            len(stream) - length + 1, (batch_size, 1), generator=generator
        )
        return stream[_random.move(start + torch.arange(length), stream.device)]

    return draw


def random_rows(rows: Tensor) -> Callable[[int, Generator], Tensor]:
    """A source of batches: Long[B, L], rows drawn from ``rows: Long[N, L]``."""
    _checks.tokens(rows, "rows")

    def draw(batch_size: int, generator: Generator) -> Tensor:
        chosen = torch.randint(len(rows), (batch_size,), generator=generator)
        return rows[_random.move(chosen, rows.device)]

    return draw


def natural_loss(model: Transformer, x0: Tensor, generator: Generator) -> Tensor:
    """The model's own loss, nats per token: exact NLL if causal, NELBO if not.

    A causal network is trained from left to right; a bidirectional one with exactly
    l masks, l uniform and stratified over the batch, which is the least noisy of the
    draws of :mod:`dllm_tutorial.masking`.
    """
    if model.config.attention == "causal":
        per_row = losses.ar_loss(model, x0)
    else:
        per_row = losses.exact_count_loss(model, x0, generator=generator)
    return per_row.mean() / x0.shape[1]


class Ema:
    """Moving average of a model's weights, with a short memory at the start.

    After update n (1-based) the decay is min(``decay``, (1 + n) / (10 + n)).

    Attributes
    ----------
    weights : dict of str to Tensor
        Named as in the model's ``state_dict``, in float32 at least: in half precision
        an update of less than 1 / 256 of a weight is rounded away. What is no float is
        the model's own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = _checks.number(decay, "decay", 0, 1)
        self.weights = {
            k: _wide(v.detach().clone()) for k, v in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after update ``step`` (1-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            mean = self.weights[name]
            if mean.is_floating_point():
                mean.lerp_(_wide(value), 1 - decay)
            else:
                mean.copy_(value)


def _wide(value: Tensor) -> Tensor:
    """Floats in float32 at least, anything else as it is."""
    if not value.is_floating_point():
        return value
    return value.to(torch.promote_types(value.dtype, torch.float32))


def train(
    model: Transformer,
    draw: Callable[[int, Generator], Tensor],
    config: TrainingConfig,
    *,
    loss: Callable[[Transformer, Tensor, Generator], Tensor] = natural_loss,
    evaluate: Callable[[Transformer], tuple[float, float]] | None = None,
    evaluate_every: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
) -> Iterator[Record]:
    """Train ``model`` in place and yield a :class:`Record` after every step.

    When the last step is done the model holds the averaged (EMA) weights.

    Parameters
    ----------
    model
        A network on the device it shall be trained on, in float32 or float64: its
        weights add up the updates, most of which half precision would round away.
        ``config.bf16`` multiplies in half precision.
    draw
        ``draw(batch_size, generator) -> Long[B, L]``, e.g. :func:`random_crops`. The
        generator is on the CPU, the batch is moved to the model's device.
    config
        See :class:`TrainingConfig`.
    loss
        ``loss(model, x, generator)``, a scalar in nats per token.
    evaluate
        ``evaluate(model) -> (mean, standard error)``; sees the EMA weights, every
        ``evaluate_every`` steps and after the last one.
    checkpoint
        A folder. If it holds a checkpoint of the same configuration, training goes
        on from there; a new one is written every ``checkpoint_every`` steps, as soon
        as the next record is asked for: whoever keeps the records in a file has a
        step there before it is in a checkpoint, and after a kill sees it again.

    Raises
    ------
    ValueError
        If the checkpoint is damaged or of another configuration, or if the network is
        in half precision.
    RuntimeError
        If another process is filling the folder.
    """
    _checks.integer(checkpoint_every, "checkpoint_every", 1)
    narrow = {p.dtype for p in model.parameters() if _wide(p).dtype != p.dtype}
    if narrow:
        raise ValueError(f"model must be in float32 or float64, got {narrow}")
    optimizers = _optimizers(model, config)
    ema = Ema(model, config.ema)
    folder = None if checkpoint is None else Path(checkpoint)
    # a loop over the records that was broken off may still hold this generator
    with locked(folder, in_process=False) if folder else nullcontext():
        step = _resume(folder, model, optimizers, ema, config) if folder else 0
        while step < config.steps:
            lr = learning_rate(step, config)
            generator = step_generator(config.seed, step)
            value = _update(model, draw, loss, optimizers, config, lr, generator)
            step += 1
            ema.update(model, step)
            last = step == config.steps
            held_out = None
            if evaluate and (last or (evaluate_every and step % evaluate_every == 0)):
                held_out = _with_weights(model, ema.weights, evaluate)
            if last:  # nobody trains on from here: the checkpoint may have these, too
                model.load_state_dict(ema.weights)
            yield Record(step, value.item(), lr, held_out)
            if folder and (last or step % checkpoint_every == 0):
                _write_checkpoint(folder, model, optimizers, ema, config, step)
    # also where the checkpoint that was found was already complete
    model.load_state_dict(ema.weights)
    model.eval()


def _update(
    model: Transformer,
    draw: Callable[[int, Generator], Tensor],
    loss: Callable[[Transformer, Tensor, Generator], Tensor],
    optimizers: list[torch.optim.Optimizer],
    config: TrainingConfig,
    lr: float,
    generator: Generator,
) -> Tensor:
    """One update, from the batch to the new weights; the loss, Float[].

    Nothing in it waits for the device, if nothing in ``loss`` does.
    """
    device = next(model.parameters()).device
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
    model.train()
    with torch.random.fork_rng():  # dropout draws from the global generators
        torch.manual_seed(generator.initial_seed())
        x = _random.move(draw(config.batch_size, generator), device)
        with _precision(device, config.bf16):
            value = loss(model, x, generator)
        model.zero_grad()
        value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    with _precision(device, config.bf16):  # Muon multiplies matrices, too
        for optimizer in optimizers:
            optimizer.step()
    return value.detach()


@contextmanager
def _precision(device: torch.device, bf16: bool | None) -> Iterator[None]:
    """Where products of matrices are in bfloat16, if they shall be."""
    on_cpu = device.type == "cpu"
    wanted = not on_cpu if bf16 is None else bf16
    if not wanted:
        yield
        return
    # on a CPU the fused attention's backward pass is slow in bfloat16
    attention = sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()
    with attention, torch.autocast(device.type, torch.bfloat16):
        yield


def _optimizers(
    model: Transformer, config: TrainingConfig
) -> list[torch.optim.Optimizer]:
    """AdamW, after Muon for the matrices of the blocks where it is asked for."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    inner: list[Tensor] = []
    if config.optimizer == "muon":
        inner = [p for p in model.blocks.parameters() if p.ndim == 2]
        kept = set(inner)  # tensors hash by identity
        matrices = [p for p in matrices if p not in kept]
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(0.9, 0.98),
    )
    if not inner:
        return [adamw]
    return [Muon(inner, config.lr, weight_decay=config.weight_decay), adamw]


def _with_weights(
    model: Transformer,
    weights: dict[str, Tensor],
    evaluate: Callable[[Transformer], tuple[float, float]],
) -> tuple[float, float]:
    """``evaluate(model)`` in eval mode with other weights, which are then put back."""
    own = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    model.eval()
    try:
        with torch.no_grad():
            return evaluate(model)
    finally:
        model.load_state_dict(own)


# -- files ---------------------------------------------------------------------------


def save_weights(path: str | Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Write ``tensors`` (safetensors) and ``about`` (JSON) so that neither is half.

    ``path`` is the JSON file. It names the file of tensors beside it and holds the
    SHA-256 of both, and it is replaced last, in one move: a kill at any moment
    leaves the old pair or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save_tensors({k: v.detach().contiguous() for k, v in tensors.items()})
    digest = _digest(about, data)
    name = f"{path.stem}-{digest[:12]}.safetensors"
    write_whole(path.parent / name, data)
    pointer = {"about": about, "weights": name, "sha256": digest}
    write_whole(path, (json.dumps(pointer, indent=1) + "\n").encode())
    for old in path.parent.glob(f"{path.stem}-????????????.safetensors"):
        if old.name != name:
            old.unlink()


def fingerprint(model: nn.Module) -> str:
    """12 digits of the SHA-256 of a network's weights, to the last bit."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    return hashlib.sha256(save_tensors(tensors)).hexdigest()[:12]


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read what :func:`save_weights` wrote: (tensors, about).

    Raises ValueError if ``path`` is damaged or the hash of the two does not match.
    """
    path = Path(path)
    try:
        pointer = json.loads(path.read_bytes())
        about, digest = pointer["about"], pointer["sha256"]
        weights = path.parent / pointer["weights"]
    except (ValueError, TypeError, KeyError):  # cut off, or not from here
        raise ValueError(
            f"path must name weights and their SHA-256, but {path} is damaged: "
            "put a copy in its place, or remove it to train anew"
        ) from None
    data = weights.read_bytes()
    if _digest(about, data) != digest:
        raise ValueError(f"{path.name} and {weights.name} do not match their SHA-256")
    return load_tensors(data), about


def _digest(about: dict, data: bytes) -> str:
    text = json.dumps(about, sort_keys=True).encode()
    return hashlib.sha256(text + b"\n" + data).hexdigest()


# What AdamW and Muon remember of each parameter.
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum")


def averaged_weights(folder: str | Path) -> tuple[dict[str, Tensor], dict]:
    """The EMA weights of a checkpoint folder, and what is known about them.

    The second is a dict of ``model`` and ``training`` (the two configurations) and
    ``step``, the number of updates made.
    """
    tensors, about = load_weights(Path(folder) / "checkpoint.json")
    return _part(tensors, "ema."), about


def _about(model: Transformer, config: TrainingConfig) -> dict:
    return {"model": asdict(model.config), "training": asdict(config)}


def _write_checkpoint(
    folder: Path,
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    ema: Ema,
    config: TrainingConfig,
    step: int,
) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.weights.items()}
    for optimizer in optimizers:
        for name, p in model.named_parameters():
            state = optimizer.state.get(p, {})
            tensors |= {f"state.{k}.{name}": state[k] for k in MOMENTS if k in state}
    about = _about(model, config) | {"step": step}
    save_weights(folder / "checkpoint.json", tensors, about)


def _resume(
    folder: Path,
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    ema: Ema,
    config: TrainingConfig,
) -> int:
    """Load a checkpoint if there is one; returns the number of steps already made."""
    path = folder / "checkpoint.json"
    if not path.exists():
        return 0
    tensors, about = load_weights(path)
    step = about.pop("step")
    if about != _about(model, config):
        raise ValueError(
            f"checkpoint must hold a run of this configuration, got {about}"
        )
    device = next(model.parameters()).device
    tensors = {k: v.to(device) for k, v in tensors.items()}
    model.load_state_dict(_part(tensors, "model."))
    ema.weights = _part(tensors, "ema.")
    parameters = dict(model.named_parameters())
    for optimizer in optimizers:
        mine = {p for group in optimizer.param_groups for p in group["params"]}
        for key in MOMENTS:
            for name, value in _part(tensors, f"state.{key}.").items():
                if parameters[name] in mine:
                    optimizer.state[parameters[name]][key] = value
        if isinstance(optimizer, torch.optim.AdamW):
            for p in mine:
                optimizer.state[p]["step"] = torch.tensor(float(step))
    return step


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        k.removeprefix(prefix): v
        for k, v in tensors.items()
        if k[: len(prefix)] == prefix
    }
