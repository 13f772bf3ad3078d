"""Containers of shared resources, in plain code: names to queues, matching of definitions, producers, removal."""

from aioflow.errors import LostProducer
from aioflow.resources._queue import QueueResource
from aioflow.resources._resources import QueueKey, QueueRef, Resources

__all__ = ["LostProducer", "QueueKey", "QueueRef", "QueueResource", "Resources"]
