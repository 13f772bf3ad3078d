"""A network in virtual time, decided by a seed: nodes, connections between them, and what can go wrong.

Nothing here runs by itself: `SimulatedNetwork.step` takes the next event from one heap and calls who it concerns. What
is sent on a connection waits in the other end's inbox; each message brings a *turn*, an event some random time ahead,
and each turn hands over the first that waits. So the order within a connection holds whatever the delays, and nothing
else does.

Delays come from a table that the seed fills; every end walks through it from a place of its own. That is cheap, and a
fault that is left out of a run changes no delay of the others: the trace of a failure can be minimised.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any
from zlib import crc32

from aioflow.testing._network_ends import TABLE, EndHandler, SimulatedEnd, SimulatedNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

    from aioflow.testing._network_ends import Event
    from aioflow.transport import Frame

__all__ = ["SimulatedNetwork"]

# The delay of a message is Pareto's: most take little more than the least, a few a hundred times as much.
PARETO_SHAPE = 1.2
DELAY_S = 0.0005
DELAY_MAX_S = 0.5


class SimulatedNetwork:
    """Nodes, their connections, and one heap of events.

    Attributes:
        now: Seconds since the start.
        trace: What happened, the latest of it, for `render`: (time, from, to, what); what is a text or frames.
    """

    def __init__(
        self,
        rng: Generator,
        *,
        describe: Callable[[list[Frame]], str] | None = None,
        trace_max: int | None = None,
        delay_s: float = DELAY_S,
    ) -> None:
        """Make a network without nodes.

        Args:
            rng: Decides the delays, and how much arrives of what was in flight when a connection is lost.
            describe: Says in a few words what a message is, for the trace; one without words is left out.
            trace_max: How many of the latest events the trace keeps; None is all.
            delay_s: The least delay; the mean is some five times as much.
        """
        self.now = 0.0
        self.trace: deque[tuple[float, str, str, str | list[Frame]]] = deque(maxlen=trace_max)
        self.heap: list[Event] = []
        self.events_made = 0
        self.delays: list[float] = (delay_s * (1 + rng.pareto(PARETO_SHAPE, TABLE))).clip(max=DELAY_MAX_S).tolist()
        self.chances: list[float] = rng.random(TABLE).tolist()
        self._describe = describe or _describe
        self._nodes: dict[str, SimulatedNode] = {}
        self._partitions: dict[tuple[str, str], int] = {}
        self._connects: dict[tuple[str, str], int] = {}

    # Time

    @property
    def next_at(self) -> float | None:
        """When the next event is due; None when there is none."""
        return self.heap[0][0] if self.heap else None

    def step(self) -> bool:
        """Let the next event happen; return whether there was one."""
        if not self.heap:
            return False
        event = heappop(self.heap)
        time, _, node, life, action = event
        self.now = max(self.now, time)
        if node is not None:
            if life not in {-1, node.life}:
                return True
            if node.is_stopped:
                node.piled.append(event)
                return True
        action()
        return True

    def advance(self, until: float) -> None:
        """Let everything happen that is due by a time, and make it now."""
        while self.heap and self.heap[0][0] <= until:
            self.step()
        self.now = max(self.now, until)

    def at(self, time: float, action: Callable[[], None], node: SimulatedNode | None = None) -> None:
        """Call something at a time. For a node: not after its crash, and not while it is stopped but after it."""
        self.events_made += 1
        heappush(self.heap, (max(time, self.now), self.events_made, node, -1 if node is None else node.life, action))

    # Nodes and connections

    def node(self, name: str) -> SimulatedNode:
        """Return the node of a name; the first call makes it."""
        return self._nodes.get(name) or self._nodes.setdefault(name, SimulatedNode(name))

    @property
    def nodes(self) -> list[SimulatedNode]:
        """All nodes, the first made first."""
        return list(self._nodes.values())

    @property
    def connections(self) -> list[SimulatedEnd]:
        """The connecting ends of the connections that are open, by node and age."""
        return [end for node in self._nodes.values() for end in node.ends if end.is_open and end.link[0] == node.name]

    def connect(
        self,
        source: str,
        target: str,
        handler: EndHandler,
        on_open: Callable[[], None] | None = None,
        *,
        traced: bool = True,
    ) -> SimulatedEnd:
        """Connect two nodes; what is sent at once arrives after the acceptance. A refusal is told as a loss.

        Args:
            source: The node that connects.
            target: The node that accepts.
            handler: Who is told what arrives.
            on_open: Called when the connection was accepted.
            traced: Whether its messages are in the trace.
        """
        link = source, target
        number = self._connects[link] = self._connects.get(link, 0) + 1
        place = crc32(f"{source}>{target}#{number}".encode())
        name = source if number == 1 else f"{source}#{number}"
        near = SimulatedEnd(self, self.node(source), name, link, place % TABLE)
        far = SimulatedEnd(self, self.node(target), target, link, (place >> 16) % TABLE)
        near.other, far.other = far, near
        near.is_traced = far.is_traced = traced
        near.handler = handler
        far.push(partial(self._accept, on_open))
        return near

    # What goes wrong

    def cut(self, end: SimulatedEnd) -> None:
        """Lose a connection: both ends are told, each in its own time and after some of what was on its way."""
        self.note(end.name, end.other.name, "the connection is lost")
        end.lose("the connection was lost")
        end.other.lose("the connection was lost")

    def partition(self, source: str, target: str) -> None:
        """Let nothing pass between two nodes, in either direction, until as many calls of `heal`."""
        self.note(source, target, "partitioned")
        for link in {(source, target), (target, source)}:
            self._partitions[link] = self._partitions.get(link, 0) + 1

    def heal(self, source: str, target: str) -> None:
        """End a partition: what waited passes."""
        self.note(source, target, "healed")
        for link in ((source, target), (target, source)):
            self._partitions[link] -= 1
            if not self._partitions[link]:
                del self._partitions[link]
        if (source, target) not in self._partitions:
            ends = [*self.node(source).ends, *self.node(target).ends]
            for end in (end for end in ends if end.link in {(source, target), (target, source)}):
                end.held, turns = 0, end.held
                for _ in range(turns):
                    end.take_turn()

    def crash(self, name: str) -> None:
        """End a node (SIGKILL): its timers are gone, and its peers learn that their connections are lost."""
        node = self.node(name)
        if not node.is_up:
            return
        self.note(name, "", "crashed")
        node.is_up = node.is_stopped = False
        node.life += 1
        node.accept = None
        node.piled.clear()
        for end in list(node.ends):
            end.forget()
            if end.other in end.other.node.ends:
                end.other.lose(f"{name} crashed")
        if node.on_crash is not None:
            node.on_crash()

    def restart(self, name: str) -> None:
        """Start a node that has crashed."""
        node = self.node(name)
        if not node.is_up:
            self.note(name, "", "started")
            node.is_up = True
            if node.on_start is not None:
                node.on_start()

    def stop(self, name: str) -> None:
        """Have a node do nothing (SIGSTOP): what comes to it piles up."""
        node = self.node(name)
        if node.is_running:
            self.note(name, "", "stopped")
            node.is_stopped = True

    def resume(self, name: str) -> None:
        """Let a stopped node go on: it is told at once all that has piled up."""
        node = self.node(name)
        if node.is_stopped:
            self.note(name, "", "resumed")
            node.is_stopped = False
            piled, node.piled = node.piled, []
            for _, _, _, life, action in piled:
                self.events_made += 1
                heappush(self.heap, (self.now, self.events_made, node, life, action))

    # The trace

    def note(self, source: str, target: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append((self.now, source, target, what))

    def render(self) -> str:
        """Return the trace, one line for each event: time, from, to, what."""
        lines = []
        for time, source, target, what in self.trace:
            text = what if isinstance(what, str) else self._describe(what)
            if text:
                lines.append(f"{time:12.6f} s  {source}{' -> ' if target else ''}{target}: {text}")
        return "\n".join(lines)

    # Arrivals

    def deliver(self, end: SimulatedEnd) -> None:
        """Have the first that waits arrive at an end: this is what a turn does."""
        if not end.inbox:
            return  # it was dropped by a loss
        if self._partitions and end.link in self._partitions:
            end.held += 1
            return
        item = end.inbox.popleft()
        if not isinstance(item, list):
            item(end)
        elif end.handler is not None:
            if end.is_traced:
                self.trace.append((self.now, end.other.name, end.name, item))
            end.handler.received(item)

    def _accept(self, on_open: Callable[[], None] | None, end: SimulatedEnd) -> None:
        node, near = end.node, end.other
        if node.accept is None:
            end.forget()
            near.is_open = False
            near.push(partial(self.tell_lost, f"{node.name} refused the connection"))
            return
        self.note(near.name, node.name, "connects")
        end.handler = node.accept(end)
        if on_open is not None and near.handler is not None:
            near.push(lambda near: on_open() if near.handler is not None else None)

    def tell_lost(self, reason: str, end: SimulatedEnd) -> None:
        """Have a loss arrive at an end, which hears nothing after it."""
        handler = end.handler
        end.forget()
        if handler is not None:
            self.note(end.other.name, end.name, reason)
            handler.lost(reason)


def _describe(frames: list[Any]) -> str:
    """Say how much a message is."""
    return f"{len(frames)} frames, {sum(memoryview(frame).nbytes for frame in frames)} bytes"
