"""What the tests of the machine have in common: a queue whose elements are named by numbers, and no event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow.queues import Completed, Failed, Kind, QueueDefinition, QueueMachine, Recall, Segment, Ticket
from aioflow.specs import ElementSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.errors import AioflowError


class Bench:
    """A machine with its events in short words, and what became of each ticket."""

    def __init__(self, definition: QueueDefinition, seed: int = 0) -> None:
        self.machine = QueueMachine(definition, np.random.default_rng(seed), "bench")
        self.results: dict[int, Any] = {}
        self.recalled: list[int] = []

    def put(self, *numbers: int, nbytes: int | Sequence[int] = 1) -> Ticket:
        """Enqueue elements in one put; in a PriorityQueue a number is its own priority."""
        row_bytes = nbytes if isinstance(nbytes, int) else np.array(nbytes)
        values = np.array(numbers, np.int64)
        ticket = self.machine.enqueue(Segment(len(numbers), (values,), row_bytes, values))
        return self._note(ticket)

    def get(self, count: int, *, up_to: bool = False) -> Ticket:
        """Dequeue elements."""
        return self._note(self.machine.dequeue(count, up_to=up_to))

    def take(self, count: int, *, up_to: bool = False) -> Any:
        """Dequeue elements that are there, and acknowledge them."""
        ticket = self.get(count, up_to=up_to)
        self.acknowledge(ticket)
        return self.results[ticket]

    def ask(self, count: int, runs: int = 1, owner: str = "") -> Ticket:
        """Request elements ahead."""
        return self._note(self.machine.ask(count, runs, owner))

    def promote(self, ticket: Ticket) -> None:
        """Make a request a get."""
        self.machine.promote(ticket)
        self._note()

    def close(self, *, cancel_pending: bool = False) -> Ticket:
        """Close."""
        return self._note(self.machine.close(cancel_pending=cancel_pending))

    def cancel(self, ticket: Ticket) -> int | None:
        """Withdraw."""
        rows = self.machine.cancel(ticket)
        self._note()
        return rows

    def acknowledge(self, ticket: Ticket, rows: int | None = None) -> None:
        """Hand over, so many rows in all or the whole."""
        self.machine.acknowledge(ticket, rows)
        self._note()

    def restore(self, ticket: Ticket) -> None:
        """Give back."""
        self.machine.restore(ticket)
        self._note()

    def forgo(self, ticket: Ticket) -> None:
        """Give others the room of what went ahead."""
        self.machine.forgo(ticket)
        self._note()

    def abort(self, error: AioflowError) -> None:
        """Delete."""
        self.machine.abort(error)
        self._note()

    @property
    def size(self) -> int:
        """How many are in."""
        return len(self.machine)

    def waits(self, ticket: Ticket) -> bool:
        """Whether nothing has become of a ticket."""
        return ticket not in self.results

    def _note(self, ticket: Ticket | None = None) -> Ticket:
        for effect in self.machine.take_effects():
            if isinstance(effect, Recall):
                self.recalled.append(effect.ticket)
            else:
                assert effect.ticket not in self.results, "a ticket ended twice"
                self.results[effect.ticket] = self._result(effect)
        return Ticket(0) if ticket is None else ticket

    @staticmethod
    def _result(effect: Completed | Failed) -> Any:
        if isinstance(effect, Failed):
            return effect.error
        if effect.rows is None:
            return None
        numbers = np.empty(effect.rows.count, np.int64)
        for part in effect.rows.parts:
            numbers[part.places] = part.segment.columns[0][part.index]  # type: ignore[index]
        return numbers.tolist()


def define(
    kind: Kind = "FIFOQueue", capacity: int = 10, *, capacity_bytes: int | None = None, min_after_dequeue: int = 0
) -> QueueDefinition:
    """Define a queue of elements of any size."""
    element = ElementSpec((TensorSpec("int64", None),))
    return QueueDefinition(kind, element, capacity, capacity_bytes=capacity_bytes, min_after_dequeue=min_after_dequeue)


@pytest.fixture
def make() -> Callable[..., Bench]:
    """Make a bench from the arguments of a definition."""

    def make_bench(*args: Any, seed: int = 0, **kwargs: Any) -> Bench:
        return Bench(define(*args, **kwargs), seed)

    return make_bench
