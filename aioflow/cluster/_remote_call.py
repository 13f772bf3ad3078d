"""A request of a session that is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioflow.cluster._admission import pad_columns
from aioflow.runtime import Waiter, current_turn
from aioflow.specs import take_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.cluster._remote import RemoteHost
    from aioflow.runtime import Request
    from aioflow.specs import Column, Dense

__all__ = ["RemoteCall"]


class RemoteCall:
    """A request under way."""

    __slots__ = (
        "_columns",
        "_host",
        "_quick_rows",
        "_quick_turn",
        "_rows",
        "_taken",
        "_values",
        "_waiter",
        "id",
        "is_get",
        "on_recall",
    )

    def __init__(self, host: RemoteHost, on_recall: Callable[[Request], None] | None, *, get: bool) -> None:
        self.id = 0
        self.is_get = get
        self.on_recall = on_recall
        self._waiter: Waiter[Any] = Waiter()
        self._columns: tuple[Column, ...] = ()
        self._values: list[Any] = []  # of all rows, once some were handed over as such
        self._rows = 0
        self._taken = 0
        # How many rows may be handed over without a look at the session, and in which turn; the last is not among them.
        self._quick_rows = 0
        self._quick_turn = 0.0
        self._host = host

    @property
    def waiter(self) -> Waiter[Any]:
        """Its outcome; a new one when rows that had come are the server's again, as it was not heard for too long."""
        if self._rows:
            self._host.check_rows()
        return self._waiter

    @property
    def rows_left(self) -> int:
        """Rows that may be handed over."""
        if self._rows:
            self._host.check_rows()
        return self._rows - self._taken

    def answer(self, value: Any) -> None:
        if self.is_get:
            self._columns, self._values, self._taken = value, [], 0
            self._rows = value[0].shape[0]
        self._waiter.resolve(value)

    def fail(self, error: BaseException) -> None:
        """End with an error, also if rows have come."""
        self.void()
        self._waiter.fail(error)

    def void(self) -> None:
        """Let go of rows that have come: they are the server's again."""
        self._columns, self._values, self._rows, self._taken, self._quick_rows = (), [], 0, 0, 0
        if self._waiter.is_set:
            self._waiter = Waiter()

    def columns(self) -> tuple[Dense, ...]:
        return self.peek(self._rows)

    def acknowledge(self) -> None:
        self._host.acknowledge(self, self._rows)

    def peek(self, count: int) -> tuple[Dense, ...]:
        self._host.check()  # what had come and was not handed over is the queue's again when a session is over
        columns, start = self._columns, self._taken
        if count != self._rows:
            columns = _rows(columns, start, start + count)
        return pad_columns(columns)

    def take(self, count: int) -> tuple[Dense, ...]:
        columns = self.peek(count)
        self._take(count)
        return columns

    def take_as(self, count: int, read: Callable[[tuple[Column, ...]], list[Any]]) -> Any:
        self._host.check()
        self._values = self._values or read(self._columns)
        value = self._values[self._taken // count]
        self._take(count)
        return value

    def _take(self, count: int) -> None:
        self._taken += count
        left = self._rows - self._taken
        self._host.acknowledge_late(self, self._taken, is_all=not left)
        if left > 1 and self._host.has_receipts:
            self._quick_turn, self._quick_rows = current_turn(), left - 1

    def take_quickly(self, turn: float, count: int, read: Callable[[tuple[Column, ...]], list[Any]] | None) -> Any:
        if self._quick_turn != turn or self._quick_rows < count:
            return None
        start = self._taken
        stop = start + count
        if read is None:
            value: Any = pad_columns(_rows(self._columns, start, stop))
        else:
            self._values = self._values or read(self._columns)
            value = self._values[start // count]
        self._taken = stop
        self._quick_rows -= count
        self._host.acknowledge_quickly(self.id, stop)
        return value

    def withdraw(self) -> None:
        self._columns, self._values, self._rows, self._taken, self._quick_rows = (), [], 0, 0, 0
        self._host.withdraw(self)

    def promote(self) -> None:
        self._host.promote(self)


def _rows(columns: tuple[Column, ...], start: int, stop: int) -> tuple[Column, ...]:
    rows = slice(start, stop)
    return tuple([take_rows(column, rows) for column in columns])
