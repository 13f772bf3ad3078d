"""Graphs as frames, and back: nodes by number, ops by name, constants as `_values` has them. No code travels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioflow.cluster._fields import COMPONENTS_MAX
from aioflow.cluster._library import OpLibrary, check_path
from aioflow.cluster._values import DEPTH_MAX, Decoder, Encoder
from aioflow.errors import AioflowError, PlacementError, RemoteProtocolError, SpecMismatch
from aioflow.graph import Argument, Colocation, Graph, Node, Op, Output
from aioflow.names import DeviceName
from aioflow.resources import QueueKey, VariableKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.transport import Frame

__all__ = ["decode_graph", "encode_graph"]

# A step of so many nodes takes seconds; a server's memory holds some such graphs.
NODES_MAX = 1_000_000

_CONSTANT, _OUTPUT, _LIST, _TUPLE, _DICT = range(5)
_KEYS = (QueueKey, VariableKey)


def encode_graph(graph: Graph) -> list[Frame]:
    """Return the frames of a graph.

    Raises:
        UnknownOp: An op cannot be found by its name.
        SpecMismatch: A constant cannot travel.
    """
    return _GraphEncoder().encode(graph.nodes)


def decode_graph(frames: Sequence[Frame]) -> Graph:
    """Return the graph of some frames. Of its ops only aioflow's own are there: `OpLibrary.find` has the others.

    Raises:
        RemoteProtocolError: It is none.
    """
    decoder = Decoder(frames, OpLibrary.restore)
    try:
        return _GraphDecoder(decoder).decode(decoder.root)
    except RemoteProtocolError:
        raise
    except (AioflowError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise RemoteProtocolError(f"a graph that cannot be read: {type(error).__name__}: {error}") from error


class _GraphEncoder:
    def __init__(self) -> None:
        self._encoder = Encoder()
        self._ops: dict[Op, int] = {}
        self._described: list[Any] = []

    def encode(self, nodes: Sequence[Node]) -> list[Frame]:
        records = [self._node(node) for node in nodes]
        return self._encoder.frames([self._described, records])

    def _node(self, node: Node) -> list[Any]:
        where = f"node {node.name!r}, made at {node.line},"
        number = self._ops.get(node.op)
        if number is None:
            if not OpLibrary.is_own(node.op.path):
                check_path(node.op, where)
            number = self._ops[node.op] = len(self._ops)
            self._described.append([node.op.path, node.op.name, node.op.num_outputs, sorted(node.op.kernels)])
        try:
            arguments = [self._argument(argument) for argument in node.arguments]
        except SpecMismatch as error:
            raise SpecMismatch(f"{where} has an argument that no message holds: {error}") from error
        controls = [control.index for control in node.controls]
        colocation = node.colocation and self._colocation(node.colocation)
        return [node.name, number, arguments, list(node.keywords), controls, node.device, colocation, node.line]

    def _argument(self, argument: Argument, depth: int = 0) -> list[Any]:
        if argument.is_container:
            if depth >= DEPTH_MAX:
                raise SpecMismatch(f"it is nested more than {DEPTH_MAX} deep")
            if isinstance(argument.value, dict):
                return [
                    _DICT,
                    [
                        [self._encoder.tree(key), self._argument(item, depth + 1)]
                        for key, item in argument.value.items()
                    ],
                ]
            kind = _LIST if isinstance(argument.value, list) else _TUPLE
            return [kind, [self._argument(item, depth + 1) for item in argument.value]]
        if argument.inputs:
            output = argument.inputs[0]
            return [_OUTPUT, output.node.index, output.value_index]
        return [_CONSTANT, self._encoder.tree(argument.value)]

    @staticmethod
    def _colocation(colocation: Colocation) -> list[Any]:
        key: Any = colocation.key
        return [_KEYS.index(type(key)), key.container, key.name, bool(key.session), str(colocation.device)]


class _GraphDecoder:
    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._graph = Graph()
        self._ops: list[Op] = []

    def decode(self, root: Any) -> Graph:
        described, records = root
        if len(records) > NODES_MAX:
            raise RemoteProtocolError(f"a graph of {len(records)} nodes; expected at most {NODES_MAX}")
        self._ops = [_op(*fields) for fields in described]
        for record in records:
            self._node(record)
        for node, record in zip(self._graph.nodes, records, strict=True):
            node.controls = tuple([self._graph.nodes[_number(index)] for index in record[4]])
        _check_order(self._graph.nodes)
        self._graph.version = len(records)
        return self._graph

    def _node(self, record: Any) -> None:
        name, number, arguments, keywords, _, device, colocation, line = record
        decoded = tuple([self._argument(argument) for argument in arguments])
        op = self._ops[_number(number)]
        node = Node(self._graph, op, str(name), decoded, tuple(map(str, keywords)))
        node.line = str(line)
        node.requested = DeviceName.parse(device)
        if colocation is not None:
            kind, container, key_name, is_private, place = colocation
            key = _KEYS[_number(kind)](str(container), str(key_name), "private" if is_private else "")
            node.colocation = Colocation(key, _device(place))
        self._graph.nodes.append(node)

    def _argument(self, tree: Any, depth: int = 0) -> Argument:
        if depth > DEPTH_MAX:
            raise RemoteProtocolError(f"an argument nested more than {DEPTH_MAX} deep")
        match tree:
            case [int(kind), value] if kind == _CONSTANT:
                return Argument((), self._decoder.value(value))
            case [int(kind), int(number), int(index)] if kind == _OUTPUT:
                node = self._graph.nodes[_number(number)]
                if not 0 <= index < node.op.num_outputs:
                    raise RemoteProtocolError(f"output {index} of a node that has {node.op.num_outputs}")
                return Argument((Output(node, index),))
            case [int(kind), list(items)] if kind in {_LIST, _TUPLE}:
                leaves = [self._argument(item, depth + 1) for item in items]
                return Argument(_inputs(leaves), leaves if kind == _LIST else tuple(leaves), is_container=True)
            case [int(kind), list(pairs)] if kind == _DICT:
                built = {self._decoder.value(key): self._argument(item, depth + 1) for key, item in pairs}
                return Argument(_inputs(list(built.values())), built, is_container=True)
            case _:
                raise RemoteProtocolError(f"an argument of no known kind: {tree!r:.80}")


def _op(path: str, name: str, num_outputs: int, kinds: list[str]) -> Op:
    if _number(num_outputs) > COMPONENTS_MAX:
        raise RemoteProtocolError(f"an op of {num_outputs} outputs; expected at most {COMPONENTS_MAX}")
    if OpLibrary.is_own(path):
        return OpLibrary().find(path, num_outputs)
    return Op.elsewhere(str(path), str(name), num_outputs, map(str, kinds))


def _device(text: Any) -> DeviceName:
    try:
        return DeviceName.parse(text)
    except PlacementError as error:
        raise RemoteProtocolError(str(error)) from error


def _inputs(leaves: Sequence[Argument]) -> tuple[Output, ...]:
    return tuple([taken for leaf in leaves for taken in leaf.inputs])


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise RemoteProtocolError(f"expected a number of at least 0, got {value!r:.80}")
    return value


def _check_order(nodes: Sequence[Node]) -> None:
    """Refuse control edges in a circle: a step would never end."""
    pending = {node: len(node.predecessors) for node in nodes}
    followers: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for before in node.predecessors:
            followers[before].append(node)
    ready = [node for node, count in pending.items() if not count]
    seen = 0
    while ready:
        seen += 1
        for follower in followers[ready.pop()]:
            pending[follower] -= 1
            if not pending[follower]:
                ready.append(follower)
    if seen < len(nodes):
        raise RemoteProtocolError("a graph whose edges form a circle")
