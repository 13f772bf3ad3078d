"""The output of several processes on one screen: each line with the name of its process in front."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Lines", "Output"]

# A line that is longer, such as a bar of progress that never ends one, is shown in pieces.
LINE_BYTES_MAX = 8192

# How many texts wait for a slow terminal before those who print are made to wait.
TEXTS_MAX = 100

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Lines:
    """Cuts a stream of bytes into lines of text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Take what has come, and return the lines that are whole now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def end(self) -> list[str]:
        """Return the last line, if it had no end."""
        return self.feed(b"\n") if self._rest else []


class Output:
    """Shows lines on standard output, in the order in which they are given; in colours on a terminal only.

    Args:
        names: Of the processes, which stand in front of the lines; without any nothing does.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(map(len, names), default=0)
        is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)} if is_coloured else {}
        self._texts, self._queued = anyio.create_memory_object_stream[str](TEXTS_MAX)
        self.shown = anyio.Event()  # all, after `close`

    async def show(self, name: str, lines: Sequence[str]) -> None:
        """Show lines of a process; waits while the terminal is slow. After `close` nothing is shown."""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            if lines:
                await self._texts.send("".join(f"{self._prefix(name)}{line}\n" for line in lines))

    def _prefix(self, name: str) -> str:
        prefix = f"{name:<{self._width}} | " if self._width else ""
        return f"\033[{self._colours[name]}m{prefix}\033[0m" if name in self._colours else prefix

    def close(self) -> None:
        """Have `run` end when all is shown."""
        self._texts.close()

    def abort(self) -> None:
        """Drop what is not shown; `run` has ended, or was never called."""
        self._texts.close()
        self._queued.close()

    async def run(self) -> None:
        """Write what is given, in a thread: a terminal that stands still stops nobody but those who print."""
        async for text in self._queued:
            await anyio.to_thread.run_sync(partial(_write, text), abandon_on_cancel=True)
        self.shown.set()


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
