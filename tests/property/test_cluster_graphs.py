"""Random graphs over three tasks, in simulated time: the same values as one by one, each node once and in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aioflow as flow
from aioflow.testing import on_node, simulate
from tests.simulation import cluster_ops as ops

from .test_graph import COROUTINE, TURNS, Shape, shapes

CLUSTER = {"ps": ["sim://ps0"], "worker": ["sim://worker0", "sim://worker1"]}
TASKS = ["/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"]
SIZE_MAX = 40

# Each starts a cluster: a tenth of what the profile asks for, but no fewer than fifty.
STEPS = settings(max_examples=max(50, settings().max_examples // 10))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Servers that stop end the sessions of others."""
    logger = logging.getLogger("aioflow")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


def small(shape: Shape) -> Shape:
    """Take the beginning of a graph."""
    shape.inputs, shape.controls = shape.inputs[:SIZE_MAX], shape.controls[:SIZE_MAX]
    shape.kinds = shape.kinds[:SIZE_MAX]
    shape.fetched = [node for node in shape.fetched if node < SIZE_MAX] or [len(shape.kinds) - 1]
    return shape


def build(shape: Shape, placed: int, waits: int | None = None) -> list[Any]:
    """Make the nodes of a shape, on tasks by the bits of a number; some have two outputs."""
    nodes: list[Any] = []
    with flow.Graph():
        for node in range(len(shape.kinds)):
            how = "fail" if node in shape.failing else "wait" if node == waits else ""
            with (
                flow.device(TASKS[(placed >> 2 * (node % 20)) % 3]),
                flow.control_dependencies([nodes[one] for one in shape.controls[node]]),
            ):
                taken = [nodes[one] for one in shape.inputs[node]]
                if not how and node % 5 == 4:
                    nodes.append(ops.split(node, taken)[0])
                else:
                    nodes.append(ops.combine(node, taken, 0.01 if shape.kinds[node] == TURNS else 0.0, how))
    return nodes


def run(shape: Shape, placed: int, master: str, waits: int | None = None, within_s: float | None = None) -> list[int]:
    """Run a shape as a step in a simulated cluster; check what holds however it ends."""

    async def main() -> list[int]:
        ops.forget()
        nodes = build(shape, placed, waits)
        with on_node("client"):
            async with flow.Session(master) as session:
                loop = asyncio.get_running_loop()
                begun = loop.time()
                try:
                    with anyio.move_on_after(within_s):
                        values: list[int] = await session.run([nodes[one] for one in shape.fetched])
                        return values
                    return []
                finally:
                    assert loop.time() - begun < (within_s or 0.0) + 10.0
                    await asyncio.sleep(1.0)
                    assert not ops.running, "a kernel runs after the step has ended"
                    check(shape)

    return simulate(main, seed=placed, servers=CLUSTER, ops=[ops.__name__])


def check(shape: Shape) -> None:
    """Each node ran once at most, after all before it."""
    before, ended, begun = shape.before, set[int](), set[int]()
    for what, node in ops.events:
        if what == "begin":
            assert node not in begun, "it ran twice"
            assert before[node] <= ended, "it ran before something that it waits for"
            begun.add(node)
        else:
            ended.add(node)
    assert begun <= shape.needed()


kinds = (COROUTINE, TURNS)
masters = st.sampled_from([address for addresses in CLUSTER.values() for address in addresses])
placements = st.integers(0, 2**40)


@STEPS
@given(shapes(kinds=kinds).map(small), placements, masters)
def test_values(shape: Shape, placed: int, master: str) -> None:
    """Over three tasks, whichever is the master, with data and control edges and several outputs."""
    expected = shape.values()
    assert run(shape, placed, master) == [expected[node] for node in shape.fetched]
    assert {node for _, node in ops.events} == set(expected)


@STEPS
@given(shapes(kinds=kinds).map(small), placements, masters, st.data())
def test_failures(shape: Shape, placed: int, master: str, data: st.DataObject) -> None:
    """One of the failing nodes is named, with its task; the step ends on all."""
    nodes = st.sampled_from(sorted(shape.needed()))
    shape.failing = data.draw(st.sets(nodes, min_size=1, max_size=3), "failing")
    with pytest.raises(flow.NodeFailed) as caught:
        run(shape, placed, master)
    named = {
        node.node.name: TASKS[(placed >> 2 * (number % 20)) % 3] for number, node in enumerate(build(shape, placed))
    }
    cause = caught.value.__cause__
    assert isinstance(cause, flow.RemoteError)
    assert (cause.type_name, "raise ZeroDivisionError(node)" in cause.traceback_text) == ("ZeroDivisionError", True)
    assert caught.value.device == f"{named[caught.value.node]}/device:CPU:0"
    begun = {node for what, node in ops.events if what == "begin"}
    assert begun & shape.failing
    assert not begun & shape.after_failures()


@STEPS
@given(shapes(kinds=kinds).map(small), placements, masters, st.data())
def test_cancels(shape: Shape, placed: int, master: str, data: st.DataObject) -> None:
    """A step in which a node waits for ever ends when it is cancelled, on all tasks."""
    waits = data.draw(st.sampled_from(sorted(shape.needed())), "waits")
    assert run(shape, placed, master, waits, data.draw(st.sampled_from([0.001, 0.02, 1.0]), "within")) == []
    assert ("end", waits) not in ops.events
