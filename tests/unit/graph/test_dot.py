"""Graphs drawn in Graphviz's language."""

from __future__ import annotations

import re
from typing import Any

import aioflow as flow
from aioflow.graph import LastRun


@flow.op
def take(*values: Any) -> Any:
    """Take anything."""
    return values


def small_graph() -> tuple[flow.Graph, flow.Node, flow.Node, flow.Node]:
    """Make three nodes in a row: one takes a value, one only waits."""
    with flow.Graph() as graph:
        with flow.device("/gpu:0"):
            a = flow.constant(1, name="a")
        b = take(a)
        with flow.control_dependencies([b]):
            c = flow.constant(2, name='say "c"\\')
    return graph, a, b, c


def test_edges_and_devices() -> None:
    """Control edges are dashed, nodes stand by the device that they ask for, and text is quoted."""
    graph, *_ = small_graph()
    dot = graph.to_dot()
    assert dot.startswith("digraph {\n")
    assert dot.endswith("}\n")
    assert dot.count("{") == dot.count("}") == 3
    assert "  n0 -> n1\n" in dot
    assert "  n1 -> n2 [style=dashed]\n" in dot
    assert 'label="/device:GPU:0"' in dot
    assert 'label="not placed"' in dot
    assert r'label="say \"c\"\\"' in dot
    assert re.search(rf'n1 \[label="take", tooltip="{re.escape(__file__)}:\d+"\]', dot)
    assert 'fillcolor="' not in dot


def test_what_ran_is_coloured_by_its_time() -> None:
    """The slowest node is the reddest; those that ran stand where they ran, others where they ask to."""
    graph, a, b, c = small_graph()
    graph.last_run = LastRun([b, c], ["/device:CPU:0", "/device:CPU:0"], [0.002, 0.001])
    dot = graph.to_dot()
    assert re.search(r'n1 \[label="take\\n2 ms".*fillcolor="0\.0 1\.000 1\.0"\]', dot)
    assert re.search(r'n2 \[label="say .*\\n1 ms".*fillcolor="0\.0 0\.500 1\.0"\]', dot)
    assert re.search(rf'n{a.index} \[label="a", tooltip="[^"]*"\]', dot)
    assert dot.index('label="/device:CPU:0"') < dot.index("n1 [") < dot.index("n2 [")


def test_a_run_that_took_no_time() -> None:
    """Nothing is divided by zero, and no time is shown that nobody took; a graph without nodes is drawn too."""
    graph, a, *_ = small_graph()
    graph.last_run = LastRun([a], ["/device:CPU:0"], [0.0])
    dot = graph.to_dot()
    assert 'fillcolor="0.0 0.000 1.0"' in dot
    assert " ms" not in dot
    assert flow.Graph().to_dot().startswith("digraph {")
