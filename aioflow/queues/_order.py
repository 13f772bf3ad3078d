"""Orders: which element is next. Each is a container of numbered rows, without capacity, waiting or time.

The number of an element is its place in the order of acceptance; what is put back goes by it.
"""

from __future__ import annotations

import heapq
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from aioflow.queues._segments import Rows, Segment
from aioflow.queues._shuffle import ShuffleOrder
from aioflow.queues._store import make_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.random import Generator

    from aioflow.queues._definition import QueueDefinition
    from aioflow.specs import Array, Index

__all__ = ["FifoOrder", "Order", "PriorityOrder", "make_order"]

_Run: TypeAlias = "tuple[int, Segment, int, int]"  # number of the first row, segment, start, stop; numbers are distinct


class Order(Protocol):
    """A container of rows that decides which come out next."""

    def __len__(self) -> int:
        """How many rows are in."""
        ...

    def push(self, segment: Segment, start: int, stop: int, number: int) -> None:
        """Add rows `start` to `stop` of a segment, numbered from `number`, which is above all before."""
        ...

    def together(self, count: int) -> int:
        """How many of the next `count` rows are best taken at once: those behind lie in other segments."""
        ...

    def pop(self, count: int) -> Rows:
        """Remove and return the next `count` rows; there are that many."""
        ...

    def put_back(self, rows: Rows) -> None:
        """Return rows to where they were."""
        ...


class FifoOrder:
    """The order of acceptance; costs grow with the number of segments touched, not of rows.

    What is put back had been taken from the front, so it is older than all that never left: it waits in a heap of its
    own, and goes out before the rest.
    """

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._returned: list[_Run] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, segment: Segment, start: int, stop: int, number: int) -> None:
        """Add rows at the end."""
        self._runs.append((number, segment, start, stop))
        self._count += stop - start

    def together(self, count: int) -> int:
        """How many of the first `count` rows lie in the first segment."""
        _, _, start, stop = self._returned[0] if self._returned else self._runs[0]
        return min(count, stop - start)

    def pop(self, count: int) -> Rows:
        """Remove rows from the front."""
        rows = Rows()
        self._count -= count
        while count:
            returned = bool(self._returned)
            number, segment, start, stop = heapq.heappop(self._returned) if returned else self._runs.popleft()
            if stop - start > count:
                rest = (number + count, segment, start + count, stop)
                if returned:
                    heapq.heappush(self._returned, rest)
                else:
                    self._runs.appendleft(rest)
                stop = start + count
            rows.add(segment, slice(start, stop), number)
            count -= stop - start
        return rows

    def put_back(self, rows: Rows) -> None:
        """Return runs to the front, by their numbers."""
        for part in rows.parts:
            assert isinstance(part.index, slice)
            assert isinstance(part.numbers, int)
            heapq.heappush(self._returned, (part.numbers, part.segment, part.index.start, part.index.stop))
        self._count += rows.count


class PriorityOrder:
    """Lowest priority first; ties in the order of acceptance."""

    def __init__(self, definition: QueueDefinition) -> None:
        self._store = make_store(definition)
        self._heap: list[tuple[int, int, int]] = []  # priority, number, slot

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, segment: Segment, start: int, stop: int, number: int) -> None:
        """Add rows by their priorities."""
        self._add(segment, slice(start, stop), np.arange(number, number + stop - start))

    def together(self, count: int) -> int:
        """All of them: they are copied one by one."""
        return count

    def pop(self, count: int) -> Rows:
        """Remove the rows of the lowest priorities, in order."""
        taken = [heapq.heappop(self._heap) for _ in range(count)]
        try:
            rows = self._store.take(np.array([slot for _, _, slot in taken], np.intp))
        except MemoryError:
            self._push(taken)
            raise
        if self._store.is_sparse:
            with suppress(MemoryError):  # what was taken is not lost for that
                self._store.pack(np.array([slot for _, _, slot in self._heap], np.intp))
                self._heap = [(priority, number, slot) for slot, (priority, number, _) in enumerate(self._heap)]
        return rows

    def put_back(self, rows: Rows) -> None:
        """Add rows again under their old numbers."""
        for part in rows.parts:
            self._add(part.segment, part.index, part.all_numbers)

    def _add(self, segment: Segment, index: Index, numbers: Array) -> None:
        assert segment.priorities is not None
        priorities = segment.priorities[index].tolist()
        slots = self._store.add(segment, index, numbers)
        self._push(zip(priorities, numbers.tolist(), slots.tolist(), strict=True))

    def _push(self, entries: Iterable[tuple[int, int, int]]) -> None:
        for entry in entries:
            heapq.heappush(self._heap, entry)


def make_order(definition: QueueDefinition, rng: Generator) -> Order:
    """Return the order of a queue's kind, empty."""
    if definition.kind == "RandomShuffleQueue":
        return ShuffleOrder(definition, rng)
    return PriorityOrder(definition) if definition.kind == "PriorityQueue" else FifoOrder()
