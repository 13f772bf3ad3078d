"""What users hold: sessions, queue definitions with their operations, batches, writers and producers."""

from aioflow.client._batches import Batches
from aioflow.client._kinds import FIFOQueue, PaddingFIFOQueue, PriorityQueue, RandomShuffleQueue, lookup
from aioflow.client._producer import Producer
from aioflow.client._queue import Queue
from aioflow.client._runner import Coordinator, QueueRunner
from aioflow.client._session import Session, current_session
from aioflow.client._variable import Variable, global_variables_initializer, trainable_variables
from aioflow.client._writer import Writer

__all__ = [
    "Batches",
    "Coordinator",
    "FIFOQueue",
    "PaddingFIFOQueue",
    "PriorityQueue",
    "Producer",
    "Queue",
    "QueueRunner",
    "RandomShuffleQueue",
    "Session",
    "Variable",
    "Writer",
    "current_session",
    "global_variables_initializer",
    "lookup",
    "trainable_variables",
]
