"""How much a writer sends at once: so much that a message counts for little and, of large elements, whole batches.

A batch whose rows all came in one group goes to the consumer as it lies, others are copied together first. So groups of
large elements have as many rows as consumers take at once, or a multiple, and end where a batch does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioflow.queues import QueueDefinition

__all__ = ["GroupSize"]

# A group that fills while others are under way becomes so many times larger: the busier the server, the fewer messages.
GROWTH = 8
# Of small elements a group goes with so many bytes at the latest; so many larger ones are worth a message, which takes
# the three processes a millisecond.
SMALL_BYTES, LARGE_BYTES = 1 << 20, 8 << 20
# What a group of whole batches may have: beside what a queue holds some groups are under way, and that is to be little.
BATCHES_BYTES_MAX = 32 << 20
SHARE = 24
# Elements whose size varies lie one behind the other: the more there are of them, the less is empty at the end.
BLOCK_BYTES = 8 << 20


class GroupSize:
    """When a group goes.

    Args:
        definition: Of the queue.
        batch: Rows that are worth a message, and what consumers take at once as long as none has come.
        batch_bytes: Bytes with which a group goes at the latest, or with one element that has more; None leaves that to
            the size of elements.

    Attributes:
        rows: It goes with so many, if no other one is under way.
        rows_max: It goes with so many in any case.
        nbytes: And with so many bytes.
        groups_max: So many are under way at most: while the server takes one, the next fills.
        unit: It goes with multiples of so many rows only, but for the bytes; 1 for small elements.
        row_bytes: Of a row, where all have the same; else 0.
    """

    def __init__(self, definition: QueueDefinition, batch: int, batch_bytes: int | None) -> None:
        capacity = definition.capacity
        self.groups_max = 2
        self.unit = 1
        self.rows = batch
        self.rows_max = max(batch, min(batch * GROWTH, capacity // 4 if capacity > 0 else batch * GROWTH))
        self.nbytes = SMALL_BYTES if batch_bytes is None else batch_bytes
        self.row_bytes = definition.element.nbytes or 0
        self._batch = batch
        self._bytes_max = definition.bytes_max
        self._rows_most = 0  # of whole batches; none where elements are small
        if batch * self.row_bytes > SMALL_BYTES:
            if batch_bytes is None:
                batch_bytes = min(BATCHES_BYTES_MAX, definition.bytes_max // SHARE)
                self.groups_max = 1  # memory that a queue's bytes do not count
            rows = batch_bytes // self.row_bytes
            self._rows_most = max(1, min(rows, capacity) if capacity > 0 else rows)
            self._fit(batch)

    @property
    def block_rows(self) -> int:
        """Rows that memory is taken for at once."""
        if self._rows_most:
            return self.rows_max
        return min(self._batch * GROWTH, -(-self.nbytes // max(1, self.row_bytes)))

    @property
    def block_bytes(self) -> int:
        """Bytes that memory is taken for at once, where the size of elements varies."""
        return max(self.nbytes, min(BLOCK_BYTES, self._bytes_max // SHARE))

    def take_together(self, count: int) -> bool:
        """Learn how many rows consumers take at once; say whether groups have another size now."""
        if not self._rows_most or count > self._rows_most:
            return False
        are_whole = self.rows % count == 0 and (self.unit > 1 or count == 1)
        if are_whole and self.rows <= self._rows_for(count):  # else it is what others have taken
            return False
        self._fit(count)
        return True

    def _rows_for(self, unit: int) -> int:
        """Return how many rows go if no other group is under way, in multiples of a unit."""
        return unit * max(1, min(self._rows_most, self._batch) // unit)

    def _fit(self, count: int) -> None:
        """Have groups end where batches of so many rows do or, if that is too much, where their memory does."""
        self.unit = min(count, self._rows_most)
        most = self._rows_most // self.unit
        several = LARGE_BYTES // (self.unit * self.row_bytes)  # while others are under way
        self.rows = self._rows_for(self.unit)
        self.rows_max = max(self.rows, self.unit * min(most, several, self._batch * GROWTH // self.unit))
        self.nbytes = self.rows_max * self.row_bytes

    def is_ripe(self, rows: int, nbytes: int) -> bool:
        """Whether a group of so many goes if no other one is under way."""
        return (rows >= self.rows and rows % self.unit == 0) or nbytes >= self.nbytes

    def is_full(self, rows: int, nbytes: int) -> bool:
        """Whether it goes in any case."""
        return rows >= self.rows_max or nbytes >= self.nbytes

    def rows_until(self, rows: int, *, is_alone: bool) -> int:
        """Return how many rows are missing until it may go; below 1 if it may."""
        if self.unit == 1:
            return (self.rows if is_alone else self.rows_max) - rows
        return max(self.rows, (rows // self.unit + 1) * self.unit) - rows

    def has_come(self, rows: int, share: float) -> bool:
        """Whether such a share of a whole batch of large elements is among so many rows."""
        return self.unit > 1 and rows % self.unit >= share * self.unit

    def rows_together(self, gone: int) -> int:
        """Return how many rows are to lie in one piece of memory, once so many of their batch have gone."""
        return self.unit - gone if self.unit > 1 else min(self.rows, self.block_rows // 2)  # half is used at least

    def gone(self, rows: int, nbytes: int) -> tuple[int, int]:
        """Return what has gone of a group, in rows and bytes, when so much of it goes: the next is the rest of it."""
        if self.unit > 1:
            return rows % self.unit, rows % self.unit * self.row_bytes
        return (0, 0) if self.is_ripe(rows, nbytes) else (rows, nbytes)
