"""The transport: checks an address, and opens a client or a server on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioflow_shm._address import parse_address
from aioflow_shm._beats import ShmBeats
from aioflow_shm._client import connect
from aioflow_shm._end import End, Turns
from aioflow_shm._limits import MEMORY_BYTES
from aioflow_shm._segments import Segments
from aioflow_shm._server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from aioflow.transport import Connection, Frame, Listener, Receiver
    from aioflow_shm._arena import Arena


class ShmTransport:
    """The transport of `shm://`.

    Args:
        credentials: Not used: the kernel says whose process the other one is, and only the same user's is let in.
        memory_bytes: Memory that a connection keeps for the large frames of each direction; what finds no place in it
            travels in the packets. 0: all does.
        poison: Whether memory is overwritten when it comes back: a view that changes is found out. For tests.
    """

    def __init__(
        self,
        credentials: Path | None = None,  # noqa: ARG002 - as said
        *,
        memory_bytes: int = MEMORY_BYTES,
        poison: bool = False,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._poison = poison

    async def connect(self, address: str, receiver: Receiver, task_group: TaskGroup) -> Connection:
        """Connect to a listener, waiting for one to appear; the caller bounds the wait with a cancel scope.

        The listener accepts the connection with its first message. A loss is final: nothing reconnects.

        Raises:
            ConnectFailed: The address is malformed, too long or not allowed, or something else or another user listens
                there.
        """
        connected = await connect(address, parse_address(address))
        name = f"the server at {address}"
        end = End(name, connected, Turns(), self._make_segments(name, None), receiver)
        task_group.start_soon(end.run, name=f"aioflow {address}")
        return end

    async def listen(self, address: str, accept: Callable[[Connection], Receiver], task_group: TaskGroup) -> Listener:
        """Bind an address and accept connections, each with its first message.

        Raises:
            AddressInUse: Another listener has the address; it is not disturbed.
            ConnectFailed: The address is malformed, too long or not allowed, or its folder cannot be written.
        """
        server = Server(parse_address(address), accept, self._make_segments, task_group)
        task_group.start_soon(server.run, name=f"aioflow {address}")
        return server

    async def beat(
        self, address: str, make: Callable[[int], list[Frame]], read: Callable[[list[Frame]], int], every_s: float
    ) -> ShmBeats:
        """Send beats from a thread of their own, through a connection that is made again whenever it is lost.

        Raises:
            ConnectFailed: The address is malformed, too long or not allowed, or the process has as many descriptors or
                threads as it may.
        """
        return ShmBeats(address, parse_address(address), make, read, every_s)

    def _make_segments(self, peer: str, arena: Arena | None) -> Segments:
        return Segments(peer, self._memory_bytes, arena, poison=self._poison)
