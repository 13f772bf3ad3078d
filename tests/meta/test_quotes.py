"""What documents quote is there: the messages of `docs/troubleshooting.md`, and the tests of `docs/guarantees.md`."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Awaitable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import aioflow as flow
from aioflow import errors
from aioflow.queues._attempts import CLOSED

ROOT = Path(__file__).parents[2]
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text()
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()

QUOTES = [
    line
    for block in re.findall(r"^```console\n(.*?)^```$", TROUBLESHOOTING, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
CLASS = re.compile(r"(?:aioflow\.errors\.|aioflow: )([A-Z]\w+): ")
# A text with fewer fixed letters than this, such as `f"{name}: {error}"`, would be found in every message.
LETTERS_MIN = 12


def pattern(node: ast.AST) -> str | None:
    """Return what the text that an expression makes looks like, as far as it is written there; None if it is none."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%(?:\\\.\d)?[sdfgr]", ".+", re.escape(text))  # loggers have their values apart
        case ast.JoinedStr(values):
            return "".join(pattern(value) or ".*" for value in values)
        case ast.BinOp(left, ast.Add(), right) if pattern(left) or pattern(right):
            return (pattern(left) or ".*") + (pattern(right) or ".*")
        case _:
            return None


@cache
def patterns() -> list[re.Pattern[str]]:
    """Return what the texts of the library look like that have enough fixed letters."""
    files = [path for folder in ("aioflow", "transports") for path in (ROOT / folder).rglob("*.py")]
    texts = {pattern(node) for path in files for node in ast.walk(ast.parse(path.read_text()))}
    return [
        re.compile(rf"(?:.*: )?{text}")
        for text in texts
        if text and len(re.findall(r"(?<!\\)[a-z]", text)) >= LETTERS_MIN
    ]


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_one_of_the_source(quote: str) -> None:
    """It looks like a text of the library, and its class is there."""
    found = CLASS.match(quote)
    if found:
        assert found[1] in errors.__all__
        quote = quote[found.end() :]
    if quote not in MESSAGES_IN_PIECES:
        assert any(text.fullmatch(quote) for text in patterns()), quote


# These are put together of words that by themselves are found anywhere.
MESSAGES_IN_PIECES = (f"queue 'train' is {CLOSED}", "queue 'train' is already closed", "queue 'train' was deleted")


async def closed_and_deleted() -> list[str]:
    """Put to and close a queue that is closed, and wait on one that is deleted."""
    q = flow.FIFOQueue(8, ["int64"], [[]], shared_name="train")
    async with flow.Session():
        await q.close()
        with pytest.raises(flow.QueueClosed) as put:
            await q.enqueue(1)
        with pytest.raises(flow.QueueClosed) as close:
            await q.close()
        await q.delete()
        calls: list[Awaitable[Any]] = [q.dequeue(), q.delete()]
        gone, _ = await asyncio.gather(*calls, return_exceptions=True)
    return [str(put.value), str(close.value), str(gone)]


def test_messages_in_pieces() -> None:
    """They are what a program sees."""
    assert asyncio.run(closed_and_deleted()) == list(MESSAGES_IN_PIECES)
    assert set(MESSAGES_IN_PIECES) <= {CLASS.sub("", quote) for quote in QUOTES}


@pytest.mark.parametrize("message", ["no aioflow server answers at x", "queue 'train' was reset", "x: y"])
def test_other_words_are_found_out(message: str) -> None:
    """A message that no text of the library makes is none."""
    assert not any(text.fullmatch(message) for text in patterns())


@pytest.mark.parametrize("reason", re.findall(r"^\| `(it[^`]+)` \|", TROUBLESHOOTING, re.MULTILINE))
def test_a_reason_of_a_loss_is_one_of_the_source(reason: str) -> None:
    """Those that the page explains are given."""
    assert any(text.fullmatch(reason) for text in patterns())


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]+)`", GUARANTEES))))
def test_a_test_that_shows_a_promise_is_there(name: str) -> None:
    """Its file is, and has a function of that name."""
    path, _, function = name.partition("::")
    assert re.search(rf"^(?:async )?def {function or 'test_'}", (ROOT / path).read_text(), re.MULTILINE)


def test_every_promise_has_a_test() -> None:
    """G1 to G8 have a section, and in it a test."""
    sections = re.findall(r"^## G(\d)\. (.*?)(?=^## )", GUARANTEES, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, _ in sections] == list(range(1, 9))
    assert [number for number, text in sections if "`tests/" not in text] == []


def test_the_timings_are_the_defaults() -> None:
    """Those of a session's settings."""
    listed = dict(re.findall(r"^\| `(\w+_s)` \| (\d+) s \|", GUARANTEES, re.MULTILINE))
    assert listed.pop("rejoin_s") == "0"
    assert {name: float(seconds) for name, seconds in listed.items()} == {
        name: value for name, value in asdict(flow.SessionConfig()).items() if name.endswith("_s")
    }
