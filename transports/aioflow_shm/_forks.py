"""What a forked child inherits and must not keep, and what its parent must leave alone.

A child has copies of the descriptors of sockets and locks. If it kept them, the end of its parent would not be noticed
by the other side, and the parent's address would not become free. So the child closes them, and its copies of the
parent's connections refuse their use.

It also sees the views that its parent holds at the fork, and sees them for as long as it lives: the parent does not
have their memory used again (`fork_count`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol

from aioflow.errors import ConnectFailed


class Closable(Protocol):
    """A socket, or a file without a buffer."""

    def close(self) -> None:
        """Close the descriptor."""


_inherited: set[Closable] = set()
_generation = 0
_forks = 0


def current_generation() -> int:
    """Return a number that differs between a process and its forked children."""
    return _generation


def fork_count() -> int:
    """Return a number that grows with each fork of this process."""
    return _forks


def check_generation(generation: int, peer: str) -> None:
    """Refuse the use of what a parent process made.

    Raises:
        ConnectFailed: This process was forked after `generation` was noted.
    """
    if generation != _generation:
        raise ConnectFailed(
            f"the connection to {peer} belongs to the process from which this one was forked: open one of its own, "
            "or start processes with the spawn method"
        )


def close_in_children(owned: Closable) -> None:
    """Have something closed in processes that are forked from this one."""
    _inherited.add(owned)


def close_here(owned: Closable) -> None:
    """Close what was given to `close_in_children`."""
    _inherited.discard(owned)
    with suppress(OSError):
        owned.close()


def _count() -> None:
    global _forks  # noqa: PLW0603 - one count per process
    _forks += 1


def _in_child() -> None:
    global _generation  # noqa: PLW0603 - one count per process
    _generation += 1
    for owned in _inherited:
        with suppress(OSError):
            owned.close()
    _inherited.clear()


# Counted before and after: what comes to be in between is left alone too.
os.register_at_fork(before=_count, after_in_parent=_count, after_in_child=_in_child)
