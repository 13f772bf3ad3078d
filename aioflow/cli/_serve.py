"""`aioflow serve`: one server until it is told to stop."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from aioflow.cluster import ClusterSpec, Server, parse_cluster, prepare_process, read_cluster
from aioflow.errors import ConnectFailed, PlacementError
from aioflow.names import address_scheme
from aioflow.runtime import SessionConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable

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
        metavar="ADDRESS",
        help="ipc:///path, shm:///path, tcp://127.0.0.1:port or 127.0.0.1:port, with keys tcp://host:port; port 0 "
        f"chooses one (default: {BIND_DEFAULT}, or what the cluster has)",
    )
    parser.add_argument(
        "--cluster",
        metavar="FILE",
        help="serve a task of the cluster that this cluster.toml describes; - reads it here",
    )
    parser.add_argument(
        "--job", help="the job of the cluster that this server belongs to; needed where there are several"
    )
    parser.add_argument("--task", type=int, metavar="INDEX", help="which of its tasks (default: 0)")
    parser.add_argument(
        "--ops",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module whose ops graphs may name; may be repeated",
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
        metavar="SECONDS",
        help=f"after how long without a sign of life a client counts as lost (default: {defaults.lost_s:g})",
    )
    parser.add_argument(
        "--session-s",
        type=float,
        metavar="SECONDS",
        help="how long a lost client may come back, and how long a drained queue without clients stays "
        f"(default: {defaults.session_s:g})",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    cluster, config = _read(arguments)
    given = {name: getattr(arguments, name) for name in ("lost_s", "session_s") if getattr(arguments, name) is not None}
    config = replace(config, **given)
    ops = {"ops": arguments.ops} if arguments.ops else {}
    if ops and (folder := str(Path.cwd())) not in sys.path:  # the command's own folder is there instead
        sys.path.insert(0, folder)
    task = (cluster, arguments.job, arguments.task)
    return anyio.run(_serve, partial(Server, *task, config=config, credentials=arguments.keys, **ops))


def _read(arguments: argparse.Namespace) -> tuple[ClusterSpec, SessionConfig]:
    """Return what is to be served: a task of a cluster, or a server by itself."""
    if arguments.cluster is None:
        if arguments.job is not None or arguments.task is not None:
            raise PlacementError("--job and --task name a task of a cluster; give it with --cluster cluster.toml")
        bind = BIND_DEFAULT if arguments.bind is None else arguments.bind
        return ClusterSpec({"local": [bind]}), SessionConfig()
    if arguments.bind is not None:
        raise PlacementError("--bind is for a server by itself; with --cluster the address is that of the task there")
    is_standard = arguments.cluster == "-"
    read = parse_cluster(sys.stdin.read(), "standard input") if is_standard else read_cluster(arguments.cluster)
    return read.cluster, read.config


async def _serve(make: Callable[[], Server]) -> int:
    prepare_process()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        made = make()
        if address_scheme(made.address) == "inproc":
            raise ConnectFailed(f"{made.address!r} reaches no other process; serve at ipc:///path or 127.0.0.1:port")
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
