"""Requests of graphs: what a server is asked to run, in plain code; `_service` runs it.

1. A graph is read when it comes, and kept under its number; one that cannot be read fails the steps that use it.
2. A step that was begun is answered once: by its values, its error, or, where it was withdrawn, that it has ended.
3. What a session has begun ends with it, and when it is lost; so does what another server began on behalf of a session
   that is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioflow.cluster import _messages as m
from aioflow.cluster._answers import pack_error
from aioflow.cluster._graph_codec import decode_graph
from aioflow.cluster._library import OpLibrary
from aioflow.cluster._values import decode_value
from aioflow.errors import AioflowError, ConnectionLost, NotFound, RemoteProtocolError
from aioflow.graph import Graph, Node, Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._sessions import Session
    from aioflow.cluster._tickets import Tickets
    from aioflow.transport import Frame

__all__ = [
    "Begun",
    "DevicesAsked",
    "Effect",
    "GraphDropped",
    "OwnerEnded",
    "RegisteredGraph",
    "ResetAsked",
    "StepAborted",
    "StepAsked",
    "Steps",
    "TensorCame",
]

# Graphs that a session has at a time: a program has a handful, a master has parts of those of all of its sessions.
GRAPHS_MAX = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredGraph:
    """A graph under a number.

    Attributes:
        graph: The graph.
        owner: On whose behalf it runs: the session's own secret, or that of another server's session.
        is_part: Whether it was placed by another server, and runs here.
        soft: Whether a node may go to another device of its task than it asks for.
        log: Whether to log where nodes are placed.
    """

    graph: Graph
    owner: str
    is_part: bool
    soft: bool = False
    log: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that takes time.

    Attributes:
        session: The session's secret.
        id: The request's.
    """

    session: str
    id: int


@dataclass(frozen=True, slots=True)
class StepAsked(Begun):
    """Run a step."""

    registered: RegisteredGraph
    step: str
    fetched: list[Output | Node]
    fed: dict[Output, Any]
    given: dict[str, Frame]


@dataclass(frozen=True, slots=True)
class DevicesAsked(Begun):
    """List the devices of this task, or of the whole cluster."""

    whole: bool


@dataclass(frozen=True, slots=True)
class ResetAsked(Begun):
    """Empty containers of all tasks."""

    containers: list[str]


@dataclass(frozen=True, slots=True)
class StepAborted(Begun):
    """End what was begun."""


@dataclass(frozen=True, slots=True)
class TensorCame:
    """A value for a step."""

    step: str
    key: str
    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class GraphDropped:
    """A graph is not used any more."""

    registered: RegisteredGraph


@dataclass(frozen=True, slots=True)
class OwnerEnded:
    """A session whose nodes may have run is over: on this server, or on the one that tells of it.

    Attributes:
        owner: Its secret.
        is_here: Whether this server was its master.
    """

    owner: str
    is_here: bool


Effect = StepAsked | DevicesAsked | ResetAsked | StepAborted | TensorCame | GraphDropped | OwnerEnded


class Steps:
    """The graphs and steps of a broker's sessions."""

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._effects: list[Effect] = []
        self._sessions: dict[Begun, Session] = {}
        self._lost: set[Begun] = set()  # ended as their session showed no sign of life

    def take_effects(self) -> list[Effect]:
        """Return what is to be done, in order."""
        effects, self._effects = self._effects, []
        return effects

    def ended(self, begun: Begun, message: m.Tensors | m.Done | m.Withdrawn | m.Error, frames: Sequence[Frame]) -> None:
        """Answer a request that has ended, unless its session is over."""
        session = self._sessions.pop(begun, None)
        if begun in self._lost:
            self._lost.remove(begun)
            if isinstance(message, m.Withdrawn):
                reason = (
                    "the session showed no sign of life for too long, and its step was ended; part of it may be done"
                )
                message = pack_error(begun.id, ConnectionLost(reason))
        if session is not None:
            session.steps.discard(begun.id)
            try:
                self._tickets.answer(session, begun.id, message, frames, keep=True)
            except AioflowError as error:
                self._tickets.answer(session, begun.id, pack_error(begun.id, error), keep=True)

    # Requests

    def register(self, session: Session, message: m.RegisterGraph, frames: Sequence[Frame]) -> None:
        """Read a graph."""
        if message.graph in session.graphs or len(session.graphs) >= GRAPHS_MAX:
            raise RemoteProtocolError(f"graph number {message.graph} is in use, or one of over {GRAPHS_MAX}")
        try:
            graph = decode_graph(frames)
        except AioflowError as error:
            session.graphs[message.graph] = error
        else:
            owner = message.owner or session.name
            session.owners.add(owner)
            session.graphs[message.graph] = RegisteredGraph(
                graph, owner, bool(message.owner), message.soft, message.log
            )
        self._done(session, message.id)

    def deregister(self, session: Session, message: m.DeregisterGraph, _: Sequence[Frame]) -> None:
        """Forget a graph."""
        self._drop(session.graphs.pop(message.graph, None))
        self._done(session, message.id)

    def run(self, session: Session, message: m.RunGraph, frames: Sequence[Frame]) -> None:
        """Begin a step."""
        registered = session.graphs.get(message.graph)
        if registered is None:
            raise NotFound(f"this session has no graph number {message.graph}")
        if not isinstance(registered, RegisteredGraph):  # not raised: that would end the session
            self._tickets.answer(session, message.id, pack_error(message.id, registered))
            return
        graph = registered.graph
        fetched = [_output(graph, *pair) for pair in message.fetches]
        values, given = _read_values(frames, len(message.feeds))
        fed = {}
        for pair, value in zip(message.feeds, values, strict=True):
            output = _output(graph, *pair)
            if not isinstance(output, Output):
                raise RemoteProtocolError(f"{output!r} has no value to be fed with")
            fed[output] = value
        self._begin(session, StepAsked(session.name, message.id, registered, message.step, fetched, fed, given))

    def send_tensor(self, session: Session, message: m.SendTensor, frames: Sequence[Frame]) -> None:
        """Take a value for a step."""
        self._effects.append(TensorCame(message.step, message.key, frames))
        self._done(session, message.id)

    def list_devices(self, session: Session, message: m.ListDevices, _: Sequence[Frame]) -> None:
        """Begin to list devices."""
        self._begin(session, DevicesAsked(session.name, message.id, message.whole))

    def reset(self, session: Session, message: m.Reset) -> None:
        """Begin to empty containers of all tasks."""
        self._begin(session, ResetAsked(session.name, message.id, message.containers))

    def withdraw(self, session: Session, message: m.Withdraw) -> bool:
        """End what was begun; say whether the request is one of these. It is answered when it has ended."""
        if message.id not in session.steps:
            return False
        self._effects.append(StepAborted(session.name, message.id))
        return True

    def end_owner(self, session: Session, message: m.EndOwner) -> None:
        """Forget the parts of a session of another server that is over."""
        owned = [
            number
            for number, registered in session.graphs.items()
            if isinstance(registered, RegisteredGraph) and registered.owner == message.owner
        ]
        for number in owned:
            self._drop(session.graphs.pop(number))
        session.owners.discard(message.owner)
        self._effects.append(OwnerEnded(message.owner, is_here=False))
        self._done(session, message.id)

    def lose(self, session: Session) -> None:
        """End the steps of a session that is not heard any more: its client gives them up after the same time."""
        for begun in [begun for begun, whose in self._sessions.items() if whose is session]:
            self._lost.add(begun)
            self._effects.append(StepAborted(begun.session, begun.id))

    def end(self, session: Session) -> None:
        """End all that a session has begun, and forget its graphs."""
        for begun in [begun for begun, whose in self._sessions.items() if whose is session]:
            del self._sessions[begun]
            self._lost.discard(begun)
            self._effects.append(StepAborted(begun.session, begun.id))
        session.steps.clear()
        for registered in session.graphs.values():
            self._drop(registered)
        session.graphs.clear()
        self._effects += [OwnerEnded(owner, is_here=owner == session.name) for owner in sorted(session.owners)]
        session.owners.clear()

    def _begin(self, session: Session, begun: StepAsked | DevicesAsked | ResetAsked) -> None:
        session.steps.add(begun.id)
        self._sessions[Begun(begun.session, begun.id)] = session
        self._effects.append(begun)

    def _drop(self, registered: RegisteredGraph | AioflowError | None) -> None:
        if isinstance(registered, RegisteredGraph):
            self._effects.append(GraphDropped(registered))

    def _done(self, session: Session, request: int) -> None:
        self._tickets.answer(session, request, m.Done(request), keep=True)


def _read_values(frames: Sequence[Frame], feeds: int) -> tuple[list[Any], dict[str, Frame]]:
    """Return what a step is fed with, and the values that came with it, packed, by key."""
    values = decode_value(frames, OpLibrary.restore) if frames else []
    if not isinstance(values, list) or len(values) < feeds or (len(values) - feeds) % 2:
        raise RemoteProtocolError(f"a step is fed with {feeds} values, and pairs behind them; got {values!r:.80}")
    keys, given = values[feeds::2], values[feeds + 1 :: 2]
    if not all(isinstance(key, str) and isinstance(packed, bytes) for key, packed in zip(keys, given, strict=True)):
        raise RemoteProtocolError(f"a step is given packed values behind their keys; got {values[feeds:]!r:.80}")
    return values[:feeds], dict(zip(keys, given, strict=True))


def _output(graph: Graph, number: int, index: int) -> Output | Node:
    if number >= len(graph.nodes):
        raise RemoteProtocolError(f"node {number} of a graph that has {len(graph.nodes)}")
    node = graph.nodes[number]
    if index >= node.op.num_outputs:
        raise RemoteProtocolError(f"output {index} of {node!r}, which has {node.op.num_outputs}")
    return node if index < 0 else Output(node, index)
