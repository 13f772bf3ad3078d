"""Producers of a queue: who has registered, who has left and how, and when the last one has gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.errors import LostProducer

__all__ = ["Producers"]


@dataclass(slots=True)
class Producers:
    """The registrations of one queue.

    Attributes:
        needed: How many distinct names must have come before the end can come.
        on_lost: Told of each that counts as lost, when it does.
        present: Name to the session that holds it.
        away: Name to when it counts as gone and how it was lost: it may come back until then.
        lost: Those that count as lost.
    """

    needed: int
    on_lost: Callable[[LostProducer], None]
    present: dict[str, str] = field(default_factory=dict)
    away: dict[str, tuple[float, LostProducer]] = field(default_factory=dict)
    lost: dict[str, LostProducer] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def join(self, session: str, name: str) -> None:
        """Register a name that is free; one that is away is back, one that counts as lost stays reported."""
        self.present[name] = session
        self.away.pop(name, None)
        self._names.add(name)

    def leave(self, name: str, lost: LostProducer | None, back_by: float | None = None) -> None:
        """Take a name out; with `back_by` it counts as lost only then."""
        self.present.pop(name, None)
        if lost is not None and back_by is not None:
            self.away[name] = (back_by, lost)
        elif lost is not None:
            self._count(lost)

    def expire(self, now: float) -> None:
        """Count as lost whoever has not come back in time."""
        for name, (back_by, lost) in list(self.away.items()):
            if now >= back_by:
                del self.away[name]
                self._count(lost)

    @property
    def all_left(self) -> bool:
        """Whether enough have come and none is left or expected back."""
        return len(self._names) >= self.needed and not self.present and not self.away

    def _count(self, lost: LostProducer) -> None:
        self.lost[lost.name] = lost
        self.on_lost(lost)
