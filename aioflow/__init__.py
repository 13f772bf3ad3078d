"""Named, bounded queues of tensors between the processes of a machine-learning job, native to asyncio.

A queue object is a definition; the resource behind it lives in a session: embedded in this process, or on a server that
other processes reach too. Loader processes enqueue, trainer processes dequeue batches; nobody polls, nobody overruns
memory, and nothing that was accepted is lost.

Where to read next: `client/` is what users hold, `queues/_machine.py` the rules of a queue, `cluster/_messages.py` what
goes over the wire, `errors.py` everything that can be raised.
"""

from typing import TYPE_CHECKING, Any

from aioflow.client import (
    Batches,
    Coordinator,
    FIFOQueue,
    PaddingFIFOQueue,
    PriorityQueue,
    Producer,
    Queue,
    QueueRunner,
    RandomShuffleQueue,
    Session,
    Variable,
    Writer,
    global_variables_initializer,
    lookup,
    trainable_variables,
)
from aioflow.cluster import ClusterSpec, Server
from aioflow.devices import DeviceInfo, GPUOptions
from aioflow.errors import (
    AddressInUse,
    AioflowError,
    AuthenticationFailed,
    ConnectFailed,
    ConnectionLost,
    DeviceError,
    DeviceOutOfMemory,
    DeviceUnavailable,
    EndOfQueue,
    GraphCycle,
    GraphError,
    LocalProtocolError,
    LostProducer,
    NodeFailed,
    NoSession,
    NotFound,
    NotInitialised,
    OperationCancelled,
    PlacementError,
    ProtocolError,
    QueueClosed,
    QueueError,
    QueueReset,
    RemoteError,
    RemoteProtocolError,
    SessionClosed,
    SessionError,
    SpecMismatch,
    StorageError,
    TransportError,
    UnknownOp,
    VersionMismatch,
)
from aioflow.graph import (
    Graph,
    Node,
    Op,
    Output,
    constant,
    container,
    control_dependencies,
    device,
    group,
    identity,
    name_scope,
    op,
    placeholder,
    variable_scope,
)
from aioflow.queues import QueueStats
from aioflow.runtime import SessionConfig

__all__ = [
    "AddressInUse",
    "AioflowError",
    "AuthenticationFailed",
    "Batches",
    "ClusterSpec",
    "ConnectFailed",
    "ConnectionLost",
    "Coordinator",
    "DeviceError",
    "DeviceInfo",
    "DeviceOutOfMemory",
    "DeviceUnavailable",
    "EndOfQueue",
    "FIFOQueue",
    "GPUOptions",
    "Graph",
    "GraphCycle",
    "GraphError",
    "LocalProtocolError",
    "LostProducer",
    "NoSession",
    "Node",
    "NodeFailed",
    "NotFound",
    "NotInitialised",
    "Op",
    "OperationCancelled",
    "Output",
    "PaddingFIFOQueue",
    "PlacementError",
    "PriorityQueue",
    "Producer",
    "ProtocolError",
    "Queue",
    "QueueClosed",
    "QueueError",
    "QueueReset",
    "QueueRunner",
    "QueueStats",
    "RandomShuffleQueue",
    "RemoteError",
    "RemoteProtocolError",
    "Server",
    "Session",
    "SessionClosed",
    "SessionConfig",
    "SessionError",
    "SpecMismatch",
    "StorageError",
    "TransportError",
    "UnknownOp",
    "Variable",
    "VersionMismatch",
    "Writer",
    "constant",
    "container",
    "control_dependencies",
    "device",
    "global_variables_initializer",
    "group",
    "identity",
    "lookup",
    "name_scope",
    "op",
    "placeholder",
    "trainable_variables",
    "variable_scope",
]

__version__: str

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Look the version up when it is asked for: reading the distribution's metadata takes milliseconds."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415

            return version("aioflow-mq")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
