"""One step: the nodes of a plan, each started in the moment in which nothing is pending before it.

1. Ready nodes stand in one list. Workers, which are tasks, take from it: one that finds a kernel to await first hires
   another if more is ready, so that a kernel that waits keeps nothing else waiting, and kernels that do not wait cost
   no task each. The task that called `run` is the first worker, alone while one node at a time is ready. Threads tell
   what they have done in callbacks, which can start no task, and have not the step's context: a task hires for them.
2. The first error ends the step: nothing starts any more, coroutines are cancelled, threads are waited for.
3. What a dequeue node took is the queue's, and goes back to it, unless another node has begun or the step succeeded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anyio

from aioflow.errors import AioflowError, DeviceUnavailable, NodeFailed
from aioflow.graph import Countdown, Mode, outputs_of
from aioflow.runtime._cancellation import current_turn, finish
from aioflow.runtime._taken import Taken
from aioflow.runtime._turns import give_turn, on_asyncio
from aioflow.runtime._waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup

    from aioflow.devices import Device, Launch, Stream
    from aioflow.graph import Plan
    from aioflow.runtime._inbox import Inbox
    from aioflow.runtime._pool import ThreadPool

__all__ = ["Step"]


class Step:
    """One run of a plan.

    Args:
        plan: What is run.
        values: Its slots, feeds included.
        devices: The session's devices.
        pools: The threads of each.
        inbox: Where threads tell what they have done.
    """

    def __init__(
        self, plan: Plan, values: list[Any], devices: Sequence[Device], pools: Sequence[ThreadPool | None], inbox: Inbox
    ) -> None:
        self.plan = plan
        self.seconds = [0.0] * len(plan.nodes)
        self._values = values
        self._devices = devices
        self._pools = pools
        self._inbox = inbox
        self._launches: dict[int, Launch] = {}  # by slot, those whose value may still be needed
        self._launched: dict[int, Launch] = {}  # by node, all of them, in order
        self._uses = plan.uses.copy()
        self._countdown = Countdown(plan.pending, plan.successors)
        self._ready = deque(self._countdown.ready())
        self._taken: dict[int, Taken] = {}
        self._scope = anyio.CancelScope()
        self._group: TaskGroup
        self._parked: Waiter[None] | None = None  # the first worker, with nothing to do
        self._bell: Waiter[None] | None = None  # of the task that hires where nobody else can
        self._is_hired = False  # a worker is about to begin
        self._elsewhere = 0  # nodes on threads and streams
        self._all_back = anyio.Event()
        self._is_over = False
        self._error: BaseException | None = None

    async def run(self) -> list[Any]:
        """Run it; return the values of the fetches, None for those that have none."""
        try:
            with self._scope:
                try:
                    await self._work(alone=True)
                    if self._countdown.left and not self._is_over:
                        async with anyio.create_task_group() as self._group:
                            await self._work_to_the_end()
                except BaseException:
                    self._stop()
                    raise
            if self._error is None and self._countdown.left:  # a group ends as if well when a task of it was cancelled
                self._error = asyncio.CancelledError("a task of this step was cancelled from outside of it")
            if self._error is None:
                await give_turn()
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            self._is_over = True
            if self._elsewhere:
                await finish(self._all_back.wait)
            self._settle()
        if self._error is not None:
            raise self._error
        return [None if slot is None else self._values[slot] for slot in self.plan.fetched]

    def abort(self, error: BaseException) -> None:
        """End the step with an error."""
        if not self._is_over:
            self._error = error
            self._stop()
            self._scope.cancel()

    def abandon(self) -> None:
        """Wait no longer for kernels that run elsewhere; for a step that was ended."""
        self._all_back.set()

    def forget_error(self) -> None:
        """Let the values go with the error: its traceback holds the step."""
        self._error = None

    def _stop(self) -> None:
        """Start nothing any more, and wait for what runs on streams as for what runs on threads."""
        if self._is_over:
            return
        self._is_over = True
        self._ready.clear()
        running = {launch.stream: launch for launch in self._launched.values() if not launch.cancel()}
        for stream, launch in running.items():  # the last one of each
            with suppress(DeviceUnavailable):  # it was closed, and has waited for its work itself
                stream.when_done(launch, lambda *_: self._inbox.post(self._is_back), want_value=False)
                self._elsewhere += 1

    def _settle(self) -> None:
        for launch in self._launches.values():
            launch.release()
        if self._error is None:
            try:
                for taken in self._taken.values():
                    taken.acknowledge()
            except AioflowError as error:  # raised below, when the others have gone back
                self._error = error
        if self._error is not None:
            for taken in reversed(self._taken.values()):  # the last one first, to stand behind the others
                taken.withdraw()

    # Workers

    async def _work_to_the_end(self) -> None:
        while True:
            await self._work()
            if self._is_over or not self._countdown.left:
                break
            self._parked = Waiter()
            try:
                await self._parked.wait()
            finally:
                self._parked = None
        if self._bell is not None:
            self._bell.resolve(None)

    async def _work(self, *, alone: bool = False) -> None:
        """Run what is ready; alone, which needs no task group, only one coroutine or inline kernel at a time."""
        self._is_hired = False
        ready, modes = self._ready, self.plan.modes
        while ready and not (alone and (len(ready) > 1 or modes[ready[0]] > Mode.INLINE)):
            number = ready.popleft()
            mode = modes[number]
            if mode is Mode.COROUTINE:
                if ready:
                    self._hire()
                await self._await_kernel(number)
            elif mode is Mode.INLINE:
                self._call_kernel(number)
            elif mode is Mode.THREAD:
                self._send_to_thread(number)
            else:
                self._launch(number)
            if not (current_turn() or self._is_over):
                await give_turn()
        if not self._countdown.left and self._parked is not None:
            self._parked.resolve(None)

    def _hire(self) -> None:
        """Have somebody look at what is ready: the first worker if it has nothing to do, else a new one."""
        if not self._is_hired and not self._is_over:
            self._is_hired = True
            if self._parked is not None:
                self._parked.resolve(None)
            else:
                self._group.start_soon(self._work)

    def _ring(self) -> None:
        """Have somebody look from outside of the step's tasks, where none can be started."""
        if not self._is_hired and not self._is_over:
            waiting = self._parked or self._bell
            assert waiting is not None
            self._is_hired = True
            waiting.resolve(None)

    async def _answer(self, bell: Waiter[None]) -> None:
        while self._countdown.left:
            await bell.wait()
            bell = self._bell = Waiter()
            self._group.start_soon(self._work)

    def _expect(self) -> None:
        """Count a kernel that runs elsewhere."""
        self._elsewhere += 1
        if self._bell is None:
            self._bell = Waiter()
            self._group.start_soon(self._answer, self._bell)

    # Kernels

    async def _await_kernel(self, number: int) -> None:
        began = perf_counter()
        try:
            value = await self.plan.calls[number](*self._leaves(number))
        except BaseException as error:
            if self._is_cancellation(error):
                raise
            self._fail(number, error)
        else:
            self.seconds[number] = perf_counter() - began
            self._finish(number, value)

    def _call_kernel(self, number: int) -> None:
        began = perf_counter()
        try:
            value = self.plan.calls[number](*self._leaves(number))
        except BaseException as error:  # noqa: BLE001 - the same
            self._fail(number, error)
        else:
            self.seconds[number] = perf_counter() - began
            self._finish(number, value)

    def _send_to_thread(self, number: int) -> None:
        pool = self._pools[self.plan.devices[number]]
        if pool is None:
            self._call_kernel(number)
            return
        call, slots = self.plan.calls[number], self.plan.leaves[number]
        leaves = [self._values[slot] for slot in slots]
        held = [slot for slot in slots if slot in self._taken] if self._taken else []
        self._let_go(slots)
        self._expect()

        def job() -> None:
            outcome, began = list[Any]([None, None]), perf_counter()  # it is emptied there: this frame may last longer
            if not self._is_over:
                if held:
                    self._inbox.post(self._begun, number, held)
                try:
                    outcome[0] = copy_context().run(call, *leaves)  # what it changes there is not seen by the next
                except BaseException as error:  # noqa: BLE001 - it is told where the step is
                    outcome[1] = error
            leaves.clear()
            self._inbox.post(self._came_back, number, pool, outcome, perf_counter() - began)

        pool.submit(job)

    def _begun(self, number: int, held: Sequence[int]) -> None:
        try:
            self._acknowledge(held)
        except AioflowError as error:
            self._fail(number, error)

    def _came_back(self, number: int, pool: ThreadPool, outcome: list[Any], seconds: float) -> None:
        pool.done()
        self._arrived(number, error=outcome.pop(), value=outcome.pop(), seconds=seconds)

    def _launch(self, number: int) -> None:
        plan, work = self.plan, self.plan.streams[number]
        stream = self._devices[plan.devices[number]].streams[work.stream]
        slots = (*plan.leaves[number], *work.after)
        try:
            leaves = [self._values[slot] for slot in slots]
            args, after = leaves[: -len(work.after) or None], leaves[len(leaves) - len(work.after) :]
            launch = stream.launch(plan.calls[number], args, after, name=plan.nodes[number].name)
            self._launched[number] = self._launches[work.launch] = self._values[work.launch] = launch
            self._use(slots)
            if work.is_awaited:
                self._await_launch(number, stream, launch, want_value=any(s is not None for s in plan.outputs[number]))
        except AioflowError as error:
            self._fail(number, error)
            return
        if not self._uses[work.launch]:
            self._launches.pop(work.launch).release()
        self._ready.extend(self._countdown.release(work.released))
        if not work.is_awaited:
            self._finish(number, None)

    def _await_launch(self, number: int, stream: Stream, launch: Launch, *, want_value: bool) -> None:
        began = perf_counter()

        def done(value: Any, error: BaseException | None) -> None:
            self._inbox.post(self._arrived, number, value, error, perf_counter() - began)

        stream.when_done(launch, done, want_value=want_value)
        self._expect()

    def _arrived(self, number: int, value: Any, error: BaseException | None, seconds: float) -> None:
        """Take what a thread has brought."""
        self.seconds[number] = seconds
        if self._is_over:
            self._is_back()
            return
        self._elsewhere -= 1
        if error is not None:
            self._fail(number, error)
        else:
            self._finish(number, value)
            if self._ready or not self._countdown.left:
                self._ring()

    def _is_back(self) -> None:
        """Count what a step that is over still waits for."""
        self._elsewhere -= 1
        if not self._elsewhere:
            self._all_back.set()

    # Values

    def _leaves(self, number: int) -> list[Any]:
        leaves = [self._values[slot] for slot in self.plan.leaves[number]]
        self._use(self.plan.leaves[number])
        return leaves

    def _use(self, slots: Sequence[int]) -> None:
        """Take values as used by one node, which starts now."""
        self._let_go(slots)
        if self._taken:
            self._acknowledge(slots)

    def _acknowledge(self, slots: Sequence[int]) -> None:
        for slot in slots:
            if slot in self._taken:
                self._taken.pop(slot).acknowledge()

    def _let_go(self, slots: Sequence[int]) -> None:
        """Count one use of each value: the last one drops it."""
        uses, values = self._uses, self._values
        for slot in set(slots) if len(slots) > 1 else slots:
            left = uses[slot] = uses[slot] - 1
            if not left:
                values[slot] = None
                if slot in self._launches:
                    self._launches.pop(slot).release()

    def _finish(self, number: int, value: Any) -> None:
        outputs = self.plan.outputs[number]
        if type(value) is Taken:
            value = self._hold(number, outputs, value)
        if self._launched and number in self._launched and outputs.count(None) == len(outputs):
            outputs = ()  # what it returned stays on its device
        if len(outputs) == 1:
            if outputs[0] is not None:
                self._values[outputs[0]] = value
        elif outputs:
            try:
                parts = outputs_of(self.plan.nodes[number], value)
            except AioflowError as error:
                self._fail(number, error)
                return
            for slot, part in zip(outputs, parts, strict=True):
                if slot is not None:
                    self._values[slot] = part
        newly = self._countdown.finish(number)
        if not self._is_over:  # a kernel may end well although it was cancelled
            self._ready.extend(newly)

    def _hold(self, number: int, outputs: Sequence[int | None], taken: Taken) -> Any:
        """Keep what was taken until it is used, or until the end of the step."""
        slots = [slot for slot in outputs if slot is not None] or [~number]  # no slot has such a number
        self._taken.update(dict.fromkeys(slots, taken))
        value, taken.value = taken.value, None
        return value

    # Failures

    def _fail(self, number: int, error: BaseException) -> None:
        # A launch that fails fails those that need it, and one of those may have been waited for.
        number = next((n for n, launch in self._launched.items() if launch.error is error), number)
        node = self.plan.nodes[number]
        device = str(self._devices[self.plan.devices[number]].name)
        where = f"node {node.name!r} on {device}, made at {node.line}"
        if isinstance(error, (Exception, asyncio.CancelledError)) and not isinstance(error, AioflowError):
            failed = NodeFailed(f"{where}, failed: {type(error).__name__}: {error}", node=node.name, device=device)
            failed.__cause__ = error
            self.abort(failed)
        else:
            error.add_note(f"aioflow: in {where}")
            self.abort(error)

    def _is_cancellation(self, error: BaseException) -> bool:
        """Whether somebody cancelled this worker; a kernel may also raise what looks like it."""
        if self._is_over or not on_asyncio():
            return isinstance(error, anyio.get_cancelled_exc_class())
        task = asyncio.current_task()
        return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
