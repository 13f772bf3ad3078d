"""A plan: all that a step needs of a graph, as lists by number, made once and used by every step with the same fetches.

Values stand in slots. The slot of an output is filled when its node has finished, and emptied when its last user has
it; constants and feeds are there from the start. On a device with streams another slot holds what was launched: nodes
of the same device take that and need not wait until it is done, so a chain of them has no wait of the host within.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from aioflow.graph._bind import Constant, bind
from aioflow.graph._graph import Node, Output
from aioflow.graph._op import outputs_of
from aioflow.graph._prune import is_folded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

__all__ = ["Mode", "Plan", "StreamWork", "make_plan"]


class Mode(IntEnum):
    """How a kernel runs: as a coroutine, at once on the event loop, on an inter-op thread, or on a stream."""

    COROUTINE = 0
    INLINE = 1
    THREAD = 2
    STREAM = 3


@dataclass(slots=True)
class StreamWork:
    """What a node on a device with streams has besides.

    Attributes:
        stream: The number of its stream.
        launch: The slot of what was launched.
        after: Slots of launches that come before it, and whose values it does not take: it fails if they do.
        released: Nodes of the same device, which need only that it was launched.
        is_awaited: Whether somebody needs it done: a fetch, or a node elsewhere.
    """

    stream: int
    launch: int
    after: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    is_awaited: bool = False


@dataclass(slots=True)
class Plan:
    """Lists by the number of a node in this plan.

    Attributes:
        nodes: The nodes, in the order in which they were made.
        devices: The number of each node's device.
        modes: How its kernel runs.
        calls: What to call with the leaves.
        leaves: The slots of what its call is given.
        outputs: The slots of its outputs; None where nobody uses it, or it is fed.
        pending: For how many others each one waits.
        successors: Who waits until it is done.
        streams: More of those in mode `STREAM`.
        values: The slots before the step: constants are there.
        uses: Of each slot, how many nodes and fetches use it; one more for constants, which are never emptied.
        fetched: The slot of each fetch; None where it has no value.
        fed: The slot of each feed that is used.
    """

    nodes: list[Node]
    devices: list[int]
    modes: list[Mode] = field(default_factory=list)
    calls: list[Callable[..., Any]] = field(default_factory=list)
    leaves: list[tuple[int, ...]] = field(default_factory=list)
    outputs: list[tuple[int | None, ...]] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    successors: list[list[int]] = field(default_factory=list)
    streams: dict[int, StreamWork] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)
    uses: list[int] = field(default_factory=list)
    fetched: list[int | None] = field(default_factory=list)
    fed: dict[Output, int] = field(default_factory=dict)


def make_plan(
    nodes: Sequence[Node],
    fetched: Sequence[Output | Node],
    fed: Collection[Output],
    placed: Mapping[Node, int],
    devices: Sequence[tuple[str, int]],
) -> Plan:
    """Plan a step.

    Args:
        nodes: What `prune` has found.
        fetched: What is fetched: outputs, and nodes without a value.
        fed: What is fed.
        placed: The number of each node's device.
        devices: The kind of each device, and how many streams it has.
    """
    planner = _Planner(nodes, frozenset(fed), placed, devices)
    planner.add_calls()
    planner.add_edges()
    planner.add_fetches(fetched)
    planner.add_streams()
    return planner.plan


class _Planner:
    def __init__(
        self,
        nodes: Sequence[Node],
        fed: frozenset[Output],
        placed: Mapping[Node, int],
        devices: Sequence[tuple[str, int]],
    ) -> None:
        self.plan = Plan(list(nodes), [placed[node] for node in nodes])
        self._fed = fed
        self._devices = devices
        self._numbers = {node.index: number for number, node in enumerate(nodes)}
        self._slots: dict[Output, int] = {}
        for node, device in zip(self.plan.nodes, self.plan.devices, strict=True):
            self.plan.modes.append(_mode(node, devices[device][0]))

    def add_calls(self) -> None:
        plan = self.plan
        for number, mode in enumerate(plan.modes):
            if mode is Mode.STREAM:
                plan.streams[number] = StreamWork(0, self._new_slot())
        for number, node in enumerate(plan.nodes):
            kind, _ = self._devices[plan.devices[number]]
            several = [taken.node.op.num_outputs > 1 and self._is_chained(taken, number) for taken in node.inputs]
            picked = {taken for taken, is_picked in zip(node.inputs, several, strict=True) if is_picked}
            call, leaves = bind(node.op.kernels[kind], node.arguments, node.keywords, picked)
            if plan.modes[number] is Mode.STREAM and node.op.num_outputs > 1:
                call = _split(node, call)
            plan.calls.append(call)
            plan.leaves.append(tuple([self._leaf(leaf, number) for leaf in leaves]))
            for slot in set(plan.leaves[-1]):
                plan.uses[slot] += 1

    def add_edges(self) -> None:
        plan = self.plan
        plan.successors = [[] for _ in plan.nodes]
        for number, node in enumerate(plan.nodes):
            before = {taken.node.index for taken in node.inputs if taken not in self._fed}
            before |= {control.index for control in node.controls}
            earlier = [self._numbers[index] for index in sorted(before) if index in self._numbers]
            plan.pending.append(len(earlier))
            for one in earlier:
                if self._share_device(one, number):
                    plan.streams[one].released.append(number)
                else:
                    plan.successors[one].append(number)

    def add_fetches(self, fetched: Sequence[Output | Node]) -> None:
        plan = self.plan
        for given in fetched:
            slot = None
            if isinstance(given, Output):
                slot = self._output_slot(given)
                plan.uses[slot] += 1
            plan.fetched.append(slot)
            number = self._numbers.get(given.node.index)
            if number in plan.streams:
                plan.streams[number].is_awaited = True
        for node in plan.nodes:
            outputs = [Output(node, i) for i in range(node.op.num_outputs)]
            plan.outputs.append(tuple([None if one in self._fed else self._slots.get(one) for one in outputs]))

    def add_streams(self) -> None:
        """Give a node the stream of the first one it follows, unless another one has it; else the next in turn."""
        plan = self.plan
        following: dict[int, list[int]] = {number: [] for number in plan.streams}
        for number, work in plan.streams.items():
            work.is_awaited |= bool(plan.successors[number])
            for later in work.released:
                following[later].append(number)
        assigned: set[int] = set()
        has_heir: set[int] = set()
        turns = [0] * len(self._devices)
        for number, work in plan.streams.items():
            heir_of = next((one for one in following[number] if one in assigned and one not in has_heir), None)
            if heir_of is None:
                device = plan.devices[number]
                work.stream = turns[device] % self._devices[device][1]
                turns[device] += 1
            else:
                has_heir.add(heir_of)
                work.stream = plan.streams[heir_of].stream
            assigned.add(number)
        for number, work in plan.streams.items():
            others = [plan.streams[one] for one in following[number]]
            taken = set(plan.leaves[number])  # a launch comes after those whose values it takes
            work.after = [other.launch for other in others if other.launch not in taken]
            for slot in work.after:
                plan.uses[slot] += 1

    # Slots

    def _leaf(self, leaf: Output | Constant, reader: int) -> int:
        if isinstance(leaf, Constant):
            slot = self._new_slot()
            self.plan.values[slot] = leaf.value
            self.plan.uses[slot] = 1
            return slot
        if self._is_chained(leaf, reader):
            return self.plan.streams[self._numbers[leaf.node.index]].launch
        return self._output_slot(leaf)

    def _output_slot(self, output: Output) -> int:
        slot = self._slots.get(output)
        if slot is None:
            slot = self._slots[output] = self._new_slot()
            if output in self._fed:
                self.plan.fed[output] = slot
            elif is_folded(output.node):
                self.plan.values[slot] = output.node.arguments[0].value
                self.plan.uses[slot] = 1
        return slot

    def _new_slot(self) -> int:
        self.plan.values.append(None)
        self.plan.uses.append(0)
        return len(self.plan.values) - 1

    def _is_chained(self, output: Output, reader: int) -> bool:
        number = self._numbers.get(output.node.index)
        return output not in self._fed and number is not None and self._share_device(number, reader)

    def _share_device(self, one: int, other: int) -> bool:
        plan = self.plan
        both = plan.modes[one] is Mode.STREAM and plan.modes[other] is Mode.STREAM
        return both and plan.devices[one] == plan.devices[other]


def _split(node: Node, call: Callable[..., Any]) -> Callable[..., Any]:
    """Check the number of outputs where they are made: other nodes may take them on the device."""
    return lambda *values: outputs_of(node, call(*values))


def _mode(node: Node, kind: str) -> Mode:
    if kind != "CPU":
        return Mode.STREAM
    if node.op.is_coroutine:
        return Mode.COROUTINE
    return Mode.INLINE if node.op.is_inline else Mode.THREAD
