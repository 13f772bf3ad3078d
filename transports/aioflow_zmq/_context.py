"""The process's one `zmq.Context` of this package: made with the first socket, ended with the last.

Our own rather than `zmq.Context.instance()`: ending it closes no foreign socket, and no thread or descriptor is left.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import anyio
import zmq
from zmq.utils import garbage

from aioflow_zmq._forks import current_generation
from aioflow_zmq._limits import SOCKETS_MAX

# pyzmq drops its references to sent memory in a thread; how often to look whether it is through, and for how long.
_LOOK_S, _LOOKS_MAX = 0.001, 100


Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


@dataclass(slots=True)
class _Shared:
    context: Context
    generation: int
    collector_is_ours: bool
    users: int = 0


_lock = threading.Lock()
_shared: _Shared | None = None


def acquire_context() -> Context:
    """Return the context, for one more user."""
    global _shared  # noqa: PLW0603 - one context per process
    with _lock:
        if _shared is None or _shared.generation != current_generation():
            # A parent's context is left alone: its threads are not in this process.
            context: Context = zmq.Context()
            context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
            _shared = _Shared(context, current_generation(), not garbage.gc.is_alive())
        _shared.users += 1
        return _shared.context


async def release_context(context: Context, *, sockets_are_gone: bool) -> None:
    """Give the context back; the last user ends it.

    Args:
        context: What `acquire_context` returned.
        sockets_are_gone: Whether libzmq has let go of the user's sockets; ending the context waits for that.
    """
    global _shared  # noqa: PLW0603
    with _lock:
        shared = _shared
        if shared is None or shared.context is not context:  # a parent process's
            return
        shared.users -= 1
        if shared.users:
            return
        _shared = None
    if not sockets_are_gone:  # never let the event loop wait for it
        threading.Thread(target=context.term, name="aioflow end of zmq.Context", daemon=True).start()
        return
    context.term()
    if shared.collector_is_ours:
        await _stop_collector()


async def _stop_collector() -> None:
    """Stop the thread that pyzmq started for memory that is sent in place; it starts again when needed."""
    for _ in range(_LOOKS_MAX):
        with _lock:
            if _shared is not None or not garbage.gc.is_alive():
                return
            if not garbage.gc.refs:
                garbage.gc.stop()
                return
        await anyio.sleep(_LOOK_S)
    # Somebody else sends with pyzmq and still holds memory: the thread is theirs now.


def _in_child() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_in_child)
