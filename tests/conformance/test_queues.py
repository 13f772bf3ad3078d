"""A queue behaves the same in every kind of session, on every event loop."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any

import pytest

import aioflow as flow
from aioflow.testing._queue_stage import OpenSession
from aioflow.testing._queue_suite import QUEUE_CHECKS, SHARED_QUEUE_CHECKS, run_queue_check

pytestmark = pytest.mark.anyio

_numbers = count()

ASYNCIO: tuple[str, dict[str, Any]] = ("asyncio", {})
UVLOOP: tuple[str, dict[str, Any]] = ("asyncio", {"use_uvloop": True})
TRIO: tuple[str, dict[str, Any]] = ("trio", {})

PLACES = [
    pytest.param(loop, place, id=f"{name}-{place}")
    for name, loop, places in [
        ("asyncio", ASYNCIO, ("embedded", "inproc", "ipc", "tcp")),
        ("uvloop", UVLOOP, ("embedded", "ipc")),
        ("trio", TRIO, ("embedded", "ipc")),
    ]
    for place in places
]


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="af") as name:
        yield name


@asynccontextmanager
async def sessions(place: str, folder: str) -> AsyncGenerator[OpenSession]:
    """Give a function that opens sessions of a kind: embedded, or on a server at such an address."""
    if place == "embedded":
        yield flow.Session
        return
    number = next(_numbers)
    addresses = {"inproc": f"inproc://queues-{number}", "ipc": f"ipc://{folder}/{number}", "tcp": "tcp://127.0.0.1:0"}
    async with flow.Server({"local": [addresses[place]]}) as server:

        def open_session() -> AbstractAsyncContextManager[flow.Session]:
            return flow.Session(server.address)

        yield open_session


@pytest.mark.parametrize("check", QUEUE_CHECKS)
@pytest.mark.parametrize(("anyio_backend", "place"), PLACES)
async def test_queue(place: str, folder: str, check: str) -> None:
    """One check of the conformance suite holds."""
    async with sessions(place, folder) as open_session:
        await run_queue_check(check, open_session)


@pytest.mark.parametrize("check", SHARED_QUEUE_CHECKS)
@pytest.mark.parametrize(("anyio_backend", "place"), [param for param in PLACES if param.values[1] != "embedded"])
async def test_shared_queue(place: str, folder: str, check: str) -> None:
    """One check for sessions that share queues holds."""
    async with sessions(place, folder) as open_session:
        await run_queue_check(check, open_session)
