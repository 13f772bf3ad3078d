"""ClusterSpec: the addresses of the tasks of each job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aioflow.cluster import ClusterSpec, Server
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


def test_views() -> None:
    """As TensorFlow's class: a list where no index is left out, else a dict; None in the gaps of `job_tasks`."""
    spec = ClusterSpec({"worker": {3: "c:1", 1: "d:1"}, "ps": {1: "b:1", 0: "a:1"}, "none": []})
    assert spec.as_dict() == {"worker": {3: "tcp://c:1", 1: "tcp://d:1"}, "ps": ["tcp://a:1", "tcp://b:1"], "none": {}}
    assert ClusterSpec(spec.as_dict()) == spec
    assert [spec.task_indices(job) for job in spec.jobs] == [[1, 3], [0, 1], []]
    assert spec.job_tasks("worker") == [None, "tcp://d:1", None, "tcp://c:1"]
    assert spec.job_tasks("none") == []
    assert [spec.num_tasks(job) for job in spec.jobs] == [2, 2, 0]
    assert repr(spec).startswith("ClusterSpec({'none': {}, 'ps': ['tcp://a:1', 'tcp://b:1'], 'worker': ")


def test_equality_and_truth() -> None:
    """As TensorFlow's: equal to a dict of dicts, not to one of lists; false where there are no tasks."""
    spec = ClusterSpec({"a": ["h:1"]})
    assert spec == ClusterSpec({"a": {0: "tcp://h:1"}})
    assert spec == {"a": {0: "h:1"}}
    assert spec != {"a": ["h:1"]}
    assert spec != spec.as_dict()
    assert spec != ClusterSpec({"a": ["h:2"]})
    assert spec != {"a": {0: "no address"}}
    assert spec != 5
    assert spec
    assert not ClusterSpec({})
    assert not ClusterSpec({"a": []})
    with pytest.raises(TypeError, match="unhashable"):
        hash(spec)


def test_a_job_that_is_not_there() -> None:
    """The message lists those that are."""
    spec = ClusterSpec({"ps": ["a:1"], "worker": ["b:1"]})
    for view in (spec.task_indices, spec.job_tasks, spec.num_tasks):
        with pytest.raises(PlacementError, match="no job 'chief'; it has ps, worker"):
            view("chief")
    with pytest.raises(PlacementError, match="no /job:ps/task:0; it has no tasks"):
        ClusterSpec({}).task_address("ps", 0)


def test_a_server_of_no_cluster() -> None:
    """A server needs a task."""
    with pytest.raises(PlacementError, match=r"the cluster has the jobs \[\]"):
        Server({})


def test_from_toml(tmp_path: Path) -> None:
    """`[jobs]` is read; what other tables say is others' business."""
    path = tmp_path / "cluster.toml"
    path.write_text('[jobs]\nps = ["127.0.0.1:2221"]\n[jobs.worker]\n3 = "ipc:///w"\n[config]\nconnect_s = 5\n')
    assert ClusterSpec.from_toml(path) == {"ps": {0: "127.0.0.1:2221"}, "worker": {3: "ipc:///w"}}
    assert ClusterSpec.from_toml(str(path)) == ClusterSpec.from_toml(path)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[jobs]\nps = [\n", PlacementError, "no TOML: "),
        ("[jobs]\nps = 'a:1'", PlacementError, r"table \[jobs\]: job 'ps' must be a list of addresses"),
        ("[jobs]\nps = ['a']", ConnectFailed, r"table \[jobs\]: 'a' is no address"),
        ("[job]\nps = ['a:1']", PlacementError, r"has 'job'; expected no more than the tables \[jobs\], \[config\]"),
        ("[config]", PlacementError, r"has no table \[jobs\]"),
        ("jobs = 5", PlacementError, r"jobs must be a table, as in \[jobs\], got 5"),
    ],
)
def test_files_that_hold_no_cluster(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    """The message names the file, the table, what was expected and what came."""
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(error, match=f"^{path}: {message}"):
        ClusterSpec.from_toml(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The message names it."""
    with pytest.raises(PlacementError, match=f"^{tmp_path}/none: the cluster cannot be read: .*No such file"):
        ClusterSpec.from_toml(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(PlacementError, match=f"^{tmp_path}/latin: the cluster cannot be read: "):
        ClusterSpec.from_toml(tmp_path / "latin")
