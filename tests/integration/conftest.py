"""What the tests with real processes share: programs that are started, watched, and never outlive their test."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from tests.integration.reliability.scale import NIGHTLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The bound of every wait for a program; each test is bounded too.
PROGRAM_S = 20.0

# For tests that start many processes and vary what runs every time.
at_night = pytest.mark.skipif(not NIGHTLY, reason="runs with HYPOTHESIS_PROFILE=nightly")


class Program:
    """A running program; its output and its errors are one text."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""

    def read_line(self) -> str:
        """Read one line of output, waiting for it; fails where the program has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.output += line
        if not line:
            pytest.fail(f"ended without another line:\n{self.output}")
        return line.rstrip("\n")

    def read_until(self, text: str) -> str:
        """Read up to the first line that contains a text."""
        while text not in (line := self.read_line()):
            pass
        return line

    def finish(self) -> int:
        """Read the rest, wait for the end, and return the exit code."""
        rest, _ = self.process.communicate(timeout=PROGRAM_S)
        self.output += rest
        return self.process.returncode

    def end_by(self, number: signal.Signals) -> tuple[int, float]:
        """Send a signal; return the exit code and the seconds until the end."""
        sent = monotonic()
        self.process.send_signal(number)
        return self.finish(), monotonic() - sent

    def kill(self) -> None:
        """Kill it, if it still runs, and wait."""
        self.process.kill()
        self.process.wait()


def running_in(group: int) -> list[int]:
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


def left_in(group: int) -> list[int]:
    """Return the processes of a group that do not end: those that do have closed their pipes a moment before."""
    began = monotonic()
    while (running := running_in(group)) and monotonic() - began < PROGRAM_S:
        pass
    return running


class Watch:
    """Waits for the ends of processes that are not children of this one."""

    def __init__(self, pids: list[int]) -> None:
        self._stack = ExitStack()
        self._poll = select.poll()
        self._descriptors = {os.pidfd_open(pid): pid for pid in pids}
        for descriptor in self._descriptors:
            self._stack.callback(os.close, descriptor)
            self._poll.register(descriptor, select.POLLIN)

    def left(self, within_s: float) -> list[int]:
        """Return those that have not ended within so many seconds."""
        left, end = dict(self._descriptors), monotonic() + within_s
        while left and (remaining := end - monotonic()) > 0:
            for descriptor, _ in self._poll.poll(remaining * 1000):
                self._poll.unregister(descriptor)
                del left[descriptor]
        return list(left.values())

    def close(self) -> None:
        """Release what the system gave."""
        self._stack.close()


@pytest.fixture
def watch() -> Iterator[Callable[[list[int]], Watch]]:
    """Watch processes by their numbers."""
    with ExitStack() as stack:

        def make(pids: list[int]) -> Watch:
            made = Watch(pids)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as the path of a socket must be; nothing may be left in it."""
    with tempfile.TemporaryDirectory(prefix="af") as name:
        path = Path(name)
        yield path
        assert [entry.name for entry in path.iterdir()] == []


@pytest.fixture
def new_address(folder: Path) -> Callable[[], str]:
    """Make ipc addresses that nobody uses."""
    numbers = count()
    return lambda: f"ipc://{folder}/{next(numbers)}"


@pytest.fixture
def run_program() -> Iterator[Callable[..., Program]]:
    """Start a program: a source text, or arguments of `python`.

    AIOFLOW_TARGET and AIOFLOW_KEYS are set where a target and keys are given; a namespace is that of a network.
    """
    programs: list[Program] = []

    def run(
        *arguments: str, target: str | None = None, keys: Path | None = None, namespace: str | None = None
    ) -> Program:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOFLOW_")}
        if target is not None:
            environment["AIOFLOW_TARGET"] = target
        if keys is not None:
            environment["AIOFLOW_KEYS"] = str(keys)
        if len(arguments) == 1:
            arguments = ("-c", textwrap.dedent(arguments[0]))
        process = subprocess.Popen(
            [*(["ip", "netns", "exec", namespace] if namespace else []), sys.executable, "-u", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        programs.append(Program(process))
        return programs[-1]

    yield run
    for program in programs:
        program.kill()
        assert program.process.stdout is not None
        program.process.stdout.close()


@pytest.fixture
def serve(run_program: Callable[..., Program], new_address: Callable[[], str]) -> Callable[..., tuple[Program, str]]:
    """Start `aioflow serve` and wait for its line; returns the program and its address."""

    def start(bind: str | None = None) -> tuple[Program, str]:
        program = run_program("-m", "aioflow", "serve", "--bind", bind or new_address())
        prefix = "aioflow serves at "
        line = program.read_line()
        assert line.startswith(prefix), line
        return program, line.removeprefix(prefix)

    return start
