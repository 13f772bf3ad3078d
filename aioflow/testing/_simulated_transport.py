"""The transport of `sim://NAME`: connections of a simulated network, for the tasks of one simulated event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

import anyio

from aioflow.errors import AddressInUse, ConnectFailed, ConnectionLost, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from anyio.abc import TaskGroup

    from aioflow.testing._network import SimulatedNetwork
    from aioflow.testing._network_ends import SimulatedEnd, SimulatedNode
    from aioflow.transport import AnyFrame, Connection, Frame, Receiver, WritablePieces

__all__ = ["SimulatedTransport", "on_node"]

_SCHEME = "sim://"

# How long a connect that was refused waits before the next try.
AGAIN_S = 0.05

_node: ContextVar[str] = ContextVar("aioflow_simulated_node", default="main")


@contextmanager
def on_node(name: str) -> Generator[None]:
    """Connect from a node of this name within a block of a simulated program, and in the tasks that are started in it.

    Partitions and slow nodes are of nodes; sessions that are opened without this are all on the node `main`.
    """
    token = _node.set(name)
    try:
        yield
    finally:
        _node.reset(token)


class SimulatedConnection:
    """One end: what the network hands over waits here for a task of its own."""

    def __init__(self, peer: str, attach: Callable[[Connection], Receiver]) -> None:
        self.end: SimulatedEnd
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._peer = peer
        self._attach = attach
        self._arrived: deque[list[Frame] | ConnectionLost] = deque()
        self._changed = asyncio.Event()
        self._closing = False
        self._finished = asyncio.Event()

    @property
    def peer(self) -> str:
        """The other end, for messages to people."""
        return self._peer

    @property
    def is_local(self) -> bool:
        """False: it is as a connection between hosts."""
        return False

    def send(self, *messages: Sequence[AnyFrame]) -> None:
        """Send messages; after a loss or a close they are dropped.

        Raises:
            LocalProtocolError: A message has no frame.
        """
        for frames in messages:
            if not frames:
                raise LocalProtocolError(f"a message to {self._peer} has no frame; send at least one")
            self.end.send([bytes(frame) for frame in frames])

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:  # noqa: ARG002 - as said
        """None: nothing is copied."""
        return None

    def allocate(self, nbytes: int) -> memoryview | None:  # noqa: ARG002 - as said
        """None: nothing is copied."""
        return None

    async def aclose(self) -> None:
        """Close this end; what was sent is on its way, and arrives before the other learns of it."""
        self._end(self.end.close)
        with anyio.CancelScope(shield=True):
            await self._finished.wait()

    def abort(self) -> None:
        """End the connection at once."""
        self._end(self.end.abort)

    async def run(self) -> None:
        """Hand over what arrives until either end is closed."""
        try:
            receiver = self._attach(self)
            while not self._closing:
                while self._arrived and not self._closing:
                    item = self._arrived.popleft()
                    if isinstance(item, ConnectionLost):
                        self._closing = True
                        receiver.lost(item)
                    else:
                        receiver.received(item)
                self._changed.clear()
                if not self._closing:
                    await self._changed.wait()
        finally:
            self.abort()
            self._finished.set()

    # For the network

    def open(self) -> None:
        """Learn that the connection was accepted."""
        if not self.opened.done():
            self.opened.set_result(True)

    def received(self, frames: list[Frame]) -> None:
        """Take one message."""
        self._arrived.append(frames)
        self._changed.set()

    def lost(self, reason: str) -> None:
        """Learn of the loss, or of a refusal."""
        if not self.opened.done():
            self.opened.set_result(False)
        self._arrived.append(ConnectionLost(f"{self._peer}: {reason}"))
        self._changed.set()

    def _end(self, how: Callable[[], None]) -> None:
        if not self._closing:
            self._closing = True
            how()
            self._arrived.clear()
            self._changed.set()


class SimulatedListener:
    """A node that accepts connections."""

    def __init__(self, node: SimulatedNode, accept: Callable[[Connection], Receiver], task_group: TaskGroup) -> None:
        self._node = node
        self._accept = accept
        self._task_group = task_group
        self._connections: dict[SimulatedConnection, None] = {}
        self._joined: deque[SimulatedConnection] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self._numbers = 0
        node.accept = self.join

    @property
    def address(self) -> str:
        """The address as bound."""
        return _SCHEME + self._node.name

    @property
    def memory_bytes(self) -> int:
        """0: no memory is shared."""
        return 0

    async def aclose(self) -> None:
        """Refuse connections from now on, and close every one of this listener."""
        self._withdraw()
        for connection in list(self._connections):
            await connection.aclose()

    def join(self, end: SimulatedEnd) -> SimulatedConnection:
        """Accept a connection for the network, which calls from outside of any task."""
        self._numbers += 1
        connection = SimulatedConnection(f"{self.address} client {self._numbers}", self._accept)
        connection.end = end
        connection.open()
        self._joined.append(connection)
        self._changed.set()
        return connection

    async def run(self) -> None:
        """Give each connection a task of its own, which announces it, until the listener is closed."""
        try:
            while not self._closed:
                while self._joined:
                    connection = self._joined.popleft()
                    self._connections[connection] = None
                    self._task_group.start_soon(self._run, connection, name=f"aioflow {connection.peer}")
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._withdraw()

    async def _run(self, connection: SimulatedConnection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.pop(connection)

    def _withdraw(self) -> None:
        self._closed = True
        self._changed.set()
        if self._node.accept == self.join:
            self._node.accept = None
        while self._joined:
            self._joined.popleft().abort()


class SimulatedBeats:
    """Beats by a timer of the event loop: simulated programs block no loop that a thread would have to beat for."""

    def __init__(
        self,
        connect: Callable[[SimulatedBeats], SimulatedEnd],
        make: Callable[[int], list[Frame]],
        read: Callable[[list[Frame]], int],
        every_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect = connect
        self._make = make
        self._read = read
        self._every_s = every_s
        self._end: SimulatedEnd | None = None
        self._number = 0
        self._sent: dict[int, float] = {}
        self._answered_at = self._loop.time()
        self._timer = self._loop.call_soon(self._beat)

    @property
    def answered_at(self) -> float:
        """The loop's time at the sending of the latest beat that was answered; of the start, before the first."""
        return self._answered_at

    async def aclose(self) -> None:
        """Beat no more."""
        self._timer.cancel()
        if self._end is not None:
            self._end.close()
            self._end = None

    def received(self, frames: list[Frame]) -> None:
        """Read an answer."""
        try:
            number = self._read(frames)
        except Exception:  # noqa: BLE001 - counts as no answer, as the protocol says
            return
        if number in self._sent:
            self._answered_at = self._sent[number]
            self._sent = {later: at for later, at in self._sent.items() if later > number}

    def lost(self, reason: str) -> None:  # noqa: ARG002 - the handler's
        """Connect anew with the next beat."""
        self._end = None

    def _beat(self) -> None:
        if self._end is None:
            self._end = self._connect(self)
        self._number += 1
        self._sent[self._number] = self._loop.time()
        self._end.send(self._make(self._number))
        self._timer = self._loop.call_later(self._every_s, self._beat)


class SimulatedTransport:
    """The transport of `sim://`, on a network."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self._network = network

    async def connect(self, address: str, receiver: Receiver, task_group: TaskGroup) -> SimulatedConnection:
        """Connect to a listener, waiting for one to appear.

        Raises:
            ConnectFailed: The address is malformed.
        """
        target = _check(address)
        while True:
            connection = SimulatedConnection(address, lambda _: receiver)
            connection.end = self._network.connect(_node.get(), target, connection, connection.open)
            try:
                if await connection.opened:
                    task_group.start_soon(connection.run, name=f"aioflow {address}")
                    return connection
                await anyio.sleep(AGAIN_S)
            except BaseException:
                connection.end.abort()
                raise

    async def listen(
        self, address: str, accept: Callable[[Connection], Receiver], task_group: TaskGroup
    ) -> SimulatedListener:
        """Accept connections on a node.

        Raises:
            AddressInUse: The node has a listener; it is not disturbed.
            ConnectFailed: The address is malformed.
        """
        node = self._network.node(_check(address))
        await anyio.lowlevel.checkpoint()
        if node.accept is not None:
            raise AddressInUse(f"{address} already has a listener in this simulation; choose another name")
        listener = SimulatedListener(node, accept, task_group)
        task_group.start_soon(listener.run, name=f"aioflow {address}")
        return listener

    async def beat(
        self, address: str, make: Callable[[int], list[Frame]], read: Callable[[list[Frame]], int], every_s: float
    ) -> SimulatedBeats:
        """Start to send beats.

        Raises:
            ConnectFailed: The address is malformed.
        """
        source, target = _node.get(), _check(address)
        connect = partial(self._network.connect, source, target, traced=False)  # beats would fill the trace
        return SimulatedBeats(connect, make, read, every_s)


def _check(address: str) -> str:
    if not address.startswith(_SCHEME) or address == _SCHEME:
        raise ConnectFailed(f"{address!r} is no address of this transport: expected {_SCHEME}name")
    return address.removeprefix(_SCHEME)
