"""Graphs, steps and lists through a session of a server: requests that give up when it is out of reach for `lost_s`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from aioflow.cluster import _messages as m
from aioflow.cluster._library import OpLibrary
from aioflow.cluster._values import decode_value, encode_value
from aioflow.graph import Output
from aioflow.runtime import complete, complete_put

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioflow.cluster._remote import RemoteHost
    from aioflow.cluster._remote_call import RemoteCall
    from aioflow.graph import Node
    from aioflow.transport import Frame

__all__ = [
    "begin_graph",
    "deregister",
    "end_owner",
    "list_devices",
    "list_queues",
    "register",
    "run_graph",
    "send_tensor",
    "values_of",
]


def register(
    host: RemoteHost, number: int, frames: Sequence[Frame], *, owner: str = "", soft: bool = False, log: bool = False
) -> None:
    """Send a graph ahead of the steps that use it; what is wrong with it is told by those, also that it cannot come."""
    host.request(None, lambda request, _: m.RegisterGraph(request, number, owner, soft, log), frames)


def deregister(host: RemoteHost, number: int) -> None:
    """Let a server forget a graph; one that is out of reach hears of it later."""
    host.request(None, lambda request, _: m.DeregisterGraph(request, number))


def begin_graph(
    host: RemoteHost,
    number: int,
    fetched: Sequence[Output | Node],
    fed: Mapping[Output, Any],
    step: str = "",
    given: Mapping[str, Frame] | None = None,
) -> RemoteCall:
    """Begin a step of a graph that was registered, with packed values by key; `values_of` reads its answer.

    Raises:
        ConnectionLost: The server is out of reach since `lost_s`.
    """
    values = [*fed.values(), *itertools.chain.from_iterable((given or {}).items())]
    fetches, feeds = [_pair(given) for given in fetched], [_pair(output) for output in fed]
    return host.request(
        None,
        lambda request, _: m.RunGraph(request, number, step, fetches, feeds),
        encode_value(values) if values else (),
        gives_up=True,
    )


async def run_graph(
    host: RemoteHost, number: int, fetched: Sequence[Output | Node], fed: Mapping[Output, Any]
) -> list[Any]:
    """Run a step of a graph that was registered; a cancelled wait ends the step and waits for that, within a bound.

    Raises:
        AioflowError: What the step raised.
        ConnectionLost: The server was out of reach for `lost_s`, or was started anew: part of the step may be done.
    """
    call = begin_graph(host, number, fetched, fed)
    await complete_put(call, "step")
    return values_of(call.waiter.value)


def values_of(answer: Sequence[Frame]) -> list[Any]:
    """Return the values that a step has answered with."""
    return decode_value(answer, OpLibrary.restore)  # type: ignore[no-any-return]


async def send_tensor(host: RemoteHost, step: str, key: str, frames: Sequence[Frame]) -> None:
    """Give a value to a step on another task; returns when it is there."""
    await complete(host.request(None, lambda request, _: m.SendTensor(request, step, key), frames, gives_up=True))


async def list_devices(host: RemoteHost, *, whole: bool) -> list[Any]:
    """Return the devices of a server's task, or of its whole cluster."""
    call = host.request(None, lambda request, _: m.ListDevices(request, whole), gives_up=True)
    return decode_value(await complete(call), OpLibrary.restore)  # type: ignore[no-any-return]


async def list_queues(host: RemoteHost) -> list[Any]:
    """Return the bytes of shared memory of a server's task, and what is told of its queues."""
    call = host.request(None, lambda request, _: m.ListQueues(request), gives_up=True)
    return decode_value(await complete(call), OpLibrary.restore)  # type: ignore[no-any-return]


def end_owner(host: RemoteHost, owner: str) -> None:
    """Tell a server that a session on whose behalf it ran parts is over."""
    host.request(None, lambda request, _: m.EndOwner(request, owner))


def _pair(given: Output | Node) -> list[int]:
    return [given.node.index, given.value_index if isinstance(given, Output) else -1]
