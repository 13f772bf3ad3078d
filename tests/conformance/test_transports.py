"""Every transport keeps the promises of `aioflow.transport`, on every event loop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from aioflow.keys import make_keys
from aioflow.testing._transport_suite import TRANSPORT_CHECKS, Check
from aioflow.transport import Transport
from aioflow_inproc import InprocTransport
from aioflow_shm import ShmTransport
from aioflow_zmq import ZmqTransport

pytestmark = pytest.mark.anyio

_numbers = count()


EVENT_LOOPS: dict[str, tuple[str, dict[str, bool]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@pytest.fixture(params=list(EVENT_LOOPS.values()), ids=list(EVENT_LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Each event loop that is supported."""
    return request.param


@pytest.fixture
def make_address(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Make addresses of one scheme that nobody uses."""
    with tempfile.TemporaryDirectory(prefix="af") as folder:  # short: the path of a socket has at most 107 bytes
        forms = {
            "inproc": lambda: f"inproc://suite-{next(_numbers)}",
            "ipc": lambda: f"ipc://{folder}/{next(_numbers)}",
            "tcp": lambda: "tcp://127.0.0.1:0",
            "shm": lambda: f"shm://{folder}/{next(_numbers)}",
        }
        yield forms[request.param]
        assert not list(Path(folder).iterdir()), "a listener left a file behind"


def _small_queues() -> Transport:
    return ZmqTransport(messages_max=4)


_keys: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _make_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    _keys[:] = [tmp_path_factory.mktemp("keys")]
    make_keys(_keys[0])


def _with_keys() -> Transport:
    return ZmqTransport(_keys[0], messages_max=4)


def _little_memory() -> Transport:
    return ShmTransport(memory_bytes=8 << 20, poison=True)


def _no_memory() -> Transport:
    return ShmTransport(memory_bytes=0)


CASES = [
    pytest.param(InprocTransport, "inproc", id="inproc"),
    pytest.param(_small_queues, "ipc", id="ipc"),
    pytest.param(_small_queues, "tcp", id="tcp"),
    pytest.param(ZmqTransport, "ipc", id="ipc-default"),
    pytest.param(_with_keys, "ipc", id="ipc-keys"),
    pytest.param(_with_keys, "tcp", id="tcp-keys"),
    pytest.param(ShmTransport, "shm", id="shm"),
    pytest.param(_little_memory, "shm", id="shm-little-memory"),
    pytest.param(_no_memory, "shm", id="shm-no-memory"),
]


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("make_transport", "make_address"), CASES, indirect=["make_address"])
async def test_transport(
    make_transport: Callable[[], Transport], make_address: Callable[[], str], check: Check
) -> None:
    """One check of the conformance suite holds."""
    await check(make_transport, make_address)
