"""Parcels: whatever is sent comes out as it went in, and whatever comes in is refused or taken, without a crash."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from aioflow_zmq._frames import word_of
from aioflow_zmq._limits import (
    FRAMES_MAX,
    HEAD_BYTES_MAX,
    OWN_FRAME_BYTES,
    PARCEL_BYTES_MAX,
    PARCEL_MESSAGES_MAX,
)
from aioflow_zmq._outbox import Outbox
from aioflow_zmq._parcels import OWN, MalformedParcelError, measure, pack, unpack

# Contents are told apart by their first bytes; what matters is on which side of each border the sizes are.
SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([OWN_FRAME_BYTES - 1, OWN_FRAME_BYTES, OWN_FRAME_BYTES + 1, PARCEL_BYTES_MAX, 100_000]),
)
FRAMES = st.builds(lambda size, byte: bytes([byte]) * size, SIZES, st.integers(0, 255))
MESSAGES = st.lists(FRAMES, min_size=1, max_size=6)


class _Socket:
    """Takes messages whole, or refuses them where the plan says so, for ever once it is through."""

    def __init__(self, plan: list[bool]) -> None:
        self.plan = plan
        self.taken: list[list[bytes]] = []
        self._frames: list[bytes] = []

    def send(self, frame: bytes | memoryview, flags: int, **_: Any) -> None:
        """Take a frame."""
        if not self._frames and not (self.plan.pop(0) if self.plan else True):
            raise zmq.Again
        self._frames.append(bytes(frame))
        if not flags & zmq.SNDMORE:
            self.taken.append(self._frames)
            self._frames = []


def _wire(frames: list[bytes]) -> list[zmq.Frame]:
    return [zmq.Frame(frame, copy=True) for frame in frames]


def _arrive(frames: list[bytes]) -> list[list[bytes]]:
    return [[bytes(frame) for frame in message] for message in unpack(_wire(frames))]


@given(st.lists(MESSAGES, max_size=40), st.lists(st.booleans(), max_size=20), st.data())
def test_what_goes_in_comes_out(messages: list[list[bytes]], plan: list[bool], data: st.DataObject) -> None:
    """Any messages, sent together or apart to a peer that is full at times, come out whole and in order, in bounds."""
    socket: Any = _Socket(plan)
    outbox = Outbox(socket, None)
    for message in messages:
        views = [memoryview(frame) for frame in message] if data.draw(st.booleans()) else message
        outbox.add(views, measure(views, "a peer"))
        if data.draw(st.booleans()):
            outbox.flush()
    socket.plan.clear()
    outbox.flush()
    assert outbox.waiting == 0
    arrived = [_arrive(frames) for frames in socket.taken]
    assert [message for parcel in arrived for message in parcel] == messages
    for frames, parcel in zip(socket.taken, arrived, strict=True):
        assert word_of(_wire(frames)) is None
        assert len(parcel) == 1 or sum(map(len, frames)) <= PARCEL_BYTES_MAX + 8
        assert len(parcel) <= PARCEL_MESSAGES_MAX


def test_many_messages_are_few_parcels() -> None:
    """A full parcel is sealed by its number of messages or by its bytes."""
    for size, number in ((1, PARCEL_MESSAGES_MAX), (1000, PARCEL_BYTES_MAX // 1008)):
        socket: Any = _Socket([])
        outbox = Outbox(socket, b"peer")
        for _ in range(3 * number):
            outbox.add([bytes(size)], [size])
        outbox.flush()
        assert [len(_arrive(frames[1:])) for frames in socket.taken] == [number] * 3


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_anything_may_arrive(frames: list[bytes]) -> None:
    """Bytes at random are a message or refused."""
    if word_of(_wire(frames)) is None:
        with suppress(MalformedParcelError):
            assert _arrive(frames)


@given(st.lists(MESSAGES, min_size=1, max_size=5), st.data())
def test_a_damaged_parcel_is_never_more_than_what_came(messages: list[list[bytes]], data: st.DataObject) -> None:
    """A number that was changed, bytes or frames too few or too many: refused, or other messages of the same bytes."""
    parcel = [bytes(frame) for frame in pack([(message, measure(message, "a peer")) for message in messages])]
    if parcel[0]:
        return
    head = bytearray(parcel[1])
    at = data.draw(st.integers(0, len(head) // 4 - 1))
    struct.pack_into("<I", head, 4 * at, data.draw(st.one_of(st.integers(0, 40), st.integers(0, OWN))))
    damaged = [b"", bytes(head[: data.draw(st.integers(2, len(head)))]), *parcel[2:]]
    damaged += [b"more"] * data.draw(st.integers(0, 1))
    try:
        arrived = _arrive(damaged)
    except MalformedParcelError:
        return
    assert sum(len(frame) for message in arrived for frame in message) <= sum(map(len, damaged))


def _head(*numbers: int, rest: bytes = b"") -> bytes:
    return struct.pack(f"<{len(numbers) + 1}I", len(numbers), *numbers) + rest


@pytest.mark.parametrize(
    "frames",
    [
        [b"", b"no", b""],
        [b"", struct.pack("<I", OWN)],
        [b"", struct.pack("<I", OWN) + bytes(100_000)],
        [b"", _head()],
        [b"", _head(0)],
        [b"", _head(1)],
        [b"", _head(1, 5, rest=b"four")],
        [b"", _head(1, 3, rest=b"four")],
        [b"", _head(1, OWN - 1, rest=b"four")],
        [b"", _head(1, OWN)],
        [b"", _head(1, OWN), b"one", b"two"],
        [b"", _head(OWN, 1, rest=b"1")],
        [b"", _head(*[1, 0] * (PARCEL_MESSAGES_MAX + 1))],
        [b"", _head(FRAMES_MAX + 1, *[0] * (FRAMES_MAX + 1))],
        [b"", _head(1, HEAD_BYTES_MAX, rest=bytes(HEAD_BYTES_MAX))],
        [b"x"] * (FRAMES_MAX + 1),
    ],
)
def test_bombs_are_refused(frames: list[bytes]) -> None:
    """Claims without bytes, bytes without claims, and more than a side of ours would send."""
    with pytest.raises(MalformedParcelError):
        _arrive(frames)


def test_the_largest_message_is_within_the_limits() -> None:
    """As many frames as are allowed, each just small enough to lie in the head."""
    message = [bytes(OWN_FRAME_BYTES - 1)] * FRAMES_MAX
    assert _arrive([bytes(frame) for frame in pack([(message, measure(message, "a peer"))])]) == [message]
