"""What a step over two tasks costs, beside the same step in one process and bare messages.

The tasks are at `ipc://` addresses, and so share memory. Steps are held against round trips at such an address by
ZeroMQ's sockets, which is what it is without shared memory; large values against the way that they take.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import anyio

import aioflow as flow
from aioflow.cluster import prepare_process
from aioflow.transport import find_transport
from benchmarks.cluster_ops import LARGE, large, pass_on, size_of
from benchmarks.environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from aioflow.errors import TransportError
    from aioflow.transport import Connection, Frame

STEPS, STEPS_SMALL = 300, 20
LARGE_STEPS = 9

# A step with a node on each of two tasks takes at most what one process takes, and so many round trips of an empty
# message.
ROUND_TRIPS_MAX = 4.0
# A large value between tasks reaches at least this share of what the transport itself reaches.
SHARE_MIN = 0.5


@dataclass
class Figures:
    """Microseconds, medians of the rounds' medians; GB/s, medians."""

    one_process_us: list[float] = field(default_factory=list)
    two_tasks_us: list[float] = field(default_factory=list)
    there_and_back_us: list[float] = field(default_factory=list)
    round_trip_us: list[float] = field(default_factory=list)
    shared_round_trip_us: list[float] = field(default_factory=list)
    between_tasks_gb_s: list[float] = field(default_factory=list)
    transport_gb_s: list[float] = field(default_factory=list)


class _Echo:
    """Answers each message by an empty one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def received(self, frames: list[Frame]) -> None:  # noqa: ARG002 - whatever came
        self._connection.send([b""])

    def lost(self, error: TransportError) -> None:
        """Do nothing: the next one is accepted."""


class _Answers:
    """Tells when an answer has come."""

    def __init__(self) -> None:
        self.came = anyio.Event()

    def received(self, frames: list[Frame]) -> None:  # noqa: ARG002 - it is empty
        self.came.set()

    def lost(self, error: TransportError) -> None:
        """Fail: the bench ends with its children."""
        raise error


async def serve_echo(*addresses: str) -> None:
    """Echo until this process is ended."""
    async with anyio.create_task_group() as group:
        for address in addresses:
            await find_transport(address).listen(address, _Echo, group)
        print("ready", flush=True)
        await anyio.sleep_forever()


def graph() -> tuple[Any, Any, Any]:
    """Return what a step fetches: a value that goes to the other task, one that comes back, and a large one."""
    with flow.Graph(), flow.device("/job:worker/task:0"):
        here = pass_on(1)
        with flow.device("/job:worker/task:1"):
            there = pass_on(here)
            far = large()
        return there, pass_on(there), size_of(far)


def local_graph() -> Any:
    """Return the first of them in one process."""
    with flow.Graph():
        return pass_on(pass_on(1))


class _Asker:
    """Asks what echoes at an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._answers = _Answers()
        self._connection: Connection

    async def connect(self, group: TaskGroup) -> None:
        self._connection = await find_transport(self.address).connect(self.address, self._answers, group)

    async def ask(self, *frames: Frame) -> None:
        self._answers.came = anyio.Event()
        self._connection.send(list(frames))
        await self._answers.came.wait()

    async def aclose(self) -> None:
        await self._connection.aclose()


def echo_program(*addresses: str) -> dict[str, list[str]]:
    """Return the program that echoes at some addresses."""
    return {"echo": ["python", "-m", "benchmarks.clusters", *addresses]}


async def seconds(call: Callable[[], Awaitable[Any]], times: int) -> float:
    """Return the median of so many calls."""
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    return median(took)


async def measure(folder: str, rounds: int, *, small: bool) -> Figures:
    """Run all of it, in turns."""
    figures = Figures()
    echo, shared = (_Asker(f"{scheme}://{folder}/{scheme}") for scheme in ("ipc", "shm"))
    cluster = {"worker": [f"ipc://{folder}/worker{task}" for task in range(2)]}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    there, back, far = graph()
    alone = local_graph()
    steps = STEPS_SMALL if small else STEPS
    async with (
        flow.launch(cluster, echo_program(echo.address, shared.address), ops=["benchmarks.cluster_ops"]),
        flow.Session(cluster["worker"][0]) as session,
        flow.Session("") as here,
        anyio.create_task_group() as group,
    ):
        for asker in (echo, shared):
            await asker.connect(group)
            await seconds(lambda: asker.ask(b"", LARGE.data), 5)  # noqa: B023 - it is awaited here
        for warm in (lambda: session.run([back, far]), lambda: here.run(alone)):
            await seconds(warm, 5)
        for _ in range(rounds):
            figures.one_process_us.append(1e6 * await seconds(lambda: here.run(alone), steps))
            figures.round_trip_us.append(1e6 * await seconds(lambda: echo.ask(b""), steps))
            figures.shared_round_trip_us.append(1e6 * await seconds(lambda: shared.ask(b""), steps))
            figures.two_tasks_us.append(1e6 * await seconds(lambda: session.run(there), steps))
            figures.there_and_back_us.append(1e6 * await seconds(lambda: session.run(back), steps))
            gb = LARGE.nbytes / 1e9
            small_s = figures.two_tasks_us[-1] / 1e6
            figures.between_tasks_gb_s.append(gb / (await seconds(lambda: session.run(far), LARGE_STEPS) - small_s))
            trip_s = figures.shared_round_trip_us[-1] / 1e6
            large_s = await seconds(lambda: shared.ask(b"", LARGE.data), LARGE_STEPS)
            figures.transport_gb_s.append(gb / (large_s - trip_s))
        for asker in (echo, shared):
            await asker.aclose()
        group.cancel_scope.cancel()
    return figures


def run(rounds: int, *, small: bool) -> tuple[dict[str, Any], list[tuple[str, float, str, bool]]]:
    """Measure; return the figures, and each demand with whether it is met."""
    with tempfile.TemporaryDirectory(prefix="aioflow-") as folder:
        figures = anyio.run(lambda: measure(folder, rounds, small=small))
    trips = median(
        [
            (two - one) / trip
            for two, one, trip in zip(figures.two_tasks_us, figures.one_process_us, figures.round_trip_us, strict=True)
        ]
    )
    share = median([ours / its for ours, its in zip(figures.between_tasks_gb_s, figures.transport_gb_s, strict=True)])
    rows = [
        (
            "a step over two tasks, round trips beyond one process",
            trips,
            f"at most {ROUND_TRIPS_MAX:g}",
            trips <= ROUND_TRIPS_MAX,
        ),
        ("64 MiB between tasks, x the transport's own rate", share, f"at least {SHARE_MIN:g}", share >= SHARE_MIN),
    ]
    return asdict(figures), rows


if __name__ == "__main__":
    prepare_process()  # as the servers do, whose transport this stands for
    with suppress(KeyboardInterrupt):
        anyio.run(serve_echo, *sys.argv[1:])
