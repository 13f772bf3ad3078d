"""`aioflow serve`: one server until it is told to stop."""

from __future__ import annotations

import ctypes
import resource
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from aioflow.cluster import Server
from aioflow.errors import ConnectFailed
from aioflow.names import address_scheme
from aioflow.runtime import SessionConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

__all__ = ["add_serve"]

BIND_DEFAULT = "ipc:///tmp/flow.sock"

# From glibc's malloc.h. Frames of this size and more are mapped by themselves, and so much freed memory is kept: the
# first touch of new memory costs ten times a copy, and a queue needs the same again at once.
M_TRIM_THRESHOLD, TRIM_BYTES = -1, 256 << 20
M_MMAP_THRESHOLD, MMAP_BYTES = -3, 32 << 20


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
        help="ipc:///path, tcp://127.0.0.1:port or 127.0.0.1:port, with keys tcp://host:port; port 0 chooses one "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--keys",
        metavar="DIR",
        help="let in clients whose keys this folder authorises, see `aioflow keys` (default: $AIOFLOW_KEYS, else none)",
    )
    defaults = SessionConfig()
    parser.add_argument(
        "--lost-s",
        type=float,
        default=defaults.lost_s,
        metavar="SECONDS",
        help="after how long without a sign of life a client counts as lost (default: %(default)s)",
    )
    parser.add_argument(
        "--session-s",
        type=float,
        default=defaults.session_s,
        metavar="SECONDS",
        help="how long a lost client may come back, and how long a drained queue without clients stays "
        "(default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    config = SessionConfig(lost_s=arguments.lost_s, session_s=arguments.session_s)
    return anyio.run(_serve, arguments.bind, config, arguments.keys)


async def _serve(address: str, config: SessionConfig, keys: str | None) -> int:
    _keep_freed_memory()
    _allow_descriptors()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        if address_scheme(address) == "inproc":
            raise ConnectFailed(f"{address!r} reaches no other process; serve at ipc:///path or tcp://127.0.0.1:port")
        made = Server({"local": [address]}, config=config, credentials=keys)
        async with made as server, anyio.create_task_group() as tasks:
            print(f"aioflow serves at {server.address}", flush=True)
            tasks.start_soon(_stop_at, signals, tasks.cancel_scope)
            await server.join()
            tasks.cancel_scope.cancel()
    return 0


async def _stop_at(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return


def _allow_descriptors() -> None:
    """Raise the limit of open files to what the system allows: each session needs three."""
    with suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_freed_memory() -> None:
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
