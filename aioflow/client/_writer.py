"""A writer groups elements into `enqueue_many`."""

from __future__ import annotations

import copy
import math
import os
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio

from aioflow.client._block import Block
from aioflow.client._group_size import GroupSize
from aioflow.client._ragged_block import RaggedBlock
from aioflow.client._runs import join_run
from aioflow.errors import AioflowError, SessionError, SpecMismatch
from aioflow.runtime import Background, Withdrawn, begin_call, current_turn, finish, give_turn, now

if TYPE_CHECKING:
    from types import TracebackType

    from aioflow.client._queue import Queue
    from aioflow.queues import Segment
    from aioflow.runtime import Call

__all__ = ["Writer"]

EXTENDED = 3  # delays for a batch of large elements that is about to be whole: cut in two, it is copied
# What a cancelled or failed exit may take to flush, and again to withdraw what was not accepted.
EXIT_S = 0.5


class Writer:
    """Made by `queue.writer()`; see there."""

    def __init__(self, queue: Queue, batch: int, batch_bytes: int | None, delay_s: float) -> None:
        is_known = batch_bytes is None or _is_above_0(batch_bytes, int)
        if not (_is_above_0(batch, int) and is_known and _is_above_0(delay_s, int | float)):
            raise SpecMismatch(
                f"a writer needs batch, batch_bytes and delay_s above 0, got {(batch, batch_bytes, delay_s)}"
            )
        self._queue = queue
        self._batch = batch
        self._batch_bytes = batch_bytes
        self._delay_s = delay_s
        # What is buffered: segments, and behind them the block, where elements are numbers and the writer is open.
        self._segments: list[Segment] = []
        self._block: Block | RaggedBlock | None = None
        self._rows = self._bytes = 0
        # Of the block's rows, how many may be written without a look at all the rest, as nothing can go before, and how
        # many could when it was looked last. Those that were written are counted by `_settle`.
        self._free = self._granted = 0
        self._granted_bytes = 0  # in the block when it was looked last
        # What went of a group before it was full. The rest of it is the next one: a consumer of the same size finds its
        # batches together again, and not each in two groups for as long as the producer runs.
        self._gone_rows = self._gone_bytes = 0
        self._calls: deque[tuple[Call, int]] = deque()
        self._error: BaseException | None = None
        self._refused = 0  # elements of groups that failed, beside `_error`
        self._is_open = self._is_forked = False
        self._turn = anyio.Lock(fast_acquire=True)
        self._sent_at = -math.inf
        self._is_late = False  # whether what is buffered will be sent by `_send_late`
        self._written = anyio.Event()

    async def __aenter__(self) -> Self:
        """Attach to the queue."""
        session = self._queue._bound_session()  # noqa: SLF001 - one package
        self._host, self._ref = await self._queue._begin()  # noqa: SLF001
        self._background = Background(self._keep)
        group = await self._background.start()
        group.start_soon(self._send_late)
        self._forget = session.flush_at_close(self._flush_kept)
        definition = self._ref.definition
        size = self._size = GroupSize(definition, self._batch, self._batch_bytes)
        if (row_bytes := definition.element.nbytes) is not None:
            self._block = Block(definition, row_bytes, size.block_rows, self._host.allocate, self._host.allocate_pieces)
        elif RaggedBlock.takes(definition.element):
            self._block = RaggedBlock(definition, size.block_rows, size.block_bytes, self._host.allocate)
        self._is_open = True
        _open.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flush; after an exception within a bound, with a note of how many elements did not go."""
        if self._is_forked:
            return
        self._forget()
        self._is_open = False
        self._settle()
        self._end_block()
        self._block = None
        try:
            await self._background.stop()
            if error is None:
                await self._flush()
                return
        except anyio.get_cancelled_exc_class() as cancelled:
            await finish(partial(self._flush_bounded, cancelled))
            raise
        assert error is not None
        await finish(partial(self._flush_bounded, error))

    async def write(self, element: Any) -> None:
        """Buffer one element; waits while two groups are under way and a third is full. A cancelled one adds nothing.

        Raises:
            SpecMismatch: The value does not fit; nothing was buffered.
            SessionError: The writer was not entered, or was left: use `async with queue.writer() as w`.
            QueueClosed: An earlier group found the queue closed; its elements were not accepted.
        """
        if not current_turn():
            await begin_call()
            await give_turn()
        block = self._block
        if block is None:
            await self._write(element, many=False)
        elif self._free and block.add(element):
            self._free -= 1
        elif self._error is None and self._may_buffer() and self._add(block, element):
            self._grant()
        else:
            await self._write(element, many=False)

    async def write_many(self, columns: Any) -> None:
        """Buffer k elements: each component with a leading dimension k, as `enqueue_many` takes them.

        They are grouped like single elements, and are not split. Waits and raises as `write`.
        """
        if not current_turn():
            await begin_call()
            await give_turn()
        block = self._block
        if type(block) is not Block:
            await self._write(columns, many=True)
        elif self._free and (rows := block.add_many(columns, self._free)):
            self._free -= rows
        elif self._error is None and self._may_buffer() and (rows := block.add_many(columns, block.room - block.count)):
            self._count(rows, rows * block.row_bytes)
            self._grant()
        else:
            await self._write(columns, many=True)

    async def flush(self) -> None:
        """Send what is buffered and wait until it is accepted; raises what went wrong with any of it.

        Of several tasks that flush at once each is told. An error of an earlier group reaches one of them, or a write.

        Raises:
            SessionError: The writer is not open.
        """
        self._check_open()
        await self._flush()

    async def _flush(self) -> None:
        self._send()
        calls = [call for call, _ in self._calls]
        await self._await_calls(0)
        self._raise_kept()
        for call in calls:  # whose error another task may have had
            if isinstance(call.waiter.error, AioflowError):
                raise copy.copy(call.waiter.error)

    async def _write(self, value: Any, *, many: bool) -> None:
        await begin_call()
        self._check_open()
        # What most likely goes to the block is copied once, when there is room; all else is looked at before the wait.
        segment = self._queue._convert(value, many=many) if many or self._block is None else None  # noqa: SLF001
        await give_turn()
        if self._has_failed():
            await self._await_calls(len(self._calls) - 1)
            self._check_open()
        while not self._may_buffer() and not self._send_if_due():  # other tasks may have filled what was free
            await self._await_calls(len(self._calls) - 1)
            self._check_open()  # another task may have left it meanwhile
        self._raise_kept()
        if segment is None:
            if self._block is not None and self._add(self._block, value):
                return
            segment = self._queue._convert(value, many=False)  # noqa: SLF001
        block = None if many else self._block
        if segment.rows and not (block and block.add_row(segment.columns)):
            self._end_block()  # so that its memory may begin anew
            if not (block and block.add_row(segment.columns)):
                self._segments.append(segment)
        self._count(segment.rows, segment.nbytes(slice(0, segment.rows)))

    def _check_open(self) -> None:
        what = f"the writer on {self._queue.name!r} is"
        if self._is_forked:
            raise SessionError(f"{what} that of the parent process: open a session and a writer here")
        if not self._is_open:
            raise SessionError(f"{what} not open: use `async with queue.writer() as w`")

    def _may_buffer(self) -> bool:
        """Whether what is buffered may grow: not if no group is under way and it may go, or if it is full."""
        self._settle()
        if self._has_failed():
            return False
        self._forget_done()
        return not (self._is_full() if self._calls else self._is_ripe())

    def _forget_done(self) -> None:
        """Let go of groups that are in, unless a task is about to: one that waits for the first."""
        while self._calls and self._calls[0][0].waiter.is_set and not (self._has_failed() or self._turn.locked()):
            self._forget_first()

    def _forget_first(self) -> None:
        """Let go of the first group, whose answer tells how many rows consumers take at once, and where that begins."""
        call, _ = self._calls.popleft()
        count, beyond = call.waiter.value or (0, 0)
        if count and self._size.take_together(count):
            self._settle()
            under_way = sum(rows for _, rows in self._calls)
            self._gone_rows, self._gone_bytes = self._size.gone(beyond + under_way, 0)
            if type(self._block) is Block:
                self._block.resize(self._size.block_rows)

    def _add(self, block: Block | RaggedBlock, element: Any) -> bool:
        """Copy an element to the block and count it; say whether it fits there."""
        self._settle()
        before = block.nbytes
        is_added = block.add(element)
        if is_added:
            self._count(1, block.nbytes - before)
        return is_added

    def _has_failed(self) -> bool:
        """Whether the next group to end has failed."""
        return bool(self._calls) and self._calls[0][0].waiter.error is not None

    def _grant(self) -> None:
        """Let rows be written as long as nothing could go and the block has room; the last one is looked at."""
        block = self._block
        if block is not None and not self._free and self._is_late:  # else nobody would send them
            rows = self._size.rows_until(self._gone_rows + self._rows, is_alone=not self._calls)
            nbytes = self._size.nbytes - self._gone_bytes - self._bytes
            self._free = self._granted = max(0, block.rows_within(rows, max(0, nbytes)) - 1)
            self._granted_bytes = block.nbytes

    def _settle(self) -> None:
        """Count what was written without a look, and have the next write look."""
        written = self._granted - self._free
        if written and self._block is not None:
            self._rows += written
            self._bytes += self._block.nbytes - self._granted_bytes
        self._free = self._granted = 0

    def _is_ripe(self) -> bool:
        return self._size.is_ripe(self._gone_rows + self._rows, self._gone_bytes + self._bytes)

    def _is_full(self) -> bool:
        return self._size.is_full(self._gone_rows + self._rows, self._gone_bytes + self._bytes)

    def _count(self, rows: int, nbytes: int) -> None:
        """Count what was buffered just now, and send if it is enough."""
        self._settle()
        self._rows += rows
        self._bytes += nbytes
        if not self._send_if_due() and not self._is_late:
            self._is_late = True
            self._written.set()
        if self._block is not None and self._block.count == self._block.room:
            self._end_block()

    def _send_if_due(self) -> bool:
        """Send a group if none is under way, or a full one while another is; say whether it went.

        So groups are the larger the busier the server is, and where it is not they go at once (Nagle, RFC 896).
        """
        self._forget_done()
        calls = self._calls
        is_due = self._is_full() and len(calls) < self._size.groups_max if calls else self._is_ripe()
        if is_due:
            self._send()
        return is_due

    def _end_block(self) -> None:
        if self._block is not None and self._block.count:
            self._segments.append(self._block.take())

    def _send(self) -> None:
        """Start to enqueue what is buffered: one group for each run of elements that one put can hold."""
        self._settle()
        self._end_block()
        self._sent_at = now()
        gone = self._gone_rows + self._rows, self._gone_bytes + self._bytes
        self._gone_rows, self._gone_bytes = self._size.gone(*gone)
        if self._block is not None:
            self._block.make_room(self._size.rows_together(self._gone_rows))
        while self._segments:
            joined, count = join_run(self._segments)
            call = self._host.put(self._ref, joined)
            if not call.waiter.is_set:
                call.waiter.when_set(self._settle)  # so that the next write looks what came of it
            self._calls.append((call, joined.rows))
            del self._segments[:count]
            self._rows -= joined.rows
        self._bytes = 0

    async def _await_calls(self, left: int) -> None:
        """Wait until so many calls are left; nothing else waits for one, or takes it out."""
        async with self._turn:
            while len(self._calls) > left:
                call, count = self._calls[0]
                try:
                    await call.waiter.wait()
                except Withdrawn as withdrawn:  # by an exit
                    self._refused += count - withdrawn.rows
                except AioflowError as error:
                    self._keep(error)
                    self._refused += count
                finally:
                    self._settle()
                    if not call.waiter.is_set:  # the wait has taken the place of who is told
                        call.waiter.when_set(self._settle)
                self._forget_first()

    async def _send_late(self) -> None:
        wait_s, is_extended = self._delay_s, False
        while True:
            await self._written.wait()
            await anyio.sleep(wait_s)
            wait_s = self._sent_at + self._delay_s - now()
            is_extended = wait_s <= 0 and not is_extended and self._fills()
            if is_extended:
                wait_s = (EXTENDED - 1) * self._delay_s
            if wait_s > 0:  # else what is there was written since
                continue
            wait_s = self._delay_s
            self._written = anyio.Event()
            self._is_late = False
            await self._await_calls(self._size.groups_max - 1)
            try:
                self._send()
            except AioflowError as error:
                self._keep(error)

    def _fills(self) -> bool:
        """Whether so much of a whole batch has come within the delay that the rest is likely to come soon."""
        self._settle()
        return self._size.has_come(self._gone_rows + self._rows, 1 / EXTENDED)

    async def _flush_kept(self) -> None:
        """Flush; what goes wrong surfaces at the next write or at the exit."""
        try:
            self._send()
            await self._await_calls(0)
        except AioflowError as error:
            self._keep(error)

    async def _flush_bounded(self, error: BaseException) -> None:
        with anyio.move_on_after(EXIT_S):
            await self._flush_kept()
        for call, _ in reversed(self._calls):  # the latest first: no withdrawal lets another one through
            call.withdraw()
        with anyio.move_on_after(EXIT_S):
            await self._await_calls(0)
        left = self._refused + self._rows + sum(count for _, count in self._calls)
        if left or self._error is not None:
            why = f": {self._error}" if self._error is not None else ""
            error.add_note(
                f"aioflow: up to {left} elements of the writer on {self._queue.name!r} were not accepted{why}"
            )

    def part_from_parent(self) -> None:
        """Have nothing of what the parent of this forked process has: its rows lie in memory that both see."""
        self._is_forked, self._is_open, self._block = True, False, None
        self._segments.clear()
        self._calls.clear()
        self._free = self._granted = self._rows = self._bytes = 0

    def _keep(self, error: BaseException) -> None:
        self._settle()
        self._error = self._error or error

    def _raise_kept(self) -> None:
        if self._error is not None:
            error, self._error, self._refused = self._error, None, 0
            raise error


_open: weakref.WeakSet[Writer] = weakref.WeakSet()


def _in_child() -> None:
    for writer in tuple(_open):
        writer.part_from_parent()


os.register_at_fork(after_in_child=_in_child)


def _is_above_0(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and 0 < value < math.inf
