"""What the kernel of a dequeue node returns: the queue's until another node is started with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Taken"]


class Taken:
    """What the kernel of a dequeue node returns: a value that goes back where it came from unless it is acknowledged.

    Args:
        value: The value.
        acknowledge: Takes it for good.
        withdraw: Gives it back.
    """

    __slots__ = ("_acknowledge", "_is_decided", "_withdraw", "value")

    def __init__(self, value: Any, acknowledge: Callable[[], None], withdraw: Callable[[], None]) -> None:
        self.value = value
        self._acknowledge = acknowledge
        self._withdraw = withdraw
        self._is_decided = False

    def acknowledge(self) -> None:
        """Take it for good; once."""
        if not self._is_decided:
            self._is_decided = True
            self._acknowledge()

    def withdraw(self) -> None:
        """Give it back, unless it was acknowledged."""
        if not self._is_decided:
            self._is_decided = True
            self._withdraw()
