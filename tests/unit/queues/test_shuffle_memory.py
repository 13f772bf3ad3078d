"""What a shuffle keeps of what was put."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

from aioflow.errors import QueueClosed
from aioflow.queues import Completed, Failed, QueueDefinition, QueueMachine, Segment, Ticket, _store, gather
from aioflow.specs import ElementSpec, Ragged, TensorSpec

ROWS, CAPACITY = 64, 1024


def _small(capacity: int = CAPACITY) -> QueueMachine:
    element = ElementSpec((TensorSpec("float64", (16,)), TensorSpec("int64", ())))
    return QueueMachine(QueueDefinition("RandomShuffleQueue", element, capacity), np.random.default_rng(3), "small")


def _put(machine: QueueMachine, first: int, rows: int) -> weakref.ref[np.ndarray]:
    numbers = np.arange(first, first + rows)
    column = np.repeat(numbers, 16).reshape(rows, 16).astype(np.float64)
    machine.enqueue(Segment.of((column, numbers)))
    machine.take_effects()
    return weakref.ref(column)


def _taken(machine: QueueMachine, count: int) -> tuple[Ticket, list[int]]:
    """Take rows whose components are to agree."""
    ticket = machine.dequeue(count)
    (effect,) = (effect for effect in machine.take_effects() if effect.ticket == ticket)
    assert isinstance(effect, Completed)
    assert effect.rows is not None
    columns: Any = gather(effect.rows, machine.definition.element)
    assert (columns[0] == columns[1][:, None]).all()
    columns[0][:] = -1  # the consumer's own
    return effect.ticket, columns[1].tolist()


def test_small_rows_are_copied() -> None:
    """Nobody keeps the memory of a put for the rows that are left of it."""
    machine = _small()
    assert _put(machine, 0, ROWS)() is None
    _, few = _taken(machine, 5)
    _, others = _taken(machine, ROWS - 5)
    assert sorted(few + others) == list(range(ROWS))


def _array_bytes(machine: QueueMachine) -> int:
    return sum(array.nbytes for array in machine._order._store._arrays)  # type: ignore[attr-defined]


def test_what_a_bag_has_touched_and_does_not_use_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what came beyond its capacity, too, and when it is never quite empty."""
    monkeypatch.setattr(_store, "TOUCHED_BYTES_MAX", 1 << 20)
    machine = _small(1000)
    _put(machine, 0, 1000)
    assert _array_bytes(machine) == 1000 * 144  # all that it may hold
    tickets = []
    for start in range(1000, 20_000, 1000):
        tickets.append(_taken(machine, 1000)[0])
        _put(machine, start, 1000)
    for ticket in tickets:
        machine.restore(ticket)
    assert len(machine) == 20_000
    assert _array_bytes(machine) >= 20_000 * 144
    while len(machine) > 10:
        machine.acknowledge(_taken(machine, min(1000, len(machine) - 10))[0])
    assert _array_bytes(machine) <= 2 << 20
    _put(machine, 20_000, 500)
    assert len(machine) == 510


def test_what_was_drawn_is_not_lost_when_there_is_no_memory_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays as large as it is, until there is."""
    monkeypatch.setattr(_store, "TOUCHED_BYTES_MAX", 1 << 10)
    machine = _small(1000)
    _put(machine, 0, 1000)
    copied = _store.RowStore._copied

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(_store.RowStore, "_copied", fail)
    _, first = _taken(machine, 900)
    monkeypatch.setattr(_store.RowStore, "_copied", copied)
    _, second = _taken(machine, 50)
    assert _array_bytes(machine) == 100 * 144
    _, rest = _taken(machine, 50)
    assert sorted(first + second + rest) == list(range(1000))


@pytest.mark.parametrize("beyond", [False, True], ids=["put", "restore"])
def test_a_bag_without_memory_stays_as_it_is(beyond: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds none fails, and all else goes on."""
    machine = _small(200)
    _put(machine, 0, 200 if beyond else 50)
    ticket, _ = _taken(machine, 100 if beyond else 1)
    _put(machine, 200, 100 if beyond else 1)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", fail)
        with pytest.raises(MemoryError):
            machine.restore(ticket) if beyond else _put(machine, 50, 100)
    assert len(machine) == (200 if beyond else 50)
    _, taken = _taken(machine, 40)
    assert len(set(taken)) == 40


def test_rows_of_one_size_that_come_as_if_they_varied() -> None:
    """As a peer may send them that is no client of ours."""
    element = ElementSpec((TensorSpec("int64", ()), TensorSpec("float32", (2,))))
    machine = QueueMachine(QueueDefinition("RandomShuffleQueue", element, 100), np.random.default_rng(1))
    machine.enqueue(Segment.of((np.arange(3), Ragged(np.full((3, 1), 2), np.arange(6, dtype=np.float32)))))
    machine.enqueue(Segment.of((np.arange(3, 5), np.arange(6, 10, dtype=np.float32).reshape(2, 2))))
    assert machine.stats().size == 5
    machine.take_effects()
    machine.dequeue(5)
    (effect,) = machine.take_effects()
    assert isinstance(effect, Completed)
    assert effect.rows is not None
    numbers, pairs = gather(effect.rows, element)
    assert isinstance(numbers, np.ndarray)
    assert isinstance(pairs, np.ndarray)
    assert pairs.tolist() == [[2 * number, 2 * number + 1] for number in numbers.tolist()]


def test_a_deleted_bag_is_let_go_of() -> None:
    """Nothing is drawn from it for that."""
    machine = _small()
    _put(machine, 0, CAPACITY)
    array = weakref.ref(machine._order._store._arrays[0])  # type: ignore[attr-defined]
    machine.abort(QueueClosed("deleted"))
    assert not len(machine)
    assert array() is None
    machine.enqueue(Segment.of((np.zeros((1, 16)), np.zeros(1, np.int64))))
    (effect,) = machine.take_effects()
    assert isinstance(effect, Failed)


def test_a_bag_grows() -> None:
    """Up to the capacity, and by what is given back beyond it."""
    machine = _small(200)
    _put(machine, 0, 200)
    tickets = [_taken(machine, 50)[0] for _ in range(4)]
    _put(machine, 200, 200)
    for ticket in tickets[1:]:
        machine.restore(ticket)
    assert len(machine) == 350
    _, taken = _taken(machine, 350)
    assert sorted(number for number in taken if number >= 200) == list(range(200, 400))
    assert len(set(taken)) == 350
