"""The client's half of the protocol, in plain code: numbers of requests and queues, what is under way, what is owed.

Calls go in, messages come out of `take_messages`; messages go in, events come out of `receive`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioflow import errors
from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode_columns, encode, pack_definition, unpack_definition
from aioflow.errors import AioflowError, RemoteError, RemoteProtocolError
from aioflow.queues import QueueStats
from aioflow.resources import LostProducer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.cluster._messages import Message
    from aioflow.resources import QueueRef
    from aioflow.transport import Frame

__all__ = ["Answered", "Ended", "Event", "Peer", "Recalled", "Refused", "Undone", "Welcomed"]


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The server has answered the hello."""

    welcome: m.Welcome


@dataclass(frozen=True, slots=True)
class Answered:
    """A request has succeeded; of a get, `value` is its columns."""

    id: int
    value: Any


@dataclass(frozen=True, slots=True)
class Refused:
    """A request has failed."""

    id: int
    error: AioflowError


@dataclass(frozen=True, slots=True)
class Undone:
    """A put was withdrawn."""

    id: int
    rows: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a request ahead holds is wanted back."""

    id: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The server has ended the session; an empty reason answers our own bye."""

    reason: str


Event = Welcomed | Answered | Refused | Undone | Recalled | Ended


class Peer:
    """The state of one session with one server."""

    def __init__(self, session: str, address: str) -> None:
        self._address = address
        self._ids = itertools.count(1)
        self._numbers: dict[QueueRef, int] = {}
        self._waiting: dict[int, bool] = {}  # id: whether it is a get
        self._delivered: set[int] = set()
        self._frames: list[list[Frame]] = [encode(m.Hello(m.PROTOCOL_VERSION, session))]

    def take_messages(self) -> list[list[Frame]]:
        """Return what is to be sent, in order."""
        frames, self._frames = self._frames, []
        return frames

    # Calls

    def request(
        self, ref: QueueRef | None, make: Callable[[int, int], Message], frames: Sequence[Frame] = (), *, get: bool = False
    ) -> int:
        """Send a request made of a new id and the number of a queue; return the id.

        Raises:
            LocalProtocolError: Its header is too long; nothing is sent.
        """
        number = self._number(ref) if ref is not None else 0
        request = next(self._ids)
        encoded = encode(make(request, number), frames)
        self._waiting[request] = get
        self._frames.append(encoded)
        return request

    def promote(self, request: int) -> None:
        """Make a request ahead a get, unless its rows are here."""
        if request in self._waiting:
            self._send(m.Promote(request))

    def acknowledge(self, request: int) -> None:
        """Say that the rows of a get were handed over."""
        if request in self._delivered:
            self._delivered.remove(request)
            self._send(m.Acknowledge(request))

    def withdraw(self, request: int) -> None:
        """End a request; only a waiting put is answered then."""
        get = self._waiting.get(request)
        if get:
            del self._waiting[request]
        if get is not None or request in self._delivered:
            self._delivered.discard(request)
            self._send(m.Withdraw(request))

    def bye(self) -> None:
        """End the session."""
        self._send(m.Bye())

    def _send(self, message: Message) -> None:
        self._frames.append(encode(message))

    def _number(self, ref: QueueRef) -> int:
        number = self._numbers.get(ref)
        if number is None:
            number = len(self._numbers) + 1
            private = bool(ref.key.session)
            self._send(m.Define(number, ref.key.container, ref.key.name, private, pack_definition(ref.definition)))
            self._numbers[ref] = number
        return number

    # Messages

    def receive(self, message: Message, frames: Sequence[Frame]) -> Event | None:
        """Take a message of the server; None where nobody waits for it any more.

        Raises:
            RemoteProtocolError: A server does not send that.
        """
        if isinstance(message, m.Welcome):
            return Welcomed(message)
        if isinstance(message, m.Goodbye):
            return Ended(message.reason)
        if isinstance(message, m.Recall):
            return Recalled(message.id) if message.id in self._delivered else None
        if not isinstance(message, (m.Done, m.Rows, m.Found, m.Statistics, m.Withdrawn, m.Error)):
            raise RemoteProtocolError(f"{self._address} sent {type(message).__name__}, which only a client sends")
        if self._waiting.pop(message.id, None) is None:
            return None
        return self._answer(message, frames)

    def _answer(
        self, message: m.Done | m.Rows | m.Found | m.Statistics | m.Withdrawn | m.Error, frames: Sequence[Frame]
    ) -> Event:
        match message:
            case m.Rows():
                self._delivered.add(message.id)
                return Answered(message.id, decode_columns(message.columns, frames))
            case m.Done():
                return Answered(message.id, message.value)
            case m.Found():
                return Answered(message.id, unpack_definition(message.definition))
            case m.Statistics():
                return Answered(message.id, unpack_stats(message))
            case m.Withdrawn():
                return Undone(message.id, message.rows)
            case m.Error():
                return Refused(message.id, self._error(message))

    def _error(self, message: m.Error) -> AioflowError:
        kind = getattr(errors, message.kind, None)
        error: AioflowError
        if kind is errors.EndOfQueue:
            lost = tuple(LostProducer(*fields) for fields in message.lost_producers)
            error = errors.EndOfQueue(message.text, lost_producers=lost)
        elif isinstance(kind, type) and issubclass(kind, AioflowError) and kind is not RemoteError:
            error = kind(message.text)
        else:
            error = RemoteError(
                f"{self._address}: {message.text}",
                type_name=message.type_name,
                traceback_text=message.traceback,
                peer=self._address,
            )
        for note in message.notes:
            error.add_note(note)
        return error


def unpack_stats(message: m.Statistics) -> QueueStats:
    """Return the snapshot of a message."""
    capacity_bytes, size, size_bytes, ahead, unacknowledged, puts, gets, enqueued, dequeued = message.numbers
    return QueueStats(
        name=message.name,
        kind=message.kind,
        capacity=message.capacity,
        capacity_bytes=capacity_bytes,
        size=size,
        size_bytes=size_bytes,
        ahead=ahead,
        unacknowledged=unacknowledged,
        is_closed=message.is_closed,
        puts_waiting=puts,
        gets_waiting=gets,
        enqueued=enqueued,
        dequeued=dequeued,
        producers=tuple(message.producers),
    )
