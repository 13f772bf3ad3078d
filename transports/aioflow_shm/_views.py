"""Views of memory that was received, and how one is found again in what was made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from weakref import ref

import numpy as np

from aioflow_shm._forks import current_generation, fork_count
from aioflow_shm._places import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from aioflow.transport import Frame
    from aioflow_shm._memory import Memory
    from aioflow_shm._pieces import ReceivedPieces

    Bytes = NDArray[np.uint8]


class View(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """A frame in mapped memory. Whoever keeps some of it, through however many views and arrays, keeps it.

    Attributes:
        memory: Where it lies.
        start: Where in it the frame begins.
        lease: Tells when the view is gone.
    """

    memory: Memory
    start: int
    lease: Lease

    @property
    def memories(self) -> set[Memory]:
        """Where it lies, as pieces have it."""
        return {self.memory}

    @classmethod
    def of(cls, memory: Memory, start: int, size: int) -> Self:
        """Make a view; its lease is still to be set."""
        view = memory.array(start, size).view(cls)
        view.memory = memory
        view.start = start
        return view

    def keep(self) -> None:
        """Have its memory not used again when it is gone: somebody may see it who will not say until when."""
        self.lease.forks = -1


class Lease(ref["View | ReceivedPieces"]):
    """Tells when a view, or all of some pieces, is gone."""

    __slots__ = ("forks", "generation", "memories", "number")

    def __new__(cls, view: View | ReceivedPieces, callback: Callable[[Any], None], number: int) -> Self:  # noqa: ARG004
        """Make a weak reference, which knows nothing of numbers."""
        return super().__new__(cls, view, callback)

    def __init__(self, view: View | ReceivedPieces, callback: Callable[[Any], None], number: int) -> None:  # noqa: ARG002
        self.number = number
        self.memories = view.memories
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


def _address(array: Bytes) -> int:
    return int(array.__array_interface__["data"][0])
