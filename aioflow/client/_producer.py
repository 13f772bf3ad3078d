"""Registration of a producer for the length of a block."""

from __future__ import annotations

import itertools
import math
import os
import socket
import traceback as tracebacks
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

import anyio

from aioflow.errors import AioflowError, SpecMismatch
from aioflow.names import check_shared_name
from aioflow.resources import LostProducer
from aioflow.runtime import complete, complete_put

if TYPE_CHECKING:
    from types import TracebackType

    from aioflow.client._queue import Queue
    from aioflow.resources import QueueRef
    from aioflow.runtime import Call, Host

__all__ = ["Producer"]

# Leaving by an error waits so long for the server's answer: one that does not answer must not keep a process alive.
# Leaving in order waits as any other call does, an outage out: else a producer that is done would count as lost.
LEAVE_S = 0.5

_numbers = itertools.count(1)


class Producer:
    """A registered producer; made by `queue.producer()`, entered with `async with`.

    Attributes:
        name: The name under which it is registered.
    """

    def __init__(self, queue: Queue, name: str | None, rejoin_s: float) -> None:
        if not isinstance(rejoin_s, (int, float)) or not 0 <= rejoin_s < math.inf:  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise SpecMismatch(f"rejoin_s is {rejoin_s!r}; expected seconds, 0 or more")
        if name is not None:
            check_shared_name(name, "a producer's name")
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{next(_numbers)}"
        self._queue = queue
        self._rejoin_s = rejoin_s
        self._joined: tuple[Host, QueueRef] | None = None

    async def __aenter__(self) -> Self:
        """Register; waits up to `lost_s` + 1 s for a name that is in use. A cancelled one is not registered.

        If the server was out of reach then and turns out to have registered it, it counts as lost by the cancellation.
        """
        host, ref = await self._queue._begin()  # noqa: SLF001 - one package
        join = host.join(ref, self.name, self._rejoin_s)
        try:
            await complete_put(join)
        except anyio.get_cancelled_exc_class() as cancelled:
            if not join.waiter.is_set:  # in doubt; else nobody would ever take it out
                join.waiter.when_set(partial(self._leave_late, join, host, ref, type(cancelled).__name__))
            raise
        self._joined = host, ref
        host.seen.add(ref.key)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave; an exception is reported to the queue's consumers, with its traceback."""
        assert self._joined is not None
        host, ref = self._joined
        lost = None
        if error is not None:
            text = "".join(tracebacks.format_exception(error))
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            lost = LostProducer(self.name, reason, text)
        if error is None:
            await complete(host.leave(ref, self.name, None))
            return
        with suppress(AioflowError), anyio.move_on_after(LEAVE_S, shield=True):  # the body's own error says more
            await host.leave(ref, self.name, lost).waiter.wait()

    def _leave_late(self, join: Call, host: Host, ref: QueueRef, reason: str) -> None:
        if join.waiter.error is None:
            with suppress(AioflowError):
                host.leave(ref, self.name, LostProducer(self.name, reason, ""))
