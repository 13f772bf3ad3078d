"""Plans: slots and their uses, modes, edges, and the streams of nodes on devices that have them."""

from __future__ import annotations

from typing import Any

import numpy as np

import aioflow as flow
from aioflow.graph import Mode, Node, Output, Plan, make_plan, prune

CPU, GPU, OTHER = 0, 1, 2
KINDS = [("CPU", 0), ("GPU", 3), ("GPU", 3)]


@flow.op
def take(*values: Any) -> Any:
    """Take anything."""
    return values


@flow.op(num_outputs=2)
def split(*values: Any) -> Any:
    """Give two values."""
    return values


@flow.op
async def wait(*values: Any) -> Any:
    """Take anything, as a coroutine."""
    return values


for _op in (take, split):
    _op.kernel("gpu")(_op.fn)


def planned(*fetched: Any, fed: tuple[Any, ...] = (), on: dict[Node, int] | None = None, everywhere: int = CPU) -> Plan:
    """Plan a step in which nodes are on the device that is given for them, else on the one for all."""
    outputs = [_one(given) for given in fetched]
    feeds = [_one(given) for given in fed]
    nodes = prune(outputs, set(feeds))
    return make_plan(nodes, outputs, feeds, {node: (on or {}).get(node, everywhere) for node in nodes}, KINDS)


def _one(given: Any) -> Any:
    return Output(given, 0) if isinstance(given, Node) and given.op.num_outputs else given


def test_modes() -> None:
    """Where a kernel runs follows from the device, and on a CPU from the function."""
    with flow.Graph():
        nodes = [take(), wait(), flow.group(), flow.identity(1)]
        q = flow.FIFOQueue(1, "int64", ())
        nodes += [q.nodes.dequeue()]
    expected = [Mode.THREAD, Mode.COROUTINE, Mode.INLINE, Mode.INLINE, Mode.COROUTINE]
    assert planned(*nodes).modes == expected
    assert planned(nodes[0], everywhere=GPU).modes == [Mode.STREAM]


def test_slots_and_uses() -> None:
    """An output has a slot if somebody uses it; each node and each fetch is one use, however often it takes it."""
    with flow.Graph():
        a = take()
        b, c = split(a)
        d = take(b, b, [b])
        e = take(b, a)
    plan = planned(d, e, d)
    slots = {node: plan.outputs[number] for number, node in enumerate(plan.nodes)}
    [slot_a], [slot_b, slot_c], [slot_d], [slot_e] = (slots[node] for node in (a, b.node, d, e))
    assert slot_c is None  # nobody uses it
    assert c not in {Output(node, 0) for node in plan.nodes}
    assert plan.leaves == [(), (slot_a,), (slot_b,) * 3, (slot_b, slot_a)]
    assert plan.fetched == [slot_d, slot_e, slot_d]
    for slot, uses in ((slot_a, 2), (slot_b, 2), (slot_d, 2), (slot_e, 1)):
        assert slot is not None
        assert plan.uses[slot] == uses
    assert plan.pending == [0, 1, 1, 2]
    assert plan.successors == [[1, 3], [2, 3], [], []]


def test_constants_stand_in_the_plan() -> None:
    """They have one use more than users: they are never emptied; containers are built anew for each call."""
    with flow.Graph():
        c = flow.constant(5)
        a = take(c, "x", [c, {"k": 1}])
    plan = planned(a, c)
    values = [plan.values[slot] for slot in plan.leaves[0]]
    assert values == [5, "x", 5, 1]
    folded = plan.fetched[1]
    assert folded is not None
    assert plan.uses[folded] == 3
    first, second = (plan.calls[0](*values) for _ in range(2))
    assert first == second == (5, "x", [5, {"k": 1}])
    assert first[2] is not second[2]


def test_feeds() -> None:
    """A fed output has a slot if it is used; nothing waits for its node, and its node does not fill it."""
    with flow.Graph():
        a = take()
        p, unused = flow.placeholder("p"), flow.placeholder("unused")
        b = take(a, p)
        b.run_after(a)
    plan = planned(b, a, fed=(a, p, unused))
    assert plan.nodes == [a, b]
    assert set(plan.fed) == {Output(a, 0), Output(p, 0)}
    assert plan.leaves[1] == (plan.fed[Output(a, 0)], plan.fed[Output(p, 0)])
    assert plan.fetched[1] == plan.fed[Output(a, 0)]
    assert plan.outputs[0] == (None,)
    assert (plan.pending, plan.successors) == ([0, 1], [[1], []])


def test_an_edge_counts_once() -> None:
    """A node that takes two outputs of another one, and waits for it too, waits once."""
    with flow.Graph():
        x, y = split()
        node = take(x, y, x)
        node.run_after(x.node)
        effect = flow.group(node)
    plan = planned(effect, node)
    assert (plan.pending, plan.successors) == ([0, 1, 1], [[1], [2], []])
    assert plan.fetched[0] is None


def streams(plan: Plan) -> list[int]:
    """Return the stream of each node."""
    return [plan.streams[number].stream for number in range(len(plan.nodes))]


def test_a_chain_is_on_one_stream() -> None:
    """Each node takes the launch before it; only the last one is waited for."""
    with flow.Graph():
        nodes = [take(np.ones(2))]
        for _ in range(4):
            nodes.append(take(nodes[-1]))
    plan = planned(nodes[-1], everywhere=GPU)
    assert streams(plan) == [0] * 5
    works = [plan.streams[number] for number in range(5)]
    assert [work.is_awaited for work in works] == [False] * 4 + [True]
    assert [work.after for work in works] == [[]] * 5
    assert [work.released for work in works] == [[1], [2], [3], [4], []]
    assert [plan.leaves[number] for number in range(1, 5)] == [(works[number].launch,) for number in range(4)]
    assert (plan.pending, plan.successors) == ([0, 1, 1, 1, 1], [[]] * 5)
    assert [plan.uses[work.launch] for work in works] == [1, 1, 1, 1, 0]
    assert [outputs == (None,) for outputs in plan.outputs] == [True] * 4 + [False]


def test_a_fan_is_on_several_streams() -> None:
    """Independent nodes take the streams in turn; of those that follow one node the first stays on its stream."""
    with flow.Graph():
        root = take()
        fan = [take(root) for _ in range(4)]
        end = take(*fan)
    plan = planned(end, everywhere=GPU)
    assert streams(plan) == [0, 0, 1, 2, 0, 0]
    assert [streams(planned(*[node.node for node in fan], root, everywhere=GPU))[0]] == [0]
    with flow.Graph():
        loose = [take() for _ in range(7)]
    assert streams(planned(*loose, everywhere=GPU)) == [0, 1, 2, 0, 1, 2, 0]
    on = {node: GPU + number % 2 for number, node in enumerate(loose)}
    assert streams(planned(*loose, on=on)) == [0, 0, 1, 1, 2, 2, 0]


def test_what_is_on_another_stream_comes_before() -> None:
    """A control edge across streams is an `after`; a value that is taken needs none, and each launch is used once."""
    with flow.Graph():
        a, b, c = (take() for _ in range(3))
        with flow.control_dependencies([b]):
            d = take(a, c)
    plan = planned(d, everywhere=GPU)
    launches = [plan.streams[number].launch for number in range(4)]
    assert streams(plan) == [0, 1, 2, 0]
    assert plan.leaves[3] == (launches[0], launches[2])
    assert plan.streams[3].after == [launches[1]]
    assert [plan.uses[launch] for launch in launches] == [1, 1, 1, 0]
    assert plan.streams[1].released == [3]


def test_what_is_on_the_same_stream_comes_before_too() -> None:
    """The stream keeps the order; the `after` says that it must have gone well."""
    with flow.Graph():
        a = take()
        with flow.control_dependencies([a]):
            b = take()
    plan = planned(b, everywhere=GPU)
    assert streams(plan) == [0, 0]
    assert plan.streams[1].after == [plan.streams[0].launch]
    assert not plan.streams[0].is_awaited


def test_who_waits_for_a_device() -> None:
    """A node elsewhere and a fetch need a launch done; its own device does not."""
    with flow.Graph():
        a = take()
        on_other, on_cpu, same = take(a), take(a), take(a)
        with flow.control_dependencies([same]):
            effect = wait()
    on = {a: GPU, on_other: OTHER, same: GPU}
    plan = planned(on_other, on_cpu, effect, on=on)
    assert [plan.nodes[number] for number, work in plan.streams.items() if work.is_awaited] == [a, on_other, same]
    assert (plan.successors[0], plan.streams[0].released) == ([1, 2], [3])
    assert plan.leaves[1] == plan.leaves[2] == plan.outputs[0]
    assert plan.leaves[3] == (plan.streams[0].launch,)
    assert plan.outputs[3] == (None,)


def test_one_of_several_outputs_of_a_launch() -> None:
    """On the same device the kernel is given its part of the launch's value."""
    with flow.Graph():
        x, y = split(1)
        node = take(y, [x])
    plan = planned(node, everywhere=GPU)
    launch = plan.streams[0].launch
    assert plan.leaves[1] == (launch, launch)
    assert plan.calls[1](("x", "y"), ("x", "y")) == ("y", ["x"])
    assert plan.uses[launch] == 1


def test_a_fed_value_on_a_device() -> None:
    """A feed is an array of the host, also where its node runs on the device."""
    with flow.Graph():
        a = take()
        b = take(a)
    plan = planned(b, fed=(a,), everywhere=GPU)
    assert plan.nodes == [b]
    assert plan.leaves[0] == (plan.fed[Output(a, 0)],)
