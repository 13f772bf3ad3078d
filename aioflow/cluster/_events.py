"""What a peer tells: events of its session and of its requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioflow.cluster._messages import Welcome
    from aioflow.errors import AioflowError

__all__ = ["Answered", "Ended", "Event", "Parted", "Recalled", "Refused", "Undone", "Voided", "Welcomed"]


@dataclass(slots=True)
class Welcomed:
    """The server has answered the hello."""

    welcome: Welcome


@dataclass(slots=True)
class Answered:
    """A request has succeeded; of a get, `value` is its columns."""

    id: int
    value: Any


@dataclass(slots=True)
class Refused:
    """A request has failed; it may be a get that was answered and not handed over."""

    id: int
    error: AioflowError


@dataclass(slots=True)
class Undone:
    """A put was withdrawn."""

    id: int
    rows: int


@dataclass(slots=True)
class Recalled:
    """What a request ahead holds is wanted back."""

    id: int


@dataclass(slots=True)
class Voided:
    """What a get was answered and has not handed over is the server's again; it was asked for again, as `again`."""

    id: int
    again: int


@dataclass(slots=True)
class Parted:
    """The server has ended the connection; the session may go on through another."""

    reason: str


@dataclass(slots=True)
class Ended:
    """The server has ended the session; without an error it answers our own bye."""

    error: AioflowError | None


Event = Welcomed | Answered | Refused | Undone | Recalled | Voided | Parted | Ended
