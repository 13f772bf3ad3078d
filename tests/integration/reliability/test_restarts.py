"""A server that is killed or stopped and started again: its clients are told once, and go on by themselves."""

from __future__ import annotations

import signal
from time import monotonic

import pytest

from tests.integration.reliability.client import Client, all_flow, end_all, judge
from tests.integration.reliability.conftest import Figure, StartClient, StartServer
from tests.integration.reliability.scale import FLOWS_S, RESTARTS, TEST_S

pytestmark = pytest.mark.timeout(TEST_S)

HOWS = ("dequeue", "dequeue_many", "batches", "iterate")


def since_reset(client: Client, what: str) -> set[str]:
    """Return the elements of a kind of line since the last reset."""
    last = max(index for index, record in enumerate(client.records) if record.what == "reset")
    return {word for record in client.records[last:] if record.what == what for word in record.words}


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_restarts(start_server: StartServer, start_client: StartClient, figure: Figure, scheme: str) -> None:
    """By kill -9 and SIGTERM in turn, at the same address: QueueReset once for each, with the same sessions."""
    server, address = start_server(scheme)
    producers = [start_client("producer", number, address, rows=3 * number + 1) for number in range(2)]
    consumers = [start_client("consumer", number, address, how=how, rows=3) for number, how in enumerate(HOWS)]
    everyone = [*producers, *consumers]
    began = max(client.wait_for("ready") for client in everyone)
    all_flow(everyone, since=began, until=began + FLOWS_S)

    slowest_s = 0.0
    for restart in range(1, RESTARTS + 1):
        if restart % 2:
            server.kill()
        else:
            assert server.end_by(signal.SIGTERM)[0] == 0, server.output
        server, _ = start_server(scheme, bind=address)
        ready = monotonic()
        told = max(client.wait_for("reset", restart, until=ready + FLOWS_S) for client in everyone)
        flowed = all_flow(everyone, since=told, until=ready + FLOWS_S)
        slowest_s = max(slowest_s, flowed - ready)
    figure("restarts, slowest to flow again", f"{RESTARTS}, {slowest_s:.2f} s")

    end_all(producers, consumers)
    assert {client.name: client.count("reset") for client in everyone} == {client.name: RESTARTS for client in everyone}
    verdict = judge(everyone)
    assert not verdict.unexpected, verdict
    assert not verdict.duplicated, verdict
    taken = {element for consumer in consumers for element in consumer.elements("out")}
    assert {element for producer in producers for element in since_reset(producer, "in")} <= taken
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output
