"""A host of resources that are in this process: calls as futures; no transport, no codec.

An embedded session has resources of its own. On a server the nodes of graphs use one, beside the sessions behind
connections, whose calls the broker answers by messages: whoever performs a queue's effects tells both.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from aioflow.errors import AioflowError, PlacementError
from aioflow.queues import Completed, Failed, Rows, gather
from aioflow.resources import QueueKey, QueueRef, ServerStats, VariableRef
from aioflow.runtime._clock import now
from aioflow.runtime._host import Withdrawn
from aioflow.runtime._waiter import Waiter
from aioflow.specs import pad_column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.names import DeviceName
    from aioflow.queues import Effect, Segment, Ticket
    from aioflow.resources import (
        Assignment,
        LostProducer,
        QueueResource,
        Resources,
        VariableKey,
        VariableResource,
    )
    from aioflow.runtime._host import Request
    from aioflow.specs import Dense
    from aioflow.transport import WritablePieces

__all__ = ["Dispatch", "LocalHost"]


class Dispatch(Protocol):
    """Who performs the effects of queues."""

    def watch(self, queue: QueueResource, ticket: Ticket, tell: Callable[[Effect], None]) -> None:
        """Tell of the next effect of a ticket, once."""
        ...

    def forget(self, queue: QueueResource, ticket: Ticket) -> None:
        """Expect no effect of a ticket any more."""
        ...

    def perform(self, queue: QueueResource) -> None:
        """Tell of the effects that a queue has now."""
        ...

    def deadline_moved(self) -> None:
        """Learn that something may be due earlier."""
        ...


class _Call:
    """A call on a queue of this process."""

    __slots__ = ("_host", "_queue", "rows", "ticket", "waiter")

    def __init__(self, host: LocalHost, queue: QueueResource, ticket: Ticket) -> None:
        self.waiter: Waiter[Any] = Waiter()
        self.rows: Rows | None = None
        self.ticket = ticket
        self._host = host
        self._queue = queue

    def columns(self) -> tuple[Dense, ...]:
        assert self.rows is not None
        return tuple(map(pad_column, gather(self.rows, self._queue.definition.element)))

    def tell(self, effect: Effect) -> None:
        self._host.settled(self)
        if isinstance(effect, Completed):
            self.rows = effect.rows
            self.waiter.resolve(None)
        elif isinstance(effect, Failed):
            self.waiter.fail(effect.error)

    def acknowledge(self) -> None:
        self._queue.machine.acknowledge(self.ticket)
        self._host.dispatch.perform(self._queue)

    def withdraw(self) -> None:
        if not self.waiter.is_set:
            rows = self._withdraw()
            self._host.settled(self)
            self.waiter.fail(Withdrawn(rows or 0))
        self._queue.machine.restore(self.ticket)
        self._host.dispatch.perform(self._queue)

    def end(self, error: BaseException) -> QueueResource:
        """Withdraw a call that waits, and fail it; whose effects are to be performed then."""
        self._withdraw()
        self._queue.machine.restore(self.ticket)  # it may have been served by what another withdrawal gave back
        self.waiter.fail(error)
        return self._queue

    def _withdraw(self) -> int | None:
        self._host.dispatch.forget(self._queue, self.ticket)
        self._queue.cancel_join(self.ticket)
        return self._queue.machine.cancel(self.ticket)


class _Answer:
    """A call that was answered on the spot."""

    __slots__ = ("waiter",)

    def __init__(self, compute: Callable[[], Any]) -> None:
        self.waiter: Waiter[Any] = Waiter()
        try:
            self.waiter.resolve(compute())
        except AioflowError as error:
            self.waiter.fail(error)

    def columns(self) -> tuple[Dense, ...]:
        raise AssertionError("an answer has no rows")

    def acknowledge(self) -> None:
        pass

    def withdraw(self) -> None:
        pass


class LocalHost:
    """Resources of this process, as one session uses them.

    Args:
        resources: The resources.
        dispatch: Who performs their effects.
        session: Whose calls these are: private queues and variables are this session's.
        task: The names of the task: its jobs and its index.
        tasks: How many tasks the cluster has.
        lost_s: After how long a silent holder of a producer's name counts as gone.
    """

    def __init__(
        self,
        resources: Resources,
        dispatch: Dispatch,
        session: str,
        *,
        jobs: Sequence[str],
        task: int,
        tasks: int,
        lost_s: float,
    ) -> None:
        self.lost_s = lost_s
        self.seen: set[QueueKey] = set()
        self.dispatch = dispatch
        self._resources = resources
        self._session = session
        self._jobs = jobs
        self._task = task
        self._tasks = tasks
        self._calls: dict[_Call, None] = {}  # those that wait
        self._error: BaseException | None = None

    async def open(self) -> None:
        """Do nothing: it is usable."""

    async def close(self) -> None:
        """Do nothing: whoever has the resources ends its calls."""

    async def reach(self, device: DeviceName, key: QueueKey | VariableKey) -> LocalHost:
        """Return this host.

        Raises:
            PlacementError: The device is one of another task.
        """
        check_task(device, key, self._jobs, self._task, self._tasks)
        return self

    @property
    def is_local(self) -> bool:
        """True: it is in this process."""
        return True

    def allocate(self, nbytes: int) -> memoryview | None:  # noqa: ARG002 - nothing is sent
        """None: rows stay where they are."""
        return None

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:  # noqa: ARG002 - as above
        """None: rows stay where they are."""
        return None

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

    async def server_stats(self) -> tuple[ServerStats, ...]:
        """Return a snapshot of this process's part."""
        return (ServerStats("", 0, tuple(self._resources.stats())),)

    def lookup(self, key: QueueKey) -> _Answer:
        """Return the definition of a queue that exists."""
        return _Answer(lambda: self._resources.lookup(self._own(key)))

    def delete(self, ref: QueueRef) -> _Answer:
        """Remove a queue."""
        queue = self._attach(ref)
        answer = _Answer(lambda: self._resources.delete(self._own(ref.key)))
        self.dispatch.perform(queue)
        return answer

    def read(self, ref: VariableRef) -> _Answer:
        """Read a variable."""
        return self._answered(lambda: self._variable(ref).read())

    def assign(self, ref: VariableRef, how: Assignment, value: Dense, *, fetch: bool) -> _Answer:  # noqa: ARG002 - cheap
        """Assign to a variable."""
        return self._answered(
            lambda: self._resources.variable(VariableRef(self._own(ref.key), ref.spec)).assign(how, value)
        )

    def reset(self, containers: Sequence[str]) -> _Answer:
        """Empty containers."""

        def empty() -> None:
            for queue in self._resources.reset(containers):
                self.dispatch.perform(queue)

        return self._answered(empty)

    def join(self, ref: QueueRef, name: str, rejoin_s: float) -> _Call:
        """Register a producer."""
        queue = self._attach(ref, registers=True)
        give_up = now() + self.lost_s + 1
        ticket = queue.join(self._session, name, rejoin_s=rejoin_s, give_up=give_up)
        self.dispatch.deadline_moved()
        return self._track(queue, ticket)

    def leave(self, ref: QueueRef, name: str, lost: LostProducer | None) -> _Answer:
        """Take a producer out."""
        queue = self._attach(ref)
        answer = _Answer(lambda: queue.leave(name, lost, now()))
        self.dispatch.deadline_moved()
        self.dispatch.perform(queue)
        return answer

    def _answered(self, compute: Callable[[], Any]) -> _Answer:
        if self._error is not None:
            raise copy.copy(self._error)
        return _Answer(compute)

    # Small moves

    def fail_all(self, error: BaseException) -> None:
        """End every call that waits, and all to come, with an error.

        The latest goes first, so that no withdrawal lets another one through.
        """
        self._error = self._error or error
        calls, self._calls = self._calls, {}
        queues = dict.fromkeys([call.end(copy.copy(error)) for call in reversed(calls)])
        for queue in queues:
            self.dispatch.perform(queue)

    def settled(self, call: _Call) -> None:
        """Learn that a call does not wait any more."""
        self._calls.pop(call, None)

    def _attach(self, ref: QueueRef, *, puts: bool = False, registers: bool = False) -> QueueResource:
        if self._error is not None:
            raise copy.copy(self._error)  # an instance that is raised again and again keeps every traceback
        if ref.key.session:
            ref = QueueRef(self._own(ref.key), ref.definition)
        return self._resources.attach(self._session, ref, puts=puts, registers=registers)

    def _variable(self, ref: VariableRef) -> VariableResource:
        return self._resources.variable(VariableRef(self._own(ref.key), ref.spec))

    def _own(self, key: Any) -> Any:
        """Return the key under which the resources have what is private to this session."""
        if not key.session:
            return key
        return key._replace(session=self._session) if isinstance(key, QueueKey) else replace(key, session=self._session)

    def _track(self, queue: QueueResource, ticket: Ticket) -> _Call:
        call = _Call(self, queue, ticket)
        self._calls[call] = None
        self.dispatch.watch(queue, ticket, call.tell)
        self.dispatch.perform(queue)
        return call


def check_task(device: DeviceName, key: QueueKey | VariableKey, jobs: Sequence[str], task: int, tasks: int) -> None:
    """Refuse a device of another task than this one, and what is shared in a cluster of several and names none.

    Raises:
        PlacementError: It is so.
    """
    here = f"/job:{jobs[0]}/task:{task}"
    if tasks > 1 and not key.session and (device.job is None or device.task is None):
        raise PlacementError(no_task_named(key.name, tasks, here))
    if device.job not in {None, *jobs} or device.task not in {None, task}:
        raise PlacementError(
            f"{key.name!r} is placed on {str(device)!r}, and this session reaches {here} only; name no task, or that "
            "one, or open the session on a server of that cluster"
        )


def no_task_named(name: str, tasks: int, here: str) -> str:
    """Say that something shared in a cluster must name its task."""
    return (
        f"{name!r} is shared in a cluster of {tasks} tasks and names none: two sessions would hold two; "
        f"define it with device={here!r}"
    )
