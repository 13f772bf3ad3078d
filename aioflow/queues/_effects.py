"""What a queue machine says: effects of events on operations, and snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from aioflow.errors import AioflowError
    from aioflow.queues._segments import Rows

__all__ = ["Completed", "Effect", "Failed", "QueueStats", "Recall", "Ticket"]

Ticket = NewType("Ticket", int)


@dataclass(frozen=True, slots=True)
class Completed:
    """An operation is done; a get has its rows and owes an acknowledgement or a restore."""

    ticket: Ticket
    rows: Rows | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An operation ended with an error."""

    ticket: Ticket
    error: AioflowError


@dataclass(frozen=True, slots=True)
class Recall:
    """What this request ahead holds is wanted by a get: acknowledge it if it was handed over, else restore it."""

    ticket: Ticket


Effect = Completed | Failed | Recall


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A snapshot of a queue.

    Attributes:
        name: The shared name, or a name of its own for a private queue.
        kind: The public class.
        capacity: In elements; -1 is unbounded.
        capacity_bytes: In bytes of payload.
        size: Elements in the queue, those sent ahead included.
        size_bytes: Their payload bytes.
        ahead: Elements that were sent ahead to consumers and not handed over yet.
        unacknowledged: Elements that gets received and have not acknowledged yet.
        is_closed: Whether nothing more is accepted.
        puts_waiting: Enqueues and closes that wait.
        gets_waiting: Dequeues that wait: consumers are faster than producers.
        enqueued: Elements accepted so far.
        dequeued: Elements handed over so far.
        producers: Names that are registered now.
        container: Where it is found under its name; empty is the default one.
    """

    name: str
    kind: str
    capacity: int
    capacity_bytes: int
    size: int
    size_bytes: int
    ahead: int
    unacknowledged: int
    is_closed: bool
    puts_waiting: int
    gets_waiting: int
    enqueued: int
    dequeued: int
    producers: tuple[str, ...] = ()
    container: str = ""

    @property
    def gets_hold(self) -> int:
        """Elements that a get which waits for more has taken: they are not in the queue, and not handed over."""
        return self.enqueued - self.dequeued - self.size - self.unacknowledged
