"""Parts of a step on other tasks: begun with what is there for them, and ended by the first failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aioflow.cluster._parts_elsewhere import GIVEN_BYTES_MAX, PartsElsewhere
from aioflow.cluster._values import encode_value
from aioflow.errors import ConnectionLost
from aioflow.graph import Task
from aioflow.runtime import Waiter
from aioflow.transport import Frame

pytestmark = pytest.mark.anyio

THERE, FAR = Task("worker", 1), Task("worker", 2)


class _Call:
    """A request of a part."""

    def __init__(self) -> None:
        self.waiter: Waiter[Sequence[Frame]] = Waiter()

    def withdraw(self) -> None:
        """End it."""
        self.waiter.resolve(encode_value(["withdrawn"]))


class _Others:
    """What other tasks were asked to do."""

    def __init__(self) -> None:
        self.begun: dict[Task, dict[str, Frame]] = {}
        self.delivered: list[tuple[Task, str]] = []
        self.calls: dict[Task, Any] = {}
        self.parts = PartsElsewhere(self._deliver, expected=2)

    def add(self, task: Task) -> None:
        """Add a part."""
        self.parts.add(task, self._begin(task))

    async def _deliver(self, task: Task, step: str, key: str, frames: Sequence[Frame]) -> None:
        del step, frames
        self.delivered.append((task, key))

    def _begin(self, task: Task) -> Callable[[Mapping[str, Frame]], Any]:
        def begin(given: Mapping[str, Frame]) -> Any:
            self.begun[task] = dict(given)
            self.calls[task] = _Call()
            return self.calls[task]

        return begin


def two() -> _Others:
    """Return two other tasks."""
    others = _Others()
    others.add(THERE)
    others.add(FAR)
    return others


async def test_parts_begin_with_what_is_there_when_the_own_one_waits() -> None:
    """What comes later goes by itself, as does what is large; what another task needs is not waited for."""
    others = two()
    small, large = encode_value(1), encode_value(bytes(GIVEN_BYTES_MAX + 1))
    on = anyio.Event()

    async def own() -> str:
        await others.parts.deliver(THERE, "s", "a", small)
        await others.parts.deliver(THERE, "s", "large", large)
        assert others.begun == {}
        await on.wait()
        await others.parts.deliver(THERE, "s", "b", small)
        return "done"

    async def let_go_on() -> None:
        assert others.begun == {THERE: {"a": small[0]}, FAR: {}}
        on.set()

    async with anyio.create_task_group() as group:
        group.start_soon(let_go_on)
        assert await others.parts.run_beside(own()) == "done"
    assert others.delivered == [(THERE, "large"), (THERE, "b")]


async def test_parts_begin_when_they_have_all_values() -> None:
    """Also where there are none; the own part goes on."""
    others = two()

    async def own() -> None:
        await others.parts.deliver(THERE, "s", "a", encode_value(1))
        assert others.begun == {}
        await others.parts.deliver(FAR, "s", "b", encode_value(2))
        assert others.begun == {THERE: {"a": encode_value(1)[0]}, FAR: {"b": encode_value(2)[0]}}

    await others.parts.run_beside(own())
    others.parts = PartsElsewhere(others._deliver, expected=0)
    others.begun.clear()
    others.add(THERE)

    async def without_values() -> None:
        assert others.begun == {THERE: {}}

    await others.parts.run_beside(without_values())


async def test_parts_begin_when_the_own_one_has_ended() -> None:
    """It need not wait for anything; once is enough."""
    others = two()

    async def own() -> None:
        await others.parts.deliver(FAR, "s", "a", encode_value(1))

    await others.parts.run_beside(own())
    others.parts.begin()
    assert others.begun == {THERE: {}, FAR: {"a": encode_value(1)[0]}}
    others.calls[FAR].waiter.resolve(encode_value([1]))
    assert await others.parts.wait(FAR) == [1]


async def test_a_part_that_gives_turns_only_is_not_waited_for_long() -> None:
    """The others run beside it."""
    others = two()

    async def own() -> None:
        while not others.begun:
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        await others.parts.run_beside(own())
    assert set(others.begun) == {THERE, FAR}


async def test_nothing_begins_where_the_own_part_fails_at_once() -> None:
    """Its error is that of the step."""
    others = two()

    async def own() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await others.parts.run_beside(own())
    await others.parts.end()
    assert others.begun == {}


async def test_a_cancelled_own_part_is_cancelled_where_it_waits() -> None:
    """And parts that were begun are withdrawn."""
    others = two()
    ends: list[str] = []

    async def own() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ends.append("own")

    with anyio.move_on_after(0.01):
        await others.parts.run_beside(own())
    assert ends == ["own"]
    await others.parts.end()
    assert all(call.waiter.is_set for call in others.calls.values())


async def test_the_first_failure_ends_the_others() -> None:
    """Also where a part cannot begin: those behind it do not."""
    others = _Others()

    def refuse(_: Mapping[str, Frame]) -> Any:
        raise ConnectionLost("out of reach")

    others.parts.add(THERE, refuse)
    others.add(FAR)
    with others.parts.scope:
        await others.parts.run_beside(anyio.sleep_forever())
    assert (str(others.parts.error), others.begun) == ("out of reach", {})
    with pytest.raises(ConnectionLost, match="out of reach"):
        await others.parts.wait(FAR)


async def test_a_part_that_fails_cancels_the_scope() -> None:
    """While the master's own part runs."""
    others = two()
    with others.parts.scope:
        async with anyio.create_task_group() as group:

            async def own() -> None:
                await anyio.sleep_forever()

            group.start_soon(others.parts.run_beside, own())
            await anyio.wait_all_tasks_blocked()
            others.calls[THERE].waiter.fail(ConnectionLost("a"))
            others.calls[FAR].waiter.fail(ConnectionLost("b"))
    assert str(others.parts.error) == "a"
