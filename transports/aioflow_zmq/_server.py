"""The server: a ROUTER, the peers behind it, and how it knows which of them went.

ZeroMQ gives a ROUTER an identity per connection with each message, and tells its monitor of connections by descriptor.
A message's SRCFD joins the two. Descriptors are used again, so the order of events matters:

1. libzmq's thread writes a connection's ACCEPTED event before its first message, and its DISCONNECTED event before
   the descriptor is closed and can be used again. So when a new identity appears, the monitor is read first: every
   event about earlier users of its descriptor is then behind us.
2. It writes DISCONNECTED before it hands over the last messages of a connection that was read slower than it sent,
   and takes nothing for the peer after both. So a loss is told when the socket was found empty after the event was
   noted, and the peer cannot be written to: everything that arrived has been handed over.
"""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import anyio
import zmq

from aioflow.errors import AddressInUse, ConnectFailed
from aioflow_zmq._address import IpcAddress, TcpAddress
from aioflow_zmq._forks import close_in_children, current_generation, keep_in_children
from aioflow_zmq._frames import BYE, BYE_SEEN, is_gone, read_from, word, word_of, write
from aioflow_zmq._gate import Client, Gate
from aioflow_zmq._limits import MESSAGES_PER_TURN, PARCEL_BYTES_MAX, RETRY_S
from aioflow_zmq._lock import SocketFile
from aioflow_zmq._peer import Peer
from aioflow_zmq._pump import Pump
from aioflow_zmq._refusals import Refusals
from aioflow_zmq._socket import POLLIN, OwnedSocket, pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.keys import Credentials
    from aioflow.transport import Connection, Receiver
    from aioflow_zmq._socket import Event

_EVENTS = (
    zmq.EVENT_LISTENING
    | zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)


class Server:
    """A bound ROUTER. Its life: `open`, `bind`, `run` until `aclose` or a cancel, then everything is closed.

    Args:
        accept: Called with each new connection; returns who receives its messages.
        socket: A ROUTER.
        gate: Whom to let in, if not everybody.
    """

    def __init__(self, accept: Callable[[Connection], Receiver], socket: OwnedSocket, gate: Gate | None) -> None:
        self._accept = accept
        self._socket = socket
        self._gate = gate
        self._refusals = Refusals()
        self._socket.raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._pump = Pump(self._socket.raw, self._turn)
        self._monitor_pump = Pump(self._socket.monitor, self._monitor_turn)
        self._file: SocketFile | None = None
        self._address = ""
        self._numbers = count(1)
        self._peers: dict[bytes, Peer] = {}
        self._by_fd: dict[int, Peer] = {}
        self._listening: tuple[int, int] = (-1, 0)  # its descriptor, and the inode of that
        self._open_fds: dict[int, int] = {}  # of connections, with the inodes
        self._waiting: set[Peer] = set()
        self._departed: list[Peer] = []
        self._closing = False
        self._finished = anyio.Event()

    @classmethod
    async def open(
        cls, accept: Callable[[Connection], Receiver], messages_max: int, keys: Credentials | None
    ) -> Server:
        """Make the sockets; libzmq holds up to `messages_max` messages per peer and direction."""
        if keys is None:
            return cls(accept, await OwnedSocket.open(zmq.ROUTER, _EVENTS, messages_max), None)
        gate = await Gate.open(keys)
        try:
            socket = await OwnedSocket.open(zmq.ROUTER, _EVENTS, messages_max, gate.shared)
            gate.guard(socket)
        except BaseException:
            await gate.aclose()
            raise
        return cls(accept, socket, gate)

    @property
    def address(self) -> str:
        """The address as bound."""
        return self._address

    @property
    def memory_bytes(self) -> int:
        """0: no memory is shared."""
        return 0

    async def bind(self, target: IpcAddress | TcpAddress) -> None:
        """Bind the address; a failure closes the sockets.

        Raises:
            AddressInUse: Another server has it.
            ConnectFailed: It cannot be bound.
        """
        try:
            if isinstance(target, IpcAddress):
                self._file = SocketFile(target.path)
                self._socket.raw.setsockopt(zmq.USE_FD, self._file.fd)
            else:
                self._socket.raw.setsockopt(zmq.IPV6, int(target.ipv6))
            self._bind(target.endpoint)
            self._address = self._refusals.server = self._socket.raw.getsockopt_string(zmq.LAST_ENDPOINT)
        except BaseException:
            await self._close_sockets()
            raise

    async def run(self) -> None:
        """Own the sockets until the listener is closed."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._monitor_pump.run, name=f"aioflow monitor {self._address}")
                tasks.start_soon(self._pump.run_woken, name=f"aioflow woken {self._address}")
                if self._gate is not None:
                    tasks.start_soon(self._gate.run, self._refusals.log, name=f"aioflow gate {self._address}")
                    tasks.start_soon(self._gate.watch, self._clients, self._cut, name=f"aioflow keys {self._address}")
                await self._pump.run()
                tasks.cancel_scope.cancel()
        finally:
            self._closing = True
            for peer in self._peers.values():
                peer.end()
            try:
                await self._close_sockets()
            finally:
                self._finished.set()

    async def aclose(self) -> None:
        """Accept nothing new and close every connection, each after its peer has received what was sent to it."""
        if self._socket.generation != current_generation():
            return
        try:
            if not self._closing:
                self._closing = True  # no `unbind`: it would end every connection made through the address at once
                async with anyio.create_task_group() as tasks:
                    for peer in tuple(self._peers.values()):
                        tasks.start_soon(peer.aclose)
        finally:
            self._pump.stop()
            with anyio.CancelScope(shield=True):
                await self._finished.wait()

    def _bind(self, endpoint: str) -> None:
        try:
            self._socket.raw.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise AddressInUse(f"{endpoint} is in use: choose another port, or 0 for a free one") from error
            raise ConnectFailed(f"cannot listen at {endpoint}: {error}") from error

    def _turn(self) -> float:
        """Hand over what has arrived, tell who is lost, and write what is queued."""
        taken = 0
        while taken < MESSAGES_PER_TURN:
            arrived = read_from(self._socket.raw)
            taken += 1 if arrived is None else self._take(*arrived)
            if self._socket.events() & POLLIN:  # costs a third of a read that finds nothing
                continue
            self._tell_departed()
            more = self._write() and self._waiting  # while it was written, room may have been made for the rest
            if not self._socket.events() & POLLIN and not more:
                return RETRY_S if self._waiting or self._departed else math.inf
        self._write()
        return 0

    def _write(self) -> bool:
        """Write what the peers take; return whether anything was written. What a full peer does not take waits."""
        progress = [peer.flush() for peer in tuple(self._waiting)]
        return any(progress)

    def _take(self, identity: bytes, frames: list[zmq.Frame]) -> int:
        """Hand over what came; nobody waits for an answer while the next large message is handled."""
        taken = self._arrived(identity, frames)
        if sum(map(len, frames)) >= PARCEL_BYTES_MAX:
            self._write()
        return taken

    def _arrived(self, identity: bytes, frames: list[zmq.Frame]) -> int:
        """Take one parcel or word from the wire; return how many messages it was."""
        peer = self._peers.get(identity)
        if peer is None:
            if word_of(frames) == BYE:  # it leaves without having said anything
                write(self._socket.raw, word(BYE_SEEN), identity)
                return 1
            fd = None if self._closing else _source(frames[0])
            if fd is None:
                return 1
            peer = self._admit(identity, fd, None if self._gate is None else Client.of(frames[0]))
        return peer.arrived(frames)

    def _admit(self, identity: bytes, fd: int, client: Client | None) -> Peer:
        """Make a connection of an identity that is new."""
        self._take_events()
        name = f"{self._address} client {next(self._numbers)}"
        if client is not None:
            name = f"{name} ({client.name})"
        is_local = self._file is not None
        inode = self._open_fds.get(fd, 0)
        peer = Peer(name, identity, (fd, inode), client, self._socket, self._pump, self._waiting, is_local=is_local)
        self._peers[identity] = peer
        if fd in self._open_fds:
            if (earlier := self._by_fd.get(fd)) is not None:  # its end was missed: a descriptor has one user at a time
                self._departed.append(earlier)
            self._by_fd[fd] = peer
        else:
            self._departed.append(peer)
        peer.attach(self._accept(peer))
        return peer

    def _clients(self) -> set[Client]:
        return {peer.client for peer in self._peers.values() if peer.client is not None}

    def _cut(self, client: Client, reason: str) -> None:
        """End the connections of a client that is let in no more."""
        for peer in tuple(self._peers.values()):
            if peer.client == client:
                peer.refuse(reason)
        self._refusals.log(f"connections of {client.name!r}", reason)

    def _tell_departed(self) -> None:
        departed, self._departed = self._departed, []
        for peer in departed:
            if is_gone(self._socket.raw, peer.identity):
                self._peers.pop(peer.identity, None)
                peer.departed()
            else:
                self._departed.append(peer)

    def _take_events(self) -> None:
        while (event := self._socket.next_event()) is not None:
            self._note(event)

    def _note(self, event: Event) -> None:
        self._refusals.note(event)
        if event.kind == zmq.EVENT_LISTENING:
            self._listening = event.value, close_in_children(event.value)
        elif event.kind == zmq.EVENT_ACCEPTED:
            self._open_fds[event.value] = close_in_children(event.value)
        elif event.kind == zmq.EVENT_DISCONNECTED:
            keep_in_children(event.value, self._open_fds.pop(event.value, 0))
            if (peer := self._by_fd.pop(event.value, None)) is not None:
                self._departed.append(peer)

    def _monitor_turn(self) -> float:
        while True:
            self._take_events()
            if not pending(self._socket.monitor) & POLLIN:
                break
        if self._departed:
            self._pump.wake()
        return math.inf

    async def _close_sockets(self) -> None:
        await self._socket.aclose(self._note)
        if self._gate is not None:
            await self._gate.aclose()
        for fd, inode in (self._listening, *self._open_fds.items()):
            keep_in_children(fd, inode)
        if self._file is not None:
            self._file.release()


def _source(frame: zmq.Frame) -> int | None:
    """Return the descriptor of the connection that a frame came from, or None where it has none.

    Bytes that are no ZMTP pass for its first version, of random messages; libzmq gives those no descriptor, and nobody
    would learn of their end. An aioflow client always has one.
    """
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None
