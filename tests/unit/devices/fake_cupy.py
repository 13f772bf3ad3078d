"""A stand-in for CuPy that does its work at once, on the host, and notes the order of calls."""

from __future__ import annotations

import ctypes
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import numpy as np

from aioflow.devices._memory import Accounts
from aioflow.errors import DeviceOutOfMemory

TOTAL_BYTES = 1 << 30


class CUDARuntimeError(RuntimeError):
    """CuPy's of that name."""


class OutOfMemoryError(MemoryError):
    """CuPy's of that name, with its attributes."""

    def __init__(self, size: int, total: int, limit: int) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes")
        self._size, self._total, self._limit = size, total, limit


class State:
    """What a test sees of the stand-in, and what it decides."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.done_at_once = True  # events; otherwise once somebody has waited for them
        self.failure: str | None = None  # of the next wait
        self.devices = 2
        self.local = threading.local()
        self.limit(0)

    def limit(self, size: int) -> None:
        self.limit_bytes = size
        self.accounts = Accounts("pool", size or None)

    @property
    def stream(self) -> Any:
        return getattr(self.local, "stream", "default")

    def of(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in names]


state = State()


def _hold(array: Any) -> Any:
    try:
        state.accounts.hold(array)
    except DeviceOutOfMemory as error:
        raise OutOfMemoryError(error.asked, error.held, state.limit_bytes) from None
    return array


class FakeArray(np.ndarray[Any, np.dtype[Any]]):
    """An array "on the device"."""

    memory: Any

    def __new__(cls, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None) -> Self:
        if memptr is None:
            return super().__new__(cls, shape, dtype)
        buffer = (ctypes.c_char * memptr.memory.size).from_address(memptr.memory.ptr)
        array = super().__new__(cls, shape, dtype, buffer=buffer, strides=strides)
        array.memory = memptr
        return array

    def __array_finalize__(self, obj: Any) -> None:
        self.memory = getattr(obj, "memory", None)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: Any = False) -> Any:
        return _hold(array.view(FakeArray))

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, array: Any, stream: Any = None) -> None:
        assert array.flags.c_contiguous
        state.calls.append(("set", stream.number))
        np.copyto(self.view(np.ndarray), array)

    def get(self, stream: Any = None, out: Any = None, blocking: bool = True) -> Any:
        state.calls.append(("get", stream.number, blocking))
        np.copyto(out, self.view(np.ndarray))
        return out


class Stream:
    """A stream, by its number."""

    def __init__(self, *, non_blocking: bool) -> None:
        assert non_blocking
        self.number = len(state.of("stream"))
        state.calls.append(("stream", self.number))

    def use(self) -> None:
        state.local.stream = self.number

    def __enter__(self) -> None:
        self.before = state.stream
        self.use()

    def __exit__(self, *_: object) -> None:
        state.local.stream = self.before

    def wait_event(self, event: Event) -> None:
        state.calls.append(("wait_event", self.number, event.number))


class Event:
    """An event, by its number."""

    def __init__(self, *, block: bool, disable_timing: bool) -> None:
        assert block
        assert disable_timing
        self.number = len(state.of("record"))
        self.is_done = state.done_at_once

    def record(self, stream: Any) -> None:
        state.calls.append(("record", getattr(stream, "number", stream), self.number))

    @property
    def done(self) -> bool:
        return self.is_done

    def synchronize(self) -> None:
        state.calls.append(("synchronize", self.number))
        failure, state.failure = state.failure, None
        if failure:
            raise CUDARuntimeError(failure)
        self.is_done = True


class Device:
    """A device, by its ordinal."""

    mem_info = (TOTAL_BYTES, TOTAL_BYTES)

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal

    def use(self) -> None:
        state.local.device = self.ordinal

    def __enter__(self) -> Self:
        if self.ordinal >= state.devices:
            raise CUDARuntimeError("invalid device ordinal")
        return self

    def __exit__(self, *_: object) -> None: ...


def _set_limit(size: int = 0, fraction: float | None = None) -> None:
    state.calls.append(("set_limit", fraction or size))
    state.limit(int(TOTAL_BYTES * fraction) if fraction else size)


def _count() -> int:
    if not state.devices:
        raise CUDARuntimeError("cudaErrorNoDevice")
    return state.devices


def make() -> dict[str, ModuleType]:
    """Return the modules of the stand-in, by their names, with a state of its own."""
    state.__init__()  # type: ignore[misc]
    cupy: Any = ModuleType("cupy")
    cupy.ndarray = FakeArray
    cupy.empty = lambda shape, dtype: _hold(FakeArray(shape, dtype))
    cupy.ascontiguousarray = lambda array: _hold(np.ascontiguousarray(array).view(FakeArray))
    pool = SimpleNamespace(
        used_bytes=lambda: state.accounts.memory.held,
        total_bytes=lambda: state.accounts.memory.held,
        get_limit=lambda: state.limit_bytes,
        set_limit=_set_limit,
    )
    cupy.get_default_memory_pool = lambda: pool
    cupy.cuda = cuda = ModuleType("cupy.cuda")
    contents: dict[str, Any] = {
        "Device": Device,
        "Event": Event,
        "Stream": Stream,
        "alloc": lambda size: state.calls.append(("alloc", state.stream, size)),
        "alloc_pinned_memory": bytearray,
        "get_current_stream": lambda _: state.stream,
        "UnownedMemory": lambda ptr, size, owner, _: SimpleNamespace(ptr=ptr, size=size, owner=owner),
        "MemoryPointer": lambda memory, _: SimpleNamespace(memory=memory),
    }
    vars(cuda).update(contents)
    memory: Any = ModuleType("cupy.cuda.memory")
    memory.OutOfMemoryError = OutOfMemoryError
    runtime: Any = ModuleType("cupy.cuda.runtime")
    runtime.CUDARuntimeError = CUDARuntimeError
    runtime.getDeviceCount = _count
    runtime.getDeviceProperties = lambda ordinal: {"name": f"Card {ordinal}".encode()}
    vars(cuda).update(memory=memory, runtime=runtime)
    assert "cupy" not in sys.modules or sys.modules["cupy"] is not cupy
    return {"cupy": cupy, "cupy.cuda": cuda, "cupy.cuda.memory": memory, "cupy.cuda.runtime": runtime}
