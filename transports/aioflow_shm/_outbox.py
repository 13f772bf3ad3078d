"""What waits to be written to one peer, in order."""

from __future__ import annotations

from collections import deque
from socket import SCM_RIGHTS, SOL_SOCKET
from struct import pack as pack_struct
from typing import TYPE_CHECKING

from aioflow_shm._limits import MEMORY_FROM, PACKET_BYTES_MAX, PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX
from aioflow_shm._parcels import DROPPED, LENT, LONG, SEGMENT, WANT, numbers, pack

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from aioflow.transport import AnyFrame, Frame
    from aioflow_shm._leases import Leases
    from aioflow_shm._memory import Memory
    from aioflow_shm._segments import Segments

_NUMBER_BYTES = 4
_PARTS_MAX = 512  # of a packet; the system's own limit is 1,024
_LOW = (1 << 32) - 1

# The parts of a packet, and the memory whose descriptor goes with it.
_Packet = tuple["Sequence[Frame]", "Memory | None"]


class Outbox:
    """Messages that are written as parcels, and what else is to be said.

    Args:
        peer: The connection.
        segments: Where large frames go.
        leases: What the other side is told the end of.

    Attributes:
        is_broken: Whether the other side takes nothing any more.
        may_wait: Whether a message may wait for the other side to map memory, or is to go in packets.
        request: What the other side is to be asked when it knows all that has come back, or None.
    """

    def __init__(self, peer: socket.socket, segments: Segments, leases: Leases) -> None:
        self._socket = peer
        self._segments = segments
        self._leases = leases
        self._loose: deque[tuple[Sequence[AnyFrame], Sequence[int], int]] = deque()
        self._loose_bytes = 0
        self._is_waiting = False  # the first of them, for memory
        self._said: deque[_Packet] = deque()
        self._long: Iterator[_Packet] | None = None  # the rest of a parcel that is too long for one packet
        self._packet: _Packet | None = None  # the one that is to be written next
        self.is_broken = False
        self.may_wait = True
        self.request: bytes | None = None

    @property
    def waiting(self) -> int:
        """How many messages wait that are not being written."""
        return len(self._loose)

    @property
    def is_empty(self) -> bool:
        """Whether everything was written."""
        return not (self._loose or self._said or self._packet or self.request)

    @property
    def is_ripe(self) -> bool:
        """Whether there is a parcel that hardly gets fuller."""
        return self._loose_bytes >= PARCEL_BYTES_MAX

    def add(self, frames: Sequence[AnyFrame], sizes: Sequence[int]) -> None:
        """Add a message, given with what `measure` says of it."""
        size = sum(sizes) + _NUMBER_BYTES * (1 + len(sizes))
        self._loose.append((frames, sizes, size))
        self._loose_bytes += size

    def say(self, packet: bytes) -> None:
        """Add a packet, before the messages that are not being written yet."""
        self._said.append(((packet,), None))

    def lend(self, number: int, memory: Memory) -> None:
        """Add a packet with memory that the other side has asked for."""
        self._said.append(((numbers(LENT, number),), memory))

    def flush(self) -> bool:
        """Write what the other side takes; return whether nothing is left."""
        try:
            while self._packet is not None or self._fill():
                parts, memory = self._packet  # type: ignore[misc]  # it was filled
                if memory is None and len(parts) == 1:
                    self._socket.send(parts[0])
                else:
                    self._write(parts, memory)
                self._packet = None
        except BlockingIOError:
            return False
        except OSError:  # the other side is gone: whoever reads finds out
            self.is_broken = True
            self.clear()
        return True

    def clear(self) -> None:
        """Drop everything."""
        self._loose.clear()
        self._loose_bytes = 0
        self._is_waiting = False  # the first of them, for memory
        self._said.clear()
        self._long = None
        self._packet = None
        self.request = None

    def _write(self, parts: Sequence[Frame], memory: Memory | None) -> None:
        if memory is None:
            self._socket.sendmsg(parts)
        else:
            self._socket.sendmsg(parts, [(SOL_SOCKET, SCM_RIGHTS, pack_struct("i", memory.fd))])

    def _fill(self) -> bool:
        """Choose the next packet; return whether there is one."""
        if self._long is not None:
            self._packet = next(self._long, None)
            if self._packet is not None:
                return True
            self._long = None
        if not self._said and (self._loose or self._leases.has_ended):
            self._seal()
        if self._packet is None and self._said:
            self._packet = self._said.popleft()
        if self._packet is None and self.request:
            self._packet = ((self.request,), None)
            self.request = None
        return self._packet is not None

    def _seal(self) -> None:
        """Make a parcel of the first messages, and of the ends of leases."""
        messages: list[tuple[Sequence[AnyFrame], Sequence[int]]] = []
        sealed_bytes = 0
        while self._loose and len(messages) < PARCEL_MESSAGES_MAX:
            frames, sizes, size = self._loose[0]
            if messages and sealed_bytes + size > PARCEL_BYTES_MAX:
                break
            if size >= MEMORY_FROM and self.may_wait:
                # Once: what one frame gets may be taken from another that has to wait for it.
                self._is_waiting = self._segments.are_awaited(frames, sizes, asks=not self._is_waiting)
                if self._is_waiting:
                    break
            self._loose.popleft()
            messages.append((frames, sizes))
            sealed_bytes += size
        self._loose_bytes -= sealed_bytes
        if messages or self._leases.has_ended:
            self._pack(messages)
        self.tell_of_segments()

    def _pack(self, messages: list[tuple[Sequence[AnyFrame], Sequence[int]]]) -> None:
        leases = self._leases
        released = leases.take_released()
        ended, kept = leases.take_ended() if leases.has_ended else ((), ())
        parts, size = pack(messages, released, ended, kept, self._segments.put)
        if size <= PACKET_BYTES_MAX:
            self._packet = ((b"".join(parts),), None)
        else:
            self._packet = ((numbers(LONG, size & _LOW, size >> 32),), None)
            self._long = _slices(parts)

    def tell_of_segments(self) -> None:
        """Tell the other side of memory that it is to map, and to lend, and of what it may forget."""
        segments = self._segments.pool
        if segments.made:
            for number, memory in segments.made:
                self._said.append(((numbers(SEGMENT, number, memory.size),), memory))
            segments.made.clear()
        if segments.wanted:
            for number, size in segments.wanted:
                self.say(numbers(WANT, number, size))
            segments.wanted.clear()
        while segments.dropped:
            self.say(numbers(DROPPED, segments.dropped.pop()))


def _slices(parts: Sequence[Frame]) -> Iterator[_Packet]:
    """Cut what is too long for one packet."""
    packet: list[Frame] = []
    room = PACKET_BYTES_MAX
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            packet.append(rest[:room])
            room -= len(packet[-1])
            rest = rest[len(packet[-1]) :]
            if not room or len(packet) == _PARTS_MAX:
                yield packet, None
                packet, room = [], PACKET_BYTES_MAX
    if packet:
        yield packet, None
