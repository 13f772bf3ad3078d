"""What waits in a queue machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioflow.queues._segments import Rows

if TYPE_CHECKING:
    from aioflow.queues._effects import Ticket
    from aioflow.queues._segments import Segment

__all__ = ["Get", "Put"]


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
