"""A run of a benchmark that fails or hangs: it is left out with a note, and the gate judges what is left."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from benchmarks import __main__ as command_line
from benchmarks import runner
from benchmarks.gate import Demand
from benchmarks.measurement import Failed, Measurement
from tests.integration.conftest import left_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Fail = Callable[[str, int, str], None]

RAN = Measurement(10, 10, 1, 1, 0.1)
FAILED = Failed("W4, round 1 of 3: ring: exit code 1")

# In place of Python in `python -m benchmarks.one_run SYSTEM ...`: does what the first file for the system says, once.
PROGRAM = f"""#!/bin/sh
for file in "$0.$3".*; do
    [ -e "$file" ] && mv "$file" "$0.now" && . "$0.now"
    break
done
echo '{json.dumps(vars(RAN))}'
"""
ENDS = "echo Traceback >&2; echo 'ValueError: on purpose' >&2; exit 3"
HANGS = "trap '' TERM; tail -f /dev/null & tail -f /dev/null"  # two processes, which SIGTERM does not end


class Gate(NamedTuple):
    """What came of a gate."""

    code: int
    output: str
    errors: str
    content: dict[str, Any]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fail:
    """Have the first so many runs of a system fail."""
    python = tmp_path / "python"
    python.write_text(PROGRAM)
    python.chmod(0o700)
    monkeypatch.setattr(runner, "python_of", lambda environment: str(python))

    def fail(system: str, times: int, how: str) -> None:
        for number in range(times):
            (tmp_path / f"python.{system}.{number}").write_text(how)

    return fail


@pytest.fixture
def gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], Gate]:
    """Compare aioflow with the ring, in three rounds."""

    def gate() -> Gate:
        file = tmp_path / "figures.json"
        code = command_line.main(["gate", "--workload", "W4", "--rounds", "3", "--json", str(file)])
        output, errors = capsys.readouterr()
        return Gate(code, output, errors, json.loads(file.read_text()))

    return gate


def test_a_peer_that_ended_once_is_left_out_once(fail: Fail, gate: Callable[[], Gate]) -> None:
    """The note is in the table and in the JSON, all that it wrote beside; the other rounds are compared."""
    fail("ring", 1, ENDS)
    ran = gate()
    note = "W4, round 1 of 3: ring: exit code 3: ValueError: on purpose"
    assert ran.code == 0
    assert f"left out: {note}\n" in ran.output
    assert "met         W4: aioflow at least 0.8 x ring: 1.00 x" in ran.output
    assert "Traceback\nValueError" in ran.errors
    assert ran.content["failed"] == [note]
    systems = ran.content["workloads"]["W4"]["systems"]
    assert systems["ring"]["runs"] == [None, vars(RAN), vars(RAN)]
    assert len(systems["aioflow"]["runs"]) == 3
    assert systems["aioflow"]["ratio_to"]["ring"]["median"] == 1


def test_a_peer_that_hung_once_is_left_out_once(
    monkeypatch: pytest.MonkeyPatch, fail: Fail, gate: Callable[[], Gate]
) -> None:
    """None of its processes is left, though they do not end when they are told to."""
    monkeypatch.setattr(runner, "RUN_S", 1.0)
    monkeypatch.setattr(runner, "GRACE_S", 0.1)
    fail("ring", 1, HANGS)
    ran = gate()
    assert ran.code == 0
    assert ran.content["failed"] == ["W4, round 1 of 3: ring: timed out after 1 s"]
    (group,) = re.findall(r"round 1 of 3: ring, process group (\d+)", ran.errors)
    assert left_in(int(group)) == []


@pytest.mark.parametrize("times", [2, 3])
def test_a_peer_that_failed_too_often_is_not_measured(fail: Fail, gate: Callable[[], Gate], times: int) -> None:
    """With less than half of the rounds the demand is not met; what was measured is printed."""
    fail("ring", times, ENDS)
    ran = gate()
    assert ran.code == 1
    says = f"ring not measured: good in {3 - times} of 3 rounds"
    assert f"FALLS SHORT W4: aioflow at least 0.8 x ring: {says}\n" in ran.output
    assert len(ran.content["failed"]) == times
    assert list(ran.content["workloads"]["W4"]["systems"]) == ["aioflow", "ring"][: 4 - times]
    assert "| aioflow " in ran.output


@pytest.mark.parametrize("times", [1, 3])
def test_aioflow_may_not_fail(fail: Fail, gate: Callable[[], Gate], times: int) -> None:
    """Not once, however fast the other rounds were; they are printed, and the run is named at the end."""
    fail("aioflow", times, ENDS)
    ran = gate()
    assert ran.code == 1
    assert ran.output.endswith(f"FAILED      W4, round {times} of 3: aioflow: exit code 3: ValueError: on purpose\n")
    assert ("met         W4: aioflow" in ran.output) is (times == 1)
    assert "| ring " in ran.output


def test_a_gate_of_which_nothing_ran_has_its_notes(fail: Fail, gate: Callable[[], Gate]) -> None:
    """There is no table, and the exit code is 1."""
    for system in ("aioflow", "ring"):
        fail(system, 3, ENDS)
    ran = gate()
    assert ran.code == 1
    assert len(ran.content["failed"]) == 6
    assert ran.content["workloads"] == {}


def test_run_prints_the_rest(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says that a run failed, whosever it was."""
    fail("ring", 1, ENDS)
    assert command_line.main(["run", "--workload", "W4", "--system", "ring", "--rounds", "2"]) == 1
    output = capsys.readouterr().out
    assert "left out: W4, round 1 of 2: ring: exit code 3" in output
    assert "| ring " in output


def test_a_run_that_wrote_nothing_has_a_note_too(fail: Fail) -> None:
    """As one that the system has killed."""
    fail("ring", 1, "kill -KILL $$")
    says = "W4, round 1 of 1: ring: exit code -9: it wrote nothing"
    assert runner.measure({"W4": ["ring"]}, rounds=1, small=False) == {"W4": {"ring": [Failed(says)]}}


def test_a_ratio_needs_half_of_the_rounds() -> None:
    """Only those count in which both ran; of processor time, those of the one."""
    demand = Demand("W4", "aioflow", "ring", at_least=0.8)
    slow = Measurement(10, 10, 2, 1, 0.1)
    assert demand.judge({"W4": {"aioflow": [slow, RAN], "ring": [FAILED, RAN]}}) == (True, "1.00 x")
    short = (False, "ring not measured: good in 1 of 3 rounds")
    assert demand.judge({"W4": {"aioflow": [RAN] * 3, "ring": [FAILED, RAN, FAILED]}}) == short
    apart = (False, "aioflow and ring not measured: good in 0 of 2 rounds")
    assert demand.judge({"W4": {"aioflow": [RAN, FAILED], "ring": [FAILED, RAN]}}) == apart
    cpu = Demand("W4", "aioflow", cpu_at_most=1000)
    assert cpu.judge({"W4": {"aioflow": [FAILED, RAN]}})[0] is True
    short = (False, "aioflow not measured: good in 0 of 1 rounds")
    assert cpu.judge({"W4": {"aioflow": [FAILED]}}) == short
