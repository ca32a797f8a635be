"""The trained networks that ship with the book."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import torch
from torch import Generator

import dllm_tutorial
from dllm_tutorial import _checks, lora, packing, text
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.training import load_weights

__all__ = ["FOLDER", "NAMES", "load", "load_network", "weights_hash"]

NAMES = ("dllm", "ar")
FOLDER = Path(str(files("dllm_tutorial") / "data" / "weights"))


def load_network(
    name: str, device: torch.device | str | None = None
) -> tuple[Transformer, dict]:
    """A trained denoiser in eval mode, in float32, and what is known of it.

    Parameters
    ----------
    name
        Of a JSON file in ``dllm_tutorial/data/weights``: a text model, or
        ``"tasks-dllm-0"`` and the like (:mod:`dllm_tutorial.train_tasks`). Adapters
        are merged into the network that they were trained on.
    device
        Where the network is put; by default :func:`dllm_tutorial.device`.

    Raises
    ------
    ValueError
        For another name, or if the weights do not match their hash.
    """
    _checks.one_of(name, "name", sorted(path.stem for path in FOLDER.glob("*.json")))
    tensors, about = load_weights(FOLDER / f"{name}.json")
    weights = packing.unpack(tensors)
    if "base" in about:
        model, _ = load_network(about["base"], "cpu")
        lora.adapt(model, about["rank"], Generator())
        model.load_state_dict(weights, strict=False)
        lora.merge(model)
    else:
        model = Transformer(TransformerConfig(**about["model"]))
        model.load_state_dict(weights)
    return model.eval().to(device or dllm_tutorial.device()), about


def weights_hash(name: str) -> str:
    """What rows say of the weights they were measured with: 12 digits of their SHA-256.

    Adapters have those of the network they are merged into before their own, with a
    plus sign between them. ``name`` is that of :func:`load_network`.
    """
    pointer = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    own = pointer["sha256"][:12]
    base = pointer["about"].get("base")
    return own if base is None else f"{weights_hash(base)}+{own}"


def load(
    name: str, device: torch.device | str | None = None
) -> tuple[Transformer, text.Tokenizer]:
    """A text model and its tokenizer.

    Parameters
    ----------
    name
        ``"dllm"``, the masked diffusion model, or ``"ar"``, its autoregressive twin:
        same data, parameters, updates and tokens seen. Nothing is downloaded.
    device
        Where the model is put; by default :func:`dllm_tutorial.device`.

    Raises
    ------
    ValueError
        For another name, or if the weights do not match their hash.
    """
    model, about = load_network(_checks.one_of(name, "name", NAMES), device)
    return model, text.tokenizer(about["tokenizer"])
