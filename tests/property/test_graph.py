"""Random graphs against a naive topological order: same values, each node once, nothing before its dependencies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aioflow as flow
from aioflow.client._values import convert_feed
from aioflow.devices import CpuDevice, OpenDevices
from aioflow.graph import Countdown, Op
from aioflow.runtime import Executor, SessionConfig, SessionDevices, read_request

COROUTINE, TURNS, THREAD, INLINE, STREAM = range(5)
MODULUS = 2**31 - 1

# For one example, so that a step that hangs is made smaller as others are.
EXAMPLE_S = 5.0

# Each runs a whole session, up to 2,000 nodes: a quarter of what the profile asks for, but no fewer than by default.
STEPS = settings(max_examples=max(100, settings().max_examples // 4))


@dataclass
class Shape:
    """A graph as lists by node: what it takes, what it only waits for, and how its kernel runs."""

    inputs: list[list[int]]
    controls: list[list[int]]
    kinds: list[int]
    fetched: list[int]
    failing: set[int] = field(default_factory=set)
    cancels: int | None = None  # the node whose kernel cancels the step

    @property
    def before(self) -> dict[int, set[int]]:
        """What each node waits for."""
        return {node: {*self.inputs[node], *self.controls[node]} for node in range(len(self.inputs))}

    def needed(self) -> set[int]:
        """Return what has to run for the fetches, found without any of the code that is tested."""
        before = self.before
        found: set[int] = set()
        todo = list(self.fetched)
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo += before[node]
        return found

    def values(self) -> dict[int, int]:
        """Compute the needed nodes one after the other."""
        needed = self.needed()
        values: dict[int, int] = {}
        for node in TopologicalSorter(self.before).static_order():
            if node in needed:
                values[node] = compute(node, [values[taken] for taken in self.inputs[node]])
        return values

    def after_failures(self) -> set[int]:
        """Return what depends on a node that fails, the failing ones not included unless they do."""
        before = self.before
        found: set[int] = set()
        for node in TopologicalSorter(before).static_order():
            if any(one in found or one in self.failing for one in before[node]):
                found.add(node)
        return found


def compute(node: int, values: list[Any]) -> int:
    """Return a node's value: different for each node, and for each order of its inputs."""
    value = node + 1
    for taken in values:
        value = (value * 31 + int(taken)) % MODULUS
    return value


@st.composite
def shapes(draw: st.DrawFn, *, kinds: tuple[int, ...] = (COROUTINE, TURNS, THREAD, INLINE)) -> Shape:
    """Draw a graph: mostly small, up to 2,000 nodes; its edges come from one seed, so that large ones are cheap."""
    size = draw(st.integers(1, 12) | st.integers(1, 12) | st.integers(1, 60) | st.integers(1, 2000), "size")
    rng = random.Random(draw(st.integers(0, 2**32), "seed"))
    width = draw(st.sampled_from([1, 2, 8, 10_000]), "reach")  # how far back edges reach: chains to fans
    used = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=len(kinds), unique=True), "kinds")

    def some(node: int, most: int) -> list[int]:
        reach = range(max(0, node - width), node)
        return [rng.choice(reach) for _ in range(rng.randint(0, most))] if reach else []

    inputs = [some(node, 3) for node in range(size)]
    controls = [some(node, 2) for node in range(size)]
    fetched = [size - 1, *(rng.randrange(size) for _ in range(rng.randint(0, 4)))]
    return Shape(inputs, controls, rng.choices(used, k=size), fetched)


class Stage:
    """Builds a graph of a shape, runs it, and notes when each kernel begins and ends."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.events: list[tuple[str, int]] = []
        self.cancel: Callable[[], object] = lambda: None
        plain = Op(self._run, "plain")
        stream = Op(self._run, "stream")
        stream.kernel("gpu")(self._run_on_stream)
        inline = Op(self._run, "inline", is_inline=True)
        ops = [Op(self._wait, "coroutine"), Op(self._turns, "turns"), plain, inline, stream]
        self.nodes: list[flow.Node] = []
        with flow.Graph():
            for node, kind in enumerate(shape.kinds):
                with flow.control_dependencies([self.nodes[one] for one in shape.controls[node]]):
                    self.nodes.append(ops[kind](node, [self.nodes[taken] for taken in shape.inputs[node]]))

    async def run(self, *devices: CpuDevice) -> list[int]:
        """Run it on a CPU and these devices."""
        cpu = CpuDevice("/cpu:0", streams=0)
        config = SessionConfig(inter_op_parallelism_threads=2)
        opened = SessionDevices(OpenDevices((cpu, *devices), ()))
        executor = Executor(opened, config)
        asked = read_request([self.nodes[one] for one in self.shape.fetched], None, None, convert_feed)
        assert asked.graph is not None
        try:
            step = asyncio.ensure_future(executor.run(asked.graph, asked.fetched, asked.fed))
            self.cancel = step.cancel
            async with asyncio.timeout(EXAMPLE_S):
                return [int(value) for value in await step]
        finally:
            await executor.close()
            await opened.close()

    def _run(self, node: int, values: list[Any]) -> int:
        self.events.append(("begin", node))
        if node == self.shape.cancels:
            self.cancel()
        if node in self.shape.failing:
            raise ZeroDivisionError(node)
        value = compute(node, values)
        self.events.append(("end", node))
        return value

    async def _wait(self, node: int, values: list[Any]) -> int:
        return self._run(node, values)

    async def _turns(self, node: int, values: list[Any]) -> int:
        self.events.append(("begin", node))
        for _ in range(node % 3):
            await asyncio.sleep(0)
        self.events.pop(self.events.index(("begin", node)))
        return self._run(node, values)

    def _run_on_stream(self, node: int, values: list[Any]) -> Any:
        return np.array(self._run(node, values))

    def check(self) -> tuple[set[int], set[int]]:
        """Check what holds however the step ends; return what began and what ended."""
        before, needed = self.shape.before, self.shape.needed()
        begun: set[int] = set()
        ended: set[int] = set()
        for what, node in self.events:
            if what == "begin":
                assert node not in begun, "it ran twice"
                assert before[node] <= ended, "it ran before something that it waits for"
                begun.add(node)
            else:
                ended.add(node)
        assert begun <= needed
        return begun, ended


@STEPS
@given(shapes())
def test_values(shape: Shape) -> None:
    """Every needed node runs once, after all that it waits for, and has the value that it has one by one."""
    stage = Stage(shape)
    values = asyncio.run(stage.run())
    expected = shape.values()
    assert values == [expected[node] for node in shape.fetched]
    begun, ended = stage.check()
    assert begun == ended == set(expected)


@STEPS
@given(shapes(), st.data())
def test_failures(shape: Shape, data: st.DataObject) -> None:
    """One of the failing nodes is named, and nothing that depends on any of them runs."""
    nodes = st.sampled_from(sorted(shape.needed()))
    shape.failing = data.draw(st.sets(nodes, min_size=1, max_size=3), "failing")
    stage = Stage(shape)
    with pytest.raises(flow.NodeFailed) as caught:
        asyncio.run(stage.run())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    named = caught.value.__cause__.args[0]
    assert caught.value.node == stage.nodes[named].name
    begun, ended = stage.check()
    assert named in begun & shape.failing
    assert not begun & shape.after_failures()
    assert begun - ended <= shape.failing | {node for node in begun if shape.kinds[node] == TURNS}
    if set(shape.kinds) <= {COROUTINE, INLINE}:
        assert stage.events[-1] == ("begin", named), "something began after the failure"


@STEPS
@given(shapes(), st.data())
def test_cancels(shape: Shape, data: st.DataObject) -> None:
    """A step that one of its kernels cancels ends cancelled or, if it was about to end, well; nothing is left."""
    inner = [node for node in shape.needed() if shape.kinds[node] != THREAD]
    if not inner:
        shape.kinds = [COROUTINE] * len(shape.kinds)
        inner = sorted(shape.needed())
    shape.cancels = data.draw(st.sampled_from(sorted(inner)), "cancels")
    stage = Stage(shape)

    async def run() -> list[int] | None:
        try:
            return await stage.run()
        except asyncio.CancelledError:
            return None
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}

    values = asyncio.run(run())
    expected = shape.values()
    begun, ended = stage.check()
    assert shape.cancels in begun
    if values is not None:
        assert values == [expected[node] for node in shape.fetched]
        assert ended == set(expected)


@STEPS
@given(shapes(kinds=(COROUTINE, THREAD, STREAM)), st.booleans(), st.data())
def test_streams(shape: Shape, fails: bool, data: st.DataObject) -> None:
    """The same with nodes on two devices with three streams each: no value is lost, and all memory is given back."""
    if fails:
        shape.failing = {data.draw(st.sampled_from(sorted(shape.needed())), "failing")}
    placed = data.draw(st.integers(0, 2**16), "placed")
    shape.kinds = shape.kinds[:200]
    shape.inputs, shape.controls = shape.inputs[:200], shape.controls[:200]
    shape.fetched = [node for node in shape.fetched if node < 200] or [len(shape.kinds) - 1]
    shape.failing &= shape.needed()
    devices = [CpuDevice(f"/gpu:{number}", streams=3) for number in range(2)]
    stage = Stage(shape)
    for node in stage.nodes:
        if node.type == "stream":
            node.requested = devices[(placed >> node.index % 16) & 1].name
    try:
        if shape.failing:
            with pytest.raises(flow.NodeFailed) as caught:
                asyncio.run(stage.run(*devices))
            assert caught.value.node in {stage.nodes[node].name for node in shape.failing}
            del caught
        else:
            expected = shape.values()
            assert asyncio.run(stage.run(*devices)) == [expected[node] for node in shape.fetched]
    finally:
        for device in devices:
            device.close()
    begun, ended = stage.check()
    assert not begun & shape.after_failures()
    assert shape.failing or ended == shape.needed()
    assert [device.memory().held for device in devices] == [0, 0]


@given(shapes(), st.randoms(use_true_random=False))
def test_countdown(shape: Shape, rng: random.Random) -> None:
    """Finished in any order, each node is named once, when all before it have finished; what fails names nothing."""
    before = shape.before
    successors = [[later for later in before if node in before[later]] for node in before] if len(before) < 100 else []
    if not successors:
        return
    failing = set(rng.sample(range(len(before)), k=rng.randint(0, 2) % (len(before) + 1) if len(before) > 1 else 0))
    countdown = Countdown([len(before[node]) for node in before], successors)
    ready = countdown.ready()
    named, finished = list(ready), set[int]()
    while ready:
        node = ready.pop(rng.randrange(len(ready)))
        if node in failing:
            continue
        finished.add(node)
        newly = countdown.finish(node)
        assert newly == [later for later in successors[node] if before[later] <= finished]
        ready += newly
        named += newly
    assert len(named) == len(set(named))
    shape.failing = failing
    assert set(named) == set(before) - shape.after_failures()
    assert countdown.left == len(before) - len(finished)
