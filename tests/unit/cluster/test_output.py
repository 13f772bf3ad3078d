"""The output of several processes on one screen."""

from __future__ import annotations

import io
import sys

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioflow.cluster._output import LINE_BYTES_MAX, Lines, Output


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))), st.data())
def test_lines_are_the_same_however_they_come(texts: list[str], data: st.DataObject) -> None:
    """In any pieces, also within a character; the last one with or without its end."""
    stream = "\n".join(texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    lines, found = Lines(), list[str]()
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += lines.feed(stream[begin:end])
    assert found + lines.end() == "\n".join(texts).removesuffix("\n").split("\n") * bool(stream)


def test_odd_lines() -> None:
    """What is no UTF-8, a carriage return, and a line without an end are shown as well as they can be."""
    lines = Lines()
    assert lines.feed(b"a\xff\r\n\nb") == ["a\N{REPLACEMENT CHARACTER}", ""]
    assert lines.feed(b"x" * LINE_BYTES_MAX) == ["b" + "x" * LINE_BYTES_MAX]
    assert lines.end() == []


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_lines_have_the_name_of_their_process_in_front(
    anyio_backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All names take the same room; without a terminal there are no colours."""
    output = Output(["ps", "loader"])
    async with anyio.create_task_group() as group:
        group.start_soon(output.run)
        await output.show("ps", ["a", "b"])
        await output.show("loader", ["c"])
        await output.show("loader", [])
        output.close()
        await output.show("loader", ["too late"])
        await output.shown.wait()
    output.abort()
    assert capsys.readouterr().out == "ps     | a\nps     | b\nloader | c\n"


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_colour", "prefix"), [("", b"\033[36mp | \033[0m"), ("1", b"p | ")])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_colours_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: str, no_colour: str, prefix: bytes
) -> None:
    """Unless NO_COLOR is set; and what the terminal cannot show does not end it all."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", _Terminal(raw, encoding="ascii"))
    monkeypatch.setenv("NO_COLOR", no_colour)
    output = Output(["p"])
    async with anyio.create_task_group() as group:
        group.start_soon(output.run)
        await output.show("p", ["é"])
        output.close()
    output.abort()
    assert raw.getvalue() == prefix + b"?\n"
