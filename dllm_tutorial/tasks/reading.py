"""What the free-text answers of all tasks have in common: formatting, several answers.

A chat model wraps its answer in Markdown, tags or LaTeX, repeats the question, or gives
an answer twice. :func:`plain` takes the wrapping off; :func:`chosen` decides which of
several candidates is meant, by what :func:`rank` hears in the words before each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dllm_tutorial.tasks.vocabulary import EOS, PAD, VOCABULARY, encode

__all__ = ["answers", "chosen", "plain", "rank"]

_FINAL = "\n\nFinal answer:\n"
_BOXES = ("answer", "final_answer", "output", "result", "solution")  # tags of an answer
_INLINE = ("b", "code", "em", "i", "mark", "span", "strong", "u")  # tags within a line
_STRAIGHT = str.maketrans("“”‘’", "\"\"''")

_THOUGHT = re.compile(r"<(think|thinking)>.*?(?:</\1>|\Z)|\A.*</think(?:ing)?>", re.S)
_END = re.compile(
    r"</s>|<eos>|<end_of_turn>|<\|(?:eot_id|eom_id|im_end|end|end_of_text|endoftext)\|>"
)
_FENCE = re.compile(r"(?:```|~~~) *(?:([A-Za-z][\w+#.-]*)(?= *\n))?")
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)(?: [^<>\n]*)?/?>")
# Patterns and what comes in their place, one after the other.
_FORMATTING = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"<\|(?:im_start|start_header_id)\|>\w*|<\|[^<>|\n]*\|>", "\n"),
        (r"(?m)^ *(?:> ?)+", ""),  # block quotes
        (r"(?m)^ *#{1,6} +(.*)$", r"\n\1\n"),  # headings
        (r"\\(?:begin|end)\{[^{}\n]*\}(?:\{[^{}\n]*\})?", "\n"),  # LaTeX from here on
        (r"\\\\|\\[\[\]()]", "\n"),
        (r"\\(?:text|math)\w*\{([^{}\n]*)\}", r"\1"),
        (r"\\boxed\{([^{}]*)\}", rf"{_FINAL}\1\n"),
        (r"\\(?:hline|q?quad|left|right)\b|\$", " "),
        (r"\\([^\w\s])", r"\1"),
        (r"\*\*+|`", ""),  # emphasis; an underscore may be an empty cell of a grid
        (r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*(?!\w)", r"\1"),
        (r"(?<!\w)(__?)(?=[^\W_])(?=[^_\n]*[a-z])([^_\n]+)(?<=\S)\1(?!\w)", r"\2"),
        (r"[^\S\n]+", " "),
        (r"(?m)^ | $", ""),
    )
]


def answers(
    texts: Iterable[str], read: Callable[[str], Sequence[str] | None], length: int
) -> Tensor:
    """The words that ``read`` finds in each text as an answer, Long[B, length].

    All ``<pad>`` where it finds none, None, or more than an answer holds. ``TypeError``
    for a single string or anything but strings.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of strings, got the string {texts!r}")
    rows = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"texts must hold strings, got {text!r}")
        words = read(text) or ()
        missing = length - len(words)
        rows.append([*encode(words).tolist(), *[EOS] * missing])
        if not words or missing < 1:
            rows[-1] = [PAD] * length
    return torch.tensor(rows, dtype=torch.long).view(-1, length)


def plain(text: str, asked: str) -> str:
    """The answer without its formatting.

    Left out are thoughts in ``<think>``; whatever follows an end token; what stands
    before ``asked``, the last words of the question, where it is repeated; code fences,
    block quotes, emphasis, tags and LaTeX. A heading becomes a paragraph of its own,
    ``<answer>`` and a LaTeX box are announced as the final answer.
    """
    text = _THOUGHT.sub("\n", "\n".join(text.splitlines()))
    question = r"\W+".join(re.findall(r"\w+", asked)) or "(?!)"  # no words: never
    question = rf"(?is)\A.*\b{question}\b(?:[.:]?[^\w\s\[({{-]*(?=\s|\Z))?"
    parts = (re.sub(question, "", part, count=1) for part in _END.split(text))
    text = next((part for part in parts if part.strip()), "")
    text = _TAG.sub(_untagged, _FENCE.sub(_unfenced, text.translate(_STRAIGHT)))
    for pattern, new in _FORMATTING:
        text = pattern.sub(new, text)
    return text


def _unfenced(fence: re.Match[str]) -> str:
    """A line break; the language of the code goes, a word of a task does not."""
    return f"\n{fence[1]}" if fence[1] in VOCABULARY else "\n"


def _untagged(tag: re.Match[str]) -> str:
    closing, name = tag[1], tag[2].lower()
    if tag[0].lower() in VOCABULARY:  # as in "<copy>", which a network may have written
        return tag[0]
    if name in _BOXES and not closing:
        return _FINAL
    return "" if name in _INLINE else "\n"


# ------------------------------------------------------------------ several candidates

_REFUSED = re.compile(
    r"\b(?:can(?:not|'t| not)|could(?:n't| not)|won't|will not|unable|not able|"
    r"(?:is|are)(?:n't| not)|wrong|incorrect)\b"
)
_OBJECT = re.compile(  # "reverse the list [...]": nothing ends before the list
    r"\b(?:in|into|from|copy|reverse|sort|shuffle)(?: the)?(?: list| names)?[ \"'(]*$"
)
_MARKED = (
    r"(?<![a-z])(?:final|answer|(?<!to )correct(?:ed|ion)?|solution)(?![a-z])",
    r"(?<![a-z])(?:new|after|updated|modified|result(?:ing)?|output|using|without|"
    r"cop(?:y|ied)|(?:reverse|shuffle)d?|sort(?:ed)?|random\w*|alphabetical\w*|"
    r"(?:remov|replac|insert|delet|add)(?:e|ed|ing)?|another|different|alternative|"
    r"(?:paraphras|rephras|rewrit|reword)\w*|in(?:to)?(?: the)? (?:passive|active)|"
    r"sentence (?:with|that|contain|includ|made|for|from)\w*)(?![a-z])",
)
_GIVEN = re.compile(
    r"(?<![a-z])(?:original|given|input|initial|starting|source|old|unsorted|before|"
    r"question|prompt)(?![a-z])|^\W*words\W*$"
)


def rank(said: str, after: str = "") -> int:
    """What the words before a candidate, and behind it, make of it.

    2 for a final answer ("answer", "corrected"), 1 for an answer ("new", "reversed"), 0
    where nothing is said, -1 for no answer: what was given ("original", "input") or is
    refused ("cannot"). A copy of what was given is an answer. Of ``said`` only the last
    line counts, and only what stands behind its last full stop; of ``after`` what
    stands before the first.
    """
    said = re.split(r"[.!?](?: |$)|\n", _TAG.sub("", said).strip())[-1].lower()
    after = re.split(r"[.!?](?: |$)|\n", after)[0].lower()
    if _REFUSED.search(f"{said} | {after}") or _OBJECT.search(said):
        return -1
    for value, words in zip((2, 1), _MARKED, strict=True):
        if re.search(words, said):
            return value
    return -1 if _GIVEN.search(said) else 0


def chosen(candidates: Iterable[tuple[Any, int]]) -> Any:
    """The value that is meant, of pairs of a value and its rank; None if unclear.

    What is no answer does not count. Those of the highest rank must agree, and the last
    candidate with them: a later one may be a correction.
    """
    left = [(value, place) for value, place in candidates if place >= 0]
    best = max((place for _, place in left), default=0)
    values = {value for value, place in left if place == best}
    return left[-1][0] if left and values == {left[-1][0]} else None
