"""What the client's half of the protocol sends again on a new connection, holds back, and loses to a restart."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from aioflow.cluster import _messages as m
from aioflow.cluster import _window
from aioflow.cluster._codec import decode
from aioflow.cluster._events import Answered, Refused, Undone, Voided, Welcomed
from aioflow.cluster._peer import CONFIRM_EVERY, Peer
from aioflow.errors import QueueReset
from aioflow.resources import QueueKey, QueueRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._events import Event
    from aioflow.cluster._messages import Message
    from aioflow.transport import Frame

_put = partial(m.Put, columns=[])
_get = partial(m.Get, count=1, up_to=False)
_ask = partial(m.Ask, count=1, runs=2)
_close = partial(m.Close, cancel_pending=False)
_join = partial(m.Join, name="p", rejoin_s=5.0)
_leave = partial(m.Leave, name="p", lost=False, reason="", traceback="")
ROWS: Any = ([["int8", [2]]], [b"ab"])


@pytest.fixture
def peer() -> Peer:
    """A peer that was welcomed."""
    peer = Peer("secret", "tcp://server:1")
    assert again(peer) == []
    return peer


@pytest.fixture
def ref(define: Any) -> QueueRef:
    """A shared queue."""
    return QueueRef(QueueKey("", "q"), define())


def again(peer: Peer, epoch: str = "first") -> list[Message]:
    """Lose the connection and make another; return what is sent behind `Resume`, but for definitions."""
    peer.disconnected()
    peer.connected(beats=True)
    [hello] = sent(peer)
    assert isinstance(hello, m.Hello)
    assert isinstance(receive(peer, m.Welcome(m.PROTOCOL_VERSION, epoch, "local", 0, []))[0], Welcomed)
    before, after = split(sent(peer))
    assert before == []
    return [message for message in after if not isinstance(message, m.Define)]


def split(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """What stands before and behind `Resume`."""
    place = messages.index(m.Resume())
    return messages[:place], messages[place + 1 :]


def sent(peer: Peer) -> list[Message]:
    """What is to be sent."""
    return [decode(frames)[0] for frames in peer.take_messages()]


def receive(peer: Peer, message: Message, frames: Sequence[Frame] = ()) -> list[Event]:
    """Give a message of the server to the peer; return what happened."""
    peer.receive(message, frames)
    return peer.take_events()


def resume(peer: Peer, epoch: str = "first") -> list[Event]:
    """Lose the connection and make another; return what happened, but for the welcome."""
    peer.disconnected()
    peer.connected(beats=True)
    sent(peer)
    return receive(peer, m.Welcome(m.PROTOCOL_VERSION, epoch, "local", 0, []))[1:]


# What is sent again


def test_requests_without_an_answer_are_sent_again_in_order(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.3: a retry goes by its sequence number: the same ids, in order, until each is answered."""
    puts, get, size = [peer.request(ref, _put) for _ in range(2)], peer.request(ref, _get), peer.request(ref, m.Size)
    sent(peer)
    receive(peer, m.Done(puts[0]))
    for _ in range(2):
        assert again(peer) == [m.Put(puts[1], 1, []), m.Get(get, 1, 1, up_to=False), m.Size(size, 1)]
    assert receive(peer, m.Done(puts[1])) == [Answered(puts[1], (0, 0))]
    assert not receive(peer, m.Done(puts[1]))


def test_what_is_asked_while_disconnected_is_sent_at_the_next_welcome(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.4: queue calls wait out an outage: nothing is sent before the welcome, and all of it after."""
    peer.disconnected()
    request = peer.request(ref, _put)
    assert sent(peer) == []
    assert again(peer) == [m.Put(request, 1, [])]


def test_a_definition_is_sent_again_until_it_has_arrived(peer: Peer, ref: QueueRef) -> None:
    """A request without its queue's number would fail: definitions go first, until an answer shows them there."""
    request = peer.request(ref, _get)
    for _ in range(2):
        resume(peer)
        kinds = [type(message) for message in split(sent(peer))[1]]
        assert kinds == [m.Define, m.Get]
    receive(peer, m.Rows(request, ROWS[0]), ROWS[1])
    resume(peer)
    assert [type(message) for message in split(sent(peer))[1]] == [m.Get]


def test_a_hello_names_the_epoch_in_which_the_session_is_known(peer: Peer) -> None:
    """Semantics 0.4: the server that knows the session is told so; one that has ended it says that it is closed."""
    peer.disconnected()
    peer.connected(beats=False)
    assert sent(peer) == [m.Hello(m.PROTOCOL_VERSION, "secret", "first", beats=False)]


def test_answers_are_confirmed(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.3: what changes a queue is confirmed, many at a time; answers to questions are not kept."""
    requests = [peer.request(ref, _put) for _ in range(CONFIRM_EVERY)]
    receive(peer, m.Done(peer.request(ref, m.Size)))
    sent(peer)
    for request in requests:
        assert sent(peer) == []
        receive(peer, m.Done(request))
    assert sent(peer) == [m.Confirm(requests)]


# Gets


def test_an_acknowledgement_is_kept_until_it_has_arrived(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.4: a hello lists what was handed over: until the answer to a later request shows it there."""
    get = peer.request(ref, _get)
    receive(peer, m.Rows(get, ROWS[0]), ROWS[1])
    earlier = peer.request(ref, m.Size)
    peer.acknowledge(get, 2, is_all=True)
    receive(peer, m.Done(earlier))
    for _ in range(2):
        resume(peer)
        assert split(sent(peer))[0] == [m.Acknowledge(get, 2)]
    receive(peer, m.Done(peer.request(ref, m.Size)))
    assert again(peer) == []


def test_the_last_acknowledgement_of_a_get_says_it_all(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.3: an acknowledgement counts rows in all: one for each get is sent and kept, in one burst."""
    first, second = peer.request(ref, _ask), peer.request(ref, _ask)
    sent(peer)
    for request in (first, second):
        receive(peer, m.Rows(request, ROWS[0]), ROWS[1])
        peer.acknowledge(request, 1, is_all=False)
        peer.acknowledge(request, 2, is_all=True)
    expected = [m.Acknowledge(first, 2), m.Acknowledge(second, 2)]
    assert sent(peer) == expected
    resume(peer)
    assert split(sent(peer)) == (expected, [])


def test_rows_that_were_not_handed_over_are_asked_for_again(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.4: what was not acknowledged goes back, so what came before is void, and nobody gets it twice."""
    ask = peer.request(ref, _ask)
    receive(peer, m.Rows(ask, ROWS[0]), ROWS[1])
    peer.acknowledge(ask, 1, is_all=False)
    assert resume(peer) == [Voided(ask, ask + 1)]  # the acknowledgement names what came under the old number
    before, after = split(sent(peer))
    assert (before, [type(message) for message in after]) == ([m.Acknowledge(ask, 1)], [m.Ask])
    [event] = receive(peer, m.Rows(ask + 1, ROWS[0]), ROWS[1])
    assert isinstance(event, Answered)


def test_a_get_under_a_new_number_keeps_its_place(peer: Peer, ref: QueueRef) -> None:
    """However often the connection is lost: the first iterator's request takes the oldest rows again."""
    first, second = [peer.request(ref, _ask) for _ in range(2)]
    for request in (first, second):
        receive(peer, m.Rows(request, ROWS[0]), ROWS[1])
    peer.acknowledge(first, 1, is_all=False)
    renewed = second + 1
    for _ in range(3):
        resume(peer)
        assert split(sent(peer))[1] == [m.Ask(renewed, 1, 1, 2), m.Ask(second, 1, 1, 2)]


def test_a_promotion_is_sent_again(peer: Peer, ref: QueueRef) -> None:
    """Somebody waits for it still: behind its request, once on each connection."""
    ask = peer.request(ref, _ask)
    peer.promote(ask)
    peer.promote(ask)
    assert again(peer) == [m.Ask(ask, 1, 1, 2), m.Promote(ask)]


# Withdrawals


def test_a_put_that_is_withdrawn_is_not_sent_again(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.3: while disconnected the withdrawal is kept; the put is not sent again, or it might get in now."""
    first, second = peer.request(ref, _put), peer.request(ref, _put)
    sent(peer)
    peer.withdraw(first)
    peer.disconnected()
    peer.withdraw(second)
    for _ in range(2):
        assert again(peer) == [m.Withdraw(first), m.Withdraw(second)]
    assert receive(peer, m.Withdrawn(first, 3)) == [Undone(first, 3)]
    assert receive(peer, m.Done(second)) == [Answered(second, (0, 0))]
    assert again(peer) == []


def test_a_get_that_is_withdrawn_while_disconnected_is_forgotten(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.3: a lost connection withdraws gets by itself."""
    get = peer.request(ref, _get)
    peer.disconnected()
    peer.withdraw(get)
    assert again(peer) == []


# The window


def test_puts_beyond_the_window_wait_here(peer: Peer, ref: QueueRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reliability G5 and G3: a session offers as much as the window; the rest follows in order, by queue."""
    monkeypatch.setattr(_window, "PUTS_MAX", 2)
    other = QueueRef(QueueKey("", "other"), ref.definition)
    puts = [peer.request(ref, _put) for _ in range(4)]
    elsewhere = peer.request(other, _put)
    ids = [message.id for message in sent(peer) if isinstance(message, m.Put)]
    assert ids == [*puts[:2], elsewhere]
    assert [getattr(message, "id", 0) for message in again(peer)] == [*puts[:2], elsewhere]
    receive(peer, m.Error(puts[1], "SpecMismatch", "", [], []))
    assert sent(peer) == [m.Put(puts[2], 1, [])]
    receive(peer, m.Done(puts[0]))
    assert sent(peer) == [m.Put(puts[3], 1, [])]


def test_a_close_waits_behind_puts_that_wait(peer: Peer, ref: QueueRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Semantics 1.3: a close takes its place behind the puts before it; one that cancels what waits does not wait."""
    monkeypatch.setattr(_window, "PUTS_MAX", 2)
    first, other, second = [peer.request(ref, _put) for _ in range(3)]
    close = peer.request(ref, _close)
    at_once = peer.request(ref, partial(m.Close, cancel_pending=True))
    assert [message.id for message in sent(peer)[1:]] == [first, other, at_once]  # type: ignore[union-attr]
    receive(peer, m.Done(first))
    assert sent(peer) == [m.Put(second, 1, []), m.Close(close, 1, cancel_pending=False)]


def test_what_waits_here_is_withdrawn_here(peer: Peer, ref: QueueRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Semantics 0.3: a cancelled put that never left was not accepted: it is known at once, and the next moves up."""
    monkeypatch.setattr(_window, "PUTS_MAX", 2)
    first, other, second = [peer.request(ref, _put) for _ in range(3)]
    close = peer.request(ref, _close)
    sent(peer)
    peer.withdraw(second)
    assert peer.take_events() == [Undone(second, 0)]
    assert sent(peer) == [m.Close(close, 1, cancel_pending=False)]
    for request in (first, other):
        receive(peer, m.Done(request))
    assert sent(peer) == []
    assert not peer._outlets


# A server that was started anew


def test_a_restart_is_told_to_every_call_that_waits(peer: Peer, ref: QueueRef, define: Any) -> None:
    """Semantics 0.4: all calls pending on a queue raise QueueReset; only if there were none, the next does, once."""
    idle = QueueRef(QueueKey("", "idle"), define())
    receive(peer, m.Done(peer.request(idle, m.Size)))
    served = peer.request(ref, _get)
    receive(peer, m.Rows(served, ROWS[0]), ROWS[1])
    pending = [peer.request(ref, _put), peer.request(ref, _get)]
    lookup = peer.request(None, lambda request, _: m.Lookup(request, "", "q"))
    events = resume(peer, "second")
    assert {event.id for event in events if isinstance(event, Refused)} == {served, *pending}
    assert all(isinstance(event, Refused) and isinstance(event.error, QueueReset) for event in events)
    assert split(sent(peer)) == ([], [m.Lookup(lookup, "", "q")])
    with pytest.raises(QueueReset, match="queue 'idle': the server at tcp://server:1 was started anew"):
        peer.request(idle, m.Size)
    for each in (ref, idle):
        peer.request(each, m.Size)
    assert [type(message) for message in sent(peer)] == [m.Define, m.Size] * 2


def test_the_same_epoch_is_no_restart(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.4: every server start has a new epoch, and nothing else is a restart."""
    peer.request(ref, _put)
    assert resume(peer) == []
    assert [type(event) for event in resume(peer, "second")] == [Refused]
    assert resume(peer, "second") == []


def test_a_second_restart_is_told_with_the_first(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.4: if no call was pending, the next raises QueueReset, also after two restarts."""
    receive(peer, m.Done(peer.request(ref, m.Size)))
    for epoch in ("second", "third"):
        assert resume(peer, epoch) == []
    with pytest.raises(QueueReset):
        peer.request(ref, m.Size)
    peer.request(ref, m.Size)


def test_registrations_are_renewed_first(peer: Peer, ref: QueueRef) -> None:
    """Semantics 0.4: registrations renew first, by themselves, and say so; no call hears of the answer."""
    receive(peer, m.Done(peer.request(ref, _join)))
    join: Any = None
    for epoch in ("second", "third"):
        assert resume(peer, epoch) == []
        [define, join] = split(sent(peer))[1]
        assert isinstance(define, m.Define)
        assert isinstance(join, m.Join)
        assert (join.name, join.rejoin_s, join.renews) == ("p", 5.0, True)
    with pytest.raises(QueueReset):
        peer.request(ref, _put)
    receive(peer, m.Done(join.id))
    receive(peer, m.Done(peer.request(ref, _leave)))
    assert resume(peer, "fourth") == []
    assert split(sent(peer)) == ([], [])
