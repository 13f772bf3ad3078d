"""The address: parsed and checked before the system sees it."""

from __future__ import annotations

import os

from aioflow.errors import ConnectFailed
from aioflow_shm._limits import PATH_BYTES_MAX

_SCHEME = "shm://"


def parse_address(address: str) -> str:
    """Return the path of the socket file, as given: the limit on its length applies to that.

    Raises:
        ConnectFailed: The address is malformed, too long, or not allowed.
    """
    if not address.startswith(_SCHEME):
        raise ConnectFailed(f"{address!r} is no address of this transport: expected shm:///path")
    path = address.removeprefix(_SCHEME)
    if path.startswith("@"):
        raise ConnectFailed(
            f"{address!r} is in the abstract namespace, where files have no permissions; use a path, such as "
            "shm:///run/user/1000/aioflow"
        )
    if not path or "\0" in path or path.endswith("/"):
        raise ConnectFailed(f"{address!r} names no socket file: expected a path, such as shm:///tmp/aioflow")
    length = len(os.fsencode(path))
    if length > PATH_BYTES_MAX:
        raise ConnectFailed(
            f"the path of {address!r} has {length} bytes, and the system allows {PATH_BYTES_MAX} for a socket: "
            "use a shorter path, such as one under /tmp"
        )
    return path
