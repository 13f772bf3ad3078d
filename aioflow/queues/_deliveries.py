"""Deliveries: what gets received and nobody has acknowledged or given back yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioflow.queues._segments import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioflow.queues._effects import Ticket
    from aioflow.queues._segments import Segment

__all__ = ["Deliveries", "Delivery"]


@dataclass(slots=True, eq=False)
class Delivery:
    """What a completed get took.

    Attributes:
        rows: The rows.
        own: How many rows, from the beginning, a get has taken; those behind went ahead, and count as in the queue.
        acknowledged: How many rows, from the beginning, were handed over.
        recalled: Whether it was asked back.
    """

    rows: Rows
    own: int
    acknowledged: int = 0
    recalled: bool = False
    _bytes_before: list[int] | None = None

    @property
    def ahead(self) -> int:
        """How many rows count as in the queue."""
        return self.rows.count - max(self.own, self.acknowledged)

    @property
    def ahead_bytes(self) -> int:
        """Their payload bytes."""
        return self.rows.nbytes - self.bytes_before(max(self.own, self.acknowledged))

    def release(self) -> None:
        """Let go of the memory of the rows, where it is not shared with others."""
        for part in self.rows.parts:
            part.segment.release(part.index)

    def move(self, segment: Segment) -> None:
        """Have the rows in another segment from now on, in order; let go of where they were."""
        moved = Rows()
        for part in self.rows.parts:
            moved.add(segment, part.places, part.numbers, part.places)
        self.release()
        self.rows = moved

    def bytes_before(self, row: int) -> int:
        """Payload bytes of the first `row` rows; added up once, for what is handed over row by row."""
        if not row or row == self.rows.count:
            return self.rows.nbytes if row else 0
        segment = self.rows.parts[0].segment
        if len(self.rows.parts) == 1 and isinstance(segment.row_bytes, int):
            return row * segment.row_bytes
        if self._bytes_before is None:
            self._bytes_before = self.rows.bytes_before()
        return self._bytes_before[row]


class Deliveries:
    """Open deliveries by ticket, in the order in which they were made.

    Attributes:
        count: Rows in all of them that are not acknowledged.
        ahead: Those that went ahead.
        ahead_bytes: Their payload bytes.
    """

    def __init__(self) -> None:
        self.count = self.ahead = self.ahead_bytes = 0
        self._open: dict[Ticket, Delivery] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, ticket: Ticket, rows: Rows, own: int) -> None:
        """Open one, of whose rows so many, from the beginning, did not go ahead."""
        delivery = self._open[ticket] = Delivery(rows, own)
        self.count += rows.count
        self.ahead += delivery.ahead
        self.ahead_bytes += delivery.ahead_bytes

    def acknowledge(self, ticket: Ticket, rows: int | None = None, *, releases: bool = True) -> int:
        """Take out the first `rows` rows of one, or all; return how many of them were still in.

        When all of them are out, their memory is let go of.
        """
        delivery = self._open.get(ticket)
        if delivery is None:
            return 0
        before, after = delivery.acknowledged, delivery.rows.count
        if rows is not None and rows < after:
            after = max(before, rows)
        else:
            del self._open[ticket]
            if releases:
                delivery.release()
        delivery.acknowledged = after
        self.count -= after - before
        first = max(before, delivery.own)
        if after > first:
            self.ahead -= after - first
            self.ahead_bytes -= delivery.bytes_before(after) - delivery.bytes_before(first)
        return after - before

    def move(self, ticket: Ticket, segment: Segment) -> None:
        """Have the rows of one in another segment from now on."""
        if (delivery := self._open.get(ticket)) is not None:
            delivery.move(segment)

    def end(self, ticket: Ticket) -> Rows | None:
        """Take one out and return what was not acknowledged of it; None if it has ended before."""
        delivery = self._open.get(ticket)
        if delivery is None:
            return None
        done = delivery.acknowledged
        self.acknowledge(ticket, releases=False)
        return delivery.rows.after(done) if done else delivery.rows

    def forgo(self, ticket: Ticket) -> bool:
        """Count one no longer as in the queue, although it may come back; say whether it was counted so."""
        delivery = self._open.get(ticket)
        if delivery is None or not delivery.ahead:
            return False
        self.ahead -= delivery.ahead
        self.ahead_bytes -= delivery.ahead_bytes
        delivery.own = delivery.rows.count
        return True

    def clear(self) -> None:
        """Forget all."""
        for ticket in list(self._open):
            self.acknowledge(ticket)

    def recall(self) -> Iterator[Ticket]:
        """Ask back all that went ahead and was not asked back before: a part of it would come out of order."""
        for ticket, delivery in self._open.items():
            if delivery.ahead and not delivery.recalled:
                delivery.recalled = True
                yield ticket
