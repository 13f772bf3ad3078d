"""What is measured, by the consumer: seconds, and the processor time of all processes of the run."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.elements import Elements
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
        elements = Elements(workload)
        self._expected = elements.last_values()
        self._lengths = list(map(len, elements.pool)) if workload.is_padded else None
        self._is_in_order = workload.is_in_order
        self._label_sum = 0
        self._mark = workload.around
        self._pids: list[int] = []
        self._counts: list[int] = []
        self._times: list[float] = []
        self._cpu_times: list[float] = []
        self._busy_times: list[float] = []
        self._stamps: list[float] | None = [] if workload.there_and_back else None

    def element(self, payload: Any, label: Any) -> None:
        """Take one element; one that came back, if the workload has them go there and back."""
        if self._stamps is not None:
            self._stamps.append(time.perf_counter())
        number = int(label)
        self._take(1, number, number, payload)

    def batch(self, payload: Any, labels: Any) -> None:
        """Take a batch: arrays with a leading dimension."""
        self._take(len(labels), int(np.add.reduce(labels)), int(labels[-1]), payload)

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
        measurement = Measurement(self.count, counted_at_end - counted, ended - began, cpu_s, max(0.0, busy_s - cpu_s))
        if self._stamps is None:
            return measurement
        trips_us = np.diff(self._stamps[counted - 1 : counted_at_end]) * 1e6
        p50, p99 = np.percentile(trips_us, (50, 99)).tolist()
        return replace(measurement, p50_us=p50, p99_us=p99)

    def _take(self, count: int, labels: int, last: int, payload: Any) -> None:
        self.count += count
        self._label_sum += labels
        pool = len(self._expected)
        if self._is_in_order and last != self.count - 1:
            raise WrongElements(f"element {last} came at the place of element {self.count - 1}")
        at = self._lengths[last % pool] - payload.shape[-1] - 1 if self._lengths else -1
        if payload.item(at) != self._expected[last % pool]:
            raise WrongElements(f"the payload of element {last} is another one's")
        if not self._pids:
            self._pids = _family()  # by now all processes of the run are there
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


def _family() -> list[int]:
    """Return this process, and all that descend from it: those of this run. Ray's are in groups of their own."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = [os.getpid()]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    return family


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
