"""The server's half of the protocol, in plain code: requests of sessions, and the resources that they share.

Messages go in with the time; messages for peers come out of `take_messages`. `_sessions` has the rules of sessions;
those of requests:

1. A request is answered once on each connection. What goes wrong with it is its own answer and touches no other.
2. A ticket of a queue belongs to (session, request id), until it is answered and, for a get, acknowledged or withdrawn.
3. What changes a queue is done once: it is known by its id while it waits, and its answer is kept until confirmed.
4. A session that says bye: all that waits is withdrawn, nothing more is accepted, and it is over before the answer.
   One that is over without a bye: its puts stand, as they were received; all else is withdrawn or goes back.
5. A peer that breaks the protocol is sent one `Goodbye`, and its session is over; after a `Goodbye` nothing is heard.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aioflow.cluster import _messages as m
from aioflow.cluster._answers import cut, pack_error
from aioflow.cluster._codec import encode
from aioflow.cluster._queue_requests import QueueRequests
from aioflow.cluster._request_kinds import ONCE
from aioflow.cluster._sessions import AllocateFor, MakePage, PeerId, Session, Sessions, no_memory_for, no_page
from aioflow.cluster._spec import TaskInfo
from aioflow.cluster._steps import Steps
from aioflow.cluster._tickets import Tickets
from aioflow.cluster._variables import Variables
from aioflow.errors import ConnectionLost, RemoteProtocolError, SessionClosed, SessionError, VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.cluster._messages import Message
    from aioflow.queues import Effect, Ticket
    from aioflow.resources import QueueResource, Resources
    from aioflow.transport import AnyFrame, Frame

__all__ = ["Broker", "PeerId", "TaskInfo"]

# Requests of one session that wait or are not confirmed at a time: a task each, and nobody runs more on one event loop.
REQUESTS_MAX = 65_536
# What has no answer of its own although it names a request: a fault in it ends the session.
_WITHOUT_ANSWER = frozenset({m.Promote, m.Acknowledge, m.Withdraw})


class Broker:
    """Serves the resources of one task to any number of peers."""

    def __init__(
        self,
        resources: Resources,
        info: TaskInfo,
        lost_s: float,
        session_s: float,
        make_page: MakePage = no_page,
        allocate: AllocateFor = no_memory_for,
        memory_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._resources = resources
        self._welcome = m.Welcome(
            m.PROTOCOL_VERSION, info.epoch, info.job, info.task, [list(task) for task in info.tasks]
        )
        self._lost_s = lost_s
        self._session_s = session_s
        self._sessions = Sessions(lost_s, session_s, make_page)
        self._local: set[PeerId] = set()
        self._ended: set[PeerId] = set()  # sent a Goodbye and not gone yet
        self._over = ""
        self._messages: list[tuple[PeerId, list[Frame]]] = []
        self._tickets = Tickets(self._messages, allocate)
        self._variables = Variables(resources, self._tickets)
        self._queues = queues = QueueRequests(resources, self._tickets, lost_s, memory_bytes)
        self.steps = Steps(self._tickets)
        self._dropped: list[PeerId] = []
        self._now = 0.0
        self._deadline_moved = False
        self._handlers = self._all_handlers(queues)

    def take_messages(self) -> list[tuple[PeerId, list[Frame]]]:
        """Return what is to be sent, in order."""
        messages = self._messages.copy()
        self._messages.clear()
        return messages

    def take_dropped(self) -> list[PeerId]:
        """Return peers whose connections are to be ended at once; `lost` need not be told of them."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def accept(self, peer: PeerId, *, is_local: bool) -> None:
        """Learn of a new connection."""
        if is_local:
            self._local.add(peer)

    def receive(self, peer: PeerId, message: Message, frames: Sequence[AnyFrame], now: float) -> None:
        """Handle one message; whatever goes wrong fails that request alone."""
        self._now = self._queues.now = now
        if peer in self._ended:
            return
        if isinstance(message, m.Hello):
            self._hello(peer, message)
        elif isinstance(message, m.Beat):
            if self._sessions.beat(message.session, peer, now):
                self._send(peer, m.Heard(message.number))
        else:
            session = self._sessions.find(peer)
            if session is None or type(message) not in self._handlers:
                came = "from a client" if type(message) not in self._handlers else "before Hello"
                self.refuse(peer, f"{type(message).__name__} came {came}")
            else:
                self._handle(session, peer, message, frames)

    def _all_handlers(self, queues: QueueRequests) -> dict[type[Any], Callable[[Session, Any, Sequence[Frame]], None]]:
        return {
            m.Define: queues.define,
            m.Put: queues.put,
            m.Get: queues.get,
            m.Ask: queues.ask,
            m.Promote: self._tickets.promote,
            m.Acknowledge: self._tickets.acknowledge,
            m.Withdraw: self._withdraw,
            m.Close: queues.close,
            m.Size: queues.size,
            m.IsClosed: queues.is_closed,
            m.Stats: queues.stats,
            m.ListQueues: queues.list_queues,
            m.Delete: queues.delete,
            m.Lookup: queues.lookup,
            m.Join: queues.join,
            m.Leave: queues.leave,
            m.Bye: self._bye,
            m.Resume: self._resume,
            m.Confirm: self._confirm,
            m.Read: self._variables.read,
            m.Assign: self._variables.assign,
            m.Reset: self._reset,
            m.RegisterGraph: self.steps.register,
            m.DeregisterGraph: self.steps.deregister,
            m.RunGraph: self.steps.run,
            m.SendTensor: self.steps.send_tensor,
            m.ListDevices: self.steps.list_devices,
            m.EndOwner: self._end_owner,
        }

    def _handle(self, session: Session, peer: PeerId, message: Message, frames: Sequence[AnyFrame]) -> None:
        kind = type(message)
        request: int = 0 if kind in _WITHOUT_ANSWER else getattr(message, "id", 0)
        if request and self._is_known(session, request, kind):
            return
        try:
            if request and session.requests >= REQUESTS_MAX:
                raise SessionError(f"this session has {REQUESTS_MAX} requests under way; wait for some")  # noqa: TRY301
            self._handlers[kind](session, message, frames)  # type: ignore[arg-type]  # pieces: of a put
        except RemoteProtocolError as error:
            self.refuse(peer, str(error))
        except Exception as error:  # noqa: BLE001 - rule 1: a fault in one request must not end the server
            if request:  # it changed nothing: it may be tried anew, and its answer need not be kept
                self._tickets.answer(session, request, pack_error(request, error))
            else:
                self.refuse(peer, str(error) or type(error).__name__)

    def _is_known(self, session: Session, request: int, kind: type[Any]) -> bool:
        """Rule 3: whether a request was received before; if it was answered, answer again."""
        if kind in ONCE and request in session.answers:
            self._tickets.answer_again(session, request)
            return True
        call = session.waiting.get(request)
        if kind in ONCE and (request in session.steps or (call is not None and call.is_put)):
            return True
        if call is not None or request in session.delivered:
            assert session.peer is not None
            self.refuse(session.peer, f"{kind.__name__} came with id {request}, which is in use")
            return True
        return False

    def refuse(self, peer: PeerId, reason: str) -> None:
        """End a peer's session because of what it sent."""
        self._part(peer, RemoteProtocolError, reason)

    def lost(self, peer: PeerId, now: float) -> None:
        """Take out a connection that has ended, with or without a bye."""
        self._now = now
        self._ended.discard(peer)
        self._local.discard(peer)
        session, beating = self._sessions.find(peer), self._sessions.silence(peer)
        if session is not None:
            self._disconnect(session)
        for each in dict.fromkeys((session, beating)):
            if each is not None and self._sessions.has_ended(each):
                self._end(each, "its process has ended", withdraw_puts=False)

    def expire(self, now: float) -> None:
        """Do what is due by `now`."""
        self._now = now
        lost, over = self._sessions.judge(now)
        for session in lost:
            self._lose(session)
        for session in over:
            self._end(session, f"it showed no sign of life for {self._session_s} s", withdraw_puts=False)
        for queue in self._resources.expire(now):
            self._tickets.perform(queue)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next."""
        due = (self._resources.next_deadline(), self._sessions.next_deadline())
        return min((when for when in due if when is not None), default=None)

    def take_deadline_moved(self) -> bool:
        """Say whether `next_deadline` may have become earlier since the last call."""
        moved, self._deadline_moved = self._deadline_moved or self._queues.deadline_moved, False
        self._queues.deadline_moved = False
        return moved

    def shut_down(self, reason: str) -> None:
        """Tell every peer that the server ends; nothing is heard any more."""
        self._over = reason
        for session in self._sessions:
            if session.peer is not None:
                self._say_goodbye(session.peer, ConnectionLost.__name__, reason)
            self._sessions.forget(session)
        self._tickets.owners.clear()

    # Sessions

    def _hello(self, peer: PeerId, hello: m.Hello) -> None:
        known = self._sessions.get(hello.session)
        if self._over:
            self._say_goodbye(peer, ConnectionLost.__name__, self._over)
        elif hello.version != m.PROTOCOL_VERSION:
            reason = (
                f"the server speaks version {m.PROTOCOL_VERSION} of the protocol and the "
                f"client version {hello.version}; install the same aioflow on both sides"
            )
            self._part(peer, VersionMismatch, reason)
        elif self._sessions.find(peer) is not None:
            self.refuse(peer, "Hello came twice")
        elif known is None and hello.epoch == self._welcome.epoch:
            reason = (
                f"it had shown no sign of life for {self._session_s} s, or all of its connections on this host had "
                "ended; open a new one"
            )
            self._part(peer, SessionClosed, reason)
        else:
            if known is not None and known.peer is not None:
                self._drop(known, known.peer)
            is_local = peer in self._local
            session = self._sessions.connect(hello.session, peer, self._now, beats=hello.beats, is_local=is_local)
            session.is_target = hello.target
            self._deadline_moved = True
            self._send(peer, replace(self._welcome, receipts=session.page_path))

    def _resume(self, session: Session, _: m.Resume, __: Sequence[Frame]) -> None:
        touched = [call.queue for call in session.delivered.values()]
        delivered, session.delivered = session.delivered, {}
        for call in delivered.values():
            del self._tickets.owners[call.queue, call.ticket]
            call.queue.machine.restore(call.ticket)
        session.unclaimed = set(session.answers)
        touched += self._resources.resume(session.name)
        self._tickets.perform_all(touched)

    def _confirm(self, session: Session, message: m.Confirm, _: Sequence[Frame]) -> None:
        session.confirm(message.ids)

    def _bye(self, session: Session, _: m.Bye, __: Sequence[Frame]) -> None:
        peer = session.peer
        assert peer is not None
        self._end(session, "its session was closed", withdraw_puts=True)
        self._say_goodbye(peer, "", "")

    def _part(self, peer: PeerId, kind: type[Exception], reason: str) -> None:
        if peer not in self._ended:
            self._say_goodbye(peer, kind.__name__, reason)
            session = self._sessions.find(peer)
            if session is not None:
                self._end(session, f"its connection was refused: {cut(reason)}", withdraw_puts=False)

    # Requests

    def _withdraw(self, session: Session, message: m.Withdraw, frames: Sequence[Frame]) -> None:
        if not self.steps.withdraw(session, message):
            self._tickets.withdraw(session, message, frames)

    def _reset(self, session: Session, message: m.Reset, frames: Sequence[Frame]) -> None:
        if message.whole:
            self.steps.reset(session, message)
        else:
            self._variables.reset(session, message, frames)

    def reset(self, containers: Sequence[str]) -> None:
        """Empty containers of this task."""
        self._tickets.perform_all(self._resources.reset(containers))

    def end_targeted(self, but: str, reason: str) -> None:
        """End the sessions that were opened on this server, but for one."""
        for session in self._sessions:
            if session.is_target and session.name != but:
                self._end_for(session, reason)

    def _end_for(self, session: Session, reason: str) -> None:
        if session.peer is not None:
            self._part(session.peer, SessionClosed, reason)
        else:
            self._end(session, reason, withdraw_puts=False)

    def _end_owner(self, session: Session, message: m.EndOwner, _: Sequence[Frame]) -> None:
        self.steps.end_owner(session, message)

    def detach_owner(self, owner: str) -> None:
        """Take a session whose nodes ran here, and which is not connected here, from the resources."""
        if owner not in self._sessions:
            self._tickets.perform_all(self._resources.detach(owner, self._now, "its session was closed"))
            self._deadline_moved = True

    # Calls of the nodes of graphs, which are answered by functions

    def watch(self, queue: QueueResource, ticket: Ticket, tell: Callable[[Effect], None]) -> None:
        """Tell of the next effect of a ticket, once."""
        self._tickets.watched[queue, ticket] = tell

    def forget(self, queue: QueueResource, ticket: Ticket) -> None:
        """Expect no effect of a ticket any more."""
        self._tickets.watched.pop((queue, ticket), None)

    def perform(self, queue: QueueResource) -> None:
        """Answer what a queue's effects name."""
        self._tickets.perform(queue)

    def deadline_moved(self) -> None:
        """Learn that something may be due earlier."""
        self._deadline_moved = True

    def _say_goodbye(self, peer: PeerId, kind: str, reason: str) -> None:
        self._ended.add(peer)
        self._send(peer, m.Goodbye(kind, cut(reason)))

    def _drop(self, session: Session, peer: PeerId) -> None:
        """End a connection that is of no use any more, also where the other side does not hear of it."""
        self._dropped.append(peer)
        self._local.discard(peer)
        self._disconnect(session)

    def _disconnect(self, session: Session) -> None:
        """Take a session's connection from it: its gets are withdrawn, what was delivered stays in doubt."""
        self._sessions.disconnect(session, self._now)
        self._deadline_moved = True
        self._tickets.perform_all(self._tickets.withdraw_gets(session))

    def _lose(self, session: Session) -> None:
        if session.peer is not None:
            self._drop(session, session.peer)
        self.steps.lose(session)
        for call in session.delivered.values():
            call.queue.machine.forgo(call.ticket)
        reason = f"it showed no sign of life for {self._lost_s} s"
        self._tickets.perform_all(self._resources.silence(session.name, self._now, reason))

    def _end(self, session: Session, reason: str, *, withdraw_puts: bool) -> None:
        """Withdraw what waits, puts first and the latest first, so that no withdrawal lets another one through."""
        self._tickets.acknowledge_noted(session)
        self.steps.end(session)
        touched = [call.queue for call in (*session.waiting.values(), *session.delivered.values())]
        puts = [call for call in session.waiting.values() if call.is_put]
        for call in (*session.waiting.values(), *session.delivered.values()):
            self._tickets.owners.pop((call.queue, call.ticket), None)
        for call in reversed(puts):
            if withdraw_puts and call.queue.machine.is_put(call.ticket):
                call.queue.machine.cancel(call.ticket)
            call.queue.cancel_join(call.ticket)
        self._tickets.withdraw_gets(session)
        for call in session.delivered.values():
            call.queue.machine.restore(call.ticket)
        touched += self._resources.detach(session.name, self._now, reason)
        self._sessions.forget(session)
        self._deadline_moved = True
        self._tickets.perform_all(touched)

    def _send(self, peer: PeerId, message: Message) -> None:
        self._messages.append((peer, encode(message)))
