"""What the transport suite puts at the two ends of a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from aioflow.errors import TransportError
    from aioflow.transport import Connection, Frame, Listener, Receiver, Transport

__all__ = ["BOUND_S", "Inbox", "OnMessage", "Stage", "echo", "flatten"]

# The bound of a test on real sockets: long enough for a loaded two-core machine; one that hangs fails after it.
BOUND_S = 30.0

OnMessage = Callable[["Inbox", "list[Frame]"], None]


def flatten(frames: Sequence[Frame]) -> tuple[bytes, ...]:
    """Return the content of a message."""
    return tuple(bytes(frame) for frame in frames)


def echo(inbox: Inbox, frames: list[Frame]) -> None:
    """Send a message back as it came."""
    inbox.send(frames)


class Inbox:
    """A receiver that keeps what it is told, lets a test wait for it, and asserts what must never happen.

    Attributes:
        connection: The connection whose messages arrive here.
        messages: What arrived, as bytes.
        losses: The errors given to `lost`.
        on_message: Called with each message.
        deaf: Whether a message from now on is an error.
    """

    def __init__(self, on_message: OnMessage | None = None) -> None:
        self.connection: Connection
        self.messages: list[tuple[bytes, ...]] = []
        self.losses: list[TransportError] = []
        self.on_message = on_message
        self.deaf = False
        self._busy = False
        self._changed = anyio.Event()

    def received(self, frames: list[Frame]) -> None:
        """Keep a message."""
        assert not self._busy, "a message was handed over inside a send or inside another message"
        assert not self.deaf, "a message was handed over after aclose"
        assert not self.losses, "a message was handed over after the loss"
        assert frames, "a message without a frame was handed over"
        self.messages.append(flatten(frames))
        self._busy = True
        try:
            if self.on_message is not None:
                self.on_message(self, frames)
        finally:
            self._busy = False
        self._changed.set()

    def lost(self, error: TransportError) -> None:
        """Keep a loss."""
        assert not self._busy, "a loss was told inside a send or inside a message"
        self.losses.append(error)
        self._changed.set()

    def send(self, frames: Sequence[Frame]) -> None:
        """Send, and assert that nothing is handed over meanwhile."""
        busy, self._busy = self._busy, True
        try:
            self.connection.send(frames)
        finally:
            self._busy = busy

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on this inbox holds."""
        while not condition():
            if self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()

    async def wait_messages(self, number: int) -> None:
        """Wait until so many messages have arrived in all."""
        await self.wait_for(lambda: len(self.messages) >= number)

    async def wait_lost(self) -> None:
        """Wait until the loss was told."""
        await self.wait_for(lambda: bool(self.losses))


class Stage:
    """A transport with one listener, which makes pairs of connected inboxes.

    Attributes:
        on_accept: Called with each accepted connection.
        on_message: What the listener's inboxes do with a message.
    """

    def __init__(self, transport: Transport, tasks: TaskGroup) -> None:
        self.transport = transport
        self.tasks = tasks
        self.listener: Listener
        self.on_accept: Callable[[Connection], None] | None = None
        self.on_message: OnMessage | None = None
        self._accepted: list[Inbox] = []
        self._inboxes: list[Inbox] = []
        self._appeared = anyio.Event()

    @property
    def address(self) -> str:
        """The address of the listener."""
        return self.listener.address

    async def listen(self, address: str) -> None:
        """Open the listener."""
        self.listener = await self.transport.listen(address, self.accept, self.tasks)

    def accept(self, connection: Connection) -> Receiver:
        """Give a new connection its inbox."""
        inbox = Inbox(self.on_message)
        inbox.connection = connection
        self._accepted.append(inbox)
        self._inboxes.append(inbox)
        self._appeared.set()
        if self.on_accept is not None:
            self.on_accept(connection)
        return inbox

    async def join(self, hello: bytes = b"hello") -> tuple[Inbox, Inbox]:
        """Connect and send a first message; return the client's inbox and the listener's."""
        assert not self._accepted, "join one connection at a time"
        near = Inbox()
        near.connection = await self.transport.connect(self.address, near, self.tasks)
        self._inboxes.append(near)
        near.connection.send([hello])
        far = await self.accepted()
        await far.wait_messages(1)
        return near, far

    async def accepted(self) -> Inbox:
        """Return the inbox of the next connection that somebody else made, waiting for it."""
        while not self._accepted:
            self._appeared = anyio.Event()
            await self._appeared.wait()
        return self._accepted.pop()

    async def aclose(self) -> None:
        """Close every connection made with `join`, and the listener."""
        await self.listener.aclose()
        for inbox in self._inboxes:
            await inbox.connection.aclose()
