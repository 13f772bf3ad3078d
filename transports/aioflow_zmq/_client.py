"""The client's end of a connection: a DEALER that connects once."""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import zmq

from aioflow.errors import AuthenticationFailed, ConnectFailed, ConnectionLost, TransportError
from aioflow_zmq._address import TcpAddress
from aioflow_zmq._forks import check_generation, close_in_children, current_generation, keep_in_children
from aioflow_zmq._frames import BYE, BYE_SEEN, MESSAGE, is_too_long, read, take, to_wire, word, write
from aioflow_zmq._limits import (
    CLOSE_S,
    CONNECT_AGAIN_FIRST_S,
    CONNECT_AGAIN_MAX_S,
    MESSAGES_PER_TURN,
    REFUSALS_MAX,
    REFUSED_S,
)
from aioflow_zmq._pump import Pump
from aioflow_zmq._socket import OwnedSocket, pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.transport import Frame, Receiver
    from aioflow_zmq._address import IpcAddress
    from aioflow_zmq._socket import Event

_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)


class ClientConnection:
    """A connection to a listener.

    Its life: `open`; `connect` until the handshake has succeeded; `run` until the loss or the close. Then the sockets
    are closed and stay so.
    """

    def __init__(self, address: str, receiver: Receiver, socket: OwnedSocket) -> None:
        self._address = address
        self._receiver = receiver
        self._socket = socket
        self._pump = Pump(self._socket.raw, self._turn)
        self._monitor_pump = Pump(self._socket.monitor, self._monitor_turn)
        self._outbox: deque[tuple[Frame, ...]] = deque()
        self._fd = -1
        self._is_disconnected = False
        self._is_open = True  # neither lost nor being closed
        self._said_bye = False
        self._goodbye = anyio.Event()  # the server has seen our bye, or is gone
        self._finished = anyio.Event()

    @classmethod
    async def open(cls, address: str, receiver: Receiver, messages_max: int) -> ClientConnection:
        """Make the sockets; libzmq holds up to `messages_max` messages in each direction."""
        return cls(address, receiver, await OwnedSocket.open(zmq.DEALER, _EVENTS, messages_max))

    @property
    def peer(self) -> str:
        """The address of the listener."""
        return self._address

    async def connect(self, target: IpcAddress | TcpAddress) -> None:
        """Connect, trying again until a listener answers; a failure or a cancel closes the sockets.

        Raises:
            ConnectFailed: What listens there is no server of this transport.
            AuthenticationFailed: The server refuses this side.
        """
        try:
            if isinstance(target, TcpAddress):
                self._socket.raw.setsockopt(zmq.IPV6, int(target.ipv6))
            await self._handshake(target.endpoint)
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
            self._end()
            try:
                await self._close_sockets()
            finally:
                self._finished.set()

    def send(self, frames: Sequence[Frame]) -> None:
        """Send one message without waiting; after a loss or a close it is dropped.

        Raises:
            LocalProtocolError: The message exceeds a limit; nothing was sent.
            ConnectFailed: This process was forked from the one that made the connection.
        """
        check_generation(self._socket.generation, self._address)
        message = to_wire(frames, self._address)
        if self._is_open:
            self._send(message)

    async def aclose(self) -> None:
        """Close this end after the server has received what was sent, bounded by `CLOSE_S`."""
        if self._socket.generation != current_generation():
            return
        try:
            if self._is_open:
                self._is_open = False
                self._said_bye = True
                self._send(word(BYE))
                with anyio.move_on_after(CLOSE_S):
                    await self._goodbye.wait()
        finally:
            self._pump.stop()
            with anyio.CancelScope(shield=True):
                await self._finished.wait()

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

    def _send(self, message: tuple[Frame, ...]) -> None:
        """Write a message or keep it; outside of a turn, see to what the write may have taken in."""
        if self._outbox or not write(self._socket.raw, message):
            self._outbox.append(message)
        if not self._pump.in_turn:
            events = self._socket.events()
            if events & zmq.POLLIN or (self._outbox and events & zmq.POLLOUT):
                self._pump.wake()

    def _turn(self) -> float:
        """Send what is queued and hand over what has arrived."""
        for _ in range(MESSAGES_PER_TURN):
            while self._outbox and write(self._socket.raw, self._outbox[0]):
                self._outbox.popleft()
            frames = read(self._socket.raw)
            if frames is not None:
                self._arrived(frames)
            else:
                events = self._socket.events()
                if not events & zmq.POLLIN and not (self._outbox and events & zmq.POLLOUT):
                    if self._is_disconnected:  # noted before this turn: what had arrived has been handed over
                        self._lose(ConnectionLost(f"the server at {self._address} is gone"))
                    return math.inf
        return 0

    def _arrived(self, frames: list[zmq.Frame]) -> None:
        if is_too_long(frames):
            self._lose(ConnectionLost(f"the server at {self._address} sent a message of too many frames"))
        elif len(frames[0]):
            self._hand_over([take(frame) for frame in frames])
        else:
            self._word(frames)

    def _word(self, frames: list[zmq.Frame]) -> None:
        name = frames[1].bytes if len(frames) > 1 else b""
        if name == MESSAGE and len(frames) > 2:  # noqa: PLR2004 - a word has two frames
            self._hand_over([take(frame) for frame in frames[2:]])
        elif name == BYE:
            self._lose(ConnectionLost(f"the server at {self._address} closed the connection"))
        elif name == BYE_SEEN and self._said_bye:
            self._goodbye.set()
        else:
            self._lose(ConnectionLost(f"the server at {self._address} sent a word that is not known: {name[:16]!r}"))

    def _hand_over(self, frames: list[Frame]) -> None:
        if self._is_open:
            self._receiver.received(frames)

    def _lose(self, error: TransportError) -> None:
        was_open = self._is_open
        self._end()
        if was_open:
            self._receiver.lost(error)

    def _end(self) -> None:
        """Send and hand over nothing any more."""
        self._is_open = False
        self._outbox.clear()
        self._goodbye.set()
        self._pump.stop()

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
