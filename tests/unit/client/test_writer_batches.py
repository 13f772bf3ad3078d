"""Groups of large elements: whole batches as consumers take them, so that these need not be copied together."""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np
import pytest

import aioflow as flow
from aioflow.client import _writer
from aioflow.client._group_size import GroupSize
from aioflow.queues import QueueDefinition
from tests.unit.client.test_writer import answer_all

pytestmark = pytest.mark.anyio

TEST_S = 5.0
ROW = np.zeros(400_000, np.uint8)


@pytest.fixture
def images(fake_queue: Any) -> Any:
    """A fake queue of numbers with 400 KB each."""
    fake_queue._definition = _definition(400_000)
    return fake_queue


def _definition(row_bytes: int, capacity: int = -1, capacity_bytes: int = 256_000_000) -> QueueDefinition:
    shapes: Any = [[], [row_bytes]]
    return flow.FIFOQueue(capacity, ["int64", "uint8"], shapes, capacity_bytes=capacity_bytes).definition


async def _write(writer: Any, *numbers: int) -> None:
    for number in numbers:
        await writer.write((np.int64(number), ROW))


async def test_whole_batches_go(images: Any) -> None:
    """At once when none is under way; what grows meanwhile goes when the next one is whole, not in its middle."""
    with anyio.fail_after(TEST_S):
        async with images.writer(batch=4, delay_s=60) as writer:
            await _write(writer, *range(10))
            assert images.host.log == ["put [0, 1, 2, 3]"]
            images.host.calls[0].answer()
            await _write(writer, 10)
            assert len(images.host.log) == 1
            await _write(writer, 11)
            assert images.host.log[1:] == ["put [4, 5, 6, 7, 8, 9, 10, 11]"]
            images.host.calls[1].answer()
        assert len(images.host.log) == 2


async def test_what_lies_in_two_pieces_goes_in_two(images: Any) -> None:
    """To make one of them would copy it."""
    with anyio.fail_after(TEST_S):
        async with images.writer(batch=4, delay_s=60) as writer:
            await _write(writer, *range(24))
            images.host.calls[0].answer()
            await _write(writer, 24)
            assert images.host.log == [f"put {list(rows)}" for rows in (range(4), range(4, 20), range(20, 24))]
            for call in images.host.calls[1:]:
                call.answer()
            await _write(writer, 25, 26, 27)
            assert images.host.log[3:] == ["put [24, 25, 26, 27]"]
            images.host.calls[3].answer()


async def test_batches_as_consumers_take_them(images: Any) -> None:
    """An answer tells how many they take, and how many rows lie behind the last whole batch: the next group ends it."""
    with anyio.fail_after(TEST_S):
        async with images.writer(batch=4, delay_s=60) as writer:
            await _write(writer, *range(4))
            images.host.calls[0].waiter.resolve((3, 1))
            for number in range(4, 12):
                await _write(writer, number)
                for call in images.host.calls:
                    call.waiter.resolve((3, 0))
            assert images.host.log == ["put [0, 1, 2, 3]", "put [4, 5]", "put [6, 7, 8]", "put [9, 10, 11]"]


@pytest.mark.parametrize("batch_bytes", [None, 6 * (ROW.nbytes + 8)], ids=["whole batches", "bytes as given"])
async def test_a_batch_that_fills_is_given_more_time(
    images: Any, monkeypatch: pytest.MonkeyPatch, batch_bytes: int | None
) -> None:
    """Thrice the delay where a third of it has come; the rest of one that was cut goes when that is whole."""
    time = 0.0
    sleeps: list[tuple[float, anyio.Event]] = []

    async def sleep(seconds: float) -> None:
        sleeps.append((seconds, anyio.Event()))
        await sleeps[-1][1].wait()

    async def wake(at: float) -> None:
        nonlocal time
        time = at
        sleeps[-1][1].set()
        await anyio.wait_all_tasks_blocked()

    with anyio.fail_after(TEST_S):
        async with (
            anyio.create_task_group() as tasks,
            images.writer(batch=6, batch_bytes=batch_bytes, delay_s=10) as writer,
        ):
            with monkeypatch.context() as patch:
                patch.setattr(_writer, "now", lambda: time)
                patch.setattr(anyio, "sleep", sleep)
                await _write(writer, 0)
                await anyio.wait_all_tasks_blocked()
                await wake(10.0)
                assert images.host.log == ["put [0]"]  # not a third
                images.host.calls[0].answer()
                await _write(writer, 1)
                await anyio.wait_all_tasks_blocked()
                await wake(20.0)
                assert sleeps[-1][0] == 20, "of six, two have come"
                await _write(writer, 2)
                await wake(40.0)
                assert images.host.log == ["put [0]", "put [1, 2]"]
                images.host.calls[1].answer()
                await _write(writer, 3, 4, 5)
                assert images.host.log[2:] == ["put [3, 4, 5]"]
                tasks.start_soon(answer_all, images)
                await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("batch_bytes", [None, 5 * 400_000], ids=["whole batches", "bytes as given"])
async def test_a_slow_writer_uses_its_memory(images: Any, batch_bytes: int | None) -> None:
    """What is flushed row by row lies row behind row: a place of many rows is not kept for one of them."""
    allocated: list[int] = []

    def allocate(nbytes: int) -> None:
        allocated.append(nbytes)

    images.host.allocate = allocate
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer_all, images)
            async with images.writer(batch=64, batch_bytes=batch_bytes, delay_s=60) as writer:
                for number in range(40):
                    await _write(writer, number)
                    await writer.flush()
            tasks.cancel_scope.cancel()
    assert sum(allocated) < 2 * 40 * ROW.nbytes


@pytest.mark.parametrize(
    ("definition", "batch", "batch_bytes", "expected"),
    [
        pytest.param(_definition(8), 64, None, (64, 512, 1, 2), id="small"),
        pytest.param(_definition(150_528), 64, None, (64, 64, 64, 1), id="images"),
        pytest.param(_definition(150_528), 64, 1 << 20, (6, 6, 6, 2), id="bytes as given"),
        pytest.param(_definition(150_528, 32), 64, None, (32, 32, 32, 1), id="more than the capacity"),
        pytest.param(_definition(20_000), 64, None, (64, 384, 64, 1), id="several batches while others are under way"),
        pytest.param(_definition(4 << 20), 64, None, (2, 2, 2, 1), id="too much for a batch"),
        pytest.param(_definition(4 << 20, -1, 1 << 30), 64, None, (7, 7, 7, 1), id="too much, with a large queue"),
        pytest.param(_definition(1 << 30), 64, None, (1, 1, 1, 1), id="a gigabyte"),
    ],
)
def test_sizes(
    definition: QueueDefinition, batch: int, batch_bytes: int | None, expected: tuple[int, int, int, int]
) -> None:
    """A writer's groups by the size of elements, with 256 MB in a queue."""
    size = GroupSize(definition, batch, batch_bytes)
    assert (size.rows, size.rows_max, size.unit, size.groups_max) == expected


@pytest.mark.parametrize(
    ("told", "unit"), [(32, 64), (1, 64), (64, 64), (48, 48), (128, 64), (70, 70)], ids="counts {}".format
)
def test_sizes_that_are_told(told: int, unit: int) -> None:
    """Groups change for batches that they would cut, and that are not too large."""
    size = GroupSize(_definition(150_528), 64, None)
    assert size.take_together(told) == (unit != 64)
    assert (size.unit, size.rows) == (unit, unit)


@pytest.mark.parametrize(
    ("batch", "told", "expected"),
    [
        pytest.param(1, (16, 1), [(16, 16), (1, 1)], id="one by one"),
        pytest.param(64, (70, 1, 64), [(70, 70), (1, 64), (64, 64)], id="and batches again"),
        pytest.param(64, (1, 32, 1), [(64, 64)] * 3, id="whole in any case"),
    ],
)
def test_sizes_of_consumers_that_have_gone(batch: int, told: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    """What they took does not hold up those that take less."""
    size = GroupSize(_definition(2_000_000), batch, 140 * 2_000_008)
    found: list[tuple[int, int]] = []
    for count in told:
        size.take_together(count)
        found.append((size.unit, size.rows))
    assert found == expected
