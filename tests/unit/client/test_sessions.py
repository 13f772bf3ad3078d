"""Sessions belong to where they were opened, keep nothing of finished calls, and end once and for all."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

import aioflow as flow
from aioflow.client._queue_nodes import _dequeue_many
from aioflow.cluster import ClusterHost
from aioflow.runtime import EmbeddedHost
from aioflow.runtime._turns import on_asyncio
from aioflow.testing._queue_stage import ints, refused, start, until

pytestmark = pytest.mark.anyio

TEST_S = 10.0
IMPATIENT = flow.SessionConfig(heartbeat_s=0.001, lost_s=0.01, session_s=0.01)


async def test_another_thread_is_refused() -> None:
    """A session belongs to its event loop: use from another loop, in another thread, is refused."""
    q = ints()

    def use() -> None:
        with refused(flow.SessionError, "another event loop or thread"):
            asyncio.run(q.on(session).size())

    async with flow.Session() as session:
        thread = threading.Thread(target=use)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        assert await q.size() == 0


async def test_stats_of_an_embedded_session() -> None:
    """One part, whose queues are there from their first operation on."""
    async with flow.Session() as session:
        assert await session.stats() == (flow.ServerStats("", 0, ()),)
        with flow.container("c"):
            q = ints()
        await q.enqueue(1)
        assert await session.stats() == (flow.ServerStats("", 0, (await q.stats(),)),)
        assert (await q.stats()).container == "c"
    with refused(flow.SessionClosed, "was closed"):
        await session.stats()


async def test_a_forked_child_is_refused() -> None:
    """After a fork the child's use of the session is refused, and the parent's goes on."""
    q = ints()
    async with flow.Session():
        await q.enqueue(1)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                asyncio.run(q.size())
            except flow.SessionError as error:
                code = 0 if "before a fork" in str(error) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await q.dequeue() == 1


async def test_a_session_opens_once() -> None:
    """A session that is open, or was closed, cannot be opened again; a second close does nothing."""
    session = flow.Session()
    with refused(flow.SessionError, "not open"):
        await ints().on(session).size()
    await session.close()
    async with session:
        with refused(flow.SessionError, "opened before"):
            await session.open()
    await session.close()
    with refused(flow.SessionError, "opened before"):
        await session.open()


async def test_the_current_session_is_that_of_the_innermost_block() -> None:
    """Leaving a session makes the one around it current again; tasks take over what was current at their start."""
    q = ints()
    async with flow.Session() as outer:
        await q.enqueue(1)
        async with flow.Session(), anyio.create_task_group() as tasks:
            assert await start(tasks, q.size).outcome() == 0
        assert await q.size() == 1
        inner = await flow.Session().open()
        assert await q.size() == 0
        await outer.close()
        assert await q.size() == 0
        await inner.close()


async def test_what_does_not_exist_yet_is_refused() -> None:
    """Arguments that this version does not have are refused, instead of ignored."""
    with refused(flow.GraphError, "takes a flow.Graph"):
        flow.Session(graph=object())  # type: ignore[arg-type]
    with refused(flow.AuthenticationFailed, "path of a key file"):
        flow.Session(credentials=object())  # type: ignore[arg-type]
    for name in ("connect_s", "heartbeat_s", "lost_s", "session_s"):
        with refused(flow.SpecMismatch, name):
            dataclasses.replace(flow.SessionConfig(), **{name: 0})  # type: ignore[arg-type]
    with refused(flow.SpecMismatch, "heartbeat_s is 1", "lost_s 1", "between two beats"):
        flow.SessionConfig(lost_s=1)
    with refused(flow.SpecMismatch, "session_s is 2", "lost_s 3", "before it counts as lost"):
        flow.SessionConfig(session_s=2)
    flow.SessionConfig(heartbeat_s=0.9, lost_s=1, session_s=1)
    with refused(flow.SpecMismatch, "at_least_once"):
        ints(delivery="at_least_once")
    with refused(flow.SpecMismatch, "durable"):
        ints(durable=True)


async def test_the_target_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a target a session opens on what AIOFLOW_TARGET names; where that or the target is empty, embedded."""
    async with flow.Server({"local": ["inproc://environment"]}):
        monkeypatch.setenv("AIOFLOW_TARGET", "inproc://environment")
        async with flow.Session() as session:
            assert isinstance(session.host, ClusterHost)
        async with flow.Session("") as session:
            assert isinstance(session.host, EmbeddedHost)
        monkeypatch.setenv("AIOFLOW_TARGET", "")
        async with flow.Session() as session:
            assert isinstance(session.host, EmbeddedHost)


async def use(q: flow.FIFOQueue) -> None:
    """Use every operation, cancelled ones and refused ones among them."""
    await q.enqueue_many([1, 2, 3])
    await q.enqueue(4)
    await q.dequeue()
    await q.dequeue_many(2)
    async with q.batches(1) as batches:
        await anext(batches)
    await q.dequeue_many(0)
    await q.stats()
    async with anyio.create_task_group() as tasks:
        for call in (q.dequeue, q.batches(2).__anext__):
            tasks.start_soon(call)
        await until(q, gets_waiting=2)
        tasks.cancel_scope.cancel()
    await q.is_closed()


async def test_finished_calls_are_forgotten() -> None:
    """Neither side of a session keeps anything of calls that have ended, however they ended."""
    q = ints(10, shared_name="forgotten")
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": ["inproc://forgets"]}) as server, flow.Session() as here, flow.Session(server):
            there = q.on(flow.Session(server))
            async with there._session:  # type: ignore[union-attr]
                for queue in (q.on(here), there):
                    for _ in range(3):
                        await use(queue)
                await there.size()
                await q.size()
                broker: Any = server._broker
                assert [len(s.waiting) + len(s.delivered) for s in broker._sessions] == [0, 0]
                assert not broker._tickets.owners
                host: Any = there._session.host.master  # type: ignore[union-attr]
                assert not host._calls
                assert not host._delivered
                assert not host._peer._requests
                embedded: Any = here.host
                assert not embedded._calls
        assert not list(broker._sessions)


async def test_deleted_queues_are_forgotten() -> None:
    """Queues that are made and deleted again and again leave nothing, in the session or on the server."""
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": ["inproc://deletes"]}) as server, flow.Session(server) as session:
            q = ints(10, shared_name="deleted")
            for k in range(50):
                await q.epoch(k).enqueue(k)
                await q.epoch(k).delete()
            host: Any = session.host.master  # type: ignore[attr-defined]
            broker: Any = server._broker
            (state,) = broker._sessions
            assert len(host._peer._numbers) <= 1
            assert len(state.refs) <= 1
            assert not broker._resources.queues
            await q.enqueue(7)
            assert await q.dequeue() == 7


async def test_the_error_of_an_ended_session_does_not_grow() -> None:
    """A loop that tries again after a loss raises a new error each time, not one with all tracebacks so far."""
    async with flow.Server({"local": ["inproc://grows"]}) as server:
        session = await flow.Session(server, config=IMPATIENT).open()
    q = ints().on(session)
    errors = []
    with pytest.raises(flow.ConnectionLost):  # of a call that waited; the others do not
        await q.size()
    for _ in range(3):
        with pytest.raises(flow.ConnectionLost, match=r"out of reach for 0\.01 s") as caught:
            await q.size()
        depth, traceback = 0, caught.value.__traceback__
        while traceback is not None:
            depth, traceback = depth + 1, traceback.tb_next
        errors.append((caught.value, depth))
    assert len({id(error) for error, _ in errors}) == 3
    assert len({depth for _, depth in errors}) == 1
    await session.close()


async def test_what_came_ahead_is_not_handed_out_after_the_end_of_a_session() -> None:
    """Elements that were sent ahead are the queue's again when the session has ended: nobody gets them twice.

    Semantics 0.4: the end of the last connection on the same host ends a session; its calls raise SessionClosed.
    """
    q = ints(100, shared_name="lost-ahead")
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": ["inproc://loses"]}) as server, flow.Session(server) as stays:
            loses = await flow.Session(server).open()
            await q.on(stays).enqueue_many([0, 1, 2, 3, 4])
            batches = q.on(loses).batches(1)
            assert (await anext(batches)).tolist() == [0]
            await until(q.on(stays), ahead=4)
            peer, connection = max(server._connections.items())
            server.lost(peer)
            await connection.aclose()
            assert (await q.on(stays).dequeue_many(4)).tolist() == [1, 2, 3, 4]
            with pytest.raises(flow.SessionClosed, match="no sign of life"):
                await q.on(loses).size()  # so that it has heard of its end
            with pytest.raises(flow.SessionClosed, match="no sign of life"):
                await anext(batches)
            await loses.close()


async def test_a_step_does_not_go_on_with_what_an_ended_session_had_taken() -> None:
    """What a dequeue node holds is the queue's again when the server has ended the session: its step is told so."""
    q = ints(100, shared_name="lost-held")
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": ["inproc://loses-held"]}) as server, flow.Session(server) as stays:
            loses = await flow.Session(server).open()
            await q.on(stays).enqueue_many([0, 1, 2])
            taken = await _dequeue_many(q.on(loses), 3)
            peer, connection = max(server._connections.items())
            server.lost(peer)
            await connection.aclose()
            with pytest.raises(flow.SessionClosed, match="no sign of life"):
                await q.on(loses).size()  # so that it has heard of its end
            with pytest.raises(flow.ConnectionLost, match="went back"):
                taken.acknowledge()
            assert (await q.on(stays).dequeue_many(3)).tolist() == [0, 1, 2]
            await loses.close()


async def test_a_close_that_is_cancelled_closes() -> None:
    """A session and a server whose closing is cancelled, again and again, leave no task and no connection."""
    with anyio.fail_after(TEST_S):
        server = flow.Server({"local": ["inproc://cancelled-close"]})
        await server.start()
        session = await flow.Session(server).open()
        for closing in (session, server):
            if on_asyncio():
                task = asyncio.ensure_future(closing.close())
                for _ in range(5):
                    await asyncio.sleep(0)
                    task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await closing.close()
        assert not server._connections


async def test_an_open_that_is_cancelled_leaves_nothing() -> None:
    """Opening a session or a server may be cancelled after any number of turns."""
    with anyio.fail_after(TEST_S):
        for turns in range(25):
            async with flow.Server({"local": [f"inproc://turns-{turns}"]}) as server:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_open_and_close, server)
                        for _ in range(turns):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_start_and_stop, turns)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
    gc.collect()


async def _open_and_close(server: flow.Server) -> None:
    async with flow.Session(server):
        await ints().size()


async def _start_and_stop(turns: int) -> None:
    async with flow.Server({"local": [f"inproc://starts-{turns}"]}):
        await anyio.lowlevel.checkpoint()


async def test_two_sessions_may_close_at_once() -> None:
    """Closing twice at the same time is as good as once."""
    async with flow.Server({"local": ["inproc://twice"]}) as server:
        for target in (None, server):
            session = await flow.Session(target).open()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.close)
                tasks.start_soon(session.close)
