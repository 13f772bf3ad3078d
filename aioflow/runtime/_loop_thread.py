"""An event loop in a thread, for callers that have none.

1. Other threads touch the loop by `call_soon_threadsafe` only.
2. Whatever ends a call early, its timeout or a Ctrl-C, cancels its task and waits for the task's end. A task that had
   succeeded in that moment keeps its success, since it did happen: the call returns the result, and the Ctrl-C is
   raised by the thread's next call.
3. A caller waits on a bare lock. A signal ends that wait at once; an interrupt in the middle of `threading.Event`,
   which is written in Python, may leave its lock taken for ever.
4. Between the success of the wait and the return of the result no function is called: CPython looks for signals there.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aioflow.errors import SessionClosed, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["LoopThread", "raise_owed_interrupt"]

T = TypeVar("T")

# How long an interrupted call waits for the end of its task. Every operation ends sooner: 1 s for the withdrawal of a
# put, the same for a writer's flush; this is for an event loop that does not get on.
CANCEL_S = 5.0

_owed = threading.local()


def raise_owed_interrupt() -> None:
    """Raise the interrupt that this thread's last call overtook by its success."""
    interrupt: BaseException | None = getattr(_owed, "interrupt", None)
    if interrupt is not None:
        _owed.interrupt = None
        raise interrupt


class _Call:
    """One call under way: waited for in the caller's thread; everything else happens in the loop's.

    Args:
        calls: The calls under way, of which it is one until it is done.
        make: Makes the coroutine.
        timeout: Seconds after which it is cancelled.
    """

    __slots__ = ("_calls", "_done", "_make", "_task", "_timer", "error", "is_done", "timed_out", "timeout", "value")

    def __init__(
        self, calls: set[_Call], make: Callable[[], Coroutine[Any, Any, Any]], timeout: float | None = None
    ) -> None:
        self.is_done = False
        self.timed_out = False
        self.timeout = timeout
        self.value: Any = None
        self.error: BaseException | None = None
        self._make = make
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._done = threading.Lock()
        self._done.acquire()
        self._calls = calls
        calls.add(self)

    def wait(self, bound_s: float = -1) -> None:
        """Wait in the caller's thread until the call is done."""
        if not self.is_done:
            self._done.acquire(timeout=bound_s)

    def start(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Start the task, unless the call is done already: it was cancelled before."""
        if not self.is_done:
            self._task = loop.create_task(self._run(), context=context)
            self._task.add_done_callback(self._ended)
            if self.timeout is not None:
                self._timer = loop.call_later(self.timeout, self._expire)

    def cancel(self) -> None:
        """Cancel the task, if its time has not done so."""
        if self._task is None:
            self.finish(asyncio.CancelledError())
        elif not self.timed_out:
            self._task.cancel()

    def finish(self, error: BaseException | None) -> None:
        """Let the caller go on."""
        if not self.is_done:
            self.error = error
            self.is_done = True
            self._calls.discard(self)
            self._done.release()

    def take_error(self) -> BaseException:
        """Return what the caller is to raise: the error as it is, with its traceback, or what had led to a cancel."""
        error, self.error = self.error, None
        assert error is not None
        if not isinstance(error, asyncio.CancelledError):
            return error
        outcome = TimeoutError(f"timed out after {self.timeout:g} s") if self.timed_out else _closed_meanwhile()
        _copy_notes(error, outcome)
        return outcome

    async def _run(self) -> Any:
        return await self._make()

    def _expire(self) -> None:
        assert self._task is not None
        self.timed_out = True
        self._task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._task = None
        try:
            error = task.exception()
        except asyncio.CancelledError as cancelled:
            self.finish(cancelled.with_traceback(None))  # with it the caller's thread would hold, and drop, the task
            return
        if error is None:
            self.value = task.result()
        self.finish(error)


class LoopThread:
    """An event loop in a daemon thread, from `start` to `stop`.

    Calls share one context: what a coroutine sets there, such as the current session, the others see.

    Args:
        name: The thread's.
        close: Run in the loop as the last thing, before the tasks that are left are cancelled.
    """

    def __init__(self, name: str, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._close = close
        self._loop = asyncio.new_event_loop()
        self._context = contextvars.copy_context()
        self._stop = asyncio.Event()
        self._is_ending = False
        self._calls: set[_Call] = set()
        self._error: BaseException | None = None
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process in which the thread runs."""
        return os.getpid() != self._pid

    def start(self) -> None:
        """Start the thread."""
        try:
            self._thread.start()
        except RuntimeError:  # the system gives no thread
            self._loop.close()
            raise

    def call(self, make: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine in the loop and wait for it; from any thread, and from several at once.

        Args:
            make: Makes the coroutine; called in the loop.
            timeout: Seconds after which it is cancelled.

        Raises:
            TimeoutError: It was cancelled then; had it succeeded in that moment, its result is returned instead.
            KeyboardInterrupt: A Ctrl-C came, and the coroutine was cancelled; had it succeeded, this thread's next
                `raise_owed_interrupt` raises it.
            SessionClosed: The thread was stopped.
            SessionError: The call comes from the loop itself, or from a forked child.
        """
        self._check_caller()
        call = _Call(self._calls, make, timeout)
        try:
            self._post(partial(self._start, call))
            call.wait()
        except SessionClosed:
            self._calls.discard(call)
            raise
        except BaseException as interrupt:
            self._cancel(call, interrupt)
            if not call.is_done or call.error is not None:
                raise
            _owed.interrupt = interrupt
        if call.error is not None:
            raise call.take_error()
        value: T = call.value
        return value

    def spawn(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a coroutine in the loop and wait for nothing; it is not run where the thread has ended, or in a child."""
        if not self.is_forked:
            with suppress(SessionClosed):
                self._post(partial(self._start, _Call(self._calls, make)))

    def stop(self) -> None:
        """End the loop and the thread, and wait for that; an interrupt goes on after it. A second call waits, too.

        Raises:
            BaseException: What closing raised.
            SessionError: As in `call`.
        """
        self._check_caller()
        ended = _Call(self._calls, self._close)  # never started: done when the thread ends, as every call is then
        try:
            self._post(self._stop.set)
            ended.wait()
        except SessionClosed:
            pass  # it has ended already
        except BaseException:
            ended.wait(CANCEL_S)
            raise
        if self._thread.ident is not None:  # it was started
            self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _post(self, callback: Callable[[], object]) -> None:
        """Have a function called in the loop, soon.

        Raises:
            SessionClosed: The loop has ended.
        """
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            raise SessionClosed("the session was closed; open a new one") from None

    def _check_caller(self) -> None:
        if self.is_forked:
            raise SessionError("the session was opened before a fork; open one of its own in the child process")
        if threading.current_thread() is self._thread:
            raise SessionError("a session was used from its own thread, where waiting for it would never end")

    def _start(self, call: _Call) -> None:
        if self._is_ending:
            call.finish(_closed_meanwhile())
        else:
            call.start(self._loop, self._context)

    def _cancel(self, call: _Call, interrupt: BaseException) -> None:
        """Cancel a call and wait for its end, in the caller's thread."""
        with suppress(SessionClosed):  # then it is done, too
            self._post(call.cancel)
        call.wait(CANCEL_S)
        if call.is_done:
            _copy_notes(call.error, interrupt)
        else:
            interrupt.add_note(f"aioflow: the operation is in doubt: it had not ended {CANCEL_S:g} s after its cancel")

    def _run(self) -> None:
        # Signals are for the main thread, whose wait they end.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main(), context=self._context)
        except BaseException as error:  # noqa: BLE001 - `stop` raises it
            self._error = error
        finally:
            # The loop is closed: a call that is not among these is refused by it.
            for call in self._calls.copy():
                call.finish(_closed_meanwhile())

    async def _main(self) -> None:
        await self._stop.wait()
        try:
            await self._close()
        finally:
            self._is_ending = True


def _closed_meanwhile() -> SessionClosed:
    return SessionClosed("the session was closed while this operation waited")


def _copy_notes(source: BaseException | None, target: BaseException) -> None:
    for note in getattr(source, "__notes__", ()):
        target.add_note(note)
