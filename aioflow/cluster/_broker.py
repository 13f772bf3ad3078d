"""The server's half of the protocol, in plain code: sessions, their requests, and the resources that they share.

Messages go in with the time; messages for peers come out of `take_messages`. Rules:

1. A request is answered once. What goes wrong with it is its own answer and touches no other.
2. A ticket of a queue belongs to (peer, request id), until it is answered and, for a get, acknowledged or withdrawn.
3. A peer that is lost: its gets are withdrawn and what it had not acknowledged goes back; its puts stand, they were
   received.
4. A session that says bye: all that waits is withdrawn, nothing more is accepted, and it is over before the answer.
5. A peer that breaks the protocol is sent one `Goodbye` and is as good as lost; after a `Goodbye` nothing is heard.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioflow.cluster import _messages as m
from aioflow.cluster._admission import check_batch, check_columns, check_count
from aioflow.cluster._answers import cut, pack_error, pack_stats
from aioflow.cluster._codec import (
    decode_columns,
    describe_columns,
    encode,
    encode_columns,
    pack_definition,
    unpack_definition,
)
from aioflow.errors import NotFound, RemoteProtocolError, SessionError, VersionMismatch
from aioflow.queues import Completed, Failed, Segment, gather
from aioflow.resources import LostProducer, QueueKey, QueueRef, QueueResource, Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.cluster._messages import Message
    from aioflow.queues import Recall, Ticket
    from aioflow.transport import Frame

__all__ = ["Broker", "PeerId", "TaskInfo"]

PeerId = int

# Requests of one session that wait at a time: a task each, and nobody runs more tasks than that on one event loop.
REQUESTS_MAX = 65_536
# Queues that one session names; the numbers are the client's.
QUEUES_MAX = 65_536
# What has no answer of its own although it names a request: a fault in it ends the session.
_WITHOUT_ANSWER = frozenset({m.Promote, m.Acknowledge, m.Withdraw})


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """Where this server stands in its cluster."""

    epoch: str
    job: str
    task: int
    tasks: int


@dataclass(slots=True, eq=False)
class _Session:
    """One peer that has said hello."""

    name: str
    refs: dict[int, QueueRef] = field(default_factory=dict)
    waiting: dict[int, tuple[QueueResource, Ticket]] = field(default_factory=dict)
    delivered: dict[int, tuple[QueueResource, Ticket]] = field(default_factory=dict)  # gets, until acknowledged


class Broker:
    """Serves the resources of one task to any number of peers."""

    def __init__(self, resources: Resources, info: TaskInfo, lost_s: float) -> None:
        self._resources = resources
        self._info = info
        self._lost_s = lost_s
        self._sessions: dict[PeerId, _Session] = {}
        self._names: set[str] = set()
        self._ended: set[PeerId] = set()  # sent a Goodbye and not gone yet
        self._over = ""
        self._owners: dict[tuple[QueueResource, Ticket], tuple[PeerId, int]] = {}
        self._messages: list[tuple[PeerId, list[Frame]]] = []
        self._now = 0.0
        self._deadline_moved = False
        self._handlers: dict[type[Any], Callable[[PeerId, _Session, Any, Sequence[Frame]], None]] = {
            m.Define: self._define,
            m.Put: self._put,
            m.Get: self._get,
            m.Ask: self._ask,
            m.Promote: self._promote,
            m.Acknowledge: self._acknowledge,
            m.Withdraw: self._withdraw,
            m.Close: self._close,
            m.Size: self._size,
            m.IsClosed: self._is_closed,
            m.Stats: self._stats,
            m.Delete: self._delete,
            m.Lookup: self._lookup,
            m.Join: self._join,
            m.Leave: self._leave,
            m.Bye: self._bye,
        }

    def take_messages(self) -> list[tuple[PeerId, list[Frame]]]:
        """Return what is to be sent, in order."""
        messages, self._messages = self._messages, []
        return messages

    def receive(self, peer: PeerId, message: Message, frames: Sequence[Frame], now: float) -> None:
        """Handle one message; whatever goes wrong fails that request alone."""
        self._now = now
        if peer in self._ended:
            return
        if isinstance(message, m.Hello):
            self._hello(peer, message)
            return
        session = self._sessions.get(peer)
        handler = self._handlers.get(type(message))
        if session is None or handler is None:
            self.refuse(peer, f"{type(message).__name__} came {'before Hello' if handler else 'from a client'}")
            return
        request: int = 0 if type(message) in _WITHOUT_ANSWER else getattr(message, "id", 0)
        if request in session.waiting or request in session.delivered:
            self.refuse(peer, f"{type(message).__name__} came with id {request}, which is in use")
            return
        try:
            if request and len(session.waiting) + len(session.delivered) >= REQUESTS_MAX:
                raise SessionError(f"this session has {REQUESTS_MAX} requests under way; wait for some")  # noqa: TRY301
            handler(peer, session, message, frames)
        except Exception as error:  # noqa: BLE001 - rule 1: a fault in one request must not end the server
            if request:
                self._send(peer, pack_error(request, error))
            else:
                self.refuse(peer, str(error) or type(error).__name__)

    def refuse(self, peer: PeerId, reason: str) -> None:
        """End a peer's session because of what it sent."""
        if peer not in self._ended:
            self._say_goodbye(peer, reason)
            session = self._sessions.pop(peer, None)
            if session is not None:
                self._end(session, f"its connection was refused: {cut(reason)}", withdraw_puts=False)

    def lost(self, peer: PeerId, now: float, reason: str) -> None:
        """Take out a peer that has gone, with or without a bye."""
        self._now = now
        self._ended.discard(peer)
        session = self._sessions.pop(peer, None)
        if session is not None:
            self._end(session, reason, withdraw_puts=False)

    def expire(self, now: float) -> None:
        """Do what is due by `now`."""
        for queue in self._resources.expire(now):
            self._perform(queue)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next."""
        return self._resources.next_deadline()

    def take_deadline_moved(self) -> bool:
        """Say whether `next_deadline` may have changed since the last call."""
        moved, self._deadline_moved = self._deadline_moved, False
        return moved

    def shut_down(self, reason: str) -> None:
        """Tell every peer that the server ends; nothing is heard any more."""
        self._over = reason
        for peer in self._sessions:
            self._say_goodbye(peer, reason)
        self._sessions.clear()
        self._names.clear()
        self._owners.clear()

    # Sessions

    def _hello(self, peer: PeerId, hello: m.Hello) -> None:
        if self._over:
            self._say_goodbye(peer, self._over)
        elif hello.version != m.PROTOCOL_VERSION:
            self.refuse(
                peer,
                f"{VersionMismatch.__name__}: the server speaks version {m.PROTOCOL_VERSION} of the protocol and the "
                f"client version {hello.version}; install the same aioflow on both sides",
            )
        elif peer in self._sessions:
            self.refuse(peer, "Hello came twice")
        elif hello.session in self._names:  # which is a secret: whoever holds it keeps it
            self.refuse(peer, "the session of this Hello has another connection")
        else:
            self._sessions[peer] = _Session(hello.session)
            self._names.add(hello.session)
            info = self._info
            self._send(peer, m.Welcome(m.PROTOCOL_VERSION, info.epoch, info.job, info.task, info.tasks))

    def _bye(self, peer: PeerId, session: _Session, _: m.Bye, __: Sequence[Frame]) -> None:
        del self._sessions[peer]
        self._end(session, "its session was closed", withdraw_puts=True)
        self._say_goodbye(peer, "")

    def _say_goodbye(self, peer: PeerId, reason: str) -> None:
        self._ended.add(peer)
        self._send(peer, m.Goodbye(cut(reason)))

    def _end(self, session: _Session, reason: str, *, withdraw_puts: bool) -> None:
        """Withdraw what waits, puts first and the latest first, so that no withdrawal lets another one through."""
        for call in (*session.waiting.values(), *session.delivered.values()):
            self._owners.pop(call, None)
        for queue, ticket in reversed(session.waiting.values()):
            if withdraw_puts and queue.machine.is_put(ticket):
                queue.machine.cancel(ticket)
        for queue, ticket in reversed(session.waiting.values()):
            if not queue.machine.is_put(ticket):
                queue.machine.cancel(ticket)
                queue.machine.restore(ticket)  # a get of its own may have been served by what was withdrawn
                queue.cancel_join(ticket)
        for queue, ticket in session.delivered.values():
            queue.machine.restore(ticket)
        touched = [queue for queue, _ in (*session.waiting.values(), *session.delivered.values())]
        touched += self._resources.detach(session.name, self._now, reason)
        self._names.discard(session.name)
        self._deadline_moved = True
        for queue in dict.fromkeys(touched):  # in order: the same events give the same messages
            self._perform(queue)

    # Requests

    def _define(self, _: PeerId, session: _Session, message: m.Define, __: Sequence[Frame]) -> None:
        if message.queue in session.refs or len(session.refs) >= QUEUES_MAX:
            raise RemoteProtocolError(f"queue number {message.queue} is in use, or one of over {QUEUES_MAX}")
        key = QueueKey(message.container, message.name, session.name if message.private else "")
        session.refs[message.queue] = QueueRef(key, unpack_definition(message.definition))

    def _put(self, peer: PeerId, session: _Session, message: m.Put, frames: Sequence[Frame]) -> None:
        queue = self._attach(session, message.queue, puts=True)
        columns = decode_columns(message.columns, frames)
        dtypes = [dtype for dtype, _ in message.columns]
        check_columns(queue.definition, columns, dtypes)
        segment = Segment.of(columns, prioritised=queue.definition.kind == "PriorityQueue")
        self._track(peer, session, message.id, queue, queue.machine.enqueue(segment))

    def _get(self, peer: PeerId, session: _Session, message: m.Get, _: Sequence[Frame]) -> None:
        queue = self._attach(session, message.queue)
        check_count(queue.definition, message.count)
        ticket = queue.machine.dequeue(message.count, up_to=message.up_to)
        self._track(peer, session, message.id, queue, ticket)

    def _ask(self, peer: PeerId, session: _Session, message: m.Ask, _: Sequence[Frame]) -> None:
        queue = self._attach(session, message.queue)
        check_count(queue.definition, message.count)
        self._track(peer, session, message.id, queue, queue.machine.ask(message.count))

    def _promote(self, _: PeerId, session: _Session, message: m.Promote, __: Sequence[Frame]) -> None:
        if message.id in session.waiting:
            queue, ticket = session.waiting[message.id]
            queue.machine.promote(ticket)
            self._perform(queue)

    def _acknowledge(self, _: PeerId, session: _Session, message: m.Acknowledge, __: Sequence[Frame]) -> None:
        if message.id in session.delivered:
            queue, ticket = session.delivered.pop(message.id)
            del self._owners[queue, ticket]
            queue.machine.acknowledge(ticket)
            self._perform(queue)

    def _withdraw(self, peer: PeerId, session: _Session, message: m.Withdraw, _: Sequence[Frame]) -> None:
        call = session.waiting.pop(message.id, None) or session.delivered.pop(message.id, None)
        if call is None:
            return
        queue, ticket = call
        del self._owners[call]
        is_put = queue.machine.is_put(ticket)
        rows = queue.machine.cancel(ticket)
        if is_put or queue.cancel_join(ticket):
            self._send(peer, m.Withdrawn(message.id, rows or 0))
        queue.machine.restore(ticket)
        self._perform(queue)

    def _close(self, peer: PeerId, session: _Session, message: m.Close, _: Sequence[Frame]) -> None:
        queue = self._attach(session, message.queue)
        ticket = queue.machine.close(cancel_pending=message.cancel_pending)
        self._track(peer, session, message.id, queue, ticket)

    def _size(self, peer: PeerId, session: _Session, message: m.Size, _: Sequence[Frame]) -> None:
        self._send(peer, m.Done(message.id, len(self._attach(session, message.queue).machine)))

    def _is_closed(self, peer: PeerId, session: _Session, message: m.IsClosed, _: Sequence[Frame]) -> None:
        self._send(peer, m.Done(message.id, int(self._attach(session, message.queue).machine.is_closed)))

    def _stats(self, peer: PeerId, session: _Session, message: m.Stats, _: Sequence[Frame]) -> None:
        self._send(peer, pack_stats(message.id, self._attach(session, message.queue).stats()))

    def _delete(self, peer: PeerId, session: _Session, message: m.Delete, _: Sequence[Frame]) -> None:
        queue = self._attach(session, message.queue)
        self._resources.delete(session.refs.pop(message.queue).key)
        self._perform(queue)
        self._send(peer, m.Done(message.id))

    def _lookup(self, peer: PeerId, _: _Session, message: m.Lookup, __: Sequence[Frame]) -> None:
        definition = self._resources.lookup(QueueKey(message.container, message.name))
        self._send(peer, m.Found(message.id, pack_definition(definition)))

    def _join(self, peer: PeerId, session: _Session, message: m.Join, _: Sequence[Frame]) -> None:
        queue = self._attach(session, message.queue, registers=True)
        give_up = self._now + self._lost_s + 1
        ticket = queue.join(session.name, message.name, rejoin_s=message.rejoin_s, give_up=give_up)
        self._deadline_moved = True
        self._track(peer, session, message.id, queue, ticket)

    def _leave(self, peer: PeerId, session: _Session, message: m.Leave, _: Sequence[Frame]) -> None:
        queue = self._attach(session, message.queue)
        lost = LostProducer(message.name, message.reason, message.traceback) if message.lost else None
        if queue.is_held(message.name, session.name):
            queue.leave(message.name, lost, self._now)
            self._deadline_moved = True
        self._send(peer, m.Done(message.id))
        self._perform(queue)

    # Small moves

    def _attach(self, session: _Session, number: int, *, puts: bool = False, registers: bool = False) -> QueueResource:
        ref = session.refs.get(number)
        if ref is None:
            raise NotFound(f"this session has defined no queue number {number}")
        queue = self._resources.attach(session.name, ref, puts=puts, registers=registers)
        if queue.definition is not ref.definition:  # it agrees: need not be compared again
            session.refs[number] = QueueRef(ref.key, queue.definition)
        return queue

    def _track(self, peer: PeerId, session: _Session, request: int, queue: QueueResource, ticket: Ticket) -> None:
        session.waiting[request] = queue, ticket
        self._owners[queue, ticket] = peer, request
        self._perform(queue)

    def _perform(self, queue: QueueResource) -> None:
        """Answer the requests that a queue's effects name, each by itself; what cannot be sent goes back."""
        while effects := queue.take_effects():
            for effect in effects:
                peer, request = self._owners.get((queue, effect.ticket), (0, 0))
                session = self._sessions.get(peer)
                if session is None:
                    continue  # the queue's own close, or the put of a peer that has gone
                try:
                    self._answer(peer, session, request, queue, effect)
                except Exception as error:  # noqa: BLE001 - rule 1: it is the answer of this request and of no other
                    session.waiting.pop(request, None)
                    self._owners.pop((queue, effect.ticket), None)
                    queue.machine.restore(effect.ticket)
                    self._send(peer, pack_error(request, error))

    def _answer(
        self, peer: PeerId, session: _Session, request: int, queue: QueueResource, effect: Completed | Failed | Recall
    ) -> None:
        if isinstance(effect, Failed):
            del session.waiting[request], self._owners[queue, effect.ticket]
            self._send(peer, pack_error(request, effect.error))
        elif not isinstance(effect, Completed):
            self._send(peer, m.Recall(request))
        elif effect.rows is None:
            del session.waiting[request], self._owners[queue, effect.ticket]
            self._send(peer, m.Done(request))
        else:
            element = queue.definition.element
            check_batch(effect.rows, element)
            columns = gather(effect.rows, element)
            described = describe_columns(columns, [component.dtype for component in element.components])
            self._send(peer, m.Rows(request, described), encode_columns(columns))
            session.delivered[request] = session.waiting.pop(request)

    def _send(self, peer: PeerId, message: Message, frames: Sequence[Frame] = ()) -> None:
        self._messages.append((peer, encode(message, frames)))
