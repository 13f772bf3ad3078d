"""The client's half of the protocol, in plain code: numbers of requests and queues, what is under way, what is owed.

Calls go in, messages come out of `take_messages`; messages go in, events come out of `receive`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioflow.cluster import _messages as m
from aioflow.cluster._answers import unpack_error, unpack_stats
from aioflow.cluster._codec import decode_columns, encode, pack_definition, unpack_definition
from aioflow.errors import RemoteProtocolError, VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.cluster._messages import Message
    from aioflow.errors import AioflowError
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


# By what a request is answered if it succeeds; the others are by `Done`.
_ANSWERS: dict[type[Any], type[Any]] = {m.Get: m.Rows, m.Ask: m.Rows, m.Lookup: m.Found, m.Stats: m.Statistics}

Event = Welcomed | Answered | Refused | Undone | Recalled | Ended


class Peer:
    """The state of one session with one server."""

    def __init__(self, session: str, address: str) -> None:
        self._address = address
        self._ids = itertools.count(1)
        self._numbers: dict[QueueRef, int] = {}
        self._next_number = itertools.count(1)
        self._waiting: dict[int, type[Any]] = {}  # id: what answers it
        self._delivered: set[int] = set()
        self._said_bye = False
        self._frames: list[list[Frame]] = [encode(m.Hello(m.PROTOCOL_VERSION, session))]

    def take_messages(self) -> list[list[Frame]]:
        """Return what is to be sent, in order."""
        frames, self._frames = self._frames, []
        return frames

    # Calls

    def request(self, ref: QueueRef | None, make: Callable[[int, int], Message], frames: Sequence[Frame] = ()) -> int:
        """Send a request made of a new id and the number of a queue; return the id.

        Raises:
            LocalProtocolError: A field is not within its limits; the request is not sent.
        """
        number = self._number(ref) if ref is not None else 0
        request = next(self._ids)
        message = make(request, number)
        encoded = encode(message, frames)
        self._waiting[request] = _ANSWERS.get(type(message), m.Done)
        self._frames.append(encoded)
        if isinstance(message, m.Delete) and ref is not None:
            del self._numbers[ref]  # the server forgets it, too: who deletes as many queues as it makes keeps nothing
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
        answer = self._waiting.get(request)
        if answer is m.Rows:
            del self._waiting[request]
        if answer is not None or request in self._delivered:
            self._delivered.discard(request)
            self._send(m.Withdraw(request))

    def bye(self) -> None:
        """End the session."""
        self._said_bye = True
        self._send(m.Bye())

    def _send(self, message: Message) -> None:
        self._frames.append(encode(message))

    def _number(self, ref: QueueRef) -> int:
        number = self._numbers.get(ref)
        if number is None:
            number = next(self._next_number)
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
            return self._welcomed(message)
        if isinstance(message, m.Goodbye):
            return Ended(message.reason if message.reason or self._said_bye else "it gave no reason")
        if isinstance(message, m.Recall):
            return Recalled(message.id) if message.id in self._delivered else None
        if not isinstance(message, (m.Done, m.Rows, m.Found, m.Statistics, m.Withdrawn, m.Error)):
            raise RemoteProtocolError(f"{self._address} sent {type(message).__name__}, which only a client sends")
        expected = self._waiting.pop(message.id, None)
        if expected is None:
            return None
        if not isinstance(message, (expected, m.Error if expected is m.Rows else (m.Error, m.Withdrawn))):
            came = type(message).__name__
            raise RemoteProtocolError(f"{self._address} answered with {came}; expected {expected.__name__} or Error")
        return self._answer(message, frames)

    def _welcomed(self, welcome: m.Welcome) -> Event:
        if welcome.version == m.PROTOCOL_VERSION:
            return Welcomed(welcome)
        return Ended(
            f"{VersionMismatch.__name__}: the server speaks version {welcome.version} of the protocol and the client "
            f"version {m.PROTOCOL_VERSION}; install the same aioflow on both sides"
        )

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
                return Refused(message.id, unpack_error(message, self._address))
