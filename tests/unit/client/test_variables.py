"""Variables as programs use them: by themselves and in graphs, in embedded sessions and on servers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import numpy as np
import pytest

import aioflow as flow
from aioflow.cluster import _admission
from aioflow.testing._queue_stage import ints, refused, start, until

pytestmark = pytest.mark.anyio

TEST_S = 10.0


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Each kind of event loop."""
    return request.param


@pytest.fixture(params=["embedded", "inproc", "ipc"])
def where(request: pytest.FixtureRequest) -> str:
    """Where the variable lives."""
    return str(request.param)


@asynccontextmanager
async def opened(where: str, folder: str) -> AsyncGenerator[flow.Session]:
    """Open an embedded session, or one on a server of its own."""
    if where == "embedded":
        async with flow.Session() as session:
            yield session
        return
    address = f"ipc://{folder}/s" if where == "ipc" else "inproc://variables"
    async with flow.Server({"local": [address]}), flow.Session(address) as session:
        yield session


async def test_the_operations(where: str, folder: str) -> None:
    """No value, a first one, sums and differences; what was read stays as it is."""
    v = flow.Variable([1.0, 2.0], name="v")
    with anyio.fail_after(TEST_S):
        async with opened(where, folder):
            with refused(flow.NotInitialised, "variable 'v' has no value yet"):
                await v.read()
            with refused(flow.NotInitialised):
                await v.assign_add([1, 1])
            await v.initialize()
            first = await v.read()
            await v.assign_add([10, 20])
            await v.assign_sub(np.array([1, 1], np.float32))
            assert (await v.read()).tolist() == [10, 21]
            assert first.tolist() == [1, 2]
            assert (first.dtype, first.flags.writeable) == (np.float32, False)
            await v.initialize()
            assert (await v.read()).tolist() == [1, 2]


async def test_the_callers_array_stays_the_callers(where: str, folder: str) -> None:
    """It may be changed after the call, and after the definition."""
    initial = np.zeros(3)
    v = flow.Variable(initial, name="v")
    with anyio.fail_after(TEST_S):
        async with opened(where, folder):
            given = np.ones(3)
            await v.assign(given)
            given[:] = 9
            assert (await v.read()).tolist() == [1, 1, 1]
            initial[:] = 9
            await v.initialize()
            assert (await v.read()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", ["text", b"bytes", True, 7, 2.5])
async def test_scalars(where: str, folder: str, value: Any) -> None:
    """They come back as what a queue would give."""
    v = flow.Variable(value, name="v")
    with anyio.fail_after(TEST_S):
        async with opened(where, folder):
            await v.initialize()
            assert await v.read() == value
            assert v.dtype in {"str", "bytes", "bool", "int32", "float32"}


async def test_a_value_that_does_not_fit(where: str, folder: str) -> None:
    """It is refused at the call, and the value stays."""
    v = flow.Variable([1, 2], name="v")
    other = flow.Variable([1.0, 2.0], name="v")
    text = flow.Variable("a", name="text")
    with anyio.fail_after(TEST_S):
        async with opened(where, folder):
            await v.initialize()
            await text.initialize()
            with refused(flow.SpecMismatch, "variable 'v': component 0: got shape [3]"):
                await v.assign([1, 2, 3])
            with refused(flow.SpecMismatch, "variable 'v'"):
                await v.assign_add(0.5)
            with refused(flow.SpecMismatch, "variable 'v' exists with values int32[2]", "says float32[2]"):
                await other.read()
            with refused(flow.SpecMismatch, "'text' is of dtype str, which has no sub"):
                await text.assign_sub("a")
            assert (await v.read()).tolist() == [1, 2]


async def test_an_initial_value_may_be_made_each_time() -> None:
    """By a function, which then needs dtype and shape."""
    made: list[int] = []

    def make() -> list[int]:
        made.append(len(made))
        return made

    with refused(flow.GraphError, "give dtype= and shape="):
        flow.Variable(make, name="v")
    with refused(flow.SpecMismatch, "variable 'v': "):
        flow.Variable([1, 2], name="v", shape=[3])
    v = flow.Variable(make, name="v", dtype="int64", shape=[None])
    async with flow.Session():
        await v.initialize()
        await v.initialize()
        assert (await v.read()).tolist() == [0, 1]


async def test_a_shared_one_outlives_sessions_of_a_server_only() -> None:
    """Issue 4: variables survive the session that made them on a server, not in an embedded session."""
    shared, private = flow.Variable(0, name="v"), flow.Variable(0)
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": ["inproc://outlives"]}) as server:
            async with flow.Session(server):
                await shared.assign(5)
                await private.assign(6)
                assert await private.read() == 6
            async with flow.Session(server):
                assert await shared.read() == 5
                with refused(flow.NotInitialised):
                    await private.read()
        async with flow.Session():
            await shared.assign(5)
        async with flow.Session():
            with refused(flow.NotInitialised):
                await shared.read()


async def test_concurrent_sums_are_atomic(where: str, folder: str) -> None:
    """Issue 4: concurrent assigns are atomic."""
    v = flow.Variable(0, name="v")
    with anyio.fail_after(TEST_S):
        async with opened(where, folder) as session:
            await v.initialize()
            bound = v.on(session)
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(bound.assign_add, 3)
                    tasks.start_soon(v.assign_sub, 1)
            assert await v.read() == 100


async def test_sums_are_done_once_although_connections_are_lost() -> None:
    """Each assign_add is in the value exactly once, when its answer was lost and it was sent again, too."""
    v = flow.Variable(0, name="v")
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": ["tcp://127.0.0.1:0"]}) as server, flow.Session(server.address):
            await v.initialize()

            async def add() -> None:
                for _ in range(20):
                    await v.assign_add(1)

            async with anyio.create_task_group() as tasks:
                adding = [start(tasks, add) for _ in range(5)]
                losses = 0
                while not all(one.is_done for one in adding):
                    before = await v.read()
                    for connection in list(server._connections.values()):
                        connection.abort()
                        losses += 1
                    if before < 100:
                        await v.read()
            assert losses > 1
            assert await v.read() == 100


async def test_a_cancelled_assign_is_done_or_not(where: str, folder: str) -> None:
    """As a put: the value is whole in either case, and the next operation comes behind it."""
    v = flow.Variable([0, 0], name="v")
    with anyio.fail_after(TEST_S):
        async with opened(where, folder):
            await v.initialize()
            for number in range(1, 6):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await v.assign([number, number])
                first, second = await v.read()
                assert first == second
            await v.assign([9, 9])
            assert (await v.read()).tolist() == [9, 9]


async def test_a_value_that_no_message_holds(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at the call, and the session goes on."""
    monkeypatch.setattr(_admission, "FRAME_BYTES_MAX", 1000)
    v = flow.Variable(np.zeros(1001, np.uint8), name="long", shape=[None])
    with anyio.fail_after(TEST_S):
        async with opened("ipc", folder):
            with refused(flow.SpecMismatch, "variable 'long'", "1001 bytes"):
                await v.initialize()
            await v.assign(np.zeros(1000, np.uint8))
            assert (await v.read()).shape == (1000,)


async def test_a_reset_empties_containers() -> None:
    """The named ones, or the default one; other containers stay. Sessions of the server end, and say why."""
    q, v = ints(shared_name="q"), flow.Variable(1, name="v")
    with flow.container("c"):
        other = flow.Variable(1, name="v")
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": ["inproc://resets"]}) as server:
            async with flow.Session(server):
                await v.initialize()
                await other.initialize()
                await q.enqueue(1)
                async with anyio.create_task_group() as tasks:
                    waits = start(tasks, q.dequeue_many, 2)
                    await until(q, gets_waiting=1)
                    await flow.Session.reset(server)
                    with refused(flow.NotFound, "queue 'q' was deleted"):
                        await waits.outcome()
                with refused(flow.SessionClosed, "of its server were reset"):
                    await v.read()
            async with flow.Session(server):
                assert await q.size() == 0
                with refused(flow.NotInitialised):
                    await v.read()
                assert await other.read() == 1
            await flow.Session.reset("inproc://resets", ["c", "nobody"])
            async with flow.Session(server):
                with refused(flow.NotInitialised):
                    await other.read()
                await v.assign(2)
                assert await v.read() == 2


@pytest.mark.parametrize("target", ["", None, 7])
async def test_a_reset_needs_a_server(target: Any) -> None:
    """What an embedded session holds goes with it."""
    with refused(flow.SessionError, "reset needs the address of a server"):
        await flow.Session.reset(target)
    with refused(flow.SessionError, "containers is a list of names; got 'c'"):
        await flow.Session.reset("inproc://x", "c")


# In graphs


async def test_nodes_of_variables(where: str, folder: str) -> None:
    """Nodes that assign have the new value; control dependencies order them."""
    with anyio.fail_after(TEST_S):
        async with opened(where, folder) as there, flow.Session() as session:
            with flow.Graph():
                v = flow.Variable(1, name="v")
                used = v if where == "embedded" else v.on(there)
                init = used.nodes.initializer()
                added = used.nodes.assign_add(flow.identity(flow.constant(4)))
                with flow.control_dependencies([added]):
                    taken = used.nodes.assign_sub(2)
                with flow.control_dependencies([taken]):
                    read = used.nodes.read()
                replaced = used.nodes.assign(9)
            with refused(flow.NotInitialised, "variable 'v' has no value yet") as caught:
                await session.run(read)
            assert "aioflow: in node 'assign_add' on" in caught[0].__notes__[0]
            assert await session.run(init) is None
            assert await session.run([added, taken, read]) == [5, 3, 3]
            assert await session.run(read) == 5
            assert await session.run(replaced) == 9
            assert await used.read() == 9


async def test_all_variables_are_initialised_at_once() -> None:
    """Those that the graph has then; `trainable_variables` lists those that an optimiser should change."""
    with flow.Graph():
        weights = flow.Variable(np.ones(2), name="weights")
        step = flow.Variable(0, name="step", trainable=False)
        init = flow.global_variables_initializer()
        assert flow.trainable_variables() == [weights]
    async with flow.Session() as session:
        await session.run(init)
        assert (await weights.read()).tolist() == [1, 1]
        assert await step.read() == 0
    for call in (flow.global_variables_initializer, flow.trainable_variables):
        with refused(flow.GraphError, "no graph is current"):
            call()


async def test_a_scope_names_variables_and_says_who_may_share() -> None:
    """TensorFlow's rules: a second variable of a name needs reuse, and reuse needs a first one of the same kind."""
    with flow.Graph():
        with flow.variable_scope("layer"):
            v = flow.Variable(0, name="w")
            with refused(flow.GraphError, "has a variable 'layer/w' already"):
                flow.Variable(0, name="w")
        assert v.name == "layer/w"
        with flow.variable_scope("layer", reuse=True):
            again = flow.Variable(1, name="w")
            with refused(flow.GraphError, "variable 'layer/b' does not exist", "reuse=True"):
                flow.Variable(0, name="b")
            with refused(flow.SpecMismatch, "<Variable 'layer/w' int32[]> exists"):
                flow.Variable(0.5, name="w")
        with flow.variable_scope("layer", reuse=None):
            flow.Variable(0, name="w")
            flow.Variable(0, name="b")
        with flow.variable_scope("layer", reuse=True):
            flow.Variable(0)  # without a name there is nothing to be found
        with flow.container("other"), flow.variable_scope("layer"):
            other = flow.Variable(0, name="w")
        init = flow.global_variables_initializer()
    async with flow.Session() as session:
        await session.run(init)
        await v.assign(3)
        assert [await again.read(), await other.read()] == [3, 0]
