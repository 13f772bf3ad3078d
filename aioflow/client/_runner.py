"""Runners: enqueue nodes that run again and again, and who stops them together.

From TensorFlow's QueueRunner and Coordinator, as far as tasks need them: what threads needed beyond that is the work of
a task group here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import anyio

from aioflow.client._session import Session, current_session
from aioflow.errors import AioflowError, EndOfQueue, GraphError, QueueClosed, SessionError
from aioflow.graph import Node
from aioflow.runtime import finish

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from anyio.abc import TaskGroup

    from aioflow.client._queue import Queue

__all__ = ["Coordinator", "QueueRunner"]

# How long a runner that is stopped waits for its queue to be closed: a server that does not answer cannot hold it.
CLOSE_S = 1.0


class QueueRunner:
    """Enqueue nodes of a queue, to be run by `Coordinator.start` again and again, all at once.

    The runner ends when the data does: when a node raises `EndOfQueue`, its own queue is open, and the others have
    ended too, the queue is closed, and what it holds can still be taken. Stopped or failed, it closes the queue with
    `cancel_pending_enqueues=True`.

    Args:
        queue: The queue that the nodes fill.
        enqueue_nodes: The nodes; one that is listed four times runs four times at once.

    Raises:
        GraphError: There is no node, or something else among them.
    """

    def __init__(self, queue: Queue, enqueue_nodes: Iterable[Node]) -> None:
        self.queue = queue
        self.nodes = tuple(enqueue_nodes)
        if not self.nodes or not all(isinstance(node, Node) for node in self.nodes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise GraphError(f"a QueueRunner needs one or more enqueue nodes, got {self.nodes!r}")


class Coordinator:
    """Starts runners and stops them together: `async with flow.Coordinator() as coordinator: ...`.

    Leaving the block stops them and waits until they have ended. The first error of a runner stops all, cancels the
    block, and is raised by it. `EndOfQueue` is no error, unless it tells of lost producers.
    """

    def __init__(self) -> None:
        self._group: TaskGroup | None = None
        self._error: BaseException | None = None
        self._was_entered = False
        self._running = 0
        self._all_ended = anyio.Event()

    def start(self, runner: QueueRunner, session: Session | None = None) -> None:
        """Run a runner's nodes until the data ends, an error, or the stop.

        Args:
            runner: The runner.
            session: Where its graph runs; None takes the current one.

        Raises:
            SessionError: The block of the coordinator was not entered, or was left.
            NoSession: No session is current, and none was given.
        """
        if self._group is None:
            raise SessionError("enter the coordinator first: `async with flow.Coordinator() as coordinator:`")
        found = session or current_session()
        if not isinstance(found, Session):
            raise SessionError("a kernel on a server has no session that could run a runner; start it in a client")
        if not self._running:
            self._all_ended = anyio.Event()
        self._running += 1
        self._group.start_soon(self._run, runner, found)

    async def join(self) -> None:
        """Wait until every runner has ended; a runner's error cancels this wait and is raised by the block."""
        if self._running:
            await self._all_ended.wait()

    def request_stop(self) -> None:
        """Stop the runners, and cancel the block."""
        if self._group is not None:
            self._group.cancel_scope.cancel()

    async def __aenter__(self) -> Self:
        """Begin."""
        if self._was_entered:
            raise SessionError("this coordinator was entered before; make a new one")
        self._was_entered = True
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Stop the runners, wait until they have ended, and raise the first error."""
        group, self._group = self._group, None
        assert group is not None
        group.cancel_scope.cancel()
        is_cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        given: tuple[Any, Any, Any] = (kind, error, traceback) if is_cancelled else (None, None, None)
        is_ours = await group.__aexit__(*given)
        if self._error is not None and (error is None or is_cancelled):
            raise self._error
        return is_cancelled and bool(is_ours)

    async def _run(self, runner: QueueRunner, session: Session) -> None:
        queue = runner.queue.within(session)
        is_closed = False
        try:
            async with anyio.create_task_group() as group:
                for node in runner.nodes:
                    group.start_soon(self._repeat, node, session)
            if self._error is None:  # on trio the last node to fail is awaited without a cancellation being raised
                with suppress(QueueClosed):
                    await queue.close()
                is_closed = True
        finally:
            if not is_closed:
                await finish(lambda: _cancel_queue(queue))
            self._running -= 1
            if not self._running:
                self._all_ended.set()

    async def _repeat(self, node: Node, session: Session) -> None:
        try:
            while True:
                await session.run(node)
        except EndOfQueue as end:
            if end.lost_producers:
                self._fail(end)
        except Exception as error:  # noqa: BLE001 - whatever it is, the block raises it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self.request_stop()


async def _cancel_queue(queue: Queue) -> None:
    with anyio.move_on_after(CLOSE_S), suppress(AioflowError):
        await queue.close(cancel_pending_enqueues=True)
