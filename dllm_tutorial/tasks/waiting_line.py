"""Waiting Line: ten operations on a list of names (Kang et al. 2025, section 4).

Copy, reverse, sort and the edits at an index have one right answer. Shuffle and the
edits at random have several, all equally likely.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from dllm_tutorial import _checks
from dllm_tutorial.tasks.answers import AnswerShuffle, AnswerTable
from dllm_tutorial.tasks.base import (
    ANSWER_LENGTH,
    PROMPT_LENGTH,
    AnswerJoint,
    Instances,
    Task,
    ended,
    padded,
)
from dllm_tutorial.tasks.vocabulary import (
    EOS,
    FIRST_NAMES,
    LAST_NAMES,
    NUMBERS,
    PAD,
    SEPARATOR,
    VOCABULARY,
    encode,
)

__all__ = ["WaitingLine"]

MOST_ITEMS = 20
INDICES = (*"123456789", *NUMBERS)
NAMES = (FIRST_NAMES, LAST_NAMES)

_FROM_1 = "Positions count from 1, so the first name is at position 1."
_KEEP = "Keep the order of the other names."
_REQUESTS = {
    "copy": "Copy the list {list}.",
    "reverse": "Reverse the list {list}.",
    "sort": "Sort the list {list} alphabetically by first name.",
    "shuffle": "Shuffle the list {list} into a random order.",
    "replace_index": "In the list {list}, replace the name at position {index} with "
    f"{{new}}. {_FROM_1} {_KEEP}",
    "insert_index": "Insert {new} into the list {list} so that it is at position "
    f"{{index}} of the new list. {_FROM_1} {_KEEP}",
    "remove_index": "From the list {list}, remove the name at position {index}. "
    f"{_FROM_1} {_KEEP}",
    "replace_random": "In the list {list}, replace one name, chosen at random, with "
    f"{{new}}. {_KEEP}",
    "insert_random": "Insert {new} into the list {list} at one position, chosen at "
    f"random. {_KEEP}",
    "remove_random": "From the list {list}, remove one name, chosen at random. "
    f"{_KEEP}",
}


class WaitingLine(Task):
    """An operation on a list of names.

    A prompt reads ``<kind> [index] [new item] items :``, the index where the kind ends
    in ``_index``, the new item, which is not in the list, where it replaces or inserts.
    Indices count from 1. The answer is the new list.

    =================  ===============================================================
    copy, reverse      The list as it is, or from last to first.
    sort               Alphabetical by the text of the items, so by first names.
    shuffle            Any order.
    replace_index      The item at the index becomes the new item.
    insert_index       The new item is put in and is then the item at the index, which
                       is 1 ... n + 1 (not 21: the vocabulary ends at 20).
    remove_index       The item at the index is left out.
    replace_random     The new item stands for any one of the n items.
    insert_random      The new item is put in at any one of n + 1 places.
    remove_random      Any one of the n items is left out.
    =================  ===============================================================

    Parameters
    ----------
    kind : str
        One of ``WaitingLine.KINDS``.
    lengths : iterable of int
        Numbers of items n, from 2 to 20; each instance draws one of them, all equally
        likely.
    words_per_item : int
        1 for first names; 2 for "First Last", where an instance has every first and
        every last name at most once.
    new_order : bool
        For shuffle: the order of the prompt is no valid answer, as in the published
        scorer.
    prompt_length, answer_length : int
        See :class:`Task`; ``ValueError`` if the longest list does not fit.

    Notes
    -----
    ``Instances.given`` holds ``items`` Long[B, N, w], filled up with ``<pad>``, and
    ``count`` Long[B]; where the kind has them, ``index`` Long[B], which counts from 0,
    and ``new`` Long[B, w].
    """

    KINDS = tuple(_REQUESTS)

    def __init__(
        self,
        kind: str,
        lengths: Iterable[int] = (3, 4, 5, 6),
        words_per_item: int = 1,
        *,
        new_order: bool = False,
        prompt_length: int = PROMPT_LENGTH,
        answer_length: int = ANSWER_LENGTH,
    ) -> None:
        super().__init__(prompt_length, answer_length)
        self.name = _checks.one_of(kind, "kind", self.KINDS)
        self.lengths = tuple(_checks.integer(n, "lengths", 2) for n in lengths)
        if not self.lengths or max(self.lengths) > MOST_ITEMS:
            raise ValueError(
                f"lengths must lie in 2 ... {MOST_ITEMS}, got {self.lengths}"
            )
        self.words_per_item = _checks.one_of(words_per_item, "words_per_item", (1, 2))
        if new_order and kind != "shuffle":
            raise ValueError(
                f"new_order must be False for {kind!r}, it is for 'shuffle'"
            )
        self.new_order = new_order
        self.operation = kind.removesuffix("_index").removesuffix("_random")
        self.has_index = kind.endswith("_index")
        self.has_new = self.operation in ("replace", "insert")
        # Items that the operation adds to the list.
        self.growth = {"insert": 1, "remove": -1}.get(self.operation, 0)
        most = max(self.lengths)
        prompt = 2 + self.has_index + (most + self.has_new) * self.words_per_item
        answer = 1 + (most + self.growth) * self.words_per_item
        if prompt > self.prompt_length or answer > self.answer_length:
            raise ValueError(
                f"lengths up to {most} need a prompt_length of {prompt} and an "
                f"answer_length of {answer}, got {prompt_length} and {answer_length}"
            )

    # ------------------------------------------------------------------- instances

    def _propose(self, count: int, generator: Generator | None) -> Instances:
        device = "cpu" if generator is None else generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(
                shape, generator=generator, dtype=torch.float64, device=device
            )

        most = max(self.lengths)
        lengths = torch.tensor(self.lengths, device=device)
        size = lengths[(uniform(count) * len(lengths)).long()]
        names = torch.stack(
            [
                encode(words).to(device)[uniform(count, len(words)).argsort(1)]
                for words in NAMES[: self.words_per_item]
            ],
            dim=2,
        )  # [B, all names, w], those of a row distinct
        absent = torch.arange(most, device=device) >= size[:, None]
        given = {
            "items": names[:, :most].masked_fill(absent[..., None], PAD),
            "count": size,
        }
        if self.has_index:
            given["index"] = (uniform(count) * self._places(size)).long()
        if self.has_new:
            given["new"] = names[:, most]
        return Instances(self._prompts(given), given)

    def _places(self, size: Tensor) -> Tensor:
        """At how many places the edit can be made in lists of these sizes."""
        places = size + (self.operation == "insert")
        return places.clamp(max=len(INDICES)) if self.has_index else places

    def _prompts(self, given: dict[str, Tensor]) -> Tensor:
        items = given["items"]
        first = items.new_full((len(items), 1), VOCABULARY.index(f"<{self.name}>"))
        parts = [first]
        if self.has_index:
            parts.append(encode(INDICES).to(items.device)[given["index"], None])
        if self.has_new:
            parts.append(given["new"])
        parts += [items.flatten(1), torch.full_like(first, SEPARATOR)]
        return padded(torch.cat(parts, 1), self.prompt_length)

    # ---------------------------------------------------------------- right answers

    def joint(self, instances: Instances) -> AnswerJoint:
        items, size = instances.given["items"], instances.given["count"]
        if self.operation == "shuffle":
            return AnswerShuffle(
                instances.prompts,
                items,
                size,
                self.answer_length,
                new_order=self.new_order,
            )
        places = torch.arange(items.shape[1] + 1, device=items.device)
        if self.has_index:
            at = instances.given["index"][:, None]
        elif self.name.endswith("_random"):
            at = places[: int(self._places(size).max())].expand(len(items), -1)
        else:
            at = torch.zeros_like(size)[:, None]
        picks = self._picks(items, size, at, places)  # [B, M, N + 1]
        # What is picked from: the items, then the new one.
        new = instances.given.get("new", torch.full_like(items[:, 0], EOS))
        pool = torch.cat([items, new[:, None]], 1)
        rows = torch.arange(len(items), device=items.device)[:, None, None]
        lists = pool[rows, picks]  # [B, M, N + 1, w]
        beyond = places >= (size + self.growth)[:, None]
        lists = lists.masked_fill(beyond[:, None, :, None], EOS)
        answers = ended(lists.flatten(0, 1).flatten(1), self.answer_length)
        valid = at < self._places(size)[:, None]
        return AnswerTable(instances.prompts, answers.unflatten(0, at.shape), valid)

    def _picks(self, items: Tensor, size: Tensor, at: Tensor, places: Tensor) -> Tensor:
        """Long[B, M, N + 1]: where each item of the new list comes from.

        ``at: Long[B, M]`` are the places of an edit, ``places`` is 0 ... N; what comes
        after the end of the new list is of no meaning.
        """
        at, new = at[..., None], items.shape[1]
        if self.operation == "replace":
            return torch.where(places == at, new, places)
        if self.operation == "insert":
            return torch.where(places == at, new, places - (places > at).long())
        if self.operation == "remove":
            return (places + (places >= at)).clamp(max=new)
        if self.operation == "reverse":
            return (size[:, None, None] - 1 - places).clamp(min=0)
        if self.operation == "sort":
            order = _alphabetical(items).argsort(1)
            return pad(order, (0, 1))[:, None]
        return places.expand(len(items), 1, -1)

    def score(self, instances: Instances, answers: Tensor) -> Tensor:
        _checks.tokens(answers, "answers", length=self.answer_length)
        if len(answers) != len(instances):
            raise ValueError(
                f"answers must have {len(instances)} rows, got {len(answers)}"
            )
        items, size = instances.given["items"], instances.given["count"][:, None]
        wanted = size + self.growth
        position = torch.arange(self.answer_length, device=items.device)
        ends = ((answers == EOS) == (position >= wanted * self.words_per_item)).all(1)

        item = self._recognized(instances, answers)  # [B, S]
        place = torch.arange(item.shape[1], device=items.device).expand_as(item)
        outside = place >= wanted
        is_new = ~outside & (item == items.shape[1])
        rises = item[:, 1:] > item[:, :-1]

        if self.operation == "copy":
            right = item == place
        elif self.operation == "reverse":
            right = item + place == size - 1
        elif self.operation in ("shuffle", "sort"):  # every item once
            right = item.masked_fill(outside, len(VOCABULARY)).sort(1).values == place
        elif self.operation == "replace":
            right = is_new != (item == place)
        elif self.operation == "insert":  # without the new item all is as it was
            right = is_new | (item == place - is_new.long().cumsum(1))
        else:  # what is left keeps its order
            right = (item >= 0) & pad(rises, (1, 0), value=True)
        right = ends & (right | outside).all(1)

        if self.operation == "sort":
            rank = _alphabetical(items).gather(1, item.clamp(0, items.shape[1] - 1))
            right &= ((rank[:, 1:] > rank[:, :-1]) | outside[:, 1:]).all(1)
        if self.new_order:
            right &= ((item != place) & ~outside).any(1)
        if self.has_new:
            right &= is_new.sum(1) == 1
        if self.has_index:
            index = instances.given["index"][:, None]
            chosen = is_new & (place == index)
            right &= chosen.any(1) if self.has_new else (item != index).all(1)
        return right

    def _recognized(self, instances: Instances, answers: Tensor) -> Tensor:
        """Long[B, S]: which item stands at each place of an answer Long[B, A].

        Items are 0 ... n - 1, the new one is N; -1 where there is neither.
        """
        items, width = instances.given["items"], self.words_per_item
        places = min(items.shape[1] + 1, self.answer_length // width)
        shown = answers[:, : places * width].unflatten(1, (places, 1, width))
        same = (shown == items[:, None]).all(3) & (items[:, None, :, 0] != PAD)
        item = torch.where(same.any(2), same.int().argmax(2), -1)
        if self.has_new:
            is_new = (shown[:, :, 0] == instances.given["new"][:, None]).all(2)
            item = torch.where(is_new, items.shape[1], item)
        return item

    # --------------------------------------------------------------------- English

    def prompt_text(self, instances: Instances) -> list[str]:
        given = {name: value.tolist() for name, value in instances.given.items()}
        request = _REQUESTS[self.name]
        if self.new_order:
            request += " It must differ from the given order."
        texts = []
        for row, count in enumerate(given["count"]):
            items = [_words(item) for item in given["items"][row][:count]]
            text = request.format(
                list=json.dumps(items),
                index=given["index"][row] + 1 if self.has_index else None,
                new=json.dumps(_words(given["new"][row])) if self.has_new else None,
            )
            texts.append(f"{text} Answer with the new list only, in the same format.")
        return texts

    def answer_text(self, answers: Tensor) -> list[str]:
        texts = []
        for row in answers.tolist():
            tokens = list(itertools.takewhile(lambda token: token != EOS, row))
            starts = range(0, len(tokens), self.words_per_item)
            items = [tokens[i : i + self.words_per_item] for i in starts]
            texts.append(json.dumps([_words(item) for item in items]))
        return texts

    def parse(self, texts: list[str]) -> Tensor:
        """Free-text answers as tokens, Long[B, A]; all ``<pad>`` if unreadable.

        The list is looked for in square brackets, else in numbered or bulleted lines,
        else in a paragraph of nothing but names, which a heading with a colon may
        introduce. Names stand in double quotes, single quotes or none, and a comma, a
        line break or both between them; the text around the list does not matter. A
        word outside the vocabulary makes the list unreadable, as do two lists that
        differ.
        """
        rows = [self._read(text) for text in texts]
        return torch.tensor(rows, dtype=torch.long).view(-1, self.answer_length)

    def _read(self, text: str) -> list[int]:
        unreadable = [PAD] * self.answer_length
        lists = {tuple(items) for items in _lists(text)}
        if len(lists) != 1:
            return unreadable
        tokens: list[int] = []
        for words in map(str.split, lists.pop()):
            known = [w in names for w, names in zip(words, NAMES, strict=False)]
            if len(words) != self.words_per_item or not all(known):
                return unreadable
            tokens += encode(words).tolist()
        if len(tokens) >= self.answer_length:
            return unreadable
        return tokens + [EOS] * (self.answer_length - len(tokens))


def _alphabetical(items: Tensor) -> Tensor:
    """Long[B, N]: ranks of items by the text of their first word; padding is last."""
    text = torch.tensor(sorted(range(len(VOCABULARY)), key=VOCABULARY.__getitem__))
    rank = text.argsort().to(items.device)
    first = items[..., 0]
    return torch.where(first == PAD, len(VOCABULARY), rank[first])


def _words(tokens: list[int]) -> str:
    return " ".join((*VOCABULARY, "_")[token] for token in tokens)


# ------------------------------------------------------------------ free-text answers

_STRAIGHT = str.maketrans("“”‘’", "\"\"''")
_FENCE = re.compile(r"```(?:[a-z]*(?=\s*\n))?")  # of code, with its language
_BLANKS = re.compile(r"[^\S\n]+")
_BRACKET = re.compile(r"([\[\]])")
_MARKER = re.compile(r"[-*+•] |\d+[.):] ?")  # of a bulleted or numbered line
_BETWEEN = re.compile(r"\s*[,\n]\s*")
_QUOTED = re.compile(r"""(["'`]|\*\*|)(.*)\1""")
_ANY_NAME = re.compile(rf"\b(?:{'|'.join(itertools.chain(*NAMES))})\b")


def _lists(text: str) -> list[list[str]]:
    """The lists of names that a text may mean, each as the texts of its items."""
    text = _BLANKS.sub(" ", _FENCE.sub("\n", text.translate(_STRAIGHT)))
    bracketed = _bracketed(text)
    if bracketed:
        return bracketed
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    groups = itertools.groupby(lines, lambda line: bool(_MARKER.match(line)))
    runs = [list(run) for is_marked, run in groups if is_marked]
    marked = [
        [_unquoted(_MARKER.sub("", line, count=1).removesuffix(",")) for line in run]
        for run in runs
        if _ANY_NAME.search("\n".join(run))
    ]
    if marked:
        return marked
    paragraphs = re.split(r"\n\s*\n", text)
    bare = [_items(re.sub(r"\A[^\n]*:", "", x.strip())) for x in paragraphs]
    return [items for items in bare if all(map(_is_name, items))]


def _bracketed(text: str) -> list[list[str]]:
    """What stands in brackets; nothing if one is not closed: a list cut off."""
    found, depth = [], 0
    for part in _BRACKET.split(text):
        if part == "[":
            depth += 1
        elif part == "]":
            depth = max(0, depth - 1)
        elif depth and _ANY_NAME.search(part):
            found.append(_items(part))
    return found if depth == 0 else []


def _items(text: str) -> list[str]:
    """What stands between commas and line breaks; the last comma may be too many."""
    parts = _BETWEEN.split(text.strip().removesuffix(".").removesuffix(","))
    return [_unquoted(part) for part in parts]


def _unquoted(text: str) -> str:
    found = _QUOTED.fullmatch(text.strip())
    return found[2] if found else text


def _is_name(text: str) -> bool:
    return all(map(_ANY_NAME.fullmatch, text.split(" ")))
