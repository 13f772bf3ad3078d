"""`aioflow queues`: the queues of a server and of its cluster, who waits for them, and the memory that they take."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import anyio

from aioflow.client import Session
from aioflow.errors import NotFound, SessionError
from aioflow.runtime import SessionConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Sequence

    from aioflow.queues import QueueStats
    from aioflow.resources import ServerStats

__all__ = ["add_queues"]

MB = 10**6
# Of those that are there instead of the one that is asked for.
NAMES_MAX = 20
# Who waits longer than this is told for what: a session waits ten times as long for a server that is starting.
TELL_S = 1.0


def add_queues(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "queues",
        help="list the queues of a server: how full they are, and who waits",
        description="List the queues of all tasks of a server's cluster, and the shared memory of each task. Gets that "
        "wait mean that consumers are faster than producers; puts that wait, that a queue is full.",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="of the queues to list, or CONTAINER/NAME; all if left out"
    )
    parser.add_argument(
        "--target",
        metavar="ADDRESS",
        help="of any server of the cluster; where left out, what AIOFLOW_TARGET names. The key is the one that "
        "AIOFLOW_KEYS names",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_queues)


def _queues(arguments: argparse.Namespace) -> int:
    """List them; 1 where a task is missing."""
    with _told_of_a_wait():
        servers: Sequence[ServerStats] = anyio.run(_ask, arguments.target)
    if not servers[0].task:  # an embedded session, as no server was named
        raise SessionError("of which server? Name its address with --target, or in AIOFLOW_TARGET")
    is_whole = not any(server.missing for server in servers)
    if (name := arguments.name) is not None:
        known = sorted({_full_name(queue) for server in servers for queue in server.queues})
        servers = [
            replace(server, queues=tuple([q for q in server.queues if name in {q.name, _full_name(q)}]))
            for server in servers
        ]
        if is_whole and not any(server.queues for server in servers):
            some = ", ".join(map(_printable, known[:NAMES_MAX])) or "none"
            more = f" and {len(known) - NAMES_MAX} more" if len(known) > NAMES_MAX else ""
            raise NotFound(f"there is no queue {name!r} in the cluster; there are {some}{more}")
    if arguments.json:
        print(json.dumps({"servers": [_as_json(server) for server in servers]}))
    else:
        for server in servers:
            _show(server)
    return 0 if is_whole else 1


@contextmanager
def _told_of_a_wait() -> Generator[None]:
    """Tell of it beside the output, while the block runs."""
    line = f"aioflow: waiting for an answer of the server, for up to {SessionConfig().connect_s:g} s"
    timer = threading.Timer(TELL_S, print, [line], {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


async def _ask(target: str | None) -> tuple[ServerStats, ...]:
    async with Session(target) as session:
        return await session.stats()


def _as_json(server: ServerStats) -> dict[str, Any]:
    queues = [{**asdict(queue), "gets_hold": queue.gets_hold} for queue in server.queues]
    return {**asdict(server), "queues": queues}


def _show(server: ServerStats) -> None:
    if server.missing:
        print(f"{server.task}  {_printable(server.missing)}")
        return
    print(f"{server.task}  {server.memory_bytes / MB:.1f} MB of shared memory")
    for queue in server.queues:
        print(f"  {_printable(_line(queue))}")
    if not server.queues:
        print("  no queues")


def _full_name(queue: QueueStats) -> str:
    return f"{queue.container}/{queue.name}" if queue.container else queue.name


def _printable(text: str) -> str:
    """Return a text as one line, that moves no cursor: names may have any characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _line(queue: QueueStats) -> str:
    capacity = f" of {queue.capacity}" if queue.capacity >= 0 else ""
    parts = [
        _full_name(queue),
        queue.kind,
        f"{queue.size}{capacity} elements, {queue.size_bytes / MB:.1f} of {queue.capacity_bytes / MB:.1f} MB",
        f"{queue.enqueued} in, {queue.dequeued} out",
        f"{queue.ahead} sent ahead" if queue.ahead else "",
        f"{queue.unacknowledged} not acknowledged" if queue.unacknowledged else "",
        f"{queue.puts_waiting} puts wait" if queue.puts_waiting else "",
        f"{queue.gets_waiting} gets wait" if queue.gets_waiting else "",
        f"{queue.gets_hold} held by gets that wait for more" if queue.gets_hold else "",
        f"producers {', '.join(queue.producers)}" if queue.producers else "",
        "closed" if queue.is_closed else "",
    ]
    return "  ".join(filter(None, parts))
