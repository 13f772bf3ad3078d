"""Messages on the wire. A packet is numbers of 32 bits, little-endian, and for a parcel what follows them.

    PARCEL, t, r, p, d, k, then t + r + p + d + k numbers and bytes   messages, and places that are given back:
        t numbers: for each message how many frames, and for each frame its size, or IN_MEMORY, or IN_PIECES
        r numbers: for each frame in memory its segment, where it begins, its size, and the number of its lease; for
            each in pieces how many these are, their size, the number of its lease, and of each piece its segment and
            where it begins
        p numbers: for each lease of which pieces are given back its number, how many these are, and which
        d numbers: leases that have ended
        k numbers: leases that have ended, and whose memory is not to be used again
        the other frames, those of `OWN_FRAME_BYTES` and more at multiples of `ALIGN_BYTES` from the parcel's beginning
    LONG, low, high      a parcel of so many bytes follows, in as many packets as it takes, without anything between
    SEGMENT, n, size     a segment, by its number and with its descriptor
    MAPPED, n            the answer to SEGMENT: frames may lie in it
    WANT, n, size        a client needs a segment to write in, and gives it this number
    LENT, n              the answer to WANT, with its descriptor: frames may lie in it
    REFUSED, n           the answer to SEGMENT or WANT: no frame may
    DROPPED, n           no further frame lies in it, and if it was lent, nobody writes in it any more
    RECALL, n, n, ...    of these segments that were lent, those that are not in use are to be dropped
    RECALLED             the answer to RECALL: it is done, and what has ended is told

The first packet from either side is `GREETING`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from aioflow.errors import LocalProtocolError
from aioflow.transport import Pieces, whole
from aioflow_shm._limits import ALIGN_BYTES, FRAME_BYTES_MAX, FRAMES_MAX, OWN_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aioflow.transport import AnyFrame, Frame

GREETING = b"aioflow shm 5"
PARCEL, LONG, SEGMENT, MAPPED, WANT, LENT, REFUSED, DROPPED, RECALL, RECALLED = range(1, 11)

# How many numbers a packet of each kind has at least.
VALUES = dict(zip(range(1, 11), (6, 3, 3, 2, 3, 2, 2, 2, 1, 1), strict=True))

IN_MEMORY = (1 << 32) - 1
IN_PIECES = IN_MEMORY - 1
PARCEL_BYTES_LIMIT = (FRAMES_MAX + 1) * FRAME_BYTES_MAX  # of a parcel that is long; it holds one message

_NUMBER_BYTES = 4
_HEAD = struct.Struct("<6I")
_REFERENCE = 4
_PIECES_HEAD = 3
# Heads of few frames are packed by what is made once.
_LAYOUTS = tuple(struct.Struct(f"<{length}I") for length in range(64))
_PADDING = bytes(ALIGN_BYTES)

# Of a frame in memory its segment, where it begins, its size, and the number of its lease; of one in pieces how many,
# the size of each, the number of the lease, and of each its segment and where it begins.
Reference = tuple[int, ...]


class MalformedError(Exception):
    """What came is nothing within the limits; says why."""


@dataclass(slots=True)
class Parcel:
    """What came as one.

    Attributes:
        messages: In order.
        has_pieces: Whether a frame of these lies in pieces.
        released: Leases, and pieces of them that may be used again.
        ended: Leases whose memory may be used again.
        kept: Leases that have ended, and whose memory may not.
    """

    messages: list[list[AnyFrame]]
    has_pieces: bool
    released: list[tuple[int, tuple[int, ...]]]
    ended: tuple[int, ...]
    kept: tuple[int, ...]


def measure(frames: Sequence[AnyFrame], peer: str) -> list[int]:
    """Return the sizes of a message's frames.

    Raises:
        LocalProtocolError: The message has no frame, too many, or one that is too large.
    """
    if not 0 < len(frames) <= FRAMES_MAX:
        raise LocalProtocolError(f"a message to {peer} has {len(frames)} frames; allowed are 1 to {FRAMES_MAX}")
    sizes = [len(frame) if isinstance(frame, bytes) else frame.nbytes for frame in frames]
    if max(sizes) > FRAME_BYTES_MAX:
        raise LocalProtocolError(
            f"a frame of a message to {peer} has {max(sizes)} bytes; allowed are {FRAME_BYTES_MAX}: send it in parts"
        )
    return sizes


def numbers(*values: int) -> bytes:
    """Return a packet of numbers."""
    return _layout(len(values)).pack(*values)


def pack(
    messages: Sequence[tuple[Sequence[AnyFrame], Sequence[int]]],
    released: Sequence[int],
    ended: Sequence[int],
    kept: Sequence[int],
    place: Callable[[AnyFrame, int], Reference | None],
) -> tuple[list[Frame], int]:
    """Return the parts of a parcel, to be written one after the other, and how many bytes they have.

    Args:
        messages: Each given with what `measure` says of it.
        released: For each lease of which pieces may be used again its number, how many these are, and which.
        ended: Leases whose memory may be used again.
        kept: Leases that have ended, and whose memory may not.
        place: Puts a frame of some size into memory, if it belongs and fits there.
    """
    table: list[int] = []
    references: list[int] = []
    inline: list[Frame] = []
    inline_bytes = largest = 0
    for frames, sizes in messages:
        table.append(len(sizes))
        for frame, size in zip(frames, sizes, strict=True):
            if size >= OWN_FRAME_BYTES:
                if (reference := place(frame, size)) is not None:
                    table.append(IN_PIECES if isinstance(frame, Pieces) else IN_MEMORY)
                    references += reference
                    continue
                largest = size
            table.append(size)
            if size:  # a view with a zero in its shape cannot be joined
                inline.append(frame if isinstance(frame, bytes) else whole(frame))
                inline_bytes += size
    lengths = map(len, (table, references, released, ended, kept))
    values = (PARCEL, *lengths, *table, *references, *released, *ended, *kept)
    parts: list[Frame] = [_layout(len(values)).pack(*values)]
    size = _NUMBER_BYTES * len(values) + inline_bytes
    if not largest:
        return [*parts, *inline], size
    return _align(parts, inline)


def _align(parts: list[Frame], inline: Sequence[Frame]) -> tuple[list[Frame], int]:
    """Append frames with what is missing before those that are to be aligned; return all, and their bytes."""
    at = len(parts[0])
    for frame in inline:
        size = len(frame) if isinstance(frame, bytes) else frame.nbytes
        if size >= OWN_FRAME_BYTES and (padding := -at % ALIGN_BYTES):
            parts.append(_PADDING[:padding])
            at += padding
        parts.append(frame)
        at += size
    return parts, at


def unpack(
    packet: memoryview, view: Callable[..., Frame], view_pieces: Callable[..., AnyFrame], *, is_kept: bool
) -> Parcel:
    """Return what came as one. Nothing in it is believed: no memory is taken for what has not come.

    Args:
        packet: The parcel.
        view: Returns the frame of a reference; raises MalformedError where there is none.
        view_pieces: The same for one in pieces.
        is_kept: Whether the packet's own memory may be handed over; otherwise everything is copied.

    Raises:
        MalformedError: It is not within the limits.
    """
    if len(packet) < _HEAD.size:
        raise MalformedError(f"a parcel of {len(packet)} bytes")
    _, tables, references, released, ended, kept = _HEAD.unpack_from(packet)
    count = tables + references + released + ended + kept
    start = _HEAD.size + _NUMBER_BYTES * count
    if start > len(packet):
        raise MalformedError(f"a parcel of {count} numbers in {len(packet)} bytes")
    values = _layout(count).unpack_from(packet, _HEAD.size)
    places = iter(values[tables : tables + references])
    messages: list[list[AnyFrame]] = []
    has_pieces = False
    at = 0
    while at < tables:
        frames = values[at]
        sizes = values[at + 1 : min(at + 1 + frames, tables)]
        at += 1 + frames
        if not 0 < frames == len(sizes) <= FRAMES_MAX:
            raise MalformedError(f"message {len(messages)} with {frames} frames")
        message: list[AnyFrame] = []
        for size in sizes:
            if size < OWN_FRAME_BYTES:
                message.append(bytes(packet[start : start + size]))  # of what is missing nothing, which is told below
                start += size
            elif size == IN_MEMORY:
                message.append(view(*_take(places, _REFERENCE)))
            elif size == IN_PIECES:
                has_pieces = True
                pieces, *reference = _take(places, _PIECES_HEAD)
                message.append(view_pieces(*reference, *_take(places, 2 * pieces)))
            else:
                start += -start % ALIGN_BYTES
                frame = packet[start : start + size]
                message.append(frame if is_kept else bytes(frame))
                start += size
        messages.append(message)
    if start != len(packet) or next(places, None) is not None:
        raise MalformedError(f"{len(messages)} messages that are not all that came, or of which some is missing")
    at = tables + references
    given_back = _read_released(values[at : at + released]) if released else []
    return Parcel(messages, has_pieces, given_back, values[at + released : count - kept], values[count - kept :])


def _take(numbers: Iterator[int], count: int) -> tuple[int, ...]:
    """Return the next numbers of what frames in memory have."""
    taken = (*islice(numbers, count),)
    if len(taken) != count:
        raise MalformedError("frames in memory are missing")
    return taken


def _read_released(values: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    released: list[tuple[int, tuple[int, ...]]] = []
    numbers = iter(values)
    for lease in numbers:
        [count] = _take(numbers, 1)
        released.append((lease, _take(numbers, count)))
    return released


def _layout(length: int) -> struct.Struct:
    return _LAYOUTS[length] if length < len(_LAYOUTS) else struct.Struct(f"<{length}I")
