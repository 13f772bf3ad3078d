"""One client of a server: the server's end of its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioflow.errors import ConnectionLost
from aioflow_zmq._end import End
from aioflow_zmq._forks import cut
from aioflow_zmq._frames import BYE, BYE_SEEN
from aioflow_zmq._socket import POLLIN

if TYPE_CHECKING:
    import zmq

    from aioflow.transport import Receiver
    from aioflow_zmq._gate import Client
    from aioflow_zmq._pump import Pump
    from aioflow_zmq._socket import OwnedSocket


class Peer(End):
    """A connection of a server, with an outbox of its own: one full peer does not hold up the others.

    Args:
        name: The server's address and the client's number.
        identity: The name that the ROUTER gave it.
        descriptor: Of its connection, and the inode of that.
        client: Whose key it showed, if the server demands one.
        socket: The ROUTER.
        pump: The ROUTER's.
        waiting: The peers whose outboxes are not empty, this one included while its is not.
        is_local: Whether both ends are on one host.
    """

    def __init__(
        self,
        name: str,
        identity: bytes,
        descriptor: tuple[int, int],
        client: Client | None,
        socket: OwnedSocket,
        pump: Pump,
        waiting: set[Peer],
        *,
        is_local: bool,
    ) -> None:
        super().__init__(name, socket, identity, is_local=is_local)
        self.identity = identity
        self.client = client
        self._descriptor = descriptor
        self._pump = pump
        self._waiting = waiting
        self._is_cut = False

    def attach(self, receiver: Receiver) -> None:
        """Say who receives the messages."""
        self._receiver = receiver

    def arrived(self, frames: list[zmq.Frame]) -> int:
        """Take one parcel or word from the wire; return how many messages it was."""
        return 1 if self._is_cut else super().arrived(frames)

    def flush(self) -> bool:
        """Write what the client takes; return whether anything was written."""
        wrote = super().flush()
        if not self._outbox.waiting:
            self._waiting.discard(self)
        return wrote

    def refuse(self, reason: str) -> None:
        """Cut off a client that may no longer be connected."""
        if self._is_open:
            self._cut()
            self._lose(ConnectionLost(f"{self._name} was cut off: {reason}"))

    def departed(self) -> None:
        """Learn that the connection has ended and everything that it brought was taken."""
        self._lose(self._overflow or ConnectionLost(f"{self._name} is gone"))
        self._is_cut = True
        self.end()

    def end(self) -> None:
        """Send and hand over nothing any more."""
        self._is_open = False
        self._outbox.clear()
        self._waiting.discard(self)
        self._parted.set()

    def _queued(self, *, write_now: bool) -> None:
        self._waiting.add(self)
        if self._pump.in_turn:
            if self._outbox.is_ripe:
                self.flush()
            return
        if write_now:
            self.flush()
        if self._waiting or self._socket.events() & POLLIN:  # a write may have taken in that something arrived
            self._pump.wake()

    def _word(self, name: bytes) -> None:
        if name == BYE:
            self._outbox.clear()  # the client listens to nothing but the answer
            self._say(BYE_SEEN)
            self._lose(ConnectionLost(f"{self._name} closed the connection"))
        else:
            self._refuse(f"sent a word that is not known: {name!r}")

    def _overflowed(self) -> None:
        self._cut()  # the monitor tells of it, and then `departed` the receiver

    def _cut(self) -> None:
        self._is_cut = True
        if not self._parted.is_set():
            self._outbox.clear()
            self._waiting.discard(self)
            cut(*self._descriptor)

    async def _closed(self) -> None:
        """Nothing is to be waited for: the socket is the server's."""
