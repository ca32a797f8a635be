"""n-gram models: what counting alone can do, the floor under every trained model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from dllm_tutorial import _checks

__all__ = ["WittenBell"]


class WittenBell:
    r"""Interpolated n-grams with Witten-Bell smoothing.

    .. math:: p_k(c \mid h) = \frac{N(hc) + T(h)\, p_{k-1}(c \mid h')}{N(h) + T(h)}

    h is the last k tokens, h' the last k - 1, N counts, T(h) is how many different
    tokens followed h, and the recursion ends at 1 / V (Witten and Bell 1991, method C;
    Chen and Goodman 1999, section 2.4). A context that was never seen falls back.

    Parameters
    ----------
    tokens : Int[N]
        Training text, tokens below ``vocab_size``.
    order : int
        n: a token is predicted from at most n - 1 tokens before it.
    vocab_size : int
        V; ``vocab_size ** order`` must fit into 63 bits.
    """

    def __init__(self, tokens: ArrayLike, order: int, vocab_size: int) -> None:
        # as Python's integers, whose powers do not wrap around as numpy's do
        self.order = order = _checks.integer(order, "order", 1)
        self.vocab_size = vocab_size = _checks.integer(vocab_size, "vocab_size", 1)
        if vocab_size**order >= 2**63:
            raise ValueError(
                f"vocab_size ** order must be below 2**63, got {vocab_size} ** {order}"
            )
        tokens = self._checked(tokens)
        if len(tokens) < order:
            raise ValueError(f"tokens must hold at least {order}, got {len(tokens)}")
        # level k: grams of k + 1 tokens as one integer each, and their contexts
        self._levels = []
        for k in range(order):
            grams, count = np.unique(self._codes(tokens, k + 1), return_counts=True)
            contexts, first = np.unique(grams // vocab_size, return_index=True)
            total = np.add.reduceat(count, first)  # N(h); grams are sorted by h
            types = np.diff(np.append(first, len(grams)))  # T(h)
            self._levels.append((grams, count, contexts, total, types))

    def log_prob(self, tokens: ArrayLike, order: int | None = None) -> np.ndarray:
        """log p of each token given those before it in ``tokens``: Float64[n], nats.

        Nothing is known before the first token. ``order`` may be any up to the
        model's own.
        """
        tokens = self._checked(tokens)
        order = self.order if order is None else _checks.integer(order, "order", 1)
        if order > self.order:
            raise ValueError(f"order must be at most {self.order}, got {order}")
        p = np.full(len(tokens), 1 / self.vocab_size)
        for k, level in enumerate(self._levels[:order]):
            grams, count, contexts, total, types = level
            code = self._codes(tokens, k + 1)  # of positions k, k + 1, ...
            n, _ = _look_up(grams, count, code)
            h, seen = _look_up(contexts, total, code // self.vocab_size)
            t, _ = _look_up(contexts, types, code // self.vocab_size)
            mixed = (n + t * p[k:]) / np.maximum(h + t, 1)
            p[k:] = np.where(seen, mixed, p[k:])
        return np.log(p)

    def _checked(self, tokens: ArrayLike) -> np.ndarray:
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise TypeError(
                f"tokens must be Int[n], got {tokens.dtype} of shape {tokens.shape}"
            )
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.vocab_size):
            raise ValueError(
                f"tokens must lie in 0 ... {self.vocab_size - 1}, got "
                f"{tokens.min()} ... {tokens.max()}"
            )
        return tokens.astype(np.int64)

    def _codes(self, tokens: np.ndarray, n: int) -> np.ndarray:
        """Each run of n tokens as one integer, the newest token the lowest digit."""
        count = max(0, len(tokens) - n + 1)
        code = np.zeros(count, dtype=np.int64)
        for i in range(n):
            code = code * self.vocab_size + tokens[i : i + count]
        return code


def _look_up(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values at the wanted keys, 0 where there is none, and whether there was one."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = keys[place] == wanted
    return np.where(found, values[place], 0), found
