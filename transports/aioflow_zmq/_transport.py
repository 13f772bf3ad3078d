"""The transport: checks an address, and opens a client or a server on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioflow_zmq._address import parse_address
from aioflow_zmq._beats import ZmqBeats
from aioflow_zmq._client import ClientConnection
from aioflow_zmq._limits import MESSAGES_MAX
from aioflow_zmq._server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from aioflow.transport import Connection, Frame, Listener, Receiver


class ZmqTransport:
    """The transport of `ipc://` and `tcp://`.

    Args:
        messages_max: Messages that ZeroMQ holds per connection and direction; more wait in the sender's outbox.
    """

    def __init__(self, *, messages_max: int = MESSAGES_MAX) -> None:
        self._messages_max = messages_max

    async def connect(self, address: str, receiver: Receiver, task_group: TaskGroup) -> Connection:
        """Connect to a listener, waiting for one to appear; the caller bounds the wait with a cancel scope.

        The listener accepts the connection with its first message. A loss is final: nothing reconnects.

        Raises:
            ConnectFailed: The address is malformed, too long or not allowed, or something else listens there.
        """
        target = parse_address(address)
        connection = await ClientConnection.open(address, target, receiver, self._messages_max)
        await connection.connect()
        task_group.start_soon(connection.run, name=f"aioflow {address}")
        return connection

    async def listen(self, address: str, accept: Callable[[Connection], Receiver], task_group: TaskGroup) -> Listener:
        """Bind an address and accept connections, each with its first message.

        Raises:
            AddressInUse: Another listener has the address; it is not disturbed.
            ConnectFailed: The address is malformed, too long or not allowed, or its folder cannot be written.
        """
        target = parse_address(address)
        server = await Server.open(accept, self._messages_max)
        await server.bind(target)
        task_group.start_soon(server.run, name=f"aioflow {server.address}")
        return server

    async def beat(
        self, address: str, make: Callable[[int], list[Frame]], read: Callable[[list[Frame]], int], every_s: float
    ) -> ZmqBeats:
        """Send beats from a thread of their own, through a connection that is made again whenever it is lost.

        Raises:
            ConnectFailed: The address is malformed, too long or not allowed, or the process has as many sockets,
                descriptors or threads as it may.
        """
        return await ZmqBeats.open(parse_address(address), make, read, every_s)
