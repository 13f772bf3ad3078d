"""Memory: what is held on a device that counts for itself, and page-locked buffers for copies."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.devices._device import Memory
from aioflow.errors import DeviceOutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Accounts", "PinnedPool", "out_of_memory"]

Array = np.ndarray[Any, np.dtype[Any]]

# The driver hands page-locked memory out by pages.
PINNED_BYTES_MIN = 4096


def out_of_memory(device: object, asked: int, held: int, limit: int) -> DeviceOutOfMemory:
    """Return the error that says what was asked, what is held and the limit."""
    return DeviceOutOfMemory(
        f"{device}: {asked:,} bytes were asked for, {held:,} are held, the limit is {limit:,}; "
        "release values earlier, use smaller batches, or allow more memory",
        asked=asked,
        held=held,
        limit=limit,
    )


class _Held(weakref.ref[Array]):
    """An array that is accounted for; its bytes are given back when nobody refers to it, nor to a view of it."""

    __slots__ = ("key", "nbytes")

    key: int
    nbytes: int


class Accounts:
    """The arrays that are held on a device, and a limit for their bytes."""

    def __init__(self, device: object, limit: int | None) -> None:
        self._device = device
        self._limit = limit
        self._lock = threading.Lock()
        self._arrays: dict[int, _Held] = {}
        self._held = 0
        # An array may be dropped anywhere, also while the lock is held: its end is only noted there.
        self._gone: deque[_Held] = deque()

    @property
    def memory(self) -> Memory:
        """What is held now, and the limit."""
        with self._lock:
            self._settle()
            return Memory(self._held, self._limit)

    def holds(self, array: Array) -> bool:
        """Whether an array's memory is accounted for."""
        root = _root(array)
        with self._lock:
            held = self._arrays.get(id(root))
            return held is not None and held() is root

    def hold(self, array: Array) -> None:
        """Account for an array's memory, unless it is already.

        Raises:
            DeviceOutOfMemory: The limit does not allow for it.
        """
        root = _root(array)
        with self._lock:
            self._settle()
            held = self._arrays.get(id(root))
            if held is not None and held() is root:
                return
            if self._limit is not None and self._held + root.nbytes > self._limit:
                raise out_of_memory(self._device, root.nbytes, self._held, self._limit)
            held = _Held(root, self._gone.append)
            held.key, held.nbytes = id(root), root.nbytes
            self._arrays[held.key] = held
            self._held += held.nbytes

    def _settle(self) -> None:
        while self._gone:
            held = self._gone.popleft()
            self._held -= held.nbytes
            if self._arrays.get(held.key) is held:
                del self._arrays[held.key]


class PinnedPool:
    """Page-locked buffers, taken and given back, by sizes that are powers of two.

    Page-locking costs much more than a copy, so buffers are kept; and it takes memory from everyone, so there is a
    bound.

    Args:
        allocate: Returns a new buffer of so many bytes; what it raises goes on.
        bytes_max: How much there may be, of buffers in use and kept ones.
    """

    def __init__(self, allocate: Callable[[int], Any], bytes_max: int) -> None:
        self._allocate = allocate
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._free: dict[int, list[Any]] = {}
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """How much there is, of buffers in use and kept ones."""
        return self._bytes

    def take(self, nbytes: int) -> tuple[int, Any] | None:
        """Return a buffer of at least so many bytes with its size; None where the bound does not allow for one."""
        size = max(PINNED_BYTES_MIN, 1 << max(0, nbytes - 1).bit_length())
        with self._lock:
            if kept := self._free.get(size):
                return size, kept.pop()
            while self._bytes + size > self._bytes_max:
                other = next((key for key, buffers in self._free.items() if buffers), None)
                if other is None:
                    return None
                self._free[other].pop()
                self._bytes -= other
            self._bytes += size
        try:
            return size, self._allocate(size)
        except BaseException:
            with self._lock:
                self._bytes -= size
            raise

    def give(self, size: int, buffer: Any) -> None:
        """Give a buffer back that no copy uses any more."""
        with self._lock:
            self._free.setdefault(size, []).append(buffer)

    def clear(self) -> None:
        """Let go of the buffers that are kept."""
        with self._lock:
            self._bytes -= sum(size * len(buffers) for size, buffers in self._free.items())
            self._free.clear()


def _root(array: Array) -> Array:
    """Return the array whose memory a view shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
