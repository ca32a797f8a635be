"""What a task is: instances, the exact joint of their valid answers, an exact score.

An instance is a prompt, filled up with ``<pad>`` to ``prompt_length`` tokens, and an
answer of ``answer_length`` tokens, ended and filled up by ``<eos>``: a sequence [P + A]
for any denoiser. All tasks share one vocabulary, so one network can learn all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dllm_tutorial import _checks
from dllm_tutorial.tasks.vocabulary import EOS, MASK, PAD, VOCABULARY

__all__ = [
    "ANSWER_LENGTH",
    "PROMPT_LENGTH",
    "SPLITS",
    "AnswerJoint",
    "Instances",
    "Task",
    "ended",
    "in_test",
    "padded",
    "same_size",
]

# The longest of all: "insert" with an index and ten names of two words.
PROMPT_LENGTH = 26
ANSWER_LENGTH = 24

SPLITS = ("train", "test")
TEST_SHARE = 10  # one in so many prompts belongs to the test split


@dataclass(frozen=True)
class Instances:
    """B instances of one task.

    Parameters
    ----------
    prompts : Tensor
        Long[B, P], filled up with ``<pad>``.
    given : dict of str to Tensor
        What the task's answers follow from, each ``[B, ...]``; see the task.
    """

    prompts: Tensor
    given: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: Tensor | slice) -> Instances:
        """Some of the instances."""
        kept = {name: value[rows] for name, value in self.given.items()}
        return Instances(self.prompts[rows], kept)

    def to(self, device: torch.device | str) -> Instances:
        """The same instances on another device."""
        moved = {name: value.to(device) for name, value in self.given.items()}
        return Instances(self.prompts.to(device), moved)


class AnswerJoint(ABC):
    """The exact distribution of valid answers of B instances: a denoiser.

    Called with ``x: Long[R, P + A]``, prompt and partly masked answer, it gives
    log-conditionals ``Float[R, P + A, V]``. R is a multiple of B, and instance b owns
    the R / B consecutive rows from b R / B on: one row each for ``generate``, more for
    rules that look at several copies of a row. Revealed positions, the prompt among
    them, answer with the point mass on their token; evidence of probability zero with
    the uniform distribution, as all joints of the book do.

    Parameters
    ----------
    prompts : Long[B, P]
    answer_length : int
    """

    mask_id = MASK
    vocab_size = len(VOCABULARY)

    def __init__(self, prompts: Tensor, answer_length: int) -> None:
        self.prompts = prompts
        self.answer_length = _checks.integer(answer_length, "answer_length", 1)

    def __len__(self) -> int:
        return len(self.prompts)

    def _check_answers(self, answers: Tensor) -> None:
        """An error unless answers are Long[B, A]."""
        _checks.tokens(answers, "answers", length=self.answer_length)
        same_size(answers, "answers", self.prompts)

    @abstractmethod
    def conditionals(self, answers: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Unnormalised conditionals of partly masked answers.

        Parameters
        ----------
        answers : Long[R, A]
        rows : Long[R]
            The instance that each belongs to.

        Returns
        -------
        Float64[R, A, V]
            Proportional, for each row and position, to P(token | revealed tokens);
            at a revealed position the point mass on its token.
        Float64[R]
            The common sum over V of a row; zero where the evidence is impossible.
        """

    @abstractmethod
    def log_prob(self, answers: Tensor) -> Tensor:
        """Log-probability Float64[B] of answers Long[B, A]; -inf if not valid."""

    @abstractmethod
    def sample(self, generator: Generator | None = None) -> Tensor:
        """One valid answer to each instance, Long[B, A]."""

    @abstractmethod
    def log_size(self) -> Tensor:
        """Log of the number of valid answers, Float64[B], all equally likely."""

    def __call__(self, x: Tensor) -> Tensor:
        """Exact log-conditionals Float64[R, P + A, V] of ``x: Long[R, P + A]``."""
        start = self.prompts.shape[1]
        _checks.tokens(x, "x", length=start + self.answer_length)
        copies, rest = divmod(len(x), len(self))
        if rest or not copies:
            raise ValueError(
                f"x must have a multiple of {len(self)} rows, got {len(x)}"
            )
        rows = torch.arange(len(self), device=x.device).repeat_interleave(copies)
        mass, total = self.conditionals(x[:, start:], rows)
        total = total[:, None, None]
        p = torch.where(total > 0, mass / total, 1 / self.vocab_size)
        logits = p.new_full((*x.shape, self.vocab_size), -math.inf)
        logits[:, start:] = p.log()
        known = x[:, :start, None].clamp(max=self.vocab_size - 1)
        logits[:, :start].scatter_(-1, known, 0.0)
        return logits

    def total_correlation(self) -> Tensor:
        """Total correlation of the answer's tokens, Float64[B], in nats.

        What it costs in KL divergence to draw the whole answer in one parallel step.
        """
        start = self.prompts.shape[1]
        empty = self.prompts.new_full((len(self), self.answer_length), MASK)
        p = self(torch.cat([self.prompts, empty], 1))[:, start:].exp()
        return torch.special.entr(p).sum((1, 2)) - self.log_size()


class Task(ABC):
    """A kind of problem with exactly known answers.

    Parameters
    ----------
    prompt_length, answer_length : int
        Tokens of the padded prompt, P, and of the answer with its ``<eos>``, A.
    """

    name: str

    def __init__(
        self, prompt_length: int = PROMPT_LENGTH, answer_length: int = ANSWER_LENGTH
    ) -> None:
        self.prompt_length = _checks.integer(prompt_length, "prompt_length", 1)
        self.answer_length = _checks.integer(answer_length, "answer_length", 1)

    @abstractmethod
    def _propose(self, count: int, generator: Generator | None) -> Instances:
        """``count`` independent instances of any split."""

    @abstractmethod
    def joint(self, instances: Instances) -> AnswerJoint:
        """The exact joint of the valid answers, all equally likely."""

    @abstractmethod
    def score(self, instances: Instances, answers: Tensor) -> Tensor:
        """Bool[B]: whether answers Long[B, A] are right, by the task's rules.

        Worked out from the rules and not from :meth:`joint`, so that each is a check
        of the other.
        """

    @abstractmethod
    def prompt_text(self, instances: Instances) -> list[str]:
        """Each instance in plain English, as an instruction-tuned model is asked."""

    @abstractmethod
    def answer_text(self, answers: Tensor) -> list[str]:
        """Each answer Long[B, A] as such a model would write it."""

    @abstractmethod
    def parse(self, texts: list[str]) -> Tensor:
        """Free-text answers as tokens, Long[B, A].

        What cannot be read becomes an answer of ``<pad>``, which no task accepts.
        ``TypeError`` if ``texts`` is a single string.
        """

    def _check_answers(self, instances: Instances, answers: Tensor) -> None:
        """An error unless answers are Long[B, A] for B instances."""
        _checks.tokens(answers, "answers", length=self.answer_length)
        same_size(answers, "answers", instances.prompts)

    def draw(
        self, count: int, *, split: str = "test", generator: Generator | None = None
    ) -> Instances:
        """``count`` instances of a split, drawn independently.

        The prompt decides the split (:func:`in_test`), so no prompt is in both.
        """
        _checks.integer(count, "count", 1)
        _checks.generator(generator)
        wants_test = _checks.one_of(split, "split", SPLITS) == "test"
        per_round = 2 * count * (TEST_SHARE if wants_test else 1)
        found: list[Instances] = []
        while sum(map(len, found)) < count:
            proposed = self._propose(per_round, generator)
            found.append(proposed[in_test(proposed.prompts) == wants_test])
        return _join(found)[:count]

    def inputs(self, instances: Instances) -> Tensor:
        """Prompt and an answer of masks, Long[B, P + A]: what ``generate`` fills."""
        prompts = instances.prompts
        empty = prompts.new_full((len(prompts), self.answer_length), MASK)
        return torch.cat([prompts, empty], 1)

    def answers(self, sequences: Tensor) -> Tensor:
        """The answer part Long[B, A] of sequences Long[B, P + A]."""
        return sequences[:, self.prompt_length :]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def in_test(prompts: Tensor) -> Tensor:
    """Bool[B]: whether prompts Long[B, P] belong to the test split, one in ten.

    A hash of the tokens decides (multiply and shift, after Knuth); padding leaves it as
    it is.
    """
    code = torch.zeros_like(prompts[:, 0])
    for token in prompts.T:  # the products wrap around modulo 2^64
        mixed = (code ^ (code >> 29)) * 0x5851F42D4C957F2D + token + 1
        code = torch.where(token == PAD, code, mixed)
    return ((code ^ (code >> 32)) & 0x7FFFFFFF) % TEST_SHARE == 0


def same_size(value: Tensor, name: str, prompts: Tensor) -> Tensor:
    """A tensor with a row for each prompt; ``ValueError`` otherwise."""
    if len(value) != len(prompts):
        raise ValueError(f"{name} must have {len(prompts)} rows, got {len(value)}")
    return value


def padded(tokens: Tensor, length: int, name: str = "prompt_length") -> Tensor:
    """Move the padding of Long[B, n] to the right and fill up to Long[B, length].

    The first item then stands at the same distance from the answer's first token in
    prompts of any length, which makes copying a matter of position.
    """
    order = (tokens == PAD).long().argsort(dim=1, stable=True)
    tokens = tokens.gather(1, order)
    used = int((tokens != PAD).sum(1).max())
    if used > length:
        raise ValueError(f"{name} must be at least {used}, got {length}")
    missing = max(0, length - tokens.shape[1])
    return torch.nn.functional.pad(tokens, (0, missing), value=PAD)[:, :length]


def ended(tokens: Tensor, length: int) -> Tensor:
    """Fill answers Long[B, n] up with ``<eos>`` to Long[B, length], one at least."""
    used = int((tokens != EOS).sum(1).max())
    if used >= length:
        raise ValueError(f"answer_length must be at least {used + 1}, got {length}")
    missing = max(0, length - tokens.shape[1])
    return torch.nn.functional.pad(tokens, (0, missing), value=EOS)[:, :length]


def _join(parts: list[Instances]) -> Instances:
    names = parts[0].given
    return Instances(
        torch.cat([part.prompts for part in parts]),
        {name: torch.cat([part.given[name] for part in parts]) for name in names},
    )
