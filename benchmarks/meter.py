"""What is measured, by the consumer: seconds, and the processor time of all processes of the run."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.elements import POOL, Elements
from benchmarks.measurement import Measurement

if TYPE_CHECKING:
    from benchmarks.workloads import Workload

_LIBC = ctypes.CDLL(None)


class WrongElements(Exception):
    """What arrived is not what was sent, or the run did not go as the rules of a measurement want it."""


class Meter:
    """Given every element or batch by the consumer, it counts, checks and times; the same work for every system.

    Of each element or batch it reads the labels and one value, the last one of the payload.
    """

    def __init__(self, workload: Workload) -> None:
        self.count = 0
        self._workload = workload
        self._expected = Elements(workload).last_values()
        self._label_sum = 0
        self._mark = workload.around
        self._pids: list[int] = []
        self._counts: list[int] = []
        self._times: list[float] = []
        self._cpu_times: list[float] = []
        self._busy_times: list[float] = []

    def element(self, payload: Any, label: Any) -> None:
        """Take one element."""
        self._take(1, int(label), payload)

    def batch(self, payload: Any, labels: Any) -> None:
        """Take a batch: arrays with a leading dimension."""
        self._take(len(labels), int(np.add.reduce(labels)), payload)

    def result(self) -> Measurement:
        """Return what was measured, once everything has arrived.

        Raises:
            WrongElements: Some elements did not arrive, or came twice.
        """
        total = self._workload.total
        if (self.count, self._label_sum) != (total, total * (total - 1) // 2):
            raise WrongElements(f"{self.count} of {total} elements arrived; the sum of their labels: {self._label_sum}")
        (counted, counted_at_end), (began, ended) = self._counts, self._times
        cpu_s, busy_s = (after - before for before, after in (self._cpu_times, self._busy_times))
        return Measurement(self.count, counted_at_end - counted, ended - began, cpu_s, max(0.0, busy_s - cpu_s))

    def _take(self, count: int, labels: int, payload: Any) -> None:
        self.count += count
        self._label_sum += labels
        if payload.item(-1) != self._expected[(self.count - 1) % POOL]:
            raise WrongElements(f"the payload of element {self.count - 1} is another one's")
        if not self._pids:
            self._pids = _group()  # by now all processes of the run are there
        if self.count >= self._mark:
            self._note()

    def _note(self) -> None:
        """Read the clocks: where the time begins, and where it ends."""
        now, cpu_now = time.perf_counter(), sum(map(_cpu_seconds, self._pids))
        self._counts.append(self.count)
        self._times.append(now)
        self._cpu_times.append(cpu_now)
        self._busy_times.append(_busy_seconds())
        is_first = len(self._times) == 1
        self._mark = self.count + self._workload.measured if is_first else self._workload.total + 1


def _group() -> list[int]:
    """Return the processes of this process group: those of this run."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if _is_in_group(pid)]


def _is_in_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:  # it has ended meanwhile
        return False


def _cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process so far, of all its threads."""
    clock = ctypes.c_int()
    if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise WrongElements(f"process {pid} ended before the measurement did, and its processor time is lost")
    return time.clock_gettime(clock.value)


def _busy_seconds() -> float:
    """Return the processor seconds of the whole machine so far, those included that its host took from it."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
