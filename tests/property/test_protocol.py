"""Broker and peers on a network of two lists for each connection: random operations, and what must hold whatever comes.

No event loop, no clock: a seed decides which client does what next, which connection moves its next message in which
direction, and which one is lost, alone or with its client's process. Each connection keeps its order; between
connections anything may overtake anything. `tests/simulation` has the whole of a session, with time.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow.cluster import _messages as m
from aioflow.cluster._broker import Broker, TaskInfo
from aioflow.cluster._codec import decode, decode_columns, describe_columns, encode_columns
from aioflow.cluster._events import Answered, Ended, Recalled, Refused, Undone, Voided
from aioflow.cluster._peer import Peer
from aioflow.errors import EndOfQueue, QueueClosed
from aioflow.queues import Completed, QueueDefinition, gather
from aioflow.resources import QueueKey, QueueRef, Resources
from aioflow.specs import ElementSpec, TensorSpec
from aioflow.testing._machine_suite import check_invariants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._events import Event
    from aioflow.queues import Kind, QueueMachine, QueueStats
    from aioflow.transport import AnyFrame, Frame

SEEDS, SEEDS_EACH = (50_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 300), 100
STEPS = 200
CLIENTS = 3
# A value is its producer's number and its place in what that one put.
PLACES = 1_000_000


def _ref(name: str, kind: Kind, capacity: int, reserve: int = 0) -> QueueRef:
    element = ElementSpec((TensorSpec("int64", ()),))
    return QueueRef(QueueKey("", name), QueueDefinition(kind, element, capacity, min_after_dequeue=reserve))


REFS = (_ref("small", "FIFOQueue", 2), _ref("large", "FIFOQueue", 5), _ref("bag", "RandomShuffleQueue", 6, 2))


@dataclass
class Request:
    """What a client asked for. Its values are what a put offers, or what a get was sent."""

    ref: QueueRef
    values: list[int]
    is_get: bool = False
    is_withdrawn: bool = False
    is_answered: bool = False


class History:
    """What is known to have happened to each value, by those who put and got it."""

    def __init__(self) -> None:
        self.accepted: set[int] = set()
        self.refused: set[int] = set()
        self.handed_over: Counter[int] = Counter()
        self.unheard: set[int] = set()  # handed over, and the acknowledgement was lost with its connection

    def put_ended(self, values: Sequence[int], rows_in: int) -> None:
        self.accepted.update(values[:rows_in])
        self.refused.update(values[rows_in:])

    def check(self, left: Sequence[int]) -> None:
        """Check against what was left in the queues: nothing lost, nothing doubled, nothing out of nowhere."""
        out = self.handed_over + Counter(left)
        twice = {value for value, times in out.items() if times > 1}
        assert twice <= self.unheard, "an element came twice"
        assert self.accepted <= out.keys(), "an accepted element is lost"
        assert not self.refused & out.keys(), "an element is in that was not accepted"


class Client:
    """A peer, what it has asked for, and what it was sent and has not handed over."""

    def __init__(self, number: int, history: History) -> None:
        self.number = number
        self.connection = 0
        self.peer = Peer(f"secret {number}", "here")
        self.up: deque[Sequence[AnyFrame]] = deque()
        self.down: deque[list[Frame]] = deque()
        self.requests: dict[int, Request] = {}
        self.delivered: dict[int, Request] = {}
        self.said_bye = False
        self._places = itertools.count(number * PLACES)
        self._history = history

    @property
    def waiting(self) -> list[int]:
        """Requests that were neither answered nor withdrawn."""
        return [id_ for id_, request in self.requests.items() if not request.is_answered and not request.is_withdrawn]

    @property
    def is_busy(self) -> bool:
        """Whether a message is under way, or about to be."""
        return bool(self.up or self.down or self.peer._frames or self.peer._late_ack)

    def put(self, ref: QueueRef, count: int) -> None:
        request = Request(ref, list(itertools.islice(self._places, count)))
        columns = (np.array(request.values, np.int64),)
        make = partial(m.Put, columns=describe_columns(columns, ["int64"]))
        self.send(request, make, encode_columns(columns))

    def send(self, request: Request, make: Any, frames: Sequence[Frame] = ()) -> None:
        self.requests[self.peer.request(request.ref, make, frames)] = request

    def withdraw(self, id_: int) -> None:
        """Withdraw what waits, or give back what came."""
        self.peer.withdraw(id_)
        self.requests[id_].is_withdrawn = True
        self.delivered.pop(id_, None)

    def acknowledge(self, id_: int) -> None:
        """Hand over what came."""
        request = self.delivered.pop(id_)
        self.peer.acknowledge(id_, len(request.values), is_all=True)
        self._history.handed_over.update(request.values)

    def receive(self) -> None:
        """Take the next message of the server."""
        self.peer.receive(*decode(self.down.popleft()))
        for event in self.peer.take_events():
            self._happened(event)

    def _happened(self, event: Event) -> None:
        assert not isinstance(event, Ended) or (event.error, self.said_bye) == (None, True)
        assert not isinstance(event, Recalled) or event.id in self.delivered
        if isinstance(event, Voided):
            request = self.delivered.pop(event.id)
            request.values, request.is_answered = [], False
        elif isinstance(event, (Answered, Refused, Undone)):
            request = self.requests[event.id]
            assert not request.is_answered, "a request was answered twice"
            assert not (request.is_get and request.is_withdrawn), "a withdrawn get was answered"
            request.is_answered = True
            self._answered(event, request)

    def _answered(self, event: Answered | Refused | Undone, request: Request) -> None:
        match event:
            case Answered(id_, value) if request.is_get:
                request.values = value[0].tolist()
                self.delivered[id_] = request
                _check_order(request)
            case Answered():
                self._history.put_ended(request.values, len(request.values))
            case Undone(_, rows):
                self._history.put_ended(request.values, rows)
            case Refused(_, error):
                assert isinstance(error, EndOfQueue if request.is_get else QueueClosed), error
                found = re.match("[0-9]+", "".join(getattr(error, "__notes__", ())))
                self._history.put_ended(request.values, int(found[0]) if found else 0)


def _check_order(request: Request) -> None:
    """Each producer's values ascend in a batch of a FIFOQueue, whatever was given back in between."""
    if request.ref.definition.kind == "FIFOQueue":
        last: dict[int, int] = {}
        for value in request.values:
            assert last.get(value // PLACES, -1) < value, "a batch is not in the order of acceptance"
            last[value // PLACES] = value


class World:
    """A broker, its clients, and the network between them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.resources = Resources(lambda _: np.random.default_rng(seed), session_s=60, bytes_required=True)
        self.broker = Broker(self.resources, TaskInfo("epoch", "local", 0, (("local", 0, "x://y"),)), 3.0, 60.0)
        self.history = History()
        self.numbers = itertools.count(1)
        self.clients: dict[int, Client] = {}
        self.connections: dict[int, Client] = {}
        self.known: dict[QueueMachine, QueueStats] = {}
        self.gives_back = bool(seed % 3)  # else nobody withdraws, and order holds between batches too
        self.sent = {ref: Request(ref, []) for ref in REFS}
        self.received: list[Request] = []  # puts of clients that were lost afterwards: they stand
        self.closed: set[QueueRef] = set()

    def step(self) -> None:
        """Let somebody do something."""
        if len(self.clients) < CLIENTS:
            number = next(self.numbers)
            client = self.clients[number] = Client(number, self.history)
            self._connect(client)
            self.broker.accept(-number, is_local=True)
            self.broker.receive(-number, m.Beat(f"secret {number}", 1), [], 0.0)
            self._distribute()
        client = self._choose(list(self.clients.values()))
        choice = self.rng.random()
        if choice < 0.65:
            self._move(client)
        elif choice < 0.97:
            self._act(client)
        elif self.gives_back and self.rng.integers(2):
            self._reconnect(client)
        elif self.gives_back:
            self._end(client)

    def _choose(self, things: Sequence[Any]) -> Any:
        return things[int(self.rng.integers(len(things)))]

    def _act(self, client: Client) -> None:
        ref, count = self._choose(REFS), int(self.rng.integers(5))
        get = Request(ref, [], is_get=True)
        actions: list[Any] = [
            *[lambda: client.put(ref, count)] * 4,
            *[lambda: client.send(get, partial(m.Get, count=count, up_to=bool(count % 2)))] * 3,
            lambda: client.send(get, partial(m.Ask, count=1 + count // 2)),
        ]
        if client.waiting:
            actions.append(lambda: client.peer.promote(self._choose(client.waiting)))
        if client.delivered:
            actions += [lambda: client.acknowledge(self._choose(list(client.delivered)))] * 4
        if self.gives_back and (ids := [*client.waiting, *client.delivered]):
            actions += [lambda: client.withdraw(self._choose(ids))] * 2
        if not self.rng.integers(80):
            actions = [lambda: self._close(client, ref)]
        if not client.said_bye:
            self._choose(actions)()

    def _close(self, client: Client, ref: QueueRef) -> None:
        self.closed.add(ref)
        client.send(Request(ref, []), partial(m.Close, cancel_pending=not self.rng.integers(3)))

    # The network

    def _move(self, client: Client) -> None:
        """Move the next message of a connection, in one direction."""
        client.up.extend(client.peer.take_messages())
        if client.up and (not client.down or self.rng.integers(2)):
            message, frames = decode(client.up.popleft())
            self.broker.receive(client.connection, message, frames, 0.0)
            self._check(step_by_step=not isinstance(message, (m.Bye, m.Resume)))
            if isinstance(message, m.Bye):
                assert f"secret {client.number}" not in {
                    session.name for session, _ in self.broker._tickets.owners.values()
                }
        elif client.down:
            client.receive()
        self._distribute()

    def _distribute(self) -> None:
        """Put what the broker sends on its way."""
        for number, sent in self.broker.take_messages():
            if number < 0:
                continue  # the answer to a beat
            client = self.connections[number]  # nothing is sent to somebody who has gone
            client.down.append(sent)
            message, frames = decode(sent)
            if isinstance(message, m.Rows) and not self.gives_back:
                ref = client.requests[message.id].ref
                [column] = decode_columns(message.columns, frames)
                assert isinstance(column, np.ndarray)
                self.sent[ref].values += column.tolist()

    def _check(self, *, step_by_step: bool = True) -> None:
        """Check what holds of every queue: conservation, capacity, reserve; the session's end is many steps in one."""
        for queue in self.resources.queues.values():
            before = self.known.get(queue.machine) if step_by_step else None
            self.known[queue.machine] = check_invariants(queue.machine, before)

    def settle(self, client: Client) -> None:
        """Move messages until a connection is quiet."""
        while client.is_busy:
            self._move(client)

    def _connect(self, client: Client) -> None:
        """Make a connection; its hello arrives at once."""
        client.connection = next(self.numbers)
        self.connections[client.connection] = client
        self.broker.accept(client.connection, is_local=True)
        client.peer.connected(beats=True)
        [hello] = client.peer.take_messages()
        self.broker.receive(client.connection, *decode(hello), 0.0)
        for dropped in self.broker.take_dropped():
            del self.connections[dropped]
        self._check(step_by_step=False)

    def _reconnect(self, client: Client) -> None:
        """Lose a connection with all that is on its way, and make another; the server hears of the loss, or not."""
        client.peer.disconnected()
        client.up.clear()
        client.down.clear()
        if self.rng.integers(2):
            self.broker.lost(client.connection, 0.0)
            del self.connections[client.connection]
            self._check(step_by_step=False)
        self._connect(client)
        self._distribute()

    # The end of a session

    def _end(self, client: Client) -> None:
        """Say bye, or lose the connection with all that is on its way."""
        if self.rng.integers(2):
            self._leave(client)
        else:
            self._lose(client)
        self._forget(client)

    def _leave(self, client: Client) -> None:
        while not client.peer.is_open:
            self._move(client)
        client.said_bye = True
        client.peer.bye()
        self.settle(client)

    def _forget(self, client: Client) -> None:
        self.broker.lost(client.connection, 0.0)
        self.broker.lost(-client.number, 0.0)
        self._check(step_by_step=False)
        del self.connections[client.connection]
        del self.clients[client.number]
        self._distribute()

    def _lose(self, client: Client) -> None:
        client.up.extend(client.peer.take_messages())
        for _, id_, _ in client.peer._acks:  # those not known to have arrived
            self.history.unheard.update(client.requests[id_].values)
        if not client.peer.is_open:
            return
        unsent = {message.id for message in (decode(f)[0] for f in client.up) if isinstance(message, m.Put)}
        puts = {id_: client.requests[id_] for id_ in client.waiting if not client.requests[id_].is_get}
        self.received += [request for id_, request in puts.items() if id_ not in unsent]

    def finish(self) -> list[int]:
        """Let everybody end what they began and leave; return what is left in the queues."""
        for request in self.sent.values():
            _check_order(request)
        self.gives_back = True
        for client in self.clients.values():
            self.settle(client)  # what is void after a reconnect waits again
        for client in list(self.clients.values()):
            for id_ in client.waiting:
                client.withdraw(id_)
            self.settle(client)
            for id_ in list(client.delivered):
                client.acknowledge(id_)
        for client in [client for _ in range(3) for client in self.clients.values()]:
            self.settle(client)  # what one did may have answered another
        for client in self.clients.values():
            unanswered = [
                r for r in client.requests.values() if not r.is_answered and not (r.is_get and r.is_withdrawn)
            ]
            assert not unanswered, "a request was never answered"
        self._check_forgotten()
        for client in list(self.clients.values()):
            self._leave(client)
            self._forget(client)
        return self._drain()

    def _check_forgotten(self) -> None:
        assert not self.broker._tickets.owners
        for session in self.broker._sessions:
            assert not session.waiting
            assert not session.delivered
            assert len(session.refs) <= len(REFS)

    def _drain(self) -> list[int]:
        """Take out what is left, together with the puts of lost sessions that still wait."""
        assert not list(self.broker._sessions)
        assert not self.broker._sessions._by_peer
        assert not self.broker._sessions._by_beat_peer
        assert not self.broker._ended
        left: list[int] = []
        for queue in self.resources.queues.values():
            assert not queue.sessions
            assert queue.stats().gets_waiting == queue.stats().unacknowledged == queue.stats().ahead == 0
            queue.machine.close()
            while not queue.machine.is_drained:
                ticket = queue.machine.dequeue(1)
                for effect in queue.take_effects():
                    if isinstance(effect, Completed) and effect.rows is not None:
                        [column] = gather(effect.rows, queue.definition.element)
                        left += np.asarray(column).tolist()
                queue.machine.acknowledge(ticket)
        return left


def live(seed: int) -> World:
    """Live through one history and check it."""
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    left = world.finish()
    world.history.check(left)
    out = world.history.handed_over.keys() | set(left)
    stands = {value for request in world.received if request.ref not in world.closed for value in request.values}
    assert stands <= out, "a put that was received is lost with its sender"
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_EACH))
def test_histories(first: int) -> None:
    """Every request is answered once, no element is lost or doubled, and nothing is kept of who has gone."""
    for seed in range(first, first + SEEDS_EACH):
        try:
            live(seed)
        except Exception as error:
            error.add_note(f"seed {seed}: live({seed}) repeats it")
            raise


def test_histories_differ_and_repeat() -> None:
    """A seed is a history, and things happen in it."""
    first, again, *others = [live(seed).history.handed_over for seed in (0, 0, *range(1, 10))]
    assert first == again
    assert first not in others
    assert sum(map(len, others)) > 50
