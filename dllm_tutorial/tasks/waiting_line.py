"""Waiting Line: ten operations on a list of names (Kang et al. 2025, section 4).

Copy, reverse, sort and the edits at an index have one right answer. Shuffle and the
edits at random have several, all equally likely.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
    MASK,
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
        _checks.token_range(answers, "answers", MASK + 1)
        texts = []
        for row in answers.tolist():
            tokens = list(itertools.takewhile(lambda token: token != EOS, row))
            starts = range(0, len(tokens), self.words_per_item)
            items = [tokens[i : i + self.words_per_item] for i in starts]
            texts.append(json.dumps([_words(item) for item in items]))
        return texts

    def parse(self, texts: list[str]) -> Tensor:
        """Free-text answers as tokens, Long[B, A]; all ``<pad>`` if unreadable.

        A list is a run of names with nothing but one and the same mark between them: a
        comma or the like, a line break, a blank line, a bullet, the next number; before
        the last name "and" will do. It stands in brackets or fills its lines, behind a
        label or not. Formatting is taken off first
        (:func:`~dllm_tutorial.tasks.reading.plain`), and the question where it is
        repeated.

        All lists of the text are candidates, so that a run is never cut: one that is
        irregular, has an empty item (``["Ada",, "Ben"]``), or has something beside it
        that may be an item of it, is a candidate that cannot be read. One name by
        itself is none beside a longer list, nor is what is announced as given
        ("original", "from") or refused ("cannot"). Those that are left must agree, or
        the last one be announced as the answer
        (:func:`~dllm_tutorial.tasks.reading.chosen`).
        """
        return reading.answers(texts, self._read, self.answer_length)

    def _read(self, text: str) -> list[str] | None:
        lists = _lists(reading.plain(text, _ASKED))
        items = reading.chosen((one.items, one.rank) for one in lists)
        listed = [item.split() for item in items or ()]
        for words in listed:
            known = [w in names for w, names in zip(words, NAMES, strict=False)]
            if len(words) != self.words_per_item or not all(known):
                return None
        return list(itertools.chain(*listed))


def _alphabetical(items: Tensor) -> Tensor:
    """Long[B, N]: ranks of items by the text of their first word; padding is last."""
    text = torch.tensor(sorted(range(len(VOCABULARY)), key=VOCABULARY.__getitem__))
    rank = text.argsort().to(items.device)
    first = items[..., 0]
    return torch.where(first == PAD, len(VOCABULARY), rank[first])


def _words(tokens: list[int]) -> str:
    return " ".join((*VOCABULARY, "_")[token] for token in tokens)


# ------------------------------------------------------------------ free-text answers

# In the text that is read a slot stands for each name, which keeps the grammar short.
_SLOT = "\ufffc"
_NAME = "|".join(itertools.chain(*NAMES))
_ITEM = re.compile(
    rf"""(?<!\w)(["'_]|__|)((?:{_NAME})(?: (?:{_NAME}))*)(?<=\w)\1(?!\w)"""
)
_NUMBER = r"(?i:(?:position |item |name |no\.? |#)?\(?\"?\d{1,4}\"? ?[.):|-] ?)"
_MARK = rf"(?:[-*+•◦▪‣–—] |{_NUMBER})"  # of a line, or of a row of a table
_GAP = (  # between two names: a sign, line breaks, "and", the mark of the second
    rf" ?([,;|]|->|→|\.(?=\n)|) ?(\n*)((?:(?:and|&) )?)((?:(?<=\n){_MARK}|{_NUMBER})?)"
)
_HEAD = re.compile(rf"(?s)\A(.*?)({_MARK}|)([\"']?)\Z")
_LABEL = re.compile(r".*(?:[:=!?.]|\b(?:is|are)) ?", re.S)
_ROUND = re.compile(
    rf"(?m)((?:^|[:=]|\bis) ?)[({{](\s*{_MARK}?{_SLOT}(?:{_GAP}{_SLOT})+,?\s*)[)}}]"
)
_RULE = re.compile(r"[|:+ ]*[-=*_]{2,}[-=*_|:+ ]*|(?:\| ?:?-+:? ?)*\|")
_WORDS = re.compile(r"\b(?!and\b)[A-Za-z]{2,}")
_EDIT = re.compile(
    r"(?i)\b(?:(?:remov|delet|insert|add|replac|omit|exclud|drop)\w*|names?|out)\W*$"
)
_ENDED = re.compile(r"[^\n]*?(?<!\d)[.!?]|\W*\n")
_HEADING = re.compile(r"\b(?:names?|items?|lists?|line)\b|[!?:]$", re.I)


class _Gap(NamedTuple):
    """What is between two names of a list."""

    sign: str
    lines: int
    mark: str

    @property
    def is_blank(self) -> bool:
        return self.lines > 1 and not self.mark


@dataclass
class _List:
    """A list in a text.

    Parameters
    ----------
    slots : range
        Which of the text's names are its items.
    rank : int
        What the words around it make of it, see :func:`reading.rank`.
    closed : bool
        Whether it stands in brackets.
    mark : str
        The bullet or the kind of number before each item.
    apart : bool
        Whether a blank line may be between its items.
    items : tuple of str or None
        None if it cannot be read.
    """

    slots: range
    rank: int
    closed: bool
    mark: str
    apart: bool
    items: tuple[str, ...] | None


def _lists(text: str) -> list[_List]:
    """The lists of names in a text, in its order."""
    text = text.replace(_SLOT, "?")
    names = _ITEM.findall(text)  # with the quotes around them
    text = _ROUND.sub(r"\1[\2]", _ITEM.sub(_SLOT, text))
    lines = ("" if _RULE.fullmatch(x) else x.strip(" |") for x in text.split("\n"))
    text = "\n".join(["", *lines, ""])
    if not names or text.count("[") > text.count("]") or "[]" in text:
        return []  # no list, or one that is cut off or empty
    around = text.split(_SLOT)  # slot i is between parts i and i + 1
    depth = [*itertools.accumulate(p.count("[") - p.count("]") for p in around)]
    found: list[_List] = []
    for slots in _runs([_gap(part) for part in around[1:-1]]):
        done = found[-1].slots.stop if found else 0
        said = _SLOT.join(around[done : slots.start + 1])
        parts = around[slots.start : slots.stop + 1]
        parts[0] = _SLOT * (slots.start > 0) + parts[0]
        parts[-1] += _SLOT * (slots.stop < len(names))
        one = _list(slots, parts, said, closed=depth[slots.start] > 0)
        own = names[slots.start : slots.stop]
        alike = len({(bool(quote), len(name.split())) for quote, name in own}) == 1
        if one and one.items is not None:
            one.items = tuple(name for _, name in own) if alike else None
        found += [one] if one else []
    owner = {slot: one for one in found for slot in one.slots}
    for one in found:
        for slot in (one.slots.start - 1, one.slots.stop):
            if 0 <= slot < len(names):
                beside = around[slot], around[slot + 1]
                if not _is_other(one, owner.get(slot), *beside, slot < one.slots.start):
                    one.items = None
    return found


def _gap(text: str) -> _Gap | None:
    """What is between two names; None where that makes no list of them."""
    found = re.fullmatch(_GAP, text)
    if not found or not text.strip(" "):
        return None
    sign, lines, _, mark = found.groups()
    return _Gap(sign, 0 if sign in (",", ";") else min(len(lines), 2), _kind(mark))


def _kind(mark: str) -> str:
    return re.sub(r"\d+", "#", mark).strip().lower()


def _marked(line: str) -> str:
    """The bullet or the kind of number with which a line begins."""
    begun = re.match(_MARK, f"{line} ")
    return _kind(begun[0]) if begun else ""


def _runs(gaps: list[_Gap | None]) -> Iterator[range]:
    """The names between which there are nothing but marks.

    A blank line ends a run, unless a bullet or a number follows or the names on both
    sides of it have lines of their own.
    """
    near = [False, *(bool(gap and not gap.is_blank) for gap in gaps), False]
    alone = [not before and not after for before, after in itertools.pairwise(near)]
    start = 0
    for i, gap in enumerate([*gaps, None], 1):
        if not near[i] and not (gap and alone[i - 1] and alone[i]):
            yield range(start, i)
            start = i


def _list(slots: range, parts: list[str], said: str, *, closed: bool) -> _List | None:
    """The list that a run of names makes; None for names in a sentence.

    ``parts`` are what stands before, between and behind the names; ``said`` what
    stands before them since the last list.
    """
    before, *between, after = parts
    gaps = [gap for gap in map(_gap, between) if gap]
    _, begins, head = before.rpartition("[" if closed else "\n")
    tail, ends, behind = after.partition("]" if closed else "\n")
    label, mark, quote = _HEAD.findall(head)[0]
    if gaps and not gaps[0].mark:
        label, mark = label + mark, ""
    if closed:
        rank = reading.rank(said.rpartition("[")[0].rstrip("[ "), behind.split("[")[0])
    else:
        rank = reading.rank(said[: len(said) - len(mark + quote)])
    starts = (begins and not label.strip()) or (not closed and _LABEL.fullmatch(label))
    if len(slots) == 1 and _EDIT.search(label):
        rank = -1
    stops = ends and re.fullmatch(rf"\s*(?:[,;.!]?{quote}|{quote}[,;.!])\s*", tail)
    if not (starts and stops):  # but for one word it may be a list all the same
        words = max(len(re.findall(r"\w+", part)) for part in (head, tail))
        listed = closed or (gaps and words < 2)
        return _List(slots, rank, closed, "", False, None) if listed else None
    # one name beside the label of lines may be the first or belong to the label
    unclear = label.strip() and not mark and any(gap.lines for gap in gaps) and rank < 2
    apart = len(slots) == 1 or any(gap.is_blank for gap in gaps)
    unclear = unclear or (closed and re.match(r"\W*becomes?\b", behind))
    whole = not unclear and _is_regular(gaps, [mark, *between])
    if not closed:
        above = [] if label.strip() else before.split("\n")[-2::-1]
        beside = (above, after.split("\n")[1:])
        whole &= not any(_continues(lines, _kind(mark), apart) for lines in beside)
        whole &= not re.fullmatch(_MARK, label)
    return _List(slots, rank, closed, _kind(mark), apart, () if whole else None)


def _is_regular(gaps: list[_Gap], marks: list[str]) -> bool:
    """Whether the same stands between all names, and numbers before them count."""
    same = gaps
    if len(gaps) > 1 and gaps[0].sign in (",", ";") and not any(gaps[-1]):
        same = gaps[:-1]  # "and" before the last name
    numbers = [int(number) for number in re.findall(r"\d+", " ".join(marks))]
    first = numbers[0] if numbers else 0
    counted = numbers in (
        [first + i for i, _ in enumerate(numbers)],
        [1] * len(numbers),
    )
    return (
        len(set(same)) <= 1
        and all(gap.mark == _kind(marks[0]) for gap in gaps)
        and first < 2
        and counted
    )


def _continues(lines: list[str], mark: str, apart: bool) -> bool:
    """Whether the lines beside a list begin with an item: no name, or an empty one."""
    line = next(filter(None, lines), "")
    if mark and _marked(line) == mark:
        return not line.endswith(":")
    for part in (line, re.sub(r"^.*(?:[:=!?.]|\b(?:is|are)) (?=\S)", "", line)):
        first = re.split(r"[|,;!(]| - | (?:is|are)\b", re.sub(f"^{_MARK}", "", part))[0]
        words = [word.strip(".\"'_") for word in first.split()]
        if (
            line
            and len(words) <= 2
            and all(word in ("", *VOCABULARY) for word in words)
        ):
            return bool(apart or mark or line == lines[0])
    is_heading = _HEADING.search(line) or reading.rank(line) != 0
    is_stub = 0 < len(line.split()) <= 2 and _SLOT not in line and not is_heading
    return is_stub and (apart or line == lines[0])


def _is_other(
    one: _List, other: _List | None, before: str, after: str, is_first: bool
) -> bool:
    """Whether the name beside a list, between two parts of the text, is no item of it.

    It is in a list of its own, or is told apart by words that announce something; a
    name in a sentence also by the end of a label, as in "The list without Ada:", or a
    blank line; one beside brackets by any words, but not by those with which the
    sentence goes on.
    """
    gap = after if is_first else before
    line = before.rpartition("\n")[2], after.partition("\n")[0]
    if one.mark and _marked(line[0]) == one.mark and not (other and other.items):
        return False
    words = _WORDS.search(gap)
    if other and len(other.slots) > 1 and (words or other.items):
        return True
    if len(one.slots) > 1 and reading.rank(gap) != 0:
        return True
    if one.closed and words:
        return is_first or bool(_ENDED.match(gap))
    within = _WORDS.search(line[0]) and _WORDS.search(line[1])
    is_label = _WORDS.search(line[0]) and line[1].lstrip("\"' ").startswith(":")
    blank = "\n\n" in gap and (within or not one.apart)
    return not other and bool(is_label or blank)
