"""Between two hosts, with keys, over a link that is down for a while: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from aioflow.keys import make_keys
from tests.integration.reliability.client import Client, all_flow, end_all, judge
from tests.integration.reliability.conftest import Figure, StartClient, StartServer
from tests.integration.reliability.namespaces import SERVER, Hosts, why_not
from tests.integration.reliability.scale import CONFIG, FLOWS_S, NIGHTLY, TEST_S

pytestmark = pytest.mark.timeout(TEST_S)

HOST_DOWN_S = 5.0 if NIGHTLY else 1.5
ADDRESS = f"tcp://{SERVER}:5555"


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two namespaces, for this test."""
    if reason := why_not():
        pytest.skip(reason)
    with Hosts() as made:
        yield made


def test_a_link_between_hosts_that_is_down(
    start_server: StartServer,
    start_client: StartClient,
    hosts: Hosts,
    tmp_path: Path,
    figure: Figure,
) -> None:
    """The server is on one, a producer and consumers on the other; each client has a key of its own."""
    made = make_keys(tmp_path / "keys", ["producer-0", "producer-1", "consumer-0", "consumer-1"])
    server, address = start_server("tcp", bind=ADDRESS, config=CONFIG, keys=tmp_path / "keys", namespace=hosts.server)

    def start(role: str, number: int, **settings: Any) -> Client:
        where = {"keys": made[f"{role}-{number}"], "namespace": hosts.client}
        return start_client(role, number, address, where, config=CONFIG, **settings)

    producers = [start("producer", number, rejoin_s=HOST_DOWN_S + 30, rows=3 * number + 1) for number in range(2)]
    consumers = [start("consumer", number, how=how, rows=3) for number, how in enumerate(("dequeue", "batches"))]
    clients = [*producers, *consumers]
    began = max(client.wait_for("ready") for client in clients)
    all_flow(clients, since=began, until=began + FLOWS_S)

    hosts.take_down()
    threading.Event().wait(HOST_DOWN_S)
    healed = monotonic()
    hosts.bring_up()
    flowed = all_flow(clients, since=healed, until=healed + FLOWS_S)
    figure("down, flows again after", f"{HOST_DOWN_S} s, {flowed - healed:.2f} s")
    all_flow(clients, since=flowed, until=flowed + FLOWS_S)
    end_all(producers, consumers)
    verdict = judge(clients)
    figure("lost, doubled", f"{verdict.lost.total()}, {verdict.duplicated.total()}")
    figure("elements", len([element for client in consumers for element in client.elements("out")]))
    assert verdict.is_faultless, verdict
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output
