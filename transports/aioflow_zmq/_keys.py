"""CURVE keys: made, read in a thread, and set on a socket before it connects or is bound."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
import zmq
from zmq.utils import z85

from aioflow.errors import AuthenticationFailed
from aioflow.keys import read_credentials, read_server_keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aioflow.keys import Credentials
    from aioflow_zmq._context import Socket

# Without a domain libzmq would ask nobody, and let in whoever knows the server's public key.
DOMAIN = b"aioflow"


def make_key_pair() -> tuple[str, str]:
    """Make a public key and its secret one, of 64 hexadecimal digits each."""
    public, secret = map(z85.decode, zmq.curve_keypair())
    return public.hex(), secret.hex()


async def load_client_keys(path: Path | None) -> Credentials | None:
    """Read the key with which to connect, if there is one.

    Raises:
        AuthenticationFailed: The file is refused.
    """
    return None if path is None else await anyio.to_thread.run_sync(partial(_load, read_credentials, path))


async def load_server_keys(path: Path | None) -> Credentials | None:
    """Read the key with which to listen, if there is one.

    Raises:
        AuthenticationFailed: A file is refused.
    """
    return None if path is None else await anyio.to_thread.run_sync(partial(_load, read_server_keys, path))


def set_client_keys(socket: Socket, keys: Credentials | None) -> None:
    """Have a socket connect by a key, and to who has the servers' only."""
    if keys is not None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, bytes.fromhex(keys.public))
        socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(keys.secret))
        socket.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(keys.server))


def set_server_keys(socket: Socket, keys: Credentials) -> None:
    """Have a socket let in nobody of whom a gate does not say that it may (`_gate.py`)."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(keys.secret))
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def _load(read: Callable[[Path], Credentials], path: Path) -> Credentials:
    keys = read(path)
    if z85.decode(zmq.curve_public(z85.encode(bytes.fromhex(keys.secret)))).hex() != keys.public:
        raise AuthenticationFailed(
            f"{keys.path} is malformed: its public key is not that of its secret; make another one: "
            "aioflow keys make FOLDER CLIENT"
        )
    return keys
