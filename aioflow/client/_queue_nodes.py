"""The operations of a queue as nodes of a graph."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio

from aioflow.client._values import to_user
from aioflow.errors import ConnectionLost
from aioflow.graph import Node, Op, current_graph
from aioflow.runtime import Taken, hold_get

if TYPE_CHECKING:
    from aioflow.client._queue import Queue
    from aioflow.resources import QueueKey
    from aioflow.runtime import Call, Host
    from aioflow.specs import Dense

__all__ = ["QueueNodes"]

# What a dequeue node took can go back until another one has waited so long for the same queue.
HOLD_S = 1.0


class QueueNodes:
    """Makes nodes of the current graph; each time one runs it does what the queue's method of this name does.

    A blocked operation occupies no thread. What a dequeue node took goes back to its place when the step ends without
    success before another node was started with it; not where another one has waited 1 s for the same queue, since the
    end of a queue waits for all that may go back. Errors of queues end a step as they are, with a note of the node.
    Where the queue was bound with `on`, the nodes use that session, and run wherever the graph's session runs them.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def enqueue(self, element: Any) -> Node:
        """Put an element: a node, or a tuple or dict of nodes and constants."""
        return self._add(ENQUEUE, element)

    def enqueue_many(self, columns: Any) -> Node:
        """Put k elements: components with a leading dimension k."""
        return self._add(ENQUEUE_MANY, columns)

    def dequeue(self) -> Any:
        """Take one element: a node; a tuple of outputs for several components, a dict of them with names.

        Raises:
            SpecMismatch: The queue comes from `lookup` and no operation has found it yet.
        """
        return self._take(DEQUEUE)

    def dequeue_many(self, n: Any) -> Any:
        """Take n elements as a batch; n may be a node. Gives what `dequeue` gives."""
        return self._take(DEQUEUE_MANY, n)

    def dequeue_up_to(self, n: Any) -> Any:
        """Take n elements, or on a closed queue what is left; n may be a node. Gives what `dequeue` gives."""
        return self._take(DEQUEUE_UP_TO, n)

    def size(self) -> Node:
        """Count the elements."""
        return self._add(SIZE)

    def is_closed(self) -> Node:
        """Say whether the queue is closed."""
        return self._add(IS_CLOSED)

    def close(self, cancel_pending_enqueues: bool = False) -> Node:  # noqa: FBT001, FBT002 - TensorFlow's
        """Close the queue."""
        return self._add(CLOSE, cancel_pending_enqueues)

    def _take(self, op: Op, *args: Any) -> Any:
        element = self._queue.definition.element
        node = self._add(_with_outputs(op, len(element.components)), *args)
        if element.names is not None:
            return dict(zip(element.names, node.outputs, strict=True))
        return node if len(element.components) == 1 else node.outputs

    def _add(self, op: Op, *args: Any) -> Node:
        colocation = self._queue._colocation()  # noqa: SLF001 - one package
        return current_graph().add(op, (self._queue, *args), colocation=colocation)


async def _enqueue(queue: Queue, element: Any) -> None:
    await queue.enqueue(element)


async def _enqueue_many(queue: Queue, columns: Any) -> None:
    await queue.enqueue_many(columns)


async def _dequeue(queue: Queue) -> Taken:
    return await _hold(queue, 1, up_to=False, single=True)


async def _dequeue_many(queue: Queue, n: Any) -> Taken:
    return await _hold(queue, n, up_to=False, single=False)


async def _dequeue_up_to(queue: Queue, n: Any) -> Taken:
    return await _hold(queue, n, up_to=True, single=False)


async def _hold(queue: Queue, n: Any, *, up_to: bool, single: bool) -> Taken:
    """Take elements, for the step to acknowledge: as their components, without names."""
    host, ref, count = await queue._begin_get(n, single=single)  # noqa: SLF001 - one package
    call = host.get(ref, count, up_to=up_to)
    source = _sources.setdefault(host, {}).setdefault(ref.key, _Source())
    columns = await source.wait(call)
    host.seen.add(ref.key)

    def acknowledge() -> None:
        source.held.pop(taken, None)
        if not call.waiter.is_set or call.waiter.error is not None:  # the host let go of what had come
            call.withdraw()
            raise ConnectionLost(
                f"what a step had taken from queue {queue.name!r} went back to it when its connection or session ended"
            )
        call.acknowledge()

    def withdraw() -> None:
        source.held.pop(taken, None)
        call.withdraw()

    element = replace(ref.definition.element, names=None)
    taken = Taken(to_user(columns, element, single=single), acknowledge, withdraw)
    source.hold(taken)
    return taken


class _Source:
    """What the dequeue nodes of a session took from a queue and have not acknowledged, and who waits there for long.

    The end of a queue waits until nothing is unacknowledged. So who waits for long takes for good what others hold: it
    might be the end that it waits for, and a step of two dequeues would never end.
    """

    def __init__(self) -> None:
        self.held: dict[Taken, None] = {}
        self._waiting_long = 0

    async def wait(self, call: Call) -> tuple[Dense, ...]:
        """Wait for rows and do not acknowledge them."""
        try:
            with anyio.move_on_after(HOLD_S):
                await call.waiter.wait()
        except BaseException:
            call.withdraw()
            raise
        if call.waiter.is_set:
            return await hold_get(call)
        self._waiting_long += 1
        try:
            for taken in list(self.held):
                with suppress(ConnectionLost):  # it went back: its own step is told when it uses it
                    taken.acknowledge()
            return await hold_get(call)
        finally:
            self._waiting_long -= 1

    def hold(self, taken: Taken) -> None:
        """Keep what was taken, unless somebody waits for long."""
        if self._waiting_long:
            taken.acknowledge()
        else:
            self.held[taken] = None


_sources: WeakKeyDictionary[Host, dict[QueueKey, _Source]] = WeakKeyDictionary()


async def _size(queue: Queue) -> int:
    return await queue.size()


async def _is_closed(queue: Queue) -> bool:
    return await queue.is_closed()


async def _close(queue: Queue, cancel_pending_enqueues: Any) -> None:
    await queue.close(cancel_pending_enqueues)


ENQUEUE = Op(_enqueue, "enqueue", num_outputs=0, path=f"{__name__}:ENQUEUE")
ENQUEUE_MANY = Op(_enqueue_many, "enqueue_many", num_outputs=0, path=f"{__name__}:ENQUEUE_MANY")
SIZE = Op(_size, "size", path=f"{__name__}:SIZE")
IS_CLOSED = Op(_is_closed, "is_closed", path=f"{__name__}:IS_CLOSED")
CLOSE = Op(_close, "close", num_outputs=0, path=f"{__name__}:CLOSE")
DEQUEUE = Op(_dequeue, "dequeue", path=f"{__name__}:DEQUEUE", varies=True)
DEQUEUE_MANY = Op(_dequeue_many, "dequeue_many", path=f"{__name__}:DEQUEUE_MANY", varies=True)
DEQUEUE_UP_TO = Op(_dequeue_up_to, "dequeue_up_to", path=f"{__name__}:DEQUEUE_UP_TO", varies=True)

_with_outputs = cache(Op.with_outputs)
