"""Runs the systems in turn, each run in processes of its own that never outlive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from benchmarks.environment import ROOT, python_of
from benchmarks.measurement import Failed, Measurement
from benchmarks.systems import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterable

RUN_S = 120.0  # the bound of one run, its start included
GRACE_S = 5.0  # what its processes may take to end when they are told to

# By workload and system, what each round gave.
Results = dict[str, dict[str, list[Measurement | Failed]]]


def missing(systems: Iterable[str]) -> dict[str, str]:
    """Return which of the systems cannot be imported here, and why."""
    reasons: dict[str, str] = {}
    for name in systems:
        command = [python_of(SYSTEMS[name].environment), "-c", f"import {SYSTEMS[name].module}"]
        probe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if probe.returncode:
            reasons[name] = _last_line(probe.stderr)
    return reasons


def measure(plan: dict[str, list[str]], *, rounds: int, small: bool) -> Results:
    """Run each workload's systems, one after the other and then all again: what slows the machine slows them all.

    A run that fails is left out, with a note, and its processes have ended; the next one follows.

    Args:
        plan: The systems to run, by workload.
        rounds: How often to run each.
        small: Whether to send few elements only, to see that everything runs.
    """
    results: Results = {workload: {system: [] for system in systems} for workload, systems in plan.items()}
    for workload, systems in plan.items():
        for number in range(1, rounds + 1):
            for system in systems:
                says = f"{workload}, round {number} of {rounds}: {system}"
                results[workload][system].append(_run_once(says, system, workload, "small" if small else "full"))
    return results


def failed(results: Results, of: str = "") -> list[str]:
    """Return a line for each run that failed, of the systems whose names begin so."""
    runs = [run for systems in results.values() for name in systems if name.startswith(of) for run in systems[name]]
    return [run.says for run in runs if isinstance(run, Failed)]


def _run_once(says: str, system: str, *arguments: str) -> Measurement | Failed:
    command = [python_of(SYSTEMS[system].environment), "-m", "benchmarks.one_run", system, *arguments]
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        # A process group of its own: all of the run's processes are found by it, and Ctrl-C reaches this one alone.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        try:
            print(f"{says}, process group {process.pid}", file=sys.stderr, flush=True)
            output, errors = process.communicate(timeout=RUN_S)  # to the end of all that hold the pipes
        except subprocess.TimeoutExpired:
            return _left_out(f"{says}: timed out after {RUN_S:g} s", _end(process))
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        return _left_out(f"{says}: exit code {process.returncode}: {_last_line(errors) or 'it wrote nothing'}", errors)
    return Measurement(**json.loads(output))


def _left_out(says: str, errors: str) -> Failed:
    print(f"left out: {says}\n{errors}", file=sys.stderr, flush=True)
    return Failed(says)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _end(process: subprocess.Popen[str]) -> str:
    """End a process group; return what it wrote to its standard error."""
    try:
        # Not killed at once: multiprocessing's keeper of semaphores removes them when the others have ended.
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=GRACE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[1]
