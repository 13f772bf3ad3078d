"""What clients of a simulated server have done and seen, and what must hold of it whatever went wrong."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioflow.errors import EndOfQueue, NotFound, QueueClosed, QueueReset, SpecMismatch
from aioflow.queues import QueueDefinition
from aioflow.resources import QueueKey, QueueRef
from aioflow.specs import ElementSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioflow.errors import AioflowError
    from aioflow.queues import Kind

__all__ = ["PLACES", "REFS", "Call", "History", "check_order"]

# A value is the number of its session and its place in what that one put.
PLACES = 1_000_000


def _ref(name: str, kind: Kind, capacity: int, reserve: int = 0, producers: int | None = None) -> QueueRef:
    element = ElementSpec((TensorSpec("int64", ()),))
    definition = QueueDefinition(kind, element, capacity, min_after_dequeue=reserve, producers=producers)
    return QueueRef(QueueKey("", name), definition)


REFS = (
    _ref("small", "FIFOQueue", 2),
    _ref("large", "FIFOQueue", 8),
    _ref("bag", "RandomShuffleQueue", 6, 2),
    _ref("fed", "FIFOQueue", 4, producers=2),
)

# What a call may fail with, besides `QueueReset` and `NotFound`, which is what a delete does to others.
_ALLOWED: dict[str, tuple[type[Exception], ...]] = {
    "put": (QueueClosed,),
    "close": (QueueClosed,),
    "get": (EndOfQueue,),
    "ask": (EndOfQueue,),
    "join": (SpecMismatch,),
}


@dataclass(slots=True, eq=False)
class Call:
    """What a client asked for.

    Attributes:
        kind: One of "put", "get", "ask", "close", "join", "leave" and "delete".
        ref: Of which queue.
        values: What a put offers, or what a get was sent.
        taken: How many of what a get was sent were handed over.
        is_withdrawn: Whether the client has withdrawn it.
        id: Its number in its session.
    """

    kind: str
    ref: QueueRef
    values: list[int] = field(default_factory=list)
    taken: int = 0
    is_withdrawn: bool = False
    id: int = 0

    @property
    def is_get(self) -> bool:
        """Whether rows answer it."""
        return self.kind in {"get", "ask"}


class History:
    """What is known of each value by those who put and got it."""

    def __init__(self) -> None:
        self.offered: dict[str, list[int]] = {ref.key.name: [] for ref in REFS}
        self.accepted: set[int] = set()
        self.refused: set[int] = set()
        self.reset: dict[int, int] = {}  # put to a server before this one
        self.handed_over: Counter[int] = Counter()
        self.may_double: set[int] = set()
        self._gone: dict[str, int] = dict.fromkeys(self.offered, 0)
        self._seen: dict[str, set[int]] = {name: set() for name in self.offered}

    def wipe(self, names: Iterable[str]) -> None:
        """Note that what was put in some queues so far may be gone."""
        for name in names:
            self._gone[name] = len(self.offered[name])

    def put_ended(self, call: Call, rows_in: int) -> None:
        """Note how many rows of a put are in."""
        self.accepted.update(call.values[:rows_in])
        self.refused.update(call.values[rows_in:])

    def failed(self, call: Call, error: AioflowError, epoch: int) -> None:
        """Note how a call has failed, and check that it may fail like this."""
        if isinstance(error, QueueReset):
            if call.kind == "put":
                self.reset.update(dict.fromkeys(call.values, epoch))
        elif not isinstance(error, NotFound):
            assert isinstance(error, _ALLOWED.get(call.kind, ())), f"a {call.kind} failed: {error!r}"
            if call.kind == "put":
                found = re.match("[0-9]+", "".join(getattr(error, "__notes__", ())))
                self.put_ended(call, int(found[0]) if found else 0)

    def hand_over(self, call: Call, values: list[int], epoch: int) -> None:
        """Note what a consumer was given."""
        for value in values:
            assert self.reset.get(value, epoch + 1) > epoch, f"{value} was put to an earlier server"
        self.handed_over.update(values)
        self._seen[call.ref.key.name].update(values)

    def check(self, left: dict[str, list[int]]) -> None:
        """Check it against what was left in the queues: nothing lost, nothing doubled, nothing out of nowhere."""
        rest = [value for values in left.values() for value in values]
        out = self.handed_over + Counter(rest)
        twice = {value for value, times in out.items() if times > 1} - self.may_double
        assert not twice, f"came twice: {sorted(twice)}"
        refused = self.refused & out.keys()
        assert not refused, f"came although they were refused or withdrawn: {sorted(refused)}"
        stale = self.reset.keys() & set(rest)
        assert not stale, f"are in a server to which nobody put them: {sorted(stale)}"
        gone: set[int] = set()
        for name, offered in self.offered.items():
            gone.update(offered[: self._gone[name]])
            strange = (self._seen[name] | set(left.get(name, ()))) - set(offered)
            assert not strange, f"came out of queue {name!r} although nobody put them there: {sorted(strange)}"
        lost = self.accepted - out.keys() - gone
        assert not lost, f"were accepted and are lost: {sorted(lost)}"


def check_order(call: Call) -> None:
    """Check that the values of each producer ascend in a batch, whatever was given back in between."""
    if call.ref.definition.kind == "FIFOQueue":
        last: dict[int, int] = {}
        for value in call.values:
            assert last.get(value // PLACES, -1) < value, f"a batch is not in the order of acceptance: {call.values}"
            last[value // PLACES] = value
