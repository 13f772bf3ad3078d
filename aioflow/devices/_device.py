"""What a device is to those who use it.

Every device keeps these rules:

1. Work is *launched* on a stream and never waited for there. Launches of one stream run in the order in which they
   were made; those of several streams overlap. A launch that takes another's value, or is made `after` it, follows it.
2. A value stays on the device until somebody waits: `Stream.when_done` is one host wait, and counted. A chain of any
   number of launches needs one.
3. A launch that fails, or is cancelled, fails those that take its value or come after it, with the same error; their
   functions are not called. The stream goes on.
4. A value lives until it was released and all launches and waits that were made with it before are through. Its memory
   is not used anew while the device still works with it.
5. Each stream has a thread, which starts with its first launch, and a second one that waits, which starts with the
   first wait. Callbacks are called in the second. `close` ends both, within a bound.

`Stream` and `Launch` are the same for every device (`_stream.py`). What differs is a stream's `Engine`: `_cpu.py` has
the one that runs work in the stream's thread, `_cuda.py` the one that gives it to a CUDA stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from aioflow.devices._stream import Launch, Stream
    from aioflow.names import DeviceName

__all__ = ["CLOSE_S", "Device", "DeviceInfo", "Engine", "Event", "Memory", "map_leaves"]

# How long a close waits for the work that runs: longer than a kernel should take, shorter than anyone's patience.
CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What is told of a device.

    Attributes:
        name: In full, such as `/job:localhost/task:0/device:GPU:0`.
        kind: `CPU` or `GPU`.
        memory_limit: Bytes that may be held on it; None where no limit is known.
        description: The card's own name; of a CPU, its architecture and the number of cores for this process.
    """

    name: str
    kind: str
    memory_limit: int | None
    description: str


class Memory(NamedTuple):
    """Bytes of a device's memory: those that are held by values, and the limit; None where there is none."""

    held: int
    limit: int | None


class Device(Protocol):
    """Where kernels run and values are held; of one process. Its methods may be called from any thread."""

    @property
    def name(self) -> DeviceName:
        """The full name: job, task, kind and index."""
        ...

    @property
    def kind(self) -> str:
        """The kind of its kernels, such as `GPU`."""
        ...

    @property
    def streams(self) -> Sequence[Stream]:
        """For launches, numbered from 0; none where kernels run on the host's own threads."""
        ...

    @property
    def host_waits(self) -> int:
        """How often `when_done` was called on its streams and its copies."""
        ...

    def info(self) -> DeviceInfo:
        """Return what is told of it."""
        ...

    def memory(self) -> Memory:
        """Return what is held now, and the limit."""
        ...

    def put(self, value: Any) -> Launch:
        """Copy the arrays of a value, nested in lists, tuples and dicts, to the device, beside the work of its streams.

        It does not wait. The arrays may not be changed until the launch that it returns is done. It fails with
        `DeviceOutOfMemory` where the limit does not allow it.
        """
        ...

    def close(self, bound_s: float = CLOSE_S) -> None:
        """Cancel what has not begun, wait for what runs, and end the threads. A second call does nothing.

        It blocks: call it in a thread where an event loop must go on. Waits are called back before it returns.

        Raises:
            DeviceError: Something still ran after `bound_s` seconds; its thread is left behind.
        """
        ...

    def __enter__(self) -> Self:
        """Return the device itself."""
        ...

    def __exit__(self, *_: object) -> None:
        """Close the device."""
        ...


class Event(Protocol):
    """A point in a stream's work."""

    @property
    def is_done(self) -> bool:
        """Whether the device has come to it."""
        ...

    def wait(self) -> None:
        """Block until the device has come to it.

        Raises:
            DeviceError: The device failed at what it had to do before.
        """
        ...


class Engine(Protocol):
    """What a stream's thread works with, and what differs between devices; one for each stream.

    Its methods are called in the stream's thread, and return without waiting for the device wherever it can work by
    itself; `start` is called first in each of the stream's two threads, `arrivals` by whoever launches.
    """

    def start(self) -> None:
        """Make the device and the stream current in the calling thread."""
        ...

    def arrivals(self, leaves: list[Any]) -> list[Event]:
        """Return what to wait for before arguments can be used that the caller made on the device by other means."""
        ...

    def follow(self, event: Event) -> None:
        """Have the stream's later work come after an event of another stream."""
        ...

    def put(self, leaf: Any) -> Any:
        """Bring an argument to the device, if it is an array that is not there."""
        ...

    def run(self, function: Callable[..., Any], arguments: Sequence[Any], name: str) -> Any:
        """Call a function and return its value.

        Raises:
            DeviceOutOfMemory: The limit did not allow for it.
            DeviceError: The device failed.
            Exception: What the function raised.
        """
        ...

    def record(self) -> Event:
        """Return the event of all that the stream was given so far."""
        ...

    def get(self, leaf: Any, event: Event, name: str) -> tuple[Any, Event]:
        """Begin to copy a leaf of a value to the host, after an event.

        Returns:
            The leaf on the host, and the event at which it is complete, which comes after the one that was given; for
            what is no array, the same leaf and event.
        """
        ...

    def lend(self, leaf: Any) -> Any:
        """Return a leaf of a value for use outside of the device's streams."""
        ...

    def note(self, action: str, name: str) -> None:
        """Learn what was done with a launch, for a trace."""
        ...


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a value with each of its leaves replaced by what a function makes of it.

    Leaves are what is no list, tuple or dict.
    """
    if isinstance(value, tuple):
        parts = [map_leaves(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [map_leaves(function, part) for part in value]
    if isinstance(value, dict):
        return {key: map_leaves(function, part) for key, part in value.items()}
    return function(value)
