"""Containers: (container, name) to the queue or variable of that name; who finds which, and when one is removed.

A session is attached to a queue from its first operation on it to the session's end. A closed, drained queue stays for
late consumers until nobody has been attached for `session_s`, until it is deleted, or until a producer registers, or a
put comes from a session that is not attached yet, while nobody else is attached: that starts a new queue. A variable
stays until its container is emptied; one without a name goes with its session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from aioflow.errors import LostProducer, NotFound, SpecMismatch
from aioflow.queues import UNBOUNDED, QueueDefinition, QueueMachine, QueueStats
from aioflow.resources._queue import QueueResource
from aioflow.resources._variables import VariableKey, VariableRef, VariableResource

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.random import Generator

__all__ = ["QueueKey", "QueueRef", "Resources", "ServerStats"]

OnLost = Callable[[str, LostProducer], None]


class QueueKey(NamedTuple):
    """What a queue is found by; a tuple, as those are hashed and compared without a call of Python.

    Attributes:
        container: Its container; empty is the default one.
        name: Its shared name, or the name that its definition has in its session.
        session: The session to which it is private; empty for a shared one.
    """

    container: str
    name: str
    session: str = ""


@dataclass(frozen=True, slots=True)
class QueueRef:
    """A key together with the definition that the user has, which finds or makes the queue."""

    key: QueueKey
    definition: QueueDefinition

    def __hash__(self) -> int:
        """Hash the key alone: it nearly always decides, and a definition is long."""
        return hash(self.key)


@dataclass(frozen=True, slots=True)
class ServerStats:
    """A snapshot of what one task of a cluster holds.

    Attributes:
        task: Its name, such as "/job:ps/task:0"; empty for an embedded session.
        memory_bytes: Shared memory between it and its clients on the same host, free places included, counted once,
            with what clients that are gone have left in use; 0 where none is shared.
        queues: By container and name; those private to sessions too.
        missing: Why the task could not be asked; empty where it was.
    """

    task: str
    memory_bytes: int
    queues: tuple[QueueStats, ...]
    missing: str = ""


class Resources:
    """The queues and variables of one task, or of one embedded session."""

    def __init__(
        self,
        make_rng: Callable[[int | None], Generator],
        *,
        session_s: float,
        bytes_required: bool = False,
        on_lost: OnLost = lambda *_: None,
    ) -> None:
        """Start empty.

        Args:
            make_rng: Makes the generator of a queue from its seed, which may be None.
            session_s: How long a closed, drained queue to which nobody is attached stays.
            bytes_required: Whether a queue without a limit in elements must state one in bytes.
            on_lost: Told of which queue ("queue 'NAME'") which producer counts as lost, when it does.
        """
        self.queues: dict[QueueKey, QueueResource] = {}
        self.variables: dict[VariableKey, VariableResource] = {}
        self._make_rng = make_rng
        self._session_s = session_s
        self._bytes_required = bytes_required
        self._on_lost = on_lost

    def attach(self, session: str, ref: QueueRef, *, puts: bool = False, registers: bool = False) -> QueueResource:
        """Find or make a queue and attach a session to it.

        Args:
            session: Who attaches.
            ref: Which queue.
            puts: Whether this is for a put.
            registers: Whether this is for the registration of a producer.

        Raises:
            SpecMismatch: The queue exists and differs; the message names every difference, and nothing has changed.
        """
        queue = self.queues.get(ref.key)
        begins = registers or (puts and queue is not None and session not in queue.sessions)
        if begins and queue is not None and queue.machine.is_drained and not queue.sessions - {session}:
            queue = None
        if queue is None:
            queue = self._make(ref)
        elif queue.definition is not ref.definition and (differences := queue.definition.differences(ref.definition)):
            raise SpecMismatch(
                f"{queue.machine} exists and the definition disagrees: "
                + "; ".join(differences)
                + ". Use the same definition everywhere (one module that both sides import), or another shared_name"
            )
        queue.sessions.add(session)
        queue.left_at = None
        return queue

    def lookup(self, key: QueueKey) -> QueueDefinition:
        """Return the definition of a queue that exists.

        Raises:
            NotFound: There is none under this key.
        """
        queue = self.queues.get(key)
        if queue is None:
            known = sorted(k.name for k in self.queues if k.container == key.container and not k.session)
            where = f" in container {key.container!r}" if key.container else ""
            raise NotFound(
                f"there is no queue {key.name!r}{where}; there are {known or 'none'}. "
                "A queue is made by the first operation on its definition"
            )
        return queue.definition

    def stats(self) -> list[QueueStats]:
        """Return snapshots of all queues, by container and name."""
        keys = sorted(self.queues, key=lambda key: (key.container, key.name, key.session))
        return [self.queues[key].stats() for key in keys]

    def delete(self, key: QueueKey) -> None:
        """Remove a queue: what waits on it fails with `NotFound`, what it holds is dropped."""
        queue = self.queues.pop(key)
        queue.abort(NotFound(f"{queue.machine} was deleted"))

    def variable(self, ref: VariableRef) -> VariableResource:
        """Find or make a variable.

        Raises:
            SpecMismatch: It exists and its values are of another dtype or shape.
        """
        variable = self.variables.get(ref.key)
        if variable is None:
            variable = self.variables[ref.key] = VariableResource(ref.key.name, ref.spec)
        elif variable.spec != ref.spec:
            raise SpecMismatch(
                f"{variable} exists with values {variable.spec}, and this definition says {ref.spec}; "
                "use the same definition everywhere, or another name"
            )
        return variable

    def reset(self, containers: Collection[str]) -> list[QueueResource]:
        """Empty containers of what is shared; return the queues that have effects: what waits fails with `NotFound`."""
        emptied = [key for key in self.queues if key.container in containers and not key.session]
        touched = [self.queues[key] for key in emptied]
        for key in emptied:
            self.delete(key)
        for name in [key for key in self.variables if key.container in containers and not key.session]:
            del self.variables[name]
        return touched

    def detach(self, session: str, now: float, reason: str) -> list[QueueResource]:
        """Detach a session from every queue, remove its private ones, and return those that have effects."""
        touched = [queue for queue in self.queues.values() if session in queue.sessions]
        for queue in touched:
            queue.detach(session, now, reason)
        for key in [key for key in self.queues if key.session == session and session]:
            self.delete(key)
        for name in [key for key in self.variables if key.session == session and session]:
            del self.variables[name]
        return touched

    def silence(self, session: str, now: float, reason: str) -> list[QueueResource]:
        """Count a session's registrations as lost until it resumes; return the queues that have effects."""
        touched = [queue for queue in self.queues.values() if session in queue.sessions]
        for queue in touched:
            queue.silence(session, now, reason)
        return touched

    def resume(self, session: str) -> list[QueueResource]:
        """Register a session's producers again, if it was silenced; return the queues that have effects."""
        touched = [queue for queue in self.queues.values() if session in queue.sessions]
        for queue in touched:
            queue.resume(session)
        return touched

    def expire(self, now: float) -> list[QueueResource]:
        """Do what is due by `now`, and return the queues that may have effects."""
        touched = [queue for queue in self.queues.values() if any(due <= now for due in queue.deadlines())]
        for queue in touched:
            queue.expire(now)
        for key, queue in list(self.queues.items()):
            if queue.machine.is_drained and queue.left_at is not None and now >= queue.left_at + self._session_s:
                del self.queues[key]
        return touched

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next."""
        due = [when for queue in self.queues.values() for when in queue.deadlines()]
        due += [
            queue.left_at + self._session_s
            for queue in self.queues.values()
            if queue.left_at is not None and queue.machine.is_drained
        ]
        return min(due, default=None)

    def _make(self, ref: QueueRef) -> QueueResource:
        definition = ref.definition
        if self._bytes_required and definition.capacity == UNBOUNDED and definition.capacity_bytes is None:
            raise SpecMismatch(
                f"queue {ref.key.name!r} has no limit in elements (capacity={UNBOUNDED}); "
                "on a server it needs capacity_bytes="
            )
        # A generator takes no negative seed; TensorFlow takes any int64.
        rng = self._make_rng(None if definition.seed is None else definition.seed % 2**64)
        machine = QueueMachine(definition, rng, ref.key.name)
        queue = QueueResource(machine, partial(self._on_lost, str(machine)), ref.key.container)
        self.queues[ref.key] = queue
        return queue
