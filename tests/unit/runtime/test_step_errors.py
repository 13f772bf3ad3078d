"""Steps that fail, are cancelled, or lose their session: what is said, and what is left."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

import aioflow as flow
from aioflow.graph import Op
from aioflow.runtime import _executor

pytestmark = pytest.mark.anyio

TEST_S = 10.0
CPU = "/job:localhost/task:0/device:CPU:0"


class Thing:
    """A value that can be watched."""


class Stop:
    """A plain kernel that says when it begins, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.may_end = threading.Event()
        self.ended = False
        self._tell = _teller(self.begun)
        self.op = Op(self._run, "stop")

    def _run(self, *_: Any) -> str:
        self._tell()
        assert self.may_end.wait(TEST_S)
        self.ended = True
        return "ended"


def _teller(event: anyio.Event) -> Callable[[], object]:
    """Return what sets an event from another thread."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # noqa: PLC0415 - on its event loop only

        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(event.set)
    return lambda: loop.call_soon_threadsafe(event.set)


def failing(kind: str, error: BaseException) -> Op:
    """Make an op of some kind that raises."""

    def fail(*_: Any) -> None:
        raise error

    async def fail_later(*_: Any) -> None:
        await checkpoint()
        raise error

    return Op(fail_later, "fail") if kind == "coroutine" else Op(fail, "fail", is_inline=kind == "inline")


def noting(log: list[Any]) -> tuple[Op, ...]:
    """Make an op of each kind that notes that it ran."""

    def note(*values: Any) -> None:
        log.append(values)

    async def note_too(*values: Any) -> None:
        log.append(values)

    return Op(note, "note"), Op(note_too, "note"), Op(note, "note", is_inline=True)


KINDS = pytest.mark.parametrize("kind", ["coroutine", "thread", "inline"])


# What is said


@KINDS
async def test_a_kernel_that_raises(kind: str) -> None:
    """The error names node, device and line, and has the kernel's own as its cause; what follows does not run."""
    log: list[Any] = []
    with flow.Graph():
        with flow.name_scope("part"):
            node = failing(kind, ZeroDivisionError("by nothing"))()
        after = [op(node) for op in noting(log)]
    async with flow.Session() as session:
        for _ in range(2):
            with pytest.raises(flow.NodeFailed) as caught:
                await session.run(after)
            error = caught.value
            assert (error.node, error.device, type(error.__cause__)) == ("part/fail", CPU, ZeroDivisionError)
            assert str(error) == (
                f"node 'part/fail' on {CPU}, made at {node.line}, failed: ZeroDivisionError: by nothing"
            )
        assert await session.run(flow.Graph().nodes) == []  # the session goes on
    assert log == []


@KINDS
async def test_errors_of_aioflow_come_as_they_are(kind: str) -> None:
    """They are not wrapped, and have a note that says where."""
    original = flow.QueueClosed("it is closed")
    with flow.Graph():
        node = failing(kind, original)()
    async with flow.Session() as session:
        with pytest.raises(flow.QueueClosed) as caught:
            await session.run(node)
    assert caught.value is original
    assert original.__notes__ == [f"aioflow: in node 'fail' on {CPU}, made at {node.line}"]


@KINDS
async def test_a_kernel_that_raises_a_cancellation_of_its_own(kind: str) -> None:
    """Nobody cancelled the step: it failed."""
    with flow.Graph():
        node = failing(kind, asyncio.CancelledError("of a task that it started"))()
    async with flow.Session() as session:
        with pytest.raises(flow.NodeFailed, match="CancelledError") as caught:
            await session.run(node)
    assert type(caught.value.__cause__) is asyncio.CancelledError


@KINDS
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_process_comes_as_it_is(kind: str, error: type[BaseException]) -> None:
    """It is raised where the step was called, and the rest of the step is cancelled."""
    stopped: list[str] = []

    @flow.op
    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append("wait")

    raised = error("now")
    with flow.Graph():
        nodes = [wait(), failing(kind, raised)()]
    async with flow.Session() as session:
        with anyio.fail_after(TEST_S), pytest.raises(error) as caught:
            await session.run(nodes)
    assert caught.value is raised
    assert stopped == ["wait"]


@pytest.mark.parametrize("value", [3, (1,), (1, 2, 3), None])
@pytest.mark.parametrize("uses", [0, 1])
async def test_a_wrong_number_of_outputs(value: Any, uses: int) -> None:
    """The error says how many there are and what came, also where nobody uses them."""

    @flow.op(num_outputs=2)
    async def pair() -> Any:
        return value

    with flow.Graph():
        first, _ = pair()
        fetched = flow.identity(first) if uses else flow.group(first)
    async with flow.Session() as session:
        with pytest.raises(flow.GraphError, match="'pair' has 2 outputs and its kernel returned") as caught:
            await session.run(fetched)
    assert first.node.line in caught.value.__notes__[0]


# What is left of the rest


@KINDS
async def test_the_first_error_cancels_the_rest(kind: str) -> None:
    """Coroutine kernels are cancelled and awaited, one on a thread is awaited, and nothing follows it."""
    log: list[Any] = []
    stop = Stop()

    @flow.op
    async def wait(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stop.may_end.set()
            with anyio.CancelScope(shield=True):
                await checkpoint()
            log.append(number)

    @flow.op
    async def when_begun() -> None:
        await stop.begun.wait()

    with flow.Graph():
        on_thread = stop.op()
        waiting = [wait(number) for number in range(3)]
        with flow.control_dependencies([when_begun()]):
            fail = failing(kind, ValueError())()
        after = [op(on_thread, fail) for op in noting(log)]
        only_thread = [op(on_thread) for op in noting(log)]
    config = flow.SessionConfig(inter_op_parallelism_threads=2)
    async with flow.Session(config=config) as session:
        with anyio.fail_after(TEST_S), pytest.raises(flow.NodeFailed, match="'fail'"):
            await session.run([*after, *only_thread, *waiting])
        assert sorted(log) == [0, 1, 2]
        assert stop.ended


@pytest.mark.parametrize("by", ["failure", "cancel", "close"])
async def test_nothing_follows_a_kernel_that_outlives_its_cancellation(by: str) -> None:
    """A kernel that returns normally although it was cancelled starts nothing any more."""
    log: list[Any] = []
    begun = [anyio.Event(), anyio.Event()]

    @flow.op
    async def swallow(number: int) -> str:
        begun[number].set()
        with suppress(BaseException):  # what a kernel should not do
            await anyio.sleep_forever()
        return "went on"

    @flow.op
    async def trigger() -> None:
        for event in begun:
            await event.wait()
        if by == "failure":
            raise ValueError
        if by == "cancel":
            scope.cancel()
        await anyio.sleep_forever()

    with flow.Graph():
        nodes = [swallow(number) for number in range(2)]
        after = [op(node) for op in noting(log) for node in nodes]
        fetches = [*after, trigger()]
    with anyio.fail_after(TEST_S):
        async with flow.Session() as session:
            if by == "failure":
                with pytest.raises(flow.NodeFailed):
                    await session.run(fetches)
            elif by == "cancel":
                with anyio.CancelScope() as scope:
                    await session.run(fetches)
                assert scope.cancelled_caught
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_close_when, begun[1], session)
                    with pytest.raises(flow.SessionClosed):
                        await session.run(fetches)
    assert log == []


async def _close_when(event: anyio.Event, session: flow.Session) -> None:
    await event.wait()
    await session.close()


@pytest.mark.parametrize("where", ["coroutine", "thread", "both"])
async def test_a_cancelled_step(where: str) -> None:
    """It ends when its coroutines have and its threads have; nothing follows; the next step is a new one."""
    log: list[Any] = []
    stop = Stop()
    is_waiting = anyio.Event()
    ended: list[str] = []

    @flow.op
    async def wait() -> None:
        is_waiting.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("coroutine")

    with flow.Graph() as graph:
        nodes = [wait()] if where != "thread" else []
        nodes += [stop.op()] if where != "coroutine" else []
        after = [op(node) for node in nodes for op in noting(log)]
        small = flow.constant(1)

    async def run() -> None:
        try:
            await session.run(after)
        finally:
            ended.append("step")

    async with flow.Session(graph=graph) as session:
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                if where != "thread":
                    await is_waiting.wait()
                if where != "coroutine":
                    await stop.begun.wait()
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for _ in range(5):
                        await checkpoint()
                    assert ("step" in ended) == (where == "coroutine")
                    stop.may_end.set()
            assert await session.run(small) == 1
    assert ended == ["coroutine"] * (where != "thread") + ["step"]
    assert stop.ended == (where != "coroutine")
    assert log == []


async def test_a_step_that_was_cancelled_before_it_began() -> None:
    """Nothing runs."""
    log: list[Any] = []
    with flow.Graph():
        nodes = [op() for op in noting(log)[:2]]
    async with flow.Session() as session:
        await session.devices()  # what opens them is no part of a step
        with anyio.CancelScope() as scope:
            scope.cancel()
            await checkpoint()
            await session.run(nodes)
        assert scope.cancelled_caught
    assert log == []


async def test_errors_of_one_step_are_not_those_of_another() -> None:
    """A step goes on while another one of the same session fails."""
    may_end = anyio.Event()

    @flow.op
    async def wait() -> str:
        await may_end.wait()
        return "done"

    with flow.Graph():
        waiting, fail = wait(), failing("thread", ValueError())()
    got: list[str] = []

    async def run() -> None:
        got.append(await session.run(waiting))

    async with flow.Session() as session:
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                for _ in range(3):
                    with pytest.raises(flow.NodeFailed):
                        await session.run(fail)
                may_end.set()
    assert got == ["done"]


async def test_many_threads_fail_at_once() -> None:
    """One of the errors is raised, the others are not lost to a log or to an exception group."""
    barrier = threading.Barrier(4)

    def fail(number: int) -> None:
        barrier.wait(TEST_S)
        raise ValueError(number)

    op = Op(fail, "fail")
    with flow.Graph():
        nodes = [op(number) for number in range(4)]
    async with flow.Session(config=flow.SessionConfig(inter_op_parallelism_threads=4)) as session:
        with pytest.raises(flow.NodeFailed, match=r"ValueError: [0-3]"):
            await session.run(nodes)


# Sessions that close


@pytest.mark.parametrize("where", ["coroutine", "thread"])
async def test_a_session_that_closes_while_a_step_runs(where: str) -> None:
    """The step ends with SessionClosed; the close waits for it."""
    stop = Stop()
    stop.may_end.set()
    is_waiting, log = anyio.Event(), list[str]()

    @flow.op
    async def wait() -> None:
        is_waiting.set()
        try:
            await anyio.sleep_forever()
        finally:
            log.append("cancelled")

    with flow.Graph():
        node = wait()
        nodes = [node, stop.op()] if where == "thread" else [node]

    async def run() -> None:
        with pytest.raises(flow.SessionClosed, match="while this step ran"):
            await session.run(nodes)
        log.append("ended")

    session = flow.Session()
    await session.open()
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await is_waiting.wait()
            await session.close()
            log.append("closed")
    assert sorted(log) == ["cancelled", "closed", "ended"]
    with pytest.raises(flow.SessionClosed):
        await session.run(node)


async def test_a_kernel_that_does_not_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The close is bounded, and so is the step: it ends with the close, and a warning names the thread."""
    monkeypatch.setattr(_executor, "CLOSE_S", 0.05)
    stop = Stop()
    with flow.Graph():
        node = stop.op()

    async def run() -> None:
        with pytest.raises(flow.SessionClosed):
            await session.run(node)

    session = flow.Session()
    await session.open()
    try:
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await stop.begun.wait()
                await session.close()
        assert re.search(rf"kernel still runs on thread 'aioflow {CPU}", caplog.text)
    finally:
        stop.may_end.set()
    for thread in threading.enumerate():
        if CPU in thread.name:
            await anyio.to_thread.run_sync(thread.join, TEST_S)
    assert stop.ended


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_kernel_whose_task_is_cancelled_from_outside() -> None:
    """Whichever task of the step that was: the step does not end as if the kernel had returned None."""

    @flow.op
    async def cancel_itself(_: Any) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await checkpoint()
        return "ran on"

    @flow.op
    async def turn() -> int:
        await checkpoint()
        return 1

    with flow.Graph():
        kernels = [turn(), cancel_itself(1), cancel_itself(2)]
    async with flow.Session() as session:
        for fetches in (kernels, kernels[1], kernels[:2]):
            step = asyncio.create_task(session.run(fetches))
            await asyncio.wait([step])
            assert step.cancelled()
        assert await session.run(kernels[0]) == 1


@pytest.mark.parametrize("kind", ["coroutine", "thread", "inline", "cancel"])
async def test_a_step_that_does_not_succeed_keeps_no_value(kind: str) -> None:
    """What it had computed goes with its exception, and need not wait for a collection of cycles."""
    made: list[weakref.ref[Thing]] = []

    @flow.op
    async def make() -> Thing:
        thing = Thing()
        made.append(weakref.ref(thing))
        return thing

    def fail(_: Thing) -> None:
        raise ValueError

    async def fail_too(_: Thing) -> None:
        raise ValueError

    @flow.op
    async def wait() -> None:
        if kind == "cancel":
            scope.cancel()
        await anyio.sleep_forever()

    op = Op(fail_too, "fail") if kind == "coroutine" else Op(fail, "fail", is_inline=kind == "inline")
    with flow.Graph():
        thing = make()
        with flow.control_dependencies([thing]):
            fetches = [thing, make(), wait()]
        if kind != "cancel":
            fetches.append(op(thing))
    gc.collect()
    gc.disable()
    try:
        async with flow.Session() as session:
            with anyio.CancelScope() as scope, suppress(flow.NodeFailed):
                await session.run(fetches)
            assert {ref() for ref in made} == {None}
    finally:
        gc.enable()
