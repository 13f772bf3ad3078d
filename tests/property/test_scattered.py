"""Rows that lie apart: whatever happens to them they keep their values, and each is let go of when it has left."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioflow.client._block import Block
from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode, decode_columns, describe_columns, encode, encode_columns
from aioflow.errors import RemoteProtocolError
from aioflow.queues import Completed, Kind, QueueDefinition, QueueMachine, Segment, Ticket, gather
from aioflow.specs import ElementSpec, Scattered, TensorSpec, join_columns, pad_column
from tests.property.pieces import FakePieces

if TYPE_CHECKING:
    from aioflow.transport import AnyFrame

# A priority or a number, a large component, and the number once more.
LARGE = 5000
ELEMENT = ElementSpec((TensorSpec("int64", ()), TensorSpec("int64", (LARGE, 1)), TensorSpec("int64", ())))

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "get", "move", "acknowledge", "some", "restore"]), st.integers(0, 5)),
    max_size=40,
)


def scatter(array: np.ndarray[Any, Any]) -> Scattered:
    """Return the rows of an array apart."""
    return Scattered.of_pieces(FakePieces.of(array), array.shape[1:], array.dtype)


class Held:
    """A queue, and where each of its elements was put.

    Attributes:
        out: Tickets of gets that have completed and not ended, and what each took.
        left: Numbers of what has left for good.
        parted: Those that have left before the rest of what their get took.
    """

    def __init__(self, kind: Kind) -> None:
        definition = QueueDefinition(kind, ELEMENT, -1)
        self.machine = QueueMachine(definition, np.random.default_rng(0))
        self.out: dict[Ticket, list[int]] = {}
        self.left: set[int] = set()
        self.parted: set[int] = set()
        self._places: dict[int, tuple[FakePieces, int]] = {}
        self._moved: set[int] = set()
        self._numbers = itertools.count()

    def put(self, rows: int, *, is_scattered: bool) -> None:
        """Put elements in one segment."""
        numbers = np.array(list(itertools.islice(self._numbers, rows)), np.int64)
        large = np.repeat(numbers, LARGE).reshape(rows, LARGE, 1)
        column: Any = large
        if is_scattered:
            column = scatter(large)
            self._places.update({number: (column.pieces, i) for i, number in enumerate(numbers.tolist())})
        prioritised = self.machine.definition.kind == "PriorityQueue"
        self.machine.enqueue(Segment.of((numbers, column, numbers), prioritised=prioritised))

    def get(self, count: int) -> None:
        """Take elements, and read them."""
        if not len(self.machine):
            return
        ticket = self.machine.dequeue(min(count, len(self.machine)))
        for effect in self.machine.take_effects():
            if isinstance(effect, Completed) and effect.ticket == ticket and effect.rows is not None:
                self.out[ticket] = self._read(effect)

    def _read(self, effect: Completed) -> list[int]:
        assert effect.rows is not None
        first, large, second = map(pad_column, gather(effect.rows, ELEMENT))
        assert isinstance(large, np.ndarray)
        assert isinstance(first, np.ndarray)
        assert large.shape == (len(first), LARGE, 1)
        assert (large == first[:, None, None]).all()
        assert (first == second).all()
        self._columns = first, large, first
        self._last = effect.ticket
        numbers: list[int] = first.tolist()
        return numbers

    def move(self) -> None:
        """Have what was taken last lie elsewhere, if it is still out."""
        if self.out and self._last in self.out and self.out[self._last]:
            prioritised = self.machine.definition.kind == "PriorityQueue"
            self.machine.move(self._last, Segment.of(self._columns, prioritised=prioritised))
            self._moved.update(self.out[self._last])

    def end(self, pick: int, *, rows: int | None = None, restores: bool = False) -> None:
        """Acknowledge what a get took, or some of it and the rest is given back."""
        if not self.out:
            return
        ticket = list(self.out)[pick % len(self.out)]
        numbers = self.out.pop(ticket)
        kept = 0 if restores else len(numbers)
        if rows is not None and rows < len(numbers):
            self.machine.acknowledge(ticket, rows)
            kept, restores = rows, True
            self.parted.update(numbers[:rows])
        self.left.update(numbers[:kept])
        (self.machine.restore if restores else self.machine.acknowledge)(ticket)

    def check(self) -> None:
        """Nothing is let go of twice, and only what was moved or has left."""
        for number, (pieces, row) in self._places.items():
            assert pieces.released[row] <= 1
            assert not pieces.released[row] or number in self._moved or number in self.left

    def check_empty(self) -> None:
        """All that lay apart was let go of, but for what left in parts: that goes with its segment."""
        for number, (pieces, row) in self._places.items():
            assert number in self.left
            assert pieces.released[row] == 1 or number in self.parted


@pytest.mark.parametrize("kind", ["RandomShuffleQueue", "FIFOQueue", "PriorityQueue"])
@given(steps=STEPS, seed=st.integers(0, 3))
def test_rows_keep_their_values(kind: Kind, steps: list[tuple[str, int]], seed: int) -> None:
    """Through any puts, gets, moves, acknowledgements and returns; in the end all have left, each once."""
    held = Held(kind)
    came = 0
    for step, number in steps:
        match step:
            case "put":
                held.put(number + 1, is_scattered=bool((number + seed) % 3))
                came += number + 1
            case "get":
                held.get(number + 1)
            case "move":
                held.move()
            case "acknowledge":
                held.end(number)
            case "some":
                held.end(number, rows=number)
            case _:
                held.end(number, restores=True)
        held.machine.take_effects()
        held.check()
    while held.out or len(held.machine):
        held.get(3)
        held.end(0)
        held.machine.take_effects()
        held.check()
    assert held.left == set(range(came))
    held.check_empty()


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "is_scattered"),
    [
        ("RandomShuffleQueue", "uint8", (16_384,), True),
        ("RandomShuffleQueue", "uint8", (16_383,), False),
        ("RandomShuffleQueue", "float32", (64, 64), True),
        ("RandomShuffleQueue", "str", (), False),
        ("PriorityQueue", "uint8", (16_384,), True),
        ("FIFOQueue", "uint8", (1 << 20,), False),
    ],
)
def test_which_rows_are_to_lie_apart(kind: Kind, dtype: str, shape: tuple[int, ...], is_scattered: bool) -> None:
    """Large ones of a queue that any may leave first."""
    element = ElementSpec((TensorSpec("int64", ()), TensorSpec(dtype, shape)))
    assert QueueDefinition(kind, element, 10).scattered == ((1,) if is_scattered else ())


def test_scattered_rows_as_columns() -> None:
    """They are taken where they are, and joined by a copy."""
    column = scatter(np.arange(12).reshape(4, 3))
    assert column.shape == (4, 3)
    assert column.row_bytes == 24
    assert pad_column(column.take(slice(1, 3))).tolist() == [[3, 4, 5], [6, 7, 8]]  # type: ignore[union-attr]
    assert column.take(np.array([3, 0])).take(np.array([1])).joined().tolist() == [[0, 1, 2]]
    assert column.take(slice(0, 0)).joined().shape == (0, 3)
    assert scatter(np.arange(3)).joined().tolist() == [0, 1, 2]
    joined = join_columns([column, np.full((1, 3), 9)])
    assert isinstance(joined, np.ndarray)
    assert joined[3:].tolist() == [[9, 10, 11], [9, 9, 9]]
    column.take(np.array([3, 0])).release(slice(1, 2))
    assert isinstance(column.pieces, FakePieces)
    assert column.pieces.released == {0: 1}


# In a writer, and on the wire


def test_a_block_writes_rows_apart() -> None:
    """In pieces, those that are large; what was taken stays, and what fails half-way is written over."""
    element = ElementSpec((TensorSpec("int64", ()), TensorSpec("uint8", (1 << 16, 2))))
    asked: list[tuple[int, int]] = []

    def allocate(size: int, count: int) -> FakePieces:
        asked.append((size, count))
        return FakePieces(size, count)

    definition = QueueDefinition("RandomShuffleQueue", element, 10)
    block = Block(definition, element.nbytes or 0, 4, lambda _: None, allocate)
    rows = [np.full((1 << 16, 2), value, np.uint8) for value in range(8)]
    taken: list[Segment] = []
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        for value in range(start, stop):
            assert not block.add(("no number", rows[7]))
            assert not block.add((np.int64(7), rows[7][:5]))
            assert (
                block.add((np.int64(value), rows[value]))
                if value % 2
                else block.add_row((np.array([value]), rows[value][None]))
            )
        taken.append(block.take())
    assert block.add_many((np.arange(6, 8), np.stack(rows[6:])), 2) == 2
    taken.append(block.take())
    assert asked == [(1 << 17, 4)] * 2
    values = [int(value) for segment in taken for value in np.asarray(segment.columns[0])]
    assert values == list(range(8))
    columns = [segment.columns[1] for segment in taken]
    assert all(isinstance(column, Scattered) for column in columns)
    joined = pad_column(join_columns(columns))
    assert isinstance(joined, np.ndarray)
    assert np.array_equal(joined, np.broadcast_to(np.arange(8)[:, None, None], joined.shape))


def test_a_block_without_pieces_writes_rows_together() -> None:
    """Where there are none."""
    element = ElementSpec((TensorSpec("uint8", (1 << 16,)),))
    definition = QueueDefinition("RandomShuffleQueue", element, 10)
    block = Block(definition, 1 << 16, 4, lambda _: None, lambda _size, _count: None)
    assert block.add(np.ones(1 << 16, np.uint8))
    assert isinstance(block.take().columns[0], np.ndarray)


def test_rows_apart_travel_as_any_others() -> None:
    """The header says the same; who receives pieces has rows apart, and who receives bytes has not."""
    array = np.arange(20_000, dtype=np.float32).reshape(4, 5000)
    described = describe_columns([scatter(array)], ["float32"])
    assert described == describe_columns([array], ["float32"])
    [frame] = encode_columns([scatter(array)])
    assert len(frame) == array.nbytes
    [apart] = decode_columns(described, [frame])
    assert isinstance(apart, Scattered)
    assert np.array_equal(apart.joined(), array)
    [together] = decode_columns(described, [bytes(frame)])
    assert isinstance(together, np.ndarray)
    assert (together == array).all()


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("int32", (2, 20)), ("int32", (8, 5)), ("int32", (40,)), ("int32", (4, 11)), ("int32", (0, 40)), ("str", (4,))],
)
def test_pieces_that_are_no_rows(dtype: str, shape: tuple[int, ...]) -> None:
    """From a peer that is no client of ours: they are refused, and not copied together."""
    frames: list[AnyFrame] = [FakePieces.of(np.zeros((4, 40), np.uint8)), b""]
    with pytest.raises(RemoteProtocolError, match="pieces"):
        decode_columns([[dtype, list(shape)]], frames[: 1 + (dtype == "str")])


def test_pieces_where_no_rows_of_one_shape_are() -> None:
    """Neither rows that vary lie in them, nor what messages say, nor what else they bring."""
    pieces = FakePieces.of(np.ones((2, 8), np.int64))
    with pytest.raises(RemoteProtocolError, match="pieces"):
        decode_columns([["int8", [2, None]]], [pieces, b"abc"])
    [header] = encode(m.Rows(1, []))
    messages: list[list[AnyFrame]] = [[pieces], [header, pieces]]
    for frames in messages:
        with pytest.raises(RemoteProtocolError):
            decode(frames)


def test_truth_values_in_pieces() -> None:
    """They are 0 or 1, as everywhere."""
    [column] = decode_columns([["bool", [4, 40]]], [FakePieces.of(np.ones((4, 40), np.uint8))])
    assert pad_column(column).sum() == 160  # type: ignore[union-attr]
    wrong = np.ones((4, 40), np.uint8)
    wrong[2, 3] = 2
    with pytest.raises(RemoteProtocolError, match="bool"):
        decode_columns([["bool", [4, 40]]], [FakePieces.of(wrong)])


def test_rows_of_an_array_are_copied_apart() -> None:
    """Whatever their order in memory is; where there are no pieces, nothing is."""
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4).transpose(2, 1, 0)
    asked: list[tuple[int, int]] = []

    def allocate(size: int, count: int) -> FakePieces:
        asked.append((size, count))
        return FakePieces(size, count)

    column = Scattered.of(array, allocate)
    assert column is not None
    assert asked == [(24, 4)]
    assert np.array_equal(column.joined(), array)
    assert Scattered.of(array, lambda _size, _count: None) is None
