"""A consumer that stands still behind a full queue: the memory of the server stays bounded, producers wait."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from time import monotonic

import anyio
import pytest

import aioflow as flow
from tests.integration.reliability.client import BOUND_S, all_flow, end_all, judge
from tests.integration.reliability.conftest import Figure, StartClient, StartServer
from tests.integration.reliability.scale import FLOWS_S, FULL_BYTES, TEST_S

pytestmark = pytest.mark.timeout(TEST_S)

ELEMENT_BYTES = 1 << 18
PRODUCERS = 2
MORE_MAX, MORE_BYTES_MAX = 1.15, 16 << 20
WAIT_S = 0.5  # for which a producer that could go on would have


def status(pid: int, name: str) -> int:
    """Return a line of a process's status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


async def until_full(address: str) -> None:
    """Look at the queue until a put waits."""
    q = flow.lookup("q")
    with anyio.fail_after(BOUND_S):
        async with flow.Session(address):
            while not (await q.stats()).puts_waiting:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("parallel", [1, 256])
def test_a_consumer_that_stands_still(
    start_server: StartServer, start_client: StartClient, figure: Figure, parallel: int
) -> None:
    """The server grows by little more than the queue's bytes, however many puts its producers have under way."""
    server, address = start_server("ipc")
    settings = {"queue": {"capacity": 1000, "capacity_bytes": FULL_BYTES}, "bytes": ELEMENT_BYTES}
    consumer = start_client("consumer", 0, address, how="batches", rows=4, **settings)
    consumer.wait_for("ready")
    idle = status(server.process.pid, "VmRSS")
    producers = [
        start_client("producer", number, address, parallel=parallel, rejoin_s=TEST_S, **settings)
        for number in range(PRODUCERS)
    ]
    all_flow([consumer, *producers], since=0, until=monotonic() + FLOWS_S)
    consumer.process.send_signal(signal.SIGSTOP)
    anyio.run(until_full, address)
    threading.Event().wait(WAIT_S)
    accepted = [len(producer.elements("in")) for producer in producers]
    threading.Event().wait(WAIT_S)
    assert [len(producer.elements("in")) for producer in producers] == accepted, "producers do not wait"

    went_on = monotonic()
    consumer.process.send_signal(signal.SIGCONT)
    all_flow([consumer, *producers], since=went_on, until=went_on + FLOWS_S)
    end_all(producers, [consumer])
    grown = status(server.process.pid, "VmHWM") - idle
    limit = int(MORE_MAX * FULL_BYTES) + MORE_BYTES_MAX
    figure("full, grown by, at most", f"{FULL_BYTES >> 20} MiB, {grown / 2**20:.1f} MiB, {limit >> 20} MiB")
    assert grown <= limit
    verdict = judge([*producers, consumer])
    assert verdict.is_faultless, verdict
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output
