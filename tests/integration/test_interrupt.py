"""Ctrl-C in a program that uses aioflow: it ends at once, quietly, and leaves nothing behind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import aioflow as flow
from aioflow.testing._queue_stage import ints, until

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

TEST_S = 30.0
INTERRUPTED_S = 2.0  # within which a program has ended after a Ctrl-C

LOADER = """
    import asyncio, sys, aioflow as flow
    q = flow.FIFOQueue(4, "int64", (), shared_name="q")
    async def main():
        async with flow.Session(), q.producer("loader"):
            for i in range(10**9):
                await q.enqueue(i)
                if i < 4: print(i)
    """
WRITER = """
    import asyncio, sys, aioflow as flow
    q = flow.FIFOQueue(4, "int64", (), shared_name="q")
    async def main():
        async with flow.Session(), q.producer("loader"), q.writer(batch=3) as writer:
            for i in range(10**9):
                await writer.write(i)
                if i < 4: print(i)
    """
TRAINER = """
    import asyncio, sys, aioflow as flow
    q = flow.FIFOQueue(4, "int64", (), shared_name="q")
    async def main():
        async with flow.Session():
            print("trains")
            async for batch in q.batches(2):
                print(batch.tolist())
    """
GROUP = """
    import asyncio, sys, aioflow as flow
    q = flow.FIFOQueue(4, "int64", (), shared_name="q")
    full = flow.FIFOQueue(1, "int64", ())
    async def main():
        async with flow.Session(), asyncio.TaskGroup() as tasks:
            await full.enqueue(1)
            for call in (q.dequeue, q.dequeue_many, full.enqueue, full.close):
                tasks.create_task(call(3) if call.__name__ in ("dequeue_many", "enqueue") else call())
            await asyncio.sleep(0)
            print("waits")
    """
# How a program is run, and the traceback that is its own: that of asyncio.run, or none where it catches the interrupt.
RUNS = {
    "asyncio": "\n    asyncio.run(main())\n",
    "caught": "\n    try: asyncio.run(main())\n    except KeyboardInterrupt: sys.exit(130)\n",
    "uvloop": "\n    import uvloop\n    uvloop.run(main())\n",
    "trio": "\n    import trio\n    trio.run(main)\n",
}


@pytest.fixture
def anyio_backend() -> str:
    """One event loop here; the programs have theirs."""
    return "asyncio"


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("program", [LOADER, WRITER, TRAINER, GROUP], ids=["loader", "writer", "trainer", "group"])
async def test_ctrl_c_ends_a_program(
    serve: Callable[..., tuple[Any, str]], run_program: Callable[..., Any], program: str, run: str
) -> None:
    """It ends within 2 s with at most the one traceback of the interrupt; the server takes all back and goes on."""
    if program == GROUP and run == "trio":
        pytest.skip("asyncio.TaskGroup is asyncio's")
    server, address = serve()
    q = ints(4, shared_name="q")
    with anyio.fail_after(TEST_S):
        async with flow.Session(address):
            running = run_program(program + RUNS[run], target=address)
            await anyio.to_thread.run_sync(running.read_line)
            if program == TRAINER:
                await q.enqueue_many([1, 2, 3])
                await until(q, gets_waiting=1)
            elif program == GROUP:
                await until(q, gets_waiting=2)
            else:
                await until(q, size=4)
            code, seconds = await anyio.to_thread.run_sync(running.end_by, signal.SIGINT)
            assert code == (130 if run == "caught" else -signal.SIGINT), running.output
            assert seconds < INTERRUPTED_S
            assert running.output.count("Traceback (most recent call last)") == _tracebacks(run, running.output)
            for word in ("never retrieved", "was destroyed", "unclosed", "ResourceWarning", "never awaited"):
                assert word not in running.output
            await until(q, gets_waiting=0, unacknowledged=0, ahead=0, producers=())
            if program in {LOADER, WRITER}:
                if run != "trio":  # there the session may have said no bye, and what was received of it stands
                    await until(q, puts_waiting=0, is_closed=True)
                with pytest.raises(flow.EndOfQueue) as caught:
                    while True:
                        await q.dequeue()
                assert [lost.name for lost in caught.value.lost_producers] == ["loader"]
                assert caught.value.lost_producers[0].reason.startswith(
                    ("Cancelled", "KeyboardInterrupt", "its process has ended")
                )
            else:
                assert await q.size() == (1 if program == TRAINER else 0)
    assert server.end_by(signal.SIGTERM)[0] == 0


def _tracebacks(run: str, output: str) -> int:
    """Return how many tracebacks an interrupt makes: that of the cancelled main task, and that of the interrupt."""
    if run == "caught":
        return 0
    return 2 if "During handling of the above exception" in output else 1


def test_an_interrupted_server_and_its_clients_end(
    serve: Callable[..., tuple[Any, str]], run_program: Callable[..., Any]
) -> None:
    """Ctrl-C reaches the whole group at once, as from a terminal: all end in time, whoever is first."""
    server, address = serve()
    clients = [run_program(program + RUNS["caught"], target=address) for program in (LOADER, TRAINER)]
    for client in clients:
        client.read_line()
    for program in (server, *clients):
        program.process.send_signal(signal.SIGINT)
    for program in (server, *clients):
        code, seconds = program.end_by(signal.SIGCONT)  # harmless: it only starts the clock
        assert seconds < INTERRUPTED_S
        assert code in {0, 1, 130}, program.output
        assert "never retrieved" not in program.output
