"""Scopes: what surrounds the code that makes a node or a definition, and is captured by it.

A device scope is a name or a function. For a node they are asked from the inside out: a name gives the fields that are
still open, a function is called with the node and what it returns replaces what the scopes inside of it gave (as in
TensorFlow 1.x). Entering a graph starts with no names and no control dependencies of another graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from aioflow.errors import GraphError, PlacementError
from aioflow.names import DeviceName, check_shared_name

if TYPE_CHECKING:
    from collections.abc import Generator

    from aioflow.graph._graph import Graph, Node, Output

__all__ = [
    "Controls",
    "DeviceFunction",
    "Placeable",
    "VariableScope",
    "container",
    "control_dependencies",
    "current_container",
    "current_controls",
    "current_device",
    "current_graph",
    "current_name_scope",
    "current_variable_scope",
    "device",
    "find_graph",
    "graph_scope",
    "name_scope",
    "node_of",
    "variable_scope",
]


class Placeable(Protocol):
    """What a device function is asked about: a node, or the definition of a queue or a variable."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def type(self) -> str:
        """The name of its op, such as `Variable`."""
        ...

    @property
    def device(self) -> str:
        """What the scopes inside of the function's have given so far."""
        ...


DeviceFunction: TypeAlias = Callable[[Any], str]


@dataclass(slots=True)
class Controls:
    """A block of control dependencies: nodes made in it run after these."""

    nodes: tuple[Node, ...]
    made: set[int] = field(default_factory=set)  # those that run after them already, by themselves or their inputs


@dataclass(frozen=True, slots=True)
class VariableScope:
    """What variables made inside are called, and whether they must be there already."""

    prefix: str = ""
    reuse: bool | None = False


_devices: ContextVar[tuple[DeviceName | DeviceFunction, ...]] = ContextVar("aioflow_device", default=())
_container: ContextVar[str] = ContextVar("aioflow_container", default="")
_graph: ContextVar[Graph | None] = ContextVar("aioflow_graph", default=None)
_names: ContextVar[str] = ContextVar("aioflow_name_scope", default="")
_controls: ContextVar[tuple[Controls, ...]] = ContextVar("aioflow_controls", default=())
_variables: ContextVar[VariableScope] = ContextVar("aioflow_variable_scope", default=VariableScope())  # noqa: B039


@contextmanager
def device(name: str | DeviceFunction | None) -> Generator[None]:
    """Place what is made inside on a device: nodes, queues and variables; inner scopes override what they name.

    Args:
        name: A device name, full or partial, such as `/job:ps/task:0`; or a function that is called with each node (or
            definition) and returns one: it sees `node.name`, `node.type` and `node.device`, what the scopes inside of
            this one gave, and what it returns takes the place of that. None clears the scopes around it.

    Raises:
        PlacementError: It is no device name; or, where a node is made, the function returned none.
    """
    entry = name if callable(name) else DeviceName.parse(name) if name is not None else None
    token = _devices.set(() if entry is None else (*_devices.get(), entry))
    try:
        yield
    finally:
        _devices.reset(token)


def current_device(thing: Placeable, set_device: Callable[[DeviceName], None]) -> DeviceName:
    """Return where a thing is placed by what it asks for itself and by the scopes around the caller.

    `set_device` is told before each function is asked.
    """
    found = DeviceName.parse(thing.device)
    for entry in reversed(_devices.get()):
        if isinstance(entry, DeviceName):
            found = entry.merge(found)
        else:
            set_device(found)
            given = entry(thing)
            if not isinstance(given, str):  # pyright: ignore[reportUnnecessaryIsInstance] - functions return anything
                raise PlacementError(f"a device function returned {given!r} for {thing.name!r}; expected a device name")
            found = DeviceName.parse(given)
    set_device(found)
    return found


@contextmanager
def container(name: str) -> Generator[None]:
    """Keep shared queues and variables that are defined inside in a container of this name; empty is the default one.

    Raises:
        SpecMismatch: The name starts with an underscore.
    """
    check_shared_name(name, "container")
    token = _container.set(name)
    try:
        yield
    finally:
        _container.reset(token)


def current_container() -> str:
    """Return the container of the scope around the caller."""
    return _container.get()


@contextmanager
def name_scope(name: str) -> Generator[str]:
    """Put `name/` before the names of nodes made inside; entered again in one graph it becomes `name_1/`, and so on.

    Returns:
        The whole scope, as it stands before the names.

    Raises:
        GraphError: The name is empty or contains a slash at an end.
    """
    if not name or name.strip("/") != name:
        raise GraphError(f"a name scope needs a name without slashes at its ends, got {name!r}")
    graph = _graph.get()
    whole = _names.get() + name
    scope = f"{whole if graph is None else graph.unique_name(whole)}/"
    token = _names.set(scope)
    try:
        yield scope
    finally:
        _names.reset(token)


def current_name_scope() -> str:
    """Return what stands before the names of nodes made here."""
    return _names.get()


@contextmanager
def variable_scope(name: str, *, reuse: bool | None = False) -> Generator[str]:
    """Put `name/` before the names of variables made inside, exactly, however often it is entered.

    Args:
        name: The scope's name.
        reuse: False: a variable whose name the graph has already is a GraphError. True: it must be there, and is found.
            None: found or made (TensorFlow's AUTO_REUSE). A True of an outer scope holds inside.

    Returns:
        The whole scope, as it stands before the names.

    Raises:
        GraphError: The name is empty or contains a slash at an end.
    """
    if not name or name.strip("/") != name:
        raise GraphError(f"a variable scope needs a name without slashes at its ends, got {name!r}")
    outer = _variables.get()
    inner = VariableScope(f"{outer.prefix}{name}/", True if outer.reuse else reuse)
    token = _variables.set(inner)
    try:
        yield inner.prefix
    finally:
        _variables.reset(token)


def current_variable_scope() -> VariableScope:
    """Return the variable scope around the caller."""
    return _variables.get()


@contextmanager
def control_dependencies(inputs: Iterable[Node | Output] | None) -> Generator[None]:
    """Have nodes that are made inside run after these, whether or not they use their values.

    It holds for nodes made in the block, not for those merely mentioned there: use `identity` for them. Nested blocks
    add up. A node that takes an input made in the block runs after these anyway and gets no edge of its own.

    Args:
        inputs: Nodes; None clears the blocks around it.

    Raises:
        GraphError: One of them is no node.
    """
    if inputs is None:
        token = _controls.set(())
    else:
        nodes = tuple(node_of(given, "control_dependencies") for given in inputs)
        token = _controls.set((*_controls.get(), Controls(nodes)))
    try:
        yield
    finally:
        _controls.reset(token)


def current_controls() -> Sequence[Controls]:
    """Return the blocks of control dependencies around the caller."""
    return _controls.get()


def node_of(given: Any, taker: str) -> Node:
    """Return the node of a node or an output.

    Raises:
        GraphError: It is neither; names who takes it.
    """
    node: Any = getattr(given, "node", None)
    if not hasattr(node, "controls"):
        raise GraphError(f"{taker} takes nodes, got {given!r}; of a queue or variable take a node of it")
    return node  # type: ignore[no-any-return]


# Graphs


@contextmanager
def graph_scope(graph: Graph) -> Generator[None]:
    """Make a graph current, with no scope of another one but devices and containers."""
    tokens = (_graph.set(graph), _names.set(""), _controls.set(()))
    try:
        yield
    finally:
        for variable, token in zip((_graph, _names, _controls), tokens, strict=True):
            variable.reset(token)  # type: ignore[attr-defined]


def find_graph() -> Graph | None:
    """Return the graph in which nodes are made here; None where there is none."""
    return _graph.get()


def current_graph() -> Graph:
    """Return the graph in which nodes are made here.

    Raises:
        GraphError: There is none.
    """
    graph = _graph.get()
    if graph is None:
        raise GraphError(
            "no graph is current: make nodes inside `with flow.Graph() as graph`; "
            "to call an op's plain function outside of a graph use its `.fn`"
        )
    return graph
