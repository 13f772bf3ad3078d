"""Histories of a server and its clients on a simulated network, each from a seed, and what must hold of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from aioflow.cluster import _messages as m
from aioflow.cluster import _peer
from aioflow.errors import SessionClosed
from aioflow.queues import Completed, gather
from aioflow.testing._faults import Decision, Faults, check_run, inject_faults
from aioflow.testing._network import SimulatedNetwork
from aioflow.testing._sessions_client import WEIGHTS, Action, SimulatedClient
from aioflow.testing._sessions_history import History
from aioflow.testing._simulate import describe_message
from aioflow.testing._simulated_sessions import SESSION_S, SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from aioflow.errors import AioflowError
    from aioflow.resources import QueueResource
    from aioflow.transport import Frame

__all__ = ["check_sessions", "live"]

CLIENTS = 3
# Actions come in bursts, so that much is on its way at a time and silence is long enough to be noticed in between.
WITHIN_S, BURST_S, BURST_ACTIONS = 20.0, 0.15, 30
# So many of the steps are actions; what follows from them, and beats, are the others.
ACTIONS_SHARE = 0.33
DELAY_S = 0.003
IN_BURSTS, STRUCK_BURSTS = 0.8, 4
# Far below the real number, which a history of a thousand steps does not reach.
CONFIRM_EVERY = 8
# How long everything may take to come to rest after the last fault. Messages of slow nodes take minutes.
REST_S, REST_STEP_S = 1000.0, 5.0

QUIET = Faults()
LOCAL = Faults(restarts=3, slow=1, stops=3, within_s=WITHIN_S, lasting_s=12.0)
SHORT = Faults(disconnects=16, partitions=4, restarts=2, slow=2, stops=2, within_s=WITHIN_S, lasting_s=2.0)
LONG = Faults(disconnects=8, partitions=3, restarts=2, slow=1, stops=3, within_s=WITHIN_S, lasting_s=25.0)
# By the seed, modulo their number. Connections on one host do not break by themselves.
_SCENES = (QUIET, SHORT, LONG, LOCAL)


def check_sessions(seed: int, *, steps: int = 1000) -> None:
    """Let three clients use the queues of a server while things go wrong, and check that every promise is kept.

    The real machines of both sides run on a simulated network, without an event loop. Nothing accepted may be lost and
    nothing handed over twice, beyond what a crash or the end of a session allows; each batch is in the order of its
    producers; every call ends, or waits for what is not there; every restart is told once; and nothing is kept of who
    has gone. After the last fault everything comes to rest, the clients leave, and the queues are drained.

    Args:
        seed: Decides everything.
        steps: About how many things happen: actions of clients and events of the network.

    Raises:
        Exception: What did not hold, with a note: the seed, the actions and faults that it takes, and the trace.
    """
    check_run(partial(_attempt, seed), _plan(seed, steps), seed=seed)


def live(seed: int, *, steps: int = 1000) -> SimulatedNetwork:
    """Live through one history, unchecked by repetition; return its network."""
    error, network = _attempt(seed, _plan(seed, steps))
    if error is not None:
        raise error
    return network


def _plan(seed: int, steps: int) -> list[Action | Decision]:
    rng = np.random.default_rng([seed, 1])
    count = int(steps * ACTIONS_SHARE)
    bursts = rng.uniform(0.0, WITHIN_S, max(1, count // BURST_ACTIONS))
    times = rng.choice(bursts, count) + rng.exponential(BURST_S, count)
    weights = np.array(list(WEIGHTS.values()))
    kinds = rng.choice(len(weights), count, p=weights / weights.sum())
    names = list(WEIGHTS)
    drawn = zip(
        times.tolist(),
        rng.integers(CLIENTS, size=count).tolist(),
        [names[kind] for kind in kinds.tolist()],
        rng.random(count).tolist(),
        rng.integers(1, 6, count).tolist(),
        strict=True,
    )
    actions = [Action(*fields) for fields in drawn]
    faults = _SCENES[seed % len(_SCENES)].plan(rng)
    # Most faults strike when much is on its way, and several at a time.
    places = rng.choice(bursts[:STRUCK_BURSTS], len(faults)) + rng.exponential(2 * BURST_S, len(faults))
    moves = rng.random(len(faults)) < IN_BURSTS
    struck = [f._replace(at_s=at) if moved else f for f, at, moved in zip(faults, places.tolist(), moves, strict=True)]
    return [*sorted(struck), *sorted(actions)]


def _attempt(seed: int, decisions: Sequence[Action | Decision]) -> tuple[BaseException | None, SimulatedNetwork]:
    network = SimulatedNetwork(np.random.default_rng(seed), describe=_describe, delay_s=DELAY_S)
    try:
        with mock.patch.object(_peer, "CONFIRM_EVERY", CONFIRM_EVERY):
            _World(network, seed, decisions).run()
    except Exception as error:  # noqa: BLE001 - raised by `check_run` once the run is small
        return error, network
    return None, network


def _describe(frames: list[Frame]) -> str:
    """Leave out of a trace what all sessions say all the time."""
    text = describe_message(frames)
    return "" if text.startswith(("Beat(", "Heard(")) else text


class _World:
    """A server, its clients, and what is known of them."""

    def __init__(self, network: SimulatedNetwork, seed: int, decisions: Sequence[Action | Decision]) -> None:
        self._network = network
        self._scene = _SCENES[seed % len(_SCENES)]
        self._history = History()
        self._server = SimulatedServer(network, is_local=self._scene is LOCAL)
        self._server.on_message = self._tap
        self._server.node.on_crash = self._wipe
        self._sessions = 0
        self._clients: dict[str, SimulatedClient] = {}
        self._by_secret: dict[str, SimulatedClient] = {}
        self._is_ending = False
        for i in range(CLIENTS):
            name = f"client-{i}"
            node = network.node(name)
            node.on_start = partial(self._start, name)
            node.on_crash = partial(self._crashed, name)
            self._start(name)
        faults = [decision for decision in decisions if isinstance(decision, Decision)]
        inject_faults(network, faults)
        for action in decisions:
            if isinstance(action, Action):
                network.at(action.at_s, partial(self._act, action))
        self._last_s = max([WITHIN_S, *(fault.at_s + fault.lasting_s for fault in faults)])

    def run(self) -> None:
        """Live through it."""
        self._network.advance(self._last_s)
        self._rest(self._find_problem)
        self._is_ending = True
        for client in self._clients.values():
            client.is_leaving = True
            if not client.link.is_over:
                client.link.close()
        self._rest(self._find_leftover)
        self._history.check(self._drain())

    def _rest(self, find: Callable[[], str]) -> None:
        """Let time pass until something is no problem any more."""
        until = self._network.now + REST_S
        while True:
            self._network.advance(self._network.now + REST_STEP_S)
            problem = find()
            if not problem:
                return
            assert self._network.now < until, problem

    # Clients

    def _start(self, name: str) -> None:
        if self._is_ending or not self._network.node(name).is_up:
            return
        self._sessions += 1
        client = SimulatedClient(
            self._network,
            self._history,
            name,
            self._sessions,
            lambda error: self._ended(client, error),
            gives_back=self._scene is not QUIET,
        )
        self._clients[name] = self._by_secret[client.link.secret] = client

    def _ended(self, client: SimulatedClient, error: AioflowError | None) -> None:
        """Learn that a session is over; there will be another."""
        if isinstance(error, SessionClosed):
            assert self._network.now - client.link.answered_at >= SESSION_S, "a session was ended too early"
        assert error is None or self._scene is not QUIET, error
        self._history.may_double |= client.unheard
        name = client.link.node.name
        self._network.note(name, "", f"its session is over: {error}")
        client.link.after(0.1, partial(self._start, name))

    def _crashed(self, name: str) -> None:
        client = self._clients[name]
        if not client.link.is_over:
            client.link.is_over = True
            self._history.may_double |= client.unheard

    def _act(self, action: Action) -> None:
        node = self._network.node(f"client-{action.client}")
        if node.is_stopped:  # it does that when it goes on
            self._network.at(self._network.now, partial(self._act, action), node)
        elif node.is_up:
            self._clients[node.name].act(action)

    # The server, seen from outside

    def _wipe(self) -> None:
        self._history.wipe(self._history.offered)

    def _tap(self, peer: int, message: m.Message) -> None:
        """Note what a message is about to do."""
        if isinstance(message, m.Acknowledge | m.Delete):
            session = self._server.broker._sessions.find(peer)  # noqa: SLF001
            if session is None:
                return
            if isinstance(message, m.Acknowledge) and message.id in session.delivered:
                self._by_secret[session.name].heard(message.id, message.rows)
            elif isinstance(message, m.Delete) and message.queue in session.refs:
                self._history.wipe([session.refs[message.queue].key.name])

    # The end

    def _find_problem(self) -> str:
        """Say who waits in vain, after everything that came was handed over."""
        broker = self._server.broker
        for name, client in self._clients.items():
            if client.link.is_over or not client.link.peer.is_open:
                return f"{name} is not connected"
            if client.delivered:
                for call in list(client.delivered.values()):
                    if call.id in client.delivered:
                        client.hand_over(call, len(call.values))
                return f"{name} was still sent something"
            session = broker._sessions.get(client.link.secret)  # noqa: SLF001
            for call in client.waiting.values():
                if call.kind in {"join", "leave", "delete"} or call.is_withdrawn:
                    return f"{name}: a {call.kind} has not ended"
                if session is None or call.id not in session.waiting:
                    return f"{name}: the server has forgotten {call.kind} {call.id} of {call.ref.key.name!r}"
        problems = [_find_unserved(queue) for queue in self._server.resources.queues.values()]
        return next(filter(None, problems), "")

    def _find_leftover(self) -> str:
        """Say what the server keeps although all sessions are over."""
        broker = self._server.broker
        kept: dict[str, Collection[object]] = {
            "a session": list(broker._sessions),  # noqa: SLF001
            "a connection": [*broker._sessions._by_peer, *broker._sessions._by_beat_peer],  # noqa: SLF001
            "a beat": broker._sessions._early,  # noqa: SLF001
            "a ticket": broker._tickets.owners,  # noqa: SLF001
            "an ended connection": broker._ended,  # noqa: SLF001
            "a local connection": broker._local,  # noqa: SLF001
        }
        for queue in self._server.resources.queues.values():
            kept[f"an attachment to {queue.machine}"] = queue.sessions
            stats = queue.stats()
            kept[f"a get of {queue.machine}"] = [1] * (stats.gets_waiting + stats.ahead + stats.unacknowledged)
        return next((f"the server keeps {what}: {things}" for what, things in kept.items() if things), "")

    def _drain(self) -> dict[str, list[int]]:
        left: dict[str, list[int]] = {}
        for key, queue in self._server.resources.queues.items():
            values = left[key.name] = list[int]()
            queue.machine.close()
            while not queue.machine.is_drained:
                ticket = queue.machine.dequeue(1)
                for effect in queue.take_effects():
                    if isinstance(effect, Completed) and effect.rows is not None:
                        [column] = gather(effect.rows, queue.definition.element)
                        values += np.asarray(column).tolist()
                queue.machine.acknowledge(ticket)
        return left


def _find_unserved(queue: QueueResource) -> str:
    """Say which call waits on a queue for what is there; nothing is delivered and unacknowledged."""
    machine, stats = queue.machine, queue.machine.stats()
    if stats.unacknowledged or stats.ahead:
        return f"{machine}: something was delivered to nobody"
    room = 0 <= stats.size < stats.capacity or stats.capacity < 0
    if stats.puts_waiting and (room or stats.is_closed):
        return f"{machine}: a put waits although there is room for {stats.capacity - stats.size}"
    available = stats.size - (0 if stats.is_closed else queue.definition.min_after_dequeue)
    if stats.gets_waiting and (available > 0 or stats.is_closed):
        return f"{machine}: a get waits although there are {available}"
    asks = [get.count for get in machine._asks.values()]  # noqa: SLF001
    if asks and not stats.gets_waiting and not stats.is_closed and available >= asks[0]:
        return f"{machine}: a request ahead waits although there are {available}"
    return ""
