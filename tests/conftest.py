"""Settings of all tests: one thread if not told, and the same examples at every run."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, settings

if "OMP_NUM_THREADS" not in os.environ:  # as in make portable
    torch.set_num_threads(1)
settings.register_profile(
    "book",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("book")
