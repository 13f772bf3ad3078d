"""The CPU backend: work runs in the streams' threads, values are private copies, and memory is counted.

It stands in for GPUs: the same suite runs on it and on CUDA devices, and graphs run on it in tests. A device of this
machine's own CPU is one without streams.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self, final

import numpy as np

from aioflow.devices._device import CLOSE_S, DeviceInfo, map_leaves
from aioflow.devices._memory import Accounts
from aioflow.devices._stream import Launch, Stream, close_streams
from aioflow.errors import PlacementError
from aioflow.names import DeviceName

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.devices._device import Event, Memory

__all__ = ["CpuDevice", "TraceEntry", "is_movable"]

STREAMS = 4
# So many entries of a trace are kept: the work of any test, and no more memory than that of a process that runs on.
TRACE_MAX = 100_000
POINTS = ("put", "launch", "event", "get")


class TraceEntry(NamedTuple):
    """What a `CpuDevice` did.

    Attributes:
        action: `launch` and `wait` when they were called; `put`, `begin`, `end`, `fail`, `cancel` and `get` when they
            happened.
        stream: The number of the stream; -1 for the copies of `put`.
        name: The launch's.
    """

    action: str
    stream: int
    name: str


@final
class CpuDevice:
    """A device whose streams are threads of this process.

    Arrays that come to it are copied, and so are those that leave it, so that code which relies on sharing memory with
    the host shows itself. What kernels return is on the device. NumPy's scalars are arrays of no dimension there, as on
    a GPU. What kernels allocate and do not return is not counted.

    Args:
        name: Such as `/job:localhost/task:0/gpu:0`; what is not given of it is `localhost`, task 0, and index 0.
        streams: How many there are for launches.
        memory_limit: Bytes that values may hold; None is no limit.

    Attributes:
        trace: What happened, in order, for tests; the last 100,000 entries.
    """

    def __init__(self, name: str | DeviceName, *, streams: int = STREAMS, memory_limit: int | None = None) -> None:
        given = DeviceName.parse(name) if isinstance(name, str) else name
        if given.kind is None:
            raise PlacementError(f"{str(given)!r} names no kind of device; expected one such as '/gpu:0'")
        self.name = DeviceName("localhost", 0, given.kind, 0).merge(given)
        self.kind = given.kind
        state = self._state = _State(self.name, memory_limit)
        self.trace = state.trace
        self.streams: Sequence[Stream] = tuple(
            Stream(self, f"{self.name} stream {number}", _CpuEngine(state, number)) for number in range(streams)
        )
        self._copies = Stream(self, f"{self.name} copies", _CpuEngine(state, -1))

    @property
    def host_waits(self) -> int:
        """How often `when_done` was called on its streams and its copies."""
        return sum(stream.host_waits for stream in (*self.streams, self._copies))

    def info(self) -> DeviceInfo:
        """Return what is told of it."""
        return DeviceInfo(str(self.name), self.kind, self.memory().limit, _processor())

    def memory(self) -> Memory:
        """Return the bytes that are held now, and the limit."""
        return self._state.accounts.memory

    def put(self, value: Any) -> Launch:
        """Copy the arrays of a value to the device, as `Device.put` says."""
        return self._copies.launch(_same, [value], name="put")

    def fail(self, point: str, error: Exception) -> None:
        """Have the next operation of a kind fail with an error; of several calls each is for one operation.

        Args:
            point: `put`, the copy of an array to the device; `launch`, in place of the function; `event`, the work that
                a launch gave to the device, which is found out by waiting; `get`, the copy of an array to the host.
            error: What it fails with.
        """
        self._state.faults[point].append(error)

    def close(self, bound_s: float = CLOSE_S) -> None:
        """Cancel what has not begun, wait for what runs, and end the threads, as `Device.close` says."""
        close_streams((*self.streams, self._copies), str(self.name), bound_s)

    def __enter__(self) -> Self:
        """Return the device itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the device."""
        self.close()


class _State:
    """What the streams of a `CpuDevice` share."""

    def __init__(self, name: DeviceName, memory_limit: int | None) -> None:
        self.accounts = Accounts(name, memory_limit)
        self.faults: dict[str, deque[Exception]] = {point: deque() for point in POINTS}
        self.trace: deque[TraceEntry] = deque(maxlen=TRACE_MAX)

    def take_fault(self, point: str) -> Exception | None:
        with suppress(IndexError):
            return self.faults[point].popleft()
        return None


class _CpuEngine:
    """A stream of a `CpuDevice`: its thread is the device."""

    def __init__(self, state: _State, number: int) -> None:
        self._state = state
        self._number = number

    def start(self) -> None:
        """Do nothing: a thread needs no device."""

    def arrivals(self, leaves: list[Any]) -> list[Event]:  # noqa: ARG002 - the protocol's
        return []  # memory of the host is complete when one has it

    def follow(self, event: Event) -> None:
        """Do nothing: what was issued on another stream was done there."""

    def put(self, leaf: Any) -> Any:
        if not is_movable(leaf) or self._state.accounts.holds(leaf):
            return leaf
        self.note("put", "")
        self._raise_fault("put")
        copy = np.array(leaf)
        self._state.accounts.hold(copy)
        return copy

    def run(self, function: Callable[..., Any], arguments: Sequence[Any], name: str) -> Any:  # noqa: ARG002
        self._raise_fault("launch")
        return map_leaves(self._hold, function(*arguments))

    def record(self) -> Event:
        return _Done(self._state.take_fault("event"))

    def get(self, leaf: Any, event: Event, name: str) -> tuple[Any, Event]:
        if not is_movable(leaf):
            return leaf, event
        self.note("get", name)
        host = np.empty_like(leaf)
        return host, _Copy(event, leaf, host, self._state.take_fault("get"))

    def lend(self, leaf: Any) -> Any:
        return leaf

    def note(self, action: str, name: str) -> None:
        self._state.trace.append(TraceEntry(action, self._number, name))

    def _raise_fault(self, point: str) -> None:
        if (error := self._state.take_fault(point)) is not None:
            raise error

    def _hold(self, leaf: Any) -> Any:
        """Count a leaf of what a function returned."""
        if isinstance(leaf, np.generic):
            leaf = np.asarray(leaf)
        if is_movable(leaf):
            self._state.accounts.hold(leaf)
        return leaf


class _Done:
    """The event of work that was done when it was issued."""

    is_done = True

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def wait(self) -> None:
        if self._error is not None:
            raise self._error


class _Copy:
    """A copy to the host, made by whoever waits for it: the stream's thread is free for its work."""

    is_done = False

    def __init__(self, event: Event, source: Any, host: Any, error: Exception | None) -> None:
        self._event = event
        self._source = source
        self._host = host
        self._error = error

    def wait(self) -> None:
        self._event.wait()
        if self._error is not None:
            raise self._error
        np.copyto(self._host, self._source)


def is_movable(leaf: Any) -> bool:
    """Whether an argument is an array of the host that goes to a device: of numbers, not of strings or objects."""
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufcV"


def _same(value: Any) -> Any:
    return value


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{os.uname().machine}, {cores} cores"
