"""The client's way to a connection: tries until a listener greets."""

from __future__ import annotations

import errno
import os
import socket
import struct

import anyio

from aioflow.errors import ConnectFailed
from aioflow_shm._forks import close_here, close_in_children
from aioflow_shm._limits import CONNECT_AGAIN_FIRST_S, CONNECT_AGAIN_MAX_S, PACKET_BYTES_MAX
from aioflow_shm._parcels import GREETING

_CREDENTIALS = struct.Struct("3i")

# Nobody listens there yet, or not any more; or too many connect at once.
_LATER = {errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN, errno.ECONNRESET}


async def connect(address: str, path: str) -> socket.socket:
    """Connect, trying again until a listener has greeted; a failure or a cancel closes the socket.

    Raises:
        ConnectFailed: What listens there is no server of this transport, or another user's.
    """
    again_s = CONNECT_AGAIN_FIRST_S
    while True:
        if (connected := open_socket(address, path)) is not None:
            try:
                await anyio.wait_readable(connected)
                if is_greeted(address, connected):
                    return connected
            except BaseException:
                close_here(connected)
                raise
            close_here(connected)
        await anyio.sleep(again_s)
        again_s = min(2 * again_s, CONNECT_AGAIN_MAX_S)


def open_socket(address: str, path: str) -> socket.socket | None:
    """Connect and greet, without waiting; None where nobody listens.

    Raises:
        ConnectFailed: The address can never work, or the process has as many descriptors as it may.
    """
    try:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise ConnectFailed(f"cannot open a socket: {error}; close connections, or raise ulimit -n") from error
    close_in_children(opened)
    try:
        opened.settimeout(0)
        opened.connect(path)
        check_user(address, opened)
        opened.send(GREETING)
    except OSError as error:
        close_here(opened)
        if error.errno in _LATER | {errno.EPIPE}:
            return None
        if error.errno == errno.EPROTOTYPE:
            raise _no_server(address) from error
        raise ConnectFailed(f"cannot connect to {address}: {error}") from error
    except ConnectFailed:
        close_here(opened)
        raise
    return opened


def is_greeted(address: str, connected: socket.socket) -> bool:
    """Read the greeting; say whether it came. Otherwise the listener has just gone.

    Raises:
        ConnectFailed: Something else came.
    """
    try:
        said = connected.recv(PACKET_BYTES_MAX)
    except ConnectionResetError:
        return False
    if said and said != GREETING:
        raise _no_server(address)
    return bool(said)


def check_user(address: str, connected: socket.socket) -> None:
    """Refuse another user: who has the memory of the messages is to be trusted.

    Raises:
        ConnectFailed: The other side is another user's.
    """
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    if user != os.geteuid():
        raise ConnectFailed(
            f"the other side of {address} belongs to user {user}, and this process to user {os.geteuid()}; memory is "
            "shared between processes of one user only: use ipc://"
        )


def _no_server(address: str) -> ConnectFailed:
    return ConnectFailed(
        f"what listens at {address} is no aioflow server of this version: check the address, and both versions"
    )
