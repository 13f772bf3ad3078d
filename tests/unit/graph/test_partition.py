"""A step cut by task: the rules at the top of `_partition.py`."""

from __future__ import annotations

from typing import Any, NamedTuple

import aioflow as flow
from aioflow.graph import Argument, Op, Output, Part, Task, partition, place, prune
from aioflow.names import DeviceName

PS, WORKER, OTHER = Task("ps", 0), Task("worker", 0), Task("worker", 1)
DEVICES = [DeviceName(task.job, task.task, "CPU", 0) for task in (WORKER, PS, OTHER)]
SEND = Op(lambda key, job, index, value: None, "send", num_outputs=0)
RECEIVE = Op(lambda key: None, "receive")


class Pair(NamedTuple):
    """A container with names."""

    left: Any
    right: Any


@flow.op
def take(*values: Any, **named: Any) -> Any:
    """Take anything."""
    return values, named


@flow.op(num_outputs=2)
def split(*values: Any) -> Any:
    """Give two values."""
    return values


@flow.op(num_outputs=0)
def act(*values: Any) -> None:
    """Be run for an effect."""


def on(task: Task) -> Any:
    """Place what is made in a block."""
    return flow.device(str(task))


def cut(*fetched: Any, fed: tuple[Any, ...] = ()) -> dict[Task, Part]:
    """Prune, place and cut a step; nodes without a device are the worker's."""
    fetches = [_one(given) for given in fetched]
    feeds = {_one(given) for given in fed}
    nodes = prune(fetches, feeds)
    chosen = place(nodes, DEVICES, soft=False, placed={}, home=DeviceName(*WORKER))
    placed = {node: DEVICES[number] for node, number in chosen.items()}
    parts = partition(nodes, fetches, feeds, placed, SEND, RECEIVE)
    for part in parts:
        assert [node.index for node in part.graph.nodes] == list(range(len(part.graph.nodes)))
        assert part.graph.nodes[-1] is part.last
        assert {node.graph for node in part.graph.nodes} == {part.graph}
        for node in part.graph.nodes:
            assert {before.graph for before in node.predecessors} <= {part.graph}
        reached = set(prune([part.last, *(output for _, output in part.fetched)], set(part.fed.values())))
        assert reached == {node for node in part.graph.nodes if node not in {fed.node for fed in part.fed.values()}}
    return {part.task: part for part in parts}


def _one(given: Any) -> Any:
    return Output(given, 0) if isinstance(given, flow.Node) and given.op.num_outputs else given


def names(part: Part) -> list[str]:
    """Return the names of a part's nodes, without its end."""
    return [node.name for node in part.graph.nodes[:-1]]


def constants(node: flow.Node) -> list[Any]:
    """Return the arguments that are no nodes."""
    return [argument.value for argument in node.arguments if not argument.inputs]


def test_of_one_task_there_is_one_part() -> None:
    """Rule 1: nodes keep names, lines and arguments, and ask for the devices that they were placed on."""
    with flow.Graph():
        a = take(1)
        b = take(a, [a, 2], word={"x": a})
    [(task, part)] = cut(b).items()
    assert task == WORKER
    copied_a, copied_b, last = part.graph.nodes
    assert [copied_a.name, copied_b.name] == [a.name, b.name]
    assert [copied_a.line, copied_b.line] == [a.line, b.line]
    assert copied_b.keywords == ("word",)
    assert copied_b.inputs == (Output(copied_a, 0),)
    assert {str(node.requested) for node in part.graph.nodes} == {"/job:worker/task:0/device:CPU:0"}
    assert part.fetched == [(0, Output(copied_b, 0))]
    assert last.controls == ()


def test_each_value_crosses_once() -> None:
    """Rule 2: however many nodes of the other task use it; to each task that does, once."""
    with flow.Graph():
        with on(PS):
            a = take()
        b, c = take(a), take(a, [a, a])
        with on(OTHER):
            d = take(a)
    parts = cut(b, c, d)
    assert list(parts) == [PS, WORKER, OTHER]
    ps = parts[PS].graph.nodes
    assert [node.op for node in ps[1:-1]] == [SEND, SEND]
    assert [constants(node)[1:] for node in ps[1:-1]] == [["worker", 0], ["worker", 1]]
    assert all(node.inputs == (Output(ps[0], 0),) for node in ps[1:-1])
    assert set(parts[PS].last.controls) == set(ps[1:-1])  # rule 5
    [received] = [node for node in parts[WORKER].graph.nodes if node.op is RECEIVE]
    assert constants(received) == constants(ps[1])[:1]
    assert received.line == ps[1].line == a.line


def test_outputs_cross_by_themselves() -> None:
    """Under keys of their own, and only those that are used."""
    with flow.Graph():
        with on(PS):
            x, y = split()
            z, _ = split()
        b = take(y, x, z)
    parts = cut(b)
    keys = [constants(node)[0] for node in parts[PS].graph.nodes if node.op is SEND]
    assert len(keys) == len(set(keys)) == 3
    assert sum(node.op is RECEIVE for node in parts[WORKER].graph.nodes) == 3


def test_control_edges_cross_as_none() -> None:
    """Rule 3: after the node; where a value of that node goes the same way, as that."""
    with flow.Graph():
        with on(PS):
            a, b, c = act(), take(), act()
        with flow.control_dependencies([a, b]):
            d = take(b)
        with flow.control_dependencies([a, c]):
            e = take()
    parts = cut(d, e)
    sent = [node for node in parts[PS].graph.nodes if node.op is SEND]
    assert [[control.name for control in node.controls] for node in sent] == [[], ["act"], ["act_1"]]
    assert [node.arguments[3].inputs == () for node in sent] == [False, True, True]
    copies = {node.name: node for node in parts[WORKER].graph.nodes}
    received = [node for node in parts[WORKER].graph.nodes if node.op is RECEIVE]
    assert len(received) == 3
    assert set(copies[d.name].controls) < set(received)
    assert set(copies[e.name].controls) == {node for node in received if node.name.startswith("act")}


def test_a_control_edge_uses_the_value_that_goes_its_way() -> None:
    """Also where the edge is another node's than the value."""
    with flow.Graph():
        with on(PS):
            a = take()
        b = take(a)
        with flow.control_dependencies([a]):
            c = take()
    parts = cut(b, c)
    [sent] = [node for node in parts[PS].graph.nodes if node.op is SEND]
    assert sent.inputs
    copies = {node.name: node for node in parts[WORKER].graph.nodes}
    assert copies[c.name].controls == (copies["take/receive"],)


def test_control_edges_within_a_task_stay() -> None:
    """On copies."""
    with flow.Graph():
        a = act()
        with flow.control_dependencies([a]):
            b = take()
    [part] = cut(b).values()
    assert part.graph.nodes[1].controls == (part.graph.nodes[0],)


def test_edges_that_were_added_later_cross() -> None:
    """To a node that was made before the one that it waits for."""
    with flow.Graph():
        a = take()
        with on(PS):
            b = act()
        a.run_after(b)
    parts = cut(a)
    assert names(parts[PS]) == ["act", "act/send"]
    [copied, received, _] = parts[WORKER].graph.nodes
    assert copied.controls == (received,)


def test_constants_go_with_who_uses_them() -> None:
    """Rule 4: nothing is sent; also where they stand in a container."""
    with flow.Graph():
        with on(PS):
            five = flow.constant(5)
        a = take(five, [five])
    [(task, part)] = cut(a).items()
    assert task == WORKER
    [copied, _] = part.graph.nodes
    assert copied.arguments[0].value == 5
    assert [leaf.value for leaf in copied.arguments[1].value] == [5]
    assert copied.inputs == ()
    assert cut(five) == {}


def test_what_is_fed_is_fed_to_each_part() -> None:
    """Rule 4: one placeholder in each, whatever the task of the node; also in the place of a constant."""
    with flow.Graph():
        with on(PS):
            p, five = flow.placeholder(), flow.constant(5)
            x, y = split(p)
            a = take(p, p)
        b = take(p, x, five)
        with on(OTHER):
            c = take(y)
    parts = cut(a, b, c, fed=(p, x, five))
    assert [list(part.fed) for part in parts.values()] == [[Output(p, 0)], [Output(p, 0), x, Output(five, 0)], []]
    for part in parts.values():
        assert all(fed.node in part.graph.nodes for fed in part.fed.values())
    assert sum(node.op is SEND for node in parts[PS].graph.nodes) == 1


def test_fetches_keep_their_places() -> None:
    """Twice the same, of several parts, without a value, fed, and constant ones."""
    with flow.Graph():
        a = take()
        with on(PS):
            b, c = act(), take()
        p, five = flow.placeholder(), flow.constant(5)
    parts = cut(a, b, c, p, a, five, fed=(p,))
    assert [place for place, _ in parts[WORKER].fetched] == [0, 4]
    assert [place for place, _ in parts[PS].fetched] == [2]
    assert [node.name for node in parts[PS].last.controls] == ["act"]


def test_containers_keep_their_kinds() -> None:
    """Lists, tuples, named tuples and dicts, in each other; what crosses stands where it stood."""
    with flow.Graph():
        with on(PS):
            a = take()
        b = take(Pair(a, [1, (a, 2)]), {"x": {"y": a}, 3: Pair(4, ())})
    parts = cut(b)
    copied, received = (
        next(node for node in parts[WORKER].graph.nodes if node.name == b.name),
        Output(next(node for node in parts[WORKER].graph.nodes if node.op is RECEIVE), 0),
    )

    def plain(argument: Argument) -> Any:
        if not argument.is_container:
            return argument.inputs[0] if argument.inputs else argument.value
        value: Any = argument.value
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        items = map(plain, value)
        return type(value)(*items) if isinstance(value, Pair) else type(value)(items)

    assert plain(copied.arguments[0]) == Pair(received, [1, (received, 2)])
    assert isinstance(plain(copied.arguments[0]), Pair)
    assert plain(copied.arguments[1]) == {"x": {"y": received}, 3: Pair(4, ())}
    assert isinstance(plain(copied.arguments[1])[3], Pair)
    assert copied.inputs == (received,)
