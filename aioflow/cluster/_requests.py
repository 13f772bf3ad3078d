"""What goes over the wire from a client; `_messages` has the rules and the codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

# ruff: noqa: TC001 - the rules of fields are read out of the annotations
from aioflow.cluster._field_types import (
    Bool,
    Columns,
    Count,
    DefinitionFields,
    Id,
    Long,
    Name,
    OneShape,
    Outputs,
    Seconds,
    Secret,
)
from aioflow.cluster._fields import Int, Listed, Text

__all__ = [
    "Acknowledge",
    "Ask",
    "Assign",
    "Beat",
    "Bye",
    "Close",
    "Confirm",
    "Define",
    "Delete",
    "DeregisterGraph",
    "EndOwner",
    "Get",
    "Hello",
    "IsClosed",
    "Join",
    "Leave",
    "ListDevices",
    "ListQueues",
    "Lookup",
    "Promote",
    "Put",
    "Read",
    "RegisterGraph",
    "Reset",
    "Resume",
    "RunGraph",
    "SendTensor",
    "Size",
    "Stats",
    "Withdraw",
]


@dataclass(slots=True)
class Hello:
    """The first message of a connection; in every version of the protocol it begins with the version.

    Attributes:
        version: The client's version of the protocol.
        session: The session's secret.
        epoch: That of the server which knows the session; empty where none does yet.
        beats: Whether the client beats.
        target: Whether the session was opened on this server, and not merely reaches its resources.
    """

    version: Annotated[int, Int(0, 2**31)]
    session: Secret
    epoch: Name = ""
    beats: Bool = False
    target: Bool = True


@dataclass(slots=True)
class Define:
    """Give a new number to a queue; the queue is found or made by each operation on the number."""

    queue: Id
    container: Name
    name: Name
    private: Bool
    definition: DefinitionFields


@dataclass(slots=True)
class Put:
    """Enqueue rows; followed by the frames of the columns."""

    id: Id
    queue: Id
    columns: Columns


@dataclass(slots=True)
class Get:
    """Dequeue rows; answered by `Rows`, which is to be acknowledged or withdrawn."""

    id: Id
    queue: Id
    count: Count
    up_to: Bool


@dataclass(slots=True)
class Ask:
    """Request rows ahead: `count`, or up to `runs` times as many if they are there."""

    id: Id
    queue: Id
    count: Count
    runs: Annotated[int, Int(1, 2**16)] = 1


@dataclass(slots=True)
class Promote:
    """Make a request ahead a get; no answer of its own."""

    id: Id


@dataclass(slots=True)
class Acknowledge:
    """So many rows of a get were handed over in all; no answer."""

    id: Id
    rows: Count


@dataclass(slots=True)
class Withdraw:
    """End a request: a put is answered by `Withdrawn`, or as it ended; a get ends, or its rows go back, unanswered."""

    id: Id


@dataclass(slots=True)
class Close:
    """Close a queue."""

    id: Id
    queue: Id
    cancel_pending: Bool


@dataclass(slots=True)
class Size:
    """Ask for the number of elements; answered by `Done`."""

    id: Id
    queue: Id


@dataclass(slots=True)
class IsClosed:
    """Ask whether a queue is closed; answered by `Done`."""

    id: Id
    queue: Id


@dataclass(slots=True)
class Stats:
    """Ask for a snapshot; answered by `Statistics`."""

    id: Id
    queue: Id


@dataclass(slots=True)
class Delete:
    """Remove a queue; both sides forget the number that it had in this session."""

    id: Id
    queue: Id


@dataclass(slots=True)
class Lookup:
    """Ask for the definition of a shared queue; answered by `Found`."""

    id: Id
    container: Name
    name: Name


@dataclass(slots=True)
class Join:
    """Register a producer; `renews` says that it was registered before the server restarted."""

    id: Id
    queue: Id
    name: Name
    rejoin_s: Seconds
    renews: Bool = False


@dataclass(slots=True)
class Leave:
    """Take a producer out; `lost` says that it left by an exception."""

    id: Id
    queue: Id
    name: Name
    lost: Bool
    reason: Long
    traceback: Long


@dataclass(slots=True)
class Read:
    """Read a variable; answered by `Rows`, with one row.

    Attributes:
        id: The request's.
        container: Of the variable.
        name: Of the variable.
        private: Whether it belongs to this session alone.
        dtype: Of its values.
        shape: Of its values; None in it is any size, None itself any shape.
    """

    id: Id
    container: Name
    name: Name
    private: Bool
    dtype: Name
    shape: OneShape


@dataclass(slots=True)
class Assign:
    """Assign to a variable; followed by the frames of one column of one row.

    Answered by `Rows`, which have the new value where `fetch` asks for it, else no column.

    Attributes:
        id: The request's.
        container: Of the variable.
        name: Of the variable.
        private: Whether it belongs to this session alone.
        dtype: Of its values.
        shape: Of its values, as in `Read`.
        how: `set`, `add` or `sub`.
        fetch: Whether the answer is the new value.
        columns: The value.
    """

    id: Id
    container: Name
    name: Name
    private: Bool
    dtype: Name
    shape: OneShape
    how: Name
    fetch: Bool
    columns: Columns


@dataclass(slots=True)
class Reset:
    """Empty containers: their variables go, their queues are deleted.

    Attributes:
        id: The request's.
        containers: Their names.
        whole: Whether to empty those of all tasks of the cluster, and to end the sessions of the server.
    """

    id: Id
    containers: Annotated[list[str], Listed(Text())]
    whole: Bool = False


@dataclass(slots=True)
class RegisterGraph:
    """Give a new number to a graph; followed by its frames. Answered by `Done`, also where runs of it will fail.

    Attributes:
        id: The request's.
        graph: The number.
        owner: On whose behalf another server sends a part; empty for a client's own graph, which is to be placed.
        soft: Whether a node may go to another device of its task than it asks for.
        log: Whether to log where nodes are placed.
    """

    id: Id
    graph: Id
    owner: Name = ""
    soft: Bool = False
    log: Bool = False


@dataclass(slots=True)
class DeregisterGraph:
    """Forget a graph; steps of it that run go on."""

    id: Id
    graph: Id


@dataclass(slots=True)
class RunGraph:
    """Run a step; followed by the frames of a list, or none. Answered by `Tensors`: a list of what is fetched.

    The list has what is fed, then what the part receives and is there already: of each value its key, and the bytes of
    the one frame that would follow `SendTensor`. There is none where it would be empty.

    Attributes:
        id: The request's.
        graph: The number of the graph.
        step: The name that the parts of one step share; empty for a client's.
        fetches: What is fetched.
        feeds: What is fed.
    """

    id: Id
    graph: Id
    step: Name
    fetches: Outputs
    feeds: Outputs


@dataclass(slots=True)
class SendTensor:
    """Give a value to a part of a step that receives it under a key; followed by its frames."""

    id: Id
    step: Name
    key: Long


@dataclass(slots=True)
class ListDevices:
    """Ask for the devices of the server's task, or of its whole cluster; answered by `Tensors`."""

    id: Id
    whole: Bool


@dataclass(slots=True)
class ListQueues:
    """Ask for snapshots of all queues of the server's task, and its shared memory; answered by `Tensors`."""

    id: Id


@dataclass(slots=True)
class EndOwner:
    """The session on whose behalf parts were run is over: end its steps, forget its graphs and what is its alone."""

    id: Id
    owner: Name


@dataclass(slots=True)
class Bye:
    """The session is over; answered by `Goodbye`."""


@dataclass(slots=True)
class Resume:
    """All acknowledgements were sent again: what was delivered before and not acknowledged goes back."""


@dataclass(slots=True)
class Confirm:
    """The answers to these requests have come, and need not be kept; everything without one was sent again before."""

    ids: Annotated[list[int], Listed(Int(1))]


@dataclass(slots=True)
class Beat:
    """The client's process lives; sent through a connection of its own. Answered by `Heard`."""

    session: Secret
    number: Id
