"""What goes over the wire from a server; `_messages` has the rules and the codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

# ruff: noqa: TC001 - the rules of fields are read out of the annotations
from aioflow.cluster._field_types import Bool, Columns, Count, DefinitionFields, Id, Long, Name
from aioflow.cluster._fields import TEXT_CHARS_MAX, Int, Listed, Record, Text

__all__ = [
    "Done",
    "Error",
    "Found",
    "Goodbye",
    "Heard",
    "Recall",
    "Rows",
    "Statistics",
    "Tensors",
    "Welcome",
    "Withdrawn",
]


@dataclass(slots=True)
class Welcome:
    """The answer to `Hello`; in every version of the protocol it begins with the version.

    Attributes:
        version: The server's version of the protocol.
        epoch: Different after each start of the server.
        job: The job of the server's task.
        task: Its index.
        tasks: The tasks of its cluster: the job, index and address of each.
        receipts: Where on the server's host this session's page of receipts is; empty if there is none.
    """

    version: Annotated[int, Int(0, 2**31)]
    epoch: Name
    job: Name
    task: Annotated[int, Int()]
    tasks: Annotated[list[list[Any]], Listed(Record((Text(), Int(), Text())))]
    receipts: Name = ""


@dataclass(slots=True)
class Done:
    """The request is done; `value` is the answer of `Size` and `IsClosed`.

    Of a put it is how many rows gets take at once, 0 before the first, and `beyond` how many rows of the queue are in
    behind the last whole such batch: a writer has its groups end where a batch does.
    """

    id: Id
    value: Annotated[int, Int()] = 0
    beyond: Annotated[int, Int()] = 0


@dataclass(slots=True)
class Rows:
    """What a get took; followed by the frames of the columns."""

    id: Id
    columns: Columns


@dataclass(slots=True)
class Tensors:
    """Values; followed by the frames of a list of them."""

    id: Id


@dataclass(slots=True)
class Found:
    """The definition of a queue."""

    id: Id
    definition: DefinitionFields


@dataclass(slots=True)
class Statistics:
    """The fields of `QueueStats`; `numbers` are those from `capacity_bytes` on, in order."""

    id: Id
    name: Name
    kind: Name
    capacity: Annotated[int, Int(-1)]
    numbers: Annotated[list[int], Record((Int(),) * 9)]
    is_closed: Bool
    producers: Annotated[list[str], Listed(Text())]
    container: Name


@dataclass(slots=True)
class Withdrawn:
    """A put was withdrawn after so many of its rows were in."""

    id: Id
    rows: Count


@dataclass(slots=True)
class Error:
    """A request failed.

    Attributes:
        id: Which.
        kind: The name of a class of `aioflow.errors`.
        text: Its message.
        notes: Its notes.
        lost_producers: Name, reason and traceback of each.
        type_name: The exception's class, where it was unforeseen.
        traceback: Its traceback, or that of what made it.
        node: Of a node that failed, its name.
        device: Of a node that failed, its device.
        figures: Of a device without memory, bytes that were asked for, that are held, and that may be.
    """

    id: Id
    kind: Name
    text: Long
    notes: Annotated[list[str], Listed(Text(TEXT_CHARS_MAX))]
    lost_producers: Annotated[list[list[str]], Listed(Record((Text(), Text(TEXT_CHARS_MAX), Text(TEXT_CHARS_MAX))))]
    type_name: Name = ""
    traceback: Long = ""
    node: Name = ""
    device: Name = ""
    figures: Annotated[list[int], Listed(Int(), 3)] = field(default_factory=list[int])


@dataclass(slots=True)
class Recall:
    """What a request ahead holds is wanted: withdraw it unless it was handed over."""

    id: Id


@dataclass(slots=True)
class Goodbye:
    """The server ends the connection.

    Attributes:
        kind: The class of the error that the session's calls get; empty in the answer to `Bye`. With `ConnectionLost`
            the session may go on through a new connection.
        reason: Why.
    """

    kind: Name
    reason: Long


@dataclass(slots=True)
class Heard:
    """The answer to a beat of a session that is not lost."""

    number: Id
