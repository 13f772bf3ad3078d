"""What a session asks of whoever holds its queues: this process, or a server behind a connection.

A host starts an operation without waiting and returns a `Call`; `complete_get` and `complete_put` wait for it in the
one way that loses nothing: a get acknowledges after its wait and before it returns, with no await between, and
otherwise gives back what it was given; a cancelled put finds out whether it was accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anyio

from aioflow.errors import AioflowError
from aioflow.runtime._cancellation import await_outcome, owe_cancellation
from aioflow.runtime._turns import give_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.names import DeviceName
    from aioflow.queues import Segment
    from aioflow.resources import Assignment, LostProducer, QueueKey, QueueRef, ServerStats, VariableKey, VariableRef
    from aioflow.runtime._waiter import Waiter
    from aioflow.specs import Column, Dense
    from aioflow.transport import WritablePieces

__all__ = [
    "Call",
    "Host",
    "Hosts",
    "Request",
    "Withdrawn",
    "complete",
    "complete_get",
    "complete_put",
    "complete_request",
    "hold_get",
    "settle",
]


class Withdrawn(AioflowError):
    """The answer to a withdrawal: the call had no effect, but for rows that were in already."""

    def __init__(self, rows: int) -> None:
        super().__init__(f"withdrawn after {rows} rows")
        self.rows = rows


class Call(Protocol):
    """One operation under way."""

    @property
    def waiter(self) -> Waiter[Any]:
        """Its outcome."""
        ...

    def columns(self) -> tuple[Dense, ...]:
        """The rows of a get that has succeeded, one column for each component."""
        ...

    def acknowledge(self) -> None:
        """Say that the rows were handed over."""
        ...

    def withdraw(self) -> None:
        """End the call: one that waits fails with `Withdrawn`, rows that came go back, an ended one stays as it is."""
        ...


class Request(Call, Protocol):
    """A request ahead; what it holds can be recalled.

    A host that reconnects asks again by itself: rows that have come and were not handed over are gone then, and
    `waiter` is another one, which is not set. So look at both anew each time.
    """

    @property
    def rows_left(self) -> int:
        """Rows that have come and were not handed over; 0 while it waits, and when it has ended."""
        ...

    def peek(self, count: int) -> tuple[Dense, ...]:
        """Return the next `count` rows, at most `rows_left`, which stay the queue's: they may be read, not handed over.

        Raises:
            AioflowError: The session is over.
        """
        ...

    def take(self, count: int) -> tuple[Dense, ...]:
        """Hand over the next `count` rows, at most `rows_left`: acknowledge and return them. The last ends the request.

        Raises:
            AioflowError: The session is over: what was not handed over is the queue's again.
        """
        ...

    def take_as(self, count: int, read: Callable[[tuple[Column, ...]], list[Any]]) -> Any:
        """Hand over the next `count` rows, at most `rows_left`, as one value; the last ones end the request.

        Args:
            count: Always the same of one request.
            read: Makes values of all rows of the request, once: of `count` rows each.

        Raises:
            AioflowError: The session is over: what was not handed over is the queue's again.
        """
        ...

    def take_quickly(self, turn: float, count: int, read: Callable[[tuple[Column, ...]], list[Any]] | None) -> Any:
        """Do as `take`, or with `read` as `take_as`, where the last one of these looked at all in the same turn.

        Returns:
            None where it did not, and for what would be the last rows.
        """
        ...

    def promote(self) -> None:
        """Make it a get of one run: somebody waits now. One that has its rows, or is a get, stays as it is."""
        ...


class Hosts(Protocol):
    """Where the resources of a session are: on one task, or on several."""

    async def open(self) -> None:
        """Make it usable."""
        ...

    async def close(self) -> None:
        """End every call with `SessionClosed` and let go of everything."""
        ...

    async def reach(self, device: DeviceName, key: QueueKey | VariableKey) -> Host:
        """Return the host of a queue or variable; it waits only where a connection to its task is made first.

        Args:
            device: What its definition asks for.
            key: Which it is.

        Raises:
            PlacementError: There is no such task, or what is shared in a cluster of several names none.
            ConnectFailed: Its task was not reached in time.
        """
        ...

    async def server_stats(self) -> tuple[ServerStats, ...]:
        """Return a snapshot of each task."""
        ...


class Host(Protocol):
    """Holds queues and variables. Its methods return at once.

    Attributes:
        lost_s: After how long a silent holder of a producer's name counts as gone.
        seen: Queues of which something was handed over here, or whose producer was here: their end is no surprise.
    """

    lost_s: float
    seen: set[QueueKey]

    @property
    def is_local(self) -> bool:
        """Whether it is on this host, so that a message costs much and its bytes little."""
        ...

    def allocate(self, nbytes: int) -> memoryview | None:
        """Return memory to write rows in that are put soon after; None where none is better than any other."""
        ...

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:
        """Return memory for large rows of which any may leave first; None where none is better than any other."""
        ...

    def put(self, ref: QueueRef, segment: Segment) -> Call:
        """Enqueue the rows of a segment."""
        ...

    def get(self, ref: QueueRef, count: int, *, up_to: bool) -> Call:
        """Dequeue rows."""
        ...

    def ask(self, ref: QueueRef, count: int, runs: int, on_recall: Callable[[Request], None]) -> Request | None:
        """Request rows ahead; None where that saves nothing.

        Args:
            ref: Which queue.
            count: How many rows.
            runs: How many times as many may come, if they are there.
            on_recall: Called when the queue wants back what the request holds and nobody has acknowledged.
        """
        ...

    def close_queue(self, ref: QueueRef, *, cancel_pending: bool) -> Call:
        """Close a queue."""
        ...

    def size(self, ref: QueueRef) -> Call:
        """Ask for the number of elements."""
        ...

    def is_closed(self, ref: QueueRef) -> Call:
        """Ask whether the queue is closed."""
        ...

    def stats(self, ref: QueueRef) -> Call:
        """Ask for a `QueueStats`."""
        ...

    def delete(self, ref: QueueRef) -> Call:
        """Remove a queue."""
        ...

    def lookup(self, key: QueueKey) -> Call:
        """Ask for the `QueueDefinition` of a queue that exists."""
        ...

    def read(self, ref: VariableRef) -> Call:
        """Read a variable: a column of one row."""
        ...

    def assign(self, ref: VariableRef, how: Assignment, value: Dense, *, fetch: bool) -> Call:
        """Assign to a variable; with `fetch` the answer is the new value, a column of one row."""
        ...

    def reset(self, containers: Sequence[str]) -> Call:
        """Empty containers."""
        ...

    def join(self, ref: QueueRef, name: str, rejoin_s: float) -> Call:
        """Register a producer."""
        ...

    def leave(self, ref: QueueRef, name: str, lost: LostProducer | None) -> Call:
        """Take a producer out."""
        ...


async def hold_get(call: Call) -> tuple[Dense, ...]:
    """Wait for rows and do not acknowledge them yet; if this does not end well they go back."""
    try:
        await settle(call)
        return call.columns()
    except BaseException:
        call.withdraw()
        raise


async def complete_get(call: Call) -> tuple[Dense, ...]:
    """Wait for rows and acknowledge them; however else this ends, they go back."""
    columns = await hold_get(call)
    call.acknowledge()
    return columns


async def complete_request(request: Request, count: int) -> tuple[Dense, ...]:
    """Wait for rows and hand over the next `count`, or what there is; however else this ends, all goes back."""
    try:
        while True:
            await settle(request)
            if left := request.rows_left:
                return request.take(min(count, left))
    except BaseException:
        request.withdraw()
        raise


async def settle(call: Call) -> None:
    """Wait for an answer that is still there after others had their turn: a reconnect takes back what had come."""
    while True:
        await call.waiter.wait()
        await give_turn()
        if call.waiter.is_set:
            return


async def _wait(call: Call) -> Any:
    """Wait for an answer; others have had their turn by then."""
    waiter = call.waiter
    if waiter.is_set:
        await give_turn()
    return await waiter.wait()


async def complete_put(call: Call, what: str = "put") -> None:
    """Wait until a put, a close, a registration or a step is done; `what` is its name in a note.

    A cancelled wait withdraws the call and waits, shielded and bounded, for what became of it: had it been accepted,
    this returns normally; else the cancellation goes on, with a note where rows stay in or where the answer did not
    come.
    """
    try:
        await _wait(call)
    except anyio.get_cancelled_exc_class() as cancelled:
        call.withdraw()
        if not await await_outcome(call.waiter):
            cancelled.add_note(f"aioflow: the {what} is in doubt: it was withdrawn, and no answer came in time")
            raise
        try:
            await call.waiter.wait()
        except Withdrawn as withdrawn:
            if withdrawn.rows:
                cancelled.add_note(f"aioflow: {withdrawn.rows} rows are in the queue and stay in")
            raise cancelled from None
        except AioflowError as error:
            for note in getattr(error, "__notes__", ()):
                cancelled.add_note(f"aioflow: {note}")
            raise cancelled from None
        owe_cancellation(cancelled)


async def complete(call: Call) -> Any:
    """Wait for an answer that takes and changes nothing which a cancellation could lose."""
    try:
        answer = await _wait(call)
    except BaseException:
        call.withdraw()
        raise
    return answer
