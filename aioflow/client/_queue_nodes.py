"""The operations of a queue as nodes of a graph."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from aioflow.client._values import to_user
from aioflow.errors import ConnectionLost
from aioflow.graph import Node, Op, current_graph
from aioflow.runtime import Taken, hold_get

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.client._queue import Queue

__all__ = ["QueueNodes"]


class QueueNodes:
    """Makes nodes of the current graph; each time one runs it does what the queue's method of this name does.

    A blocked operation occupies no thread. What a dequeue node took goes back to its place when the step ends without
    success before another node was started with it. Errors of queues end a step as they are, with a note of the node.
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
        return self._take("dequeue", _dequeue)

    def dequeue_many(self, n: Any) -> Any:
        """Take n elements as a batch; n may be a node. Gives what `dequeue` gives."""
        return self._take("dequeue_many", _dequeue_many, n)

    def dequeue_up_to(self, n: Any) -> Any:
        """Take n elements, or on a closed queue what is left; n may be a node. Gives what `dequeue` gives."""
        return self._take("dequeue_up_to", _dequeue_up_to, n)

    def size(self) -> Node:
        """Count the elements."""
        return self._add(SIZE)

    def is_closed(self) -> Node:
        """Say whether the queue is closed."""
        return self._add(IS_CLOSED)

    def close(self, cancel_pending_enqueues: bool = False) -> Node:  # noqa: FBT001, FBT002 - TensorFlow's
        """Close the queue."""
        return self._add(CLOSE, cancel_pending_enqueues)

    def _take(self, name: str, kernel: Callable[..., Any], *args: Any) -> Any:
        element = self._queue.definition.element
        node = self._add(_take_op(name, kernel, len(element.components)), *args)
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
    columns = await hold_get(call)
    host.seen.add(ref.key)

    def acknowledge() -> None:
        if not call.waiter.is_set:  # the host let go of what had come
            call.withdraw()
            raise ConnectionLost(
                f"what a step had taken from queue {queue.name!r} went back to it when the connection was lost"
            )
        call.acknowledge()

    element = replace(ref.definition.element, names=None)
    return Taken(to_user(columns, element, single=single), acknowledge, call.withdraw)


async def _size(queue: Queue) -> int:
    return await queue.size()


async def _is_closed(queue: Queue) -> bool:
    return await queue.is_closed()


async def _close(queue: Queue, cancel_pending_enqueues: Any) -> None:
    await queue.close(cancel_pending_enqueues)


ENQUEUE = Op(_enqueue, "enqueue", num_outputs=0)
ENQUEUE_MANY = Op(_enqueue_many, "enqueue_many", num_outputs=0)
SIZE = Op(_size, "size")
IS_CLOSED = Op(_is_closed, "is_closed")
CLOSE = Op(_close, "close", num_outputs=0)


@cache
def _take_op(name: str, kernel: Callable[..., Any], num_outputs: int) -> Op:
    return Op(kernel, name, num_outputs=num_outputs)
