"""ClusterSpec: the addresses of the tasks of each job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioflow.errors import PlacementError
from aioflow.names import normalise_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ClusterSpec"]


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
            self._jobs: dict[str, dict[int, str]] = jobs._jobs
            return
        self._jobs = {job: _addresses(job, tasks) for job, tasks in dict(jobs).items()}
        if not any(self._jobs.values()):
            raise PlacementError("a cluster needs at least one task, such as {'local': ['ipc:///tmp/flow.sock']}")

    @property
    def jobs(self) -> list[str]:
        """The names of the jobs."""
        return list(self._jobs)

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
    if isinstance(tasks, (list, tuple)):
        tasks = dict(enumerate(tasks))
    if not isinstance(tasks, dict) or not all(type(index) is int and index >= 0 for index in tasks):
        raise PlacementError(f"job {job!r} must be a list of addresses or a dict of index to address, got {tasks!r}")
    return {index: normalise_address(str(address)) for index, address in tasks.items()}
