"""Whom a server with keys lets in: the ZAP handler that libzmq asks in each handshake (RFC 27).

The handler's name, `inproc://zeromq.zap.01`, is one in a context, so a server with keys has a context of its own. Keys
are looked up on disk, in a thread, one handshake after the other: a change counts from the next handshake on. And once
in a while those of the open connections are looked up again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import anyio
import anyio.to_thread
import zmq

from aioflow.errors import AuthenticationFailed
from aioflow.keys import admit
from aioflow_zmq._context import own_context
from aioflow_zmq._keys import DOMAIN, set_server_keys
from aioflow_zmq._limits import LOOK_AGAIN_S, MESSAGES_MAX
from aioflow_zmq._socket import POLLIN, OwnedSocket, pending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioflow.keys import Credentials
    from aioflow_zmq._context import Shared

_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_LET_IN, _REFUSED = b"200", b"400"
# version, request, domain, address, routing id, mechanism, and the client's public key
_FRAMES = 7


class Client(NamedTuple):
    """Whose a connection is.

    Attributes:
        name: The client's name.
        public: Its public key.
    """

    name: str
    public: str

    @classmethod
    def of(cls, frame: zmq.Frame) -> Self:
        """Read what the gate has said of the connection that a frame came from."""
        name, _, public = str(frame.get("User-Id")).partition(" ")
        return cls(name, public)


class Gate:
    """Answers for one server's socket, which must be opened in its context.

    Attributes:
        shared: The context.
    """

    def __init__(self, keys: Credentials, shared: Shared, socket: OwnedSocket) -> None:
        self._keys = keys
        self._folder = keys.path.parent
        self._socket = socket
        self.shared = shared

    @classmethod
    async def open(cls, keys: Credentials) -> Self:
        """Make the context, and the handler's socket in it.

        Raises:
            ConnectFailed: The process has as many sockets or descriptors as it may.
        """
        shared = own_context()
        socket = await OwnedSocket.open(zmq.REP, 0, MESSAGES_MAX, shared)
        socket.raw.bind(_ENDPOINT)
        return cls(keys, shared, socket)

    def guard(self, socket: OwnedSocket) -> None:
        """Have a socket of the context ask here; before it is bound."""
        set_server_keys(socket.raw, self._keys)

    async def run(self, on_refused: Callable[[str, str], None]) -> None:
        """Answer until it is cancelled.

        Args:
            on_refused: Called with the address of a client that was refused, and the reason.
        """
        raw = self._socket.raw
        while True:
            while not pending(raw) & POLLIN:
                await anyio.wait_readable(raw.fileno())
            version, request, domain, address, _, mechanism, *credentials = raw.recv_multipart(zmq.DONTWAIT)
            try:
                if (version, domain, mechanism) != (_VERSION, DOMAIN, b"CURVE") or len(credentials) != _FRAMES - 6:
                    raise AuthenticationFailed("it did not show a key")  # noqa: TRY301 - all refusals in one place
                client = await self._find(credentials[0].hex())
                status, user = _LET_IN, " ".join(client).encode()
            except AuthenticationFailed as error:
                on_refused(address.decode(errors="replace"), str(error))
                status, user = _REFUSED, b""
            raw.send_multipart([_VERSION, request, status, b"", user, b""])

    async def watch(self, clients: Callable[[], Iterable[Client]], on_revoked: Callable[[Client, str], None]) -> None:
        """Look up the keys of open connections again and again, until it is cancelled.

        Args:
            clients: Returns whose connections are open.
            on_revoked: Called with a client that is let in no more, and the reason.
        """
        while True:
            await anyio.sleep(LOOK_AGAIN_S)
            for client in set(clients()):
                try:
                    await self._find(client.public)
                except AuthenticationFailed as error:
                    on_revoked(client, str(error))

    async def aclose(self) -> None:
        """Close the handler's socket; libzmq then lets nobody in."""
        await self._socket.aclose()

    async def _find(self, public: str) -> Client:
        if public == self._keys.public:  # another server, which has the same folder
            return Client(self._keys.name, public)
        return Client(await anyio.to_thread.run_sync(partial(admit, self._folder, public)), public)
