"""Helpers of the book *The Limits of Diffusion Language Models*."""

from __future__ import annotations

import platform

import torch

__version__ = "0.1.0"


def device() -> torch.device:
    """Where the chapters put networks and batches: on the GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def environment(profile: str) -> str:
    """One line on where a notebook runs: Python, torch, device and profile."""
    where = torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
    return (
        f"python {platform.python_version()} | torch {torch.__version__} | "
        f"{where} | profile {profile}"
    )
