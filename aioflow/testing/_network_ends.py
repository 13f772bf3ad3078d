"""The nodes of a simulated network, and the ends of the connections between them."""

from __future__ import annotations

from collections import deque
from functools import partial
from heapq import heappush
from typing import TYPE_CHECKING, Protocol

from aioflow.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.testing._network import SimulatedNetwork
    from aioflow.transport import Frame

    # Time, sequence number, node (None: the network's own), the node's life (-1: any), action.
    Event = tuple[float, int, "SimulatedNode | None", int, Callable[[], None]]

__all__ = ["TABLE", "EndHandler", "SimulatedEnd", "SimulatedNode"]

# How many random numbers the tables of a network hold: more than the messages of most connections.
TABLE = 4096


class EndHandler(Protocol):
    """Who is told what arrives at an end of a connection."""

    def received(self, frames: list[Frame]) -> None:
        """Take one message."""
        ...

    def lost(self, reason: str) -> None:
        """Learn that the connection is lost; nothing arrives after it."""
        ...


class SimulatedNode:
    """A process with a name; made by `SimulatedNetwork.node`.

    Attributes:
        name: Its name.
        accept: Called with each new connection, and returns who handles it; while it is None, connects are refused.
        on_crash: Called when it crashes. Its connections and timers are gone already, and `accept` is None.
        on_start: Called when it starts again. `inject_faults` lets only those crash that have one.
        is_up: Whether it runs, or is stopped; False between a crash and a restart.
        is_stopped: Whether it does nothing (SIGSTOP): what comes to it meanwhile piles up.
        slow: By how much the delays of its messages are multiplied.
        ends: Its ends of connections, the oldest first.
    """

    __slots__ = ("accept", "ends", "is_stopped", "is_up", "life", "name", "on_crash", "on_start", "piled", "slow")

    def __init__(self, name: str) -> None:
        self.name = name
        self.accept: Callable[[SimulatedEnd], EndHandler] | None = None
        self.on_crash: Callable[[], None] | None = None
        self.on_start: Callable[[], None] | None = None
        self.is_up = True
        self.is_stopped = False
        self.slow = 1.0
        self.life = 0  # its timers carry the number of the life in which they were set
        self.piled: list[Event] = []
        self.ends: dict[SimulatedEnd, None] = {}

    @property
    def is_running(self) -> bool:
        """Whether it can do anything at all now."""
        return self.is_up and not self.is_stopped


class SimulatedEnd:
    """One end of a connection; made by `SimulatedNetwork.connect`.

    Attributes:
        node: Where it is.
        name: The node's name, for the trace; with a number behind it when the node connects again to the same other.
        other: The other end.
        handler: Who is told what arrives; None before the acceptance and after the end.
        is_traced: Whether the messages of its connection are in the trace.
        is_open: Whether what is sent now can arrive. A lost connection is not open before its ends know of it.
        inbox: What is on its way here: messages, and what else happens to the connection, in order.
    """

    __slots__ = (
        "_cursor",
        "_network",
        "_turn",
        "handler",
        "held",
        "inbox",
        "is_open",
        "is_traced",
        "link",
        "name",
        "node",
        "other",
    )

    def __init__(
        self, network: SimulatedNetwork, node: SimulatedNode, name: str, link: tuple[str, str], cursor: int
    ) -> None:
        self._network = network
        self._cursor = cursor
        self._turn = partial(network.deliver, self)
        self.node = node
        self.name = name
        self.other: SimulatedEnd
        self.handler: EndHandler | None = None
        self.is_open = self.is_traced = True
        self.inbox: deque[list[Frame] | Callable[[SimulatedEnd], None]] = deque()
        self.held = 0  # turns that a partition has stopped
        self.link = link
        node.ends[self] = None

    @property
    def in_flight(self) -> int:
        """How many messages, and other things, have not arrived at the other end."""
        return len(self.other.inbox)

    def send(self, frames: Sequence[Frame]) -> None:
        """Send one message; it is dropped when the connection is lost.

        Raises:
            LocalProtocolError: There is no frame.
        """
        if not frames:
            raise LocalProtocolError(f"a message to {self.other.node.name} has no frame; send at least one")
        if self.is_open:
            self.other.push(list(frames))

    def close(self) -> None:
        """End the connection: the other end is told after it was given all that was sent; this one hears nothing."""
        if self._leave():
            self.other.push(partial(self._network.tell_lost, f"{self.node.name} closed the connection"))

    def abort(self) -> None:
        """End the connection at once: of what was sent, some of the first may arrive; this end hears nothing."""
        if self._leave():
            self.other.lose(f"{self.node.name} aborted the connection")

    # The network's

    def push(self, item: list[Frame] | Callable[[SimulatedEnd], None]) -> None:
        """Have something arrive here after what is on its way already."""
        self.inbox.append(item)
        self.take_turn()

    def take_turn(self) -> None:
        """Have the first that waits arrive some time from now."""
        cursor = self._cursor = (self._cursor + 1) % TABLE
        network, node = self._network, self.node
        delay = network.delays[cursor] * node.slow * self.other.node.slow
        network.events_made += 1
        event: Event = (network.now + delay, network.events_made, node, -1, self._turn)
        heappush(network.heap, event)

    def lose(self, reason: str) -> None:
        """Have this end told that the connection is lost, after some of what is on its way."""
        self._cursor = (self._cursor + 1) % TABLE
        keep = int(self._network.chances[self._cursor] * (len(self.inbox) + 1))
        while len(self.inbox) > keep:
            self.inbox.pop()
        self.is_open = False
        self.push(partial(self._network.tell_lost, reason))

    def forget(self) -> None:
        """Hear nothing any more."""
        self.is_open = False
        self.handler = None
        self.inbox.clear()
        self.node.ends.pop(self, None)

    def _leave(self) -> bool:
        told = self.is_open or self.handler is not None
        self.forget()
        self.other.is_open = False
        return told and self.other in self.other.node.ends
