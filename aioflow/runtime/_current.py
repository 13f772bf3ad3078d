"""Which session is current in a task: a client's, or on a server the one on whose behalf a kernel runs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aioflow.runtime._devices import SessionDevices
    from aioflow.runtime._host import Hosts

__all__ = ["CurrentSession", "current"]


class CurrentSession(Protocol):
    """What the operations of queues and variables need of a session."""

    @property
    def host(self) -> Hosts:
        """Where its resources are."""
        ...

    async def open_devices(self) -> SessionDevices:
        """Return the devices of this process."""
        ...

    def flush_at_close(self, flush: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Have a writer flushed when the session closes; returns what takes it off again."""
        ...


current: ContextVar[CurrentSession | None] = ContextVar("aioflow_session", default=None)
