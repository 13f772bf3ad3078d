"""What is passed on: frames that came through a connection, and are sent on another one without a copy.

The other side is told of the memory in which they lie, and maps it. A place goes back when the last view on that side
is gone too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ref

from aioflow_shm._limits import FOREIGN_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow_shm._memory import Memory
    from aioflow_shm._parcels import Reference
    from aioflow_shm._views import View


@dataclass(slots=True, eq=False)
class Foreign:
    """What the other side is told of memory in which something lies that came through a connection.

    Attributes:
        number: Its name on the wire.
        is_mapped: Whether the other side has mapped it.
        is_answered: Whether it has said so, or that it cannot.
    """

    number: int
    is_mapped: bool = False
    is_answered: bool = False


class Passing:
    """What is passed on in one direction of a connection.

    Args:
        number: Returns the next number of a segment.
        made: Numbers and memory of what the other side is to be told of.
        dropped: Numbers of what it may forget.
    """

    def __init__(self, number: Callable[[], int], made: list[tuple[int, Memory]], dropped: list[int]) -> None:
        self._number = number
        self._made = made
        self._dropped = dropped
        self._foreign: dict[ref[Memory], Foreign] = {}
        self._leases: dict[int, View] = {}

    @property
    def has_any(self) -> bool:
        """Whether the other side has any of this memory."""
        return bool(self._foreign)

    def find(self, view: View) -> Foreign | None:
        """Return what the other side is told of a view's memory; None where it cannot be told."""
        memory = view.memory
        foreign = self._foreign.get(ref(memory))
        if foreign is None and len(self._foreign) < FOREIGN_MAX:
            foreign = Foreign(self._number())
            self._made.append((foreign.number, memory))
            self._foreign[ref(memory, self._is_gone)] = foreign
        return foreign

    def put(self, view: View, start: int, size: int, lease: int) -> Reference | None:
        """Return where a frame lies that came through a connection, if the other side has that memory mapped."""
        foreign = self.find(view)
        if foreign is None or not foreign.is_mapped:
            return None
        self._leases[lease] = view
        return foreign.number, view.start + start, size, lease

    def answered(self, number: int, *, is_mapped: bool) -> None:
        """Learn whether the other side has mapped memory."""
        for foreign in tuple(self._foreign.values()):
            if foreign.number == number:
                foreign.is_mapped, foreign.is_answered = is_mapped, True

    def end(self, lease: int, *, is_kept: bool) -> bool:
        """Let go of what was passed on; say whether a lease is one of these."""
        view = self._leases.pop(lease, None)
        if view is not None and is_kept:
            view.keep()
        return view is not None

    def close(self) -> None:
        """Let go of everything; what the other side may still see is not used again."""
        for view in self._leases.values():
            view.keep()
        self._leases.clear()
        self._foreign.clear()

    def _is_gone(self, memory: ref[Memory]) -> None:
        """Have the other side forget memory of which there is nothing left here, in whatever thread."""
        if (foreign := self._foreign.pop(memory, None)) is not None:
            self._dropped.append(foreign.number)
