"""Calls that are asked for many times in one turn and made once."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from aioflow.runtime import Soon

pytestmark = pytest.mark.anyio


async def test_what_is_asked_for_many_times_is_called_once_a_turn() -> None:
    """It runs after those who ask, once, and can be asked for again."""
    calls: list[int] = []
    errors: list[BaseException] = []
    soon = Soon(lambda: calls.append(len(calls)), errors.append)
    for turn in range(3):
        for _ in range(5):
            soon()
        assert len(calls) == turn
        with anyio.fail_after(5):
            while len(calls) == turn:
                await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()
    assert (calls, errors) == ([0, 1, 2], [])


async def test_who_made_it_is_told_of_a_failure_and_it_goes_on() -> None:
    """No event loop ends, and none has to report it."""
    errors: list[BaseException] = []

    def fail() -> None:
        raise ZeroDivisionError

    soon = Soon(fail, errors.append)
    with anyio.fail_after(5):
        for count in (1, 2):
            soon()
            while len(errors) < count:
                await anyio.lowlevel.checkpoint()
    assert [type(error) for error in errors] == [ZeroDivisionError] * 2
