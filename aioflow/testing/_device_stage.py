"""What the checks of devices work with: kernels that can be held, and waits with a bound."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from aioflow.devices import Launch, Output, Stream

__all__ = ["BOUND_S", "Gate", "Result", "refused", "within"]

BOUND_S = 10.0


class Gate:
    """A kernel that says when it has begun and waits until it may go on; it returns its argument, or None."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self.begun.set()
        within(self.opened, "the gate was not opened")
        return value


def within(event: threading.Event, what: str) -> None:
    if not event.wait(BOUND_S):
        raise TimeoutError(what)


class Result:
    """What a wait was called back with."""

    def __init__(self, stream: Stream, launch: Launch | Output, *, want_value: bool = True) -> None:
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self.calls = 0
        stream.when_done(launch, self._called, want_value=want_value)

    def _called(self, value: Any, error: BaseException | None) -> None:
        self.calls += 1
        self._value, self._error = value, error
        self._done.set()

    def value(self) -> Any:
        within(self._done, "a wait was not called back")
        if self._error is not None:
            raise self._error
        return self._value

    def error(self) -> BaseException:
        within(self._done, "a wait was not called back")
        assert self._error is not None
        assert self._value is None
        return self._error


@contextmanager
def refused(kind: type[BaseException]) -> Generator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"nothing was refused with {kind.__name__}")
