"""The client's half of the protocol: what it sends, and what it makes of what comes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode
from aioflow.cluster._events import Answered, Ended, Parted, Recalled, Refused, Undone, Welcomed
from aioflow.cluster._peer import Peer
from aioflow.errors import (
    ConnectionLost,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    SessionClosed,
    VersionMismatch,
)
from aioflow.resources import QueueKey, QueueRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._events import Event
    from aioflow.cluster._messages import Message
    from aioflow.transport import Frame

_put = partial(m.Put, columns=[])
_get = partial(m.Get, count=1, up_to=False)
_close = partial(m.Close, cancel_pending=False)
WELCOME = m.Welcome(m.PROTOCOL_VERSION, "epoch", "local", 0, [])
ROWS: Any = ([["int8", [2]]], [b"ab"])


@pytest.fixture
def peer() -> Peer:
    """A peer that was welcomed."""
    peer = Peer("secret", "tcp://server:1")
    peer.connected(beats=True)
    assert _sent(peer) == [m.Hello(m.PROTOCOL_VERSION, "secret", "", beats=True)]
    assert _receive(peer, WELCOME) == [Welcomed(WELCOME)]
    assert _sent(peer) == [m.Resume()]
    return peer


@pytest.fixture
def ref(define: Any) -> QueueRef:
    """A shared queue."""
    return QueueRef(QueueKey("", "q"), define())


def _sent(peer: Peer) -> list[Message]:
    return [decode(frames)[0] for frames in peer.take_messages()]


def _receive(peer: Peer, message: Message, frames: Sequence[Frame] = ()) -> list[Event]:
    peer.receive(message, frames)
    return peer.take_events()


def test_a_queue_is_defined_once(peer: Peer, ref: QueueRef, define: Any) -> None:
    """The first request on a queue brings its definition; another definition of that name has a number of its own."""
    other = QueueRef(ref.key, define(capacity=11))
    private = QueueRef(QueueKey("", "q", "private"), ref.definition)
    assert [peer.request(each, m.Size) for each in (ref, ref, other, private)] == [1, 2, 3, 4]
    kinds = [(type(message).__name__, getattr(message, "queue", 0)) for message in _sent(peer)]
    assert kinds == [("Define", 1), ("Size", 1), ("Size", 1), ("Define", 2), ("Size", 2), ("Define", 3), ("Size", 3)]


def test_what_is_too_long_is_not_sent(peer: Peer, ref: QueueRef) -> None:
    """A name or a number outside the limits fails the call, not the session; what comes after is as before."""
    for make in (partial(m.Join, name="n" * 1025, rejoin_s=0), partial(m.Get, count=2**31, up_to=False)):
        with pytest.raises(LocalProtocolError, match=r"must be .*, got "):
            peer.request(ref, make)
    with pytest.raises(LocalProtocolError, match=r"Define\.name must be a string of 0 to 1024 characters"):
        peer.request(QueueRef(QueueKey("", "n" * 1025), ref.definition), m.Size)
    request = peer.request(ref, m.Size)
    assert [type(message) for message in _sent(peer)] == [m.Define, m.Size]
    assert _receive(peer, m.Done(request, 5)) == [Answered(request, 5)]


def test_answers(peer: Peer, ref: QueueRef) -> None:
    """Each kind of answer is the event of its request, once."""
    put, get, lookup = peer.request(ref, _put), peer.request(ref, _get), peer.request(None, _lookup)
    assert _receive(peer, m.Done(put)) == [Answered(put, (0, 0))]
    [event] = _receive(peer, m.Rows(get, ROWS[0]), ROWS[1])
    assert isinstance(event, Answered)
    assert event.value[0].tolist() == [97, 98]
    [refused] = _receive(peer, m.Error(lookup, "NotFound", "no", [], []))
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, NotFound)
    for message in (m.Done(put), m.Rows(get, ROWS[0]), m.Error(lookup, "NotFound", "no", [], []), m.Done(99)):
        assert not _receive(peer, message, ROWS[1])


def _lookup(request: int, _: int) -> m.Lookup:
    return m.Lookup(request, "", "q")


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (_put, partial(m.Rows, columns=[])),
        (_get, m.Done),
        (_get, partial(m.Withdrawn, rows=0)),
        (m.Stats, m.Done),
        (m.Size, partial(m.Found, definition=[])),
    ],
)
def test_an_answer_of_another_kind(peer: Peer, ref: QueueRef, make: Any, answer: Any) -> None:
    """A server that answers a get by Done, or a put by rows, is not believed."""
    request = peer.request(ref, make)
    with pytest.raises(RemoteProtocolError, match="tcp://server:1 answered with"):
        _receive(peer, answer(request))


def test_what_only_a_client_sends(peer: Peer) -> None:
    """A server that sends a client's message is not believed."""
    with pytest.raises(RemoteProtocolError, match="sent Bye, which only a client sends"):
        _receive(peer, m.Bye())


def test_withdrawing(peer: Peer, ref: QueueRef) -> None:
    """A waiting put is answered; a get is not, and what comes for it is dropped; what has ended is not withdrawn."""
    put, get, close, served = (peer.request(ref, make) for make in (_put, _get, _close, _get))
    _receive(peer, m.Rows(served, ROWS[0]), ROWS[1])
    _sent(peer)
    for request in (put, get, close, served):
        peer.withdraw(request)
    assert _sent(peer) == [m.Withdraw(put), m.Withdraw(get), m.Withdraw(close), m.Withdraw(served)]
    assert not _receive(peer, m.Rows(get, ROWS[0]), ROWS[1])
    assert _receive(peer, m.Withdrawn(put, 3)) == [Undone(put, 3)]
    assert _receive(peer, m.Done(close)) == [Answered(close, 0)]
    for request in (put, get, close, served, 99):
        peer.withdraw(request)
        peer.acknowledge(request, 2, is_all=True)
        peer.promote(request)
    assert not _sent(peer)


def test_rows_are_acknowledged_once(peer: Peer, ref: QueueRef) -> None:
    """Only rows that are here are acknowledged, the last of several times; a recall is for what was not handed over."""
    request = peer.request(ref, partial(m.Ask, count=1))
    _sent(peer)
    peer.acknowledge(request, 1, is_all=False)
    assert not _receive(peer, m.Recall(request))
    assert not _sent(peer)
    _receive(peer, m.Rows(request, ROWS[0]), ROWS[1])
    assert _receive(peer, m.Recall(request)) == [Recalled(request)]
    peer.acknowledge(request, 1, is_all=False)
    assert _receive(peer, m.Recall(request)) == [Recalled(request)]
    peer.acknowledge(request, 2, is_all=True)
    peer.acknowledge(request, 2, is_all=True)
    peer.withdraw(request)
    assert _sent(peer) == [m.Acknowledge(request, 2)]
    assert not _receive(peer, m.Recall(request))


@pytest.mark.parametrize("end", ["send", "withdraw", "reconnect", "another", "take another"])
def test_rows_that_were_taken_are_acknowledged_first(peer: Peer, ref: QueueRef, end: str) -> None:
    """What was only noted as taken is said before anything that gives the rest back, and once."""
    ask = peer.request(ref, partial(m.Ask, count=1, runs=2))
    other = peer.request(ref, partial(m.Ask, count=1, runs=2))
    for request in (ask, other):
        _receive(peer, m.Rows(request, ROWS[0]), ROWS[1])
    _sent(peer)
    peer.take(ask, 1)
    match end:
        case "withdraw":
            peer.withdraw(ask)
        case "take another":
            peer.take(other, 1)
        case "another":
            peer.acknowledge(other, 2, is_all=True)
        case "reconnect":
            peer.disconnected()
            peer.connected(beats=True)
            _sent(peer)
            _receive(peer, WELCOME)
        case _:
            pass
    sent = _sent(peer)
    assert sent[0] == m.Acknowledge(ask, 1)
    assert sum(isinstance(message, m.Acknowledge) and message.id == ask for message in sent) == 1
    assert not any(message == m.Acknowledge(ask, 1) for message in _sent(peer))


def test_rows_that_were_taken_are_acknowledged_before_a_request(peer: Peer, ref: QueueRef) -> None:
    """What a session asks is answered by a server that knows what was handed over in it before."""
    ask = peer.request(ref, partial(m.Ask, count=1, runs=2))
    _receive(peer, m.Rows(ask, ROWS[0]), ROWS[1])
    _sent(peer)
    peer.take(ask, 1)
    size = peer.request(ref, m.Size)
    assert _sent(peer) == [m.Acknowledge(ask, 1), m.Size(size, 1)]


def test_a_request_ahead_is_promoted_while_it_waits(peer: Peer, ref: QueueRef) -> None:
    """Promotion crosses the rows: where those are here, there is nothing to promote."""
    first, second = peer.request(ref, partial(m.Ask, count=1)), peer.request(ref, partial(m.Ask, count=1))
    _sent(peer)
    _receive(peer, m.Rows(first, ROWS[0]), ROWS[1])
    peer.promote(first)
    peer.promote(second)
    assert _sent(peer) == [m.Promote(second)]


def test_a_server_of_another_version(peer: Peer) -> None:
    """Both versions are named, whoever notices."""
    here, there = m.PROTOCOL_VERSION, m.PROTOCOL_VERSION + 1
    reason = f"the server speaks version {there} of the protocol and the client version {here}"
    for message in (
        m.Welcome(there, "", "", 0, []),
        m.Goodbye("VersionMismatch", reason),
    ):
        [ended] = _receive(peer, message)
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, VersionMismatch)
        assert reason in str(ended.error)


def test_goodbyes(peer: Peer) -> None:
    """An empty goodbye answers our bye; one that nobody asked for is an end, so that no call waits for ever.

    Semantics 0.4: calls of an ended session raise SessionClosed; a server that is shut down may come back.
    """
    assert _receive(peer, m.Goodbye("ConnectionLost", "shut down")) == [Parted("shut down")]
    for kind, expected in (("", ConnectionLost), ("SessionClosed", SessionClosed), ("Other", ConnectionLost)):
        [ended] = _receive(peer, m.Goodbye(kind, "it was so"))
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, expected)
        assert "it was so" in str(ended.error)
    peer.bye()
    assert _sent(peer) == [m.Bye()]
    assert _receive(peer, m.Goodbye("", "")) == [Ended(None)]
