"""Producers in processes of their own, for the systems that do not start theirs themselves."""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from benchmarks.workloads import Workload


class ProducerFailed(Exception):
    """A producer ended with an error, which it has printed."""


@contextmanager
def producing(produce: Callable[..., None], workload: Workload, *arguments: Any) -> Generator[None]:
    """Run `produce(workload, producer, *arguments)` in a new process for each producer, by its number.

    They run for the length of a block, which waits for their end; they are killed on an error. Where elements go there
    and back, the one process is the one that sends them back.

    Raises:
        ProducerFailed: One failed.
    """
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=produce, args=(workload, producer, *arguments)) for producer in range(workload.producers)
    ]
    try:
        for process in processes:
            process.start()
        yield
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
    if codes := [process.exitcode for process in processes if process.exitcode]:
        raise ProducerFailed(f"a producer ended with exit code {codes[0]}")
