"""The client's end of a connection: a DEALER that connects once."""

from __future__ import annotations

import errno
import math
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import zmq

from aioflow.errors import AuthenticationFailed, ConnectFailed, ConnectionLost, TransportError
from aioflow_zmq._address import IpcAddress
from aioflow_zmq._end import End
from aioflow_zmq._forks import close_in_children, keep_in_children
from aioflow_zmq._frames import BYE, BYE_SEEN, read
from aioflow_zmq._greeting import ask_mechanism
from aioflow_zmq._keys import set_client_keys
from aioflow_zmq._limits import (
    BROKEN_OFF_MAX,
    CONNECT_AGAIN_FIRST_S,
    CONNECT_AGAIN_MAX_S,
    MESSAGES_PER_TURN,
    REFUSALS_MAX,
    REFUSED_S,
)
from aioflow_zmq._pump import Pump
from aioflow_zmq._socket import POLLIN, POLLOUT, OwnedSocket, pending

if TYPE_CHECKING:
    from aioflow.keys import Credentials
    from aioflow.transport import Receiver
    from aioflow_zmq._address import TcpAddress
    from aioflow_zmq._socket import Event

_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)
# The other side closed the connection; any other reason, such as a time-out, is nobody's decision.
_BREAKS = {errno.EPIPE, errno.ECONNRESET}


class ClientConnection(End):
    """A connection to a listener.

    Its life: `open`; `connect` until the handshake has succeeded; `run` until the loss or the close. Then the sockets
    are closed and stay so.
    """

    def __init__(
        self,
        address: str,
        target: IpcAddress | TcpAddress,
        receiver: Receiver,
        socket: OwnedSocket,
        keys: Credentials | None,
    ) -> None:
        super().__init__(f"the server at {address}", socket, None, is_local=isinstance(target, IpcAddress))
        self._address = address
        self._target = target
        self._keys = keys
        self._receiver = receiver
        self._pump = Pump(self._socket.raw, self._turn)
        self._monitor_pump = Pump(self._socket.monitor, self._monitor_turn)
        self._fd, self._inode = -1, 0
        self._is_disconnected = False
        self._finished = anyio.Event()

    @classmethod
    async def open(
        cls,
        address: str,
        target: IpcAddress | TcpAddress,
        receiver: Receiver,
        messages_max: int,
        keys: Credentials | None,
    ) -> ClientConnection:
        """Make the sockets; libzmq holds up to `messages_max` messages in each direction."""
        return cls(address, target, receiver, await OwnedSocket.open(zmq.DEALER, _EVENTS, messages_max), keys)

    async def connect(self) -> None:
        """Connect, trying again until a listener answers; a failure or a cancel closes the sockets.

        Raises:
            ConnectFailed: What listens there is no server of this transport.
            AuthenticationFailed: The server refuses this side's key, demands one, or has none, or not the one expected.
        """
        try:
            self._socket.raw.setsockopt(zmq.IPV6, int(self._target.ipv6))
            set_client_keys(self._socket.raw, self._keys)
            await self._handshake(self._target.endpoint)
        except BaseException:
            await self._close_sockets()
            raise

    async def run(self) -> None:
        """Own the sockets until the connection ends."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._monitor_pump.run, name=f"aioflow monitor {self._address}")
                tasks.start_soon(self._pump.run_woken, name=f"aioflow woken {self._address}")
                await self._pump.run()
                self._monitor_pump.stop()
        finally:
            self._is_open = False
            self._cut()
            try:
                await self._close_sockets()
            finally:
                self._finished.set()

    async def _handshake(self, endpoint: str) -> None:
        """Try until the handshake has succeeded."""
        again_s = CONNECT_AGAIN_FIRST_S
        refusals = broken_off = 0
        while True:
            self._connect(endpoint)
            ended_by = await self._attempt()
            if ended_by == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            refusals = refusals + 1 if ended_by == zmq.EVENT_DISCONNECTED else 0
            if refusals == REFUSALS_MAX:
                raise ConnectFailed(f"what listens at {self._address} is no aioflow server: check the address")
            broken_off = broken_off + 1 if ended_by == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL else 0
            if broken_off >= BROKEN_OFF_MAX:  # as a server does that is just ending, and a proxy without one behind it
                self._check_mechanism(await ask_mechanism(self._target))
            await anyio.sleep(again_s)
            again_s = min(2 * again_s, CONNECT_AGAIN_MAX_S)
            with suppress(zmq.ZMQError):  # libzmq has given the attempt up by itself
                self._socket.raw.disconnect(endpoint)

    async def _attempt(self) -> int:
        """Return how an attempt ended.

        The handshake succeeded, libzmq would try again, the other side broke it off, or libzmq would not try again.
        """
        refused_s = math.inf
        ended_by: int = zmq.EVENT_CONNECT_RETRIED
        while True:
            with anyio.move_on_after(refused_s):
                event = await self._socket.wait_event()
                self._note(event)
                if event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    return event.kind
                if event.kind == zmq.EVENT_CONNECT_RETRIED:
                    return ended_by
                if event.kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and event.value in _BREAKS:
                    ended_by = event.kind
                self._check_refusal(event)
                if event.kind == zmq.EVENT_DISCONNECTED:
                    # After a mere loss, such as of a server that is just ending, a CONNECT_RETRIED follows at once. If
                    # the other side broke the protocol, nothing does.
                    refused_s = REFUSED_S
                continue
            return zmq.EVENT_DISCONNECTED

    def _check_refusal(self, event: Event) -> None:
        """Refuse to try again after a handshake that will never succeed."""
        if event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            key = f"the key {self._keys.path} of {self._keys.name!r}" if self._keys is not None else "the connection"
            name = self._keys.name if self._keys is not None else "CLIENT"
            raise AuthenticationFailed(
                f"the server at {self._address} refused {key}: it was revoked, or made for another server; let it in, "
                f"on the server's host: aioflow keys authorise FOLDER {name}"
            )
        if (event.kind, event.value) == (
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH,
        ):
            self._check_mechanism("NULL" if self._keys is not None else "CURVE")

    def _check_mechanism(self, mechanism: str) -> None:
        """Compare what the server demands with what this side has."""
        if mechanism == "CURVE" and self._keys is None:
            raise AuthenticationFailed(
                f"the server at {self._address} demands a key, and this client has none: give it credentials=, or name "
                "its key file in AIOFLOW_KEYS; to make one, on the server's host: aioflow keys make FOLDER CLIENT"
            )
        if mechanism == "CURVE" and self._keys is not None:
            raise AuthenticationFailed(
                f"the server at {self._address} is not the one that {self._keys.path} was made for, or has new keys: "
                "copy the client's key anew from the key folder of that server"
            )
        if mechanism == "NULL" and self._keys is not None:
            raise AuthenticationFailed(
                f"the server at {self._address} has no keys, so {self._keys.path} cannot prove who it is: serve with "
                f"aioflow serve --bind {self._address} --keys FOLDER, or leave credentials and AIOFLOW_KEYS out"
            )

    def _connect(self, endpoint: str) -> None:
        try:
            self._socket.raw.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConnectFailed(f"cannot connect to {self._address}: {error}") from error

    def _note(self, event: Event) -> None:
        """Keep the connection's descriptor known while it is open."""
        if event.kind == zmq.EVENT_CONNECTED:
            self._fd = event.value
            self._inode = close_in_children(self._fd)
        elif event.kind == zmq.EVENT_DISCONNECTED:
            keep_in_children(self._fd, self._inode)

    def _queued(self, *, write_now: bool) -> None:
        if self._pump.in_turn:
            if self._outbox.is_ripe:
                self.flush()
            return
        if write_now:
            self.flush()
        events = self._socket.events()  # a write may have taken in that something arrived
        if events & POLLIN or (self._outbox.waiting and events & POLLOUT):
            self._pump.wake()

    def _turn(self) -> float:
        """Send what is queued and hand over what has arrived."""
        if self._overflow is not None:
            self._lose(self._overflow)
        self.flush()
        taken = 0
        while taken < MESSAGES_PER_TURN:
            frames = read(self._socket.raw)
            taken += 1 if frames is None else self.arrived(frames)
            events = self._socket.events()  # costs a third of a read that finds nothing
            if self._outbox.waiting and not events & POLLIN:
                self.flush()
                events = self._socket.events()
            if not events & POLLIN and not (self._outbox.waiting and events & POLLOUT):
                if self._is_disconnected:  # noted before this turn: what had arrived has been handed over
                    self._lose(ConnectionLost(f"{self._name} is gone"))
                return math.inf
        self.flush()
        return 0

    def _word(self, name: bytes) -> None:
        if name == BYE:
            self._lose(ConnectionLost(f"{self._name} closed the connection"))
        elif name == BYE_SEEN and not self._is_open:
            self._parted.set()
        else:
            self._refuse(f"sent a word that is not known: {name!r}")

    def _overflowed(self) -> None:
        self._pump.wake()

    def _lose(self, error: TransportError) -> None:
        self._cut()
        super()._lose(error)

    def _cut(self) -> None:
        """Send nothing any more, and have `run` close the sockets."""
        self._outbox.clear()
        self._parted.set()
        self._pump.stop()

    async def _closed(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._finished.wait()

    def _monitor_turn(self) -> float:
        while True:
            while (event := self._socket.next_event()) is not None:
                self._note(event)
                if event.kind == zmq.EVENT_DISCONNECTED:
                    self._is_disconnected = True
                    self._pump.wake()
            if not pending(self._socket.monitor) & POLLIN:
                return math.inf

    async def _close_sockets(self) -> None:
        keep_in_children(self._fd, self._inode)
        await self._socket.aclose()
