"""`replica_device_setter`: a device function that deals variables over the tasks of a job."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING

from aioflow.cluster._spec import ClusterSpec
from aioflow.errors import PlacementError
from aioflow.names import DeviceName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aioflow.graph import Placeable

__all__ = ["replica_device_setter"]

PS_OPS = ("Variable",)


def replica_device_setter(
    ps_tasks: int = 0,
    ps_device: str = "/job:ps",
    worker_device: str = "/job:worker",
    merge_devices: bool = True,  # noqa: FBT001, FBT002 - TensorFlow's argument
    cluster: ClusterSpec | Mapping[str, Sequence[str] | Mapping[int, str]] | None = None,
    ps_ops: Iterable[str] | None = None,
    ps_strategy: Callable[[Placeable], int] | None = None,
) -> Callable[[Placeable], str] | None:
    """Return a function for `flow.device` that deals variables over the ps tasks, in turn; the rest is the worker's.

    What scopes inside of it name wins, field by field. A turn is taken by each variable whose job is the ps job, also
    by one whose task is then fixed inside; not by one that names another job. Queues are no variables: they are the
    worker's. Assignments and reads of a variable are where it is. (As in TensorFlow 1.x; but in a cluster whose ps job
    leaves indices out, those that exist are dealt.)

    Args:
        ps_tasks: How many tasks the ps job has; they are 0 to n - 1.
        ps_device: Where variables go; without a job it gets no task.
        worker_device: Where everything else goes; empty leaves it to the scopes around.
        merge_devices: Whether the fields are merged; else what has any device already keeps it as it is.
        cluster: Has the ps job, in the place of `ps_tasks`.
        ps_ops: The types of node, besides which nothing goes to the ps tasks; `["Variable"]` where None.
        ps_strategy: Returns the task of each; in turn where None.

    Returns:
        The function; or None where there are no ps tasks, which as an argument of `flow.device` clears the scopes
        around.

    Raises:
        PlacementError: A device is none, `ps_tasks` is negative, or `cluster` is no cluster.
        TypeError: `ps_strategy` cannot be called.
    """
    ps, worker = DeviceName.parse(ps_device), DeviceName.parse(worker_device or "")
    if ps_tasks < 0:
        raise PlacementError(f"ps_tasks is {ps_tasks}; expected the number of tasks of the ps job, at least 0")
    indices: Sequence[int] = range(ps_tasks)
    if cluster is not None:
        spec = ClusterSpec(cluster)
        indices = spec.task_indices(ps.job) if ps.job in spec.jobs else ()
    if not indices:
        return None
    if ps_strategy is not None and not callable(ps_strategy):
        raise TypeError(f"ps_strategy must be a function of a node that returns a task index, got {ps_strategy!r}")
    turns = cycle(indices)
    ops = frozenset(PS_OPS if ps_ops is None else ps_ops)

    def choose(thing: Placeable) -> str:
        inner = DeviceName.parse(thing.device)
        if not merge_devices and thing.device:
            return thing.device
        if thing.type not in ops:
            return str(worker.merge(inner))
        outer = ps
        if ps.job and inner.job in {None, ps.job}:
            outer = replace(ps, task=next(turns) if ps_strategy is None else ps_strategy(thing))
        return str(outer.merge(inner))

    return choose
