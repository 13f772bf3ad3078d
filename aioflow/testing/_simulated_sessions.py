"""The two ends of sessions on a simulated network: the real, pure machines with shells in plain code.

The shells do what `aioflow.cluster` does around the same machines with an event loop: connect, beat, notice silence,
connect again, hand over, acknowledge late, expire what is due.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.cluster import _messages as m
from aioflow.cluster._broker import Broker, TaskInfo
from aioflow.cluster._codec import decode, encode
from aioflow.cluster._events import Ended, Parted, Welcomed
from aioflow.cluster._link import ATTEMPT_S, GOODBYE_S, PAUSE_FIRST_S, PAUSE_MAX_S
from aioflow.cluster._peer import Peer
from aioflow.errors import ConnectionLost, SessionClosed
from aioflow.resources import Resources
from aioflow.testing._machine_suite import check_invariants
from aioflow.transport import whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.cluster._events import Event
    from aioflow.errors import AioflowError
    from aioflow.queues import QueueMachine, QueueStats
    from aioflow.resources import QueueResource
    from aioflow.testing._network import SimulatedNetwork
    from aioflow.testing._network_ends import SimulatedEnd
    from aioflow.transport import Frame

__all__ = ["LOST_S", "SESSION_S", "SimulatedLink", "SimulatedServer"]

HEARTBEAT_S, LOST_S, SESSION_S = 1.0, 3.0, 15.0


class SimulatedServer:
    """A server on the node "server", which starts anew, and empty, after each crash.

    Attributes:
        broker: What serves.
        resources: Its queues.
        epoch: How often it was started.
        on_message: Told each message before it is handled, and the connection.
    """

    def __init__(self, network: SimulatedNetwork, *, is_local: bool) -> None:
        self.network = network
        self.node = network.node("server")
        self.node.on_start = self.start
        self.epoch = 0
        self.on_message: Callable[[int, m.Message], None] = lambda _, __: None
        self._is_local = is_local
        self._peers = 0
        self.start()

    def start(self) -> None:
        """Begin with a new broker."""
        self.epoch += 1
        self.resources = Resources(lambda _: np.random.default_rng(self.epoch), session_s=SESSION_S)
        self.broker = Broker(
            self.resources, TaskInfo(str(self.epoch), "local", 0, (("local", 0, "x://y"),)), LOST_S, SESSION_S
        )
        self.ends: dict[int, SimulatedEnd] = {}
        self._known: dict[QueueMachine, QueueStats] = {}
        self._due: float | None = None
        self.node.accept = self._accept

    def _accept(self, end: SimulatedEnd) -> _ServerEnd:
        self._peers += 1
        self.ends[self._peers] = end
        self.broker.accept(self._peers, is_local=self._is_local)
        return _ServerEnd(self, self._peers)

    def received(self, peer: int, frames: list[Frame]) -> None:
        """Handle a message."""
        message, rest = decode(frames)
        self.on_message(peer, message)
        touched = self._find(peer, message)
        self.broker.receive(peer, message, rest, self.network.now)
        if touched is not None:
            if touched in self.resources.queues.values():  # of a deleted one nothing holds
                machine = touched.machine
                self._known[machine] = check_invariants(machine, self._known.get(machine))
        elif type(message) is not m.Beat:
            self._check_all()
        self._send()

    def lost(self, peer: int) -> None:
        """Take out a connection that has ended."""
        self.ends.pop(peer, None)
        self.broker.lost(peer, self.network.now)
        self._check_all()
        self._send()

    def _find(self, peer: int, message: Any) -> QueueResource | None:
        """Find the only queue that a message can change, if it is there."""
        session = self.broker._sessions.find(peer)  # noqa: SLF001
        if session is None:
            return None
        if (number := getattr(message, "queue", None)) is not None and number in session.refs:
            return self.resources.queues.get(session.refs[number].key)
        request = getattr(message, "id", 0)
        call = session.waiting.get(request) or session.delivered.get(request)
        return None if call is None else call.queue

    def _check_all(self) -> None:
        for queue in self.resources.queues.values():
            self._known[queue.machine] = check_invariants(queue.machine)

    def _send(self) -> None:
        broker = self.broker
        for peer, frames in broker.take_messages():
            if peer in self.ends:
                self.ends[peer].send(frames)
        for peer in broker.take_dropped():
            if peer in self.ends:
                self.ends.pop(peer).abort()
        if broker.take_deadline_moved() or self._due is None:
            self._set_timer()

    def _set_timer(self) -> None:
        due = self.broker.next_deadline()
        if due is not None and (self._due is None or due < self._due):
            self._due = max(due, self.network.now)
            self.network.at(self._due, partial(self._expire, self._due), self.node)

    def _expire(self, due: float) -> None:
        if due == self._due:
            self._due = None
            self.broker.expire(self.network.now)
            self._check_all()
            self._send()


class _ServerEnd:
    __slots__ = ("_peer", "_server")

    def __init__(self, server: SimulatedServer, peer: int) -> None:
        self._server = server
        self._peer = peer

    def received(self, frames: list[Frame]) -> None:
        self._server.received(self._peer, frames)

    def lost(self, reason: str) -> None:  # noqa: ARG002 - the broker has its own words
        self._server.lost(self._peer)


class SimulatedLink:
    """Keeps a session on a node connected until it is closed, ended by the server, or out of reach for `SESSION_S`.

    Attributes:
        peer: The session.
        secret: Its secret.
        node: Where it runs.
        is_over: Whether nothing is sent or heard any more.
        answered_at: When the latest beat was sent that was answered.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        name: str,
        secret: str,
        on_event: Callable[[Event], None],
        on_end: Callable[[AioflowError | None], None],
    ) -> None:
        self.peer = Peer(secret, "server")
        self.secret = secret
        self.node = network.node(name)
        self.is_over = False
        self._network = network
        self._on_event = on_event
        self._on_end = on_end
        self._end: SimulatedEnd | None = None
        self._number = 0  # of attempts to connect: what an earlier connection says is not heard
        self._is_closing = False
        self._since: float | None = network.now  # when it was lost; None while it is connected
        self._pause_s = PAUSE_FIRST_S
        self._welcomed_at = network.now
        self._beats: SimulatedEnd | None = None
        self.answered_at = network.now
        self._sent_at: dict[int, float] = {}
        self._beat_number = 0
        self._late = False
        self._connect()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later, unless the node has crashed."""
        self._network.at(self._network.now + seconds, action, self.node)

    def send(self) -> None:
        """Send what the peer has to say, and tell what has happened."""
        if self._end is not None:
            for frames in self.peer.take_messages():
                self._end.send([*map(whole, frames)])
        for event in self.peer.take_events():
            match event:
                case Welcomed():
                    self._since, self._pause_s, self._welcomed_at = None, PAUSE_FIRST_S, self._network.now
                    self._on_event(event)
                case Parted():
                    self._lose()
                case Ended(error):
                    assert error is None or isinstance(error, SessionClosed), f"refused: {error}"
                    self.end(error)
                case _:
                    self._on_event(event)

    def send_late(self) -> None:
        """Send within a millisecond what may be sent together with more."""
        if not self._late:
            self._late = True
            self.after(0.001, self._send_late)

    def _send_late(self) -> None:
        self._late = False
        if not self.is_over:
            self.send()

    def check(self) -> bool:
        """Whether the server has been heard lately; if not, connect again."""
        if self._silent_s() <= LOST_S:
            return True
        self._lose()
        return False

    def close(self) -> None:
        """Say bye, and be over soon."""
        self._is_closing = True
        if self.peer.is_open:
            self.peer.bye()
            self.send()
            self.after(GOODBYE_S, partial(self.end, None))
        else:
            self.end(None)

    def end(self, error: AioflowError | None) -> None:
        """End the session."""
        if not self.is_over:
            self.is_over = True
            for end in (self._end, self._beats):
                if end is not None:
                    end.close()
            self._on_end(error)

    # Connections

    def _connect(self) -> None:
        if self.is_over:
            return
        if self._is_closing or (self._since is not None and self._network.now >= self._since + SESSION_S):
            self.end(ConnectionLost("the server was out of reach"))
            return
        self._number += 1
        number = self._number
        self._end = self._network.connect(
            self.node.name, "server", _LinkEnd(self, number), partial(self._opened, number)
        )
        self.after(ATTEMPT_S, partial(self._give_up, number))

    def _opened(self, number: int) -> None:
        if number == self._number and not self.is_over:
            if not self._beat_number:
                self.answered_at = self._network.now
                self._beat()
                self._watch()
            self.peer.connected(beats=True)
            self.send()

    def _give_up(self, number: int) -> None:
        if number == self._number and self._since is not None:
            self._lose()

    def _lose(self) -> None:
        """Be without a connection, and have another one made: at once, and after a pause if that did not help."""
        if self._end is None or self.is_over:
            return
        end, self._end = self._end, None
        end.abort()
        self._number += 1
        self.peer.disconnected()
        if self._since is None:
            self._since = self._network.now
            self.after(0.0, self._connect)
        else:
            self.after(self._pause_s * (0.5 + self._number * 0.618 % 1), self._connect)
            self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)

    def received(self, number: int, frames: list[Frame]) -> None:
        """Handle a message."""
        if number == self._number and not self.is_over:
            self.peer.receive(*decode(frames))
            self.send()

    def lost(self, number: int) -> None:
        """Learn that a connection has ended."""
        if number == self._number:
            self._lose()

    # Beats

    def _beat(self) -> None:
        if self.is_over:
            return
        if self._beats is None:
            self._beats = self._network.connect(self.node.name, "server", _BeatEnd(self))
        self._beat_number += 1
        self._sent_at[self._beat_number] = self._network.now
        self._beats.send(encode(m.Beat(self.secret, self._beat_number)))
        self.after(HEARTBEAT_S, self._beat)

    def heard(self, frames: list[Frame]) -> None:
        """Learn that a beat was answered."""
        message, _ = decode(frames)
        assert isinstance(message, m.Heard)
        self.answered_at = max(self.answered_at, self._sent_at.pop(message.number))

    def silenced(self) -> None:
        """Learn that the connection of the beats has ended: the next beat makes another."""
        self._beats = None

    def _watch(self) -> None:
        if not self.is_over:
            if self.peer.is_open:
                self.check()
            self.after(max(0.01, LOST_S - self._silent_s()), self._watch)

    def _silent_s(self) -> float:
        return self._network.now - max(self.answered_at, self._welcomed_at)


class _LinkEnd:
    __slots__ = ("_link", "_number")

    def __init__(self, link: SimulatedLink, number: int) -> None:
        self._link = link
        self._number = number

    def received(self, frames: list[Frame]) -> None:
        self._link.received(self._number, frames)

    def lost(self, reason: str) -> None:  # noqa: ARG002 - nothing depends on it
        self._link.lost(self._number)


class _BeatEnd:
    __slots__ = ("_link",)

    def __init__(self, link: SimulatedLink) -> None:
        self._link = link

    def received(self, frames: list[Frame]) -> None:
        self._link.heard(frames)

    def lost(self, reason: str) -> None:  # noqa: ARG002 - nothing depends on it
        self._link.silenced()
