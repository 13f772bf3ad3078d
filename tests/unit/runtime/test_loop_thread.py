"""An event loop in a thread: what a call returns or raises when its time, a signal or the end of the thread cuts in."""

from __future__ import annotations

import asyncio
import signal
import threading
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from aioflow.errors import SessionClosed, SessionError
from aioflow.runtime import LoopThread, raise_owed_interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIGNAL = signal.SIGUSR1


class Interrupt(BaseException):
    """What the handler of a signal raises here; Ctrl-C raises KeyboardInterrupt."""


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """A thread that runs."""
    made = LoopThread("test", _nothing)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def _handler() -> Iterator[None]:
    def handle(*_: object) -> None:
        raise Interrupt

    before = signal.signal(SIGNAL, handle)
    yield
    signal.signal(SIGNAL, before)


async def _nothing() -> None:
    pass


async def _seven_when_cancelled() -> int:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return 7
    raise AssertionError


async def _wait_with_a_note() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as cancelled:
        cancelled.add_note("two rows stay in")
        raise


def _interrupted(make: Any) -> Any:
    """Interrupt the main thread once the coroutine has begun to wait."""

    async def run() -> Any:
        main = threading.main_thread().ident
        assert main is not None
        asyncio.get_running_loop().call_soon(signal.pthread_kill, main, SIGNAL)
        return await make()

    return run


def test_result_and_error(thread: LoopThread) -> None:
    """A call returns what the coroutine returns and raises its very error, with where it came from."""
    error = ValueError("no")

    async def fail() -> None:
        raise error

    async def name() -> str:
        return threading.current_thread().name

    assert thread.call(name) == "test"
    with pytest.raises(ValueError, match="no") as caught:
        thread.call(fail)
    assert caught.value is error
    functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert functions[0] == "test_result_and_error"
    assert functions[-1] == "fail"


def test_timeout(thread: LoopThread) -> None:
    """The task has ended when the error is raised, and its notes are on the error."""
    with pytest.raises(TimeoutError, match=r"after 0\.001 s") as caught:
        thread.call(_wait_with_a_note, 0.001)
    assert caught.value.__notes__ == ["two rows stay in"]
    assert thread.call(_tasks) == 2  # the thread's own, and the one that looks


async def _tasks() -> int:
    return len(asyncio.all_tasks())


def test_success_in_the_moment_of_the_timeout(thread: LoopThread) -> None:
    """It did happen, so it is returned."""
    assert thread.call(_seven_when_cancelled, 0.001) == 7


def test_no_time_at_all(thread: LoopThread) -> None:
    """What need not wait succeeds even so."""
    assert thread.call(_tasks, 0) == 2


@pytest.mark.usefixtures("_handler")
def test_interrupt(thread: LoopThread) -> None:
    """It ends the wait, the task has ended before it goes on, and it has the notes."""
    with pytest.raises(Interrupt) as caught:
        thread.call(_interrupted(_wait_with_a_note))
    assert caught.value.__notes__ == ["two rows stay in"]
    assert thread.call(_tasks) == 2
    raise_owed_interrupt()


@pytest.mark.usefixtures("_handler")
def test_success_in_the_moment_of_an_interrupt(thread: LoopThread) -> None:
    """The result is returned; the interrupt is owed, once, by the same thread."""
    assert thread.call(_interrupted(_seven_when_cancelled)) == 7
    other = threading.Thread(target=raise_owed_interrupt)
    other.start()
    other.join()
    with pytest.raises(Interrupt):
        raise_owed_interrupt()
    raise_owed_interrupt()


@pytest.mark.usefixtures("_handler")
def test_interrupt_and_an_error_at_once(thread: LoopThread) -> None:
    """The interrupt goes on."""

    async def fail_when_cancelled() -> None:
        await _seven_when_cancelled()
        raise ValueError

    with pytest.raises(Interrupt):
        thread.call(_interrupted(fail_when_cancelled))


@pytest.mark.usefixtures("_handler")
def test_second_interrupt_does_not_wait(thread: LoopThread) -> None:
    """A task that does not end keeps nobody who insists."""
    release = asyncio.Event()

    async def stubborn() -> None:
        main = threading.main_thread().ident
        assert main is not None
        for _ in range(2):
            asyncio.get_running_loop().call_soon(signal.pthread_kill, main, SIGNAL)
            with suppress(asyncio.CancelledError):
                await release.wait()
        await release.wait()

    with pytest.raises(Interrupt):
        thread.call(stubborn)

    async def let_go() -> None:
        release.set()

    thread.call(let_go)


def test_stop_ends_what_waits() -> None:
    """Calls that wait end with SessionClosed, and so do those that come later; a second stop does nothing."""
    thread = LoopThread("test", _nothing)
    thread.start()
    errors: list[BaseException] = []
    waits = threading.Event()

    async def wait() -> None:
        waits.set()
        await asyncio.Event().wait()

    def call() -> None:
        try:
            thread.call(wait)
        except SessionClosed as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    waits.wait()
    thread.stop()
    caller.join()
    assert len(errors) == 1
    thread.stop()
    with pytest.raises(SessionClosed):
        thread.call(_tasks)
    thread.spawn(_nothing)


def test_stop_raises_what_closing_raised() -> None:
    """It would be lost with the thread."""

    async def fail() -> None:
        raise ValueError("closing")

    thread = LoopThread("test", fail)
    thread.start()
    with pytest.raises(ValueError, match="closing"):
        thread.stop()


def test_call_while_the_thread_closes() -> None:
    """It ends, with SessionClosed, whenever in the closing it comes."""
    for _ in range(200):
        thread = LoopThread("test", _nothing)
        thread.start()
        stopper = threading.Thread(target=thread.stop)
        stopper.start()
        with pytest.raises(SessionClosed):
            while True:
                thread.call(_nothing)
        stopper.join()


def test_use_from_its_own_thread(thread: LoopThread) -> None:
    """It is refused: it would wait for itself."""

    async def use(method: Callable[..., Any], *arguments: Any) -> None:
        method(*arguments)

    for make in (partial(use, thread.call, _nothing), partial(use, thread.stop)):
        with pytest.raises(SessionError, match="its own thread"):
            thread.call(make)


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and nothing is left."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    thread = LoopThread("test", _nothing)
    with pytest.raises(RuntimeError, match="can't start"):
        thread.start()
    thread.stop()
