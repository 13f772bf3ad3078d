"""The way through shared memory that a server at an `ipc://` address has beside it, for clients that can take it.

A server at `ipc://PATH` also listens at `shm://PATH.shm`, from before it listens at PATH on; should somebody else be
there, it does not start. So a client that finds a listener at either has found the same server. It looks there first,
and again once PATH has answered: what was not there then is not there at all. A file that a killed server has left,
another user's, one that a mount namespace does not have: each is a reason to stay at PATH, and is logged. Where there
are keys everybody stays at PATH, which asks for them.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from aioflow.errors import ConnectFailed, TransportError
from aioflow.transport import find_transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from aioflow.transport import Connection, Listener, Receiver

__all__ = ["connect_nearest", "listen_nearby"]

# A listener that is there greets at once, unless its event loop is busy.
GREETING_S = 0.5

logger = logging.getLogger("aioflow.session")


async def listen_nearby(
    address: str, credentials: Path | None, accept: Callable[[Connection], Receiver], task_group: TaskGroup
) -> Listener | None:
    """Listen beside an address; None where that cannot be.

    Raises:
        AddressInUse: Somebody else listens there.
    """
    path = _nearby_path(address, credentials)
    if path is None:
        return None
    try:
        return await find_transport(f"shm://{path}").listen(f"shm://{path}", accept, task_group)
    except ConnectFailed as error:
        logger.info("%s is served without shared memory: %s", address, error)
        return None


async def connect_nearest(
    address: str, credentials: Path | None, receiver: Receiver, task_group: TaskGroup
) -> Connection:
    """Connect to the server at an address, waiting for one to appear; through shared memory if it can be.

    Raises:
        ConnectFailed: The address can never work.
        AuthenticationFailed: The server refuses the key, demands one, or has none.
    """
    transport, path = find_transport(address, credentials), _nearby_path(address, credentials)
    if path is None:
        return await transport.connect(address, receiver, task_group)
    nearby = await _try_nearby(path, receiver, task_group)
    if not isinstance(nearby, str):
        return nearby
    connection = await transport.connect(address, receiver, task_group)
    nearby = await _try_nearby(path, receiver, task_group)
    if isinstance(nearby, str):
        logger.info("the session with %s goes on without shared memory: %s", address, nearby)
        return connection
    connection.abort()
    return nearby


async def _try_nearby(path: str, receiver: Receiver, task_group: TaskGroup) -> Connection | str:
    """Connect, or say why not."""
    if not Path(path).exists():  # noqa: ASYNC240 - in a thread it would take ten times as long
        return f"{path} is not there"
    with anyio.move_on_after(GREETING_S):
        try:
            return await find_transport(f"shm://{path}").connect(f"shm://{path}", receiver, task_group)
        except TransportError as error:
            return str(error)
    return f"nobody answers at {path}"


def _nearby_path(address: str, credentials: Path | None) -> str | None:
    """Return the path of the socket beside that of an address; None where there is none."""
    if sys.platform != "linux" or credentials is not None or not address.startswith("ipc://"):
        return None
    return address.removeprefix("ipc://") + ".shm"
