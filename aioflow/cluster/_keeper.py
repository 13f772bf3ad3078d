"""Ends the processes of a supervisor that was killed: a program by itself, of nothing but the standard library.

A supervisor runs it beside the others and tells it on its standard input, a line each, which process groups there are
(`123`) and which have ended (`-123`). When that ends, so does what is left: the supervisor is gone, however it went.
(Linux' PR_SET_PDEATHSIG would fire when the thread ends that has started a process, and not reach what that has
started.)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

__all__ = ["main"]

# How long they may take to end when they are told to; and how often it is looked whether they have.
GRACE_S = 2.0
LOOK_S = 0.02


def main() -> None:
    """Keep account of the groups; end those that are left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line)
        if group > 0:
            groups.add(group)
        else:
            groups.discard(-group)
    left = [group for group in groups if _signal(group, signal.SIGTERM)]
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end and any(_signal(group, 0) for group in left):
        time.sleep(LOOK_S)
    for group in left:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Send a signal to a group; return whether there is one."""
    with suppress(OSError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    main()
