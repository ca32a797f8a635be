"""Helpers of the book *The Limits of Diffusion Language Models*."""

from __future__ import annotations

import platform

import torch

__version__ = "0.1.0"


def environment(profile: str) -> str:
    """One line on where a notebook runs: Python, torch, device and profile."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (
        f"python {platform.python_version()} | torch {torch.__version__} | "
        f"{device} | profile {profile}"
    )
