"""The order of a RandomShuffleQueue: uniform, a function of the seed, and never out of the reserve."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioflow.queues import Completed, QueueDefinition, QueueMachine, Segment
from aioflow.specs import ElementSpec, TensorSpec

if TYPE_CHECKING:
    from aioflow.specs import Array

P_MIN = 1e-4
ROUNDS = 4_000


def chi_square_p(counts: Array) -> float:
    """Return the probability of counts at least this uneven if all were equally likely (Wilson and Hilferty, 1931)."""
    expected = counts.mean()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.size - 1
    spread = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(z / math.sqrt(2))


def make(seed: int, capacity: int, reserve: int = 0) -> QueueMachine:
    """Make a queue of numbers."""
    element = ElementSpec((TensorSpec("int64", ()),))
    definition = QueueDefinition("RandomShuffleQueue", element, capacity, min_after_dequeue=reserve, seed=seed)
    return QueueMachine(definition, np.random.default_rng(seed))


def put(machine: QueueMachine, *numbers: int) -> None:
    """Enqueue numbers."""
    machine.enqueue(Segment.of((np.array(numbers),)))
    machine.take_effects()


def take(machine: QueueMachine, count: int) -> list[int]:
    """Dequeue numbers that are there."""
    machine.acknowledge(machine.dequeue(count))
    (effect,) = machine.take_effects()
    assert isinstance(effect, Completed)
    assert effect.rows is not None
    numbers = np.empty(count, np.int64)
    for part in effect.rows.parts:
        column = part.segment.columns[0]
        assert isinstance(column, np.ndarray)
        numbers[part.places] = column[part.index]
    found: list[int] = numbers.tolist()
    return found


def test_the_judge_knows_a_biased_order() -> None:
    """The chi-square test of this file passes even counts and fails uneven ones."""
    rng = np.random.default_rng(0)
    assert chi_square_p(rng.multinomial(10_000, [0.1] * 10)) > 0.01
    assert chi_square_p(rng.multinomial(10_000, [0.12, 0.08, *[0.1] * 8])) < P_MIN


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("held", "batch"), [(8, 1), (8, 3), (8, 8), (30, 2)], ids=["single", "few", "all", "few-of-many"]
)
def test_every_place_is_equally_likely(held: int, batch: int, seed: int) -> None:
    """semantics 1.6: each element that is in is as likely as any other at each place of a batch."""
    counts = np.zeros((batch, held), np.int64)
    machine = make(seed, -1)
    for _ in range(ROUNDS):
        put(machine, *range(held))
        for place, number in enumerate(take(machine, batch)):
            counts[place, number] += 1
        if held > batch:
            take(machine, held - batch)
    for place in range(batch):
        assert chi_square_p(counts[place]) > P_MIN


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_order_is_equally_likely(seed: int) -> None:
    """semantics 1.6: single gets draw every order of three elements equally often."""
    counts: dict[tuple[int, ...], int] = {}
    machine = make(seed, -1)
    for _ in range(ROUNDS):
        put(machine, 0)
        put(machine, 1, 2)
        order = tuple(number for _ in range(3) for number in take(machine, 1))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert chi_square_p(np.array(list(counts.values()))) > P_MIN


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_came_back_is_as_likely_as_the_rest(seed: int) -> None:
    """semantics 0.2: what is given back goes into the bag, and has no place of its own there."""
    counts = np.zeros(6, np.int64)
    machine = make(seed, -1)
    for _ in range(ROUNDS):
        put(machine, *range(6))
        machine.restore(machine.dequeue(2))
        machine.take_effects()
        counts[take(machine, 1)[0]] += 1
        take(machine, 5)
    assert chi_square_p(counts) > P_MIN


@given(seed=st.integers(0, 9), steps=st.lists(st.integers(-4, 4), max_size=30), reserve=st.integers(0, 5))
def test_same_seed_same_order(seed: int, steps: list[int], reserve: int) -> None:
    """semantics 1.6: with a seed the order repeats exactly for the same operations."""
    assert _trace(seed, steps, reserve) == _trace(seed, steps, reserve)


def test_other_seed_other_order() -> None:
    """semantics 1.6: the seed decides the order."""
    traces = {tuple(_trace(seed, [20, -10], 0)[-1]) for seed in range(5)}
    assert len(traces) == 5


@given(steps=st.lists(st.integers(-4, 4), max_size=40), reserve=st.integers(0, 5), seed=st.integers(0, 3))
def test_the_reserve_stays(steps: list[int], reserve: int, seed: int) -> None:
    """semantics 1.6: while the queue is open no get takes the last min_after_dequeue elements; after it, all come."""
    machine = make(seed, -1, reserve)
    came, gets = 0, []
    for step in steps:
        before = len(machine)
        if step >= 0:
            came += step
            machine.enqueue(Segment.of((np.arange(step),)))
        else:
            gets.append(machine.dequeue(-step))
        assert len(machine) >= min(before, reserve)
    machine.close()
    for get in gets:
        machine.acknowledge(get)
    machine.dequeue(1000, up_to=True)
    got = [e.rows.count for e in machine.take_effects() if isinstance(e, Completed) and e.rows is not None]
    assert sum(got) == came


def _trace(seed: int, steps: list[int], reserve: int) -> list[list[int]]:
    """Put (above 0) and get (below) as the steps say, and return what each get that was served received."""
    machine = make(seed, -1, reserve)
    trace: list[list[int]] = []
    for step in steps:
        if step >= 0:
            machine.enqueue(Segment.of((np.arange(step),)))
        elif len(machine) - reserve >= -step:
            machine.take_effects()
            trace.append(take(machine, -step))
    return trace
