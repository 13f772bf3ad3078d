"""Receipts: a page of memory on which a client notes which rows of its gets it has handed over.

A message is on its way for a while, and who is killed meanwhile has not sent it. What stands on the page is known to
the server whatever becomes of the client, so that messages may be late, and few.

1. The server makes the page, of a fixed size that neither side can change, and reads it when the session is over.
2. The client opens it by its path under /proc and finds the session's secret on it, or does without: a process of
   another host, user or PID namespace has another file at that path, or none.
3. A note is complete before it counts, and the oldest place is not read: it may be half written.
4. No lock: the client writes and the server reads after the client's last note. A page is no trusted input.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re

__all__ = ["PAGE_BYTES", "Receipts", "ReceiptsPage"]

# Notes of over 1,000 gets; the message that says the same follows within milliseconds.
PAGE_BYTES = 16_384
# In words of 8 bytes: the secret's 32 characters, the number of notes, and two words for each note.
_SECRET_BYTES = 32
_COUNT, _NOTES = _SECRET_BYTES // 8, _SECRET_BYTES // 8 + 2
PLACES = (PAGE_BYTES // 8 - _NOTES) // 2

_PATH = re.compile(r"/proc/[0-9]{1,10}/fd/[0-9]{1,10}")


class ReceiptsPage:
    """The server's end of a session's receipts.

    Args:
        secret: The session's.

    Raises:
        OSError: No page could be made.
    """

    def __init__(self, secret: str) -> None:
        self._fd = os.memfd_create("aioflow-receipts", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, PAGE_BYTES)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
            os.pwrite(self._fd, _mark(secret), 0)
        except BaseException:
            os.close(self._fd)
            raise
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def read(self) -> list[tuple[int, int]]:
        """Return what was handed over: ids of gets, and how many rows of each in all, in the order of the notes."""
        words = memoryview(os.pread(self._fd, PAGE_BYTES, 0)).cast("Q")
        count = words[_COUNT]
        places = range(max(0, count - PLACES + 1), count) if count < 2**63 else range(0)
        return [(words[_place(number)], words[_place(number) + 1]) for number in places]

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
        self._count = self._words[_COUNT]
        self._last = 0

    def note(self, request: int, rows: int) -> None:
        """Note that so many rows of a get were handed over in all."""
        words = self._words
        if request == self._last:
            words[_place(self._count - 1) + 1] = rows
            return
        place = _place(self._count)
        words[place] = request
        words[place + 1] = rows
        self._count += 1
        words[_COUNT] = self._count
        self._last = request


def _place(number: int) -> int:
    return _NOTES + 2 * (number % PLACES)


def _mark(secret: str) -> bytes:
    return secret.encode("ascii", "replace")[:_SECRET_BYTES].ljust(_SECRET_BYTES)
