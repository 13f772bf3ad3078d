"""Iteration over a queue, with requests ahead of need, each for as many batches as make a message worth its way.

What was sent ahead and not handed over is the queue's: it is given back when the iterator is left, when a step is
cancelled, and when the queue recalls it for a get that waits. It is given back in order, and never a part without what
came after it, so that no consumer sees one producer's elements out of order. Batches for a device are copied
there one ahead of need, which hands nothing over either (`aioflow/runtime/_copy_ahead.py`).
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

import numpy as np

from aioflow.client._values import check_batch, check_count, reader, values_of
from aioflow.errors import AioflowError, EndOfQueue, SpecMismatch
from aioflow.names import DeviceName
from aioflow.runtime import CopyAhead, begin_call, complete_get, complete_request, current_turn, give_turn
from aioflow.specs import STRING_DTYPES, column_row_bytes
from aioflow.transport import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aioflow.client._queue import Queue
    from aioflow.queues import QueueDefinition
    from aioflow.runtime import Host, Request
    from aioflow.specs import Column, Dense

__all__ = ["Batches"]

logger = logging.getLogger("aioflow.session")

# Where the size of elements is not known, or the capacity allows no larger runs, so many single ones are asked for
# ahead: enough to cover a round trip.
ELEMENTS_AHEAD = 16

# What one request may bring: as many batches as have about a megabyte, but no more than these, nor than a quarter of
# the capacity, so that several consumers share.
REQUEST_BYTES = 1 << 20
BATCHES_MAX = 128
ELEMENTS_MAX = 512
SHARE = 4

# On one host what is ahead comes in two messages where it is large, not in one for each batch: each takes the three
# processes about a millisecond, in which 10 MB could be written. Of large elements so many come in one.
REQUESTS = 2
LARGE_REQUEST_BYTES = 32 << 20
LARGE_ELEMENTS = 8

# The end of a queue of an earlier run looks like that of an empty one; nothing else tells it to who waits for data.
NOTHING_CAME = (
    "queue '%s' was closed and drained before this session was handed anything of it, probably by an earlier run or by "
    "other consumers; start producers before consumers, delete the queue, or use another shared_name or a new server"
)


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
        prefetch: SupportsIndex = 2,
        copy: bool = False,
        device: str | None = None,
    ) -> None:
        self._queue = queue
        self._n = check_count(n)
        self._prefetch = check_count(prefetch)
        if not self._n:
            raise SpecMismatch("batches of 0 elements would never end; expected at least 1")
        self._single = single
        self._drop_remainder = drop_remainder
        self._copy = copy
        self._device = None if device is None else DeviceName.parse(device)
        self._ahead: CopyAhead | None = None  # where batches go to a device
        self._runs = 1
        self._requests_max = self._prefetch
        self._varies = False
        self._host: Host | None = None
        self._quick_host: Host | None = None  # the same, where steps may do without a wait
        self._read: Callable[[tuple[Column, ...]], list[Any]] | None = None  # where elements have one size
        self._requests: deque[Request] = deque()
        self._stepping: Request | None = None
        self._recall_rest = False
        self._ended = False
        # The host keeps this while a request is under way; it must not keep an iterator that a `break` has dropped.
        recalled = weakref.WeakMethod(self._recalled)

        def on_recall(request: Request) -> None:
            if (give_back := recalled()) is not None:
                give_back(request)

        self._on_recall = on_recall
        copies = weakref.WeakMethod(self._copy_ahead)

        def on_rows() -> None:
            if (copy_ahead := copies()) is not None:
                copy_ahead()

        self._on_rows = on_rows

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next batch (or element); a cancelled step took nothing, and the iterator can go on.

        Raises:
            StopAsyncIteration: The queue is closed and drained, or the iterator was left.
            EndOfQueue: So it is, and a producer was lost or failed: the data may be short.
        """
        requests, host = self._requests, self._quick_host
        turn = current_turn()
        # A step that waits gives a turn by that: so what was asked for last goes in one message with its promotion.
        if not turn and not (requests and not requests[0].rows_left):
            await begin_call()
            await give_turn()
        if host is not None and requests:
            request = requests[0]
            try:  # nothing to wait for: this is done for each element, so it is short
                if turn and (taken := request.take_quickly(turn, self._n, self._read)) is not None:
                    return taken if self._read is not None else self._to_user(taken)
                if request.rows_left >= self._n:
                    return self._take(host, request)
            except BaseException:
                self._give_back(0)
                raise
        return await self._step()

    def _take(self, host: Host, request: Request) -> Any:
        """Hand over the next rows of the first request, and ask for more when it has no others."""
        columns: tuple[Dense, ...] = ()
        if self._read is not None:
            value = request.take_as(self._n, self._read)
        else:
            columns = request.take(self._n)
            value = self._to_user(columns)
        if not request.rows_left:
            self._requests.popleft()
            self._refill(host, columns)
        return value

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

    async def _step(self) -> Any:
        while not self._ended:
            await begin_call()
            host = self._host or await self._begin()
            try:
                columns = await self._next(host)
            except EndOfQueue as end:
                self._leave()
                if end.lost_producers:
                    raise
                if self._ref.key not in host.seen and not self._ref.key.session:
                    logger.warning(NOTHING_CAME, self._ref.key.name)
                break
            host.seen.add(self._ref.key)
            if not self._drop_remainder or columns[0].shape[0] == self._n:
                return self._to_user(columns)
            del columns  # else the traceback of the end keeps a device's memory
        raise StopAsyncIteration

    async def _begin(self) -> Host:
        """Attach to the queue, and find out how much to ask for at once."""
        queue = self._queue
        host, self._ref = await queue._begin()  # noqa: SLF001 - one package
        definition = self._ref.definition
        if not self._single:
            check_batch(definition, self._n, queue.name)
        self._size_up(host, definition.element.nbytes)
        if self._device is not None:
            await self._begin_copies(self._device)
        on_device = self._ahead is not None
        self._varies = self._prefetch > 0 and not on_device and _is_sized_up_anew(definition)
        if definition.element.nbytes is not None and not (on_device or self._copy):
            self._read = partial(values_of, element=definition.element, count=0 if self._single else self._n)
        self._to_user = reader(definition.element, single=self._single, copy=self._copy, on_device=on_device)
        self._quick_host = None if on_device else host
        self._host = host
        return host

    def _size_up(self, host: Host, size: int | None) -> None:
        """Find out how much to ask for at once, of elements of so many bytes; None where that is not known."""
        definition, runs_max = self._ref.definition, ELEMENTS_MAX if self._single else BATCHES_MAX
        self._runs = _runs(definition, size, self._n, runs_max, REQUEST_BYTES)
        self._requests_max = self._prefetch
        if self._single:
            self._requests_max = max(REQUESTS, min(ELEMENTS_AHEAD, REQUEST_BYTES // (size or 1)) // self._runs)
        together = LARGE_ELEMENTS if self._single else self._prefetch // REQUESTS
        if host.is_local and self._runs < together:
            self._runs = _runs(definition, size, self._n, together, LARGE_REQUEST_BYTES)
            if not self._single:
                self._requests_max = -(-self._prefetch // self._runs)

    async def _begin_copies(self, name: DeviceName) -> None:
        """Find the device; one without streams is the host itself, and nothing is copied."""
        devices = await self._queue._bound_session().open_devices()  # noqa: SLF001 - one package
        device = devices.find(name)
        if device.streams:
            self._ahead = CopyAhead(devices, device)
            if not self._prefetch:
                self._runs = 1

    async def _next(self, host: Host) -> tuple[Dense, ...]:
        in_hand = self._requests and self._requests[0].rows_left
        ahead = self._ahead
        # What is copied may be lost meanwhile, which only a request shows: without prefetch it takes one for each step.
        if not in_hand and not self._ask(host, self._requests_max or int(ahead is not None)):
            get = host.get(self._ref, self._n, up_to=True)
            return await (complete_get(get) if ahead is None else ahead.complete_get(get))
        # Out of the deque before the wait: the rows of a waiting step are not recalled from under it.
        request = self._stepping = self._requests.popleft()
        self._recall_rest = False
        if not request.waiter.is_set:
            request.promote()
        try:
            columns = await (complete_request if ahead is None else ahead.complete_request)(request, self._n)
        except BaseException:
            self._give_back(0)
            raise
        finally:
            self._stepping = None
        if request.rows_left:
            self._requests.appendleft(request)
        if self._recall_rest or self._ended:
            self._give_back(0)
        elif not request.rows_left:
            self._refill(host, columns)
        if ahead is not None:
            self._copy_ahead()
        return columns

    def _copy_ahead(self) -> None:
        """Begin to copy the next batch, or have it begun when its rows come; the next step meets what is wrong."""
        if self._ahead is not None and self._requests and self._stepping is None and not self._ended:
            request = self._requests[0]
            with suppress(AioflowError):
                if not self._ahead.begin(request, self._n) and not request.waiter.is_set:
                    request.waiter.when_set(self._on_rows)

    def _refill(self, host: Host, columns: tuple[Dense, ...]) -> None:
        if self._varies:  # take what comes to be as large as these elements are, when they are padded
            self._size_up(host, sum(int(np.mean(column_row_bytes(column))) for column in columns))
        with suppress(AioflowError):  # the step has its rows; the next one meets what is wrong
            self._ask(host, self._requests_max)

    def _ask(self, host: Host, count: int) -> bool:
        """Keep so many requests ahead under way; say whether there are any."""
        while len(self._requests) < count:
            request = host.ask(self._ref, self._n, self._runs, self._on_recall)
            if request is None:
                return False
            self._requests.append(request)
        return bool(self._requests)

    def _recalled(self, request: Request) -> None:
        if request is self._stepping:
            self._recall_rest = True  # what is behind it has to wait for it, to go back in order
        elif request in self._requests and not (self._stepping and self._recall_rest):
            self._give_back(self._requests.index(request))

    def _give_back(self, first: int) -> None:
        while len(self._requests) > first:
            request = self._requests[first]
            del self._requests[first]
            if self._ahead is not None:
                self._ahead.drop(request)
            request.withdraw()

    def _leave(self) -> None:
        self._ended = True
        self._give_back(0)


def _is_sized_up_anew(definition: QueueDefinition) -> bool:
    """Whether elements vary in size and may still come in runs: batches are cut, and only then padded, where they come.

    Strings are padded where they are sent; elements of several ranks go one by one; and what a queue can hold must fit
    into one message, however much larger than the last elements the next ones are.
    """
    element = definition.element
    known = [
        component.shape is not None and not (component.dtype in STRING_DTYPES and None in component.shape)
        for component in element.components
    ]
    return element.nbytes is None and all(known) and definition.bytes_max <= FRAME_BYTES_MAX


def _runs(definition: QueueDefinition, size: int | None, count: int, runs_max: int, bytes_max: int) -> int:
    """How many times `count` elements of `size` bytes one request may bring; 1 where their size is not known."""
    if size is None:
        return 1
    elements = min(bytes_max, definition.bytes_max // SHARE) // max(1, size)
    if definition.capacity > 0:
        elements = min(elements, definition.capacity // SHARE)
    return min(runs_max, max(1, elements // count))
