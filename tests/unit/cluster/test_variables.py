"""Variables and containers in the protocol: what a server refuses, does once, and keeps for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode, describe_columns, encode_columns
from aioflow.cluster._events import Answered, Welcomed
from aioflow.cluster._peer import CONFIRM_BYTES, Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._messages import Message
    from aioflow.transport import Frame
    from tests.unit.cluster.conftest import Desk


VARIABLE: dict[str, Any] = {"container": "", "name": "v", "private": False, "dtype": "int64", "shape": []}


def read(request: int, **changes: Any) -> m.Read:
    """Read variable v, a scalar."""
    return m.Read(request, **(VARIABLE | changes))


def assign(request: int, value: Any, how: str = "set", **changes: Any) -> tuple[m.Assign, Sequence[Frame]]:
    """Assign to variable v; the message and its frames."""
    columns = (np.array([value], np.int64),)
    fields: dict[str, Any] = (
        VARIABLE | {"fetch": False, "how": how, "columns": describe_columns(columns, ["int64"])} | changes
    )
    message = m.Assign(request, **fields)
    return message, encode_columns(columns)


def value(desk: Desk, peer: int, **changes: Any) -> int:
    """Read variable v."""
    desk.broker.receive(peer, read(10_000, **changes), [], desk.now)
    [[number]] = desk.take_values(peer)
    return int(number)


@pytest.fixture
def far(desk: Desk) -> Desk:
    """A broker with session a of another host, at peer 1, and an observer at peer 9."""
    desk.connect(1, "a", beats=True)
    desk.hello(9)
    return desk


# The server


def test_an_assign_is_seen_by_all(far: Desk) -> None:
    """The value is the server's; with `fetch` the answer has it."""
    assert far.send(1, *assign(1, 5)) == [m.Rows(1, [])]
    assert value(far, 9) == 5
    far.broker.receive(9, *assign(2, 3, "add", fetch=True), far.now)
    assert far.take_values(9) == [[8]]
    assert far.send(1, *assign(3, 1, "sub")) == [m.Rows(3, [])]
    assert value(far, 9) == 7


def test_an_assign_that_comes_again_is_done_once(far: Desk) -> None:
    """Semantics 0.3: a retry goes by its sequence number, and has the answer of the first, value included."""
    far.send(1, *assign(1, 5))
    far.broker.receive(1, *assign(2, 1, "add", fetch=True), far.now)
    assert far.take_values(1) == [[6]]
    far.broker.lost(1, far.now)
    far.send(9, *assign(1, 10, "add"))
    far.reconnect(2, "a")
    far.send(2, m.Resume())
    for _ in range(2):
        far.broker.receive(2, *assign(2, 1, "add", fetch=True), far.now)
        assert far.take_values(2) == [[6]]
    assert value(far, 9) == 16


def test_a_refused_assign_is_refused_again(far: Desk) -> None:
    """It is judged anew: what changed nothing is not kept."""
    for _ in range(2):
        far.failed(far.send(1, *assign(1, 1, "add")), "NotInitialised", "variable 'v' has no value yet")
    assert [list(session.answers) for session in far.broker._sessions if session.name == "a"] == [[]]


def test_a_read_is_not_kept(far: Desk) -> None:
    """A question that comes again is asked again: the answer may be another one."""
    far.send(1, *assign(1, 5))
    assert value(far, 1) == 5
    far.send(9, *assign(1, 6))
    assert value(far, 1) == 6
    far.failed(far.send(1, read(2, name="w")), "NotInitialised", "variable 'w' has no value yet")
    far.failed(far.send(1, read(3, dtype="int8")), "SpecMismatch", "variable 'v' exists with values int64[]")


def test_private_variables_are_apart(far: Desk) -> None:
    """One is its session's, whatever it is called, and goes with it."""
    for peer, number in ((1, 5), (9, 6)):
        far.send(peer, *assign(1, number, private=True))
    assert (value(far, 1, private=True), value(far, 9, private=True)) == (5, 6)
    far.failed(far.send(1, read(2)), "NotInitialised", "'v'")
    far.only(far.send(1, m.Bye()), m.Goodbye)
    assert [key.session for key in far.resources.variables if key.session] == ["secret 9"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"how": "mul"}, "Assign.how must be one of"), ({"dtype": "int65"}, "Assign.dtype 'int65' is no dtype")],
)
def test_what_no_client_of_ours_sends(far: Desk, changes: dict[str, Any], reason: str) -> None:
    """It ends the session, and makes no variable."""
    message, frames = assign(1, 1, **changes)
    far.refused(far.send(1, message, frames), reason)
    assert not far.resources.variables


@pytest.mark.parametrize("columns", [[], [1, 2]])
def test_an_assign_has_one_column_of_one_row(far: Desk, columns: list[int]) -> None:
    """Anything else is refused, and the variable is as it was."""
    far.send(1, *assign(1, 5))
    arrays = (np.array(columns, np.int64),)
    message = m.Assign(
        2, "", "v", private=False, dtype="int64", shape=[], how="set", fetch=False,
        columns=describe_columns(arrays, ["int64"]),
    )  # fmt: skip
    answers = far.send(1, message, encode_columns(arrays))
    assert len(answers) == 1
    assert isinstance(answers[0], (m.Error, m.Goodbye))
    assert value(far, 9) == 5


def test_a_reset_is_done_once(far: Desk) -> None:
    """Sent again it does not empty what was made since; who waits on a queue learns that it is gone."""
    far.define(1, 9)
    far.send(9, *assign(1, 5))
    assert far.get(9, 2) == []
    assert far.send(1, m.Reset(1, [""])) == [m.Done(1)]
    far.failed(far.take(9), "NotFound", "queue 'q' was deleted")
    far.send(9, *assign(3, 6))
    far.broker.lost(1, far.now)
    far.reconnect(2, "a")
    far.send(2, m.Resume())
    assert far.send(2, m.Reset(1, [""])) == [m.Done(1)]
    assert value(far, 9) == 6


# The client


@pytest.fixture
def peer() -> Peer:
    """A peer that was welcomed."""
    peer = Peer("secret", "tcp://server:1")
    again(peer)
    return peer


def again(peer: Peer, epoch: str = "first") -> list[Message]:
    """Lose the connection and make another; return what is sent behind `Resume`."""
    peer.disconnected()
    peer.connected(beats=True)
    peer.take_messages()
    peer.receive(m.Welcome(m.PROTOCOL_VERSION, epoch, "local", 0, []), [])
    assert isinstance(peer.take_events()[0], Welcomed)
    messages = sent(peer)
    return messages[messages.index(m.Resume()) + 1 :]


def sent(peer: Peer) -> list[Message]:
    """What is to be sent."""
    return [decode(frames)[0] for frames in peer.take_messages()]


def request_assign(peer: Peer, how: str = "set", *, fetch: bool = False) -> int:
    """Ask for an assignment."""
    _, frames = assign(1, 5)
    return peer.request(None, lambda request, _: assign(request, 5, how, fetch=fetch)[0], frames)


@pytest.mark.parametrize("epoch", ["first", "second"])
def test_requests_without_an_answer_are_sent_again(peer: Peer, epoch: str) -> None:
    """The same ids, in order; also to a server that was started anew, which no queue's reset concerns."""
    first = request_assign(peer)
    second = peer.request(None, lambda request, _: read(request))
    third = peer.request(None, lambda request, _: m.Reset(request, [""]))
    sent(peer)
    expected = [assign(first, 5)[0], read(second), m.Reset(third, [""])]
    for _ in range(2):
        assert again(peer, epoch) == expected
        assert peer.take_events() == []
    peer.receive(m.Rows(first, []), [])
    peer.receive(m.Done(third), [])
    assert [event.id for event in peer.take_events() if isinstance(event, Answered)] == [first, third]
    assert again(peer, epoch) == [read(second)]


def test_large_values_are_confirmed_at_once(peer: Peer) -> None:
    """A server keeps each until it hears that it has come: small ones wait for company, large ones do not."""
    small = request_assign(peer, fetch=True)
    large = request_assign(peer, fetch=True)
    sent(peer)
    peer.receive(m.Rows(small, [["int64", [1]]]), [bytes(8)])
    assert sent(peer) == []
    peer.receive(m.Rows(large, [["int8", [1, CONFIRM_BYTES]]]), [bytes(CONFIRM_BYTES)])
    assert sent(peer) == [m.Confirm([small, large])]
