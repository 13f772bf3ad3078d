"""The client's half of the protocol, in plain code: what is under way, what is owed, and what is sent again.

Calls go in, messages come out of `take_messages`; messages go in, events come out of `take_events`. Rules:

1. A request has a number of its own in the session, and is answered, refused or withdrawn once. Until then it is sent
   again on each new connection; the server knows it by its number.
2. Rows that came and were not handed over when a connection ended are the server's again, and are asked for again;
   where others of them were handed over, under a new number, so that no acknowledgement is taken for the new ones.
3. An acknowledgement is kept until the answer to a later request shows that it has arrived.
4. A put that is withdrawn is not sent again; its withdrawal is, until it is answered.
5. Puts beyond a queue's window wait here, in order, and a close behind them.
6. Another epoch: every request on a queue fails with `QueueReset`; a queue without one fails its next. Registrations of
   producers are made again by themselves.
7. Another epoch: every request of graphs fails with `ConnectionLost`: what ran is lost, and part of it may be done.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from aioflow.cluster import _messages as m
from aioflow.cluster._admission import pad_columns
from aioflow.cluster._answers import read_goodbye, unpack_error, unpack_stats
from aioflow.cluster._codec import decode, decode_columns, encode, pack_definition, unpack_definition
from aioflow.cluster._events import Answered, Ended, Recalled, Refused, Undone, Voided, Welcomed
from aioflow.cluster._outlets import Outlets, Request
from aioflow.cluster._request_kinds import ANSWERS, GETS, ONCE, STEPS, WITHDRAWN
from aioflow.errors import ConnectionLost, QueueReset, RemoteProtocolError, VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aioflow.cluster._events import Event
    from aioflow.cluster._messages import Message
    from aioflow.resources import QueueRef
    from aioflow.transport import AnyFrame, Frame

__all__ = ["Peer"]

# A server keeps so many answers of a session at least, or bytes of values in them, until it hears that they have come.
CONFIRM_EVERY, CONFIRM_BYTES = 64, 1 << 16

Answer = m.Done | m.Rows | m.Found | m.Statistics | m.Tensors | m.Withdrawn | m.Error

_Make: TypeAlias = "Callable[[int, int], Message]"


class Peer:
    """The state of one session with one server, over all of its connections.

    Args:
        session: Its secret.
        name: The server, for messages to people.
        is_target: Whether the session is opened on this server.
    """

    def __init__(self, session: str, name: str, *, is_target: bool = True) -> None:
        self._session = session
        self._is_target = is_target
        self.name = name
        self._last_id = 0
        self._epoch = ""
        self._is_open = False  # welcomed on the present connection
        self._said_bye = False
        self._numbers: dict[QueueRef, int] = {}
        self._next_number = itertools.count(1)
        self._defines: dict[int, Sequence[AnyFrame]] = {}  # by number: those not known to have arrived
        self._requests: dict[int, Request] = {}
        self._outlets = Outlets()
        self._acks: deque[tuple[int, int, int]] = deque()  # the last id before it, its get, the rows
        self._to_confirm: list[int] = []
        self._bytes_to_confirm = 0  # each new value of a variable that was answered is another one
        self._reset: set[QueueRef] = set()
        self._producers: dict[tuple[QueueRef, str], float] = {}
        self._late_ack: tuple[int, int] | None = None  # not encoded yet: the next of the same get replaces it
        self._taken: tuple[int, int] | None = None  # not acknowledged yet: a get, and how many of its rows
        self._frames: list[Sequence[AnyFrame]] = []
        self._events: list[Event] = []

    def take_messages(self) -> list[Sequence[AnyFrame]]:
        """Return what is to be sent on the present connection, in order."""
        if self._taken is not None or self._late_ack is not None:
            self._flush_ack()
        frames, self._frames = self._frames, []
        return frames

    def take_events(self) -> list[Event]:
        """Return what has happened, in order."""
        events, self._events = self._events, []
        return events

    @property
    def is_open(self) -> bool:
        """Whether the server has welcomed the session on the present connection."""
        return self._is_open

    @property
    def has_puts(self) -> bool:
        """Whether puts are under way, or wait for their window."""
        return bool(self._outlets)

    # The connection

    def connected(self, *, beats: bool) -> None:
        """Greet on a new connection."""
        self._frames = [encode(m.Hello(m.PROTOCOL_VERSION, self._session, self._epoch, beats, self._is_target))]

    def disconnected(self) -> None:
        """Send nothing more on a connection that has ended."""
        self._is_open = False
        self._late_ack = None
        self._frames.clear()

    # Calls

    def request(self, ref: QueueRef | None, make: _Make, frames: Sequence[AnyFrame] = ()) -> int:
        """Issue a request made of a new id and the number of a queue; return the id.

        Raises:
            LocalProtocolError: A field is not within its limits; nothing was issued.
            QueueReset: The server has restarted, and no other call on this queue was told.
        """
        if self._reset and ref in self._reset:
            self._reset.remove(ref)
            raise self._queue_reset(ref)
        return self._issue(ref, make, frames).id

    def _issue(self, ref: QueueRef | None, make: _Make, frames: Sequence[AnyFrame] = ()) -> Request:
        number = self._number(ref) if ref is not None else 0
        message = make(self._last_id + 1, number)
        encoded = encode(message, frames)
        kind = type(message)
        self._last_id += 1
        request = Request(self._last_id, kind, ref, encoded, sum(map(len, frames)), number)
        self._requests[request.id] = request
        if isinstance(message, m.Join):
            request.registers = message.name, message.rejoin_s
        elif isinstance(message, m.Leave) and ref is not None:
            self._producers.pop((ref, message.name), None)
        if kind is m.Put or (isinstance(message, m.Close) and not message.cancel_pending):
            self._release(self._outlets.offer(request))
        elif self._is_open:
            self._push(encoded)
        if kind is m.Delete and ref is not None:
            del self._numbers[ref]  # the server forgets it, too: who deletes as many queues as it makes keeps nothing
            for registered in [key for key in self._producers if key[0] == ref]:
                del self._producers[registered]  # gone with the queue: not renewed after a restart
        return request

    def promote(self, id_: int) -> None:
        """Make a request ahead a get, unless its rows are here."""
        request = self._requests.get(id_)
        if request is not None and not request.is_delivered and not request.is_promoted:
            request.is_promoted = True
            self._send(m.Promote(id_))

    def acknowledge(self, id_: int, rows: int, *, is_all: bool) -> None:
        """Say that so many rows of a get were handed over in all."""
        if self._taken is not None and self._taken[0] != id_:
            self._acknowledge_taken()
        self._taken = None
        request = self._requests.get(id_)
        if request is None or not request.is_delivered:
            return
        request.is_begun = True
        if is_all:
            del self._requests[id_]
        if self._acks and self._acks[-1][1] == id_:
            self._acks.pop()
        self._acks.append((self._last_id, id_, rows))
        if self._is_open:
            if self._late_ack is not None and self._late_ack[0] != id_:
                self._flush_ack()
            self._late_ack = id_, rows

    def take(self, id_: int, rows: int) -> None:
        """Do as `acknowledge` before anything else is done, for rows of a get that is not the last time: quickly."""
        if self._taken is not None and self._taken[0] != id_:
            self._acknowledge_taken()
        self._taken = id_, rows

    def _acknowledge_taken(self) -> None:
        if self._taken is not None:
            taken, self._taken = self._taken, None
            self.acknowledge(*taken, is_all=False)

    def withdraw(self, id_: int) -> None:
        """End a request; only of a put that is under way is the outcome told."""
        self._acknowledge_taken()
        request = self._requests.get(id_)
        if request is None or request.is_withdrawn:
            return
        if request.is_held:
            del self._requests[id_]
            self._events.append(Undone(id_, 0))
            self._release(self._outlets.withdraw(request))
        elif request.kind in WITHDRAWN:
            request.is_withdrawn = True
            self._send(m.Withdraw(id_))
        elif request.kind not in ONCE:
            del self._requests[id_]
            if request.kind in GETS:
                self._send(m.Withdraw(id_))

    def bye(self) -> None:
        """End the session."""
        self._said_bye = True
        self._send(m.Bye())

    def _send(self, message: Message) -> None:
        if self._is_open:
            self._push(encode(message))

    def _push(self, encoded: Sequence[AnyFrame]) -> None:
        if self._taken is not None or self._late_ack is not None:
            self._flush_ack()
        self._frames.append(encoded)

    def _flush_ack(self) -> None:
        self._acknowledge_taken()
        if self._late_ack is not None:
            self._frames.append(encode(m.Acknowledge(*self._late_ack)))
            self._late_ack = None

    def _number(self, ref: QueueRef) -> int:
        number = self._numbers.get(ref)
        if number is None:
            number = next(self._next_number)
            definition = pack_definition(ref.definition)
            encoded = encode(m.Define(number, ref.key.container, ref.key.name, bool(ref.key.session), definition))
            self._numbers[ref] = number
            self._defines[number] = encoded
            if self._is_open:
                self._push(encoded)
        return number

    # Messages

    def receive(self, message: Message, frames: Sequence[Frame]) -> None:
        """Take a message of the server.

        Raises:
            RemoteProtocolError: A server does not send that.
        """
        match message:
            case m.Welcome():
                self._welcomed(message)
            case m.Goodbye():
                self._events.append(read_goodbye(message, self.name, said_bye=self._said_bye))
            case m.Recall():
                if (request := self._requests.get(message.id)) is not None and request.is_delivered:
                    self._events.append(Recalled(message.id))
            case m.Done() | m.Rows() | m.Found() | m.Statistics() | m.Tensors() | m.Withdrawn() | m.Error():
                self._take_answer(message, frames)
            case _:
                raise RemoteProtocolError(f"{self.name} sent {type(message).__name__}, which only a client sends")

    def _take_answer(self, message: Answer, frames: Sequence[Frame]) -> None:
        request = self._requests.get(message.id)
        if request is None or request.is_delivered:
            return
        kind, came = ANSWERS.get(request.kind, m.Done), type(message)
        if not (came is kind or came is m.Error or (came is m.Withdrawn and request.kind in WITHDRAWN)):
            raise RemoteProtocolError(f"{self.name} answered with {came.__name__}; expected {kind.__name__} or Error")
        event = self._answer(request, message, frames)
        self._defines.pop(request.number, None)
        while self._acks and self._acks[0][0] < request.id:
            self._acks.popleft()
        self._events.append(event)
        if not request.is_delivered:
            self._close_request(request, frames)

    def _answer(self, request: Request, message: Answer, frames: Sequence[Frame]) -> Event:  # noqa: PLR0911 - a case each
        match message:
            case m.Rows():
                columns = decode_columns(message.columns, frames)
                request.is_delivered = request.kind in GETS
                return Answered(message.id, columns if request.is_delivered else pad_columns(columns))
            case m.Done():
                if request.registers is not None and request.ref is not None:
                    name, rejoin_s = request.registers
                    self._producers[request.ref, name] = rejoin_s
                return Answered(message.id, (message.value, message.beyond) if request.kind is m.Put else message.value)
            case m.Found():
                return Answered(message.id, unpack_definition(message.definition))
            case m.Tensors():
                return Answered(message.id, frames)
            case m.Statistics():
                return Answered(message.id, unpack_stats(message))
            case m.Withdrawn():
                return Undone(message.id, message.rows)
            case m.Error():
                return Refused(message.id, unpack_error(message, self.name))

    def _close_request(self, request: Request, frames: Sequence[Frame]) -> None:
        del self._requests[request.id]
        if request.kind in ONCE:
            self._to_confirm.append(request.id)
            self._bytes_to_confirm += sum(map(len, frames))
            if len(self._to_confirm) >= CONFIRM_EVERY or self._bytes_to_confirm >= CONFIRM_BYTES:
                self._send(m.Confirm(self._to_confirm))
                self._to_confirm, self._bytes_to_confirm = [], 0
        if request.kind is m.Put:
            self._release(self._outlets.answered(request))

    def _release(self, requests: Iterable[Request]) -> None:
        for request in requests:
            if self._is_open:
                self._push(request.encoded)

    # The session

    def _welcomed(self, welcome: m.Welcome) -> None:
        if welcome.version != m.PROTOCOL_VERSION:
            reason = (
                f"{self.name}: the server speaks version {welcome.version} of the protocol and the client "
                f"version {m.PROTOCOL_VERSION}; install the same aioflow on both sides"
            )
            self._events.append(Ended(VersionMismatch(reason)))
            return
        self._acknowledge_taken()
        self._is_open = True
        self._events.append(Welcomed(welcome))
        if self._epoch and welcome.epoch != self._epoch:
            self._lose_steps()
            self._reset_queues()
        self._epoch = welcome.epoch
        self._send_again()

    def _send_again(self) -> None:
        """Bring a new connection to where the last one was (rules 1 to 4)."""
        for _, id_, rows in self._acks:
            self._send(m.Acknowledge(id_, rows))
        self._send(m.Resume())
        self._frames += self._defines.values()
        requests = list(self._requests.values())
        self._requests.clear()
        for request in requests:
            if request.is_withdrawn:
                self._send(m.Withdraw(request.id))
            elif not request.is_held:
                if request.is_delivered:
                    self._void(request)
                self._push(request.encoded)
                if request.is_promoted:
                    self._send(m.Promote(request.id))
            self._requests[request.id] = request  # also under a new id it keeps its place

    def _void(self, request: Request) -> None:
        """Ask again for what had come, under a new id if some was handed over: acknowledgements name the old one."""
        old = request.id
        request.is_delivered = False
        if request.is_begun:
            request.is_begun = False
            self._last_id = request.id = self._last_id + 1
            message, _ = decode(request.encoded)
            assert isinstance(message, m.Get | m.Ask)
            request.encoded = [*encode(replace(message, id=request.id))]
        self._events.append(Voided(old, request.id))

    def _lose_steps(self) -> None:
        """Rule 7."""
        for request in [request for request in self._requests.values() if request.kind in STEPS]:
            del self._requests[request.id]
            reason = f"the server at {self.name} was started anew while a step ran; what it had done there is lost"
            self._events.append(Refused(request.id, ConnectionLost(reason)))

    def _reset_queues(self) -> None:
        """Rule 6."""
        pending = [request for request in self._requests.values() if request.ref is not None]
        told = {request.ref for request in pending if request.ref is not None and not request.renews}
        self._reset = (self._reset | set(self._numbers)) - told
        for known in (self._numbers, self._defines, self._outlets, self._acks, self._to_confirm):
            known.clear()
        for request in pending:
            assert request.ref is not None
            del self._requests[request.id]
            if request.renews and request.registers is not None:
                self._producers[request.ref, request.registers[0]] = request.registers[1]
            else:
                self._events.append(Refused(request.id, self._queue_reset(request.ref)))
        producers, self._producers = self._producers, {}
        self._is_open = False  # what follows is sent with all else
        for (ref, name), rejoin_s in producers.items():
            self._issue(ref, partial(_renew, name=name, rejoin_s=rejoin_s)).renews = True
        self._is_open = True

    def _queue_reset(self, ref: QueueRef) -> QueueReset:
        return QueueReset(
            f"queue {ref.key.name!r}: the server at {self.name} was started anew and what the queue held is gone; "
            "the next call goes to a new, empty queue"
        )


def _renew(request: int, queue: int, name: str, rejoin_s: float) -> m.Join:
    return m.Join(request, queue, name, rejoin_s, renews=True)
