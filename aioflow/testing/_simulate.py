"""Runs a program of coroutines in virtual time on a simulated network, and makes a failure of it small."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import numpy as np

from aioflow.client import _session
from aioflow.cluster import ClusterSpec, Server, _server, _worker
from aioflow.cluster._codec import decode
from aioflow.cluster._sessions import no_page
from aioflow.devices import CpuDevice, OpenDevices
from aioflow.errors import RemoteProtocolError
from aioflow.names import DeviceName
from aioflow.runtime import SessionConfig, SessionDevices, every_call_gives_a_turn, on_asyncio
from aioflow.testing._faults import Faults, check_run, inject_faults
from aioflow.testing._network import SimulatedNetwork
from aioflow.testing._simulated_loop import SimulatedLoop
from aioflow.testing._simulated_transport import SimulatedTransport, on_node
from aioflow.transport import use_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence

    from aioflow.testing._faults import Decision
    from aioflow.transport import Frame

__all__ = ["describe_message", "simulate"]

T = TypeVar("T")

# A trace is for reading: of a long run its end.
TRACE_EVENTS = 1000

# How often a failing program is repeated to find out which faults it needs.
TRIES = 40

# A text in a trace is at most so long: a session's name is a secret, and says nothing to a reader.
TEXT_CHARS = 12


def simulate(
    main: Callable[[], Coroutine[Any, Any, T]],
    *,
    seed: int,
    faults: Faults | None = None,
    servers: Sequence[str] | Mapping[str, Sequence[str]] = (),
    ops: Sequence[str] = (),
    config: SessionConfig | None = None,
    limit_s: float = 3600.0,
) -> T:
    """Run a program in virtual time, where the seed decides all delays, the order of tasks, and what goes wrong.

    The program is any code of coroutines on asyncio or AnyIO, with sessions and servers on addresses `sim://NAME`
    between its parts. Sleeping takes no time, and the same seed always does the same: generators of NumPy that are made
    without a seed, the global ones of NumPy and `random`, and `secrets.token_hex` get theirs from it. (Where a program
    goes through a set of strings, Python's own PYTHONHASHSEED decides, too.)

    Threads, subprocesses and real sockets have no virtual time: they raise RuntimeError, or are waited for in vain.

    Args:
        main: The program. It is called again to minimise a failure, so it must begin anew each time.
        seed: Decides everything.
        faults: What goes wrong; nothing where None.
        servers: What runs beside the program: names of servers, each at `sim://NAME`; or the jobs of a cluster with the
            addresses of their tasks, such as `{"ps": ["sim://ps0"], "worker": ["sim://w0", "sim://w1"]}`, one server
            for each. Only these are restarted by faults.
        ops: Modules whose ops graphs may name on these servers.
        config: Settings of these servers; the defaults where None. Plain kernels run on the event loop.
        limit_s: How many seconds of virtual time the program may take.

    Returns:
        What `main` returned.

    Raises:
        TimeoutError: The program was not over at its limit, or waits for what cannot come; names each task.
        Exception: What the program raised. A note on it says the seed, which faults it needs, and the trace of a run
            with these alone.
        RuntimeError: It is called within a coroutine, or the program uses threads or sockets.
        ValueError: The faults contain stops, which coroutines cannot be subjected to.
    """
    if on_asyncio():
        raise RuntimeError("simulate() runs an event loop of its own: call it from a plain function, not a coroutine")
    if faults is not None and not isinstance(faults, Faults):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
        raise TypeError(f"faults= takes a Faults, such as Faults(disconnects=3), got {faults!r}")
    faults = faults or Faults()
    if faults.stops:
        raise ValueError("a coroutine cannot be stopped by a simulated network; leave stops= out, or use partitions=")
    results: list[T] = []

    async def run(network: SimulatedNetwork) -> None:
        async with AsyncExitStack() as stack:
            for name, make in _make_servers(servers, ops, config):
                await stack.enter_async_context(_Restartable(network, name, make))
            results[:] = [await main()]

    def attempt(decisions: Sequence[Decision]) -> tuple[BaseException | None, SimulatedNetwork]:
        network = SimulatedNetwork(np.random.default_rng(seed), describe=describe_message, trace_max=TRACE_EVENTS)
        inject_faults(network, decisions)
        try:
            _run(run, network, seed, limit_s)
        except Exception as error:  # noqa: BLE001 - raised by who called, once its run is small
            return error, network
        return None, network

    # Another stream than the network's: otherwise its delays would depend on what goes wrong.
    decisions = faults.plan(np.random.default_rng([seed, 1]))
    check_run(attempt, decisions, seed=seed, tries=TRIES)
    return results[0]


def describe_message(frames: list[Frame]) -> str:
    """Say in a few words which message of aioflow's some frames are."""
    try:
        message, _ = decode(frames)
    except RemoteProtocolError as error:
        return f"no message: {error}"
    fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    shown = [
        f"{name}={value[:TEXT_CHARS] if isinstance(value, str) else value!r}"
        for name, value in fields.items()
        if isinstance(value, (int, float, str))
    ]
    nbytes = sum(memoryview(frame).nbytes for frame in frames)
    return f"{type(message).__name__}({', '.join(shown)}), {nbytes} bytes"


def _run(
    program: Callable[[SimulatedNetwork], Coroutine[Any, Any, None]],
    network: SimulatedNetwork,
    seed: int,
    limit_s: float,
) -> None:
    with ExitStack() as stack:
        stack.enter_context(use_transport("sim", SimulatedTransport(network)))
        stack.enter_context(every_call_gives_a_turn())
        for module in (_worker, _session):
            stack.enter_context(mock.patch.object(module, "open_in_thread", _open_devices))
        stack.enter_context(_seeded(seed))
        # Nodes are hosts of their own, which share no memory; and the path of a page differs from run to run.
        stack.enter_context(mock.patch.object(_server, "_make_page", no_page))
        runner = asyncio.Runner(loop_factory=lambda: SimulatedLoop(network, seed, limit_s))
        try:
            runner.run(program(network))
        except BaseException:
            with suppress(TimeoutError):  # what it was waiting for may never come
                runner.close()
            raise
        runner.close()


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Have all randomness that the program did not seed come from the seed."""
    make = np.random.default_rng
    source = make([seed, 2])

    def default_rng(seed: Any = None) -> np.random.Generator:
        return make(source.integers(2**63) if seed is None else seed)

    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - programs use it
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with (
            mock.patch.object(np.random, "default_rng", default_rng),
            mock.patch.object(secrets, "token_hex", lambda nbytes=16: source.bytes(nbytes).hex()),
        ):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


async def _open_devices(job: str, task: int, _: object) -> SessionDevices:
    """Open the devices of a task in virtual time: a CPU without threads."""
    return SessionDevices(OpenDevices((CpuDevice(DeviceName(job, task, "CPU", 0), streams=0),), ()))


def _make_servers(
    servers: Sequence[str] | Mapping[str, Sequence[str]], ops: Sequence[str], config: SessionConfig | None
) -> list[tuple[str, Callable[[], Server]]]:
    """Return the node of each server, and what makes the server."""
    config = replace(config or SessionConfig(), inter_op_parallelism_threads=-1)
    jobs = [servers] if isinstance(servers, Mapping) else [{"local": [f"sim://{name}"]} for name in servers]
    return [
        (address.removeprefix("sim://"), partial(Server, cluster, job, task, config=config, ops=ops))
        for cluster in map(ClusterSpec, jobs)
        for job, task, address in cluster.tasks()
    ]


class _Restartable:
    """A server beside the program; when its node crashes it is gone, and a new one comes with the node's restart."""

    def __init__(self, network: SimulatedNetwork, name: str, make: Callable[[], Server]) -> None:
        self._node = network.node(name)
        self._make = make
        self._changed = asyncio.Event()
        self._node.on_crash = self._node.on_start = self._changed.set
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        with on_node(self._node.name):
            server = await self._make().start()
            self._task = asyncio.get_running_loop().create_task(self._restart(server), name=f"server {self._node.name}")

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _restart(self, server: Server) -> None:
        while True:
            try:
                await self._until(is_up=False)
            finally:
                await server.close()  # of which nobody hears, after a crash
            await self._until(is_up=True)
            server = await self._make().start()

    async def _until(self, *, is_up: bool) -> None:
        while self._node.is_up != is_up:
            self._changed.clear()
            await self._changed.wait()
