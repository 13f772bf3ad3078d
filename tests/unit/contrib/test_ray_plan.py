"""What a cluster needs of Ray, and what is said where it is not installed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from aioflow.cluster import ClusterSpec
from aioflow.contrib._ray_plan import CPU_SHARE, check_nodes, make_plan
from aioflow.errors import PlacementError
from aioflow.runtime import SessionConfig

CLUSTER = ClusterSpec({"ps": ["ipc:///tmp/ps"], "worker": {1: "tcp://10.0.0.7:2222", 4: "tcp://host:2222"}})
PROGRAMS = {
    "loader": ["python", "load.py"],
    "trainer": {"command": ["train"], "count": 2, "target": "/job:worker/task:4"},
}


def _plan(gpus: dict[str, Any] | None = None, programs: dict[str, Any] = PROGRAMS) -> Any:
    return make_plan(CLUSTER, programs, SessionConfig(), ["pipeline"], gpus or {})


def test_a_bundle_for_each_task_with_its_programs() -> None:
    """A program runs where its target is, and a task where its address is."""
    plan = _plan({"/job:worker/task:4": 2, "trainer": 0.5})
    assert [(part.start.name, part.bundle, part.gpus) for part in plan.parts] == [
        ("/job:ps/task:0", 0, 0),
        ("/job:worker/task:1", 1, 0),
        ("/job:worker/task:4", 2, 2),
        ("loader", 0, 0),
        ("trainer:0", 2, 0.5),
        ("trainer:1", 2, 0.5),
    ]
    assert plan.bundles == [
        {"CPU": 2 * CPU_SHARE},
        {"CPU": CPU_SHARE, "node:10.0.0.7": CPU_SHARE},
        {"CPU": 3 * CPU_SHARE, "GPU": 3},
    ]
    assert [(part.job, part.task) for part in plan.parts[2:4]] == [("worker", 4), ("ps", 0)]


def test_what_must_be_the_same_to_be_taken_over() -> None:
    """Programs may be others, as far as they need the same GPUs."""
    assert _plan().launched == _plan().launched
    assert _plan().launched != _plan({"loader": 1}).launched


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ({"reader": 1}, "gpus of 'reader', which is no program: "),
        ({"/job:ps/task:3": 1}, "the cluster has no /job:ps/task:3"),
        ({"loader": "1"}, "gpus of 'loader': expected a whole number, or a share below 1, got '1'"),
        ({"loader": 1.5}, "got 1.5"),
        ({"loader": -1}, "got -1"),
    ],
)
def test_gpus_that_are_none(gpus: dict[str, Any], message: str) -> None:
    """Refused before anything is asked of Ray."""
    with pytest.raises(PlacementError, match=message):
        _plan(gpus)


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "[::]"])
def test_an_address_that_names_no_machine(host: str) -> None:
    """The others could not reach it."""
    with pytest.raises(PlacementError, match="names no machine"):
        make_plan(ClusterSpec({"ps": [f"tcp://{host}:2222"]}), {}, SessionConfig(), [], {})


@pytest.mark.parametrize("address", ["ipc:///tmp/ps", "localhost:2222", "127.0.0.1:2222", "[::1]:2222"])
def test_tasks_on_more_machines_than_their_addresses_reach(address: str) -> None:
    """Ray may have put them there."""
    check_nodes(ClusterSpec({"ps": [address, address + "1"]}), ["a", "a"])
    check_nodes(ClusterSpec({"ps": ["10.0.0.1:2222", "host:2222"]}), ["a", "b"])
    with pytest.raises(PlacementError, match=r"placed the tasks on 2 machines.*strategy='STRICT_PACK'"):
        check_nodes(ClusterSpec({"ps": [address, "host:2222"]}), ["a", "b"])


def test_without_ray_the_extra_is_named() -> None:
    """Importing it is what fails."""
    program = "import sys; sys.modules['ray'] = None; import aioflow.contrib.ray"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == (
        "ImportError: aioflow.contrib.ray needs Ray: pip install 'aioflow-mq[ray]'"
    )
