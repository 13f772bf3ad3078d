"""Ops make nodes: their names, their arguments, and what is refused where the graph is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import aioflow as flow
from aioflow.graph import Output, outputs_of


class Pair(NamedTuple):
    """Two values."""

    first: Any
    second: Any


@flow.op
def add(x: Any, y: Any = 0, *, z: Any = 0) -> Any:
    """Add."""
    return x + y + z


@flow.op
def take(value: Any) -> Any:
    """Take anything."""
    return value


@flow.op(num_outputs=2)
def split(x: Any) -> Any:
    """Give two values."""
    return x, x


@flow.op(num_outputs=0)
def show(x: Any) -> None:
    """Give no value."""


def line_here() -> str:
    """Return file and line of the caller."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return f"{__file__}:{frame.f_back.f_lineno}"


def test_names_are_unique() -> None:
    """A second node of a name gets a number, and one that was taken by hand is passed over."""
    with flow.Graph() as graph:
        first, second, third = flow.constant(0, name="x"), flow.constant(0, name="x_1"), flow.constant(0, name="x")
        assert [first.name, second.name, third.name] == ["x", "x_1", "x_2"]
        again, number = flow.constant(0, name="x_1"), flow.constant(0, name="x_1_1")
        assert (again.name, number.name) == ("x_1_1", "x_1_1_1")
        assert [add(1).name, add(1).name, take(1).name] == ["add", "add_1", "take"]
    assert len({node.name for node in graph.nodes}) == len(graph.nodes) == 8
    assert graph.node("x_2") is third
    with pytest.raises(flow.GraphError, match="no node 'y'"):
        graph.node("y")


def test_name_scopes() -> None:
    """Scopes stand before names, nest, and become another one when they are entered again."""
    with flow.Graph():
        with flow.name_scope("a") as outer, flow.name_scope("b") as inner:
            assert (outer, inner) == ("a/", "a/b/")
            assert add(1).name == "a/b/add"
        with flow.name_scope("a") as again:
            assert again == "a_1/"
            assert add(1).name == "a_1/add"
        assert add(1).name == "add"
        assert flow.constant(0, name="a").name == "a_2"


@pytest.mark.parametrize("name", ["", "/", "a/", "/a"])
def test_name_scopes_need_a_name(name: str) -> None:
    """What cannot stand before a name is refused."""
    for scope in (flow.name_scope, flow.variable_scope):
        with pytest.raises(flow.GraphError, match="slashes"), scope(name):
            pass


def test_a_graph_starts_with_no_names_of_another() -> None:
    """A graph that is built within another one's scopes has no part of them."""
    with flow.Graph(), flow.name_scope("outer"), flow.control_dependencies([flow.constant(1)]):
        with flow.Graph() as graph:
            node = add(1)
        assert (node.name, node.controls, node.graph) == ("add", (), graph)
        assert add(1).name == "outer/add"


def test_arguments_become_inputs() -> None:
    """Nodes are found in nested containers, each output counts once, and what is no node is a constant."""
    with flow.Graph():
        a, (b, c) = flow.constant(1), split(2)
        node = take([a, {"k": (b, Pair(a, 7))}, [], "text"])
        assert node.inputs == (Output(a, 0), b)
        assert node.predecessors == {a, b.node}
        named = add(a, z=c)
        assert (named.inputs, named.keywords) == ((Output(a, 0), c), ("z",))


def test_constants_are_copied() -> None:
    """Later changes of a list or an array that was given have no effect; a read-only array is shared."""
    values, numbers, fixed = [1, 2], np.arange(3), np.arange(3)
    fixed.flags.writeable = False
    with flow.Graph():
        of_values, of_numbers, of_fixed = take(values), take(numbers), take(fixed)
    values.append(3)
    numbers[0] = 9
    assert [leaf.value for leaf in of_values.arguments[0].value] == [1, 2]
    kept = of_numbers.arguments[0].value
    assert kept.tolist() == [0, 1, 2]
    assert not kept.flags.writeable
    assert of_fixed.arguments[0].value is fixed


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(add, id="too-few"),
        pytest.param(lambda: add(1, 2, 3), id="too-many"),
        pytest.param(lambda: add(1, w=3), id="unknown-name"),
        pytest.param(lambda: add(1, x=3), id="twice"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], Any]) -> None:
    """The error comes where the op is called, and names op and signature; the graph is as it was."""
    with flow.Graph() as graph:
        with pytest.raises(flow.GraphError, match=re.escape("op 'add' takes (x")) as caught:
            call()
        assert graph.nodes == []
    assert [entry for entry in caught.traceback if Path(entry.path).samefile(__file__)]


def test_a_node_remembers_its_line() -> None:
    """The line is the user's, also of nodes that are made by functions of the package."""
    with flow.Graph():
        node, here = add(1), line_here()
        made = [flow.constant(1), flow.identity(node), flow.group(node), flow.placeholder()]
        assert (node.line, line_here().partition(":")[0]) == (here, made[0].line.partition(":")[0])
        q = flow.FIFOQueue(1, "int64", ())
        size, there = q.nodes.size(), line_here()
        assert size.line == there


def test_what_is_no_node_is_refused() -> None:
    """Each says who takes nodes, and what came; one node where several are expected says how to write it."""
    with flow.Graph():
        node = add(1)
        wrong: Any = [node]
        wrong_text: Any = "x"
        with pytest.raises(flow.GraphError, match=r"group takes nodes, got \[<node 'add'"):
            flow.group(wrong)
        with pytest.raises(flow.GraphError, match="run_after takes nodes, got 'x'"):
            node.run_after(wrong_text)
        with pytest.raises(flow.GraphError, match=r"write \[node\]"), flow.control_dependencies(node):
            pytest.fail("entered")


def test_a_node_is_no_value() -> None:
    """A node as a condition or unpacked is a mistake, and so is one with no single output as an argument."""
    with flow.Graph():
        node, nothing, two = add(1), show(1), split(1)[0].node
        with pytest.raises(flow.GraphError, match="'add'"):
            if node:
                pass
        with pytest.raises(flow.GraphError, match="num_outputs"):
            _, _ = node
        for without in (nothing, two):
            with pytest.raises(flow.GraphError, match="outputs"):
                take(without)
    assert [str(node), repr(nothing)] == ["<node 'add' (add)>", "<node 'show' (show)>"]


def test_outside_of_a_graph() -> None:
    """An op needs a graph; its function does not."""
    with pytest.raises(flow.GraphError, match=re.escape(".fn")):
        add(1)
    assert add.fn(1, z=2) == 3


def test_nodes_of_another_graph_are_refused() -> None:
    """Each graph takes its own nodes, wherever they are given."""
    with flow.Graph() as one:
        foreign = flow.constant(1, name="foreign")
    with flow.Graph() as graph:
        own = flow.constant(2)
        for use in (
            lambda: take([foreign]),
            lambda: flow.group(own, foreign),
            lambda: own.run_after(foreign),
        ):
            with pytest.raises(flow.GraphError, match=r"'foreign'.*another graph"):
                use()
        with flow.control_dependencies([foreign]), pytest.raises(flow.GraphError, match="another graph"):
            take(1)
        assert graph.nodes == [own]
    assert one.nodes == [foreign]


def test_cycles_are_refused() -> None:
    """An edge that would close a circle is not made, and the error names the circle."""
    with flow.Graph():
        a = flow.constant(1, name="a")
        b = take(a)
        with flow.control_dependencies([b]):
            c = flow.identity(1, name="c")
        a.run_after()
        for late in (b, c, a):
            with pytest.raises(flow.GraphCycle, match="'a'"):
                a.run_after(late)
        assert a.controls == ()
        with pytest.raises(flow.GraphCycle, match="'a' <- 'take' <- 'c'"):
            a.run_after(c)
        with flow.device("/cpu:0"):
            d = take(c)
        told = f"node 'c', made at {c.line}, cannot run after node 'take_1' for /device:CPU:0, made at {d.line},"
        with pytest.raises(flow.GraphCycle, match=re.escape(told)):
            c.run_after(d)
        c.run_after(a, a)
        assert c.controls == (b, a)


def test_kernels() -> None:
    """An op has at most one kernel for a kind, and only its CPU kernel may be a coroutine function."""

    @flow.op
    async def fetch(x: Any) -> Any:
        return x

    @fetch.kernel("gpu")
    def on_gpu(x: Any) -> Any:
        return x

    assert (fetch.kernels, fetch.is_coroutine) == ({"CPU": fetch.fn, "GPU": on_gpu}, True)
    assert repr(fetch) == "<op fetch for CPU, GPU>"
    with pytest.raises(flow.GraphError, match="has a GPU kernel already"):
        fetch.kernel("GPU")(on_gpu)
    with pytest.raises(flow.GraphError, match="no coroutine"):
        add.kernel("gpu")(fetch.fn)
    wrong: list[Any] = [-1, 1.5, None]
    for number in wrong:
        with pytest.raises(flow.GraphError, match=f"num_outputs is {number}"):
            flow.op(num_outputs=number)(on_gpu)
    with pytest.raises(flow.GraphError, match=re.escape('write @add.kernel("gpu")')):
        add.kernel(on_gpu)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wrong_function: Any = 2
    with pytest.raises(flow.GraphError, match="made of a function, got 2"):
        flow.op(wrong_function)


def test_an_op_needs_a_function_with_a_signature() -> None:
    """What Python knows no arguments of cannot be checked when the graph is built, and is refused."""
    with pytest.raises(flow.GraphError, match=r"max.*of your own"):
        flow.op(max)


def test_what_is_called_as_a_coroutine_function_is_one() -> None:
    """An object may be the kernel."""

    class Fetch:
        async def __call__(self, x: Any) -> Any:
            return x

        async def method(self, x: Any) -> Any:
            return x

    assert [flow.op(kernel).is_coroutine for kernel in (Fetch(), Fetch().method, add.fn)] == [True, True, False]


@pytest.mark.parametrize(("value", "fits"), [((1, 2), True), ([1, 2], True), ((1,), False), (3, False), (None, False)])
def test_several_outputs(value: Any, fits: bool) -> None:
    """A kernel of two outputs returns a tuple or list of two."""
    with flow.Graph():
        node = split(1)[0].node
    if fits:
        assert outputs_of(node, value) == (1, 2)
    else:
        with pytest.raises(flow.GraphError, match="'split' has 2 outputs and its kernel returned"):
            outputs_of(node, value)


def test_placeholders() -> None:
    """A placeholder knows what it may be fed with; a shape needs a dtype."""
    with flow.Graph() as graph:
        assert flow.placeholder("any").spec is None
        spec = flow.placeholder("x", "float32", (None, 3)).spec
        assert spec is not None
        assert (spec.dtype, spec.shape) == ("float32", (None, 3))
        with pytest.raises(flow.GraphError, match="shape="):
            flow.placeholder("x", shape=(3,))
        with pytest.raises(flow.SpecMismatch):
            flow.placeholder("x", "float33")
        with pytest.raises(flow.SpecMismatch, match="3 is no shape"):
            flow.placeholder("x", "float32", 3)
        assert [node.name for node in graph.nodes] == ["any", "x"]


def test_constants() -> None:
    """Lists of numbers become arrays; a node is none."""
    with flow.Graph():
        assert flow.constant([1, 2], "float32").arguments[0].value.dtype == np.float32
        assert flow.constant((1, 2)).arguments[0].value.tolist() == [1, 2]
        assert flow.constant("text").arguments[0].value == "text"
        assert [flow.constant(value, "str").arguments[0].value for value in ("a", b"b")] == ["a", "b"]
        for of_nodes in (take(1), [take(1)], split(1)[0], [[1], [take(1)]]):
            with pytest.raises(flow.GraphError, match="identity"):
                flow.constant(of_nodes)
        for value, dtype in ((1.5, "int32"), (300, "int8"), ("a", "int32"), ([[1], [2, 3]], None), ([1], "int33")):
            with pytest.raises(flow.SpecMismatch):
                flow.constant(value, dtype)
