"""All sentences of the small English grammar, counted by dynamic programming.

The language is finite: trillions of sentences of at most fifteen words. Every word has
one class (``WORD_CLASS`` of the lexicon), so a sentence is one path through an
automaton over classes, and a sum over all sentences is a sum over paths. All counts are
whole numbers below 2^53, which float64 adds and multiplies exactly.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator
from functools import cache

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot, pad

from dllm_tutorial import _checks
from dllm_tutorial._random import uniform
from dllm_tutorial.tasks.base import AnswerJoint, ended
from dllm_tutorial.tasks.lexicon import WORD_CLASS, WORDS
from dllm_tutorial.tasks.vocabulary import EOS, MASK, VOCABULARY, encode

__all__ = ["CLASSES", "Language", "SentenceJoint", "automaton"]

CLASSES = ("<eos>", *dict.fromkeys(WORD_CLASS.values()))
NO_CLASS = len(CLASSES)  # of tokens that are no words
_ROWS = 256  # counted at once

# A constituent is a set of ways to say it, each a sequence of classes; a plan is a
# sequence of constituents; the language is a set of plans.
Constituent = frozenset[tuple[str, ...]]
Plan = tuple[Constituent, ...]

# --------------------------------------------------------------------------- grammar


def _one_of(*ways: str) -> Constituent:
    return frozenset(tuple(way.split()) for way in ways)


def _noun_phrase(number: str) -> Constituent:
    adjectives = ["", "adjective_consonant", "adjective_vowel"]
    if number == "plural":
        phrases = list(itertools.product(["the", "det_pl"], adjectives, ["noun_pl"]))
        return _one_of(*map(" ".join, phrases))
    nouns = ["noun_consonant", "noun_vowel"]
    phrases = list(itertools.product(["the", "det_sg"], adjectives, nouns))
    for article, sound in (("a", "consonant"), ("an", "vowel")):
        phrases.append((article, "", f"noun_{sound}"))
        phrases += itertools.product([article], [f"adjective_{sound}"], nouns)
    return _one_of(*map(" ".join, phrases))


_ANYONE = _noun_phrase("singular") | _noun_phrase("plural")
_BASE = _one_of("verb")
_PAST = _one_of("verb_ed", "verb_past")
_PARTICIPLE = _one_of("verb_ed", "verb_participle")


def _predicates(number: str) -> Iterator[tuple[str, Plan, Constituent, Plan]]:
    """Tense, what stands before the main verb, its forms, and what follows."""
    one = number == "singular"
    be, was, have = ("is", "was", "has") if one else ("are", "were", "have")
    yield "present", (), _one_of("verb_s") if one else _BASE, (_ANYONE,)
    yield "past", (), _PAST, (_ANYONE,)
    yield "future", (_one_of("will"),), _BASE, (_ANYONE,)
    yield "perfect", (_one_of(have),), _PARTICIPLE, (_ANYONE,)
    for tense, auxiliary in (
        ("present", be),
        ("past", was),
        ("future", "will be"),
        ("perfect", f"{have} been"),
    ):
        yield tense, (_one_of(auxiliary),), _PARTICIPLE, (_one_of("by"), _ANYONE)


def _plans() -> Iterator[Plan]:
    adverb, place = (_one_of("adverb"),), (_one_of("preposition the place"),)
    times = {"past": ("today", "yesterday"), "future": ("today", "tomorrow")}
    for number in ("singular", "plural"):
        for tense, auxiliary, verb, rest in _predicates(number):
            time = (_one_of(*times.get(tense, ("today",))),)
            for before, after in (((), ()), (adverb, ()), ((), adverb)):
                for where in ((), place):
                    clause = (_noun_phrase(number), *auxiliary, *before, verb)
                    clause = (*clause, *rest, *after, *where)
                    yield from (clause, (*time, *clause), (*clause, *time))


def _follow(plans: frozenset[Plan]) -> dict[str, frozenset[Plan]]:
    """What is left of the plans after each class that they can begin with."""
    left: dict[str, set[Plan]] = {}
    for plan in plans:
        first, *rest = plan or (_one_of("<eos>"),)
        for name in {way[0] for way in first}:
            tails = frozenset(way[1:] for way in first if way[0] == name)
            after = left.setdefault(name, set())
            if () in tails:
                after.add(tuple(rest))
            if tails - {()}:
                after.add((tails - {()}, *rest))
    return {name: frozenset(after) for name, after in left.items()}


@cache
def automaton() -> tuple[dict[int, int], ...]:
    """The smallest automaton of the language: for each state, the next one by class.

    A sentence begins in the last state. State 0, behind its end, only reads ``<eos>``.
    """
    arrows = [{0: 0}]
    number: dict[frozenset[tuple[int, int]], int] = {}

    @cache
    def state(plans: frozenset[Plan]) -> int:
        if plans == {()}:
            return 0
        follow = _follow(plans).items()
        out = {CLASSES.index(name): state(left) for name, left in follow}
        key = frozenset(out.items())
        if key not in number:  # states that read the same are one
            number[key] = len(arrows)
            arrows.append(out)
        return number[key]

    state(frozenset(_plans()))
    return tuple(arrows)


# -------------------------------------------------------------------------- counting


class Language:
    """The sentences of at most ``longest`` words, written as T = longest + 1 tokens.

    Parameters
    ----------
    longest : int
        A sentence is filled up to T tokens with ``<eos>``, one at least.
    words : collection of str
        The lexicon, or a part of it.

    Attributes
    ----------
    size : int
        How many sentences there are.
    class_of : Tensor
        Long[V + 1], the class of each token. The mask, and whatever is no word of the
        language, is in class C, which no sentence has.
    sizes : Tensor
        Float64[C + 1], how many words a class has for sentences.
    arrows, following, states : list
        The automaton unrolled in time, with the S_i states before position i numbered
        from 0. ``arrows[i]``, Long[3, E_i], has rows source, class and target;
        ``following[i]``, Long[S_i, C + 1], the target for each source and class, or
        S_{i+1} where there is none; ``states[i]`` is S_i.
    """

    def __init__(self, longest: int, words: Collection[str] = WORDS) -> None:
        self.longest = _checks.integer(longest, "longest", 1)
        names = [CLASSES.index(WORD_CLASS[word]) for word in words]
        self.class_of = torch.full((len(VOCABULARY) + 1,), NO_CLASS)
        self.class_of[encode(words)] = torch.tensor(names, dtype=torch.long)
        self.class_of[EOS] = 0
        self.sizes = self.class_of.bincount(minlength=NO_CLASS + 1).to(torch.float64)
        self.sizes[NO_CLASS] = 0
        self._unroll()
        ahead = self.ahead(self.sizes[:, None].expand(longest + 1, -1, 1))
        self.size = int(ahead[0].sum())
        # a sum over the subsets of four words has 16 terms and must still be exact
        if not 0 < self.size < 2**49:
            raise ValueError(
                f"words must make between 1 and 2^49 sentences of at most {longest} "
                f"words, got {self.size}"
            )
        self._share = [  # of the classes that can follow, summed up
            (after[:, 0][following] * self.sizes).cumsum(1)
            for following, after in zip(self.following, ahead[1:], strict=True)
        ]
        self._members = self.class_of.argsort(stable=True)
        self._first = self.sizes.cumsum(0) - self.sizes

    def _unroll(self) -> None:
        graph = automaton()
        used = {name for name, size in enumerate(self.sizes.tolist()) if size > 0}

        def out(i: int, state: int) -> Iterator[tuple[int, int]]:
            allowed = used if i < self.longest else {0}
            return ((n, t) for n, t in graph[state].items() if n in allowed)

        layers = [{len(graph) - 1}]
        for i in range(self.longest + 1):
            layers.append({target for s in layers[i] for _, target in out(i, s)})
        layers[-1] &= {0}
        for i in reversed(range(self.longest + 1)):  # keep what leads to the end
            ahead = layers[i + 1]
            layers[i] = {s for s in layers[i] if any(t in ahead for _, t in out(i, s))}
        self.states = [len(layer) for layer in layers]
        self.arrows, self.following = [], []
        for i, (layer, ahead) in enumerate(itertools.pairwise(layers)):
            place = {state: k for k, state in enumerate(sorted(ahead))}
            found = [
                (source, name, place[target])
                for source, state in enumerate(sorted(layer))
                for name, target in out(i, state)
                if target in ahead
            ]
            arrows = torch.tensor(found, dtype=torch.long).view(-1, 3).T
            following = torch.full((len(layer), NO_CLASS + 1), len(ahead))
            following[arrows[0], arrows[1]] = arrows[2]
            self.arrows.append(arrows)
            self.following.append(following)

    def to(self, device: torch.device | str) -> Language:
        """The same language on another device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
            elif isinstance(value, list) and isinstance(value[0], Tensor):
                setattr(moved, name, [part.to(device) for part in value])
        return moved

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw ``n`` sentences, all equally likely, Long[n, T]."""
        u = uniform((2, self.longest + 1, n), generator, self.sizes.device)
        state = torch.zeros_like(u[0, 0], dtype=torch.long)
        names = []
        for i, following in enumerate(self.following):
            share = self._share[i][state]  # [n, C + 1]
            target = u[0, i] * share[:, -1]
            name = torch.searchsorted(share, target[:, None], right=True)[:, 0]
            state = following[state, name]
            names.append(name)
        name = torch.stack(names)
        place = self._first[name] + (u[1] * self.sizes[name]).floor()
        return self._members[place.long()].T

    def ahead(self, weights: Tensor) -> list[Tensor]:
        """The number of ways to go on from each state.

        Parameters
        ----------
        weights : Float64[T, C + 1, N]
            How many words of a class fit a position, in each of N cases.

        Returns
        -------
        list of Float64[S_i + 1, N], i = 0 ... T
            The last row is 0: there is no way to go on from no state.
        """
        start = weights.new_ones(self.states[-1], weights.shape[-1])
        found = [pad(start, (0, 0, 0, 1))]
        for i in reversed(range(self.longest + 1)):
            source, name, target = self.arrows[i]
            ways = found[-1][target] * weights[i][name]
            found.append(_summed(ways, source, self.states[i] + 1))
        return found[::-1]

    def counts(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """How many sentences have a certain word at a position, and how many there are.

        Parameters
        ----------
        weights : Float64[T, C + 1, N]
            As for :meth:`ahead`.

        Returns
        -------
        Float64[T, C + 1, N]
            For any one word of the class the number of sentences with it at the
            position, whatever the weights of that position.
        Float64[N]
            The number of all sentences.
        """
        ahead = self.ahead(weights)
        behind = torch.ones_like(ahead[0])
        found = []
        for i, (source, name, target) in enumerate(self.arrows):
            come = behind[source]
            found.append(_summed(come * ahead[i + 1][target], name, NO_CLASS + 1))
            behind = _summed(come * weights[i][name], target, self.states[i + 1])
        return torch.stack(found), ahead[0][0]


def _summed(values: Tensor, group: Tensor, size: int) -> Tensor:
    """Sums of the rows of values [E, N] by their group, [size, N]."""
    return values.new_zeros(size, values.shape[1]).index_add_(0, group, values)


class SentenceJoint(AnswerJoint):
    """The sentences that contain an instance's words, all equally likely.

    Parameters
    ----------
    prompts : Tensor
        Long[B, P]
    answer_length : int
        A, at least one more than the longest sentence; ``<eos>`` fills it.
    language : Language
    words : Tensor
        Long[B, k], k <= 4 distinct words of the language in each row.

    Notes
    -----
    Sentences that contain all words are counted by inclusion and exclusion: the sum,
    over all subsets U of the words, of (-1)^|U| times the number of sentences without
    the words of U, which are those of classes with fewer words.
    """

    def __init__(
        self, prompts: Tensor, answer_length: int, language: Language, words: Tensor
    ) -> None:
        super().__init__(prompts, answer_length)
        if language.longest >= self.answer_length:
            raise ValueError(
                f"answer_length must be above {language.longest}, got {answer_length}"
            )
        if language.sizes.device != prompts.device:
            language = language.to(prompts.device)
        self.language = language
        self.words = _checks.tokens(words, "words")
        if words.shape[1] > 4:
            raise ValueError(f"words must be at most 4 a row, got {words.shape[1]}")
        self._class = language.class_of[words]  # [B, k]
        apart = words[:, :, None] != words[:, None]
        apart |= torch.eye(words.shape[1], dtype=torch.bool, device=words.device)
        if not bool(apart.all() & (self._class % NO_CLASS > 0).all()):
            raise ValueError(f"words must be distinct words of language, got {words}")
        subsets = list(itertools.product([0.0, 1.0], repeat=words.shape[1]))
        self._without = torch.tensor(subsets, dtype=torch.float64, device=words.device)
        self._sign = 1 - 2 * (self._without.sum(1) % 2)  # [U], of the subsets [U, k]
        dropped = self._without @ one_hot(self._class, NO_CLASS + 1).to(torch.float64)
        self._sizes = language.sizes - dropped  # [B, U, C + 1]

    def conditionals(self, answers: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        parts = [
            self._counted(part, own)
            for part, own in zip(answers.split(_ROWS), rows.split(_ROWS), strict=True)
        ]
        masses, totals = zip(*parts, strict=True)
        mass, total = torch.cat(masses), torch.cat(totals)
        shown = one_hot(answers.clamp(max=self.vocab_size - 1), self.vocab_size)
        hidden = (answers == MASK)[..., None]
        return torch.where(hidden, mass, shown * total[:, None, None]), total

    def _counted(self, answers: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Conditionals of some rows, at hidden positions only."""
        body, rest = answers.tensor_split([self.language.longest + 1], dim=1)
        counts, size = self.language.counts(self._weights(body, rows))
        shape = (len(rows), len(self._sign))  # [R, U]
        over = ((rest == EOS) | (rest == MASK)).all(1)
        total = size.view(shape) @ self._sign * over
        signed = counts.unflatten(-1, shape).movedim(1, 2) * self._sign
        mass = self._by_word(signed, rows).movedim(0, 1)  # [R, T, V]
        end = one_hot(torch.full_like(rest, EOS), self.vocab_size)
        return torch.cat([mass, end * total[:, None, None]], 1), total

    def log_prob(self, answers: Tensor) -> Tensor:
        self._check_answers(answers)
        _, total = self.conditionals(answers, self._rows)
        valid = (total > 0) & (answers != MASK).all(1)
        return torch.where(valid, -self.log_size(), -torch.inf)

    def log_size(self) -> Tensor:
        sizes = self.language.ahead(self._weights(self._empty, self._rows))[0][0]
        return (sizes.view(len(self), -1) @ self._sign).log()

    def sample(self, generator: Generator | None = None) -> Tensor:
        rows, language = self._rows, self.language
        ahead = language.ahead(self._weights(self._empty, rows))
        if not bool((ahead[0][0].view(len(rows), -1) @ self._sign > 0).all()):
            raise ValueError(f"words must fit in a sentence, got {self.words}")
        u = uniform((language.longest + 1, len(rows), 1), generator, rows.device)
        state = torch.zeros_like(rows)
        signed = self._sign.expand(len(rows), -1)  # 0 where a word of U has been said
        said = []
        for i, following in enumerate(language.following):
            # ways to go on behind each class, signed: [B, C + 1, U]
            ways = ahead[i + 1].view(-1, *signed.shape)[following[state], rows[:, None]]
            mass = self._by_word(ways * signed[:, None], rows).cumsum(-1)  # [B, V]
            token = torch.searchsorted(mass, u[i] * mass[:, -1:], right=True)  # [B, 1]
            said.append(token)
            state = following[state, language.class_of[token[:, 0]]]
            used = (token == self.words).to(torch.float64) @ self._without.T
            signed = signed * (1 - used)
        return ended(torch.cat(said, 1), self.answer_length)

    def _weights(self, answers: Tensor, rows: Tensor) -> Tensor:
        """How many words of a class fit each position, Float64[T, C + 1, R * U]."""
        name = self.language.class_of[answers]
        shown = one_hot(name, NO_CLASS + 1) * (name < NO_CLASS)[..., None]
        own = (answers[..., None] == self.words[rows, None]).to(torch.float64)
        kept = 1 - own @ self._without.T  # [R, T, U], 0 where U leaves the word out
        weights = torch.where(
            (answers == MASK).T[:, None, :, None],
            self._sizes[rows].permute(2, 0, 1),  # [C + 1, R, U]
            shown.permute(1, 2, 0)[..., None] * kept.movedim(1, 0)[:, None],
        )
        return weights.flatten(2)

    def _by_word(self, signed: Tensor, rows: Tensor) -> Tensor:
        """From counts by class and U, [..., R, C + 1, U], to words, [..., R, V]."""
        mass = signed.sum(-1)[..., self.language.class_of[: self.vocab_size]]
        # the given words themselves: only subsets that do not leave them out
        name = self._class[rows, :, None].expand(
            *signed.shape[:-2], -1, len(self._sign)
        )
        given = (signed.gather(-2, name) * (1 - self._without.T)).sum(-1)
        return mass.scatter(-1, self.words[rows].expand_as(given), given)

    @property
    def _rows(self) -> Tensor:
        return torch.arange(len(self), device=self.prompts.device)

    @property
    def _empty(self) -> Tensor:
        return self.prompts.new_full((len(self), self.language.longest + 1), MASK)
