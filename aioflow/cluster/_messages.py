"""What goes over the wire: one frozen dataclass for each message, with the limits of each field beside it.

A message is one header frame, msgpack of `[code, field, ...]`, and raw frames for the columns of `Put` and `Rows`. The
fields' rules (`_fields`) are all that an encoder writes and a decoder accepts. Requests carry an `id`, the number of
the request in its session; each is answered by exactly one of `Done`, `Rows`, `Found`, `Statistics`, `Withdrawn` and
`Error`, except that a withdrawn get is not answered.

A session outlives its connections. Each begins with `Hello` and `Welcome`; then the client sends again what may not
have arrived: acknowledgements, `Resume`, withdrawals, and every request without an answer. A server knows a request
that changes a queue by its id: it waits on, or is answered once more, and is never done twice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from aioflow.cluster._fields import (
    INT64_MAX,
    RANK_MAX,
    TEXT_CHARS_MAX,
    Flag,
    Int,
    Listed,
    Maybe,
    Number,
    Record,
    Rule,
    Text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MESSAGES", "PROTOCOL_VERSION", "Message", "find_fault"]

PROTOCOL_VERSION = 3

Id = Annotated[int, Int(1)]
Name = Annotated[str, Text()]
Secret = Annotated[str, Text(chars_min=1)]  # the empty session is the one to which shared queues belong
Long = Annotated[str, Text(TEXT_CHARS_MAX)]
Bool = Annotated[bool, Flag()]
Count = Annotated[int, Int(0, 2**31 - 1)]  # TensorFlow's numbers of elements are int32
Seconds = Annotated[float, Number()]
_SHAPE = Listed(Maybe(Int()), RANK_MAX - 1)
# dtype and shape of each column, rows in front
Columns = Annotated[list[list[Any]], Listed(Record((Text(), Listed(Int(), RANK_MAX))))]
# kind, capacity, capacity_bytes, min_after_dequeue, seed, producers, [dtype, shape] of each component, names
DefinitionFields = Annotated[
    list[Any],
    Record(
        (
            Text(),
            Int(-1),
            Maybe(Int(1)),
            Int(),
            Maybe(Int(-INT64_MAX)),
            Maybe(Int(1)),
            Listed(Record((Text(), Maybe(_SHAPE)))),
            Maybe(Listed(Text())),
        )
    ),
]


# From a client


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a connection; in every version of the protocol it begins with the version.

    Attributes:
        version: The client's version of the protocol.
        session: The session's secret.
        epoch: That of the server which knows the session; empty where none does yet.
        beats: Whether the client beats.
    """

    version: Annotated[int, Int(0, 2**31)]
    session: Secret
    epoch: Name = ""
    beats: Bool = False


@dataclass(frozen=True, slots=True)
class Define:
    """Give a new number to a queue; the queue is found or made by each operation on the number."""

    queue: Id
    container: Name
    name: Name
    private: Bool
    definition: DefinitionFields


@dataclass(frozen=True, slots=True)
class Put:
    """Enqueue rows; followed by the frames of the columns."""

    id: Id
    queue: Id
    columns: Columns


@dataclass(frozen=True, slots=True)
class Get:
    """Dequeue rows; answered by `Rows`, which is to be acknowledged or withdrawn."""

    id: Id
    queue: Id
    count: Count
    up_to: Bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Request rows ahead: `count`, or up to `runs` times as many if they are there."""

    id: Id
    queue: Id
    count: Count
    runs: Annotated[int, Int(1, 2**16)] = 1


@dataclass(frozen=True, slots=True)
class Promote:
    """Make a request ahead a get; no answer of its own."""

    id: Id


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """So many rows of a get were handed over in all; no answer."""

    id: Id
    rows: Count


@dataclass(frozen=True, slots=True)
class Withdraw:
    """End a request: a put is answered by `Withdrawn`, or as it ended; a get ends, or its rows go back, unanswered."""

    id: Id


@dataclass(frozen=True, slots=True)
class Close:
    """Close a queue."""

    id: Id
    queue: Id
    cancel_pending: Bool


@dataclass(frozen=True, slots=True)
class Size:
    """Ask for the number of elements; answered by `Done`."""

    id: Id
    queue: Id


@dataclass(frozen=True, slots=True)
class IsClosed:
    """Ask whether a queue is closed; answered by `Done`."""

    id: Id
    queue: Id


@dataclass(frozen=True, slots=True)
class Stats:
    """Ask for a snapshot; answered by `Statistics`."""

    id: Id
    queue: Id


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a queue; both sides forget the number that it had in this session."""

    id: Id
    queue: Id


@dataclass(frozen=True, slots=True)
class Lookup:
    """Ask for the definition of a shared queue; answered by `Found`."""

    id: Id
    container: Name
    name: Name


@dataclass(frozen=True, slots=True)
class Join:
    """Register a producer; `renews` says that it was registered before the server restarted."""

    id: Id
    queue: Id
    name: Name
    rejoin_s: Seconds
    renews: Bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """Take a producer out; `lost` says that it left by an exception."""

    id: Id
    queue: Id
    name: Name
    lost: Bool
    reason: Long
    traceback: Long


@dataclass(frozen=True, slots=True)
class Bye:
    """The session is over; answered by `Goodbye`."""


@dataclass(frozen=True, slots=True)
class Resume:
    """All acknowledgements were sent again: what was delivered before and not acknowledged goes back."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """The answers to these requests have come, and need not be kept; everything without one was sent again before."""

    ids: Annotated[list[int], Listed(Int(1))]


@dataclass(frozen=True, slots=True)
class Beat:
    """The client's process lives; sent through a connection of its own. Answered by `Heard`."""

    session: Secret
    number: Id


# From a server


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to `Hello`; in every version of the protocol it begins with the version.

    Attributes:
        version: The server's version of the protocol.
        epoch: Different after each start of the server.
        job: The job of the server's task.
        task: Its index.
        tasks: How many tasks its cluster has.
        receipts: Where on the server's host this session's page of receipts is; empty if there is none.
    """

    version: Annotated[int, Int(0, 2**31)]
    epoch: Name
    job: Name
    task: Annotated[int, Int()]
    tasks: Annotated[int, Int()]
    receipts: Name = ""


@dataclass(frozen=True, slots=True)
class Done:
    """The request is done; `value` is the answer of `Size` and `IsClosed`."""

    id: Id
    value: Annotated[int, Int()] = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """What a get took; followed by the frames of the columns."""

    id: Id
    columns: Columns


@dataclass(frozen=True, slots=True)
class Found:
    """The definition of a queue."""

    id: Id
    definition: DefinitionFields


@dataclass(frozen=True, slots=True)
class Statistics:
    """The fields of `QueueStats`; `numbers` are those from `capacity_bytes` on, in order."""

    id: Id
    name: Name
    kind: Name
    capacity: Annotated[int, Int(-1)]
    numbers: Annotated[list[int], Record((Int(),) * 9)]
    is_closed: Bool
    producers: Annotated[list[str], Listed(Text())]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A put was withdrawn after so many of its rows were in."""

    id: Id
    rows: Count


@dataclass(frozen=True, slots=True)
class Error:
    """A request failed.

    Attributes:
        id: Which.
        kind: The name of a class of `aioflow.errors`.
        text: Its message.
        notes: Its notes.
        lost_producers: Name, reason and traceback of each.
        type_name: The exception's class, where it was unforeseen.
        traceback: Its traceback.
    """

    id: Id
    kind: Name
    text: Long
    notes: Annotated[list[str], Listed(Text(TEXT_CHARS_MAX))]
    lost_producers: Annotated[list[list[str]], Listed(Record((Text(), Text(TEXT_CHARS_MAX), Text(TEXT_CHARS_MAX))))]
    type_name: Name = ""
    traceback: Long = ""


@dataclass(frozen=True, slots=True)
class Recall:
    """What a request ahead holds is wanted: withdraw it unless it was handed over."""

    id: Id


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The server ends the connection.

    Attributes:
        kind: The class of the error that the session's calls get; empty in the answer to `Bye`. With `ConnectionLost`
            the session may go on through a new connection.
        reason: Why.
    """

    kind: Name
    reason: Long


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer to a beat of a session that is not lost."""

    number: Id


# In the order of their codes.
Message = (
    Hello | Define | Put | Get | Ask | Promote | Acknowledge | Withdraw | Close | Size | IsClosed | Stats | Delete
    | Lookup | Join | Leave | Bye | Welcome | Done | Rows | Found | Statistics | Withdrawn | Error | Recall | Goodbye
    | Resume | Confirm | Beat | Heard
)  # fmt: skip

# Codes are for ever: a new message takes a new one, at the end.
MESSAGES: dict[int, type[Any]] = dict(enumerate(get_args(Message)))


def _rules(message: type[Any]) -> tuple[tuple[str, Rule], ...]:
    hints = get_type_hints(message, include_extras=True)
    return tuple((field.name, hints[field.name].__metadata__[0]) for field in fields(message))


RULES: dict[type[Any], tuple[tuple[str, Rule], ...]] = {message: _rules(message) for message in MESSAGES.values()}


def find_fault(message: type[Any], values: Sequence[Any]) -> str | None:
    """Say which field of a message is not allowed, what was expected and what came; None if all are."""
    rules = RULES[message]
    if len(values) != len(rules):
        return f"{message.__name__} has {len(rules)} fields, got {len(values)}"
    for (name, rule), value in zip(rules, values, strict=True):
        if not rule.admits(value):
            return f"{message.__name__}.{name} must be {rule}, got {value!r:.80}"
    return None
