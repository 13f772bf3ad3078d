"""Sessions and queues for programs without an event loop, such as a PyTorch training loop.

    from aioflow import blocking

    with blocking.Session("ipc:///tmp/flow.sock") as session:
        for tokens, labels in session.batches(train, 32):
            ...

The queues are those of `aioflow`, and so are the rules: each operation here takes the queue as its first argument, and
does and raises what the queue's own method of that name does. What differs:

* A call waits in its thread. Any thread may call, several at once; each session has one event loop, in a thread of its
  own. Values are converted in the caller's thread.
* `timeout=` is in seconds; None waits as long as it takes. When it has passed, the operation is cancelled as
  `asyncio.timeout` would, and `TimeoutError` is raised: a get took nothing, a put was not accepted (rows of an
  `enqueue_many` that stay in are told by a note). An operation that succeeds in that moment returns.
* Ctrl-C ends a wait in the main thread at once: the operation is cancelled, with what it took given back, before
  `KeyboardInterrupt` goes on. If it succeeded in that moment it returns, and the session's next call raises. After a
  fork a session is refused in the child: open one there.
"""

from __future__ import annotations

# ruff: noqa: FBT001, FBT002 - as Queue.close has it
import asyncio
import atexit
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypeVar

from aioflow import client
from aioflow.errors import SessionClosed, SessionError, SpecMismatch
from aioflow.runtime import LoopThread, raise_owed_interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType

    from aioflow.cluster import Server
    from aioflow.keys import KeyPath
    from aioflow.queues import QueueStats
    from aioflow.runtime import SessionConfig

__all__ = ["Batches", "Producer", "Session", "Writer"]

T = TypeVar("T")

# Those that a program forgets to close are closed at its exit. A forked child has none.
_open_sessions: set[Session] = set()
os.register_at_fork(after_in_child=_open_sessions.clear)


class Session:
    """`aioflow.Session`, for callers that wait in their threads.

    `with Session(...) as session` opens and closes it. One that is left open is closed at the exit of the program.

    Errors of every operation, beside those of the queue's own method: `SessionClosed` after, or by, the end of the
    session; `SessionError` before its opening and in a forked child; `TimeoutError`.
    """

    def __init__(
        self,
        target: str | Server | None = None,
        *,
        config: SessionConfig | None = None,
        credentials: KeyPath | None = None,
    ) -> None:
        """Make a session; nothing is opened yet.

        Args:
            target: As in `aioflow.Session`, but for `inproc://`, which reaches no other event loop.
            config: Settings; the defaults where None.
            credentials: As in `aioflow.Session`, whose errors it raises.
        """
        self._session = client.Session(target, config=config, credentials=credentials)
        self._thread: LoopThread | None = None
        self._is_closed = False
        # Iterators that may hold something ahead, changed in the loop only: no other thread's collection finalises one.
        self._iterators: set[client.Batches] = set()

    def open(self) -> Self:
        """Open the session; waits up to `connect_s` for a server that is still starting.

        Returns:
            The session itself.

        Raises:
            ConnectFailed: No server answered in time.
            SessionError: The session is open, or was closed: make a new one.
        """
        if self._thread is not None or self._is_closed:
            raise SessionError("this session was opened before, or closed; make a new one for each `with`")
        self._thread = LoopThread("aioflow blocking", self._close)
        try:
            self._thread.start()
            _open_sessions.add(self)
            self._thread.call(self._session.open)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close the session as `aioflow.Session.close` does, and end its thread; bounded. A second call waits, too.

        Waiting calls of other threads end with `SessionClosed`. In a forked child it does nothing.
        """
        self._is_closed = True
        _open_sessions.discard(self)
        if self._thread is not None and not self._thread.is_forked:
            self._thread.stop()

    def __enter__(self) -> Self:
        """Open the session."""
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()
        if error is None:
            raise_owed_interrupt()

    # Puts

    def enqueue(self, queue: client.Queue, element: Any, *, timeout: float | None = None) -> None:
        """Put one element; see `Queue.enqueue`."""
        value = self._convert(queue, element, many=False, timeout=timeout)
        return self._call(partial(queue.enqueue, value), timeout)

    def enqueue_many(self, queue: client.Queue, columns: Any, *, timeout: float | None = None) -> None:
        """Put k elements, each component with a leading dimension k; see `Queue.enqueue_many`."""
        value = self._convert(queue, columns, many=True, timeout=timeout)
        return self._call(partial(queue.enqueue_many, value), timeout)

    def close_queue(
        self, queue: client.Queue, cancel_pending_enqueues: bool = False, *, timeout: float | None = None
    ) -> None:
        """Accept nothing more; see `Queue.close`."""
        return self._call(partial(queue.close, cancel_pending_enqueues), timeout)

    # Gets

    def dequeue(self, queue: client.Queue, *, timeout: float | None = None) -> Any:
        """Take one element; see `Queue.dequeue`."""
        return self._call(queue.dequeue, timeout)

    def dequeue_many(self, queue: client.Queue, n: SupportsIndex, *, timeout: float | None = None) -> Any:
        """Take n elements as a batch; see `Queue.dequeue_many`."""
        return self._call(partial(queue.dequeue_many, n), timeout)

    def dequeue_up_to(self, queue: client.Queue, n: SupportsIndex, *, timeout: float | None = None) -> Any:
        """Take n elements or, on a closed queue, what is left; see `Queue.dequeue_up_to`."""
        return self._call(partial(queue.dequeue_up_to, n), timeout)

    def batches(
        self,
        queue: client.Queue,
        n: SupportsIndex,
        *,
        drop_remainder: bool = False,
        prefetch: SupportsIndex = 2,
        copy: bool = False,
        device: str | None = None,
        timeout: float | None = None,
    ) -> Batches:
        """Iterate over batches; see `Queue.batches`, and `Batches` here for how to leave it.

        `timeout` is for each step; after a `TimeoutError` the iteration can go on.
        """
        batches = queue.batches(n, drop_remainder=drop_remainder, prefetch=prefetch, copy=copy, device=device)
        return Batches(self, batches, _check_timeout(timeout))

    def elements(self, queue: client.Queue, *, timeout: float | None = None) -> Batches:
        """Iterate over single elements, as `dequeue` gives them; the rest is as in `batches`."""
        return Batches(self, aiter(queue), _check_timeout(timeout))

    # Looking, and graphs

    def size(self, queue: client.Queue, *, timeout: float | None = None) -> int:
        """Return the number of elements; see `Queue.size`."""
        return self._call(queue.size, timeout)

    def is_closed(self, queue: client.Queue, *, timeout: float | None = None) -> bool:
        """Return whether the queue is closed; see `Queue.is_closed`."""
        return self._call(queue.is_closed, timeout)

    def stats(self, queue: client.Queue, *, timeout: float | None = None) -> QueueStats:
        """Return a frozen snapshot; see `Queue.stats`."""
        return self._call(queue.stats, timeout)

    def delete(self, queue: client.Queue, *, timeout: float | None = None) -> None:
        """Remove the queue; see `Queue.delete`."""
        return self._call(queue.delete, timeout)

    def run(self, fetches: Any, feed: Mapping[Any, Any] | None = None, *, timeout: float | None = None) -> Any:
        """Run what some nodes of a graph need; see `aioflow.Session.run`."""
        return self._call(partial(self._session.run, fetches, feed), timeout)

    # Producers

    def writer(
        self,
        queue: client.Queue,
        batch: int = 64,
        *,
        batch_bytes: int | None = None,
        delay_s: float = 0.002,
        timeout: float | None = None,
    ) -> Writer:
        """Group single elements: `with session.writer(queue) as w: w.write(element)`; see `Queue.writer`.

        `timeout` is for each write and for the flush at the exit. A write that timed out has not buffered its element;
        an exit that timed out notes how many elements did not go.
        """
        writer = queue.writer(batch, batch_bytes=batch_bytes, delay_s=delay_s)
        return Writer(self, queue, writer, _check_timeout(timeout))

    def producer(
        self, queue: client.Queue, name: str | None = None, rejoin_s: float = 0, *, timeout: float | None = None
    ) -> Producer:
        """Register a producer: `with session.producer(queue): ...`; see `Queue.producer`.

        `timeout` is for the registration; the leaving is bounded by itself.
        """
        return Producer(self, queue.producer(name, rejoin_s), _check_timeout(timeout))

    # For the other classes of this module

    def _call(self, make: Callable[[], Coroutine[Any, Any, T]], timeout: float | None) -> T:
        raise_owed_interrupt()
        return self._opened().call(make, _check_timeout(timeout))

    def _leave(
        self, make: Callable[[], Coroutine[Any, Any, object]], error: BaseException | None, timeout: float | None = None
    ) -> None:
        """Wait for the leaving of something, which an owed interrupt does not keep from it; `error` says more."""
        thread = self._thread
        if thread is None or thread.is_forked:  # what is left there is the parent's
            return
        try:
            self._opened().call(make, timeout)
        except SessionClosed:
            if error is None:
                raise

    def _opened(self) -> LoopThread:
        if self._is_closed:
            raise SessionClosed("the session was closed; open a new one")
        if self._thread is None:
            raise SessionError("the session is not open; use `with session`, or `session.open()`")
        return self._thread

    def _convert(self, queue: client.Queue, value: Any, *, many: bool, timeout: float | None) -> Any:
        """Convert a value here: a device's stream, and NumPy's settings, are those of the caller's thread."""
        if queue._definition is None:  # noqa: SLF001 - of `lookup`, and not used yet
            self._call(queue._begin, timeout)  # noqa: SLF001
        return queue._convert(value, many=many)  # noqa: SLF001

    async def _close(self) -> None:
        while self._iterators:
            await self._iterators.pop().aclose()
        await self._session.close()

    def __repr__(self) -> str:
        """Show the target and the state."""
        return f"<blocking.Session of {self._session!r}>"


class Batches:
    """An iterator; made by `session.batches` and `session.elements`.

    What it holds ahead is given back when it is left: at its end, by `close` or the end of a `with` block, when a `for`
    loop that alone holds it is left (`break`, an error), and with the session. Several threads may share one; each
    element goes to one of them.
    """

    def __init__(self, session: Session, batches: client.Batches, timeout: float | None) -> None:
        self._session = session
        self._timeout = timeout
        self._batches = batches
        # Without this object, which a loop that is left drops: what is left is left then, not when a task has ended.
        self._step = partial(_step, session._iterators, batches, asyncio.Lock())  # noqa: SLF001 - one module

    def __iter__(self) -> Self:
        """Return the iterator itself."""
        return self

    def __next__(self) -> Any:
        """Return the next batch or element.

        Raises:
            StopIteration: The queue is closed and drained, or the iterator was left.
            EndOfQueue: So it is, and a producer was lost or failed: the data may be short.
            TimeoutError: The step took too long; it took nothing, and the iteration can go on.
        """
        try:
            return self._session._call(self._step, self._timeout)  # noqa: SLF001
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Leave the iterator. A second call does nothing."""
        with suppress(SessionClosed):
            self._session._leave(partial(_leave, self._session._iterators, self._batches), None)  # noqa: SLF001

    def __enter__(self) -> Self:
        """Return the iterator itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the iterator."""
        self.close()

    def __del__(self) -> None:
        """Leave the iterator, from whichever thread drops it, without waiting."""
        thread = self._session._thread  # noqa: SLF001
        if thread is not None:
            thread.spawn(partial(_leave, self._session._iterators, self._batches))  # noqa: SLF001


class Writer:
    """Made by `session.writer()`; see `Queue.writer`. Several threads may write."""

    def __init__(self, session: Session, queue: client.Queue, writer: client.Writer, timeout: float | None) -> None:
        self._session = session
        self._queue = queue
        self._writer = writer
        self._timeout = timeout

    def __enter__(self) -> Self:
        """Attach to the queue."""
        self._session._call(self._writer.__aenter__, self._timeout)  # noqa: SLF001 - one module
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flush; after an exception within 1 s, with a note of how many elements did not go."""
        self._session._leave(partial(self._writer.__aexit__, kind, error, traceback), error, self._timeout)  # noqa: SLF001

    def write(self, element: Any) -> None:
        """Buffer one element; see `aioflow.Writer.write`."""
        value = self._session._convert(self._queue, element, many=False, timeout=self._timeout)  # noqa: SLF001
        self._session._call(partial(self._writer.write, value), self._timeout)  # noqa: SLF001

    def flush(self) -> None:
        """Send what is buffered and wait until it is accepted; raises what went wrong with any of it."""
        self._session._call(self._writer.flush, self._timeout)  # noqa: SLF001


class Producer:
    """A registered producer; made by `session.producer()`, entered with `with`.

    Attributes:
        name: The name under which it is registered.
    """

    def __init__(self, session: Session, producer: client.Producer, timeout: float | None) -> None:
        self.name = producer.name
        self._session = session
        self._producer = producer
        self._timeout = timeout

    def __enter__(self) -> Self:
        """Register."""
        self._session._call(self._producer.__aenter__, self._timeout)  # noqa: SLF001 - one module
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave; an exception is reported to the queue's consumers, with its traceback."""
        self._session._leave(partial(self._producer.__aexit__, kind, error, traceback), error)  # noqa: SLF001


async def _step(iterators: set[client.Batches], batches: client.Batches, turn: asyncio.Lock) -> Any:
    async with turn:
        iterators.add(batches)
        return await anext(batches)


async def _leave(iterators: set[client.Batches], batches: client.Batches) -> None:
    iterators.discard(batches)
    await batches.aclose()


def _check_timeout(timeout: Any) -> float | None:
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise SpecMismatch(f"timeout is {timeout!r}; expected seconds, 0 or more, or None")
    return timeout


@atexit.register
def _close_open_sessions() -> None:
    while _open_sessions:
        _open_sessions.pop().close()
