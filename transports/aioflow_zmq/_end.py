"""One end of a connection: what the client's and the server's have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import anyio

from aioflow.errors import ConnectionLost, TransportError
from aioflow.transport import whole
from aioflow_zmq._forks import check_generation, current_generation
from aioflow_zmq._frames import BYE, word, word_of
from aioflow_zmq._limits import CLOSE_S, OUTBOX_MESSAGES_MAX
from aioflow_zmq._outbox import Outbox
from aioflow_zmq._parcels import MalformedParcelError, measure, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zmq

    from aioflow.transport import AnyFrame, Frame, Receiver, WritablePieces
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
        self._is_local = is_local
        self._pump: Pump
        self._receiver: Receiver | None = None
        self._outbox = Outbox(socket.raw, identity)
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

    def send(self, *messages: Sequence[AnyFrame]) -> None:
        """Send messages without waiting, together where they are small; after a loss or a close they are dropped.

        A peer for which more than `OUTBOX_MESSAGES_MAX` messages wait is cut off, and its loss told.

        Raises:
            LocalProtocolError: A message exceeds a limit; it and those behind it were not sent.
            ConnectFailed: This process was forked from the one that made the connection.
        """
        check_generation(self._socket.generation, self._name)
        was_empty = not self._outbox.waiting
        try:
            for message in messages:
                frames = [*map(whole, message)]
                sizes = measure(frames, self._name)
                if self._is_open and self._overflow is None:
                    self._add(frames, sizes)
        finally:
            if self._outbox.waiting:
                self._queued(write_now=was_empty)

    def _add(self, frames: Sequence[Frame], sizes: Sequence[int]) -> None:
        if self._outbox.waiting >= OUTBOX_MESSAGES_MAX and not self.flush():
            self._overflow = ConnectionLost(
                f"{self._name} reads too slowly: {OUTBOX_MESSAGES_MAX} messages wait for it; it was cut off"
            )
            self._outbox.clear()
            self._overflowed()
        else:
            self._outbox.add(frames, sizes)

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:  # noqa: ARG002 - as below
        """None: memory of any kind is as good."""
        return None

    def allocate(self, nbytes: int) -> memoryview | None:  # noqa: ARG002 - a socket copies from everywhere
        """None: what is sent goes through a socket."""
        return None

    async def aclose(self) -> None:
        """Close this end after the other has received what was sent, bounded by `CLOSE_S`."""
        if self._socket.generation != current_generation():
            return
        try:
            if self._is_open:
                self._is_open = False
                self._say(BYE)
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

    def arrived(self, frames: list[zmq.Frame]) -> int:
        """Take one parcel or word from the wire; return how many messages it was."""
        if (name := word_of(frames)) is not None:
            self._word(name)
            return 1
        try:
            messages = unpack(frames)
        except MalformedParcelError as error:
            self._refuse(f"sent {error}")
            return 1
        if self._receiver is not None:
            for message in messages:
                if self._is_open:  # until a receiver closes or aborts
                    self._receiver.received(message)
        return len(messages)

    def flush(self) -> bool:
        """Write what the other side takes; return whether anything was written."""
        return self._outbox.flush()

    @abstractmethod
    def _queued(self, *, write_now: bool) -> None:
        """Have the outbox written: within a turn at its end, otherwise now, or when the other side takes more."""

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

    def _say(self, name: bytes) -> None:
        self._outbox.add_word(word(name))
        self._queued(write_now=True)

    def _refuse(self, reason: str) -> None:
        """End the connection to a side that breaks the rules."""
        self._cut()
        self._lose(ConnectionLost(f"{self._name} {reason}, and was cut off"))

    def _lose(self, error: TransportError) -> None:
        was_open, self._is_open = self._is_open, False
        if was_open and self._receiver is not None:
            self._receiver.lost(error)
