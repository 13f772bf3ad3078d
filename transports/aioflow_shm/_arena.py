"""The arena: all memory that a server shares with its clients, to write in and to read.

The server makes it, lends it to who writes, and has it back. What came back is lent again, the last first, as it is
warm: its first touch, which costs ten times a copy, is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from aioflow_shm._memory import Memory, make_memory

if TYPE_CHECKING:
    from collections.abc import Iterator


class Arena:
    """The memory of one server.

    Attributes:
        known: All that is there as long as something refers to it: what is lent, what is free, what clients of other
            servers have brought along, and what those that are gone have left in use.
    """

    def __init__(self) -> None:
        self.known: WeakSet[Memory] = WeakSet()
        self._free: list[Memory] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all, counted once."""
        return sum({memory.inode: memory.size for memory in self.known}.values())

    @property
    def free_bytes(self) -> int:
        """Bytes of what nobody has."""
        return sum(memory.size for memory in self._free)

    def has(self, size: int) -> bool:
        """Whether there is free memory of exactly so many bytes."""
        return any(self._of(size))

    def take(self, size: int) -> Memory:
        """Return memory of so many bytes, made if none is free.

        Raises:
            OSError: There is none, or no descriptor.
        """
        memory = next(self._of(size), None)
        if memory is None:
            memory = make_memory(size)
            self.known.add(memory)
        else:
            self._free.remove(memory)
        return memory

    def give_back(self, memory: Memory) -> None:
        """Have memory back in which nobody writes or reads, unless it is to be kept as it is."""
        if not memory.is_kept:
            self._free.append(memory)

    def release(self, nbytes: int) -> None:
        """Let go of free memory, the longest free first, until that is so many bytes or nothing is left."""
        while self._free and nbytes > 0:
            nbytes -= self._free.pop(0).size

    def _of(self, size: int) -> Iterator[Memory]:
        return (memory for memory in reversed(self._free) if memory.size == size)
