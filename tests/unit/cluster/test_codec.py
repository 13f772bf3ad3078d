"""The limits of the codec, one by one, and what else its properties do not show."""

from __future__ import annotations

import math
import resource
import sys
import weakref
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import pytest

from aioflow.cluster import _fields as f
from aioflow.cluster import _messages as m
from aioflow.cluster._codec import HEADER_BYTES_MAX, decode, decode_columns, encode, unpack_definition
from aioflow.errors import LocalProtocolError, RemoteProtocolError
from aioflow.specs import Strings

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES = list(m.MESSAGES.values())

DEFINITION = ["PriorityQueue", 10, 1000, 0, None, 2, [["int64", []], ["float32", [2, 3]]], ["p", "x"]]


# Limits: each says what was expected and what came


def _header(*values: Any) -> bytes:
    return msgpack.packb(list(values))  # type: ignore[no-any-return]


def _put(*described: Any) -> bytes:
    return _header(MESSAGES.index(m.Put), 1, 1, list(described))


BOMBS: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "header bytes": (lambda: [bytes(HEADER_BYTES_MAX + 1)], "a header of 65537 bytes, at most 65536 are allowed"),
    "empty header": (lambda: [b""], "no msgpack within the limits"),
    "two values": (lambda: [b"\x01\x01"], "no msgpack within the limits"),
    "no list": (lambda: [_header()[:0] + msgpack.packb(5)], "names no message; expected .*, got 5"),
    "no code": (lambda: [_header()], "names no message"),
    "a code that is true": (lambda: [_header(True, 1)], "names no message"),
    "an unknown code": (lambda: [_header(len(MESSAGES))], rf"names no message; .*, got \[{len(MESSAGES)}\]"),
    "nesting": (lambda: [b"\x91" * 60_000 + b"\x01"], "no msgpack within the limits"),
    "a list of 4 billion": (lambda: [b"\xdd\xff\xff\xff\xff"], "no msgpack within the limits: .*8192"),
    "nested long lists": (lambda: [b"\xdc\x04\x00" * 20_000], "no msgpack within the limits"),
    "text of 4 GB": (lambda: [b"\x92\x00\xdb\xff\xff\xff\xff"], "no msgpack within the limits"),
    "a map": (lambda: [_header(0, {"a": 1})], "no msgpack within the limits"),
    "bytes": (lambda: [_header(0, b"a")], "no msgpack within the limits"),
    "an extension": (lambda: [b"\x92\x00\xc7\x01\x05a"], "no msgpack within the limits"),
    "text that is not UTF-8": (lambda: [b"\x93\x00\x01\xa2\xed\xa0"], "no msgpack within the limits"),
    "fields": (lambda: [_header(MESSAGES.index(m.Size), 1)], "Size has 2 fields, got 1"),
    "text chars": (
        lambda: [_header(MESSAGES.index(m.Goodbye), "", "x" * (f.TEXT_CHARS_MAX + 1))],
        "Goodbye.reason must be a string of 0 to 32768 characters, got 'xxx",
    ),
    "a negative number": (
        lambda: [_header(MESSAGES.index(m.Get), 1, 1, -1, False)],
        "Get.count must be an integer from 0 to 2147483647, got -1",
    ),
    "not a number": (
        lambda: [_header(MESSAGES.index(m.Join), 1, 1, "a", math.nan, False)],
        "Join.rejoin_s must be a finite number of at least 0, got nan",
    ),
    "an id of 0": (lambda: [_header(MESSAGES.index(m.Size), 0, 1)], "Size.id must be an integer from 1 to .*, got 0"),
    "an empty session": (
        lambda: [_header(0, m.PROTOCOL_VERSION, "", "", False, True)],
        "Hello.session must be a string of 1 to 1024 characters, got ''",
    ),
    "components": (lambda: [_put(*[["int8", []]] * 1025)], "Put.columns must be a list of at most 1024"),
    "rank": (lambda: [_put(["int8", [1] * 65])], "Put.columns must be .* at most 64, each nil or an integer from 0"),
    "rank 0": (lambda: [_put(["int8", []]), b"a"], r"a column of shape \[\]; expected rank 1 to 64"),
    "a huge shape": (lambda: [_put(["int8", [2**40]]), b"a"], "int8 of shape .* has 1099511627776 bytes, got 1"),
    "an overflowing shape": (lambda: [_put(["int8", [2**32, 2**32]]), b""], "at most 576460752303423487 values"),
    "an overflowing empty shape": (lambda: [_put(["int64", [2**62, 0]]), b""], "at most 576460752303423487 values"),
    "an unknown dtype": (lambda: [_put(["int128", [1]]), b"a"], "a column of dtype 'int128'; expected one of"),
    "objects": (lambda: [_put(["object", [1]]), bytes(8)], "a column of dtype 'object'; expected one of"),
    "another spelling of a dtype": (lambda: [_put(["<i8", [1]]), bytes(8)], "a column of dtype '<i8'; expected one of"),
    "a dtype to be evaluated": (lambda: [_put(["(2,", [1]]), bytes(8)], r"a column of dtype '\(2,'; expected one of"),
    "too few frames": (lambda: [_put(["int8", [1]], ["str", [1]]), b"a"], "2 columns have 3 frames, got 1"),
    "too many frames": (lambda: [_put(["int8", [1]]), b"a", b"a"], "1 columns have 1 frames, got 2"),
    "frames behind another message": (lambda: [_header(MESSAGES.index(m.Bye)), b"a"], "Bye has no frames .*, got 1"),
    "a bool of 2": (lambda: [_put(["bool", [1]]), b"\x02"], "a bool that is neither 0 nor 1"),
    "lengths below 0": (lambda: [_put(["str", [2]]), *_lengths(-1, 2, data=b"a")], "lengths must be 0 to 1"),
    "lengths above": (lambda: [_put(["bytes", [1]]), *_lengths(2**62, data=b"a")], "lengths must be 0 to 1"),
    "lengths that overflow": (
        lambda: [_put(["str", [4]]), *_lengths(*[2**62] * 4, data=b"")],
        "lengths must be 0 to 0",
    ),
    "lengths short of the data": (
        lambda: [_put(["str", [1]]), *_lengths(1, data=b"ab")],
        "do not add up to the 2 bytes",
    ),
    "no UTF-8": (lambda: [_put(["str", [1]]), *_lengths(1, data=b"\xff")], "a string that is not UTF-8"),
    "a cut character": (lambda: [_put(["str", [2]]), *_lengths(1, 1, data="ä".encode())], "begins within a character"),
}


def _lengths(*lengths: int, data: bytes) -> list[bytes]:
    return [np.array(lengths, np.int64).tobytes(), data]


def _memory_bytes() -> int:
    """The most memory that this process ever had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@pytest.mark.parametrize("bomb", BOMBS)
def test_limits(bomb: str) -> None:
    """A limit is refused before anything of that size is made, with what was expected and what came."""
    make, text = BOMBS[bomb]
    frames = make()
    before = _memory_bytes()
    with pytest.raises(RemoteProtocolError, match=text):
        _decode_all(frames)
    assert _memory_bytes() - before < 20 * 1000**2


def _decode_all(frames: list[bytes]) -> None:
    message, rest = decode(frames)
    if isinstance(message, m.Put):
        decode_columns(message.columns, rest)


def test_bytes_need_not_be_text() -> None:
    """What a column of str refuses, a column of bytes holds."""
    [column] = decode_columns([["bytes", [2]]], _lengths(1, 1, data="ä".encode()))
    assert isinstance(column, Strings)
    assert column.decode("bytes").tolist() == [b"\xc3", b"\xa4"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: "LIFOQueue"}, "a definition of kind 'LIFOQueue'"),
        ({6: []}, "with 0 components"),
        ({6: [["int64", []], ["int128", []]]}, r"unknown dtypes: \['int128'\]"),
        ({6: [["int32", []], ["int8", []]], 7: None}, r"a PriorityQueue of int32\[\]"),
        ({6: [["int64", []]], 7: None}, "expected int64"),
        ({7: ["p"]}, "1 names for 2 components"),
        ({3: 1}, "a PriorityQueue with min_after_dequeue=1"),
        ({4: 1}, "seed=1"),
        ({1: 0}, "capacity is 0"),
        ({0: "FIFOQueue", 6: [["int8", None], ["int8", []]]}, "a FIFOQueue of shapes"),
        ({0: "FIFOQueue", 6: [["int8", [None]], ["int8", []]]}, "a FIFOQueue of shapes"),
        ({0: "PaddingFIFOQueue", 6: [["int8", None], ["int8", []]]}, "a PaddingFIFOQueue of shapes"),
    ],
)
def test_definitions_that_no_constructor_makes(change: dict[int, Any], text: str) -> None:
    """A definition for which the queue has no rules is refused where it comes in."""
    fields = [change.get(i, field) for i, field in enumerate(DEFINITION)]
    message, _ = decode(encode(m.Found(1, fields)))
    assert isinstance(message, m.Found)
    with pytest.raises(RemoteProtocolError, match=text):
        unpack_definition(message.definition)


def test_what_is_too_long_is_not_sent() -> None:
    """Texts that are fine each and too long together are refused before anything is sent."""
    message = m.Error(1, "NotFound", "x" * 30_000, ["x" * 30_000, "x" * 30_000], [])
    with pytest.raises(LocalProtocolError, match=r"the header of Error has 900.. bytes, at most 65536 are allowed"):
        encode(message)


def test_text_that_is_no_unicode_is_escaped() -> None:
    """A file name that is not UTF-8 arrives readably, in an error as in a name."""
    message, _ = decode(encode(m.Goodbye("", "a\udc80")))
    assert message == m.Goodbye("", "a\\udc80")


@pytest.mark.parametrize("kind", [m.Hello, m.Welcome])
def test_a_greeting_of_another_version(kind: type[Any]) -> None:
    """Of a greeting in another version the version is read, however many fields that version has."""
    for more in ([], ["x"], [1, 2, 3, 4, 5, 6]):
        message, _ = decode([_header(MESSAGES.index(kind), m.PROTOCOL_VERSION + 1, *more)])
        assert isinstance(message, (m.Hello, m.Welcome))
        assert message.version == m.PROTOCOL_VERSION + 1
    with pytest.raises(RemoteProtocolError, match=f"{kind.__name__}.version must be"):
        decode([_header(MESSAGES.index(kind), -1)])


def test_codes_are_for_ever() -> None:
    """A message keeps its code: both sides of a version count alike."""
    names = (
        "Hello Define Put Get Ask Promote Acknowledge Withdraw Close Size IsClosed Stats Delete Lookup Join Leave Bye "
        "Welcome Done Rows Found Statistics Withdrawn Error Recall Goodbye "
        "Resume Confirm Beat Heard Read Assign Reset RegisterGraph DeregisterGraph RunGraph SendTensor ListDevices "
        "EndOwner Tensors ListQueues"
    )
    assert " ".join(kind.__name__ for kind in MESSAGES) == names


def test_columns_refer_to_the_frame_that_they_came_in() -> None:
    """And not to what its memory is of: a transport uses that again when the last that refers to a frame is gone."""

    class View(np.ndarray[tuple[int], np.dtype[np.uint8]]):
        pass

    view = np.frombuffer(bytearray(16), np.uint8).view(View)
    gone = weakref.ref(view)
    columns = decode_columns([["int64", [2]]], [view.data])
    del view
    assert gone() is not None
    del columns
    assert gone() is None
