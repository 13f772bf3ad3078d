"""`aioflow serve`: one server until it is told to stop."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio

from aioflow.cluster import Server
from aioflow.errors import ConnectFailed
from aioflow.names import address_scheme

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

__all__ = ["add_serve"]

BIND_DEFAULT = "ipc:///tmp/flow.sock"


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "serve",
        help="hold queues and serve them to other processes",
        description="Hold queues and serve them to other processes, until SIGTERM or Ctrl-C. "
        "Prints one line with the address when it is ready.",
    )
    parser.add_argument(
        "--bind",
        default=BIND_DEFAULT,
        metavar="ADDRESS",
        help="ipc:///path, tcp://127.0.0.1:port or 127.0.0.1:port; port 0 chooses one (default: %(default)s)",
    )
    parser.set_defaults(run=lambda arguments: anyio.run(_serve, arguments.bind))


async def _serve(address: str) -> int:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        if address_scheme(address) == "inproc":
            raise ConnectFailed(f"{address!r} reaches no other process; serve at ipc:///path or tcp://127.0.0.1:port")
        async with Server({"local": [address]}) as server, anyio.create_task_group() as tasks:
            print(f"aioflow serves at {server.address}", flush=True)
            tasks.start_soon(_stop_at, signals, tasks.cancel_scope)
            await server.join()
            tasks.cancel_scope.cancel()
    return 0


async def _stop_at(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return
