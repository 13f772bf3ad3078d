"""Names in the process, who listens on them, and who waits for a listener."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import RunVar, checkpoint

from aioflow.errors import AddressInUse, ConnectFailed
from aioflow_inproc._end import End

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from aioflow.transport import Connection, Frame, Receiver

_SCHEME = "inproc://"

_listeners: dict[str, InprocListener] = {}
_this_loop: RunVar[_Loop] = RunVar("aioflow_inproc.loop")


class _Loop:
    """One event loop: its identity, and the connects in it that wait for a listener to appear."""

    def __init__(self) -> None:
        self.appeared: dict[str, anyio.Event] = {}


class InprocListener:
    """A name that is listened on, and the connections made through it."""

    def __init__(
        self, address: str, accept: Callable[[Connection], Receiver], task_group: TaskGroup, loop: _Loop
    ) -> None:
        self._address = address
        self._accept = accept
        self._task_group = task_group
        self._numbers = count(1)
        self._ends: set[End] = set()
        self._done = anyio.Event()
        self._closed = False
        self.loop = loop

    @property
    def address(self) -> str:
        """The address as bound."""
        return self._address

    @property
    def memory_bytes(self) -> int:
        """0: no memory is shared."""
        return 0

    async def aclose(self) -> None:
        """Free the name and close every connection of this listener."""
        self._withdraw()
        try:
            async with anyio.create_task_group() as tasks:
                for end in tuple(self._ends):
                    tasks.start_soon(end.aclose)
        finally:
            self._done.set()

    def join(self, receiver: Receiver, task_group: TaskGroup) -> End:
        """Make a connection: the caller's end is returned, the listener's is announced by its own task."""
        near = End(self._address, lambda _connection: receiver)
        far = End(f"{self._address} client {next(self._numbers)}", self._accept)
        End.pair(near, far)
        self._ends.add(far)
        self._task_group.start_soon(self._run_end, far, name=f"aioflow {far.peer}")
        task_group.start_soon(near.run, name=f"aioflow {self._address}")
        return near

    async def watch(self) -> None:
        """Free the name when the task group ends without a call of `aclose`."""
        try:
            await self._done.wait()
        finally:
            self._withdraw()

    async def _run_end(self, end: End) -> None:
        try:
            await end.run()
        finally:
            self._ends.discard(end)

    def _withdraw(self) -> None:
        if not self._closed:
            self._closed = True
            del _listeners[self._address]


class InprocTransport:
    """The transport of `inproc://`: both ends in one process and one event loop, which needs no credentials."""

    def __init__(self, credentials: Path | None = None) -> None:
        pass

    async def connect(self, address: str, receiver: Receiver, task_group: TaskGroup) -> Connection:
        """Connect to a listener of this event loop, waiting for one to appear.

        A listener that another event loop opens while this call waits does not end the wait.

        Raises:
            ConnectFailed: The address is malformed, or its listener runs in another event loop.
        """
        _check(address)
        loop = _current_loop()
        await checkpoint()
        while (listener := _listeners.get(address)) is None:
            await loop.appeared.setdefault(address, anyio.Event()).wait()
        if listener.loop is not loop:
            raise ConnectFailed(
                f"{address} is listened on by another event loop of this process; connect from that loop, or use ipc://"
            )
        return listener.join(receiver, task_group)

    async def listen(
        self, address: str, accept: Callable[[Connection], Receiver], task_group: TaskGroup
    ) -> InprocListener:
        """Take a name and accept connections.

        Raises:
            AddressInUse: The name has a listener; it is not disturbed.
            ConnectFailed: The address is malformed.
        """
        _check(address)
        await checkpoint()
        loop = _current_loop()
        listener = InprocListener(address, accept, task_group, loop)
        if _listeners.setdefault(address, listener) is not listener:
            raise AddressInUse(f"{address} already has a listener in this process; choose another name")
        task_group.start_soon(listener.watch, name=f"aioflow {address}")
        if (waiting := loop.appeared.pop(address, None)) is not None:
            waiting.set()
        return listener

    async def beat(
        self, address: str, make: Callable[[int], list[Frame]], read: Callable[[list[Frame]], int], every_s: float
    ) -> None:
        """Do nothing: both ends live and stand still together, in one event loop."""


def _current_loop() -> _Loop:
    loop = _this_loop.get(None)
    if loop is None:
        _this_loop.set(loop := _Loop())
    return loop


def _check(address: str) -> None:
    if not address.startswith(_SCHEME) or address == _SCHEME:
        raise ConnectFailed(f"{address!r} is no address of this transport: expected {_SCHEME}name")
