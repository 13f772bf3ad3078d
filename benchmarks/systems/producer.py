"""A producer in a process of its own, for the systems that do not start theirs themselves."""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class ProducerFailed(Exception):
    """The producer ended with an error, which it has printed."""


@contextmanager
def producing(produce: Callable[..., None], *arguments: Any) -> Generator[None]:
    """Run a function in a new process for the length of a block, and wait for its end there; killed on an error.

    Raises:
        ProducerFailed: It failed.
    """
    process = multiprocessing.get_context("spawn").Process(target=produce, args=arguments)
    process.start()
    try:
        yield
        process.join()
    finally:
        process.kill()
        process.join()
    if process.exitcode:
        raise ProducerFailed(f"the producer ended with exit code {process.exitcode}")
