"""The benchmarks run, count what arrives, judge, and leave nothing behind; how fast they are is not for a test."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks import runner
from benchmarks.elements import Elements, stack
from benchmarks.environment import ROOT
from benchmarks.gate import FRAMES, MEMORY, Demand, judge, plan
from benchmarks.measurement import Failed, Measurement
from benchmarks.meter import Meter, WrongElements
from benchmarks.picture import picture
from benchmarks.report import report, table
from benchmarks.runner import measure, missing
from benchmarks.systems import SYSTEMS as ALL_SYSTEMS
from benchmarks.workloads import WORKLOADS
from tests.integration.conftest import left_in, running_in

if TYPE_CHECKING:
    from collections.abc import Callable

    RunProgram = Callable[..., Any]

pytestmark = pytest.mark.timeout(60)

INTERRUPTED_S = 5.0  # within which everything has ended after a Ctrl-C
SYSTEMS = ["ring", "multiprocessing.Queue"]  # those that start soonest

# Each workload, by aioflow once, and each other system that the tests have, where it has something of its own to do.
EACH = {
    "W1s": ["aioflow-frames"],
    "W1b": ["aioflow", "ring"],
    "W2": ["aioflow-tcp"],
    "W2-shuffle": ["aioflow"],
    "W2-copy": ["aioflow"],
    "W2-two": ["aioflow", "ring"],
    "W3": ["aioflow", "multiprocessing.Queue-chunks"],
    "W4": ["ZeroMQ"],
    "W5": ["aioflow", "multiprocessing.Queue"],
}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be where `python -m benchmarks` is found."""
    monkeypatch.chdir(ROOT)


def _semaphores() -> set[Path]:
    return set(Path("/dev/shm").glob("sem.mp-*"))


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_workload_runs_once(name: str) -> None:
    """Every element arrives, in every system that needs nothing that the tests have not and each of its ways."""
    workload = WORKLOADS[name].small()
    for (run,) in measure({name: EACH[name]}, rounds=1, small=True)[name].values():
        assert isinstance(run, Measurement)
        assert run.arrived == workload.total
        assert run.elements >= workload.measured > 0
        assert run.seconds > 0
        assert (run.p99_us >= run.p50_us > 0) is workload.there_and_back


def test_a_run_gives_figures(run_program: RunProgram, tmp_path: Path) -> None:
    """Each system has its figures and its ratios, as JSON and as a picture, and no process is left."""
    file, drawing = tmp_path / "figures.json", tmp_path / "figures.svg"
    chosen = [word for system in SYSTEMS for word in ("--system", system)]
    files = ["--json", str(file), "--svg", str(drawing)]
    program = run_program("-m", "benchmarks", "run", "--small", "--rounds", "1", "--workload", "W1b", *files, *chosen)
    assert program.finish() == 0, program.output
    content = json.loads(file.read_text())
    (workload,) = content["workloads"].values()
    assert "W1b: " in program.output
    assert list(workload["systems"]) == SYSTEMS
    for figures in workload["systems"].values():
        (run,) = figures["runs"]
        assert run["arrived"] == workload["sent"] == WORKLOADS["W1b"].small().total
        assert run["elements"] >= workload["measured"] > 0
        assert figures["cpu_s_per_gb"] > 0
        assert figures["cores_taken_by_others"] >= 0
        assert figures["elements_per_s"]["median"] == pytest.approx(run["elements"] / run["seconds"])
        assert figures["gb_per_s"] == pytest.approx(run["elements"] * workload["element_bytes"] / run["seconds"] / 1e9)
    there, back = (workload["systems"][a]["ratio_to"][b]["median"] for a, b in (SYSTEMS, SYSTEMS[::-1]))
    assert there * back == pytest.approx(1)
    assert content["environment"]["packages"]["numpy"] == np.__version__
    assert len(ET.fromstring(drawing.read_text()).findall("{*}rect")) == len(SYSTEMS)
    groups = [int(number) for number in re.findall(r"process group (\d+)", program.output)]
    assert len(groups) == len(SYSTEMS)
    assert [left_in(group) for group in groups] == [[]] * len(groups)


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
    while len(running_in(group)) < processes:
        assert monotonic() - started < INTERRUPTED_S
    code, seconds = program.end_by(signal.SIGINT)
    assert code == 130, program.output
    assert seconds < INTERRUPTED_S
    assert "Traceback" not in program.output
    assert left_in(group) == []
    assert _semaphores() <= before
    assert not file.exists()


def test_a_run_that_takes_too_long_is_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is left out, and its processes have ended."""
    monkeypatch.setattr(runner, "RUN_S", 0.5)
    began = monotonic()
    says = "W1s, round 1 of 1: aioflow: timed out after 0.5 s"
    assert measure({"W1s": ["aioflow"]}, rounds=1, small=False) == {"W1s": {"aioflow": [Failed(says)]}}
    assert monotonic() - began < INTERRUPTED_S
    (group,) = re.findall(r"process group (\d+)", capsys.readouterr().err)
    assert left_in(int(group)) == []


def test_a_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last line that its processes wrote is in the note; here the module of the system cannot be imported."""
    _break("torch", monkeypatch, tmp_path)
    says = "W2, round 1 of 1: DataLoader: exit code 1: ImportError: broken on purpose"
    assert measure({"W2": ["DataLoader"]}, rounds=1, small=True) == {"W2": {"DataLoader": [Failed(says)]}}


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


PEER = Measurement(10, 10, 1, 1, 0)
SLOW = Measurement(10, 10, 1, 1, 0, 100, 200)


def _beside(peer: Measurement, ours: Measurement) -> runner.Results:
    return {"W5" if peer.p50_us else "W2": {"aioflow": [ours], "ring": [peer]}}


def test_a_rate_is_a_multiple_of_a_peers() -> None:
    """At least so much; or, where the demand has one, a rate of its own that is enough."""
    demand = Demand("W2", "aioflow", "ring", at_least=2)
    assert demand.judge(_beside(PEER, Measurement(10, 10, 0.49, 1, 0))) == (True, "2.04 x")
    assert demand.judge(_beside(PEER, Measurement(10, 10, 0.51, 1, 0))) == (False, "1.96 x")
    either = Demand("W2", "aioflow", "ring", at_least=2, or_gb_per_s=1.1)
    elements = round(1.2e9 / WORKLOADS["W2"].element_bytes)
    fast: runner.Results = {
        "W2": {"aioflow": [Measurement(1, elements, 1, 1, 0)], "ring": [Measurement(1, elements, 1, 1, 0)]}
    }
    assert either.judge(fast) == (True, "1.00 x, 1.20 GB/s")
    assert str(either) == "W2: aioflow at least 2 x ring, or 1.1 GB/s"


def test_a_latency_and_processor_time_are_bounded_from_above() -> None:
    """The one by a multiple of a peer's, the other by itself."""
    demand = Demand("W5", "aioflow", "ring", p50_at_most=1.1)
    assert demand.judge(_beside(SLOW, Measurement(10, 10, 1, 1, 0, 109, 900))) == (True, "1.09 x")
    assert demand.judge(_beside(SLOW, Measurement(10, 10, 1, 1, 0, 111, 111))) == (False, "1.11 x")
    assert str(demand) == "W5: aioflow at most 1.1 x the p50 of ring"
    cpu = Demand("W2", "aioflow", cpu_at_most=0.17)
    gigabyte = round(1e9 / WORKLOADS["W2"].element_bytes)
    for cpu_s, is_met in ((0.16, True), (0.18, False)):
        ran = Measurement(gigabyte, gigabyte, 1, cpu_s, 0)
        assert cpu.judge({"W2": {"aioflow": [ran]}}) == (is_met, f"{cpu_s:.3f} CPU s/GB")
    assert str(cpu) == "W2: aioflow at most 0.17 CPU s/GB"


@pytest.mark.parametrize(("ratio", "code"), [(1.01, 0), (0.99, 1)])
def test_gate_compares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ratio: float, code: int
) -> None:
    """The exit code says whether all is fast enough, and each demand has its line."""
    monkeypatch.setattr(command_line, "missing", lambda systems: {})
    results: runner.Results = {
        demand.workload: {
            demand.system: [Measurement(10, 10, 1 / (demand.at_least * ratio), 1, 0)],
            demand.peer: [Measurement(10, 10, 1, 1, 0)],
        }
        for demand in FRAMES
    }
    monkeypatch.setattr(command_line, "measure", lambda chosen, **options: results)
    assert command_line.main(["gate", "--frames"]) == code
    lines = capsys.readouterr().out.splitlines()[-len(FRAMES) :]
    word = "FALLS SHORT" if code else "met"
    assert lines[0] == f"{word:<11} W1s: aioflow-frames at least 2 x multiprocessing.Queue: {2 * ratio:#.3g} x"
    assert all(line.startswith(word) for line in lines)


def test_gate_fails_without_a_peer() -> None:
    """What was not measured is not met."""
    demand = Demand("W2", "aioflow", "DataLoader", at_least=0.8)
    results: runner.Results = {"W2": {"aioflow": [PEER]}}
    assert judge((demand,), results) == ([], ["W2: aioflow at least 0.8 x DataLoader: DataLoader not measured"])


@pytest.mark.parametrize("demands", [MEMORY, FRAMES])
def test_gate_runs_what_its_systems_carry(demands: tuple[Demand, ...]) -> None:
    """Every system that a demand names carries the workload, and is run once in it."""
    for workload, systems in plan(demands).items():
        assert len(set(systems)) == len(systems)
        assert all(workload in ALL_SYSTEMS[system].workloads for system in systems)


def test_a_table_has_the_ratio_of_ours_to_each() -> None:
    """How long an element takes there and back stands where that is what counts."""
    ours = Measurement(10, 10, 1, 1, 0, 50, 60)
    results: runner.Results = {"W5": {"aioflow": [ours], "ring": [SLOW]}}
    content = report(results, {}, small=True)
    assert "| ring    | 100    | 200    |" in table(content)
    assert "0.500 (0.500 to 0.500)" in table(content)
    assert "µs there and back" in picture(content)


# The meter


def test_meter_refuses_what_was_not_sent() -> None:
    """Another's payload, a place that is another's, an element that is missing, and one that came twice."""
    workload = replace(WORKLOADS["W1s"].small(), producers=2)
    elements = Elements(workload)
    meter = Meter(workload)
    with pytest.raises(WrongElements, match="payload of element 0"):
        meter.element(elements[1][0], elements[0][1])
    with pytest.raises(WrongElements, match="element 1 came at the place of element 0"):
        Meter(WORKLOADS["W1s"]).element(*elements[1])
    for change in (-1, 1):
        meter = Meter(workload)
        for number in range(workload.total - 1):
            meter.element(*elements[number])
        meter.element(elements[workload.total - 1 + change][0], np.int64(workload.total - 1 + change))
        with pytest.raises(WrongElements, match="elements arrived"):
            meter.result()


def test_meter_looks_at_the_payloads_of_padded_batches() -> None:
    """At the last value of the last row, and not at what it was padded with."""
    workload = WORKLOADS["W3"]
    elements = Elements(workload)
    payloads, labels = zip(*(elements[number] for number in range(workload.batch)), strict=True)
    batch = stack(payloads)
    assert len(set(map(len, payloads))) > 1
    assert batch.shape == (workload.batch, max(map(len, payloads)))
    assert batch.sum() == sum(payload.sum() for payload in payloads)
    Meter(workload).batch(batch, np.stack(labels))
    batch[-1, len(payloads[-1]) - 1] += 1
    with pytest.raises(WrongElements, match="payload of element 31"):
        Meter(workload).batch(batch, np.stack(labels))


def test_a_family_is_all_that_descends_from_a_process(run_program: RunProgram) -> None:
    """Whatever process groups they made: their processor time counts."""
    program = """
import subprocess, sys
from benchmarks.meter import _family
child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
with subprocess.Popen([sys.executable, "-c", child], stdin=-1, stdout=-1, start_new_session=True) as process:
    process.stdout.readline()
    print(len(_family()))
    process.stdin.close()
"""
    ran = run_program("-c", program)
    assert ran.finish() == 0, ran.output
    assert ran.output.splitlines()[0] == "3"


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


def test_the_scaling_benchmark_runs(run_program: RunProgram) -> None:
    """So does that of many clients, queues and elements."""
    program = run_program("-m", "benchmarks", "scaling", "--small", "--rounds", "1")
    assert program.finish() == 0, program.output
    assert len(re.findall(r"^(?:met|FALLS SHORT) ", program.output, re.MULTILINE)) == 4
    assert "2 producers, x one" in program.output
