"""What a server shares with its clients: `SHARED_BYTES`, or what is in use.

A client that needs memory beyond that is lent it when others have given back what they do not use, or have had
`LEAVE_S` for it. Who has sent something a moment ago keeps some, as it will go on. Beyond `SHARED_BYTES` what is not in
use for `TRIM_S` is given back.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

import anyio

from aioflow_shm._arena import Arena
from aioflow_shm._limits import LEAVE_S, RECENT_S, SHARED_BYTES, TRIM_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup

    from aioflow_shm._end import Turns
    from aioflow_shm._sharing import Sharing


class Budget:
    """The memory of a server's connections.

    Args:
        turns: Those of its connections.
        task_group: Where it waits for what it has asked for.
        closing: Set when the server is about to close its connections.

    Attributes:
        arena: All of the memory.
        shared: Its parts, one for each connection.
    """

    def __init__(self, turns: Turns, task_group: TaskGroup, closing: anyio.Event) -> None:
        self.arena = Arena()
        self.shared: set[Sharing] = set()
        self._turns = turns
        self._task_group = task_group
        self._closing = closing
        self._wanted: deque[tuple[Sharing, int, int]] = deque()  # by clients that wait: the segment's number and size
        self._silent: set[Sharing] = set()  # they have been asked, and have not answered
        self._asked: set[Sharing] = set()  # those of them for which somebody waits
        self._answered = anyio.Event()
        self._is_making_room = self._is_trimming = False

    def wanted(self, sharing: Sharing, number: int, size: int) -> None:
        """Lend memory to a client in this turn, or when others have had their time to give back."""
        self._wanted.append((sharing, number, size))
        self._lend()
        if self._wanted and not self._is_making_room:
            self._recall()
            if self._wanted:
                self._is_making_room = True
                self._task_group.start_soon(self._make_room)

    def answered(self, sharing: Sharing) -> None:
        """Learn that a client has given back what it does not use, in this turn."""
        self._heard_of(sharing)
        self._lend()

    def left(self, sharing: Sharing) -> None:
        """Forget a client that is gone, in a turn; without any, nothing is kept for the next one."""
        self.shared.discard(sharing)
        self._heard_of(sharing)
        if not any(each.has_any for each in self.shared):
            self._release(self.arena.free_bytes)

    def see_to_excess(self) -> None:
        """See to it that memory is given back, where there is too much now, in this turn."""
        self._lend()
        if not self._wanted:
            self._release(self._excess)
        if self._excess > 0 and not self._is_trimming:
            self._is_trimming = True
            self._task_group.start_soon(self._trim)

    @property
    def _excess(self) -> int:
        """By how many bytes there is too much; 0 or less where it is not."""
        return self.arena.nbytes - SHARED_BYTES

    @property
    def _shortage(self) -> int:
        """How many bytes are missing, or too many, for those who wait."""
        return self._excess - self.arena.free_bytes + sum(size for _, _, size in self._wanted)

    def _heard_of(self, sharing: Sharing) -> None:
        self._silent.discard(sharing)
        self._asked.discard(sharing)
        if not self._asked:
            self._answered.set()

    def _release(self, nbytes: int) -> None:
        """Let go of free memory, and have all do so that have it mapped, also where nobody sends them anything."""
        if self.arena.free_bytes and nbytes > 0:
            self.arena.release(nbytes)
            for sharing in self.shared:
                sharing.tell()

    def _lend(self, *, beyond: bool = False) -> None:
        """Lend memory to those who wait, as long as there is room, or to all of them."""
        while self._wanted and (self._has_room(self._wanted[0][2]) or beyond):
            sharing, number, size = self._wanted.popleft()
            if not self.arena.has(size):
                self._release(self._excess + size)  # what is of other sizes
            sharing.lend(number, size)

    def _has_room(self, size: int) -> bool:
        return self.arena.has(size) or self._excess - self.arena.free_bytes + size <= 0

    def _recall(self) -> None:
        """Have given back what is not in use, the longest unused first, until there is room for those who wait.

        Where nothing is, they are lent memory all the same.
        """
        for sharing in self.shared:
            sharing.trim(RECENT_S, max(0, self._shortage))
        wanting = {sharing for sharing, _, _ in self._wanted}
        unused = [
            (*each, sharing)
            for sharing in self.shared - self._silent
            for each in sharing.unused(RECENT_S, wants_others=sharing in wanting)
        ]
        shortage = self._shortage
        recalled: dict[Sharing, list[int]] = {}
        for _, size, number, sharing in sorted(unused, key=itemgetter(0)):
            if shortage <= 0:
                break
            recalled.setdefault(sharing, []).append(number)
            shortage -= size
        for sharing, numbers in recalled.items():
            self._ask(sharing, numbers)
        self._asked = self._silent & recalled.keys()
        self._answered = anyio.Event()
        self._lend(beyond=not self._asked)

    def _ask(self, sharing: Sharing, numbers: Sequence[int]) -> None:
        if sharing.recall(numbers):
            self._silent.add(sharing)

    async def _make_room(self) -> None:
        """Lend memory to those who wait, when others have had their time to give back."""
        while self._wanted:
            with anyio.move_on_after(LEAVE_S) as scope:
                await self._answered.wait()
            self._turns.take(partial(self._lend, beyond=True) if scope.cancelled_caught else self._recall)
        self._is_making_room = False
        self._turns.take(self.see_to_excess)

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
        self._turns.take(self.see_to_excess)  # meanwhile

    def _trim_all(self, *, asks: bool) -> None:
        for sharing in self.shared:
            sharing.trim(TRIM_S)
            if asks and sharing not in self._silent:
                self._ask(sharing, [number for _, _, number in sharing.unused(TRIM_S)])
        if not self._wanted:
            self._release(self._excess)
