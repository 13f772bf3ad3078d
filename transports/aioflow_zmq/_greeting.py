"""What a server's greeting says of its keys, which libzmq keeps to itself when a handshake fails (RFC 23)."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio

from aioflow_zmq._address import IpcAddress
from aioflow_zmq._limits import GREETING_S

if TYPE_CHECKING:
    from aioflow_zmq._address import TcpAddress

# The signature and the version, upon which the other side says the rest of its own greeting.
_HELLO = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01"
_MECHANISM = slice(12, 32)
_BYTES = 64


async def ask_mechanism(target: IpcAddress | TcpAddress) -> str:
    """Return the security mechanism that a server names; empty where nobody greets in time."""
    greeting = b""
    with anyio.move_on_after(GREETING_S):
        try:
            stream = await (
                anyio.connect_unix(target.path)
                if isinstance(target, IpcAddress)
                else anyio.connect_tcp(target.host, target.port)
            )
            async with aclosing(stream):
                await stream.send(_HELLO)
                while len(greeting) < _BYTES:
                    greeting += await stream.receive(_BYTES)
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            return ""
    if not greeting.startswith(_HELLO[:1]) or len(greeting) < _BYTES:
        return ""
    return greeting[_MECHANISM].rstrip(b"\0").decode(errors="replace")
