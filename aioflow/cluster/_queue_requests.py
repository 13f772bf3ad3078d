"""Requests on the queues of a server."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

from aioflow.cluster import _messages as m
from aioflow.cluster._admission import check_columns, check_count
from aioflow.cluster._answers import pack_stats
from aioflow.cluster._codec import decode_columns, pack_definition, unpack_definition
from aioflow.cluster._sessions import Call
from aioflow.cluster._values import encode_value
from aioflow.cluster._window import Window
from aioflow.errors import NotFound, RemoteProtocolError
from aioflow.queues import Segment
from aioflow.resources import LostProducer, QueueKey, QueueRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.cluster._sessions import Session
    from aioflow.cluster._tickets import Tickets
    from aioflow.resources import QueueResource, Resources
    from aioflow.transport import AnyFrame, Frame

__all__ = ["QueueRequests"]

# Queues that one session names; the numbers are the client's.
QUEUES_MAX = 65_536


class QueueRequests:
    """Does on a broker's queues what requests ask for.

    Attributes:
        now: The time of the present request.
        deadline_moved: Whether something may be due earlier than before.
    """

    def __init__(self, resources: Resources, tickets: Tickets, lost_s: float, memory_bytes: Callable[[], int]) -> None:
        self._resources = resources
        self._memory_bytes = memory_bytes
        self._tickets = tickets
        self._lost_s = lost_s
        self.now = 0.0
        self.deadline_moved = False

    def define(self, session: Session, message: m.Define, _: Sequence[Frame]) -> None:
        """Note the number of a queue."""
        key = QueueKey(message.container, message.name, session.name if message.private else "")
        known = session.refs.get(message.queue)
        if known is not None and known.key == key:  # sent again: it was not known to have arrived
            return
        if known is not None or len(session.refs) >= QUEUES_MAX:
            raise RemoteProtocolError(f"queue number {message.queue} is in use, or one of over {QUEUES_MAX}")
        session.refs[message.queue] = QueueRef(key, unpack_definition(message.definition))

    def put(self, session: Session, message: m.Put, frames: Sequence[AnyFrame]) -> None:
        """Enqueue."""
        queue = self._attach(session, message.queue, puts=True)
        columns = decode_columns(message.columns, frames)
        dtypes = [dtype for dtype, _ in message.columns]
        check_columns(queue.definition.element, columns, dtypes)
        segment = Segment.of(columns, prioritised=queue.definition.kind == "PriorityQueue")
        nbytes = sum(map(len, frames))
        window = session.windows.get(queue) or Window()
        if not window.admits(nbytes):
            raise RemoteProtocolError(
                f"{window.puts} puts of {window.nbytes} bytes on {queue.machine} are under way, and one of {nbytes} "
                "more came: that exceeds the window"
            )
        ticket = queue.machine.enqueue(segment)
        window.add(nbytes)
        session.windows[queue] = window
        self._tickets.track(session, message.id, Call(queue, ticket, is_put=True, nbytes=nbytes))

    def get(self, session: Session, message: m.Get, _: Sequence[Frame]) -> None:
        """Dequeue."""
        queue = self._attach(session, message.queue)
        check_count(queue.definition, message.count)
        ticket = queue.machine.dequeue(message.count, up_to=message.up_to)
        queue.batch = message.count
        self._tickets.track(session, message.id, Call(queue, ticket, is_put=False))

    def ask(self, session: Session, message: m.Ask, _: Sequence[Frame]) -> None:
        """Serve ahead."""
        queue = self._attach(session, message.queue)
        check_count(queue.definition, message.count)
        ticket = queue.machine.ask(message.count, message.runs, session.name)
        queue.batch = message.count
        self._tickets.track(session, message.id, Call(queue, ticket, is_put=False))

    def close(self, session: Session, message: m.Close, _: Sequence[Frame]) -> None:
        """Close a queue."""
        queue = self._attach(session, message.queue)
        ticket = queue.machine.close(cancel_pending=message.cancel_pending)
        self._tickets.track(session, message.id, Call(queue, ticket, is_put=True))

    def size(self, session: Session, message: m.Size, _: Sequence[Frame]) -> None:
        """Count."""
        self._tickets.answer(session, message.id, m.Done(message.id, len(self._attach(session, message.queue).machine)))

    def is_closed(self, session: Session, message: m.IsClosed, _: Sequence[Frame]) -> None:
        """Say whether it is closed."""
        is_closed = self._attach(session, message.queue).machine.is_closed
        self._tickets.answer(session, message.id, m.Done(message.id, int(is_closed)))

    def stats(self, session: Session, message: m.Stats, _: Sequence[Frame]) -> None:
        """Tell of it."""
        self._tickets.answer(session, message.id, pack_stats(message.id, self._attach(session, message.queue).stats()))

    def list_queues(self, session: Session, message: m.ListQueues, _: Sequence[Frame]) -> None:
        """Tell of all queues, and of the memory that is shared."""
        told = [self._memory_bytes(), [astuple(stats) for stats in self._resources.stats()]]
        self._tickets.answer(session, message.id, m.Tensors(message.id), encode_value(told))

    def delete(self, session: Session, message: m.Delete, _: Sequence[Frame]) -> None:
        """Remove it."""
        queue = self._attach(session, message.queue)
        self._resources.delete(session.refs.pop(message.queue).key)
        self._tickets.perform(queue)
        self._tickets.answer(session, message.id, m.Done(message.id), keep=True)

    def lookup(self, session: Session, message: m.Lookup, _: Sequence[Frame]) -> None:
        """Tell its definition."""
        definition = self._resources.lookup(QueueKey(message.container, message.name))
        self._tickets.answer(session, message.id, m.Found(message.id, pack_definition(definition)))

    def join(self, session: Session, message: m.Join, _: Sequence[Frame]) -> None:
        """Register a producer."""
        queue = self._attach(session, message.queue, registers=True)
        give_up = self.now + self._lost_s + 1
        ticket = queue.join(session.name, message.name, rejoin_s=message.rejoin_s, give_up=give_up)
        if message.renews:
            queue.waive(self.now + self._lost_s)
        self.deadline_moved = True
        self._tickets.track(session, message.id, Call(queue, ticket, is_put=True))

    def leave(self, session: Session, message: m.Leave, _: Sequence[Frame]) -> None:
        """Take a producer out."""
        queue = self._attach(session, message.queue)
        lost = LostProducer(message.name, message.reason, message.traceback) if message.lost else None
        if queue.is_held(message.name, session.name):
            queue.leave(message.name, lost, self.now)
            self.deadline_moved = True
        self._tickets.answer(session, message.id, m.Done(message.id), keep=True)
        self._tickets.perform(queue)

    # Small moves

    def _attach(self, session: Session, number: int, *, puts: bool = False, registers: bool = False) -> QueueResource:
        ref = session.refs.get(number)
        if ref is None:
            raise NotFound(f"this session has defined no queue number {number}")
        queue = self._resources.attach(session.name, ref, puts=puts, registers=registers)
        if queue.definition is not ref.definition:  # it agrees: need not be compared again
            session.refs[number] = QueueRef(ref.key, queue.definition)
        return queue
