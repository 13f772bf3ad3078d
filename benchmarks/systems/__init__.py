"""The systems that are measured: one file each, with one function.

`consume(workload)` is called in the consumer's process. It starts the other processes of the system in this process
group, gives every element to a `Meter`, ends what it started, and returns what the meter says.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

__all__ = ["SYSTEMS", "System"]


@dataclass(frozen=True)
class System:
    """A system by the module that knows it, which is imported only where it is to run, and what it can carry."""

    module: str
    workloads: tuple[str, ...]

    def consume(self, workload: Workload) -> Measurement:
        """Run a workload once, as its consumer."""
        measurement: Measurement = import_module(self.module).consume(workload)
        return measurement


SYSTEMS = {
    "aioflow": System("benchmarks.systems.aioflow_queue", ("W1s", "W1b", "W2")),
    "aioflow-keys": System("benchmarks.systems.aioflow_keys", ("W1s", "W1b", "W2")),
    "aioflow-shm": System("benchmarks.systems.aioflow_shm", ("W1s", "W1b", "W2")),
    "multiprocessing.Queue": System("benchmarks.systems.multiprocessing_queue", ("W1s", "W1b", "W2")),
    "DataLoader": System("benchmarks.systems.torch_dataloader", ("W1b", "W2")),
}
