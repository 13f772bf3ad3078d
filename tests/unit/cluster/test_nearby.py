"""A server at an ipc address is reached through shared memory where that can be, and at the address where not."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import aioflow as flow
from aioflow.cluster import _nearby, _server
from aioflow.cluster._nearby import connect_nearest
from aioflow.keys import make_keys
from aioflow.testing._transport_ends import BOUND_S, Inbox, Stage
from aioflow.transport import find_transport
from aioflow_shm import _client

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this kind of memory"),
]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop is enough."""
    return "asyncio"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, in which nothing may be left."""
    with tempfile.TemporaryDirectory(prefix="af") as name:
        yield Path(name)
        assert not list(Path(name).iterdir())


def _refuse(path: str) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", path)


def _peers(server: flow.Server) -> list[str]:
    return sorted({connection.peer.partition("://")[0] for connection in server._connections.values()})


async def test_a_session_goes_through_shared_memory(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without being asked, and a line says so; the address is what it was."""
    q = flow.FIFOQueue(10, "int64", (), shared_name="q")
    with anyio.fail_after(BOUND_S), caplog.at_level("INFO"):
        async with flow.Server({"local": [f"ipc://{folder}/s"]}) as server:
            assert server.address == f"ipc://{folder}/s"
            assert {path.name for path in folder.iterdir()} == {"s", "s.lock", "s.shm", "s.shm.lock"}
            async with flow.Session(server.address):
                await q.enqueue(1)
                assert await q.dequeue() == 1
                assert _peers(server) == ["shm"], "its beats, too"
    assert "shared memory" not in caplog.text
    assert caplog.text.count(f"the session with ipc://{folder}/s shares memory with the server") == 1


async def test_beats_follow_to_a_server_without_shared_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has found another server at the address beats where that one listens."""
    address = f"ipc://{folder}/s"

    async def nobody(*_: object) -> None:
        pass

    with anyio.fail_after(BOUND_S):
        first = await flow.Server({"local": [address]}).start()
        async with flow.Session(address):
            await first.close()
            monkeypatch.setattr(_server, "listen_nearby", nobody)
            async with flow.Server({"local": [address]}) as second:
                while not any(session.has_beaten for session in second._broker._sessions):
                    await anyio.sleep(0.01)
                assert _peers(second) == ["ipc"]


async def test_a_client_that_waits_for_its_server_too(folder: Path) -> None:
    """What was not there at first is looked for again when the server has appeared."""
    address = f"ipc://{folder}/s"
    inbox = Inbox()

    async def connect() -> None:
        inbox.connection, _ = await connect_nearest(address, None, inbox, tasks)

    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as connecting:
                connecting.start_soon(connect)
                await anyio.wait_all_tasks_blocked()
                server = await flow.Server({"local": [address]}).start()
            assert inbox.connection.peer == f"the server at shm://{folder}/s.shm"
            await inbox.connection.aclose()
            await server.close()


@pytest.mark.parametrize("why", ["not there", "nobody answers", "one user only", "no socket", "Permission denied"])
async def test_what_cannot_be_shared_goes_as_before(
    folder: Path, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says why: the file is missing, a killed server has left it, or it is another user's."""
    address, other = f"ipc://{folder}/s", socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(_nearby, "GREETING_S", 0.01)
    with anyio.fail_after(BOUND_S), other, caplog.at_level("INFO", "aioflow.session"):
        async with anyio.create_task_group() as tasks:
            stage = Stage(find_transport(address), tasks)
            await stage.listen(address)
            if why == "no socket":  # a link would lead to another server
                (folder / "s.shm").symlink_to(folder / "s")
            elif why == "Permission denied":
                monkeypatch.setattr(_nearby.os, "lstat", _refuse)  # type: ignore[attr-defined]
            elif why != "not there":
                other.bind(f"{folder}/s.shm")
            if why == "one user only":
                other.listen()
                user = os.geteuid()
                monkeypatch.setattr(_client.os, "geteuid", lambda: user + 1)  # type: ignore[attr-defined]
            inbox = Inbox()
            inbox.connection, _ = await connect_nearest(address, None, inbox, tasks)
            assert inbox.connection.peer == f"the server at {address}"
            await stage.aclose()
            await inbox.connection.aclose()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "without shared memory" in line
    assert why in line
    (folder / "s.shm").unlink(missing_ok=True)


async def test_a_file_that_a_killed_server_has_left_is_replaced(folder: Path) -> None:
    """As that at the address."""
    for name in ("s", "s.shm"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if "." in name else socket.SOCK_STREAM) as stale:
            stale.bind(f"{folder}/{name}")
    with anyio.fail_after(BOUND_S):
        async with flow.Server({"local": [f"ipc://{folder}/s"]}) as server, flow.Session(server.address):
            assert "shm" in _peers(server)


async def test_a_server_does_not_start_beside_somebody_else(folder: Path) -> None:
    """Its clients would go there."""
    with anyio.fail_after(BOUND_S):
        async with flow.Server({"local": [f"shm://{folder}/s.shm"]}):
            with pytest.raises(flow.AddressInUse, match=r"s\.shm"):
                await flow.Server({"local": [f"ipc://{folder}/s"]}).start()
            assert {path.name for path in folder.iterdir()} == {"s.shm", "s.shm.lock"}
        async with flow.Server({"local": [f"ipc://{folder}/s"]}):
            with pytest.raises(flow.AddressInUse, match=r"/s\.lock"):
                await flow.Server({"local": [f"ipc://{folder}/s"]}).start()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of keys."""
    make_keys(tmp_path / "keys", ["client"])
    return tmp_path / "keys"


async def test_a_server_with_keys_has_nobody_beside_it(folder: Path, keys: Path) -> None:
    """Clients without a key would find whoever listens there; what a killed server has left there is removed."""
    address = f"ipc://{folder}/s"
    with anyio.fail_after(BOUND_S):
        async with flow.Server({"local": [f"shm://{folder}/s.shm"]}):
            with pytest.raises(flow.AddressInUse, match=r"s\.shm"):
                await flow.Server({"local": [address]}, credentials=keys).start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
            stale.bind(f"{folder}/s.shm")
        async with flow.Server({"local": [address]}, credentials=keys):
            assert {path.name for path in folder.iterdir()} == {"s", "s.lock"}
            with pytest.raises(flow.AuthenticationFailed):
                await flow.Session(address).open()


async def test_a_path_that_is_too_long_is_served_as_before(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A socket's path has at most 107 bytes; each side says so in one line."""
    path = f"{folder}/".ljust(105, "x")
    with anyio.fail_after(BOUND_S), caplog.at_level("INFO", "aioflow.session"):
        async with flow.Server({"local": [f"ipc://{path}"]}) as server, flow.Session(server.address):
            assert _peers(server) == ["ipc"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    for line, what in zip(told, ("is served without", "goes on without"), strict=True):
        assert f"{what} shared memory: the path of" in line
