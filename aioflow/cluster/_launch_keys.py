"""Keys that a launcher makes for a cluster that others could reach: one set for each launch, gone with it."""

from __future__ import annotations

import ipaddress
import os
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aioflow.keys import KEYS_VARIABLE, make_keys

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from aioflow.cluster._spec import ClusterSpec
    from aioflow.cluster._supervision import Start

__all__ = ["LAUNCHER", "launch_keys", "needs_keys", "with_keys"]

# The name of the key with which the launching program itself opens sessions.
LAUNCHER = "launcher"


def needs_keys(cluster: ClusterSpec) -> bool:
    """Whether an address of a cluster is beyond this host, and no keys were named for it by AIOFLOW_KEYS."""
    if KEYS_VARIABLE in os.environ:
        return False
    return any(_is_open(address) for _, _, address in cluster.tasks())


@contextmanager
def launch_keys(names: Sequence[str]) -> Generator[dict[str, Path]]:
    """Make a folder with the servers' key, and one for each name; gives each its file, and the folder under `""`.

    It takes some files' time: enter it in a thread where an event loop must go on.
    """
    with tempfile.TemporaryDirectory(prefix="aioflow-keys-") as folder:
        clients = {name: f"client-{number}" for number, name in enumerate(names)}
        files = make_keys(folder, clients.values())
        yield {"": Path(folder), **{name: files[client] for name, client in clients.items()}}


def with_keys(start: Start, keys: dict[str, Path]) -> Start:
    """Return a start that knows its key: a server the folder, a program its own file."""
    path = keys[""] if start.is_server else keys[start.name]
    return replace(start, environment={**start.environment, KEYS_VARIABLE: str(path)})


def _is_open(address: str) -> bool:
    scheme, _, rest = address.partition("://")
    if scheme != "tcp":
        return False
    host = rest.rpartition(":")[0].strip("[]")
    try:
        return not ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError:
        return True  # a name, or a wildcard
