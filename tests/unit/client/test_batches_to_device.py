"""Batches go to a device one ahead of need; what was copied and not handed over is the queue's."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import numpy as np
import pytest

from aioflow.devices import CpuDevice, OpenDevices
from aioflow.errors import (
    AioflowError,
    ConnectionLost,
    DeviceError,
    DeviceOutOfMemory,
    DeviceUnavailable,
    PlacementError,
    SessionClosed,
    SpecMismatch,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

pytestmark = pytest.mark.anyio

TEST_S = 5.0
ROW_BYTES = 8


@pytest.fixture
def gpu() -> Generator[CpuDevice]:
    """A device that stands in for a GPU, with room for four rows."""
    with CpuDevice("/gpu:0", memory_limit=4 * ROW_BYTES) as gpu:
        yield gpu


@pytest.fixture
async def queue(fake_queue: Any, gpu: CpuDevice) -> AsyncGenerator[Any]:
    """A queue on a fake host, in a session with that device and a CPU."""
    fake_queue.opened = OpenDevices((CpuDevice("/cpu:0", streams=0), gpu), ())
    yield fake_queue
    if fake_queue.devices is not None:
        await fake_queue.devices.close()


async def until(condition: Callable[[], object]) -> None:
    """Let others run until something is so."""
    with anyio.fail_after(TEST_S):
        while not condition():
            await anyio.lowlevel.checkpoint()


def copies(gpu: CpuDevice) -> int:
    """How many copies to the device have begun."""
    return [entry.action for entry in tuple(gpu.trace)].count("put")


@contextmanager
def held(gpu: CpuDevice) -> Generator[None]:
    """Have no copy begin within the block."""
    free = threading.Event()
    gpu.put(0).stream.launch(free.wait)
    try:
        yield
    finally:
        free.set()


async def answered(queue: Any, number: int, *rows: int) -> None:
    """Answer the call of this number when it is there."""
    await until(lambda: len(queue.host.calls) > number)
    queue.host.calls[number].answer(*rows)


async def step(queue: Any, batches: Any, number: int, *rows: int) -> list[int]:
    """Take a step for which the call of this number is answered."""

    outcome: Any
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answered, queue, number, *rows)
            try:
                outcome = (await anext(batches)).tolist()
            except AioflowError as error:
                outcome = error
    if isinstance(outcome, AioflowError):
        raise outcome
    batch: list[int] = outcome
    return batch


async def take(batches: Any, got: list[list[int]]) -> None:
    """Take a step."""
    got.append((await anext(batches)).tolist())


async def test_the_next_batch_is_copied_while_the_consumer_works(queue: Any, gpu: CpuDevice) -> None:
    """The copy begins with the step before; what is acknowledged is what was handed over; one host wait for each."""
    batches = queue.batches(2, prefetch=1, device="/gpu:0")
    assert await step(queue, batches, 0, 1, 2, 3, 4, 5) == [1, 2]
    await until(lambda: copies(gpu) == 2)
    assert queue.host.log[-1] == "take [1, 2] of ask 1"
    assert (await anext(batches)).tolist() == [3, 4]
    await until(lambda: copies(gpu) == 3)
    assert (await anext(batches)).tolist() == [5]
    assert queue.host.log[-3:] == ["take [3, 4] of ask 1", "take [5] of ask 1", "ask 2"]
    assert gpu.host_waits == copies(gpu) == 3
    await batches.aclose()


async def test_rows_that_come_while_the_consumer_works_are_copied_then(queue: Any, gpu: CpuDevice) -> None:
    """The copy does not wait for the consumer's next step, only for its rows."""
    batches = queue.batches(1, prefetch=2, device="/gpu:0")
    await step(queue, batches, 0, 1)
    queue.host.calls[1].answer(2)
    await until(lambda: copies(gpu) == 2)
    assert queue.host.log[-1] == "ask 3"
    assert (await anext(batches)).tolist() == [2]
    queue.host.calls[2].waiter.fail(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost):
        await anext(batches)
    assert copies(gpu) == 2


async def test_batches_are_arrays_of_the_device(queue: Any, gpu: CpuDevice) -> None:
    """What is handed over is counted on the device as long as the consumer has it."""
    async with queue.batches(2, prefetch=1, device="/gpu:0") as batches:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step, queue, batches, 0, 1, 2)
        await until(lambda: gpu.memory().held == 0)
        queue.host.calls[1].answer(3, 4, 5)
        batch = await anext(batches)
        await until(lambda: gpu.memory().held == 3 * ROW_BYTES)  # with the copy ahead
        batch += 1  # it is the consumer's own
        assert batch.tolist() == [4, 5]
    del batch
    await until(lambda: gpu.memory().held == 0)


async def test_leaving_gives_back_what_was_copied(queue: Any, gpu: CpuDevice) -> None:
    """In order, as without a device; its memory is free."""
    batches = queue.batches(1, prefetch=2, device="/gpu:0")
    await step(queue, batches, 0, 1, 2, 3)
    await until(lambda: copies(gpu) == 2)
    await batches.aclose()
    assert queue.host.log[-3:] == ["take [1] of ask 1", "withdraw ask 1", "withdraw ask 2"]
    await until(lambda: gpu.memory().held == 0)
    assert [batch async for batch in batches] == []


async def test_a_dropped_iterator_gives_back_what_was_copied(queue: Any, gpu: CpuDevice) -> None:
    """Neither the device nor the session keeps it."""
    await step(queue, queue.batches(1, prefetch=2, device="/gpu:0"), 0, 1, 2, 3)
    gc.collect()
    assert queue.host.log[-2:] == ["withdraw ask 1", "withdraw ask 2"]
    await until(lambda: gpu.memory().held == 0)
    queue.host.calls[1].answer(4)
    assert not queue.devices._copies


async def test_a_recall_gives_back_what_was_copied(queue: Any, gpu: CpuDevice) -> None:
    """The next step asks anew, and hands over what comes then."""
    batches = queue.batches(1, prefetch=2, device="/gpu:0")
    await step(queue, batches, 0, 1, 2, 3)
    await until(lambda: copies(gpu) == 2)
    queue.host.calls[0].recall()
    assert queue.host.log[-2:] == ["withdraw ask 1", "withdraw ask 2"]
    assert not queue.devices._copies
    assert await step(queue, batches, 2, 7, 8) == [7]
    await batches.aclose()


async def test_a_recall_of_what_comes_later_leaves_the_copy(queue: Any, gpu: CpuDevice) -> None:
    """Only what is behind it goes back, and the copy is handed over as it is."""
    batches = queue.batches(1, prefetch=2, device="/gpu:0")
    await step(queue, batches, 0, 1, 2)
    await until(lambda: copies(gpu) == 2)
    queue.host.calls[1].answer(3)
    queue.host.calls[1].recall()
    assert queue.host.log[-1] == "withdraw ask 2"
    assert (await anext(batches)).tolist() == [2]
    assert copies(gpu) == 2
    await batches.aclose()


async def test_a_recall_under_a_copying_step_waits_for_it(queue: Any, gpu: CpuDevice) -> None:
    """The step has its batch; the rest goes back after it, and nothing of it is copied."""
    batches = queue.batches(1, prefetch=2, device="/gpu:0")
    got: list[list[int]] = []
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            with held(gpu):
                tasks.start_soon(take, batches, got)
                await anyio.wait_all_tasks_blocked()
                queue.host.calls[0].answer(1, 2, 3)
                await anyio.wait_all_tasks_blocked()
                queue.host.calls[0].recall()
                assert not any(entry.startswith("withdraw") for entry in queue.host.log)
    assert got == [[1]]
    assert queue.host.log[-3:] == ["take [1] of ask 1", "withdraw ask 1", "withdraw ask 2"]
    assert copies(gpu) == 1


async def test_a_step_that_is_cancelled_while_it_copies_took_nothing(queue: Any, gpu: CpuDevice) -> None:
    """All goes back, and a later step asks anew."""
    batches = queue.batches(1, prefetch=2, device="/gpu:0")
    with anyio.fail_after(TEST_S), held(gpu):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, batches)
            await anyio.wait_all_tasks_blocked()
            queue.host.calls[0].answer(1, 2)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert queue.host.log[-2:] == ["withdraw ask 1", "withdraw ask 2"]
    assert not any(entry.startswith("take") for entry in queue.host.log)
    assert await step(queue, batches, 2, 5) == [5]
    await batches.aclose()


async def test_a_copy_of_rows_that_a_reconnect_took_back_is_not_handed_over(queue: Any, gpu: CpuDevice) -> None:
    """Neither one that was ready between steps, nor one that a step waits for: others may come in their place."""
    batches = queue.batches(1, prefetch=1, device="/gpu:0")
    await step(queue, batches, 0, 1, 2)
    await until(lambda: copies(gpu) == 2)
    queue.host.calls[0].lose()
    queue.host.calls[0].answer(5, 6)
    assert (await anext(batches)).tolist() == [5]
    got: list[list[int]] = []
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            await until(lambda: copies(gpu) == 4)
            queue.host.calls[0].lose()
            queue.host.calls[0].answer(7)
            with held(gpu):
                tasks.start_soon(take, batches, got)
                await anyio.wait_all_tasks_blocked()
                queue.host.calls[0].lose()
            await anyio.wait_all_tasks_blocked()
            assert not got
            queue.host.calls[0].answer(9)
    assert got == [[9]]
    assert [entry for entry in queue.host.log if entry.startswith("take")] == [
        "take [1] of ask 1",
        "take [5] of ask 1",
        "take [9] of ask 1",
    ]
    await batches.aclose()


async def test_a_batch_that_does_not_fit_goes_back(queue: Any, gpu: CpuDevice) -> None:
    """DeviceOutOfMemory has the figures, nothing was acknowledged, and a later step may try again."""
    batches = queue.batches(5, prefetch=2, device="/gpu:0")
    with pytest.raises(DeviceOutOfMemory) as caught:
        await step(queue, batches, 0, 1, 2, 3, 4, 5)
    assert (caught.value.asked, caught.value.held, caught.value.limit) == (40, 0, 32)
    assert queue.host.log[-2:] == ["withdraw ask 1", "withdraw ask 2"]
    assert not any(entry.startswith("take") for entry in queue.host.log)
    assert await step(queue, batches, 2, 1, 2, 3) == [1, 2, 3]
    await batches.aclose()


async def test_a_copy_ahead_that_did_not_fit_is_made_at_the_step(queue: Any, gpu: CpuDevice) -> None:
    """The consumer still had the last batch then; with less memory there is less overlap, and no error."""
    batches = queue.batches(3, prefetch=1, device="/gpu:0")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answered, queue, 0, 1, 2, 3, 4, 5, 6)
        batch = await anext(batches)
    await until(lambda: [entry.action for entry in tuple(gpu.trace)].count("fail") == 1)
    assert batch.tolist() == [1, 2, 3]
    del batch
    await until(lambda: gpu.memory().held == 0)
    assert (await anext(batches)).tolist() == [4, 5, 6]
    assert copies(gpu) == 3
    await batches.aclose()


async def test_an_error_of_the_device_goes_back_too(queue: Any, gpu: CpuDevice) -> None:
    """It is raised by the step in which the batch would have been handed over; all is the queue's again."""
    batches = queue.batches(1, prefetch=1, device="/gpu:0")
    gpu.fail("event", DeviceError("fell off the bus"))
    with pytest.raises(DeviceError, match="fell off"):
        await step(queue, batches, 0, 1, 2)
    assert queue.host.log[-1] == "withdraw ask 1"
    assert await step(queue, batches, 1, 1, 2) == [1]
    await batches.aclose()


async def test_a_device_that_is_closed_is_unavailable(queue: Any, gpu: CpuDevice) -> None:
    """Before a copy begins, and while a step waits for one."""
    batches = queue.batches(1, prefetch=1, device="/gpu:0")

    async def close() -> None:
        await anyio.to_thread.run_sync(gpu.close)

    async def closed() -> None:
        for _ in range(2):
            with pytest.raises(DeviceUnavailable, match="closed"):
                await anext(batches)

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            with held(gpu):
                tasks.start_soon(closed)
                await anyio.wait_all_tasks_blocked()
                queue.host.calls[0].answer(1, 2)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(close)
                await until(lambda: gpu._copies.is_closing)
            await answered(queue, 1, 1, 2)
    assert [entry for entry in queue.host.log if not entry.startswith("promote")] == [
        "ask 1",
        "withdraw ask 1",
        "ask 2",
        "withdraw ask 2",
    ]


async def test_the_close_of_the_session_drops_copies(queue: Any, gpu: CpuDevice) -> None:
    """Those that a step waits for and those that are ready: the steps raise SessionClosed, and took nothing."""
    waits = queue.batches(1, prefetch=1, device="/gpu:0")
    holds = queue.batches(1, prefetch=1, device="/gpu:0")
    await step(queue, holds, 0, 1, 2)
    await until(lambda: copies(gpu) == 2)

    async def closed() -> None:
        with pytest.raises(SessionClosed):
            await anext(waits)

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            with held(gpu):
                tasks.start_soon(closed)
                await anyio.wait_all_tasks_blocked()
                queue.host.calls[1].answer(3)
                await anyio.wait_all_tasks_blocked()
                await queue.devices.close()
    with pytest.raises(SessionClosed):
        await anext(holds)
    assert [entry for entry in queue.host.log if entry.startswith(("take", "withdraw"))] == [
        "take [1] of ask 1",
        "withdraw ask 2",
        "withdraw ask 1",
    ]
    await until(lambda: gpu.memory().held == 0)


async def test_without_prefetch_a_step_asks_for_itself(queue: Any, gpu: CpuDevice) -> None:
    """For one batch, by a request that shows whether its rows are still there when they have been copied."""
    batches = queue.batches(2, prefetch=0, device="/gpu:0")
    assert await step(queue, batches, 0, 1, 2) == [1, 2]
    assert queue.host.asked == (2, 1)
    assert queue.host.log == ["ask 1", "promote ask 1", "take [1, 2] of ask 1"]
    assert await step(queue, batches, 1, 3) == [3]
    assert copies(gpu) == 2


async def test_a_device_of_the_host_itself(queue: Any, gpu: CpuDevice) -> None:
    """Nothing is copied: batches are as without a device."""
    async with queue.batches(1, prefetch=1, device="/cpu:0") as batches:
        assert await step(queue, batches, 0, 1, 2) == [1]
        assert (await anext(batches)).tolist() == [2]
    assert not gpu.trace


async def test_devices_that_are_not_there_are_refused(queue: Any) -> None:
    """What is no name when the iterator is made, the rest in its first step, with what there is."""
    with pytest.raises(PlacementError, match="no device name"):
        queue.batches(1, device="gpu-0")
    with pytest.raises(SpecMismatch):
        queue.batches(0, device="/gpu:0")
    batches = queue.batches(1, device="/gpu:1")
    for _ in range(2):
        with pytest.raises(PlacementError, match=r"'/device:GPU:1'; there is .*CPU:0, .*GPU:0"):
            await anext(batches)
    queue.opened = OpenDevices(queue.opened.devices[:1], (), "no driver")
    queue.devices = None
    with pytest.raises(DeviceUnavailable, match="no driver"):
        await anext(queue.batches(1, device="/gpu:0"))
    assert queue.host.log == []


async def test_rows_of_a_session_that_is_over_are_not_handed_over(
    queue: Any, gpu: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when they were copied: the step raises why."""
    batches = queue.batches(1, prefetch=1, device="/gpu:0")
    await step(queue, batches, 0, 1, 2)
    await until(lambda: copies(gpu) == 2)

    def over(_: int) -> None:
        raise ConnectionLost("gone")

    monkeypatch.setattr(queue.host.calls[0], "take", over)
    with pytest.raises(ConnectionLost):
        await anext(batches)
    assert queue.host.log[-1] == "withdraw ask 1"
    await until(lambda: gpu.memory().held == 0)


async def test_waiting_for_a_copy_gives_others_a_turn(queue: Any, gpu: CpuDevice) -> None:
    """A loop over copies that are ready lets other tasks run, and meets its cancellation."""
    rows = np.arange(200_000).tolist()
    batches = queue.batches(1, prefetch=1, device="/gpu:0")
    await step(queue, batches, 0, *rows)
    with anyio.move_on_after(0.01) as scope:
        while True:
            await anext(batches)
    assert scope.cancelled_caught
    assert len(gpu.trace) > 0
