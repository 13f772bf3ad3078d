"""What a supervisor does, in plain code: what to start, whether and when to start it again, and how to end it.

The shell around it is `_supervisor`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioflow.errors import ConnectFailed, PlacementError
from aioflow.names import address_scheme

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioflow.cluster._programs import Program
    from aioflow.cluster._spec import ClusterSpec

__all__ = [
    "ENDING",
    "Done",
    "GiveUp",
    "History",
    "Restart",
    "Start",
    "after_exit",
    "describe_exit",
    "program_starts",
    "server_starts",
]

# An end so soon after the start is no accident but a mistake that will come again, and this often in a row is enough.
QUICK_S = 5.0
QUICK_MAX = 5

# Before the first start after an accident, and twice as long after each quick end in a row.
DELAY_S = 0.1

# How processes are ended: which signal, and how long each is waited for. Programs go first, so that they can still
# leave their sessions; Python's raise KeyboardInterrupt, and clean up. All of it is over within 5 s.
ENDING: Mapping[bool, Sequence[tuple[signal.Signals, float]]] = {
    False: ((signal.SIGINT, 1.5), (signal.SIGTERM, 0.4), (signal.SIGKILL, 0.4)),
    True: ((signal.SIGTERM, 1.4), (signal.SIGKILL, 0.4)),
}


@dataclass(frozen=True, slots=True)
class Start:
    """A process that is to run.

    Attributes:
        name: What it is called: `/job:ps/task:0`, `loader`, `loader:1`.
        command: The command and its arguments.
        environment: What it gets besides the supervisor's own environment.
        address: A server's own, a program's target.
        is_server: Whether it is a task of the cluster; else it is a program.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    address: str = ""
    is_server: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """How it went with a process so far.

    Attributes:
        started: When it was started last, in seconds.
        restarts: How often it was started again.
        quick: How often in a row it has ended soon after its start.
    """

    started: float
    restarts: int = 0
    quick: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """A program has done its work."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again, then."""

    history: History


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It makes no sense to start it again."""

    reason: str


def server_starts(
    cluster: ClusterSpec, devices: Mapping[tuple[str, int], str], ops: Iterable[str], python: str
) -> list[Start]:
    """Return the servers of a cluster, one for each task; each reads the cluster from its standard input.

    Args:
        cluster: All of its tasks are to run on this machine.
        devices: Which devices those tasks see of which this is said.
        ops: Modules whose ops they may run.
        python: The interpreter.

    Raises:
        PlacementError: There is no task, or one has a port that is yet to be chosen.
        ConnectFailed: An address reaches no other process.
    """
    if not cluster:
        raise PlacementError("the cluster has no tasks; expected one at least, as in {'ps': ['ipc:///tmp/flow.sock']}")
    starts: list[Start] = []
    for job in cluster.jobs:
        for task in cluster.task_indices(job):
            address = cluster.task_address(job, task)
            name = f"/job:{job}/task:{task}"
            if address_scheme(address) == "inproc":
                raise ConnectFailed(f"{name}: {address} reaches no other process; expected ipc:///path or host:port")
            if address_scheme(address) == "tcp" and address.endswith((":0", ":*")):
                raise PlacementError(f"{name}: {address} leaves the port open; the others must know it: choose one")
            command = [python, "-m", "aioflow", "serve", "--cluster", "-", "--job", job, "--task", str(task)]
            for module in ops:
                command += ["--ops", module]
            visible = devices.get((job, task))
            # By PCI bus, so that a number means the card that `nvidia-smi` and `aioflow devices` show under it.
            cards = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
            starts.append(Start(name, tuple(command), cards, address, is_server=True))
    return starts


def program_starts(programs: Iterable[Program], cluster: ClusterSpec, python: str) -> list[Start]:
    """Return the copies of all programs; the command `python` is the interpreter that is given."""
    starts: list[Start] = []
    for program in programs:
        address = cluster.task_address(*program.target)
        command, *arguments = program.command
        words = (python if command == "python" else command, *arguments)
        starts += [Start(name, words, program.environment(index, address), address) for index, name in program.copies()]
    return starts


def after_exit(history: History, code: int, now: float, *, is_server: bool) -> Done | Restart | GiveUp:
    """Decide what is to be done after a process has ended.

    A program that returned 0 is done; everything else is started again, later after each quick end in a row, and never
    again after `QUICK_MAX` of them.
    """
    if code == 0 and not is_server:
        return Done()
    quick = history.quick + 1 if now - history.started < QUICK_S else 0
    if quick >= QUICK_MAX:
        return GiveUp(f"ended {quick} times in a row within {QUICK_S:g} s of its start, at last {describe_exit(code)}")
    delay = DELAY_S * 2 ** max(quick - 1, 0)
    return Restart(History(now + delay, history.restarts + 1, quick))


def describe_exit(code: int) -> str:
    """Say how a process has ended."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"by signal {-code}"
