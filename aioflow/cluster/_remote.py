"""The host behind a connection: the shell around `_peer`."""

from __future__ import annotations

import copy
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode, describe_columns, encode_columns
from aioflow.cluster._fields import NAME_CHARS_MAX
from aioflow.cluster._peer import Answered, Ended, Peer, Recalled, Refused, Undone, Welcomed
from aioflow.errors import (
    AioflowError,
    ConnectFailed,
    ConnectionLost,
    PlacementError,
    RemoteProtocolError,
    SessionClosed,
    VersionMismatch,
)
from aioflow.runtime import Background, Waiter, Withdrawn, finish
from aioflow.transport import find_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.names import DeviceName
    from aioflow.queues import Segment
    from aioflow.resources import LostProducer, QueueKey, QueueRef
    from aioflow.runtime import Request, SessionConfig
    from aioflow.specs import Column
    from aioflow.transport import Connection, Frame

__all__ = ["RemoteHost"]

# A closing session waits this long for the server's answer, so that its puts and acknowledgements are known to be
# there.
GOODBYE_S = 0.5

# The end of a traceback says most; the header of a message has 64 KiB.
TRACEBACK_CHARS = 8192


class _Call:
    """A request under way."""

    __slots__ = ("_columns", "_host", "id", "is_get", "on_recall", "rows_left", "waiter")

    def __init__(
        self, host: RemoteHost, request: int, on_recall: Callable[[Request], None] | None, *, get: bool
    ) -> None:
        self.waiter: Waiter[Any] = Waiter()
        self.id = request
        self.is_get = get
        self.on_recall = on_recall
        self.rows_left = 0
        self._columns: tuple[Column, ...] = ()
        self._host = host

    def answer(self, value: Any) -> None:
        if self.is_get:
            self._columns = value
            self.rows_left = value[0].shape[0]
        self.waiter.resolve(value)

    def columns(self) -> tuple[Column, ...]:
        self._host.check()  # what had come and was not handed over is the queue's again when a session is over
        return self._columns

    def acknowledge(self) -> None:
        self._host.acknowledge(self)

    def take(self, count: int) -> tuple[Column, ...]:
        columns = self.columns()
        assert count == self.rows_left
        self.rows_left = 0
        self.acknowledge()
        return columns

    def withdraw(self) -> None:
        self.rows_left = 0
        self._host.withdraw(self)

    def promote(self) -> None:
        self._host.promote(self)


class RemoteHost:
    """The queues of a server, through one connection."""

    def __init__(self, address: str, config: SessionConfig) -> None:
        self.lost_s = config.lost_s
        self._address = address
        self._connect_s = config.connect_s
        self._peer = Peer(secrets.token_hex(16), address)
        self._calls: dict[int, _Call] = {}
        self._ahead: dict[int, _Call] = {}  # requests ahead whose rows are here and not handed over
        self._connection: Connection | None = None
        self._background = Background(self._failed)
        self._welcome: Waiter[None] = Waiter()
        self._info = m.Welcome(0, "", "", 0, 1)
        self._goodbye: Waiter[None] = Waiter()
        self._error: AioflowError | None = None

    async def open(self) -> None:
        """Connect and be welcomed, waiting up to `connect_s` for a server that is still starting."""
        group = await self._background.start()
        try:
            with anyio.move_on_after(self._connect_s):
                self._connection = await find_transport(self._address).connect(self._address, self, group)
                self._send()
                await self._welcome.wait()
                return
            raise ConnectFailed(  # noqa: TRY301 - disconnects as any other error does
                f"no aioflow server answered at {self._address} within {self._connect_s} s; "
                f"start one with: aioflow serve --bind {self._address}"
            )
        except BaseException:
            await finish(self._disconnect)
            raise

    async def close(self) -> None:
        """Say bye, wait for the answer within a bound, and disconnect."""
        lost = self._error is not None
        self._end(SessionClosed("the session was closed while this operation waited"))
        if not lost:
            self._peer.bye()
            self._send()
        await finish(self._part)

    def check_task(self, device: DeviceName, key: QueueKey) -> None:
        """Refuse a device of a task that is not this server's."""
        welcome = self._info
        here = f"/job:{welcome.job}/task:{welcome.task}"
        if welcome.tasks > 1 and not key.session and (device.job is None or device.task is None):
            raise PlacementError(
                f"queue {key.name!r} is shared in a cluster of {welcome.tasks} tasks and names none: two sessions "
                f"would hold two queues; define it with device={here!r}"
            )
        if device.job not in {None, welcome.job} or device.task not in {None, welcome.task}:
            raise PlacementError(
                f"queue {key.name!r} is placed on {str(device)!r}, but {self._address} is {here}; "
                "open the session on that task's server"
            )

    # Operations

    def put(self, ref: QueueRef, segment: Segment) -> _Call:
        """Enqueue the rows of a segment."""
        dtypes = [component.dtype for component in ref.definition.element.components]
        described = describe_columns(segment.columns, dtypes)
        return self._request(
            ref, lambda request, queue: m.Put(request, queue, described), encode_columns(segment.columns)
        )

    def get(self, ref: QueueRef, count: int, *, up_to: bool) -> _Call:
        """Dequeue rows."""
        return self._request(ref, lambda request, queue: m.Get(request, queue, count, up_to), get=True)

    def ask(self, ref: QueueRef, count: int, runs: int, on_recall: Callable[[Request], None]) -> _Call:  # noqa: ARG002
        """Request rows ahead."""
        return self._request(ref, lambda request, queue: m.Ask(request, queue, count), get=True, on_recall=on_recall)

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

    def join(self, ref: QueueRef, name: str, rejoin_s: float) -> _Call:
        """Register a producer."""
        return self._request(ref, lambda request, queue: m.Join(request, queue, name, rejoin_s))

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

    def acknowledge(self, call: _Call) -> None:
        """Say that the rows of a get were handed over: written to the socket before this returns."""
        self._ahead.pop(call.id, None)
        self._peer.acknowledge(call.id)
        self._send()

    def withdraw(self, call: _Call) -> None:
        """End a call; a withdrawn get is not answered."""
        self._ahead.pop(call.id, None)
        self._peer.withdraw(call.id)
        if call.is_get and self._calls.pop(call.id, None) is not None:
            call.waiter.fail(Withdrawn(0))
        self._send()

    def promote(self, call: _Call) -> None:
        """Make a request ahead a get."""
        self._peer.promote(call.id)
        self._send()

    def _request(
        self,
        ref: QueueRef | None,
        make: Callable[[int, int], m.Message],
        frames: Sequence[Frame] = (),
        *,
        get: bool = False,
        on_recall: Callable[[Request], None] | None = None,
    ) -> _Call:
        self.check()
        call = _Call(self, self._peer.request(ref, make, frames), on_recall, get=get)
        self._calls[call.id] = call
        self._send()
        return call

    def _send(self) -> None:
        if self._connection is not None:
            for frames in self._peer.take_messages():
                self._connection.send(frames)

    # What arrives

    def received(self, frames: list[Frame]) -> None:
        """Handle one message of the server."""
        try:
            event = self._peer.receive(*decode(frames))
        except RemoteProtocolError as error:
            self._end(error)
            return
        match event:
            case Welcomed(welcome):
                self._info = welcome
                self._welcome.resolve(None)
            case Recalled(request):
                self._recall(request)
            case Ended(reason):
                self._ended(reason)
            case Answered() | Refused() | Undone():
                self._answer(event)
            case None:
                pass

    def _answer(self, event: Answered | Refused | Undone) -> None:
        call = self._calls.pop(event.id, None)
        if call is None:
            return
        match event:
            case Answered(_, value):
                if call.on_recall is not None:
                    self._ahead[call.id] = call
                call.answer(value)
            case Refused(_, error):
                call.waiter.fail(error)
            case Undone(_, rows):
                call.waiter.fail(Withdrawn(rows))

    def _recall(self, request: int) -> None:
        call = self._ahead.get(request)
        if call is not None and call.on_recall is not None:
            call.on_recall(call)

    def lost(self, error: AioflowError) -> None:
        """Learn that the server has gone."""
        self._end(error)

    def _ended(self, reason: str) -> None:
        if not reason:
            self._goodbye.resolve(None)
        elif reason.startswith(VersionMismatch.__name__):
            self._end(VersionMismatch(f"{self._address}: {reason}"))
        else:
            self._end(ConnectionLost(f"{self._address} has ended the session: {reason}"))

    def _failed(self, error: BaseException) -> None:
        lost = ConnectionLost(f"the connection to {self._address} broke: {error!r}")
        lost.__cause__ = error
        self._end(lost)

    def _end(self, error: AioflowError) -> None:
        """Fail everything that waits and everything to come."""
        if self._error is None:
            self._error = error
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.waiter.fail(copy.copy(error))
        self._welcome.fail(error)
        if not isinstance(error, SessionClosed):
            self._goodbye.resolve(None)

    async def _part(self) -> None:
        with anyio.move_on_after(GOODBYE_S):
            await self._goodbye.wait()
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.aclose()
        await self._background.stop()
