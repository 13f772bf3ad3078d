"""`aioflow queues`: the queues of a server and of its cluster, who waits for them, and the memory that they take."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import anyio

from aioflow.client import Session
from aioflow.errors import NotFound, SessionError

if TYPE_CHECKING:
    import argparse

    from aioflow.queues import QueueStats
    from aioflow.resources import ServerStats

__all__ = ["add_queues"]

MB = 10**6


def add_queues(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "queues",
        help="list the queues of a server: how full they are, and who waits",
        description="List the queues of all tasks of a server's cluster, and the shared memory of each task. Gets that "
        "wait mean that consumers are faster than producers; puts that wait, that a queue is full.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the queues to list; all where left out")
    parser.add_argument(
        "--target",
        metavar="ADDRESS",
        help="of any server of the cluster; where left out, what AIOFLOW_TARGET names. The key is the one that "
        "AIOFLOW_KEYS names",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_queues)


def _queues(arguments: argparse.Namespace) -> int:
    target = arguments.target or os.environ.get("AIOFLOW_TARGET", "")
    if not target:
        raise SessionError("of which server? Name its address with --target, or in AIOFLOW_TARGET")
    servers = anyio.run(_ask, target)
    found = [(server, [q for q in server.queues if arguments.name in {None, q.name}]) for server in servers]
    if arguments.name is not None and not any(queues for _, queues in found):
        known = sorted({queue.name for server in servers for queue in server.queues})
        raise NotFound(f"there is no queue {arguments.name!r} at {target}; there are {known or 'none'}")
    if arguments.json:
        told = [
            {"task": server.task, "memory_bytes": server.memory_bytes, "queues": [asdict(queue) for queue in queues]}
            for server, queues in found
        ]
        print(json.dumps({"servers": told}))
        return 0
    for server, queues in found:
        print(f"{server.task}  {server.memory_bytes / MB:.1f} MB of shared memory")
        for queue in queues:
            print(f"  {_line(queue)}")
        if not queues:
            print("  no queues")
    return 0


async def _ask(target: str) -> tuple[ServerStats, ...]:
    async with Session(target) as session:
        return await session.stats()


def _line(queue: QueueStats) -> str:
    capacity = f" of {queue.capacity}" if queue.capacity >= 0 else ""
    parts = [
        f"{queue.container}/{queue.name}" if queue.container else queue.name,
        queue.kind,
        f"{queue.size}{capacity} elements, {queue.size_bytes / MB:.1f} of {queue.capacity_bytes / MB:.1f} MB",
        f"{queue.enqueued} in, {queue.dequeued} out",
        f"{queue.ahead} sent ahead" if queue.ahead else "",
        f"{queue.unacknowledged} not acknowledged" if queue.unacknowledged else "",
        f"{queue.puts_waiting} puts wait" if queue.puts_waiting else "",
        f"{queue.gets_waiting} gets wait" if queue.gets_waiting else "",
        f"producers {', '.join(queue.producers)}" if queue.producers else "",
        "closed" if queue.is_closed else "",
    ]
    return "  ".join(filter(None, parts))
