"""Large frames in shared memory: used again and again, and never while somebody still sees them."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from aioflow.testing._transport_ends import BOUND_S, Inbox, Stage
from aioflow.transport import Frame
from aioflow_shm import ShmTransport, _end
from aioflow_shm._arena import Arena
from aioflow_shm._leases import Leases
from aioflow_shm._limits import ANY_BYTES_MAX, SEGMENT_BYTES
from aioflow_shm._segments import Segments
from tests.unit.transports.conftest import is_in_memory

pytestmark = pytest.mark.anyio

SIZE = 1_000_000


class Taker(Inbox):
    """Keeps the last frame of each message as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []

    def received(self, frames: list[Frame]) -> None:
        """Keep a message."""
        self.frames.append(frames[-1])
        super().received([b"frame"])


class Pair:
    """A connection: the server sends frames, and the client keeps them."""

    def __init__(self, taker: Taker, far: Inbox, stage: Stage) -> None:
        self.taker = taker
        self.far = far
        self.stage = stage
        self._said = 0

    async def take(self, value: int, size: int = SIZE) -> Frame:
        """Send a frame and return it as it arrived."""
        number = len(self.taker.messages)
        self.far.send([bytes([value]) * size])
        await self.taker.wait_messages(number + 1)
        return self.taker.frames.pop()

    async def tell(self) -> None:
        """Send a message: what has been let go of is told with it."""
        self._said += 1
        self.taker.send([b"tell"])
        await self.far.wait_for(lambda: self.far.messages.count((b"tell",)) == self._said)


OpenPair = Callable[..., AbstractAsyncContextManager[Pair]]


@pytest.fixture
def open_pair(folder: Path) -> OpenPair:
    """Make connections whose memory is overwritten when it comes back."""

    @asynccontextmanager
    async def opened(**options: Any) -> AsyncGenerator[Pair]:
        with anyio.fail_after(BOUND_S):
            async with anyio.create_task_group() as tasks:
                stage = Stage(ShmTransport(poison=True, **options), tasks)
                await stage.listen(f"shm://{folder}/x")
                taker = Taker()
                taker.connection = await stage.transport.connect(stage.address, taker, tasks)
                taker.send([b"hello"])
                yield Pair(taker, await stage.accepted(), stage)
                await stage.listener.aclose()
                await taker.connection.aclose()

    return opened


def _address(frame: Frame) -> int:
    return np.frombuffer(frame, np.uint8).ctypes.data


def _mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:aioflow ")


def _mappings_of(frame: Frame) -> int:
    """How many mappings there are of the memory in which a frame lies."""
    inodes: list[str] = []
    found = ""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, _, _, inode = line.split()[:5]
        start, stop = (int(number, 16) for number in addresses.split("-"))
        inodes.append(inode)
        found = inode if start <= _address(frame) < stop else found
    return inodes.count(found)


async def test_what_is_written_in_a_place_is_not_copied(open_pair: OpenPair) -> None:
    """A frame lies where it was written, and its place is used again when both sides have let go of it."""
    async with open_pair() as pair:
        connection = pair.far.connection
        addresses: list[int] = []
        kept: list[Frame] = []
        for value in range(5):
            memory = connection.allocate(SIZE)
            assert memory is not None
            memory[:] = bytes([value]) * SIZE
            addresses.append(_address(memory))
            number = len(pair.taker.messages)
            connection.send([memory[SIZE // 2 :]])
            await pair.taker.wait_messages(number + 1)
            frame = pair.taker.frames.pop()
            assert is_in_memory(frame)
            assert bytes(frame) == bytes([value]) * (SIZE - SIZE // 2)
            if value == 1:  # the other side has let go of it, this one has not
                kept.append(memory)
            del memory
            if value == 2:  # and the other way round
                kept.append(frame)
            del frame
            await pair.tell()
        assert addresses[0] == addresses[1] != addresses[2] != addresses[3] == addresses[4]
        assert [bytes(frame[: SIZE // 2]) for frame in kept] == [bytes([value]) * (SIZE // 2) for value in (1, 2)]


async def test_what_is_written_before_there_is_a_place_goes_to_it(open_pair: OpenPair) -> None:
    """A client is lent memory while it writes already: what it sends of that, in parts, lies in one place."""
    async with open_pair() as pair:
        came: list[Frame] = []
        pair.far.on_message = lambda _, frames: came.extend(frames)
        addresses: set[int] = set()
        for is_first in (True, False):
            memory = pair.taker.connection.allocate(SIZE)
            assert memory is not None
            for part in (1, 3, 2):
                start, stop = part * SIZE // 5, (part + 1) * SIZE // 5
                memory[start:stop] = bytes([part]) * (stop - start)
                pair.taker.send([memory[start:stop]])
            del memory
            await pair.far.wait_for(lambda: len(came) == 3)
            assert all(map(is_in_memory, came))
            assert [bytes(frame) for frame in came] == [bytes([part]) * (SIZE // 5) for part in (1, 3, 2)]
            addresses.update(_address(frame) - part * SIZE // 5 for part, frame in zip((1, 3, 2), came, strict=True))
            assert len(addresses) == 1, "a first place, and then the same again" if is_first else "another place"
            came.clear()
            pair.far.send([b"what has come is gone"])
            await pair.taker.wait_for(lambda: (b"frame",) in pair.taker.messages)
            pair.taker.messages.clear()


async def test_what_was_written_before_there_is_a_place_and_not_sent(open_pair: OpenPair) -> None:
    """Its place is free again."""
    async with open_pair() as pair:
        for _ in range(10):
            assert pair.taker.connection.allocate(SIZE) is not None
        pair.taker.send([b"x", bytes(SIZE)])
        await pair.far.wait_messages(2)
        assert 0 < pair.stage.listener.memory_bytes <= SEGMENT_BYTES


async def test_memory_that_comes_without_a_descriptor(open_pair: OpenPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has as many as it may: large frames go through packets, in both directions."""
    read = _end._descriptors

    def none(ancillary: Any) -> list[int]:
        for descriptor in read(ancillary):
            os.close(descriptor)
        return []

    monkeypatch.setattr(_end, "_descriptors", none)
    async with open_pair() as pair:
        came: list[Any] = []
        pair.far.on_message = lambda _, frames: came.append(frames[-1])
        for value in range(3):
            pair.taker.send([bytes([value]) * SIZE])
            await pair.far.wait_for(lambda: bool(came))
            for frame in (came.pop(), await pair.take(value)):
                assert bytes(frame) == bytes([value]) * SIZE
                assert not is_in_memory(frame)


async def test_there_are_no_places_without_end(open_pair: OpenPair) -> None:
    """What is written in none is sent all the same; a place that is dropped unsent is free again."""
    async with open_pair(memory_bytes=8 * SIZE) as pair:
        connection = pair.far.connection
        assert connection.allocate(100) is None
        places = []
        while (memory := connection.allocate(SIZE)) is not None:
            places.append(memory)
        assert 3 <= len(places) <= 8
        assert bytes(await pair.take(1)) == bytes([1]) * SIZE
        del memory
        dropped = _address(places.pop())
        again = connection.allocate(SIZE)
        assert again is not None
        assert _address(again) == dropped


async def test_a_place_outlives_its_connection(open_pair: OpenPair) -> None:
    """It can be written, and what is in it goes through another connection."""
    async with open_pair() as pair:
        memory = pair.far.connection.allocate(SIZE)
        assert memory is not None
    assert pair.far.connection.allocate(SIZE) is None
    memory[:] = bytes([7]) * SIZE
    async with open_pair() as pair:
        number = len(pair.taker.messages)
        pair.far.connection.send([memory.toreadonly()])
        await pair.taker.wait_messages(number + 1)
        assert bytes(pair.taker.frames.pop()) == bytes([7]) * SIZE


async def test_memory_is_used_again(open_pair: OpenPair) -> None:
    """The first frame waits until memory is mapped; then each lies where the last one lay."""
    async with open_pair() as pair:
        assert is_in_memory(await pair.take(0))
        await pair.tell()
        addresses: set[int] = set()
        for value in range(1, 20):
            frame = await pair.take(value)
            assert is_in_memory(frame)
            assert isinstance(frame, memoryview)
            assert frame.readonly
            assert bytes(frame) == bytes([value]) * SIZE
            addresses.add(_address(frame))
            del frame
            await pair.tell()
        assert len(addresses) == 1
        assert _mappings() == 2


async def test_nothing_changes_under_a_view(open_pair: OpenPair) -> None:
    """However a receiver keeps a frame, and whatever is sent meanwhile; a million bytes each are looked at."""
    async with open_pair() as pair:
        kept: list[tuple[int, Any]] = []
        for value in range(60):
            frame = await pair.take(value, SIZE + 64 * value)
            array = np.frombuffer(frame, np.uint8)
            match value % 4:
                case 0:
                    kept.append((value, frame))
                case 1:
                    kept.append((value, array.view(np.int64).reshape(-1, 8, 1)[5:, ::2]))
                case 2:
                    kept.append((value, memoryview(array[100:].data)[10:]))
                case _:
                    pass
            del frame, array
            await pair.tell()
        assert sum(is_in_memory(each) for _, each in kept if isinstance(each, memoryview)) > 0
        for value, each in kept:
            assert set(np.unique(np.ascontiguousarray(each).view(np.uint8)).tolist()) == {value}


async def test_a_view_outlives_its_connection(open_pair: OpenPair) -> None:
    """The memory goes with the last view of it."""
    async with open_pair() as pair:
        await pair.take(1)
        await pair.tell()
        frame = await pair.take(2)
    assert is_in_memory(frame)
    assert bytes(frame) == bytes([2]) * SIZE
    assert _mappings() == 1
    del frame
    gc.collect()
    assert _mappings() == 0


async def test_a_view_may_end_in_another_thread(open_pair: OpenPair) -> None:
    """Its end is noted there and told later."""
    async with open_pair() as pair:
        await pair.take(1)
        await pair.tell()
        for value in range(5):
            held = [await pair.take(value)]
            assert is_in_memory(held[0])
            thread = threading.Thread(target=held.clear)
            thread.start()
            thread.join()
            await pair.tell()
        assert _mappings() == 2


async def test_who_keeps_everything_gets_the_rest_in_packets(open_pair: OpenPair) -> None:
    """The memory of a connection is bounded, and nobody waits for it."""
    async with open_pair(memory_bytes=8 * SIZE) as pair:
        kept = [await pair.take(value) for value in range(30)]
        assert 0 < sum(map(is_in_memory, kept)) < 8
        assert [bytes(frame) for frame in kept] == [bytes([value]) * SIZE for value in range(30)]
        kept.clear()
        await pair.tell()
        assert is_in_memory(await pair.take(1))


async def test_memory_of_another_size_takes_the_place_of_what_is_not_used(open_pair: OpenPair) -> None:
    """Segments come and go within the bound."""
    async with open_pair(memory_bytes=12 * SIZE) as pair:
        for size in (SIZE, 2 * SIZE, 3 * SIZE, 5 * SIZE // 2, SIZE):
            await pair.take(1, size)
            await pair.tell()
            assert is_in_memory(await pair.take(2, size))
            await pair.tell()
        assert _mappings() <= 2 * 4


async def test_frames_beyond_the_bound_have_memory_for_a_few(open_pair: OpenPair) -> None:
    """However large they are, some are on their way at once; the others travel in packets."""
    async with open_pair(memory_bytes=8 * SIZE) as pair:
        kept = [await pair.take(value, 10 * SIZE) for value in range(6)]
        assert list(map(is_in_memory, kept)) == [True] * 4 + [False] * 2
        assert [bytes(frame) for frame in kept] == [bytes([value]) * 10 * SIZE for value in range(6)]
        assert not is_in_memory(await pair.take(7)), "there is less than a bound that is used up"
        kept.clear()
        await pair.tell()
        assert is_in_memory(await pair.take(8, 10 * SIZE))


async def test_each_frame_of_a_message_has_a_place(open_pair: OpenPair) -> None:
    """Also where all have one size, and there is a place for some of them."""
    async with open_pair() as pair:
        await pair.take(1, 5 * SIZE)
        await pair.tell()
        pair.far.send([bytes([value]) * 5 * SIZE for value in range(3)])
        await pair.taker.wait_messages(2)
        assert is_in_memory(pair.taker.frames.pop())


async def test_what_is_large_leaves_memory_for_others(open_pair: OpenPair) -> None:
    """A large frame that is kept does not put all that follows into packets."""
    async with open_pair(memory_bytes=8 * SIZE) as pair:
        kept = await pair.take(1, 10 * SIZE)
        assert is_in_memory(kept)
        assert is_in_memory(await pair.take(2))


async def test_a_lack_of_memory_for_large_frames_is_none_for_others(
    open_pair: OpenPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is as large is not tried again."""
    tried: list[int] = []
    reserve = os.posix_fallocate

    def fail(fd: int, start: int, size: int) -> None:
        tried.append(size)
        if size > SEGMENT_BYTES:
            raise OSError(28, "No space left")
        reserve(fd, start, size)

    monkeypatch.setattr(os, "posix_fallocate", fail)
    async with open_pair() as pair:
        for _ in range(2):
            assert not is_in_memory(await pair.take(1, 10 * SIZE))
            assert is_in_memory(await pair.take(2))
        assert len(tried) == 2


def test_memory_that_was_made_and_never_used_is_given_back() -> None:
    """A place whose frame went another way keeps nothing."""
    segments = Segments("peer", 1 << 30, Arena(), poison=False)
    assert segments.are_awaited([bytes(SIZE)], [SIZE])
    segments.pool.trim(0)
    assert segments.pool.dropped == [], "the other side has not mapped it yet"
    segments.answered(0, is_mapped=True)
    segments.pool.trim(0)
    assert segments.pool.dropped == [0]
    segments.close()


async def test_no_memory_at_all(open_pair: OpenPair) -> None:
    """Who wants none has none for large frames either."""
    async with open_pair(memory_bytes=0) as pair:
        assert pair.far.connection.allocate(10 * SIZE) is None
        assert not is_in_memory(await pair.take(1, 10 * SIZE))


def test_other_threads_run_while_a_frame_is_copied() -> None:
    """Beats are those of another thread: at a gigabyte, a copy that stopped them all had its process taken for dead."""
    segments = Segments("peer", 1 << 30, Arena(), poison=False)
    frame = bytes(1 << 28)
    assert segments.are_awaited([frame], [len(frame)])
    segments.answered(0, is_mapped=True)
    is_copying = is_over = False
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while not is_over:
            ticks += is_copying

    other = threading.Thread(target=tick)
    other.start()
    try:
        rates: list[float] = []
        for is_sleep in (True, False):
            ticks, began, is_copying = 0, time.perf_counter(), True
            if is_sleep:
                time.sleep(0.1)  # to compare with, not to wait for something
            else:
                segments.put(frame, len(frame))
            is_copying = False
            rates.append(ticks / (time.perf_counter() - began))
    finally:
        is_over = True
        other.join()
        segments.close()
    assert rates[1] > rates[0] / 4


@pytest.mark.parametrize("what", ["memfd_create", "posix_fallocate"])
async def test_without_memory_frames_come_in_packets(
    open_pair: OpenPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """In both directions; a line for each says why."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr(os, what, fail)
    with caplog.at_level("INFO", "aioflow.shm"):
        async with open_pair() as pair:
            for value in range(3):
                assert not is_in_memory(await pair.take(value))
            assert caplog.text.count("No space left") == 1
            came: list[Frame] = []
            pair.far.on_message = lambda _, frames: came.extend(frames)
            for value in range(3):
                pair.taker.send([bytes([value]) * SIZE])
                await pair.far.wait_for(lambda: bool(came))
                assert bytes(came[0]) == bytes([value]) * SIZE
                assert not is_in_memory(came.pop())
    assert caplog.text.count("No space left") == 2


async def test_a_side_that_cannot_map_gets_packets(
    open_pair: OpenPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses the first segment, and is told of no other."""
    monkeypatch.setattr(Leases, "map", lambda *_: False)
    with caplog.at_level("INFO", "aioflow.shm"):
        async with open_pair() as pair:
            for value in range(4):
                assert not is_in_memory(await pair.take(value))
                await pair.tell()
    assert caplog.text.count("cannot share") == 1


async def test_a_forked_child_keeps_what_it_sees(open_pair: OpenPair) -> None:
    """A view of the parent's that the child inherits does not change, although the parent has let go of it."""
    async with open_pair() as pair:
        await pair.take(1)
        await pair.tell()
        frame = await pair.take(2)
        assert is_in_memory(frame)
        (child_reads, parent_writes), (parent_reads, child_writes) = os.pipe(), os.pipe()
        if (child := os.fork()) == 0:
            os.read(child_reads, 1)
            os.write(child_writes, b"same" if bytes(frame) == bytes([2]) * SIZE else b"changed")
            os._exit(0)
        del frame
        await pair.tell()
        for value in range(3, 8):
            await pair.take(value)
            await pair.tell()
        assert is_in_memory(await pair.take(8))
        os.write(parent_writes, b"!")
        assert os.read(parent_reads, 10) == b"same"
        os.waitpid(child, 0)
        for fd in (child_reads, parent_writes, parent_reads, child_writes):
            os.close(fd)


def test_leases_that_nobody_has_change_nothing() -> None:
    """Whatever the other side gives back, twice or never had."""
    segments = Segments("somebody", 1 << 30, Arena(), poison=True)
    frame = bytes(SIZE // 4)
    assert segments.are_awaited([frame], [len(frame)])
    ((number, _),) = segments.pool.made
    segments.answered(number + 1, is_mapped=True)
    assert segments.put(frame, len(frame)) is None
    segments.answered(number, is_mapped=True)
    reference = segments.put(frame, len(frame))
    assert reference is not None
    for lease in (0, reference[3] + 1):
        segments.end_lease(lease, is_kept=False)
    second = segments.put(frame, len(frame))
    assert second is not None
    assert second[1] != reference[1]
    for _ in range(2):
        segments.end_lease(second[3], is_kept=False)
    third, fourth = segments.put(frame, len(frame)), segments.put(frame, len(frame))
    assert third is not None
    assert fourth is not None
    assert len({reference[1], third[1], fourth[1]}) == 3
    segments.close()


@pytest.mark.parametrize(
    ("sizes", "segments_max", "share_max"),
    [
        (range(SIZE, 3 * SIZE, SIZE // 20), 40, 1.3),
        ([SIZE] * 40, 30, 1.1),
        ([SIZE // 10] * 400, 30, 1.1),
        ([SIZE // 14 + number * 300_007 % SIZE for number in range(400)], 400, 1.1),
        ([700_000] * 400, 60, 1.1),
        ([900_000 + number * 7919 % 100_000 for number in range(400)], 60, 1.1),
    ],
)
def test_memory_for_frames_of_many_sizes_is_little_more_than_they_are(
    sizes: Sequence[int], segments_max: int, share_max: float
) -> None:
    """There are as many places as frames of a size, and no more segments than it takes where there are many."""
    segments = Segments("somebody", 1 << 30, Arena(), poison=True)
    for size in sizes:
        frame = bytes(size)
        segments.are_awaited([frame], [size])
        for number, _ in segments.pool.made:
            segments.answered(number, is_mapped=True)
        assert segments.put(frame, size) is not None
    nbytes = sum(memory.size for _, memory in segments.pool.made)
    assert nbytes <= share_max * sum(sizes)
    assert len(segments.pool.made) <= segments_max
    segments.close()


def test_frames_of_one_message_lie_in_several_segments() -> None:
    """However many there are, no segment is much larger than others, and all are within the bound."""
    bytes_max = 80 * SEGMENT_BYTES
    segments = Segments("somebody", bytes_max, Arena(), poison=True)
    sizes = [SIZE - 100_000] * 150
    frames = [bytes(size) for size in sizes]
    for number in range(3):
        assert segments.are_awaited(frames, sizes)
        made = [*segments.pool.made]
        for segment, _ in made:
            segments.answered(segment, is_mapped=True)
        assert SEGMENT_BYTES <= max(memory.size for _, memory in made) <= ANY_BYTES_MAX
        assert sum(memory.size for _, memory in made) <= bytes_max
        references = list(map(segments.put, frames, sizes))
        assert (None in references) == (number == 2)
    segments.close()


def test_what_was_refused_stays_refused() -> None:
    """Also when more is refused later: a message of several frames asks for each."""
    segments = Segments("somebody", 1 << 30, None, poison=True)
    for size, count in ((600_000, 1), (500_000, 4)):
        assert segments.are_awaited([bytes(size)] * count, [size] * count)
        while segments.pool.wanted:
            segments.answered(segments.pool.wanted.pop()[0], is_mapped=False)
        assert segments.pool.is_refused(600_000)
    assert segments.pool.is_refused(500_000)
    assert not segments.are_awaited([bytes(500_000)] * 4, [500_000] * 4)
    segments.close()


def test_a_segment_that_is_not_in_use_gets_places_of_another_size() -> None:
    """Before another one is made: for what is allocated, for pieces, and for what is copied, of any size."""
    segments = Segments("somebody", 1 << 30, Arena(), poison=True)
    frame = bytes(SIZE)
    for size in (SEGMENT_BYTES, SEGMENT_BYTES * 15 // 16, SEGMENT_BYTES // 8, SEGMENT_BYTES):
        segments.allocate(size)
        for number, _ in segments.pool.made:
            segments.answered(number, is_mapped=True)
        segments.allocate_pieces(SEGMENT_BYTES // 16, 8)
        assert not segments.are_awaited([frame] * 3, [SIZE] * 3)
        references = [segments.put(frame, SIZE) for _ in range(3)]
        assert len({reference[:2] for reference in references if reference is not None}) == 3
        for reference in references:
            assert reference is not None
            segments.end_lease(reference[3], is_kept=False)
    assert len(segments.pool.made) == 1
    segments.close()


@pytest.mark.parametrize("pieces", [0, 3])
def test_memory_goes_with_its_last_array(pieces: int) -> None:
    """At once, also where its connection has ended before: it waits for no collection of cycles."""
    arena = Arena()
    segments = Segments("somebody", 1 << 30, arena, poison=True)
    gc.disable()
    try:
        written = segments.allocate_pieces(SIZE, pieces) if pieces else segments.allocate(SIZE)
        assert written is not None
        segments.close()
        assert arena.nbytes >= SIZE
        del written
        assert arena.nbytes == 0
    finally:
        gc.enable()


async def test_what_is_passed_on_is_not_copied(open_pair: OpenPair) -> None:
    """A frame that came from the client and goes back to it is the memory that the client has put it in."""
    async with open_pair() as pair:
        came: list[Frame] = []
        pair.far.on_message = lambda _, frames: came.extend(frames[1:])

        async def there() -> memoryview:
            """Have the client send a frame, and return a part of it as it came to the server."""
            pair.taker.send([b"there", bytes([7]) * SIZE])
            await pair.far.wait_for(lambda: bool(came))
            array = np.frombuffer(came.pop(), np.uint8).view(np.int64)[1:-1].reshape(2, -1)
            return np.ascontiguousarray(array).view(np.uint8).data

        async def back(part: Frame) -> Frame:
            number = len(pair.taker.messages)
            pair.far.send([part])
            await pair.taker.wait_messages(number + 1)
            return pair.taker.frames.pop()

        returned: Frame = b""
        for _ in range(3):  # in packets; in memory that the client does not have mapped; in the same, mapped
            returned = await back(await there())
            assert bytes(returned) == bytes([7]) * (SIZE - 16)
        assert is_in_memory(returned)
        assert _mappings_of(returned) == 3  # the client's own, the server's, and that of what came back
        for _ in range(5):  # the client has let go of nothing, and its memory is not used again
            await back(await there())
        assert bytes(returned) == bytes([7]) * (SIZE - 16)


async def test_shared_memory_is_counted_once(open_pair: OpenPair) -> None:
    """What each side has made, however often it goes back and forth; after a client's end what is still seen of it."""
    async with open_pair() as pair:
        listener = pair.stage.listener
        assert listener.memory_bytes == 0
        kept = [await pair.take(1) for _ in range(2)]  # the first in packets, while memory was made
        made = listener.memory_bytes
        assert SIZE <= made <= 2 * SEGMENT_BYTES
        for _ in range(3):  # what comes back to who has made it is mapped there once more
            number = len(pair.far.messages)
            pair.taker.send([kept[-1]])
            await pair.far.wait_messages(number + 1)
        assert _mappings_of(kept[-1]) == 3
        assert listener.memory_bytes == made
        held: list[Frame] = []
        pair.far.on_message = lambda _, frames: held.extend(frames)
        for number in (5, 6):
            pair.taker.send([bytes(SIZE)])
            await pair.far.wait_messages(number)
        assert listener.memory_bytes > made
        await pair.taker.connection.aclose()
        await pair.far.wait_lost()
        await anyio.wait_all_tasks_blocked()
        assert SIZE <= listener.memory_bytes <= SEGMENT_BYTES
        held.clear()
        assert listener.memory_bytes == 0


async def test_memory_that_was_passed_on_to_a_lost_connection_is_not_used_again(
    open_pair: OpenPair, folder: Path
) -> None:
    """Whoever had that connection may still see it: what its first sender puts there next would be seen too."""
    async with open_pair() as pair, anyio.create_task_group() as tasks:
        came: list[Frame] = []
        pair.far.on_message = lambda _, frames: came.extend(frames[1:])
        other = Taker()
        connected: list[Inbox] = []
        stage = Stage(ShmTransport(poison=True), tasks)
        await stage.listen(f"shm://{folder}/y")
        other.connection = await stage.transport.connect(stage.address, other, tasks)
        other.send([b"hello"])
        connected.append(await stage.accepted())
        for number in range(4):
            pair.taker.send([b"there", bytes([number]) * SIZE])
            await pair.far.wait_for(lambda: bool(came))
            connected[0].send([came.pop()])
            await other.wait_messages(number + 1)
        seen = other.frames[-1]
        assert is_in_memory(seen)
        connected[0].connection.abort()
        await other.wait_lost()
        pair.far.send([b"the lease has ended"])
        await pair.taker.wait_for(lambda: len(pair.taker.messages) >= 1)
        for number in range(5, 9):
            pair.taker.send([b"there", bytes([number]) * SIZE])
            await pair.far.wait_for(lambda: bool(came))
            came.clear()
            await pair.tell()
        assert bytes(seen) == bytes([3]) * SIZE
        await stage.listener.aclose()
        await other.connection.aclose()
