"""The host behind a connection: calls as requests of a session, whose connection `_link` keeps up."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

from aioflow.cluster import _messages as m
from aioflow.cluster._admission import check_frames
from aioflow.cluster._codec import describe_columns, encode_columns
from aioflow.cluster._events import Answered, Recalled, Refused, Undone, Voided, Welcomed
from aioflow.cluster._fields import NAME_CHARS_MAX
from aioflow.cluster._link import Link
from aioflow.cluster._peer import Peer
from aioflow.cluster._receipts import Receipts, open_receipts
from aioflow.cluster._remote_call import RemoteCall
from aioflow.errors import ConnectionLost, SessionClosed, SpecMismatch
from aioflow.runtime import Waiter, Withdrawn
from aioflow.specs import Scattered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aioflow.cluster._events import Event
    from aioflow.errors import AioflowError
    from aioflow.queues import Segment
    from aioflow.resources import Assignment, LostProducer, QueueKey, QueueRef, VariableRef
    from aioflow.runtime import Request, SessionConfig
    from aioflow.specs import Column, Dense, TensorSpec
    from aioflow.transport import AnyFrame, WritablePieces

__all__ = ["RemoteHost"]

_Make = Callable[[int, int], m.Message]

# The end of a traceback says most; the header of a message has 64 KiB.
TRACEBACK_CHARS = 8192

# Who iterates and notes receipts acknowledges a part of what a request has brought no more often than this, and the
# rest with what it asks for next: each message costs about 0.1 ms on either side.
ACKNOWLEDGE_EVERY_S = 0.01


class RemoteHost:
    """The resources of a server, through one session.

    Args:
        address: Of the server.
        config: The session's settings.
        credentials: With which key to connect; None for none.
        secret: The session's secret; one of its own where empty.
        name: The server, for messages to people; its address where empty.
        is_target: Whether the session is opened on this server, and not merely reaches its resources.

    Attributes:
        secret: The session's secret.
        welcome: What the server has said of itself, last.
    """

    def __init__(
        self,
        address: str,
        config: SessionConfig,
        credentials: Path | None = None,
        secret: str = "",
        *,
        name: str = "",
        is_target: bool = True,
    ) -> None:
        self.lost_s = config.lost_s
        self.seen: set[QueueKey] = set()
        self.secret = secret = secret or secrets.token_hex(16)
        self.welcome = m.Welcome(0, "", "", 0, [])
        self._address = address
        self._peer = Peer(secret, name or address, is_target=is_target)
        self._receipts: Receipts | None = None
        told = (self._happened, self._end, self._unreachable)
        self._link = Link(address, config, self._peer, secret, *told, credentials)
        self._calls: dict[int, RemoteCall] = {}  # those that wait
        self._delivered: dict[int, RemoteCall] = {}  # gets whose rows are here and not all handed over
        self._error: AioflowError | None = None
        self._acknowledged_at = 0.0
        self._late: Waiter[None] = Waiter()  # set when something is to be acknowledged soon
        self._giving_up: set[int] = set()

    @property
    def has_ended(self) -> bool:
        """Whether the session is over, so that only a new host reaches the server."""
        return self._error is not None

    @property
    def is_local(self) -> bool:
        """Whether the server is on this host."""
        return self._link.is_local

    @property
    def life(self) -> str:
        """What is another one when the server has forgotten graphs: it was started anew, or the session was."""
        return f"{self.secret} {self.welcome.epoch}"

    async def open(self) -> None:
        """Connect and be welcomed, waiting up to `connect_s` for a server that is still starting."""
        await self._link.open()
        self._link.start_soon(self._acknowledge_late)

    async def close(self) -> None:
        """Say bye, wait for the answer within a bound, and disconnect."""
        self._end(SessionClosed("the session was closed while this operation waited"))
        await self._link.close()
        self._close_receipts()

    # Operations

    def allocate(self, nbytes: int) -> memoryview | None:
        """Return memory that the server sees as well, if there is any."""
        return self._link.allocate(nbytes)

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:
        """Return pieces that the server sees as well, if there are any."""
        return self._link.allocate_pieces(size, count)

    def put(self, ref: QueueRef, segment: Segment) -> RemoteCall:
        """Enqueue the rows of a segment.

        Raises:
            SpecMismatch: A column is longer than what travels in one frame; nothing was sent.
        """
        columns = segment.columns if segment.rows == 1 else self._scatter(segment, ref.definition.scattered)
        described = describe_columns(columns, ref.definition.element.dtypes)
        frames = encode_columns(columns)
        check_frames(frames, f"queue {ref.key.name!r}: {segment.columns[0].shape[0]} rows at once", SpecMismatch)
        return self.request(ref, lambda request, queue: m.Put(request, queue, described), frames)

    def _scatter(self, segment: Segment, components: Sequence[int]) -> tuple[Column, ...]:
        """Return columns of which some have their rows apart, where there is memory for it."""
        columns = list(segment.columns)
        for i in components:
            if isinstance(column := columns[i], np.ndarray):
                columns[i] = Scattered.of(column, self.allocate_pieces) or column
        return tuple(columns)

    def get(self, ref: QueueRef, count: int, *, up_to: bool) -> RemoteCall:
        """Dequeue rows."""
        return self.request(ref, lambda request, queue: m.Get(request, queue, count, up_to), get=True)

    def ask(self, ref: QueueRef, count: int, runs: int, on_recall: Callable[[Request], None]) -> RemoteCall:
        """Request rows ahead."""
        make: _Make = lambda request, queue: m.Ask(request, queue, count, runs)  # noqa: E731 - typed
        return self.request(ref, make, get=True, on_recall=on_recall)

    def close_queue(self, ref: QueueRef, *, cancel_pending: bool) -> RemoteCall:
        """Close a queue."""
        return self.request(ref, lambda request, queue: m.Close(request, queue, cancel_pending))

    def size(self, ref: QueueRef) -> RemoteCall:
        """Ask for the number of elements."""
        return self.request(ref, m.Size)

    def is_closed(self, ref: QueueRef) -> RemoteCall:
        """Ask whether the queue is closed."""
        return self.request(ref, m.IsClosed)

    def stats(self, ref: QueueRef) -> RemoteCall:
        """Ask for a snapshot."""
        return self.request(ref, m.Stats)

    def delete(self, ref: QueueRef) -> RemoteCall:
        """Remove a queue."""
        return self.request(ref, m.Delete)

    def lookup(self, key: QueueKey) -> RemoteCall:
        """Ask for the definition of a queue that exists."""
        return self.request(None, lambda request, _: m.Lookup(request, key.container, key.name))

    def read(self, ref: VariableRef) -> RemoteCall:
        """Read a variable."""
        key, spec = ref.key, ref.spec
        private, shape = bool(key.session), _shape(spec)
        return self.request(
            None, lambda request, _: m.Read(request, key.container, key.name, private, spec.dtype, shape)
        )

    def assign(self, ref: VariableRef, how: Assignment, value: Dense, *, fetch: bool) -> RemoteCall:
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

        return self.request(None, make, frames)

    def reset(self, containers: Sequence[str], *, whole: bool = False) -> RemoteCall:
        """Empty containers; with `whole` those of all tasks of the cluster, and end the sessions of the server."""
        return self.request(None, lambda request, _: m.Reset(request, list(containers), whole))

    def join(self, ref: QueueRef, name: str, rejoin_s: float) -> RemoteCall:
        """Register a producer."""
        return self.request(ref, lambda request, queue: m.Join(request, queue, name, rejoin_s, False))  # noqa: FBT003

    def leave(self, ref: QueueRef, name: str, lost: LostProducer | None) -> RemoteCall:
        """Take a producer out."""
        reason, text = (lost.reason[-NAME_CHARS_MAX:], lost.traceback[-TRACEBACK_CHARS:]) if lost else ("", "")
        make = partial(m.Leave, name=name, lost=lost is not None, reason=reason, traceback=text)
        return self.request(ref, make)

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

    def acknowledge(self, call: RemoteCall, rows: int) -> None:
        """Say that the rows of a get were handed over: noted, and written to the socket, before this returns."""
        if self._receipts is not None:
            self._receipts.note(call.id, rows)
        self._delivered.pop(call.id, None)
        self._peer.acknowledge(call.id, rows, is_all=True)
        self._link.send()

    def acknowledge_late(self, call: RemoteCall, rows: int, *, is_all: bool) -> None:
        """Say that so many rows were handed over in all: soon, if that is noted and something was said just now."""
        receipts = self._receipts
        if receipts is not None:
            receipts.note(call.id, rows)
        if is_all:
            self._delivered.pop(call.id, None)
        self._peer.acknowledge(call.id, rows, is_all=is_all)
        if receipts is None:
            self._link.send()
            return
        time = self._link.clock()
        if time >= self._acknowledged_at + ACKNOWLEDGE_EVERY_S:
            self._acknowledged_at = time
            self._link.send_soon()  # with what is asked for next
        else:
            self._late.resolve(None)

    @property
    def has_receipts(self) -> bool:
        """Whether what is handed over is noted where the server finds it."""
        return self._receipts is not None

    def acknowledge_quickly(self, request: int, rows: int) -> None:
        """Say that so many rows of a get were handed over in all, and not the last one: noted now, and said soon."""
        assert self._receipts is not None
        self._receipts.note(request, rows)
        self._peer.take(request, rows)
        if not self._late.is_set:  # a call less, for each element
            self._late.resolve(None)

    async def _acknowledge_late(self) -> None:
        while True:
            await self._late.wait()
            await anyio.sleep(ACKNOWLEDGE_EVERY_S)
            self._late = Waiter()
            self._link.send()

    def withdraw(self, call: RemoteCall) -> None:
        """End a call; a withdrawn get is not answered."""
        self._delivered.pop(call.id, None)
        self._peer.withdraw(call.id)
        if call.is_get and self._calls.pop(call.id, None) is not None:
            call.waiter.fail(Withdrawn(0))
        self._link.send()

    def promote(self, call: RemoteCall) -> None:
        """Make a request ahead a get."""
        self._peer.promote(call.id)
        self._link.send()

    def request(
        self,
        ref: QueueRef | None,
        make: _Make,
        frames: Sequence[AnyFrame] = (),
        *,
        get: bool = False,
        gives_up: bool = False,
        on_recall: Callable[[Request], None] | None = None,
    ) -> RemoteCall:
        """Make a request; one that gives up fails when the server was out of reach for `lost_s`.

        Raises:
            AioflowError: The session is over, or the server is out of reach for a request that gives up.
        """
        self.check()
        if gives_up and self._link.unreachable:
            raise ConnectionLost(self._link.unreachable)
        is_one_of_many = self._peer.has_puts if frames else on_recall is not None
        call = RemoteCall(self, on_recall, get=get)
        call.id = self._peer.request(ref, make, frames)
        self._calls[call.id] = call
        if gives_up:
            self._giving_up.add(call.id)
        if is_one_of_many and not gives_up:  # a step waits for each of its messages
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
        is_same, self.welcome = welcome.epoch == self.welcome.epoch, welcome
        if not is_same:  # else the page is the same, and what stands on it may not have been heard yet
            self._close_receipts()
            self._receipts = open_receipts(welcome.receipts, self.secret)

    def _close_receipts(self) -> None:
        receipts, self._receipts = self._receipts, None
        if receipts is not None:
            receipts.close()

    def _answered(self, request: int, value: Any) -> None:
        call = self._calls.pop(request, None)
        self._giving_up.discard(request)
        if call is not None:
            if call.is_get:
                self._delivered[request] = call
            call.answer(value)

    def _failed(self, request: int, error: AioflowError) -> None:
        call = self._calls.pop(request, None) or self._delivered.pop(request, None)
        self._giving_up.discard(request)
        if call is not None:
            call.fail(error)

    def _unreachable(self, reason: str) -> None:
        """Fail what does not wait an outage out; it is withdrawn when the server is there again."""
        for request in sorted(self._giving_up):
            self._peer.withdraw(request)
            self._failed(request, ConnectionLost(reason))
        self._giving_up.clear()

    def _end(self, error: AioflowError) -> None:
        """Fail everything that waits and everything to come."""
        if self._error is None:
            self._error = error
        for call in self._delivered.values():  # what was not handed over is the queue's again
            call.fail(copy.copy(error))
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.waiter.fail(copy.copy(error))


def _shape(spec: TensorSpec) -> list[int | None] | None:
    return None if spec.shape is None else list(spec.shape)
