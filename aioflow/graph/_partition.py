"""Partition: the nodes of a step cut by task, each part a graph of its own, and what goes between the parts.

1. Nodes keep their names, lines and arguments, and ask for the very devices that they were placed on.
2. A value that another task uses goes there once: a send node where it is made, a receive node where it is used.
3. A control edge that crosses goes as a value too, None; where a value of that node goes the same way, as that.
4. Constants go with whoever uses them. What is fed is fed to each part that uses it.
5. The last node of a part has run when all of it has that nobody fetches a value of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aioflow.graph._builtin import GROUP, PLACEHOLDER
from aioflow.graph._graph import Argument, Graph, Node, Output
from aioflow.graph._prune import is_folded
from aioflow.names import DeviceName

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from aioflow.graph._op import Op

__all__ = ["Part", "Task", "partition"]


class Task(NamedTuple):
    """A task of a cluster."""

    job: str
    task: int

    def __str__(self) -> str:
        return f"/job:{self.job}/task:{self.task}"


@dataclass(slots=True)
class Part:
    """What one task does in a step.

    Attributes:
        task: Which.
        graph: Its nodes.
        last: The node that has run when all the others have.
        fetched: What of it is fetched, with the place in the step's fetches.
        fed: Its placeholder for each output that is fed.
    """

    task: Task
    graph: Graph
    last: Node
    fetched: list[tuple[int, Output]] = field(default_factory=list)
    fed: dict[Output, Output] = field(default_factory=dict)


def partition(
    nodes: Sequence[Node],
    fetched: Sequence[Output | Node],
    fed: Collection[Output],
    placed: Mapping[Node, DeviceName],
    send: Op,
    receive: Op,
) -> list[Part]:
    """Cut a step by task.

    Args:
        nodes: What `prune` has found.
        fetched: What is fetched: outputs, and nodes without a value.
        fed: What is fed.
        placed: The full name of each node's device.
        send: The op that is given a key, a job, a task index and a value, for that task to receive.
        receive: The op that is given a key, and returns the value.

    Returns:
        The parts, in the order of their first nodes; none of a fetch that is fed or constant.
    """
    cutter = _Cutter(frozenset(fed), placed, send, receive)
    for node in nodes:
        cutter.copy(node)
    for node in nodes:
        cutter.control(node)
    for place, given in enumerate(fetched):
        cutter.fetch(place, given)
    return cutter.finish()


class _Cutter:
    def __init__(self, fed: frozenset[Output], placed: Mapping[Node, DeviceName], send: Op, receive: Op) -> None:
        self._fed = fed
        self._placed = placed
        self._send = send
        self._receive = receive
        self._parts: dict[Task, Part] = {}
        self._copies: dict[Node, Node] = {}
        self._received: dict[tuple[Output | Node, Task], Node] = {}
        self._ends: dict[Task, list[Node]] = {}  # what nobody in the part depends on, and is run for its effect

    def copy(self, node: Node) -> None:
        device = self._placed[node]
        task = self._task(node)
        self._part(task)
        arguments = tuple([self._argument(argument, task) for argument in node.arguments])
        copied = self._add(task, node.op, node.name, arguments, node.keywords)
        copied.requested = device
        copied.line = node.line
        self._copies[node] = copied

    def control(self, node: Node) -> None:
        task, copied = self._task(node), self._copies[node]
        controls = []
        for control in node.controls:
            if control in self._copies:
                here = self._task(control) == task
                controls.append(self._copies[control] if here else self._receive_end(control, task))
        copied.controls = tuple(dict.fromkeys(controls))

    def fetch(self, place: int, given: Output | Node) -> None:
        if given.node not in self._copies or given in self._fed:
            return
        task, copied = self._task(given.node), self._copies[given.node]
        if isinstance(given, Output):
            self._part(task).fetched.append((place, Output(copied, given.value_index)))
        else:
            self._ends[task].append(copied)

    def finish(self) -> list[Part]:
        for task, part in self._parts.items():
            part.graph.nodes.append(part.last)
            part.last.index = len(part.graph.nodes) - 1
            part.last.controls = tuple(dict.fromkeys(self._ends[task]))
        return list(self._parts.values())

    # Small moves

    def _task(self, node: Node) -> Task:
        device = self._placed[node]
        assert device.job is not None
        assert device.task is not None
        return Task(device.job, device.task)

    def _part(self, task: Task) -> Part:
        part = self._parts.get(task)
        if part is None:
            graph = Graph()
            part = self._parts[task] = Part(task, graph, Node(graph, GROUP, "end of the step", (), ()))
            part.last.requested = _cpu(task)
            self._ends[task] = []
        return part

    def _add(
        self, task: Task, op: Op, name: str, arguments: tuple[Argument, ...], keywords: tuple[str, ...] = ()
    ) -> Node:
        graph = self._parts[task].graph
        node = Node(graph, op, name, arguments, keywords)
        node.requested = _cpu(task)
        graph.nodes.append(node)
        return node

    def _argument(self, argument: Argument, task: Task) -> Argument:
        if argument.is_container:
            items: Any = argument.value
            if isinstance(items, dict):
                built: Any = {key: self._argument(item, task) for key, item in items.items()}
            else:
                built = [self._argument(item, task) for item in items]
                built = type(items)(*built) if hasattr(items, "_fields") else type(items)(built)
            leaves = built.values() if isinstance(built, dict) else built
            return Argument(tuple([taken for leaf in leaves for taken in leaf.inputs]), built, is_container=True)
        if not argument.inputs:
            return argument
        [output] = argument.inputs
        if output not in self._fed and is_folded(output.node):
            return output.node.arguments[0]
        return Argument((self._output(output, task),))

    def _output(self, output: Output, task: Task) -> Output:
        """Return what stands for an output in the part of a task."""
        part = self._part(task)
        if output in self._fed:
            if output not in part.fed:
                fed = self._add(task, PLACEHOLDER, f"feed of {output.node.name}", ())
                fed.line = output.node.line
                part.fed[output] = Output(fed, 0)
            return part.fed[output]
        if self._task(output.node) == task:
            return Output(self._copies[output.node], output.value_index)
        received = self._received.get((output, task))
        if received is None:
            value = Argument((Output(self._copies[output.node], output.value_index),))
            received = self._cross(output.node, f"{output.node.name}:{output.value_index}", task, value)
            self._received[output, task] = received
            self._received.setdefault((output.node, task), received)
        return Output(received, 0)

    def _receive_end(self, node: Node, task: Task) -> Node:
        """Return the node of a part that has run when a node of another part has."""
        received = self._received.get((node, task))
        if received is None:
            received = self._cross(node, f"^{node.name}", task, Argument((), None))
            self._received[node, task] = received
        return received

    def _cross(self, node: Node, what: str, task: Task, value: Argument) -> Node:
        """Send a value of a node from its part to another one; return the node that receives it."""
        source = self._task(node)
        key = f"{what} to {task}"
        constants = tuple([Argument((), given) for given in (key, task.job, task.task)])
        sent = self._add(source, self._send, f"{node.name}/send", (*constants, value))
        if not value.inputs:
            sent.controls = (self._copies[node],)
        self._ends[source].append(sent)
        received = self._add(task, self._receive, f"{node.name}/receive", (Argument((), key),))
        sent.line = received.line = node.line
        return received


def _cpu(task: Task) -> DeviceName:
    return DeviceName(task.job, task.task, "CPU", 0)
