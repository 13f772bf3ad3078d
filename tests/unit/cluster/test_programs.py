"""Programs beside a cluster: how they are described, and what each gets."""

from __future__ import annotations

from typing import Any

import pytest

from aioflow.cluster import ClusterSpec
from aioflow.cluster._programs import Program, parse_programs
from aioflow.errors import PlacementError

CLUSTER = ClusterSpec({"none": [], "ps": {2: "a:1", 1: "b:1"}, "worker": ["c:1"]})


def test_forms() -> None:
    """A list of arguments, or a table; the target by default is the first task of the first job that has any."""
    programs = {
        "loader": ["python", "loader.py"],
        "trainer": {"command": ("sh", "-c", "x"), "count": 2, "target": "/job:worker/task:0", "env": {"A": "1"}},
    }
    assert parse_programs(programs, CLUSTER) == [
        Program("loader", ("python", "loader.py"), ("ps", 1)),
        Program("trainer", ("sh", "-c", "x"), ("worker", 0), 2, {"A": "1"}),
    ]


def test_copies_and_their_environment() -> None:
    """Several have a number in their names; what the user gives wins."""
    one, two, none = (Program("p", ("x",), ("ps", 1), count, {"AIOFLOW_INDEX": "9"}) for count in (1, 2, 0))
    assert list(one.copies()) == [(0, "p")]
    assert list(two.copies()) == [(0, "p:0"), (1, "p:1")]
    assert list(none.copies()) == []
    assert one.environment(0, "tcp://a:1") == {"AIOFLOW_TARGET": "tcp://a:1", "AIOFLOW_INDEX": "9"}
    assert Program("p", ("x",), ("ps", 1)).environment(3, "tcp://a:1")["AIOFLOW_INDEX"] == "3"


@pytest.mark.parametrize(
    ("programs", "text"),
    [
        (5, "programs are a dict of name to command, got 5"),
        ({"my loader": ["x"]}, "program 'my loader': expected a name of letters"),
        ({5: ["x"]}, "program 5: expected a name"),
        ({"p": "python p.py"}, r"program 'p': expected a command as a list of strings, .*, got 'python p.py'"),
        ({"p": []}, "expected a command"),
        ({"p": ["x", 5]}, "expected a command"),
        ({"p": {"count": 2}}, "expected a command .* got None"),
        ({"p": {"command": ["x"], "cuont": 2}}, "program 'p' has 'cuont'; expected no more than command, count"),
        ({"p": {"command": ["x"], "count": -1}}, "expected a count of at least 0, got -1"),
        ({"p": {"command": ["x"], "count": True}}, "expected a count"),
        ({"p": {"command": ["x"], "env": {"A": 1}}}, "expected env as a dict of strings"),
        ({"p": {"command": ["x"], "env": ["A"]}}, "expected env as a dict of strings"),
        (
            {"p": {"command": ["x"], "target": "/job:ps/task:0"}},
            "program 'p': the cluster has no /job:ps/task:0; it has",
        ),
        ({"p": {"command": ["x"], "target": "/job:ps"}}, "program 'p': '/job:ps' names no task"),
        ({"p": {"command": ["x"], "target": "ipc:///a"}}, "program 'p': 'ipc:///a' is no device name"),
        ({"p": {"command": ["x"], "target": 5}}, "program 'p': 5 is no device name"),
    ],
)
def test_what_is_no_program(programs: Any, text: str) -> None:
    """The message names the program, what was expected and what came."""
    with pytest.raises(PlacementError, match=text):
        parse_programs(programs, CLUSTER)


def test_a_program_of_no_cluster() -> None:
    """It would have no target."""
    with pytest.raises(PlacementError, match="the cluster has no tasks"):
        parse_programs({"p": ["x"]}, ClusterSpec({}))
