"""Iterators that ask ahead, against a queue in this process that serves them: nothing is lost, nothing comes twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import aioflow as flow
from aioflow.queues import Completed, Failed, Recall, gather
from aioflow.runtime import EmbeddedHost, SessionConfig, Waiter, Withdrawn
from aioflow.specs import pad_column

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioflow.queues import Effect, Rows, Ticket
    from aioflow.resources import QueueRef, QueueResource
    from aioflow.runtime import Request
    from aioflow.specs import Column, Dense

pytestmark = pytest.mark.anyio

ELEMENTS = 2000
TEST_S = 30.0


class AheadRequest:
    """A request ahead of a queue in this process."""

    def __init__(
        self, host: AheadHost, queue: QueueResource, ticket: Ticket, on_recall: Callable[[Request], None]
    ) -> None:
        self.waiter: Waiter[Any] = Waiter()
        self.rows_left = 0
        self.on_recall = on_recall
        self.ticket = ticket
        self._host = host
        self._queue = queue
        self._columns: tuple[Dense, ...] = ()
        self._count = 0

    def answer(self, rows: Rows) -> None:
        self._columns = tuple(map(pad_column, gather(rows, self._queue.definition.element)))
        self.rows_left = self._count = rows.count
        self.waiter.resolve(None)

    def columns(self) -> tuple[Dense, ...]:
        raise AssertionError("a request hands over by take")

    def acknowledge(self) -> None:
        raise AssertionError("a request hands over by take")

    def peek(self, count: int) -> tuple[Dense, ...]:
        assert 0 < count <= self.rows_left
        start = self._count - self.rows_left
        return tuple(column[start : start + count] for column in self._columns)  # type: ignore[index]

    def take(self, count: int) -> tuple[Dense, ...]:
        columns = self.peek(count)
        self.rows_left -= count
        self._queue.machine.acknowledge(self.ticket, self._count - self.rows_left)
        self._host.perform(self._queue)
        return columns

    def take_as(self, count: int, read: Callable[[tuple[Column, ...]], list[Any]]) -> Any:
        [value] = read(self.take(count))
        return value

    def take_quickly(self, turn: float, count: int, read: Any) -> Any:
        assert turn
        if self.rows_left <= count:
            return None
        return self.take(count) if read is None else self.take_as(count, read)

    def promote(self) -> None:
        self._queue.machine.promote(self.ticket)
        self._host.perform(self._queue)

    def withdraw(self) -> None:
        self.rows_left = 0
        if not self.waiter.is_set:
            self._queue.machine.cancel(self.ticket)
            self.waiter.fail(Withdrawn(0))
        self._queue.machine.restore(self.ticket)
        self._host.perform(self._queue)


class AheadHost(EmbeddedHost):
    """Asks ahead, as a host behind a connection does; a recall comes a little later, as from there."""

    def __init__(self, config: SessionConfig) -> None:
        super().__init__(config)
        self.requests: dict[Ticket, AheadRequest] = {}
        self.runs: list[int] = []
        self.recalls: list[Ticket] = []
        self.is_recalled = anyio.Event()

    def ask(self, ref: QueueRef, count: int, runs: int, on_recall: Callable[[Request], None]) -> Any:
        queue = self._attach(ref)
        ticket = queue.machine.ask(count, runs)
        request = self.requests[ticket] = AheadRequest(self, queue, ticket, on_recall)
        self.perform(queue)
        return request

    def perform(self, queue: QueueResource) -> None:
        take_effects = queue.take_effects

        def others() -> list[Effect]:
            return [effect for effect in take_effects() if not self._answer(effect)]

        queue.take_effects = others  # type: ignore[method-assign]
        try:
            super().perform(queue)
        finally:
            queue.take_effects = take_effects  # type: ignore[method-assign]

    async def recall(self, pause: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await self.is_recalled.wait()
            await pause()
            self.is_recalled = anyio.Event()
            recalls, self.recalls = self.recalls, []
            for ticket in recalls:
                self.requests[ticket].on_recall(self.requests[ticket])

    def _answer(self, effect: Effect) -> bool:
        request = self.requests.get(effect.ticket)
        if request is None:
            return False
        match effect:
            case Recall(ticket):
                self.recalls.append(ticket)
                self.is_recalled.set()
            case Completed(_, rows):
                assert rows is not None
                self.runs.append(rows.count)
                request.answer(rows)
            case Failed(_, error):
                request.waiter.fail(error)
        return True


class Consumers:
    """What several consumers of a queue got."""

    def __init__(self, queue: Any, rng: random.Random) -> None:
        self.got: list[int] = []
        self.ended = 0
        self._queue = queue
        self._rng = rng

    async def pause(self) -> None:
        for _ in range(self._rng.choice([0, 0, 0, 1, 5])):
            await anyio.lowlevel.checkpoint()

    async def iterate(self, make: Callable[[], Any]) -> None:
        """Iterate, and leave now and then: by a break, or by a cancel at a step."""
        while True:
            steps = self._rng.choice([1, 5, 100, ELEMENTS])
            with anyio.CancelScope() as scope:
                async with make() as iterator:
                    async for batch in iterator:
                        self.got.extend(batch.ravel().tolist())
                        await self.pause()
                        steps -= 1
                        if not steps:
                            break
                        if self._rng.random() < 0.01:
                            scope.cancel()
                    else:
                        self.ended += 1
                        return

    async def dequeue(self) -> None:
        """Get elements, and give up now and then."""
        while True:
            with anyio.move_on_after(self._rng.choice([0.0005, 1])):
                try:
                    self.got.append(int(await self._queue.dequeue()))
                except flow.EndOfQueue:
                    self.ended += 1
                    return
            await self.pause()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["FIFOQueue", "RandomShuffleQueue"])
async def test_every_element_is_handed_over_once(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Iterators that are left, cancelled and recalled, beside gets, take each element exactly once, to the end."""
    monkeypatch.setattr("aioflow.client._session.EmbeddedHost", AheadHost)
    rng = random.Random(seed)
    queue: Any = (
        flow.FIFOQueue(rng.choice([4, 20, 200]), "int64", ())
        if kind == "FIFOQueue"
        else flow.RandomShuffleQueue(rng.choice([20, 200]), 10, "int64", ())
    )
    consumers = Consumers(queue, rng)
    async with flow.Session() as session:
        host: Any = session.host
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumers.iterate, lambda: aiter(queue))
                tasks.start_soon(consumers.iterate, lambda: queue.batches(3))
                tasks.start_soon(consumers.iterate, lambda: queue.batches(3, device="/gpu:0"))
                tasks.start_soon(consumers.dequeue)
                tasks.start_soon(host.recall, consumers.pause)
                async with queue.writer(delay_s=0.001) as writer:
                    for number in range(0, ELEMENTS, 10):
                        await writer.write(number)
                        await writer.write_many(range(number + 1, number + 10))
                        await consumers.pause()
                await queue.close()
                while consumers.ended < 4:
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        stats = await queue.stats()
    assert sorted(consumers.got) == list(range(ELEMENTS))
    assert (stats.size, stats.ahead, stats.unacknowledged, stats.dequeued) == (0, 0, 0, ELEMENTS)
    assert queue.definition.capacity < 20 or max(host.runs) > 1
