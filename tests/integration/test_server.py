"""A server with real processes: it starts, serves, survives its clients, and ends without a trace."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from contextlib import AsyncExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import zmq

import aioflow as flow
from aioflow.cluster import _tickets
from aioflow.testing._queue_stage import ints, refused, start, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., tuple[Any, str]]
    RunProgram = Callable[..., Any]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

TEST_S = 30.0
ENDED_S = 2.0  # within which a server has ended after a signal
# Of a client that does not wait long for another server.
IMPATIENT = flow.SessionConfig(heartbeat_s=0.1, lost_s=0.5, session_s=0.5)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: what is tested is on the other side of a process boundary."""
    return "asyncio"


# Its life


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
async def test_a_signal_ends_it(serve: Serve, scheme: str, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end it within 2 s with code 0 and nothing printed; its clients wait for another one.

    Semantics 0.4: queue calls wait out an outage up to session_s, then raise ConnectionLost.
    """
    server, address = serve("tcp://127.0.0.1:0" if scheme == "tcp" else None)
    assert address.startswith(f"{scheme}://")
    q = ints(1, shared_name="q")
    with anyio.fail_after(TEST_S):
        async with flow.Session(address, config=IMPATIENT), anyio.create_task_group() as tasks:
            get = start(tasks, q.dequeue_many, 3)
            await until(q, gets_waiting=1)
            code, seconds = await anyio.to_thread.run_sync(server.end_by, number)
            with refused(flow.ConnectionLost, address, f"out of reach for {IMPATIENT.session_s} s"):
                await get.outcome()
            with refused(flow.ConnectionLost, address):
                await q.size()
    assert code == 0, server.output
    assert seconds < ENDED_S
    assert server.output.count("\n") == 1


async def test_a_killed_server_that_does_not_come_back(serve: Serve) -> None:
    """After kill -9 and session_s clients raise ConnectionLost, leaving is quick, and a new server takes the address.

    Semantics 0.4: queue calls wait out an outage up to session_s, then raise ConnectionLost.
    """
    server, address = serve()
    q = ints(1, shared_name="q")
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks, flow.Session(address, config=IMPATIENT):
            producer = q.producer()
            await producer.__aenter__()
            await q.enqueue(1)
            put = start(tasks, q.enqueue, 2)
            await until(q, puts_waiting=1)
            killed = monotonic()
            server.kill()
            with refused(flow.ConnectionLost, address):
                await put.outcome()
            assert IMPATIENT.session_s <= monotonic() - killed < IMPATIENT.session_s + 1
            with refused(flow.ConnectionLost, address):
                await producer.__aexit__(None, None, None)
        assert monotonic() - killed < IMPATIENT.session_s + 2
        again, _ = serve(address)
        async with flow.Session(address):
            assert await q.size() == 0
        assert again.end_by(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_is_started_anew(serve: Serve, number: signal.Signals) -> None:
    """Calls wait while it is away, then raise QueueReset once; the same session goes on, and its producer is there.

    Semantics 0.4: all calls pending on a queue raise QueueReset; only if there were none, the next does. Registrations
    renew first.
    """
    server, address = serve()
    q, idle = ints(1, shared_name="q"), ints(1, shared_name="idle")
    with anyio.fail_after(TEST_S):
        async with flow.Session(address), q.producer("p"), anyio.create_task_group() as tasks:
            await idle.enqueue(1)
            await q.enqueue(1)
            put = start(tasks, q.enqueue, 2)
            await until(q, puts_waiting=1)
            await anyio.to_thread.run_sync(server.end_by, number)
            again, _ = await anyio.to_thread.run_sync(serve, address)
            with refused(flow.QueueReset, "queue 'q'", address, "started anew"):
                await put.outcome()
            with refused(flow.QueueReset, "queue 'idle'"):
                await idle.size()
            assert await idle.size() == await q.size() == 0
            assert (await q.stats()).producers == ("p",)
            await q.enqueue(3)
        assert again.end_by(signal.SIGTERM)[0] == 0


async def test_python_m_and_cluster_server(new_address: Callable[[], str]) -> None:
    """A server in the program serves sessions by its object and by its address, and `join` waits for its end."""
    address = new_address()
    q = ints(shared_name="q")
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks, flow.Server({"local": [address]}) as server:
            tasks.start_soon(server.join)
            async with flow.Session(server):
                await q.enqueue(1)
            async with flow.Session(address):
                assert await q.dequeue() == 1
        with refused(flow.SessionError, "started before"):
            await server.start()


# Clients that vanish


async def test_a_killed_client_loses_nothing(serve: Serve, run_program: RunProgram) -> None:
    """kill -9 of a client: its gets are withdrawn, what it was not handed goes back, its producer is lost."""
    server, address = serve()
    q = ints(100, shared_name="q")
    with anyio.fail_after(TEST_S):
        async with flow.Session(address):
            client = run_program(
                """
                import anyio, aioflow as flow
                q = flow.FIFOQueue(100, "int64", (), shared_name="q")
                other = flow.FIFOQueue(100, "int64", (), shared_name="other")
                async def main():
                    async with flow.Session(), q.producer("victim"), anyio.create_task_group() as tasks:
                        await q.enqueue_many(list(range(10)))
                        batches = q.batches(2)
                        print((await anext(batches)).tolist())
                        tasks.start_soon(other.dequeue)
                        tasks.start_soon(q.dequeue_many, 1000)
                        await anyio.sleep_forever()
                anyio.run(main)
                """,
                target=address,
            )
            assert await anyio.to_thread.run_sync(client.read_line) == "[0, 1]"
            await until(ints(100, shared_name="other"), gets_waiting=1)
            await until(q, gets_waiting=1, size=0)
            killed = monotonic()
            client.kill()
            seen: list[int] = []
            with refused(flow.EndOfQueue) as caught:
                async for batch in q.batches(3):
                    seen += batch.tolist()
            assert monotonic() - killed < 2
            assert seen == list(range(2, 10))
            (end,) = caught
            assert isinstance(end, flow.EndOfQueue)
            assert [lost.name for lost in end.lost_producers] == ["victim"]
            await until(ints(100, shared_name="other"), gets_waiting=0)
    assert server.end_by(signal.SIGTERM)[0] == 0
    assert server.output.splitlines()[1:] == ["queue 'q' lost producer 'victim': its process has ended"]


async def test_who_computes_with_what_it_took_holds_up_nobody(serve: Serve) -> None:
    """Its event loop stands after a get, while another of its tasks waits; others learn that there is no more."""
    server, address = serve()
    ended = threading.Event()

    async def compute() -> None:
        async def take(q: flow.FIFOQueue) -> None:
            try:
                await q.dequeue()
            except flow.EndOfQueue:
                return
            ended.wait(TEST_S)  # in the thread of the event loop

        async with flow.Session(address), asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(take(ints(1, shared_name="q")))

    q = ints(1, shared_name="q")
    with anyio.fail_after(TEST_S):
        async with flow.Session(address), anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, lambda: asyncio.run(compute()))
            try:
                await until(q, gets_waiting=2)
                await q.enqueue(1)
                await q.close()
                with pytest.raises(flow.EndOfQueue):
                    await q.dequeue()
                assert not ended.is_set()
            finally:
                ended.set()
    assert server.end_by(signal.SIGTERM)[0] == 0


async def test_clients_killed_at_random_lose_nothing_accepted(serve: Serve, run_program: RunProgram) -> None:
    """Producers that are killed at random: what they were told is accepted is there, once, and in their order."""
    server, address = serve()
    chance = random.Random(3)
    q = flow.FIFOQueue(1000, ["int64", "int64"], [(), ()], shared_name="q")
    accepted: list[int] = []
    with anyio.fail_after(TEST_S):
        async with flow.Session(address):
            for number in range(4):
                client = run_program(
                    f"""
                    import anyio, aioflow as flow
                    q = flow.FIFOQueue(1000, ["int64", "int64"], [(), ()], shared_name="q")
                    async def main():
                        async with flow.Session():
                            for i in range(1000):
                                await q.enqueue(({number}, i))
                                print(i)
                    anyio.run(main)
                    """,
                    target=address,
                )
                for _ in range(chance.randrange(1, 80)):
                    await anyio.to_thread.run_sync(client.read_line)
                client.kill()
                told = client.output + client.process.stdout.read()
                accepted.append(told.count("\n"))
            await q.close()
            got: list[list[int]] = [[] for _ in accepted]
            async for numbers, values in q.batches(50):
                for number, value in zip(numbers.tolist(), values.tolist(), strict=True):
                    got[number].append(value)
    for told_number, values in zip(accepted, got, strict=True):
        assert values == list(range(len(values)))
        assert told_number <= len(values) <= told_number + 1
    assert server.end_by(signal.SIGTERM)[0] == 0


# Faults and garbage


async def test_a_fault_fails_one_request_only(monkeypatch: pytest.MonkeyPatch, new_address: Callable[[], str]) -> None:
    """What goes wrong on the server with one request is that client's RemoteError; rows go back, others are served."""
    gather = _tickets.gather  # type: ignore[attr-defined]

    def fails_for_some(rows: Any, element: Any, *allocate: Any) -> Any:
        if len(element.components) == 2:
            raise MemoryError("on purpose")
        return gather(rows, element, *allocate)

    q, other = flow.FIFOQueue(10, ["int64", "int64"], [(), ()], shared_name="bad"), ints(shared_name="good")
    with anyio.fail_after(TEST_S):
        async with (
            flow.Server({"local": [new_address()]}) as server,
            flow.Session(server.address) as first,
            flow.Session(server.address) as second,
            anyio.create_task_group() as tasks,
        ):
            get = start(tasks, q.on(first).dequeue)
            good = start(tasks, other.on(first).dequeue)
            await until(q, gets_waiting=1)
            await until(other, gets_waiting=1)
            monkeypatch.setattr(_tickets, "gather", fails_for_some)
            await q.on(second).enqueue((1, 2))
            with refused(flow.RemoteError, "on purpose") as caught:
                await get.outcome()
            (error,) = caught
            assert isinstance(error, flow.RemoteError)
            assert error.type_name == "MemoryError"
            assert "Traceback" in error.traceback_text
            await other.on(second).enqueue(5)
            assert await good.outcome() == 5
            monkeypatch.setattr(_tickets, "gather", gather)
            assert await q.on(first).dequeue() == (1, 2)


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
async def test_garbage_disturbs_nobody(serve: Serve, scheme: str) -> None:
    """Frames of garbage, from raw sockets, and raw bytes on the port leave the server serving others."""
    server, address = serve("tcp://127.0.0.1:0" if scheme == "tcp" else None)
    chance = random.Random(8)
    q = ints(100, shared_name="q")
    with anyio.fail_after(TEST_S), zmq.Context() as context:
        async with flow.Session(address):
            for round_number in range(20):
                with context.socket(zmq.DEALER) as raw:
                    raw.linger = 100
                    raw.connect(address)
                    for _ in range(30):
                        frames = [
                            chance.randbytes(chance.choice((0, 1, 3, 50, 70_000)))
                            for _ in range(chance.randrange(1, 5))
                        ]
                        await anyio.to_thread.run_sync(raw.send_multipart, frames)
                await q.enqueue(round_number)
                assert await q.dequeue() == round_number
            stream = (
                await anyio.connect_unix(address.removeprefix("ipc://"))
                if scheme == "ipc"
                else await anyio.connect_tcp("127.0.0.1", int(address.rpartition(":")[2]))
            )
            async with stream:
                await stream.send(chance.randbytes(10_000))
                await q.enqueue(7)
                assert await q.dequeue() == 7
    code, seconds = server.end_by(signal.SIGTERM)
    assert code == 0, server.output
    assert seconds < ENDED_S
    assert "Traceback" not in server.output


# Load


async def test_fifty_clients_with_pipelined_requests(serve: Serve) -> None:
    """50 sessions with 20 requests under way each: every element arrives once, each producer's in order."""
    server, address = serve()
    q = flow.FIFOQueue(64, ["int64", "int64"], [(), ()], shared_name="q")
    got: list[tuple[int, int]] = []
    with anyio.fail_after(TEST_S):
        async with AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(flow.Session(address)) for _ in range(50)]

            async def put(number: int) -> None:
                async with q.on(sessions[number]).producer(str(number)), anyio.create_task_group() as puts:
                    for i in range(20):
                        puts.start_soon(q.on(sessions[number]).enqueue, (number, i))

            async def get(number: int) -> None:
                async for numbers, values in q.on(sessions[number]).batches(7):
                    got.extend(zip(numbers.tolist(), values.tolist(), strict=True))

            async with anyio.create_task_group() as tasks, q.producer("until all have joined"):
                for number in range(50):
                    tasks.start_soon(put if number % 5 else get, number)
                await until(q, gets_waiting=0)
                while len((await q.stats()).producers) < 2:
                    await anyio.lowlevel.checkpoint()
    assert sorted(got) == sorted((number, i) for number in range(50) if number % 5 for i in range(20))
    assert server.end_by(signal.SIGTERM)[0] == 0


async def test_loaders_and_trainers_end_by_themselves(serve: Serve, run_program: RunProgram) -> None:
    """3 loaders and 2 trainers, several epochs: every sample once an epoch, and all five end with code 0."""
    server, address = serve()
    loader = """
        import sys, anyio, numpy as np, aioflow as flow
        train = flow.PaddingFIFOQueue(32, ["int64", "float32"], [[], [None]], shared_name="train", producers=3)
        me = int(sys.argv[1]) if len(sys.argv) > 1 else {number}
        async def main():
            async with flow.Session():
                for epoch in range(4):
                    q = train.epoch(epoch)
                    async with q.producer(f"loader-{{me}}"), q.writer(batch=8) as writer:
                        for sample in range(me, 300, 3):
                            await writer.write((sample, np.ones(sample % 7)))
        anyio.run(main)
        """
    trainer = """
        import anyio, aioflow as flow
        train = flow.PaddingFIFOQueue(32, ["int64", "float32"], [[], [None]], shared_name="train", producers=3)
        async def main():
            async with flow.Session():
                for epoch in range(4):
                    async for samples, values in train.epoch(epoch).batches(10):
                        assert [int(row.sum()) for row in values] == [s % 7 for s in samples]
                        for sample in samples:
                            print(epoch, sample)
        anyio.run(main)
        """
    programs = [run_program(loader.format(number=number), target=address) for number in range(3)]
    programs += [run_program(trainer, target=address) for _ in range(2)]
    lines: list[str] = []
    for program in programs:
        code = await anyio.to_thread.run_sync(program.finish)
        assert code == 0, program.output
        # A trainer that came when the other one had drained an epoch has a warning instead.
        lines += [line for line in program.output.splitlines() if not line.startswith("queue '")]
    expected = [f"{epoch} {sample}" for epoch in range(4) for sample in range(300)]
    assert sorted(lines) == sorted(expected)
    assert server.end_by(signal.SIGTERM)[0] == 0
