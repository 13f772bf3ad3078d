"""The process's `zmq.Context` of this package: made with the first socket, ended with the last.

A server with keys has one of its own besides, as whom libzmq asks about a key has one name in a context (`_gate.py`).

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

# pyzmq drops its references to sent memory in a thread; how often to look whether it is through, and for how long: on a
# busy machine it may not run for a tenth of a second.
_LOOK_S, _LOOKS_MAX = 0.001, 1000


Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


@dataclass(slots=True, eq=False)
class Shared:
    """A context and how many use it.

    Attributes:
        context: The context.
        generation: The process in which it was made (`_forks.py`).
        users: What it is ended without.
    """

    context: Context
    generation: int
    users: int = 0


_lock = threading.Lock()
_alive: list[Shared] = []
_common: Shared | None = None
_collector_is_ours = False


def own_context() -> Shared:
    """Make a context beside the common one; what `inproc://` names there is apart."""
    with _lock:
        return _make()


def acquire_context(shared: Shared | None = None) -> Shared:
    """Return a context for one more user; the common one where none is given."""
    global _common  # noqa: PLW0603 - one context per process
    with _lock:
        if shared is None:
            if _common is None or _common.generation != current_generation():
                _common = _make()
            shared = _common
        shared.users += 1
        return shared


async def release_context(shared: Shared, *, sockets_are_gone: bool) -> None:
    """Give a context back; its last user ends it.

    Args:
        shared: What `acquire_context` returned.
        sockets_are_gone: Whether libzmq has let go of the user's sockets; ending the context waits for that.
    """
    global _common  # noqa: PLW0603
    with _lock:
        if shared.generation != current_generation():  # a parent process's
            return
        shared.users -= 1
        if shared.users:
            return
        _alive.remove(shared)
        if shared is _common:
            _common = None
    if not sockets_are_gone:  # never let the event loop wait for it
        threading.Thread(target=shared.context.term, name="aioflow end of zmq.Context", daemon=True).start()
        return
    shared.context.term()
    if _collector_is_ours:
        await _stop_collector()


def _make() -> Shared:
    global _collector_is_ours  # noqa: PLW0603
    # A parent's context is left alone: its threads are not in this process.
    _alive[:] = [shared for shared in _alive if shared.generation == current_generation()]
    if not _alive:
        _collector_is_ours = not garbage.gc.is_alive()
    context: Context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
    _alive.append(shared := Shared(context, current_generation()))
    return shared


async def _stop_collector() -> None:
    """Stop the thread that pyzmq started for memory that is sent in place; it starts again when needed."""
    for _ in range(_LOOKS_MAX):
        with _lock:
            if _alive or not garbage.gc.is_alive():
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
