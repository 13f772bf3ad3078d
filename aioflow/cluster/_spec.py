"""ClusterSpec: the addresses of the tasks of each job; and where a task stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioflow.errors import PlacementError
from aioflow.names import check_job_name, normalise_address

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """Jobs, their tasks, and the address of each task.

    Args:
        jobs: For each job a list of addresses, or a dict of task index to address; or another ClusterSpec.

    Raises:
        PlacementError: There is no task, or it is neither form.
        ConnectFailed: An address is none.
    """

    def __init__(self, jobs: ClusterSpec | Mapping[str, Sequence[str] | Mapping[int, str]]) -> None:
        if isinstance(jobs, ClusterSpec):
            self._jobs: dict[str, dict[int, str]] = {job: dict(tasks) for job, tasks in jobs._jobs.items()}  # noqa: SLF001
            return
        if not isinstance(jobs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise PlacementError(f"a cluster is a dict of job to addresses, or a ClusterSpec; got {jobs!r}")
        self._jobs = {job: _addresses(job, tasks) for job, tasks in jobs.items()}
        if not any(self._jobs.values()):
            raise PlacementError("a cluster needs at least one task, such as {'local': ['ipc:///tmp/flow.sock']}")

    @property
    def jobs(self) -> list[str]:
        """The names of the jobs."""
        return list(self._jobs)

    def tasks(self) -> list[tuple[str, int, str]]:
        """Return the job, index and address of each task."""
        return [(job, index, address) for job, tasks in self._jobs.items() for index, address in tasks.items()]

    def num_tasks(self) -> int:
        """Return the number of tasks of all jobs."""
        return sum(map(len, self._jobs.values()))

    def task_address(self, job_name: str, task_index: int) -> str:
        """Return the address of a task.

        Raises:
            PlacementError: There is no such job or task; the message lists those that are there.
        """
        address = self._jobs.get(job_name, {}).get(task_index)
        if address is None:
            known = [f"/job:{job}/task:{task}" for job, tasks in self._jobs.items() for task in tasks]
            raise PlacementError(f"the cluster has no /job:{job_name}/task:{task_index}; it has {', '.join(known)}")
        return address


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
