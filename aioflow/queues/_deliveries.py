"""Deliveries: what gets received and nobody has acknowledged or given back yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioflow.queues._effects import Ticket
    from aioflow.queues._segments import Rows

__all__ = ["Deliveries", "Delivery"]


@dataclass(slots=True, eq=False)
class Delivery:
    """What a completed get took.

    Attributes:
        rows: The rows.
        ahead: Whether it counts as in the queue: it answered a request ahead.
        recalled: Whether it was asked back.
    """

    rows: Rows
    ahead: bool
    recalled: bool = False


class Deliveries:
    """Open deliveries by ticket, in the order in which they were made.

    Attributes:
        count: Rows in all of them.
        ahead: Rows in those that went ahead.
        ahead_bytes: Their payload bytes.
    """

    def __init__(self) -> None:
        self.count = self.ahead = self.ahead_bytes = 0
        self._open: dict[Ticket, Delivery] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, ticket: Ticket, rows: Rows, *, ahead: bool) -> None:
        """Open one."""
        self._open[ticket] = Delivery(rows, ahead)
        self._count(rows, 1, ahead=ahead)

    def end(self, ticket: Ticket) -> Delivery | None:
        """Take one out; None if it has ended before."""
        delivery = self._open.pop(ticket, None)
        if delivery is not None:
            self._count(delivery.rows, -1, ahead=delivery.ahead)
        return delivery

    def clear(self) -> None:
        """Forget all."""
        for ticket in list(self._open):
            self.end(ticket)

    def recall(self) -> Iterator[Ticket]:
        """Ask back all that went ahead and was not asked back before: a part of it would come out of order."""
        for ticket, delivery in self._open.items():
            if delivery.ahead and not delivery.recalled:
                delivery.recalled = True
                yield ticket

    def _count(self, rows: Rows, sign: int, *, ahead: bool) -> None:
        self.count += sign * rows.count
        if ahead:
            self.ahead += sign * rows.count
            self.ahead_bytes += sign * rows.nbytes
