"""What aioflow is tested with, for those who extend it or test pipelines of their own. Needs Hypothesis.

`check_queue`, `check_transport` and `check_device` are the conformance suites: run them on a session, a transport or a
device of yours.
`simulate` runs a program in virtual time on a network that a seed decides; `SimulatedNetwork` is that network alone,
and `check_sessions` runs the sessions of a server and its clients on it.
`QueueModel` is a queue in slow, obvious code, and `QueuePair` compares a machine with it, event by event. The rest are
Hypothesis strategies.
"""

from aioflow.testing._check_sessions import check_sessions
from aioflow.testing._device_suite import DEVICE_CHECKS, check_device
from aioflow.testing._faults import Decision, Faults, check_run, inject_faults, minimise
from aioflow.testing._machine_suite import QueuePair, check_invariants
from aioflow.testing._model import ModelElement, ModelOutcome, QueueModel, pad_batch
from aioflow.testing._network import SimulatedNetwork
from aioflow.testing._network_ends import EndHandler, SimulatedEnd, SimulatedNode
from aioflow.testing._queue_suite import QUEUE_CHECKS, SHARED_QUEUE_CHECKS, OpenSession, check_queue
from aioflow.testing._simulate import describe_message, simulate
from aioflow.testing._simulated_transport import on_node
from aioflow.testing._strategies import (
    component_values,
    dtypes,
    element_specs,
    element_values,
    machine_definitions,
    machine_elements,
    operations,
    queue_definitions,
    shapes,
    splits,
    transfers,
)
from aioflow.testing._transport_suite import TRANSPORT_CHECKS, check_transport

__all__ = [
    "DEVICE_CHECKS",
    "QUEUE_CHECKS",
    "SHARED_QUEUE_CHECKS",
    "TRANSPORT_CHECKS",
    "Decision",
    "EndHandler",
    "Faults",
    "ModelElement",
    "ModelOutcome",
    "OpenSession",
    "QueueModel",
    "QueuePair",
    "SimulatedEnd",
    "SimulatedNetwork",
    "SimulatedNode",
    "check_device",
    "check_invariants",
    "check_queue",
    "check_run",
    "check_sessions",
    "check_transport",
    "component_values",
    "describe_message",
    "dtypes",
    "element_specs",
    "element_values",
    "inject_faults",
    "machine_definitions",
    "machine_elements",
    "minimise",
    "on_node",
    "operations",
    "pad_batch",
    "queue_definitions",
    "shapes",
    "simulate",
    "splits",
    "transfers",
]
