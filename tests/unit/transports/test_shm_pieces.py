"""Frames in pieces: each piece comes back by itself, and none is used again while somebody may still see it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from aioflow.errors import ConnectionLost
from aioflow.testing import _transport_ends
from aioflow.testing._transport_ends import BOUND_S, Stage
from aioflow.transport import AnyFrame, Pieces, WritablePieces
from aioflow_shm import ShmTransport
from aioflow_shm._limits import FRAME_BYTES_MAX, PIECE_FROM, SEGMENT_BYTES
from aioflow_shm._parcels import GREETING, IN_PIECES, PARCEL, WANT, numbers
from tests.unit.transports.conftest import OpenStage
from tests.unit.transports.test_shm import _packet, _raw, _read_to_the_end
from tests.unit.transports.test_shm_memory import Taker

pytestmark = pytest.mark.anyio

SIZE, MAX = 50_000, (1 << 32) - 1
LENT = 2 * FRAME_BYTES_MAX  # of which nothing is touched
OpenWays = Callable[..., AbstractAsyncContextManager["tuple[Way, Way]"]]


class PiecesTaker(Taker):
    """Keeps the last frame of each message as it came, also in pieces."""

    takes_pieces = True


@dataclass
class Way:
    """One direction of a connection: pieces are written at one end, and kept at the other."""

    sender: Any
    taker: Any

    def allocate(self, count: int, size: int = SIZE) -> Any:
        return self.sender.connection.allocate_pieces(size, count)

    def write(self, *values: int, size: int = SIZE) -> WritablePieces:
        pieces: WritablePieces = self.allocate(len(values), size)
        for number, value in enumerate(values):
            pieces.piece(number)[...] = value
        return pieces

    async def send(self, frame: AnyFrame) -> Any:
        number = len(self.taker.messages)
        self.sender.connection.send([b"head", frame])
        del frame
        await self.taker.wait_messages(number + 1)
        return self.taker.frames.pop()

    async def tell(self) -> None:
        await Way(self.taker, self.sender).send(b"tell")

    async def warm(self) -> int:
        places = len(self.drain())
        await self.send(self.write(0, 0))
        await self.tell()
        return places

    def drain(self) -> list[WritablePieces]:
        """Take all places that are free, none of them twice, and overwrite them."""
        taken: list[WritablePieces] = []
        while self.allocate(1) is not None:
            taken.append(self.write(255))
        assert len(addresses(*taken)) == len(taken)
        return taken


@pytest.fixture(params=[False, True], ids=["client", "server"])
def open_ways(folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> OpenWays:
    """Open two ways from clients, which are lent memory, to a server, or back; what comes back is overwritten."""

    @asynccontextmanager
    async def opened(kind: type[Taker] = PiecesTaker, memory_bytes: int = SEGMENT_BYTES) -> AsyncGenerator[Any]:
        monkeypatch.setattr(_transport_ends, "Inbox", lambda _=None: kind())
        with anyio.fail_after(BOUND_S):
            async with anyio.create_task_group() as tasks:
                stage = Stage(ShmTransport(poison=True, memory_bytes=memory_bytes), tasks)
                await stage.listen(f"shm://{folder}/x")
                yield [Way(*(await stage.join())[:: -1 if request.param else 1]) for _ in range(2)]
                await stage.aclose()

    return opened


def addresses(*frames: Pieces) -> set[int]:
    return {frame.piece(number).ctypes.data for frame in frames for number in range(frame.count)}


def seen(frame: Pieces, *which: int) -> list[int]:
    return [int(value) for number in which or range(frame.count) for value in np.unique(frame.piece(number))]


async def test_pieces_arrive_as_they_were_written(open_ways: OpenWays) -> None:
    """In order, also the first ones, which were written before memory was there; nobody can write in them there."""
    async with open_ways() as (way, _):
        for value in (1, 2):
            pieces = way.write(value, 30, 20, 10)
            pieces.piece(1, np.dtype(np.int64))[...] = range(value, SIZE // 8 + value)
            came = await way.send(pieces)
            assert (came.count, came.size, came.nbytes) == (4, SIZE, 4 * SIZE)
            assert seen(came, 0, 2, 3) == [value, 20, 10]
            assert came.piece(1, np.dtype(np.int64)).tolist() == [*range(value, SIZE // 8 + value)]
            assert bytes(came) == bytes(pieces)
            with pytest.raises(ValueError, match="WRITEABLE"):
                came.piece(0).flags.writeable = True


async def test_nothing_is_copied_once_there_is_memory(open_ways: OpenWays, request: pytest.FixtureRequest) -> None:
    """Both sides see one memory; what a client has written before it was lent some is copied there, once."""
    async with open_ways() as (way, _):
        for is_there in ("server" in request.node.name, True):
            pieces = way.write(1, 2)
            came = await way.send(pieces)
            pieces.piece(1)[...] = 7  # nobody may do so: here it shows who sees what
            assert seen(came) == [1, 7 if is_there else 2]


async def test_what_was_released_is_used_again(open_ways: OpenWays) -> None:
    """And nothing else: whatever is written meanwhile, what the other side has not let go of stays as it is."""
    async with open_ways() as (way, _):
        places = await way.warm()
        written = [way.write(*range(places))]
        where = [written[0].piece(number).ctypes.data for number in range(places)]
        came = await way.send(written[0])
        released: list[int] = []
        for some in ([5, 3, 40], [4], [], [0, places - 1]):
            came.release(some)
            released += some
            await way.tell()
            assert not written or way.allocate(1) is None, "the sender refers to them"
            written.clear()
            assert addresses(*way.drain()) == {where[number] for number in released}
            kept = [number for number in range(places) if number not in released]
            assert seen(came, *kept) == kept
        came = None
        await way.tell()
        assert len(way.drain()) == places


@pytest.mark.parametrize("again", [False, True])
async def test_what_is_let_go_of_twice_is_free_once(open_ways: OpenWays, again: bool) -> None:
    """Of who has let go of a piece nothing comes back a second time, whoever has its place by then."""
    async with open_ways() as (way, _):
        places = await way.warm()
        came = await way.send(way.write(*range(places)))
        came.release([7, 8, 7])
        await way.tell()
        held = way.drain()
        assert len(addresses(*held)) == len(held) == 2
        arrived = await way.send(held.pop())
        came.release([7, 8] if again else [])
        await way.tell()
        came = None
        await way.tell()
        others = way.drain()
        assert len(addresses(*others) - addresses(*held)) == len(others) == places - 2
        assert seen(arrived) == seen(held[0]) == [255]


async def test_parts_of_one_allocation_travel_apart(open_ways: OpenWays) -> None:
    """Each is a frame of its own, and keeps all places until it was sent; a piece in two of them comes back of both."""
    async with open_ways() as (way, _):
        places = len(way.drain())
        for _ in range(2):  # before there is memory, and with it
            pieces = [way.write(1, 2, 3, 4, 5)]
            parts = [pieces[0].part(0, 3), pieces.pop().part(2, 3)]
            first = await way.send(parts.pop())
            await way.tell()
            assert len(way.drain()) == places - 5, "what is still to be sent keeps all"
            second = await way.send(parts.pop())
            assert (seen(first), seen(second)) == ([3, 4, 5], [1, 2, 3])
            first.release([0, 1])
            second.release([1])
            await way.tell()
            assert len(way.drain()) == places - 3
            second.release([2])
            first = None
            await way.tell()
            assert len(way.drain()) == places - 1
            assert seen(second, 0) == [1]
            second = None
            await way.tell()


async def test_what_is_dropped_is_free_again(open_ways: OpenWays) -> None:
    """What was not sent, and what was received, in whatever thread; where too few places are free, none is taken."""
    async with open_ways() as (way, _):
        places = len(way.drain())
        for _ in range(2):
            held: list[Pieces] = [way.write(1, 2)]
            assert way.allocate(places - 1) is None
            assert len(way.drain()) == places - 2
            assert len(addresses(*held, way.write(*range(places - 2)))) == places
            await way.warm()
            held.append(await way.send(way.write(3, 4)))
            (thread := threading.Thread(target=held.clear)).start()
            thread.join()
            await way.tell()
            assert len(way.drain()) == places


async def test_pieces_lie_in_several_segments(open_ways: OpenWays) -> None:
    """Of which some are there when they are written and some are not."""
    async with open_ways(memory_bytes=3 * SEGMENT_BYTES) as (way, _):
        await way.send(way.write(0, 0))
        for _ in range(2):
            await way.tell()
            came = await way.send(way.write(*range(170)))
            assert seen(came) == [*range(170)]
            came.release(range(1, 170))
            await way.tell()
            places = len(way.drain())
            assert seen(came, 0) == [0]
            del came
            await way.tell()
            assert len(way.drain()) == places + 1


async def test_few_bytes_do_not_wait_for_memory(open_ways: OpenWays) -> None:
    """They come whole where it is not there, and always where they are very few."""
    async with open_ways() as (way, _):
        for is_there in (False, True):
            for count in (3, 1):
                came = await way.send(way.write(*range(count), size=5000))
                assert isinstance(came, Pieces) == (is_there and count == 3)
                assert bytes(came) == b"".join(bytes([number]) * 5000 for number in range(count))
            await way.tell()


async def test_where_there_are_no_pieces(open_ways: OpenWays) -> None:
    """For what is too small, once the connection is gone, on either side, and without memory."""
    async with open_ways() as (way, _):
        for each in (way, Way(way.taker, way.sender)):
            assert each.allocate(100, PIECE_FROM - 1) is None
            assert each.allocate(100, PIECE_FROM) is not None
        await way.sender.connection.aclose()
        await way.taker.wait_lost()
        assert way.allocate(1) is Way(way.taker, way.sender).allocate(1) is None
    async with open_ways(memory_bytes=0) as (way, _):
        assert way.allocate(2) is None


async def test_pieces_outlive_their_connection(open_ways: OpenWays) -> None:
    """They are written as before, and go through another one whole, as what was received in pieces does."""
    async with open_ways() as (way, other):
        await other.warm()
        written = [way.write(0, 0)]
        await way.warm()
        received = await way.send(way.write(7, 8))
        written.append(way.write(0, 0))
        for value in (1, 2):
            for pieces in written:
                pieces.piece(1)[...] = value
                for frame in (pieces, pieces.part(1, 1)):
                    came = await other.send(frame)
                    assert not isinstance(came, Pieces)
                    assert bytes(came) == bytes(frame) == bytes(SIZE)[: frame.nbytes - SIZE] + bytes([value]) * SIZE
            came = await Way(other.taker, other.sender).send(received)
            assert bytes(came) == bytes([7]) * SIZE + bytes([8]) * SIZE
            await way.sender.connection.aclose()
            await way.taker.wait_lost()


@pytest.mark.parametrize("kind", [Taker, type("Whole", (Taker,), {"takes_pieces": False})])
async def test_who_does_not_take_pieces_gets_a_whole_frame(open_ways: OpenWays, kind: type[Taker]) -> None:
    """It is a copy: the places come back at once."""
    async with open_ways(kind) as (way, _):
        places = len(way.drain())
        for _ in range(2):
            came = await way.send(way.write(1, 2, 3))
            await way.tell()
            assert len(way.drain()) == places
            assert not isinstance(came, Pieces)
            assert bytes(came) == b"".join(bytes([value]) * SIZE for value in (1, 2, 3))


async def test_what_comes_back_travels_with_pieces(open_ways: OpenWays) -> None:
    """In one message pieces, and what was let go of; so both sides go on without end in little memory."""
    async with open_ways() as (there, _):
        for value in range(20):
            for way in (there, Way(there.taker, there.sender)):
                came = await way.send(way.write(*range(value, value + 26)))
                assert seen(came) == [*range(value, value + 26)]
                came.release(range(value))
                del came


async def test_a_forked_child_keeps_what_it_sees(open_ways: OpenWays) -> None:
    """Nothing of it changes there, also of what was let go of afterwards, or before and not told yet."""
    async with open_ways() as (way, _):
        places = await way.warm()
        came = await way.send(way.write(*range(6)))
        arrays = [came.piece(number) for number in range(1, 6)]
        came.release([0])
        await way.tell()
        came.release([3])
        event = os.eventfd(0)
        if (child := os.fork()) == 0:
            signal.alarm(int(BOUND_S))  # where the parent fails
            os.eventfd_read(event)
            os._exit([np.unique(array).tolist() for array in arrays] != [[1], [2], [3], [4], [5]])
        await way.tell()
        came.release([1, 2])
        await way.tell()
        free = len(way.drain())
        came = None
        for _ in range(3):
            await way.tell()
            way.drain()
        os.eventfd_write(event, 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(event)
        assert (free, status) == (places - 5, 0)


async def test_what_a_lost_connection_has_brought_stays(open_ways: OpenWays) -> None:
    """Who has sent it is gone, and others write; what is let go of then changes nothing."""
    async with open_ways() as (way, other):
        await way.warm()
        await other.send(other.write(0))  # so that somebody is left, for whom memory is kept
        came = await way.send(way.write(*range(6)))
        came.release([0, 5])
        way.sender.connection.abort()
        await way.taker.wait_lost()
        for _ in range(3):
            await other.warm()
            assert other.drain()
            assert seen(came, 1, 2, 3, 4) == [1, 2, 3, 4]
        came.release([1])
        assert seen(came, 2, 3, 4) == [2, 3, 4]


def _pieces(*references: int, released: Sequence[int] = ()) -> bytes:
    table = (1, IN_PIECES)[: 2 * bool(references)]
    return numbers(PARCEL, len(table), len(references), len(released), 0, 0, *table, *references, *released)


BROKEN = {
    "no segment": _pieces(1, 8192, 1, 7, 0),
    "no segment for the second": _pieces(2, 8192, 1, 0, 0, 7, 0),
    "beyond its end": _pieces(1, 8192, 1, 0, LENT - 8191),
    "larger than it": _pieces(1, LENT + 1, 1, 0, 0),
    "of size 0": _pieces(1, 0, 1, 0, 0),
    "none": _pieces(0, 8192, 1),
    "a lease in use": _pieces(1, 8192, 5, 0, 0),
    "larger than any frame": _pieces(2, LENT // 4 + 1, 1, 0, 0, 0, LENT // 2),
    "released without a count": _pieces(released=[5]),
}


@pytest.mark.parametrize("packet", BROKEN.values(), ids=BROKEN)
async def test_pieces_that_are_not_there_cut_their_sender_off(
    packet: bytes, open_stage: OpenStage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is told, what it has sent before stays, and the others stay."""
    monkeypatch.setattr(_transport_ends, "Inbox", lambda _=None: PiecesTaker())
    async with open_stage(f"shm://{folder}/x") as stage:
        with _raw(stage.address) as raw:
            for each in (GREETING, _packet([b"hello"]), numbers(WANT, 0, LENT), _pieces(2, 8192, 5, 0, 8192, 0, 0)):
                raw.send(each)
            taker: Any = await stage.accepted()
            await taker.wait_messages(2)
            raw.send(packet)
            await taker.wait_lost()
            await _read_to_the_end(raw)
        assert [type(error) for error in taker.losses] == [ConnectionLost]
        assert [bytes(frame) for frame in taker.frames] == [b"hello", bytes(2 * 8192)]
        way = Way(*await stage.join())
        assert seen(await way.send(way.write(1, 2))) == [1, 2]


async def test_pieces_that_nobody_has_are_given_back_in_vain(open_ways: OpenWays) -> None:
    """Of leases that are unknown, beyond their end, and again and again."""
    async with open_ways() as (way, _):
        places = await way.warm()
        came = await way.send(way.write(1, 2, 3))
        lease = came.lease.number
        for each in ([lease + 1, 1, 0], [MAX, 0], [lease, 2, 3, MAX], [lease, 3, 1, 1, 1], [lease, 1, 1, lease, 1, 1]):
            way.taker.connection._socket.send(_pieces(released=each))
        await way.tell()
        assert len(way.drain()) == places - 2
        assert seen(came, 0, 2) == [1, 3]
        del came
        await way.tell()
        assert len(way.drain()) == places
