"""What goes over the wire: one dataclass for each message, with the limits of each field beside it.

Those of clients stand in `_requests`, those of servers in `_replies`, the types of their fields in `_field_types`.

A message is one header frame, msgpack of `[code, field, ...]`, and raw frames for the columns of `Put`, `Assign` and
`Rows`, or for graphs and values (`_values`). The fields' rules (`_fields`) are all that an encoder writes and a decoder
accepts. Requests carry an `id`, the number of the request in its session; each is answered by exactly one of `Done`,
`Rows`, `Found`, `Statistics`, `Tensors`, `Withdrawn` and `Error`, except that a withdrawn get is not answered.

A session outlives its connections. Each begins with `Hello` and `Welcome`; then the client sends again what may not
have arrived: acknowledgements, `Resume`, withdrawals, and every request without an answer. A server knows a request
that changes a queue by its id: it waits on, or is answered once more, and is never done twice.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from aioflow.cluster._replies import (
    Done,
    Error,
    Found,
    Goodbye,
    Heard,
    Recall,
    Rows,
    Statistics,
    Tensors,
    Welcome,
    Withdrawn,
)
from aioflow.cluster._requests import (
    Acknowledge,
    Ask,
    Assign,
    Beat,
    Bye,
    Close,
    Confirm,
    Define,
    Delete,
    DeregisterGraph,
    EndOwner,
    Get,
    Hello,
    IsClosed,
    Join,
    Leave,
    ListDevices,
    ListQueues,
    Lookup,
    Promote,
    Put,
    Read,
    RegisterGraph,
    Reset,
    Resume,
    RunGraph,
    SendTensor,
    Size,
    Stats,
    Withdraw,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._fields import Rule

__all__ = [
    "MESSAGES",
    "PROTOCOL_VERSION",
    "RULES",
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
    "Done",
    "EndOwner",
    "Error",
    "Found",
    "Get",
    "Goodbye",
    "Heard",
    "Hello",
    "IsClosed",
    "Join",
    "Leave",
    "ListDevices",
    "ListQueues",
    "Lookup",
    "Message",
    "Promote",
    "Put",
    "Read",
    "Recall",
    "RegisterGraph",
    "Reset",
    "Resume",
    "Rows",
    "RunGraph",
    "SendTensor",
    "Size",
    "Statistics",
    "Stats",
    "Tensors",
    "Welcome",
    "Withdraw",
    "Withdrawn",
    "find_fault",
]

PROTOCOL_VERSION = 8

# In the order of their codes.
Message = (
    Hello | Define | Put | Get | Ask | Promote | Acknowledge | Withdraw | Close | Size | IsClosed | Stats | Delete
    | Lookup | Join | Leave | Bye | Welcome | Done | Rows | Found | Statistics | Withdrawn | Error | Recall | Goodbye
    | Resume | Confirm | Beat | Heard | Read | Assign | Reset | RegisterGraph | DeregisterGraph | RunGraph | SendTensor
    | ListDevices | EndOwner | Tensors | ListQueues
)  # fmt: skip

# Codes are for ever: a new message takes a new one, at the end.
MESSAGES: dict[int, type[Any]] = dict(enumerate(get_args(Message)))


def _rules(message: type[Any]) -> tuple[tuple[str, Rule], ...]:
    hints = get_type_hints(message, include_extras=True)
    return tuple((field.name, hints[field.name].__metadata__[0]) for field in fields(message))


RULES: dict[type[Any], tuple[tuple[str, Rule], ...]] = {message: _rules(message) for message in MESSAGES.values()}
_ADMITS = {message: tuple([rule.admits for _, rule in rules]) for message, rules in RULES.items()}


def find_fault(message: type[Any], values: Sequence[Any]) -> str | None:
    """Say which field of a message is not allowed, what was expected and what came; None if all are."""
    admits = _ADMITS[message]
    if len(values) != len(admits):
        return f"{message.__name__} has {len(admits)} fields, got {len(values)}"
    for i, value in enumerate(values):  # it is on the way of every message
        if not admits[i](value):
            name, rule = RULES[message][i]
            return f"{message.__name__}.{name} must be {rule}, got {value!r:.80}"
    return None
