"""Orders: which element is next. Each is a container of numbered rows, without capacity, waiting or time.

The number of an element is its place in the order of acceptance; what is put back goes by it.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from aioflow.queues._segments import Rows, Segment

if TYPE_CHECKING:
    from numpy.random import Generator

    from aioflow.queues._definition import Kind
    from aioflow.specs import Array

__all__ = ["FifoOrder", "Order", "PriorityOrder", "ShuffleOrder", "make_order"]

_Run: TypeAlias = "tuple[int, Segment, int, int]"  # number of the first row, segment, start, stop; numbers are distinct


# What the segments of a shuffle may hold beside its rows before they are copied: nothing against a process.
SEGMENT_BYTES_SLACK = 1 << 20
# To how many times the bytes of the rows what is held is brought then.
COMPACT_TO = 1.75


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


class ShuffleOrder:
    """A bag: each element left is equally likely to be next (TensorFlow's RandomShuffleQueue).

    Rows are three parallel arrays; a removed row's hole is filled from the end. One row that is left keeps the memory
    of its whole segment, so the emptiest are copied down to their rows when all hold more than twice what is in.
    """

    def __init__(self, rng: Generator) -> None:
        self._rng = rng
        self._slots = np.empty(64, np.intp)
        self._indices = np.empty(64, np.intp)
        self._numbers = np.empty(64, np.int64)
        self._count = 0
        self._segments: dict[int, Segment] = {}
        self._slot_of: dict[Segment, int] = {}
        self._live: dict[int, int] = {}
        self._next_slot = 0
        self._row_bytes = 0
        self._segment_bytes = 0

    def __len__(self) -> int:
        return self._count

    def push(self, segment: Segment, start: int, stop: int, number: int) -> None:
        """Add rows to the bag."""
        self._add(segment, np.arange(start, stop), np.arange(number, number + stop - start))

    def put_back(self, rows: Rows) -> None:
        """Return rows to the bag."""
        for part in rows.parts:
            if isinstance(part.index, slice):
                assert isinstance(part.numbers, int)
                self.push(part.segment, part.index.start, part.index.stop, part.numbers)
            else:
                assert isinstance(part.numbers, np.ndarray)
                self._add(part.segment, part.index, part.numbers)

    def together(self, count: int) -> int:
        """All of them: they are copied one by one."""
        return count

    def pop(self, count: int) -> Rows:
        """Draw rows without replacement."""
        if count == 1:
            return self._pop_one()
        chosen = self._choose(count)
        slots, indices, numbers = self._slots[chosen], self._indices[chosen], self._numbers[chosen]
        self._fill_holes(chosen)
        rows = Rows()
        by_slot = np.argsort(slots, kind="stable")
        start = 0
        for slot, run in itertools.groupby(slots[by_slot].tolist()):
            places = by_slot[start : start + sum(1 for _ in run)]
            start += len(places)
            if len(places) == 1:  # a slice, which costs a third: of a large bag nearly every row is the only one
                place = int(places[0])
                row = int(indices[place])
                rows.add(self._segments[slot], slice(row, row + 1), int(numbers[place]), slice(place, place + 1))
            else:
                rows.add(self._segments[slot], indices[places], numbers[places], places)
            self._release(slot, len(places))
        self._row_bytes -= rows.nbytes
        self._compact()
        return rows

    def _pop_one(self) -> Rows:
        """Draw a row: a third of the cost of a batch of one, and a slice, which needs no copy of the payload."""
        at, last = int(self._rng.integers(self._count)), self._count - 1
        slot, row, number = (column.item(at) for column in (self._slots, self._indices, self._numbers))
        for column in (self._slots, self._indices, self._numbers):
            column[at] = column[last]
        self._count = last
        rows = Rows()
        rows.add(self._segments[slot], slice(row, row + 1), number)
        self._release(slot, 1)
        self._row_bytes -= rows.nbytes
        self._compact()
        return rows

    def _release(self, slot: int, count: int) -> None:
        self._live[slot] -= count
        if not self._live[slot]:
            segment = self._segments.pop(slot)
            del self._live[slot], self._slot_of[segment]
            self._segment_bytes -= segment.nbytes(slice(0, segment.rows))

    def _compact(self) -> None:
        """Copy the rows that are left out of their segments, while those hold too much beside.

        The emptiest go first, until what is held is well below the bound: so a third of all rows is copied, not each.
        Where bytes are not spread evenly over the rows it may take more than one round.
        """
        while self._segment_bytes > 2 * self._row_bytes + SEGMENT_BYTES_SLACK:
            self._compact_emptiest()

    def _compact_emptiest(self) -> None:
        chosen: list[int] = []
        held = float(self._segment_bytes)
        for slot in sorted(self._live, key=lambda slot: self._live[slot] / self._segments[slot].rows):
            if held <= COMPACT_TO * self._row_bytes:
                break
            segment = self._segments[slot]
            chosen.append(slot)
            held -= segment.nbytes(slice(0, segment.rows)) * (1 - self._live[slot] / segment.rows)
        rows = np.flatnonzero(np.isin(self._slots[: self._count], chosen))
        by_slot = rows[np.argsort(self._slots[rows], kind="stable")]
        edges = np.flatnonzero(np.diff(self._slots[by_slot])) + 1
        for places in np.split(by_slot, edges):
            slot = int(self._slots[places[0]])
            whole = self._segments[slot]
            part = self._segments[slot] = whole.select(self._indices[places])
            del self._slot_of[whole]
            self._slot_of[part] = slot
            self._indices[places] = np.arange(len(places))
            self._segment_bytes += part.nbytes(slice(0, part.rows)) - whole.nbytes(slice(0, whole.rows))

    def _choose(self, count: int) -> Array:
        if 2 * count > self._count:
            return self._rng.permutation(self._count)[:count]
        chosen = self._rng.integers(0, self._count, count)
        while True:  # drawing again what came twice leaves every order of every subset equally likely
            _, first = np.unique(chosen, return_index=True)
            if len(first) == count:
                return chosen
            again = self._rng.integers(0, self._count, count - len(first))
            chosen = np.concatenate([chosen[np.sort(first)], again])

    def _fill_holes(self, chosen: Array) -> None:
        left = self._count - len(chosen)
        stays = np.ones(len(chosen), np.bool_)
        stays[chosen[chosen >= left] - left] = False
        movers, holes = np.flatnonzero(stays) + left, chosen[chosen < left]
        for column in (self._slots, self._indices, self._numbers):
            column[holes] = column[movers]
        self._count = left

    def _add(self, segment: Segment, indices: Array, numbers: Array) -> None:
        slot = self._slot_of.get(segment, self._next_slot)
        end = self._count + len(indices)
        if end > len(self._slots):
            size = max(end, 2 * len(self._slots))
            self._slots, self._indices, self._numbers = (
                np.resize(column, size) for column in (self._slots, self._indices, self._numbers)
            )
        self._slots[self._count : end] = slot
        self._indices[self._count : end] = indices
        self._numbers[self._count : end] = numbers
        if slot == self._next_slot:
            self._next_slot += 1
            self._segments[slot] = segment
            self._slot_of[segment] = slot
            self._live[slot] = 0
            self._segment_bytes += segment.nbytes(slice(0, segment.rows))
        self._live[slot] += len(indices)
        self._row_bytes += segment.nbytes(indices)
        self._count = end


class PriorityOrder:
    """Lowest priority first; ties in the order of acceptance."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Segment]] = []  # priority, number, row, segment

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, segment: Segment, start: int, stop: int, number: int) -> None:
        """Add rows by their priorities."""
        assert segment.priorities is not None
        for row, priority in enumerate(segment.priorities[start:stop].tolist(), start):
            heapq.heappush(self._heap, (priority, number + row - start, row, segment))

    def together(self, count: int) -> int:
        """All of them: they are copied one by one."""
        return count

    def pop(self, count: int) -> Rows:
        """Remove the rows of the lowest priorities, in order."""
        rows = Rows()
        for _ in range(count):
            _, number, row, segment = heapq.heappop(self._heap)
            rows.add(segment, slice(row, row + 1), number)
        return rows

    def put_back(self, rows: Rows) -> None:
        """Add rows again under their old numbers."""
        for part in rows.parts:
            assert isinstance(part.index, slice)
            assert isinstance(part.numbers, int)
            self.push(part.segment, part.index.start, part.index.stop, part.numbers)


def make_order(kind: Kind, rng: Generator) -> Order:
    """Return the order of a kind of queue, empty."""
    if kind == "RandomShuffleQueue":
        return ShuffleOrder(rng)
    return PriorityOrder() if kind == "PriorityQueue" else FifoOrder()
