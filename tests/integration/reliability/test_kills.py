"""Clients that are killed under load: nothing accepted is lost, nothing comes twice, and the others go on."""

from __future__ import annotations

import random
import signal
from collections.abc import Collection
from time import monotonic

import pytest

from tests.integration.reliability.checker import unexplained
from tests.integration.reliability.client import BOUND_S, Client, all_flow, end_all, judge
from tests.integration.reliability.conftest import Figure, StartClient, StartServer
from tests.integration.reliability.scale import CONFIG, FLOWS_S, KILLS, LOST_S, SESSION_S, TEST_S

pytestmark = pytest.mark.timeout(TEST_S)

ROWS = 4
HOWS = ("dequeue", "iterate", "dequeue_many", "batches", "dequeue_up_to")
# Within which waiting consumers know that all producers are gone.
TOLD_S = {"ipc": 1.0, "tcp": LOST_S + 2}
LOST_PRODUCERS_MAX = 8  # that an end names


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_killed_producers(start_server: StartServer, start_client: StartClient, figure: Figure, scheme: str) -> None:
    """What producers were told is accepted comes out, once and in order; the end names those that were killed."""
    chance = random.Random(scheme)
    server, address = start_server(scheme, config=CONFIG)
    steady = start_client("producer", 0, address, config=CONFIG, rejoin_s=TEST_S)
    consumer = start_client("consumer", 0, address, config=CONFIG, how="batches", rows=7)
    steady.wait_for("in")
    victims: list[Client] = []
    for number in range(1, KILLS + 1):
        rows = ROWS if number % 2 else 1
        victims.append(start_client("producer", number, address, config=CONFIG, rows=rows))
        victims[-1].wait_for("in", chance.randrange(1, 200))
        victims[-1].kill()
        killed = monotonic()
        all_flow([steady, consumer], since=killed, until=killed + FLOWS_S)
    end_all([steady], [consumer])
    verdict = judge([steady, consumer, *victims])
    taken = consumer.elements("out")
    figure("killed, recovered", f"{KILLS}, {verdict.recovered.total()}")
    figure("lost, doubled", f"{verdict.lost.total()}, {verdict.duplicated.total()} of {len(taken)}")
    assert verdict.is_faultless, verdict
    for number in range(KILLS + 1):
        places = [int(element.partition(":")[2]) for element in taken if element.startswith(f"{number}:")]
        assert places == sorted(places)
    told = consumer.elements("end")
    assert set(told) <= {f"producer-{number}" for number in range(1, KILLS + 1)}
    assert len(told) == min(KILLS, LOST_PRODUCERS_MAX)
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_killed_consumers(start_server: StartServer, start_client: StartClient, figure: Figure, scheme: str) -> None:
    """All comes out, once, but for what a consumer was handed by its last call and could not write down."""
    chance = random.Random(scheme)
    config = {**CONFIG, "session_s": SESSION_S}
    server, address = start_server(scheme, config=config)
    producers = [
        start_client("producer", number, address, config=config, rejoin_s=TEST_S, rows=ROWS if number else 1)
        for number in range(2)
    ]
    steady = start_client("consumer", 0, address, config=config)
    steady.wait_for("out")
    victims: list[Client] = []
    suspects: list[tuple[set[str], int]] = []
    for number in range(1, KILLS + 1):
        how = HOWS[number % len(HOWS)]
        victims.append(start_client("consumer", number, address, config=config, how=how, rows=ROWS))
        victims[-1].wait_for("out", chance.randrange(1, 200))
        victims[-1].kill()
        killed = monotonic()
        suspects.append((_attempted(producers), 1 if how in {"dequeue", "iterate"} else ROWS))
        all_flow([steady, *producers], since=killed, until=killed + FLOWS_S)
    end_all(producers, [steady], SESSION_S + BOUND_S)
    verdict = judge([*producers, steady, *victims])
    figure("killed, handed to the killed", f"{KILLS}, {verdict.lost.total()}")
    figure("doubled", str(verdict.duplicated.total()))
    assert not verdict.unexpected, verdict
    assert not verdict.duplicated, verdict
    assert unexplained(verdict.lost, suspects) == set(), verdict
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output


def _attempted(producers: Collection[Client]) -> set[str]:
    return {element for producer in producers for element in producer.elements("try")}


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_the_last_producers_are_killed(
    start_server: StartServer, start_client: StartClient, figure: Figure, scheme: str
) -> None:
    """Consumers that wait learn that nothing will come, and whose loss it is."""
    server, address = start_server(scheme, config=CONFIG)
    producers = [start_client("producer", number, address, config=CONFIG, count=10) for number in range(2)]
    consumers = [
        start_client("consumer", number, address, config=CONFIG, how=how)
        for number, how in enumerate(("dequeue", "batches"))
    ]
    for client in (*producers, *consumers):
        client.wait_for("ready")
    for producer in producers:
        producer.wait_for("in", 10)
    killed = monotonic()
    for producer in producers:
        producer.kill()
    told = max(consumer.wait_for("end", until=killed + TOLD_S[scheme]) for consumer in consumers)
    figure("known after", f"{told - killed:.3f} s")
    for consumer in consumers:
        consumer.finish()
        assert sorted(consumer.elements("end")) == ["producer-0", "producer-1"]
    assert judge([*producers, *consumers]).is_faultless
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output
