"""Fetches: any nesting of lists, tuples and dicts of nodes, and the same nesting of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioflow.errors import GraphError
from aioflow.graph._graph import Graph, Node, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["flatten_fetches"]


def flatten_fetches(fetches: Any, graph: Graph | None) -> tuple[list[Node | Output], Callable[[Sequence[Any]], Any]]:
    """Return the nodes of a nesting, and what makes the same nesting of their values.

    Args:
        fetches: A node, or a nesting of them.
        graph: Of which they must be; None for any one.

    Raises:
        GraphError: Something in it is no node, or a node of another graph.
    """
    leaves: list[Node | Output] = []
    _collect(fetches, leaves)
    for leaf in leaves:
        (graph or leaves[0].node.graph).check(leaf.node)
    return leaves, lambda values: _rebuild(fetches, iter(values))


def _collect(fetches: Any, leaves: list[Node | Output]) -> None:
    if isinstance(fetches, (Node, Output)):
        leaves.append(fetches)
    elif isinstance(fetches, dict):
        for item in fetches.values():
            _collect(item, leaves)
    elif isinstance(fetches, (list, tuple)):
        for item in fetches:
            _collect(item, leaves)
    else:
        raise GraphError(f"a step fetches nodes, in any nesting of lists, tuples and dicts; got {fetches!r}")


def _rebuild(fetches: Any, values: Iterator[Any]) -> Any:
    if isinstance(fetches, (Node, Output)):
        return next(values)
    if isinstance(fetches, dict):
        return {key: _rebuild(item, values) for key, item in fetches.items()}
    items = [_rebuild(item, values) for item in fetches]
    if hasattr(fetches, "_fields"):
        return type(fetches)(*items)
    return items if isinstance(fetches, list) else tuple(items)
