"""Decoding: one loop, and strategies made of rank x quota x revise."""

from dllm_tutorial.decoding import strategies
from dllm_tutorial.decoding.loop import Generation, History, generate
from dllm_tutorial.decoding.strategy import Strategy

__all__ = ["Generation", "History", "Strategy", "generate", "strategies"]
