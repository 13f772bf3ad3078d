"""Everything goes by the event loop's own clock, which a simulated loop advances."""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

import pytest

from aioflow.runtime import Timer, every_call_gives_a_turn, give_turn, now
from aioflow.runtime._turns import on_asyncio

DAY_S = 86400.0


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to whatever is due next."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped_s = 0.0
        self._scheduled: list[Any]
        self._ready: Any

    def time(self) -> float:
        return self.jumped_s

    def _run_once(self) -> None:
        if self._scheduled and not self._ready:
            heapq.heapify(self._scheduled)
            self.jumped_s = max(self.jumped_s, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]  # its base's, which has no types


@pytest.mark.anyio
async def test_now_is_the_loops_time() -> None:
    """On asyncio and on trio."""
    if on_asyncio():
        before = asyncio.get_running_loop().time()
        assert before <= now() <= asyncio.get_running_loop().time()
    else:
        import trio  # noqa: PLC0415 - only where it runs

        before = trio.current_time()
        assert before <= now() <= trio.current_time()


def test_a_timer_goes_by_the_loops_clock() -> None:
    """What is due tomorrow happens at once where the loop says that it is tomorrow."""
    expired: list[float] = []

    async def main() -> None:
        timer = Timer(lambda: None if expired else DAY_S, expired.append)
        task = asyncio.create_task(timer.run())
        await asyncio.sleep(2 * DAY_S)
        task.cancel()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())
    assert expired[0] == pytest.approx(DAY_S)


def test_every_call_can_give_a_turn() -> None:
    """Then a program does the same in every run, however fast the machine is."""

    async def main() -> list[str]:
        order: list[str] = []

        async def call(name: str) -> None:
            for _ in range(3):
                await give_turn()
                order.append(name)

        with every_call_gives_a_turn():
            async with asyncio.TaskGroup() as group:
                group.create_task(call("a"))
                group.create_task(call("b"))
        return order

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        assert runner.run(main()) == ["a", "b"] * 3
