"""What users hold: sessions, queue definitions with their operations, batches, writers and producers."""

from aioflow.client._batches import Batches
from aioflow.client._kinds import FIFOQueue, PaddingFIFOQueue, PriorityQueue, RandomShuffleQueue, lookup
from aioflow.client._producer import Producer
from aioflow.client._queue import Queue
from aioflow.client._session import Session, current_session
from aioflow.client._writer import Writer

__all__ = [
    "Batches",
    "FIFOQueue",
    "PaddingFIFOQueue",
    "PriorityQueue",
    "Producer",
    "Queue",
    "RandomShuffleQueue",
    "Session",
    "Writer",
    "current_session",
    "lookup",
]
