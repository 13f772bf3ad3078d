"""Every short sequence of operations on tiny queues: machine against model, none left out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow.errors import EndOfQueue, OperationCancelled, QueueClosed, QueueError
from aioflow.queues import Completed, Failed, QueueDefinition, QueueMachine, Recall, Segment, Ticket
from aioflow.specs import ElementSpec, TensorSpec
from aioflow.testing._machine_suite import check_invariants
from aioflow.testing._model import ModelElement, QueueModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aioflow.queues import Kind

ERRORS = (EndOfQueue, OperationCancelled, QueueClosed, QueueError)
# One step more takes ten times as long.
LENGTH = 6 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 4

# An element's number in its put decides its bytes: one of the capacity's half, one that fills it, one larger than it.
BYTES = (2, 4, 5)
BYTES_MAX = 4
ELEMENT = ElementSpec((TensorSpec("int64", None),))
SEGMENTS = {
    bytes_: Segment(len(bytes_), (np.arange(len(bytes_)),), np.array(bytes_), np.arange(len(bytes_))[::-1])
    for bytes_ in [(), (2,), (4,), (5,), (2, 2), (2, 4), (2, 2, 2)]
}

Step = tuple[str, Any]
# What names no ticket; "last" and "first" among those that wait, or that are unacknowledged, name one.
STEPS: tuple[Step, ...] = (
    ("put", (2,)),
    ("put", (2, 2)),
    ("get", (1, False)),
    ("get", (2, False)),
    ("get", (2, True)),
    ("ask", (1, 2)),
    ("close", False),
    ("close", True),
)
STEPS_OF_BYTES: tuple[Step, ...] = (
    ("put", (2,)),
    ("put", (4,)),
    ("put", (5,)),
    ("put", (2, 2)),
    ("put", (2, 4)),
    ("get", (1, False)),
    ("get", (2, False)),
    ("close", False),
)
BOUND: tuple[tuple[str, Callable[[QueueModel], list[int]]], ...] = (
    ("cancel", lambda model: model.waiting),
    ("promote", lambda model: model.asking),
    ("acknowledge", lambda model: model.unacknowledged),
    ("acknowledge 1", lambda model: [ticket for ticket, got in model._received.items() if len(got.items) > 1]),
    ("restore", lambda model: model.unacknowledged),
)

QUEUES = [
    pytest.param(kind, capacity, reserve, id=f"{kind}-{capacity}-{reserve}")
    for kind, capacity, reserve in [
        ("FIFOQueue", 1, 0),
        ("FIFOQueue", 2, 0),
        ("FIFOQueue", -1, 0),
        ("PaddingFIFOQueue", 2, 0),
        ("RandomShuffleQueue", 2, 0),
        ("RandomShuffleQueue", 2, 1),
        ("PriorityQueue", 2, 0),
        ("PriorityQueue", -1, 0),
    ]
]


class _Both:
    """A machine and a model, light enough to be made a hundred thousand times."""

    def __init__(self, kind: Kind, capacity: int, reserve: int) -> None:
        definition = QueueDefinition(kind, ELEMENT, capacity, capacity_bytes=BYTES_MAX, min_after_dequeue=reserve)
        self.machine = QueueMachine(definition, np.random.default_rng(0))
        self.model = QueueModel(kind, capacity, capacity_bytes=BYTES_MAX, min_after_dequeue=reserve)
        self.priorities = kind == "PriorityQueue"
        self.exact = kind != "RandomShuffleQueue"
        self.returned: list[Any] = []
        self.put = 0

    def apply(self, step: Step) -> None:
        name, argument = step
        machine, model = self.machine, self.model
        if name == "put":
            model.enqueue(
                [
                    ModelElement((model._tickets + 1, row), nbytes, len(argument) - 1 - row if self.priorities else 0)
                    for row, nbytes in enumerate(argument)
                ]
            )
            segment = SEGMENTS[argument]
            machine.enqueue(Segment(segment.rows, segment.columns, segment.row_bytes, segment.priorities))
        elif name == "get":
            count, up_to = argument
            model.dequeue(count, up_to=up_to)
            machine.dequeue(count, up_to=up_to)
        elif name == "close":
            model.close(cancel_pending=argument)
            machine.close(cancel_pending=argument)
        elif name == "ask":
            model.ask(*argument)
            machine.ask(*argument)
        elif name == "acknowledge 1":
            model.acknowledge(argument, 1)
            machine.acknowledge(Ticket(argument), 1)
        else:
            expected = getattr(model, name)(argument)
            assert getattr(machine, name)(Ticket(argument)) == expected

    def agree(self) -> None:
        expected = self.model.take_outcomes()
        got: dict[int, Any] = {}
        recalled: set[int] = set()
        for effect in self.machine.take_effects():
            if isinstance(effect, Recall):
                recalled.add(effect.ticket)
            elif isinstance(effect, Failed):
                got[effect.ticket] = next(kind for kind in ERRORS if isinstance(effect.error, kind))
            else:
                assert isinstance(effect, Completed)
                got[effect.ticket] = None if effect.rows is None else _places(effect.rows)
        wanted: dict[int, Any] = {
            ticket: outcome.error or (None if outcome.values is None else [row for _, row in outcome.values])
            for ticket, outcome in expected.items()
        }
        if not self.exact:
            got, wanted = _counts(got), _counts(wanted)
        assert got == wanted
        assert recalled == self.model.recalled
        stats = check_invariants(self.machine)
        assert stats.size == self.model.size
        assert stats.size_bytes == self.model.size_bytes
        assert stats.is_closed == self.model.is_closed
        assert self.machine.is_drained == self.model.is_drained
        waiting = stats.puts_waiting + stats.gets_waiting
        assert waiting == len(self.model.waiting) - len(self.model.asking)

    def next_steps(self, free: tuple[Step, ...]) -> Iterator[Step]:
        yield from free
        for name, tickets in BOUND:
            listed = tickets(self.model)
            for ticket in {listed[0], listed[-1]} if listed else ():
                yield name, ticket


def _places(rows: Any) -> list[int]:
    """The rows in the order in which a get receives them."""
    places = np.empty(rows.count, np.int64)
    for part in rows.parts:
        places[part.places] = part.segment.columns[0][part.index]
    numbers: list[int] = places.tolist()
    return numbers


def _counts(outcomes: dict[int, Any]) -> dict[int, Any]:
    return {ticket: len(outcome) if isinstance(outcome, list) else outcome for ticket, outcome in outcomes.items()}


@pytest.mark.timeout(0)
@pytest.mark.parametrize(("kind", "capacity", "reserve"), QUEUES)
def test_every_short_sequence(kind: Kind, capacity: int, reserve: int) -> None:
    """Machine and model agree after each of all sequences of a few operations."""
    free = STEPS if capacity > 0 else STEPS_OF_BYTES
    longer: list[tuple[Step, ...]] = [()]
    while longer:
        sequence = longer.pop()
        both = _Both(kind, capacity, reserve)
        for step in sequence:
            both.apply(step)
        try:
            both.agree()
        except AssertionError as error:
            error.add_note(f"after {sequence}")
            raise
        if len(sequence) < LENGTH:
            longer.extend((*sequence, step) for step in both.next_steps(free))
