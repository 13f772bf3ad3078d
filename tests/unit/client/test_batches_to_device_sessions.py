"""Batches on a device in sessions of each kind: values, overlap, conservation, and who closes the device."""

from __future__ import annotations

import random
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest

import aioflow as flow
from aioflow import blocking
from aioflow.devices import CpuDevice, OpenDevices
from aioflow.errors import DeviceError, DeviceOutOfMemory, DeviceUnavailable
from aioflow.testing._queue_stage import ints, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.anyio

TEST_S = 15.0
ELEMENTS = 3000
SERVED = ["inproc", "ipc"]


@asynccontextmanager
async def session(place: str, folder: str) -> AsyncGenerator[flow.Session]:
    """Open a session of a kind."""
    if place == "embedded":
        async with flow.Session() as session:
            yield session
    else:
        address = "inproc://to-device" if place == "inproc" else f"ipc://{folder}/s"
        async with flow.Server({"local": [address]}), flow.Session(address) as session:
            yield session


@pytest.mark.parametrize("place", ["embedded", *SERVED])
async def test_values_are_as_without_a_device(place: str, folder: str, gpu: CpuDevice) -> None:
    """One component is itself, several are a tuple, names make a dict; numbers are on the device, strings are not."""
    one = flow.FIFOQueue(10, "float32", (2,), shared_name="one")
    several = flow.FIFOQueue(10, ["int64", "str"], [(), ()], shared_name="several")
    named = flow.PaddingFIFOQueue(10, ["int32"], [[None]], names=["tokens"], shared_name="named")
    with anyio.fail_after(TEST_S):
        async with session(place, folder):
            await one.enqueue_many(np.ones((4, 2), np.float32))
            await several.enqueue_many(([1, 2, 3], ["a", "b", "c"]))
            await named.enqueue({"tokens": [1, 2, 3]})
            await named.enqueue({"tokens": [4]})
            for q in (one, several, named):
                await q.close()
            ones = [batch async for batch in one.batches(3, device="/gpu:0", drop_remainder=True)]
            pairs = [batch async for batch in several.batches(2, device="/gpu:0")]
            (tokens,) = [batch async for batch in named.batches(2, device="/gpu:*", copy=True)]
            nbytes = sum(array.nbytes for array in (*ones, *(numbers for numbers, _ in pairs), tokens["tokens"]))
            while gpu.memory().held != nbytes:  # not that of the remainder, once its thread lets go
                await anyio.lowlevel.checkpoint()
    assert [batch.shape for batch in ones] == [(3, 2)]
    assert [(type(batch), batch[0].tolist(), batch[1].tolist()) for batch in pairs] == [
        (tuple, [1, 2], ["a", "b"]),
        (tuple, [3], ["c"]),
    ]
    assert {name: value.tolist() for name, value in tokens.items()} == {"tokens": [[1, 2, 3], [4, 0, 0]]}
    assert tokens["tokens"].flags.writeable


@pytest.mark.parametrize("place", SERVED)
async def test_the_next_copy_begins_before_it_is_asked_for(place: str, folder: str, gpu: CpuDevice) -> None:
    """Semantics of double buffering, by the device's trace: while the consumer works, the next batch is copied."""
    q = ints(100, shared_name="q")
    with anyio.fail_after(TEST_S):
        async with session(place, folder):
            await q.enqueue_many(list(range(20)))
            asked = []
            async with q.batches(5, device="/gpu:0") as batches:
                for number in range(4):
                    assert (await anext(batches)).tolist() == list(range(5 * number, 5 * number + 5))
                    while number < 3 and copies(gpu) < number + 2:  # the consumer's work
                        await anyio.lowlevel.checkpoint()
                    asked.append(copies(gpu))
                assert asked == [2, 3, 4, 4]
                assert gpu.host_waits == 4
            await until(q, unacknowledged=0)


def copies(gpu: CpuDevice) -> int:
    """How many copies to the device have begun."""
    return [entry.action for entry in tuple(gpu.trace)].count("put")


class Consumers:
    """What several consumers of a queue got, and how often they left."""

    def __init__(self, rng: random.Random, gpu: CpuDevice) -> None:
        self._gpu = gpu
        self.got: list[int] = []
        self.ended = 0
        self._rng = rng

    async def pause(self) -> None:
        """Let others run for a while; now and then the device is about to fail."""
        if self._rng.random() < 0.05:
            self._gpu.fail("put", DeviceError("a copy failed"))
        for _ in range(self._rng.choice([0, 0, 1, 5, 30])):
            await anyio.lowlevel.checkpoint()

    async def iterate(self, q: flow.Queue, **options: Any) -> None:
        """Iterate, and leave now and then: by a break, or by a cancel at any turn."""
        while True:
            steps = self._rng.choice([1, 5, 50])
            with suppress(DeviceError), anyio.move_on_after(self._rng.choice([0.0005, 0.003, TEST_S])):
                async with q.batches(7, device="/gpu:0", **options) as batches:
                    async for batch in batches:
                        self.got.extend(batch.tolist())
                        await self.pause()
                        steps -= 1
                        if not steps:
                            break
                    else:
                        self.ended += 1
                        return

    async def dequeue(self, q: flow.Queue) -> None:
        """Get batches, which recalls what is ahead."""
        while True:
            with anyio.move_on_after(self._rng.choice([0.0005, TEST_S])):
                try:
                    self.got.extend((await q.dequeue_up_to(3)).tolist())
                except flow.EndOfQueue:
                    self.ended += 1
                    return
            await self.pause()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("place", ["embedded", *SERVED])
async def test_every_element_is_handed_over_once(place: str, seed: int, folder: str, gpu: CpuDevice) -> None:
    """Accepted equals handed over, through cancels, early exits, recalls and failing copies, to the end."""
    rng = random.Random(seed)
    q = ints(rng.choice([20, 300]), shared_name="q")
    consumers = Consumers(rng, gpu)
    with anyio.fail_after(TEST_S):
        async with session(place, folder):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumers.iterate, q)
                tasks.start_soon(lambda: consumers.iterate(q, prefetch=0))
                tasks.start_soon(lambda: consumers.iterate(q, prefetch=3))
                tasks.start_soon(consumers.dequeue, q)
                for first in range(0, ELEMENTS, 50):
                    await q.enqueue_many(list(range(first, first + 50)))
                    await consumers.pause()
                await q.close()
            stats = await until(q, unacknowledged=0, ahead=0)
    assert sorted(consumers.got) == list(range(ELEMENTS))
    assert (stats.size, stats.dequeued, consumers.ended) == (0, ELEMENTS, 4)


async def test_nothing_is_lost_or_doubled_by_a_new_connection(folder: str, gpu: CpuDevice) -> None:
    """What was copied when the connection ended is the server's again, and comes once more."""
    q = ints(300, shared_name="q")
    got: list[int] = []
    with anyio.fail_after(TEST_S):
        async with session("ipc", folder) as client:
            await q.enqueue_many(list(range(300)))
            link = client.host.master._link  # type: ignore[attr-defined]
            async for batch in q.batches(5, device="/gpu:0"):
                got.extend(batch.tolist())
                if len(got) == 300:
                    break
                if len(got) % 50 == 0:
                    link._lose("the test")
            await until(q, size=0, unacknowledged=0, ahead=0)
    assert got == list(range(300))
    assert copies(gpu) > 60


async def test_a_batch_that_does_not_fit_is_still_there(folder: str, gpu: CpuDevice) -> None:
    """DeviceOutOfMemory loses nothing: the elements are in the queue, in order."""
    q = ints(100, shared_name="q")
    gpu.fail("put", DeviceOutOfMemory("80 bytes were asked for", asked=80))
    with anyio.fail_after(TEST_S):
        async with session("inproc", folder):
            await q.enqueue_many(list(range(20)))
            async with q.batches(10, device="/gpu:0") as batches:
                with pytest.raises(DeviceOutOfMemory, match="80 bytes were asked for"):
                    await anext(batches)
                await until(q, size=20, ahead=0, unacknowledged=0)
            assert (await q.dequeue_many(20)).tolist() == list(range(20))


@pytest.mark.parametrize("is_served", [False, True])
async def test_the_session_closes_the_devices_that_it_opened(
    is_served: bool, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they had copies only; a step that waits for one ends with SessionClosed, and its batch goes back."""
    gpu = CpuDevice("/gpu:0")
    monkeypatch.setattr("aioflow.runtime._devices.open_devices", lambda *_, **__: OpenDevices((gpu,), (gpu,)))
    q = ints(10, shared_name="q")
    free = threading.Event()

    async def take() -> None:
        with pytest.raises(flow.SessionClosed):
            async for _ in q.batches(2, prefetch=0, device="/gpu:0"):
                gpu._copies.launch(free.wait)

    with anyio.fail_after(TEST_S):
        async with session("inproc", folder) as stays:
            client = await flow.Session("inproc://to-device" if is_served else None).open()
            await q.enqueue_many([1, 2, 3, 4])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                while gpu.host_waits < 2:
                    await anyio.lowlevel.checkpoint()
                tasks.start_soon(client.close)
                while not gpu._copies.is_closing:
                    await anyio.lowlevel.checkpoint()
                free.set()
            with pytest.raises(DeviceUnavailable, match="closed"):
                gpu.put(0)
            if is_served:
                await until(q.on(stays), unacknowledged=0, ahead=0, size=2)
                assert (await q.on(stays).dequeue_many(2)).tolist() == [3, 4]


def test_a_blocking_session_takes_batches_to_a_device(gpu: CpuDevice) -> None:
    """`session.batches(queue, n, device=...)`; the copy ahead goes on while the caller's thread computes."""
    q = ints(100)
    with blocking.Session() as session:
        session.enqueue_many(q, list(range(10)))
        session.close_queue(q)
        assert [batch.tolist() for batch in session.batches(q, 5, device="/gpu:0")] == [
            [0, 1, 2, 3, 4],
            [5, 6, 7, 8, 9],
        ]
    assert copies(gpu) == 2
