"""Helpers of the book *The Limits of Diffusion Language Models*."""

__version__ = "0.1.0"
