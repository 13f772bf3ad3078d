"""Addresses: what is refused, and what the refusal says."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from aioflow.errors import AddressInUse, ConnectFailed
from aioflow.testing._transport_ends import BOUND_S, Inbox
from aioflow_zmq import ZmqTransport
from aioflow_zmq._address import IpcAddress, TcpAddress, parse_address
from aioflow_zmq._limits import REFUSALS_MAX

if TYPE_CHECKING:
    from tests.unit.transports.conftest import OpenStage


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ipc:///tmp/x", IpcAddress("/tmp/x")),
        ("ipc://x.sock", IpcAddress("x.sock")),
        ("tcp://127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("tcp://127.9.9.9:*", TcpAddress("127.9.9.9", 0)),
        ("tcp://localhost:5555", TcpAddress("127.0.0.1", 5555)),
        ("tcp://[::1]:5555", TcpAddress("::1", 5555)),
        ("ipc:///" + 106 * "x", IpcAddress("/" + 106 * "x")),
    ],
)
def test_addresses_that_are_allowed(address: str, expected: IpcAddress | TcpAddress) -> None:
    """A socket file, or a port of the loopback interface."""
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://*:5555", ["without keys", "aioflow keys make", "--keys", "credentials="]),
        ("tcp://0.0.0.0:5555", ["without keys"]),
        ("tcp://[::]:5555", ["without keys"]),
        ("tcp://192.168.1.1:5555", ["without keys"]),
        ("tcp://example.org:5555", ["without keys"]),
        ("tcp://eth0:5555", ["without keys"]),
        ("tcp://[::ffff:10.0.0.1]:5555", ["without keys"]),
        ("tcp://127.0.0.1", ["host:port"]),
        ("tcp://127.0.0.1:99999", ["host:port"]),
        ("tcp://127.0.0.1:80;10.0.0.1:80", ["host:port"]),
        ("udp://127.0.0.1:80", ["ipc://", "tcp://"]),
        ("ipc://", ["socket file"]),
        ("ipc://*", ["socket file"]),
        ("ipc:///tmp/", ["socket file"]),
        ("ipc://@name", ["anyone on this host"]),
        ("ipc:///" + 107 * "x", ["108", "107", "/tmp"]),
        ("ipc:///" + 54 * "ü", ["109", "107"]),
    ],
)
@pytest.mark.anyio
async def test_addresses_that_are_refused(address: str, words: list[str]) -> None:
    """Both calls refuse it at once, and say why and what to do."""
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(ConnectFailed) as by_connect:
                await ZmqTransport().connect(address, Inbox(), tasks)
            with pytest.raises(ConnectFailed) as by_listen:
                await ZmqTransport().listen(address, lambda _: Inbox(), tasks)
            for word in words:
                assert word in str(by_connect.value)
                assert word in str(by_listen.value)


@pytest.mark.anyio
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://localhost:*", "tcp://[::1]:0"])
async def test_the_address_names_the_chosen_port(address: str, open_stage: OpenStage) -> None:
    """A port of 0 or * is replaced by the one that the system chose."""
    if "::1" in address and not _has_ipv6():
        pytest.skip("this host has no IPv6 loopback")
    async with open_stage(address) as stage:
        assert int(stage.address.rpartition(":")[2]) > 0
        await stage.join()


@pytest.mark.anyio
async def test_a_port_of_another_program_is_in_use() -> None:
    """`listen` says so; `connect` says that it is no server of ours."""
    with anyio.fail_after(BOUND_S), socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        async with anyio.create_task_group() as tasks:
            with pytest.raises(AddressInUse, match="choose another port"):
                await ZmqTransport().listen(address, lambda _: Inbox(), tasks)
            tasks.start_soon(_answer, other)
            with pytest.raises(ConnectFailed, match="no aioflow server"):
                await ZmqTransport().connect(address, Inbox(), tasks)


async def _answer(listener: socket.socket) -> None:
    """Speak something else to whoever connects, as often as our client tries."""
    for _ in range(REFUSALS_MAX):
        await anyio.wait_readable(listener)
        connection, _address = listener.accept()
        with connection:
            connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100))
            await anyio.wait_readable(connection)
            connection.recv(1000)
            await anyio.wait_readable(connection)  # the client gives up


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
