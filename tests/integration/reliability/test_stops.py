"""A process that is stopped for a while (SIGSTOP): nothing is lost, nothing comes twice, and it goes on by itself."""

from __future__ import annotations

import signal
import threading
from time import monotonic

import pytest

from tests.integration.reliability.client import all_flow, end_all, judge
from tests.integration.reliability.conftest import Figure, StartClient, StartServer
from tests.integration.reliability.scale import CONFIG, FLOWS_S, NIGHTLY, STOPPED_S, TEST_S

pytestmark = pytest.mark.timeout(TEST_S)

REJOIN_S = 30
HOWS = ("dequeue", "batches", "dequeue_many")
CASES = [
    pytest.param(role, scheme, id=f"{role}-{scheme}")
    for number, role in enumerate(("producer", "consumer", "server"))
    for scheme in (("ipc", "tcp") if NIGHTLY else (("ipc", "tcp")[number % 2],))
]


@pytest.mark.parametrize(("role", "scheme"), CASES)
def test_stopped(start_server: StartServer, start_client: StartClient, figure: Figure, role: str, scheme: str) -> None:
    """Longer than `lost_s`: it counts as lost, the others go on meanwhile, and it takes up where it was."""
    server, address = start_server(scheme, config=CONFIG)
    producers = [
        start_client("producer", number, address, config=CONFIG, rejoin_s=REJOIN_S, rows=3 * number + 1)
        for number in range(2)
    ]
    consumers = [
        start_client("consumer", number, address, config=CONFIG, how=how, rows=3) for number, how in enumerate(HOWS)
    ]
    everyone = [*producers, *consumers]
    victims = {"producer": producers[1:], "consumer": consumers[1:], "server": everyone}[role]
    others = [client for client in everyone if client not in victims]
    began = max(client.wait_for("ready") for client in everyone)
    all_flow(everyone, since=began, until=began + FLOWS_S)

    stopped = [server.process] if role == "server" else [victim.process for victim in victims]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    threading.Event().wait(STOPPED_S)
    went_on = monotonic()
    for process in stopped:
        process.send_signal(signal.SIGCONT)
    all_flow(others, since=went_on - STOPPED_S / 2, until=went_on)
    flowed = all_flow(everyone, since=went_on, until=went_on + FLOWS_S)
    figure("stopped, flows again after", f"{STOPPED_S} s, {flowed - went_on:.2f} s")

    end_all(producers, consumers)
    verdict = judge(everyone)
    figure("lost, doubled", f"{verdict.lost.total()}, {verdict.duplicated.total()}")
    assert verdict.is_faultless, verdict
    assert [consumer.elements("end") for consumer in consumers] == [[]] * len(consumers), "nobody was lost"
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output
