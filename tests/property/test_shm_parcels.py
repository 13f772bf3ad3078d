"""Parcels of shm: what is sent, inline, in memory or in pieces, comes out as it went in; what is damaged is refused.

Memory is a table here: who packs notes what was put where, and who unpacks finds it only there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aioflow.transport import AnyFrame, Frame, Pieces
from aioflow_shm._beats import _no_memory
from aioflow_shm._limits import ALIGN_BYTES, OWN_FRAME_BYTES
from aioflow_shm._memory import BYTES
from aioflow_shm._parcels import (
    IN_MEMORY,
    IN_PIECES,
    PARCEL,
    MalformedError,
    Parcel,
    Reference,
    measure,
    numbers,
    pack,
    unpack,
)

NUMBERS = st.integers(0, (1 << 32) - 1)
RELEASED = st.lists(st.tuples(NUMBERS, st.lists(NUMBERS, max_size=5).map(tuple)), max_size=5)
LEASES = st.lists(NUMBERS, max_size=5).map(tuple)
# What matters is on which side of the border between small and large the sizes are.
SIZES = st.one_of(st.integers(0, 40), st.sampled_from([OWN_FRAME_BYTES + more for more in (-1, 0, 1, 13)]))


class SomePieces(Pieces):
    """Pieces in memory of their own, told apart by their content.

    Attributes:
        has_places: Whether they are to lie in memory.
    """

    def __init__(self, size: int, count: int, *, has_places: bool) -> None:
        super().__init__(size, count)
        self.has_places = has_places
        self._bytes = np.arange(size * count, dtype=np.uint64).astype(np.uint8) + np.uint8(count)

    def piece(self, number: int, dtype: np.dtype[Any] = BYTES) -> NDArray[Any]:
        return self._bytes[self.size * number : self.size * (number + 1)].view(dtype)

    def release(self, numbers: Iterable[int]) -> None:
        raise AssertionError("nobody reads them")


class Memory:
    """Memory of both sides: what frames were put in it, by their leases."""

    def __init__(self, leases: list[int]) -> None:
        self._leases = iter(leases)
        self.placed: dict[int, tuple[AnyFrame, Reference]] = {}

    def place(self, frame: AnyFrame, size: int) -> Reference | None:
        """Put a large frame: a view, or pieces that are to have places."""
        assert size >= OWN_FRAME_BYTES
        lease = next(self._leases)
        reference: Reference
        if isinstance(frame, SomePieces) and frame.has_places:
            assert size == frame.nbytes
            where = [(lease * (number + 3)) % (1 << 32) for number in range(2 * frame.count)]
            reference = (frame.count, frame.size, lease, *where)
        elif isinstance(frame, memoryview):
            reference = ((lease * 5) % (1 << 32), (lease * 7) % (1 << 32), size, lease)
        else:
            return None
        self.placed[lease] = frame, reference
        return reference

    def view(self, segment: int, start: int, size: int, lease: int) -> Frame:
        """Return what was put there."""
        frame, reference = self.placed.get(lease, (None, ()))
        if not isinstance(frame, memoryview) or reference != (segment, start, size, lease):
            raise MalformedError("nothing was put there")
        return frame

    def view_pieces(self, size: int, lease: int, *where: int) -> AnyFrame:
        """The same for pieces."""
        frame, reference = self.placed.get(lease, (None, ()))
        if not isinstance(frame, Pieces) or reference != (len(where) // 2, size, lease, *where):
            raise MalformedError("no pieces were put there")
        return frame

    def pack(
        self,
        messages: list[list[AnyFrame]],
        released: list[tuple[int, tuple[int, ...]]],
        ended: tuple[int, ...] = (),
        kept: tuple[int, ...] = (),
    ) -> bytes:
        """Return a parcel in one."""
        flat = [number for lease, which in released for number in (lease, len(which), *which)]
        parts, size = pack(
            [(message, measure(message, "a peer")) for message in messages], flat, ended, kept, self.place
        )
        joined = b"".join(parts)
        assert len(joined) == size
        return joined

    def unpack(self, parcel: bytes, *, is_kept: bool = False) -> Parcel:
        """Return what comes out of a parcel."""
        return unpack(memoryview(parcel), self.view, self.view_pieces, is_kept=is_kept)


def _view(frame: bytes) -> memoryview:
    return memoryview(frame)


INLINE = st.builds(lambda size, byte: bytes([byte]) * size, SIZES, st.integers(0, 255))
PIECES = st.builds(
    SomePieces,
    st.sampled_from([100, OWN_FRAME_BYTES // 2, OWN_FRAME_BYTES]),
    st.integers(1, 6),
    has_places=st.booleans(),
)
MESSAGES = st.lists(st.lists(st.one_of(INLINE, st.builds(_view, INLINE), PIECES), min_size=1, max_size=6), max_size=6)
MEMORIES = st.lists(NUMBERS, min_size=36, max_size=36, unique=True).map(Memory)


@given(MESSAGES, RELEASED, LEASES, LEASES, MEMORIES, st.booleans())
def test_what_goes_in_comes_out(
    messages: list[list[AnyFrame]],
    released: list[tuple[int, tuple[int, ...]]],
    ended: tuple[int, ...],
    kept: tuple[int, ...],
    memory: Memory,
    is_kept: bool,
) -> None:
    """Any messages, of frames that lie inline, in memory and in pieces, and any numbers that are given back."""
    packet = memory.pack(messages, released, ended, kept)
    parcel = memory.unpack(packet, is_kept=is_kept)
    assert (parcel.released, parcel.ended, parcel.kept) == (released, ended, kept)
    assert [[bytes(frame) for frame in message] for message in parcel.messages] == [
        [bytes(frame) for frame in message] for message in messages
    ]
    placed = {id(frame) for frame, _ in memory.placed.values()}
    for sent, came in zip(messages, parcel.messages, strict=True):
        for frame, arrived in zip(sent, came, strict=True):
            if id(frame) in placed:
                assert arrived is frame
            elif is_kept and len(arrived) >= OWN_FRAME_BYTES:
                assert isinstance(arrived, memoryview)
                where = np.frombuffer(arrived, np.uint8).ctypes.data - np.frombuffer(packet, np.uint8).ctypes.data
                assert where % ALIGN_BYTES == 0
                assert where + arrived.nbytes <= len(packet)
            else:
                assert isinstance(arrived, bytes), "nothing keeps the memory of a packet"


@given(MESSAGES, RELEASED, LEASES, LEASES, MEMORIES, st.data())
def test_a_damaged_parcel_is_never_more_than_what_came(
    messages: list[list[AnyFrame]],
    released: list[tuple[int, tuple[int, ...]]],
    ended: tuple[int, ...],
    kept: tuple[int, ...],
    memory: Memory,
    data: st.DataObject,
) -> None:
    """A number that was changed, or bytes too few or too many: refused, or other messages of the same bytes."""
    damaged = bytearray(memory.pack(messages, released, ended, kept))
    head = struct.unpack_from("<6I", damaged)
    at = data.draw(st.integers(1, 5 + sum(head[1:])))
    number = data.draw(st.one_of(st.integers(0, 40), NUMBERS, st.sampled_from([IN_MEMORY, IN_PIECES])))
    struct.pack_into("<I", damaged, 4 * at, number)
    packet = bytes(damaged[: data.draw(st.sampled_from([len(damaged), data.draw(st.integers(0, len(damaged)))]))])
    packet += b"more" * data.draw(st.integers(0, 1))
    try:
        parcel = memory.unpack(packet, is_kept=data.draw(st.booleans()))
    except MalformedError:
        return
    placed = {id(frame) for frame, _ in memory.placed.values()}
    inline = sum(len(frame) for message in parcel.messages for frame in message if id(frame) not in placed)
    told = sum(2 + len(which) for _, which in parcel.released) + len(parcel.ended) + len(parcel.kept)
    assert 4 * (6 + told) + inline <= len(packet)


@given(st.binary(max_size=200), st.lists(st.integers(0, 8), min_size=5, max_size=5))
def test_anything_may_arrive(packet: bytes, lengths: list[int]) -> None:
    """Bytes at random are a parcel or refused, also where they say something of what they are."""
    for damaged in (packet, numbers(PARCEL, *lengths) + packet):
        with suppress(MalformedError):
            Memory([]).unpack(damaged)


@pytest.mark.parametrize(
    "rest", [[], [3], [3, 2], [3, 2, 7], [3, (1 << 32) - 1], [3, (1 << 32) - 1, 0], [3, 2, 7, 7, 4]]
)
def test_a_released_section_says_how_many_they_are(rest: list[int]) -> None:
    """None are taken from what follows: neither from the leases that have ended, nor from the frames."""
    parcel = numbers(PARCEL, 0, 0, len(rest), 1, 1, *rest, 8, 9)
    if not rest:
        assert Memory([]).unpack(parcel) == Parcel([], has_pieces=False, released=[], ended=(8,), kept=(9,))
    else:
        with pytest.raises(MalformedError):
            Memory([]).unpack(parcel)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_beats_have_no_memory(count: int) -> None:
    """Whatever a server answers them with, they drop its connection and go on: nothing else ends their thread."""
    for size, references in ((IN_MEMORY, (0, 0, 9000, 5)), (IN_PIECES, (count, 9000, 5, *[0, 0] * count))):
        parcel = numbers(PARCEL, 2, len(references), 0, 0, 0, 1, size, *references)
        with pytest.raises(MalformedError):
            unpack(memoryview(parcel), _no_memory, _no_memory, is_kept=False)


@pytest.mark.parametrize(
    "references",
    [[], [1], [1, 9000], [1, 9000, 5], [1, 9000, 5, 0], [(1 << 32) - 1, 9000, 5, 0, 0], [0, 9000, 5, 0, 0]],
)
def test_pieces_of_which_some_are_missing(references: list[int]) -> None:
    """A reference ends where it says so; what is left over, or too little, is refused."""

    def view_pieces(*_: int) -> Frame:
        return b"pieces"

    parcel = numbers(PARCEL, 2, len(references), 0, 1, 1, 1, IN_PIECES, *references, 8, 9)
    with pytest.raises(MalformedError):
        unpack(memoryview(parcel), view_pieces, view_pieces, is_kept=False)
