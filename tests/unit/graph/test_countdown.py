"""Dependency counting by itself."""

from __future__ import annotations

from aioflow.graph import Countdown


def test_a_diamond() -> None:
    """A node is ready when all before it have finished, and is named once."""
    countdown = Countdown([0, 1, 1, 2], [[1, 2], [3], [3], []])
    assert countdown.ready() == [0]
    assert countdown.finish(0) == [1, 2]
    assert (countdown.finish(2), countdown.finish(1), countdown.left) == ([], [3], 1)
    assert (countdown.finish(3), countdown.left) == ([], 0)


def test_the_counts_of_a_plan_are_not_changed() -> None:
    """Many steps share one plan."""
    pending, successors = [0, 1], [[1], []]
    for _ in range(2):
        countdown = Countdown(pending, successors)
        assert countdown.ready() == [0]
        assert countdown.finish(0) == [1]
    assert (pending, successors) == ([0, 1], [[1], []])


def test_release_counts_without_an_end() -> None:
    """What was launched lets others begin; it is finished later, by itself."""
    countdown = Countdown([0, 2, 0], [[], [], [1]])
    assert countdown.release([1]) == []
    assert (countdown.left, countdown.finish(2)) == (3, [1])
    assert countdown.left == 2
