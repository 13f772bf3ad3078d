"""The client's end of a connection: a DEALER that connects once."""

from __future__ import annotations

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
from aioflow_zmq._limits import (
    CONNECT_AGAIN_FIRST_S,
    CONNECT_AGAIN_MAX_S,
    MESSAGES_PER_TURN,
    REFUSALS_MAX,
    REFUSED_S,
)
from aioflow_zmq._pump import Pump
from aioflow_zmq._socket import OwnedSocket, pending

if TYPE_CHECKING:
    from aioflow.transport import Receiver
    from aioflow_zmq._address import TcpAddress
    from aioflow_zmq._socket import Event

_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)


class ClientConnection(End):
    """A connection to a listener.

    Its life: `open`; `connect` until the handshake has succeeded; `run` until the loss or the close. Then the sockets
    are closed and stay so.
    """

    def __init__(self, address: str, target: IpcAddress | TcpAddress, receiver: Receiver, socket: OwnedSocket) -> None:
        super().__init__(f"the server at {address}", socket, None, is_local=isinstance(target, IpcAddress))
        self._address = address
        self._target = target
        self._receiver = receiver
        self._pump = Pump(self._socket.raw, self._turn)
        self._monitor_pump = Pump(self._socket.monitor, self._monitor_turn)
        self._fd = -1
        self._is_disconnected = False
        self._finished = anyio.Event()

    @classmethod
    async def open(
        cls, address: str, target: IpcAddress | TcpAddress, receiver: Receiver, messages_max: int
    ) -> ClientConnection:
        """Make the sockets; libzmq holds up to `messages_max` messages in each direction."""
        return cls(address, target, receiver, await OwnedSocket.open(zmq.DEALER, _EVENTS, messages_max))

    async def connect(self) -> None:
        """Connect, trying again until a listener answers; a failure or a cancel closes the sockets.

        Raises:
            ConnectFailed: What listens there is no server of this transport.
            AuthenticationFailed: The server refuses this side.
        """
        try:
            self._socket.raw.setsockopt(zmq.IPV6, int(self._target.ipv6))
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
        refusals = 0
        while True:
            self._connect(endpoint)
            ended_by = await self._attempt()
            if ended_by == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            refusals = refusals + 1 if ended_by == zmq.EVENT_DISCONNECTED else 0
            if refusals == REFUSALS_MAX:
                raise ConnectFailed(f"what listens at {self._address} is no aioflow server: check the address")
            await anyio.sleep(again_s)
            again_s = min(2 * again_s, CONNECT_AGAIN_MAX_S)
            with suppress(zmq.ZMQError):  # libzmq has given the attempt up by itself
                self._socket.raw.disconnect(endpoint)

    async def _attempt(self) -> int:
        """Return how an attempt ended: the handshake succeeded, libzmq would try again, or it would not."""
        refused_s = math.inf
        while True:
            with anyio.move_on_after(refused_s):
                event = await self._socket.wait_event()
                self._note(event)
                if event.kind in {zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_CONNECT_RETRIED}:
                    return event.kind
                if event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    raise AuthenticationFailed(f"the server at {self._address} refused the connection")
                if event.kind == zmq.EVENT_DISCONNECTED:
                    # After a mere loss, such as of a server that is just ending, a CONNECT_RETRIED follows at once. If
                    # the other side broke the protocol, nothing does.
                    refused_s = REFUSED_S
                continue
            return zmq.EVENT_DISCONNECTED

    def _connect(self, endpoint: str) -> None:
        try:
            self._socket.raw.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConnectFailed(f"cannot connect to {self._address}: {error}") from error

    def _note(self, event: Event) -> None:
        """Keep the connection's descriptor known while it is open."""
        if event.kind == zmq.EVENT_CONNECTED:
            self._fd = event.value
            close_in_children(self._fd)
        elif event.kind == zmq.EVENT_DISCONNECTED:
            keep_in_children(self._fd)

    def _queued(self, *, write_now: bool) -> None:
        if self._pump.in_turn:
            if self._outbox.is_ripe:
                self.flush()
            return
        if write_now:
            self.flush()
        events = self._socket.events()  # a write may have taken in that something arrived
        if events & zmq.POLLIN or (self._outbox.waiting and events & zmq.POLLOUT):
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
            if self._outbox.waiting and not events & zmq.POLLIN:
                self.flush()
                events = self._socket.events()
            if not events & zmq.POLLIN and not (self._outbox.waiting and events & zmq.POLLOUT):
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
            if not pending(self._socket.monitor) & zmq.POLLIN:
                return math.inf

    async def _close_sockets(self) -> None:
        keep_in_children(self._fd)
        await self._socket.aclose()
