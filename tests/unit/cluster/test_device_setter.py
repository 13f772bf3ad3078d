"""`replica_device_setter`, rule by rule (semantics of TensorFlow 1.x, and where we differ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import aioflow as flow


@dataclass(frozen=True)
class Thing:
    """What a device function is asked about."""

    type: str = "Variable"
    device: str = ""
    name: str = "thing"


def _deal(setter: Any, *things: Thing) -> list[str]:
    return [setter(thing) for thing in things]


def test_variables_in_turn_and_the_rest_on_the_worker() -> None:
    """Queues are no variables."""
    setter = flow.replica_device_setter(2)
    things = [Thing(), Thing("FIFOQueue"), Thing(), Thing("Assign"), Thing()]
    assert _deal(setter, *things) == [
        "/job:ps/task:0",
        "/job:worker",
        "/job:ps/task:1",
        "/job:worker",
        "/job:ps/task:0",
    ]


def test_each_setter_begins_at_the_first_task() -> None:
    """The turn belongs to the function."""
    first, second = flow.replica_device_setter(3), flow.replica_device_setter(3)
    assert _deal(first, Thing(), Thing()) == ["/job:ps/task:0", "/job:ps/task:1"]
    assert _deal(second, Thing()) == ["/job:ps/task:0"]


@pytest.mark.parametrize("arguments", [{}, {"ps_tasks": 0}, {"cluster": {"worker": ["a:1"]}}, {"cluster": {"ps": []}}])
def test_without_ps_tasks_it_is_none(arguments: dict[str, Any]) -> None:
    """And as an argument of `device` that clears the scopes around."""
    setter = flow.replica_device_setter(**arguments)
    assert setter is None
    with flow.device("/job:outer"), flow.device(setter):
        assert flow.Variable(0.0).device == ""


def test_a_cluster_says_how_many() -> None:
    """In the place of `ps_tasks`; any form of a cluster; the job is that of `ps_device`."""
    setter = flow.replica_device_setter(7, ps_device="/job:shards", cluster={"shards": ["a:1", "b:1"]})
    assert _deal(setter, *[Thing()] * 3) == ["/job:shards/task:0", "/job:shards/task:1", "/job:shards/task:0"]
    setter = flow.replica_device_setter(cluster=flow.ClusterSpec({"ps": ["a:1"]}))
    assert _deal(setter, *[Thing()] * 2) == ["/job:ps/task:0"] * 2


def test_a_sparse_job_deals_the_tasks_that_exist() -> None:
    """TensorFlow deals 0 and 1, which may not be there."""
    setter = flow.replica_device_setter(cluster={"ps": {5: "b:1", 1: "a:1"}})
    assert _deal(setter, *[Thing()] * 3) == ["/job:ps/task:1", "/job:ps/task:5", "/job:ps/task:1"]


def test_what_an_inner_scope_names_wins() -> None:
    """Field by field; a task that is fixed inside takes a turn all the same, another job does not."""
    setter = flow.replica_device_setter(4)
    things = [
        Thing(),
        Thing(device="/device:GPU:0"),
        Thing(device="/job:ps/task:3"),
        Thing(device="/task:1"),
        Thing(device="/job:other"),
        Thing(),
        Thing("Scale", "/job:other/task:2"),
        Thing("Scale", "/device:CPU:0"),
    ]
    assert _deal(setter, *things) == [
        "/job:ps/task:0",
        "/job:ps/task:1/device:GPU:0",
        "/job:ps/task:3",
        "/job:ps/task:1",
        "/job:other",
        "/job:ps/task:0",
        "/job:other/task:2",
        "/job:worker/device:CPU:0",
    ]


def test_devices_without_a_job() -> None:
    """A ps device without a job gets no task; an empty worker device leaves it to the scopes around."""
    setter = flow.replica_device_setter(2, ps_device="/device:CPU:0", worker_device="")
    assert _deal(setter, Thing(), Thing(), Thing("Scale")) == ["/device:CPU:0", "/device:CPU:0", ""]


def test_without_merging_what_has_a_device_keeps_it() -> None:
    """And takes no turn."""
    setter = flow.replica_device_setter(2, merge_devices=False)
    things = [Thing(device="/device:CPU:0"), Thing(), Thing("Scale", "/device:GPU:1"), Thing("Scale")]
    assert _deal(setter, *things) == ["/device:CPU:0", "/job:ps/task:0", "/device:GPU:1", "/job:worker"]


def test_other_ops_and_another_strategy() -> None:
    """Which types go to the ps tasks, and to which of them, can be said."""
    setter = flow.replica_device_setter(2, ps_ops=["Table"], ps_strategy=lambda thing: len(thing.name))
    assert _deal(setter, Thing("Table", name="abc"), Thing()) == ["/job:ps/task:3", "/job:worker"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"ps_tasks": -1}, flow.PlacementError, "ps_tasks is -1"),
        ({"cluster": 5}, flow.PlacementError, "a cluster is a dict"),
        ({"ps_tasks": 1, "ps_device": "ps"}, flow.PlacementError, "no device name"),
        ({"ps_tasks": 1, "worker_device": "/nope"}, flow.PlacementError, "no device name"),
        ({"ps_tasks": 1, "ps_strategy": 5}, TypeError, "ps_strategy must be a function"),
    ],
)
def test_what_is_wrong_is_said(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    """When the setter is made, not when it is asked."""
    with pytest.raises(error, match=text):
        flow.replica_device_setter(**arguments)


def test_in_a_device_scope() -> None:
    """Variables, queues and nodes ask it; scopes inside of it win; an assignment follows its variable."""
    with flow.Graph(), flow.device(flow.replica_device_setter(2)):
        first = flow.Variable(0.0, name="first")
        with flow.device("/gpu:0"):
            second = flow.Variable(0.0, name="second")
        queue = flow.FIFOQueue(5, "int32", device="/job:ps/task:0")
        node = flow.identity(flow.constant(1))
        assign = first.nodes.assign(1.0)
    assert [first.device, second.device] == ["/job:ps/task:0", "/job:ps/task:1/device:GPU:0"]
    assert node.device == "/job:worker"
    assert queue.device == "/job:ps/task:0"
    colocation = assign.node.colocation
    assert colocation is not None
    assert str(colocation.device) == "/job:ps/task:0"
