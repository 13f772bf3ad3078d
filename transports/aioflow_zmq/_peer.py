"""One client of a server: the server's end of its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from aioflow.errors import ConnectionLost
from aioflow_zmq._end import End
from aioflow_zmq._forks import cut
from aioflow_zmq._frames import BYE, BYE_SEEN, word, write

if TYPE_CHECKING:
    from aioflow.transport import Frame, Receiver
    from aioflow_zmq._pump import Pump
    from aioflow_zmq._socket import OwnedSocket


class Peer(End):
    """A connection of a server, with an outbox of its own: one full peer does not hold up the others.

    Args:
        name: The server's address and the client's number.
        identity: The name that the ROUTER gave it.
        fd: The descriptor of its connection.
        socket: The ROUTER.
        pump: The ROUTER's.
        blocked: The peers whose outboxes wait, this one included while its does.
        is_local: Whether both ends are on one host.
    """

    def __init__(
        self,
        name: str,
        identity: bytes,
        fd: int,
        socket: OwnedSocket,
        pump: Pump,
        blocked: set[Peer],
        *,
        is_local: bool,
    ) -> None:
        super().__init__(name, socket, identity, is_local=is_local)
        self.identity = identity
        self._fd = fd
        self._pump = pump
        self._blocked = blocked
        self._is_cut = False

    def attach(self, receiver: Receiver) -> None:
        """Say who receives the messages."""
        self._receiver = receiver

    def arrived(self, frames: list[zmq.Frame]) -> None:
        """Take one message from the wire."""
        if not self._is_cut:
            super().arrived(frames)

    def flush(self) -> bool:
        """Write what the client takes; return whether anything was written."""
        wrote = super().flush()
        if not self._outbox:
            self._blocked.discard(self)
        return wrote

    def departed(self) -> None:
        """Learn that the connection has ended and everything that it brought was taken."""
        self._lose(self._overflow or ConnectionLost(f"{self._name} is gone"))
        self._is_cut = True
        self.end()

    def end(self) -> None:
        """Send and hand over nothing any more."""
        self._is_open = False
        self._outbox.clear()
        self._blocked.discard(self)
        self._parted.set()

    def _send(self, message: tuple[Frame, ...]) -> None:
        """Write a message or keep it; outside of a turn, see to what the write may have taken in."""
        if self._outbox or not write(self._socket.raw, message, self._identity):
            self._outbox.append(message)
            self._blocked.add(self)
        if not self._pump.in_turn and (self._blocked or self._socket.events() & zmq.POLLIN):
            self._pump.wake()

    def _word(self, name: bytes) -> None:
        if name == BYE:
            self._outbox.clear()  # the client listens to nothing but the answer
            self._send(word(BYE_SEEN))
            self._lose(ConnectionLost(f"{self._name} closed the connection"))
        else:
            self._refuse(f"sent a word that is not known: {name[:16]!r}")

    def _overflowed(self) -> None:
        self._cut()  # the monitor tells of it, and then `departed` the receiver

    def _cut(self) -> None:
        self._is_cut = True
        if not self._parted.is_set():
            self._outbox.clear()
            self._blocked.discard(self)
            cut(self._fd)

    async def _closed(self) -> None:
        """Nothing is to be waited for: the socket is the server's."""
