"""Errors and statistics through the wire: nothing is too long, and what matters arrives."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from aioflow import errors
from aioflow.cluster import _messages as m
from aioflow.cluster._answers import cut, pack_error, pack_stats, unpack_error, unpack_stats
from aioflow.cluster._codec import HEADER_BYTES_MAX, decode, encode
from aioflow.errors import AioflowError, DeviceOutOfMemory, EndOfQueue, NodeFailed, RemoteError
from aioflow.queues import QueueStats
from aioflow.resources import LostProducer

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES: list[type[AioflowError]] = [
    kind
    for name in errors.__all__
    if issubclass(kind := getattr(errors, name), AioflowError) and kind is not RemoteError
]

# The longest that a character can become, in each way of counting.
TEXTS = {"ascii": "a", "two bytes": "ä", "four bytes": "\U0001f600", "no Unicode": "\udc80", "zero": "\0"}

_NOTHING: dict[str, int] = {}


def _through_the_wire(error: Exception) -> AioflowError:
    [header] = encode(pack_error(7, error))
    assert len(header) <= HEADER_BYTES_MAX
    message, rest = decode([header])
    assert isinstance(message, m.Error)
    assert message.id == 7
    assert not rest
    return unpack_error(message, "tcp://server:1")


def _raised(make: Callable[[], Any]) -> Exception:
    try:
        make()
    except Exception as error:  # noqa: BLE001 - any
        return error
    raise AssertionError


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_arrives(kind: type[AioflowError]) -> None:
    """An error of aioflow's own comes out as itself, with its text and its notes."""
    error = kind("what was expected, and what came")
    error.add_note("first")
    error.add_note("second")
    arrived = _through_the_wire(error)
    assert type(arrived) is kind
    assert str(arrived) == "what was expected, and what came"
    assert arrived.__notes__ == ["first", "second"]


def test_lost_producers_arrive() -> None:
    """A short epoch is never silent: who was lost, why, and where."""
    lost = (LostProducer("a", "ValueError: no", "Traceback: line 1"), LostProducer("b", "gone"))
    arrived = _through_the_wire(EndOfQueue("the end", lost_producers=lost))
    assert isinstance(arrived, EndOfQueue)
    assert arrived.lost_producers == lost


def test_an_unforeseen_error_arrives() -> None:
    """It is a RemoteError that says what it was over there, where, and in which line."""
    arrived = _through_the_wire(_raised(lambda: _NOTHING["x"]))
    assert isinstance(arrived, RemoteError)
    assert (arrived.type_name, arrived.peer) == ("KeyError", "tcp://server:1")
    assert str(arrived) == "tcp://server:1: 'x'"
    assert '_NOTHING["x"]' in arrived.traceback_text


def test_an_unforeseen_error_arrives_by_way_of_another_server() -> None:
    """With the same class and traceback, and one note of it."""
    arrived = _through_the_wire(_through_the_wire(_raised(lambda: _NOTHING["x"])))
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name == "KeyError"
    assert '_NOTHING["x"]' in arrived.traceback_text
    assert len(arrived.__notes__) == 1
    assert str(arrived).endswith(": 'x'")


def test_a_failed_node_arrives() -> None:
    """With its name, device and cause, from a worker, and from there by way of the master."""

    def fail() -> None:
        try:
            _NOTHING["a, failed: b"]
        except KeyError as error:
            text = f"node 'n' on /cpu:0, made at a.py:1, failed: KeyError: {error}"
            raise NodeFailed(text, node="n", device="/cpu:0") from error

    error: Exception = _raised(fail)
    error.add_note("a note")
    for _ in range(2):
        error = _through_the_wire(error)
        assert isinstance(error, NodeFailed)
        assert (error.node, error.device) == ("n", "/cpu:0")
        assert str(error) == "node 'n' on /cpu:0, made at a.py:1, failed: KeyError: 'a, failed: b'"
        assert error.__notes__ == ["a note"]
        cause = error.__cause__
        assert isinstance(cause, RemoteError)
        assert str(cause) == "KeyError: 'a, failed: b'"
        assert (cause.type_name, cause.peer) == ("KeyError", "/cpu:0")
        assert '_NOTHING["a, failed: b"]' in cause.traceback_text
        assert cause.traceback_text in cause.__notes__[0]


def test_figures_arrive() -> None:
    """What was asked of a device's memory, and what there is."""
    error: Exception = DeviceOutOfMemory("full", asked=3 << 40, held=1 << 40, limit=2 << 40)
    for _ in range(2):
        error = _through_the_wire(error)
        assert isinstance(error, DeviceOutOfMemory)
        assert (error.asked, error.held, error.limit) == (3 << 40, 1 << 40, 2 << 40)


def test_an_error_without_text_is_named() -> None:
    """An empty message says nothing, and an empty reason would read as an orderly end."""
    assert str(_through_the_wire(_raised(lambda: next(iter(()))))) == "tcp://server:1: StopIteration"


def test_a_class_that_only_the_other_side_knows() -> None:
    """An error of a later version, or a name that is no error at all, is a RemoteError."""
    for kind in ("FromTheFuture", "Any", "annotations", "__doc__", ""):
        message = m.Error(1, kind, "text", [], [], "FromTheFuture", "")
        assert type(unpack_error(message, "here")) is RemoteError


@pytest.mark.parametrize("letter", TEXTS.values(), ids=TEXTS)
def test_whatever_is_long_is_cut(letter: str) -> None:
    """The header fits, in bytes, however long everything is; a message keeps its start, a traceback its end."""
    long = letter * 100_000
    lost = tuple(LostProducer(f"{i}{long}", f"{i}{long}", f"{long}{i}") for i in range(100))
    error = EndOfQueue(f"start {long}", lost_producers=lost)
    for _ in range(100):
        error.add_note(long)
    arrived = _through_the_wire(error)
    assert isinstance(arrived, EndOfQueue)
    assert str(arrived).startswith("start ")
    assert len(arrived.__notes__) == 16  # eight tracebacks, and eight of its own
    assert [producer.name[0] for producer in arrived.lost_producers] == list("01234567")
    assert [producer.traceback[-1] for producer in arrived.lost_producers] == list("01234567")


@pytest.mark.parametrize("letter", TEXTS.values(), ids=TEXTS)
def test_a_long_traceback_is_cut(letter: str) -> None:
    """Of an unforeseen error the end of its traceback stays, where it was raised."""
    long = letter * 100_000

    def fail() -> None:
        raise type("Odd" + "d" * 2000, (Exception,), {})(long)

    arrived = _through_the_wire(_raised(fail))
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name.startswith("Oddd")
    assert 1000 < len(arrived.traceback_text.encode()) <= 20_480


def test_one_lost_producer_keeps_its_traceback() -> None:
    """What several share, one has for itself."""
    text = "\n".join(f"line {i}" for i in range(1000))
    arrived = _through_the_wire(EndOfQueue("end", lost_producers=(LostProducer("a", "b", text),)))
    assert isinstance(arrived, EndOfQueue)
    assert arrived.lost_producers[0].traceback == text


def test_cutting() -> None:
    """Never within a character, never longer than allowed, and not at all where it fits."""
    assert cut("ä" * 5, 10) == "ä" * 5
    for size in range(10, 30):
        for text in ("ä" * 50, "\U0001f600" * 50, "a" * 50):
            for end in (False, True):
                shortened = cut(text, size, end=end)
                assert len(shortened.encode()) <= size
                assert set(shortened) == {text[0], " ", "."}


def test_statistics_arrive() -> None:
    """Every field of a snapshot comes out as it was."""
    stats = QueueStats("q", "FIFOQueue", -1, 1, 2, 3, 4, 5, True, 6, 7, 8, 9, ("a", "b"), "c")
    message, _ = decode(encode(pack_stats(1, stats)))
    assert isinstance(message, m.Statistics)
    assert unpack_stats(message) == stats
    assert len(fields(QueueStats)) == 15
