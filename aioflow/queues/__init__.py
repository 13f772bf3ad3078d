"""Queues as pure machines: a definition, an order, a gate and a batcher; no event loop, clock or socket.

Read `_machine` first: its rules stand at the top. `_order` decides what is next, `_segments` holds rows, and `_store`
those that leave out of order; `_batch` makes columns of them, `_definition` says what two processes must agree on.
"""

from aioflow.queues._batch import gather
from aioflow.queues._definition import CAPACITY_BYTES_DEFAULT, UNBOUNDED, Kind, QueueDefinition
from aioflow.queues._effects import Completed, Effect, Failed, QueueStats, Recall, Ticket
from aioflow.queues._machine import QueueMachine
from aioflow.queues._segments import Part, Rows, Segment

__all__ = [
    "CAPACITY_BYTES_DEFAULT",
    "UNBOUNDED",
    "Completed",
    "Effect",
    "Failed",
    "Kind",
    "Part",
    "QueueDefinition",
    "QueueMachine",
    "QueueStats",
    "Recall",
    "Rows",
    "Segment",
    "Ticket",
    "gather",
]
