"""Sessions and queues for programs without an event loop, in one process."""

from __future__ import annotations

import gc
import itertools
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import anyio
import numpy as np
import pytest

import aioflow as flow
from aioflow import blocking

TEST_S = 5.0

UNMADE = flow.FIFOQueue(8, "int64", ())


@pytest.fixture
def session() -> Iterator[blocking.Session]:
    """An embedded session."""
    with blocking.Session() as opened:
        yield opened


@pytest.fixture
def q() -> flow.FIFOQueue:
    """A queue of eight integers."""
    return flow.FIFOQueue(8, "int64", (), shared_name="q")


def _until(session: blocking.Session, queue: flow.Queue, **expected: Any) -> None:
    end = monotonic() + TEST_S
    while True:
        stats = session.stats(queue)
        if all(getattr(stats, name) == value for name, value in expected.items()):
            return
        assert monotonic() < end, f"expected {expected}, the last was {stats}"


def test_every_operation(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """Each does what the queue's own does."""
    session.enqueue(q, 1)
    session.enqueue_many(q, [2, 3, 4, 5])
    assert session.size(q) == 5
    assert session.dequeue(q) == 1
    assert session.dequeue_many(q, 2).tolist() == [2, 3]
    assert not session.is_closed(q)
    assert session.stats(q).dequeued == 3
    session.close_queue(q)
    assert session.is_closed(q)
    assert session.dequeue_up_to(q, 5).tolist() == [4, 5]
    with pytest.raises(flow.EndOfQueue):
        session.dequeue(q)
    session.delete(q)
    assert not session.is_closed(q)
    found = flow.lookup("q")
    session.enqueue(found, 6)
    assert session.dequeue(found) == 6
    session.enqueue(q, 7)
    session.close_queue(q, cancel_pending_enqueues=True)
    assert list(session.elements(q)) == [7]


@flow.op
async def waits_when_told(value: int, wait: int) -> int:
    """Return a value; or wait, until cancelled."""
    while wait:
        await anyio.sleep_forever()
    return value


def test_a_step_of_a_graph(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """It has a timeout as the other operations; what its dequeue node took goes back."""
    with flow.Graph():
        wait = flow.placeholder("wait")
        taken = waits_when_told(q.nodes.dequeue(), wait)
    session.enqueue(q, 7)
    assert session.run(taken, {wait: 0}) == 7
    with pytest.raises(TimeoutError):
        session.run(taken, {wait: 0}, timeout=0.01)
    session.enqueue(q, 8)
    assert session.run([taken], {wait: 0}) == [8]


def test_an_error_is_raised_as_it_is(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """With a traceback from this line to where it came from."""
    session.close_queue(q)
    with pytest.raises(flow.QueueClosed) as caught:
        session.enqueue(q, 1)
    assert type(caught.value) is flow.QueueClosed
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[0] == "test_an_error_is_raised_as_it_is"
    assert "complete_put" in names
    assert caught.value.__cause__ is caught.value.__context__ is None
    with pytest.raises(flow.SpecMismatch):
        session.enqueue(q, "one")
    with pytest.raises(flow.SpecMismatch):
        session.dequeue_many(q, -1)


def test_an_error_keeps_nothing_alive(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """No cycle is left behind a timeout or an error: what they hold goes when they are dropped."""
    session.dequeue_many(q, 0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                session.dequeue(q, timeout=0.001)
        session.size(q)  # the loop has let go of the last one
        assert not [each for each in gc.get_objects() if type(each) is TimeoutError]
    finally:
        gc.enable()


def test_a_value_is_converted_in_the_callers_thread(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """Where its device's stream is current."""
    threads: list[threading.Thread] = []

    class Value:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            threads.append(threading.current_thread())
            return np.array(3)

    session.enqueue(q, Value())
    session.enqueue(flow.lookup("q"), Value())
    with session.writer(q) as writer:
        writer.write(Value())
    assert set(threads) == {threading.current_thread()}
    assert session.dequeue_many(q, 3).tolist() == [3, 3, 3]


# Timeouts


@pytest.mark.parametrize(
    "call",
    [
        lambda s, q: s.dequeue(q, timeout=0.001),
        lambda s, q: s.dequeue_many(q, 2, timeout=0.001),
        lambda s, q: s.dequeue_up_to(q, 2, timeout=0.001),
        lambda s, q: next(s.batches(q, 2, timeout=0.001)),
        lambda s, q: next(s.elements(q, timeout=0.001)),
    ],
    ids=["dequeue", "dequeue_many", "dequeue_up_to", "batches", "elements"],
)
def test_a_get_that_timed_out_took_nothing(session: blocking.Session, call: Callable[..., Any]) -> None:
    """What it had collected is back."""
    reserve = flow.RandomShuffleQueue(8, 1, "int64", ())
    session.enqueue(reserve, 1)
    with pytest.raises(TimeoutError, match=r"timed out after 0\.001 s"):
        call(session, reserve)
    _until(session, reserve, size=1, gets_waiting=0)


def test_a_put_that_timed_out_was_not_accepted(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """Rows of an enqueue_many that are in stay in, and a note says how many."""
    session.enqueue_many(q, range(6))
    with pytest.raises(TimeoutError) as caught:
        session.enqueue_many(q, range(6, 10), timeout=0.001)
    assert caught.value.__notes__ == ["aioflow: 2 rows are in the queue and stay in"]
    with pytest.raises(TimeoutError):
        session.enqueue(q, 10, timeout=0.001)
    assert session.dequeue_many(q, 8).tolist() == list(range(8))
    assert session.size(q) == 0


def test_an_iteration_goes_on_after_a_timeout(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """The step took nothing."""
    with session.batches(q, 2, timeout=0.001) as batches:
        session.enqueue(q, 1)
        with pytest.raises(TimeoutError):
            next(batches)
        session.enqueue(q, 2)
        assert next(batches).tolist() == [1, 2]


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), [0]])
def test_a_timeout_is_in_seconds(session: blocking.Session, timeout: Any) -> None:
    """Anything else is refused before anything is done."""
    with pytest.raises(flow.SpecMismatch, match="timeout"):
        session.enqueue(UNMADE, 1, timeout=timeout)
    with pytest.raises(flow.SpecMismatch, match="timeout"):
        session.batches(UNMADE, 1, timeout=timeout)
    assert session.size(UNMADE) == 0


# Iteration


def test_batches(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """They end with the queue; a last one that is shorter is dropped on demand."""
    session.enqueue_many(q, range(5))
    session.close_queue(q)
    batches = session.batches(q, 2)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert list(batches) == []

    other = flow.FIFOQueue(8, "int64", ())
    session.enqueue_many(other, range(5))
    session.close_queue(other)
    assert [b.tolist() for b in session.batches(other, 2, drop_remainder=True, copy=True)] == [[0, 1], [2, 3]]


def test_an_iterator_that_was_left_ends(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """By `close`, or by the end of its block."""
    session.enqueue_many(q, range(5))
    batches = session.batches(q, 2)
    assert next(batches).tolist() == [0, 1]
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    with session.elements(q) as elements:
        assert next(elements) == 2
    assert list(elements) == []
    assert session.size(q) == 2


def test_a_lost_producer_ends_an_iteration_with_an_error(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """As it does for coroutines."""
    with pytest.raises(ValueError, match="truncated"), session.producer(q, "loader-0") as producer:
        assert producer.name == "loader-0"
        session.enqueue(q, 1)
        raise ValueError("the file is truncated")
    elements = session.elements(q)
    assert next(elements) == 1
    with pytest.raises(flow.EndOfQueue) as caught:
        next(elements)
    (lost,) = caught.value.lost_producers
    assert lost.reason == "ValueError: the file is truncated"
    assert "test_a_lost_producer" in lost.traceback


# Writers


def test_writer(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """It groups, and flushes on demand and at the exit."""
    with session.producer(q), session.writer(q, batch=2, delay_s=TEST_S) as writer:
        writer.write(1)
        writer.flush()
        assert session.size(q) == 1
        writer.write(2)
    assert [int(element) for element in session.elements(q)] == [1, 2]
    with pytest.raises(flow.SessionError, match="not open"):
        writer.write(3)


def test_writer_that_timed_out(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """The exit says how many elements did not go."""
    session.enqueue_many(q, range(8))
    with pytest.raises(TimeoutError) as caught, session.writer(q, timeout=0.001) as writer:
        writer.write(1)
    assert any("up to 1 elements" in note for note in caught.value.__notes__)
    assert session.size(q) == 8


# Threads


def test_any_thread_may_call(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """Four put and four get, all on one session; each element comes out once."""
    each = 200

    def put(first: int) -> None:
        for i in range(first, first + each):
            session.enqueue(q, i)

    def get(_: int) -> list[int]:
        return [int(session.dequeue(q)) for _ in range(each)]

    with ThreadPoolExecutor(8) as pool:
        puts = [pool.submit(put, n * each) for n in range(4)]
        taken = list(pool.map(get, range(4)))
        for done in puts:
            done.result()
    assert sorted(itertools.chain(*taken)) == list(range(4 * each))


def test_threads_share_an_iterator(session: blocking.Session, q: flow.FIFOQueue) -> None:
    """Each batch goes to one of them, and all see the end."""
    batches = session.batches(q, 3)
    with ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(lambda: [int(x) for batch in batches for x in batch]) for _ in range(4)]
        with session.producer(q), session.writer(q) as writer:
            for i in range(500):
                writer.write(i)
        assert sorted(itertools.chain(*(each.result() for each in taken))) == list(range(500))


# The life of a session


def test_close_ends_what_waits(q: flow.FIFOQueue) -> None:
    """A call in another thread ends with SessionClosed."""
    session = blocking.Session().open()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session.dequeue, q)
        _until(session, q, gets_waiting=1)
        session.close()
        with pytest.raises(flow.SessionClosed, match="while this operation waited"):
            waiting.result()


def test_use_after_close(q: flow.FIFOQueue) -> None:
    """It is refused; what is only to be left is left without a word."""
    with blocking.Session() as session:
        session.enqueue_many(q, range(4))
        batches = session.batches(q, 1)
        next(batches)
    session.close()
    for call in (lambda: session.size(q), lambda: next(batches), lambda: session.enqueue(q, 1)):
        with pytest.raises(flow.SessionClosed):
            call()
    batches.close()
    with pytest.raises(flow.SessionError, match="opened before"):
        session.open()


def test_what_was_not_left_in_time(q: flow.FIFOQueue) -> None:
    """A writer and a producer say that the session was closed before, unless an error says more."""
    with blocking.Session() as session:
        writer = session.writer(q).__enter__()
        writer.write(1)
    with pytest.raises(flow.SessionClosed):
        writer.__exit__(None, None, None)
    writer.__exit__(ValueError, ValueError(), None)


def test_use_before_open() -> None:
    """It is refused; one that was closed stays closed."""
    session = blocking.Session()
    with pytest.raises(flow.SessionError, match="not open"):
        session.size(UNMADE)
    assert "not open" in repr(session)
    session.close()
    with pytest.raises(flow.SessionError, match="or closed; make a new one"):
        session.open()


def test_opened_twice(session: blocking.Session) -> None:
    """It is refused, and the session goes on."""
    with pytest.raises(flow.SessionError, match="opened before"):
        session.open()
    assert session.size(UNMADE) == 0


def test_targets_that_cannot_be() -> None:
    """A session on inproc:// would share a loop that it does not have; its thread is gone all the same."""
    with pytest.raises(flow.ConnectFailed):
        blocking.Session("nowhere")
    with pytest.raises(flow.ConnectFailed):
        blocking.Session("inproc://x", config=flow.SessionConfig(connect_s=0.01)).open()


def test_a_queue_of_another_session_is_refused(session: blocking.Session) -> None:
    """A queue that is bound elsewhere stays there."""
    with pytest.raises(flow.SessionError):
        session.size(UNMADE.on(flow.Session()))


def test_sessions_beside_each_other(q: flow.FIFOQueue) -> None:
    """Each has its own thread and its own queues."""
    with blocking.Session() as one, blocking.Session() as two:
        one.enqueue(q, 1)
        assert (one.size(q), two.size(q)) == (1, 0)
