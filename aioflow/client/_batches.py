"""Iteration over a queue, with requests ahead of need.

What was sent ahead and not handed over is the queue's: it is given back when the iterator is left, when a step is
cancelled, and when the queue recalls it for a get that waits. It is given back in order, and never a part without what
came after it, so that no consumer sees one producer's elements out of order.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from aioflow.client._values import to_user
from aioflow.errors import AioflowError, EndOfQueue, SpecMismatch
from aioflow.runtime import complete_get

if TYPE_CHECKING:
    from types import TracebackType

    from aioflow.client._queue import Queue
    from aioflow.resources import QueueRef
    from aioflow.runtime import Host, Request
    from aioflow.specs import Column

__all__ = ["Batches"]

# Single elements to ask for ahead: enough to cover a round trip, few against any capacity worth its name.
ELEMENTS_AHEAD = 16


class Batches:
    """An asynchronous iterator; also `async with`, and `aclose` to leave it early. Made by `queue.batches(n)`.

    It belongs to the session that is current at its first step, and to one task at a time.
    """

    def __init__(
        self,
        queue: Queue,
        n: SupportsIndex,
        *,
        single: bool = False,
        drop_remainder: bool = False,
        prefetch: SupportsIndex = ELEMENTS_AHEAD,
        copy: bool = False,
    ) -> None:
        from aioflow.client._queue import check_count  # noqa: PLC0415 - the queue imports this module

        self._queue = queue
        self._n = check_count(n)
        self._prefetch = check_count(prefetch)
        if not self._n:
            raise SpecMismatch("batches of 0 elements would never end; expected at least 1")
        self._single = single
        self._drop_remainder = drop_remainder
        self._copy = copy
        self._requests: deque[Request] = deque()
        self._ended = False
        # The host keeps this while a request is under way; it must not keep an iterator that a `break` has dropped.
        recalled = weakref.WeakMethod(self._recalled)

        def on_recall(request: Request) -> None:
            if (give_back := recalled()) is not None:
                give_back(request)

        self._on_recall = on_recall

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next batch (or element); a cancelled step took nothing, and the iterator can go on.

        Raises:
            StopAsyncIteration: The queue is closed and drained, or the iterator was left.
            EndOfQueue: So it is, and a producer was lost or failed: the data may be short.
        """
        while not self._ended:
            host, ref = await self._queue._begin()  # noqa: SLF001 - one package
            if not self._single:
                self._queue._check_batch(ref.definition, self._n)  # noqa: SLF001
            try:
                columns = await self._next(host, ref)
            except EndOfQueue as end:
                self._leave()
                if end.lost_producers:
                    raise
                break
            if not self._drop_remainder or columns[0].shape[0] == self._n:
                return to_user(columns, ref.definition.element, single=self._single, copy=self._copy)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Leave the iterator: what it holds ahead is given back. A second call does nothing."""
        self._leave()

    async def __aenter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the iterator."""
        self._leave()

    def __del__(self) -> None:
        """Leave the iterator: a `break` drops it without a word."""
        if getattr(self, "_requests", None):
            self._leave()

    async def _next(self, host: Host, ref: QueueRef) -> tuple[Column, ...]:
        if not self._ask(host, ref):
            return await complete_get(host.get(ref, self._n, up_to=True))
        # Out of the deque before the wait: rows that have come for a waiting step are not recalled from under it.
        request = self._requests.popleft()
        if not request.waiter.is_set:
            request.promote()
        try:
            columns = await complete_get(request)
        except BaseException:
            self._give_back(0)
            raise
        with suppress(AioflowError):  # these rows are handed over; the next step meets what is wrong
            self._ask(host, ref)
        return columns

    def _ask(self, host: Host, ref: QueueRef) -> bool:
        """Keep requests ahead under way; say whether there are any."""
        while len(self._requests) < self._prefetch:
            request = host.ask(ref, self._n, self._on_recall)
            if request is None:
                return False
            self._requests.append(request)
        return bool(self._requests)

    def _recalled(self, request: Request) -> None:
        if request in self._requests:
            self._give_back(self._requests.index(request))

    def _give_back(self, first: int) -> None:
        while len(self._requests) > first:
            request = self._requests[first]
            del self._requests[first]
            request.withdraw()

    def _leave(self) -> None:
        self._ended = True
        self._give_back(0)
