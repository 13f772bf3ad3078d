"""Faults that simulated histories of sessions have found, each in the fewest steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode
from aioflow.cluster._events import Voided
from aioflow.cluster._peer import Peer
from aioflow.cluster._sessions import Sessions
from aioflow.errors import QueueReset
from aioflow.resources import QueueKey, QueueRef

if TYPE_CHECKING:
    from aioflow.cluster._messages import Message

ROWS: Any = ([["int8", [2]]], [b"ab"])


@pytest.fixture
def ref(define: Any) -> QueueRef:
    """A shared queue."""
    return QueueRef(QueueKey("", "q"), define())


def _connect(peer: Peer, epoch: str = "1") -> list[Message]:
    """Connect anew; return what the peer sends after the welcome."""
    peer.disconnected()
    peer.connected(beats=True)
    peer.take_messages()
    peer.receive(m.Welcome(m.PROTOCOL_VERSION, epoch, "local", 0, []), [])
    return _sent(peer)


def _sent(peer: Peer) -> list[Message]:
    return [decode(frames)[0] for frames in peer.take_messages()]


def test_a_reset_is_told_after_two_restarts(ref: QueueRef) -> None:
    """A queue that was not used between two restarts of the server is told once, by the first call after both."""
    peer = Peer("secret", "here")
    _connect(peer)
    peer.receive(m.Done(peer.request(ref, m.Size)), [])
    _connect(peer, "2")
    _connect(peer, "3")
    with pytest.raises(QueueReset):
        peer.request(ref, m.Size)
    assert [type(message) for message in (peer.request(ref, m.Size), _sent(peer))[1]] == [m.Define, m.Size]


def test_an_acknowledgement_is_of_one_delivery(ref: QueueRef) -> None:
    """What was handed over of rows that went back is not acknowledged again of the rows that came instead."""
    peer = Peer("secret", "here")
    _connect(peer)
    get = peer.request(ref, partial(m.Ask, count=1, runs=2))
    peer.receive(m.Rows(get, ROWS[0]), ROWS[1])
    peer.acknowledge(get, 1, is_all=False)
    for _ in range(2):  # whether or not the first of these connections has brought anything
        sent = _connect(peer)
        assert sent == [m.Acknowledge(get, 1), m.Resume(), m.Ask(get + 1, 1, 1, 2)]
    assert Voided(get, get + 1) in peer.take_events()
    peer.receive(m.Rows(get + 1, ROWS[0]), ROWS[1])
    peer.acknowledge(get + 1, 2, is_all=True)
    assert _sent(peer) == [m.Acknowledge(get + 1, 2)]


def test_only_a_heard_process_can_have_ended() -> None:
    """A connection that ends before the first beat proves nothing; a beat that comes before the hello is heard."""
    sessions = Sessions(lost_s=3.0, session_s=60.0)
    silent = sessions.connect("silent", 1, 0.0, beats=True, is_local=True)
    sessions.disconnect(silent, 1.0)
    assert not sessions.has_ended(silent)
    assert not sessions.beat("beaten", 2, 1.0)
    beaten = sessions.connect("beaten", 3, 1.0, beats=True, is_local=True)
    sessions.disconnect(beaten, 2.0)
    assert not sessions.has_ended(beaten)
    assert sessions.silence(2) is beaten
    assert sessions.has_ended(beaten)


def test_a_registration_goes_with_its_queue(ref: QueueRef) -> None:
    """A producer of a queue that its own session deleted is not registered anew after a restart of the server."""
    peer = Peer("secret", "here")
    _connect(peer)
    peer.receive(m.Done(peer.request(ref, partial(m.Join, name="p", rejoin_s=0.0))), [])
    peer.receive(m.Done(peer.request(ref, m.Delete)), [])
    assert _connect(peer, "2") == [m.Resume()]
