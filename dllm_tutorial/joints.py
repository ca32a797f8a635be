"""Joint distributions that are known exactly, each of them a denoiser.

A joint over ``length`` tokens answers every question of the book with the truth: its
entropies and total correlations, the probability of a sequence, samples, and, called
as a denoiser, the exact conditional distribution of each position given whatever
tokens are revealed. All entropies are in nats.

Three conventions hold for every joint.

* ``mask_id == vocab_size``; the mask has no probability because it has no column.
* A revealed position answers with the point mass on its own token.
* Evidence of probability zero, which a parallel step can produce, is answered by the
  uniform distribution over the vocabulary at every position, and ``log_prob`` is
  -inf. A token outside the vocabulary raises ``ValueError``; off the CPU, where a
  look would make the host wait at every step, a call takes it for such evidence.

The answer for a row never depends on the other rows of the batch, to the last bit:
greedy decoding decides its ties by those bits. Nor does it lose precision where the
evidence is rare: a conditional is right to rounding whatever its tokens weigh.
"""

from __future__ import annotations

import copy as _copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self

import torch
from scipy.sparse import csgraph
from torch import Tensor
from torch.nn.functional import one_hot

from dllm_tutorial import _checks, _random

__all__ = [
    "Joint",
    "MarkovChain",
    "Shuffle",
    "TableJoint",
    "after_plan",
    "cities",
    "copy",
    "latin_square",
    "replace_index",
    "replace_random",
    "reverse",
    "shuffle",
    "sort",
    "sudoku",
]

Positions = Iterable[int] | None


class Joint(ABC):
    """An exactly known distribution over sequences of ``length`` tokens.

    Attributes
    ----------
    length, vocab_size : int
        Number of positions and of tokens.
    words : tuple of str
        A readable name for each token.
    device, dtype
        Where samples are put; the type of the log-probabilities. Arithmetic is done in
        float64 whatever ``dtype`` is.
    """

    reads = "set"  # see dllm_tutorial.denoiser

    def __init__(
        self, length: int, vocab_size: int, words: Sequence[str] | None = None
    ) -> None:
        self.length = _checks.integer(length, "length", 1)
        self.vocab_size = _checks.integer(vocab_size, "vocab_size", 1)
        self.words = tuple(words or (str(v) for v in range(vocab_size)))
        if len(self.words) != vocab_size:
            raise ValueError(f"words must name {vocab_size} tokens, got {self.words}")
        self.device = torch.device("cpu")
        self.dtype = torch.float64

    @property
    def mask_id(self) -> int:
        """The token id that marks a masked position: ``vocab_size``."""
        return self.vocab_size

    @abstractmethod
    def _conditionals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unnormalised conditionals in float64.

        Parameters
        ----------
        x : Long[B, L]
            Sequences; masked positions hold ``mask_id``.

        Returns
        -------
        Float64[B, L, V]
            Proportional, for each row and position, to P(x_i = v | revealed tokens).
        Float64[B]
            The row's common sum over v; zero where the evidence has probability zero.
        """

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability ``Float[B]`` of fully revealed sequences ``x: Long[B, L]``.

        It is -inf outside the support. A mask or a token outside the vocabulary raises
        ``ValueError``.
        """

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` independent sequences, ``Long[n, L]``."""

    @abstractmethod
    def table(self) -> TableJoint:
        """The same distribution as a table; ``ValueError`` if that is too large."""

    @abstractmethod
    def _block_entropy(self, positions: tuple[int, ...]) -> float:
        """Entropy of the tokens at distinct, sorted ``positions``, in nats."""

    def __call__(self, x: Tensor) -> Tensor:
        """Exact log-conditionals ``Float[B, L, V]`` of ``x: Long[B, L]``."""
        x = _checks.tokens(x, "x", length=self.length)
        _checks.token_range(x, "x", self.vocab_size, self.mask_id, wait=False)
        return self._log_conditionals(x).to(self.dtype)

    def _log_conditionals(self, x: Tensor) -> Tensor:
        """Float64[B, L, V], uniform where the evidence has probability zero."""
        mass, total = self._conditionals(x)
        total = total[:, None, None]
        uniform = torch.full_like(mass, 1 / self.vocab_size)
        return torch.where(total > 0, mass / total, uniform).log()

    def entropy(self, positions: Positions = None, given: Positions = None) -> float:
        """Conditional entropy H(positions | given), in nats.

        Parameters
        ----------
        positions, given : iterable of int, optional
            Positions; by default all of them, given none. ``given`` is averaged over
            the values its tokens can take.
        """
        block = self._places(positions, "positions")
        past = self._places(() if given is None else given, "given")
        both = tuple(sorted({*block, *past}))
        return self._block_entropy(both) - self._block_entropy(past)

    def total_correlation(
        self, positions: Positions = None, given: Positions = None
    ) -> float:
        """Conditional total correlation of ``positions`` given ``given``, in nats.

        .. math:: C(S \\mid G) = \\sum_{i \\in S} H(x_i \\mid x_G) - H(x_S \\mid x_G)

        What it costs, in Kullback-Leibler divergence, to draw the tokens of S at once
        and independently when those of G are known (Kang et al. 2025, Theorems 1-2).
        """
        block = self._places(positions, "positions")
        past = self._places(() if given is None else given, "given")
        apart = math.fsum(self.entropy([i], past) for i in block)
        return apart - self.entropy(block, past)

    def text(self, x: Tensor) -> str:
        """One sequence ``x: Long[L]`` in words; a masked position is shown as ``_``.

        Any other id that is not a token raises ``ValueError``.
        """
        x = _checks.tokens(x, "x", ndim=1)
        _checks.token_range(x, "x", self.vocab_size, self.mask_id)
        names = (*self.words, "_")
        return " ".join(names[token] for token in x.tolist())

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """The same joint on another device, answering in another floating type."""
        moved = _copy.copy(self)
        if device is not None:
            moved.device = torch.device(device)
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(moved, name, value.to(device))
        if dtype is not None:
            if not dtype.is_floating_point:
                raise TypeError(f"dtype must be a floating type, got {dtype}")
            moved.dtype = dtype
        return moved

    def _full(self, x: Tensor, name: str = "x") -> Tensor:
        """Fully revealed sequences of any integer type, checked: ``Long[B, L]``."""
        x = _checks.tokens(x, name, length=self.length)
        return _checks.token_range(x, name, self.vocab_size)

    def _places(self, values: Positions, name: str) -> tuple[int, ...]:
        """Distinct, sorted positions; ``None`` means all of them."""
        listed = values.tolist() if isinstance(values, Tensor) else values
        if listed is not None and not isinstance(listed, Iterable):
            raise TypeError(f"{name} must be a sequence of positions, got {values!r}")
        return _checks.positions(listed, name, self.length)

    def _uniform(self, n: int, generator: torch.Generator | None) -> Tensor:
        """``n`` uniform numbers in [0, 1)."""
        return _random.uniform((n,), generator, self.device)


def _inverse_cdf(p: Tensor, u: Tensor) -> Tensor:
    """The index at which the cumulative sum of ``p`` passes ``u`` in [0, 1).

    ``p: Float64[M]`` or one distribution a draw, ``Float64[n, M]``; ``u: Float64[n]``.
    An entry of probability zero is never chosen.
    """
    cumulative = p.cumsum(-1)
    target = u * cumulative[..., -1]
    if p.ndim == 1:
        return torch.searchsorted(cumulative, target, right=True)
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]


def _entropy_of(p: Tensor) -> float:
    return torch.special.entr(p).sum().item()


# --------------------------------------------------------------------------- tables

_MATCH_CELLS = 1 << 24  # rows x support entries that are compared at once (128 MiB)


class TableJoint(Joint):
    """A distribution given as a list of sequences and their probabilities.

    Parameters
    ----------
    support : Long[M, L]
        Distinct sequences of tokens 0 ... vocab_size - 1.
    probs : Float[M], optional
        Their probabilities; they must sum to 1 within 1e-6 and are then divided by
        their sum in float64. By default all sequences are equally likely.
    vocab_size : int
        Number of tokens.
    words : sequence of str, optional
        Readable names of the tokens.

    Notes
    -----
    A conditional is a ratio of two sums over the support. The sums are matrix products,
    whose order of addition depends on the size of the batch. So that the answer does
    not, the weights are whole numbers: ones for a uniform table, otherwise fixed-point
    numbers, each digit small enough for any sum over the support to stay below 2^53,
    where float64 adds exactly. There are as many digits as the smallest probability
    needs, two or three as a rule, so that the sums of the rarest events are exact, too.
    """

    def __init__(
        self,
        support: Tensor,
        probs: Tensor | None,
        vocab_size: int,
        words: Sequence[str] | None = None,
    ) -> None:
        support = _checks.tokens(support, "support")
        super().__init__(support.shape[1], vocab_size, words)
        _checks.token_range(support, "support", vocab_size)
        size = support.shape[0]
        if size == 0 or torch.unique(support, dim=0).shape[0] < size:
            raise ValueError(f"support must hold distinct rows, got {size} rows")
        self.device = support.device
        self.support = support
        if probs is None:
            self.probs = torch.full((size,), 1 / size, dtype=torch.float64)
            self._weights = torch.ones(1, size, dtype=torch.float64)
            self._unit = 1.0
        else:
            self.probs = _checks.probabilities(probs, "probs")
            if self.probs.shape != (size,):
                raise ValueError(f"probs must be {size} numbers, got {probs}")
            self._weights, self._unit = _fixed_point(self.probs)
        self.probs = self.probs.to(self.device)
        self._weights = self._weights.to(self.device)
        # indicator[m, i * V + v] = 1 where sequence m has token v at position i
        self._indicator = one_hot(support, vocab_size).flatten(1).to(torch.float64)

    def _matches(self, x: Tensor) -> Tensor:
        """Float64[B, M]: 1 where a sequence of the support agrees with the row."""
        known = (x != self.mask_id).sum(1, keepdim=True)
        shown = x[..., None] == torch.arange(self.vocab_size, device=x.device)
        agreeing = shown.flatten(1).to(torch.float64) @ self._indicator.T
        return (agreeing == known).to(torch.float64)

    def _conditionals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        masses, totals = [], []
        for rows in x.split(max(1, _MATCH_CELLS // self._weights.numel())):
            # one product for each digit of the weights: [D, B, M] @ [M, L * V]
            weights = self._matches(rows) * self._weights[:, None]
            masses.append(self._combine(weights @ self._indicator))
            totals.append(self._combine(weights.sum(-1)))
        mass = torch.cat(masses).view(-1, self.length, self.vocab_size)
        return mass, torch.cat(totals)

    def _combine(self, digits: Tensor) -> Tensor:
        """Put the digits [D, ...] of fixed-point sums together, small ones first."""
        value = torch.zeros_like(digits[0])
        for digit in digits.flip(0):
            value = (value + digit) * self._unit
        return value

    def log_prob(self, x: Tensor) -> Tensor:
        x = self._full(x)
        values = []
        for rows in x.split(max(1, _MATCH_CELLS // len(self.support))):
            matches = self._matches(rows)
            p = torch.where(matches.any(1), self.probs[matches.argmax(1)], 0.0)
            values.append(p.log())
        return torch.cat(values).to(self.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        _checks.integer(n, "n", 0)
        return self.support[_inverse_cdf(self.probs, self._uniform(n, generator))]

    def table(self) -> TableJoint:
        return self

    def condition(self, x: Tensor) -> TableJoint:
        """The joint given the revealed tokens of ``x: Long[L]``, itself a table.

        Raises ``ValueError`` if they have probability zero.
        """
        x = _checks.tokens(x, "x", ndim=1, length=self.length)
        _checks.token_range(x, "x", self.vocab_size, self.mask_id)
        kept = self._matches(x[None])[0] * self.probs > 0
        if not bool(kept.any()):
            raise ValueError(f"x must have positive probability, got {x.tolist()}")
        uniform = len(self._weights) == 1
        probs = None if uniform else self.probs[kept] / self.probs[kept].sum()
        moved = TableJoint(self.support[kept], probs, self.vocab_size, self.words)
        return moved.to(dtype=self.dtype)

    def _block_entropy(self, positions: tuple[int, ...]) -> float:
        if not positions:
            return 0.0
        _, group = torch.unique(
            self.support[:, list(positions)], dim=0, return_inverse=True
        )
        return _entropy_of(torch.zeros_like(self.probs).index_add(0, group, self.probs))


def _fixed_point(p: Tensor) -> tuple[Tensor, float]:
    """Write ``p: Float64[M]`` as digits [D, M], whole numbers, and the first's unit.

    A digit has 52 - ceil(log2 M) bits, so that a sum over the support stays exact, and
    there are enough of them for all 53 bits of the smallest positive p.
    """
    bits = 52 - math.ceil(math.log2(len(p)))
    _, exponent = math.frexp(p[p > 0].min().item())
    digits, rest = [], p
    for _ in range(math.ceil((53 - exponent) / bits)):
        rest = rest * 2.0**bits  # exact: only the exponent changes
        digits.append(rest.floor())
        rest = rest - digits[-1]
    return torch.stack(digits), 2.0**-bits


def cities() -> TableJoint:
    """Four equally likely cities of two words (Kang et al. 2025, figure 1).

    New York, New Orleans, Mexico City, Panama City; C = log 2 nats between the words.
    """
    words = ("New", "York", "Orleans", "Mexico", "City", "Panama")
    support = torch.tensor([[0, 1], [0, 2], [3, 4], [5, 4]])
    return TableJoint(support, None, len(words), words)


def replace_random(n: int) -> TableJoint:
    """Tokens 0 ... n - 1 in order, exactly one of them replaced by the token n.

    All n outcomes are equally likely; the total correlation is
    (n - 1) log(n / (n - 1)) nats (Kang et al. 2025).
    """
    _checks.integer(n, "n", 1)
    support = torch.arange(n).repeat(n, 1).fill_diagonal_(n)
    return TableJoint(support, None, n + 1)


def after_plan(joint: Joint) -> TableJoint:
    """A plan and then the answer: a chain of thought that says everything beforehand.

    The plan is the answer in other words, tokens 0 ... V - 1; the answer after it has
    tokens V ... 2 V - 1. Entropy stays what it was, H; the total correlation C becomes
    2 C + H, since all tokens of the answer now depend on the plan.

    Parameters
    ----------
    joint : Joint
        Of length L, small enough for a table.

    Returns
    -------
    TableJoint
        Of length 2 L over 2 V tokens.
    """
    table = joint.table()
    support = torch.cat([table.support, table.support + joint.vocab_size], 1)
    return TableJoint(support, table.probs, 2 * joint.vocab_size)


def _listed(items: Sequence[int]) -> list[int]:
    """Checked: at least one item, all of them tokens."""
    listed = items.tolist() if isinstance(items, Tensor) else items
    if not isinstance(listed, Iterable):
        raise TypeError(f"items must be a sequence of tokens, got {items!r}")
    tokens = [_checks.integer(item, "each of items", 0) for item in listed]
    if not tokens:
        raise ValueError("items must not be empty")
    return tokens


def _point_mass(tokens: list[int], vocab_size: int | None) -> TableJoint:
    if vocab_size is None:
        vocab_size = max(tokens) + 1
    return TableJoint(torch.tensor([tokens]), None, vocab_size)


def copy(items: Sequence[int], vocab_size: int | None = None) -> TableJoint:
    """The point mass on ``items``; the vocabulary is 0 ... max(items) by default."""
    return _point_mass(_listed(items), vocab_size)


def reverse(items: Sequence[int], vocab_size: int | None = None) -> TableJoint:
    """The point mass on ``items`` from last to first."""
    return _point_mass(_listed(items)[::-1], vocab_size)


def sort(items: Sequence[int], vocab_size: int | None = None) -> TableJoint:
    """The point mass on ``items`` in increasing order."""
    return _point_mass(sorted(_listed(items)), vocab_size)


def replace_index(
    items: Sequence[int], index: int, token: int, vocab_size: int | None = None
) -> TableJoint:
    """The point mass on ``items`` with ``token`` at position ``index``."""
    answer = _listed(items)
    if not 0 <= _checks.integer(index, "index") < len(answer):
        raise ValueError(f"index must lie in 0 ... {len(answer) - 1}, got {index}")
    answer[index] = _checks.integer(token, "token", 0)
    return _point_mass(answer, vocab_size)


def latin_square(n: int) -> TableJoint:
    """All Latin squares of order ``n <= 5``, row by row, equally likely.

    There are 1, 2, 12, 576 and 161280 of them; a square is a sequence of n * n tokens.
    """
    if _checks.integer(n, "n", 1) > 5:
        raise ValueError(f"n must be at most 5 (order 6 has 812851200), got {n}")
    rows = torch.tensor(list(itertools.permutations(range(n))))  # [P, n]
    clash_free = (rows[:, None] != rows[None]).all(-1)  # [P, P]
    squares = torch.arange(len(rows))[:, None]  # [N, rows so far]
    for _ in range(n - 1):
        square, row = clash_free[squares].all(1).nonzero(as_tuple=True)
        squares = torch.cat([squares[square], row[:, None]], 1)
    return TableJoint(rows[squares].flatten(1), None, n)


def sudoku() -> TableJoint:
    """All 288 Sudoku grids of order 4, row by row, equally likely.

    They are the Latin squares whose four 2 x 2 boxes also hold every symbol.
    """
    squares = latin_square(4).support
    boxes = squares.view(-1, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4, 4)
    complete = (boxes.sort(-1).values == torch.arange(4)).all(-1).all(-1)
    return TableJoint(squares[complete], None, 4)


# -------------------------------------------------------------------------- shuffle


class Shuffle(Joint):
    """All orders of ``n`` items, equally likely, in closed form for any ``n``.

    A masked position is uniform over the items not yet used; a repeated item is
    evidence of probability zero. The total correlation is n log n - log n! nats (Kang
    et al. 2025).

    Parameters
    ----------
    n : int
        Number of items, which is both the length and the vocabulary.
    """

    def __init__(self, n: int) -> None:
        super().__init__(_checks.integer(n, "n", 1), n)

    def _conditionals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        known = x != self.mask_id  # [B, n]
        own = (x[..., None] == torch.arange(self.length, device=x.device)).double()
        used = own.sum(1)  # [B, n]: how often an item is used already
        left = self.length - known.sum(1)  # masked positions = unused items
        # Every row sums to ``left``, or to 1 when nothing is masked.
        total = left.clamp(min=1).double()
        unused = (used == 0).double()[:, None]
        mass = torch.where(known[..., None], own * total[:, None, None], unused)
        # A repeated item or one outside the vocabulary leaves too many unused.
        return mass, torch.where((used == 0).sum(1) == left, total, 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        x = self._full(x)
        valid = (x.sort(1).values == torch.arange(self.length, device=x.device)).all(1)
        log_p = torch.full_like(valid, -math.lgamma(self.length + 1), dtype=self.dtype)
        return torch.where(valid, log_p, -math.inf)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        _checks.integer(n, "n", 0)
        keys = self._uniform(n * self.length, generator)
        return keys.view(n, self.length).argsort(1)

    def table(self) -> TableJoint:
        if self.length > 9:
            raise ValueError(f"a table of {self.length}! orders is too large")
        support = torch.tensor(list(itertools.permutations(range(self.length))))
        return TableJoint(support.to(self.device), None, self.length, self.words).to(
            dtype=self.dtype
        )

    def _block_entropy(self, positions: tuple[int, ...]) -> float:
        return math.fsum(math.log(self.length - j) for j in range(len(positions)))


def shuffle(n: int) -> Shuffle:
    """The joint of all orders of ``n`` items; see :class:`Shuffle`."""
    return Shuffle(n)


# -------------------------------------------------------------------- Markov chains

_MAX_BELIEFS = 1 << 16  # histories that an entropy may have to keep apart
_MAX_STATES = 1 << 12  # states of a chain whose stationary law is solved for
_MAX_TABLE = 1 << 16  # sequences of a chain written out as a table
_SMALLEST = torch.finfo(torch.float64).tiny  # below it float64 loses bits


class _Arithmetic(NamedTuple):
    """Products and sums of probabilities, or of their logarithms."""

    of: Callable[[Tensor], Tensor]  # from probabilities
    times: Callable[[Tensor, Tensor], Tensor]
    over: Callable[[Tensor, Tensor], Tensor]
    total: Callable[..., Tensor]  # over one or several dimensions
    zero: float
    one: float


_PLAIN = _Arithmetic(lambda p: p, torch.mul, torch.div, torch.sum, 0.0, 1.0)
_LOGS = _Arithmetic(
    torch.log, torch.add, torch.sub, torch.logsumexp, zero=-math.inf, one=0.0
)


class MarkovChain(Joint):
    """A Markov chain of any order, with exact answers for any set of revealed tokens.

    Parameters
    ----------
    transition : Float[V, ..., V]
        ``transition[u_1, ..., u_m, v]`` is the probability that v follows the tokens
        u_1 ... u_m, u_m the latest; m >= 1 is the order.
    length : int
        Number of tokens, at least m.
    initial : Float[V, ..., V] with m dimensions, optional
        Law of the first m tokens; by default the stationary one, which must be unique.

    Notes
    -----
    The state is the window of the latest m tokens. Conditionals come from the
    forward-backward recursion over windows (Rabiner 1989, section III A), in float64
    and rescaled at every position, or on logarithms where a product of probabilities
    could underflow; a zero probability stays an exact zero. The recursion runs along
    the sequence, so calling the chain loops over positions (never over rows); time
    grows as L V^(m+1) a row.
    """

    def __init__(
        self, transition: Tensor, length: int, initial: Tensor | None = None
    ) -> None:
        if not isinstance(transition, Tensor) or transition.ndim < 2:
            raise TypeError(
                f"transition must be a tensor [V, ..., V], got {transition}"
            )
        if len(set(transition.shape)) > 1:
            shape = tuple(transition.shape)
            raise ValueError(f"transition must have equal sides, got shape {shape}")
        super().__init__(length, transition.shape[-1])
        self.order = transition.ndim - 1
        _checks.integer(length, "length", self.order)
        self.device = transition.device
        states = self.vocab_size**self.order
        p = _checks.probabilities(transition, "transition")
        self.transition = p.reshape(states, self.vocab_size)
        if initial is None:
            self.initial = _stationary(self.transition)
        else:
            if not isinstance(initial, Tensor):
                raise TypeError(f"initial must be a tensor [V, ..., V], got {initial}")
            if initial.shape != transition.shape[:-1]:
                raise ValueError(
                    f"initial must have shape {tuple(transition.shape[:-1])}, "
                    f"got {tuple(initial.shape)}"
                )
            p = _checks.probabilities(initial.flatten(), "initial")
            self.initial = p.to(self.device)
        # a bound on every factor of the recursion; rescaling only makes them larger
        steps = length - self.order
        least = _log_least(self.initial) + steps * _log_least(self.transition)
        self._on_logs = least < math.log(_SMALLEST)

    def _conditionals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p, possible = self._recursion(x, _PLAIN)
        return p / p.sum(-1, keepdim=True), possible.double()

    def _log_conditionals(self, x: Tensor) -> Tensor:
        if not self._on_logs:
            return super()._log_conditionals(x)
        log_p, possible = self._recursion(x, _LOGS)
        uniform = torch.full_like(log_p, -math.log(self.vocab_size))
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
        return torch.where(possible[:, None, None], log_p, uniform)

    def _recursion(self, x: Tensor, by: _Arithmetic) -> tuple[Tensor, Tensor]:
        """P(x_i = v, evidence), Float64[B, L, V], up to a factor for each position.

        ``by`` does the arithmetic, on probabilities or on their logarithms. Also
        Bool[B]: whether the evidence is possible.
        """
        size, vocab = len(x), self.vocab_size
        shown = x[..., None] == torch.arange(vocab, device=x.device)
        evidence = by.of((shown | (x == self.mask_id)[..., None]).double())  # [B, L, V]

        # Windows start at 0 ... L - m. forward: P(window, evidence up to its end),
        # backward: P(evidence after it | window), both up to a factor for each row.
        message = by.of(self.initial).expand(size, -1)
        for j in range(self.order):
            message = message.flatten(1).unflatten(1, (vocab**j, vocab, -1))
            message = by.times(message, evidence[:, j, None, :, None])
        forward = [_rescale(message.flatten(1), by)]
        for i in range(self.order, self.length):
            message = self._push(forward[-1], by).unflatten(1, (-1, vocab))
            message = by.times(message, evidence[:, i, None])
            forward.append(_rescale(message.flatten(1), by))

        step = by.of(self.transition).view(vocab, -1, vocab)  # [V, V^(m-1), V]
        backward = [by.of(torch.ones_like(forward[-1]))]
        for i in range(self.length - 1, self.order - 1, -1):
            after = backward[-1].unflatten(1, (-1, vocab))
            after = by.times(after, evidence[:, i, None])
            message = by.total(by.times(step, after[:, None]), -1)
            backward.append(_rescale(message.flatten(1), by))
        windows = by.times(torch.stack(forward, 1), torch.stack(backward[::-1], 1))

        # The first window tells its first m - 1 tokens, each window its last one.
        start = windows[:, 0]
        mass = [
            by.total(start.unflatten(1, (vocab**j, vocab, -1)), (1, 3))[:, None]
            for j in range(self.order - 1)
        ]
        mass.append(by.total(windows.unflatten(2, (-1, vocab)), 2))
        return torch.cat(mass, 1), (forward[-1] > by.zero).any(1)

    def _push(self, window: Tensor, by: _Arithmetic = _PLAIN) -> Tensor:
        """Move laws of a window, Float64[K, V^m], one position on."""
        step = by.of(self.transition).view(self.vocab_size, -1, self.vocab_size)
        window = window.unflatten(1, (self.vocab_size, -1))[..., None]
        return by.total(by.times(window, step), 1).flatten(1)

    def _codes(self, x: Tensor) -> Tensor:
        """Index of the state of every window of ``x: Long[B, L]``."""
        powers = torch.tensor(self._powers(), device=x.device)
        return (x.unfold(1, self.order, 1) * powers).sum(-1)

    def _powers(self) -> list[int]:
        return [self.vocab_size**j for j in reversed(range(self.order))]

    def log_prob(self, x: Tensor) -> Tensor:
        return self._log_prob(self._full(x)).to(self.dtype)

    def _log_prob(self, x: Tensor) -> Tensor:
        """Float64[B], before it is rounded."""
        codes = self._codes(x)
        steps = self.transition.log()[codes[:, :-1], x[:, self.order :]]
        return self.initial.log()[codes[:, 0]] + steps.sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        _checks.integer(n, "n", 0)
        code = _inverse_cdf(self.initial, self._uniform(n, generator))
        tokens = [code // power % self.vocab_size for power in self._powers()]
        for _ in range(self.order, self.length):
            p = self.transition[code]
            tokens.append(_inverse_cdf(p, self._uniform(n, generator)))
            code = (code * self.vocab_size + tokens[-1]) % len(self.transition)
        return torch.stack(tokens, 1)

    def table(self) -> TableJoint:
        size = self.vocab_size**self.length
        if size > _MAX_TABLE:
            raise ValueError(f"a table of {size} sequences is too large")
        grid = torch.arange(self.vocab_size, device=self.device)
        support = torch.cartesian_prod(*[grid] * self.length).view(size, self.length)
        log_p = self._log_prob(support)
        possible = log_p > -math.inf
        support, p = support[possible], log_p[possible].exp()
        if bool((p < _SMALLEST).any()):
            raise ValueError(
                "a table needs every possible sequence of the chain to have at least "
                f"probability {_SMALLEST:.3g}, got one of e^{log_p[possible].min():.6g}"
            )
        joint = TableJoint(support, p, self.vocab_size, self.words)
        return joint.to(dtype=self.dtype)

    def entropy_rate(self) -> float:
        """Limit of the entropy per token of long sequences, in nats.

        The mean entropy of a transition under the stationary law, which must be unique.
        """
        stationary = _stationary(self.transition)
        return (stationary * torch.special.entr(self.transition).sum(-1)).sum().item()

    def _block_entropy(self, positions: tuple[int, ...]) -> float:
        """Chain rule along the sequence, over the beliefs that a reader may hold.

        A belief is the law of the current window given the chosen tokens seen so far.
        Seeing a token splits each belief in up to V; beliefs that have become equal
        (whenever the last m tokens were all seen, they tell everything) are merged.
        """
        if not positions:
            return 0.0
        belief = self.initial[None]  # [K, V^m]
        weight = torch.ones(1, dtype=torch.float64, device=self.device)  # [K]
        entropy = 0.0
        for i in range(positions[-1] + 1):
            if i >= self.order:
                belief = self._push(belief)
            if i not in positions:
                continue
            axis = min(i, self.order - 1)
            view = belief.reshape(
                len(belief), self.vocab_size**axis, self.vocab_size, -1
            )
            p = view.sum((1, 3))  # [K, V]: law of the token that is seen now
            entropy += (weight * torch.special.entr(p).sum(1)).sum().item()
            history, token = p.nonzero(as_tuple=True)
            weight = weight[history] * p[history, token]
            seen = one_hot(token, self.vocab_size)[:, None, :, None]
            belief = (view[history] * seen).flatten(1)
            belief, weight = _merge(belief / belief.sum(1, keepdim=True), weight)
            if len(belief) > _MAX_BELIEFS:
                raise ValueError(
                    "positions leave too many histories apart for an exact entropy: "
                    f"more than {_MAX_BELIEFS} at position {i}"
                )
        return entropy


def _rescale(message: Tensor, by: _Arithmetic) -> Tensor:
    """Divide each row by its largest entry; a row of zeros stays."""
    largest = message.amax(1, keepdim=True)
    return by.over(message, torch.where(largest > by.zero, largest, by.one))


def _log_least(p: Tensor) -> float:
    """Logarithm of the smallest positive entry."""
    return math.log(p[p > 0].min().item())


def _merge(belief: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Put beliefs [K, S] that agree to twelve decimals together; add their weights."""
    key = (belief * 1e12).round()
    _, group = torch.unique(key, dim=0, return_inverse=True)
    size = int(group.max()) + 1
    total = weight.new_zeros(size).index_add(0, group, weight)
    merged = belief.new_zeros(size, belief.shape[1])
    merged[group] = belief  # any member of a group stands for it
    return merged, total


def _stationary(transition: Tensor) -> Tensor:
    """Stationary law Float64[V^m] of the windows of a chain [V^m, V].

    States outside the one closed class have probability exactly zero.
    """
    states, vocab = transition.shape
    if states > _MAX_STATES:
        raise ValueError(
            f"initial must be given for a chain of {states} states: its stationary law "
            f"is solved for up to {_MAX_STATES}"
        )
    before = torch.arange(states, device=transition.device)[:, None]
    after = (before * vocab + torch.arange(vocab, device=transition.device)) % states
    matrix = transition.new_zeros(states, states).scatter_(1, after, transition)

    edges = (matrix > 0).cpu().numpy()
    count, label = csgraph.connected_components(edges, connection="strong")
    start, end = (label[side] for side in edges.nonzero())
    left = set(start[start != end].tolist())  # classes with a way out
    closed = [group for group in range(count) if group not in left]
    if len(closed) > 1:
        raise ValueError(
            f"transition has {len(closed)} closed classes of states, so its stationary "
            "law is not unique: give initial"
        )
    inside = torch.from_numpy(label == closed[0]).to(transition.device)
    found = _irreducible(matrix[inside][:, inside])
    if not bool((found >= _SMALLEST).all()):
        raise ValueError(
            "initial must be given: transition has a stationary law with "
            f"probabilities below {_SMALLEST:.3g}"
        )
    law = transition.new_zeros(states)
    law[inside] = found
    return law


def _irreducible(p: Tensor, block: int = 32) -> Tensor:
    """Stationary law Float64[n] of an irreducible chain ``p: Float64[n, n]``.

    States are cut out one after another, the last first: what passed through k goes
    on to the others directly. Nothing is subtracted, so that the rarest state is as
    precise as the others (Grassmann, Taksar and Heyman 1985). The states of a block
    reach those before it in one product of matrices.
    """
    p = p.clone()
    for stop in range(len(p), 1, -block):
        start = max(1, stop - block)
        for k in reversed(range(start, stop)):
            later = slice(k + 1, stop)  # cut out, but not yet passed on
            p[k, :k] += p[k, later] @ p[later, :k]
            p[:k, k] += p[:k, later] @ p[later, k]
            p[:k, k] /= p[k, :k].sum()
        p[:start, :start] += p[:start, start:stop] @ p[start:stop, :start]
    law = torch.ones_like(p[0])
    for k in range(1, len(p)):
        law[k] = law[:k] @ p[:k, k]
    return law / law.sum()
