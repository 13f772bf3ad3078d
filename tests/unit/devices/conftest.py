"""A wait that a test can wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from aioflow.devices import Launch, Output

BOUND_S = 10.0

Wait = Callable[..., tuple[Any, BaseException | None]]


@pytest.fixture
def wait() -> Wait:
    """Wait for a launch; return what the callback was given."""

    def wait(launch: Launch | Output, *, want_value: bool = True) -> tuple[Any, BaseException | None]:
        done = threading.Event()
        given: list[Any] = []

        def called(value: Any, error: BaseException | None) -> None:
            given.extend([value, error])
            done.set()

        source = launch.launch if isinstance(launch, Output) else launch
        source.stream.when_done(launch, called, want_value=want_value)
        assert done.wait(BOUND_S)
        value, error = given
        return value, error

    return wait
