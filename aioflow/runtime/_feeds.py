"""What a step is asked for: fetches and feeds, checked against their graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from aioflow.errors import GraphError, SpecMismatch
from aioflow.graph import Graph, Node, Output, flatten_fetches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.specs import TensorSpec

__all__ = ["Asked", "read_request"]


class Asked(NamedTuple):
    """What a step is asked for.

    Attributes:
        graph: Of which; None where nothing is fetched.
        fetched: Outputs, and nodes that have no value.
        fed: The value of each output that is fed.
        rebuild: Makes the nesting of the fetches of their values.
    """

    graph: Graph | None
    fetched: list[Output | Node]
    fed: dict[Output, Any]
    rebuild: Callable[[Sequence[Any]], Any]


def read_request(
    fetches: Any,
    feed: Mapping[Node | Output, Any] | None,
    graph: Graph | None,
    convert: Callable[[Any, TensorSpec], Any],
) -> Asked:
    """Return what a step is asked for.

    Args:
        fetches: A node, or any nesting of nodes.
        feed: Values by node.
        graph: Whose nodes they must be; None for any one.
        convert: Makes a fed value one of a placeholder's specification.

    Raises:
        GraphError: A fetch or a feed is no node of the graph, or has no value.
        SpecMismatch: A feed does not fit its placeholder.
    """
    leaves, rebuild = flatten_fetches(fetches, graph)
    if not leaves:
        return Asked(None, [], {}, rebuild)
    graph = leaves[0].node.graph
    fed = {}
    if feed is not None and not isinstance(feed, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - anything comes
        raise GraphError(f"feed= is a dict from nodes to their values, got {feed!r}")
    for given, value in (feed or {}).items():
        output = _fed_output(given, graph)
        fed[output] = value if output.node.spec is None else _convert(value, output.node, convert)
    return Asked(graph, [_output(leaf) for leaf in leaves], fed, rebuild)


def _fed_output(given: Node | Output, graph: Graph) -> Output:
    if not isinstance(given, (Node, Output)):  # pyright: ignore[reportUnnecessaryIsInstance] - anything comes
        raise GraphError(f"feed= is a dict from nodes to their values, got the key {given!r}")
    graph.check(given.node)
    output = _output(given)
    if isinstance(output, Node):
        raise GraphError(f"{given!r} has no value, so that it cannot be fed with one")
    return output


def _convert(value: Any, node: Node, convert: Callable[[Any, TensorSpec], Any]) -> Any:
    assert node.spec is not None
    try:
        return convert(value, node.spec)
    except SpecMismatch as error:
        raise SpecMismatch(f"the feed of {node.where} {error}") from error


def _output(given: Node | Output) -> Node | Output:
    """Return the one output of a node, or the node itself if it has none."""
    if isinstance(given, Output):
        return given
    if given.op.num_outputs > 1:
        raise GraphError(
            f"{given!r} has {given.op.num_outputs} outputs; fetch or feed those that you want by `.outputs`"
        )
    return given.outputs[0] if given.op.num_outputs else given
