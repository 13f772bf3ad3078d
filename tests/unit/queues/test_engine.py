"""The engine that all queues share: two lists of waiting operations and their flush."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioflow.errors import EndOfQueue, NotFound, OperationCancelled, QueueClosed, QueueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.queues.conftest import Bench

    Make = Callable[..., Bench]


def test_gets_are_served_in_order(make: Make) -> None:
    """semantics 1.1.1: a small get never overtakes an earlier one that is still short."""
    queue = make()
    many, one = queue.get(2), queue.get(1)
    queue.put(1)
    assert queue.waits(many)
    assert queue.waits(one)
    queue.put(2)
    assert queue.results[many] == [1, 2]
    queue.put(3)
    assert queue.results[one] == [3]


def test_puts_are_served_in_order(make: Make) -> None:
    """semantics 1.1.1: a put that would fit waits behind an earlier one that does not."""
    queue = make(capacity_bytes=4)
    queue.put(1, nbytes=3)
    large, small = queue.put(2, nbytes=4), queue.put(3, nbytes=1)
    assert queue.waits(large)
    assert queue.waits(small)
    assert queue.take(1) == [1]
    assert queue.results[large] is None
    assert queue.waits(small)


def test_enqueue_many_moves_as_room_allows(make: Make) -> None:
    """semantics 1.1.2: an enqueue_many larger than the capacity goes in as elements are dequeued."""
    queue = make(capacity=2)
    put = queue.put(1, 2, 3, 4, 5)
    assert queue.size == 2
    assert queue.take(2) == [1, 2]
    assert queue.size == 2
    assert queue.waits(put)
    assert queue.take(3) == [3, 4, 5]
    assert queue.results[put] is None


def test_dequeue_many_may_exceed_the_capacity(make: Make) -> None:
    """semantics 1.1.2: a dequeue_many of more than the capacity drains the queue as it fills."""
    queue = make(capacity=2)
    get = queue.get(5)
    queue.put(1, 2, 3)
    assert queue.waits(get)
    queue.put(4, 5, 6)
    assert queue.results[get] == [1, 2, 3, 4, 5]
    assert queue.size == 1


def test_rows_of_a_put_lie_together(make: Make) -> None:
    """semantics 1.1.3: nobody's element lands between those of an enqueue_many."""
    queue = make(capacity=2)
    queue.put(1, 2, 3)
    queue.put(10)
    assert queue.take(1) == [1]
    assert queue.take(3) == [2, 3, 10]


def test_a_waiting_get_has_removed_what_it_took(make: Make) -> None:
    """semantics 1.1.4: the size does not count what a waiting dequeue_many holds."""
    queue = make()
    queue.get(3)
    queue.put(1, 2)
    assert queue.size == 0


def test_one_get_completes_several_puts(make: Make) -> None:
    """semantics 1.1.5: room that a get makes is used by waiting puts in the same flush."""
    queue = make(capacity=1)
    queue.put(1)
    puts = [queue.put(2), queue.put(3)]
    assert queue.take(3) == [1, 2, 3]
    assert [queue.results[put] for put in puts] == [None, None]


def test_one_put_completes_several_gets(make: Make) -> None:
    """semantics 1.1.5: what an enqueue_many brings serves several waiting gets, in their order."""
    queue = make()
    gets = [queue.get(1), queue.get(2)]
    queue.put(1, 2, 3)
    assert [queue.results[get] for get in gets] == [[1], [2, 3]]


def test_size_counts_what_is_in(make: Make) -> None:
    """semantics 1.1: size() does not count what a blocked put offers."""
    queue = make(capacity=1)
    queue.put(1, 2, 3)
    assert queue.size == 1


@pytest.mark.parametrize("closed", [False, True])
def test_no_rows_are_put_at_once(make: Make, *, closed: bool) -> None:
    """semantics 1.2: an enqueue_many of 0 rows succeeds on a full, blocked or closed queue."""
    queue = make(capacity=1)
    queue.put(1, 2)
    if closed:
        queue.close(cancel_pending=True)
    assert queue.results[queue.put()] is None


@pytest.mark.parametrize("up_to", [False, True])
def test_no_rows_are_got_at_once(make: Make, *, up_to: bool) -> None:
    """semantics 1.2: a dequeue_many or dequeue_up_to of 0 succeeds, also on a closed and empty queue."""
    queue = make()
    assert queue.results[queue.get(0, up_to=up_to)] == []
    queue.close()
    assert queue.results[queue.get(0, up_to=up_to)] == []


def test_dequeue_up_to_waits_while_open(make: Make) -> None:
    """semantics 1.2: while the queue is open dequeue_up_to waits for the full number."""
    queue = make()
    get = queue.get(3, up_to=True)
    queue.put(1, 2)
    assert queue.waits(get)
    queue.close()
    assert queue.results[get] == [1, 2]


def test_unbounded_in_elements(make: Make) -> None:
    """semantics 1.2: a negative capacity is none."""
    queue = make(capacity=-5)
    assert queue.results[queue.put(*range(10_000))] is None


# Closing


def test_close_takes_its_turn(make: Make) -> None:
    """semantics 1.3: a close waits behind blocked puts, which still succeed; later ones are refused."""
    queue = make(capacity=1)
    queue.put(1)
    put, close, late = queue.put(2), queue.close(), queue.put(3)
    assert not queue.machine.is_closed
    assert queue.take(1) == [1]
    assert queue.machine.is_closed
    assert queue.results[put] is None
    assert queue.results[close] is None
    assert type(queue.results[late]) is QueueClosed


def test_second_close_fails(make: Make) -> None:
    """semantics 1.3: a second close is an error, also one that waited behind the first."""
    queue = make(capacity=1)
    queue.put(1, 2)
    first, second = queue.close(), queue.close()
    queue.take(1)
    assert queue.results[first] is None
    assert type(queue.results[second]) is QueueClosed
    assert "already closed" in str(queue.results[second])


def test_cancelling_close(make: Make) -> None:
    """semantics 1.3: close(True) is done at once and fails every waiting put and plain close; rows in stay in."""
    queue = make(capacity=1)
    many, one, close = queue.put(1, 2), queue.put(3), queue.close()
    assert queue.results[queue.close(cancel_pending=True)] is None
    assert [type(queue.results[ticket]) for ticket in (many, one, close)] == [OperationCancelled] * 3
    assert queue.results[many].__notes__ == ["1 of 2 rows are in the queue and stay in"]
    assert queue.take(1) == [1]


def test_cancelling_close_is_idempotent(make: Make) -> None:
    """semantics 1.3: close(True) succeeds again, and after a plain close."""
    queue = make()
    tickets = [queue.close(), queue.close(cancel_pending=True), queue.close(cancel_pending=True)]
    assert [queue.results[ticket] for ticket in tickets] == [None] * 3


def test_a_closed_queue_is_drained(make: Make) -> None:
    """semantics 1.3: gets keep working on a closed queue until it is empty."""
    queue = make()
    queue.put(1, 2)
    queue.close()
    assert queue.take(1) == [1]
    assert queue.take(1) == [2]
    assert isinstance(queue.take(1), EndOfQueue)
    assert queue.machine.is_drained


def test_a_short_get_loses_nothing(make: Make) -> None:
    """semantics 1.3: what a dequeue_many had taken goes back to the front, and the next getter sees it."""
    queue = make()
    many, one, rest = queue.get(3), queue.get(1), queue.get(5, up_to=True)
    queue.put(1, 2)
    queue.close()
    assert isinstance(queue.results[many], EndOfQueue)
    assert queue.results[one] == [1]
    assert queue.waits(rest) is False
    assert queue.results[rest] == [2]


def test_end_says_what_is_missing(make: Make) -> None:
    """semantics 1.3: the number after "requested" is what was still missing."""
    queue = make()
    queue.put(1)
    many = queue.get(5)
    queue.close()
    assert "requested 4" in str(queue.results[many])


def test_close_wakes_every_get(make: Make) -> None:
    """semantics 1.3: waiting gets are looked at again, in order, by either close."""
    for cancel_pending in (False, True):
        queue = make()
        gets = [queue.get(1), queue.get(2), queue.get(2, up_to=True)]
        queue.close(cancel_pending=cancel_pending)
        assert all(isinstance(queue.results[get], EndOfQueue) for get in gets)


def test_end_waits_for_what_is_unacknowledged(make: Make) -> None:
    """semantics 0.3: EndOfQueue comes when nothing is unacknowledged; what is given back is served before."""
    queue = make()
    queue.put(1)
    first, second = queue.get(1), queue.get(1)
    queue.close()
    assert queue.waits(second)
    assert not queue.machine.is_drained
    queue.restore(first)
    assert queue.results[second] == [1]


def test_an_acknowledgement_brings_the_end(make: Make) -> None:
    """semantics 0.3: the last acknowledgement on a closed, empty queue ends the gets that wait."""
    queue = make()
    queue.put(1)
    first, second = queue.get(1), queue.get(1)
    queue.close()
    queue.acknowledge(first)
    assert isinstance(queue.results[second], EndOfQueue)


# Cancelling


def test_a_cancelled_get_gives_back(make: Make) -> None:
    """semantics 0.2: what a cancelled dequeue_many had taken goes back by its number, and the next get has it."""
    queue = make()
    many, one = queue.get(3), queue.get(1)
    queue.put(1, 2)
    assert queue.cancel(many) == 0
    assert queue.results[one] == [1]
    assert queue.take(1) == [2]


def test_a_cancelled_put_leaves_its_rows(make: Make) -> None:
    """semantics 1.4: rows that are in stay in, and the next put moves up."""
    queue = make(capacity=2)
    many, one = queue.put(1, 2, 3), queue.put(4)
    assert queue.cancel(many) == 2
    assert queue.take(3, up_to=False) == [1, 2, 4]
    assert queue.results[one] is None


def test_a_cancelled_close_leaves_the_queue_open(make: Make) -> None:
    """semantics 0.2: a waiting plain close can be cancelled, and those behind it move up."""
    queue = make(capacity=1)
    queue.put(1, 2)
    close, put = queue.close(), queue.put(3)
    queue.cancel(close)
    assert queue.take(2) == [1, 2]
    assert not queue.machine.is_closed
    assert queue.results[put] is None


def test_cancelling_behind_the_head(make: Make) -> None:
    """semantics 0.2: a cancelled waiter behind the head is removed at once."""
    queue = make()
    gets = [queue.get(1), queue.get(1), queue.get(1)]
    queue.cancel(gets[1])
    assert queue.machine.stats().gets_waiting == 2
    queue.put(1, 2)
    assert queue.results == {**queue.results, gets[0]: [1], gets[2]: [2]}
    assert gets[1] not in queue.results


def test_what_has_ended_cannot_be_cancelled(make: Make) -> None:
    """semantics 0.3: a withdrawal that comes too late changes nothing and says so."""
    queue = make()
    put = queue.put(1)
    assert queue.cancel(put) is None
    assert queue.size == 1


# Acknowledgement


def test_a_restore_goes_to_its_old_place(make: Make) -> None:
    """semantics 0.2: what was not handed over goes back by its number of acceptance, in whatever order it comes."""
    queue = make()
    queue.put(1, 2, 3)
    queue.put(4)
    gets = [queue.get(1), queue.get(2), queue.get(1)]
    for get in (gets[1], gets[2], gets[0]):
        queue.restore(get)
    assert queue.take(4) == [1, 2, 3, 4]


def test_a_restored_batch_may_be_split(make: Make) -> None:
    """semantics 0.2: a part of what came back goes out in its place, and so does the rest."""
    queue = make()
    queue.put(1, 2, 3, 4)
    first, second = queue.get(3), queue.get(1)
    queue.restore(second)
    queue.restore(first)
    assert queue.take(2) == [1, 2]
    assert queue.take(2) == [3, 4]


def test_a_restore_before_a_waiting_get(make: Make) -> None:
    """semantics 0.2: a waiting get that holds younger elements gets the older one first in its batch."""
    queue = make()
    queue.put(1)
    first, many = queue.get(1), queue.get(3)
    queue.put(2)
    queue.restore(first)
    queue.put(3)
    assert queue.results[many] == [1, 2, 3]


def test_a_restore_may_exceed_the_capacity(make: Make) -> None:
    """semantics 0.2, rule 3 of the machine: puts wait until a restore's surplus has shrunk."""
    queue = make(capacity=1)
    queue.put(1)
    get = queue.get(1)
    queue.put(2)
    put = queue.put(3)
    queue.restore(get)
    assert queue.size == 2
    assert queue.take(1) == [1]
    assert queue.waits(put)
    assert queue.take(1) == [2]
    assert queue.results[put] is None


def test_only_the_unacknowledged_is_put_back(make: Make) -> None:
    """semantics 0.3: an acknowledged get cannot be restored, and a second restore does nothing."""
    queue = make()
    queue.put(1, 2)
    first, second = queue.get(1), queue.get(1)
    queue.acknowledge(first)
    queue.restore(first)
    queue.restore(second)
    queue.restore(second)
    assert queue.size == 1
    assert queue.take(1) == [2]


def test_delete_fails_what_waits(make: Make) -> None:
    """api.md: a delete ends waiting operations with NotFound and drops the elements."""
    queue = make(capacity=1)
    queue.put(1)
    put, ask = queue.put(2), queue.ask(2)
    queue.abort(NotFound("deleted"))
    assert isinstance(queue.results[put], NotFound)
    assert isinstance(queue.results[ask], NotFound)
    assert queue.size == 0


def test_a_get_has_a_bound(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """semantics 0.4: what a waiting get has taken is charged to it up to result_bytes_max; above, all goes back."""
    monkeypatch.setattr("aioflow.queues._machine.RESULT_BYTES_MAX", 5)
    queue = make()
    get = queue.get(10)
    queue.put(1, 2, nbytes=2)
    assert queue.waits(get)
    queue.put(3, nbytes=2)
    assert type(queue.results[get]) is QueueError
    assert queue.take(3) == [1, 2, 3]
