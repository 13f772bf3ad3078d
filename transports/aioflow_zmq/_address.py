"""The two kinds of address: parsed and checked before libzmq sees them."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass

import anyio

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
    """A host and a port; port 0 lets the system choose. Without keys the host is of the loopback interface."""

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


def parse_address(address: str, *, has_keys: bool = False) -> IpcAddress | TcpAddress:
    """Parse and check an address.

    Args:
        address: The address.
        has_keys: Whether both sides prove who they are; without, an address of the loopback interface is allowed only.

    Raises:
        ConnectFailed: It is malformed, too long, or not allowed.
    """
    scheme, found, rest = address.partition("://")
    if found and scheme == "ipc":
        return _ipc(address, rest)
    if found and scheme == "tcp":
        return _tcp(address, rest, has_keys=has_keys)
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


async def look_up(address: str, target: IpcAddress | TcpAddress) -> IpcAddress | TcpAddress:
    """Return a target whose host is a number, asking the system's resolver for one that is a name.

    libzmq would ask in its own thread, and everything else would stand still meanwhile.

    Raises:
        ConnectFailed: The resolver knows no such host.
    """
    if isinstance(target, IpcAddress) or _is_number(target.host):
        return target
    try:
        found = await anyio.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectFailed(f"the host of {address!r} is not known: {error}; check the name") from error
    return TcpAddress(str(found[0][4][0]), target.port)


def _tcp(address: str, rest: str, *, has_keys: bool) -> TcpAddress:
    match = _HOST_PORT.fullmatch(rest)
    if match is None or (match["port"] != "*" and int(match["port"]) > _PORT_MAX):
        raise ConnectFailed(f"{address!r} is malformed: expected tcp://host:port, such as tcp://127.0.0.1:5555")
    host = match["v6"] or match["host"]
    host = {"localhost": "127.0.0.1", "*": "0.0.0.0"}.get(host, host)  # noqa: S104 - with keys only
    # A name is not looked up: without keys a resolver's answer decides who is trusted.
    if not has_keys and not _is_loopback(host):
        raise ConnectFailed(
            f"{address!r} is not on the loopback interface, and without keys whoever reaches the port could read and "
            "write the queues. Make keys: aioflow keys make ./keys CLIENT; serve with: "
            f"aioflow serve --bind {address} --keys ./keys; and give the client credentials='./keys/clients/CLIENT.key'"
        )
    return TcpAddress(host, 0 if match["port"] == "*" else int(match["port"]))


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, or a wildcard
