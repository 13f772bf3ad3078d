"""What the kinds of queues do differently, and their definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow.errors import EndOfQueue, SpecMismatch
from aioflow.queues import Completed, QueueDefinition, QueueMachine, Segment, gather
from aioflow.specs import ElementSpec, Strings, TensorSpec, pad_column, to_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.queues.conftest import Bench

    Make = Callable[..., Bench]


def test_fifo_order(make: Make) -> None:
    """semantics 1.5: elements come out in put order, single or in batches."""
    queue = make()
    queue.put(1)
    queue.put(2, 3, 4)
    assert queue.take(1) == [1]
    assert queue.take(3) == [2, 3, 4]


# RandomShuffleQueue


def test_shuffle_keeps_its_reserve(make: Make) -> None:
    """semantics 1.6: while open each removal needs more than min_after_dequeue elements."""
    queue = make("RandomShuffleQueue", 10, min_after_dequeue=3)
    queue.put(1, 2, 3)
    get = queue.get(2)
    assert queue.waits(get)
    assert queue.size == 3
    queue.put(4)
    assert queue.size == 3
    queue.put(5)
    assert not queue.waits(get)
    assert queue.size == 3


def test_shuffle_ignores_its_reserve_once_closed(make: Make) -> None:
    """semantics 1.6: after the close the reserve is ignored, also for getters that wait and dequeue_up_to."""
    queue = make("RandomShuffleQueue", 10, min_after_dequeue=3)
    queue.put(1, 2, 3)
    one, rest = queue.get(1), queue.get(5, up_to=True)
    queue.close()
    assert sorted(queue.results[one] + queue.results[rest]) == [1, 2, 3]


def test_shuffle_takes_as_they_rise(make: Make) -> None:
    """semantics 1.6: n + min_after_dequeue above the capacity works, since elements are taken as they come."""
    queue = make("RandomShuffleQueue", 4, min_after_dequeue=2)
    get = queue.get(4)
    put = queue.put(1, 2, 3, 4, 5, 6)
    assert queue.results[put] is None
    assert len(set(queue.results[get])) == 4


def test_shuffle_gives_back_into_the_bag(make: Make) -> None:
    """semantics 1.3: what a short dequeue_many had taken goes back into the bag at the close."""
    queue = make("RandomShuffleQueue", 10)
    get = queue.get(5)
    queue.put(1, 2, 3)
    queue.close()
    assert isinstance(queue.results[get], EndOfQueue)
    assert sorted(queue.take(3)) == [1, 2, 3]


def test_shuffle_unbounded(make: Make) -> None:
    """semantics 1.6: an unbounded capacity is allowed."""
    queue = make("RandomShuffleQueue", -1, min_after_dequeue=5)
    queue.put(*range(1000))
    assert len(queue.take(995)) == 995


@pytest.mark.parametrize("reserve", [-1, 4, 5])
def test_reserve_out_of_range(make: Make, reserve: int) -> None:
    """semantics 0.2: min_after_dequeue out of 0 to capacity - 1 is found at construction."""
    with pytest.raises(SpecMismatch, match="min_after_dequeue"):
        make("RandomShuffleQueue", 4, min_after_dequeue=reserve)


def test_capacity_0(make: Make) -> None:
    """semantics 0.2: a capacity of 0 is a ValueError."""
    with pytest.raises(ValueError, match="capacity is 0"):
        make("FIFOQueue", 0)


@pytest.mark.parametrize("name", ["capacity", "capacity_bytes", "min_after_dequeue", "seed", "producers"])
def test_numbers_are_integers(name: str) -> None:
    """semantics 0.1: a definition's number that is none is a SpecMismatch."""
    numbers: dict[str, Any] = {"capacity": 3, name: 2.5}
    with pytest.raises(SpecMismatch, match=name):
        QueueDefinition("RandomShuffleQueue", ElementSpec((TensorSpec("int8", ()),)), **numbers)


# PaddingFIFOQueue


def _padded(shape: tuple[int | None, ...], values: list[Any], dtype: str = "int32", count: int | None = None) -> Any:
    """Put each value by itself, and take them as one batch."""
    spec = ElementSpec((TensorSpec(dtype, shape),))
    machine = QueueMachine(QueueDefinition("PaddingFIFOQueue", spec, 10), np.random.default_rng(0))
    for value in values:
        machine.enqueue(Segment.of(to_columns((value,), spec, many=False)))
    ticket = machine.dequeue(len(values) if count is None else count)
    rows = next(e.rows for e in machine.take_effects() if isinstance(e, Completed) and e.ticket == ticket)
    assert rows is not None
    column = pad_column(gather(rows, spec)[0])
    return column.decode(dtype) if isinstance(column, Strings) else column


def test_padding_to_the_largest() -> None:
    """semantics 1.8: an unknown dimension becomes the maximum of the batch, filled at the end with 0."""
    assert _padded((None,), [[1], [2, 3, 4], []]).tolist() == [[1, 0, 0], [2, 3, 4], [0, 0, 0]]


def test_padding_two_dimensions() -> None:
    """semantics 1.8: each unknown dimension by itself, and known ones keep their size."""
    batch = _padded((None, 1, None), [np.ones((2, 1, 1), np.int32), np.ones((1, 1, 3), np.int32)])
    assert batch.shape == (2, 2, 1, 3)
    assert batch.sum(axis=(1, 2, 3)).tolist() == [2, 3]
    assert batch[0, :, 0, 0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("dtype", "zero"),
    [
        ("str", ""),
        ("bytes", b""),
        ("bool", False),
        ("complex64", 0),
        ("bfloat16", 0),
        ("float8_e5m2", 0),
        ("uint64", 0),
    ],
)
def test_fill_values(dtype: str, zero: object) -> None:
    """semantics 1.8: the fill value is the dtype's zero."""
    one: Any = "x" if dtype in {"str", "bytes"} else True
    value = np.array([one], dtype=object) if isinstance(one, str) else np.ones(1, np.bool_)
    batch = _padded((None,), [value, value[:0]], dtype)
    assert batch[1, 0] == zero
    assert batch[0, 0] != zero


def test_padding_of_rank_5() -> None:
    """semantics 0.2: rank 5 and more is padded too."""
    batch = _padded((None,) * 6, [np.ones((1,) * 6, np.int32), np.ones((2,) * 6, np.int32)])
    assert batch.shape == (2, *(2,) * 6)
    assert batch[0].sum() == 1


def test_padding_of_zero_sizes() -> None:
    """semantics 0.2: rows without values work."""
    assert _padded((None, 0), [np.ones((2, 0), np.int32), np.ones((1, 0), np.int32)]).shape == (2, 2, 0)


def test_padding_an_empty_batch() -> None:
    """semantics 1.8: in a dequeue_many(0) unknown dimensions are 0."""
    assert _padded((None, 3), [], count=0).shape == (0, 0, 3)
    assert _padded((None,), [], "str", count=0).shape == (0, 0)


def test_a_single_element_is_not_padded() -> None:
    """semantics 1.8: a dequeue returns the element as it was put."""
    assert _padded((None,), [[1, 2], [3]], count=1).tolist() == [[1, 2]]


def test_strings_are_padded_in_place() -> None:
    """semantics 1.8: strings keep their places when dimensions grow, empty strings fill the ends."""
    batch = _padded((None, None), [np.array([["a"], ["b"]]), np.array([["c", "d"]])], "str")
    assert batch.tolist() == [[["a", ""], ["b", ""]], [["c", "d"], ["", ""]]]


# PriorityQueue


def test_priority_order(make: Make) -> None:
    """semantics 1.9: the smallest priority first, negative ones too."""
    queue = make("PriorityQueue")
    queue.put(3, -1, 2)
    assert queue.take(3) == [-1, 2, 3]


def test_ties_are_fifo() -> None:
    """semantics 0.2: equal priorities come out in put order, also after a restore."""
    spec = ElementSpec((TensorSpec("int64", ()), TensorSpec("int64", ())))
    machine = QueueMachine(QueueDefinition("PriorityQueue", spec, -1), np.random.default_rng(0))
    machine.enqueue(Segment.of((np.ones(20, np.int64), np.arange(20)), prioritised=True))
    first = machine.dequeue(7)
    machine.restore(first)
    machine.take_effects()
    machine.dequeue(20)
    effect = machine.take_effects()[-1]
    assert isinstance(effect, Completed)
    assert effect.rows is not None
    column = gather(effect.rows, spec)[1]
    assert isinstance(column, np.ndarray)
    assert column.tolist() == list(range(20))


def test_priority_batches_are_atomic(make: Make) -> None:
    """semantics 1.9: a batch takes nothing until all are there, and later gets wait behind it."""
    queue = make("PriorityQueue")
    many, one = queue.get(3), queue.get(1)
    queue.put(5, 4)
    assert queue.size == 2
    assert queue.waits(one)
    queue.put(1)
    assert queue.results[many] == [1, 4, 5]


def test_priority_remainder(make: Make) -> None:
    """semantics 0.2: dequeue_up_to on a closed queue returns the remainder."""
    queue = make("PriorityQueue")
    queue.put(2, 1)
    get = queue.get(5, up_to=True)
    queue.close()
    assert queue.results[get] == [1, 2]


def test_priority_short_batch_takes_nothing(make: Make) -> None:
    """semantics 1.9: on a closed queue too a dequeue_many takes all or nothing."""
    queue = make("PriorityQueue")
    queue.put(1, 2)
    first, many = queue.get(1), queue.get(2)
    queue.close()
    assert queue.waits(many)
    assert queue.size == 1
    queue.restore(first)
    assert queue.results[many] == [1, 2]


def test_priority_batch_above_the_capacity(make: Make) -> None:
    """semantics 0.2: n above the capacity is a ValueError at the call, also for a request ahead."""
    queue = make("PriorityQueue", 3)
    queue.get(3)
    for call in (queue.get, queue.ask):
        with pytest.raises(ValueError, match="capacity of 3"):
            call(4)
    assert queue.machine.stats().gets_waiting == 1


def test_other_kinds_accept_more_than_the_capacity(make: Make) -> None:
    """semantics 0.2: the other classes accept n above the capacity."""
    assert make("FIFOQueue", 3).get(4)


# Definitions that meet


def _define(**changes: Any) -> QueueDefinition:
    given: dict[str, Any] = {
        "kind": "RandomShuffleQueue",
        "element": ElementSpec((TensorSpec("int8", (2,)),)),
        "capacity": 10,
        "min_after_dequeue": 2,
        "seed": 7,
        "producers": 2,
        "capacity_bytes": 1000,
        **changes,
    }
    return QueueDefinition(**given)


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("kind", {"kind": "FIFOQueue", "min_after_dequeue": 2}),
        ("capacity", {"capacity": 11}),
        ("capacity_bytes", {"capacity_bytes": 1001}),
        ("min_after_dequeue", {"min_after_dequeue": 1}),
        ("seed", {"seed": 8}),
        ("producers", {"producers": 1}),
        ("dtypes", {"element": ElementSpec((TensorSpec("uint8", (2,)),))}),
        ("shapes", {"element": ElementSpec((TensorSpec("int8", (3,)),))}),
        ("shapes", {"element": ElementSpec((TensorSpec("int8", None),))}),
    ],
)
def test_a_difference_is_named(word: str, change: dict[str, Any]) -> None:
    """semantics 1.10: a second definition must match in everything; the difference is named."""
    (difference,) = _define().differences(_define(**change))
    assert difference.startswith(word)


def test_every_difference_is_named() -> None:
    """api.md: a definition that disagrees is told every difference."""
    other = _define(capacity=3, seed=1, element=ElementSpec((TensorSpec("int16", (2,)),)))
    assert len(_define().differences(other)) == 3


@pytest.mark.parametrize("name", ["seed", "producers", "capacity_bytes"])
def test_what_is_left_out_matches(name: str) -> None:
    """api.md: what the later definition leaves out matches; what the first left out, the later may not add."""
    assert not _define().differences(_define(**{name: None}))
    assert _define(**{name: None}).differences(_define())


def test_the_default_spelled_out_matches() -> None:
    """semantics 0.4: an unspecified capacity_bytes is the same as 256 MB."""
    assert not _define(capacity_bytes=None).differences(_define(capacity_bytes=256_000_000))


def test_names_are_not_compared() -> None:
    """semantics 1.10: each object has its own names."""
    element = ElementSpec((TensorSpec("int8", (2,)),), ("x",))
    assert not _define().differences(_define(element=element))


def test_negative_capacities_are_one() -> None:
    """semantics 1.2: -1 and -5 are the same capacity."""
    assert not _define(capacity=-1).differences(_define(capacity=-5))


@pytest.mark.parametrize(
    ("mine", "theirs", "joins"),
    [((3, 2), (None, 2), True), ((None, 2), (3, 2), True), ((3, 2), (4, 2), False), ((None,), (None, None), False)],
)
def test_padding_shapes_are_compatible(
    mine: tuple[int | None, ...], theirs: tuple[int | None, ...], *, joins: bool
) -> None:
    """semantics 1.10: a PaddingFIFOQueue's shapes need only be compatible."""
    first, second = (
        QueueDefinition("PaddingFIFOQueue", ElementSpec((TensorSpec("int8", shape),)), 5) for shape in (mine, theirs)
    )
    assert (not first.differences(second)) is joins
