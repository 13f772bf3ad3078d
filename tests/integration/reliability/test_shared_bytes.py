"""A full queue and the memory that its processes share: little more than its bytes, counted once for all of them.

However many there are that have filled it: what they do not use they give back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

import aioflow as flow
from tests.integration.conftest import at_night
from tests.integration.reliability.memory import own_bytes, shared_bytes
from tests.integration.reliability.scale import TEST_S

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.integration.reliability.conftest import Figure, StartServer

pytestmark = [pytest.mark.timeout(TEST_S), pytest.mark.skipif(sys.platform != "linux", reason="shares no memory")]

CAPACITY_BYTES = 256_000_000
MORE_MAX = 1.1
FULL_S = 20.0
SHAPES: dict[str, tuple[str, list[int]]] = {
    "images": ("uint8", [224, 224, 3]),
    "megabytes": ("float32", [1 << 18]),
    "tensors": ("float32", [1024, 1024]),
}

# What a writer has of rows that vary: they fill it one behind the other.
BLOCK_BYTES = 8 << 20

PRODUCERS = 4
# Images, which a queue has room for: in whole groups of 64, and with a rest. An open writer has the memory of a group,
# which the rows to come go to.
TURNS = [(1600, 0), pytest.param(1598, PRODUCERS * 9_699_328, marks=at_night)]

# Dtype and shape, and bytes of a row.
IMAGES = ("uint8", [224, 224, 3], 150_528)
SMALL_ROWS = ("uint8", [8192], 8192)
STRINGS = ("bytes", ["to", "200000"], 102_000)

PRODUCER = """
import asyncio, sys
import numpy as np
import aioflow as flow

async def main(address, turn, dtype, sizes):
    rng = np.random.default_rng(0)
    async with flow.Session(address), flow.lookup("full").writer(delay_s=10) as writer:
        put = flow.lookup("full").enqueue if sizes[0] == "singly" else writer.write
        while True:
            await flow.lookup("turns").dequeue()
            for number in range(int(turn)):
                shape = [rng.integers(int(sizes[-1]) // 50, int(sizes[-1]))] if "to" in sizes else [*map(int, sizes)]
                value = rng.bytes(*shape) if dtype == "bytes" else np.zeros(shape, dtype)
                await put((np.int64(number), value))
            await writer.flush()
            await flow.lookup("written").enqueue(0)

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
"""


@contextmanager
def producing(address: str, turn: int, dtype: str, shape: list[int] | list[str]) -> Generator[int]:
    """Run a producer, which writes so many elements in each turn, as long as the block, which is given its process.

    A shape of "to" and a number means vectors of a fiftieth of that number of values to that, or strings; with "singly"
    before it each is enqueued by itself.
    """
    with tempfile.TemporaryFile() as told:
        command = [sys.executable, "-c", PRODUCER, address, str(turn), dtype, *map(str, shape)]
        process = subprocess.Popen(command, stdout=told, stderr=told)
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("shape", ["images", pytest.param("megabytes", marks=at_night), "tensors"])
def test_a_full_queue(start_server: StartServer, figure: Figure, shape: str) -> None:
    """With the usual writer, whose groups are full: 256 MB and at most a tenth."""
    server, address = start_server("ipc")
    dtype, sizes = SHAPES[shape]

    async def fill() -> tuple[int, int]:
        async with flow.Session(address) as session:
            queue = flow.FIFOQueue(-1, ["int64", dtype], [[], sizes], capacity_bytes=CAPACITY_BYTES, shared_name="full")
            await queue.size()
            await flow.FIFOQueue(1, "int64", [[]], shared_name="turns").enqueue(0)
            with producing(address, 1_000_000, dtype, sizes) as pid:
                with anyio.fail_after(FULL_S):
                    while not (await queue.stats()).puts_waiting:
                        await anyio.sleep(0.05)
                held = (await queue.stats()).size_bytes
                [stats] = await session.stats()
                shared = shared_bytes([server.process.pid, pid, os.getpid()])
                assert 0.95 * shared < stats.memory_bytes <= shared
                return held, shared

    held, shared = anyio.run(fill)
    figure(f"full of {shape}, shared memory", f"{held / 1e6:.0f} MB held, {shared / 1e6:.0f} MB")
    assert 0.9 * CAPACITY_BYTES < shared <= MORE_MAX * CAPACITY_BYTES


@pytest.mark.parametrize(
    ("how", "longest"),
    [
        pytest.param(["to"], 50_000, id="50000", marks=at_night),
        pytest.param(["to"], 1_000_000, id="1000000", marks=at_night),
        pytest.param(["to"], 5_000_000, id="5000000"),
        pytest.param(["singly", "to"], 400_000, id="singly-400000"),
    ],
)
def test_a_full_queue_of_rows_that_vary(
    start_server: StartServer, figure: Figure, how: list[str], longest: int
) -> None:
    """The same, whatever their sizes are; also when batches have been taken and others came for them."""
    _, address = start_server("ipc")

    async def fill() -> list[int]:
        async with flow.Session(address) as session:
            queue = flow.PaddingFIFOQueue(
                -1, ["int64", "uint8"], [[], [None]], capacity_bytes=CAPACITY_BYTES, shared_name="full"
            )
            await queue.size()
            await flow.FIFOQueue(1, "int64", [[]], shared_name="turns").enqueue(0)
            shared: list[int] = []
            with producing(address, 10_000_000, "uint8", [*how, str(longest)]), anyio.fail_after(FULL_S):
                for takes in (0, CAPACITY_BYTES // longest):
                    for _ in range(takes):
                        await queue.dequeue_many(4)
                    while not (stats := await queue.stats()).puts_waiting or stats.size_bytes < 0.9 * CAPACITY_BYTES:
                        await anyio.sleep(0.05)
                    shared.append((await session.stats())[0].memory_bytes)
                # What batches of other sizes were gathered in is given back when it was not used for a moment.
                while (await session.stats())[0].memory_bytes > MORE_MAX * CAPACITY_BYTES + BLOCK_BYTES:
                    await anyio.sleep(0.05)
            return shared

    first, second = anyio.run(fill)
    figure(
        f"full of rows {' '.join(how)} {longest} bytes, shared memory",
        f"{first / 1e6:.0f} MB, later {second / 1e6:.0f}",
    )
    assert 0.9 * CAPACITY_BYTES < first <= MORE_MAX * CAPACITY_BYTES
    assert second <= 1.2 * CAPACITY_BYTES


@pytest.mark.parametrize(("images", "open_bytes"), TURNS)
def test_producers_that_take_turns(start_server: StartServer, figure: Figure, images: int, open_bytes: int) -> None:
    """Each fills the queue, which a consumer then empties: at no time do they share what two of them need."""
    server, address = start_server("ipc")
    dtype, sizes = SHAPES["images"]
    shared: list[int] = []
    bytes_max = MORE_MAX * CAPACITY_BYTES + open_bytes

    async def watch(session: flow.Session) -> None:
        while True:
            shared.append((await session.stats())[0].memory_bytes)
            await anyio.sleep(0.002)

    async def turn() -> tuple[int, int]:
        async with flow.Session(address) as session:
            queue = flow.FIFOQueue(-1, ["int64", dtype], [[], sizes], capacity_bytes=CAPACITY_BYTES, shared_name="full")
            turns = flow.FIFOQueue(1, "int64", [[]], shared_name="turns")
            written = flow.FIFOQueue(1, "int64", [[]], shared_name="written")
            for each in (queue, turns, written):
                await each.size()
            with ExitStack() as stack, anyio.fail_after(FULL_S):
                pids = [stack.enter_context(producing(address, images, dtype, sizes)) for _ in range(PRODUCERS)]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watch, session)
                    for number in range(2 * PRODUCERS):
                        if number:
                            for _ in range(images // 64):
                                await queue.dequeue_many(64)
                            await queue.dequeue_many(images % 64)
                        await turns.enqueue(0)
                        await written.dequeue()
                    tasks.cancel_scope.cancel()
                held = (await queue.stats()).size_bytes
                # The consumer has mapped memory of producers, and is told a moment later that it may let go of it.
                while (now := shared_bytes([server.process.pid, *pids, os.getpid()])) > bytes_max:
                    await anyio.sleep(0.05)
                return held, now

    held, now = anyio.run(turn)
    figure(
        "filled in turns, shared memory", f"{held / 1e6:.0f} MB held, {now / 1e6:.0f} MB, most {max(shared) / 1e6:.0f}"
    )
    assert 0.9 * held < now <= bytes_max
    assert max(shared) <= bytes_max


@pytest.mark.parametrize(
    ("kind", "dtype", "sizes", "row_bytes"),
    [
        pytest.param("RandomShuffleQueue", *IMAGES, id="images-shuffle"),
        pytest.param("PriorityQueue", *IMAGES, id="images-priority", marks=at_night),
        pytest.param("RandomShuffleQueue", *SMALL_ROWS, id="small-shuffle", marks=at_night),
        pytest.param("PriorityQueue", *SMALL_ROWS, id="small-priority"),
        pytest.param("RandomShuffleQueue", *STRINGS, id="strings-shuffle"),
        pytest.param("PriorityQueue", *STRINGS, id="strings-priority", marks=at_night),
    ],
)
def test_a_queue_in_flow_that_rows_leave_out_of_order(
    start_server: StartServer, figure: Figure, kind: str, dtype: str, sizes: list[Any], row_bytes: int
) -> None:
    """Each row goes by itself: beside them it takes a tenth, and the batch that the consumer has and the next one.

    Rows that lie in shared memory are not copied to the server's own, nor do others keep what they came in.
    """
    server, address = start_server("ipc")
    batch = 64
    shape = [] if dtype == "bytes" else sizes
    bytes_max = MORE_MAX * CAPACITY_BYTES + 2 * batch * row_bytes

    async def take() -> tuple[int, int]:
        async with flow.Session(address) as session:
            options: Any = {"capacity_bytes": CAPACITY_BYTES, "shared_name": "full"}
            if kind == "PriorityQueue":  # an element's first component is the priority
                queue: flow.Queue = flow.PriorityQueue(-1, [dtype], [shape], **options)
            else:
                queue = flow.RandomShuffleQueue(-1, 10 * batch, ["int64", dtype], [[], shape], **options)
            await queue.size()
            await flow.FIFOQueue(1, "int64", [[]], shared_name="turns").enqueue(0)
            before, shared, own = own_bytes(server.process.pid), 0, 0
            with producing(address, 1_000_000, dtype, sizes), anyio.fail_after(FULL_S):
                while not (await queue.stats()).puts_waiting:
                    await anyio.sleep(0.05)
                for _ in range(CAPACITY_BYTES // (batch * row_bytes)):
                    await queue.dequeue_many(batch)
                    now, now_own = (await session.stats())[0].memory_bytes, own_bytes(server.process.pid) - before
                    assert now <= bytes_max
                    assert now_own <= MORE_MAX * CAPACITY_BYTES
                    shared, own = max(shared, now), max(own, now_own)
            return shared, own

    shared, own = anyio.run(take)
    figure(f"{kind} of {dtype} {sizes} in flow, shared", f"{shared / 1e6:.0f} MB, and {own / 1e6:.0f} MB of its own")
    assert max(shared, own) > 0.9 * CAPACITY_BYTES
    # What the writer fills and what is on its way, and batches: of strings each has another size, so that some wait for
    # one of theirs.
    assert min(shared, own) <= 0.1 * CAPACITY_BYTES + 4 * batch * row_bytes + 2 * BLOCK_BYTES


@pytest.mark.parametrize("dtype", ["bytes", "uint8"])
@pytest.mark.parametrize("kind", ["RandomShuffleQueue", pytest.param("PriorityQueue", marks=at_night)])
def test_larger_elements_after_half_of_the_small_ones_left(
    start_server: StartServer, figure: Figure, kind: str, dtype: str
) -> None:
    """Of any size, put one by one: what those that left had is not kept by those beside them."""
    server, address = start_server("ipc")
    capacity_bytes = CAPACITY_BYTES // 4

    async def refill() -> tuple[int, int]:
        async with flow.Session(address) as session:
            options: Any = {"capacity_bytes": capacity_bytes, "shared_name": "full"}
            shape: list[list[int]] | None = [[]] if dtype == "bytes" else None
            if kind == "PriorityQueue":
                queue: flow.Queue = flow.PriorityQueue(-1, [dtype], shape, **options)
            else:
                queue = flow.RandomShuffleQueue(-1, 0, [dtype], shape, **options)
            before, most = own_bytes(server.process.pid), 0
            priorities = np.random.default_rng(0)
            for size in (70_000, 950_000, 300_000):
                for _ in range(await queue.size() // 2):
                    await queue.dequeue()
                value = bytes(size) if dtype == "bytes" else np.zeros(size, np.uint8)
                while (await queue.stats()).size_bytes + size + 8 <= capacity_bytes:
                    await queue.enqueue((priorities.integers(1 << 40), value) if kind == "PriorityQueue" else value)
                shared = (await session.stats())[0].memory_bytes
                most = max(most, shared + own_bytes(server.process.pid) - before)
            return (await queue.stats()).size_bytes, most

    held, most = anyio.run(refill)
    figure(f"{kind} of {dtype}, refilled", f"{held / 1e6:.0f} MB held, {most / 1e6:.0f} MB shared and of its own")
    assert 0.9 * capacity_bytes < most <= MORE_MAX * capacity_bytes + BLOCK_BYTES
