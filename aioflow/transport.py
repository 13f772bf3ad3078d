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

from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from aioflow.errors import ConnectFailed, TransportError
from aioflow.names import address_scheme
from aioflow.specs import Pieces, WritablePieces

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

    from anyio.abc import TaskGroup

__all__ = [
    "FRAME_BYTES_MAX",
    "AnyFrame",
    "Beats",
    "Connection",
    "Frame",
    "KeyMaker",
    "Listener",
    "Pieces",
    "Receiver",
    "Transport",
    "WritablePieces",
    "find_transport",
    "make_key_pair",
    "use_transport",
    "whole",
]

Frame = bytes | memoryview
AnyFrame = Frame | Pieces

# Every transport carries messages of 2,049 frames, each of so many bytes: a component of a large batch, of which a
# process can hold several.
FRAME_BYTES_MAX = 1 << 30

# Read when this is imported: what is installed stands in files, and reading them later would block an event loop.
_ENTRY_POINTS = entry_points(group="aioflow.transports")

_used: ContextVar[Mapping[str, Transport]] = ContextVar("aioflow_transports", default={})  # noqa: B039 - never changed


def whole(frame: AnyFrame) -> Frame:
    """Return a frame that does not lie in pieces: a copy, if it does."""
    return frame.joined() if isinstance(frame, Pieces) else frame


class Receiver(Protocol):
    """Who is told what arrives on a connection; its methods are plain functions and return quickly.

    One with an attribute `takes_pieces` that is true is handed frames that lie in pieces as `Pieces`; others are handed
    copies of them.
    """

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

    @property
    def is_local(self) -> bool:
        """Whether the end of the connection proves that the other process has ended, or has let go of it.

        True where both ends are on one host by construction: inproc, ipc and shm. A tcp connection, also one on the
        loopback interface, may break on its way.
        """
        ...

    def send(self, *messages: Sequence[AnyFrame]) -> None:
        """Send messages, in order and without waiting; after a loss they are dropped silently. Views are C-contiguous.

        What is sent from within `received` is written together with what else is sent there, soon after; what is sent
        elsewhere is written before this returns, unless earlier messages still wait for the other side.

        A peer that does not read is not waited for without end: once a transport's bound of messages waits for it, it
        is cut off, and the receiver learns of its loss soon after.

        Raises:
            LocalProtocolError: A message has no frame, or more or larger ones than the transport carries; it and those
                behind it were not sent.
            ConnectFailed: The connection was made before a fork, by the parent process.
        """
        ...

    def allocate(self, nbytes: int) -> memoryview | None:
        """Return memory to write in from which frames of this connection go without a copy; None where none is better.

        It belongs to the caller until the last view of it is gone. What lies in a frame that was sent may not be
        changed any more, as anywhere else.
        """
        ...

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:
        """Return pieces to write in, which go as `allocate` says and come back one by one; None where none are better.

        They belong to the caller as long as it refers to them, or to a part of them.
        """
        ...

    async def aclose(self) -> None:
        """Close this end, after what was sent has been given to the other side or a bound of 1 s has passed."""
        ...

    def abort(self) -> None:
        """End the connection at once; may be called from anywhere in its event loop, also from within `received`.

        What was not sent is dropped, and nothing is waited for. This side's receiver is told nothing more, neither
        messages nor a loss; the other's learns of the loss. A second call does nothing; `aclose` may follow.
        """
        ...


class Beats(Protocol):
    """Beats that a thread sends through a connection of its own, also while the event loop is blocked."""

    @property
    def answered_at(self) -> float:
        """`time.monotonic()` at the sending of the latest beat that was answered; of the start, before the first."""
        ...

    async def aclose(self) -> None:
        """End the thread and its connection; takes some ms, and a cancel does not cut it short.

        In a process that was forked from the one that started the beats it does nothing.
        """
        ...


class Listener(Protocol):
    """A bound address."""

    @property
    def address(self) -> str:
        """The address as bound: a port of 0 is replaced by the one chosen."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory shared with clients, counted once, with what those that are gone have left in use; or 0."""
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
            AuthenticationFailed: The two sides do not know each other's keys, or the file of this side's is refused.
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
            AuthenticationFailed: A file of the keys is refused.
        """
        ...

    async def beat(
        self, address: str, make: Callable[[int], list[Frame]], read: Callable[[list[Frame]], int], every_s: float
    ) -> Beats | None:
        """Start to send beats: the first as soon as a listener is there, then one every `every_s` seconds.

        A lost connection is made again by itself, and a beat that cannot be sent is dropped when the next one is due.
        At the listener it is a connection as any other: accepted with its first beat, its end told. Whoever starts
        beats closes them.

        Args:
            address: The address of a listener, scheme included.
            make: Makes the message that is beat number 1, 2, 3, ...; called in the thread of the beats, as `read` is,
                or in this call. Both return quickly, and `make` raises nothing.
            read: Returns the number of the beat that a message of the listener answers; 0 where it answers none. An
                exception counts as 0.
            every_s: Seconds from one beat to the next.

        Returns:
            The beats; None where the transport needs none, because both ends stand still and end together.

        Raises:
            ConnectFailed: The address can never work, or no thread or socket can be had.
            AuthenticationFailed: The file of this side's key is refused.
        """
        ...


@runtime_checkable
class KeyMaker(Protocol):
    """A transport that has keys."""

    def make_key_pair(self) -> tuple[str, str]:
        """Make a public key and its secret one, of 64 hexadecimal digits each."""
        ...


def find_transport(address: str, credentials: Path | None = None) -> Transport:
    """Find the transport for an address by its scheme, among the entry points of the group `aioflow.transports`.

    Args:
        address: The address, scheme included.
        credentials: A key file or a key folder (`aioflow.keys`); an entry point is called with it.

    Raises:
        ConnectFailed: No installed distribution brings a transport for the scheme.
    """
    scheme = address_scheme(address)
    if (used := _used.get().get(scheme)) is not None:
        return used
    for entry_point in _ENTRY_POINTS.select(name=scheme):
        transport: Transport = entry_point.load()(credentials)
        return transport
    known = ", ".join(sorted({f"{entry_point.name}://" for entry_point in _ENTRY_POINTS}))
    raise ConnectFailed(f"no transport for {address!r}: the schemes that are installed here are {known or '(none)'}")


def make_key_pair() -> tuple[str, str]:
    """Make a public key and its secret one for the transport of `tcp://`.

    Raises:
        ConnectFailed: No transport is installed for it, or it has no keys.
    """
    transport = find_transport("tcp://127.0.0.1:0")
    if not isinstance(transport, KeyMaker):
        raise ConnectFailed("the transport that is installed here for tcp:// has no keys")
    return transport.make_key_pair()


@contextmanager
def use_transport(scheme: str, transport: Transport) -> Generator[None]:
    """Have a scheme's addresses served by a transport within a block, and in the tasks that are started in it."""
    token = _used.set({**_used.get(), scheme: transport})
    try:
        yield
    finally:
        _used.reset(token)
