"""Steps with kernels on threads and streams: who goes on when these come back, and what memory is free then."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

import aioflow as flow
from aioflow.devices import CpuDevice, use_devices
from aioflow.testing._queue_stage import ints

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

TEST_S = 10.0


@pytest.fixture
def gpu() -> Iterator[CpuDevice]:
    """A CPU device in the place of a GPU."""
    with CpuDevice("/gpu:0") as device:
        yield device


@pytest.mark.parametrize("device", ["/cpu:0", "/gpu:0"])
async def test_a_thread_comes_back_while_a_coroutine_waits(device: str, gpu: CpuDevice) -> None:
    """A worker is hired for it, in the step's context: the session is current for what follows."""
    q = ints()
    came = anyio.Event()

    @flow.op
    async def wait() -> None:
        await came.wait()

    @flow.op
    def compute() -> int:
        return 7

    compute.kernel("gpu")(lambda: 7)

    @flow.op
    async def tell(value: int) -> None:
        await q.enqueue(value)
        came.set()

    with flow.Graph(), anyio.fail_after(TEST_S), use_devices(gpu):
        waited = wait()
        with flow.device(device):
            value = compute()
        told = tell(value)
        async with flow.Session() as session:
            for _ in range(3):
                came = anyio.Event()
                await session.run([waited, told])
                assert await q.dequeue() == 7


async def test_a_value_is_gone_before_what_waited_for_its_last_user() -> None:
    """By which control dependencies bound memory: the array of a kernel on a thread is no more when the next begins."""
    arrays: list[weakref.ref[Any]] = []

    @flow.op
    def make() -> Any:
        assert [array for array in arrays if array() is not None] == []
        made = np.zeros(1000)
        arrays.append(weakref.ref(made))
        return made

    @flow.op
    def use(array: Any) -> float:
        return float(array.sum())

    with flow.Graph(), anyio.fail_after(TEST_S):
        sums: list[flow.Node] = []
        for _ in range(20):
            with flow.control_dependencies(sums[-1:]):
                sums.append(use(make()))
        async with flow.Session() as session:
            for _ in range(5):
                arrays.clear()
                assert await session.run(sums) == [0.0] * 20
