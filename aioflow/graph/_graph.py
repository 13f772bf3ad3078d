"""Graphs: nodes, the edges between them, and what each was made of.

1. A node refers to earlier nodes only, so that a graph is built without circles; only `Node.run_after` can ask for one.
2. What is no node is a constant: containers are copied, arrays too unless they are read-only.
3. Names are unique: a second `scale` is `scale_1`.
4. A graph only grows. Steps that run while it grows keep to what they have begun with.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from aioflow.errors import GraphCycle, GraphError
from aioflow.graph._dot import draw
from aioflow.graph._scopes import current_controls, current_device, current_name_scope, graph_scope, node_of
from aioflow.names import DeviceName

if TYPE_CHECKING:
    from collections.abc import Hashable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from aioflow.graph._dot import LastRun
    from aioflow.graph._op import Op
    from aioflow.specs import TensorSpec

__all__ = ["Argument", "Colocation", "Graph", "Node", "Output"]

_PACKAGE = str(Path(__file__).parent.parent)


class Argument(NamedTuple):
    """An argument of a kernel: an output of a node, a constant, or a container of arguments.

    Attributes:
        inputs: The outputs that it needs; none for a constant.
        value: The constant; the container; or None for one output as it is.
        is_container: Whether the value is a list, tuple or dict whose items are arguments; kernels get a new one each
            time, which is theirs to change.
    """

    inputs: tuple[Output, ...]
    value: Any = None
    is_container: bool = False


class Output(NamedTuple):
    """One of several outputs of a node; it may stand wherever a node may."""

    node: Node
    value_index: int

    def __repr__(self) -> str:
        return f"<output {self.value_index} of {self.node!r}>"


@dataclass(frozen=True, slots=True)
class Colocation:
    """What several nodes use together, and where it is; they run there.

    Attributes:
        key: Which queue or variable it is.
        device: What its definition asks for.
    """

    key: Hashable
    device: DeviceName


class Node:
    """A node of a graph: an op, its arguments, and what must have run before. Made by calling an op in a graph.

    Attributes:
        graph: Its graph.
        index: Its number there.
        name: Its name, unique in the graph.
        op: What it does.
        arguments: What its kernel is given, first the positional ones.
        keywords: The names of the others.
        inputs: The outputs that it takes, each once.
        controls: Nodes that must have run before, whose values it does not take.
        requested: The device that scopes gave it.
        colocation: The queue or variable that it uses, if any.
        spec: Of a placeholder, what it may be fed with.
        line: Where it was made: file and line of the user's code.
    """

    __slots__ = (
        "arguments", "colocation", "controls", "graph", "index", "inputs", "keywords", "line", "name", "op",
        "requested", "spec",
    )  # fmt: skip

    def __init__(
        self, graph: Graph, op: Op, name: str, arguments: tuple[Argument, ...], keywords: tuple[str, ...]
    ) -> None:
        self.graph = graph
        self.index = len(graph.nodes)
        self.name = name
        self.op = op
        self.arguments = arguments
        self.keywords = keywords
        self.inputs = tuple(dict.fromkeys([taken for argument in arguments for taken in argument.inputs]))
        self.controls: tuple[Node, ...] = ()
        self.requested = DeviceName()
        self.colocation: Colocation | None = None
        self.spec: TensorSpec | None = None
        self.line = _user_line()

    @property
    def node(self) -> Node:
        """The node itself, as an output has its node."""
        return self

    @property
    def type(self) -> str:
        """The name of its op."""
        return self.op.name

    @property
    def device(self) -> str:
        """The device that scopes gave it, which may be partial; where it runs is decided by a session."""
        return str(self.requested)

    @property
    def where(self) -> str:
        """What it is called in messages: its name, the device that it asks for, if any, and its line."""
        asks = f" for {self.requested}" if str(self.requested) else ""
        return f"node {self.name!r}{asks}, made at {self.line},"

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Its outputs, each by itself."""
        return tuple(Output(self, index) for index in range(self.op.num_outputs))

    @property
    def predecessors(self) -> set[Node]:
        """The nodes that must have run before it."""
        return {taken.node for taken in self.inputs} | set(self.controls)

    def run_after(self, *nodes: Node | Output) -> None:
        """Add control dependencies to a node that was made already.

        Raises:
            GraphError: One is no node, or of another graph.
            GraphCycle: One of them depends on this node.
        """
        for given in nodes:
            self.graph.check(node_of(given, "run_after"))
            if path := _path(given.node, self):
                names = " <- ".join(repr(node.name) for node in (*path, given.node))
                raise GraphCycle(f"{self.where} cannot run after {given.node.where}, which depends on it: {names}")
        self.controls = tuple(dict.fromkeys((*self.controls, *(given.node for given in nodes))))
        self.graph.version += 1

    def __bool__(self) -> bool:
        """Refuse to be a condition: there is no value before a step runs."""
        raise GraphError(f"{self!r} has no value while the graph is built; compute with it in an op")

    def __iter__(self) -> Any:
        """Refuse to be unpacked."""
        raise GraphError(
            f"{self!r} is one node, with one output: write [node] where several nodes are expected; "
            "an op of several outputs is made by @flow.op(num_outputs=...)"
        )

    def __repr__(self) -> str:
        """Show name and op."""
        return f"<node {self.name!r} ({self.type})>"


class Graph:
    """A dataflow graph. `with flow.Graph() as graph:` makes it the one in which ops make nodes.

    Attributes:
        nodes: In the order in which they were made.
        version: Changes with the graph.
        variables: The variables that were made in it, by container and name.
        last_run: Its last step in this process, for `to_dot`.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.version = 0
        self.variables: dict[tuple[str, str], Any] = {}
        self.last_run: LastRun | None = None
        self._names: dict[str, int] = {}
        self._scopes: list[AbstractContextManager[None]] = []

    def __enter__(self) -> Self:
        """Make it current."""
        scope = graph_scope(self)
        scope.__enter__()
        self._scopes.append(scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Make the graph current that was before."""
        self._scopes.pop().__exit__(None, None, None)

    def add(
        self,
        op: Op,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        name: str = "",
        colocation: Colocation | None = None,
    ) -> Node:
        """Make a node.

        Raises:
            GraphError: The op does not take these arguments, or one is a node of another graph.
        """
        op.check_arguments(args, kwargs or {})
        arguments = tuple([self._argument(value) for value in args])
        keywords: tuple[str, ...] = ()
        if kwargs:
            keywords = tuple(kwargs)
            arguments += tuple([self._argument(value) for value in kwargs.values()])
        node = Node(self, op, self.unique_name(current_name_scope() + (name or op.name)), arguments, keywords)
        node.colocation = colocation
        self._place(node)
        node.index = len(self.nodes)  # a device function may have made others
        self._control(node)
        self.nodes.append(node)
        self.version += 1
        return node

    def unique_name(self, name: str) -> str:
        """Return a name that no node or scope has: the name itself, or with a number behind it."""
        names = self._names
        count = names.get(name, 0)
        if not count:
            names[name] = 1
            return name
        while (candidate := f"{name}_{count}") in names:
            count += 1
        names[name] = count + 1
        names[candidate] = 1
        return candidate

    def node(self, name: str) -> Node:
        """Return the node of a name.

        Raises:
            GraphError: There is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise GraphError(f"the graph has no node {name!r}; it has {[node.name for node in self.nodes[:20]]}")

    def check(self, node: Node) -> None:
        """Refuse a node of another graph.

        Raises:
            GraphError: It is.
        """
        if node.graph is not self:
            raise GraphError(f"{node!r} is a node of another graph, made at {node.line}")

    def to_dot(self) -> str:
        """Draw it in Graphviz's language: nodes by device, control edges dashed, coloured by time after a run."""
        return draw(self.nodes, self.last_run)

    def __repr__(self) -> str:
        """Show the number of nodes."""
        return f"<Graph of {len(self.nodes)} nodes>"

    def _argument(self, value: Any) -> Argument:
        if isinstance(value, (Node, Output)):
            self.check(value.node)
            return Argument((_output(value),))
        if isinstance(value, (list, tuple, dict)):
            return self._container(value)
        if isinstance(value, np.ndarray) and value.flags.writeable:
            value = value.copy()
            value.flags.writeable = False
        return Argument((), value)

    def _container(self, value: Any) -> Argument:
        leaves = list(map(self._argument, value.values() if isinstance(value, dict) else value))
        inputs = tuple([taken for leaf in leaves for taken in leaf.inputs])
        if isinstance(value, dict):
            return Argument(inputs, dict(zip(value, leaves, strict=True)), is_container=True)
        if hasattr(value, "_fields"):
            return Argument(inputs, type(value)(*leaves), is_container=True)
        return Argument(inputs, leaves if isinstance(value, list) else tuple(leaves), is_container=True)

    @staticmethod
    def _place(node: Node) -> None:
        def set_device(name: DeviceName) -> None:
            node.requested = name

        current_device(node, set_device)

    def _control(self, node: Node) -> None:
        blocks = current_controls()
        if not blocks:
            return
        taken = {output.node.index for output in node.inputs}
        controls: dict[Node, None] = {}
        for block in blocks:
            if block.made.isdisjoint(taken):
                for control in block.nodes:
                    self.check(control)
                    if control.index not in taken:
                        controls[control] = None
            block.made.add(node.index)
        node.controls = tuple(controls)


def _output(given: Node | Output) -> Output:
    if isinstance(given, Output):
        return given
    if given.op.num_outputs != 1:
        raise GraphError(f"{given!r} has {given.op.num_outputs} outputs and cannot stand for one value")
    return Output(given, 0)


def _path(start: Node, goal: Node) -> list[Node]:
    """Return the nodes from `goal` to before `start` along which `start` depends on `goal`; none if it does not."""
    came: dict[Node, Node | None] = {start: None}
    stack = [start]
    while stack:
        node = stack.pop()
        if node is goal:
            path = []
            step: Node | None = node
            while step is not None and step is not start:
                path.append(step)
                step = came[step]
            return path or [start]
        for before in node.predecessors:
            if before not in came:
                came[before] = node
                stack.append(before)
    return []


def _user_line() -> str:
    """Return file and line of the innermost frame outside of this package."""
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to the caller's line
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
