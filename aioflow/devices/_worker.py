"""A thread that makes calls, one after the other."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from aioflow.errors import DeviceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker"]


class Worker:
    """A daemon thread, from the first call to the close.

    Args:
        name: The thread's.
        start: Called in the thread, before all else.
    """

    def __init__(self, name: str, start: Callable[[], None]) -> None:
        self._name = name
        self._start = start
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, call: Callable[[], None]) -> None:
        """Have a function called in the thread, after those before it.

        What it raises is reported by `threading.excepthook`, and the thread goes on.

        Raises:
            DeviceUnavailable: The worker was closed, or the system gives no thread.
        """
        with self._lock:
            if self._is_closed:
                raise DeviceUnavailable(f"{self._name} was closed; open the device anew")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise DeviceUnavailable(f"{self._name} gets no thread: {error}") from error
                self._thread = thread
            self._calls.put(call)

    def close(self) -> None:
        """Refuse further calls; the thread ends when it has made those that it has."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._calls.put(None)

    def join(self, bound_s: float) -> bool:
        """Wait for the end of the thread, at most so many seconds; return whether it has ended."""
        if self._thread is None:
            return True
        self._thread.join(max(0.0, bound_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._start()
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - reported as one that ends a thread is
                thread = threading.current_thread()
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, thread)))
            del call  # with what it refers to: the next one may be long in coming
