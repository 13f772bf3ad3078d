"""The codec: everything round-trips, however it is cut up; everything else is refused, and nothing else happens."""

from __future__ import annotations

import math
import os
import resource
import sys
from typing import TYPE_CHECKING, Any, assert_never

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioflow.cluster import _codec
from aioflow.cluster import _fields as f
from aioflow.cluster import _messages as m
from aioflow.cluster._answers import unpack_error, unpack_stats
from aioflow.cluster._codec import (
    decode,
    decode_columns,
    describe_columns,
    encode,
    encode_columns,
    pack_definition,
    unpack_definition,
)
from aioflow.errors import LocalProtocolError, RemoteProtocolError
from aioflow.specs import DTYPES, STRING_DTYPES, Ragged, Scattered, Strings, numpy_dtype
from aioflow.testing._strategies import queue_definitions, transfers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.random import Generator

    from aioflow.cluster._fields import Rule
    from aioflow.cluster._messages import Message
    from aioflow.specs import Column
    from aioflow.transport import AnyFrame, Frame

MESSAGES = list(m.MESSAGES.values())

# Of damaged messages; a nightly run has its own bound of time.
CASES, CASES_S = (20_000_000, 3600) if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else (200_000, 60)
GROWTH_BYTES_MAX = 50 * 1000**2


# Whatever is allowed


def _values(rule: Rule) -> st.SearchStrategy[Any]:
    """Values that a rule allows, its limits among them."""
    values: st.SearchStrategy[Any]
    match rule:
        case f.Int(low, high):
            values = st.sampled_from([low, high]) | st.integers(low, high)
        case f.Number():
            values = st.sampled_from([0, f.INT64_MAX]) | st.floats(0, 1e9)
        case f.Text(chars_max, chars_min):
            text = st.text(st.characters(exclude_categories=["Cs"]), min_size=chars_min, max_size=8)
            values = text | st.just("n" * min(chars_max, 1000))
        case f.Flag():
            values = st.booleans()
        case f.Maybe(inner):
            values = st.none() | _values(inner)
        case f.Listed(inner, _):
            values = st.lists(_values(inner), max_size=3)
        case f.Record(rules):
            values = st.tuples(*map(_values, rules)).map(list)
        case _:
            assert_never(rule)
    return values


def _fields(kind: type[Any]) -> st.SearchStrategy[list[Any]]:
    """Fields of a message, each anything that its rule allows."""
    fields = [_values(rule) for _, rule in m.RULES[kind]]
    if kind in {m.Hello, m.Welcome}:
        fields[0] = st.just(m.PROTOCOL_VERSION)
    return st.tuples(*fields).map(list)


# A strategy for each kind, made once: drawing from it costs less than making it.
FIELDS = {kind: _fields(kind) for kind in MESSAGES}


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Messages of every kind."""
    kind = draw(st.sampled_from(MESSAGES))
    message: Message = kind(*draw(FIELDS[kind]))
    return message


@st.composite
def columns(draw: st.DrawFn) -> tuple[str, Column]:
    """A column of any dtype and of any rank, with a few values or none."""
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    shape = (*sizes, *[1] * draw(st.sampled_from([0, 1, f.RANK_MAX - len(sizes)])))
    count = math.prod(shape)
    if dtype == "bytes":
        return dtype, Strings.encode(draw(st.lists(st.binary(max_size=4), min_size=count, max_size=count)), shape)
    if dtype == "str":
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4).map(str.encode)
        return dtype, Strings.encode(draw(st.lists(text, min_size=count, max_size=count)), shape)
    nbytes = count * numpy_dtype(dtype).itemsize
    block = draw(st.binary(min_size=nbytes, max_size=nbytes))
    if dtype == "bool":
        block = bytes(byte & 1 for byte in block)
    return dtype, np.frombuffer(block, np.uint8).view(numpy_dtype(dtype)).reshape(shape)


def _misaligned(frame: Frame, offset: int) -> memoryview:
    """The same bytes at another address, in memory that can be written to."""
    return memoryview(bytearray(offset) + bytearray(frame))[offset:]


# Round trips


@given(messages(), st.data())
def test_every_message_comes_back(message: Message, data: st.DataObject) -> None:
    """Whole, byte by byte and in any pieces, from bytes or from a view, a message is the same."""
    [header] = encode(message)
    assert decode([header]) == (message, [])
    assert decode([_misaligned(header, 1)]) == (message, [])
    unpacker = msgpack.Unpacker()
    for piece in data.draw(transfers(bytes(header))):
        unpacker.feed(piece)
    assert encode(message) == [msgpack.packb(values) for values in unpacker]


@given(st.lists(columns(), max_size=3), st.integers(0, 7))
def test_columns_come_back(listed: list[tuple[str, Column]], offset: int) -> None:
    """Every dtype, shape and string, from frames of bytes or of memory at any address, read-only and aligned."""
    dtypes, sent = [dtype for dtype, _ in listed], [column for _, column in listed]
    described, frames = describe_columns(sent, dtypes), encode_columns(sent)
    for form in (frames, [bytes(frame) for frame in frames], [_misaligned(bytes(frame), offset) for frame in frames]):
        message, rest = decode(encode(m.Rows(1, described), form))
        assert isinstance(message, m.Rows)
        received = decode_columns(message.columns, rest)
        assert describe_columns(received, dtypes) == described
        assert list(map(bytes, encode_columns(received))) == list(map(bytes, frames))
        for array in (part for column in received for part in _arrays(column)):
            assert array.flags.aligned
            assert not array.flags.writeable
        for column, dtype, original in zip(received, dtypes, sent, strict=True):
            if isinstance(column, Strings):
                assert isinstance(original, Strings)
                assert column.decode(dtype).tolist() == original.decode(dtype).tolist()
            elif isinstance(column, np.ndarray):
                assert column.dtype == numpy_dtype(dtype)


def _arrays(column: Column) -> list[np.ndarray[Any, Any]]:
    if isinstance(column, np.ndarray):
        return [column]
    assert not isinstance(column, Scattered)
    return [column.lengths if isinstance(column, Strings) else column.sizes, column.data]


@given(queue_definitions())
def test_definitions_come_back(definition: Any) -> None:
    """What a constructor makes, the other side makes again."""
    message, _ = decode(encode(m.Found(1, pack_definition(definition))))
    assert isinstance(message, m.Found)
    assert unpack_definition(message.definition) == definition


# Whatever is not allowed


SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
)
ANYTHING = SCALARS | st.lists(SCALARS | st.lists(SCALARS, max_size=3), max_size=4) | st.dictionaries(st.text(), SCALARS)


@given(st.integers(-1, len(MESSAGES)), st.lists(ANYTHING, max_size=9))
def test_any_value_is_a_message_or_refused(code: int, fields: list[Any]) -> None:
    """Whatever msgpack can say, also behind the code of a message, is a message or a RemoteProtocolError."""
    _receive([msgpack.packb([code, *fields])])
    _receive([msgpack.packb(fields)])


WRONG: st.SearchStrategy[Any] = st.sampled_from(
    [{"a": 1}, [[[[]]]], b"bytes", -(2**63), 2**64 - 1, "x" * 200_000, None]
)


@given(st.sampled_from([kind for kind in MESSAGES if m.RULES[kind]]), st.data(), WRONG)
def test_no_field_exceeds_its_rule(kind: type[Any], data: st.DataObject, wrong: Any) -> None:
    """One value of another kind, anywhere in a message, is refused, and the field is named."""
    values = data.draw(FIELDS[kind])
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] = wrong
    name, rule = m.RULES[kind][place]
    if not rule.admits(wrong):
        text = rf"{kind.__name__}\.{name} must be .*, got "
        with pytest.raises(RemoteProtocolError, match=rf"{text}|no msgpack within the limits|a header of"):
            decode([msgpack.packb([MESSAGES.index(kind), *values])])
        if kind not in _codec._TRUSTED:
            with pytest.raises(LocalProtocolError, match=text):
                encode(kind(*values))


_SIZES = st.sampled_from([0, 1, None, -1, True, f.INT64_MAX, f.INT64_MAX + 1, 0.0, "1"])
_SHAPES = st.lists(_SIZES, max_size=3) | st.just([1] * (f.RANK_MAX + 1)) | st.none() | _SIZES.map(lambda size: (size,))
_DTYPES = st.sampled_from(["float32", "", "n" * 1024, "n" * 1025, b"float32", 1])


@given(st.lists(st.tuples(_DTYPES, _SHAPES).map(list) | st.lists(_SIZES, max_size=3), max_size=3) | _SHAPES)
def test_described_columns_are_the_list_that_they_say(value: Any) -> None:
    """Checked in one call, they admit what the rules admit that a message to people names."""
    assert f.DESCRIBED.admits(value) == f.Listed(f.DESCRIBED.rule).admits(value)


def _receive(frames: Sequence[Frame]) -> bool:
    """Do with a message what its receiver does before it believes it; say whether it was one."""
    try:
        message, rest = decode(frames)
        match message:
            case m.Put() | m.Rows():
                decode_columns(message.columns, rest)
            case m.Define() | m.Found():
                unpack_definition(message.definition)
            case m.Statistics():
                unpack_stats(message)
            case m.Error():
                unpack_error(message, "here")
            case _:
                pass
    except RemoteProtocolError as error:
        refusal = str(error)
    else:
        return True
    assert 0 < len(refusal) < 2000
    return False


def _samples() -> list[list[bytes]]:
    """One message of each kind, and puts and rows of every dtype."""
    by_hand: list[Sequence[AnyFrame]] = [
        encode(m.Hello(m.PROTOCOL_VERSION, "secret")),
        encode(m.Define(1, "", "q", private=False, definition=_DEFINITION)),
        encode(m.Statistics(1, "q", "FIFOQueue", -1, list(range(9)), is_closed=False, producers=["a"], container="")),
        encode(m.Error(1, "EndOfQueue", "end", ["note"], [["a", "b", "c"]], "EndOfQueue", "")),
        encode(m.Found(1, _DEFINITION)),
        encode(m.Leave(1, 1, "a", lost=True, reason="r", traceback="t")),
        *(encode(kind(1, 1)) for kind in (m.Size, m.IsClosed, m.Stats, m.Delete, m.Withdrawn)),
    ]
    for dtype in sorted(DTYPES):
        column: Column = (
            Strings.encode([b"a", "ä".encode()], (2, 1))
            if dtype in STRING_DTYPES
            else np.zeros((2, 3), numpy_dtype(dtype))
        )
        by_hand.append(encode(m.Put(1, 1, describe_columns([column], [dtype])), encode_columns([column])))
        if dtype not in STRING_DTYPES:
            column = Ragged(np.array([[2, 1], [1, 1]]), np.zeros(3, numpy_dtype(dtype)))
            by_hand.append(encode(m.Put(1, 1, describe_columns([column], [dtype])), encode_columns([column])))
    return [[bytes(frame) for frame in frames] for frames in by_hand]


_DEFINITION = ["PriorityQueue", 10, 1000, 0, None, 2, [["int64", []], ["float32", [2, 3]]], ["p", "x"]]


def _damage(frames: list[bytes], rng: Generator) -> list[bytes]:
    """Cut, flip, or exchange something."""
    frames = list(frames)
    place = int(rng.integers(len(frames)))
    frame = bytearray(frames[place])
    match int(rng.integers(7)):
        case 0:
            del frame[int(rng.integers(len(frame) + 1)) :]
        case 1 if frame:
            frame[int(rng.integers(len(frame)))] ^= 1 << int(rng.integers(8))
        case 2 if frame:
            frame[int(rng.integers(len(frame)))] = int(rng.integers(256))
        case 3:
            frame += rng.bytes(int(rng.integers(1, 9)))
        case 4:
            frame = bytearray(rng.bytes(int(rng.integers(64))))
        case 5:
            frame = bytearray(msgpack.packb([int(rng.integers(len(MESSAGES))), *(_anything(rng) for _ in range(3))]))
        case _:
            frames.insert(place, frames[place - 1])
            return frames
    frames[place] = bytes(frame)
    return frames


def _anything(rng: Generator, depth: int = 0) -> Any:
    """Any value that msgpack knows, small."""
    number = int(rng.integers(-3, 300))
    choices: list[Callable[[], Any]] = [
        lambda: number,
        lambda: 1,
        lambda: rng.bytes(number % 8).decode("latin-1"),
        lambda: (None, True, False, b"a", 2**63, -1.5, math.inf, {"a": 1})[number % 8],
        lambda: sorted(DTYPES)[number % len(DTYPES)],
        lambda: [_anything(rng, depth + 1) for _ in range(number % 4)],
        lambda: [_anything(rng, depth + 1) for _ in range(number % 4)],
    ]
    return choices[int(rng.integers(len(choices) if depth < 3 else 5))]()


@pytest.mark.timeout(CASES_S)
def test_damaged_messages() -> None:
    """Cut, flipped and random bytes give a message or a RemoteProtocolError, quickly, and take no memory."""
    rng = np.random.default_rng(20)
    samples = _samples()
    assert all(map(_receive, samples))
    before = _memory_bytes()
    messages_left = sum(_receive(_damage(samples[case % len(samples)], rng)) for case in range(CASES))
    assert CASES // 100 < messages_left < CASES, "the damage is all or none"
    assert _memory_bytes() - before < GROWTH_BYTES_MAX


def _memory_bytes() -> int:
    """The most memory that this process ever had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
