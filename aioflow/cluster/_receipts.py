"""Receipts: a page of memory on which a client notes which rows of its gets it has handed over.

A message is on its way for a while, and who is killed meanwhile has not sent it. What stands on the page is known to
the server whatever becomes of the client, so that messages may be late, and few.

1. The server makes the page, of a fixed size that neither side can change, and reads it when the session is over.
2. The client opens it by its path under /proc and finds the session's secret on it, or does without: a process of
   another host, user or PID namespace has another file at that path, or none.
3. A get has one place, however often it is noted; that of the oldest one is used anew. There are more places than gets
   whose acknowledgements are on their way, which have arrived when the answer to a later request has: a server that
   reads nothing while over 1,000 gets of a session end does not learn of the first of these if it is killed then.
4. What is half written does not count, as a place whose number of rows is 0 does not.
5. No lock: the client writes, and the server reads when the client writes no more. A page is no trusted input.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import re
import resource

__all__ = ["PAGE_BYTES", "Receipts", "ReceiptsPage", "open_receipts"]

logger = logging.getLogger("aioflow.session")

# Places for over 1,000 gets.
PAGE_BYTES = 16_384
# In words of 8 bytes: the secret's 32 characters, then for each place a get and how many rows of it were handed over.
_SECRET_BYTES = 32
_FIRST = _SECRET_BYTES // 8
PLACES = (PAGE_BYTES // 8 - _FIRST) // 2

# A page keeps a descriptor open in the server, and takes it from the lower half of those that are allowed: the sockets
# of sessions need the others more.
_SHARE_OF_DESCRIPTORS = 2

_PATH = re.compile(r"/proc/[0-9]{1,10}/fd/[0-9]{1,10}")


class ReceiptsPage:
    """The server's end of a session's receipts.

    Args:
        secret: The session's.

    Raises:
        OSError: No page could be made.
    """

    def __init__(self, secret: str) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memfd_create")
        self._fd = os.memfd_create("aioflow-receipts", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            if limit != resource.RLIM_INFINITY and self._fd >= limit // _SHARE_OF_DESCRIPTORS:
                raise OSError(f"descriptor {self._fd} of {limit} is in use")  # noqa: TRY301 - it is closed below
            os.ftruncate(self._fd, PAGE_BYTES)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
            os.pwrite(self._fd, _mark(secret), 0)
        except BaseException:
            os.close(self._fd)
            raise
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def read(self) -> list[tuple[int, int]]:
        """Return what was handed over: ids of gets, and how many rows of each in all, in the order of the ids."""
        words = memoryview(os.pread(self._fd, PAGE_BYTES, 0)).cast("Q")
        notes = [(words[at], words[at + 1]) for at in range(_FIRST, _FIRST + 2 * PLACES, 2)]
        return sorted(note for note in notes if note[1])

    def close(self) -> None:
        """Let go of the page; a client that still has it open writes to no effect."""
        os.close(self._fd)


class Receipts:
    """The client's end of a session's receipts.

    Args:
        path: Where the server's process has the page.
        secret: The session's.

    Raises:
        OSError: The page cannot be opened from this process, or is not this session's.
    """

    def __init__(self, path: str, secret: str) -> None:
        if not _PATH.fullmatch(path):
            raise OSError(f"{path!r} is no path of a page of receipts")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if os.pread(fd, _SECRET_BYTES, 0) != _mark(secret) or os.fstat(fd).st_size != PAGE_BYTES:
                raise OSError(f"{path} is not the page of this session")
            self._page = mmap.mmap(fd, PAGE_BYTES)
        finally:
            os.close(fd)
        self._words = memoryview(self._page).cast("Q")
        self._places: dict[int, int] = {}  # of gets, the oldest first
        self._next = 0
        self.path = path

    def note(self, request: int, rows: int) -> None:
        """Note that so many rows of a get were handed over in all."""
        place = self._places.get(request)
        if place is None:
            place = self._take_place(request)
        self._words[place + 1] = rows

    def close(self) -> None:
        """Let go of the page; notes stand on it as long as the server has it."""
        self._words.release()
        self._page.close()

    def _take_place(self, request: int) -> int:
        if len(self._places) == PLACES:
            del self._places[next(iter(self._places))]
        place = self._places[request] = _FIRST + 2 * (self._next % PLACES)
        self._next += 1
        self._words[place + 1] = 0
        self._words[place] = request
        return place


def open_receipts(path: str, secret: str) -> Receipts | None:
    """Open a page that the server has told of; None where it has none, or it is out of reach."""
    if not path:
        return None
    try:
        return Receipts(path, secret)
    except OSError as error:
        logger.debug("gets are acknowledged by a message each, as the server's memory is out of reach: %s", error)
        return None


def _mark(secret: str) -> bytes:
    return secret.encode("ascii", "replace")[:_SECRET_BYTES].ljust(_SECRET_BYTES)
