"""What memory processes have, as the kernel tells it."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

EVERY_S = 0.005

_SHARED = re.compile(r"(\w+)-(\w+) \S+ (\w+) \S+ (\d+) +/memfd:aioflow ")


def own_bytes(pid: int) -> int:
    """Return what a process has for itself."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def shared_bytes(pids: Sequence[int]) -> int:
    """Add up the shared memory that any of the processes has mapped, each file once."""
    files: dict[str, int] = {}
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if (found := _SHARED.match(line)) is not None:
                begin, end, offset = (int(number, 16) for number in found.groups()[:3])
                files[found[4]] = max(files.get(found[4], 0), offset + end - begin)
    return sum(files.values())


class Peak:
    """The most that a process has for itself and shares, as long as the block."""

    def __init__(self, pid: int) -> None:
        self.nbytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory")

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.nbytes = max(self.nbytes, own_bytes(self._pid) + shared_bytes([self._pid]))
