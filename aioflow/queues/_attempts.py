"""What waits in a queue machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioflow.queues._segments import Rows

if TYPE_CHECKING:
    from aioflow.queues._effects import Ticket
    from aioflow.queues._segments import Segment

__all__ = ["AHEAD_BYTES_MAX", "COPY_BYTES_MAX", "RESULT_BYTES_MAX", "Get", "Put"]

# What one waiting get may pile up outside of the capacity: a few elements of the largest size planned for, 1 GB.
RESULT_BYTES_MAX = 4 * 1000**3

# Who asks ahead gets no more than so much that was copied together from several puts: one more message takes less.
COPY_BYTES_MAX = 1 << 20

# Nor more than so many bytes: it asks for so many by the size of those that it had, and these may be larger.
AHEAD_BYTES_MAX = 32 << 20

# What a put is told.
CLOSED = (
    "closed and accepts nothing more; producers=n keeps a queue open until n producers have come, and delete() or "
    "another shared_name begins anew"
)


@dataclass(slots=True, eq=False)
class Put:
    """A waiting put: of a segment from `row` on, or a close where there is no segment."""

    ticket: Ticket
    segment: Segment | None
    row: int = 0


@dataclass(slots=True, eq=False)
class Get:
    """A waiting get, or a request ahead for `count` rows or up to `runs` times as many."""

    ticket: Ticket
    count: int
    up_to: bool
    runs: int = 1
    owner: str = ""
    taken: Rows = field(default_factory=Rows)
