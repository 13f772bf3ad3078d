"""Who waits for a descriptor, for transports: on asyncio the event loop itself, on trio two tasks.

asyncio's loop calls a function whenever a descriptor can be read; to wait for that in a task, each time anew, costs
several times what the handling of a small message does. No task runs in a function that the loop calls, and where
sniffio is installed anyio starts tasks from there only if somebody has named the loop.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Watch", "watch"]


class Watch(Protocol):
    """Calls one function whenever a descriptor can be read, and another when it can be written, if asked to."""

    async def run(self) -> None:
        """Watch until `stop`; raises what one of the functions has raised."""

    def write(self) -> None:
        """Have the second function called as soon as the descriptor can be written, and until it returns True."""

    def ignore(self) -> None:
        """Call the first function no more, until `heed`."""

    def heed(self) -> None:
        """Call the first function again; after `ignore`."""

    def stop(self) -> None:
        """Call nothing any more, and end `run`."""


def watch(fd: int, readable: Callable[[], None], writable: Callable[[], bool]) -> Watch:
    """Make what watches a descriptor in this event loop; `run` begins. It is to be open until `run` has ended."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _TaskWatch(fd, readable, writable)
    return _LoopWatch(loop, fd, readable, writable)


class _LoopWatch:
    """By asyncio's loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        readable: Callable[[], None],
        writable: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._readable = readable
        self._writable = writable
        self._stopped = anyio.Event()
        self._error: BaseException | None = None
        self._is_running = False
        self._writes = False

    async def run(self) -> None:
        try:
            if not self._stopped.is_set():
                self._is_running = True
                if (sniffio := sys.modules.get("sniffio")) is not None:
                    sniffio.current_async_library_cvar.set("asyncio")
                self._loop.add_reader(self._fd, self._read)
                if self._writes:
                    self._loop.add_writer(self._fd, self._write)
            await self._stopped.wait()
        finally:
            self.stop()
        if self._error is not None:
            raise self._error

    def write(self) -> None:
        if not self._writes:
            self._writes = True
            if self._is_running:
                self._loop.add_writer(self._fd, self._write)

    def ignore(self) -> None:
        if self._is_running:
            self._loop.remove_reader(self._fd)

    def heed(self) -> None:
        if self._is_running:
            self._loop.add_reader(self._fd, self._read)

    def stop(self) -> None:
        self._stopped.set()
        if self._is_running:
            self._is_running = False
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)

    def _read(self) -> None:
        try:
            self._readable()
        except BaseException as error:  # noqa: BLE001 - `run` raises it, in the task that it belongs to
            self._error = error
            self.stop()

    def _write(self) -> None:
        try:
            is_done = self._writable()
        except BaseException as error:  # noqa: BLE001 - the same
            self._error = error
            self.stop()
            return
        if is_done:
            self._writes = False
            if self._is_running:
                self._loop.remove_writer(self._fd)


class _TaskWatch:
    """By tasks."""

    def __init__(self, fd: int, readable: Callable[[], None], writable: Callable[[], bool]) -> None:
        self._fd = fd
        self._readable = readable
        self._writable = writable
        self._reading = anyio.CancelScope()
        self._scope = anyio.CancelScope()
        self._wanted = anyio.Event()
        self._heeded = anyio.Event()

    async def run(self) -> None:
        with self._scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                while True:
                    await self._read()
                    await self._heeded.wait()

    def write(self) -> None:
        self._wanted.set()

    def ignore(self) -> None:
        self._heeded = anyio.Event()
        self._reading.cancel()

    def heed(self) -> None:
        self._reading = anyio.CancelScope()
        self._heeded.set()

    def stop(self) -> None:
        self._scope.cancel()

    async def _read(self) -> None:
        with self._reading as scope:
            while not scope.cancel_called:
                await anyio.wait_readable(self._fd)
                self._readable()

    async def _write(self) -> None:
        while True:
            await self._wanted.wait()
            await anyio.wait_writable(self._fd)
            if self._writable():
                self._wanted = anyio.Event()
