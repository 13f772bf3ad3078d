"""The other tasks of a server's cluster, each through a session that is opened when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from aioflow.cluster._remote import RemoteHost
from aioflow.cluster._remote_steps import deregister, end_owner, send_tensor
from aioflow.errors import ConnectFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from aioflow.graph import Task
    from aioflow.runtime import SessionConfig
    from aioflow.transport import Frame

__all__ = ["Neighbours", "missing"]


class Neighbours:
    """Connections to other tasks.

    Args:
        addresses: Of each task.
        config: Their settings.
        credentials: With which keys to connect; None for none.
    """

    def __init__(self, addresses: dict[Task, str], config: SessionConfig, credentials: Path | None) -> None:
        self._credentials = credentials
        self._addresses = addresses
        self._config = config
        self._hosts: dict[Task, RemoteHost] = {}
        self._opening = {task: anyio.Lock() for task in addresses}
        self._is_closed = False

    async def reach(self, task: Task) -> RemoteHost:
        """Return the host of a task.

        Raises:
            ConnectFailed: It did not answer within `connect_s`.
        """
        host = self._hosts.get(task)
        if host is None or host.has_ended:
            async with self._opening[task]:
                host = self._hosts.get(task)
                if host is None or host.has_ended:
                    host = await self._open(task, host)
        return host

    async def deliver(self, task: Task, step: str, key: str, frames: Sequence[Frame]) -> None:
        """Give a value to a step of another task."""
        await send_tensor(await self.reach(task), step, key, frames)

    def end_owner(self, owner: str, tasks: Iterable[Task]) -> None:
        """Tell tasks that a session is over; what has ended by itself is over there, too."""
        for task in tasks:
            host = self._hosts.get(task)
            if host is not None and not host.has_ended:
                end_owner(host, owner)

    def drop(self, task: Task, life: str, number: int) -> None:
        """Let a task forget a part that it was sent in a life of its session."""
        host = self._hosts.get(task)
        if host is not None and not host.has_ended and host.life == life:
            deregister(host, number)

    async def close(self) -> None:
        """Disconnect from all; each is bounded."""
        self._is_closed = True
        hosts, self._hosts = list(self._hosts.values()), {}
        async with anyio.create_task_group() as group:
            for host in hosts:
                group.start_soon(host.close)

    async def _open(self, task: Task, ended: RemoteHost | None) -> RemoteHost:
        if ended is not None:
            await ended.close()
        name = f"{self._addresses[task]} ({task})"
        host = RemoteHost(self._addresses[task], self._config, self._credentials, name=name, is_target=False)
        try:
            await host.open()
        except ConnectFailed as error:
            raise ConnectFailed(missing(task, self._addresses[task], self._config.connect_s)) from error
        if self._is_closed:
            await host.close()
        self._hosts[task] = host
        return host


def missing(task: Task, address: str, connect_s: float) -> str:
    """Say that a task of a cluster was not reached, and how it is started."""
    return (
        f"{task} is missing: nobody answered at {address} within {connect_s:g} s; start it with: "
        f"aioflow serve --cluster cluster.toml --job {task.job} --task {task.task}"
    )
