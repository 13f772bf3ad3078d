"""A link that is down for a while: nothing is lost, nothing comes twice, and it flows again by itself."""

from __future__ import annotations

import signal
import socket
import threading
from time import monotonic

import pytest

from tests.integration.reliability.client import all_flow, end_all, judge
from tests.integration.reliability.conftest import Figure, StartClient, StartServer
from tests.integration.reliability.link import Link
from tests.integration.reliability.scale import CONFIG, FLOWS_S, LINK_DOWN_S, TEST_S

pytestmark = pytest.mark.timeout(TEST_S)

REJOIN_S = LINK_DOWN_S + 30


@pytest.mark.parametrize("how", ["cut", "held"])
def test_a_link_that_is_down(start_server: StartServer, start_client: StartClient, figure: Figure, how: str) -> None:
    """Connections are reset and refused, or bytes are held without a word; clients without that link go on."""
    server, address = start_server("tcp", config=CONFIG)
    with Link(int(address.rpartition(":")[2])) as link:
        places = [("direct", address), ("by link", link.address)]
        producers = [
            start_client("producer", number, place, config=CONFIG, rejoin_s=REJOIN_S, rows=3 * number + 1)
            for number, (_, place) in enumerate(places)
        ]
        consumers = [
            start_client("consumer", 2 * number + turn, place, config=CONFIG, how=kind, rows=3)
            for number, (_, place) in enumerate(places)
            for turn, kind in enumerate(("dequeue", "batches"))
        ]
        direct, linked = [producers[0], *consumers[:2]], [producers[1], *consumers[2:]]
        began = max(client.wait_for("ready") for client in (*direct, *linked))
        all_flow([*direct, *linked], since=began, until=began + FLOWS_S)

        link.cut() if how == "cut" else link.hold()
        threading.Event().wait(LINK_DOWN_S)
        healed = monotonic()
        link.heal()
        all_flow(direct, since=healed - LINK_DOWN_S / 2, until=healed)
        flowed = all_flow(linked, since=healed, until=healed + FLOWS_S)
        figure("down, flows again after", f"{LINK_DOWN_S} s, {flowed - healed:.2f} s")
        # What was held is passed on before the end, late as it is.
        all_flow(linked, since=flowed, until=flowed + FLOWS_S)
        end_all(producers, consumers)
    verdict = judge([*producers, *consumers])
    figure("lost, doubled", f"{verdict.lost.total()}, {verdict.duplicated.total()}")
    assert verdict.is_faultless, verdict
    assert [consumer.elements("end") for consumer in consumers] == [[]] * len(consumers), "nobody was lost"
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output


def test_the_link_itself() -> None:
    """It passes on, holds and goes on in order, resets and refuses, and listens again."""
    with socket.create_server(("127.0.0.1", 0)) as server, Link(server.getsockname()[1]) as link:
        place = ("127.0.0.1", int(link.address.rpartition(":")[2]))
        with socket.create_connection(place, 5) as client, server.accept()[0] as other:
            client.sendall(b"a")
            assert other.recv(1) == b"a"
            link.hold()
            client.sendall(b"b")
            other.settimeout(0.1)
            with pytest.raises(TimeoutError):
                other.recv(1)
            link.heal()
            client.sendall(b"c")
            other.settimeout(5)
            assert other.recv(1) + other.recv(1) == b"bc"
            link.cut()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(place, 5)
        link.heal()
        with socket.create_connection(place, 5) as client, server.accept()[0] as other:
            other.sendall(b"d")
            assert client.recv(1) == b"d"
