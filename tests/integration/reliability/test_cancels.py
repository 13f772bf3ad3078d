"""Calls that are cancelled at random over real sockets, with puts and gets in flight: none lost, none doubled."""

from __future__ import annotations

import math
import random
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import anyio
import pytest

import aioflow as flow
from aioflow.testing._queue_stage import ints
from tests.integration.reliability.checker import Verdict, check_total
from tests.integration.reliability.conftest import Figure, StartServer
from tests.integration.reliability.scale import CANCELS, TEST_S

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(TEST_S)]

CANCEL_MAX_S = 0.002
CALM = 0.4  # the share of calls without a deadline: so that there is always something on its way
TASKS = 2  # that put, and as many that take
ROWS_MAX = 6
STEPS = 8  # of an iterator, before another one is begun
CAPACITY = 8

LOOPS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


class Storm:
    """Tasks that put and take, each call under a deadline at random, until enough of them were cancelled."""

    def __init__(self, puts: flow.Queue, gets: flow.Queue, cancels: int, seed: str) -> None:
        self.by_call: Counter[str] = Counter()
        self.attempted: list[int] = []
        self.accepted: list[int] = []
        self.dequeued: list[int] = []
        self.doubts = 0
        self._puts = puts
        self._gets = gets
        self._left = cancels
        self._chance = random.Random(seed)
        self._numbers = count()

    async def run(self) -> Verdict:
        """Run it, drain the queue, and compare."""
        async with anyio.create_task_group() as takers:
            async with anyio.create_task_group() as putters:
                for _ in range(TASKS):
                    putters.start_soon(self._put)
                    takers.start_soon(self._take)
            await self._puts.close()
        async for batch in self._gets.batches(ROWS_MAX):
            self.dequeued += batch.tolist()
        # What was withdrawn was not attempted: should it come, it is unexpected.
        return check_total(self.attempted, self.accepted, self.dequeued)

    async def _cancelled(self, name: str, call: Callable[[], Awaitable[None]]) -> None:
        is_calm = self._chance.random() < CALM
        with anyio.move_on_after(math.inf if is_calm else self._chance.uniform(0, CANCEL_MAX_S)) as scope:
            await call()
        if scope.cancel_called:
            self._left -= 1
            self.by_call[name] += 1

    async def _put(self) -> None:
        while self._left > 0:
            rows = [next(self._numbers) for _ in range(self._chance.randint(1, ROWS_MAX))]
            if self._chance.random() < 0.5:
                await self._cancelled("enqueue", partial(self._put_rows, rows[:1], many=False))
            else:
                await self._cancelled("enqueue_many", partial(self._put_rows, rows, many=True))

    async def _put_rows(self, rows: list[int], *, many: bool) -> None:
        try:
            await (self._puts.enqueue_many(rows) if many else self._puts.enqueue(rows[0]))
        except anyio.get_cancelled_exc_class() as cancelled:
            notes = " ".join(getattr(cancelled, "__notes__", ()))
            stayed = re.search(r"(\d+) rows are in the queue", notes)
            accepted = rows[: int(stayed[1])] if stayed else []
            in_doubt = "in doubt" in notes
            self.doubts += in_doubt
            self.attempted += rows if in_doubt else accepted
            self.accepted += accepted
            raise
        self.attempted += rows
        self.accepted += rows

    async def _take(self) -> None:
        """Take until the queue has ended; what a `dequeue_many` leaves is for the drain."""
        with suppress(flow.EndOfQueue):
            while True:
                match self._chance.randrange(5):
                    case 0:
                        await self._cancelled("dequeue", partial(self._take_rows, self._gets.dequeue))
                    case 1:
                        take = partial(self._gets.dequeue_many, self._chance.randint(1, ROWS_MAX))
                        await self._cancelled("dequeue_many", partial(self._take_rows, take))
                    case 2:
                        take = partial(self._gets.dequeue_up_to, self._chance.randint(1, ROWS_MAX))
                        await self._cancelled("dequeue_up_to", partial(self._take_rows, take))
                    case 3:
                        await self._iterate("batches", self._gets.batches(self._chance.randint(1, 3)))
                    case _:
                        await self._iterate("iteration", aiter(self._gets))

    async def _iterate(self, name: str, steps: Any) -> None:
        """Take some steps, those after a cancelled one too, and leave the iterator."""
        with suppress(StopAsyncIteration):
            async with steps:
                for _ in range(self._chance.randint(1, STEPS)):
                    await self._cancelled(name, partial(self._take_rows, steps.__anext__))

    async def _take_rows(self, call: Callable[[], Awaitable[Any]]) -> None:
        result = await call()
        self.dequeued += result.reshape(-1).tolist()


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_random_cancels(
    start_server: StartServer, figure: Figure, request: pytest.FixtureRequest, scheme: str
) -> None:
    """Within 0 to 2 ms, in every call: what was accepted comes out once, what was withdrawn never does."""
    server, address = start_server(scheme)
    q = ints(CAPACITY, shared_name="q")
    with anyio.fail_after(TEST_S / 3):
        async with flow.Session(address) as first, flow.Session(address) as second:
            storm = Storm(q.on(first), q.on(second), CANCELS, request.node.name)
            verdict = await storm.run()
    figure("cancelled", f"{storm.by_call.total()}: {dict(sorted(storm.by_call.items()))}")
    figure("lost, doubled", f"{verdict.lost.total()}, {verdict.duplicated.total()} of {len(storm.dequeued)}")
    assert verdict.is_faultless, verdict
    assert storm.doubts == 0
    assert len(storm.by_call) == 7
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output
