"""Graphs and steps in the broker: what is begun is answered once, and ends with its session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aioflow as flow
from aioflow.cluster import _messages as m
from aioflow.cluster._graph_codec import encode_graph
from aioflow.cluster._steps import Begun, GraphDropped, OwnerEnded, StepAborted, StepAsked
from aioflow.cluster._values import encode_value

from .conftest import LOST_S

if TYPE_CHECKING:
    from .conftest import Desk

FETCHES = [[1, 0]]


def register(desk: Desk, peer: int, request: int = 1, graph: int = 1, owner: str = "") -> None:
    """Have a peer send a graph of a constant and a node that uses it."""
    with flow.Graph() as made:
        flow.identity(flow.constant(1))
    assert desk.send(peer, m.RegisterGraph(request, graph, owner), encode_graph(made)) == [m.Done(request)]


def run(desk: Desk, peer: int, request: int, graph: int = 1) -> list[Any]:
    """Ask for a step; return what is said at once."""
    return desk.send(peer, m.RunGraph(request, graph, "", FETCHES, []), encode_value([]))


def begun(desk: Desk) -> StepAsked:
    """Return the one step that was begun."""
    [effect] = desk.broker.steps.take_effects()
    assert isinstance(effect, StepAsked)
    return effect


def end(desk: Desk, session: str, request: int) -> None:
    """End a step by a value."""
    desk.broker.steps.ended(Begun(session, request), m.Tensors(request), encode_value([7]))


def test_a_step_is_answered_once(desk: Desk) -> None:
    """When it has ended; asked again on the same connection it waits on."""
    desk.hello(1)
    register(desk, 1)
    assert run(desk, 1, 2) == []
    effect = begun(desk)
    assert (effect.session, effect.id, effect.registered.owner) == ("secret 1", 2, "secret 1")
    assert not effect.registered.is_part
    assert run(desk, 1, 2) == []
    assert desk.broker.steps.take_effects() == []
    end(desk, "secret 1", 2)
    end(desk, "secret 1", 2)
    assert desk.take(1) == [m.Tensors(2)]


def test_a_step_goes_on_over_connections(desk: Desk) -> None:
    """Its answer is kept until it is confirmed, and given again on a new connection; it does not run again."""
    desk.connect(1, "s", beats=True)
    register(desk, 1)
    run(desk, 1, 2)
    begun(desk)
    desk.broker.lost(1, 0.0)
    end(desk, "s", 2)
    desk.reconnect(2, "s")
    desk.send(2, m.Resume())
    assert run(desk, 2, 2) == [m.Tensors(2)]
    assert desk.broker.steps.take_effects() == []
    assert desk.send(2, m.Confirm([2])) == []


def test_a_withdrawn_step_is_answered_when_it_has_ended(desk: Desk) -> None:
    """Also where it had ended well before."""
    desk.hello(1)
    register(desk, 1)
    run(desk, 1, 2)
    begun(desk)
    assert desk.send(1, m.Withdraw(2)) == []
    assert desk.broker.steps.take_effects() == [StepAborted("secret 1", 2)]
    desk.broker.steps.ended(Begun("secret 1", 2), m.Withdrawn(2, 0), ())
    assert desk.take(1) == [m.Withdrawn(2, 0)]
    run(desk, 1, 3)
    begun(desk)
    end(desk, "secret 1", 3)
    assert desk.take(1) == [m.Tensors(3)]
    assert desk.send(1, m.Withdraw(3)) == [m.Tensors(3)]


def test_all_ends_with_the_session(desk: Desk) -> None:
    """Its steps, its graphs, and what it did on behalf of others, also where their graphs were dropped before."""
    desk.hello(1)
    register(desk, 1)
    register(desk, 1, 2, graph=2, owner="another")
    assert desk.send(1, m.DeregisterGraph(3, 2)) == [m.Done(3)]
    desk.broker.steps.take_effects()
    run(desk, 1, 4)
    begun(desk)
    desk.broker.lost(1, 0.0)
    aborted, dropped, *ended = desk.broker.steps.take_effects()
    assert aborted == StepAborted("secret 1", 4)
    assert isinstance(dropped, GraphDropped)
    assert ended == [OwnerEnded("another", is_here=False), OwnerEnded("secret 1", is_here=True)]
    end(desk, "secret 1", 4)
    assert desk.take(1) == []


def test_an_owner_is_over(desk: Desk) -> None:
    """The parts that ran on its behalf are dropped, once, and no others."""
    desk.hello(1)
    register(desk, 1, 1, graph=1, owner="a")
    register(desk, 1, 2, graph=2, owner="b")
    assert desk.send(1, m.EndOwner(3, "a")) == [m.Done(3)]
    dropped, ended = desk.broker.steps.take_effects()
    assert isinstance(dropped, GraphDropped)
    assert (dropped.registered.owner, ended) == ("a", OwnerEnded("a", is_here=False))
    desk.failed(run(desk, 1, 4, graph=1), "NotFound", "no graph number 1")
    assert run(desk, 1, 5, graph=2) == []
    desk.broker.steps.take_effects()
    desk.broker.lost(1, 0.0)
    assert OwnerEnded("a", is_here=False) not in desk.broker.steps.take_effects()


def test_a_graph_that_cannot_be_read_fails_its_runs(desk: Desk) -> None:
    """Each of them, with the reason; the session goes on."""
    desk.hello(1)
    assert desk.send(1, m.RegisterGraph(1, 1), [b"\xc1"]) == [m.Done(1)]
    for request in (2, 3):
        desk.failed(run(desk, 1, request), "RemoteProtocolError", "")
    register(desk, 1, 4, graph=2)
    assert run(desk, 1, 5, graph=2) == []


def test_what_a_step_names_must_be_there(desk: Desk) -> None:
    """Nodes, outputs and values: a client that gets them wrong is no client of ours."""
    wrong: list[tuple[Any, Any, Any]] = [
        ([[2, 0]], [], []),
        ([[1, 1]], [], []),
        (FETCHES, [[1, -1]], [1]),
        (FETCHES, [[1, 0]], []),
        (FETCHES, [], {}),
    ]
    for peer, (fetches, feeds, values) in enumerate(wrong, 1):
        desk.hello(peer)
        register(desk, peer)
        message = m.RunGraph(2, 1, "", fetches, feeds)
        desk.refused(desk.send(peer, message, encode_value(values)), "")


def test_values_come_with_a_part(desk: Desk) -> None:
    """By key, each as the bytes of its frame; what else is in their place is no client of ours."""
    desk.hello(1)
    register(desk, 1)
    [packed] = encode_value(7)
    assert desk.send(1, m.RunGraph(2, 1, "", FETCHES, []), encode_value(["a", packed])) == []
    assert begun(desk).given == {"a": packed}
    for peer, values in enumerate([["a"], ["a", 1], [1, packed], ["a", packed, "b"], {}, 1], 2):
        desk.hello(peer)
        register(desk, peer)
        desk.refused(desk.send(peer, m.RunGraph(2, 1, "", FETCHES, []), encode_value(values)), "")


def test_the_steps_of_a_lost_session_end(desk: Desk) -> None:
    """What they wait for is others'; if the session resumes it learns that its step was ended."""
    desk.connect(1, "s", beats=True)
    register(desk, 1)
    run(desk, 1, 2)
    begun(desk)
    desk.broker.lost(1, 0.0)
    desk.expire(LOST_S)
    assert desk.broker.steps.take_effects() == [StepAborted("s", 2)]
    desk.broker.steps.ended(Begun("s", 2), m.Withdrawn(2, 0), ())
    desk.reconnect(2, "s")
    desk.send(2, m.Resume())
    [answer] = run(desk, 2, 2)
    assert isinstance(answer, m.Error)
    assert (answer.kind, "its step was ended" in answer.text) == ("ConnectionLost", True)
    assert desk.broker.steps.take_effects() == []
