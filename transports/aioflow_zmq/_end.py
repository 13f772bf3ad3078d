"""One end of a connection: what the client's and the server's have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

import anyio

from aioflow.errors import ConnectionLost, TransportError
from aioflow_zmq._forks import check_generation, current_generation
from aioflow_zmq._frames import BYE, MESSAGE, is_too_long, take, to_wire, word, write
from aioflow_zmq._limits import CLOSE_S, OUTBOX_MESSAGES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zmq

    from aioflow.transport import Frame, Receiver
    from aioflow_zmq._pump import Pump
    from aioflow_zmq._socket import OwnedSocket


class End(ABC):
    """One end of a connection; `ClientConnection` and `Peer` say how it begins and how it is ended.

    Args:
        name: The other end, for messages to people.
        socket: What is written to.
        identity: The other end, if the socket is a ROUTER.
        is_local: Whether both ends are on one host.
    """

    def __init__(self, name: str, socket: OwnedSocket, identity: bytes | None, *, is_local: bool) -> None:
        self._name = name
        self._socket = socket
        self._identity = identity
        self._is_local = is_local
        self._pump: Pump
        self._receiver: Receiver | None = None
        self._outbox: deque[tuple[Frame, ...]] = deque()
        self._is_open = True  # neither lost nor being closed
        self._overflow: TransportError | None = None  # a loss that is still to be told
        self._parted = anyio.Event()  # the other side has seen our bye, or is gone

    @property
    def peer(self) -> str:
        """The other end, for messages to people."""
        return self._name

    @property
    def is_local(self) -> bool:
        """Whether the end of the connection proves that the other process has ended or let go of it."""
        return self._is_local

    def send(self, frames: Sequence[Frame]) -> None:
        """Send one message without waiting; after a loss or a close it is dropped.

        A peer for which more than `OUTBOX_MESSAGES_MAX` messages wait is cut off, and its loss told.

        Raises:
            LocalProtocolError: The message exceeds a limit; nothing was sent.
            ConnectFailed: This process was forked from the one that made the connection.
        """
        check_generation(self._socket.generation, self._name)
        message = to_wire(frames, self._name)
        if not self._is_open or self._overflow is not None:
            return
        if len(self._outbox) >= OUTBOX_MESSAGES_MAX and not self.flush():
            self._overflow = ConnectionLost(
                f"{self._name} reads too slowly: {OUTBOX_MESSAGES_MAX} messages wait for it; it was cut off"
            )
            self._outbox.clear()
            self._overflowed()
        else:
            self._send(message)

    async def aclose(self) -> None:
        """Close this end after the other has received what was sent, bounded by `CLOSE_S`."""
        if self._socket.generation != current_generation():
            return
        try:
            if self._is_open:
                self._is_open = False
                self._send(word(BYE))
                with anyio.move_on_after(CLOSE_S):
                    await self._parted.wait()
        finally:
            self._cut()
            await self._closed()

    def abort(self) -> None:
        """End the connection at once; what was not sent is dropped, and the receiver is told nothing more."""
        if self._socket.generation == current_generation():
            self._is_open = False
            self._cut()

    def arrived(self, frames: list[zmq.Frame]) -> None:
        """Take one message from the wire."""
        if is_too_long(frames):
            self._refuse("sent a message of too many frames")
        elif len(frames[0]):
            self._hand_over(frames)
        else:
            name = frames[1].bytes if len(frames) > 1 else b""
            if name == MESSAGE and len(frames) > 2:  # noqa: PLR2004 - a word has two frames
                self._hand_over(frames[2:])
            else:
                self._word(name)

    def flush(self) -> bool:
        """Write what the other side takes; return whether anything was written."""
        wrote = False
        while self._outbox and write(self._socket.raw, self._outbox[0], self._identity):
            self._outbox.popleft()
            wrote = True
        return wrote

    @abstractmethod
    def _send(self, message: tuple[Frame, ...]) -> None:
        """Write a message or keep it; outside of a turn, see to what the write may have taken in."""

    @abstractmethod
    def _word(self, name: bytes) -> None:
        """Take a word of the transport."""

    @abstractmethod
    def _overflowed(self) -> None:
        """Have the end cut off and its loss told soon, not from within a `send`."""

    @abstractmethod
    def _cut(self) -> None:
        """End the connection from this side, whatever the other does."""

    @abstractmethod
    async def _closed(self) -> None:
        """Wait until nothing of this end is left."""

    def _hand_over(self, frames: list[zmq.Frame]) -> None:
        if self._is_open and self._receiver is not None:
            self._receiver.received([take(frame) for frame in frames])

    def _refuse(self, reason: str) -> None:
        """End the connection to a side that breaks the rules."""
        self._cut()
        self._lose(ConnectionLost(f"{self._name} {reason}, and was cut off"))

    def _lose(self, error: TransportError) -> None:
        was_open, self._is_open = self._is_open, False
        if was_open and self._receiver is not None:
            self._receiver.lost(error)
