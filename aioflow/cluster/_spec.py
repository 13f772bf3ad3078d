"""ClusterSpec: the addresses of the tasks of each job; and where a task stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioflow.cluster._toml import read_tables
from aioflow.errors import ConnectFailed, PlacementError
from aioflow.names import check_job_name, normalise_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ClusterSpec", "TaskInfo"]


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """Where a server stands in its cluster.

    Attributes:
        epoch: Different after each start.
        job: Its job.
        task: Its index there.
        tasks: The job, index and address of each task of its cluster.
    """

    epoch: str
    job: str
    task: int
    tasks: tuple[tuple[str, int, str], ...]


class ClusterSpec:
    """Jobs, their tasks, and the address of each task (as TensorFlow 1.x's, with addresses of any scheme).

    It is false where it has no tasks. It equals another one with the same tasks, and a dict of job to a dict of index
    to address; not a dict of lists.

    Args:
        jobs: For each job a list of addresses, or a dict of task index to address, which may leave some out; or another
            ClusterSpec. A bare `host:port` means `tcp://host:port`.

    Raises:
        PlacementError: It is neither form; the message says where, what was expected and what came.
        ConnectFailed: An address is none.
    """

    def __init__(self, jobs: ClusterSpec | Mapping[str, Sequence[str] | Mapping[int, str]]) -> None:
        if isinstance(jobs, ClusterSpec):
            self._jobs: dict[str, dict[int, str]] = {job: dict(tasks) for job, tasks in jobs._jobs.items()}  # noqa: SLF001
            return
        if not isinstance(jobs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise PlacementError(f"a cluster is a dict of job to addresses, or a ClusterSpec; got {jobs!r}")
        self._jobs = {job: _addresses(job, tasks) for job, tasks in jobs.items()}

    @classmethod
    def from_toml(cls, path: str | Path) -> ClusterSpec:
        """Read a cluster from the table `[jobs]` of a file `cluster.toml`.

        Raises:
            PlacementError: The file cannot be read, is no TOML, has no such table, or the table is no cluster; the
                message begins with the path.
            ConnectFailed: An address is none.
        """
        return parse_jobs(read_tables(path)["jobs"], str(path))

    @property
    def jobs(self) -> list[str]:
        """The names of the jobs, in the order in which they were given."""
        return list(self._jobs)

    def tasks(self) -> list[tuple[str, int, str]]:
        """Return the job, index and address of each task."""
        return [(job, index, address) for job, tasks in self._jobs.items() for index, address in tasks.items()]

    def as_dict(self) -> dict[str, list[str] | dict[int, str]]:
        """Return for each job its addresses: a list where no index is left out, else (or without tasks) a dict."""
        return {job: self._as_given(tasks) for job, tasks in self._jobs.items()}

    def num_tasks(self, job_name: str | None = None) -> int:
        """Return the number of tasks of a job; of all jobs where None.

        Raises:
            PlacementError: There is no such job.
        """
        return sum(map(len, self._jobs.values())) if job_name is None else len(self._tasks(job_name))

    def task_indices(self, job_name: str) -> list[int]:
        """Return the indices of the tasks of a job, in order.

        Raises:
            PlacementError: There is no such job.
        """
        return sorted(self._tasks(job_name))

    def job_tasks(self, job_name: str) -> list[str | None]:
        """Return the addresses of a job by their index, with None for those that were left out.

        Raises:
            PlacementError: There is no such job.
        """
        tasks = self._tasks(job_name)
        return [tasks.get(index) for index in range(max(tasks, default=-1) + 1)]

    def task_address(self, job_name: str, task_index: int) -> str:
        """Return the address of a task.

        Raises:
            PlacementError: There is no such job or task; the message lists those that are there.
        """
        address = self._jobs.get(job_name, {}).get(task_index)
        if address is None:
            known = [f"/job:{job}/task:{task}" for job, tasks in self._jobs.items() for task in tasks]
            raise PlacementError(
                f"the cluster has no /job:{job_name}/task:{task_index}; it has {', '.join(known) or 'no tasks'}"
            )
        return address

    def __bool__(self) -> bool:
        """Whether there is a task."""
        return any(self._jobs.values())

    def __eq__(self, other: object) -> bool:
        """Whether the tasks and their addresses are the same."""
        if isinstance(other, Mapping) and all(isinstance(tasks, Mapping) for tasks in other.values()):
            try:
                other = ClusterSpec(other)
            except (PlacementError, ConnectFailed):
                return False
        return self._jobs == other._jobs if isinstance(other, ClusterSpec) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it equals dicts, which have none

    def __repr__(self) -> str:
        """Print what makes an equal one, its jobs sorted."""
        return f"ClusterSpec({dict(sorted(self.as_dict().items()))!r})"

    def _tasks(self, job: str) -> dict[int, str]:
        if job not in self._jobs:
            raise PlacementError(f"the cluster has no job {job!r}; it has {', '.join(self._jobs) or 'none'}")
        return self._jobs[job]

    @staticmethod
    def _as_given(tasks: dict[int, str]) -> list[str] | dict[int, str]:
        is_dense = bool(tasks) and max(tasks) + 1 == len(tasks)
        return [tasks[index] for index in sorted(tasks)] if is_dense else dict(tasks)


def parse_jobs(jobs: Mapping[str, Any], where: str) -> ClusterSpec:
    """Return the cluster that a table `[jobs]` in a file describes.

    Raises:
        PlacementError: It is none.
        ConnectFailed: An address is none.
    """
    try:
        return ClusterSpec(jobs)
    except (PlacementError, ConnectFailed) as error:
        raise type(error)(f"{where}: table [jobs]: {error}") from error


def _addresses(job: str, tasks: Any) -> dict[int, str]:
    check_job_name(job)
    addresses: dict[int, str] = {}
    if isinstance(tasks, (Mapping, list, tuple)):
        listed = tasks.items() if isinstance(tasks, Mapping) else enumerate(tasks)
        addresses = {_index(job, index): normalise_address(str(address)) for index, address in listed}
    if not isinstance(tasks, (Mapping, list, tuple)) or len(addresses) < len(tasks):
        raise PlacementError(f"job {job!r} must be a list of addresses or a dict of index to address, got {tasks!r}")
    return addresses


def _index(job: str, index: Any) -> int:
    """Return a task index; a file of settings has it as a string."""
    if type(index) is int and index >= 0:
        return index
    if isinstance(index, str) and index.isascii() and index.isdecimal():
        return int(index)
    raise PlacementError(f"job {job!r} has a task index {index!r}; expected an integer of at least 0")
