"""One end of a connection within a process: an inbox and the task that hands it over."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from aioflow.errors import ConnectionLost, LocalProtocolError
from aioflow.transport import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.transport import AnyFrame, Connection, Frame, Receiver, WritablePieces

# After so many messages the event loop gets a turn: a burst for one end must not keep the others waiting.
MESSAGES_PER_TURN = 64
# The bound of `Connection.aclose` for a receiver whose task does not get on.
CLOSE_S = 1.0


class End:
    """One end; what the other end sends lands in its inbox and is handed over by its own task.

    Args:
        peer: The other end, for messages to people.
        attach: Returns who receives the messages; called once, by the end's own task.
    """

    def __init__(self, peer: str, attach: Callable[[Connection], Receiver]) -> None:
        self._peer = peer
        self._attach = attach
        self._other: End | None = None
        self._inbox: deque[list[Frame]] = deque()
        self._changed = anyio.Event()
        self._drained = anyio.Event()
        self._drained.set()
        self._closing = False
        self._finished = anyio.Event()

    @classmethod
    def pair(cls, first: End, second: End) -> None:
        """Make two ends each other's other side."""
        first._other, second._other = second, first

    @property
    def peer(self) -> str:
        """The other end, for messages to people."""
        return self._peer

    @property
    def is_local(self) -> bool:
        """True: both ends are in one process."""
        return True

    @property
    def finished(self) -> bool:
        """Whether nothing is handed over any more."""
        return self._finished.is_set()

    def send(self, *messages: Sequence[AnyFrame]) -> None:
        """Put messages in the other end's inbox; after a loss or a close they are dropped.

        Raises:
            LocalProtocolError: A message has no frame.
        """
        for frames in messages:
            if not frames:
                raise LocalProtocolError(f"a message to {self._peer} has no frame; send at least one")
            if not self._closing and self._other is not None and not self._other.finished:
                self._other._arrive([_kept(whole(frame)) for frame in frames])  # noqa: SLF001

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:  # noqa: ARG002 - all memory is shared here
        """None: frames are handed over as they are."""
        return None

    def allocate(self, nbytes: int) -> memoryview | None:  # noqa: ARG002 - all memory is shared here
        """None: frames are handed over as they are."""
        return None

    async def aclose(self) -> None:
        """Close this end after the other has been handed what was sent, bounded by `CLOSE_S`."""
        other = self._other
        try:
            if not self._closing and not self.finished and other is not None and not other.finished:
                self._closing = True
                with anyio.move_on_after(CLOSE_S):
                    await other._drained.wait()  # noqa: SLF001
        finally:
            self.abort()
            with anyio.CancelScope(shield=True):
                await self._finished.wait()

    def abort(self) -> None:
        """End both directions; the other end's receiver learns of the loss from its own task."""
        self._closing = True
        self._inbox.clear()
        self._drained.set()
        self._changed.set()
        if self._other is not None:
            self._other._changed.set()  # noqa: SLF001

    async def run(self) -> None:
        """Hand over what arrives until either end is closed."""
        try:
            receiver = self._attach(self)
            while not self._closing:
                if await self._hand_over(receiver):
                    continue
                if self._closing:  # closed while the event loop had a turn
                    break
                if self._other_is_gone():
                    self._finished.set()
                    receiver.lost(ConnectionLost(f"{self._peer} closed the connection"))
                    break
                self._changed = anyio.Event()
                await self._changed.wait()
        finally:
            self.abort()
            self._finished.set()

    async def _hand_over(self, receiver: Receiver) -> bool:
        """Hand over some messages; return whether there were any."""
        for count in range(MESSAGES_PER_TURN):
            if not self._inbox:
                self._drained.set()
                return count > 0
            receiver.received(self._inbox.popleft())
        await checkpoint()
        return True

    def _arrive(self, frames: list[Frame]) -> None:
        if self._drained.is_set():
            self._drained = anyio.Event()
        self._inbox.append(frames)
        self._changed.set()

    def _other_is_gone(self) -> bool:
        return self._other is None or self._other._closing or self._other.finished  # noqa: SLF001


def _kept(frame: bytes | memoryview) -> Frame:
    """Return a frame whose content the sender cannot change through the object that it sent."""
    if isinstance(frame, bytes):
        return frame
    if not frame.readonly or not frame.nbytes or not frame.c_contiguous:  # a view with a zero in its shape has no cast
        return bytes(frame)
    return frame if frame.format == "B" and frame.ndim == 1 else frame.cast("B")
