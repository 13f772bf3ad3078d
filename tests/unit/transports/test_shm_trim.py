"""Shared memory that is not in use is given back where a server shares too much of it; what is in use never is."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from aioflow.testing._transport_ends import BOUND_S, Inbox, Stage, echo
from aioflow.transport import Frame, Listener
from aioflow_shm import ShmTransport, _budget, _leases, _pool
from aioflow_shm._arena import Arena
from aioflow_shm._leases import Leases
from aioflow_shm._limits import SEGMENT_BYTES
from aioflow_shm._parcels import RECALL, numbers
from aioflow_shm._segments import Segments
from aioflow_shm._sharing import Sharing
from aioflow_shm._views import View, find_owner
from tests.unit.transports.conftest import is_in_memory

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("_little")]

SIZE = 1_000_000
MANY = 12
SHARED_BYTES = 16 * SIZE


@pytest.fixture
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_budget, "SHARED_BYTES", SHARED_BYTES)
    monkeypatch.setattr(_budget, "TRIM_S", 0.01)
    monkeypatch.setattr(_leases, "CLIENT_BYTES", 0)
    monkeypatch.setattr(_pool, "FIRST_BYTES", SEGMENT_BYTES)  # all segments of one size


class Producer:
    """A client that sends large frames, and what the server keeps of them."""

    def __init__(self, near: Inbox, far: Inbox) -> None:
        self.near = near
        self.far = far
        self.kept: list[Frame] = []
        near.on_message = echo
        far.on_message = lambda _, frames: self.kept.extend(frames[1:])

    async def fill(self, value: int, count: int = MANY) -> None:
        """Send frames one after the other."""
        for _ in range(count):
            number = len(self.far.messages)
            self.near.send([b"rows", bytes([value]) * SIZE])
            await self.far.wait_messages(number + 1)

    async def stand_still(self) -> Any:
        """Use memory no more and read nothing, as a process that is stopped; return the connection."""
        await self.fill(1)
        self.kept.clear()
        connection: Any = self.near.connection
        connection._watch.ignore()
        return connection

    async def settle(self) -> None:
        """Wait until the client has taken all that the server has told it, and the server its answer."""
        number = len(self.far.messages)
        self.far.send([b"ping"])
        await self.far.wait_messages(number + 1)

    async def wait_until_little(self, listener: Listener) -> None:
        """Wait until the server shares no more than it likes to."""
        while listener.memory_bytes > SHARED_BYTES:
            await self.settle()


@asynccontextmanager
async def producers(folder: Path, count: int) -> AsyncGenerator[tuple[Stage, list[Producer]]]:
    """Connect clients to one server."""
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(ShmTransport(poison=True), tasks)
            await stage.listen(f"shm://{folder}/x")
            yield stage, [Producer(*await stage.join()) for _ in range(count)]
            await stage.aclose()


@pytest.fixture
def unmapped(monkeypatch: pytest.MonkeyPatch) -> list[Leases]:
    """Note who lets go of a segment of the other side's."""
    noted: list[Leases] = []
    unmap = Leases.unmap

    def note(leases: Leases, number: int) -> None:
        unmap(leases, number)
        noted.append(leases)

    monkeypatch.setattr(Leases, "unmap", note)
    return noted


async def test_producers_that_take_turns_share_what_one_needs(folder: Path) -> None:
    """What one of them has used is given back, although it says nothing meanwhile, and made again when it is needed."""
    async with producers(folder, 4) as (stage, all_of_them):
        for turn in range(8):
            producer = all_of_them[turn % 4]
            await producer.fill(turn)
            assert sum(map(is_in_memory, producer.kept)) >= MANY - 1  # the first came while memory was made
            assert all(bytes(frame) == bytes([turn]) * SIZE for frame in producer.kept)
            await all_of_them[turn % 4 - 1].wait_until_little(stage.listener)
            assert stage.listener.memory_bytes >= MANY * SIZE
            producer.kept.clear()  # of which it is told when it is asked for memory


def note_asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note who is asked to give back."""
    asked: list[object] = []
    recall = Sharing.recall

    def note(sharing: Sharing, numbers: Sequence[int]) -> bool:
        asked.append(sharing)
        return recall(sharing, numbers)

    monkeypatch.setattr(Sharing, "recall", note)
    return asked


async def test_who_makes_more_waits_until_others_have_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one has used, and uses no more, another has at once: at no time is there more than a segment too much."""
    monkeypatch.setattr(_budget, "LEAVE_S", 10 * BOUND_S)
    monkeypatch.setattr(_budget, "TRIM_S", 10 * BOUND_S)
    monkeypatch.setattr(_budget, "RECENT_S", 0)
    async with producers(folder, 4) as (stage, all_of_them):
        for turn in range(8):
            producer = all_of_them[turn % 4]
            for _ in range(MANY):
                await producer.fill(turn, 1)
                assert stage.listener.memory_bytes <= SHARED_BYTES + SEGMENT_BYTES
            assert sum(map(is_in_memory, producer.kept)) == MANY
            assert all(bytes(frame) == bytes([turn]) * SIZE for frame in producer.kept)
            producer.kept.clear()


def inodes(frames: list[Frame]) -> set[int]:
    """Return the numbers of the memory in which frames lie."""
    owners = [find_owner(frame)[0] for frame in frames]
    return {owner.memory.inode for owner in owners if isinstance(owner, View)}


async def test_what_one_has_given_back_another_is_lent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same memory, whose first touch is over, from one to the next."""
    monkeypatch.setattr(_budget, "LEAVE_S", 10 * BOUND_S)
    monkeypatch.setattr(_budget, "RECENT_S", 0)
    async with producers(folder, 4) as (_, all_of_them):
        seen: set[int] = set()
        for turn in range(8):
            producer = all_of_them[turn % 4]
            await producer.fill(turn)
            seen |= inodes(producer.kept)
            producer.kept.clear()
    assert len(seen) <= SHARED_BYTES // SEGMENT_BYTES + 1


@pytest.mark.parametrize("how", ["forked", "lost"])
async def test_what_somebody_may_still_see_is_lent_to_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A child of the server's that was forked while it was seen, or a client that is gone and may still write in it."""
    monkeypatch.setattr(_budget, "RECENT_S", 0)
    async with producers(folder, 2) as (stage, (one, other)):
        await one.fill(1)
        await other.fill(2, 1)  # so that somebody is left, for whom memory is kept
        seen = inodes(one.kept)
        if how == "forked":
            if (child := os.fork()) == 0:
                os._exit(0)
            os.waitpid(child, 0)
        else:
            one.near.connection.abort()
            await one.far.wait_lost()
        one.kept.clear()
        for _ in range(3):
            await other.fill(2)
            assert not seen & inodes(other.kept)
        assert all(bytes(frame) == bytes([2]) * SIZE for frame in other.kept)
        other.kept.clear()
        await other.wait_until_little(stage.listener)


async def test_who_has_just_sent_something_keeps_some(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has used last; who has sent nothing for a while is asked for all."""
    monkeypatch.setattr(_budget, "RECENT_S", 0)
    monkeypatch.setattr(_budget, "LEAVE_S", 10 * BOUND_S)
    monkeypatch.setattr(_budget, "TRIM_S", 10 * BOUND_S)
    monkeypatch.setattr(_leases, "CLIENT_BYTES", 2 * SEGMENT_BYTES)
    monkeypatch.setattr(_leases, "ACTIVE_S", 10 * BOUND_S)
    async with producers(folder, 2) as (_, (one, other)):
        await one.fill(1)
        last = inodes(one.kept[-8:])
        while one.kept:
            del one.kept[0]
        await other.fill(2, 3 * MANY)
        assert not last & inodes(other.kept)
        await one.fill(1, 8)
        assert inodes(one.kept) == last
        one.kept.clear()
        sharing = one.far.connection.sharing  # type: ignore[attr-defined]
        assert sharing.unused(0) == []
        monkeypatch.setattr(_leases, "ACTIVE_S", 0)
        assert len(sharing.unused(0)) == 2


async def test_who_needs_another_size_keeps_nothing_of_the_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it is active: what it does not use is not what it needs."""
    monkeypatch.setattr(_budget, "RECENT_S", 0)
    monkeypatch.setattr(_budget, "LEAVE_S", 10 * BOUND_S)
    monkeypatch.setattr(_budget, "TRIM_S", 10 * BOUND_S)
    monkeypatch.setattr(_leases, "CLIENT_BYTES", SHARED_BYTES)
    monkeypatch.setattr(_leases, "ACTIVE_S", 10 * BOUND_S)
    async with producers(folder, 1) as (stage, (one,)):
        await one.fill(1)
        one.kept.clear()
        for number in range(2):
            one.near.send([b"rows", bytes(6 * SIZE)])
            await one.far.wait_messages(MANY + number + 2)
        assert sum(map(is_in_memory, one.kept)) == 2
        assert stage.listener.memory_bytes <= SHARED_BYTES + SEGMENT_BYTES


async def test_what_was_just_used_is_not_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It will be used again; who makes more does not wait for it."""
    monkeypatch.setattr(_budget, "TRIM_S", 10 * BOUND_S)
    monkeypatch.setattr(_budget, "RECENT_S", 10 * BOUND_S)
    async with producers(folder, 2) as (stage, (one, other)):
        await one.fill(1)
        one.kept.clear()
        await other.fill(2)
        assert stage.listener.memory_bytes > SHARED_BYTES
        assert sum(map(is_in_memory, other.kept)) == MANY


async def test_who_stands_still_is_waited_for_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go on without what it has, and get it when it answers."""
    monkeypatch.setattr(_budget, "TRIM_S", 10 * BOUND_S)
    monkeypatch.setattr(_budget, "RECENT_S", 0)
    asked = note_asked(monkeypatch)
    async with producers(folder, 2) as (stage, (still, other)):
        connection = await still.stand_still()
        await other.fill(2, 2 * MANY)
        sharing = still.far.connection.sharing  # type: ignore[attr-defined]
        assert asked.count(sharing) == 1
        assert (before := stage.listener.memory_bytes) > SHARED_BYTES
        assert sum(map(is_in_memory, other.kept)) == 2 * MANY
        connection._watch.heed()
        await still.settle()
        assert stage.listener.memory_bytes < before


async def test_who_leaves_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has given back all that it had."""
    monkeypatch.setattr(_budget, "RECENT_S", 0)
    monkeypatch.setattr(_budget, "LEAVE_S", 10 * BOUND_S)
    asked = note_asked(monkeypatch)
    async with producers(folder, 2) as (_, (still, other)):
        connection = await still.stand_still()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.fill, 2)
            while not asked:
                await anyio.lowlevel.checkpoint()
            connection.abort()
        assert sum(map(is_in_memory, other.kept)) == MANY


async def test_what_is_in_use_stays(folder: Path) -> None:
    """All keep more than the server likes to share: nothing changes, every one gets what it needs; then it all goes."""
    async with producers(folder, 3) as (stage, all_of_them):
        for _ in range(2):
            for value, producer in enumerate(all_of_them):
                await producer.fill(value)
        for value, producer in enumerate(all_of_them):
            assert sum(map(is_in_memory, producer.kept)) >= 2 * MANY - 1
            assert all(bytes(frame) == bytes([value]) * SIZE for frame in producer.kept)
        assert stage.listener.memory_bytes > 3 * 2 * (MANY - 1) * SIZE
        for producer in all_of_them:
            producer.kept.clear()
        await all_of_them[0].wait_until_little(stage.listener)


async def test_what_was_passed_on_is_let_go_of_by_who_has_it(
    folder: Path, unmapped: list[Leases], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that has mapped a producer's memory, and is sent no message any more, does not keep it."""
    async with producers(folder, 2) as (_, (producer, consumer)):
        for _ in range(3):  # in packets; in memory that the consumer is about to map; mapped
            await producer.fill(1, 1)
            number = len(consumer.far.messages)
            consumer.far.send([producer.kept.pop()])
            await consumer.far.wait_messages(number + 1)
        for _ in range(2):  # of what was echoed the last is let go of when there is more
            await consumer.settle()
            consumer.kept.clear()
        assert not unmapped
        monkeypatch.setattr(_budget, "SHARED_BYTES", 0)
        await producer.fill(2)
        producer.kept.clear()
        while consumer.near.connection._leases not in unmapped:  # type: ignore[attr-defined]
            await producer.settle()


async def test_what_makes_room_for_another_size_is_let_go_of_too(
    folder: Path, unmapped: list[Leases], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that has it mapped, and is sent nothing, is told at once."""
    monkeypatch.setattr(_budget, "TRIM_S", 10 * BOUND_S)
    monkeypatch.setattr(_budget, "RECENT_S", 0)
    async with producers(folder, 3) as (stage, (producer, other, consumer)):
        consumer.near.on_message = None  # it keeps nothing, and has no memory of its own
        await producer.fill(1)
        for frame in producer.kept:
            consumer.far.send([frame])
        await consumer.near.wait_messages(MANY)
        producer.kept.clear()
        consumer.far.send([b"what it had is gone"])
        await consumer.near.wait_messages(MANY + 1)
        assert not unmapped
        for number in range(2):
            other.near.send([b"rows", bytes(6 * SIZE)])
            await other.far.wait_messages(number + 2)
        assert sum(map(is_in_memory, other.kept)) == 2
        assert stage.listener.memory_bytes <= SHARED_BYTES + SEGMENT_BYTES
        while consumer.near.connection._leases not in unmapped:  # type: ignore[attr-defined]
            await producer.settle()


async def test_what_a_server_has_made_is_given_back_too(folder: Path) -> None:
    """What it gathered for one consumer is let go of."""
    async with producers(folder, 3) as (stage, all_of_them):
        for value, one in enumerate(all_of_them):
            one.near.on_message = lambda _, frames, one=one: one.kept.extend(frames)
            for number in range(MANY):
                one.far.send([bytes([value]) * SIZE])
                await one.near.wait_messages(number + 1)
            one.near.on_message = echo
        assert stage.listener.memory_bytes > 3 * (MANY - 1) * SIZE
        for value, one in enumerate(all_of_them):
            assert all(bytes(frame) == bytes([value]) * SIZE for frame in one.kept)
            one.kept.clear()
        await all_of_them[0].wait_until_little(stage.listener)


async def test_who_asks_without_a_reason_gets_what_there_is(folder: Path) -> None:
    """A client that asks its server to give back memory, again and again, loses nothing by it."""
    async with producers(folder, 1) as (_, (producer,)):
        await producer.fill(1, 3)
        for _ in range(10):
            producer.near.connection._socket.send(numbers(RECALL, *range(100)))  # type: ignore[attr-defined]
        await producer.fill(1, 3)
        assert all(bytes(frame) == bytes([1]) * SIZE for frame in producer.kept)
        await producer.settle()


async def test_beats_are_not_asked(folder: Path) -> None:
    """Their connections stay: a session is taken for ended when it is lost without them."""
    async with producers(folder, 1) as (stage, (producer,)):
        beats = await stage.transport.beat(stage.address, lambda n: [b"%d" % n], lambda frames: int(frames[0]), 0.005)
        assert beats is not None
        heard = await stage.accepted()
        await producer.fill(1, 2 * MANY)
        await heard.wait_messages(len(heard.messages) + 20)
        assert stage.listener.memory_bytes > SHARED_BYTES
        await beats.aclose()


async def test_a_connection_that_is_gone_is_not_asked(folder: Path) -> None:
    """A request would come within what was cut off."""
    async with producers(folder, 1) as (_, (producer,)):
        await producer.fill(1, 3)
        connection: Any = producer.far.connection
        connection.abort()
        connection.sharing.trim(0)
        connection.sharing.recall([])
        assert connection._outbox.is_empty
        await producer.near.wait_lost()


async def test_a_forked_child_does_not_keep_what_is_given_back(folder: Path) -> None:
    """Of the memory that a sender has made it has nothing; what was received it has."""
    async with producers(folder, 1) as (_, (producer,)):
        await producer.fill(1, 3)
        mapped = Path("/proc/self/maps").read_text().count("memfd:aioflow ")
        assert mapped == 2
        if (child := os.fork()) == 0:
            os._exit(Path("/proc/self/maps").read_text().count("memfd:aioflow "))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_what_is_dropped() -> None:
    """Neither what was made for a frame that waits, until it could have come to it, nor what is in use or just was."""
    segments = Segments("somebody", 1 << 30, Arena(), poison=True)
    frame = bytes(SIZE)
    assert segments.are_awaited([frame], [SIZE])
    ((number, _),) = segments.pool.made

    def trim(idle_s: float) -> list[int]:
        segments.pool.trim(idle_s)
        return segments.pool.dropped

    assert not trim(0)
    segments.answered(number, is_mapped=True)
    assert not trim(60)
    reference = segments.put(frame, SIZE)
    assert reference is not None
    assert not trim(0)
    segments.end_lease(reference[3], is_kept=False)
    assert not trim(BOUND_S)
    assert trim(0) == [number]
    segments.end_lease(reference[3], is_kept=False)
    segments.close()


def test_what_a_server_itself_does_not_use_makes_way_for_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it shares too much: batches of rows that vary may be larger each time."""
    monkeypatch.setattr(_pool, "SHARED_BYTES", SHARED_BYTES)
    monkeypatch.setattr(_pool, "RECENT_S", 0)
    arena = Arena()
    segments = Segments("somebody", 1 << 30, arena, poison=True)
    held = segments.allocate(5 * SIZE)
    assert held is not None
    for size in range(SIZE, 9 * SIZE, SIZE // 2):
        segments.are_awaited([bytes(size)], [size])
        for number, _ in segments.pool.made:
            segments.answered(number, is_mapped=True)
        segments.pool.made.clear()
        reference = segments.put(bytes(size), size)
        assert reference is not None
        segments.end_lease(reference[-1], is_kept=False)
        assert arena.nbytes - arena.free_bytes <= SHARED_BYTES
