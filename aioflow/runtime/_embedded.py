"""The embedded host: queues in this process, calls as futures; no transport, no codec."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.errors import AioflowError, PlacementError, SessionClosed
from aioflow.queues import Completed, Failed, Rows, gather
from aioflow.resources import Resources
from aioflow.runtime._background import Background
from aioflow.runtime._clock import now
from aioflow.runtime._host import Withdrawn
from aioflow.runtime._timer import Timer
from aioflow.runtime._waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.names import DeviceName
    from aioflow.queues import Segment, Ticket
    from aioflow.resources import Assignment, LostProducer, QueueKey, QueueRef, QueueResource, VariableKey, VariableRef
    from aioflow.runtime._config import SessionConfig
    from aioflow.runtime._host import Request
    from aioflow.specs import Column

__all__ = ["EmbeddedHost"]

_SESSION = "embedded"

# Names by which a definition may call this process: TensorFlow's local job, and that of `Server({"local": ...})`.
_JOBS = frozenset({"localhost", "local"})


class _Call:
    """A call on a queue of this process."""

    __slots__ = ("_host", "_queue", "rows", "ticket", "waiter")

    def __init__(self, host: EmbeddedHost, queue: QueueResource, ticket: Ticket) -> None:
        self.waiter: Waiter[Any] = Waiter()
        self.rows: Rows | None = None
        self.ticket = ticket
        self._host = host
        self._queue = queue

    def columns(self) -> tuple[Column, ...]:
        assert self.rows is not None
        return gather(self.rows, self._queue.definition.element)

    def acknowledge(self) -> None:
        self._queue.machine.acknowledge(self.ticket)
        self._host.perform(self._queue)

    def withdraw(self) -> None:
        machine = self._queue.machine
        if not self.waiter.is_set:
            rows = machine.cancel(self.ticket)
            self._queue.cancel_join(self.ticket)
            self._host.forget(self._queue, self.ticket)
            self.waiter.fail(Withdrawn(rows or 0))
        machine.restore(self.ticket)
        self._host.perform(self._queue)


class _Answer:
    """A call that was answered on the spot."""

    __slots__ = ("waiter",)

    def __init__(self, compute: Callable[[], Any]) -> None:
        self.waiter: Waiter[Any] = Waiter()
        try:
            self.waiter.resolve(compute())
        except AioflowError as error:
            self.waiter.fail(error)

    def columns(self) -> tuple[Column, ...]:
        raise AssertionError("an answer has no rows")

    def acknowledge(self) -> None:
        pass

    def withdraw(self) -> None:
        pass


class EmbeddedHost:
    """Resources of one session in this process; they end with it."""

    def __init__(self, config: SessionConfig) -> None:
        self.lost_s = config.lost_s
        self.seen: set[QueueKey] = set()
        self._resources = Resources(np.random.default_rng, session_s=config.session_s)
        self._calls: dict[tuple[QueueResource, Ticket], _Call] = {}
        self._error: BaseException | None = None
        self._background = Background(self._failed)
        self._timer = Timer(self._resources.next_deadline, self._expire)

    async def open(self) -> None:
        """Start the timer."""
        group = await self._background.start()
        group.start_soon(self._timer.run)

    async def close(self) -> None:
        """End every call with `SessionClosed`."""
        self._fail_all(SessionClosed("the session was closed while this operation waited"))
        await self._background.stop()

    def check_task(self, device: DeviceName, key: QueueKey | VariableKey) -> None:
        """Refuse a device of another task than this process."""
        if device.job not in {None, *_JOBS} or device.task not in {None, 0}:
            raise PlacementError(
                f"{key.name!r} is placed on {str(device)!r}, but an embedded session has one task, "
                "/job:localhost/task:0; name no task, or open the session on a server of that cluster"
            )

    def put(self, ref: QueueRef, segment: Segment) -> _Call:
        """Enqueue the rows of a segment."""
        queue = self._attach(ref, puts=True)
        return self._track(queue, queue.machine.enqueue(segment))

    def get(self, ref: QueueRef, count: int, *, up_to: bool) -> _Call:
        """Dequeue rows."""
        queue = self._attach(ref)
        return self._track(queue, queue.machine.dequeue(count, up_to=up_to))

    def ask(self, ref: QueueRef, count: int, runs: int, on_recall: Callable[[Request], None]) -> None:
        """Ask for nothing ahead: the queue is here."""

    def close_queue(self, ref: QueueRef, *, cancel_pending: bool) -> _Call:
        """Close a queue."""
        queue = self._attach(ref)
        return self._track(queue, queue.machine.close(cancel_pending=cancel_pending))

    def size(self, ref: QueueRef) -> _Answer:
        """Count the elements."""
        return _Answer(lambda: len(self._attach(ref).machine))

    def is_closed(self, ref: QueueRef) -> _Answer:
        """Say whether the queue is closed."""
        return _Answer(lambda: self._attach(ref).machine.is_closed)

    def stats(self, ref: QueueRef) -> _Answer:
        """Take a snapshot."""
        return _Answer(lambda: self._attach(ref).stats())

    def lookup(self, key: QueueKey) -> _Answer:
        """Return the definition of a queue that exists."""
        return _Answer(lambda: self._resources.lookup(key))

    def delete(self, ref: QueueRef) -> _Answer:
        """Remove a queue."""
        queue = self._attach(ref)
        answer = _Answer(lambda: self._resources.delete(ref.key))
        self.perform(queue)
        return answer

    def read(self, ref: VariableRef) -> _Answer:
        """Read a variable."""
        return self._answered(lambda: self._resources.variable(ref).read())

    def assign(self, ref: VariableRef, how: Assignment, value: Column, *, fetch: bool) -> _Answer:  # noqa: ARG002 - cheap
        """Assign to a variable."""
        return self._answered(lambda: self._resources.variable(ref).assign(how, value))

    def reset(self, containers: Sequence[str]) -> _Answer:
        """Empty containers."""

        def empty() -> None:
            for queue in self._resources.reset(containers):
                self.perform(queue)

        return self._answered(empty)

    def join(self, ref: QueueRef, name: str, rejoin_s: float) -> _Call:
        """Register a producer."""
        queue = self._attach(ref, registers=True)
        give_up = now() + self.lost_s + 1
        ticket = queue.join(_SESSION, name, rejoin_s=rejoin_s, give_up=give_up)
        self._timer.changed()
        return self._track(queue, ticket)

    def leave(self, ref: QueueRef, name: str, lost: LostProducer | None) -> _Answer:
        """Take a producer out."""
        queue = self._attach(ref)
        answer = _Answer(lambda: queue.leave(name, lost, now()))
        self._timer.changed()
        self.perform(queue)
        return answer

    def _answered(self, compute: Callable[[], Any]) -> _Answer:
        if self._error is not None:
            raise copy.copy(self._error)
        return _Answer(compute)

    # Effects

    def perform(self, queue: QueueResource) -> None:
        """Resolve the calls that a queue's effects name."""
        for effect in queue.take_effects():
            call = self._calls.pop((queue, effect.ticket), None)
            if call is None:
                continue  # the queue's own close
            if isinstance(effect, Completed):
                call.rows = effect.rows
                call.waiter.resolve(None)
            elif isinstance(effect, Failed):
                call.waiter.fail(effect.error)

    def forget(self, queue: QueueResource, ticket: Ticket) -> None:
        """Expect no effect for a ticket any more."""
        self._calls.pop((queue, ticket), None)

    def _attach(self, ref: QueueRef, *, puts: bool = False, registers: bool = False) -> QueueResource:
        if self._error is not None:
            raise copy.copy(self._error)  # an instance that is raised again and again keeps every traceback
        return self._resources.attach(_SESSION, ref, puts=puts, registers=registers)

    def _track(self, queue: QueueResource, ticket: Ticket) -> _Call:
        call = self._calls[queue, ticket] = _Call(self, queue, ticket)
        self.perform(queue)
        return call

    def _expire(self, now: float) -> None:
        for queue in self._resources.expire(now):
            self.perform(queue)

    def _failed(self, error: BaseException) -> None:
        self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        self._error = self._error or error
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.waiter.fail(copy.copy(error))
