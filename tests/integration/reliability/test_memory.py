"""A consumer that stands still behind a full queue: the memory of the server stays bounded, producers wait."""

from __future__ import annotations

import signal
import threading
from time import monotonic

import anyio
import pytest

import aioflow as flow
from tests.integration.reliability.client import BOUND_S, Client, all_flow, end_all, judge
from tests.integration.reliability.conftest import Figure, StartClient, StartServer
from tests.integration.reliability.memory import Peak, own_bytes
from tests.integration.reliability.scale import FLOWS_S, TEST_S

pytestmark = pytest.mark.timeout(TEST_S)

FULL_BYTES = 256 << 20
ELEMENT_BYTES = 1 << 18
PRODUCERS = 2
MORE_MAX, MORE_BYTES_MAX = 1.15, 16 << 20
WAIT_S = 0.5  # for which a producer that could go on would have
ROWS = 4
# What the consumer had taken and not told makes room when it counts as lost, in whichever of the waits.
TAKEN_MAX = 4 * ROWS


async def until_full(address: str) -> None:
    """Look at the queue until a put waits."""
    q = flow.lookup("q")
    with anyio.fail_after(BOUND_S):
        async with flow.Session(address):
            while not (await q.stats()).puts_waiting:
                await anyio.sleep(0.01)


def _accepted(producers: list[Client]) -> int:
    return sum(len(producer.elements("in")) for producer in producers)


@pytest.mark.parametrize(("transport", "parallel"), [("ipc", 1), ("ipc", 256), ("tcp", 256)])
def test_a_consumer_that_stands_still(
    start_server: StartServer, start_client: StartClient, figure: Figure, transport: str, parallel: int
) -> None:
    """The server has and shares little more than the queue's bytes, however many puts its producers have under way."""
    server, address = start_server(transport)
    settings = {"queue": {"capacity": 1000, "capacity_bytes": FULL_BYTES}, "bytes": ELEMENT_BYTES}
    consumer = start_client("consumer", 0, address, how="batches", rows=ROWS, **settings)
    consumer.wait_for("ready")
    idle = own_bytes(server.process.pid)
    producers = [
        start_client("producer", number, address, parallel=parallel, rejoin_s=TEST_S, **settings)
        for number in range(PRODUCERS)
    ]
    with Peak(server.process.pid) as peak:
        all_flow([consumer, *producers], since=0, until=monotonic() + FLOWS_S)
        consumer.process.send_signal(signal.SIGSTOP)
        anyio.run(until_full, address)
        threading.Event().wait(WAIT_S)
        accepted = _accepted(producers)
        threading.Event().wait(WAIT_S)
        assert _accepted(producers) - accepted <= TAKEN_MAX, "producers do not wait"

        went_on = monotonic()
        consumer.process.send_signal(signal.SIGCONT)
        all_flow([consumer, *producers], since=went_on, until=went_on + FLOWS_S)
        end_all(producers, [consumer])
    grown = peak.nbytes - idle
    limit = int(MORE_MAX * FULL_BYTES) + MORE_BYTES_MAX
    figure("full, grown by, at most", f"{FULL_BYTES >> 20} MiB, {grown / 2**20:.1f} MiB, {limit >> 20} MiB")
    assert grown <= limit
    verdict = judge([*producers, consumer])
    assert verdict.is_faultless, verdict
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output
