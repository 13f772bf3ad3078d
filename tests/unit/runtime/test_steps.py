"""Steps: their values, feeds, and what several of them share."""

from __future__ import annotations

import asyncio
import re
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint

import aioflow as flow
from aioflow.client import current_session
from aioflow.graph import Op
from aioflow.runtime._inbox import Inbox

pytestmark = pytest.mark.anyio

TEST_S = 10.0


class Thing:
    """A value that can be watched."""


@flow.op
def add(x: Any, y: Any) -> Any:
    """Add, on a thread."""
    return x + y


@flow.op
async def double(x: Any) -> Any:
    """Double, after a turn of the event loop."""
    await checkpoint()
    return 2 * x


@flow.op(num_outputs=2)
def both(x: Any, y: Any) -> Any:
    """Give two values."""
    return x, y


def as_kernel(kind: str, function: Callable[..., Any]) -> Op:
    """Make an op of a plain function: a coroutine, on a thread, or at once."""

    async def wait(*values: Any) -> Any:
        return function(*values)

    return Op(wait, "op") if kind == "coroutine" else Op(function, "op", is_inline=kind == "inline")


def _run_on_uvloop(main: Any) -> Any:
    """Run a program on uvloop."""
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


KINDS = pytest.mark.parametrize("kind", ["coroutine", "thread", "inline"])


async def test_values_come_in_the_nesting_of_the_fetches() -> None:
    """Each kind of kernel gives its value; a node without one gives None; nothing at all is fetched as it is."""
    with flow.Graph() as graph:
        a = add(1, 2)
        b = double(a)
        c, d = both(a, b)
        e = flow.identity(d)
        nothing = flow.group(e)
    async with flow.Session(graph=graph) as session:
        assert await session.run({"a": a, "rest": (b, [c, d], nothing)}) == {"a": 3, "rest": (6, [3, 6], None)}
        assert await session.run(e) == 6
        assert await session.run([]) == []


async def test_each_node_runs_once() -> None:
    """However often a node is fetched and used, it runs once in each step; what is not needed does not run."""
    ran: list[str] = []

    @flow.op
    async def note(name: str, *values: Any) -> str:
        ran.append(name)
        return name

    with flow.Graph():
        a = note("a")
        b, _unneeded = note("b", a, a), note("c", a)
        d = note("d", a, b)
    async with flow.Session() as session:
        for _ in range(2):
            assert await session.run([d, a, d, (a, b)]) == ["d", "a", "d", ("a", "b")]
            assert sorted(ran) == ["a", "b", "d"]
            ran.clear()


async def test_arguments_of_kernels() -> None:
    """Kernels get values where nodes were, in new containers each time, and keywords by their names."""
    got: list[Any] = []

    @flow.op
    async def keep(values: Any, *, more: Any, fixed: Any = 7) -> Any:
        got.append(values)
        return values, more, fixed

    with flow.Graph():
        a = double(1)
        fetched = keep([a, {"k": (a, 3)}], more={"x": a})
        constant = flow.constant({"k": [1]})
    async with flow.Session() as session:
        assert await session.run(fetched) == ([2, {"k": (2, 3)}], {"x": 2}, 7)
        got[0].append("changed")
        assert (await session.run(fetched))[0] == [2, {"k": (2, 3)}]
        assert await session.run(constant) == {"k": [1]}
    assert got[0] is not got[1]


# Feeds


async def test_placeholders_convert_what_they_are_fed_with() -> None:
    """With a dtype the value is one of it; without, it is taken as it is."""
    thing = Thing()
    with flow.Graph():
        x, anything = flow.placeholder("x", "float32", (2,)), flow.placeholder("anything")
        fetched = both(x, anything)
    async with flow.Session() as session:
        value, same = await session.run(fetched, {x: [1, 2], anything: thing})
    assert (value.dtype, value.tolist()) == (np.dtype("float32"), [1.0, 2.0])
    assert same is thing


async def test_any_node_may_be_fed() -> None:
    """A fed value stands in the place of the computed one; one output of several too."""
    with flow.Graph():
        a = add(1, 2)
        b = double(a)
        c, d = both(a, b)
        total = add(c, d)
    async with flow.Session() as session:
        assert await session.run([b, a], {a: 10}) == [20, 10]
        assert await session.run([total, c, d], {c: 100}) == [106, 100, 6]
        assert await session.run(total, {c: 1, d: 2}) == 3
        assert await session.run(total) == 9


async def test_a_fed_node_runs_for_a_control_dependency() -> None:
    """A feed replaces its value and not its effect; the fed value holds for everybody."""
    ran: list[int] = []

    @flow.op
    async def effect() -> str:
        ran.append(1)
        return "computed"

    with flow.Graph():
        a = effect()
        with flow.control_dependencies([a]):
            b = flow.identity("b")
            c = both(b, flow.identity(a))
    async with flow.Session() as session:
        assert await session.run([b, a, c[1]], {a: "fed"}) == ["b", "fed", "fed"]
        assert ran == [1]
        assert await session.run(a, {a: "fed"}) == "fed"
        assert ran == [1]


async def test_wrong_feeds_are_refused_before_anything_runs() -> None:
    """Each names what is wrong, the node, and where it was made."""

    @flow.op
    async def never(*values: Any) -> None:
        pytest.fail("it ran")

    with flow.Graph():
        foreign = flow.placeholder("foreign")
    with flow.Graph() as graph:
        x = flow.placeholder("x", "int32", (2,))
        pair = both(x, x)
        fetched = never(pair[0])
    at = re.escape(x.line)
    async with flow.Session(graph=graph) as session:
        wrong_feeds: list[tuple[dict[Any, Any], type[Exception], str]] = [
            ({}, flow.GraphError, rf"'x', made at {at}"),
            ({x: [1.5, 2.5]}, flow.SpecMismatch, rf"'x', made at {at}.*int32"),
            ({x: [1, 2, 3]}, flow.SpecMismatch, rf"'x', made at {at}"),
            ({"x": [1, 2]}, flow.GraphError, "got the key 'x'"),
            ({foreign: 1, x: [1, 2]}, flow.GraphError, "'foreign'"),
            ({pair[0].node: 1, x: [1, 2]}, flow.GraphError, "2 outputs"),
            ({flow.Graph: 1}, flow.GraphError, "got the key"),
            ([(x, [1, 2])], flow.GraphError, "feed= is a dict"),  # type: ignore[list-item]
        ]
        for feed, error, text in wrong_feeds:
            with pytest.raises(error, match=text):
                await session.run(fetched, feed)
        for wrong in (foreign, pair[0].node, "x"):
            with pytest.raises(flow.GraphError):
                await session.run(wrong, {x: [1, 2]})


# Values and their ends


@KINDS
async def test_a_value_is_dropped_when_its_last_user_has_it(kind: str) -> None:
    """It is gone before a node begins that only waits for its users; a fetched one stays."""
    watched: list[weakref.ref[Thing]] = []

    def make() -> Thing:
        thing = Thing()
        watched.append(weakref.ref(thing))
        return thing

    def use(*_: Any) -> None:
        assert watched[-1]() is not None

    with flow.Graph():
        thing = as_kernel(kind, make)()
        uses = [as_kernel(kind, use)(thing), as_kernel(kind, use)([thing, thing])]
        with flow.control_dependencies(uses):
            is_gone = as_kernel("inline", lambda: watched[-1]() is None)()
        unused = as_kernel(kind, make)()
        with flow.control_dependencies([unused]):
            is_unused_gone = as_kernel("inline", lambda: watched[-1]() is None)()
    async with flow.Session() as session:
        assert await session.run(is_gone) is True
        assert (await session.run([is_gone, thing]))[0] is False
        assert await session.run(is_unused_gone) is True


async def test_a_thread_has_dropped_a_value_when_it_says_that_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that begin then find its memory free."""
    watched: list[weakref.ref[Thing]] = []
    is_gone: list[bool] = []
    post = Inbox.post

    def look_and_post(inbox: Inbox, function: Callable[..., None], *args: Any) -> None:
        is_gone.append(watched[0]() is None)
        post(inbox, function, *args)

    def make() -> Thing:
        thing = Thing()
        watched.append(weakref.ref(thing))
        return thing

    with flow.Graph():
        node = as_kernel("thread", lambda _: None)(as_kernel("inline", make)())
    async with flow.Session() as session:
        monkeypatch.setattr(Inbox, "post", look_and_post)
        await session.run(node)
    assert is_gone == [True]


async def test_a_thread_keeps_no_value_that_it_has_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may still be on its way back when the last user of its value has ended."""
    may_return = threading.Event()
    watched: list[weakref.ref[Thing]] = []
    post = Inbox.post

    def post_and_stay(inbox: Inbox, function: Callable[..., None], *args: Any) -> None:
        post(inbox, function, *args)
        del args
        may_return.wait(TEST_S)

    def make() -> Thing:
        thing = Thing()
        watched.append(weakref.ref(thing))
        return thing

    def look() -> bool:
        return watched[0]() is None

    with flow.Graph():
        used = as_kernel("inline", lambda _: None)(as_kernel("thread", make)())
        with flow.control_dependencies([used]):
            is_gone = as_kernel("inline", look)()
    async with flow.Session() as session:
        monkeypatch.setattr(Inbox, "post", post_and_stay)
        try:
            assert await session.run(is_gone) is True
        finally:
            may_return.set()


async def test_constants_and_feeds_of_a_plan_stay() -> None:
    """Steps with the same plan find the same constants, and each its own feeds."""
    with flow.Graph():
        x = flow.placeholder()
        fetched = both(flow.constant([1, 2]), x)
    async with flow.Session() as session:
        for number in range(3):
            constant, fed = await session.run(fetched, {x: number})
            assert (constant.tolist(), fed) == ([1, 2], number)
            assert not constant.flags.writeable


# Several steps


async def test_steps_of_one_session_run_at_once() -> None:
    """Each of two steps waits for the other one to have begun."""
    begun = [anyio.Event(), anyio.Event()]

    @flow.op
    async def meet(number: int) -> int:
        begun[number].set()
        await begun[1 - number].wait()
        return number

    with flow.Graph():
        x = flow.placeholder()
        met = meet(x)
    got: list[int] = []

    async def run(number: int) -> None:
        got.append(await session.run(met, {x: number}))

    async with flow.Session() as session:
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, 0)
                tasks.start_soon(run, 1)
    assert sorted(got) == [0, 1]


async def test_a_kernel_that_waits_keeps_nothing_else_waiting() -> None:
    """A hundred coroutine kernels wait for the last one."""
    last = anyio.Event()

    @flow.op
    async def wait(number: int) -> int:
        if number == 99:
            last.set()
        await last.wait()
        return number

    with flow.Graph():
        nodes = [wait(number) for number in range(100)]
    async with flow.Session() as session:
        with anyio.fail_after(TEST_S):
            assert await session.run(nodes) == list(range(100))


async def test_a_plan_is_made_once_and_the_graph_may_grow() -> None:
    """The same fetches have one plan; nodes that are added later can be fetched, and running steps do not see them."""
    grown: list[flow.Node] = []
    with flow.Graph() as graph:

        @flow.op
        async def grow(x: Any) -> Any:
            with graph:
                grown.append(double(x_node))
            return x

        x_node = add(1, 1)
        fetched = double(grow(x_node))
    async with flow.Session() as session:
        assert await session.run([fetched, fetched]) == [4, 4]
        assert await session.run(grown[0]) == 4
        executor = session._executor
        assert executor is not None
        before = len(executor._plans)
        for _ in range(3):
            assert await session.run(grown[0]) == 4
        assert len(executor._plans) == before
        for _ in range(70):
            await session.run([fetched])
        assert len(executor._plans) <= 64


async def test_kernels_have_the_session_of_their_step() -> None:
    """Whichever worker runs it, also one that a thread's end has brought: the session of the step is current."""
    release = anyio.Event()
    seen: list[Any] = []

    @flow.op
    async def wait() -> None:
        seen.append(current_session())
        await release.wait()

    @flow.op
    async def after(_: Any) -> None:
        seen.append(current_session())
        release.set()

    with flow.Graph():
        waiting, thread = wait(), add(1, 2)
        end = after(thread)
    async with flow.Session() as session, flow.Session() as other:
        assert current_session() is other
        with anyio.fail_after(TEST_S):
            await session.run([waiting, end])
        assert seen == [session, session]
        assert current_session() is other


# What a session tells


async def test_log_device_placement(capsys: pytest.CaptureFixture[str]) -> None:
    """Each node is printed once, in a table: name, op, device."""
    with flow.Graph():
        a = add(1, 2)
        b = double(a)
    async with flow.Session(config=flow.SessionConfig(log_device_placement=True)) as session:
        await session.run(a)
        assert capsys.readouterr().err == "add: (add): /job:localhost/task:0/device:CPU:0\n"
        await session.run(b)
        assert capsys.readouterr().err == "double: (double): /job:localhost/task:0/device:CPU:0\n"
        with a.graph:
            more = [flow.identity(b, name="x"), flow.group(b)]
        await session.run(more)
        lines = capsys.readouterr().err.splitlines()
        assert [line.split() for line in lines] == [
            ["x:", "(identity):", "/job:localhost/task:0/device:CPU:0"],
            ["group:", "(group):", "/job:localhost/task:0/device:CPU:0"],
        ]
        assert len({line.index("/job") for line in lines}) == 1
        await session.run(b)
        assert capsys.readouterr().err == ""


async def test_a_graph_that_ran_is_drawn_with_its_times() -> None:
    """What ran stands on its device and has a time."""
    with flow.Graph() as graph:
        a, not_run = add(1, 2), add(3, 4)
    async with flow.Session() as session:
        await session.run(a)
    dot = graph.to_dot()
    assert re.search(rf'label="/job:localhost/task:0/device:CPU:0"\n +n{a.index} \[label="add\\n\S+ ms"', dot)
    assert f'n{not_run.index} [label="add_1"' in dot


async def test_devices() -> None:
    """A session tells of its devices."""
    async with flow.Session() as session:
        first, *_ = await session.devices()
    assert (first.name, first.kind, first.memory_limit) == ("/job:localhost/task:0/device:CPU:0", "CPU", None)


# Threads


def most_at_once(threads: int, kernels: int) -> tuple[Op, list[int]]:
    """Make an op of which up to so many run at once, and the list whose last item is the most so far."""
    lock, running, most = threading.Lock(), [0], [0]
    full = threading.Barrier(threads)

    def kernel(number: int) -> tuple[int, str]:
        with lock:
            running[0] += 1
            most.append(max(most[-1], running[0]))
        if kernels % threads == 0:
            full.wait(TEST_S)
        with lock:
            running[0] -= 1
        return number, threading.current_thread().name

    return Op(kernel, "kernel"), most


@pytest.mark.parametrize("threads", [1, 2])
async def test_inter_op_threads(threads: int) -> None:
    """So many plain kernels run at once, no more, on threads that are named for their device."""
    kernel, most = most_at_once(threads, 6)
    with flow.Graph():
        nodes = [kernel(number) for number in range(6)]
    async with flow.Session(config=flow.SessionConfig(inter_op_parallelism_threads=threads)) as session:
        with anyio.fail_after(TEST_S):
            values = await session.run(nodes)
    assert [number for number, _ in values] == list(range(6))
    names = {name for _, name in values}
    assert len(names) <= threads
    assert all("device:CPU:0" in name for name in names)
    assert most[-1] == threads


async def test_no_inter_op_threads() -> None:
    """With a negative number plain kernels run on the event loop."""
    kernel, _ = most_at_once(1, 1)
    with flow.Graph():
        nodes = [kernel(number) for number in range(3)]
    async with flow.Session(config=flow.SessionConfig(inter_op_parallelism_threads=-1)) as session:
        assert {name for _, name in await session.run(nodes)} == {threading.current_thread().name}


async def test_threads_end_with_the_session() -> None:
    """They start when they are needed, and are gone after the close."""
    kernel, _ = most_at_once(1, 1)
    before = set(threading.enumerate())
    with flow.Graph():
        node, fast = kernel(0), double(1)
    async with flow.Session() as session:
        await session.run(fast)
        started = {t for t in set(threading.enumerate()) - before if "device:" in t.name}
        assert started == set()
        await session.run(node)
        started = {t for t in set(threading.enumerate()) - before if "device:" in t.name}
        assert len(started) == 1
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize("inter_op", [1, -1])
async def test_intra_op_threads(inter_op: int) -> None:
    """The threads of NumPy's own kernels are limited while the session is open, on whichever thread they run."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    np.linalg.inv(np.eye(2))  # loads what it limits

    pools = threadpoolctl.ThreadpoolController()

    def look() -> list[int]:
        return [pool.num_threads for pool in pools.lib_controllers]

    with threadpoolctl.threadpool_limits(limits=2):
        before = look()
        if 2 not in before:
            pytest.skip("NumPy has no threads of its own here")
        with flow.Graph():
            node = Op(look, "look")()
        for limit, expected in ((0, before), (1, [1] * len(before))):
            config = flow.SessionConfig(inter_op_parallelism_threads=inter_op, intra_op_parallelism_threads=limit)
            async with flow.Session(config=config) as session:
                assert await session.run(node) == expected
        assert look() == before


@pytest.mark.parametrize("run", [asyncio.run, _run_on_uvloop])
def test_a_program_without_anyio(run: Callable[[Any], Any]) -> None:
    """A step goes on after a kernel on a thread although no kernel waits in the task that called it."""
    release = anyio.Event()

    @flow.op
    async def wait() -> str:
        await release.wait()
        return "released"

    @flow.op
    async def after(_: Any) -> None:
        release.set()

    with flow.Graph():
        nodes = [wait(), after(add(1, 2))]

    async def main() -> Any:
        async with asyncio.timeout(TEST_S), flow.Session() as session:
            return await session.run(nodes)

    assert run(main()) == ["released", None]


note: ContextVar[str] = ContextVar("note", default="")


@flow.op
def set_note(value: str) -> str:
    """Change what this thread, or whoever runs there next, has; return what was there."""
    before = note.get()
    note.set(value)
    return before


async def test_a_kernel_on_a_thread_changes_the_context_of_no_other() -> None:
    """NumPy's error handling is one, too."""
    async with flow.Session(config=flow.SessionConfig(inter_op_parallelism_threads=1)) as session:
        for value in ("first", "second"):
            with flow.Graph():
                before = set_note(value)
            assert await session.run(before) == ""
