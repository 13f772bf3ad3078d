"""The queue machine against a plain list model: the same events, the same outcomes, after every event."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from aioflow.testing._machine_suite import QueuePair
from aioflow.testing._strategies import machine_definitions, machine_elements

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.queues import Kind

# In every run of CI more than of anything else: these are the semantics.
EXAMPLES = 400 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else settings().max_examples
PICKS = st.integers(0, 5)


class _Events(RuleBasedStateMachine):
    """Every event that a queue knows, in any order."""

    kind: Kind

    @initialize(data=st.data(), seed=st.integers(0, 3))
    def start(self, data: st.DataObject, seed: int) -> None:
        self.pair = QueuePair(data.draw(machine_definitions(self.kind), "definition"), np.random.default_rng(seed))
        self.numbers = itertools.count()

    @rule(data=st.data())
    def enqueue(self, data: st.DataObject) -> None:
        self.pair.enqueue(data.draw(machine_elements(self.pair.machine.definition, self.numbers), "elements"))

    @rule(count=st.integers(0, 6), up_to=st.booleans())
    def dequeue(self, count: int, up_to: bool) -> None:
        self.pair.dequeue(self._possible(count), up_to=up_to)

    @rule(count=st.integers(1, 3), runs=st.integers(1, 4), owner=st.sampled_from("ab"))
    def ask(self, count: int, runs: int, owner: str) -> None:
        self.pair.ask(self._possible(count), runs, owner)

    # Which ticket: no preconditions, for Hypothesis gives up on examples in which few rules are possible.

    @rule(pick=PICKS)
    def promote(self, pick: int) -> None:
        self._apply(self.pair.promote, self.pair.model.asking, pick)

    @rule(pick=PICKS)
    def cancel(self, pick: int) -> None:
        self._apply(self.pair.cancel, self.pair.model.waiting, pick)

    @rule(pick=PICKS)
    def acknowledge(self, pick: int) -> None:
        self._apply(self.pair.acknowledge, self.pair.model.unacknowledged, pick)

    @rule(pick=PICKS, rows=st.integers(0, 5))
    def acknowledge_in_part(self, pick: int, rows: int) -> None:
        self._apply(lambda ticket: self.pair.acknowledge(ticket, rows), self.pair.model.unacknowledged, pick)

    @rule(pick=PICKS)
    def restore(self, pick: int) -> None:
        self._apply(self.pair.restore, self.pair.model.unacknowledged, pick)

    @rule(ticket=st.integers(1, 50))
    def touch_what_has_ended(self, ticket: int) -> None:
        """An answer that comes too late, or twice, changes nothing."""
        model = self.pair.model
        if ticket not in {*model.waiting, *model.unacknowledged}:
            self.pair.promote(ticket)
            self.pair.cancel(ticket)
            self.pair.acknowledge(ticket)
            self.pair.restore(ticket)

    @rule(cancel_pending=st.booleans(), really=st.integers(0, 3))
    def close(self, cancel_pending: bool, really: int) -> None:
        if really == 0:  # a queue that closes early has a dull life
            self.pair.close(cancel_pending=cancel_pending)

    def _possible(self, count: int) -> int:
        """A PriorityQueue refuses more than its capacity: a unit test has that."""
        definition = self.pair.machine.definition
        return min(count, definition.capacity) if self.kind == "PriorityQueue" and definition.capacity > 0 else count

    @staticmethod
    def _apply(event: Callable[[int], None], tickets: list[int], pick: int) -> None:
        if tickets:
            event(tickets[pick % len(tickets)])


class FIFOQueueEvents(_Events):
    kind = "FIFOQueue"


class RandomShuffleQueueEvents(_Events):
    kind = "RandomShuffleQueue"


class PaddingFIFOQueueEvents(_Events):
    kind = "PaddingFIFOQueue"


class PriorityQueueEvents(_Events):
    kind = "PriorityQueue"


def _test_case(events: type[_Events]) -> Any:
    """Make a test of an event machine; the timeout is for tests of one example."""
    case: Any = events.TestCase
    case.settings = settings(max_examples=EXAMPLES)
    return pytest.mark.timeout(0)(case)


TestFIFOQueue = _test_case(FIFOQueueEvents)
TestRandomShuffleQueue = _test_case(RandomShuffleQueueEvents)
TestPaddingFIFOQueue = _test_case(PaddingFIFOQueueEvents)
TestPriorityQueue = _test_case(PriorityQueueEvents)
