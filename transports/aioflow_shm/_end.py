"""One end of a connection."""

from __future__ import annotations

import array
import logging
import os
from functools import partial
from socket import MSG_CMSG_CLOEXEC, MSG_TRUNC, SCM_RIGHTS, SO_SNDBUF, SOL_SOCKET
from typing import TYPE_CHECKING, TypeVar

import anyio
import numpy as np

from aioflow.errors import ConnectionLost, TransportError
from aioflow.transport import whole
from aioflow.watch import watch
from aioflow_shm._forks import check_generation, close_here, close_in_children, current_generation
from aioflow_shm._leases import Leases
from aioflow_shm._limits import (
    CLOSE_S,
    MESSAGES_PER_TURN,
    OUTBOX_MESSAGES_MAX,
    PACKET_BYTES_MAX,
    SOCKET_BUFFER_BYTES,
)
from aioflow_shm._outbox import Outbox
from aioflow_shm._parcels import (
    GREETING,
    LONG,
    PARCEL,
    PARCEL_BYTES_LIMIT,
    VALUES,
    MalformedError,
    Parcel,
    measure,
    unpack,
)
from aioflow_shm._sharing import Sharing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from aioflow.transport import AnyFrame, Connection, Receiver, WritablePieces
    from aioflow_shm._budget import Budget
    from aioflow_shm._segments import Segments

_T = TypeVar("_T")

logger = logging.getLogger("aioflow.shm")

_NUMBER_BYTES = 4
_ANCILLARY_BYTES = 24  # one descriptor
# Those of a turn are numbers: an enum's take half a microsecond each. What comes without its descriptor is as it should
# be: this process has as many as it may.
_CUT = int(MSG_TRUNC)
_CLOSE_ON_EXEC = int(MSG_CMSG_CLOEXEC)


class Turns:
    """Turns on the connections of one task: one at a time, and what is said in one is written when it ends.

    Attributes:
        is_on: Whether a turn is going on.
        buffer: Where the packets of a turn are received.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.buffer = memoryview(bytearray(PACKET_BYTES_MAX + 1))
        self._due: dict[End, None] = {}

    def take(self, turn: Callable[[], None]) -> None:
        """Take a turn, then write."""
        self.is_on = True
        try:
            turn()
        finally:
            self.is_on = False
            due, self._due = self._due, {}
            for end in reversed(due):  # whoever waits for what a message brought, before the answer to its sender
                end.flush()

    def write_later(self, end: End) -> None:
        """Have an end written when this turn ends."""
        self._due[end] = None


class End:
    """One end of a connection: `run` owns the socket until the connection ends.

    Args:
        name: The other end, for messages to people.
        peer: The connected socket, which does not block.
        turns: Those of the task that it belongs to.
        segments: Where its large frames go.
        receiver: Who receives the messages; or None, where `attach` is called with the first one.
        attach: Returns who receives the messages.
        budget: Of a server, which lends memory; None: the other side does.

    Attributes:
        sharing: Its memory.
    """

    def __init__(
        self,
        name: str,
        peer: socket.socket,
        turns: Turns,
        segments: Segments,
        receiver: Receiver | None,
        attach: Callable[[Connection], Receiver] | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._name = name
        self._socket = peer
        self._turns = turns
        self._segments = segments
        self._receiver = receiver
        self._takes_pieces: bool = getattr(receiver, "takes_pieces", False)
        self._attach = attach
        self._is_greeted = receiver is not None  # a client has read the greeting before it is connected
        self._generation = current_generation()
        self._leases = Leases(None if budget is None else budget.arena)
        self._outbox = Outbox(peer, segments, self._leases)
        write_later = partial(turns.write_later, self)
        self.sharing = Sharing(name, segments, self._leases, self._outbox, write_later, budget)
        self._watch = watch(peer.fileno(), self._readable, self._writable)
        self._long: memoryview | None = None  # a parcel that comes in several packets
        self._long_at = 0
        self._is_open = True  # neither lost nor being closed
        self._loss: TransportError | None = None
        self._written = anyio.Event()
        self._finished = anyio.Event()
        peer.setsockopt(SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER_BYTES)
        close_in_children(peer)

    @property
    def peer(self) -> str:
        """The other end, for messages to people."""
        return self._name

    @property
    def is_local(self) -> bool:
        """True: the end of the connection proves that the other process has ended or let go of it."""
        return True

    def send(self, *messages: Sequence[AnyFrame]) -> None:
        """Send messages without waiting, together where they are small; after a loss or a close they are dropped.

        A peer for which more than `OUTBOX_MESSAGES_MAX` messages wait is cut off, and its loss told.

        Raises:
            LocalProtocolError: A message exceeds a limit; it and those behind it were not sent.
            ConnectFailed: This process was forked from the one that made the connection.
        """
        check_generation(self._generation, self._name)
        outbox = self._outbox
        was_empty = outbox.is_empty
        try:
            for frames in messages:
                sizes = measure(frames, self._name)
                if not self._is_open or self._loss is not None or outbox.is_broken:
                    continue
                if outbox.waiting >= OUTBOX_MESSAGES_MAX:
                    self.flush()
                    if outbox.waiting >= OUTBOX_MESSAGES_MAX:
                        self._lose(f"reads too slowly: {OUTBOX_MESSAGES_MAX} messages wait for it; it was cut off")
                        continue
                outbox.add(frames, sizes)
        finally:
            if self._turns.is_on:
                self._turns.write_later(self)
                if outbox.is_ripe and was_empty:
                    self.flush()
            elif was_empty:
                self.flush()

    def allocate(self, nbytes: int) -> memoryview | None:
        """Return memory that the other side sees, or None where there is none left, or so little is better copied."""
        return self._offer(partial(self._segments.allocate, nbytes))

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:
        """Return pieces that the other side sees, or None where `allocate` would."""
        return self._offer(partial(self._segments.allocate_pieces, size, count))

    def _offer(self, allocate: Callable[[], _T | None]) -> _T | None:
        if not self._is_open or self._loss is not None or self._generation != current_generation():
            return None
        memory, pool = allocate(), self._segments.pool
        if pool.made or pool.wanted:  # so that it is there by the time that something is sent
            self._outbox.tell_of_segments()
            self.flush()
        return memory

    def flush(self) -> None:
        """Write what the other side takes; the rest when it takes more."""
        if not self._outbox.flush():
            self._watch.write()

    async def aclose(self) -> None:
        """Close this end after what was sent has been given to the kernel, bounded by `CLOSE_S`."""
        if self._generation != current_generation():
            return
        try:
            if self._is_open:
                self._is_open = self.sharing.is_up = False
                self._watch.ignore()
                self._outbox.may_wait = False  # for an answer, which is not read any more
                self.flush()
                if not self._outbox.is_empty:
                    with anyio.move_on_after(CLOSE_S):
                        await self._written.wait()
        finally:
            self._cut()
            with anyio.CancelScope(shield=True):
                await self._finished.wait()

    def abort(self) -> None:
        """End the connection at once; what was not sent is dropped, and the receiver is told nothing more."""
        if self._generation == current_generation():
            self._is_open = False
            self._cut()

    async def run(self) -> None:
        """Own the socket until the connection ends; then tell a loss."""
        try:
            try:
                await self._watch.run()
            finally:
                was_open, self._is_open = self._is_open, False
                self._cut()
                close_here(self._socket)
                self._segments.close()
                self._leases.close()
            if was_open and self._loss is not None and self._receiver is not None:
                receiver, loss = self._receiver, self._loss
                self._turns.take(lambda: receiver.lost(loss))
        finally:
            self._finished.set()

    def _cut(self) -> None:
        """Send and hand over nothing any more, and have `run` close the socket."""
        self.sharing.is_up = False
        self._outbox.clear()
        self._watch.stop()
        self._written.set()

    def _lose(self, reason: str) -> None:
        """Have the end cut off and its loss told soon, not from within a `send`."""
        if self._loss is None:
            self._loss = ConnectionLost(f"{self._name} {reason}")
        self._cut()

    def _writable(self) -> bool:
        is_done = self._outbox.flush()
        if is_done and not self._is_open:
            self._written.set()
        return is_done

    # What arrives

    def _readable(self) -> None:
        self._turns.take(self._turn)

    def _turn(self) -> None:
        """Hand over what has arrived."""
        taken = 0
        # The rest of a side that is gone is taken at once: libuv tells of an error, and then of nothing more.
        while (taken < MESSAGES_PER_TURN or self._outbox.is_broken) and self._is_open and self._loss is None:
            target = self._turns.buffer if self._long is None else self._long[self._long_at :]
            try:
                size, ancillary, flags, _ = self._socket.recvmsg_into([target], _ANCILLARY_BYTES, _CLOSE_ON_EXEC)
            except BlockingIOError:
                break
            except ConnectionResetError:  # told once, of a side that has left something unread
                self._outbox.is_broken = True
                continue  # what it had sent is there all the same
            except OSError as error:
                self._lose(f"is gone: {error}")
                break
            if not size:
                self._lose("is gone")
                break
            descriptors = _descriptors(ancillary) if ancillary else []
            try:
                if flags & _CUT:
                    raise MalformedError("a packet that is too large")  # noqa: TRY301 - as any other fault
                taken += self._arrived(target[:size], descriptors)
            except MalformedError as error:
                self._lose(f"sent {error}, and was cut off")
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        if self._leases.has_ended and self._loss is None:
            self._turns.write_later(self)

    def _arrived(self, packet: memoryview, descriptors: list[int]) -> int:
        """Take one packet; return how many messages it was."""
        if self._long is not None:
            self._long_at += len(packet)
            if self._long_at < len(self._long):
                return 1
            parcel, self._long = self._long.toreadonly(), None
            return self._hand_over(unpack(parcel, self._leases.view, self._leases.view_pieces, is_kept=True))
        if not self._is_greeted:
            if bytes(packet) != GREETING:
                raise MalformedError("something else than the greeting of this version")
            self._is_greeted = True
            return 1
        kind = int.from_bytes(packet[:_NUMBER_BYTES], "little")
        if len(packet) < _NUMBER_BYTES * VALUES.get(kind, PACKET_BYTES_MAX):
            raise MalformedError(f"a packet of {len(packet)} bytes of kind {kind}")
        if kind == PARCEL:
            return self._hand_over(unpack(packet, self._leases.view, self._leases.view_pieces, is_kept=False))
        end = len(packet) - len(packet) % _NUMBER_BYTES
        self._told(kind, packet[_NUMBER_BYTES:end].cast("I").tolist(), descriptors)
        return 1

    def _hand_over(self, parcel: Parcel) -> int:
        for lease, numbers in parcel.released:
            self._segments.end_pieces(lease, numbers)
        for lease in parcel.ended:
            self._segments.end_lease(lease, is_kept=False)
        for lease in parcel.kept:
            self._segments.end_lease(lease, is_kept=True)
        messages = parcel.messages
        if messages and self._attach is not None and self._receiver is None:
            self._receiver = self._attach(self)
            self._takes_pieces = getattr(self._receiver, "takes_pieces", False)
        if self._receiver is not None:
            is_whole = parcel.has_pieces and not self._takes_pieces
            for message in messages:
                if self._is_open:  # until a receiver closes or aborts
                    self._receiver.received([*map(whole, message)] if is_whole else message)  # type: ignore[arg-type]
        return len(messages)

    def _told(self, kind: int, values: list[int], descriptors: list[int]) -> None:
        """Take what is no message."""
        if kind == LONG:
            size = values[0] + (values[1] << 32)
            try:
                self._long = np.empty(size if 0 < size <= PARCEL_BYTES_LIMIT else -1, np.uint8).data
            except ValueError as error:
                raise MalformedError(f"a message of {size} bytes") from error
            except MemoryError as error:
                if self._attach is not None:  # a client says so by itself
                    logger.warning("%s was cut off: there is no memory for a message of %d bytes", self._name, size)
                raise MalformedError(f"a message of {size} bytes, for which there is no memory here") from error
            self._long_at = 0
        else:
            self.sharing.told(kind, values, descriptors)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
