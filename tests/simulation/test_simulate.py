"""Programs of a user's, run in virtual time: what they see, what a seed decides, and what a failure says."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import numpy as np
import pytest

import aioflow as flow
from aioflow.errors import AioflowError
from aioflow.testing import Faults, on_node, simulate

LOADERS, EACH, BATCH = 3, 30, 8


def define() -> flow.FIFOQueue:
    """The queue of the pipelines."""
    return flow.FIFOQueue(16, ["int64"], [()], shared_name="samples", producers=LOADERS)


async def load(loader: int) -> None:
    """Put numbers, in its own time."""
    with on_node(f"loader-{loader}"):
        async with flow.Session("sim://queues"):
            queue = define()
            async with queue.producer(f"loader-{loader}"):
                for i in range(EACH):
                    await queue.enqueue(loader * EACH + i)
                    if i % 10 == loader:
                        await asyncio.sleep(0.02)


async def train() -> list[int]:
    """Get batches until the end."""
    with on_node("trainer"):
        async with flow.Session("sim://queues"):
            return [int(number) async for batch in define().batches(BATCH) for number in batch]


async def pipeline() -> list[int]:
    """Run loaders and a trainer."""
    async with asyncio.TaskGroup() as group:
        for loader in range(LOADERS):
            group.create_task(load(loader))
        trained = group.create_task(train())
    return trained.result()


def check_trained(numbers: list[int]) -> None:
    """Everything came, once, and each loader's in its order."""
    assert sorted(numbers) == list(range(LOADERS * EACH))
    for loader in range(LOADERS):
        own = [number for number in numbers if number // EACH == loader]
        assert own == sorted(own)


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_a_pipeline_holds_under_delays(first: int) -> None:
    """Whatever the delays and the order of tasks; the orders in which elements come differ."""
    orders = set()
    for seed in range(first, first + 20):
        numbers = simulate(pipeline, seed=seed, servers=["queues"])
        check_trained(numbers)
        orders.add(tuple(numbers))
    assert len(orders) > 10


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_a_pipeline_holds_under_partitions_and_slow_nodes(first: int) -> None:
    """Nothing is lost by them."""
    faults = Faults(partitions=2, slow=2, within_s=0.5, lasting_s=1.0)
    for seed in range(first, first + 10):
        check_trained(simulate(pipeline, seed=seed, servers=["queues"], faults=faults))


def test_sleeping_takes_no_time() -> None:
    """A day passes at once, and timeouts pass with it."""

    async def main() -> float:
        begin = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            with anyio.fail_after(3600):
                await anyio.Event().wait()
        await asyncio.sleep(23 * 3600)
        return asyncio.get_running_loop().time() - begin

    began = time.monotonic()
    assert simulate(main, seed=0, limit_s=1e6) == pytest.approx(24 * 3600)
    assert time.monotonic() - began < 5


def test_one_that_looks_again_and_again_gets_on() -> None:
    """Each turn of the loop takes some virtual time."""

    async def main() -> None:
        end = asyncio.get_running_loop().time() + 0.01
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0)

    simulate(main, seed=0)


# The seed decides


async def _order() -> str:
    order: list[str] = []

    async def step(name: str) -> None:
        await asyncio.sleep(1)
        order.append(name)

    async with anyio.create_task_group() as group:
        for name in "abcdef":
            group.start_soon(step, name)
    return "".join(order)


def test_a_seed_decides_the_order_of_tasks() -> None:
    """Those that are ready together run in any order, and in the same with the same seed."""
    orders = [simulate(_order, seed=seed) for seed in range(20)]
    assert len(set(orders)) > 15
    assert orders == [simulate(_order, seed=seed) for seed in range(20)]


async def _draw() -> list[float]:
    generator = np.random.default_rng()
    numbers = [random.random(), float(np.random.random()), float(generator.random())]  # noqa: NPY002 - that is the point
    return [*numbers, float(np.random.default_rng(5).random())]


def test_a_seed_decides_what_was_not_seeded() -> None:
    """And the program around the simulation goes on with its own random numbers."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the same
    state = random.getstate()
    first, again, other = (simulate(_draw, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert not set(first[:3]) & set(other[:3])
    assert first[3] == other[3] == np.random.default_rng(5).random()
    assert random.getstate() == state
    assert np.random.default_rng().random() != np.random.default_rng().random()


FAILING = """
import asyncio
import sys
sys.path[:0] = {path!r}
from tests.simulation.test_simulate import failing_pipeline
from aioflow.testing import Faults, simulate

try:
    simulate(failing_pipeline, seed=4, servers=["queues"], faults=Faults(partitions=2, slow=2, within_s=0.2))
except AssertionError as error:
    print(error.__notes__[0])
"""


async def failing_pipeline() -> None:
    """Find something to complain of at the end."""
    await pipeline()
    raise AssertionError


def test_a_seed_does_the_same_in_every_process() -> None:
    """To the last message, whatever the hashes of strings are there."""
    path = [str(folder) for folder in sys.path]
    traces = [
        subprocess.run(
            [sys.executable, "-c", FAILING.format(path=path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert traces[0].startswith("simulated with seed=4\nneeds 0 of 4 decisions:\ntrace (")
    assert "loader-1 -> queues: Put(id=" in traces[0]


# Faults


async def impatient() -> None:
    """Use a queue for a while, and bear no failure."""
    async with flow.Session("sim://queues"):
        queue = flow.FIFOQueue(100, ["int64"], [()], shared_name="samples")
        for i in range(50):
            await queue.enqueue(i)
            await queue.dequeue()
            await asyncio.sleep(0.1)


def test_a_failure_says_which_fault_it_needs() -> None:
    """Of eight one is left, and the trace shows it."""
    faults = Faults(restarts=1, slow=5, partitions=2, within_s=3.0, lasting_s=0.5)
    simulate(impatient, seed=12, servers=["queues"])
    with pytest.raises(AioflowError) as caught:
        simulate(impatient, seed=12, servers=["queues"], faults=faults)
    (note,) = caught.value.__notes__
    first, second, third, *_ = note.splitlines()
    assert [first, second] == ["simulated with seed=12", "needs 1 of 8 decisions:"]
    assert third.startswith("  crash at ")
    assert " s  queues: crashed" in note


async def _one_after_the_other() -> list[int]:
    async with flow.Session("sim://queues"):
        queue = flow.FIFOQueue(8, ["int64"], [()], shared_name="samples")
        async with queue.producer():
            await queue.enqueue_many(range(5))
        return [int(number) async for number in queue]


def test_a_lost_connection_is_no_failure() -> None:
    """Nor one that is lost while the session opens, as in several of these runs."""
    for seed in range(20):
        faults = Faults(disconnects=1, within_s=0.01)
        numbers = simulate(_one_after_the_other, seed=seed, servers=["queues"], faults=faults)
        assert numbers == [0, 1, 2, 3, 4]


def test_beats_are_left_out_of_a_trace() -> None:
    """However long nothing happened, what did is there; the trace has its end, of a thousand events."""

    async def main() -> None:
        async with flow.Session("sim://queues"):
            await flow.FIFOQueue(8, ["int64"], [()], shared_name="samples").enqueue(1)
            await asyncio.sleep(1200)
            raise LookupError

    with pytest.raises(LookupError) as caught:
        simulate(main, seed=0, servers=["queues"])
    (note,) = caught.value.__notes__
    assert "main -> queues: Put(" in note
    assert "Beat(" not in note
    assert "Heard(" not in note


def test_a_restarted_server_is_there_again_and_empty() -> None:
    """Another session finds it so."""

    async def main() -> tuple[int, int]:
        sizes: list[int] = []
        for _ in range(2):
            async with flow.Session("sim://queues"):
                queue = flow.FIFOQueue(100, ["int64"], [()], shared_name="samples")
                sizes.append(await queue.size())
                await queue.enqueue(1)
            await asyncio.sleep(20)
        return sizes[0], sizes[1]

    assert simulate(main, seed=0, servers=["queues"]) == (0, 1)
    faults = Faults(restarts=1, lasting_s=5.0)
    assert simulate(main, seed=3, servers=["queues"], faults=faults) == (0, 0)


def test_a_server_of_the_program_is_served_too() -> None:
    """Its node has the name of its address."""

    async def main() -> int:
        async with flow.Server({"local": ["sim://mine"]}) as server:
            assert server.address == "sim://mine"
            async with flow.Session(server.address):
                queue = flow.FIFOQueue(10, ["int64"], [()], shared_name="q")
                await queue.enqueue(7)
                return int(await queue.dequeue())

    assert simulate(main, seed=0) == 7


def test_a_cluster_is_served_too() -> None:
    """One server for each task; a step over them takes no thread."""

    async def main() -> tuple[list[str], int]:
        with on_node("client"):
            async with flow.Session("sim://worker1") as session:
                with flow.Graph():
                    with flow.device("/job:ps/task:0"):
                        seven = flow.identity(7)
                    with flow.device("/job:worker/task:0"):
                        value = flow.identity(seven)
                names = [device.name for device in await session.devices()]
                return names, await session.run(value)

    cluster = {"ps": ["sim://ps"], "worker": ["sim://worker0", "sim://worker1"]}
    expected = [f"/job:{job}/task:{task}/device:CPU:0" for job, task in [("worker", 1), ("ps", 0), ("worker", 0)]]
    for seed in range(5):
        assert simulate(main, seed=seed, servers=cluster) == (expected, 7)


# What cannot be simulated, and what does not end


def test_waiting_for_nothing_is_told_at_once() -> None:
    """With the place where each task waits."""

    async def main() -> None:
        async with flow.Session():
            await flow.FIFOQueue(10, ["int64"], [()]).dequeue()

    with pytest.raises(
        TimeoutError, match=r"nothing is due any more(.|\n)*main \(test_simulate.py:\d+\) > dequeue .* > wait \("
    ):
        simulate(main, seed=0)


def test_a_run_has_a_limit() -> None:
    """In virtual time; what the program does at its end still has time."""
    ended: list[str] = []

    async def main() -> None:
        try:
            while True:
                await asyncio.sleep(1)
        finally:
            await asyncio.sleep(1)
            ended.append("ended")

    with pytest.raises(TimeoutError, match=r"not over at its limit of 100 s\n.* main \(test_simulate.py:\d+\) > sleep"):
        simulate(main, seed=0, limit_s=100)
    assert ended == ["ended"]


async def _in_a_thread() -> None:
    await asyncio.get_running_loop().run_in_executor(None, time.time)


async def _called_from_a_thread() -> None:
    errors: list[BaseException] = []
    loop = asyncio.get_running_loop()

    def call() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    raise errors[0]


async def _a_socket() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _a_signal() -> None:
    asyncio.get_running_loop().add_signal_handler(2, print)


@pytest.mark.parametrize("main", [_in_a_thread, _called_from_a_thread, _a_socket, _a_signal])
def test_threads_and_sockets_are_refused(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """By name."""
    with pytest.raises(RuntimeError, match="no threads, subprocesses, signals or sockets"):
        simulate(main, seed=0)
    gc.collect()


def test_mistakes_are_refused() -> None:
    """A call within a coroutine, and stops."""

    async def main() -> None:
        simulate(_order, seed=0)

    with pytest.raises(RuntimeError, match="call it from a plain function"):
        asyncio.run(main())
    with pytest.raises(ValueError, match="leave stops= out"):
        simulate(_order, seed=0, faults=Faults(stops=1))
    with pytest.raises(TypeError, match=r"faults= takes a Faults.* got 3"):
        simulate(_order, seed=0, faults=3)  # type: ignore[arg-type]
