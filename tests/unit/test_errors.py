"""The error tree: who is whose neighbour, and what each says of itself."""

from __future__ import annotations

import copy
import inspect

import pytest

from aioflow import errors

TREE = {
    "AioflowError": "Exception",
    "GraphError": "AioflowError ValueError",
    "GraphCycle": "GraphError",
    "UnknownOp": "GraphError",
    "PlacementError": "GraphError",
    "SpecMismatch": "AioflowError ValueError",
    "NodeFailed": "AioflowError",
    "QueueError": "AioflowError",
    "QueueClosed": "QueueError",
    "OperationCancelled": "QueueClosed",
    "EndOfQueue": "QueueError",
    "QueueReset": "QueueError",
    "SessionError": "AioflowError",
    "NoSession": "SessionError",
    "SessionClosed": "SessionError",
    "NotFound": "SessionError",
    "NotInitialised": "SessionError",
    "TransportError": "AioflowError",
    "ConnectFailed": "TransportError",
    "ConnectionLost": "TransportError",
    "AuthenticationFailed": "TransportError",
    "AddressInUse": "TransportError",
    "ProtocolError": "AioflowError",
    "LocalProtocolError": "ProtocolError",
    "RemoteProtocolError": "ProtocolError",
    "VersionMismatch": "ProtocolError",
    "RemoteError": "AioflowError",
    "ProcessFailed": "AioflowError",
    "DeviceError": "AioflowError",
    "DeviceUnavailable": "DeviceError",
    "DeviceOutOfMemory": "DeviceError",
    "StorageError": "AioflowError",
}


def test_the_tree() -> None:
    """Every error of the module is in the tree, in its place."""
    found = {
        name: " ".join(base.__name__ for base in kind.__bases__)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, BaseException)
    }
    assert found == TREE
    assert sorted(errors.__all__) == sorted(TREE)


@pytest.mark.parametrize("name", TREE)
def test_an_error_explains_itself(name: str) -> None:
    """Each class says by itself who raises it, is made of one message, and survives being copied."""
    kind = getattr(errors, name)
    assert len(kind.__doc__) > 30
    error = kind("what happened")
    assert isinstance(error, errors.AioflowError)
    assert str(error) == str(copy.copy(error)) == "what happened"


def test_fields() -> None:
    """Fields that a program reads are attributes, empty where nothing is known."""
    lost = errors.LostProducer("a", "gone")
    end = errors.EndOfQueue("end", lost_producers=(lost,))
    assert (end.lost_producers, errors.EndOfQueue("end").lost_producers) == ((lost,), ())
    failed = errors.NodeFailed("failed", node="n", device="/cpu:0")
    assert (failed.node, failed.device) == ("n", "/cpu:0")
    process = errors.ProcessFailed("failed", name="loader", code=3)
    assert (process.name, process.code, errors.ProcessFailed("failed").code) == ("loader", 3, None)
    remote = errors.RemoteError("remote", type_name="KeyError", traceback_text="...", peer="tcp://a:1")
    assert (remote.type_name, remote.traceback_text, remote.peer) == ("KeyError", "...", "tcp://a:1")
