"""Graphs over three servers in one event loop: what sessions share, and what is left of one that is over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import anyio
import pytest

import aioflow as flow

pytestmark = pytest.mark.anyio

TEST_S = 10.0
TASKS = ["/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"]
CONFIG = flow.SessionConfig(connect_s=2, heartbeat_s=0.2, lost_s=0.5, session_s=1.5)

_numbers = count()


@asynccontextmanager
async def cluster() -> AsyncGenerator[list[flow.Server]]:
    """Serve a ps and two workers."""
    number = next(_numbers)
    ps, *workers = (f"inproc://cluster-{number}-{task}" for task in range(3))
    jobs = {"ps": [ps], "worker": workers}
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(flow.Server(jobs, job, task, config=CONFIG, ops=[__name__]))
            for job, task in [("ps", 0), ("worker", 0), ("worker", 1)]
        ]


async def until(is_so: Callable[[], Any]) -> None:
    """Give turns until something is so."""
    with anyio.fail_after(TEST_S):
        while not is_so():
            await anyio.sleep(0.001)


def ints(device: str, name: str = "numbers") -> flow.FIFOQueue:
    """Define a queue."""
    return flow.FIFOQueue(8, ["int64"], [()], shared_name=name, device=device)


async def test_a_dequeue_node_takes_nothing_once_its_session_is_closed() -> None:
    """On its master and on another task: what is put later is there for others."""
    for device in TASKS[:2]:
        async with cluster() as (ps, worker, other):
            queue = ints(device)
            with flow.Graph():
                taken = queue.nodes.dequeue()
            async with anyio.create_task_group() as group:
                session = await flow.Session(ps, config=CONFIG).open()
                group.start_soon(_run_and_be_closed, session, taken)
                async with flow.Session(other):
                    await until_waiting(queue)
                    await session.close()
                    await queue.enqueue(7)
                    with anyio.fail_after(TEST_S):
                        assert await queue.dequeue() == 7
            for server in (ps, worker):
                await until(partial(has_no_calls, server))


async def _run_and_be_closed(session: flow.Session, fetches: Any) -> None:
    with pytest.raises(flow.SessionClosed):
        await session.run(fetches)


def has_no_calls(server: flow.Server) -> bool:
    """Whether no queue of a server expects anything of a node."""
    return not server._broker._tickets.watched


async def until_waiting(queue: flow.FIFOQueue) -> None:
    """Wait until a get waits at a queue."""
    with anyio.fail_after(TEST_S):
        while not (await queue.stats()).gets_waiting:
            await anyio.sleep(0.001)
