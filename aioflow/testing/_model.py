"""A queue as plain lists: the rules of the queues, one element at a time, in code too simple to be wrong.

It is what the queue machine is compared with, so it shares nothing with it: no segments, no running counts, no arrays.
Every question is answered by looking through the lists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.errors import EndOfQueue, OperationCancelled, QueueClosed, QueueError
from aioflow.queues import CAPACITY_BYTES_DEFAULT, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.specs import Array

__all__ = ["ModelElement", "ModelOutcome", "QueueModel", "pad_batch"]


@dataclass(frozen=True, slots=True)
class ModelElement:
    """One element that is put.

    Attributes:
        value: Anything; comes out as it went in.
        nbytes: What it counts against the capacity in bytes.
        priority: Lowest first; PriorityQueue only.
    """

    value: Any
    nbytes: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """How an operation ended.

    Attributes:
        values: What a get received, in order; None for other operations and for failures.
        error: The class of the error; None for a success.
    """

    values: tuple[Any, ...] | None = None
    error: type[QueueError] | None = None


@dataclass(slots=True, eq=False)
class _Item:
    number: int
    element: ModelElement


@dataclass(slots=True, eq=False)
class _Put:
    ticket: int
    rest: list[ModelElement]
    closes: bool = False
    accepted: int = 0


@dataclass(slots=True, eq=False)
class _Get:
    ticket: int
    count: int
    up_to: bool
    runs: int = 1
    owner: str = ""
    taken: list[_Item] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Received:
    items: list[_Item]
    own: int  # of all that came; what came behind went ahead
    acknowledged: int = 0

    @property
    def ahead(self) -> list[_Item]:
        return self.items[max(0, self.own - self.acknowledged) :]


class QueueModel:
    """The model of one queue; operations return a ticket, and `take_outcomes` says which ended, and how.

    Which element a RandomShuffleQueue gives is left to `choose`: given how many there are, it returns an index.
    """

    def __init__(
        self,
        kind: Kind = "FIFOQueue",
        capacity: int = -1,
        *,
        capacity_bytes: int = CAPACITY_BYTES_DEFAULT,
        min_after_dequeue: int = 0,
        choose: Callable[[int], int] = lambda _: 0,
    ) -> None:
        """Start open and empty; a negative capacity is unbounded."""
        self.kind = kind
        self.capacity = capacity
        self.capacity_bytes = capacity_bytes
        self.min_after_dequeue = min_after_dequeue
        self.is_closed = False
        self.recalled: set[int] = set()
        self._choose = choose
        self._inside: list[_Item] = []
        self._puts: list[_Put] = []
        self._gets: list[_Get] = []
        self._asks: list[_Get] = []
        self._received: dict[int, _Received] = {}
        self._outcomes: dict[int, ModelOutcome] = {}
        self._tickets = 0
        self._accepted = 0

    # Looking

    @property
    def size(self) -> int:
        """Elements inside and those sent ahead; not what a waiting get has taken."""
        return len(self._inside) + sum(len(received.ahead) for received in self._received.values())

    @property
    def size_bytes(self) -> int:
        """Their bytes."""
        ahead = [item for received in self._received.values() for item in received.ahead]
        return sum(item.element.nbytes for item in [*self._inside, *ahead])

    @property
    def is_drained(self) -> bool:
        """Whether no element can come any more."""
        taken = [item for get in self._gets for item in get.taken]
        return self.is_closed and not self._inside and not self._received and not taken

    @property
    def waiting(self) -> list[int]:
        """The tickets of operations that wait, requests ahead among them."""
        return [put.ticket for put in self._puts] + [get.ticket for get in [*self._gets, *self._asks]]

    @property
    def asking(self) -> list[int]:
        """The tickets of requests ahead that wait."""
        return [ask.ticket for ask in self._asks]

    @property
    def unacknowledged(self) -> list[int]:
        """The tickets of gets that received elements and have neither acknowledged nor given them back."""
        return list(self._received)

    def take_outcomes(self) -> dict[int, ModelOutcome]:
        """Return what ended since the last call."""
        outcomes, self._outcomes = self._outcomes, {}
        return outcomes

    # Operations

    def enqueue(self, elements: Sequence[ModelElement]) -> int:
        """Put elements; none at all succeed at once."""
        put = _Put(self._new_ticket(), list(elements))
        if put.rest:
            self._puts.append(put)
            self._flush()
        else:
            self._outcomes[put.ticket] = ModelOutcome()
        return put.ticket

    def dequeue(self, count: int, *, up_to: bool = False) -> int:
        """Get elements; 0 succeed at once."""
        get = _Get(self._new_ticket(), count, up_to)
        if count:
            self._gets.append(get)
            self._flush()
        else:
            self._outcomes[get.ticket] = ModelOutcome(())
        return get.ticket

    def ask(self, count: int, runs: int = 1, owner: str = "") -> int:
        """Request `count` elements ahead, or up to `runs` times as many."""
        ask = _Get(self._new_ticket(), count, up_to=True, runs=runs, owner=owner)
        self._asks.append(ask)
        self._flush()
        return ask.ticket

    def promote(self, ticket: int) -> None:
        """Make a request ahead that still waits a get attempt."""
        for ask in list(self._asks):
            if ask.ticket == ticket:
                self._asks.remove(ask)
                self._gets.append(ask)
                self._flush()

    def close(self, *, cancel_pending: bool = False) -> int:
        """Close in turn or, with `cancel_pending`, at once."""
        ticket = self._new_ticket()
        if cancel_pending:
            self.is_closed = True
            for put in self._puts:
                self._outcomes[put.ticket] = ModelOutcome(error=OperationCancelled)
            self._puts = []
            self._outcomes[ticket] = ModelOutcome()
        else:
            self._puts.append(_Put(ticket, [], closes=True))
        self._flush()
        return ticket

    def cancel(self, ticket: int) -> int | None:
        """Withdraw a waiting operation; return how many elements of a put stay in, None if it does not wait."""
        for put in self._puts:
            if put.ticket == ticket:
                self._puts.remove(put)
                self._flush()
                return put.accepted
        for waiting in (self._gets, self._asks):
            for get in waiting:
                if get.ticket == ticket:
                    waiting.remove(get)
                    self._put_back(get.taken)
                    self._flush()
                    return 0
        return None

    def acknowledge(self, ticket: int, rows: int | None = None) -> None:
        """What a get received was handed over: so many of its elements in all, or all."""
        received = self._received.get(ticket)
        if received:
            while received.items and (rows is None or received.acknowledged < rows):
                received.items.pop(0)
                received.acknowledged += 1
            if not received.items:
                del self._received[ticket]
            self._flush()

    def restore(self, ticket: int) -> None:
        """What a get received was not handed over: it goes back."""
        received = self._received.pop(ticket, None)
        if received:
            for get in self._gets:  # what a waiting get holds goes back too, so that its batch will be in order
                self._put_back(get.taken)
                get.taken = []
            self._put_back(received.items)
            self._flush()

    # The flush: the put list, then the get list, until neither made progress

    def _flush(self) -> None:
        while self._run_puts() or self._run_gets() or self._fail_hopeless_put():
            pass
        self._serve_asks()
        self._recall()

    def _run_puts(self) -> bool:
        progress = False
        while self._puts:
            head = self._puts[0]
            if self.is_closed:
                self._end_put(ModelOutcome(error=QueueClosed))
            elif head.closes:
                self.is_closed = True
                self._end_put(ModelOutcome())
            elif not head.rest:
                self._end_put(ModelOutcome())
            elif self._has_room(head.rest[0]):
                self._inside.append(_Item(self._accepted, head.rest.pop(0)))
                self._accepted += 1
                head.accepted += 1
            else:
                return progress
            progress = True
        return progress

    def _end_put(self, outcome: ModelOutcome) -> None:
        self._outcomes[self._puts.pop(0).ticket] = outcome

    def _has_room(self, element: ModelElement) -> bool:
        if not self._has_room_in_elements():
            return False
        return self.size == 0 or self.size_bytes + element.nbytes <= self.capacity_bytes

    def _has_room_in_elements(self) -> bool:
        return self.capacity < 0 or self.size < self.capacity

    def _run_gets(self) -> bool:
        progress = False
        while self._gets:
            head = self._gets[0]
            progress |= self._take(head)
            if len(head.taken) >= head.count:
                self._end_get()
            elif not self.is_closed:
                return progress
            elif head.up_to and (head.taken or self._inside):
                self._put_back(head.taken)
                head.taken = [self._take_next() for _ in range(min(head.count, len(self._inside)))]
                self._end_get()
            elif self._received:  # it may come back
                return progress
            else:
                self._put_back(head.taken)
                self._gets.remove(head)
                self._outcomes[head.ticket] = ModelOutcome(error=EndOfQueue)
            progress = True
        return progress

    def _take(self, get: _Get) -> bool:
        if self.kind == "PriorityQueue" and self._free() < get.count:
            return False  # a batch is sorted: all at once or nothing
        wanted, progress = get.count, False
        if not get.taken and self._gets == [get] and not self.is_closed and self._free() >= get.count:
            wanted *= self._runs(get)
        while len(get.taken) < wanted and self._free() > 0:
            get.taken.append(self._take_next())
            progress = True
        return progress

    def _end_get(self) -> None:
        get = self._gets.pop(0)
        self._receive(get, get.taken, min(get.count, len(get.taken)))

    def _receive(self, get: _Get, items: list[_Item], own: int) -> None:
        self._outcomes[get.ticket] = ModelOutcome(tuple(item.element.value for item in items))
        self._received[get.ticket] = _Received(items, own)

    def _fail_hopeless_put(self) -> bool:
        """Bytes alone keep the head put out, the reserve keeps every get out, and nothing can come back."""
        if not self._puts or self._puts[0].closes or not self._has_room_in_elements() or self._received:
            return False
        if self.kind == "RandomShuffleQueue" and self._free() < 1:
            hopeless = True
        elif self.kind == "PriorityQueue" and self._gets:
            hopeless = len(self._inside) < self._gets[0].count
        else:
            hopeless = False
        if hopeless:
            self._end_put(ModelOutcome(error=QueueError))
        return hopeless

    def _serve_asks(self) -> None:
        """No get attempts: only while no get waits, and never after the close."""
        while self._asks and not self._gets and not self.is_closed and self._free() >= self._asks[0].count:
            ask = self._asks[0]
            items = [self._take_next() for _ in range(ask.count * self._runs(ask))]
            self._asks.remove(ask)
            self._receive(ask, items, 0)

    def _runs(self, get: _Get) -> int:
        shares = self._free() // get.count // len({get.owner, *(ask.owner for ask in self._asks)})
        return min(get.runs, max(1, shares))

    def _recall(self) -> None:
        """A get waits though the size, which counts what is ahead, is not 0: call back what it misses."""
        if self._gets:
            missing = self._gets[0].count - len(self._gets[0].taken) - self._free()
            if missing > 0:
                self.recalled |= {ticket for ticket, received in self._received.items() if received.ahead}

    # One element

    def _free(self) -> int:
        return len(self._inside) - (0 if self.is_closed else self.min_after_dequeue)

    def _take_next(self) -> _Item:
        if self.kind == "RandomShuffleQueue":
            return self._inside.pop(self._choose(len(self._inside)))
        if self.kind == "PriorityQueue":
            item = min(self._inside, key=lambda item: (item.element.priority, item.number))
        else:
            item = min(self._inside, key=lambda item: item.number)
        self._inside.remove(item)
        return item

    def _put_back(self, items: list[_Item]) -> None:
        self._inside.extend(items)

    def _new_ticket(self) -> int:
        self._tickets += 1
        return self._tickets


def pad_batch(values: Sequence[Array], zero: Any) -> Array:
    """Return values of one rank as a batch: each dimension the largest of them, filled at its end with `zero`."""
    sizes = [max(value.shape[axis] for value in values) for axis in range(values[0].ndim)]
    batch = np.empty((len(values), *sizes), dtype=values[0].dtype)
    for row, *place in np.ndindex(batch.shape):
        value = values[row]
        inside = all(at < size for at, size in zip(place, value.shape, strict=True))
        batch[(row, *place)] = value[tuple(place)] if inside else zero
    return batch
