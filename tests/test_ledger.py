"""The claims ledger: every verdict is derived again from its evidence."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from dllm_tutorial import ledger

CLAIMS = ledger.load()
CLAIM = """
[[claim]]
id = "a"
slide = "s"
chapter = 1
statement = "x"
measure = "m"
verdict = "open"
"""


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_the_verdict_is_the_one_that_the_evidence_gives(claim):
    found = ledger.finding(claim)
    if found is None:
        assert claim.verdict == "open"
    else:
        assert found.verdict == claim.verdict
        assert found.text.endswith(".")


def test_chapters_that_are_written_have_verdicts():
    for chapter in (1, 2, 3, 4):
        assert ledger.table(chapter).counts()["open"] == 0
    assert {claim.chapter for claim in CLAIMS} == set(ledger.CHAPTERS)


def test_every_evidence_belongs_to_one_claim():
    used = [claim.evidence for claim in CLAIMS if claim.evidence]
    assert sorted(used) == sorted(ledger.EVIDENCE)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("new_city", [Fraction(1, 4), Fraction(1, 2)]),
        ("shuffle_22", [Fraction(2, 9)]),
        ("quality_inevitably_drops", [Fraction(27, 64), Fraction(3, 32)]),
    ],
)
def test_findings_print_what_a_pencil_gives(name, values):
    text = ledger.EVIDENCE[name]().text
    for value in values:
        shown = {f"{float(value):.{digits}%}" for digits in (0, 1, 2)}
        assert any(form in text for form in shown), (shown, text)


def test_product_law_prints_log_2():
    text = ledger.EVIDENCE["product_law"]().text
    assert text.count(f"{math.log(2):.4f}") == 3


def test_a_table_shows_each_claim_once():
    table = ledger.table(3)
    shown = table._repr_markdown_()
    for row in table.rows():
        assert shown.count(row["statement"]) == 1
        assert row["finding"] in shown
    assert repr(table).startswith("Ledger(") and "reproduced" in repr(table)
    assert sum(table.counts().values()) == len(table.claims)
    with pytest.raises(ValueError, match="chapter must be one of"):
        ledger.table(12)


def test_definitions_are_shown_and_counted_apart():
    table = ledger.table(4)
    apart = [claim for claim in table.claims if claim.kind == "definition"]
    assert {"random-top-k", "l2r-top-k"} <= {claim.id for claim in apart}
    counts = table.counts()
    assert counts["definitions"] == len(apart) > 0
    reproduced = [c for c in table.claims if c.verdict == "reproduced"]
    assert counts["reproduced"] == len([c for c in reproduced if c.kind == "claim"])
    assert table._repr_markdown_().count("**Definition.**") == len(apart)


def test_an_open_claim_says_where_it_will_be_settled():
    (row,) = ledger.table(7).rows()
    assert row["finding"] == "Planned for chapter 7."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CLAIM.replace('slide = "s"', ""), "claim 'a' must have the keys"),
        (CLAIM + 'color = "red"', "unknown ..color"),
        (CLAIM.replace("chapter = 1", "chapter = 12"), "chapter must be one of"),
        (CLAIM.replace('"open"', '"maybe"'), "verdict must be one of"),
        (CLAIM.replace('"open"', '"partly"'), "must have evidence"),
        (
            CLAIM.replace('"open"', '"partly"') + 'evidence = "magic"',
            "evidence must be one of",
        ),
        (CLAIM.replace('measure = "m"', 'measure = " "'), "measure must be a text"),
        (CLAIM + 'kind = "opinion"', "kind must be one of"),
        (CLAIM + CLAIM, "id must be unique, got twice: a"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    path = tmp_path / "claims.toml"
    path.write_text(CLAIM, encoding="utf-8")
    assert [claim.id for claim in ledger.load(path)] == ["a"]
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ledger.load(path)
