"""Two hosts in one: network namespaces with a link between them that a test can take down and up again."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count
from types import TracebackType
from typing import Self

_numbers = count()

# The addresses of the two ends; they exist within the namespaces only.
SERVER, CLIENT = "10.77.0.1", "10.77.0.2"


def ip(*arguments: str) -> None:
    """Run `ip`, which must succeed."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10)


def why_not() -> str:
    """Return why namespaces cannot be made here; empty where they can."""
    if shutil.which("ip") is None:
        return "there is no command ip (iproute2)"
    try:
        with Hosts():
            return ""
    except subprocess.SubprocessError as error:
        return f"this user may make no network namespaces: {getattr(error, 'stderr', error)}".strip()


class Hosts:
    """A server's namespace and a client's, and a pair of virtual Ethernet devices between them."""

    def __init__(self) -> None:
        number = f"{os.getpid()}-{next(_numbers)}"
        self.server, self.client = f"aioflow-s{number}", f"aioflow-c{number}"
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            for name in (self.server, self.client):
                ip("netns", "add", name)
                self._made.append(name)
            ip(
                *("-n", self.server, "link", "add", "link0", "type", "veth"),
                *("peer", "name", "link0", "netns", self.client),
            )
            for name, address in ((self.server, SERVER), (self.client, CLIENT)):
                ip("-n", name, "address", "add", f"{address}/24", "dev", "link0")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", "link0", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def take_down(self) -> None:
        """Take the link down, at the client's end."""
        ip("-n", self.client, "link", "set", "link0", "down")

    def bring_up(self) -> None:
        """Bring it up again."""
        ip("-n", self.client, "link", "set", "link0", "up")

    def _remove(self) -> None:
        for name in reversed(self._made):
            ip("netns", "delete", name)  # and with it the link
