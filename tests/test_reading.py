"""Free-text answers of all tasks: what is written around them changes none of them.

A decorated answer is read as it is or not at all: never as another one.
"""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_tutorial import tasks
from dllm_tutorial.tasks.vocabulary import PAD

COUNT = 6  # instances of a task


@cache
def answered(name: str) -> tuple[torch.Tensor, list[str], list[str]]:
    """Right answers of a task, Long[COUNT, A], their texts and their questions."""
    task = tasks.make(name)
    instances = task.draw(COUNT, generator=torch.Generator().manual_seed(3))
    answers = task.joint(instances).sample(torch.Generator().manual_seed(4))
    return answers, task.answer_text(answers), task.prompt_text(instances)


# What chat models write around an answer; {} is it.
WRAPPED = ["{}", "**{}**", "```\n{}\n```", "```text\n{}\n```", "<answer>{}</answer>"]
WRAPPED += ["<think>Let me see.</think>\n{}", "> {}", "{}<|eot_id|>", r"\boxed{{}}"]
BEFORE = ["Answer: ", "", "Answer:\n", "Sure! Here it is:\n\n", "The answer is:\n"]
BEFORE += ["Certainly!\n\n", "### Answer\n", "Final answer:\n\n", "Here you go.\n"]
BEHIND = ["", "\n", "\n\nI hope this helps!", "\n\nLet me know if you need more.", "  "]


def lists(text: str) -> list[str]:
    """The same list in the ways in which people write lists."""
    items = json.loads(text)
    ways = [text, ", ".join(items), "\n".join(items), repr(items)]
    ways += ["\n".join(f"{mark}{item}" for item in items) for mark in ("- ", "* ")]
    ways += ["\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))]
    ways += ["\n".join(f"| {i} | {item} |" for i, item in enumerate(items, 1))]
    return ways


def grids(text: str) -> list[str]:
    """The same grid with other marks between its cells."""
    rows = [line.split() for line in text.splitlines()]
    ways = [text, *("\n".join(mark.join(row) for row in rows) for mark in (", ", ""))]
    ways += ["\n".join(f"| {' | '.join(row)} |" for row in rows)]
    ways += ["[" + ",\n".join(f"[{', '.join(row)}]" for row in rows) + "]"]
    return ways


def forms(name: str, text: str) -> list[str]:
    if name in ("sudoku", "latin_square"):
        return grids(text)
    return lists(text) if text.startswith("[") else [text, text.lower(), f'"{text}"']


@st.composite
def decorated(draw):
    """The task, the instance, and its right answer with something around it."""
    name = draw(st.sampled_from(tasks.NAMES))
    i = draw(st.integers(0, COUNT - 1))
    _, texts, questions = answered(name)
    text = draw(st.sampled_from(forms(name, texts[i])))
    for way in draw(st.lists(st.sampled_from(WRAPPED), max_size=2)):
        text = way.replace("{}", text)
    text = draw(st.sampled_from(BEFORE)) + text + draw(st.sampled_from(BEHIND))
    if draw(st.booleans()):
        text = f"{questions[i]}\n\n{text}"
    return name, i, text


@settings(max_examples=1000)
@given(decorated())
def test_a_decorated_answer_is_never_read_as_another(case):
    name, i, text = case
    read, wanted = tasks.make(name).parse([text])[0], answered(name)[0][i]
    assert torch.equal(read, wanted) or (read == PAD).all(), text


AROUND = [*(f"{before}{{}}" for before in BEFORE), *WRAPPED[2:5]]


@pytest.mark.parametrize("name", tasks.NAMES)
def test_plain_decorations_are_read(name):
    """One thing around it, or the question before it, in each of its forms."""
    wanted, texts, questions = answered(name)
    for ways in zip(*(forms(name, text) for text in texts), strict=True):
        # a table begins on a line of its own
        around = AROUND[ways[0].startswith("|") :]
        told = [[way.join(one.split("{}")) for way in ways] for one in around]
        told += [[f"{q}\n\n{way}" for q, way in zip(questions, ways, strict=True)]]
        for said in told:
            same = (tasks.make(name).parse(said) == wanted).all(1)
            assert same.all(), said[int((~same).nonzero()[0])]
