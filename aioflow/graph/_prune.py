"""Pruning: the nodes that a step has to run for what it fetches.

1. Each needed node runs exactly once, however often it is fetched or used.
2. What is fed need not be computed. A control dependency on a node that is fed still makes it run (as in TensorFlow),
   unless it is a placeholder, which has nothing to run.
3. A constant without control dependencies runs nowhere: its value stands in the plan. One that is a dict is made anew
   in each step, as all containers are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioflow.errors import GraphError
from aioflow.graph._builtin import CONSTANT, PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from aioflow.graph._graph import Node, Output

__all__ = ["is_folded", "prune"]


def prune(fetched: Iterable[Output | Node], fed: Container[Output | Node]) -> list[Node]:
    """Return the nodes that have to run, in the order in which they were made.

    Args:
        fetched: What the step fetches: outputs, and nodes that are run for their effect.
        fed: Outputs whose values are given.

    Raises:
        GraphError: A placeholder is needed and not fed.
    """
    needed: dict[int, Node] = {}
    stack = [given.node for given in fetched if given not in fed]
    while stack:
        node = stack.pop()
        if node.index in needed or is_folded(node):
            continue
        if node.op is PLACEHOLDER:
            raise GraphError(
                f"placeholder {node.where} has no value in this step; "
                "give one with session.run(fetches, feed={placeholder: value})"
            )
        needed[node.index] = node
        stack += [taken.node for taken in node.inputs if taken not in fed]
        stack += [control for control in node.controls if control.op is not PLACEHOLDER]
    return [needed[index] for index in sorted(needed)]


def is_folded(node: Node) -> bool:
    """Whether a node's value is known before any step."""
    return node.op is CONSTANT and not node.controls and not node.arguments[0].is_container
