"""Bags: each element that is left is equally likely to be next (TensorFlow's RandomShuffleQueue).

Rows are entries of parallel arrays, and a removed row's hole is filled from the end. Small rows of numbers are copied
to such arrays, and out again: for 64 bytes that takes a fraction of what it takes to keep in mind where each lies, and
to fetch it from there. Of other rows the arrays say where they lie.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.queues._definition import UNBOUNDED, QueueDefinition
from aioflow.queues._segments import Rows, Segment
from aioflow.specs import numpy_dtype, pad_column, take_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from aioflow.specs import Array, Column, Index

__all__ = ["CopiedShuffleOrder", "ShuffleOrder"]

# Rows of at most so many bytes are copied.
COPIED_BYTES_MAX = 4096

# Arrays grow so many times, up to what the queue may hold: everything stands while they are copied, and memory is given
# when it is touched.
GROWTH = 16
# Arrays of which more was touched are copied to smaller ones when not a quarter of it is in use any more.
TOUCHED_BYTES_MAX = 4 << 20

# What the segments of a bag may hold beside its rows before they are copied: nothing against a process.
SEGMENT_BYTES_SLACK = 1 << 20
# To how many times the bytes of the rows what is held is brought then.
COMPACT_TO = 1.75

_ROWS_FIRST = 64


class _Bag:
    """Parallel arrays from which entries are drawn without replacement.

    Args:
        parts: Of each array the shape of an entry, and the dtype.
        rng: Draws.
        rows_max: How many entries there mostly are at most.
    """

    def __init__(
        self, parts: Sequence[tuple[tuple[int, ...], np.dtype[Any]]], rng: Generator, rows_max: int = 0
    ) -> None:
        self._rng = rng
        self._rows_max = rows_max
        self._count = 0
        self._arrays: list[Array] = [np.empty((_ROWS_FIRST, *shape), dtype) for shape, dtype in parts]

    def __len__(self) -> int:
        return self._count

    def together(self, count: int) -> int:
        """All of them: each is copied, wherever it lies."""
        return count

    def _append(self, *values: Column | int) -> None:
        """Add entries, given for each array; what is given for the last says how many. A failure adds nothing."""
        count = self._count + len(values[-1])  # type: ignore[arg-type]
        if count > len(self._arrays[0]):
            grown = min(GROWTH * len(self._arrays[0]), self._rows_max)
            self._resize(grown if count <= grown else 2 * count)
        for array, value in zip(self._arrays, values, strict=True):
            array[self._count : count] = value
        self._count = count

    def _resize(self, rows: int) -> None:
        resized = [np.empty((rows, *array.shape[1:]), array.dtype) for array in self._arrays]
        for new, old in zip(resized, self._arrays, strict=True):
            new[: self._count] = old[: self._count]
        self._arrays = resized

    def _draw(self, count: int) -> list[Array]:
        """Take entries out; return them, of each array."""
        if count == 1:  # in a third of the time
            at, last = int(self._rng.integers(self._count)), self._count - 1
            drawn = [array[at : at + 1].copy() for array in self._arrays]
            for array in self._arrays:
                array[at] = array[last]
            self._count = last
            return drawn
        chosen = self._choose(count)
        drawn = [array[chosen] for array in self._arrays]
        self._fill_holes(chosen)
        return drawn

    def _choose(self, count: int) -> Array:
        if 2 * count > self._count:
            return self._rng.permutation(self._count)[:count]
        chosen = self._rng.integers(0, self._count, count)
        if len(set(chosen.tolist())) == count:  # in a tenth of the time, and mostly
            return chosen
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
        for array in self._arrays:
            array[holes] = array[movers]
        self._count = left


class CopiedShuffleOrder(_Bag):
    """Small rows of numbers, all of one size, and their numbers of acceptance."""

    def __init__(self, definition: QueueDefinition, rng: Generator) -> None:
        parts: list[Any] = [(part.shape, numpy_dtype(part.dtype)) for part in definition.element.components]
        row_bytes = definition.element.nbytes or 0
        rows = definition.bytes_max // max(1, row_bytes)
        rows_max = rows if definition.capacity == UNBOUNDED else min(rows, definition.capacity)
        super().__init__([*parts, ((), np.dtype(np.int64))], rng, rows_max)
        self._row_bytes = row_bytes
        self._touched_rows = 0

    @staticmethod
    def takes(definition: QueueDefinition) -> bool:
        """Whether the elements of a queue are small, and of one size."""
        row_bytes = definition.element.nbytes
        return row_bytes is not None and row_bytes <= COPIED_BYTES_MAX

    def push(self, segment: Segment, start: int, stop: int, number: int) -> None:
        """Add rows to the bag."""
        self._add(segment, slice(start, stop), np.arange(number, number + stop - start))

    def put_back(self, rows: Rows) -> None:
        """Return rows to the bag."""
        for part in rows.parts:
            assert isinstance(part.numbers, np.ndarray)
            self._add(part.segment, part.index, part.numbers)

    def pop(self, count: int) -> Rows:
        """Draw rows without replacement."""
        *columns, numbers = self._draw(count)
        if self._touched_rows > 4 * self._count and self._touched_rows * (self._row_bytes + 8) > TOUCHED_BYTES_MAX:
            with suppress(MemoryError):  # what was drawn is not lost for that
                self._resize(max(_ROWS_FIRST, 2 * self._count))
                self._touched_rows = self._count
        rows = Rows()
        index = np.arange(count)  # no slice: what comes back is put back as it was, whatever is done to a view of it
        rows.add(Segment(count, tuple(columns), self._row_bytes), index, numbers, index)
        return rows

    def _add(self, segment: Segment, index: Index, numbers: Array) -> None:
        columns = [pad_column(take_rows(column, index)) for column in segment.columns]  # sizes are the same in all rows
        self._append(*columns, numbers)
        self._touched_rows = max(self._touched_rows, self._count)


class ShuffleOrder(_Bag):
    """Where rows lie: their segments, by slots, and their places in these, and their numbers of acceptance.

    One row that is left keeps the memory of its whole segment, unless rows lie apart: so the emptiest are copied down
    to their rows when all hold more than twice what is in.
    """

    def __init__(self, rng: Generator) -> None:
        super().__init__([((), np.dtype(np.intp)), ((), np.dtype(np.intp)), ((), np.dtype(np.int64))], rng)
        self._segments: dict[int, Segment] = {}
        self._slot_of: dict[Segment, int] = {}
        self._live: dict[int, int] = {}
        self._next_slot = 0
        self._row_bytes = 0
        self._segment_bytes = 0

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

    def pop(self, count: int) -> Rows:
        """Draw rows without replacement."""
        slots, indices, numbers = self._draw(count)
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
        self._row_bytes -= sum([part.segment.kept_nbytes(part.index) for part in rows.parts])
        self._compact()
        return rows

    def _release(self, slot: int, count: int) -> None:
        self._live[slot] -= count
        if not self._live[slot]:
            segment = self._segments.pop(slot)
            del self._live[slot], self._slot_of[segment]
            self._segment_bytes -= segment.kept_nbytes(slice(0, segment.rows))

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
            held -= segment.kept_nbytes(slice(0, segment.rows)) * (1 - self._live[slot] / segment.rows)
        slots, indices, _ = self._arrays
        rows = np.flatnonzero(np.isin(slots[: self._count], chosen))
        by_slot = rows[np.argsort(slots[rows], kind="stable")]
        edges = np.flatnonzero(np.diff(slots[by_slot])) + 1
        for places in np.split(by_slot, edges):
            slot = int(slots[places[0]])
            whole = self._segments[slot]
            part = self._segments[slot] = whole.select(indices[places])
            del self._slot_of[whole]
            self._slot_of[part] = slot
            indices[places] = np.arange(len(places))
            self._segment_bytes += part.kept_nbytes(slice(0, part.rows)) - whole.kept_nbytes(slice(0, whole.rows))

    def _add(self, segment: Segment, indices: Array, numbers: Array) -> None:
        slot = self._slot_of.get(segment, self._next_slot)
        self._append(slot, indices, numbers)
        if slot == self._next_slot:
            self._next_slot += 1
            self._segments[slot] = segment
            self._slot_of[segment] = slot
            self._live[slot] = 0
            self._segment_bytes += segment.kept_nbytes(slice(0, segment.rows))
        self._live[slot] += len(indices)
        self._row_bytes += segment.kept_nbytes(indices)
