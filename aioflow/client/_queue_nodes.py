"""The operations of a queue as nodes of a graph."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from aioflow.graph import Node, Op, current_graph

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.client._queue import Queue
    from aioflow.runtime import Taken

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
    return await queue._hold(1, up_to=False, single=True)  # noqa: SLF001 - one package


async def _dequeue_many(queue: Queue, n: Any) -> Taken:
    return await queue._hold(n, up_to=False, single=False)  # noqa: SLF001


async def _dequeue_up_to(queue: Queue, n: Any) -> Taken:
    return await queue._hold(n, up_to=True, single=False)  # noqa: SLF001


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
