"""Placement: which node runs on which device.

1. Nodes with one colocation (they use the same queue or variable) are on one device: that of what they use.
2. A device is allowed for a node if its name fits what was requested and every op of the group has a kernel for its
   kind. Of those allowed, the best: another kind before the CPU, then the session's own job and task, then by name.
   Who names neither job nor task stays on the session's own.
3. A node that was placed in an earlier step stays where it is, if that is still allowed.
4. Soft placement drops the kind and the index that were requested, never the job or the task.
(Rules 1, 2 and 4 are TensorFlow's simple placer's.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aioflow.errors import PlacementError
from aioflow.names import DeviceName

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioflow.graph._graph import Node

__all__ = ["place", "placement_table"]


def place(
    nodes: Iterable[Node],
    devices: Sequence[DeviceName],
    *,
    soft: bool,
    placed: Mapping[int, int],
    home: DeviceName | None = None,
) -> dict[Node, int]:
    """Choose a device for each node.

    Args:
        nodes: Those to be placed.
        devices: What there is, by full names.
        soft: Whether a node may go to another device of its task than it asks for.
        placed: Where nodes have been before, by their index in the graph.
        home: The job and task that nodes go to which name neither; None where there is one task.

    Returns:
        The number of its device for each node.

    Raises:
        PlacementError: There is no device for a node; names the node, its line, what it asks for and what there is.
    """
    home = home or DeviceName()
    order = sorted(range(len(devices)), key=lambda number: _rank(devices[number], home))
    groups: dict[Hashable, list[Node]] = {}
    for node in nodes:
        groups.setdefault(_group(node), []).append(node)
    choices: dict[tuple[DeviceName, frozenset[str]], list[int]] = {}
    chosen: dict[Node, int] = {}
    for members in groups.values():
        requested = _requested(members)
        if requested.job is None and requested.task is None:
            requested = replace(requested, job=home.job, task=home.task)
        kinds = frozenset.intersection(*(frozenset(node.op.kernels) for node in members))
        allowed = choices.get((requested, kinds))
        if allowed is None:
            allowed = _allowed(requested, kinds, devices, order, soft=soft)
            choices[requested, kinds] = allowed
        if not allowed:
            raise PlacementError(_no_device(members[0], requested, kinds, devices))
        before = next((placed[node.index] for node in members if node.index in placed), None)
        for node in members:
            chosen[node] = before if before in allowed else allowed[0]
    return chosen


def placement_table(nodes: Sequence[Node], placed: Mapping[Node, int], devices: Sequence[DeviceName]) -> str:
    """Return lines that say where nodes run, as TensorFlow's log_device_placement has them."""
    width = max((len(f"{node.name}: ({node.type}):") for node in nodes), default=0)
    return "".join(f"{f'{node.name}: ({node.type}):':{width}} {devices[placed[node]]}\n" for node in nodes)


def _rank(device: DeviceName, home: DeviceName) -> tuple[Any, ...]:
    """Rule 2, for `sorted`."""
    is_foreign = (device.job != home.job, (device.job, device.task) != (home.job, home.task))
    return device.kind == "CPU", *is_foreign, device.job or "", device.task or 0, device.index or 0


def _group(node: Node) -> Hashable:
    """Rule 1: who belongs together; one name on two tasks is two things."""
    used = node.colocation
    return node if used is None else (used.key, used.device.job, used.device.task)


def _requested(members: Sequence[Node]) -> DeviceName:
    """Rule 1: what is used says where; a device of a node that uses it is overridden."""
    used = members[0].colocation
    return members[0].requested if used is None else used.device


def _allowed(
    requested: DeviceName, kinds: frozenset[str], devices: Sequence[DeviceName], order: Sequence[int], *, soft: bool
) -> list[int]:
    allowed = [number for number in order if devices[number].kind in kinds and requested.allows(devices[number])]
    if not allowed and soft:
        open_ = replace(requested, kind=None, index=None)
        allowed = [number for number in order if devices[number].kind in kinds and open_.allows(devices[number])]
    return allowed


def _no_device(node: Node, requested: DeviceName, kinds: frozenset[str], devices: Sequence[DeviceName]) -> str:
    there_is = ", ".join(map(str, devices))
    is_there = any(map(requested.allows, devices))
    if is_there:
        why = f"op {node.type!r} has kernels for {', '.join(sorted(kinds)) or 'no one kind'} only"
        hint = "give it one with @op.kernel(...), or set allow_soft_placement=True"
    else:
        why = "there is no such device"
        elsewhere = replace(requested, kind=None, index=None)
        hint = (
            "allow_soft_placement=True takes another one of the same task"
            if any(map(elsewhere.allows, devices))
            else "a node is never moved to another job or task"
        )
    asks = str(requested) or "any device"
    return f"node {node.name!r}, made at {node.line}, asks for {asks}: {why}. There is {there_is}; {hint}"
