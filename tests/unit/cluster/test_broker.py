"""The broker's rules, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow import queues
from aioflow.cluster import _admission, _broker, _tickets
from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode, pack_definition

if TYPE_CHECKING:
    from aioflow.cluster._messages import Message
    from tests.unit.cluster.conftest import Desk


# Sessions


def test_another_version_is_refused(desk: Desk) -> None:
    """A hello in another version, whatever else it says, is answered by both versions and what to do."""
    desk.refused(
        desk.send(1, m.Hello(m.PROTOCOL_VERSION + 1, "?")),
        f"the server speaks version {m.PROTOCOL_VERSION} of the protocol and the client",
    )
    assert not desk.send(1, m.Hello(m.PROTOCOL_VERSION, "secret"))


@pytest.mark.parametrize("message", [m.Size(1, 1), m.Define(1, "", "q", private=False, definition=[]), m.Bye()])
def test_a_message_before_hello_is_refused(desk: Desk, message: Message) -> None:
    """Nothing is done for who has not said hello."""
    desk.broker.receive(1, message, [], 0.0)
    desk.refused(desk.take(1), f"{type(message).__name__} came before Hello")


def test_what_only_a_server_sends_is_refused(desk: Desk) -> None:
    """A client that sends a server's message ends its session."""
    desk.hello(1)
    desk.refused(desk.send(1, m.Done(1)), "Done came from a client")


def test_a_second_hello_is_refused(desk: Desk) -> None:
    """Hello comes once; what the session had waiting does not stay behind."""
    desk.hello(1, 2)
    desk.define(1, 2)
    assert not desk.get(1, 1)
    desk.refused(desk.send(1, m.Hello(m.PROTOCOL_VERSION, "another")), "Hello came twice")
    desk.only(desk.put(2, 1, 5), m.Done)
    assert desk.get(2, 2) == [[5]]


def test_nothing_is_heard_after_a_goodbye(desk: Desk) -> None:
    """A peer that was refused, or has said bye, is told so once, and no request of it is done."""
    desk.hello(1, 2, 3)
    desk.define(1, 2, 3)
    desk.only(desk.send(1, m.Bye()), m.Goodbye)
    desk.only(desk.send(2, m.Done(1)), m.Goodbye)
    for peer in (1, 2):
        for message in (m.Bye(), m.Size(1, 1), m.Hello(m.PROTOCOL_VERSION, "new"), m.Done(1)):
            assert not desk.send(peer, message)
        assert not desk.put(peer, 2, 1)
    assert desk.size(3) == 0


def test_a_number_may_come_again_after_its_peer_has_gone(desk: Desk) -> None:
    """What a broker remembers of a refused peer ends with its connection."""
    desk.refused(desk.send(1, m.Size(1, 1)), "before Hello")
    desk.broker.lost(1, 0.0)
    desk.hello(1)


def test_a_server_that_shuts_down_tells_everybody(desk: Desk) -> None:
    """Everybody who is there and who comes later is told why; nothing more is accepted."""
    desk.hello(1)
    desk.define(1)
    desk.broker.shut_down("the server was shut down")
    desk.refused(desk.take(1), "the server was shut down")
    assert not desk.put(1, 1, 1)
    desk.refused(desk.send(2, m.Hello(m.PROTOCOL_VERSION, "late")), "the server was shut down")


# Requests


def test_a_number_that_was_not_defined(desk: Desk) -> None:
    """A request on a queue number without a definition fails by itself."""
    desk.hello(1)
    desk.failed(desk.send(1, m.Size(7, 3)), "NotFound", "no queue number 3")
    desk.define(1)
    assert desk.size(1) == 0


def test_a_number_is_defined_once(desk: Desk, define: Any) -> None:
    """A second definition of a number would move requests to another queue."""
    desk.hello(1)
    desk.define(1)
    again = m.Define(1, "", "other", private=False, definition=pack_definition(define()))
    desk.refused(desk.send(1, again), "in use")


def test_definitions_that_no_constructor_makes(desk: Desk, define: Any) -> None:
    """A foreign definition that the queue's rules do not foresee ends the session, and makes no queue."""
    fields = pack_definition(define("PriorityQueue", [("int64", ())]))
    fields[6][0][0] = "str"
    desk.hello(1)
    desk.refused(desk.send(1, m.Define(1, "", "q", private=False, definition=fields)), "PriorityQueue")
    assert not desk.resources.queues


def test_a_definition_that_disagrees(desk: Desk) -> None:
    """The one who comes second learns every difference, and can do nothing on the queue."""
    desk.hello(1, 2)
    desk.define(1)
    desk.define(2, capacity=11)
    assert desk.size(1) == 0
    desk.failed(desk.send(2, m.Size(1, 1)), "SpecMismatch", "capacity: the queue has 10, the definition 11")


def test_private_queues_are_apart(desk: Desk) -> None:
    """A private queue is its session's, whatever it is called, and goes with it."""
    desk.hello(1, 2)
    desk.define(1, 2, private=True)
    desk.only(desk.put(1, 1, 1), m.Done)
    assert (desk.size(1), desk.size(2)) == (1, 0)
    desk.failed(desk.send(2, m.Lookup(2, "", "q")), "NotFound", "there is no queue 'q'")
    desk.only(desk.send(1, m.Bye()), m.Goodbye)
    assert [key.session for key in desk.resources.queues] == ["secret 2"]


def test_an_id_that_is_in_use(desk: Desk) -> None:
    """A request whose id another one has cannot be answered: nothing of it is done, and the session ends."""
    desk.hello(1, 2)
    desk.define(1, 2)
    assert desk.get(1, 7) == []
    desk.refused(desk.put(1, 7, 1), "id 7, which is in use")
    assert desk.size(2) == 0


def test_an_id_of_rows_that_are_not_acknowledged_is_in_use(desk: Desk) -> None:
    """What was sent under an id goes back when the id comes again."""
    desk.hello(1, 2)
    desk.define(1, 2)
    desk.only(desk.put(2, 1, 5), m.Done)
    assert desk.get(1, 7) == [[5]]
    desk.refused(desk.send(1, m.Size(7, 1)), "in use")
    assert desk.get(2, 2) == [[5]]


def test_too_many_requests(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request too many fails by itself, and nothing of it is done."""
    monkeypatch.setattr(_broker, "REQUESTS_MAX", 2)
    desk.hello(1, 2)
    desk.define(1, 2)
    assert desk.get(1, 1) == desk.get(1, 2) == []
    desk.failed(desk.put(1, 3, 5), "SessionError", "2 requests under way")
    assert desk.take(1) == []
    desk.send(1, m.Withdraw(1))
    desk.only(desk.put(2, 1, 6), m.Done)
    assert desk.take_values(1) == [[6]]


@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [
        ("int32", [2], "expected int64[]"),
        ("int64", [2, 1], "expected 2 rows of int64[]"),
        ("str", [1], "expected int64[]"),
    ],
)
def test_a_put_of_what_the_queue_does_not_hold(desk: Desk, dtype: str, shape: list[int], text: str) -> None:
    """Wrong dtypes and shapes of a foreign client fail that put, before anything is queued."""
    desk.hello(1)
    desk.define(1)
    frames = [bytes(8), b""] if dtype == "str" else [bytes(np.dtype(dtype).itemsize * 2)]
    desk.failed(desk.send(1, m.Put(1, 1, [[dtype, shape]]), frames), "SpecMismatch", text)
    assert desk.size(1) == 0


def test_a_put_of_columns_that_differ_in_length(desk: Desk) -> None:
    """Every column has the same number of rows, and there is one for each component; a client counts its frames."""
    desk.hello(1)
    desk.define(1, components=[("int8", ()), ("int8", ())])
    desk.failed(
        desk.send(1, m.Put(1, 1, [["int8", [2]], ["int8", [1]]]), [b"ab", b"a"]), "SpecMismatch", "expected 2 rows"
    )
    desk.failed(desk.send(1, m.Put(2, 1, [["int8", [2]]]), [b"ab"]), "SpecMismatch", "expected int8[], int8[]")
    desk.failed(desk.send(1, m.Put(3, 1, [])), "SpecMismatch", "got components of []")
    desk.refused(
        desk.send(1, m.Put(4, 1, [["int8", [2]], ["int8", [2]]]), [b"ab"]),
        "2 columns have 2 frames, got 1",
    )


def test_a_put_of_very_many_elements_without_a_byte(desk: Desk) -> None:
    """No frame pays for rows without bytes, and a bag would keep a record of each."""
    desk.hello(1)
    desk.define(1, kind="RandomShuffleQueue", components=[("int8", (0,))], capacity=-1, capacity_bytes=10)
    message = m.Put(1, 1, [["int8", [2**31, 0]]])
    desk.failed(desk.send(1, message, [b""]), "SpecMismatch", "2147483648 elements without a byte")
    desk.only(desk.send(1, m.Put(2, 1, [["int8", [_admission.EMPTY_ROWS_MAX, 0]]]), [b""]), m.Done)


def test_a_batch_without_shapes(desk: Desk) -> None:
    """Elements without shapes cannot be batched, and are taken one by one."""
    desk.hello(1)
    desk.define(1, components=[("int8", None)])
    desk.only(desk.send(1, m.Put(1, 1, [["int8", [1, 1]]]), [b"a"]), m.Done)
    desk.only(desk.send(1, m.Put(2, 1, [["int8", [1, 1, 2]]]), [b"ab"]), m.Done)
    for message in (m.Get(3, 1, 2, up_to=True), m.Ask(4, 1, 2), m.Get(5, 1, 0, up_to=False)):
        desk.failed(desk.send(1, message), "SpecMismatch", "without shapes")
    assert desk.get(1, 6) == [[[97]]]


def test_strings_that_padding_blows_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long and a wide element need their product when padded: refused by the bytes, and back in the queue."""
    monkeypatch.setattr(_admission, "FRAME_BYTES_MAX", 1599)
    desk.hello(1, 2)
    desk.define(1, 2, kind="PaddingFIFOQueue", components=[("bytes", (None, None))])
    for request, shape in enumerate(([1, 1, 10], [1, 10, 1]), 1):
        desk.only(desk.send(1, m.Put(request, 1, [["bytes", shape]]), [bytes(80), b""]), m.Done)
    desk.failed(desk.send(1, m.Get(3, 1, 2, up_to=False)), "QueueError", "one component has 1600 bytes")
    assert desk.size(2) == 2


def test_numbers_travel_as_they_are(desk: Desk) -> None:
    """Numbers of several shapes are not padded by the server: their sizes, and no byte more than there were."""
    desk.hello(1)
    desk.define(1, kind="PaddingFIFOQueue", components=[("int8", (None, None))])
    sizes = np.array([[1, 10], [10, 1]]).tobytes()
    desk.only(desk.send(1, m.Put(1, 1, [["int8", [1, 1, 10]]]), [bytes(range(10))]), m.Done)
    desk.only(desk.send(1, m.Put(2, 1, [["int8", [1, None, None]]]), [sizes[16:], bytes(range(10, 20))]), m.Done)
    desk.only(desk.send(1, m.Put(3, 1, [["int8", [2, None, None]]]), [sizes, bytes(20)]), m.Done)
    desk.broker.receive(1, m.Get(4, 1, 2, up_to=False), (), desk.now)
    [(_, [header, *frames])] = desk.broker.take_messages()
    assert decode([header, *frames])[0] == m.Rows(4, [["int8", [2, None, None]]])
    assert list(map(bytes, frames)) == [sizes, bytes(range(20))]


@pytest.mark.parametrize(
    "column",
    [
        ["int8", [1, None]],
        ["int8", [1, None, None, None]],
        ["int8", [2, None, None]],
        ["int16", [1, None, None]],
    ],
)
def test_rows_that_do_not_fit(desk: Desk, column: list[Any]) -> None:
    """Rows of several shapes are held against the definition, each of them, before any is taken."""
    desk.hello(1)
    desk.define(1, kind="PaddingFIFOQueue", components=[("int8", (None, 2))])
    dtype, (rows, *rank) = column
    sizes = np.array([[2] * len(rank), [1] * len(rank)][:rows])
    values = bytes(int(sizes.prod(axis=1).sum()) * (2 if dtype == "int16" else 1))
    desk.failed(desk.send(1, m.Put(1, 1, [column]), [sizes.tobytes(), values]), "SpecMismatch", "int8")
    assert desk.size(1) == 0


@pytest.mark.parametrize("dtype", ["int8", "bytes"])
def test_a_batch_that_no_frame_holds(desk: Desk, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """It is refused by its bytes and back in the queue; fewer elements are served."""
    monkeypatch.setattr(_admission, "FRAME_BYTES_MAX", 99)
    desk.hello(1)
    desk.define(1, components=[(dtype, (10,) if dtype == "int8" else ())], capacity=20)
    row = [bytes(10)] if dtype == "int8" else [(10).to_bytes(8, "little"), bytes(10)]
    for request in range(1, 12):
        shape = [1, 10] if dtype == "int8" else [1]
        desk.only(desk.send(1, m.Put(request, 1, [[dtype, shape]]), row), m.Done)
    desk.failed(desk.send(1, m.Get(20, 1, 11, up_to=False)), "QueueError", "take fewer elements")
    desk.only(desk.send(1, m.Get(21, 1, 9, up_to=False)), m.Rows)
    assert desk.size(1) == 2


def test_a_fault_in_one_answer_touches_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One put serves two gets; what goes wrong with the first one's rows fails that get, and they serve the next."""
    desk.hello(1, 2, 3)
    desk.define(1, 2, 3)
    assert desk.get(1, 1) == desk.get(2, 1) == []
    gather, failures = queues.gather, iter([MemoryError("no memory for it"), None, None])

    def gather_or_fail(*arguments: Any) -> Any:
        if failure := next(failures):
            raise failure
        return gather(*arguments)

    monkeypatch.setattr(_tickets, "gather", gather_or_fail)
    desk.only(desk.put(3, 1, 5, 6), m.Done)
    error = desk.only(desk.take(1), m.Error)
    assert (error.kind, error.type_name, error.text) == ("RemoteError", "MemoryError", "no memory for it")
    assert desk.take_values(2) == [[6]]
    assert desk.get(3, 2) == [[5]]


def test_a_fault_in_a_handler_fails_that_request(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen exception is that request's answer, with its traceback; the session goes on."""
    desk.hello(1)
    desk.define(1)
    monkeypatch.setattr(desk.resources, "lookup", lambda _: 1 / 0)
    error = desk.only(desk.send(1, m.Lookup(1, "", "q")), m.Error)
    assert (error.kind, error.type_name) == ("RemoteError", "ZeroDivisionError")
    assert "1 / 0" in error.traceback
    assert desk.size(1) == 0
