"""Work is launched from an event loop, which is not blocked by it: blockbuster watches."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest

from aioflow.devices import CpuDevice

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: devices know of no event loop."""
    return "asyncio"


async def test_a_loop_launches_and_is_called_back() -> None:
    """Threads start, values go and come, and a launch is cancelled and released; only the close blocks."""
    loop = asyncio.get_running_loop()
    device = CpuDevice("/gpu:0")
    stream = device.streams[0]
    value = stream.launch(lambda x: x + 1, [np.arange(3)])
    other = device.streams[1].launch(lambda x: x, [value])
    future: asyncio.Future[Any] = loop.create_future()

    def done(host: Any, error: BaseException | None) -> None:
        loop.call_soon_threadsafe(future.set_result, (host, error))

    stream.when_done(value, done)
    other.cancel()
    value.release()
    with anyio.fail_after(5):
        host, error = await future
    assert error is None
    np.testing.assert_array_equal([1, 2, 3], host)
    assert device.info().kind == "GPU"
    assert device.memory().held <= host.nbytes
    await anyio.to_thread.run_sync(device.close)
