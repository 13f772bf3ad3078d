"""What the two ends of a connection tell each other of memory."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from aioflow_shm._memory import MEMORY_BYTES_MAX
from aioflow_shm._parcels import (
    DROPPED,
    LENT,
    MAPPED,
    RECALL,
    RECALLED,
    REFUSED,
    SEGMENT,
    WANT,
    MalformedError,
    numbers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow_shm._budget import Budget
    from aioflow_shm._leases import Leases
    from aioflow_shm._outbox import Outbox
    from aioflow_shm._segments import Segments

logger = logging.getLogger("aioflow.shm")


class Sharing:
    """The memory of one connection, as one end has it. All of it happens in turns.

    Args:
        peer: The other end, for messages to people.
        segments: Where this end writes.
        leases: Where it reads.
        outbox: What the other end is told.
        write_later: Has the outbox written when the turn ends.
        budget: Of a server, which lends memory; None: the other end does.

    Attributes:
        is_up: Whether the other end can still be told something.
    """

    def __init__(
        self,
        peer: str,
        segments: Segments,
        leases: Leases,
        outbox: Outbox,
        write_later: Callable[[], None],
        budget: Budget | None,
    ) -> None:
        self._peer = peer
        self._segments = segments
        self._leases = leases
        self._outbox = outbox
        self._write_later = write_later
        self._budget = budget
        self._recalled: Sequence[int] = ()
        self.is_up = True

    @property
    def has_any(self) -> bool:
        """Whether memory is shared with the other end."""
        return self._segments.has_any or self._leases.has_any

    def unused(self, unused_s: float, *, wants_others: bool = False) -> list[tuple[float, int, int]]:
        """Return what was lent and has not been in use here for so long; see `Leases.unused`."""
        return self._leases.unused(unused_s, wants_others=wants_others)

    def trim(self, unused_s: float, nbytes: float = math.inf) -> None:
        """Drop memory as `Pool.trim` does, and say so."""
        if self.is_up:
            self._segments.pool.trim(unused_s, nbytes)
            self.tell()

    def tell(self) -> None:
        """Have the other end know what it may forget, although there is no message for it."""
        if self.is_up and self._segments.pool.dropped:
            self._outbox.tell_of_segments()
            self._write_later()

    def recall(self, numbers_: Sequence[int]) -> bool:
        """Ask the other end to give back segments that it does not use, and what it sees no more.

        Returns:
            Whether it will answer; then it is known which of them are in use.
        """
        if not (self.is_up and self.has_any):
            return False
        self._recalled = numbers_
        self._outbox.request = numbers(RECALL, *numbers_)
        self._write_later()
        return True

    def lend(self, number: int, size: int) -> None:
        """Have the other end write in memory that it has asked for."""
        assert self._budget is not None
        if not self.is_up:
            return
        if not self._leases.can_lend(number, size):
            self._refuse(number, "it has as much as it may have")
            return
        try:
            memory = self._budget.arena.take(size)
            self._leases.lend(number, memory)
        except OSError as error:
            self._refuse(number, str(error))
        else:
            self._outbox.lend(number, memory)
            self._write_later()

    def _refuse(self, number: int, why: str) -> None:
        logger.info("%s is lent no memory, its large frames travel in packets: %s", self._peer, why)
        self._outbox.say(numbers(REFUSED, number))
        self._write_later()

    def told(self, kind: int, values: Sequence[int], descriptors: Sequence[int]) -> None:
        """Take what the other end says; descriptors are closed by who gave them.

        Raises:
            MalformedError: It does not say so at this time, or at all.
        """
        if kind == RECALL:
            self._segments.pool.give_back(values)
            self._outbox.tell_of_segments()
            self._outbox.say(numbers(RECALLED))
        elif kind == RECALLED:
            self._leases.use(self._recalled)
            if self._budget is not None:
                self._budget.answered(self)
        else:
            self._told_of_segment(kind, values, descriptors)
        self._write_later()

    def _told_of_segment(self, kind: int, values: Sequence[int], descriptors: Sequence[int]) -> None:
        number = values[0]
        if kind == DROPPED:
            self._leases.unmap(number)
        elif kind == SEGMENT:
            is_mapped = bool(descriptors) and self._leases.map(number, values[1], descriptors[0])
            self._outbox.say(numbers(MAPPED if is_mapped else REFUSED, number))
        elif kind == WANT:
            if self._budget is None or not 0 < values[1] <= MEMORY_BYTES_MAX:
                raise MalformedError(f"a wish for {values[1]} bytes of memory")
            self._budget.wanted(self, number, values[1])
        elif kind != LENT:
            self._segments.answered(number, is_mapped=kind == MAPPED)
        elif self._segments.pool.lent(number, descriptors[0] if descriptors else -1):
            self._outbox.tell_of_segments()  # where it was dropped at once
        else:
            raise MalformedError(f"memory {number}, which was not asked for")
        if self._budget is not None:
            self._budget.see_to_excess()
