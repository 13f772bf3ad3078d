"""Rows of queues that they leave out of order: their values stay, and nothing keeps what came with them."""

from __future__ import annotations

import errno
import itertools
import mmap
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioflow.queues import Completed, Kind, QueueDefinition, QueueMachine, Segment, Ticket, _pages, _store, gather
from aioflow.queues._attempts import AHEAD_BYTES_MAX
from aioflow.queues._pages import OwnPages
from aioflow.queues._store import ALONE_BYTES
from aioflow.specs import ElementSpec, Scattered, Strings, TensorSpec, pad_column, to_columns
from tests.property.pieces import FakePieces

if TYPE_CHECKING:
    from aioflow.specs import Column

    Row = np.ndarray[Any, Any]

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "get", "move", "acknowledge", "some", "restore"]), st.integers(0, 5)),
    max_size=30,
)
COMPONENTS = {
    "small numbers": TensorSpec("uint8", (64,)),
    "numbers": TensorSpec("uint8", (4097,)),
    "large numbers": TensorSpec("uint8", (ALONE_BYTES,)),
    "no values": TensorSpec("uint8", (3, 0)),
    "strings": TensorSpec("bytes", ()),
    "two strings": TensorSpec("bytes", (2,)),
    "any numbers": TensorSpec("uint8", None),
    "any strings": TensorSpec("bytes", None),
}


def make_row(number: int, spec: TensorSpec) -> Row:
    """Return what an element of this number has."""
    rng = np.random.default_rng(number)
    shape: Any = spec.shape
    if spec.dtype == "uint8":
        return rng.integers(0, 255, (number // 4 % 5, 7) if shape is None else shape, np.uint8)
    row = np.empty((number // 4 % 3,) if shape is None else shape, object)
    for place in np.ndindex(row.shape):
        row[place] = rng.bytes(int(rng.choice([0, 10, 3000, ALONE_BYTES])))
    return row


class Held:
    """A queue of numbers, each with its row behind it.

    Attributes:
        out: What gets took that have not ended, by their tickets.
        came: The numbers that were put.
        left: Those that were acknowledged.
    """

    def __init__(self, kind: Kind, spec: TensorSpec) -> None:
        self._spec = spec
        self._element = ElementSpec((TensorSpec("int64", ()), spec))
        self._prioritised = kind == "PriorityQueue"
        self.machine = QueueMachine(QueueDefinition(kind, self._element, -1), np.random.default_rng(0))
        self.out: dict[Ticket, list[int]] = {}
        self.came: list[int] = []
        self.left: list[int] = []
        self._columns: dict[Ticket, tuple[Column, ...]] = {}
        self._blocks: list[weakref.ref[Any]] = []
        self._numbers = itertools.count()

    def put(self, count: int) -> None:
        """Put elements, those of one shape in one segment."""
        numbers = list(itertools.islice(self._numbers, count))
        for _, group in itertools.groupby(numbers, lambda number: make_row(number, self._spec).shape):
            value = [*group]
            rows = np.stack([make_row(number, self._spec) for number in value])
            columns = to_columns((np.array(value), rows), self._element, many=True)
            segment = Segment.of(columns, prioritised=self._prioritised)
            if segment.rows > 1:
                column = columns[1]
                self._blocks.append(weakref.ref(column.data if isinstance(column, Strings) else column))
            self.machine.enqueue(segment)
        self.came += numbers

    def get(self, count: int) -> None:
        """Take elements, one by one where their shapes are not known, and compare them."""
        count = min(count, len(self.machine))
        for each in [1] * count if self._spec.shape is None else [count]:
            ticket = self.machine.dequeue(each)
            for effect in self.machine.take_effects():
                if isinstance(effect, Completed) and effect.ticket == ticket and effect.rows is not None and each:
                    self._columns[ticket] = gather(effect.rows, self._element)
                    self.out[ticket] = self._numbers_of(*self._columns[ticket])

    def _numbers_of(self, numbers: Column, column: Column) -> list[int]:
        assert isinstance(numbers, np.ndarray)
        dense = pad_column(column)
        rows = dense.decode("bytes") if isinstance(dense, Strings) else dense
        found: list[int] = numbers.tolist()
        for number, row in zip(found, rows, strict=True):
            expected = make_row(number, self._spec)
            assert row == expected[()] if expected.dtype == object and not expected.shape else (row == expected).all()
        if self._prioritised:
            assert found == sorted(found)
        return found

    def move(self, pick: int) -> None:
        """Have what a get took lie elsewhere."""
        if self.out:
            ticket = list(self.out)[pick % len(self.out)]
            self.machine.move(ticket, Segment.of(self._columns[ticket], prioritised=self._prioritised))

    def end(self, pick: int, *, rows: int | None = None, restores: bool = False) -> None:
        """Acknowledge what a get took, or some of it, and give the rest back."""
        if not self.out:
            return
        ticket = list(self.out)[pick % len(self.out)]
        numbers = self.out.pop(ticket)
        del self._columns[ticket]
        kept = 0 if restores else len(numbers)
        if rows is not None and rows < len(numbers):
            self.machine.acknowledge(ticket, rows)
            kept, restores = rows, True
        self.left += numbers[:kept]
        (self.machine.restore if restores else self.machine.acknowledge)(ticket)

    def check(self) -> None:
        """Of what came together nothing is there any more as it came."""
        self.machine.take_effects()
        assert not [block for block in self._blocks if block() is not None]


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("kind", ["RandomShuffleQueue", "PriorityQueue"])
@given(steps=STEPS)
def test_rows_by_themselves(kind: Kind, component: str, steps: list[tuple[str, int]]) -> None:
    """Through any puts, gets, moves, acknowledgements and returns each keeps its value, and leaves once."""
    held = Held(kind, COMPONENTS[component])
    for step, number in steps:
        match step:
            case "put":
                held.put(number + 1)
            case "get":
                held.get(number + 1)
            case "move":
                held.move(number)
            case "acknowledge":
                held.end(number)
            case "some":
                held.end(number, rows=number)
            case _:
                held.end(number, restores=True)
        held.check()
    while held.out or len(held.machine):
        held.get(3)
        held.end(0)
    assert sorted(held.left) == held.came


@pytest.mark.parametrize("component", ["large numbers", "strings", "any numbers", "any strings"])
@pytest.mark.parametrize("kind", ["RandomShuffleQueue", "PriorityQueue"])
def test_what_came_alone(kind: Kind, component: str) -> None:
    """Until it has left it stays where it is, if all are of its size; else it is copied, and what it came in goes."""
    spec = COMPONENTS[component]
    element = ElementSpec((TensorSpec("int64", ()), spec))
    machine = QueueMachine(QueueDefinition(kind, element, -1), np.random.default_rng(0))
    data = np.full(ALONE_BYTES if component == "large numbers" else 1 << 20, 7, np.uint8)
    column = Strings(np.array([len(data)]), data) if spec.dtype == "bytes" else data[None]
    machine.enqueue(Segment.of((np.array([1]), column), prioritised=kind == "PriorityQueue"))
    ticket = machine.dequeue(1)
    _, effect = machine.take_effects()
    assert isinstance(effect, Completed)
    assert effect.rows is not None
    taken = gather(effect.rows, element)[1]
    values: Any = taken.data if isinstance(taken, Strings) else taken
    assert np.array_equal(values.ravel(), data)
    assert np.shares_memory(values, data) == (component == "large numbers")
    gone = weakref.ref(data)
    del data, column
    assert (gone() is None) == (component != "large numbers")
    machine.acknowledge(ticket)
    del effect, taken, values
    assert gone() is None


@pytest.mark.parametrize("has_pages", [True, False])
def test_a_row_has_pages_of_its_own(has_pages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is large, and the process may map more; else it is copied as any array."""
    mapped: list[int] = []

    def map_pages(fd: int, size: int, flags: int) -> mmap.mmap:
        if not has_pages:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        mapped.append(size)
        return mmap.mmap(fd, size, flags=flags)

    monkeypatch.setattr(_pages, "mmap", SimpleNamespace(mmap=map_pages))
    pages = OwnPages(1 << 30)
    for size in (0, 8, (256 << 10) - 8, 256 << 10, 3 << 20):
        values = np.arange(size // 8)
        copy = pages.copy(values)
        assert np.array_equal(copy, values)
        assert copy.dtype == values.dtype
        assert not np.shares_memory(copy, values)
    assert mapped == ([256 << 10, 3 << 20] if has_pages else [])


@pytest.mark.parametrize("component", ["strings", "two strings"])
@pytest.mark.parametrize("kind", ["RandomShuffleQueue", "PriorityQueue"])
def test_what_cannot_be_taken_stays(kind: Kind, component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory to join strings: it is there for the next who asks."""
    held = Held(kind, COMPONENTS[component])
    held.put(6)
    held.machine.take_effects()

    def fail(*_: object) -> None:
        raise MemoryError

    for count in (1, 4):
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(_store._StringRows, "join", fail)
            held.machine._order.pop(count)
    assert len(held.machine) == 6
    held.get(6)
    held.end(0)
    assert sorted(held.left) == held.came


def test_a_large_row_comes_back_as_it_was() -> None:
    """Who takes it alone gets it where it lies, to be read."""
    spec = COMPONENTS["large numbers"]
    held = Held("RandomShuffleQueue", spec)
    held.put(2)
    for _ in range(2):
        held.get(1)
        ((_, column),) = held._columns.values()
        with pytest.raises(ValueError, match="read-only"):
            column[:] = 7  # type: ignore[index]
        held.end(0, restores=True)
    held.get(2)


@pytest.mark.parametrize("kind", ["RandomShuffleQueue", "PriorityQueue"])
def test_priorities_and_small_numbers_in_pieces(kind: Kind) -> None:
    """As a peer may send them that is no client of ours: they are numbers as any others."""
    element = ElementSpec((TensorSpec("int64", ()), TensorSpec("int64", ())))
    machine = QueueMachine(QueueDefinition(kind, element, -1), np.random.default_rng(0))
    numbers = np.array([3, 1, 2])
    columns = tuple(Scattered.of_pieces(FakePieces.of(numbers), (), numbers.dtype) for _ in range(2))
    machine.enqueue(Segment.of(columns, prioritised=kind == "PriorityQueue"))
    machine.dequeue(3)
    _, effect = machine.take_effects()
    assert isinstance(effect, Completed)
    assert effect.rows is not None
    first, second = map(pad_column, gather(effect.rows, element))
    assert np.array_equal(first, second)  # type: ignore[arg-type]
    assert sorted(np.asarray(first).tolist()) == [1, 2, 3]


@pytest.mark.parametrize("kind", ["FIFOQueue", "RandomShuffleQueue", "PriorityQueue"])
def test_what_goes_ahead_is_bounded_in_bytes(kind: Kind) -> None:
    """Who had small elements asks for many, and those that follow may be large."""
    element = ElementSpec((TensorSpec("int64", ()), TensorSpec("bytes", ())))
    machine = QueueMachine(QueueDefinition(kind, element, -1), np.random.default_rng(0))
    for priority, count, size in ((0, 64, 1), (1, 600, 1 << 18)):
        strings = Strings.encode([bytes(size)] * count, (count,))
        machine.enqueue(Segment.of((np.full(count, priority), strings), prioritised=kind == "PriorityQueue"))
    machine.take_effects()
    for _ in range(2):
        machine.ask(16, 128)
        (effect,) = machine.take_effects()
        assert isinstance(effect, Completed)
        assert effect.rows is not None
        assert effect.rows.nbytes <= AHEAD_BYTES_MAX
