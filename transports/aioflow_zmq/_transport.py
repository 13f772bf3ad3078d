"""The transport: checks an address, and opens a client or a server on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioflow_zmq._address import look_up, parse_address
from aioflow_zmq._beats import ZmqBeats
from aioflow_zmq._client import ClientConnection
from aioflow_zmq._keys import load_client_keys, load_server_keys, make_key_pair
from aioflow_zmq._limits import MESSAGES_MAX
from aioflow_zmq._server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from aioflow.transport import Connection, Frame, Listener, Receiver
    from aioflow_zmq._address import IpcAddress, TcpAddress


class ZmqTransport:
    """The transport of `ipc://` and `tcp://`.

    Args:
        credentials: With which key to connect, and by which folder of keys to let in; None for neither.
        messages_max: Messages that ZeroMQ holds per connection and direction; more wait in the sender's outbox.
    """

    def __init__(self, credentials: Path | None = None, *, messages_max: int = MESSAGES_MAX) -> None:
        self._credentials = credentials
        self._messages_max = messages_max

    async def connect(self, address: str, receiver: Receiver, task_group: TaskGroup) -> Connection:
        """Connect to a listener, waiting for one to appear; the caller bounds the wait with a cancel scope.

        The listener accepts the connection with its first message. A loss is final: nothing reconnects.

        Raises:
            ConnectFailed: The address is malformed, too long or not allowed, or something else listens there.
            AuthenticationFailed: The two sides do not know each other's keys, or the file of this side's is refused.
        """
        target = await self._target(address)
        keys = await load_client_keys(self._credentials)
        connection = await ClientConnection.open(address, target, receiver, self._messages_max, keys)
        await connection.connect()
        task_group.start_soon(connection.run, name=f"aioflow {address}")
        return connection

    async def listen(self, address: str, accept: Callable[[Connection], Receiver], task_group: TaskGroup) -> Listener:
        """Bind an address and accept connections, each with its first message.

        Raises:
            AddressInUse: Another listener has the address; it is not disturbed.
            ConnectFailed: The address is malformed, too long or not allowed, or its folder cannot be written.
            AuthenticationFailed: A file of the keys is refused.
        """
        target = await self._target(address)
        server = await Server.open(accept, self._messages_max, await load_server_keys(self._credentials))
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
            AuthenticationFailed: The file of this side's key is refused.
        """
        target = await self._target(address)
        return await ZmqBeats.open(target, make, read, every_s, await load_client_keys(self._credentials))

    def make_key_pair(self) -> tuple[str, str]:
        """Make a public key and its secret one, of 64 hexadecimal digits each."""
        return make_key_pair()

    async def _target(self, address: str) -> IpcAddress | TcpAddress:
        return await look_up(address, parse_address(address, has_keys=self._credentials is not None))
