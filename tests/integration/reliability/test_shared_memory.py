"""Processes that are killed while they share memory: nothing of it is left, and no view changes under who holds it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import aioflow as flow
from aioflow import blocking
from tests.integration.conftest import Program
from tests.integration.reliability.conftest import Figure, StartServer
from tests.integration.reliability.scale import KILLS_OF_MEMORY, TEST_S

pytestmark = [pytest.mark.timeout(TEST_S), pytest.mark.skipif(not Path("/proc").is_dir(), reason="shm:// needs Linux")]

SHARED = Path("/dev/shm")
# The rows of the second kind lie apart, each in memory that is used again as soon as it has left.
QUEUES = {
    "fifo": 'flow.FIFOQueue(64, ["uint8", "int64"], [(100_000,), ()], shared_name="large")',
    "shuffle": 'flow.RandomShuffleQueue(64, 8, ["uint8", "int64"], [(100_000,), ()], shared_name="large")',
}

OTHER = flow.FIFOQueue(1, "int64", [()], shared_name="other")

# Each says once that it has got on, and again whenever it is asked to.
ASKED = """
import signal
asked = [True]
signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))
def got_on():
    if asked:
        asked.clear()
        print("got on", flush=True)
"""

# An element's bytes are all alike, and say which it is.
PRODUCER = f"""{ASKED}
import asyncio, numpy as np, aioflow as flow
async def main():
    queue, number = QUEUE, 0
    async with flow.Session(), queue.writer(batch=8, delay_s=0.01) as writer:
        while True:
            await writer.write((np.full(100_000, number % 251, np.uint8), np.int64(number)))
            number += 1
            if number % 40 == 0:
                got_on()
asyncio.run(main())
"""

# It holds the last batches, and looks whether they are what they were.
CONSUMER = f"""{ASKED}
import asyncio, collections, numpy as np, aioflow as flow
async def main():
    kept, count = collections.deque(maxlen=12), 0
    async with flow.Session():
        async for batch in QUEUE.batches(8):
            kept.append(batch)
            count += 1
            if count % 6 == 0:
                for images, numbers in kept:
                    assert (images == (numbers % 251).astype(np.uint8)[:, None]).all(), "a view has changed"
                    assert not images.flags.writeable
                got_on()
asyncio.run(main())
"""


@pytest.fixture(params=QUEUES)
def programs(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Make programs of a producer and a consumer of each kind of queue."""
    producer, consumer = (code.replace("QUEUE", QUEUES[request.param]) for code in (PRODUCER, CONSUMER))
    return producer, consumer


def _memory_of(pid: int) -> tuple[int, int, int]:
    """How many descriptors a process has, how many of shared memory, and how many mappings of that."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    maps = Path(f"/proc/{pid}/maps").read_text()
    return len(links), sum("memfd:aioflow " in link for link in links), maps.count("memfd:aioflow ")


def _wait_for_beat(session: blocking.Session) -> None:
    """Wait until one was answered: they have a connection of their own, which the server has then accepted."""
    cluster = session._session._cluster
    assert cluster is not None
    beats = cluster.master._link._beats
    assert beats is not None
    first = beats.answered_at
    for _ in range(100_000):
        session.size(OTHER)
        if beats.answered_at > first:
            return
    pytest.fail("no beat was answered")


def _goes_on(program: Program) -> None:
    """Wait until it has got on from now."""
    program.process.send_signal(signal.SIGUSR1)
    assert program.read_line() == "got on"


def test_killed_clients_leave_no_memory(
    start_server: StartServer,
    run_program: Callable[..., Program],
    new_address: Callable[[], str],
    figure: Figure,
    programs: tuple[str, str],
) -> None:
    """Producers and consumers are killed in turn; the others go on, and in the end the server is as it was."""
    before = sorted(path.name for path in SHARED.iterdir())
    server, address = start_server("shm", bind=new_address().replace("ipc://", "shm://"))
    with blocking.Session(address) as session:
        _wait_for_beat(session)
        idle = _memory_of(server.process.pid)
        steady = [run_program("-c", code, target=address) for code in programs]
        for program in steady:
            program.read_line()
        for number in range(KILLS_OF_MEMORY):
            for program in steady:
                _goes_on(program)
            victim = run_program("-c", programs[number % 2], target=address)
            victim.read_line()
            victim.kill()
        for program in steady:
            _goes_on(program)
        for program in steady:
            program.kill()
        session.delete(flow.lookup("large"))
        left = idle
        for _ in range(10_000):  # until the server has noticed that the last ones are gone
            session.size(OTHER)
            if (left := _memory_of(server.process.pid)) == idle:
                break
    figure("killed", KILLS_OF_MEMORY)
    figure("descriptors, memory, mappings: idle, after", f"{idle}, {left}")
    assert left == idle
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output
    assert sorted(path.name for path in SHARED.iterdir()) == before


def test_a_killed_server_leaves_no_memory(
    start_server: StartServer,
    run_program: Callable[..., Program],
    new_address: Callable[[], str],
    figure: Figure,
    programs: tuple[str, str],
) -> None:
    """Clients that were cut off hold what they hold and go on with the next server; nothing has a name."""
    before = sorted(path.name for path in SHARED.iterdir())
    bind = new_address().replace("ipc://", "shm://")
    for _ in range(KILLS_OF_MEMORY // 2):
        server, address = start_server("shm", bind=bind)
        clients = [run_program("-c", code, target=address) for code in programs]
        for program in clients:
            assert program.read_line() == "got on"
        server.kill()
        again, _ = start_server("shm", bind=bind)
        for program in clients:
            assert program.finish() == 1, program.output
            assert "QueueReset" in program.output, program.output
            assert "a view has changed" not in program.output
        assert again.end_by(signal.SIGTERM)[0] == 0, again.output
    figure("killed", KILLS_OF_MEMORY // 2)
    assert sorted(path.name for path in SHARED.iterdir()) == before
