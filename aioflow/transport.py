"""What carries messages: the protocols that a transport implements, and how one is found.

A transport moves lists of frames between two processes and knows nothing of what is in them. Rules:

1. Frames of one connection arrive whole, once, and in the order in which they were sent, or the connection is lost.
2. `send` never waits: what the other side cannot take yet is kept in this connection's own outbox.
3. Between the arrival of a message and `Receiver.received` there is no await; no waiter is resumed in between.
4. `Receiver.lost` is called once, when the other side went away; not after `aclose`.
5. The sender may not change a frame's memory until the message has been answered; a transport that hands frames over
   by reference copies writable ones.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from aioflow.errors import ConnectFailed, TransportError
from aioflow.names import address_scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.abc import TaskGroup

__all__ = ["Connection", "Frame", "Listener", "Receiver", "Transport", "find_transport"]

Frame = bytes | memoryview

# Read when this is imported: what is installed stands in files, and reading them later would block an event loop.
_ENTRY_POINTS = entry_points(group="aioflow.transports")


class Receiver(Protocol):
    """Who is told what arrives on a connection; its methods are plain functions and return quickly."""

    def received(self, frames: list[Frame]) -> None:
        """Take one message: at least one frame. The memory of the frames stays valid as long as it is referenced."""
        ...

    def lost(self, error: TransportError) -> None:
        """Learn that the other side went away; nothing arrives after it."""
        ...


class Connection(Protocol):
    """One end of a connection."""

    @property
    def peer(self) -> str:
        """The other end, for messages to people."""
        ...

    def send(self, frames: Sequence[Frame]) -> None:
        """Send one message, in order and without waiting; after a loss it is dropped silently.

        Raises:
            LocalProtocolError: There is no frame, or more or larger ones than the transport carries.
            ConnectFailed: The connection was made before a fork, by the parent process.
        """
        ...

    async def aclose(self) -> None:
        """Close this end, after what was sent has been given to the other side or a bound of 1 s has passed."""
        ...


class Listener(Protocol):
    """A bound address."""

    @property
    def address(self) -> str:
        """The address as bound: a port of 0 is replaced by the one chosen."""
        ...

    async def aclose(self) -> None:
        """Stop listening and close every connection of this listener; leave no file behind."""
        ...


class Transport(Protocol):
    """Makes connections and listeners for the addresses of its schemes."""

    async def connect(self, address: str, receiver: Receiver, task_group: TaskGroup) -> Connection:
        """Connect to a listener, waiting for one to appear; the caller bounds the wait with a cancel scope.

        Args:
            address: The address, scheme included.
            receiver: Who is told what arrives; called only from `task_group`'s event loop.
            task_group: Where the transport's tasks run; they end with the connection.

        Raises:
            ConnectFailed: The address can never work: malformed, too long, not allowed.
        """
        ...

    async def listen(self, address: str, accept: Callable[[Connection], Receiver], task_group: TaskGroup) -> Listener:
        """Bind an address and accept connections from the moment of the return on.

        Args:
            address: The address, scheme included.
            accept: Called with each new connection; returns who receives its messages.
            task_group: Where the transport's tasks run; they end with the listener.

        Raises:
            AddressInUse: Another listener has the address; it is not disturbed.
            ConnectFailed: The address can never work: malformed, too long, not allowed.
        """
        ...


def find_transport(address: str) -> Transport:
    """Find the transport for an address by its scheme, among the entry points of the group `aioflow.transports`.

    Raises:
        ConnectFailed: No installed distribution brings a transport for the scheme.
    """
    scheme = address_scheme(address)
    for entry_point in _ENTRY_POINTS.select(name=scheme):
        transport: Transport = entry_point.load()()
        return transport
    known = ", ".join(sorted({f"{entry_point.name}://" for entry_point in _ENTRY_POINTS}))
    raise ConnectFailed(f"no transport for {address!r}: the schemes that are installed here are {known or '(none)'}")
