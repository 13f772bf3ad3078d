"""Fetches of any nesting."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

import aioflow as flow
from aioflow.graph import flatten_fetches


class Pair(NamedTuple):
    """Two values."""

    first: Any
    second: Any


@flow.op(num_outputs=2)
def split(x: Any) -> Any:
    """Give two values."""
    return x, x


def test_values_come_in_the_nesting_of_the_fetches() -> None:
    """Lists, tuples, named tuples and dicts; a node that comes twice is there twice."""
    with flow.Graph() as graph:
        a, b, (c, d) = flow.constant(1), flow.constant(2), split(3)
    fetches = {"list": [a, (b,)], "pair": Pair(c, {"again": a}), "none": [], "d": d}
    leaves, rebuild = flatten_fetches(fetches, graph)
    assert leaves == [a, b, c, a, d]
    values = rebuild([1, 2, 3, 1, 4])
    assert values == {"list": [1, (2,)], "pair": Pair(3, {"again": 1}), "none": [], "d": 4}
    assert type(values["pair"]) is Pair
    assert flatten_fetches(a, None)[1]([1]) == 1
    assert flatten_fetches([], None)[1]([]) == []


@pytest.mark.parametrize("wrong", [None, 3, "constant", {1}, split])
def test_what_is_no_node_is_refused(wrong: Any) -> None:
    """The error shows what was given."""
    with flow.Graph() as graph:
        node = flow.constant(1)
    with pytest.raises(flow.GraphError, match="fetches nodes"):
        flatten_fetches([node, {"k": wrong}], graph)


def test_nodes_of_another_graph_are_refused() -> None:
    """Whether the session has a graph or not, all are of one."""
    with flow.Graph() as graph:
        node = flow.constant(1)
    with flow.Graph():
        foreign = flow.constant(1, name="foreign")
    for fetches, of in (([node, foreign], None), (foreign, graph)):
        with pytest.raises(flow.GraphError, match="'foreign'"):
            flatten_fetches(fetches, of)
