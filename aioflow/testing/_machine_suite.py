"""What holds of a queue machine after every event, and a pair of a machine and its model that get the same events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.errors import EndOfQueue, OperationCancelled, QueueClosed, QueueError
from aioflow.queues import Completed, Failed, QueueDefinition, QueueMachine, QueueStats, Rows, Segment, Ticket, gather
from aioflow.specs import STRING_DTYPES, ElementSpec, Strings, join_columns, numpy_dtype, pad_column, to_columns
from aioflow.testing._model import ModelElement, ModelOutcome, QueueModel, pad_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

__all__ = ["QueuePair", "check_invariants"]

# The most specific first: an OperationCancelled is a QueueClosed, and that a QueueError.
_ERRORS = (EndOfQueue, OperationCancelled, QueueClosed, QueueError)


def check_invariants(machine: QueueMachine, before: QueueStats | None = None) -> QueueStats:
    """Assert what can be seen from outside after every event: conservation, capacity, reserve, nobody waits in vain.

    Args:
        machine: The queue.
        before: What this function returned before the event; without it only the state is checked, not the step.

    Returns:
        The statistics now.
    """
    now = machine.stats()
    definition = machine.definition
    assert now.gets_hold >= 0, "conservation: there is more than was accepted"
    assert now.gets_waiting or not now.gets_hold, "conservation: an element is nowhere"
    assert len(machine) == now.size >= now.ahead >= 0
    assert now.size or not now.size_bytes, "bytes are held where there are no elements"
    assert not now.is_closed or not now.puts_waiting, "a put waits on a closed queue"
    assert machine.is_drained == (now.is_closed and now.enqueued == now.dequeued), "drained: all that came has gone"
    if before is None or before.is_closed != now.is_closed:
        return now
    assert now.enqueued >= before.enqueued
    assert now.dequeued >= before.dequeued
    if now.enqueued > before.enqueued:
        assert now.capacity < 0 or now.size <= now.capacity, "a put exceeded the capacity"
        assert now.size == 1 or now.size_bytes <= now.capacity_bytes, "a put exceeded the capacity in bytes"
    left = now.enqueued - (now.size - now.ahead)
    if not now.is_closed and left > before.enqueued - (before.size - before.ahead):
        assert now.size - now.ahead >= definition.min_after_dequeue, "a get took from the reserve"
    return now


class QueuePair:
    """A machine and a model that get the same events, with real values on the machine's side.

    The first component that holds no priority must be an int64 scalar that differs between elements: it tells which is
    which. A RandomShuffleQueue's elements must all have the same size in bytes, for the model cannot know which ones
    the machine drew: there, numbers of elements are compared, and that what comes out was in.
    """

    def __init__(self, definition: QueueDefinition, rng: Generator) -> None:
        """Start with an empty queue."""
        self.machine = QueueMachine(definition, rng, "pair")
        self.model = QueueModel(
            definition.kind,
            definition.capacity,
            capacity_bytes=definition.bytes_max,
            min_after_dequeue=definition.min_after_dequeue,
        )
        self._prioritised = definition.kind == "PriorityQueue"
        self._exact = definition.kind != "RandomShuffleQueue"
        self._stats = check_invariants(self.machine)
        self._recalled: set[int] = set()
        self._offered: dict[int, tuple[Any, ...]] = {}
        self._out: set[int] = set()
        self._received: dict[int, tuple[Sequence[int], int]] = {}  # identities, how many were handed over

    # Events: each happens to both, and then both must agree

    def enqueue(self, elements: Sequence[tuple[Any, ...]]) -> None:
        """Put elements, each a tuple of components: numbers of one rank, strings of one shape."""
        spec = self.machine.definition.element
        self._offered.update({self._identity(element): element for element in elements})
        segment = Segment.of(self._columns(elements, spec), prioritised=self._prioritised)
        self.model.enqueue([self._model_element(element, spec) for element in elements])
        self._agree(self.machine.enqueue(segment))

    def dequeue(self, count: int, *, up_to: bool) -> None:
        """Get elements."""
        self.model.dequeue(count, up_to=up_to)
        self._agree(self.machine.dequeue(count, up_to=up_to))

    def ask(self, count: int, runs: int = 1, owner: str = "") -> None:
        """Request elements ahead."""
        self.model.ask(count, runs, owner)
        self._agree(self.machine.ask(count, runs, owner))

    def promote(self, ticket: int) -> None:
        """Make a request ahead a get."""
        self.model.promote(ticket)
        self.machine.promote(Ticket(ticket))
        self._agree()

    def close(self, *, cancel_pending: bool) -> None:
        """Close."""
        self.model.close(cancel_pending=cancel_pending)
        self._agree(self.machine.close(cancel_pending=cancel_pending))

    def cancel(self, ticket: int) -> None:
        """Withdraw an operation, which may have ended."""
        expected = self.model.cancel(ticket)
        assert self.machine.cancel(Ticket(ticket)) == expected
        self._agree()

    def acknowledge(self, ticket: int, rows: int | None = None) -> None:
        """Say that what a get received was handed over: so many rows of it in all, or all."""
        self.model.acknowledge(ticket, rows)
        self.machine.acknowledge(Ticket(ticket), rows)
        if ticket in self._received:
            identities, done = self._received[ticket]
            self._received[ticket] = identities, max(done, len(identities) if rows is None else rows)
        self._agree()

    def restore(self, ticket: int) -> None:
        """Give back what a get received and was not handed over."""
        identities, done = self._received.pop(ticket, ((), 0))
        self._out.difference_update(identities[done:])
        self.model.restore(ticket)
        self.machine.restore(Ticket(ticket))
        self._agree()

    # Agreement

    def _agree(self, ticket: Ticket | None = None) -> None:
        assert ticket is None or int(ticket) == self.model._tickets  # noqa: SLF001 - tickets are counted alike
        expected = self.model.take_outcomes()
        for effect in self.machine.take_effects():
            if isinstance(effect, Completed):
                self._agree_on_success(effect, expected.pop(effect.ticket))
            elif isinstance(effect, Failed):
                outcome = expected.pop(effect.ticket)
                assert next(kind for kind in _ERRORS if isinstance(effect.error, kind)) is outcome.error
            else:
                assert effect.ticket not in self._recalled, "recalled twice"
                self._recalled.add(effect.ticket)
        assert not expected, f"the machine left undone: {expected}"
        assert self._recalled == self.model.recalled
        self._stats = check_invariants(self.machine, self._stats)
        assert self._stats.size == self.model.size
        assert self._stats.size_bytes == self.model.size_bytes
        assert self._stats.is_closed == self.model.is_closed
        assert self.machine.is_drained == self.model.is_drained
        waiting = self._stats.puts_waiting + self._stats.gets_waiting
        assert waiting == len(self.model.waiting) - len(self.model.asking)

    def _agree_on_success(self, effect: Completed, outcome: ModelOutcome) -> None:
        assert outcome.error is None
        if effect.rows is None:
            assert outcome.values is None
            return
        assert outcome.values is not None
        assert effect.rows.count == len(outcome.values)
        identities = self._check_rows(effect.rows, outcome.values)
        assert len(set(identities)) == len(identities), "an element came twice in one batch"
        assert self._out.isdisjoint(identities), "an element came twice"
        assert self._offered.keys() >= set(identities), "an element came that nobody put"
        self._out.update(identities)
        self._received[effect.ticket] = identities, 0

    def _check_rows(self, rows: Rows, values: Sequence[tuple[Any, ...]]) -> list[int]:
        """Compare what came with what the model says or, in a shuffle, with what was put under the same identity."""
        spec = self.machine.definition.element
        columns = tuple(map(pad_column, gather(rows, spec)))
        identity = columns[self._prioritised]
        assert isinstance(identity, np.ndarray)
        identities: list[int] = identity.tolist()
        if not self._exact:
            values = [self._offered[number] for number in identities]
        for i, component in enumerate(spec.components):
            column = columns[i]
            got = column.decode(component.dtype) if isinstance(column, Strings) else column
            assert len(got) == len(values)
            if values:
                zero = {"str": "", "bytes": b""}.get(component.dtype, 0)
                expected = pad_batch([self._array(value[i], component.dtype) for value in values], zero)
                np.testing.assert_array_equal(got, expected)
        return identities

    # From values to both sides

    def _identity(self, element: tuple[Any, ...]) -> int:
        return int(element[self._prioritised])

    def _model_element(self, element: tuple[Any, ...], spec: ElementSpec) -> ModelElement:
        nbytes = 0
        for value, component in zip(element, spec.components, strict=True):
            array = self._array(value, component.dtype)
            if component.dtype == "str":
                nbytes += sum(len(text.encode()) for text in array.ravel().tolist())
            elif component.dtype == "bytes":
                nbytes += sum(len(text) for text in array.ravel().tolist())
            else:
                nbytes += array.size * array.itemsize
        return ModelElement(element, nbytes, int(element[0]) if self._prioritised else 0)

    @staticmethod
    def _columns(elements: Sequence[tuple[Any, ...]], spec: ElementSpec) -> tuple[Any, ...]:
        if len(elements) == 1:
            return to_columns(elements[0], spec, many=False)
        batch = []
        for i, component in enumerate(spec.components):
            values = [QueuePair._array(element[i], component.dtype) for element in elements]
            if len({value.shape for value in values}) > 1:
                rows = [to_columns(element, spec, many=False) for element in elements]
                return tuple(map(join_columns, zip(*rows, strict=True)))
            none = np.empty((0, *(size or 0 for size in component.shape or ())), numpy_dtype(component.dtype))
            batch.append(np.stack(values) if values else none)
        return to_columns(tuple(batch), spec, many=True)

    @staticmethod
    def _array(value: Any, dtype: str) -> Any:
        if dtype in STRING_DTYPES and not isinstance(value, np.ndarray):
            array = np.empty((), dtype=object)
            array[()] = value
            return array
        return np.asarray(value, numpy_dtype(dtype))
