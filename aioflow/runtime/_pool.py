"""Threads for plain kernels: those of one device, which its nodes share (TensorFlow's inter-op pool).

And the limit of the threads that such a kernel may have within (TensorFlow's intra-op pool).
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["IntraOpLimit", "ThreadPool"]


class ThreadLimits(Protocol):
    """What threadpoolctl gives."""

    def restore_original_limits(self) -> None:
        """Undo them."""
        ...


class IntraOpLimit:
    """A limit of the threads within kernels, in this process; 0 leaves them as they are.

    The event loop's thread applies it for the process; that of OpenMP is the calling thread's, so threads that call
    kernels apply it too.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._applied: list[ThreadLimits] = []

    def apply(self) -> None:
        """Hold for the calling thread."""
        if self._threads > 0:
            from threadpoolctl import threadpool_limits  # noqa: PLC0415 - not everybody asks for it

            with self._lock:
                self._applied.append(threadpool_limits(limits=self._threads))

    def undo(self) -> None:
        """Restore what was before the first one; call it when the kernels have ended."""
        while self._applied:
            self._applied.pop().restore_original_limits()


class ThreadPool:
    """Up to so many threads, started as they are needed; jobs run in the order in which they came.

    Args:
        name: For the threads' names.
        threads: How many at most; 0 is one for each core that this process may use.
        prepare: Called by each thread before its first job.
    """

    def __init__(self, name: str, threads: int, prepare: Callable[[], None]) -> None:
        self._name = name
        self._prepare = prepare
        self._size = threads or len(os.sched_getaffinity(0))
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._under_way = 0  # counted where jobs come from, on one thread

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job, which must not raise, on a thread. Call `done` on the event loop for each."""
        self._under_way += 1
        if self._under_way > len(self._threads) and len(self._threads) < self._size:
            # A kernel that never ends must not keep the process alive.
            thread = threading.Thread(target=self._work, name=f"{self._name} {len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def done(self) -> None:
        """Count a job as done."""
        self._under_way -= 1

    def close(self) -> list[threading.Thread]:
        """Have the threads end after their present jobs; return them, to be joined."""
        for _ in self._threads:
            self._jobs.put(None)
        threads, self._threads = self._threads, []
        return threads

    def _work(self) -> None:
        self._prepare()
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it holds a kernel's arguments
