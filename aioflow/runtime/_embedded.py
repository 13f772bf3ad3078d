"""The embedded host: resources of one session in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aioflow.errors import SessionClosed
from aioflow.resources import Resources
from aioflow.runtime._background import Background
from aioflow.runtime._local_host import LocalHost
from aioflow.runtime._timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.queues import Effect, Ticket
    from aioflow.resources import QueueResource
    from aioflow.runtime._config import SessionConfig

__all__ = ["EmbeddedHost"]

# Names by which a definition may call this process: TensorFlow's local job, and that of `Server({"local": ...})`.
_JOBS = ("localhost", "local")


class EmbeddedHost(LocalHost):
    """Resources of one session in this process; they end with it."""

    def __init__(self, config: SessionConfig) -> None:
        resources = Resources(np.random.default_rng, session_s=config.session_s)
        self._watched: dict[tuple[QueueResource, Ticket], Callable[[Effect], None]] = {}
        super().__init__(resources, self, "embedded", jobs=_JOBS, task=0, tasks=1, lost_s=config.lost_s)
        self._background = Background(self.fail_all)
        self._timer = Timer(resources.next_deadline, self._expire)

    async def open(self) -> None:
        """Start the timer."""
        group = await self._background.start()
        group.start_soon(self._timer.run)

    async def close(self) -> None:
        """End every call with `SessionClosed`."""
        self.fail_all(SessionClosed("the session was closed while this operation waited"))
        await self._background.stop()

    # Effects

    def watch(self, queue: QueueResource, ticket: Ticket, tell: Callable[[Effect], None]) -> None:
        """Tell of the next effect of a ticket, once."""
        self._watched[queue, ticket] = tell

    def forget(self, queue: QueueResource, ticket: Ticket) -> None:
        """Expect no effect of a ticket any more."""
        self._watched.pop((queue, ticket), None)

    def perform(self, queue: QueueResource) -> None:
        """Tell of the effects that a queue has now."""
        for effect in queue.take_effects():
            tell = self._watched.pop((queue, effect.ticket), None)
            if tell is not None:  # else it is the queue's own close
                tell(effect)

    def deadline_moved(self) -> None:
        """Look again when the next thing is due."""
        self._timer.changed()

    def _expire(self, now: float) -> None:
        for queue in self._resources.expire(now):
            self.perform(queue)
