"""What the transport tests share."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import numpy as np
import pytest

from aioflow.testing._transport_ends import BOUND_S, Stage
from aioflow.transport import Frame, Transport
from aioflow_shm import ShmTransport
from aioflow_zmq import ZmqTransport

MakeAddress = Callable[[str], str]
OpenStage = Callable[[str], AbstractAsyncContextManager[Stage]]


def is_in_memory(frame: Frame) -> bool:
    """Whether a frame is a view of a segment of shared memory."""
    return isinstance(frame, memoryview) and isinstance(frame.obj, np.ndarray) and frame.obj.base is not None


EVENT_LOOPS: dict[str, tuple[str, dict[str, bool]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


# Other processes take long to start: their tests run each scheme on two of the event loops.
_PAIRS = [
    pytest.param(EVENT_LOOPS[loop], scheme, id=f"{loop}-{scheme}")
    for loop, scheme in [
        ("asyncio", "ipc"),
        ("trio", "ipc"),
        ("asyncio", "tcp"),
        ("uvloop", "tcp"),
        ("uvloop", "shm"),
        ("trio", "shm"),
    ]
]
all_schemes = pytest.mark.parametrize(("anyio_backend", "scheme"), _PAIRS)
files = pytest.mark.parametrize(("anyio_backend", "scheme"), [pair for pair in _PAIRS if pair.values[1] != "tcp"])


@pytest.fixture(params=list(EVENT_LOOPS.values()), ids=list(EVENT_LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Each event loop that is supported."""
    return request.param


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="af") as name:
        yield Path(name)


@pytest.fixture
def free_address(folder: Path) -> MakeAddress:
    """Make an address of a scheme that nobody uses."""
    numbers = count()
    return lambda scheme: "tcp://127.0.0.1:0" if scheme == "tcp" else f"{scheme}://{folder}/{next(numbers)}"


def _transport(address: str) -> Transport:
    return ShmTransport(poison=True) if address.startswith("shm") else ZmqTransport(messages_max=4)


@pytest.fixture
def open_stage() -> OpenStage:
    """Open a listener of an address's transport, with small queues, and close what was joined to it."""

    @asynccontextmanager
    async def opened(address: str) -> AsyncGenerator[Stage]:
        with anyio.fail_after(BOUND_S):
            async with anyio.create_task_group() as tasks:
                stage = Stage(_transport(address), tasks)
                await stage.listen(address)
                yield stage
                await stage.aclose()

    return opened
