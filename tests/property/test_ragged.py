"""Rows of numbers whose shapes differ, against a plain list of arrays: whatever is done, the rows are the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioflow.cluster._admission import pad_columns
from aioflow.cluster._codec import decode_columns, describe_columns, encode_columns
from aioflow.errors import QueueError, RemoteProtocolError, SpecMismatch
from aioflow.queues import Segment
from aioflow.specs import (
    ElementSpec,
    Ragged,
    Strings,
    TensorSpec,
    _columns,
    _ragged,
    column_row_bytes,
    join_columns,
    numpy_dtype,
    pad_column,
    take_rows,
)
from aioflow.testing._model import pad_batch
from aioflow.testing._strategies import NUMBER_DTYPES, component_values


@st.composite
def rows_of(draw: st.DrawFn, rank: int | None = None, dtype: str | None = None) -> tuple[str, list[Any]]:
    """A dtype, and a few arrays of it of one rank."""
    dtype = dtype or draw(st.sampled_from(NUMBER_DTYPES))
    spec = TensorSpec(dtype, (None,) * (rank or draw(st.integers(1, 3))))
    values = draw(st.lists(component_values(spec), max_size=5))
    return dtype, [np.asarray(value, numpy_dtype(dtype)) for value in values]


def ragged(dtype: str, rows: list[Any], rank: int = 1) -> Ragged:
    """Put arrays behind each other."""
    shapes = [row.shape for row in rows]
    sizes = np.array(shapes, np.int64) if shapes else np.empty((0, rank), np.int64)
    data = np.concatenate([row.ravel() for row in rows]) if rows else np.empty(0, numpy_dtype(dtype))
    return Ragged(sizes, data)


def rows_in(column: Any) -> list[tuple[tuple[int, ...], bytes]]:
    """The shape and the bits of each row."""
    parts: list[Any] = [pad_column(take_rows(column, slice(i, i + 1))) for i in range(column.shape[0])]
    return [(part.shape[1:], part.tobytes()) for part in parts]


def same(column: Any, rows: list[Any]) -> bool:
    """Whether a column has exactly these rows."""
    return rows_in(column) == [(row.shape, row.tobytes()) for row in rows]


@given(rows_of(), st.data())
def test_rows_are_taken(drawn: tuple[str, list[Any]], data: st.DataObject) -> None:
    """By a slice, which copies no value, and by an index, in its order and twice, too; taking can be done again."""
    dtype, rows = drawn
    column = ragged(dtype, rows)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows))), "slice"))
    part = take_rows(column, slice(start, stop))
    assert same(part, rows[start:stop])
    assert isinstance(part, Ragged)
    assert not part.data.size or np.shares_memory(part.data, column.data)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=4) if rows else st.just([]), "index")
    chosen = take_rows(column, np.array(index, np.intp))
    assert same(chosen, [rows[i] for i in index])
    assert same(take_rows(chosen, slice(1, None)), [rows[i] for i in index[1:]])


@given(rows_of())
def test_bytes_are_those_of_the_values(drawn: tuple[str, list[Any]]) -> None:
    """Of each row, and of rows together: sizes are no payload."""
    dtype, rows = drawn
    column = ragged(dtype, rows)
    assert np.broadcast_to(column_row_bytes(column), len(rows)).tolist() == [row.nbytes for row in rows]
    segment = Segment.of((column, np.zeros(len(rows), np.int64)))
    assert segment.rows == len(rows)
    assert segment.nbytes(slice(0, len(rows))) == sum(row.nbytes + 8 for row in rows)


@given(st.integers(1, 3), st.data())
def test_columns_are_joined(rank: int, data: st.DataObject) -> None:
    """Arrays of one shape stay an array; of several shapes, and with rows that differ already, all rows are there."""
    dtype = data.draw(st.sampled_from(NUMBER_DTYPES), "dtype")
    columns: list[Any] = []
    expected: list[Any] = []
    for _ in range(data.draw(st.integers(1, 4), "columns")):
        _, rows = data.draw(rows_of(rank, dtype), "rows")
        is_array: bool = data.draw(st.booleans(), "array")
        if rows and is_array:
            rows = [rows[0]] * len(rows)
            columns.append(np.stack(rows))
        else:
            columns.append(ragged(dtype, rows, rank))
        expected += rows
    allocated: list[memoryview] = []

    def allocate(nbytes: int) -> memoryview:
        allocated.append(memoryview(bytearray(nbytes)))
        return allocated[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_columns, "ALLOCATED_FROM", 20)
        joined = join_columns(columns, allocate)
    assert same(joined, expected)
    if isinstance(joined, Ragged):
        assert bool(allocated) == (joined.data.nbytes >= 20)
        assert all(np.shares_memory(joined.data, memory) for memory in allocated)
    arrays = all(isinstance(column, np.ndarray) for column in columns)
    assert isinstance(joined, np.ndarray) == (arrays and len({column.shape[1:] for column in columns}) == 1)


@given(st.lists(st.lists(st.binary(max_size=9), min_size=1, max_size=3), min_size=1, max_size=4))
def test_strings_are_joined(columns: list[list[bytes]]) -> None:
    """Strings come out as they were, however many of them are short."""
    joined = join_columns([Strings.encode(values, (len(values),)) for values in columns])
    assert isinstance(joined, Strings)
    for long_bytes in (0, 4, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_columns, "LONG_BYTES", long_bytes)
            assert joined.decode("bytes").tolist() == [value for values in columns for value in values]


@pytest.mark.parametrize("long_row", [0, 8, 512])
@given(drawn=rows_of())
def test_rows_are_padded(long_row: int, drawn: tuple[str, list[Any]]) -> None:
    """As the model pads a batch; the same through a mask and row by row; rows of one shape are not copied."""
    dtype, rows = drawn
    column = ragged(dtype, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ragged, "LONG_ROW", long_row)
        padded = pad_column(column)
    assert isinstance(padded, np.ndarray)
    assert padded.dtype == numpy_dtype(dtype)
    assert padded.shape == column.shape
    if rows:
        expected = pad_batch(rows, numpy_dtype(dtype).type(0))
        assert padded.tobytes() == expected.tobytes()
    if column.data.size and len({row.shape for row in rows}) == 1:
        assert np.shares_memory(padded, column.data)


@given(rows_of(), st.integers(0, 7))
def test_a_column_travels(drawn: tuple[str, list[Any]], offset: int) -> None:
    """Encoded and decoded, from memory at any address, the rows are the same, read-only and aligned; of a part too."""
    dtype, rows = drawn
    whole = ragged(dtype, rows)
    for start in (0, 1):
        column = take_rows(whole, slice(start, None))
        described = describe_columns([column], [dtype])
        assert described == [[dtype, [max(0, len(rows) - start), *[None] * whole.sizes.shape[1]]]]
        frames = [
            memoryview(bytearray(offset) + bytearray(frame))[offset:] for frame in map(bytes, encode_columns([column]))
        ]
        [came] = decode_columns(described, frames)
        assert isinstance(came, Ragged)
        assert same(came, rows[start:])
        for array in (came.sizes, came.data):
            assert array.flags.aligned
            assert not array.flags.writeable


def _sizes(*sizes: int) -> bytes:
    return np.array(sizes, np.int64).tobytes()


@pytest.mark.parametrize(
    ("described", "frames", "text"),
    [
        (["int8", [2, None]], [_sizes(-1, 2), b"a"], "a size below 0"),
        (["int8", [1, None]], [_sizes(2), b"a"], "do not add up to the 1 values"),
        (["int8", [2, None]], [_sizes(0, 1), b"ab"], "do not add up to the 2 values"),
        (["int8", [4, None]], [_sizes(*[2**62] * 4), b""], "above 576460752303423487 values"),
        (["int8", [1, None, None]], [_sizes(2**32, 2**32), b""], "above 576460752303423487 values"),
        (["int8", [1, None, None]], [_sizes(2**62, 0), b""], "above 576460752303423487 values"),
        (["int8", [2, None, None]], [_sizes(2**29, 2**29, 1, 1), b"a"], "do not add up to the 1 values"),
        (["int8", [1, *[None] * 64]], [_sizes(*[1] * 64), b"a"], "all of 1 to 63 places"),
        (["int8", [None, None]], [_sizes(1), b"a"], "expected nil, for rows of numbers"),
        (["int8", [None]], [_sizes(1), b"a"], "expected nil, for rows of numbers"),
        (["int8", [1, None, 1]], [_sizes(1, 1), b"a"], "expected nil, for rows of numbers"),
        (["str", [1, None]], [_sizes(1), b"a"], "expected nil, for rows of numbers"),
        (["int128", [1, None]], [_sizes(1), b"a"], "a column of dtype 'int128'"),
        (["int8", [1, None]], [_sizes(1, 1), b"a"], "has 8 bytes, got 16"),
        (["int8", [2**62, None]], [_sizes(1, 1), b"a"], "got 16"),
        (["int32", [1, None]], [_sizes(1), b"abcde"], "no whole number of int32"),
        (["bool", [1, None]], [_sizes(1), b"\x02"], "a bool that is neither 0 nor 1"),
        (["int8", [0, None]], [b"", b"a"], "1 values in no rows"),
        (["int8", [1, None]], [_sizes(1)], "1 columns have 2 frames, got 1"),
    ],
)
def test_what_is_no_column_is_refused(described: list[Any], frames: list[bytes], text: str) -> None:
    """Each limit, before anything is believed."""
    with pytest.raises(RemoteProtocolError, match=text):
        decode_columns([described], frames)


@pytest.mark.parametrize(
    ("shape", "sizes", "fits"),
    [
        ((None,), [(3,), (0,)], True),
        ((2,), [(2,), (2,)], True),
        ((2,), [(2,), (1,)], False),
        ((None, 2), [(1, 2), (3, 2)], True),
        ((None, 2), [(1, 2), (3, 1)], False),
        ((None, None), [(1,), (3,)], False),
        ((), [(1,), (3,)], False),
        (None, [(1,), (3,)], True),
    ],
)
def test_rows_must_fit_the_specification(shape: Any, sizes: list[tuple[int, ...]], fits: bool) -> None:
    """Each of them, in its rank and in the sizes that are known."""
    element = ElementSpec((TensorSpec("int8", shape),))
    column = ragged("int8", [np.zeros(size, np.int8) for size in sizes])
    if fits:
        element.check_rows([column])
    else:
        with pytest.raises(SpecMismatch, match="component 0: got rows of shape"):
            element.check_rows([column])


def test_padding_has_a_limit() -> None:
    """A batch that would become larger than a frame is refused before it is made: few bytes may pad to very many."""
    rows = 1024
    sizes = np.ones((rows, 2), np.int64)
    sizes[0, 0] = sizes[1, 1] = 1 << 12
    column = Ragged(sizes, np.zeros(int(sizes.prod(axis=1).sum()), np.int8))
    assert math.prod(column.shape) > 1 << 30
    with pytest.raises(QueueError, match=r"a batch of 1024 elements: one component has \d+ bytes \(after padding"):
        pad_columns((column,))
