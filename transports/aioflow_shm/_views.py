"""Memory that was received: what is mapped, views of it, and how one is found again in what was made of it."""

from __future__ import annotations

import mmap
import os
import resource
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

import numpy as np

from aioflow_shm._forks import current_generation, fork_count
from aioflow_shm._limits import SHARE_OF_DESCRIPTORS
from aioflow_shm._places import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from aioflow.transport import Frame

    Bytes = NDArray[np.uint8]


class Mapping:
    """A segment that is mapped for reading, as long as something refers to it.

    Args:
        fd: Its descriptor, which is duplicated.
        size: Its size.

    Attributes:
        memory: All of it.
        inode: Of the memory, in every process that has it.

    Raises:
        OSError: It cannot be mapped.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = -1
        # Not populated: whoever passes it on never touches it.
        self.memory = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        self._fd = os.dup(fd)
        self.inode = os.fstat(fd).st_ino

    def __del__(self) -> None:
        """Close the descriptor; the memory goes with its last view."""
        if self._fd >= 0:
            os.close(self._fd)

    def duplicate(self) -> int | None:
        """Return a descriptor of it, for the caller; None where there is none left."""
        try:
            return os.dup(self._fd)
        except OSError:
            return None


class View(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """A frame in a mapped segment. Whoever keeps memory of it, through however many views and arrays, keeps it.

    Attributes:
        mapping: The segment.
        start: Where in it the frame begins.
        lease: Tells when the view is gone.
    """

    mapping: Mapping
    start: int
    lease: Lease

    @classmethod
    def of(cls, mapping: Mapping, start: int, size: int) -> Self:
        """Make a view; its lease is still to be set."""
        view = np.frombuffer(mapping.memory, np.uint8, size, start).view(cls)
        view.mapping = mapping
        view.start = start
        return view

    def keep(self) -> None:
        """Have its memory not used again when it is gone: somebody may see it who will not say until when."""
        self.lease.forks = -1


class Lease(ref[View]):
    """Tells when a view is gone."""

    __slots__ = ("forks", "generation", "number")

    def __new__(cls, view: View, callback: Callable[[Any], None], number: int) -> Self:  # noqa: ARG004
        """Make a weak reference, which knows nothing of numbers."""
        return super().__new__(cls, view, callback)

    def __init__(self, view: View, callback: Callable[[Any], None], number: int) -> None:  # noqa: ARG002
        self.number = number
        self.forks = fork_count()
        self.generation = current_generation()


def find_owner(frame: Frame) -> tuple[View | Place | None, int]:
    """Return the view or the place in whose memory a frame lies, and where in it; None where it lies elsewhere."""
    owner = frame
    while not isinstance(owner, (View, Place)):
        if isinstance(owner, memoryview):
            owner = owner.obj  # type: ignore[assignment]
        elif isinstance(owner, np.ndarray):
            owner = owner.base
        else:
            return None, 0
    return owner, _address(np.frombuffer(frame, np.uint8)) - _address(owner)


def check_descriptor(fd: int) -> None:
    """Leave the upper half of the descriptors that are allowed to others.

    Raises:
        OSError: This one is among them.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and fd >= limit // SHARE_OF_DESCRIPTORS:
        raise OSError(f"descriptor {fd} of {limit} is in use; raise ulimit -n")


def _address(array: Bytes) -> int:
    return int(array.__array_interface__["data"][0])
