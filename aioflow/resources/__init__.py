"""Containers of shared resources, in plain code: names to queues and variables, definitions, producers, removal."""

from aioflow.errors import LostProducer
from aioflow.resources._queue import QueueResource
from aioflow.resources._resources import QueueKey, QueueRef, Resources, ServerStats
from aioflow.resources._variables import ASSIGNMENTS, Assignment, VariableKey, VariableRef, VariableResource

__all__ = [
    "ASSIGNMENTS",
    "Assignment",
    "LostProducer",
    "QueueKey",
    "QueueRef",
    "QueueResource",
    "Resources",
    "ServerStats",
    "VariableKey",
    "VariableRef",
    "VariableResource",
]
