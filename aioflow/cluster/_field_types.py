"""Types of the fields of messages, each with its rule: what a dataclass of the wire is annotated with."""

from __future__ import annotations

from typing import Annotated, Any

from aioflow.cluster._fields import (
    DESCRIBED,
    INT64_MAX,
    RANK_MAX,
    TEXT_CHARS_MAX,
    Flag,
    Int,
    Listed,
    Maybe,
    Number,
    Record,
    Text,
)

__all__ = [
    "DEFINITION",
    "Bool",
    "Columns",
    "Count",
    "DefinitionFields",
    "Id",
    "Long",
    "Name",
    "OneShape",
    "Outputs",
    "Seconds",
    "Secret",
]

# What one step fetches, or is fed with: a header of 64 KiB has no room for more.
OUTPUTS_MAX = 8192

Id = Annotated[int, Int(1)]
Name = Annotated[str, Text()]
Secret = Annotated[str, Text(chars_min=1)]  # the empty session is the one to which shared queues belong
Long = Annotated[str, Text(TEXT_CHARS_MAX)]
Bool = Annotated[bool, Flag()]
Count = Annotated[int, Int(0, 2**31 - 1)]  # TensorFlow's numbers of elements are int32
Seconds = Annotated[float, Number()]
_SHAPE = Listed(Maybe(Int()), RANK_MAX - 1)
OneShape = Annotated[list[Any] | None, Maybe(_SHAPE)]
Columns = Annotated[list[list[Any]], DESCRIBED]
# kind, capacity, capacity_bytes, min_after_dequeue, seed, producers, [dtype, shape] of each component, names
DEFINITION = Record(
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
)
DefinitionFields = Annotated[list[Any], DEFINITION]
# an output of a graph: the number of its node, and which of its outputs; -1 is the node itself
Outputs = Annotated[list[list[int]], Listed(Record((Int(), Int(-1))), OUTPUTS_MAX)]
