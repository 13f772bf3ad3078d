"""Capacity in bytes, and requests ahead: what TensorFlow does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from aioflow.errors import EndOfQueue, QueueError, SpecMismatch
from aioflow.queues import CAPACITY_BYTES_DEFAULT, Completed, QueueDefinition, QueueMachine, Segment
from aioflow.specs import ElementSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.queues.conftest import Bench

    Make = Callable[..., Bench]


def test_a_put_waits_for_bytes(make: Make) -> None:
    """semantics 0.4: a put waits while the bytes held would exceed capacity_bytes."""
    queue = make(capacity_bytes=10)
    queue.put(1, nbytes=6)
    put = queue.put(2, nbytes=5)
    assert queue.waits(put)
    queue.take(1)
    assert queue.results[put] is None


def test_a_put_may_fill_the_bytes(make: Make) -> None:
    """semantics 0.4: the bytes held may equal capacity_bytes."""
    queue = make(capacity_bytes=10)
    assert queue.results[queue.put(1, 2, nbytes=5)] is None


def test_one_large_element_enters_an_empty_queue(make: Make) -> None:
    """semantics 0.4: one element larger than capacity_bytes may enter an empty queue, and only then."""
    queue = make(capacity_bytes=10)
    queue.put(1, nbytes=1)
    large, small = queue.put(2, 3, nbytes=50), queue.put(4, nbytes=1)
    assert queue.size == 1
    assert queue.take(1) == [1]
    assert queue.size == 1
    assert queue.waits(large)
    assert queue.take(1) == [2]
    assert queue.results[large] is None
    assert queue.waits(small)


def test_rows_of_a_put_vary(make: Make) -> None:
    """semantics 0.4: of an enqueue_many as many rows go in as have room in bytes."""
    queue = make(capacity_bytes=10)
    put = queue.put(1, 2, 3, 4, nbytes=[4, 4, 4, 4])
    assert queue.size == 2
    assert queue.take(1) == [1]
    assert queue.size == 2
    queue.take(2)
    assert queue.results[put] is None
    assert queue.machine.stats().size_bytes == 4


@pytest.mark.parametrize("nbytes", [0, [0]])
def test_no_bytes_wait_too(make: Make, nbytes: int | list[int]) -> None:
    """semantics 0.4: above the capacity, after a restore, an element without bytes waits as every other."""
    queue = make(capacity_bytes=10)
    queue.put(1, nbytes=8)
    get = queue.get(1)
    queue.put(2, nbytes=8)
    queue.restore(get)
    put = queue.put(3, nbytes=nbytes)
    assert queue.waits(put)
    queue.take(1)
    assert queue.results[put] is None


def test_default_bytes() -> None:
    """semantics 0.4: unspecified means 256 MB."""
    definition = QueueDefinition("FIFOQueue", ElementSpec((TensorSpec("int8", None),)), 1)
    assert definition.bytes_max == CAPACITY_BYTES_DEFAULT == 256_000_000


def test_taken_bytes_are_the_getters(make: Make) -> None:
    """semantics 0.4: what a waiting dequeue_many has taken is charged to the getter, not to the capacity."""
    queue = make(capacity_bytes=10)
    get = queue.get(5)
    put = queue.put(1, 2, 3, 4, nbytes=10)
    assert queue.results[put] is None
    assert queue.waits(get)
    assert queue.machine.stats().size_bytes == 0


def test_a_reserve_that_cannot_fit() -> None:
    """semantics 0.4: a min_after_dequeue that can never fit is refused, and the message names the bytes needed."""
    element = ElementSpec((TensorSpec("float32", (10,)),))
    QueueDefinition("RandomShuffleQueue", element, 10, capacity_bytes=200, min_after_dequeue=4)
    with pytest.raises(SpecMismatch, match="240 bytes"):
        QueueDefinition("RandomShuffleQueue", element, 10, capacity_bytes=200, min_after_dequeue=5)


def test_a_priority_batch_that_cannot_fit() -> None:
    """semantics 0.4: a PriorityQueue's n that can never fit into the bytes is refused, naming the bytes needed."""
    element = ElementSpec((TensorSpec("int64", ()),))
    definition = QueueDefinition("PriorityQueue", element, -1, capacity_bytes=16)
    machine = QueueMachine(definition, np.random.default_rng(0))
    machine.dequeue(2)
    with pytest.raises(SpecMismatch, match="24 bytes"):
        machine.dequeue(3)


def test_a_stuck_put_of_a_shuffle_fails(make: Make) -> None:
    """semantics 0.4: when bytes alone block the put and the reserve every get, the put fails naming capacity_bytes."""
    queue = make("RandomShuffleQueue", 10, capacity_bytes=10, min_after_dequeue=2)
    queue.put(1, 2, nbytes=4)
    put = queue.put(3, nbytes=4)
    assert type(queue.results[put]) is QueueError
    assert "capacity_bytes" in str(queue.results[put])
    assert queue.results[queue.put(4, nbytes=2)] is None


def test_a_stuck_enqueue_many_notes_its_rows(make: Make) -> None:
    """semantics 0.4: rows of a stuck enqueue_many that are in stay in, and the error says how many."""
    queue = make("RandomShuffleQueue", 10, capacity_bytes=10, min_after_dequeue=2)
    put = queue.put(1, 2, 3, nbytes=5)
    assert queue.results[put].__notes__ == ["2 of 3 rows are in the queue and stay in"]


def test_a_put_is_not_stuck_while_a_get_can_run(make: Make) -> None:
    """semantics 0.4: while a get could take an element, a put waits for bytes."""
    queue = make("RandomShuffleQueue", 10, capacity_bytes=10, min_after_dequeue=1)
    queue.put(1, 2, nbytes=4)
    put = queue.put(3, nbytes=4)
    assert queue.waits(put)
    queue.take(1)
    assert queue.results[put] is None


def test_a_put_is_stuck_when_nothing_can_come_back(make: Make) -> None:
    """semantics 0.4: what is unacknowledged may come back; its acknowledgement makes the put stuck."""
    queue = make("RandomShuffleQueue", 10, capacity_bytes=10, min_after_dequeue=1)
    queue.put(1, 2, nbytes=4)
    get = queue.get(1)
    put = queue.put(3, nbytes=8)
    assert queue.waits(put)
    queue.acknowledge(get)
    assert type(queue.results[put]) is QueueError


def test_a_stuck_put_of_a_priority_queue_fails(make: Make) -> None:
    """semantics 0.4: so it is where a waiting get of a PriorityQueue wants more than the bytes hold."""
    queue = make("PriorityQueue", 10, capacity_bytes=10)
    queue.put(1, 2, nbytes=4)
    put = queue.put(3, nbytes=4)
    assert queue.waits(put)
    queue.get(3)
    assert type(queue.results[put]) is QueueError


# Requests ahead


def test_a_request_counts_as_in_the_queue(make: Make) -> None:
    """semantics 0.4: what a request ahead holds is counted by size() until it is acknowledged."""
    queue = make(capacity=2)
    ask = queue.ask(1)
    queue.put(1, 2)
    put = queue.put(3)
    assert queue.results[ask] == [1]
    assert queue.size == 2
    assert queue.machine.stats().ahead == 1
    assert queue.waits(put)
    queue.acknowledge(ask)
    assert queue.results[put] is None


def test_requests_wait_for_all_they_want(make: Make) -> None:
    """semantics 0.4: a request ahead takes nothing before it can have all, and the size does not change."""
    queue = make()
    ask = queue.ask(3)
    queue.put(1, 2)
    assert queue.waits(ask)
    assert queue.size == 2
    assert queue.machine.stats().ahead == 0


def test_requests_are_served_in_turn(make: Make) -> None:
    """semantics 0.4: requests ahead are served in their order, so that each consumer gets its share."""
    queue = make()
    asks = [queue.ask(2), queue.ask(1), queue.ask(2)]
    queue.put(1, 2, 3, 4, 5)
    assert [queue.results[ask] for ask in asks] == [[1, 2], [3], [4, 5]]


def test_gets_come_before_requests(make: Make) -> None:
    """semantics 0.4: requests ahead are served only while no get waits."""
    queue = make()
    ask, get = queue.ask(1), queue.get(2)
    queue.put(1)
    assert queue.waits(ask)
    queue.put(2)
    assert queue.results[get] == [1, 2]
    assert queue.waits(ask)
    queue.put(3)
    assert queue.results[ask] == [3]


def test_a_promoted_request_is_a_get(make: Make) -> None:
    """semantics 0.4: a request that was promoted takes its turn behind the gets that wait, as dequeue_up_to."""
    queue = make()
    ask, get = queue.ask(3), queue.get(1)
    queue.promote(ask)
    queue.put(1, 2, 3)
    assert queue.results[get] == [1]
    assert queue.waits(ask)
    queue.close()
    assert queue.results[ask] == [2, 3]


def test_promoting_what_was_served(make: Make) -> None:
    """semantics 0.4: a request that has its rows stays as it is when it is promoted."""
    queue = make()
    ask = queue.ask(1)
    queue.put(1)
    queue.promote(ask)
    assert queue.machine.stats().ahead == 1


def test_nothing_goes_ahead_after_the_close(make: Make) -> None:
    """semantics 0.3: after the close nothing is sent ahead; a request that is promoted is served, or ends."""
    queue = make()
    first, second = queue.ask(2), queue.ask(2)
    queue.put(1)
    queue.close()
    assert queue.waits(first)
    queue.promote(first)
    assert queue.results[first] == [1]
    queue.acknowledge(first)
    queue.promote(second)
    assert isinstance(queue.results[second], EndOfQueue)


def test_recalled_for_a_get(make: Make) -> None:
    """semantics 0.4: what is ahead is recalled when a get waits on a closed, empty queue: all, to keep the order."""
    queue = make()
    asks = [queue.ask(1), queue.ask(1), queue.ask(1)]
    queue.put(1, 2, 3)
    queue.close()
    get = queue.get(2)
    assert queue.recalled == asks
    for ask in asks:
        queue.restore(ask)
    assert queue.results[get] == [1, 2]
    assert queue.recalled == asks


def test_recalled_while_open(make: Make) -> None:
    """semantics 1.2: a get does not wait while size() is above 0: on an open queue too what is ahead is recalled."""
    queue = make()
    ask = queue.ask(1)
    queue.put(1)
    get = queue.get(1)
    assert queue.recalled == [ask]
    queue.restore(ask)
    assert queue.results[get] == [1]


def test_requests_leave_the_reserve(make: Make) -> None:
    """semantics 1.6: a request ahead does not take from the reserve of an open queue."""
    queue = make("RandomShuffleQueue", 10, min_after_dequeue=2)
    ask = queue.ask(2)
    queue.put(1, 2, 3)
    assert queue.waits(ask)
    queue.put(4)
    assert not queue.waits(ask)


def test_a_cancelled_request(make: Make) -> None:
    """semantics 0.4: a request that waits can be withdrawn, and the next one moves up."""
    queue = make()
    first, second = queue.ask(3), queue.ask(1)
    queue.put(1)
    queue.cancel(first)
    assert queue.results[second] == [1]


def test_a_request_for_runs(make: Make) -> None:
    """semantics 0.4: a request for runs waits for one run, and takes as many more as there are, never a part of one."""
    queue = make()
    first = queue.ask(2, runs=3)
    queue.put(1)
    assert queue.waits(first)
    queue.put(2)
    assert queue.results[first] == [1, 2]
    queue.put(3, 4, 5, 6, 7)
    second = queue.ask(2, runs=3)
    assert queue.results[second] == [3, 4, 5, 6]
    queue.put(8, 9)
    third = queue.ask(1, runs=2)
    assert queue.results[third] == [7, 8]


def test_requests_for_runs_share(make: Make) -> None:
    """semantics 0.4: with several consumers each gets its share, of what is there when its request is served."""
    queue = make()
    asks = [queue.ask(1, runs=8, owner=owner) for owner in "abc"]
    queue.put(1, 2, 3, 4, 5, 6, 7)
    assert [queue.results[ask] for ask in asks] == [[1, 2], [3, 4], [5, 6, 7]]


def test_requests_of_one_consumer_do_not_share(make: Make) -> None:
    """What one consumer asks for in several requests comes in as few messages as it may."""
    queue = make()
    asks = [queue.ask(1, runs=4, owner=owner) for owner in "aab"]
    queue.put(1, 2, 3, 4, 5, 6)
    assert [queue.results[ask] for ask in asks] == [[1, 2, 3], [4], [5, 6]]


def test_a_request_for_runs_brings_no_large_rows_of_several_puts(make: Make) -> None:
    """They would be copied together; small ones are, and a single run is where it has to be."""
    queue = make()
    for rows, expected in ((1000, [4]), (400_000, [1, 1, 2])):
        segments = [Segment(1, (np.zeros(1),), rows), Segment(1, (np.zeros(1),), rows)]
        segments.append(Segment(2, (np.zeros(2),), rows))
        for segment in segments:
            queue.machine.enqueue(segment)
        counts: list[int] = []
        while sum(counts) < 4:
            ticket = queue.machine.ask(1, runs=8)
            effects = [effect for effect in queue.machine.take_effects() if isinstance(effect, Completed)]
            counts += [effect.rows.count for effect in effects if effect.rows is not None]
            queue.machine.acknowledge(ticket)
        assert counts == expected


def test_a_promoted_request_for_runs(make: Make) -> None:
    """semantics 0.4: a request that is promoted is a get of one run, and brings what is there beyond it, ahead."""
    queue = make()
    ask = queue.ask(2, runs=3)
    queue.promote(ask)
    queue.put(1, 2, 3, 4, 5)
    assert queue.results[ask] == [1, 2, 3, 4]
    stats = queue.machine.stats()
    assert (stats.ahead, stats.unacknowledged, stats.size) == (2, 2, 3)
    queue.acknowledge(ask, 1)
    assert queue.machine.stats().ahead == 2
    queue.acknowledge(ask, 3)
    assert (queue.machine.stats().ahead, queue.size) == (1, 2)
    queue.restore(ask)
    assert queue.take(2) == [4, 5]


def test_what_a_promoted_request_brings_beyond_its_run_is_recalled(make: Make) -> None:
    """semantics 0.4: a get that waits has it back, as anything that went ahead."""
    queue = make()
    ask = queue.ask(1, runs=3)
    queue.promote(ask)
    queue.put(1, 2, 3)
    get = queue.get(1)
    assert queue.recalled == [ask]
    queue.acknowledge(ask, 1)
    queue.restore(ask)
    assert queue.results[get] == [2]


def test_a_promoted_request_brings_one_run_where_others_wait(make: Make) -> None:
    """semantics 0.4: nothing goes ahead while a get waits, after the close, or of what others have asked for."""
    queue = make()
    ask = queue.ask(1, runs=3)
    queue.promote(ask)
    get = queue.get(1)
    queue.put(1, 2, 3)
    assert (queue.results[ask], queue.results[get]) == ([1], [2])

    asks = [queue.ask(2, runs=3, owner=owner) for owner in "ab"]
    queue.promote(asks[0])
    queue.put(4, 5, 6)
    assert [queue.results[ask] for ask in asks] == [[3, 4], [5, 6]]

    ask = queue.ask(2, runs=3)
    queue.promote(ask)
    queue.put(7)
    queue.put(8, 9, 10)  # what it has taken of another put would have to be copied
    assert queue.results[ask] == [7, 8]
    queue.close()
    last = queue.ask(1, runs=3)
    queue.promote(last)
    assert queue.results[last] == [9]


def test_a_promoted_request_forgoes_what_it_brings_ahead(make: Make) -> None:
    """The room of what went ahead is given to others when who has it is lost; the run was nobody's before."""
    queue = make(capacity=3)
    ask = queue.ask(1, runs=2)
    queue.promote(ask)
    queue.put(1, 2, 3)
    put = queue.put(4, 5)
    assert queue.waits(put)
    queue.forgo(ask)
    assert queue.results[put] is None
    assert queue.machine.stats().unacknowledged == 2


def test_what_is_handed_over_in_part_makes_room_in_part(make: Make) -> None:
    """semantics 0.4: rows of a request ahead count as in the queue until each of them is acknowledged."""
    queue = make(capacity=3)
    ask = queue.ask(1, runs=3)
    put = queue.put(1, 2, 3, 4, 5, nbytes=[10, 20, 30, 40, 50])
    assert queue.results[ask] == [1, 2, 3]
    queue.acknowledge(ask, 1)
    stats = queue.machine.stats()
    assert (stats.ahead, stats.size, stats.size_bytes, stats.dequeued) == (2, 3, 90, 1)
    assert queue.waits(put)
    queue.acknowledge(ask, 2)
    assert queue.results[put] is None
    stats = queue.machine.stats()
    assert (stats.ahead, stats.size, stats.size_bytes, stats.dequeued) == (1, 3, 120, 2)


def test_acknowledgements_are_cumulative(make: Make) -> None:
    """A smaller number than before changes nothing, and one above the rows of a delivery counts as all of them."""
    queue = make()
    queue.put(1, 2, 3)
    ask = queue.ask(1, runs=3)
    for rows, ahead in ((0, 3), (2, 1), (1, 1), (2, 1), (7, 0), (1, 0)):
        queue.acknowledge(ask, rows)
        assert (queue.machine.stats().ahead, queue.machine.stats().dequeued) == (ahead, 3 - ahead)
    queue.restore(ask)
    assert queue.size == 0


@pytest.mark.parametrize("kind", ["FIFOQueue", "PriorityQueue"])
def test_only_the_rest_goes_back(make: Make, kind: str) -> None:
    """semantics 0.3: what was handed over of a delivery does not come back, and the rest is in its old place."""
    queue = make(kind)
    queue.put(1, 2)
    queue.put(3, 4, 5)
    ask = queue.ask(4)
    queue.acknowledge(ask, 3)
    queue.restore(ask)
    queue.acknowledge(ask, 4)
    assert queue.machine.stats().dequeued == 3
    assert queue.take(2) == [4, 5]


def test_only_the_rest_of_a_shuffle_goes_back(make: Make) -> None:
    """semantics 0.3: also where the rows of a delivery come from several puts in any order."""
    queue = make("RandomShuffleQueue")
    queue.put(1, 2, 3)
    queue.put(4, 5, 6)
    ask = queue.ask(2, runs=3)
    queue.acknowledge(ask, 2)
    queue.restore(ask)
    assert sorted(queue.take(4)) == sorted(queue.results[ask][2:])


def test_rows_of_a_looser_definition() -> None:
    """semantics 1.7: rows that only the definition of the put admits are refused, and nothing is queued."""
    definition = QueueDefinition("PaddingFIFOQueue", ElementSpec((TensorSpec("int8", (3, None)),)), 4)
    machine = QueueMachine(definition, np.random.default_rng(0))
    machine.enqueue(Segment.of((np.zeros((1, 3, 7), np.int8),)))
    with pytest.raises(SpecMismatch, match=r"\[2, 7\]"):
        machine.enqueue(Segment.of((np.zeros((1, 2, 7), np.int8),)))
    assert len(machine) == 1
