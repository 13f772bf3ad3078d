"""Bags: each element that is left is equally likely to be next (TensorFlow's RandomShuffleQueue)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from aioflow.queues._store import make_store

if TYPE_CHECKING:
    from numpy.random import Generator

    from aioflow.queues._definition import QueueDefinition
    from aioflow.queues._segments import Rows, Segment
    from aioflow.specs import Array, Index

__all__ = ["ShuffleOrder"]

_SLOTS_FIRST = 64


class ShuffleOrder:
    """Slots, of which some are drawn without replacement; a drawn one's hole is filled from the end."""

    def __init__(self, definition: QueueDefinition, rng: Generator) -> None:
        self._store = make_store(definition)
        self._rng = rng
        self._slots: Array = np.empty(_SLOTS_FIRST, np.intp)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def together(self, count: int) -> int:
        """All of them: each is copied, wherever it lies."""
        return count

    def push(self, segment: Segment, start: int, stop: int, number: int) -> None:
        """Add rows to the bag."""
        self._add(segment, slice(start, stop), np.arange(number, number + stop - start))

    def put_back(self, rows: Rows) -> None:
        """Return rows to the bag."""
        for part in rows.parts:
            self._add(part.segment, part.index, part.all_numbers)

    def pop(self, count: int) -> Rows:
        """Draw rows without replacement."""
        chosen = self._choose(count)
        rows = self._store.take(self._slots[chosen])
        self._fill_holes(chosen)
        if self._store.is_sparse:
            with suppress(MemoryError):  # what was drawn is not lost for that
                self._store.pack(self._slots[: self._count])
                self._slots[: self._count] = np.arange(self._count)
        return rows

    def _add(self, segment: Segment, index: Index, numbers: Array) -> None:
        count = self._count + len(numbers)
        if count > len(self._slots):
            self._slots = np.resize(self._slots, 2 * count)
        self._slots[self._count : count] = self._store.add(segment, index, numbers)
        self._count = count

    def _choose(self, count: int) -> Array:
        """Return the places of slots that are drawn."""
        if count == 1:  # in a third of the time
            return np.array([int(self._rng.integers(self._count))])
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
        if len(chosen) == 1:  # as above
            self._slots[chosen] = self._slots[left]
            self._count = left
            return
        stays = np.ones(len(chosen), np.bool_)
        stays[chosen[chosen >= left] - left] = False
        movers, holes = np.flatnonzero(stays) + left, chosen[chosen < left]
        self._slots[holes] = self._slots[movers]
        self._count = left
