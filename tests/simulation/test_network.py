"""The simulated network: order, losses, partitions, crashes, stops, and that a seed decides all of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from aioflow.errors import LocalProtocolError
from aioflow.testing import (
    Decision,
    Faults,
    SimulatedEnd,
    SimulatedNetwork,
    check_run,
    inject_faults,
    minimise,
)
from aioflow.transport import Frame

SEEDS = range(50)


class Inbox:
    """Keeps what it is told, and says when."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        self.end: SimulatedEnd
        self.numbers: list[int] = []
        self.times: list[float] = []
        self.losses: list[str] = []

    def received(self, frames: list[Frame]) -> None:
        assert not self.losses, "a message arrived after the loss"
        self.numbers.append(int(bytes(frames[0])))
        self.times.append(self.network.now)

    def lost(self, reason: str) -> None:
        self.losses.append(reason)
        self.times.append(self.network.now)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.end.send([b"%d" % number])


class Pair:
    """A client "c" that is connected, or connects, to a server "s"."""

    def __init__(self, seed: int = 0, *, opened: bool = True) -> None:
        self.network = SimulatedNetwork(np.random.default_rng(seed))
        self.accepted: list[Inbox] = []
        self.network.node("s").accept = self.accept
        self.client = self.connect()
        if opened:
            self.run()

    def accept(self, end: SimulatedEnd) -> Inbox:
        inbox = Inbox(self.network)
        inbox.end = end
        self.accepted.append(inbox)
        return inbox

    def connect(self, source: str = "c") -> Inbox:
        inbox = Inbox(self.network)
        inbox.end = self.network.connect(source, "s", inbox)
        return inbox

    @property
    def server(self) -> Inbox:
        return self.accepted[-1]

    def run(self) -> None:
        while self.network.step():
            pass


@pytest.mark.parametrize("seed", SEEDS)
def test_order_is_kept_within_a_connection(seed: int) -> None:
    """Both ways, and what is sent before the acceptance comes too."""
    pair = Pair(seed, opened=False)
    pair.client.send(*range(100))
    pair.run()
    pair.server.send(*range(100))
    pair.run()
    assert pair.server.numbers == pair.client.numbers == list(range(100))
    assert pair.server.times == sorted(pair.server.times)


def test_connections_overtake_each_other() -> None:
    """What was sent later on another connection often arrives earlier."""
    overtaken = 0
    for seed in SEEDS:
        pair = Pair(seed)
        other = pair.connect()
        pair.run()
        pair.client.send(1)
        other.send(2)
        pair.run()
        first, second = pair.accepted
        overtaken += first.times[0] > second.times[0]
    assert len(SEEDS) // 4 < overtaken < len(SEEDS) * 3 // 4


def test_a_lost_connection_gives_the_first_of_what_was_sent() -> None:
    """Each end gets some of the first, then the loss; the lengths and the order of the losses differ."""
    kept: set[int] = set()
    told_first: set[str] = set()
    for seed in SEEDS:
        pair = Pair(seed)
        pair.client.send(*range(10))
        pair.server.send(*range(10))
        pair.network.cut(pair.client.end)
        pair.client.send(10)  # it does not know yet
        assert not pair.client.losses
        assert not pair.network.connections
        pair.run()
        for inbox in (pair.client, pair.server):
            assert inbox.numbers == list(range(len(inbox.numbers)))
            assert len(inbox.losses) == 1
            kept.add(len(inbox.numbers))
        told_first.add("client" if pair.client.times[-1] < pair.server.times[-1] else "server")
    assert {0, 10} <= kept <= set(range(11))
    assert len(kept) > 5
    assert told_first == {"client", "server"}


def test_a_close_gives_everything_and_an_abort_some() -> None:
    """Only the other end is told, and the one that ended it hears nothing more."""
    kept: set[int] = set()
    for seed in SEEDS:
        pair = Pair(seed)
        pair.client.send(*range(10))
        pair.server.send(*range(10))
        pair.client.end.close()
        pair.run()
        assert pair.server.numbers == list(range(10))
        assert len(pair.server.losses) == 1
        assert not pair.client.numbers
        assert not pair.client.losses

        pair.client = pair.connect()
        pair.run()
        pair.server.send(*range(10))
        pair.server.end.abort()
        pair.server.end.close()
        pair.run()
        assert len(pair.client.losses) == 1
        assert not pair.server.losses
        kept.add(len(pair.client.numbers))
    assert len(kept) > 5


def test_a_partition_holds_everything_and_tells_nobody() -> None:
    """What was under way, what is sent, and even a loss; it passes after the partition, in order."""
    pair = Pair()
    pair.client.send(0, 1)
    pair.network.partition("s", "c")
    pair.network.partition("c", "s")  # one more, over the first
    other = pair.connect("d")
    other.send(7)
    pair.client.send(2)
    pair.run()
    pair.network.heal("c", "s")
    pair.run()
    first, second = pair.accepted
    assert not first.numbers
    assert second.numbers == [7]
    pair.network.heal("c", "s")
    pair.client.send(3)
    pair.client.end.close()
    pair.run()
    assert first.numbers == [0, 1, 2, 3]
    assert first.losses


def test_a_crash_ends_timers_and_connections() -> None:
    """The others are told; connects are refused until it is there again and accepts."""
    pair = Pair()
    network, happened = pair.network, list[str]()
    node = network.node("s")
    node.on_crash = lambda: happened.append("crash")
    node.on_start = lambda: happened.append("start")
    network.at(1.0, lambda: happened.append("timer"), node)
    network.at(1.0, lambda: happened.append("the other's timer"), network.node("c"))
    pair.server.send(*range(5))
    network.crash("s")
    network.crash("s")
    pair.server.send(99)
    refused = pair.connect()
    pair.run()
    assert len(pair.client.losses) == 1
    assert pair.client.numbers == list(range(len(pair.client.numbers)))
    assert refused.losses == ["s refused the connection"]
    assert not pair.server.losses
    network.restart("s")
    network.restart("s")
    assert pair.connect().end.is_open
    node.accept = pair.accept
    pair.run()
    assert len(pair.accepted) == 2
    assert happened == ["crash", "the other's timer", "start"]


def test_a_stopped_node_is_told_everything_when_it_goes_on() -> None:
    """Messages and timers pile up; nothing else waits for it."""
    pair = Pair()
    network, happened = pair.network, list[float]()
    network.stop("s")
    assert not network.node("s").is_running
    network.at(1.0, lambda: happened.append(network.now), network.node("s"))
    pair.client.send(*range(5))
    network.advance(3.0)
    assert not pair.server.numbers
    network.resume("s")
    pair.run()
    assert pair.server.numbers == list(range(5))
    assert {*pair.server.times, *happened} == {3.0}


def test_a_slow_node_takes_longer() -> None:
    """In and out."""
    pair, slow = Pair(), Pair()
    slow.network.node("s").slow = 30.0
    begin = pair.network.now
    for each in (pair, slow):
        each.client.send(1)
        each.run()
    assert slow.server.times[0] - begin == pytest.approx(30 * (pair.server.times[0] - begin))


def test_a_connect_tells_when_it_was_accepted() -> None:
    """And not when its own end was closed before."""
    pair = Pair()
    opened: list[int] = []
    first, second = Inbox(pair.network), Inbox(pair.network)
    pair.network.connect("c", "s", first, lambda: opened.append(1))
    pair.network.connect("c", "s", second, lambda: opened.append(2)).close()
    pair.run()
    assert opened == [1]
    with pytest.raises(LocalProtocolError, match="a message to s has no frame"):
        pair.client.end.send([])


# Seeds, traces and minimisation


class Echo:
    """Sends back what it gets."""

    def __init__(self, end: SimulatedEnd) -> None:
        self.received = end.send

    def lost(self, reason: str) -> None:
        pass


class Client:
    """Says something new for each answer, sixty times in all; connects again whenever it loses the server."""

    def __init__(self, network: SimulatedNetwork, name: str) -> None:
        self.network, self.name, self.count = network, name, 0
        self.again()

    def again(self) -> None:
        self.end = self.network.connect(self.name, "server", self)
        self.received([])

    def received(self, frames: list[Frame]) -> None:
        self.count += 1
        if self.count < 60:
            self.end.send([f"{self.name} {self.count}".encode()])

    def lost(self, reason: str) -> None:
        self.network.at(self.network.now + 0.05, self.again, self.network.node(self.name))


def chatter(decisions: Sequence[Decision], seed: int) -> SimulatedNetwork:
    """Run a server that answers and three clients."""
    network = SimulatedNetwork(np.random.default_rng(seed), describe=lambda frames: bytes(frames[0]).decode())
    server = network.node("server")

    def start() -> None:
        server.accept = Echo

    server.on_start = start
    start()
    for i in range(3):
        Client(network, f"client-{i}")
    inject_faults(network, decisions)
    while network.step():
        pass
    return network


MANY = Faults(disconnects=4, partitions=3, restarts=2, slow=2, stops=3, within_s=0.5, lasting_s=0.2)


def test_a_seed_decides_everything() -> None:
    """The same seed gives the same trace, another one another."""
    traces = [chatter(MANY.plan(np.random.default_rng(seed)), seed).render() for seed in (1, 1, 2)]
    assert traces[0] == traces[1] != traces[2]
    lines = traces[0].splitlines()
    assert any(" -> server: client-0 7" in line for line in lines)
    assert any(line.endswith("server: crashed") for line in lines)
    assert float(lines[0].split()[0]) < float(lines[-1].split()[0])


def test_a_decision_that_is_left_out_changes_no_delay() -> None:
    """Up to its time, the run is the same without it."""
    decisions = MANY.plan(np.random.default_rng(5))
    whole, part = (list(chatter(some, 5).trace) for some in (decisions, decisions[:-3]))
    before = [entry for entry in whole if entry[0] < decisions[-3].at_s]
    assert len(before) > 20
    assert before == part[: len(before)]


@pytest.mark.parametrize("needed", [set[int](), {3}, {0, 19}, {4, 5, 6, 17}])
def test_minimise_finds_what_is_needed(needed: set[int]) -> None:
    """Whatever it is, and in a bounded number of tries."""
    calls: list[list[int]] = []

    def fails(part: list[int]) -> bool:
        calls.append(part)
        return needed <= set(part)

    assert minimise(range(20), fails) == sorted(needed)
    assert len(calls) <= 100
    calls.clear()
    assert set(minimise(range(20), fails, tries=5)) >= needed
    assert len(calls) <= 5


def _attempt(seed: int, decisions: Sequence[Decision]) -> tuple[BaseException | None, SimulatedNetwork]:
    network = chatter(decisions, seed)
    stopped = any(what == "stopped" for _, _, _, what in network.trace)
    return (AssertionError("it stopped") if stopped else None), network


def test_a_failure_says_its_seed_and_a_short_trace() -> None:
    """Of seventeen decisions one is needed, and the trace is that of the run with it alone."""
    seed = 3
    decisions = Faults(disconnects=10, slow=5, stops=2, within_s=0.5).plan(np.random.default_rng(seed))
    with pytest.raises(AssertionError, match="it stopped") as caught:
        check_run(partial(_attempt, seed), decisions, seed=seed)
    (note,) = caught.value.__notes__
    assert note.startswith("simulated with seed=3\nneeds 1 of 17 decisions:\n  stop at 0.")
    assert "the connection is lost" not in note
    assert "connects" in note
    check_run(partial(_attempt, seed), [], seed=seed)


def test_errors_in_groups_are_alike_when_their_classes_are() -> None:
    """A run that fails in another way is none of the same failure."""

    def attempt(decisions: Sequence[int]) -> tuple[BaseException | None, SimulatedNetwork]:
        errors = [KeyError(), ValueError()] if 3 in decisions else [ValueError()]
        return ExceptionGroup(f"{len(decisions)} left", errors), SimulatedNetwork(np.random.default_rng(0))

    with pytest.raises(ExceptionGroup, match="1 left"):
        check_run(attempt, range(8), seed=0)
