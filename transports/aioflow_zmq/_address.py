"""The two kinds of address: parsed and checked before libzmq sees them."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from aioflow.errors import ConnectFailed
from aioflow_zmq._limits import IPC_PATH_BYTES_MAX

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>\d{1,5}|\*)")
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class IpcAddress:
    """A socket file.

    Attributes:
        path: The path as given, which is what the limit on its length applies to.
    """

    path: str

    @property
    def endpoint(self) -> str:
        """The address as libzmq reads it."""
        return f"ipc://{self.path}"

    @property
    def ipv6(self) -> bool:
        """No."""
        return False


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host of the loopback interface and a port; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def ipv6(self) -> bool:
        """Whether the host is an IPv6 address."""
        return ":" in self.host

    @property
    def endpoint(self) -> str:
        """The address as libzmq reads it; a port of `*` is one that the system chooses."""
        host = f"[{self.host}]" if self.ipv6 else self.host
        return f"tcp://{host}:{self.port or '*'}"


def parse_address(address: str) -> IpcAddress | TcpAddress:
    """Parse and check an address.

    Raises:
        ConnectFailed: It is malformed, too long, or not allowed.
    """
    scheme, found, rest = address.partition("://")
    if found and scheme == "ipc":
        return _ipc(address, rest)
    if found and scheme == "tcp":
        return _tcp(address, rest)
    raise ConnectFailed(f"{address!r} is no address of this transport: expected ipc:///path or tcp://127.0.0.1:port")


def _ipc(address: str, path: str) -> IpcAddress:
    if path.startswith("@"):
        raise ConnectFailed(
            f"{address!r} is in the abstract namespace, where files have no permissions: anyone on this host could "
            "read and write the queues; use a path, such as ipc:///run/user/1000/aioflow"
        )
    if path in {"", "*"} or "\0" in path or path.endswith("/"):
        raise ConnectFailed(f"{address!r} names no socket file: expected a path, such as ipc:///tmp/aioflow")
    length = len(os.fsencode(path))
    if length > IPC_PATH_BYTES_MAX:
        raise ConnectFailed(
            f"the path of {address!r} has {length} bytes, and the system allows {IPC_PATH_BYTES_MAX} for a socket: "
            "use a shorter path, such as one under /tmp"
        )
    return IpcAddress(path)


def _tcp(address: str, rest: str) -> TcpAddress:
    match = _HOST_PORT.fullmatch(rest)
    if match is None or (match["port"] != "*" and int(match["port"]) > _PORT_MAX):
        raise ConnectFailed(f"{address!r} is malformed: expected tcp://host:port, such as tcp://127.0.0.1:5555")
    host = match["v6"] or match["host"]
    # Not looked up: a resolver may wait, and may answer anything.
    host = "127.0.0.1" if host == "localhost" else host
    if not _is_loopback(host):
        raise ConnectFailed(
            f"{address!r} is not on the loopback interface, and there is no authentication yet: whoever reaches the "
            "port could read and write the queues. Use tcp://127.0.0.1:port or ipc:///path; to reach another host, "
            "tunnel with ssh -L port:127.0.0.1:port host"
        )
    return TcpAddress(host, 0 if match["port"] == "*" else int(match["port"]))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, or a wildcard
