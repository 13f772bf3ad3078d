"""The systems that are measured: one file each, with one function. None but aioflow's own imports aioflow.

`consume(workload)` is called in the consumer's process. It starts the other processes of the system in this process
group, gives every element to a `Meter`, ends what it started, and returns what the meter says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

__all__ = ["SYSTEMS", "System"]


@dataclass(frozen=True)
class System:
    """A system by the module that knows it, which is imported only where it is to run, and what it can carry.

    Attributes:
        module: The module.
        workloads: The names of what it carries.
        environment: Of which environment it is run, where that exists; "" for the one of the command.
        slow: By how much it is so slow that it is given as many times fewer elements to measure.
    """

    module: str
    workloads: tuple[str, ...]
    environment: str = ""
    slow: int = 1

    def consume(self, workload: Workload, *, small: bool) -> Measurement:
        """Run a workload once, as its consumer; `small` to see that it runs."""
        fewer = workload.small() if small else replace(workload, measured=workload.measured // self.slow)
        measurement: Measurement = import_module(self.module).consume(fewer)
        return measurement


ALL = ("W1s", "W1b", "W2", "W2-shuffle", "W2-copy", "W2-two", "W3", "W4", "W5")
FIFO = tuple(name for name in ALL if name not in {"W2-shuffle", "W2-copy"})

SYSTEMS = {
    "aioflow": System("benchmarks.systems.aioflow_queue", ALL),
    "aioflow-frames": System("benchmarks.systems.aioflow_frames", ("W1s", "W1b", "W2", "W4", "W5")),
    "aioflow-keys": System("benchmarks.systems.aioflow_keys", ("W1s", "W1b", "W2")),
    "aioflow-tcp": System("benchmarks.systems.aioflow_tcp", ("W2",)),
    "multiprocessing.Queue": System("benchmarks.systems.multiprocessing_queue", FIFO),
    "multiprocessing.Queue-chunks": System("benchmarks.systems.multiprocessing_chunks", ("W3",)),
    "DataLoader": System("benchmarks.systems.torch_dataloader", ("W1b", "W2", "W2-two", "W3")),
    "faster-fifo": System("benchmarks.systems.faster_fifo_queue", FIFO),
    "ZeroMQ": System("benchmarks.systems.zeromq", FIFO),
    "Ray": System("benchmarks.systems.ray_queue", FIFO, environment="ray", slow=16),
    "TensorFlow": System("benchmarks.systems.tensorflow_queue", FIFO, environment="tensorflow", slow=16),
    # It knows no order but that of arrival, and no copies: it is what the others are held against.
    "ring": System("benchmarks.systems.ring", ("W1b", "W2", "W2-shuffle", "W2-copy", "W2-two", "W4", "W5")),
}
