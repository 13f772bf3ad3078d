"""What a broker does with queues, requests that wait, and the ends of sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioflow.cluster import _messages as m
from aioflow.cluster._codec import pack_definition

if TYPE_CHECKING:
    from tests.unit.cluster.conftest import Desk


# Gets


def test_an_acknowledgement_of_a_waiting_get_is_ignored(desk: Desk) -> None:
    """Nothing was handed over yet: the get goes on waiting, and loses nothing."""
    desk.hello(1, 2)
    desk.define(1, 2)
    assert desk.get(1, 1) == []
    assert desk.send(1, m.Acknowledge(1, 1)) == []
    desk.only(desk.put(2, 1, 5), m.Done)
    assert desk.take_values(1) == [[5]]
    desk.broker.lost(1, 0.0)
    assert desk.get(2, 2) == [[5]]


def test_what_is_about_no_request_is_ignored(desk: Desk) -> None:
    """Promote, Acknowledge and Withdraw of an id that nobody has, or has no more, change nothing.

    Whoever withdraws a put is told what became of it, also where it never came.
    """
    desk.hello(1)
    desk.define(1)
    desk.only(desk.put(1, 1, 5), m.Done)
    for request in (1, 99):
        assert desk.send(1, m.Promote(request)) == desk.send(1, m.Acknowledge(request, 1)) == []
    assert desk.send(1, m.Withdraw(1)) == [m.Done(1)]
    assert desk.send(1, m.Withdraw(99)) == [m.Withdrawn(99, 0)]
    assert desk.get(1, 2) == [[5]]
    assert desk.send(1, m.Acknowledge(2, 1)) == desk.send(1, m.Acknowledge(2, 1)) == []
    assert desk.send(1, m.Withdraw(2)) == [m.Withdrawn(2, 0)]
    assert desk.size(1) == 0


def test_withdrawing(desk: Desk) -> None:
    """A waiting put is answered with what is in, a waiting get is not, and delivered rows go back to their place."""
    desk.hello(1)
    desk.define(1, capacity=3)
    assert desk.put(1, 1, 1, 2, 3, 4) == []
    assert desk.send(1, m.Withdraw(1)) == [m.Withdrawn(1, 3)]
    assert desk.get(1, 2, 2) == [[1, 2]]
    assert desk.get(1, 3, 2) == []
    assert desk.send(1, m.Withdraw(3)) == []
    assert desk.send(1, m.Withdraw(2)) == []
    assert desk.get(1, 4, 3) == [[1, 2, 3]]
    assert desk.send(1, m.Close(5, 1, cancel_pending=False)) == [m.Done(5)]
    assert desk.send(1, m.Withdraw(5)) == [m.Done(5)]


def test_a_put_is_told_how_gets_take(desk: Desk) -> None:
    """How many rows at once, and how many are in behind the last whole batch; what a waiting get has taken counts."""
    desk.hello(1, 2)
    desk.define(1, 2)
    assert desk.put(1, 1, 1, 2, 3, 4) == [m.Done(1, 0, 0)]
    assert desk.get(2, 1, 3) == [[1, 2, 3]]
    assert desk.put(1, 2, 5) == [m.Done(2, 3, 2)]
    assert desk.get(2, 2, 3) == []
    assert desk.put(1, 3, 6, 7) == [m.Done(3, 3, 1)]
    assert desk.take_values(2) == [[4, 5, 6]]
    assert desk.get(2, 3, 3) == []
    assert desk.put(1, 4, 8) == [m.Done(4, 3, 2)]
    desk.send(2, m.Ask(4, 1, 5, 1))
    assert desk.put(1, 5, 9) == [m.Done(5, 5, 0)]


def test_acknowledged_rows_are_let_go(desk: Desk) -> None:
    """When everything has ended, the broker keeps no request, no owner and no row."""
    desk.hello(1)
    desk.define(1)
    desk.only(desk.put(1, 1, 5), m.Done)
    assert desk.get(1, 2) == [[5]]
    desk.send(1, m.Acknowledge(2, 1))
    [session] = desk.broker._sessions
    assert not session.waiting
    assert not session.delivered
    assert not desk.broker._tickets.owners
    [queue] = desk.resources.queues.values()
    assert queue.stats().unacknowledged == 0


# The end of a session


def test_bye_withdraws_everything(desk: Desk) -> None:
    """Nothing of a session that said bye is accepted later, and what it had not acknowledged goes back."""
    desk.hello(1, 2)
    desk.define(1, 2, capacity=2)
    desk.only(desk.put(2, 1, 1, 2), m.Done)
    assert desk.get(1, 1) == [[1]]
    assert desk.put(1, 2, 3, 4) == []
    assert desk.put(1, 3, 5) == []
    assert desk.send(1, m.Close(4, 1, cancel_pending=False)) == []
    desk.only(desk.send(1, m.Bye()), m.Goodbye)
    assert [desk.get(2, 2), desk.get(2, 3), desk.get(2, 4)] == [[[1]], [[2]], [[3]]]
    assert not desk.only(desk.send(2, m.IsClosed(5, 1)), m.Done).value
    assert desk.size(2) == 0


def test_a_close_that_waited_behind_a_put_goes_with_its_session(desk: Desk) -> None:
    """Withdrawing the put must not give the close behind it its turn: the queue stays open."""
    desk.hello(1, 2)
    desk.define(1, 2, capacity=1)
    desk.only(desk.put(2, 1, 1), m.Done)
    assert desk.put(1, 1, 2) == desk.send(1, m.Close(2, 1, cancel_pending=False)) == []
    desk.only(desk.send(1, m.Bye()), m.Goodbye)
    assert not desk.only(desk.send(2, m.IsClosed(2, 1)), m.Done).value


def test_a_smaller_put_does_not_slip_in_at_the_end_of_its_session(desk: Desk) -> None:
    """A put behind one that has no room in bytes would fit once that is withdrawn; its session is over."""
    desk.hello(1, 2)
    desk.define(1, 2, components=[("int8", (None,))], kind="PaddingFIFOQueue", capacity_bytes=4)
    desk.only(desk.send(2, m.Put(1, 1, [["int8", [1, 3]]]), [b"abc"]), m.Done)
    assert desk.send(1, m.Put(1, 1, [["int8", [1, 2]]]), [b"de"]) == []
    assert desk.send(1, m.Put(2, 1, [["int8", [1, 1]]]), [b"f"]) == []
    desk.only(desk.send(1, m.Bye()), m.Goodbye)
    assert desk.size(2) == 1


def test_a_lost_peer(desk: Desk) -> None:
    """Its puts stand, they were received, and so does its close; its gets are withdrawn and what it held goes back."""
    desk.hello(1, 2)
    desk.define(1, 2, capacity=2)
    desk.only(desk.put(1, 1, 1), m.Done)
    assert desk.get(1, 2) == [[1]]
    assert desk.put(1, 3, 2, 3, 4) == desk.send(1, m.Close(4, 1, cancel_pending=False)) == []
    desk.broker.lost(1, 0.0)
    for request in (1, 2, 3, 4):
        assert desk.get(2, request) == [[request]]
        assert desk.send(2, m.Acknowledge(request, 1)) == []
    desk.failed(desk.send(2, m.Get(5, 1, 1, up_to=False)), "EndOfQueue", "closed")


def test_a_lost_peer_waits_no_more(desk: Desk) -> None:
    """What a get of its had taken while it waited goes to the next one, in order."""
    desk.hello(1, 2)
    desk.define(1, 2)
    assert desk.get(1, 1, count=3) == desk.get(2, 1, count=2) == []
    desk.only(desk.put(2, 2, 1, 2), m.Done)
    assert desk.size(2) == 0
    desk.broker.lost(1, 0.0)
    assert desk.take_values(2) == [[1, 2]]


def test_a_refused_peer_is_as_good_as_lost(desk: Desk) -> None:
    """Its producers count as lost, and its consumers' rows go back."""
    desk.hello(1, 2)
    desk.define(1, 2)
    desk.only(desk.send(1, m.Join(1, 1, "loader", 0)), m.Done)
    desk.only(desk.put(1, 2, 5), m.Done)
    assert desk.get(1, 3) == [[5]]
    desk.broker.refuse(1, "garbage")
    assert desk.get(2, 1) == [[5]]
    assert desk.send(2, m.Acknowledge(1, 1)) == []
    error = desk.only(desk.send(2, m.Get(2, 1, 1, up_to=False)), m.Error)
    assert error.lost_producers == [["loader", "its connection was refused: garbage", ""]]


# Producers and queues


def test_leaving_under_a_name_that_is_not_held(desk: Desk) -> None:
    """A session takes out its own producers only: another's name is not touched, and nor is a name that has left."""
    desk.hello(1, 2)
    desk.define(1, 2)
    desk.only(desk.send(1, m.Join(1, 1, "a", 0)), m.Done)
    leave = m.Leave(2, 1, "a", lost=True, reason="", traceback="")
    desk.only(desk.send(2, leave), m.Done)
    assert not desk.only(desk.send(1, m.IsClosed(3, 1)), m.Done).value
    desk.only(desk.send(1, m.Leave(4, 1, "a", lost=False, reason="", traceback="")), m.Done)
    desk.only(desk.send(1, m.Leave(5, 1, "a", lost=True, reason="again", traceback="")), m.Done)
    error = desk.only(desk.send(1, m.Get(6, 1, 1, up_to=False)), m.Error)
    assert (error.kind, error.lost_producers) == ("EndOfQueue", [])


def test_joining_under_a_name_in_use(desk: Desk) -> None:
    """The second one waits, then is told; withdrawn before, it is answered by that."""
    desk.hello(1, 2)
    desk.define(1, 2)
    desk.only(desk.send(1, m.Join(1, 1, "a", 0)), m.Done)
    assert desk.send(2, m.Join(1, 1, "a", 0)) == []
    assert desk.send(2, m.Withdraw(1)) == [m.Withdrawn(1, 0)]
    assert desk.send(2, m.Join(2, 1, "a", 0)) == []
    assert desk.broker.next_deadline() == 4.0
    desk.expire(4.0)
    desk.failed(desk.take(2), "SpecMismatch", "a producer named 'a' is registered")


def test_deadlines_move(desk: Desk) -> None:
    """The timer looks again after whatever changes what is due: a join, a leaving, and any end of a session."""
    desk.hello(1, 2)
    desk.define(1, 2)
    assert desk.broker.take_deadline_moved()
    assert not desk.broker.take_deadline_moved()
    desk.send(1, m.Join(1, 1, "a", 2.0))
    assert desk.broker.take_deadline_moved()
    desk.send(1, m.Done(1))
    assert desk.broker.take_deadline_moved()
    assert desk.broker.next_deadline() == 2.0
    assert not desk.broker.take_deadline_moved()


def test_deleting_a_queue_others_wait_on(desk: Desk) -> None:
    """Whatever waits on it fails with NotFound, registrations too; acknowledging what it gave changes nothing."""
    desk.hello(1, 2)
    desk.define(1, 2, capacity=1)
    desk.only(desk.send(1, m.Join(1, 1, "a", 0)), m.Done)
    desk.only(desk.put(1, 2, 5), m.Done)
    assert desk.get(2, 1) == [[5]]
    assert desk.get(2, 2) == []
    assert desk.send(2, m.Join(3, 1, "a", 0)) == []
    desk.only(desk.put(1, 3, 6), m.Done)
    assert desk.take_values(2) == [[6]]
    assert desk.get(2, 4) == []
    assert desk.send(1, m.Delete(4, 1)) == [m.Done(4)]
    answers = {message.id: message for message in desk.take(2) if isinstance(message, m.Error)}
    assert {request: error.kind for request, error in answers.items()} == {3: "NotFound", 4: "NotFound"}
    assert desk.send(2, m.Acknowledge(1, 1)) == []
    assert desk.send(2, m.Withdraw(2)) == []
    assert desk.size(2) == 0


def test_statistics_of_very_many_producers(desk: Desk) -> None:
    """Names that would not fit into one header are left out; the statistics come."""
    desk.hello(1)
    desk.define(1)
    for request in range(1, 101):
        desk.only(desk.send(1, m.Join(request, 1, f"{request} {'ä' * 1000}", 0)), m.Done)
    statistics = desk.only(desk.send(1, m.Stats(200, 1)), m.Statistics)
    assert statistics.producers[0].startswith("1 ää")
    assert 1 < len(statistics.producers) < 100


def test_lookup(desk: Desk, define: Any) -> None:
    """The definition of a shared queue is found as it was made; of one that is not there, the others are named."""
    desk.hello(1)
    desk.define(1, names=("x",))
    desk.failed(desk.send(1, m.Lookup(1, "", "q")), "NotFound", "there are none")
    assert desk.size(1) == 0
    assert desk.only(desk.send(1, m.Lookup(2, "", "q")), m.Found).definition == pack_definition(define(names=("x",)))
    desk.failed(desk.send(1, m.Lookup(3, "", "r")), "NotFound", "there are ['q']")


def test_an_unbounded_queue_states_its_bytes(desk: Desk) -> None:
    """A server holds no queue without a limit."""
    desk.hello(1)
    desk.define(1, capacity=-1)
    desk.failed(desk.send(1, m.Size(1, 1)), "SpecMismatch", "needs capacity_bytes")


def test_a_negative_seed(desk: Desk) -> None:
    """Any integer is a seed, as in TensorFlow."""
    desk.hello(1)
    desk.define(1, kind="RandomShuffleQueue", seed=-1)
    desk.only(desk.put(1, 1, 5), m.Done)


def test_asking_ahead(desk: Desk) -> None:
    """What was sent ahead counts as in the queue, is recalled for a get that waits, and comes back for it."""
    desk.hello(1, 2)
    desk.define(1, 2)
    desk.only(desk.put(1, 1, 5), m.Done)
    assert desk.send(1, m.Ask(2, 1, 1))[0] == m.Rows(2, [["int64", [1]]])
    assert desk.size(2) == 1
    assert desk.get(2, 1) == []
    assert desk.take(1) == [m.Recall(2)]
    assert desk.send(1, m.Withdraw(2)) == []
    assert desk.take_values(2) == [[5]]
    assert desk.send(1, m.Ask(3, 1, 1)) == desk.send(1, m.Promote(3)) == []
    desk.only(desk.put(2, 2, 6), m.Done)
    assert desk.take_values(1) == [[6]]


def test_columns_of_every_kind_pass_through(desk: Desk) -> None:
    """A server hands out what was put, dtypes that it cannot compute with and zero-sized shapes included."""
    desk.hello(1)
    desk.define(1, components=[("bfloat16", (2,)), ("float32", (0,))])
    frames = [bytes(range(8)), b""]
    desk.only(desk.send(1, m.Put(1, 1, [["bfloat16", [2, 2]], ["float32", [2, 0]]]), frames), m.Done)
    desk.broker.receive(1, m.Get(2, 1, 2, up_to=False), [], 0.0)
    [(_, sent)] = desk.broker.take_messages()
    assert [bytes(frame) for frame in sent[1:]] == frames
