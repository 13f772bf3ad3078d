"""What a supervisor decides: what to start, whether and when to start it again, how to end it."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from aioflow.cluster import ClusterSpec
from aioflow.cluster._programs import parse_programs
from aioflow.cluster._supervision import (
    ENDING,
    Done,
    GiveUp,
    History,
    Restart,
    Start,
    after_exit,
    describe_exit,
    program_starts,
    server_starts,
)
from aioflow.errors import ConnectFailed, PlacementError


def test_servers() -> None:
    """One for each task, in order; devices are set before the start, by the numbers that tools show."""
    cluster = ClusterSpec({"ps": {1: "ipc:///b"}, "worker": ["a:1"]})
    ps, worker = server_starts(cluster, {("worker", 0): "2"}, ["pipeline", "more"], "/py")
    serve = ("/py", "-m", "aioflow", "serve", "--cluster", "-")
    ops = ("--ops", "pipeline", "--ops", "more")
    assert ps == Start("/job:ps/task:1", (*serve, "--job", "ps", "--task", "1", *ops), {}, "ipc:///b", is_server=True)
    cards = {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert worker == Start(
        "/job:worker/task:0", (*serve, "--job", "worker", "--task", "0", *ops), cards, "tcp://a:1", is_server=True
    )


@pytest.mark.parametrize(
    ("jobs", "error", "text"),
    [
        ({}, PlacementError, "the cluster has no tasks"),
        ({"ps": []}, PlacementError, "the cluster has no tasks"),
        ({"ps": ["127.0.0.1:0"]}, PlacementError, "/job:ps/task:0: tcp://127.0.0.1:0 leaves the port open"),
        ({"ps": ["inproc://a"]}, ConnectFailed, "/job:ps/task:0: inproc://a reaches no other process"),
    ],
)
def test_clusters_that_cannot_be_started(jobs: Any, error: type[Exception], text: str) -> None:
    """Said before anything is."""
    with pytest.raises(error, match=text):
        server_starts(ClusterSpec(jobs), {}, [], "python")


def test_programs() -> None:
    """Each copy gets its number and the address of its target; `python` is the supervisor's own."""
    cluster = ClusterSpec({"ps": ["ipc:///p"], "worker": ["ipc:///w"]})
    programs = parse_programs(
        {"a": ["python", "a.py"], "b": {"command": ["sh", "python"], "count": 2, "target": "/job:worker/task:0"}},
        cluster,
    )
    assert program_starts(programs, cluster, "/py") == [
        Start("a", ("/py", "a.py"), {"AIOFLOW_TARGET": "ipc:///p", "AIOFLOW_INDEX": "0"}, "ipc:///p"),
        Start("b:0", ("sh", "python"), {"AIOFLOW_TARGET": "ipc:///w", "AIOFLOW_INDEX": "0"}, "ipc:///w"),
        Start("b:1", ("sh", "python"), {"AIOFLOW_TARGET": "ipc:///w", "AIOFLOW_INDEX": "1"}, "ipc:///w"),
    ]


def test_a_program_is_done_when_it_returns_0_and_a_server_never() -> None:
    """Somebody ended the server; it is missed."""
    assert after_exit(History(0.0), 0, 100.0, is_server=False) == Done()
    assert after_exit(History(0.0), 0, 100.0, is_server=True) == Restart(History(100.1, 1))


@pytest.mark.parametrize("is_server", [False, True])
@pytest.mark.parametrize("code", [1, -9])
def test_quick_ends_are_answered_later_each_time_and_then_no_more(code: int, is_server: bool) -> None:
    """0.1 s, twice as long each time, and an end after the fifth in a row."""
    history, now, delays = History(0.0), 0.0, list[float]()
    while isinstance(decision := after_exit(history, code, now + 1.0, is_server=is_server), Restart):
        delays.append(round(decision.history.started - now - 1.0, 6))
        history, now = decision.history, decision.history.started
    assert delays == [0.1, 0.2, 0.4, 0.8]
    assert history.restarts == 4
    assert decision == GiveUp(f"ended 5 times in a row within 5 s of its start, at last {describe_exit(code)}")


def test_a_process_that_ran_for_a_while_has_a_clean_slate() -> None:
    """Only quick ends in a row count."""
    assert after_exit(History(0.0, 7, 4), 1, 5.0, is_server=True) == Restart(History(5.1, 8, 0))
    assert isinstance(after_exit(History(0.0, 7, 4), 1, 4.9, is_server=True), GiveUp)


def test_exits_in_words() -> None:
    """An exit code, or the name of a signal."""
    words = [describe_exit(code) for code in (0, 3, -9, -40)]
    assert words == ["with exit code 0", "with exit code 3", "by SIGKILL", "by signal 40"]


def test_all_is_over_within_five_seconds() -> None:
    """Programs first; each kind ends with SIGKILL."""
    assert list(ENDING) == [False, True]
    assert [steps[-1][0] for steps in ENDING.values()] == [signal.SIGKILL, signal.SIGKILL]
    assert sum(grace_s for steps in ENDING.values() for _, grace_s in steps) < 4.5
