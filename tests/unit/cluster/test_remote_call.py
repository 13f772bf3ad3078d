"""Calls of a session: when the rows of one are handed over without a look at the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow.cluster._remote_call import RemoteCall
from aioflow.errors import ConnectionLost
from aioflow.runtime import _cancellation, begin_turn, current_turn

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a turn last until the next one begins, however slow the machine is."""
    monkeypatch.setattr(_cancellation, "monotonic", lambda: 0.0)


class Host:
    """Notes what calls say."""

    def __init__(self, *, has_receipts: bool = True) -> None:
        self.has_receipts = has_receipts
        self.log: list[tuple[str, int]] = []

    def check(self) -> None:
        """Look at the session."""
        self.log.append(("check", 0))

    check_rows = check

    def acknowledge_late(self, call: RemoteCall, rows: int, *, is_all: bool) -> None:
        """Note it."""
        self.log.append(("all" if is_all else "some", rows))

    def acknowledge_quickly(self, request: int, rows: int) -> None:
        """Note it."""
        self.log.append(("quickly", rows))

    def withdraw(self, call: RemoteCall) -> None:
        """Take it."""


def _call(host: Any, rows: int) -> RemoteCall:
    call = RemoteCall(host, None, get=True)
    call.answer((np.arange(rows),))
    return call


def _read(columns: tuple[Any, ...]) -> list[Any]:
    return list(columns[0])


def _quick(call: RemoteCall, count: int = 1, turn: float | None = None) -> list[int] | None:
    begin = current_turn() if turn is None else turn
    taken = call.take_quickly(begin, count, None)
    column: Any = None if taken is None else taken[0]
    return None if column is None else column.tolist()


def test_rows_after_a_look_are_handed_over_quickly_but_for_the_last() -> None:
    """One look at the session is enough for a turn; the last rows are acknowledged as all."""
    host = Host()
    call = _call(host, 6)
    begin_turn()
    turn = current_turn()
    assert _quick(call, turn=turn) is None
    first: Any = call.take(2)[0]
    assert first.tolist() == [0, 1]
    host.log.clear()
    assert _quick(call, 2, turn) == [2, 3]
    assert call.take_quickly(turn, 1, _read) == 4
    assert _quick(call, turn=turn) is None
    assert host.log == [("quickly", 4), ("quickly", 5)]
    assert call.take_as(1, _read) == 5
    assert host.log[-1] == ("all", 6)


def test_rows_are_handed_over_as_values_that_are_made_once() -> None:
    """All batches of a request are cut at its first one, also where that was handed over as rows."""
    host = Host()
    call = _call(host, 8)
    made = []

    def read(columns: tuple[Any, ...]) -> list[list[int]]:
        made.append(columns)
        return [columns[0][start : start + 2].tolist() for start in range(0, len(columns[0]), 2)]

    begin_turn()
    turn = current_turn()
    call.take(2)
    assert call.take_as(2, read) == [2, 3]
    assert call.take_quickly(turn, 2, read) == [4, 5]
    assert call.take_quickly(turn, 2, read) is None
    assert call.take_as(2, read) == [6, 7]
    assert len(made) == 1
    assert host.log[-1] == ("all", 8)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda call: call.void(), id="void"),
        pytest.param(lambda call: call.withdraw(), id="withdraw"),
        pytest.param(lambda call: call.fail(ConnectionLost("gone")), id="fail"),
        pytest.param(lambda _: None, id="another turn"),
    ],
)
def test_nothing_is_handed_over_quickly_after_an_end(end: Callable[[RemoteCall], None]) -> None:
    """Rows are the server's again, or the session has to be looked at."""
    call = _call(Host(), 6)
    begin_turn()
    turn = current_turn()
    call.take(1)
    assert _quick(call, turn=turn) == [1]
    end(call)
    assert _quick(call, turn=turn if call.rows_left == 0 else turn + 1) is None


def test_without_receipts_each_row_is_acknowledged_by_itself() -> None:
    """What stands nowhere that the server finds is said at once."""
    call = _call(Host(has_receipts=False), 6)
    begin_turn()
    call.take(1)
    assert _quick(call) is None
