"""The benchmarks run, count what arrives, judge, and leave nothing behind; how fast they are is not for a test."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks import runner
from benchmarks.elements import Elements
from benchmarks.gate import DEMANDS, judge
from benchmarks.measurement import Measurement
from benchmarks.meter import Meter, WrongElements
from benchmarks.runner import RunFailed, measure, missing
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable

    RunProgram = Callable[..., Any]

pytestmark = pytest.mark.timeout(60)

INTERRUPTED_S = 5.0  # within which everything has ended after a Ctrl-C
SYSTEMS = ["aioflow", "multiprocessing.Queue"]  # those that need nothing that the tests have not


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be where `python -m benchmarks` is found."""
    monkeypatch.chdir(runner.ROOT)


def _running(group: int) -> list[int]:
    """Return the processes of a group that have not ended."""
    pids: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state != "Z":
            pids.append(int(path.parent.name))
    return pids


def _semaphores() -> set[Path]:
    return set(Path("/dev/shm").glob("sem.mp-*"))


def test_each_workload_runs_once(run_program: RunProgram, tmp_path: Path) -> None:
    """Every element arrives in every system, each has its figures and its ratios, and no process is left."""
    file = tmp_path / "figures.json"
    chosen = [word for system in SYSTEMS for word in ("--system", system)]
    program = run_program("-m", "benchmarks", "run", "--small", "--rounds", "1", "--json", str(file), *chosen)
    assert program.finish() == 0, program.output
    content = json.loads(file.read_text())
    assert list(content["workloads"]) == list(WORKLOADS)
    for name, workload in content["workloads"].items():
        assert f"{name}: " in program.output
        assert list(workload["systems"]) == SYSTEMS
        for figures in workload["systems"].values():
            (run,) = figures["runs"]
            assert run["arrived"] == workload["sent"] == WORKLOADS[name].small().total
            assert run["elements"] >= workload["measured"] > 0
            assert run["seconds"] > 0
            assert figures["cpu_s_per_gb"] > 0
            assert figures["cores_taken_by_others"] >= 0
            assert figures["elements_per_s"]["median"] == pytest.approx(run["elements"] / run["seconds"])
            assert figures["gb_per_s"] == pytest.approx(
                run["elements"] * workload["element_bytes"] / run["seconds"] / 1e9
            )
        there, back = (workload["systems"][a]["ratio_to"][b]["median"] for a, b in (SYSTEMS, SYSTEMS[::-1]))
        assert there * back == pytest.approx(1)
    assert content["environment"]["packages"]["numpy"] == np.__version__
    groups = [int(number) for number in re.findall(r"process group (\d+)", program.output)]
    assert len(groups) == len(WORKLOADS) * len(SYSTEMS)
    assert [_running(group) for group in groups] == [[]] * len(groups)


def test_commands_need_nothing_installed(run_program: RunProgram) -> None:
    """Else `setup`, which installs what is needed, could not be started."""
    program = run_program("-S", "-m", "benchmarks", "--help")
    assert program.finish() == 0, program.output


# A consumer, a producer, the keeper of multiprocessing's semaphores; and a server.
@pytest.mark.parametrize(("system", "processes"), [("aioflow", 4), ("multiprocessing.Queue", 3)])
def test_ctrl_c_ends_every_process(
    run_program: RunProgram,
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    processes: int,
) -> None:
    """The exit code is 130, soon, without a traceback; no process, file or semaphore of the run is left."""
    file = tmp_path / "figures.json"
    before = _semaphores()
    monkeypatch.setenv("TMPDIR", str(folder))  # which is to be empty at the end
    program = run_program("-m", "benchmarks", "run", "--workload", "W2", "--system", system, "--json", str(file))
    group = int(program.read_until("process group").rpartition(" ")[2])
    started = monotonic()
    while len(_running(group)) < processes:
        assert monotonic() - started < INTERRUPTED_S
    code, seconds = program.end_by(signal.SIGINT)
    assert code == 130, program.output
    assert seconds < INTERRUPTED_S
    assert "Traceback" not in program.output
    assert _running(group) == []
    assert _semaphores() <= before
    assert not file.exists()


def test_a_run_that_takes_too_long_is_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fails the comparison, and its processes have ended."""
    monkeypatch.setattr(runner, "RUN_S", 0.5)
    began = monotonic()
    with pytest.raises(RunFailed, match=r"W1s, round 1 of 2: aioflow: did not end within 0\.5 s"):
        measure({"W1s": ["aioflow"]}, rounds=2, small=False)
    assert monotonic() - began < INTERRUPTED_S
    assert _running(int(capsys.readouterr().err.rpartition(" ")[2])) == []


def test_a_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What its processes wrote is in the error; here the module of the system cannot be imported."""
    _break("torch", monkeypatch, tmp_path)
    with pytest.raises(RunFailed, match=r"(?s)DataLoader: exit code 1.*ImportError: broken on purpose"):
        measure({"W2": ["DataLoader"]}, rounds=1, small=True)


def test_what_cannot_be_imported_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a note that says why; where nothing is left, that is an error."""
    _break("torch", monkeypatch, tmp_path)
    assert missing(["multiprocessing.Queue", "DataLoader"]) == {"DataLoader": "ImportError: broken on purpose"}
    assert command_line.main(["run", "--small", "--system", "DataLoader"]) == 1
    errors = capsys.readouterr().err
    assert "left out: DataLoader: ImportError: broken on purpose\n" in errors
    assert "nothing was measured" in errors


def _break(module: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / f"{module}.py").write_text("raise ImportError('broken on purpose')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")


# The gate


def _measured(ratio: float) -> runner.Results:
    """Make up what was measured: aioflow at a multiple of what is demanded of it."""
    return {
        demand.workload: {
            "aioflow": [Measurement(10, 10, 1 / (demand.at_least * ratio), 1, 0)],
            demand.peer: [Measurement(10, 10, 1, 1, 0)],
        }
        for demand in DEMANDS
    }


@pytest.mark.parametrize(("ratio", "code"), [(1.01, 0), (0.99, 1)])
def test_gate_compares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ratio: float, code: int
) -> None:
    """The exit code says whether all is fast enough, and each demand has its line."""
    monkeypatch.setattr(command_line, "missing", lambda systems: {})
    monkeypatch.setattr(command_line, "measure", lambda plan, **options: _measured(ratio))
    assert command_line.main(["gate"]) == code
    lines = capsys.readouterr().out.splitlines()[-len(DEMANDS) :]
    word = "FALLS SHORT" if code else "met"
    assert lines[0] == f"{word:<11} W1s: at least 2 x multiprocessing.Queue: {2 * ratio:#.3g} x"
    assert all(line.startswith(word) for line in lines)


def test_gate_fails_without_a_peer() -> None:
    """What was not measured is not met."""
    results = _measured(2)
    del results["W2"]["DataLoader"]
    met, short = judge(results)
    assert len(met) == 2
    assert short == ["W2: at least 0.8 x DataLoader: not measured"]


# The meter


def test_meter_refuses_what_was_not_sent() -> None:
    """A payload at another's place, an element that is missing, and one that came twice."""
    workload = WORKLOADS["W1s"].small()
    elements = Elements(workload)
    meter = Meter(workload)
    with pytest.raises(WrongElements, match="payload of element 0"):
        meter.element(elements[1][0], elements[0][1])
    for change in (-1, 1):
        meter = Meter(workload)
        for number in range(workload.total - 1):
            meter.element(*elements[number])
        meter.element(elements[workload.total - 1][0], np.int64(workload.total - 1 + change))
        with pytest.raises(WrongElements, match="elements arrived"):
            meter.result()


def test_the_graph_benchmark_runs(run_program: RunProgram) -> None:
    """It measures everything, and says of each demand whether it is met."""
    program = run_program("-m", "benchmarks", "graph", "--small", "--rounds", "1")
    assert program.finish() == 0, program.output
    assert len(re.findall(r"^(?:met|FALLS SHORT) ", program.output, re.MULTILINE)) >= 7
    assert "chain of 200, x bare tasks" in program.output


def test_the_cluster_benchmark_runs(run_program: RunProgram) -> None:
    """So does that of steps over two tasks."""
    program = run_program("-m", "benchmarks", "cluster", "--small", "--rounds", "1")
    assert program.finish() == 0, program.output
    assert len(re.findall(r"^(?:met|FALLS SHORT) ", program.output, re.MULTILINE)) == 2
    assert "a step over two tasks" in program.output
