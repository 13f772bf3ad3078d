"""Ops that every graph has: placeholders, constants, identity, and groups of nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from aioflow.errors import GraphError, SpecMismatch
from aioflow.graph._graph import Node, Output
from aioflow.graph._op import Op
from aioflow.graph._scopes import current_graph, node_of
from aioflow.specs import ElementSpec, Strings, TensorSpec, parse_dtypes, parse_shape, to_columns

__all__ = ["constant", "group", "identity", "placeholder"]


def _placeholder() -> None:
    raise GraphError("a placeholder has no value of its own: feed it, as in session.run(fetches, feed={node: value})")


def _constant(value: Any) -> Any:
    return value


def _group(*_: Any) -> None:
    """Do nothing, after everything that it depends on."""


PLACEHOLDER = Op(_placeholder, "placeholder", is_inline=True, path=f"{__name__}:PLACEHOLDER")
CONSTANT = Op(_constant, "constant", is_inline=True, path=f"{__name__}:CONSTANT")
IDENTITY = Op(_constant, "identity", is_inline=True, path=f"{__name__}:IDENTITY")
GROUP = Op(_group, "group", num_outputs=0, is_inline=True, path=f"{__name__}:GROUP")


def placeholder(name: str = "placeholder", dtype: Any = None, shape: Any = None) -> Node:
    """Make a node whose value each step is fed with.

    Args:
        name: Its name; made unique where the graph has it already.
        dtype: As in a queue's `dtypes`; None takes any value as it is.
        shape: Its shape, where a None is a dimension of any size; None is any shape. Not without a dtype.

    Raises:
        GraphError: No graph is current, or a shape came without a dtype.
        SpecMismatch: The dtype or shape is none.
    """
    if dtype is None and shape is not None:
        raise GraphError(f"placeholder {name!r} has shape={shape!r} and no dtype; give both")
    spec: TensorSpec | None = None
    if dtype is not None:
        [dtype_name] = parse_dtypes([dtype])
        spec = TensorSpec(dtype_name, None if shape is None else parse_shape(shape, partial=True))
    node = current_graph().add(PLACEHOLDER, (), name=name)
    node.spec = spec
    return node


def constant(value: Any, dtype: Any = None, name: str = "constant") -> Node:
    """Make a node of a value that never changes; lists of numbers become arrays, as in TensorFlow.

    Raises:
        GraphError: No graph is current, or the value is a node or has one in it.
        SpecMismatch: The dtype is none, the value does not fit it, or a list is ragged.
    """
    if isinstance(value, (list, tuple)) and dtype is None:
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise SpecMismatch(f"constant {name!r}: lists become arrays, and {value!r} is ragged") from error
    for item in value.flat if isinstance(value, np.ndarray) and value.dtype == np.object_ else (value,):
        if isinstance(item, (Node, Output)):
            raise GraphError(f"a constant has the same value in each step, {item!r} has not; use flow.identity for it")
    if dtype is not None:
        [dtype_name] = parse_dtypes([dtype])
        [column] = to_columns((value,), ElementSpec((TensorSpec(dtype_name, None),)), many=False)
        value = column.decode(dtype_name)[0] if isinstance(column, Strings) else column[0]
    return current_graph().add(CONSTANT, (value,), name=name)


def identity(value: Any, name: str = "identity") -> Node:
    """Make a node with the value of another one: it gets control dependencies where that one was made outside."""
    return current_graph().add(IDENTITY, (value,), name=name)


def group(*nodes: Node | Output, name: str = "group") -> Node:
    """Make a node without a value that has run when all of these have."""
    graph = current_graph()
    for given in nodes:
        graph.check(node_of(given, "group"))
    made = graph.add(GROUP, (), name=name)
    made.controls = tuple(dict.fromkeys((*made.controls, *(given.node for given in nodes))))
    return made
