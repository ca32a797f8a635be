"""Waiting Line: ten operations on a list of names (Kang et al. 2025, section 4).

Copy, reverse, sort and the edits at an index have one right answer. Shuffle and the
edits at random have several, all equally likely.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from dllm_tutorial import _checks
from dllm_tutorial.tasks import reading
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
_ASKED = "Answer with the new list only, in the same format."
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
        if not isinstance(lengths, Iterable):
            raise TypeError(f"lengths must be an iterable of integers, got {lengths!r}")
        self.lengths = tuple(_checks.integer(n, "lengths", 2) for n in lengths)
        if not self.lengths or max(self.lengths) > MOST_ITEMS:
            raise ValueError(
                f"lengths must lie in 2 ... {MOST_ITEMS}, got {self.lengths}"
            )
        _checks.integer(words_per_item, "words_per_item")
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
        self._check_answers(instances, answers)
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
            texts.append(f"{text} {_ASKED}")
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

        A list stands in brackets, in numbered or bulleted lines, in a row or column of
        a table, or in lines or short paragraphs of nothing but names, which a heading,
        a colon or "is" may introduce; names stand in quotes or not, with a comma, a
        semicolon, a line break or "and" between them. Formatting is taken off first
        (:func:`~dllm_tutorial.tasks.reading.plain`), and the question where it is
        repeated.

        All lists of the text are candidates. One name by itself is none beside a longer
        list, nor is what is announced as given ("original", "from") or refused
        ("cannot"). Those that are left must agree, or the last one be announced as the
        answer (:func:`~dllm_tutorial.tasks.reading.chosen`). A word that is no name
        among the items makes a list unreadable.
        """
        rows = [self._read(text) for text in reading.listed(texts)]
        return torch.tensor(rows, dtype=torch.long).view(-1, self.answer_length)

    def _read(self, text: str) -> list[int]:
        unreadable = [PAD] * self.answer_length
        lists = _lists(reading.plain(text, _ASKED))
        longest = max((len(one.items) for one in lists if one.rank >= 0), default=0)
        items = reading.chosen(
            (tuple(one.items) if one.whole else None, one.rank)
            for one in lists
            if len(one.items) > 1 or longest == 1
        )
        tokens: list[int] = []
        for words in map(str.split, items or ()):
            known = [w in names for w, names in zip(words, NAMES, strict=False)]
            if len(words) != self.words_per_item or not all(known):
                return unreadable
            tokens += encode(words).tolist()
        if not tokens or len(tokens) >= self.answer_length:
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

_MARKER = re.compile(  # of a bulleted or numbered line, or of a row of a table
    r"(?:[-*+•◦▪‣–—] |(?:position |item |name |no\.? |#)?\(?\d{1,4} ?[.):|] ?)", re.I
)
_INLINE = re.compile(r"[,;]? (?=\(?\d{1,4}[.):] )")  # before the 2. of "1. Ada, 2. Ben"
_LABEL = re.compile(r"\A(?:(.*(?:[:=]|\b(?:is|are)\b)) ?)?(.*)\Z")
_HEADING = re.compile(r"\b(?:names?|items?|lists?|line)\b|[!?]$", re.I)
_WRITTEN = re.compile(r"[^\W\d]|[\[\](){}]")
_ROUND = re.compile(r"(?m)(^|[:=]|\bis)( ?)[({]([^()\[\]{}]*)[)}]")
_KEY = re.compile(r"""(["'])[\w ]*\1 ?: ?(?=["'])""")  # of a JSON object
_BRACKET = re.compile(r"([\[\]])")
_BETWEEN = re.compile(r" ?(?:[,;]\n*|\n+|\|) ?(?:(?:and|&) )?| (?:and|&|->|→) ")
_QUOTED = re.compile(r"""(["'_]|__)([^"'_]*)\1""")
_NAMES = frozenset(itertools.chain(*NAMES))


@dataclass
class _List:
    """A list as it stands in a text.

    Parameters
    ----------
    items : list of str
    rank : int
        What the words around it make of it, see :func:`reading.rank`.
    marked : bool
        Whether its lines have bullets or numbers.
    whole : bool
        Whether it can be read; not so if one of its lines is no name.
    apart : bool
        Whether it has one name a paragraph so far.
    """

    items: list[str]
    rank: int
    marked: bool = False
    whole: bool = True
    apart: bool = False


def _lists(text: str) -> list[_List]:
    """The lists of names in a text, in its order."""
    found: list[_List] = []
    said, parts = "", _parts(_ROUND.sub(_squared, text))
    for i, (part, in_brackets) in enumerate(parts):
        if in_brackets:
            after = parts[i + 1][0] if i + 1 < len(parts) else ""
            items = _items(part)
            whole = all(map(_is_name, items))
            found.append(_List(items, reading.rank(said, after), whole=whole))
            said = ""
        else:
            said = _add_lines(found, said, part)
    return [one for one in found if any(map(_is_name, one.items))]


def _squared(found: re.Match[str]) -> str:
    """Round and curly brackets as square ones, where they hold nothing but names."""
    inside = _KEY.sub("", found[3])
    items = _items(inside)
    is_list = len(items) > 1 and all(map(_is_name, items))
    return f"{found[1]}{found[2]}[{inside}]" if is_list else found[0]


def _parts(text: str) -> list[tuple[str, bool]]:
    """A text cut into what is and what is no list in brackets.

    A bracket that is not closed is a list cut off: then nothing is cut.
    """
    parts, depth = [("", False)], 0
    for part in _BRACKET.split(text):
        if part in ("[", "]"):
            depth = max(0, depth + (1 if part == "[" else -1))
        elif depth and _is_list_like(_items(part)):
            parts += [(part, True), ("", False)]
        else:
            parts[-1] = (parts[-1][0] + part, False)
    return parts if depth == 0 else [(text, False)]


def _add_lines(found: list[_List], said: str, text: str) -> str:
    """Add the lists of a text without brackets; the line behind the last of them.

    A line is a list, or an item of one, or prose, which ends a list. One or two words
    that are no names are taken for an item that is none, unless they are a heading.
    """
    last, after_gap = None, False
    for line in _lines(text):
        bare = _MARKER.sub("", line, count=1) if _MARKER.match(line) else line
        label, rest = _LABEL.findall(bare)[0]
        items = _items(rest)
        names, marked = all(map(_is_name, items)), bare != line and not label
        if not line:
            after_gap = True
            continue
        if not marked and not names and not _may_be_items(line, label, items):
            last = None
        elif last and not label and _continues(last, items, marked, after_gap):
            last.apart &= after_gap
            last.items += items
            last.whole &= names and not (marked and len(items) > 1)
        else:
            last = _List(items, reading.rank(said + label), marked)
            last.whole = names and not (marked and len(items) > 1)
            last.apart = names and len(items) == 1
            found.append(last)
        after_gap = False
        said = "" if last and any(map(_is_name, items)) else f"{line}\n"
    return said


def _lines(text: str) -> list[str]:
    """Lines without the frame of a table; "1. Ada, 2. Ben" stands on two."""
    lines: list[str] = []
    for line in text.split("\n"):
        bare = line.strip(" |")
        starts = _MARKER.match(bare) and bare.lstrip("(").startswith("1")
        lines += _INLINE.split(bare) if starts else [bare]
    return ["" if re.fullmatch(r"[-=_*|:+ ]*", line) else line for line in lines]


def _may_be_items(line: str, label: str, items: list[str]) -> bool:
    """Whether a line without a marker may be part of a list, though not all are names.

    It holds a name beside something else, or is one or two words.
    """
    if label:
        return label[-1] in ":=" and _is_list_like(items)
    is_heading = _HEADING.search(line) or reading.rank(line) != 0
    stub = len(line.split()) <= 2 and _WRITTEN.search(line) and not is_heading
    return bool(stub) or _is_list_like(items)


def _continues(last: _List, items: list[str], marked: bool, after_gap: bool) -> bool:
    if marked != last.marked:
        return False
    one_name = len(items) == 1 and _is_name(items[0])
    return not after_gap or marked or (last.apart and one_name)


def _items(text: str) -> list[str]:
    """What stands between commas and line breaks; the last comma may be too many."""
    text = _unquoted(re.sub(r"[,;]?\.?$", "", text.strip()).rstrip())
    return [_unquoted(part) for part in _BETWEEN.split(text)]


def _unquoted(text: str) -> str:
    found = _QUOTED.fullmatch(text.strip())
    return (found[2] if found else text.strip()).removesuffix(".")


def _is_list_like(items: list[str]) -> bool:
    return any(map(_is_name, items)) and all(len(item.split()) <= 2 for item in items)


def _is_name(text: str) -> bool:
    return all(word in _NAMES for word in text.split(" "))
