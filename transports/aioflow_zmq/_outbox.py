"""What waits to be written to one peer, in order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from aioflow_zmq._frames import write
from aioflow_zmq._limits import PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX
from aioflow_zmq._parcels import pack, table_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.transport import Frame
    from aioflow_zmq._context import Socket


class Outbox:
    """Messages that are written as parcels, and the word that comes after the last of them.

    Args:
        socket: Where to.
        identity: The peer, if the socket is a ROUTER.

    Attributes:
        waiting: How many messages and words wait.
    """

    def __init__(self, socket: Socket, identity: bytes | None) -> None:
        self._socket = socket
        self._identity = identity
        self._loose: list[tuple[Sequence[Frame], Sequence[int]]] = []  # messages of the parcel that is being filled
        self._loose_bytes = 0
        self._sealed: deque[tuple[int, Sequence[Frame]]] = deque()  # how many messages, and the frames
        self.waiting = 0

    @property
    def is_ripe(self) -> bool:
        """Whether there is a parcel that hardly gets fuller."""
        return bool(self._sealed) or self._loose_bytes >= PARCEL_BYTES_MAX

    def add(self, frames: Sequence[Frame], sizes: Sequence[int]) -> None:
        """Add a message, given with what `measure` says of it."""
        size = sum(sizes) + table_bytes(len(sizes))
        loose = self._loose
        if loose and (self._loose_bytes + size > PARCEL_BYTES_MAX or len(loose) == PARCEL_MESSAGES_MAX):
            self._seal()
        self._loose.append((frames, sizes))
        self._loose_bytes += size
        self.waiting += 1

    def add_word(self, frames: Sequence[Frame]) -> None:
        """Add a word of the transport, behind everything."""
        if self._loose:
            self._seal()
        self._sealed.append((1, frames))
        self.waiting += 1

    def flush(self) -> bool:
        """Write what libzmq takes; return whether anything was written."""
        wrote = False
        while self.waiting:
            if not self._sealed:
                self._seal()
            number, frames = self._sealed.popleft()
            if not write(self._socket, frames, self._identity):
                self._sealed.appendleft((number, frames))
                break
            wrote = True
            self.waiting -= number
        return wrote

    def clear(self) -> None:
        """Drop everything."""
        self._loose = []
        self._loose_bytes = 0
        self._sealed.clear()
        self.waiting = 0

    def _seal(self) -> None:
        self._sealed.append((len(self._loose), pack(self._loose)))
        self._loose = []
        self._loose_bytes = 0
