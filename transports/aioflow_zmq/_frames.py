"""libzmq's messages, in and out, and the words of the transport among them; `_parcels.py` has the others.

["", "B"]   nothing follows from this side
["", "A"]   the answer to B: everything before it was received
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from aioflow_zmq._limits import FRAMES_MAX, OWN_FRAME_BYTES, SEND_IN_PLACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.transport import Frame
    from aioflow_zmq._context import Socket

BYE = b"B"
BYE_SEEN = b"A"

# An empty frame, the head of a parcel and the frames of a message; one more tells that there are too many.
_KEPT_FRAMES_MAX = 2 + FRAMES_MAX + 1

_MORE = zmq.DONTWAIT | zmq.SNDMORE


def word(name: bytes) -> tuple[Frame, ...]:
    """Return the frames of a word of the transport."""
    return (b"", name)


def word_of(frames: Sequence[zmq.Frame]) -> bytes | None:
    """Return the name of a word from the wire; None where it is no word."""
    if len(frames[0]):
        return None
    if len(frames) == 1:
        return b""
    return frames[1].bytes if len(frames[1]) <= 1 else None


def write(socket: Socket, frames: Sequence[Frame], identity: bytes | None = None) -> bool:
    """Write one message whole, or nothing if the peer's queue is full.

    Args:
        socket: Where to.
        frames: The frames as on the wire.
        identity: The peer, if the socket is a ROUTER.

    Returns:
        Whether the message was taken. One for a peer that is gone is taken and dropped.
    """
    last = len(frames) - 1
    started = False
    try:
        if identity is not None:
            socket.send(identity, _MORE)
            started = True
        for i, frame in enumerate(frames):
            size = len(frame) if isinstance(frame, bytes) else frame.nbytes
            socket.send(
                frame if size else b"",
                _MORE if i < last else zmq.DONTWAIT,
                copy=size < SEND_IN_PLACE_BYTES,
                track=False,
            )
            started = True
    except zmq.Again:
        # libzmq checks for room at the first frame only. Later it refuses a frame if the connection has just ended.
        return started
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            return True
        raise
    return True


def is_gone(socket: Socket, identity: bytes) -> bool:
    """Whether all that a ROUTER's peer has sent can be read now; asked of one whose connection has ended.

    libzmq tells its monitor of the end before it hands over the last of what came, and takes nothing for the peer any
    more after that.
    """
    try:
        socket.send(identity, _MORE)
    except zmq.Again:
        return False  # its queue is full, and will be dropped
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            return True
        raise
    write(socket, word(BYE))
    return False


def read(socket: Socket) -> list[zmq.Frame] | None:
    """Read one message of a DEALER whole; None if there is none.

    Of one with too many frames the rest is dropped, and enough kept that it is no parcel.
    """
    try:
        frame = socket.recv(zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return None
    frames = [frame]
    while frame.more:
        frame = socket.recv(zmq.DONTWAIT, copy=False)
        if len(frames) < _KEPT_FRAMES_MAX:
            frames.append(frame)
    return frames


def read_from(socket: Socket) -> tuple[bytes, list[zmq.Frame]] | None:
    """Read one message of a ROUTER whole, as `read` does: the peer's identity, and what it sent."""
    try:
        identity = socket.recv(zmq.DONTWAIT)
    except zmq.Again:
        return None
    frames = read(socket)  # a ROUTER has the whole message by now
    return None if frames is None else (identity, frames)


def take(frame: zmq.Frame) -> Frame:
    """Return a frame's content: a copy if it is small, its memory in place otherwise.

    The view keeps the frame, and with it the memory, alive.
    """
    return frame.bytes if len(frame) < OWN_FRAME_BYTES else frame.buffer.toreadonly()
