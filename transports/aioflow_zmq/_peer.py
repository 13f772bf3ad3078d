"""One client of a server: the server's end of its connection."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
import zmq

from aioflow.errors import ConnectionLost, TransportError
from aioflow_zmq._forks import check_generation, current_generation, cut
from aioflow_zmq._frames import BYE, BYE_SEEN, MESSAGE, is_too_long, take, to_wire, word, write
from aioflow_zmq._limits import CLOSE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.transport import Frame, Receiver
    from aioflow_zmq._pump import Pump
    from aioflow_zmq._socket import OwnedSocket


class Peer:
    """A connection of a server, with an outbox of its own: one full peer does not hold up the others.

    Attributes:
        identity: The name that the ROUTER gave it.
    """

    def __init__(
        self, name: str, identity: bytes, fd: int, socket: OwnedSocket, pump: Pump, blocked: set[Peer]
    ) -> None:
        self.identity = identity
        self._name = name
        self._fd = fd
        self._socket = socket
        self._pump = pump
        self._blocked = blocked
        self._receiver: Receiver | None = None
        self._outbox: deque[tuple[Frame, ...]] = deque()
        self._is_open = True  # neither lost nor being closed
        self._is_cut = False
        self._departed = anyio.Event()

    @property
    def peer(self) -> str:
        """The server's address and the client's number."""
        return self._name

    def send(self, frames: Sequence[Frame]) -> None:
        """Send one message without waiting; after a loss or a close it is dropped.

        Raises:
            LocalProtocolError: The message exceeds a limit; nothing was sent.
            ConnectFailed: This process was forked from the one that made the connection.
        """
        check_generation(self._socket.generation, self._name)
        message = to_wire(frames, self._name)
        if self._is_open:
            self._send(message)

    async def aclose(self) -> None:
        """Close this connection after the client has received what was sent, bounded by `CLOSE_S`."""
        if self._socket.generation != current_generation():
            return
        try:
            if self._is_open:
                self._is_open = False
                self._send(word(BYE))
                with anyio.move_on_after(CLOSE_S):
                    await self._departed.wait()  # our client answers a bye by going
        finally:
            self._cut()

    def attach(self, receiver: Receiver) -> None:
        """Say who receives the messages."""
        self._receiver = receiver

    def arrived(self, frames: list[zmq.Frame]) -> None:
        """Take one message from the wire."""
        if self._is_cut:
            return
        if is_too_long(frames):
            self._refuse("sent a message of too many frames")
        elif len(frames[0]):
            self._hand_over([take(frame) for frame in frames])
        else:
            self._word(frames)

    def flush(self) -> bool:
        """Write what the client takes; return whether anything was written."""
        wrote = False
        while self._outbox and write(self._socket.raw, self._outbox[0], self.identity):
            self._outbox.popleft()
            wrote = True
        if not self._outbox:
            self._blocked.discard(self)
        return wrote

    def departed(self) -> None:
        """Learn that the connection has ended and everything that it brought was taken."""
        self._lose(ConnectionLost(f"{self._name} is gone"))
        self._is_cut = True
        self.end()

    def end(self) -> None:
        """Send and hand over nothing any more."""
        self._is_open = False
        self._outbox.clear()
        self._blocked.discard(self)
        self._departed.set()

    def _send(self, message: tuple[Frame, ...]) -> None:
        """Write a message or keep it; outside of a turn, see to what the write may have taken in."""
        if self._outbox or not write(self._socket.raw, message, self.identity):
            self._outbox.append(message)
            self._blocked.add(self)
        if not self._pump.in_turn and (self._blocked or self._socket.events() & zmq.POLLIN):
            self._pump.wake()

    def _word(self, frames: list[zmq.Frame]) -> None:
        name = frames[1].bytes if len(frames) > 1 else b""
        if name == MESSAGE and len(frames) > 2:  # noqa: PLR2004 - a word has two frames
            self._hand_over([take(frame) for frame in frames[2:]])
        elif name == BYE:
            self._outbox.clear()  # the client listens to nothing but the answer
            self._send(word(BYE_SEEN))
            self._lose(ConnectionLost(f"{self._name} closed the connection"))
        else:
            self._refuse(f"sent a word that is not known: {name[:16]!r}")

    def _hand_over(self, frames: list[Frame]) -> None:
        if self._is_open and self._receiver is not None:
            self._receiver.received(frames)

    def _refuse(self, reason: str) -> None:
        self._cut()
        self._lose(ConnectionLost(f"{self._name} {reason}, and was cut off"))

    def _lose(self, error: TransportError) -> None:
        was_open, self._is_open = self._is_open, False
        if was_open and self._receiver is not None:
            self._receiver.lost(error)

    def _cut(self) -> None:
        """End the connection from this side, whatever the client does."""
        self._is_cut = True
        if not self._departed.is_set():
            self._outbox.clear()
            self._blocked.discard(self)
            cut(self._fd)
