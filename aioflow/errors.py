"""The whole error tree on one page.

Each class says who raises it, in what state things are afterwards, and which neighbour it is not.
A message names the queue or the task, what was expected, what came, and the next step.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AddressInUse",
    "AioflowError",
    "AuthenticationFailed",
    "ConnectFailed",
    "ConnectionLost",
    "DeviceError",
    "DeviceOutOfMemory",
    "DeviceUnavailable",
    "EndOfQueue",
    "GraphCycle",
    "GraphError",
    "LocalProtocolError",
    "NoSession",
    "NodeFailed",
    "NotFound",
    "NotInitialised",
    "OperationCancelled",
    "PlacementError",
    "ProcessFailed",
    "ProtocolError",
    "QueueClosed",
    "QueueError",
    "QueueReset",
    "RemoteError",
    "RemoteProtocolError",
    "SessionClosed",
    "SessionError",
    "SpecMismatch",
    "StorageError",
    "TransportError",
    "UnknownOp",
    "VersionMismatch",
]


class AioflowError(Exception):
    """The root of every error that aioflow raises by itself."""


# Graphs


class GraphError(AioflowError, ValueError):
    """A graph, or a place in it, is wrong; nothing has run."""


class GraphCycle(GraphError):
    """The edges of a graph form a circle; raised when the graph is built."""


class UnknownOp(GraphError):
    """A graph names an op that this process or server does not have."""


class PlacementError(GraphError):
    """A node, queue or variable names a device or task that does not exist or cannot hold it.

    Raised before anything is made or run. It is not `DeviceUnavailable`, where the device exists and cannot be used.
    """


class SpecMismatch(AioflowError, ValueError):
    """A value or a definition disagrees with a queue's specification: shape, dtype, names or number of components.

    Raised at the call, before anything is queued: the queue is as it was. For a second definition under a shared
    name that disagrees with the first, the message lists every difference.
    """


class NodeFailed(AioflowError):
    """A kernel raised; `__cause__` is its exception. The rest of the step was cancelled.

    Attributes:
        node: The name of the node.
        device: The device on which it ran.
    """

    def __init__(self, message: str, *, node: str = "", device: str = "") -> None:
        super().__init__(message)
        self.node = node
        self.device = device


# Queues


class QueueError(AioflowError):
    """A queue refused or ended an operation."""


class QueueClosed(QueueError):
    """A put or a close came to a closed queue: nothing more is accepted.

    What the queue holds can still be dequeued. Rows of an `enqueue_many` that were in before the close stay in; a
    note on the exception gives their number. It is not `EndOfQueue`, which is what a get receives.
    """


class OperationCancelled(QueueClosed):
    """A put or a close was waiting when somebody called `close(cancel_pending_enqueues=True)`.

    It is not `asyncio.CancelledError`, by which a task itself is cancelled.
    """


@dataclass(frozen=True, slots=True)
class LostProducer:
    """A producer that left by an exception, or vanished; told by `EndOfQueue`.

    Attributes:
        name: Under which it was registered.
        reason: One line.
        traceback: Its traceback as text; empty where there is none.
    """

    name: str
    reason: str
    traceback: str = ""


class EndOfQueue(QueueError):
    """A get found the queue closed and drained: no element will come.

    A `dequeue_many` that wanted more than was left raises it too; what it had taken is back in the queue.

    Attributes:
        lost_producers: Producers that failed or vanished: the data may be short. Their tracebacks are notes, too.
    """

    def __init__(self, message: str, *, lost_producers: tuple[LostProducer, ...] = ()) -> None:
        super().__init__(message)
        self.lost_producers = lost_producers
        for producer in lost_producers:
            if producer.traceback:
                self.add_note(f"producer {producer.name!r} was lost by:\n{producer.traceback}")


class QueueReset(QueueError):
    """The server restarted and the queue's elements are gone; the next call attaches to a new, empty queue."""


# Sessions


class SessionError(AioflowError):
    """A session cannot do what was asked of it."""


class NoSession(SessionError):
    """No session is current in this task: enter one, or use `queue.on(session)`."""


class SessionClosed(SessionError):
    """The session was closed or reset; its waiting operations end with this error and accepted nothing more.

    Also where the server has ended it, having heard nothing of it for `session_s`: then puts that it received stand.
    It is not `ConnectionLost`, where the other side is away.
    """


class NotFound(SessionError):
    """There is no queue, variable or task of that name."""


class NotInitialised(SessionError):
    """A variable was read before it was assigned."""


# Transports


class TransportError(AioflowError):
    """A connection could not be made or kept, or an address could not be bound."""


class ConnectFailed(TransportError):
    """No server was reached at an address in time, or the address is wrong; nothing was sent."""


class ConnectionLost(TransportError):
    """The other side of a connection went away; of a session's, it was out of reach for `session_s`.

    A put that was waiting may or may not have been accepted; what a get had been sent and not handed over goes back.
    Of a step, a task was out of reach for `lost_s` or was started anew: how much has run is not known, and the session
    goes on.
    """


class AuthenticationFailed(TransportError):
    """The two sides do not know each other's keys, or a key file is refused; nothing was sent.

    The message says which file, or what the other side demands, and the command that mends it. It ends a session whose
    key was revoked. It is not `ConnectFailed`, where nobody answers, or the address is not allowed.
    """


class AddressInUse(TransportError):
    """Another server listens at the address; it is not disturbed."""


# Protocol: whose fault it is


class ProtocolError(AioflowError):
    """The rules between client and server were broken; `LocalProtocolError` or `RemoteProtocolError` says by whom."""


class LocalProtocolError(ProtocolError):
    """This side tried to send what the protocol does not allow; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow; it was ignored."""


class VersionMismatch(ProtocolError):
    """Client and server speak no common version of the protocol; the connection is closed."""


class RemoteError(AioflowError):
    """Something unforeseen failed on the other side; only the one request is affected.

    Attributes:
        type_name: The class name of the exception over there.
        traceback_text: Its traceback as text.
        peer: Where it happened.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback_text: str = "", peer: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text
        self.peer = peer


# Launching


class ProcessFailed(AioflowError):
    """A server or program of a launched cluster cannot be started, or has ended again and again; all were stopped.

    Attributes:
        name: Of the process, such as `/job:ps/task:0` or `loader:1`.
        code: Its last exit code, negative for a signal; None where it could not be started.
    """

    def __init__(self, message: str, *, name: str = "", code: int | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.code = code


# Devices and storage


class DeviceError(AioflowError):
    """A device failed at what was asked of it; queues and variables on it are as they were."""


class DeviceUnavailable(DeviceError):
    """A device exists but cannot be used: no driver, no permission, or it is hidden."""


class DeviceOutOfMemory(DeviceError):
    """An allocation exceeds a device's limit; what is held stays as it is.

    Attributes:
        asked: Bytes that were to be allocated.
        held: Bytes that are held on the device.
        limit: Bytes that may be held there.
    """

    def __init__(self, message: str, *, asked: int = 0, held: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.asked = asked
        self.held = held
        self.limit = limit


class StorageError(AioflowError):
    """A disk is full, or a journal is corrupt; what was stored before is still readable."""
