"""The CUDA backend, on CuPy; the one module that knows it, and imported only when GPUs are opened.

* **Who calls what.** A stream's thread has its CUDA stream current: functions give their work to it and return. Its
  waiter blocks in `Event.synchronize`, which lets other threads run.
* **Memory.** CuPy's pool keeps freed blocks by the stream on which they were allocated, and gives them out anew on that
  stream at once: that is right for whoever used them on that stream only. So what another stream uses is kept until
  its work is done: by `Stream` for values of launches, by `_Lent` for what was handed out.
* **Copies.** From and to pageable memory the driver would make its caller wait: arrays go through page-locked buffers
  of a bounded pool. Arguments are copied on the stream that needs them, `put` on a stream of its own, and so are
  results.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, final

import cupy  # pyright: ignore[reportMissingImports]
import numpy as np
from cupy.cuda.memory import OutOfMemoryError  # pyright: ignore[reportMissingImports]
from cupy.cuda.runtime import CUDARuntimeError  # pyright: ignore[reportMissingImports]

from aioflow.devices._cpu import is_movable
from aioflow.devices._device import CLOSE_S, DeviceInfo, Memory
from aioflow.devices._memory import PinnedPool, out_of_memory
from aioflow.devices._stream import Launch, Stream, close_streams
from aioflow.errors import DeviceError, DeviceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from aioflow.devices._device import Event
    from aioflow.devices._options import GPUOptions
    from aioflow.names import DeviceName

__all__ = ["CudaDevice", "count_devices"]

# Enough for the branches that graphs have; the hardware runs more at once than kernels leave room for.
STREAMS = 4
# Of each device: two batches of 64 MB each way. Beyond it copies are made all the same, through the driver's buffers.
PINNED_BYTES_MAX = 256 << 20
# What is left to others on a card of which all is taken at the start, at least: a twentieth of it, or this (that is
# TensorFlow's).
REST_BYTES = 300 << 20
# CuPy's pool hands memory out in multiples of this.
ALLOCATION_BYTES = 512


def count_devices() -> int:
    """Return how many devices this process sees.

    Raises:
        DeviceUnavailable: There is no driver, or no device that it would give.
    """
    try:
        count: int = cupy.cuda.runtime.getDeviceCount()
    except CUDARuntimeError as error:
        raise DeviceUnavailable(f"CUDA gives no device: {error}") from error
    return count


@final
class CudaDevice:
    """A card, with streams of its own.

    Args:
        name: The full name.
        ordinal: CUDA's number of the device, among those that the process sees.
        options: Limits of memory; they hold for all that uses CuPy's pool in this process.
        streams: How many there are for launches.

    Raises:
        DeviceUnavailable: CUDA refuses the device.
        DeviceOutOfMemory: The limit is to be taken at the start, and is not free.
    """

    def __init__(self, name: DeviceName, ordinal: int, *, options: GPUOptions, streams: int = STREAMS) -> None:
        self.name = name
        self.kind = "GPU"
        self._ordinal = ordinal
        self._pool = cupy.get_default_memory_pool()
        self._pinned = PinnedPool(cupy.cuda.alloc_pinned_memory, PINNED_BYTES_MAX)
        try:
            with cupy.cuda.Device(ordinal):
                to_host = cupy.cuda.Stream(non_blocking=True)
                engines = [_CudaEngine(self, self._pinned, ordinal, to_host) for _ in range(streams + 1)]
                free, self._total = cupy.cuda.Device(ordinal).mem_info
                properties = cupy.cuda.runtime.getDeviceProperties(ordinal)
                if options.per_process_gpu_memory_fraction is not None:
                    self._pool.set_limit(fraction=options.per_process_gpu_memory_fraction)
                elif not options.allow_growth:
                    free += self._pool.total_bytes() - max(REST_BYTES, self._total // 20)
                    self._pool.set_limit(size=max(ALLOCATION_BYTES, free))
        except CUDARuntimeError as error:
            raise DeviceUnavailable(f"{name}: CUDA refuses device {ordinal}: {error}") from error
        self._description: str = properties["name"].decode()
        self._engines = engines
        self.streams: Sequence[Stream] = tuple(
            Stream(self, f"{name} stream {number}", engine) for number, engine in enumerate(engines[:-1])
        )
        self._copies = Stream(self, f"{name} copies", engines[-1])
        if not options.allow_growth:
            engines[0].reserve()

    @property
    def host_waits(self) -> int:
        """How often `when_done` was called on its streams and its copies."""
        return sum(stream.host_waits for stream in (*self.streams, self._copies))

    def info(self) -> DeviceInfo:
        """Return what is told of it."""
        return DeviceInfo(str(self.name), self.kind, self.memory().limit, self._description)

    def memory(self) -> Memory:
        """Return the bytes of CuPy's pool that are in use in this process, and its limit; all of the card's without."""
        with cupy.cuda.Device(self._ordinal):
            return Memory(self._pool.used_bytes(), self._pool.get_limit() or self._total)

    def put(self, value: Any) -> Launch:
        """Copy the arrays of a value to the device on a stream of its own, as `Device.put` says."""
        return self._copies.launch(_same, [value], name="put")

    def close(self, bound_s: float = CLOSE_S) -> None:
        """Cancel what has not begun, wait for what runs, and end the threads, as `Device.close` says."""
        close_streams((*self.streams, self._copies), str(self.name), bound_s)
        for engine in self._engines:
            engine.close()
        self._pinned.clear()

    def __enter__(self) -> Self:
        """Return the device itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the device."""
        self.close()


class _CudaEngine:
    """A CUDA stream and what it works with."""

    def __init__(self, device: CudaDevice, pinned: PinnedPool, ordinal: int, to_host: Any) -> None:
        self._device = device
        self._pinned = pinned
        self._ordinal = ordinal
        self._to_host = to_host
        # It does not wait for the default stream, nor that one for it: what users do there goes on beside it.
        self._stream = cupy.cuda.Stream(non_blocking=True)
        # What a copy, or work outside of the device's streams, may still use; appended to by any thread, also within a
        # garbage collection, so there is no lock.
        self._kept: deque[tuple[_CudaEvent, Callable[[], object]]] = deque()

    def start(self) -> None:
        with suppress(CUDARuntimeError):  # the device is lost: then all that comes says so
            cupy.cuda.Device(self._ordinal).use()
            self._stream.use()

    def arrivals(self, leaves: list[Any]) -> list[Event]:
        if not any(isinstance(leaf, cupy.ndarray) for leaf in leaves):
            return []
        with self._mapped("an argument"):
            return [self._record_current()]

    def follow(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        with self._mapped("an earlier launch"):
            self._stream.wait_event(event.event)

    def put(self, leaf: Any) -> Any:
        if not is_movable(leaf):
            return leaf
        with self._mapped("a copy to the device"):
            self._give_back()
            array = cupy.empty(leaf.shape, leaf.dtype)
            if not leaf.nbytes:
                return array
            taken = self._pinned.take(leaf.nbytes)
            if taken is None:
                array.set(np.ascontiguousarray(leaf), stream=self._stream)
                return array
            size, buffer = taken
            staged = np.ndarray(leaf.shape, leaf.dtype, buffer=buffer)
            np.copyto(staged, leaf)
            array.set(staged, stream=self._stream)
            self._kept.append((self.record(), partial(self._pinned.give, size, buffer)))
            return array

    def run(self, function: Callable[..., Any], arguments: Sequence[Any], name: str) -> Any:
        with self._mapped(name):
            self._give_back()
            return function(*arguments)

    def record(self) -> _CudaEvent:
        return self._record(self._stream)

    def get(self, leaf: Any, event: Event, name: str) -> tuple[Any, Event]:
        if not isinstance(leaf, cupy.ndarray):
            return leaf, event
        host = np.empty(leaf.shape, leaf.dtype)
        if not leaf.nbytes:
            return host, event
        with self._mapped(name):
            if not leaf.flags.c_contiguous:
                leaf, event = cupy.ascontiguousarray(leaf), self.record()
            assert isinstance(event, _CudaEvent)
            taken = self._pinned.take(leaf.nbytes)
            if taken is None:
                return host, _LateCopy(event, leaf, host, self._to_host)
            size, buffer = taken
            staged = np.ndarray(leaf.shape, leaf.dtype, buffer=buffer)
            self._to_host.wait_event(event.event)
            leaf.get(stream=self._to_host, out=staged, blocking=False)
            copied = self._record(self._to_host)
        return host, _StagedCopy(copied, leaf, host, staged, partial(self._pinned.give, size, buffer))

    def lend(self, leaf: Any) -> Any:
        if not isinstance(leaf, cupy.ndarray) or not leaf.nbytes:
            return leaf
        memory = cupy.cuda.UnownedMemory(leaf.data.ptr, leaf.nbytes, _Lent(leaf, self._keep), self._ordinal)
        return cupy.ndarray(leaf.shape, leaf.dtype, cupy.cuda.MemoryPointer(memory, 0), strides=leaf.strides)

    def note(self, action: str, name: str) -> None:
        """Do nothing: only the CPU backend keeps a trace."""

    def reserve(self) -> None:
        """Have the pool take all of its limit from the card, for this stream to begin with."""
        with self._mapped("the reservation"), cupy.cuda.Device(self._ordinal), self._stream:
            pool = cupy.get_default_memory_pool()
            free = pool.get_limit() - pool.total_bytes()
            cupy.cuda.alloc(max(0, free) // ALLOCATION_BYTES * ALLOCATION_BYTES)

    def close(self) -> None:
        """Wait for what may still use memory, and let go of it."""
        while self._kept:
            event, give = self._kept.popleft()
            with suppress(DeviceError):
                event.wait()
            give()

    def _keep(self, leaf: Any) -> None:
        """Keep an array until what its last user gave to the device so far is done."""
        with suppress(CUDARuntimeError), cupy.cuda.Device(self._ordinal):
            self._kept.append((self._record_current(), partial(_same, leaf)))

    def _give_back(self) -> None:
        while self._kept and self._kept[0][0].is_done:
            self._kept.popleft()[1]()

    def _record_current(self) -> _CudaEvent:
        """Record an event on the stream that is current in the calling thread."""
        with cupy.cuda.Device(self._ordinal):
            return self._record(cupy.cuda.get_current_stream(self._ordinal))

    def _record(self, stream: Any) -> _CudaEvent:
        event = cupy.cuda.Event(block=True, disable_timing=True)  # block: who waits sleeps, and does not spin
        event.record(stream)
        return _CudaEvent(event)

    @contextmanager
    def _mapped(self, name: str) -> Generator[None]:
        try:
            yield
        except OutOfMemoryError as error:
            asked, held, limit = (getattr(error, key, 0) for key in ("_size", "_total", "_limit"))
            limit = limit or self._device.memory().limit or 0
            raise out_of_memory(f"{self._device.name}, {name}", asked, held, limit) from error
        except CUDARuntimeError as error:
            raise DeviceError(f"{self._device.name} failed at {name}: {error}") from error


class _CudaEvent:
    """A CUDA event that was recorded."""

    def __init__(self, event: Any) -> None:
        self.event = event

    @property
    def is_done(self) -> bool:
        try:
            return bool(self.event.done)
        except CUDARuntimeError:
            return False  # whoever waits is told

    def wait(self) -> None:
        try:
            self.event.synchronize()
        except CUDARuntimeError as error:
            raise DeviceError(f"the device failed: {error}") from error


class _StagedCopy:
    """A copy that is under way into a page-locked buffer; whoever waits for it takes it out of there."""

    is_done = False

    def __init__(self, copied: _CudaEvent, source: Any, host: Any, staged: Any, give: Callable[[], object]) -> None:
        self._copied = copied
        self._source = source  # kept until the copy has been made
        self._host = host
        self._staged = staged
        self._give = give

    def wait(self) -> None:
        self._copied.wait()
        np.copyto(self._host, self._staged)
        self._give()


class _LateCopy:
    """A copy for which there was no page-locked buffer: whoever waits for it makes it."""

    is_done = False

    def __init__(self, event: _CudaEvent, source: Any, host: Any, to_host: Any) -> None:
        self._event = event
        self._source = source
        self._host = host
        self._to_host = to_host

    def wait(self) -> None:
        self._event.wait()
        try:
            self._source.get(stream=self._to_host, out=self._host)
        except CUDARuntimeError as error:
            raise DeviceError(f"the device failed at a copy to the host: {error}") from error


class _Lent:
    """The owner of memory that was handed out: it is kept until its last user's work is done."""

    def __init__(self, leaf: Any, keep: Callable[[Any], None]) -> None:
        self._leaf = leaf
        self._keep = keep

    def __del__(self) -> None:
        self._keep(self._leaf)


def _same(value: Any) -> Any:
    return value
