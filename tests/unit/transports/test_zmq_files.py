"""Socket files: their lock, their mode, and what is left of them."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from aioflow.errors import AddressInUse, ConnectFailed
from aioflow.testing._transport_ends import BOUND_S, Inbox
from aioflow_zmq import ZmqTransport
from aioflow_zmq._lock import SocketFile

if TYPE_CHECKING:
    from tests.unit.transports.conftest import OpenStage

pytestmark = pytest.mark.anyio


async def _listen_fails(address: str, error: type[Exception], match: str) -> None:
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(error, match=match):
                await ZmqTransport().listen(address, lambda _: Inbox(), tasks)


def _do_nothing(*_: object) -> None:
    """Stand in for a call that must not be needed."""


async def test_only_the_owner_can_use_the_files(folder: Path, open_stage: OpenStage) -> None:
    """Socket and lock have mode 0600, and both are gone after the close."""
    mask = os.umask(0)
    try:
        async with open_stage(f"ipc://{folder}/x") as stage:
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
            assert modes == {"x": 0o600, "x.lock": 0o600}
            await stage.join()
    finally:
        os.umask(mask)
    assert not list(folder.iterdir())


async def test_a_second_server_is_refused_and_the_first_undisturbed(folder: Path, open_stage: OpenStage) -> None:
    """The lock says who serves a path."""
    async with open_stage(f"ipc://{folder}/x") as stage:
        await _listen_fails(stage.address, AddressInUse, "x.lock")
        await stage.join()
        assert {path.name for path in folder.iterdir()} == {"x", "x.lock"}


async def test_a_foreign_listener_is_not_disturbed(folder: Path) -> None:
    """A socket on which another program listens is left alone, though it has no lock."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{folder}/x")
        other.listen()
        await _listen_fails(f"ipc://{folder}/x", AddressInUse, "another program")
    assert {path.name for path in folder.iterdir()} == {"x"}


async def test_a_file_that_is_no_socket_is_kept(folder: Path) -> None:
    """A path with something else in it is refused."""
    (folder / "x").write_text("precious")
    await _listen_fails(f"ipc://{folder}/x", ConnectFailed, "no socket")
    assert (folder / "x").read_text() == "precious"
    assert {path.name for path in folder.iterdir()} == {"x"}


async def test_a_lock_that_is_a_link_is_refused(folder: Path) -> None:
    """Nobody can have a server open a file of their choice."""
    (folder / "x.lock").symlink_to(folder / "elsewhere")
    await _listen_fails(f"ipc://{folder}/x", ConnectFailed, "symbolic link")
    assert not (folder / "elsewhere").exists()


async def test_a_missing_folder_is_named(folder: Path) -> None:
    """The message says what to do."""
    await _listen_fails(f"ipc://{folder}/none/x", ConnectFailed, "none does not exist: make it first")


@pytest.mark.skipif(os.getuid() == 0, reason="everything is writable for root")
async def test_a_folder_that_is_not_writable_is_named(folder: Path) -> None:
    """The message says what to do."""
    folder.chmod(0o500)
    await _listen_fails(f"ipc://{folder}/x", ConnectFailed, "not writable")
    folder.chmod(0o700)


async def test_a_stale_socket_is_replaced(folder: Path, open_stage: OpenStage) -> None:
    """A socket file without a listener is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{folder}/x")
    async with open_stage(f"ipc://{folder}/x") as stage:
        await stage.join()
    assert not list(folder.iterdir())


async def test_files_of_a_successor_are_not_removed(folder: Path) -> None:
    """A server whose files were taken away and made anew by another leaves those alone."""
    first = SocketFile(f"{folder}/x")
    (folder / "x").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{folder}/x")
        first.release()
        assert (folder / "x").is_socket()
    os.close(first.fd)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives the file the socket's mode")
async def test_the_socket_never_has_a_looser_mode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode is right from the bind on, with no moment in between and no change of the process's umask."""
    monkeypatch.setattr(Path, "chmod", _do_nothing)
    mask = os.umask(0)
    try:
        file = SocketFile(f"{folder}/x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((folder / "x").stat().st_mode) == 0o600
    file.release()
    os.close(file.fd)


async def test_a_relative_path_is_removed_from_where_it_was_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory may change before the close."""
    monkeypatch.chdir(folder)
    file = SocketFile("x")
    monkeypatch.chdir("/")
    file.release()
    os.close(file.fd)
    assert not list(folder.iterdir())
