"""What a forked child inherits and must not keep.

A child has copies of the descriptors of libzmq's connections, listeners and locks, but not its thread. If it kept them,
a killed parent would not be noticed by the other side, and its address would not become free. So the child closes
them, and its copies of the parent's connections refuse their use.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from aioflow.errors import ConnectFailed

# Descriptor -> inode: libzmq's thread may have closed one and the system given its number to something else.
_inherited: dict[int, int] = {}
_forks = 0


def current_generation() -> int:
    """Return a number that differs between a process and its forked children."""
    return _forks


def check_generation(generation: int, peer: str) -> None:
    """Refuse the use of what a parent process made.

    Raises:
        ConnectFailed: This process was forked after `generation` was noted.
    """
    if generation != _forks:
        raise ConnectFailed(
            f"the connection to {peer} belongs to the process from which this one was forked: open one of its own, "
            "or start processes with the spawn method"
        )


def close_in_children(fd: int) -> int:
    """Have a descriptor closed in processes that are forked from this one; return its inode, 0 if it is closed."""
    try:
        inode = _inherited[fd] = os.fstat(fd).st_ino
    except OSError:  # the connection has ended already
        return 0
    return inode


def keep_in_children(fd: int, inode: int) -> None:
    """Forget a descriptor that was closed here; its number may have become another one's since."""
    if _inherited.get(fd) == inode:
        del _inherited[fd]


def cut(fd: int, inode: int) -> None:
    """End one connection of a ROUTER, for which libzmq has no call: its thread sees the end of the stream.

    The descriptor is duplicated first and then compared, so that nothing else can be hit.
    """
    with suppress(OSError):
        copy = os.dup(fd)
        try:
            status = os.fstat(copy)
            if stat.S_ISSOCK(status.st_mode) and status.st_ino == inode:
                with socket.socket(fileno=os.dup(copy)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)
        finally:
            os.close(copy)


def _in_child() -> None:
    global _forks  # noqa: PLW0603 - one count per process
    _forks += 1
    for fd, inode in _inherited.items():
        with suppress(OSError):
            if os.fstat(fd).st_ino == inode:
                os.close(fd)
    _inherited.clear()


os.register_at_fork(after_in_child=_in_child)
