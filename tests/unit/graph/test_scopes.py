"""Scopes around nodes: devices, control dependencies, and variable scopes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

import aioflow as flow
from aioflow.graph._scopes import current_variable_scope


@flow.op
def take(*values: Any) -> Any:
    """Take anything."""
    return values


def node_within(*scopes: Any) -> flow.Node:
    """Make a node within device scopes, the outermost first."""
    with ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(flow.device(scope))
        node: flow.Node = take()
        return node


def to_gpu_3(node: flow.Node) -> str:
    """Place everything on one device."""
    return "/gpu:3"


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ((), ""),
        (("/gpu:1",), "/device:GPU:1"),
        (("/job:a/task:1", "/gpu:3"), "/job:a/task:1/device:GPU:3"),
        (("/job:a/gpu:0", "/job:b"), "/job:b/device:GPU:0"),
        (("/gpu:1", "/cpu:*"), "/device:CPU:*"),  # a new kind without an index clears it
        (("/gpu:1", "/gpu"), "/device:GPU:1"),
        (("/task:1", None, "/cpu:0"), "/device:CPU:0"),
        (("/cpu:0", None), ""),
        (("/cpu:0", ""), "/device:CPU:0"),
        (("/job:a/task:1", to_gpu_3), "/job:a/task:1/device:GPU:3"),
        ((lambda _: "/job:z", "/cpu:0"), "/job:z"),  # what a function returns takes the place of what is inside
        (("/task:5", lambda _: "/job:z", "/cpu:0"), "/job:z/task:5"),
        ((lambda _: "", "/cpu:0"), ""),
        ((to_gpu_3, None), ""),
        ((None, to_gpu_3), "/device:GPU:3"),
    ],
)
def test_devices_merge(scopes: tuple[Any, ...], expected: str) -> None:
    """semantics 4.1: inner names win field by field; a function's answer replaces what is inside of it."""
    with flow.Graph():
        assert node_within(*scopes).device == expected


def test_a_queue_is_placed_by_the_same_scopes() -> None:
    """A definition asks for what a node asks for, and what it is given itself is innermost."""
    seen: list[tuple[str, str]] = []

    def note(thing: Any) -> str:
        seen.append((thing.type, thing.device))
        return str(thing.device)

    with flow.device("/job:localhost"), flow.device(note):
        q = flow.FIFOQueue(1, "int64", (), device="/cpu:0")
    assert (q.device, seen) == ("/job:localhost/device:CPU:0", [("FIFOQueue", "/device:CPU:0")])


def test_device_functions_see_each_node() -> None:
    """A function is asked for every node, innermost first, and sees name, type and what the scopes inside gave."""
    seen: list[tuple[str, str, str, str]] = []

    def function(label: str, answer: str) -> Callable[[flow.Node], str]:
        def choose(node: flow.Node) -> str:
            seen.append((label, node.name, node.type, node.device))
            return answer

        return choose

    with flow.Graph(), flow.device(function("outer", "/job:a")), flow.device(function("inner", "/job:b")):
        with flow.device("/gpu:1"):
            take()
        flow.constant(1)
    assert seen == [
        ("inner", "take", "take", "/device:GPU:1"),
        ("outer", "take", "take", "/job:b"),
        ("inner", "constant", "constant", ""),
        ("outer", "constant", "constant", "/job:b"),
    ]


def test_a_device_function_may_make_a_node() -> None:
    """Each of the two is a node of its own."""
    made: list[flow.Node] = []

    def function(_: flow.Node) -> str:
        if not made:
            with flow.device(None):
                made.append(take("inner"))
        return "/cpu:0"

    with flow.Graph() as graph, flow.device(function):
        outer = take("outer")
    assert graph.nodes == [*made, outer]
    assert [node.index for node in graph.nodes] == [0, 1]


@pytest.mark.parametrize("answer", [None, 3, "/cpu:0/cpu:1"])
def test_device_functions_return_names(answer: Any) -> None:
    """Anything else is refused where the node is made, and no node is."""
    with flow.Graph() as graph:
        with flow.device(lambda _: answer), pytest.raises(flow.PlacementError):
            take()
        assert graph.nodes == []


@pytest.mark.parametrize("name", ["gpu:x", "/cpu:0/gpu:0", "/nothing:0"])
def test_wrong_device_names_are_refused(name: str) -> None:
    """A scope with no device name is not entered."""
    with pytest.raises(flow.PlacementError, match="device name"), flow.device(name):
        pytest.fail("entered")


# Control dependencies


def test_nested_blocks_add_up() -> None:
    """A node runs after those of all blocks around it; None clears them for its block."""
    with flow.Graph():
        a, b, c = (flow.constant(number) for number in range(3))
        with flow.control_dependencies([a, b]):
            with flow.control_dependencies((b, c)):
                assert take().controls == (a, b, c)
            with flow.control_dependencies(None):
                assert take().controls == ()
                with flow.control_dependencies([c]):
                    assert take().controls == (c,)
            assert take().controls == (a, b)
        assert take().controls == ()


def test_mentioned_nodes_are_not_changed() -> None:
    """Only what is made in the block waits: `identity` is for what was made before."""
    with flow.Graph():
        a, before = flow.constant(1), take()
        with flow.control_dependencies([a]):
            mentioned, same = before, flow.identity(before)
    assert (mentioned.controls, same.controls) == ((), (a,))


def test_redundant_edges_are_dropped() -> None:
    """What a node waits for through its inputs gets no edge of its own."""
    with flow.Graph():
        a, b = flow.constant(1), flow.constant(2)
        with flow.control_dependencies([a, b]):
            first = take(a)  # takes a itself
            second = take(first)  # takes what was made in the block, which runs after both
            third = take(second)
            with flow.control_dependencies([second]):
                inner = take(third)  # made in the outer block, not in the inner one
        assert [node.controls for node in (first, second, third, inner)] == [(b,), (), (), (second,)]
        with flow.control_dependencies([a]), flow.control_dependencies(None):
            free = take()
        with flow.control_dependencies([a]):
            assert take(free).controls == (a,)


def test_outputs_stand_for_their_nodes() -> None:
    """A dependency on one output is one on the node; what is no node is refused."""
    with flow.Graph():
        q = flow.FIFOQueue(1, ("int64", "int64"), ((), ()))
        x, y = q.nodes.dequeue()
        with flow.control_dependencies([x, y]):
            assert take().controls == (x.node,)
        graph = x.node.graph
        for wrong in (3, q, graph, None):
            with pytest.raises(flow.GraphError, match="takes nodes"), flow.control_dependencies([wrong]):  # type: ignore[list-item]
                pytest.fail("entered")


def test_groups() -> None:
    """A group depends on all of its nodes, and on the blocks around it."""
    with flow.Graph():
        a, b = flow.constant(1), take()
        with flow.control_dependencies([a]):
            grouped = flow.group(b, a, b)
    assert grouped.controls == (a, b)
    assert grouped.op.num_outputs == 0


# Variable scopes


def test_variable_scopes() -> None:
    """Prefixes are exact however often a scope is entered; reuse=True holds for what is inside."""
    with flow.Graph():
        for _ in range(2):
            with flow.variable_scope("a") as outer, flow.variable_scope("b", reuse=None) as inner:
                assert (outer, inner) == ("a/", "a/b/")
                assert (current_variable_scope().prefix, current_variable_scope().reuse) == ("a/b/", None)
        assert take().name == "take"  # no name scope
        with flow.variable_scope("a", reuse=True), flow.variable_scope("b"):
            assert current_variable_scope().reuse is True
        with flow.variable_scope("a", reuse=None), flow.variable_scope("b"):
            assert current_variable_scope().reuse is False
    assert (current_variable_scope().prefix, current_variable_scope().reuse) == ("", False)
