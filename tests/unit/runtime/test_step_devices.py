"""Nodes on devices with streams: waits, values across devices, errors, cancels and memory."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest
from anyio.lowlevel import checkpoint

import aioflow as flow
from aioflow.devices import CpuDevice, use_devices
from aioflow.graph import Op

pytestmark = pytest.mark.anyio

TEST_S = 10.0
GPU = "/job:localhost/task:0/device:GPU:{}"


def on_gpu(function: Any, name: str, num_outputs: int = 1) -> Op:
    """Make an op with this kernel for both kinds."""
    op = Op(function, name, num_outputs=num_outputs)
    op.kernel("gpu")(function)
    return op


add = on_gpu(lambda x, y: x + y, "add")
pair = on_gpu(lambda x: (x, x + 1), "pair", num_outputs=2)


@flow.op
def on_cpu(x: Any) -> Any:
    """Add one, on a CPU only."""
    return x + 1


@asynccontextmanager
async def gpu(number: int = 0, **settings: Any) -> AsyncGenerator[CpuDevice]:
    """Have a device for the sessions of a block."""
    device = CpuDevice(GPU.format(number), **settings)
    try:
        with use_devices(device):
            yield device
    finally:
        await anyio.to_thread.run_sync(device.close)


class Gate:
    """A kernel for a device that says that it runs, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.ended = False
        self.op = on_gpu(self._run, "gate")

    def _run(self, x: Any) -> Any:
        self.begun.set()
        assert self.may_end.wait(TEST_S)
        self.ended = True
        return x

    async def wait_begun(self) -> None:
        """Wait until it runs."""
        while not self.begun.is_set():
            await checkpoint()


def actions(device: CpuDevice) -> Counter[str]:
    """Count what a device did."""
    return Counter(entry.action for entry in tuple(device.trace))


async def held(device: CpuDevice) -> int:
    """Return the bytes that a device holds when its threads have let go of what they had."""
    for _ in range(100):
        if not device.memory().held:
            return 0
        gc.collect()
        await anyio.sleep(0.001)
    return device.memory().held


async def test_a_chain_has_one_host_wait() -> None:
    """Ten kernels, one wait, one copy each way, on one stream."""
    async with gpu() as device:
        with flow.Graph():
            x = flow.placeholder()
            node = x
            for _ in range(10):
                node = add(node, 1)
        async with flow.Session() as session:
            for number in (1, 2):
                value = await session.run(node, {x: np.full(3, 5.0)})
                assert value.tolist() == [15.0] * 3
                assert device.host_waits == number
        done = actions(device)
        assert (done["begin"], done["put"], done["get"], done["wait"]) == (20, 2, 2, 2)
        assert {entry.stream for entry in tuple(device.trace) if entry.action == "begin"} == {0, device.trace[0].stream}
        assert await held(device) == 0


async def test_values_go_from_device_to_device() -> None:
    """CPU to GPU to CPU, and from one GPU to another: the same values, and no memory in common with the host's."""
    arrays: list[np.ndarray[Any, Any]] = []

    def keep(x: Any) -> Any:
        arrays.append(x)
        return x

    kept = on_gpu(keep, "keep")
    async with gpu() as first, gpu(1) as second:
        with flow.Graph():
            a = on_cpu(np.arange(3.0))
            with flow.device("/gpu:0"):
                b = kept(add(a, a))
            with flow.device("/gpu:1"):
                c = kept(add(b, 10))
            with flow.device("/cpu:0"):
                d = kept(c)
            e = on_cpu(d)
        with use_devices(first, second):
            async with flow.Session() as session:
                values = await session.run([a, b, c, d, e])
        assert [value.tolist() for value in values] == [
            [1, 2, 3],
            [2, 4, 6],
            [12, 14, 16],
            [12, 14, 16],
            [13, 15, 17],
        ]
        assert not any(
            np.shares_memory(one, other)
            for i, one in enumerate([values[0], *arrays[:2], values[2]])
            for other in [values[0], *arrays[:2], values[2]][:i]
        )
        assert (first.host_waits, second.host_waits) == (1, 1)
        arrays.clear()
        assert await held(first) == await held(second) == 0


async def test_two_users_of_one_value() -> None:
    """Two nodes of the device take a launch without a wait; one elsewhere waits; all get the value."""
    async with gpu() as device:
        with flow.Graph():
            root = add(np.ones(2), 1)
            left, right = add(root, 1), add(root, 2)
            joined = add(left, right)
            there = on_cpu(root)
        async with flow.Session() as session:
            assert (await session.run(joined)).tolist() == [7, 7]
            assert device.host_waits == 1
            assert [value.tolist() for value in await session.run([joined, there, root])] == [[7, 7], [3, 3], [2, 2]]
            assert device.host_waits == 3
        assert await held(device) == 0


async def test_one_of_several_outputs() -> None:
    """Each part goes where it is needed: to the device's own nodes, to the host, or nowhere."""
    async with gpu() as device:
        with flow.Graph():
            x, y = pair(np.zeros(2))
            total, again = add(y, [y][0]), add([x, y][0], y)
            nowhere = flow.group(pair(total)[0])
        async with flow.Session() as session:
            values = await session.run([total, again, nowhere])
            assert [values[0].tolist(), values[1].tolist(), values[2]] == [[2, 2], [1, 1], None]
            assert (await session.run([y, on_cpu_of(y)]))[1].tolist() == [2, 2]
            with pytest.raises(flow.NodeFailed):
                await session.run(on_cpu_of(nowhere_else(y)))
        assert await held(device) == 0


def on_cpu_of(value: Any) -> flow.Node:
    """Make a node on the CPU."""
    with value.node.graph:
        node: flow.Node = on_cpu(value)
        return node


def nowhere_else(value: Any) -> flow.Node:
    """Make a node that cannot use what it gets."""
    with value.node.graph:
        node: flow.Node = add(value, "text")
        return node


async def test_a_wrong_number_of_outputs() -> None:
    """It is found where the kernel ran, also if only nodes of the device use them."""
    wrong = on_gpu(lambda x: (x, x, x), "wrong", num_outputs=2)
    async with gpu():
        with flow.Graph():
            end = add(wrong(np.ones(1))[1], 1)
        async with flow.Session() as session:
            with pytest.raises(flow.GraphError, match="'wrong' has 2 outputs and its kernel returned 3"):
                await session.run(end)


async def test_a_control_dependency_brings_no_value() -> None:
    """A node elsewhere that only waits does not have the value copied."""
    async with gpu() as device:
        with flow.Graph():
            effect = add(np.ones(2), 1)
            with flow.control_dependencies([effect]):
                after = on_cpu(1)
                on_device = add(np.ones(2), 2)
        async with flow.Session() as session:
            value, more = await session.run([after, on_device])
        assert (value, more.tolist()) == (2, [3, 3])
        order = [(entry.action, entry.name) for entry in tuple(device.trace)]
        assert ("get", "add") not in order
        assert order.index(("end", "add")) < order.index(("begin", "add_1"))
        assert await held(device) == 0


async def test_what_comes_after_on_another_stream() -> None:
    """A control dependency holds across the streams of one device."""
    gate = Gate()
    async with gpu() as device:
        with flow.Graph():
            slow, other = gate.op(np.ones(1)), add(np.ones(1), 1)
            with flow.control_dependencies([slow]):
                after = add(other, 1)
            follows_other = add(after, slow)
        async with flow.Session() as session:
            with anyio.fail_after(TEST_S):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(session.run, follows_other)
                    await gate.wait_begun()
                    gate.may_end.set()
        names = [entry.name for entry in tuple(device.trace) if entry.action in {"begin", "end"}]
        assert names.index("add_1") > max(i for i, name in enumerate(names) if name == "gate")


# Errors


def fails(x: Any) -> Any:
    """Raise."""
    raise ZeroDivisionError("by nothing")


@pytest.mark.parametrize("streams", [1, 4])
async def test_a_failure_names_the_node_that_failed(streams: int) -> None:
    """Not the one that was waited for; what needs it does not run."""
    boom = on_gpu(fails, "boom")
    async with gpu(streams=streams) as device:
        with flow.Graph():
            before = add(np.ones(1), 1)
            failing = boom(before)
            after = add(failing, add(before, 2))
            end = on_cpu(add(after, 1))
        async with flow.Session() as session:
            for _ in range(2):
                with anyio.fail_after(TEST_S), pytest.raises(flow.NodeFailed) as caught:
                    await session.run(end)
                assert (caught.value.node, caught.value.device) == ("boom", GPU.format(0))
                assert f"made at {failing.line}" in str(caught.value)
                assert type(caught.value.__cause__) is ZeroDivisionError
        begun = {entry.name for entry in tuple(device.trace) if entry.action == "begin"}
        assert after.name not in begun
        assert await held(device) == 0


@pytest.mark.parametrize("streams", [1, 4])
async def test_a_failure_before_a_control_dependency(streams: int) -> None:
    """What only waits for a node that failed does not run, and the step fails although nobody takes the value."""
    boom = on_gpu(fails, "boom")
    async with gpu(streams=streams) as device:
        with flow.Graph():
            other = add(np.ones(1), 1)
            failing = boom(np.ones(1))
            with flow.control_dependencies([other, failing]):
                after = add(np.ones(1), 2)
        async with flow.Session() as session:
            with anyio.fail_after(TEST_S), pytest.raises(flow.NodeFailed, match="'boom'"):
                await session.run(after)
        assert ("begin", after.name) not in {(entry.action, entry.name) for entry in tuple(device.trace)}


@pytest.mark.parametrize("point", ["put", "launch", "event", "get"])
async def test_a_failure_of_the_device(point: str) -> None:
    """Each thing that can fail on a device ends the step with its error, and the next step goes well."""
    async with gpu() as device:
        with flow.Graph():
            end = add(add(np.ones(1), 1), 1)
        async with flow.Session() as session:
            await session.run(end)
            device.fail(point, flow.DeviceError("the device fell off"))
            if point == "event":
                device.fail(point, flow.DeviceError("the device fell off"))
            with anyio.fail_after(TEST_S), pytest.raises(flow.DeviceError, match="fell off") as caught:
                await session.run(end)
            assert "in node 'add" in caught.value.__notes__[-1]
            assert (await session.run(end)).tolist() == [3]


async def test_memory_over_the_limit() -> None:
    """The error names node, device and line, and what was asked, held and allowed."""
    async with gpu(memory_limit=1000) as device:
        with flow.Graph():
            small = add(np.ones(50), 1)
            large = add(flow.placeholder("x"), small)
            end = on_cpu(add(large, 1))
            x = end.graph.node("x")
        async with flow.Session() as session:
            with pytest.raises(flow.DeviceOutOfMemory) as caught:
                await session.run(end, {x: np.ones((2, 50))})
            note = caught.value.__notes__[-1]
            assert note == f"aioflow: in node 'add_1' on {GPU.format(0)}, made at {large.line}"
            assert caught.value.limit == 1000
            del caught
            assert await held(device) == 0
            assert (await session.run(end, {x: 1.0})).tolist() == [5] * 50


async def test_memory_is_given_back_within_a_step() -> None:
    """A chain over several streams needs as much as two of its values, however long it is."""
    async with gpu(memory_limit=4 * 800):
        with flow.Graph():
            node = add(np.ones(100), 0)
            for _ in range(20):
                node = add(node, 1)
        async with flow.Session() as session:
            assert (await session.run(node)).tolist() == [21] * 100


async def test_memory_of_joined_streams_is_given_back_within_a_step() -> None:
    """A value that was made on another stream is dropped when its last user has it."""
    seen: list[int] = []
    async with gpu() as device:

        def note(x: Any) -> Any:
            seen.append(device.memory().held)
            return x

        look = on_gpu(note, "look")
        with flow.Graph():
            left, right = add(np.ones(100), 1), add(np.ones(100), 2)
            joined = add(left, right)
            end = joined
            for _ in range(3):
                end = add(end, 1)
            end = look(end)
        async with flow.Session() as session:
            assert (await session.run(end))[0] == 8
    assert seen[0] <= 3 * 800


# Cancels


@pytest.mark.parametrize("by", ["cancel", "failure", "close"])
@pytest.mark.parametrize("is_joined", [False, True])
async def test_a_step_that_ends_while_a_kernel_runs(by: str, is_joined: bool) -> None:
    """What runs on a stream is waited for, also where nobody waits for its value yet; what has not begun never does."""
    gate, log = Gate(), list[str]()
    is_ready = anyio.Event()

    @flow.op
    async def trigger() -> int:
        await gate.wait_begun()
        is_ready.set()
        if by == "failure":
            raise ValueError
        await anyio.sleep_forever()
        return 1

    async def run() -> None:
        try:
            await session.run(end)
        except (flow.NodeFailed, flow.SessionClosed) as error:
            log.append(type(error).__name__)
        finally:
            log.append(f"ended {gate.ended}")

    async with gpu() as device:
        with flow.Graph():
            chain = add(gate.op(np.ones(1)), 1)
            end = add(chain, trigger()) if is_joined else [add(chain, 1), trigger()]
        session = flow.Session()
        await session.open()
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as tasks, anyio.create_task_group() as closing:
                tasks.start_soon(run)
                await is_ready.wait()
                if by == "cancel":
                    tasks.cancel_scope.cancel()
                elif by == "close":
                    closing.start_soon(session.close)
                with anyio.CancelScope(shield=True):
                    for _ in range(10):
                        await checkpoint()
                    assert log == []
                    gate.may_end.set()
            await session.close()
        expected = {"cancel": [], "failure": ["NodeFailed"], "close": ["SessionClosed"]}[by]
        assert log == [*expected, "ended True"]
        assert {entry.name for entry in tuple(device.trace) if entry.action == "begin"} == {"gate"}
        assert await held(device) == 0


async def test_a_cpu_device_with_streams_has_threads() -> None:
    """Streams are for other kinds: plain kernels of a CPU run on its inter-op threads, never on the event loop."""
    with CpuDevice("/job:localhost/task:0/cpu:0") as first, CpuDevice("/cpu:1") as second, use_devices(first, second):
        name = Op(lambda: threading.current_thread().name, "name")
        with flow.Graph():
            nodes = []
            for number in range(2):
                with flow.device(f"/cpu:{number}"):
                    nodes.append(name())
        async with flow.Session() as session:
            names = await session.run(nodes)
        assert [f"device:CPU:{number}" in name for number, name in enumerate(names)] == [True, True]
