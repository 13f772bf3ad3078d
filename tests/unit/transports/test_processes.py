"""Other processes: killed, stopped, forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import Process

from aioflow.errors import ConnectionLost
from aioflow.testing._transport_ends import BOUND_S, Inbox
from aioflow.transport import find_transport
from aioflow_zmq._limits import OUTBOX_MESSAGES_MAX
from tests.unit.transports.conftest import all_schemes, files

if TYPE_CHECKING:
    from tests.unit.transports.conftest import MakeAddress, OpenStage

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def peer_process(role: str, address: str) -> AsyncGenerator[Process]:
    """Run another process, and kill it in the end."""
    process = await anyio.open_process(
        [sys.executable, str(Path(__file__).with_name("peer.py")), role, address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stderr=None,
    )
    async with process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def read_line(process: Process) -> str:
    assert process.stdout is not None
    text = b""
    while not text.endswith(b"\n"):
        text += await process.stdout.receive()
    return text.decode().strip()


@all_schemes
async def test_a_killed_client_is_noticed_at_once(
    scheme: str, free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """The server hands over what the client had sent, then tells the loss once."""
    async with open_stage(free_address(scheme)) as stage, peer_process("talk", stage.address) as client:
        inbox = await stage.accepted()
        await inbox.wait_messages(500)
        client.kill()
        with anyio.fail_after(1):
            await inbox.wait_lost()
        assert inbox.messages == [(b"%d" % i,) for i in range(500)]
        assert [type(error) for error in inbox.losses] == [ConnectionLost]


@all_schemes
async def test_a_killed_server_is_noticed_at_once(scheme: str, free_address: MakeAddress) -> None:
    """The client is told of the loss once, and its later messages are dropped."""
    with anyio.fail_after(BOUND_S):
        async with peer_process("serve", free_address(scheme)) as server, anyio.create_task_group() as tasks:
            inbox = Inbox()
            address = await read_line(server)
            inbox.connection = await find_transport(address).connect(address, inbox, tasks)
            inbox.send([b"there?"])
            await inbox.wait_messages(1)
            server.kill()
            with anyio.fail_after(1):
                await inbox.wait_lost()
            inbox.send([b"to nobody"])
            await inbox.connection.aclose()
            assert [type(error) for error in inbox.losses] == [ConnectionLost]


@files
async def test_a_killed_server_leaves_a_socket_that_the_next_replaces(
    scheme: str, free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """A stale socket and its lock are in nobody's way."""
    address = free_address(scheme)
    async with peer_process("serve", address) as server:
        await read_line(server)
        server.kill()
        await server.wait()
    assert Path(address.partition("://")[2]).is_socket()
    async with open_stage(address) as stage:
        await stage.join()


@all_schemes
async def test_a_stopped_peer_does_not_hold_up_another(
    scheme: str, free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """What one peer cannot take waits in its own outbox, and arrives when it goes on."""
    async with open_stage(free_address(scheme)) as stage, peer_process("talk", stage.address) as client:
        stopped = await stage.accepted()
        await stopped.wait_messages(500)
        client.send_signal(signal.SIGSTOP)
        for _ in range(100):
            stopped.send([bytes(1_000_000)])  # far more than the kernel holds
        near, far = await stage.join()
        for i in range(100):
            far.send([b"%d" % i])
        await near.wait_messages(100)
        with anyio.fail_after(1.5):
            await stopped.connection.aclose()  # bounded, though nothing is taken


@files
async def test_a_forked_child_neither_uses_nor_holds_the_connection(
    scheme: str, free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """A send in the child is refused, and a killed parent is noticed although its child lives on."""
    async with open_stage(free_address(scheme)) as stage, peer_process("fork", stage.address) as parent:
        inbox = await stage.accepted()
        pid, said = (await read_line(parent)).split()
        try:
            assert said == "refused"
            parent.kill()
            with anyio.fail_after(1):
                await inbox.wait_lost()
            assert inbox.messages == [(b"hello",)]
        finally:
            os.kill(int(pid), signal.SIGKILL)


@files
async def test_a_peer_that_does_not_read_is_cut_off(
    scheme: str, free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """A bounded number of messages waits for it; then its loss is told, once and not from within a `send`."""
    async with open_stage(free_address(scheme)) as stage, peer_process("talk", stage.address) as client:
        stopped = await stage.accepted()
        await stopped.wait_messages(500)
        client.send_signal(signal.SIGSTOP)
        large = bytes(100_000)
        for _ in range(100):
            stopped.send([large])  # more than the kernel holds
        for _ in range(OUTBOX_MESSAGES_MAX + 1):
            stopped.send([b"small"])
        assert not stopped.losses
        await stopped.wait_lost()
        assert "reads too slowly" in str(stopped.losses[0])
        stopped.send([b"to nobody"])
        await stopped.connection.aclose()
        await stage.join()


@files
async def test_a_server_that_does_not_read_is_left(scheme: str, free_address: MakeAddress) -> None:
    """The same from the client's side."""
    with anyio.fail_after(BOUND_S):
        async with peer_process("serve", free_address(scheme)) as server, anyio.create_task_group() as tasks:
            inbox = Inbox()
            address = await read_line(server)
            inbox.connection = await find_transport(address).connect(address, inbox, tasks)
            server.send_signal(signal.SIGSTOP)
            large = bytes(100_000)
            for _ in range(1000):
                inbox.send([large])
            for _ in range(OUTBOX_MESSAGES_MAX + 1):
                inbox.send([b"small"])
            assert not inbox.losses
            await inbox.wait_lost()
            assert "reads too slowly" in str(inbox.losses[0])
            await inbox.connection.aclose()


@all_schemes
async def test_all_but_tcp_is_local(scheme: str, free_address: MakeAddress, open_stage: OpenStage) -> None:
    """The end of a tcp connection proves nothing about the other process, even on one host."""
    async with open_stage(free_address(scheme)) as stage:
        near, far = await stage.join()
        assert near.connection.is_local == far.connection.is_local == (scheme != "tcp")
