"""`aioflow up`: a cluster and the programs beside it, on this machine, until the programs are done."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio

from aioflow.cluster import read_cluster, supervise
from aioflow.errors import AioflowError

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from aioflow.cluster import ClusterFile

__all__ = ["add_up"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_up(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "up",
        help="run a cluster and its programs on this machine",
        description="Run all tasks of a cluster, and the programs of its table [programs], as processes of this "
        "machine; start again those that fail. Ends when all programs have ended with exit code 0; without programs, "
        "and before that, by SIGTERM or Ctrl-C. The exit code is then 128 and the signal's number.",
    )
    parser.add_argument("file", metavar="cluster.toml", help="with tables [jobs], [config], [devices], [programs]")
    parser.add_argument(
        "--ops",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module whose ops graphs may name; may be repeated",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return anyio.run(_up, read_cluster(arguments.file), arguments.ops)


async def _up(file: ClusterFile, ops: list[str]) -> int:
    failed: AioflowError | None = None
    stop = _Stop()
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        async with anyio.create_task_group() as watcher:
            watcher.start_soon(stop.watch, signals)
            try:
                with stop.scope:
                    cluster = supervise(file.cluster, file.programs, config=file.config, ops=ops, devices=file.devices)
                    async with cluster as running:
                        await running.join()
            except AioflowError as error:  # kept out of the task group, which would wrap it
                failed = error
            watcher.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return stop.code


class _Stop:
    """Ends everything at the first signal, whose number is in the exit code."""

    def __init__(self) -> None:
        self.code = 0
        self.scope = anyio.CancelScope()

    async def watch(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            self.code = self.code or 128 + number
            self.scope.cancel()
