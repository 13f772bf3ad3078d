"""What a step of a graph costs: nodes beside bare tasks and dask.delayed, kernels that block beside one another."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING, Any

import aioflow as flow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZES = (1_000, 10_000, 100_000)
DASK_NODES = 10_000
BLOCK_S = 0.1
# The event loop is asked for a turn this often, for so long; what it is late by is its lag.
PROBE_EVERY_S, STEPS_WATCHED = 0.001, 5

# Nodes cost at most so many times what bare tasks cost; at 100,000 at most so many times what they cost at 1,000.
COST_MAX, GROWTH_MAX = 2.0, 1.5
FASTER_THAN_DASK = 3.0
TOGETHER_MAX, APART_MIN = 1.2, 1.8
LAG_MAX = 2.0


@flow.op
async def pass_on(value: Any) -> Any:
    """Cost nothing by itself."""
    return value


@flow.op
def block(_: Any) -> None:
    """Wait without the GIL, as a kernel of NumPy computes without it."""
    time.sleep(BLOCK_S)


@dataclass
class Figures:
    """Microseconds for each node or task, by the number of nodes; seconds; milliseconds; medians of the rounds."""

    chain_us: dict[int, float] = field(default_factory=dict)
    fan_us: dict[int, float] = field(default_factory=dict)
    task_chain_us: dict[int, float] = field(default_factory=dict)
    task_fan_us: dict[int, float] = field(default_factory=dict)
    dask_chain_us: float | None = None
    dask_fan_us: float | None = None
    two_blocks_by_two_threads: float = 0.0
    two_blocks_by_one_thread: float = 0.0
    idle_lag_p99_ms: float = 0.0
    busy_lag_p99_ms: float = 0.0


def chain(nodes: int) -> flow.Node:
    """Make nodes of which each takes the one before."""
    value = pass_on(0)
    for _ in range(nodes - 1):
        value = pass_on(value)
    return value  # type: ignore[no-any-return]


def fan(nodes: int) -> flow.Node:
    """Make nodes that have nothing to do with each other, and one that waits for all."""
    return flow.group(*[pass_on(0) for _ in range(nodes)])


async def _bare() -> None:
    """Do nothing."""


async def _task_chain(tasks: int) -> None:
    for _ in range(tasks):
        await asyncio.create_task(_bare())


async def _task_fan(tasks: int) -> None:
    await asyncio.gather(*[asyncio.create_task(_bare()) for _ in range(tasks)])


async def measure(rounds: int, sizes: tuple[int, ...] = SIZES) -> Figures:
    """Measure all; the things compared take turns within a round."""
    figures = Figures()
    for size in sizes:
        with flow.Graph():
            nodes = chain(size), fan(size)
        async with flow.Session() as session:
            for node in nodes:
                await session.run(node)  # it is planned once
            await _task_fan(100)
            taken = await _take_turns(
                rounds,
                lambda: session.run(nodes[0]),  # noqa: B023 - called within this round of the loop
                lambda: session.run(nodes[1]),  # noqa: B023
                lambda: _task_chain(size),  # noqa: B023
                lambda: _task_fan(size),  # noqa: B023
            )
        columns = figures.chain_us, figures.fan_us, figures.task_chain_us, figures.task_fan_us
        for column, seconds in zip(columns, taken, strict=True):
            column[size] = seconds / size * 1e6
    if find_spec("dask"):
        figures.dask_chain_us, figures.dask_fan_us = _dask(min(DASK_NODES, sizes[-1]))
    figures.two_blocks_by_one_thread, *_ = await _block(rounds, threads=1)
    by_two = await _block(rounds, threads=2)
    figures.two_blocks_by_two_threads, figures.idle_lag_p99_ms, figures.busy_lag_p99_ms = by_two
    return figures


async def _take_turns(rounds: int, *runs: Callable[[], Awaitable[Any]]) -> list[float]:
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, seconds in zip(runs, taken, strict=True):
            seconds.append(await _seconds(run))
    return [median(seconds) for seconds in taken]


async def _seconds(run: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await run()
    return time.perf_counter() - began


async def _block(rounds: int, threads: int) -> tuple[float, float, float]:
    """Return how long two blocking kernels take, in times of one; and the lag of an idle event loop, and meanwhile."""
    with flow.Graph():
        one, two = block(0), flow.group(block(1), block(2))
    async with flow.Session(config=flow.SessionConfig(inter_op_parallelism_threads=threads)) as session:
        await session.run(two)
        alone, both = await _take_turns(rounds, lambda: session.run(one), lambda: session.run(two))
        lags = [(await _lag_ms(_sleep()), await _lag_ms(_steps(session, two))) for _ in range(rounds)]
    return both / alone, median(idle for idle, _ in lags), median(busy for _, busy in lags)


async def _sleep() -> None:
    await asyncio.sleep(STEPS_WATCHED * BLOCK_S)


async def _steps(session: flow.Session, node: flow.Node) -> None:
    for _ in range(STEPS_WATCHED):
        await session.run(node)


async def _lag_ms(work: Awaitable[Any]) -> float:
    """Return by how much a task is late at the 99th percentile while some work is awaited."""
    late: list[float] = []

    async def probe() -> None:
        while True:
            due = time.perf_counter() + PROBE_EVERY_S
            await asyncio.sleep(PROBE_EVERY_S)
            late.append(time.perf_counter() - due)

    task = asyncio.create_task(probe())
    await work
    task.cancel()
    await asyncio.wait([task])
    return sorted(late)[int(len(late) * 0.99)] * 1e3


def _dask(nodes: int) -> tuple[float, float]:
    """Return the same for dask.delayed with its threaded scheduler."""
    dask: Any = import_module("dask")

    def identity(value: Any) -> Any:
        return value

    pass_it_on = dask.delayed(identity, pure=False)

    def compute(node: Any) -> float:
        began = time.perf_counter()
        node.compute(scheduler="threads")
        return (time.perf_counter() - began) / nodes * 1e6

    value = pass_it_on(0)
    for _ in range(nodes - 1):
        value = pass_it_on(value)
    gathered = dask.delayed(len, pure=False)([pass_it_on(0) for _ in range(nodes)])
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20 * nodes))  # it walks a chain by recursion
    try:
        return compute(value), compute(gathered)
    finally:
        sys.setrecursionlimit(limit)


def judge(figures: Figures) -> list[tuple[str, float, str, bool]]:
    """Return what was asked for: what, the figure, the demand, and whether it is met."""
    middle, last = (sorted(figures.chain_us) * 2)[1], max(figures.chain_us)
    rows: list[tuple[str, float, str, bool]] = []

    def at_most(what: str, figure: float, most: float) -> None:
        rows.append((what, figure, f"at most {most:g}", figure <= most))

    def at_least(what: str, figure: float, least: float) -> None:
        rows.append((what, figure, f"at least {least:g}", figure >= least))

    at_most(f"chain of {middle}, x bare tasks", figures.chain_us[middle] / figures.task_chain_us[middle], COST_MAX)
    at_most(f"fan of {middle}, x bare tasks", figures.fan_us[middle] / figures.task_fan_us[middle], COST_MAX)
    first = min(figures.chain_us)
    at_most(f"a node of a chain of {last}, x of {first}", figures.chain_us[last] / figures.chain_us[first], GROWTH_MAX)
    at_most(f"a node of a fan of {last}, x of {first}", figures.fan_us[last] / figures.fan_us[first], GROWTH_MAX)
    if figures.dask_chain_us is not None and figures.dask_fan_us is not None:
        at_least("dask.delayed's chain, x ours", figures.dask_chain_us / figures.chain_us[middle], FASTER_THAN_DASK)
        at_least("dask.delayed's fan, x ours", figures.dask_fan_us / figures.fan_us[middle], FASTER_THAN_DASK)
    at_most("two blocking kernels by two threads, x one", figures.two_blocks_by_two_threads, TOGETHER_MAX)
    at_least("two blocking kernels by one thread, x one", figures.two_blocks_by_one_thread, APART_MIN)
    at_most("p99 lag of the event loop meanwhile, x idle", figures.busy_lag_p99_ms / figures.idle_lag_p99_ms, LAG_MAX)
    return rows


def run(rounds: int, *, small: bool = False) -> tuple[dict[str, Any], list[tuple[str, float, str, bool]]]:
    """Measure and judge; with `small` few nodes: whether it runs, not how fast."""
    figures = asyncio.run(measure(rounds, (100, 200, 400) if small else SIZES))
    return asdict(figures), judge(figures)
