"""A writer's quick way into columns against the conversion rules: the same values, or it leaves them to those."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aioflow.client import _ragged_block
from aioflow.client._block import Block
from aioflow.client._ragged_block import RaggedBlock
from aioflow.errors import SpecMismatch
from aioflow.queues import QueueDefinition, Segment
from aioflow.specs import (
    STRING_DTYPES,
    ElementSpec,
    Ragged,
    Strings,
    TensorSpec,
    numpy_dtype,
    pad_column,
    take_rows,
    to_columns,
)
from aioflow.testing import component_values, dtypes, shapes

SPECS = st.builds(TensorSpec, dtypes().filter(lambda name: name not in STRING_DTYPES), shapes(rank_max=2))
ANY = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-300, 300),
    st.floats(),
    st.booleans(),
    st.complex_numbers(),
    st.sampled_from([None, "7", b"7", [], [1], np.datetime64(0, "s"), np.str_("7")]),
    st.builds(TensorSpec, dtypes(), shapes(rank_max=1)).flatmap(component_values),
)


@given(st.data())
def test_a_block_takes_what_the_rules_take(data: st.DataObject) -> None:
    """What is added comes out with the bits that the conversion gives it; what is not there was refused in whole."""
    element = ElementSpec(tuple(data.draw(st.lists(SPECS, min_size=1, max_size=3), "specs")))
    row_bytes = element.nbytes
    assert row_bytes is not None
    block = Block(QueueDefinition("FIFOQueue", element, 10), row_bytes, 5, lambda _: None)
    expected: list[tuple[Any, ...]] = []
    for _ in range(5):
        parts = [data.draw(component_values(spec) | ANY, "value") for spec in element.components]
        value = tuple(parts) if len(parts) > 1 or data.draw(st.booleans(), "tuple") else parts[0]
        try:
            columns = to_columns(value, element, many=False)
        except SpecMismatch:
            assert not block.add(value)
        else:
            if not block.add(value):
                block.add_row(columns)
            expected.append(columns)
    segment = block.take()
    assert segment.rows == len(expected)
    for i, column in enumerate(segment.columns):
        assert isinstance(column, np.ndarray)
        assert not column.flags.writeable
        assert column.tobytes() == b"".join(columns[i].tobytes() for columns in expected)


@given(st.data())
def test_exact_arrays_go_the_quick_way(data: st.DataObject) -> None:
    """An array or a NumPy scalar of the dtype and shape is taken as it is."""
    spec = data.draw(SPECS, "spec")
    element = ElementSpec((spec,))
    block = Block(QueueDefinition("FIFOQueue", element, 10), element.nbytes or 0, 5, lambda _: None)
    array = np.asarray(data.draw(component_values(spec), "value"), numpy_dtype(spec.dtype))
    assert block.add(array)
    assert block.add((array,))
    assert spec.shape or block.add(array[()])


def test_a_chunk_whose_last_column_does_not_fit_adds_nothing() -> None:
    """The columns before it were copied by then; the next rows take their place."""
    element = ElementSpec((TensorSpec("int64", ()), TensorSpec("float32", (2,))))
    block = Block(QueueDefinition("FIFOQueue", element, 10), 16, 4, lambda _: None)
    fitting = np.arange(2), np.ones((2, 2), np.float32)
    for wrong in (np.ones((2, 3), np.float32), np.ones((3, 2), np.float32), np.ones((2, 2)), [[1.0, 1.0]] * 2):
        assert block.add_many((np.full(2, 7), wrong), 4) == 0
    assert block.add_many(fitting, 1) == 0, "there are more rows than may be added"
    assert block.count == 0
    assert block.add_many(fitting, 4) == 2
    assert block.add((np.int64(5), np.zeros(2, np.float32)))
    numbers, pairs = map(np.asarray, block.take().columns)
    assert numbers.tolist() == [0, 1, 5]
    assert pairs.tolist() == [[1, 1], [1, 1], [0, 0]]


def test_rows_to_come_lie_behind_those_that_were_taken() -> None:
    """In the same memory, until there is no room; what was taken stays as it is."""
    element = ElementSpec((TensorSpec("int64", ()),))
    block = Block(QueueDefinition("FIFOQueue", element, 10), 8, 4, lambda _: None)
    taken: list[Any] = []
    for rows in (1, 3, 2):
        for _ in range(rows):
            assert block.add(np.int64(sum(map(len, taken)) + block.count))
        taken.append(block.take().columns[0])
    assert [column.tolist() for column in taken] == [[0], [1, 2, 3], [4, 5]]
    addresses = [column.ctypes.data for column in taken]
    assert addresses[1] == addresses[0] + 8
    assert block.room == 2
    block.make_room(2)
    assert block.room == 2
    block.make_room(3)
    assert block.room == 4, "what lies in two pieces is copied together"
    block.resize(7)
    assert block.room == 7
    assert addresses[2] not in range(addresses[0], addresses[0] + 32)


VARYING = st.one_of(
    st.builds(TensorSpec, dtypes().filter(lambda name: name not in STRING_DTYPES), shapes(rank_max=3, partial=True)),
    st.builds(TensorSpec, st.sampled_from(["bytes", "str"]), st.just(())),
)


def _bits(column: Any) -> Any:
    if isinstance(column, Strings):
        return column.lengths.tolist(), column.data.tobytes()
    return column.shape, column.tobytes()


@given(st.data())
def test_a_ragged_block_takes_what_the_rules_take(data: st.DataObject) -> None:
    """The same where sizes vary; what has no room is refused in whole, too."""
    specs = data.draw(st.lists(VARYING, min_size=1, max_size=2), "specs")
    element = ElementSpec((*specs, TensorSpec("int16", (None,))))
    bytes_max = data.draw(st.integers(0, 200), "bytes")
    block = RaggedBlock(QueueDefinition("PaddingFIFOQueue", element, 10), 5, bytes_max, lambda _: None)
    for _ in range(2):
        expected: list[tuple[Any, ...]] = []
        for _ in range(3):
            value = tuple(data.draw(component_values(spec) | ANY, "value") for spec in element.components)
            try:
                columns = to_columns(value, element, many=False)
            except SpecMismatch:
                assert not block.add(value)
            else:
                if block.add(value) or block.add_row(columns):
                    expected.append(columns)
            assert block.count == len(expected)
            assert block.nbytes == sum(Segment.of(columns).nbytes(slice(0, 1)) for columns in expected)
        if not expected:
            continue
        segment = block.take()
        assert segment.rows == len(expected)
        element.check_rows(segment.columns)
        for i, column in enumerate(segment.columns):
            came: list[Any] = [pad_column(take_rows(column, slice(row, row + 1))) for row in range(segment.rows)]
            assert [*map(_bits, came)] == [_bits(columns[i]) for columns in expected]


def test_values_of_a_ragged_block_are_its_own() -> None:
    """An array of the dtype and rank is copied as it is written, in whatever order its memory is."""
    element = ElementSpec((TensorSpec("int32", (None, None)), TensorSpec("int64", ())))
    block = RaggedBlock(QueueDefinition("PaddingFIFOQueue", element, 10), 5, 1000, lambda _: None)
    assert block.rows_within(5, 100) == 1, "nothing is known of their size"
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert block.add((array.T, np.int64(7)))
    assert not block.add((array, 0.5))
    array[:] = 0
    assert block.add((array[:1], 8))
    values, numbers = block.take().columns
    assert isinstance(values, Ragged)
    assert values.sizes.tolist() == [[3, 2], [1, 3]]
    assert values.data.tolist() == [0, 3, 1, 4, 2, 5, 0, 0, 0]
    assert np.asarray(numbers).tolist() == [7, 8]


def test_strings_are_gathered() -> None:
    """`str` and `bytes`, of either component, where they are valid; the bytes of all lie one behind the other."""
    element = ElementSpec((TensorSpec("int64", ()), TensorSpec("bytes", ()), TensorSpec("str", ())))
    assert RaggedBlock.takes(element)
    assert not RaggedBlock.takes(ElementSpec((TensorSpec("bytes", (2,)),)))
    block = RaggedBlock(QueueDefinition("PriorityQueue", element, 10), 5, 1000, lambda _: None)
    for priority, raw, text in ((3, b"ab", "cd"), (1, "\u00e4", b""), (2, b"\xff", "\u00e4".encode())):
        assert block.add((priority, raw, text))
    for wrong in ((4, b"", b"\xff"), (4, "\ud800", ""), (4, "", np.zeros(2, np.uint8)), (4, 7, "")):
        assert not block.add(wrong)
    assert block.nbytes == 3 * 8 + 5 + 4
    segment = block.take()
    assert segment.priorities is not None
    assert segment.priorities.tolist() == [3, 1, 2]
    _, left, right = segment.columns
    assert isinstance(left, Strings)
    assert isinstance(right, Strings)
    assert left.decode("bytes").tolist() == [b"ab", b"\xc3\xa4", b"\xff"]
    assert right.decode("str").tolist() == ["cd", "", "\u00e4"]


ROOM, COPIED = 4096, 100


@given(st.lists(st.tuples(st.integers(0, 700), st.booleans()), max_size=300))
def test_values_lie_one_behind_the_other(rows: list[tuple[int, bool]]) -> None:
    """Whatever is taken in between: memory is left with a sixteenth of it empty at most, and what was taken stays.

    Of the first few pieces of memory each is larger than the last.
    """
    allocated: list[memoryview] = []

    def allocate(nbytes: int) -> memoryview:
        allocated.append(memoryview(bytearray(nbytes)))
        return allocated[-1]

    element = ElementSpec((TensorSpec("uint8", (None,)),))
    with patch.object(_ragged_block, "FIRST_BYTES", 2 * COPIED):
        block = RaggedBlock(QueueDefinition("PaddingFIFOQueue", element, 10), 1000, ROOM, allocate)
    taken: list[Ragged] = []
    alone: list[int] = []
    written: list[int] = []

    def take() -> None:
        if block.count:
            column = block.take().columns[0]
            assert isinstance(column, Ragged)
            taken.append(column)

    with patch.object(_ragged_block, "COPIED_BYTES_MAX", COPIED):
        for number, (size, flushes) in enumerate(rows):
            value = np.full(size, number % 251, np.uint8)
            if not block.add((value,)):
                take()  # as a writer does
                if not block.add((value,)):
                    assert size > ROOM // _ragged_block.SHARE
                    alone.append(number)
                    continue
            written.append(number)
            if flushes:
                take()
        take()
    came = [values for column in taken for values in np.split(column.data, np.cumsum(column.sizes[:, 0])[:-1])]
    assert [len(values) for values in came] == [rows[number][0] for number in written]
    assert all((values == number % 251).all() for values, number in zip(came, written, strict=True))
    left = sum(map(len, came))
    assert len(allocated) <= 1 + 6 + left // (ROOM - ROOM // _ragged_block.SHARE - COPIED)
    for column in taken:
        is_shared = any(np.shares_memory(column.data, memory) for memory in allocated)
        assert is_shared == (column.data.nbytes >= COPIED and len(column.sizes) > 1), "a row would keep all"


def test_rows_that_have_no_room_begin_other_memory() -> None:
    """Also where those before them were few and are copied: else each row were alone, in the last bytes of the old."""
    allocated: list[int] = []

    def allocate(nbytes: int) -> None:
        allocated.append(nbytes)

    element = ElementSpec((TensorSpec("uint8", (None,)),))
    block = RaggedBlock(QueueDefinition("PaddingFIFOQueue", element, 10), 1000, 1000, allocate)
    with patch.object(_ragged_block, "COPIED_BYTES_MAX", COPIED):
        for size in (60,) * 15 + (30,):
            assert block.add((np.ones(size, np.uint8),))
        assert block.take().rows == 16
        assert block.add((np.ones(50, np.uint8),))
        assert not block.add((np.ones(60, np.uint8),))
        assert block.take().rows == 1
        assert block.add((np.ones(60, np.uint8),))
        assert block.add((np.ones(60, np.uint8),))
        assert block.take().rows == 2
    assert allocated == [1000, 1000]


def test_few_values_take_little_memory() -> None:
    """However many components there are: those of small groups are copied, and their memory stays small."""
    allocated: list[int] = []

    def allocate(nbytes: int) -> None:
        allocated.append(nbytes)

    element = ElementSpec((TensorSpec("int32", (None,)),) * 20)
    block = RaggedBlock(QueueDefinition("PaddingFIFOQueue", element, 10), 64, 8 << 20, allocate)
    for _ in range(50):
        for _ in range(64):
            assert block.add((np.ones(20, np.int32),) * 20)
        block.take()
    assert sum(allocated) <= 20 * (128 << 10)
