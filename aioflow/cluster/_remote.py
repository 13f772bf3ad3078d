"""The host behind a connection: calls as requests of a session, whose connection `_link` keeps up."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from aioflow.cluster import _messages as m
from aioflow.cluster._admission import check_frames
from aioflow.cluster._codec import describe_columns, encode_columns
from aioflow.cluster._events import Answered, Recalled, Refused, Undone, Voided, Welcomed
from aioflow.cluster._fields import NAME_CHARS_MAX
from aioflow.cluster._link import Link
from aioflow.cluster._peer import Peer
from aioflow.cluster._receipts import Receipts, open_receipts
from aioflow.errors import PlacementError, SessionClosed, SpecMismatch
from aioflow.runtime import Waiter, Withdrawn
from aioflow.specs import take_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aioflow.cluster._events import Event
    from aioflow.errors import AioflowError
    from aioflow.names import DeviceName
    from aioflow.queues import Segment
    from aioflow.resources import Assignment, LostProducer, QueueKey, QueueRef, VariableKey, VariableRef
    from aioflow.runtime import Request, SessionConfig
    from aioflow.specs import Column, TensorSpec
    from aioflow.transport import Frame

__all__ = ["RemoteHost"]

_Make = Callable[[int, int], m.Message]

# The end of a traceback says most; the header of a message has 64 KiB.
TRACEBACK_CHARS = 8192

# Who iterates and notes receipts acknowledges no more often than this: each message costs about 0.1 ms of waking the
# transport.
ACKNOWLEDGE_EVERY_S = 0.001


class _Call:
    """A request under way."""

    __slots__ = ("_columns", "_host", "_rows", "_taken", "_waiter", "id", "is_get", "on_recall")

    def __init__(self, host: RemoteHost, on_recall: Callable[[Request], None] | None, *, get: bool) -> None:
        self.id = 0
        self.is_get = get
        self.on_recall = on_recall
        self._waiter: Waiter[Any] = Waiter()
        self._columns: tuple[Column, ...] = ()
        self._rows = 0
        self._taken = 0
        self._host = host

    @property
    def waiter(self) -> Waiter[Any]:
        """Its outcome; a new one when rows that had come are the server's again, as it was not heard for too long."""
        if self._rows:
            self._host.check_rows()
        return self._waiter

    @property
    def rows_left(self) -> int:
        """Rows that may be handed over."""
        if self._rows:
            self._host.check_rows()
        return self._rows - self._taken

    def answer(self, value: Any) -> None:
        if self.is_get:
            self._columns, self._taken = value, 0
            self._rows = value[0].shape[0]
        self._waiter.resolve(value)

    def fail(self, error: BaseException) -> None:
        """End with an error, also if rows have come."""
        self.void()
        self._waiter.fail(error)

    def void(self) -> None:
        """Let go of rows that have come: they are the server's again."""
        self._columns, self._rows, self._taken = (), 0, 0
        if self._waiter.is_set:
            self._waiter = Waiter()

    def columns(self) -> tuple[Column, ...]:
        self._host.check()  # what had come and was not handed over is the queue's again when a session is over
        return self._columns

    def acknowledge(self) -> None:
        self._host.acknowledge(self, self._rows)

    def peek(self, count: int) -> tuple[Column, ...]:
        columns, start = self.columns(), self._taken
        return columns if count == self._rows else _rows(columns, start, start + count)

    def take(self, count: int) -> tuple[Column, ...]:
        columns = self.peek(count)
        self._taken += count
        self._host.acknowledge_late(self, self._taken, is_all=self._taken == self._rows)
        return columns

    def withdraw(self) -> None:
        self._columns, self._rows, self._taken = (), 0, 0
        self._host.withdraw(self)

    def promote(self) -> None:
        self._host.promote(self)


class RemoteHost:
    """The queues of a server, through one session."""

    def __init__(self, address: str, config: SessionConfig, credentials: Path | None = None) -> None:
        self.lost_s = config.lost_s
        self.seen: set[QueueKey] = set()
        self._address = address
        secret = secrets.token_hex(16)
        self._peer = Peer(secret, address)
        self._secret = secret
        self._receipts: Receipts | None = None
        self._link = Link(address, config, self._peer, secret, self._happened, self._end, credentials)
        self._calls: dict[int, _Call] = {}  # those that wait
        self._delivered: dict[int, _Call] = {}  # gets whose rows are here and not all handed over
        self._info = m.Welcome(0, "", "", 0, 1)
        self._error: AioflowError | None = None
        self._acknowledged_at = 0.0
        self._is_late = anyio.Event()

    async def open(self) -> None:
        """Connect and be welcomed, waiting up to `connect_s` for a server that is still starting."""
        await self._link.open()
        self._link.start_soon(self._acknowledge_late)

    async def close(self) -> None:
        """Say bye, wait for the answer within a bound, and disconnect."""
        self._end(SessionClosed("the session was closed while this operation waited"))
        await self._link.close()
        self._close_receipts()

    def check_task(self, device: DeviceName, key: QueueKey | VariableKey) -> None:
        """Refuse a device of a task that is not this server's."""
        welcome = self._info
        here = f"/job:{welcome.job}/task:{welcome.task}"
        if welcome.tasks > 1 and not key.session and (device.job is None or device.task is None):
            raise PlacementError(
                f"{key.name!r} is shared in a cluster of {welcome.tasks} tasks and names none: two sessions "
                f"would hold two; define it with device={here!r}"
            )
        if device.job not in {None, welcome.job} or device.task not in {None, welcome.task}:
            raise PlacementError(
                f"{key.name!r} is placed on {str(device)!r}, but {self._address} is {here}; "
                "open the session on that task's server"
            )

    # Operations

    def put(self, ref: QueueRef, segment: Segment) -> _Call:
        """Enqueue the rows of a segment.

        Raises:
            SpecMismatch: A column is longer than what travels in one frame; nothing was sent.
        """
        dtypes = [component.dtype for component in ref.definition.element.components]
        described = describe_columns(segment.columns, dtypes)
        frames = encode_columns(segment.columns)
        check_frames(frames, f"queue {ref.key.name!r}: {segment.columns[0].shape[0]} rows at once", SpecMismatch)
        return self._request(ref, lambda request, queue: m.Put(request, queue, described), frames)

    def get(self, ref: QueueRef, count: int, *, up_to: bool) -> _Call:
        """Dequeue rows."""
        return self._request(ref, lambda request, queue: m.Get(request, queue, count, up_to), get=True)

    def ask(self, ref: QueueRef, count: int, runs: int, on_recall: Callable[[Request], None]) -> _Call:
        """Request rows ahead."""
        make: _Make = lambda request, queue: m.Ask(request, queue, count, runs)  # noqa: E731 - typed
        return self._request(ref, make, get=True, on_recall=on_recall)

    def close_queue(self, ref: QueueRef, *, cancel_pending: bool) -> _Call:
        """Close a queue."""
        return self._request(ref, lambda request, queue: m.Close(request, queue, cancel_pending))

    def size(self, ref: QueueRef) -> _Call:
        """Ask for the number of elements."""
        return self._request(ref, m.Size)

    def is_closed(self, ref: QueueRef) -> _Call:
        """Ask whether the queue is closed."""
        return self._request(ref, m.IsClosed)

    def stats(self, ref: QueueRef) -> _Call:
        """Ask for a snapshot."""
        return self._request(ref, m.Stats)

    def delete(self, ref: QueueRef) -> _Call:
        """Remove a queue."""
        return self._request(ref, m.Delete)

    def lookup(self, key: QueueKey) -> _Call:
        """Ask for the definition of a queue that exists."""
        return self._request(None, lambda request, _: m.Lookup(request, key.container, key.name))

    def read(self, ref: VariableRef) -> _Call:
        """Read a variable."""
        key, spec = ref.key, ref.spec
        private, shape = bool(key.session), _shape(spec)
        return self._request(
            None, lambda request, _: m.Read(request, key.container, key.name, private, spec.dtype, shape)
        )

    def assign(self, ref: VariableRef, how: Assignment, value: Column, *, fetch: bool) -> _Call:
        """Assign to a variable.

        Raises:
            SpecMismatch: The value is longer than what travels in one frame; nothing was sent.
        """
        key, spec = ref.key, ref.spec
        private, shape, described = bool(key.session), _shape(spec), describe_columns([value], [spec.dtype])

        frames = encode_columns([value])
        check_frames(frames, f"variable {key.name!r}", SpecMismatch)

        def make(request: int, _: int) -> m.Assign:
            return m.Assign(request, key.container, key.name, private, spec.dtype, shape, how, fetch, described)

        return self._request(None, make, frames)

    def reset(self, containers: Sequence[str]) -> _Call:
        """Empty containers."""
        return self._request(None, lambda request, _: m.Reset(request, list(containers)))

    def join(self, ref: QueueRef, name: str, rejoin_s: float) -> _Call:
        """Register a producer."""
        return self._request(ref, lambda request, queue: m.Join(request, queue, name, rejoin_s, False))  # noqa: FBT003

    def leave(self, ref: QueueRef, name: str, lost: LostProducer | None) -> _Call:
        """Take a producer out."""
        reason, text = (lost.reason[-NAME_CHARS_MAX:], lost.traceback[-TRACEBACK_CHARS:]) if lost else ("", "")
        make = partial(m.Leave, name=name, lost=lost is not None, reason=reason, traceback=text)
        return self._request(ref, make)

    # Calls

    def check(self) -> None:
        """Refuse what only a session that goes on may do.

        Raises:
            AioflowError: Why it is over.
        """
        if self._error is not None:
            raise copy.copy(self._error)  # an instance that is raised again and again keeps every traceback

    def check_rows(self) -> None:
        """Let go of all rows that have come if the server was not heard for `lost_s`: it will give them to others."""
        if self._error is None and not self._link.check():
            for call in self._delivered.values():
                call.void()
            self._calls |= self._delivered
            self._delivered.clear()

    def acknowledge(self, call: _Call, rows: int) -> None:
        """Say that the rows of a get were handed over: noted, and written to the socket, before this returns."""
        if self._receipts is not None:
            self._receipts.note(call.id, rows)
        self._delivered.pop(call.id, None)
        self._peer.acknowledge(call.id, rows, is_all=True)
        self._link.send()

    def acknowledge_late(self, call: _Call, rows: int, *, is_all: bool) -> None:
        """Say that so many rows were handed over in all: soon, if that is noted and something was said just now."""
        receipts = self._receipts
        if receipts is not None:
            receipts.note(call.id, rows)
        if is_all:
            self._delivered.pop(call.id, None)
        self._peer.acknowledge(call.id, rows, is_all=is_all)
        time = self._link.clock()
        if receipts is None or time >= self._acknowledged_at + ACKNOWLEDGE_EVERY_S:
            self._acknowledged_at = time
            self._link.send()
        elif not self._is_late.is_set():
            self._is_late.set()

    async def _acknowledge_late(self) -> None:
        while True:
            await self._is_late.wait()
            await anyio.sleep(ACKNOWLEDGE_EVERY_S)
            self._is_late = anyio.Event()
            self._link.send()

    def withdraw(self, call: _Call) -> None:
        """End a call; a withdrawn get is not answered."""
        self._delivered.pop(call.id, None)
        self._peer.withdraw(call.id)
        if call.is_get and self._calls.pop(call.id, None) is not None:
            call.waiter.fail(Withdrawn(0))
        self._link.send()

    def promote(self, call: _Call) -> None:
        """Make a request ahead a get."""
        self._peer.promote(call.id)
        self._link.send()

    def _request(
        self,
        ref: QueueRef | None,
        make: _Make,
        frames: Sequence[Frame] = (),
        *,
        get: bool = False,
        on_recall: Callable[[Request], None] | None = None,
    ) -> _Call:
        self.check()
        call = _Call(self, on_recall, get=get)
        call.id = self._peer.request(ref, make, frames)
        self._calls[call.id] = call
        if frames or on_recall is not None:
            self._link.send_soon()
        else:
            self._link.send()
        return call

    # What happens

    def _happened(self, event: Event) -> None:
        match event:
            case Welcomed(welcome):
                self._welcomed(welcome)
            case Recalled(request):
                call = self._delivered.get(request)
                if call is not None and call.on_recall is not None:
                    call.on_recall(call)
            case Voided(request, again):
                call = self._delivered.pop(request, None) or self._calls.pop(request, None)
                if call is not None:
                    call.void()
                    call.id = again
                    self._calls[again] = call
            case Answered(request, value):
                self._answered(request, value)
            case Refused(request, error):
                self._failed(request, error)
            case Undone(request, rows):
                self._failed(request, Withdrawn(rows))
            case _:
                pass

    def _welcomed(self, welcome: m.Welcome) -> None:
        is_same, self._info = welcome.epoch == self._info.epoch, welcome
        if not is_same:  # else the page is the same, and what stands on it may not have been heard yet
            self._close_receipts()
            self._receipts = open_receipts(welcome.receipts, self._secret)

    def _close_receipts(self) -> None:
        receipts, self._receipts = self._receipts, None
        if receipts is not None:
            receipts.close()

    def _answered(self, request: int, value: Any) -> None:
        call = self._calls.pop(request, None)
        if call is not None:
            if call.is_get:
                self._delivered[request] = call
            call.answer(value)

    def _failed(self, request: int, error: AioflowError) -> None:
        call = self._calls.pop(request, None) or self._delivered.pop(request, None)
        if call is not None:
            call.fail(error)

    def _end(self, error: AioflowError) -> None:
        """Fail everything that waits and everything to come."""
        if self._error is None:
            self._error = error
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.waiter.fail(copy.copy(error))


def _shape(spec: TensorSpec) -> list[int | None] | None:
    return None if spec.shape is None else list(spec.shape)


def _rows(columns: tuple[Column, ...], start: int, stop: int) -> tuple[Column, ...]:
    rows = slice(start, stop)
    return tuple([take_rows(column, rows) for column in columns])
