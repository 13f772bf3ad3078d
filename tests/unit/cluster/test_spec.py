"""ClusterSpec: the addresses of the tasks of each job."""

from __future__ import annotations

from typing import Any

import pytest

from aioflow.cluster import ClusterSpec
from aioflow.errors import ConnectFailed, PlacementError


def test_addresses() -> None:
    """A job is a list, or a dict of indices, which may leave some out and come from a file of settings."""
    spec = ClusterSpec({"ps": ["a:1", "ipc:///b"], "worker": {3: "c:1", "5": "d:1"}, "none": ()})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    assert spec.jobs == ["ps", "worker", "none"]
    assert spec.num_tasks() == 4
    assert [spec.task_address("ps", 0), spec.task_address("ps", 1)] == ["tcp://a:1", "ipc:///b"]
    assert [spec.task_address("worker", 3), spec.task_address("worker", 5)] == ["tcp://c:1", "tcp://d:1"]
    assert ClusterSpec(spec).task_address("worker", 5) == "tcp://d:1"


@pytest.mark.parametrize(("job", "task"), [("ps", 1), ("ps", -1), ("worker", 0)])
def test_a_task_that_is_not_there(job: str, task: int) -> None:
    """The message lists the tasks that are."""
    spec = ClusterSpec({"ps": ["a:1"], "chief": {2: "b:1"}})
    with pytest.raises(PlacementError, match=f"no /job:{job}/task:{task}; it has /job:ps/task:0, /job:chief/task:2"):
        spec.task_address(job, task)


@pytest.mark.parametrize(
    ("jobs", "text"),
    [
        ({}, "needs at least one task"),
        ({"ps": []}, "needs at least one task"),
        (5, "is a dict of job to addresses"),
        (None, "is a dict of job to addresses"),
        (["a:1"], "is a dict of job to addresses"),
        ({"ps": "a:1"}, "must be a list of addresses"),
        ({"ps": None}, "must be a list of addresses"),
        ({"ps": {1: "a:1", "1": "b:1"}}, "must be a list of addresses"),
        ({"ps": {-1: "a:1"}}, "task index -1"),
        ({"ps": {True: "a:1"}}, "task index True"),
        ({"ps": {"one": "a:1"}}, "task index 'one'"),
        ({"my job": ["a:1"]}, "is no name of a job"),
        ({5: ["a:1"]}, "5 is no name of a job"),
    ],
)
def test_what_is_no_cluster(jobs: Any, text: str) -> None:
    """Each thing that is wrong is said."""
    with pytest.raises(PlacementError, match=text):
        ClusterSpec(jobs)


@pytest.mark.parametrize("address", ["a", "", None, 5, b"a:1"])
def test_what_is_no_address(address: Any) -> None:
    """An address is checked when the cluster is made, not when it is first used."""
    with pytest.raises(ConnectFailed, match="is no address"):
        ClusterSpec({"ps": [address]})
