"""The queue machine: order x gate x batching, in plain code. Events go in, effects come out.

Rules, which every property test checks after every event:

1. Conservation: accepted = taken + held + dropped by a delete; nothing is lost or doubled by a cancel or a restore.
2. Puts (closes among them) are served in the order in which they came, and so are gets; the head blocks the others.
3. No put raises the size above the capacity, in elements or in bytes; a restore may, and puts wait until it has shrunk.
4. RandomShuffleQueue: while open, no get takes the last `min_after_dequeue` elements.
5. A refused event changes nothing. A close wakes everyone whom it concerns.
6. The same generator and the same events give the same effects.

Theory of operation (TensorFlow's QueueBase, seen from outside): every operation is appended to its list, also one that
could be served at once; then the lists are flushed in turn until neither makes progress. An `enqueue_many` and a
`dequeue_many` move as many rows as fit and stay at the head with their progress. What a completed get took is kept
until it is acknowledged or restored. A request ahead, or what a promoted one brings beyond the run that it gets, is no
get: it is served while no get waits, counts as in the queue until it is acknowledged, row by row, or whoever has it is
lost, and is recalled when a get waits.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from aioflow.errors import AioflowError, EndOfQueue, OperationCancelled, QueueClosed, QueueError
from aioflow.queues._attempts import AHEAD_BYTES_MAX, CLOSED, COPY_BYTES_MAX, RESULT_BYTES_MAX, Get, Put
from aioflow.queues._definition import UNBOUNDED, QueueDefinition
from aioflow.queues._deliveries import Deliveries
from aioflow.queues._effects import Completed, Effect, Failed, QueueStats, Recall, Ticket
from aioflow.queues._order import FifoOrder, Order, make_order
from aioflow.queues._segments import Rows, Segment

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = ["QueueMachine"]


class QueueMachine:
    """One queue. Every operation returns a ticket; `take_effects` says what became of it and of others."""

    def __init__(self, definition: QueueDefinition, rng: Generator, name: str = "") -> None:
        self.definition = definition
        self.name = name
        self.lost_producers: tuple[Any, ...] = ()
        self._order: Order = make_order(definition, rng)
        self._atomic = definition.kind == "PriorityQueue"
        self._closed = False
        self._size_bytes = 0
        self._next_number = 0
        self._dequeued = 0
        self._tickets = itertools.count(1)
        self._puts: OrderedDict[Ticket, Put] = OrderedDict()
        self._gets: OrderedDict[Ticket, Get] = OrderedDict()
        self._asks: OrderedDict[Ticket, Get] = OrderedDict()
        self._delivered = Deliveries()
        self._effects: list[Effect] = []

    # What can be asked without waiting

    def __len__(self) -> int:
        """The size: elements in the queue, those sent ahead included; not what a waiting get has taken."""
        return len(self._order) + self._delivered.ahead

    @property
    def remaining(self) -> int:
        """Rows that are still to be got, those included that the first get has taken while it waits."""
        return len(self._order) + self._partial()

    @property
    def is_closed(self) -> bool:
        """Whether a close has had its turn."""
        return self._closed

    @property
    def is_drained(self) -> bool:
        """Whether no element can come any more: closed, empty, nothing unacknowledged."""
        return self._closed and not len(self._order) and not self._delivered and not self._partial()

    def is_put(self, ticket: Ticket) -> bool:
        """Whether a put or a close of this ticket waits."""
        return ticket in self._puts

    def stats(self) -> QueueStats:
        """Return a snapshot."""
        return QueueStats(
            name=self.name,
            kind=self.definition.kind,
            capacity=self.definition.capacity,
            capacity_bytes=self.definition.bytes_max,
            size=len(self),
            size_bytes=self._held_bytes,
            ahead=self._delivered.ahead,
            unacknowledged=self._delivered.count - self._delivered.ahead,
            is_closed=self._closed,
            puts_waiting=len(self._puts),
            gets_waiting=len(self._gets),
            enqueued=self._next_number,
            dequeued=self._dequeued,
        )

    def take_effects(self) -> list[Effect]:
        """Return what has happened since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def issue_ticket(self) -> Ticket:
        """Return a ticket that no other operation of this queue has."""
        return Ticket(next(self._tickets))

    # Events

    def enqueue(self, segment: Segment) -> Ticket:
        """Put the rows of a segment; no rows succeed at once, also on a closed queue.

        Raises:
            SpecMismatch: Their shape does not fit: the definition of a put may be looser than the queue's.
        """
        self.definition.element.check_rows(segment.columns)
        ticket = self.issue_ticket()
        if segment.rows:
            self._puts[ticket] = Put(ticket, segment)
            self._flush()
        else:
            self._effects.append(Completed(ticket))
        return ticket

    def dequeue(self, count: int, *, up_to: bool = False) -> Ticket:
        """Get `count` rows or, with `up_to`, fewer when the queue is closed; none succeed at once.

        Raises:
            SpecMismatch: A PriorityQueue can never hold that many at once.
        """
        self.definition.check_batch(count, str(self))
        ticket = self.issue_ticket()
        if count:
            self._gets[ticket] = Get(ticket, count, up_to)
            self._flush()
        else:
            self._complete_get(ticket, Rows(), 0)
        return ticket

    def ask(self, count: int, runs: int = 1, owner: str = "") -> Ticket:
        """Request ahead `count` rows or, where there are more, up to `runs` times as many, and a multiple of `count`.

        `promote` makes it a get of up to `count`; what else is there then comes with it, ahead. Several owners share.
        """
        self.definition.check_batch(count, str(self))
        ticket = self.issue_ticket()
        self._asks[ticket] = Get(ticket, count, up_to=True, runs=runs, owner=owner)
        self._serve_asks()
        return ticket

    def promote(self, ticket: Ticket) -> None:
        """Append a request ahead to the waiting gets; one that was served already stays as it is."""
        get = self._asks.pop(ticket, None)
        if get is not None:
            self._gets[ticket] = get
            self._flush()

    def close(self, *, cancel_pending: bool = False) -> Ticket:
        """Accept nothing more: in its turn behind waiting puts or, with `cancel_pending`, at once, failing those."""
        ticket = self.issue_ticket()
        if not cancel_pending:
            self._puts[ticket] = Put(ticket, None)
        else:
            self._closed = True
            while self._puts:
                _, put = self._puts.popitem(last=False)
                self._fail_put(put, OperationCancelled(f"{self} was closed with cancel_pending_enqueues=True"))
            self._effects.append(Completed(ticket))
        self._flush()
        return ticket

    def cancel(self, ticket: Ticket) -> int | None:
        """Withdraw a waiting operation, as if it had never waited: what a get had taken goes back.

        Returns:
            How many rows of a put are in and stay in; None if the operation does not wait (any more).
        """
        put = self._puts.pop(ticket, None)
        if put is None:
            get = self._gets.pop(ticket, None) or self._asks.pop(ticket, None)
            if get is None:
                return None
            self._return_partial(get)
        self._flush()
        return put.row if put else 0

    def acknowledge(self, ticket: Ticket, rows: int | None = None) -> None:
        """Forget what a completed get took and was handed over: so many rows of it in all, or the whole.

        A number that is not above an earlier one changes nothing. The rest can still be acknowledged, or restored.
        """
        ahead, count = self._delivered.ahead, self._delivered.acknowledge(ticket, rows)
        self._dequeued += count
        # It makes room only where it was ahead; but who waited for it to come back has to learn that it does not.
        if count and (self._delivered.ahead < ahead or self._closed or self._puts):
            self._flush()

    def move(self, ticket: Ticket, segment: Segment) -> None:
        """Take note that what a completed get took lies in a segment of its own now, in order."""
        self._delivered.move(ticket, segment)

    def forgo(self, ticket: Ticket) -> None:
        """Give others the room of what went ahead to who was lost; it may still be acknowledged or restored."""
        if self._delivered.forgo(ticket):
            self._flush()

    def restore(self, ticket: Ticket) -> None:
        """Put back what a completed get took and was not handed over, into its old place."""
        if (rows := self._delivered.end(ticket)) is not None:
            # A waiting get holds younger elements; it takes again, so that its batch is in order.
            for get in itertools.islice(self._gets.values(), 1):
                self._return_partial(get)
            self._put_back(rows)
            self._flush()

    def abort(self, error: AioflowError) -> None:
        """Fail whatever waits and drop what is held: the queue is deleted."""
        self._closed = True
        self._effects += [Failed(ticket, error) for ticket in [*self._puts, *self._gets, *self._asks]]
        for waiting in (self._puts, self._gets, self._asks, self._delivered):
            waiting.clear()
        self._order = FifoOrder()  # of whatever kind, it is empty, and stays so
        self._size_bytes = 0

    # The flush

    def _flush(self) -> None:
        while self._drive_puts() or self._drive_gets() or (self._puts and self._fail_stuck_put()):
            pass
        self._serve_asks()
        self._recall()

    def _drive_puts(self) -> bool:
        progress = False
        while self._puts:
            put = next(iter(self._puts.values()))
            if self._closed:
                del self._puts[put.ticket]
                self._fail_put(put, QueueClosed(f"{self} is {CLOSED if put.segment else 'already closed'}"))
            elif put.segment is None:
                self._closed = True
                del self._puts[put.ticket]
                self._effects.append(Completed(put.ticket))
            else:
                progress |= self._admit(put, put.segment)
                if put.row < put.segment.rows:
                    return progress
                del self._puts[put.ticket]
                self._effects.append(Completed(put.ticket))
            progress = True
        return progress

    def _admit(self, put: Put, segment: Segment) -> bool:
        """Move as many rows of a put as may pass; say whether any did."""
        stop = segment.rows
        if self.definition.capacity != UNBOUNDED:
            stop = min(stop, put.row + self.definition.capacity - len(self))
        if stop <= put.row:
            return False
        count = segment.rows_within(put.row, stop, self.definition.bytes_max - self._held_bytes)
        count = count or int(not len(self))  # one element larger than the capacity may enter an empty queue
        if not count:
            return False
        self._order.push(segment, put.row, put.row + count, self._next_number)
        self._size_bytes += segment.nbytes(slice(put.row, put.row + count))
        self._next_number += count
        put.row += count
        return True

    def _drive_gets(self) -> bool:
        progress = False
        while self._gets:
            get = next(iter(self._gets.values()))
            progress |= self._take(get)
            if get.taken.count < get.count and not self._end_get(get):
                return progress
            if self._gets.pop(get.ticket, None):
                self._complete_get(get.ticket, get.taken, min(get.count, get.taken.count))
            progress = True
        return progress

    def _take(self, get: Get) -> bool:
        """Let a get take what is there for it; say whether it took any."""
        count = min(get.count - get.taken.count, self._available())
        if count < 1 or (self._atomic and count < get.count and not (self._closed and get.up_to)):
            return False
        if count == get.count and get.runs > 1 and len(self._gets) == 1 and not self._closed:
            count *= self._runs(get)
        rows = self._order.pop(count)
        self._size_bytes -= rows.nbytes
        get.taken.extend(rows)
        if get.taken.nbytes > RESULT_BYTES_MAX and get.taken.count < get.count:
            del self._gets[get.ticket]
            self._return_partial(get)
            reason = f"a dequeue of {get.count} elements from {self} exceeds {RESULT_BYTES_MAX} bytes; ask for fewer"
            self._effects.append(Failed(get.ticket, QueueError(reason)))
        return True

    def _end_get(self, get: Get) -> bool:
        """Decide what becomes of the head get, which is short: whether it has failed, or may complete as it is."""
        if get.ticket not in self._gets:
            return True
        if not self._closed:
            return False
        if get.up_to and get.taken.count:
            # What it took while the queue was open and what came back since: all of it, in the original order.
            self._return_partial(get)
            self._take(get)
            return True
        if self._delivered:
            return False
        missing = get.count - get.taken.count
        self._return_partial(get)
        del self._gets[get.ticket]
        reason = f"{self} is closed and has too few elements (requested {missing}, current size {len(self)})"
        if self.lost_producers:
            lost = ", ".join(f"{producer.name} ({producer.reason})" for producer in self.lost_producers)
            reason = f"the data may be short, as producers were lost: {lost}; {reason}"
        self._effects.append(Failed(get.ticket, EndOfQueue(reason, lost_producers=self.lost_producers)))
        return True

    def _fail_stuck_put(self) -> bool:
        """Fail a put for which bytes alone leave no room, while the reserve keeps every get from making some."""
        put, get = next(iter(self._puts.values()), None), next(iter(self._gets.values()), None)
        if put is None or put.segment is None or self._closed or self._delivered:
            return False
        reserve = get.count if get is not None and self._atomic else self.definition.min_after_dequeue + 1
        has_room = self.definition.capacity == UNBOUNDED or len(self) < self.definition.capacity
        if reserve == 1 or not has_room or len(self._order) >= reserve:
            return False
        del self._puts[put.ticket]
        reason = (
            f"{self} is full in bytes (capacity_bytes={self.definition.bytes_max}, held {self._held_bytes}) with "
            f"{len(self)} elements, but no get can take any before there are {reserve}; raise capacity_bytes"
        )
        self._fail_put(put, QueueError(reason))
        return True

    def _serve_asks(self) -> None:
        while self._asks and not self._gets and not self._closed:
            get = next(iter(self._asks.values()))
            if self._available() < get.count:
                return
            rows = self._order.pop(get.count * self._runs(get))
            self._size_bytes -= rows.nbytes
            del self._asks[get.ticket]
            self._complete_get(get.ticket, rows, 0)

    def _runs(self, get: Get) -> int:
        """How many runs a request brings, of which there is one; who asks for many leaves their share to others."""
        owners = {get.owner, *(ask.owner for ask in self._asks.values())}
        run_bytes = get.count * self._size_bytes // len(self._order) or 1  # by the mean of what is held
        runs = max(1, min(get.runs, self._available() // get.count // len(owners), AHEAD_BYTES_MAX // run_bytes))
        is_little = runs * run_bytes <= COPY_BYTES_MAX
        return runs if is_little else max(1, self._order.together(runs * get.count) // get.count)

    def _recall(self) -> None:
        """Ask for what was sent ahead while the head get misses something."""
        if self._gets and self._delivered.ahead:
            get = next(iter(self._gets.values()))
            if get.count - get.taken.count > self._available():
                self._effects.extend(map(Recall, self._delivered.recall()))

    # Small moves

    @property
    def _held_bytes(self) -> int:
        return self._size_bytes + self._delivered.ahead_bytes

    def _available(self) -> int:
        """How many elements a get may take now."""
        return len(self._order) - (0 if self._closed else self.definition.min_after_dequeue)

    def _partial(self) -> int:
        return next(iter(self._gets.values())).taken.count if self._gets else 0

    def _complete_get(self, ticket: Ticket, rows: Rows, own: int) -> None:
        if rows.count:
            self._delivered.add(ticket, rows, own)
        self._effects.append(Completed(ticket, rows))

    def _return_partial(self, get: Get) -> None:
        self._put_back(get.taken)
        get.taken = Rows()

    def _put_back(self, rows: Rows) -> None:
        self._order.put_back(rows)
        self._size_bytes += rows.nbytes

    def _fail_put(self, put: Put, error: AioflowError) -> None:
        if put.segment is not None and put.row:
            error.add_note(f"{put.row} of {put.segment.rows} rows are in the queue and stay in")
        self._effects.append(Failed(put.ticket, error))

    def __str__(self) -> str:
        return f"queue {self.name!r}"
