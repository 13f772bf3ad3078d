"""Programs: what a user runs beside the servers of a cluster, as a launcher is told of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioflow.errors import PlacementError
from aioflow.names import DeviceName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioflow.cluster._spec import ClusterSpec

__all__ = ["Program", "parse_programs", "parse_task"]

KEYS = ("command", "count", "target", "env")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is run `count` times beside the servers.

    Attributes:
        name: What it is called.
        command: The command and its arguments.
        target: The task that it gets the address of, as job and index.
        count: How many of it run.
        env: Environment variables of its own.
    """

    name: str
    command: tuple[str, ...]
    target: tuple[str, int]
    count: int = 1
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    def copies(self) -> Iterator[tuple[int, str]]:
        """Give the index of each copy, and its name: that of the program, with the index where there are several."""
        for index in range(self.count):
            yield index, self.name if self.count == 1 else f"{self.name}:{index}"

    def environment(self, index: int, address: str) -> dict[str, str]:
        """Return what a copy gets besides the launcher's own environment.

        Args:
            index: Which copy.
            address: Where its target is.
        """
        return {"AIOFLOW_TARGET": address, "AIOFLOW_INDEX": str(index), **self.env}


def parse_programs(programs: Mapping[str, Any], cluster: ClusterSpec) -> list[Program]:
    """Return the programs that a table describes.

    Args:
        programs: For each name a list of arguments, or a table with `command` and perhaps `count`, `target` and `env`.
        cluster: Has the tasks that they may name; the target by default is the first task of its first job.

    Raises:
        PlacementError: One is described in no such way, or names a task that the cluster does not have.
    """
    if not isinstance(programs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
        raise PlacementError(f"programs are a dict of name to command, got {programs!r}")
    return [_parse(name, given, cluster) for name, given in programs.items()]


def _parse(name: Any, given: Any, cluster: ClusterSpec) -> Program:
    what = f"program {name!r}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PlacementError(f"{what}: expected a name of letters, digits, '_', '.' and '-', with a letter in front")
    table: Mapping[str, Any] = given if isinstance(given, Mapping) else {"command": given}
    for key in table:
        if key not in KEYS:
            raise PlacementError(f"{what} has {key!r}; expected no more than {', '.join(KEYS)}")
    command, count, env = table.get("command"), table.get("count", 1), table.get("env", {})
    if not isinstance(command, (list, tuple)) or not command or not all(isinstance(word, str) for word in command):
        raise PlacementError(
            f"{what}: expected a command as a list of strings, ['python', 'loader.py'], got {command!r}"
        )
    if type(count) is not int or count < 0:
        raise PlacementError(f"{what}: expected a count of at least 0, got {count!r}")
    if not isinstance(env, Mapping) or not all(isinstance(text, str) for pair in env.items() for text in pair):
        raise PlacementError(f"{what}: expected env as a dict of strings, got {env!r}")
    target = table.get("target")
    task = _first_task(cluster) if target is None else parse_task(target, cluster, what)
    return Program(name, tuple(command), task, count, dict(env))


def _first_task(cluster: ClusterSpec) -> tuple[str, int]:
    for job in cluster.jobs:
        for task in cluster.task_indices(job):
            return job, task
    raise PlacementError("the cluster has no tasks; expected one at least, as in {'ps': ['ipc:///tmp/flow.sock']}")


def parse_task(name: Any, cluster: ClusterSpec, what: str) -> tuple[str, int]:
    """Return job and index of a task of a cluster by its name, `/job:ps/task:0`.

    Raises:
        PlacementError: It names no task, or none of the cluster; the message begins with `what`.
    """
    try:
        parsed = DeviceName.parse(name)
        job, task = parsed.job, parsed.task
        if job is not None and task is not None:
            cluster.task_address(job, task)
            return job, task
    except PlacementError as error:
        raise PlacementError(f"{what}: {error}") from error
    raise PlacementError(f"{what}: {name!r} names no task; expected one such as '/job:worker/task:0'")
