"""aioflow as it is between hosts: the same as by itself, with every byte encrypted."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from aioflow.keys import KEYS_VARIABLE, make_keys
from benchmarks.systems import aioflow_queue

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload


def consume(workload: Workload) -> Measurement:
    """Take what producers put into a queue of a server that demands keys; see `benchmarks.systems`."""
    with tempfile.TemporaryDirectory() as folder:
        make_keys(folder)
        os.environ[KEYS_VARIABLE] = folder  # of the processes that are started, too
        return aioflow_queue.consume(workload)
