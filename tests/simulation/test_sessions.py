"""Sessions of the real machines under many seeds: what is promised holds, and three planted bugs are found.

2,000 seeds of 1,000 steps in every run, 100,000 with

    HYPOTHESIS_PROFILE=nightly python -m pytest tests/simulation/test_sessions.py
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from aioflow.cluster import _messages as m
from aioflow.cluster._broker import Broker
from aioflow.cluster._peer import Peer
from aioflow.queues._order import FifoOrder
from aioflow.testing import check_sessions
from aioflow.testing._check_sessions import live

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.queues import Rows

SEEDS = 100_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 1_200
SEEDS_EACH = 100
# Within how many seeds a planted bug is to be found.
FOUND_WITHIN = 2_000


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_EACH))
def test_histories(first: int) -> None:
    """Nothing is lost or doubled, every call ends or waits rightly, and nothing is kept of who has gone."""
    for seed in range(first, first + SEEDS_EACH):
        check_sessions(seed)


def test_a_seed_decides_everything() -> None:
    """The same seed gives the same trace, another one another; and everything that can happen does."""
    first, again, *others = [live(seed).render() for seed in (0, *range(16))]
    assert first == again
    assert first not in others
    text = "".join(others)
    kinds = "Put Get Ask Promote Acknowledge Withdraw Close Delete Join Leave Bye Resume Confirm Rows Recall Goodbye"
    for kind in kinds.split():
        assert f": {kind}(" in text, kind
    for what in ("crashed", "stopped", "partitioned", "the connection is lost", "hands over", "raises QueueReset"):
        assert what in text, what


# Planted bugs


def _put_back_at_the_end(self: FifoOrder, rows: Rows) -> None:
    """Restore at the wrong end of the queue."""
    for part in rows.parts:
        index: Any = part.index
        numbers: Any = part.numbers
        self._runs.append((numbers, part.segment, index.start, index.stop))
    self._count += rows.count


def _forget_puts(known: Callable[..., bool]) -> Callable[..., bool]:
    """Do a put that is sent again once more."""

    def is_known(self: Broker, session: Any, request: int, kind: type[Any]) -> bool:
        if kind is m.Put and request in session.answers:
            return False
        return known(self, session, request, kind)

    return is_known


def _forget_gets(send_again: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """Do not ask again for what a get was waiting for when the connection was lost."""

    def forget(self: Peer) -> None:
        gets = [request for request in self._requests.values() if request.kind is m.Get and not request.is_delivered]
        for request in gets:
            request.is_held = True
        send_again(self)
        for request in gets:
            request.is_held = False

    return forget


@pytest.mark.parametrize(
    ("where", "name", "plant"),
    [
        (FifoOrder, "put_back", lambda _: _put_back_at_the_end),
        (Broker, "_is_known", _forget_puts),
        (Peer, "_send_again", _forget_gets),
    ],
    ids=["a restore at the wrong end", "a retry that doubles", "a forgotten waiter"],
)
def test_a_planted_bug_is_found(where: Any, name: str, plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 2,000 seeds, with its seed, the few actions and faults that it takes, and their trace."""
    monkeypatch.setattr(where, name, plant(getattr(where, name)))
    for seed in range(FOUND_WITHIN):
        try:
            check_sessions(seed)
        except AssertionError as error:
            [note] = error.__notes__
            print(f"found with seed {seed}: {error}\n{note}")  # pytest -s shows it
            assert note.startswith(f"simulated with seed={seed}\nneeds ")
            return
    pytest.fail(f"not found within {FOUND_WITHIN} seeds")
