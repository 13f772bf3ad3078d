"""Batches come as CuPy arrays that are ready, and the next one is copied while the consumer works."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest

import aioflow as flow
from aioflow.errors import DeviceOutOfMemory
from aioflow.testing._queue_stage import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.gpu, pytest.mark.anyio]

TEST_S = 15.0


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio"), pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Each kind of event loop."""
    return request.param


@pytest.fixture
def cupy() -> Any:
    """CuPy, where there is a device."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    if not cupy.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return cupy


@asynccontextmanager
async def session(place: str) -> AsyncGenerator[flow.Session]:
    """Open a session of a kind."""
    if place == "embedded":
        async with flow.Session() as session:
            yield session
    else:
        async with flow.Server({"local": ["inproc://gpu-batches"]}) as server, flow.Session(server) as session:
            yield session


@pytest.mark.parametrize("place", ["embedded", "inproc"])
async def test_batches_are_cupy_arrays(place: str, cupy: Any) -> None:
    """Numbers on the device, with their dtype and shape; strings on the host."""
    q = flow.FIFOQueue(100, ["float32", "str"], [(3,), ()], names=["x", "name"], shared_name="q")
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    with anyio.fail_after(TEST_S):
        async with session(place):
            await q.enqueue_many({"x": rows, "name": list("abcdefghij")})
            await q.close()
            batches = [batch async for batch in q.batches(4, device="/gpu:0")]
    assert all(isinstance(batch["x"], cupy.ndarray) for batch in batches)
    assert [batch["x"].shape for batch in batches] == [(4, 3), (4, 3), (2, 3)]
    np.testing.assert_array_equal(rows, cupy.asnumpy(cupy.concatenate([batch["x"] for batch in batches])))
    assert "".join(name for batch in batches for name in batch["name"]) == "abcdefghij"


async def test_the_next_copy_is_made_while_the_device_computes(cupy: Any) -> None:
    """It is on the device before it is asked for, while kernels of the step before still run there."""
    q = flow.FIFOQueue(64, "float32", (1 << 16,), shared_name="q")
    rows = np.random.default_rng(0).standard_normal((16, 1 << 16)).astype(np.float32)
    with anyio.fail_after(TEST_S):
        async with session("inproc") as current:
            await q.enqueue_many(rows)
            async with q.batches(4, device="/gpu:0") as batches:
                sums, overlaps = [], 0
                for number in range(4):
                    batch = await anext(batches)
                    end = cupy.cuda.Event()
                    x = batch
                    for _ in range(300):
                        x = cupy.sqrt(x * x)
                    end.record()
                    (ahead,) = current._devices._copies or (None,)  # type: ignore[union-attr]
                    while number < 3 and (ahead is None or not ahead._waiter.is_set):
                        await anyio.lowlevel.checkpoint()
                        (ahead,) = current._devices._copies or (None,)  # type: ignore[union-attr]
                    overlaps += number < 3 and not end.done
                    sums.append(float(batch.sum(dtype=cupy.float64)))
    np.testing.assert_allclose(sums, rows.reshape(4, -1).sum(axis=1, dtype=np.float64), rtol=1e-5)
    assert overlaps


async def test_cancels_and_early_exits_lose_nothing(cupy: Any) -> None:
    """Accepted equals handed over, whatever was on its way to the device."""
    q = flow.FIFOQueue(1000, "int64", (), shared_name="q")
    got: list[int] = []
    with anyio.fail_after(TEST_S):
        async with session("inproc"):
            await q.enqueue_many(list(range(600)))
            for number in range(40):
                with anyio.move_on_after(0.001 * (number % 4)):
                    async with q.batches(5, device="/gpu:0") as batches:
                        for _ in range(3):
                            got.extend(cupy.asnumpy(await anext(batches)).tolist())
            await until(q, ahead=0, unacknowledged=0, size=600 - len(got))
            await q.close()
            async for batch in q.batches(50, device="/gpu:0"):
                got.extend(cupy.asnumpy(batch).tolist())
    assert sorted(got) == list(range(600))


async def test_a_batch_that_does_not_fit_is_still_there(cupy: Any) -> None:
    """DeviceOutOfMemory has the limit, and the elements are in the queue."""
    q = flow.FIFOQueue(10, "float32", (1 << 20,), shared_name="q")
    pool = cupy.get_default_memory_pool()
    with anyio.fail_after(TEST_S):
        async with session("inproc"):
            await q.enqueue_many(np.ones((2, 1 << 20), np.float32))
            pool.free_all_blocks()
            pool.set_limit(size=1 << 20)
            try:
                async with q.batches(2, device="/gpu:0") as batches:
                    with pytest.raises(DeviceOutOfMemory) as caught:
                        await anext(batches)
            finally:
                pool.set_limit(size=0)
            assert caught.value.limit == 1 << 20
            await until(q, size=2, ahead=0, unacknowledged=0)


async def test_batches_are_taken_by_torch_without_a_copy(cupy: Any) -> None:
    """By DLPack: both show the same memory."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    if not torch.cuda.is_available():
        pytest.skip("needs a PyTorch that was built for CUDA")
    q = flow.FIFOQueue(10, "float32", (2,))
    async with flow.Session():
        await q.enqueue_many(np.ones((3, 2), np.float32))
        await q.close()
        async for batch in q.batches(3, device="/gpu:0"):
            tensor = torch.from_dlpack(batch)
            tensor += 1
            torch.cuda.synchronize()
            assert batch.tolist() == [[2, 2]] * 3
