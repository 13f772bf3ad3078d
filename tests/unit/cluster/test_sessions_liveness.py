"""When a session is lost, and when it is over: the server's judgement, in plain code with a clock of the test's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioflow.cluster._sessions import LATE_S, Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable

LOST_S, SESSION_S = 3.0, 60.0


@pytest.fixture
def sessions() -> Sessions:
    """No session yet."""
    return Sessions(LOST_S, SESSION_S)


def connect(sessions: Sessions, name: str = "a", peer: int = 1, now: float = 0.0, *, is_local: bool = False) -> Session:
    """Connect a session that beats through the peer of ten times the number."""
    session = sessions.connect(name, peer, now, beats=True, is_local=is_local)
    sessions.beat(name, peer * 10, now)
    return session


def test_a_session_that_beats_is_not_lost(sessions: Sessions) -> None:
    """Semantics 0.4: a client beats through a connection of its own, so a blocked loop is not dead."""
    session = connect(sessions)
    for now in range(1, 100):
        assert sessions.beat("a", 10, now)
        assert sessions.judge(now + LOST_S - 0.1) == ([], [])
    assert sessions.next_deadline() == session.heard_at + LOST_S == 99 + LOST_S


def test_lost_after_lost_s_and_over_after_session_s(sessions: Sessions) -> None:
    """Semantics 0.4: after lost_s without a beat a session counts as lost; session_s later it is over. Once each."""
    session = connect(sessions)
    assert sessions.judge(LOST_S - 0.01) == ([], [])
    assert sessions.judge(LOST_S) == ([session], [])
    assert sessions.judge(LOST_S + 1) == ([], [])
    assert sessions.next_deadline() == SESSION_S
    assert sessions.judge(SESSION_S - 0.01) == ([], [])
    assert sessions.judge(SESSION_S) == ([], [session])


def test_a_lost_session_is_found_again_by_a_hello_and_not_by_a_beat(sessions: Sessions) -> None:
    """Semantics 0.4: a client without an answered beat hands over nothing; a lost one is answered after its hello."""
    session = connect(sessions)
    sessions.judge(LOST_S)
    assert not sessions.beat("a", 10, 4.0)
    assert session.is_lost
    assert connect(sessions, peer=2, now=5.0) is session
    assert sessions.beat("a", 10, 5.5)
    assert sessions.judge(5.5 + LOST_S - 0.1) == ([], [])


def test_a_beat_of_a_session_that_nobody_knows(sessions: Sessions) -> None:
    """A server that was started anew answers no beat of before: the client connects again, and learns of it."""
    assert not sessions.beat("a", 10, 0.0)
    assert sessions.silence(10) is None
    assert sessions.next_deadline() is None


def test_a_session_without_beats_is_lost_with_its_connection(sessions: Sessions) -> None:
    """Semantics 0.4: sessions in one process beat without a thread: session_s runs from the end of its connection."""
    session = sessions.connect("a", 1, 0.0, beats=False, is_local=False)
    assert sessions.next_deadline() is None
    assert sessions.judge(1000.0) == ([], [])
    assert sessions.disconnect(session, 1000.0) == 1
    assert session.is_lost
    assert sessions.judge(1000.0 + SESSION_S - 0.1) == ([], [])
    assert sessions.judge(1000.0 + SESSION_S) == ([], [session])


def test_a_disconnected_session_that_beats_is_not_lost(sessions: Sessions) -> None:
    """Semantics 0.3: a lost connection keeps puts; whoever beats on is on its way back."""
    session = connect(sessions)
    sessions.disconnect(session, 1.0)
    assert sessions.find(1) is None
    assert sessions.beat("a", 10, 2.0)
    assert sessions.judge(2.0 + LOST_S - 0.1) == ([], [])
    assert sessions.judge(2.0 + LOST_S) == ([session], [])


@pytest.mark.parametrize("first", ["requests", "beats"])
def test_the_end_of_the_last_connection_on_a_host_proves_the_end(sessions: Sessions, first: str) -> None:
    """Semantics 0.4: in doubt until the end of the beat connection where both are on one host: it and the other's."""
    session = connect(sessions, is_local=True)
    ends: list[Callable[[], object]] = [lambda: sessions.disconnect(session, 1.0), lambda: sessions.silence(10)]
    if first == "beats":
        ends.reverse()
    ends[0]()
    assert not sessions.has_ended(session)
    ends[1]()
    assert sessions.has_ended(session)


def test_elsewhere_the_end_of_connections_proves_nothing(sessions: Sessions) -> None:
    """Semantics 0.4: on another host a network may have failed: the session is in doubt until session_s."""
    session = connect(sessions)
    sessions.disconnect(session, 1.0)
    assert sessions.silence(10) is session
    assert not sessions.has_ended(session)


def test_a_judge_who_comes_late_gives_a_new_lost_s(sessions: Sessions) -> None:
    """A server that was stopped heard nobody meanwhile: everybody may beat anew before anybody counts as lost."""
    first, second = connect(sessions, "a", 1), connect(sessions, "b", 2, now=2.0)
    late = LOST_S + max(LATE_S, LOST_S / 10) + 0.01
    assert sessions.judge(late) == ([], [])
    assert first.heard_at == second.heard_at == late
    assert sessions.beat("a", 10, late + 0.1)
    assert sessions.judge(late + LOST_S) == ([second], [])


def test_a_judge_who_comes_late_does_not_bring_back_the_lost(sessions: Sessions) -> None:
    """What was lost before the server stood still stays lost, and is over when it is due."""
    lost, other = connect(sessions, "a", 1), connect(sessions, "b", 2)
    sessions.beat("b", 20, LOST_S)
    assert sessions.judge(LOST_S) == ([lost], [])
    assert sessions.judge(50.0) == ([], [])
    assert (lost.is_lost, other.is_lost, other.heard_at) == (True, False, 50.0)
    sessions.beat("b", 20, SESSION_S)
    assert sessions.judge(SESSION_S) == ([], [lost])


def test_nothing_is_kept_of_a_session_that_is_over(sessions: Sessions) -> None:
    """Semantics 0.4: session_s ends the session: neither its secret nor a connection of it is known any more."""
    session = connect(sessions)
    sessions.forget(session)
    assert "a" not in sessions
    assert sessions.find(1) is sessions.silence(10) is sessions.get("a") is None
    assert not list(sessions)
