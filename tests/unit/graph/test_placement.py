"""Which node runs where: the rules at the top of `_placement.py`."""

from __future__ import annotations

from typing import Any

import pytest

import aioflow as flow
from aioflow.graph import Colocation, current_graph, place
from aioflow.names import DeviceName

NAMES = [
    "/job:localhost/task:0/device:CPU:0",
    "/job:localhost/task:0/device:CPU:1",
    "/job:localhost/task:0/device:GPU:0",
    "/job:localhost/task:0/device:GPU:1",
]
DEVICES = list(map(DeviceName.parse, NAMES))
CPU_0, CPU_1, GPU_0, GPU_1 = range(4)


@flow.op
def on_both(*values: Any) -> Any:
    """Have kernels for both kinds."""
    return values


on_both.kernel("gpu")(on_both.fn)


@flow.op
def on_cpu(*values: Any) -> Any:
    """Have a CPU kernel only."""
    return values


def placed(
    *nodes: flow.Node, devices: list[DeviceName] = DEVICES, soft: bool = False, before: dict[int, int] | None = None
) -> list[int]:
    """Place nodes; return the device numbers."""
    found = place(nodes, devices, soft=soft, placed=before or {})
    assert list(found) == list(dict.fromkeys(found))
    return [found[node] for node in nodes]


def make(op: flow.Op, device: str = "", *, key: str = "", used_on: str = "") -> flow.Node:
    """Make a node in the current graph; with a key it uses something that was defined for a device."""
    with flow.device(device):
        colocation = Colocation(key, DeviceName.parse(used_on)) if key else None
        return current_graph().add(op, (), colocation=colocation)


def test_the_default_is_the_first_gpu_with_a_kernel() -> None:
    """Rule 2: another kind before the CPU, then the lowest index; whatever the order of the devices."""
    with flow.Graph():
        both, cpu = make(on_both), make(on_cpu)
    assert placed(both, cpu) == [GPU_0, CPU_0]
    assert placed(both, cpu, devices=DEVICES[::-1]) == [1, 3]
    assert placed(both, cpu, devices=DEVICES[:2]) == [CPU_0, CPU_0]


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("/cpu:0", CPU_0),
        ("/cpu", CPU_0),
        ("/cpu:1", CPU_1),
        ("/gpu:*", GPU_0),
        ("/gpu:1", GPU_1),
        ("/device:CPU:1", CPU_1),
        ("/job:localhost", GPU_0),
        ("/job:localhost/task:0/cpu:1", CPU_1),
    ],
)
def test_names_may_be_partial(requested: str, expected: int) -> None:
    """What is not named is chosen by the default's rule."""
    with flow.Graph():
        assert placed(make(on_both, requested)) == [expected]


@pytest.mark.parametrize("requested", ["/gpu:7", "/job:ps", "/task:1", "/device:TPU:0", "/job:ps/cpu:0"])
def test_a_device_that_does_not_exist(requested: str) -> None:
    """The error names the node, its line, what it asks for, and what there is."""
    with flow.Graph():
        node = make(on_both, requested)
    with pytest.raises(flow.PlacementError) as caught:
        placed(node)
    text = str(caught.value)
    parts = ["node 'on_both'", node.line, str(node.requested), "no such device", *NAMES]
    is_task = "job" in requested or "task" in requested
    parts.append("never moved to another job or task" if is_task else "allow_soft_placement")
    assert [part for part in parts if part not in text] == []


def test_no_kernel_for_the_device() -> None:
    """The error says which kernels there are."""
    with flow.Graph():
        node = make(on_cpu, "/gpu:0")
    with pytest.raises(flow.PlacementError) as caught:
        placed(node)
    text = str(caught.value)
    parts = ["node 'on_cpu'", node.line, "/device:GPU:0", "op 'on_cpu' has kernels for CPU only", *NAMES, ".kernel"]
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("/gpu:7", GPU_0),
        ("/cpu:7", GPU_0),
        ("/device:FOO:0", GPU_0),
        ("/cpu:1", CPU_1),
        ("/job:localhost/gpu:5", GPU_0),
    ],
)
def test_soft_placement_drops_kind_and_index(requested: str, expected: int) -> None:
    """Rule 4: the best device of the same task; one that exists is kept."""
    with flow.Graph():
        assert placed(make(on_both, requested), soft=True) == [expected]
        assert placed(make(on_cpu, "/gpu:0"), soft=True) == [CPU_0]


@pytest.mark.parametrize("requested", ["/job:ps/gpu:0", "/task:1/cpu:0"])
def test_soft_placement_keeps_job_and_task(requested: str) -> None:
    """Another task holds other things: it is never taken instead."""
    with flow.Graph():
        node = make(on_both, requested)
    with pytest.raises(flow.PlacementError, match="no such device"):
        placed(node, soft=True)


def test_what_uses_one_thing_is_on_one_device() -> None:
    """Rule 1: the device of what is used overrides the node's own, soft placement or not."""
    with flow.Graph():
        nodes = [make(on_both, "/gpu:1", key="q", used_on="/cpu:1"), make(on_both, "/cpu:0", key="q", used_on="/cpu:1")]
        other = make(on_both, "/gpu:1", key="r")
    for soft in (False, True):
        assert placed(*nodes, other, soft=soft) == [CPU_1, CPU_1, GPU_0]


def test_a_group_needs_kernels_of_all() -> None:
    """Rule 2: a kind for which one of the group has no kernel is none for the group."""
    with flow.Graph():
        both, cpu = make(on_both, key="v"), make(on_cpu, key="v")
        pinned = [make(on_both, key="w", used_on="/gpu:0"), make(on_cpu, key="w", used_on="/gpu:0")]
    assert placed(both) == [GPU_0]
    assert placed(both, cpu) == [CPU_0, CPU_0]
    with pytest.raises(flow.PlacementError, match="kernels for CPU only"):
        placed(*pinned)
    assert placed(*pinned, soft=True) == [CPU_0, CPU_0]


def test_a_node_stays_where_it_was() -> None:
    """Rule 3: an earlier step's choice holds while it is allowed."""
    with flow.Graph():
        both, cpu, pinned = make(on_both), make(on_cpu), make(on_both, "/gpu:0")
    before = {both.index: GPU_1, cpu.index: GPU_1, pinned.index: CPU_1}
    assert placed(both, cpu, pinned, before=before) == [GPU_1, CPU_0, GPU_0]


def test_a_group_stays_where_any_of_it_was() -> None:
    """Rule 3 for groups: a step that uses another node of the group finds what is used where it is."""
    with flow.Graph():
        first, second = make(on_both, key="v"), make(on_both, key="v")
    assert placed(first, second, before={second.index: GPU_1}) == [GPU_1, GPU_1]
    assert placed(first, before={second.index: GPU_1}) == [GPU_0]


def test_nodes_of_a_queue_sit_with_it() -> None:
    """The nodes of one queue have one key, and its device; bound to another session it has none of either."""
    q = flow.FIFOQueue(1, "int64", (), device="/cpu:1")
    with flow.Graph(), flow.device("/gpu:0"):
        put, got = q.nodes.enqueue(1), q.nodes.dequeue()
        free = q.on(flow.Session()).nodes.size()
    assert put.colocation == got.colocation
    assert placed(put, got) == [CPU_1, CPU_1]
    assert free.colocation is None
    with pytest.raises(flow.PlacementError, match="'size'"):
        placed(free)


# Clusters

CLUSTER = [
    DeviceName.parse(f"/job:{job}/task:{task}/device:{kind}:0")
    for job, task in [("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)]
    for kind in ("CPU", "GPU")
]
HOME = DeviceName("worker", 1)


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("", "/job:worker/task:1/device:GPU:0"),
        ("/cpu:0", "/job:worker/task:1/device:CPU:0"),
        ("/gpu:*", "/job:worker/task:1/device:GPU:0"),
        ("/job:worker", "/job:worker/task:1/device:GPU:0"),
        ("/job:worker/cpu:0", "/job:worker/task:1/device:CPU:0"),
        ("/job:worker/task:0", "/job:worker/task:0/device:GPU:0"),
        ("/task:1", "/job:worker/task:1/device:GPU:0"),
        ("/task:0", "/job:worker/task:0/device:GPU:0"),
        ("/job:ps", "/job:ps/task:0/device:GPU:0"),
        ("/job:ps/task:1/cpu:0", "/job:ps/task:1/device:CPU:0"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_home_goes_first(requested: str, expected: str, order: int) -> None:
    """Rule 2: of all that fit another kind before the CPU, then the session's own job and task, then by name."""
    devices = CLUSTER[::order]
    with flow.Graph():
        [number] = _place([make(on_both, requested)], devices)
    assert str(devices[number]) == expected


def test_who_names_no_task_stays_at_home() -> None:
    """Also where only another task has a device of a better kind; else there is none."""
    devices = [name for name in CLUSTER if name.kind == "CPU" or name.job == "ps"]
    with flow.Graph():
        node, on_gpu = make(on_both), make(on_both, "/gpu:0")
    assert str(devices[_place([node], devices)[0]]) == "/job:worker/task:1/device:CPU:0"
    with pytest.raises(flow.PlacementError, match="asks for /job:worker/task:1/device:GPU:0: there is no such device"):
        _place([on_gpu], devices)
    assert str(devices[_place([on_gpu], devices, soft=True)[0]]) == "/job:worker/task:1/device:CPU:0"


def test_who_uses_something_goes_where_it_is() -> None:
    """Rule 1, over tasks."""
    with flow.Graph():
        nodes = [make(on_cpu, key="v", used_on="/job:ps/task:1") for _ in range(2)]
        private = make(on_cpu, key="w", used_on="")
    assert [str(CLUSTER[number]) for number in _place([*nodes, private], CLUSTER)] == [
        "/job:ps/task:1/device:CPU:0",
        "/job:ps/task:1/device:CPU:0",
        "/job:worker/task:1/device:CPU:0",
    ]


def _place(nodes: list[flow.Node], devices: list[DeviceName], *, soft: bool = False) -> list[int]:
    found = place(nodes, devices, soft=soft, placed={}, home=HOME)
    return [found[node] for node in nodes]
