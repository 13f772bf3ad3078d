"""Messages on the wire. What costs is each frame and each wake-up of libzmq's thread, so several travel as one.

    [frame, ...]           one message as it is, if its first frame is not empty and it has no further small ones
    ["", head, frame, ...] a parcel of messages: their small frames lie in the head, the others follow in order
    ["", name]             a word of the transport (`_frames.py`); the name has one byte

The head is numbers of 32 bits, little-endian: how many follow, then for each message the number of its frames and for
each frame its size, or `OWN` for one that follows as a frame of its own. Behind them lie the bytes of the small frames.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from aioflow.errors import LocalProtocolError
from aioflow_zmq._frames import take
from aioflow_zmq._limits import (
    FRAME_BYTES_MAX,
    FRAMES_MAX,
    HEAD_BYTES_MAX,
    OWN_FRAME_BYTES,
    PARCEL_MESSAGES_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zmq

    from aioflow.transport import Frame

OWN = (1 << 32) - 1
_NUMBER_BYTES = 4
# The tables of parcels of few frames are packed by what is made once.
_TABLES = tuple(struct.Struct(f"<{length}I") for length in range(64))


class MalformedParcelError(Exception):
    """What came is no message within the limits; says why."""


def measure(frames: Sequence[Frame], peer: str) -> list[int]:
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


def table_bytes(frames: int) -> int:
    """Return what a message of so many frames adds to the table of a parcel."""
    return _NUMBER_BYTES * (1 + frames)


def pack(messages: Sequence[tuple[Sequence[Frame], Sequence[int]]]) -> list[Frame]:
    """Return what carries messages, each given with what `measure` says of it; small frames are copied."""
    if len(messages) == 1:
        frames, sizes = messages[0]
        if sizes[0] and (len(sizes) == 1 or min(sizes[1:]) >= OWN_FRAME_BYTES):
            return list(frames)
    table: list[int] = [0]
    small: list[Frame] = [b""]
    parcel: list[Frame] = [b"", b""]
    for frames, sizes in messages:
        table.append(len(sizes))
        for frame, size in zip(frames, sizes, strict=True):
            if size >= OWN_FRAME_BYTES:
                table.append(OWN)
                parcel.append(frame)
            else:
                table.append(size)
                if size:  # a view with a zero in its shape cannot be joined
                    small.append(frame)
    length = len(table)
    table[0] = length - 1
    small[0] = _layout(length).pack(*table)
    parcel[1] = b"".join(small)
    return parcel


def unpack(frames: Sequence[zmq.Frame]) -> list[list[Frame]]:
    """Return the messages that came as one, which is no word: small frames as bytes of their own, the others in place.

    Nothing in it is believed: no memory is taken for what has not come.

    Raises:
        MalformedParcelError: It is not within the limits.
    """
    if len(frames[0]):
        if len(frames) > FRAMES_MAX:
            raise MalformedParcelError("a message of too many frames")
        return [[take(frame) for frame in frames]]
    head = take(frames[1])
    table = _table(head)
    start = _NUMBER_BYTES * (1 + len(table))
    messages: list[list[Frame]] = []
    at, own = 0, 2
    while at < len(table):
        count = table[at]
        sizes = table[at + 1 : at + 1 + count]
        at += 1 + count
        if not 0 < count <= FRAMES_MAX or at > len(table) or len(messages) == PARCEL_MESSAGES_MAX:
            raise MalformedParcelError(f"message {len(messages)} with {count} frames")
        message: list[Frame] = []
        for size in sizes:
            if size != OWN:
                message.append(bytes(head[start : start + size]))  # all are as long as they say if the sum below is
                start += size
            elif own < len(frames):
                message.append(take(frames[own]))
                own += 1
            else:
                raise MalformedParcelError("frames of their own are missing")
        messages.append(message)
    if start != len(head) or own != len(frames) or not messages:
        raise MalformedParcelError(f"{len(messages)} messages that are not all that came")
    return messages


def _table(head: Frame) -> tuple[int, ...]:
    if not _NUMBER_BYTES <= len(head) <= HEAD_BYTES_MAX:
        raise MalformedParcelError(f"a head of {len(head)} bytes")
    (length,) = _TABLES[1].unpack_from(head)
    if length > len(head) // _NUMBER_BYTES - 1:
        raise MalformedParcelError(f"a table of {length} numbers in a head of {len(head)} bytes")
    return _layout(length).unpack_from(head, _NUMBER_BYTES)


def _layout(length: int) -> struct.Struct:
    return _TABLES[length] if length < len(_TABLES) else struct.Struct(f"<{length}I")
