"""What a server shares with its clients: `SHARED_BYTES` in all and `CLIENT_BYTES` for each, or what is in use.

A client that has made memory beyond that may use it when others have given back as much of what they do not use, or
have had `LEAVE_S` for it. Beyond `SHARED_BYTES` what is not in use for `TRIM_S` is given back.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING
from weakref import WeakSet

import anyio

from aioflow_shm._limits import ASKED_MAX, CLIENT_BYTES, LEAVE_S, RECENT_S, SHARED_BYTES, TRIM_S

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from aioflow_shm._end import End, Turns
    from aioflow_shm._segments import Segments
    from aioflow_shm._views import Mapping


class Budget:
    """The memory of a server's connections.

    Args:
        turns: Those of its connections.
        task_group: Where it waits for what it has asked for.
        closing: Set when the server is about to close its connections.

    Attributes:
        segments: The connections, and the memory that the server has made for each.
        mapped: What clients have made, also those that are gone, as long as something refers to it.
    """

    def __init__(self, turns: Turns, task_group: TaskGroup, closing: anyio.Event) -> None:
        self.segments: dict[End, Segments] = {}
        self.mapped: WeakSet[Mapping] = WeakSet()
        self._turns = turns
        self._task_group = task_group
        self._closing = closing
        self._made: deque[tuple[End, int]] = deque()  # by clients, and not to be used yet
        self._asked: End | None = None
        self._silent: set[End] = set()  # they have been asked, and have not answered
        self._answered = anyio.Event()
        self._is_trimming = False

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory shared with clients, counted once; also what those that are gone have left in use."""
        memories = {mapping.inode: len(mapping.memory) for mapping in self.mapped}
        for segments in self.segments.values():
            memories.update(segments.memories())
        return sum(memories.values())

    @property
    def _excess(self) -> int:
        """By how many bytes it is too much to be kept; 0 or less where it is not."""
        return self.memory_bytes - SHARED_BYTES

    @property
    def _shortage(self) -> int:
        """By how many bytes it is too much for more to be made; 0 or less where it is not."""
        return self._excess - CLIENT_BYTES * sum(end.has_memory for end in self.segments)

    def made_there(self, end: End, number: int) -> None:
        """Let a client use what it has made, at once if there is little."""
        if not self._made and self._shortage <= 0:
            end.admit(number)
            self.made_here()
            return
        self._made.append((end, number))
        if len(self._made) == 1:
            self._task_group.start_soon(self._make_room)

    def made_here(self) -> None:
        """See to it that memory is given back, where there is too much now."""
        if not self._is_trimming and self._excess > 0:
            self._is_trimming = True
            self._task_group.start_soon(self._trim)

    def answered(self, end: End) -> None:
        """Learn that a client has given back what it does not use, or will not answer any more."""
        self._silent.discard(end)
        if end is self._asked:
            self._answered.set()

    async def _make_room(self) -> None:
        """Let clients use what they have made, when others have had their time to give back."""
        while self._made:
            with anyio.move_on_after(LEAVE_S):
                await self._collect()
            self._asked = None
            self._turns.take(self._admit_all)
        self.made_here()

    async def _collect(self) -> None:
        """Have given back what is not in use, first by who uses least of its own, until there is little enough."""
        unused = [(end.unused_bytes, end) for end in self.segments if end not in self._silent]
        for unused_bytes, end in nlargest(ASKED_MAX, unused, key=itemgetter(0)):
            if (shortage := self._shortage) <= 0 or not unused_bytes:
                return
            self._asked, self._answered = end, anyio.Event()
            self._turns.take(partial(self._ask, end, shortage))
            if end in self._silent:
                await self._answered.wait()

    def _ask(self, end: End, nbytes: int) -> None:
        if end.ask_to_trim(RECENT_S, nbytes):
            self._silent.add(end)

    def _admit_all(self) -> None:
        self._trim_own()
        while self._made:
            end, number = self._made.popleft()
            end.admit(number)

    def _trim_own(self) -> None:
        """Give back what the server has made, if there is too much, and tell of what others have given back."""
        shortage = self._shortage
        for end in self.segments:
            shortage -= end.trim(RECENT_S, max(0, shortage))

    async def _trim(self) -> None:
        """Have memory that is not used given back until there is little enough, and all told to let go of it."""
        is_much = True
        while is_much:
            is_much = self._excess > 0  # else what came of the last request is still to be told
            with anyio.move_on_after(TRIM_S):
                await self._closing.wait()
                return
            self._turns.take(partial(self._trim_all, asks=is_much))
        self._is_trimming = False
        self.made_here()  # meanwhile

    def _trim_all(self, *, asks: bool) -> None:
        for end in self.segments:
            end.trim(TRIM_S)
            if asks and end is not self._asked:
                end.ask_to_trim(TRIM_S)
