"""Drawing a graph in Graphviz's language."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.graph._graph import Node

__all__ = ["LastRun", "draw"]


@dataclass(frozen=True, slots=True)
class LastRun:
    """What ran last: nodes, the device of each, and the seconds that its kernel ran; 0 where nobody waited for it."""

    nodes: Sequence[Node]
    devices: Sequence[str]
    seconds: Sequence[float]


def draw(nodes: Sequence[Node], last_run: LastRun | None) -> str:
    """Return the graph with nodes by device and control edges dashed; those that ran redder the longer they took."""
    ran: dict[Node, tuple[str, float]] = {}
    if last_run is not None:
        ran = dict(zip(last_run.nodes, zip(last_run.devices, last_run.seconds, strict=True), strict=True))
    devices: defaultdict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        devices[ran[node][0] if node in ran else node.device].append(node)
    longest = max((seconds for _, seconds in ran.values()), default=0.0)
    lines = ["digraph {", '  node [shape=box, style="rounded,filled", fillcolor=white]']
    for number, (device, members) in enumerate(devices.items()):
        lines += [f"  subgraph cluster_{number} {{", f"    label={_quote(device or 'not placed')}"]
        lines += [f"    n{node.index} [{_describe(node, ran.get(node), longest)}]" for node in members]
        lines.append("  }")
    for node in nodes:
        lines += [f"  n{taken.node.index} -> n{node.index}" for taken in node.inputs]
        lines += [f"  n{control.index} -> n{node.index} [style=dashed]" for control in node.controls]
    return "\n".join([*lines, "}", ""])


def _describe(node: Node, run: tuple[str, float] | None, longest: float) -> str:
    if run is None:
        return f"label={_quote(node.name)}, tooltip={_quote(node.line)}"
    share = run[1] / longest if longest else 0.0
    label = _quote(f"{node.name}\n{run[1] * 1e3:.3g} ms" if run[1] else node.name)
    return f'label={label}, tooltip={_quote(node.line)}, fillcolor="0.0 {share:.3f} 1.0"'


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
