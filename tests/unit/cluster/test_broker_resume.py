"""Sessions of a broker that go on through another connection: what is done once, what waits, and what goes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioflow.cluster import _broker, _window
from aioflow.cluster import _messages as m
from tests.unit.cluster.conftest import LOST_S, SESSION_S

if TYPE_CHECKING:
    from tests.unit.cluster.conftest import Desk


@pytest.fixture
def far(desk: Desk) -> Desk:
    """A broker with session a of another host, at peer 1, and an observer at peer 9; queue 1 has two places."""
    desk.connect(1, "a", beats=True)
    desk.hello(9)
    desk.define(1, 9, capacity=2)
    return desk


def lose(desk: Desk, peer: int) -> None:
    """End a connection."""
    desk.broker.lost(peer, desk.now)


# What is done once


def test_a_put_that_waits_is_not_put_twice(far: Desk) -> None:
    """Semantics 0.3: a lost connection keeps puts; a retry attaches at its row, and is answered when it is in."""
    assert far.put(1, 1, 1, 2, 3) == []
    lose(far, 1)
    far.reconnect(2, "a")
    assert far.send(2, m.Resume()) == far.put(2, 1, 1, 2, 3) == []
    assert far.get(9, 1) == [[1]]
    assert far.take(2) == [m.Done(1, 1)]
    assert far.get(9, 2, 2) == [[2, 3]]
    assert far.size(9) == 0


def test_a_put_that_is_done_is_answered_again(far: Desk) -> None:
    """Reliability G1: the server recognises what comes again by (session, sequence number), and doubles nothing."""
    assert far.put(1, 1, 1) == [m.Done(1)]
    lose(far, 1)
    far.reconnect(2, "a")
    far.send(2, m.Resume())
    for _ in range(2):
        assert far.put(2, 1, 1) == [m.Done(1)]
    assert far.size(9) == 1


def test_a_put_that_was_received_completes_although_its_sender_is_away(far: Desk) -> None:
    """Semantics 0.3: a put that was received completes although its sender is dead; it may ask later."""
    assert far.put(1, 1, 1, 2, 3) == []
    lose(far, 1)
    far.expire(LOST_S)
    assert [far.get(9, request) for request in (1, 2, 3)] == [[[1]], [[2]], [[3]]]
    far.reconnect(2, "a")
    far.send(2, m.Resume())
    assert far.put(2, 1, 1, 2, 3) == [m.Done(1, 1)]
    assert far.size(9) == 0


def test_a_close_a_leaving_and_a_deletion_are_done_once(far: Desk) -> None:
    """Semantics 1.3: a second close is an error; one that is sent again is the first."""
    far.only(far.send(1, m.Join(1, 1, "p", 0)), m.Done)
    requests = (m.Leave(2, 1, "p", lost=False, reason="", traceback=""), m.Delete(3, 1))
    for request in requests:
        assert far.send(1, request) == [m.Done(request.id)]
    far.define(1, queue=2)
    close = m.Close(4, 2, cancel_pending=False)
    assert far.send(1, close) == [m.Done(4)]
    lose(far, 1)
    far.reconnect(2, "a")
    far.send(2, m.Resume())
    for again in (*requests, close):
        assert far.send(2, again) == [m.Done(again.id)]
    far.failed(far.send(2, m.Close(5, 2, cancel_pending=False)), "QueueClosed", "closed")


def test_a_definition_may_come_again(far: Desk) -> None:
    """What was not known to have arrived is sent again: the same number for the same queue changes nothing."""
    far.define(1, capacity=2)
    assert far.put(1, 1, 1) == [m.Done(1)]


def test_answers_are_kept_until_they_are_confirmed(far: Desk) -> None:
    """Semantics 0.3: the server keeps done-with-result for each sequence number that the client has not confirmed."""
    for request in (1, 2):
        far.only(far.put(1, request, request), m.Done)
    [session] = [session for session in far.broker._sessions if session.name == "a"]
    assert far.send(1, m.Confirm([1])) == []
    assert list(session.answers) == [2]


def test_answers_that_nobody_asked_for_again_have_come(far: Desk) -> None:
    """Semantics 0.3: whoever resumes asks again for what is missing; the next Confirm drops the other answers."""
    for request in (1, 2):
        far.only(far.put(1, request, request), m.Done)
    lose(far, 1)
    far.reconnect(2, "a")
    assert far.send(2, m.Resume()) == []
    assert far.put(2, 2, 2) == [m.Done(2)]
    [session] = [session for session in far.broker._sessions if session.name == "a"]
    assert list(session.answers) == [1, 2]
    assert far.send(2, m.Confirm([7])) == []
    assert list(session.answers) == [2]


@pytest.mark.parametrize("is_received", [True, False])
def test_a_withdrawal_after_a_reconnect(far: Desk, is_received: bool) -> None:
    """Semantics 0.3: while disconnected a withdrawal is kept, and its answer says how many rows are in: these stay."""
    if is_received:
        assert far.put(1, 1, 1, 2, 3) == []
    lose(far, 1)
    far.reconnect(2, "a")
    far.send(2, m.Resume())
    rows = 2 if is_received else 0
    for _ in range(2):
        assert far.send(2, m.Withdraw(1)) == [m.Withdrawn(1, rows)]
    assert far.size(9) == rows


def test_answers_of_what_changed_nothing_are_not_kept(far: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reliability G5: a server's memory is bounded: who never confirms is refused, which is not kept."""
    monkeypatch.setattr(_broker, "REQUESTS_MAX", 2)
    for request in (1, 2):
        far.only(far.put(1, request, request), m.Done)
    [session] = [session for session in far.broker._sessions if session.name == "a"]
    for request in range(3, 20):
        far.failed(far.put(1, request, request), "SessionError", "2 requests under way")
    assert list(session.answers) == [1, 2]


# What waits and what is in doubt


def test_a_lost_connection_withdraws_gets(far: Desk) -> None:
    """Semantics 0.3: a lost connection withdraws gets: what one had taken while it waited goes to the next at once."""
    assert far.get(1, 1, 2) == far.get(9, 1) == []
    far.only(far.put(9, 2, 5), m.Done)
    lose(far, 1)
    assert far.take_values(9) == [[5]]
    far.reconnect(2, "a")
    assert far.send(2, m.Resume()) == []
    assert far.get(2, 1, 2) == []


def test_what_was_delivered_is_in_doubt_until_the_session_resumes(far: Desk) -> None:
    """Semantics 0.4: what it had not acknowledged stays in doubt until a hello that lists what was handed over."""
    far.only(far.put(9, 1, 1, 2), m.Done)
    assert far.send(1, m.Ask(1, 1, 1, 2))[0] == m.Rows(1, [["int64", [2]]])
    lose(far, 1)
    far.expire(LOST_S)
    assert far.get(9, 2, 1) == []
    far.reconnect(2, "a")
    assert far.send(2, m.Acknowledge(1, 1)) == far.take(9) == []
    assert far.send(2, m.Resume()) == []
    assert far.take_values(9) == [[2]]


def test_what_is_in_doubt_goes_back_when_the_session_is_over(far: Desk) -> None:
    """Semantics 0.4: or until session_s, which ends the session: all of it goes back."""
    far.only(far.put(9, 1, 1), m.Done)
    assert far.get(1, 1) == [[1]]
    lose(far, 1)
    far.expire(LOST_S)
    assert far.get(9, 2) == []
    assert far.broker.next_deadline() == SESSION_S
    far.expire(SESSION_S)
    assert far.take_values(9) == [[1]]


def test_what_a_lost_session_holds_ahead_takes_no_room(far: Desk) -> None:
    """Others go on after lost_s, although it is in doubt; when the session resumes it is back in its old place."""
    far.only(far.put(9, 1, 1, 2), m.Done)
    far.only(far.send(1, m.Ask(1, 1, 1, 2)), m.Rows)
    assert far.put(9, 2, 3) == []
    lose(far, 1)
    far.expire(LOST_S - 0.1)
    assert far.take(9) == []
    far.expire(LOST_S)
    assert far.take(9) == [m.Done(2, 1)]
    assert far.size(9) == 1
    far.reconnect(2, "a")
    far.send(2, m.Resume())
    assert far.size(9) == 3
    assert far.get(9, 3, 3) == [[1, 2, 3]]


def test_the_end_of_both_connections_on_one_host_ends_the_session(desk: Desk) -> None:
    """Semantics 0.4: or until the end of the beat connection where both are on one host: the process has ended."""
    desk.connect(1, "a", beats=True, is_local=True)
    desk.hello(9)
    desk.define(1, 9)
    desk.only(desk.put(9, 1, 1), m.Done)
    assert desk.get(1, 1) == [[1]]
    assert desk.beat(2, "a")
    lose(desk, 1)
    assert desk.get(9, 2) == []
    lose(desk, 2)
    assert desk.take_values(9) == [[1]]


def test_a_connection_that_also_beats(desk: Desk) -> None:
    """Semantics 0.4: where the last connection on one host ends, its process has ended: also if it was the only one."""
    desk.connect(1, "a", beats=True, is_local=True)
    assert desk.beat(1, "a")
    lose(desk, 1)
    assert not list(desk.broker._sessions)


def test_a_connection_that_beats_for_two_sessions(desk: Desk) -> None:
    """Reliability G9: no input crashes a server: a connection beats for the session that it named last."""
    for peer, name in ((1, "a"), (2, "b")):
        desk.connect(peer, name, beats=True, is_local=True)
        assert desk.beat(3, name)
    for peer in (1, 2):
        desk.only(desk.send(peer, m.Bye()), m.Goodbye)
    lose(desk, 3)
    assert not list(desk.broker._sessions)


# Connections


def test_a_new_connection_replaces_the_old_one(far: Desk) -> None:
    """Semantics 0.3: the session is who knows its secret; the old connection is ended and not heard."""
    assert far.get(1, 1) == []
    far.reconnect(2, "a")
    assert far.broker.take_dropped() == [1]
    far.send(2, m.Resume())
    far.refused(far.put(1, 2, 5), "came before Hello")
    lose(far, 1)
    far.only(far.put(2, 3, 6), m.Done)
    assert far.get(2, 1) == [[6]]


def test_a_session_that_this_server_has_ended(far: Desk) -> None:
    """Semantics 0.4: calls of an ended session raise SessionClosed; one of another epoch is as good as new."""
    lose(far, 1)
    for now in (LOST_S, SESSION_S):
        far.expire(now)
    goodbye = far.only(far.send(2, m.Hello(m.PROTOCOL_VERSION, "a", "epoch", beats=True)), m.Goodbye)
    assert goodbye.kind == "SessionClosed"
    assert f"no sign of life for {SESSION_S} s" in goodbye.reason
    far.connect(3, "a", epoch="another", beats=True)


def test_a_session_that_exceeds_its_window_is_over(far: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reliability G5: a server's memory is bounded: who exceeds the window is refused; what waits stands."""
    monkeypatch.setattr(_window, "PUTS_MAX", 2)
    far.only(far.put(1, 1, 1, 2), m.Done)
    assert far.put(1, 2, 3) == far.put(1, 3, 4) == []
    far.refused(far.put(1, 4, 5), "2 puts of 16 bytes on queue 'q' are under way, and one of 8 more came")
    assert [far.get(9, request) for request in (1, 2, 3, 4)] == [[[1]], [[2]], [[3]], [[4]]]
    assert far.get(9, 5) == []


def test_a_put_that_is_answered_leaves_the_window(far: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reliability G5: a full queue makes producers wait; it never refuses who keeps to the window."""
    monkeypatch.setattr(_window, "PUTS_MAX", 1)
    for request in range(1, 6):
        far.only(far.put(1, request, request), m.Done)
        assert far.get(9, request) == [[request]]
    far.only(far.put(1, 6, 6, 7), m.Done)
    assert far.put(1, 7, 8) == []
    assert far.send(1, m.Withdraw(7)) == [m.Withdrawn(7, 0)]
    assert far.put(1, 8, 9) == []


# A lost session


def test_a_lost_session_is_sent_nothing_more(far: Desk) -> None:
    """Semantics 0.4: after lost_s its gets are withdrawn and nothing more is sent to it; its connection is ended."""
    assert far.get(1, 1) == []
    far.expire(LOST_S)
    assert far.broker.take_dropped() == [1]
    assert not far.beat(2, "a")
    far.only(far.put(9, 1, 5), m.Done)
    assert far.get(9, 2) == [[5]]
    assert far.take(1) == []


@pytest.mark.parametrize("rejoin_s", [0, 30])
def test_producers_of_a_lost_session(far: Desk, rejoin_s: int) -> None:
    """Semantics 0.4: its producers count as lost; with rejoin_s they are away, and back with their session."""
    far.only(far.send(1, m.Join(1, 1, "p", rejoin_s)), m.Done)
    far.expire(LOST_S)
    assert far.only(far.send(9, m.Stats(1, 1)), m.Statistics).producers == []
    far.reconnect(2, "a")
    far.send(2, m.Resume())
    statistics = far.only(far.send(9, m.Stats(2, 1)), m.Statistics)
    assert (statistics.producers, statistics.is_closed) == ((["p"], False) if rejoin_s else ([], True))
    if not rejoin_s:
        error = far.only(far.send(9, m.Get(3, 1, 1, up_to=False)), m.Error)
        assert error.lost_producers == [["p", f"it showed no sign of life for {LOST_S} s", ""]]


def test_producers_are_not_lost_with_a_connection(far: Desk) -> None:
    """Semantics 0.4: a producer is lost after lost_s without a beat, not with a connection: its session beats on."""
    far.only(far.send(1, m.Join(1, 1, "p", 0)), m.Done)
    assert far.beat(2, "a")
    lose(far, 1)
    far.now = 2.0
    assert far.beat(2, "a")
    far.expire(LOST_S)
    assert far.only(far.send(9, m.Stats(1, 1)), m.Statistics).producers == ["p"]


@pytest.mark.parametrize("renews", [True, False])
def test_producers_n_is_waived_after_a_restart(far: Desk, renews: bool) -> None:
    """Semantics 0.4: registrations renew first; once one has, producers=n is waived after lost_s."""
    far.define(1, 9, name="epoch", queue=2, producers=2)
    far.only(far.send(1, m.Join(1, 2, "p", 0, renews)), m.Done)
    far.only(far.send(1, m.Leave(2, 2, "p", lost=False, reason="", traceback="")), m.Done)
    for now in (2.0, 4.0):
        far.now = now
        assert far.beat(2, "a")
    far.expire(LOST_S - 0.1)
    assert not far.only(far.send(9, m.IsClosed(1, 2)), m.Done).value
    far.expire(LOST_S)
    assert bool(far.only(far.send(9, m.IsClosed(2, 2)), m.Done).value) is renews
