"""A queue with what belongs to it besides its elements: who is attached, its producers, and its end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aioflow.errors import LostProducer, SpecMismatch
from aioflow.queues import Completed, Failed, QueueMachine
from aioflow.resources._producers import Producers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aioflow.errors import AioflowError
    from aioflow.queues import Effect, QueueDefinition, QueueStats, Ticket

__all__ = ["QueueResource"]


@dataclass(frozen=True, slots=True)
class _Join:
    """A registration that waits for its name to become free."""

    ticket: Ticket
    session: str
    name: str
    rejoin_s: float
    give_up: float


class QueueResource:
    """A queue in a container.

    Attributes:
        machine: The queue itself.
        sessions: The sessions that are attached to it.
        left_at: When the last one was detached; None while one is attached.
        batch: How many rows the latest get or request ahead takes at once; 0 before the first.
    """

    def __init__(self, machine: QueueMachine, on_lost: Callable[[LostProducer], None], container: str = "") -> None:
        self.machine = machine
        self._container = container
        self.sessions: set[str] = set()
        self.left_at: float | None = None
        self.batch = 0
        self._rejoin_s: dict[str, float] = {}
        self._producers = Producers(machine.definition.producers or 1, on_lost)
        self._joins: deque[_Join] = deque()
        self._effects: list[Effect] = []
        self._closing = False
        self._silent: dict[str, set[str]] = {}  # names that count as lost until their session resumes
        self._waive_at: float | None = None

    @property
    def definition(self) -> QueueDefinition:
        """What the queue is."""
        return self.machine.definition

    def batching(self) -> tuple[int, int]:
        """Return how many rows gets take at once, and how many are in behind the last whole such batch."""
        return self.batch, self.machine.remaining % self.batch if self.batch else 0

    def take_effects(self) -> list[Effect]:
        """Return what has happened to operations and registrations since the last call."""
        effects, self._effects = self._effects, []
        return [*effects, *self.machine.take_effects()]

    def stats(self) -> QueueStats:
        """Return a snapshot, with the names of the producers and the container."""
        return replace(self.machine.stats(), producers=tuple(self._producers.present), container=self._container)

    # Producers

    def join(self, session: str, name: str, *, rejoin_s: float, give_up: float) -> Ticket:
        """Register a producer, waiting until `give_up` for a name that is in use to become free."""
        ticket = self.machine.issue_ticket()
        self._joins.append(_Join(ticket, session, name, rejoin_s, give_up))
        self._serve_joins()
        return ticket

    def leave(self, name: str, lost: LostProducer | None, now: float) -> None:
        """Take a producer out; the last one's leaving closes the queue."""
        rejoin_s = self._rejoin_s.get(name, 0)
        self._producers.leave(name, lost, now + rejoin_s if rejoin_s > 0 else None)
        self._serve_joins()
        self._close_if_left()

    def is_held(self, name: str, session: str) -> bool:
        """Whether this session is registered as the producer of this name."""
        return self._producers.present.get(name) == session

    def cancel_join(self, ticket: Ticket) -> bool:
        """Withdraw a registration that still waits for its name."""
        for join in self._joins:
            if join.ticket == ticket:
                self._joins.remove(join)
                return True
        return False

    def detach(self, session: str, now: float, reason: str) -> None:
        """Forget a session: its registrations count as lost."""
        self.sessions.discard(session)
        if not self.sessions:
            self.left_at = now
        self._joins = deque(join for join in self._joins if join.session != session)
        self.silence(session, now, reason)
        self._silent.pop(session, None)

    def silence(self, session: str, now: float, reason: str) -> None:
        """Count a session's registrations as lost until it resumes."""
        for name in [name for name, holder in self._producers.present.items() if holder == session]:
            self._silent.setdefault(session, set()).add(name)
            self.leave(name, LostProducer(name, reason), now)

    def resume(self, session: str) -> None:
        """Register a session's producers again, where nobody took their names and the queue is open."""
        for name in sorted(self._silent.pop(session, ())):
            if name not in self._producers.present and not self.machine.is_closed and not self._closing:
                self._producers.join(session, name)
        self._report_lost()

    def waive(self, at: float) -> None:
        """Expect no further names after `at`: those who had come and left before a restart do not come again."""
        if self._waive_at is None:
            self._waive_at = at

    def abort(self, error: AioflowError) -> None:
        """Fail whatever waits, for a name too, and drop what is held: the queue is deleted."""
        self.machine.abort(error)
        self._effects += [Failed(join.ticket, error) for join in self._joins]
        self._joins.clear()

    # Time

    def expire(self, now: float) -> None:
        """Do what is due: give up on names in use, count who has not come back."""
        for join in [join for join in self._joins if now >= join.give_up]:
            self._joins.remove(join)
            reason = (
                f"a producer named {join.name!r} is registered on {self.machine} already and did not go; "
                "give each producer a name of its own"
            )
            self._effects.append(Failed(join.ticket, SpecMismatch(reason)))
        if self._waive_at is not None and now >= self._waive_at:
            self._waive_at = None
            self._producers.needed = 1
            self._close_if_left()
        if self._producers.away:
            self._producers.expire(now)
            self._close_if_left()

    def deadlines(self) -> Iterator[float]:
        """When `expire` has something to do."""
        yield from (join.give_up for join in self._joins)
        yield from (back_by for back_by, _ in self._producers.away.values())
        if self._waive_at is not None:
            yield self._waive_at

    def _serve_joins(self) -> None:
        for join in list(self._joins):
            if join.name not in self._producers.present:
                self._joins.remove(join)
                self._producers.join(join.session, join.name)
                self._rejoin_s[join.name] = join.rejoin_s
                self._report_lost()
                self._effects.append(Completed(join.ticket))

    def _report_lost(self) -> None:
        self.machine.lost_producers = tuple(self._producers.lost.values())

    def _close_if_left(self) -> None:
        self._report_lost()
        if self._producers.all_left and not self._closing and not self.machine.is_closed:
            self._closing = True
            self.machine.close()
