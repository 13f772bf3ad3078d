"""The way through shared memory that a server at an `ipc://` address has beside it, for clients that can take it.

A server at `ipc://PATH` also listens at `shm://PATH.shm`, from before it listens at PATH on; should somebody else be
there, it does not start. So a client that finds a listener at either has found the same server. It looks there first,
and again once PATH has answered: what was not there then is not there at all. A file that a killed server has left,
another user's, one that a mount namespace does not have: each is a reason to stay at PATH, and is logged. Where there
are keys everybody stays at PATH, which asks for them; that server starts only where nobody listens beside it.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from typing import TYPE_CHECKING

import anyio

from aioflow.errors import ConnectFailed, TransportError
from aioflow.transport import find_transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from aioflow.transport import Connection, Frame, Listener, Receiver

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
    path = _nearby_path(address)
    if path is None:
        return None
    try:
        if credentials is not None:  # nobody is to be found there by those who have no key
            await (await find_transport(f"shm://{path}").listen(f"shm://{path}", _refuse, task_group)).aclose()
            return None
        return await find_transport(f"shm://{path}").listen(f"shm://{path}", accept, task_group)
    except ConnectFailed as error:
        logger.info("%s is served without shared memory: %s", address, error)
        return None


async def connect_nearest(
    address: str, credentials: Path | None, receiver: Receiver, task_group: TaskGroup
) -> tuple[Connection, str]:
    """Connect to the server at an address, waiting for one to appear; through shared memory if it can be.

    Returns:
        The connection, and at which address it found the server.

    Raises:
        ConnectFailed: The address can never work.
        AuthenticationFailed: The server refuses the key, demands one, or has none.
    """
    transport, path = find_transport(address, credentials), _nearby_path(address)
    if path is None or credentials is not None:
        return await transport.connect(address, receiver, task_group), address
    nearby = await _try_nearby(path, receiver, task_group)
    if isinstance(nearby, str):
        connection = await transport.connect(address, receiver, task_group)
        nearby = await _try_nearby(path, receiver, task_group)
        if isinstance(nearby, str):
            logger.info("the session with %s goes on without shared memory: %s", address, nearby)
            return connection, address
        connection.abort()
    logger.info("the session with %s shares memory with the server", address)
    return nearby, f"shm://{path}"


async def _try_nearby(path: str, receiver: Receiver, task_group: TaskGroup) -> Connection | str:
    """Connect, or say why not."""
    wait_s, silence = GREETING_S, f"nobody answers at {path}"
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):  # a link would lead to another server
            return f"{path} is no socket"
    except FileNotFoundError:  # it may be too long to be there, which the transport says at once
        wait_s, silence = 0, f"{path} is not there"
    except OSError as error:
        return str(error)
    with anyio.move_on_after(wait_s):
        try:
            return await find_transport(f"shm://{path}").connect(f"shm://{path}", receiver, task_group)
        except TransportError as error:
            return str(error)
    return silence


class _Nobody:
    """Receives nothing."""

    def received(self, frames: list[Frame]) -> None:
        pass

    def lost(self, error: TransportError) -> None:
        pass


def _refuse(connection: Connection) -> Receiver:
    connection.abort()
    return _Nobody()


def _nearby_path(address: str) -> str | None:
    """Return the path of the socket beside that of an address; None where there is none."""
    if sys.platform != "linux" or not address.startswith("ipc://"):
        return None
    return address.removeprefix("ipc://") + ".shm"
