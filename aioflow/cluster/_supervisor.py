"""The supervisor: runs a cluster and a user's programs as processes of this machine. `_supervision` decides for it.

Each process is in a session (and so a process group) of its own: Ctrl-C at the terminal reaches the supervisor alone,
which then ends the others in order; and what a process has started ends with it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from aioflow.cluster._cluster_file import format_cluster, parse_devices
from aioflow.cluster._launch_keys import LAUNCHER, launch_keys, needs_keys, with_keys
from aioflow.cluster._output import Lines, Output
from aioflow.cluster._programs import parse_programs
from aioflow.cluster._spec import ClusterSpec
from aioflow.cluster._supervision import (
    ENDING,
    GiveUp,
    History,
    Restart,
    Start,
    after_exit,
    describe_exit,
    program_starts,
    server_starts,
)
from aioflow.errors import ProcessFailed, SpecMismatch
from aioflow.runtime import Background, SessionConfig, finish, now

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteReceiveStream, Process, TaskGroup

    from aioflow.cluster._programs import Program

__all__ = ["ProcessInfo", "Running", "launch", "run_starts", "supervise"]

logger = logging.getLogger("aioflow.supervisor")

READY = "aioflow serves at "  # what a server prints when it is ready

# How long what a process has printed is read after its end: something that it has left behind may hold the pipe.
DRAIN_S = 0.3

KEEPER = str(Path(__file__).with_name("_keeper.py"))
KEEPER_S = 3.0

# What writing to a process raises that has ended; on asyncio the loop's own errors come through.
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError)


def launch(
    cluster: ClusterSpec | Mapping[str, Sequence[str] | Mapping[int, str]],
    programs: Mapping[str, Any] | None = None,
    *,
    config: SessionConfig | None = None,
    ops: Iterable[str] = (),
    devices: Mapping[str, str] | None = None,
) -> AbstractAsyncContextManager[Running]:
    """Run a cluster on this machine: a process for each task, and programs beside them, within an `async with`.

    Entering waits until every server is ready, then starts the programs. A server that ends is started again, a program
    that ends with another exit code than 0 too, after 0.1 s and twice as long after each further end within 5 s of the
    start. What they print is shown on standard output, each line with a name in front. Leaving, also by an exception or
    a cancel, ends all of them within 5 s: programs by SIGINT, then SIGTERM; then servers by SIGTERM; what is left by
    SIGKILL. If this process is killed, they end too.

    Where an address of the cluster is not on this host alone, and AIOFLOW_KEYS names no keys, a set of keys is made for
    this launch: servers and programs get theirs as AIOFLOW_KEYS, the block as
    `running.credentials`.

    Args:
        cluster: All of its tasks; addresses are `ipc://`, or of this host with a port.
        programs: For each name the command, a list of arguments; or a dict of `command` and perhaps `count` (how many
            of it run), `target` (`"/job:worker/task:0"`) and `env` (environment variables). Each gets the address of
            its target, by default of the first task of the first job, as `AIOFLOW_TARGET`, and its number as
            `AIOFLOW_INDEX`. The command `python` is this interpreter.
        config: Settings of the servers; the defaults where None.
        ops: Modules with ops that graphs may name on the servers.
        devices: For tasks by name, such as `"/job:worker/task:0"`, which GPUs they see, as in CUDA_VISIBLE_DEVICES; a
            task that is not named sees all.

    Returns:
        A context manager that gives a `Running`.

    Raises:
        PlacementError: The cluster has no tasks, a program or a device is malformed or names a task that is not there,
            or a port is 0.
        ConnectFailed: An address is none, or reaches no other process.
        SpecMismatch: `ops` is no list of modules.
        ProcessFailed: In the block, which is cancelled, and at its end: a command cannot be started, or a process has
            ended five times in a row within 5 s of its start. All have been ended.
    """
    spec = ClusterSpec(cluster)
    if isinstance(ops, str):
        raise SpecMismatch(f"ops is {ops!r}; expected a list of modules, [{ops!r}]")
    seen = parse_devices(devices or {}, spec)
    return supervise(
        spec, parse_programs(programs or {}, spec), config=config or SessionConfig(), ops=ops, devices=seen
    )


def supervise(
    cluster: ClusterSpec,
    programs: Iterable[Program],
    *,
    config: SessionConfig,
    ops: Iterable[str],
    devices: Mapping[tuple[str, int], str],
) -> AbstractAsyncContextManager[Running]:
    """Run a cluster as `launch` does, of programs and devices that were read.

    Raises:
        AioflowError: As `launch`.
    """
    starts = server_starts(cluster, devices, ops, sys.executable) + program_starts(programs, cluster, sys.executable)
    names = [start.name for start in starts]
    return run_starts(starts, format_cluster(cluster, config), names, has_keys=needs_keys(cluster))


@asynccontextmanager
async def run_starts(
    starts: Sequence[Start], cluster: str = "", shown: Sequence[str] = (), *, has_keys: bool = False
) -> AsyncGenerator[Running]:
    """Run processes as `launch` does, within an `async with`.

    Args:
        starts: The processes.
        cluster: What each server reads from its standard input.
        shown: Whose names stand in front of what they print; none where there is one, and another shows its name.
        has_keys: Whether keys are made for them.

    Raises:
        ProcessFailed: As `launch`.
    """
    made = ExitStack()
    try:
        keys: dict[str, Path] = {}
        if has_keys:
            names = [LAUNCHER, *(start.name for start in starts if not start.is_server)]
            keys = await anyio.to_thread.run_sync(made.enter_context, launch_keys(names))
            starts = [with_keys(start, keys) for start in starts]
        supervisor = _Supervisor(starts, cluster, shown)
        try:
            with supervisor.scope:
                await supervisor.start()
                yield Running(supervisor, keys.get(LAUNCHER))
        finally:
            await finish(supervisor.stop)
        if supervisor.error is not None:
            raise supervisor.error
    finally:
        await finish(lambda: anyio.to_thread.run_sync(made.close))


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process of a running cluster, as it is at the moment.

    Attributes:
        name: Such as `/job:ps/task:0`, `loader`, or `loader:1` where several of it run.
        pid: Its process; None before the first start, between two, and when it is done.
        address: A server's own address; a program's AIOFLOW_TARGET.
        restarts: How often it was started again.
    """

    name: str
    pid: int | None
    address: str
    restarts: int


class Running:
    """A cluster that runs; what the block of `launch` gets.

    Attributes:
        credentials: The key file for sessions of this program, `Session(address, credentials=...)`, where keys were
            made for the cluster; None where they were not, as all of its addresses are on this host alone.
    """

    def __init__(self, supervisor: _Supervisor, credentials: Path | None) -> None:
        self._supervisor = supervisor
        self.credentials = credentials

    @property
    def processes(self) -> dict[str, ProcessInfo]:
        """The servers and programs, by their names."""
        return {
            child.start.name: ProcessInfo(child.start.name, child.pid, child.start.address, child.history.restarts)
            for child in self._supervisor.children
        }

    async def join(self) -> None:
        """Wait until every program is done: it has ended with exit code 0. Without programs that is never."""
        programs = [child for child in self._supervisor.children if not child.start.is_server]
        for child in programs:
            await child.ended.wait()
        if not programs:
            await anyio.sleep_forever()


class _Child:
    """A process that is started again and again, and what is known of it."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.history = History(0.0)
        self.pid: int | None = None
        self.ready = anyio.Event()  # a server has said so
        self.ended = anyio.Event()  # it will not be started again
        self.last_line = ""


class _Supervisor:
    def __init__(self, starts: Sequence[Start], cluster: str, shown: Sequence[str]) -> None:
        self.children = [_Child(start) for start in starts]
        self.error: BaseException | None = None
        self.scope = anyio.CancelScope()
        self._cluster = cluster
        self._output = Output(shown)
        self._keeper = _Keeper()
        self._background = Background(self._failed)
        self._stopping = anyio.Event()
        self._started: list[_Child] = []

    async def start(self) -> None:
        """Start the servers, wait until they are ready, and start the programs."""
        group = await self._background.start()
        group.start_soon(self._output.run)
        await self._keeper.start()
        servers = [child for child in self.children if child.start.is_server]
        self._start(group, servers)
        for child in servers:
            await child.ready.wait()
        self._start(group, [child for child in self.children if not child.start.is_server])

    def _start(self, group: TaskGroup, children: Sequence[_Child]) -> None:
        for child in children:
            self._started.append(child)
            group.start_soon(self._supervise, child)

    async def stop(self) -> None:
        """End all that runs: programs first, so that they can still leave their sessions."""
        self._stopping.set()
        for is_server, steps in ENDING.items():
            children = [child for child in self._started if child.start.is_server is is_server]
            for number, grace_s in steps:
                for child in children:
                    _signal_group(child.pid, number)
                with anyio.move_on_after(grace_s):
                    for child in children:
                        await child.ended.wait()
                    break
        self._output.close()
        with anyio.move_on_after(DRAIN_S):
            await self._output.shown.wait()
        await self._background.stop()
        self._output.abort()
        await self._keeper.close()

    async def _supervise(self, child: _Child) -> None:
        while not self._stopping.is_set():
            child.history = History(now(), child.history.restarts, child.history.quick)
            try:
                code = await self._run_once(child)
            except OSError as error:
                self._give_up(child, f"cannot be started: {child.start.command[0]!r}: {error.strerror}", None)
                break
            await self._say(child, f"ended {describe_exit(code)}")
            if self._stopping.is_set():
                break
            decision = after_exit(child.history, code, now(), is_server=child.start.is_server)
            if isinstance(decision, GiveUp):
                self._give_up(child, decision.reason, code)
            if not isinstance(decision, Restart):
                break
            child.history = decision.history
            with anyio.move_on_after(decision.history.started - now()):
                await self._stopping.wait()
        child.ended.set()

    async def _run_once(self, child: _Child) -> int:
        """Run a process to its end, and return its exit code.

        Raises:
            OSError: It cannot be started.
        """
        start = child.start
        process = await anyio.open_process(
            start.command,
            stdin=subprocess.PIPE if start.is_server else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **start.environment},
            start_new_session=True,
        )
        child.pid = process.pid
        await self._keeper.tell(process.pid)
        await self._say(child, f"started as process {process.pid}")
        async with anyio.create_task_group() as readers:
            assert process.stdout is not None
            readers.start_soon(self._read, child, process.stdout)
            await _give(process, self._cluster)
            code = await process.wait()
            _signal_group(child.pid, signal.SIGKILL)  # what it has started and left behind
            readers.cancel_scope.deadline = anyio.current_time() + DRAIN_S
        child.pid = None
        await self._keeper.tell(-process.pid)
        await process.aclose()
        return code

    async def _read(self, child: _Child, stdout: ByteReceiveStream) -> None:
        lines = Lines()
        with suppress(anyio.EndOfStream):
            while True:
                await self._show(child, lines.feed(await stdout.receive()))
        await self._show(child, lines.end())

    async def _show(self, child: _Child, lines: Sequence[str]) -> None:
        if any(line.startswith(READY) for line in lines):
            child.ready.set()
        child.last_line = next((line for line in reversed(lines) if line.strip()), child.last_line)
        await self._output.show(child.start.name, lines)

    async def _say(self, child: _Child, text: str) -> None:
        await self._output.show(child.start.name, [text])

    def _give_up(self, child: _Child, reason: str, code: int | None) -> None:
        said = f"; its last line was: {child.last_line}" if child.last_line else ""
        self._failed(ProcessFailed(f"{child.start.name}: {reason}{said}", name=child.start.name, code=code))

    def _failed(self, error: BaseException) -> None:
        self.error = self.error or error
        self.scope.cancel()


class _Keeper:
    """The process that ends all others if this one is killed."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._lock = anyio.Lock()

    async def start(self) -> None:
        with anyio.CancelScope(shield=True):
            self._process = await anyio.open_process(
                [sys.executable, "-I", "-S", KEEPER],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=None,
                start_new_session=True,
            )

    async def tell(self, group: int) -> None:
        """Tell it that there is a process group; or, by the negative number, that it has ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            async with self._lock:
                await self._process.stdin.send(f"{group}\n".encode())
        except GONE:
            logger.warning("the process was ended that would end the others if this one were killed")

    async def close(self) -> None:
        """Let it end what it was told of, which is nothing, and go."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(*GONE):
                await self._process.stdin.aclose()
            with anyio.move_on_after(KEEPER_S):
                await self._process.wait()
            await self._process.aclose()


async def _give(process: Process, text: str) -> None:
    """Write the standard input of a server; one that has ended before it has read it says why by itself."""
    if process.stdin is not None:
        with suppress(*GONE):
            await process.stdin.send(text.encode())
            await process.stdin.aclose()


def _signal_group(pid: int | None, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if pid is not None:
            os.killpg(pid, number)
