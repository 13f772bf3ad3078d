"""Messages as libzmq's frames, in and out.

A message is its frames. One whose first frame is empty is a word of the transport:

    ["", "M", *frames]   a message that itself starts with an empty frame
    ["", "B"]            nothing follows from this side
    ["", "A"]            the answer to B: everything before it was received
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from aioflow.errors import LocalProtocolError
from aioflow_zmq._limits import FRAME_BYTES_MAX, FRAMES_MAX, RECEIVE_IN_PLACE_BYTES, SEND_IN_PLACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.transport import Frame
    from aioflow_zmq._context import Socket

MESSAGE = b"M"
BYE = b"B"
BYE_SEEN = b"A"

# A word is two frames more than the message in it.
_WIRE_FRAMES_MAX = FRAMES_MAX + 2

_MORE = zmq.DONTWAIT | zmq.SNDMORE


def word(name: bytes) -> tuple[Frame, ...]:
    """Return the frames of a word of the transport."""
    return (b"", name)


def is_bye(frames: Sequence[zmq.Frame]) -> bool:
    """Whether a message from the wire is the word that ends a side."""
    return len(frames) > 1 and not len(frames[0]) and frames[1].bytes == BYE


def to_wire(frames: Sequence[Frame], peer: str) -> tuple[Frame, ...]:
    """Return the frames that carry a message.

    Raises:
        LocalProtocolError: The message has no frame, too many, or one that is too large; nothing was sent.
    """
    if not 0 < len(frames) <= FRAMES_MAX:
        raise LocalProtocolError(f"a message to {peer} has {len(frames)} frames; allowed are 1 to {FRAMES_MAX}")
    for frame in frames:
        size = len(frame) if isinstance(frame, bytes) else frame.nbytes
        if size > FRAME_BYTES_MAX:
            raise LocalProtocolError(
                f"a frame of a message to {peer} has {size} bytes; allowed are {FRAME_BYTES_MAX}: send it in parts"
            )
    return tuple(frames) if len(frames[0]) else (b"", MESSAGE, *frames)


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


def read(socket: Socket) -> list[zmq.Frame] | None:
    """Read one message whole; None if there is none.

    Of a message with too many frames the rest is dropped, and `is_too_long` says so.
    """
    try:
        frame = socket.recv(zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return None
    frames = [frame]
    while frame.more:
        frame = socket.recv(zmq.DONTWAIT, copy=False)
        if len(frames) <= _WIRE_FRAMES_MAX + 1:  # with an identity in front, and one more to tell
            frames.append(frame)
    return frames


def is_too_long(frames: Sequence[zmq.Frame]) -> bool:
    """Whether a message, without an identity, has more frames than are allowed."""
    return len(frames) > (FRAMES_MAX if len(frames[0]) else _WIRE_FRAMES_MAX)


def take(frame: zmq.Frame) -> Frame:
    """Return a frame's content: a copy if it is small, its memory in place otherwise.

    The view keeps the frame, and with it the memory, alive.
    """
    return frame.bytes if len(frame) < RECEIVE_IN_PLACE_BYTES else frame.buffer.toreadonly()
