"""What a step has to run for what it fetches: the rules at the top of `_prune.py`."""

from __future__ import annotations

from typing import Any

import pytest

import aioflow as flow
from aioflow.graph import Output, prune


@flow.op
def take(*values: Any) -> Any:
    """Take anything."""
    return values


@flow.op(num_outputs=2)
def split(*values: Any) -> Any:
    """Give two values."""
    return values


def pruned(*fetched: Any, fed: tuple[Any, ...] = ()) -> list[flow.Node]:
    """Prune for nodes of one output, and for outputs."""
    return prune([_one(given) for given in fetched], {_one(given) for given in fed})


def _one(given: Any) -> Any:
    return Output(given, 0) if isinstance(given, flow.Node) and given.op.num_outputs else given


def test_only_what_is_needed_runs_and_once() -> None:
    """Each needed node is there once, in the order in which they were made; others are not."""
    with flow.Graph():
        a = take()
        b, _ = take(a), take(a)
        d = take(a, b)
    assert pruned(d, b, d) == [a, b, d]
    assert pruned(a) == [a]
    assert pruned() == []


def test_what_is_fed_need_not_run() -> None:
    """Nothing before a fed value runs; with one output fed the other one's node runs."""
    with flow.Graph():
        a = take()
        b = take(a)
        c = take(b)
        x, y = split(a)
        both = take(x, y)
    assert pruned(c, fed=(b,)) == [c]
    assert pruned(b, fed=(b,)) == []
    assert pruned(both, fed=(x,)) == [a, x.node, both]
    assert pruned(both, fed=(x, y)) == [both]
    assert pruned(x, fed=(y,)) == [a, x.node]


def test_a_control_dependency_on_what_is_fed_runs_it() -> None:
    """As in TensorFlow: a feed replaces a value, not an effect; a placeholder has none."""
    with flow.Graph():
        a = take()
        p = flow.placeholder()
        with flow.control_dependencies([a, p]):
            b = take()
    assert pruned(b, fed=(a,)) == [a, b]
    assert pruned(b, fed=(a, p)) == [a, b]


def test_a_placeholder_without_a_feed_is_refused() -> None:
    """The error names it, its line, and how to give a value."""
    with flow.Graph():
        p = flow.placeholder("images")
        node = take(p)
    for fetched in (p, node):
        with pytest.raises(flow.GraphError, match=rf"'images'.*{__file__}:\d+.*feed="):
            pruned(fetched)
    assert pruned(node, fed=(p,)) == [node]


def test_constants_run_nowhere() -> None:
    """A constant stands in the plan; with a control dependency it is a node like others."""
    with flow.Graph():
        first, c = take(), flow.constant(1)
        with flow.control_dependencies([first]):
            after = flow.constant(2)
        both = take(c, after)
        with flow.control_dependencies([c]):
            alone = take()
        nested = flow.constant({"k": 1})
    assert pruned(both) == [first, after, both]
    assert pruned(nested) == [nested]
    assert pruned(c) == []
    assert pruned(alone) == [alone]


def test_nodes_without_outputs_are_fetched_for_their_effect() -> None:
    """A group brings what it depends on."""
    with flow.Graph():
        a, b = take(), take()
        grouped = flow.group(a, b)
    assert pruned(grouped) == [a, b, grouped]


def test_long_chains() -> None:
    """The depth of a graph is bounded by memory only."""
    with flow.Graph():
        node = take()
        for _ in range(5_000):
            node = take(node)
    assert len(pruned(node)) == 5_001
