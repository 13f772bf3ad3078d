"""A ring of shared memory by hand, which is no queue: what one reaches who needs nothing else.

Slots of one size lie in an anonymous file that both processes have mapped and touched. A slot has what the consumer
takes at once. The numbers of slots that are full go through one pipe, of those that are free through another: whoever
has to wait sleeps in the kernel. The consumer looks at the arrays where they are, and they change once it has gone on.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.elements import Elements
from benchmarks.meter import Meter
from benchmarks.systems.producer import producing

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

NUMBER_BYTES = 4
NUMBERS_MAX = 64  # that the consumer reads at once


class Ring:
    """Arrays of slots, and the descriptors of two pipes, at each end of which another process may be."""

    def __init__(self, workload: Workload, paths: tuple[str, ...] | None = None) -> None:
        """Make it, or open that of which these are the paths."""
        self.rows = workload.batch or 1
        slots = workload.capacity // self.rows
        payload_bytes = workload.capacity * workload.payload_bytes
        if paths is None:
            memory = os.memfd_create("ring")
            os.ftruncate(memory, payload_bytes + workload.capacity * 8)
            full, free = os.pipe(), os.pipe()
            self._reads_full, self._writes_full, self._reads_free, self._writes_free = (*full, *free)
        else:
            memory = os.open(paths[0], os.O_RDWR)
            self._reads_full, self._reads_free = (os.open(paths[index], os.O_RDONLY) for index in (1, 3))
            self._writes_full, self._writes_free = (os.open(paths[index], os.O_WRONLY) for index in (2, 4))
        mapped = mmap.mmap(memory, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.payloads = np.ndarray((slots, self.rows, *workload.shape), workload.dtype, mapped)
        self.labels = np.ndarray((slots, self.rows), np.int64, mapped, payload_bytes)
        self._descriptors = (memory, self._reads_full, self._writes_full, self._reads_free, self._writes_free)
        if paths is None:
            for slot in range(slots):
                self.release(slot)

    def paths(self) -> tuple[str, ...]:
        """Return by which paths another process of this user opens the same."""
        return tuple(f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in self._descriptors)

    def free(self) -> int:
        """Wait for a slot that is free; one at a time, so that several producers share."""
        return int.from_bytes(os.read(self._reads_free, NUMBER_BYTES), "little")

    def full(self) -> memoryview:
        """Wait for slots that are full, in the order in which they were filled."""
        return memoryview(os.read(self._reads_full, NUMBERS_MAX * NUMBER_BYTES)).cast("I")

    def put(self, payload: Any, labels: Any) -> None:
        """Copy what fills a slot into the next that is free."""
        slot = self.free()
        self.payloads[slot] = payload
        self.labels[slot] = labels
        self.fill(slot)

    def fill(self, slot: int) -> None:
        """Hand a slot to the consumer."""
        os.write(self._writes_full, slot.to_bytes(NUMBER_BYTES, "little"))

    def release(self, slot: int) -> None:
        """Hand a slot back to the producers."""
        os.write(self._writes_free, slot.to_bytes(NUMBER_BYTES, "little"))


def consume(workload: Workload) -> Measurement:
    """Take what producers put into the slots; see `benchmarks.systems`."""
    ring = Ring(workload)
    if workload.there_and_back:
        back = Ring(workload)
        with producing(_send_back, workload, ring.paths(), back.paths()):
            return _put_and_get(ring, back, workload)
    with producing(_produce, workload, ring.paths()):
        return _get_all(ring, workload)


def _get_all(ring: Ring, workload: Workload) -> Measurement:
    meter = Meter(workload)
    while meter.count < workload.total:
        for slot in ring.full():
            if workload.batch:
                meter.batch(ring.payloads[slot], ring.labels[slot])
            else:
                meter.element(ring.payloads[slot, 0], ring.labels[slot, 0])
            ring.release(slot)
    return meter.result()


def _put_and_get(ring: Ring, back: Ring, workload: Workload) -> Measurement:
    elements, meter = Elements(workload), Meter(workload)
    for number in range(workload.total):
        ring.put(*elements[number])
        for slot in back.full():
            meter.element(back.payloads[slot, 0], back.labels[slot, 0])
            back.release(slot)
    return meter.result()


def _produce(workload: Workload, producer: int, paths: tuple[str, ...]) -> None:
    ring, elements = Ring(workload, paths), Elements(workload)
    numbers = workload.numbers(producer)
    if workload.chunk:
        for number in range(workload.total // workload.chunk):
            ring.put(*elements.chunk(number))
    elif workload.batch:
        for first in range(0, len(numbers), workload.batch):
            _put_rows(ring, elements, numbers[first : first + workload.batch])
    else:
        for number in numbers:
            ring.put(*elements[number])


def _put_rows(ring: Ring, elements: Elements, numbers: range) -> None:
    slot = ring.free()
    payloads, labels = ring.payloads[slot], ring.labels[slot]
    for row, number in enumerate(numbers):
        payloads[row], labels[row] = elements[number]
    ring.fill(slot)


def _send_back(workload: Workload, _producer: int, paths: tuple[str, ...], back_paths: tuple[str, ...]) -> None:
    ring, back, count = Ring(workload, paths), Ring(workload, back_paths), 0
    while count < workload.total:
        for slot in ring.full():
            back.put(ring.payloads[slot], ring.labels[slot])
            ring.release(slot)
            count += 1
