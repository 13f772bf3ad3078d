"""Tickets of queues: which request of which session each belongs to, what became of it, and how that is answered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aioflow.cluster import _messages as m
from aioflow.cluster._admission import check_batch, check_frames
from aioflow.cluster._answers import pack_error
from aioflow.cluster._codec import describe_columns, encode, encode_columns
from aioflow.errors import QueueError
from aioflow.queues import Completed, Failed, Segment, gather
from aioflow.specs import STRING_DTYPES
from aioflow.transport import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.cluster._messages import Message
    from aioflow.cluster._sessions import AllocateFor, Call, PeerId, Session
    from aioflow.queues import Effect, Recall, Ticket
    from aioflow.resources import QueueResource
    from aioflow.specs import ElementSpec
    from aioflow.transport import Frame

__all__ = ["Tickets"]


class Tickets:
    """The tickets of a broker's queues.

    Args:
        messages: Answers go to its end.
        allocate: Where rows are gathered.
    """

    def __init__(self, messages: list[tuple[PeerId, list[Frame]]], allocate: AllocateFor) -> None:
        self.owners: dict[tuple[QueueResource, Ticket], tuple[Session, int]] = {}
        self.watched: dict[tuple[QueueResource, Ticket], Callable[[Effect], None]] = {}  # calls of nodes of graphs
        self._messages = messages
        self._allocate = allocate

    # What requests say of earlier ones

    def promote(self, session: Session, message: m.Promote, _: Sequence[Frame]) -> None:
        """Make a request ahead a get."""
        if message.id in session.waiting:
            call = session.waiting[message.id]
            call.queue.machine.promote(call.ticket)
            self.perform(call.queue)

    def acknowledge(self, session: Session, message: m.Acknowledge, _: Sequence[Frame]) -> None:
        """Count rows as handed over."""
        call = session.delivered.get(message.id)
        if call is None:
            return
        if message.rows >= call.rows:
            del session.delivered[message.id]
            del self.owners[call.queue, call.ticket]
            call.queue.machine.acknowledge(call.ticket)
        else:
            call.queue.machine.acknowledge(call.ticket, message.rows)
        self.perform(call.queue)

    def acknowledge_noted(self, session: Session) -> None:
        """Count rows as handed over of which a session that is over noted so."""
        if session.page is not None:
            for request, rows in session.page.read():
                self.acknowledge(session, m.Acknowledge(request, rows), ())

    def withdraw(self, session: Session, message: m.Withdraw, _: Sequence[Frame]) -> None:
        """End a request; what it holds goes back."""
        if message.id in session.answers:
            self.answer_again(session, message.id)
            return
        call = session.take_waiting(message.id) or session.delivered.pop(message.id, None)
        if call is None:  # a put that never came, or a get that had ended: whoever waits for an answer gets one
            self.answer(session, message.id, m.Withdrawn(message.id, 0))
            return
        self.owners.pop((call.queue, call.ticket), None)
        rows = call.queue.machine.cancel(call.ticket)
        if call.is_put:
            call.queue.cancel_join(call.ticket)
            self.answer(session, message.id, m.Withdrawn(message.id, rows or 0), keep=True)
        call.queue.machine.restore(call.ticket)
        self.perform(call.queue)

    # What queues do

    def track(self, session: Session, request: int, call: Call) -> None:
        """Wait for what becomes of a request."""
        session.waiting[request] = call
        self.owners[call.queue, call.ticket] = session, request
        self.perform(call.queue)

    def perform(self, queue: QueueResource) -> None:
        """Answer the requests that a queue's effects name, each by itself; what cannot be sent goes back."""
        while effects := queue.take_effects():
            for effect in effects:
                owner = self.owners.get((queue, effect.ticket))
                if owner is None:  # a node's; or the queue's own close, or the put of a session that is over
                    if (tell := self.watched.pop((queue, effect.ticket), None)) is not None:
                        tell(effect)
                    continue
                session, request = owner
                try:
                    self._tell(session, request, queue, effect)
                except Exception as error:  # noqa: BLE001 - rule 1: it is the answer of this request and of no other
                    session.waiting.pop(request, None)
                    self.owners.pop((queue, effect.ticket), None)
                    queue.machine.restore(effect.ticket)
                    self.answer(session, request, pack_error(request, error))

    def perform_all(self, queues: Sequence[QueueResource]) -> None:
        """Do as `perform` for each of some queues."""
        for queue in dict.fromkeys(queues):  # in order: the same events give the same messages
            self.perform(queue)

    def withdraw_gets(self, session: Session) -> list[QueueResource]:
        """Withdraw a session's waiting gets, the latest first; return their queues."""
        gets = {request: call for request, call in session.waiting.items() if not call.is_put}
        for request, call in gets.items():
            del session.waiting[request]
            self.owners.pop((call.queue, call.ticket), None)
        for call in reversed(gets.values()):
            call.queue.machine.cancel(call.ticket)
            call.queue.machine.restore(call.ticket)  # it may have been served by what another withdrawal gave back
        return [call.queue for call in gets.values()]

    # Answers

    def answer(
        self, session: Session, request: int, message: Message, frames: Sequence[Frame] = (), *, keep: bool = False
    ) -> None:
        """Answer a request, if its session is connected; `keep` the answer until it is confirmed."""
        encoded = encode(message, frames)
        if keep:
            session.answers[request] = encoded
        if session.peer is not None:
            self._messages.append((session.peer, encoded))

    def answer_again(self, session: Session, request: int) -> None:
        """Give the answer that was kept."""
        session.unclaimed.discard(request)
        if session.peer is not None:
            self._messages.append((session.peer, session.answers[request]))

    def _tell(self, session: Session, request: int, queue: QueueResource, effect: Completed | Failed | Recall) -> None:
        if isinstance(effect, Failed) or (isinstance(effect, Completed) and effect.rows is None):
            del self.owners[queue, effect.ticket]
            call = session.take_waiting(request)
            told = queue.batching() if call is not None and call.nbytes else ()
            message = pack_error(request, effect.error) if isinstance(effect, Failed) else m.Done(request, *told)
            self.answer(session, request, message, keep=call is not None and call.is_put)
        elif isinstance(effect, Completed) and effect.rows is not None:
            element = queue.definition.element
            check_batch(effect.rows, element)
            columns = gather(effect.rows, element, partial(self._allocate, session.peer))
            described = describe_columns(columns, element.dtypes)
            frames = [*map(whole, encode_columns(columns))]
            check_frames(frames, f"a batch of {effect.rows.count} elements", QueueError)  # of strings, known only now
            self.answer(session, request, m.Rows(request, described), frames)
            call = session.delivered[request] = session.waiting.pop(request)
            call.rows = effect.rows.count
            # Rows that were copied are kept once; strings whose shapes vary are not what they were, as they are padded.
            if effect.rows.lie_apart and not _are_padded(element):
                prioritised = queue.definition.kind == "PriorityQueue"
                queue.machine.move(effect.ticket, Segment.of(columns, prioritised=prioritised))
        elif session.peer is not None:
            self._messages.append((session.peer, encode(m.Recall(request))))


def _are_padded(element: ElementSpec) -> bool:
    return any(spec.dtype in STRING_DTYPES and not spec.has_one_shape for spec in element.components)
