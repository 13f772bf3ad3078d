"""When a step of an iterator gives other tasks a turn."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aioflow.runtime._turns import every_call_gives_a_turn

pytestmark = pytest.mark.anyio

TEST_S = 5.0


@pytest.fixture
def log(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the host is asked, with the turns that steps give."""

    async def give_turn() -> None:
        fake_queue.host.log.append("turn")
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("aioflow.client._batches.give_turn", give_turn)
    log: list[str] = fake_queue.host.log
    return log


async def test_a_step_that_waits_gives_a_turn_by_that(fake_queue: Any, log: list[str]) -> None:
    """What was asked for last goes in one message with the promotion: a turn in between would send it alone."""

    async def answer() -> None:
        with anyio.fail_after(TEST_S):
            while log[-1] != "promote ask 2":
                await anyio.lowlevel.checkpoint()
        fake_queue.host.calls[1].answer(3)

    batches = fake_queue.batches(1, prefetch=2)
    with every_call_gives_a_turn():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, batches)
            await anyio.wait_all_tasks_blocked()
            fake_queue.host.calls[0].answer(1, 2)
        assert (await anext(batches)).tolist() == [2]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            assert (await anext(batches)).tolist() == [3]
    steps = ["turn", "ask 1", "ask 2", "promote ask 1", "take [1] of ask 1"]
    steps += ["turn", "take [2] of ask 1", "ask 3", "promote ask 2", "take [3] of ask 2", "ask 4"]
    assert log == steps
