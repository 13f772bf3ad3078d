"""The transport on shared memory: addresses, files, users, strangers, descriptors, and what is left in the process."""

from __future__ import annotations

import array
import asyncio
import gc
import os
import resource
import socket
import stat
import struct
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import uvloop

import aioflow as flow
from aioflow.errors import AddressInUse, ConnectFailed, ConnectionLost, LocalProtocolError
from aioflow.testing._transport_ends import BOUND_S, Inbox, Stage, echo
from aioflow_shm import ShmTransport, _client
from aioflow_shm._address import parse_address
from aioflow_shm._limits import FRAMES_MAX
from aioflow_shm._lock import SocketFile
from aioflow_shm._parcels import GREETING, LENT, LONG, PARCEL, REFUSED, SEGMENT, WANT, measure, numbers, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aioflow.transport import Frame
    from tests.unit.transports.conftest import OpenStage

pytestmark = pytest.mark.anyio


def _packet(*messages: list[Frame]) -> bytes:
    measured = [(message, measure(message, "the server")) for message in messages]
    return b"".join(pack(measured, (), (), (), lambda _frame, _size: None)[0])


def _raw(address: str) -> socket.socket:
    """Connect as a program of any kind does."""
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    raw.connect(address.removeprefix("shm://"))
    return raw


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _read_to_the_end(raw: socket.socket) -> list[bytes]:
    packets: list[bytes] = []
    raw.setblocking(False)
    while True:
        await anyio.wait_readable(raw)
        try:
            packet = raw.recv(1 << 20)
        except ConnectionResetError:  # something was not read
            continue
        if not packet:
            return packets
        packets.append(packet)


async def _listen_fails(address: str, error: type[Exception], match: str) -> None:
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(error, match=match):
                await ShmTransport().listen(address, lambda _: Inbox(), tasks)


# Addresses and files


@pytest.mark.parametrize("path", ["/tmp/x", "x.sock", "/" + 106 * "x"])
def test_addresses_that_are_allowed(path: str) -> None:
    """A socket file."""
    assert parse_address(f"shm://{path}") == path


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ipc:///tmp/x", ["shm:///path"]),
        ("shm://", ["socket file"]),
        ("shm:///tmp/", ["socket file"]),
        ("shm://@name", ["abstract"]),
        ("shm:///" + 107 * "x", ["108", "107", "/tmp"]),
    ],
)
async def test_addresses_that_are_refused(address: str, words: list[str]) -> None:
    """All calls refuse it at once, and say why."""
    transport = ShmTransport()
    async with anyio.create_task_group() as tasks:
        with pytest.raises(ConnectFailed) as by_connect:
            await transport.connect(address, Inbox(), tasks)
        with pytest.raises(ConnectFailed) as by_listen:
            await transport.listen(address, lambda _: Inbox(), tasks)
        with pytest.raises(ConnectFailed) as by_beat:
            await transport.beat(address, lambda _: [b"x"], lambda _: 0, 1)
    for word in words:
        assert all(word in str(refused.value) for refused in (by_connect, by_listen, by_beat))


async def test_only_the_owner_can_use_the_files(folder: Path, open_stage: OpenStage) -> None:
    """Socket and lock have mode 0600, and both are gone after the close."""
    mask = os.umask(0)
    try:
        async with open_stage(f"shm://{folder}/x") as stage:
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
            assert modes == {"x": 0o600, "x.lock": 0o600}
            await stage.join()
    finally:
        os.umask(mask)
    assert not list(folder.iterdir())


async def test_a_second_server_is_refused_and_the_first_undisturbed(folder: Path, open_stage: OpenStage) -> None:
    """The lock says who serves a path."""
    async with open_stage(f"shm://{folder}/x") as stage:
        await _listen_fails(stage.address, AddressInUse, "x.lock")
        await stage.join()
        assert {path.name for path in folder.iterdir()} == {"x", "x.lock"}


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
async def test_a_foreign_listener_is_not_disturbed(folder: Path, kind: int) -> None:
    """A socket on which another program listens is left alone, though it has no lock."""
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(f"{folder}/x")
        other.listen()
        await _listen_fails(f"shm://{folder}/x", AddressInUse, "another program")
    assert {path.name for path in folder.iterdir()} == {"x"}


async def test_a_file_that_is_no_socket_is_kept(folder: Path) -> None:
    """A path with something else in it is refused."""
    (folder / "x").write_text("precious")
    await _listen_fails(f"shm://{folder}/x", ConnectFailed, "no socket")
    assert (folder / "x").read_text() == "precious"


async def test_a_lock_that_is_a_link_and_a_missing_folder_are_named(folder: Path) -> None:
    """Nobody can have a server open a file of their choice; the messages say what to do."""
    (folder / "x.lock").symlink_to(folder / "elsewhere")
    await _listen_fails(f"shm://{folder}/x", ConnectFailed, "symbolic link")
    await _listen_fails(f"shm://{folder}/none/x", ConnectFailed, "none does not exist: make it first")
    assert not (folder / "elsewhere").exists()


async def test_a_stale_socket_is_replaced(folder: Path, open_stage: OpenStage) -> None:
    """A socket file without a listener is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{folder}/x")
    async with open_stage(f"shm://{folder}/x") as stage:
        await stage.join()
    assert not list(folder.iterdir())


def test_files_of_a_successor_are_not_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were taken away and made anew by another are left alone; ours go from where they were made."""
    monkeypatch.chdir(folder)
    first, second = SocketFile("x"), SocketFile("y")
    (folder / "x").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{folder}/x")
        monkeypatch.chdir("/")
        first.release()
        second.release()
        assert [path.name for path in folder.iterdir()] == ["x"]


# Who may be at the other end


async def test_another_user_is_refused(
    folder: Path, open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Either side refuses, and says what to use instead."""
    async with open_stage(f"shm://{folder}/x") as stage:
        monkeypatch.setattr(_client, "_CREDENTIALS", _Somebody("3i"))
        with pytest.raises(ConnectFailed, match="one user only: use ipc"):
            await stage.transport.connect(stage.address, Inbox(), stage.tasks)
        with caplog.at_level("INFO", "aioflow.shm"), _raw(stage.address) as raw:
            assert await _read_to_the_end(raw) == []
        assert "was not accepted" in caplog.text
        monkeypatch.undo()
        await stage.join()


class _Somebody(struct.Struct):
    """Reads credentials as those of somebody else."""

    def unpack(self, buffer: object, /) -> tuple[int, int, int]:
        return 1, os.geteuid() + 1, 1


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
async def test_what_is_no_server_is_refused(folder: Path, kind: int) -> None:
    """Another kind of socket, or one that greets in another way."""
    with anyio.fail_after(BOUND_S), socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(f"{folder}/x")
        other.listen()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_say_something_else, other)
            with pytest.raises(ConnectFailed, match="no aioflow server"):
                await ShmTransport().connect(f"shm://{folder}/x", Inbox(), tasks)
            tasks.cancel_scope.cancel()


async def _say_something_else(listener: socket.socket) -> None:
    await anyio.wait_readable(listener)
    accepted, _ = listener.accept()
    with accepted:
        accepted.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await anyio.sleep_forever()


@pytest.mark.parametrize(
    "packet",
    [
        b"x",
        bytes(100),
        os.urandom(70_000),
        numbers(PARCEL),
        numbers(PARCEL, 1, 0, 0, 0, 0),
        numbers(PARCEL, (1 << 32) - 1, 0, 0, 0, 0),
        numbers(PARCEL, 1, 0, 0, 0, 0, 1),
        numbers(PARCEL, 2, 0, 0, 0, 0, 1, 5) + b"four",
        numbers(PARCEL, 2, 0, 0, 0, 0, 1, 5) + b"sixsix",
        numbers(PARCEL, 1, 0, 0, 0, 0, 0),
        numbers(PARCEL, 2, 4, 0, 0, 0, 1, (1 << 32) - 1, 0, 0, 8192, 1),
        numbers(PARCEL, 2, 0, 0, 0, 0, 1, (1 << 32) - 1),
        _packet([b"x"] * FRAMES_MAX).replace(struct.pack("<I", FRAMES_MAX), struct.pack("<I", FRAMES_MAX + 1)),
        numbers(LONG, 0, 0),
        numbers(LONG, 0, 1 << 30),
        numbers(LONG, 1),
        numbers(WANT, 0, 0),
        numbers(WANT, 0, (1 << 32) - 1),
        numbers(WANT, 0),
        numbers(LENT, 0),
        numbers(77, 1, 2, 3),
    ],
)
async def test_a_peer_that_breaks_the_rules_is_cut_off(packet: bytes, folder: Path, open_stage: OpenStage) -> None:
    """Its message is dropped, its connection ended from this side, and the others stay."""
    async with open_stage(f"shm://{folder}/x") as stage:
        with _raw(stage.address) as raw:
            raw.send(GREETING)
            raw.send(_packet([b"hello"]))
            inbox = await stage.accepted()
            await inbox.wait_messages(1)
            raw.send(packet)
            await inbox.wait_lost()
            assert await _read_to_the_end(raw) == [GREETING]
        assert inbox.messages == [(b"hello",)]
        assert [type(error) for error in inbox.losses] == [ConnectionLost]
        await stage.join()


@pytest.mark.parametrize("packets", [[], [b"GET / HTTP/1.1"], [GREETING], [GREETING, b"nonsense"]])
async def test_who_says_nothing_is_no_connection(packets: list[bytes], folder: Path, open_stage: OpenStage) -> None:
    """A connection begins with its first message; what is no greeting ends it."""
    async with open_stage(f"shm://{folder}/x") as stage:
        with _raw(stage.address) as raw:
            for packet in packets:
                raw.send(packet)
            near, far = await stage.join()
            near.send([b"again"])
            await far.wait_messages(2)
            if len(packets) == 1 and packets != [GREETING]:
                assert await _read_to_the_end(raw) == [GREETING]


async def test_who_asks_for_memory_without_end_is_refused(folder: Path, open_stage: OpenStage) -> None:
    """It is lent what the largest frames take, and each number once."""
    async with open_stage(f"shm://{folder}/x") as stage:
        with _raw(stage.address) as raw:
            raw.send(GREETING)
            raw.send(_packet([b"hello"]))
            await stage.accepted()
            answers: list[int] = []
            for number in (0, 0, *range(1, 10)):
                raw.send(numbers(WANT, number, 1 << 30))
            while len(answers) < 12:
                await anyio.wait_readable(raw)
                answers.append(int.from_bytes(raw.recv(4), "little"))
            assert answers.pop(0) == int.from_bytes(GREETING[:4], "little")
            assert answers == [LENT, REFUSED, *[LENT] * 7, *[REFUSED] * 2]
        await stage.join()
        while stage.listener.memory_bytes:
            await anyio.lowlevel.checkpoint()


async def test_descriptors_that_nobody_asked_for_are_closed(folder: Path, open_stage: OpenStage) -> None:
    """However many come, and with whatever: this process keeps none."""
    async with open_stage(f"shm://{folder}/x") as stage:
        before = _descriptors()
        with _raw(stage.address) as raw, Path("/dev/null").open("rb") as null:
            raw.send(GREETING)
            raw.send(_packet([b"hello"]))
            inbox = await stage.accepted()
            for number, packet in enumerate((_packet([b"x"]), numbers(SEGMENT, 0, 4096), numbers(SEGMENT, 0, 1 << 30))):
                two = array.array("i", [null.fileno()] * 2)
                raw.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, two)])
                raw.send(_packet([b"%d" % number]))
            await inbox.wait_messages(5)
        await inbox.wait_lost()
        await inbox.connection.aclose()
        assert _descriptors() == before


# Connections


class _Huge(bytes):
    """Bytes that claim a size beyond the limit."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1 << 40


async def test_a_message_beyond_a_limit_is_refused_before_it_is_sent(folder: Path, open_stage: OpenStage) -> None:
    """The sender learns of it at once, and the connection stays."""
    async with open_stage(f"shm://{folder}/x") as stage:
        near, far = await stage.join()
        for inbox in (near, far):
            for frames in ([], [b""] * (FRAMES_MAX + 1), [_Huge(b"x")]):
                with pytest.raises(LocalProtocolError):
                    inbox.send(frames)
        near.send([b"x" * 100] * FRAMES_MAX)
        far.send([b""] * FRAMES_MAX)
        await far.wait_messages(2)
        await near.wait_messages(1)
        assert [len(near.messages[0]), len(far.messages[1])] == [FRAMES_MAX, FRAMES_MAX]


async def test_what_arrives_together_is_answered_together(folder: Path, open_stage: OpenStage) -> None:
    """Messages of one packet are handed over one by one, and their answers travel as one."""
    messages: list[list[Frame]] = [[b"%d" % i, bytes(i)] for i in range(50)]
    async with open_stage(f"shm://{folder}/x") as stage:
        stage.on_message = echo
        with _raw(stage.address) as raw:
            raw.send(GREETING)
            raw.send(_packet(*messages))
            inbox = await stage.accepted()
            await inbox.wait_messages(50)
            assert [raw.recv(1 << 20), raw.recv(1 << 20)] == [GREETING, _packet(*messages)]
        await inbox.wait_lost()


async def test_a_cancelled_task_group_closes_everything(folder: Path) -> None:
    """Without a call of `aclose`, the files go with the tasks, and a later `aclose` returns at once."""
    made: list[Inbox] = []
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(ShmTransport(), tasks)
            await stage.listen(f"shm://{folder}/x")
            made.extend(await stage.join())
            tasks.cancel_scope.cancel()
        assert not list(folder.iterdir())
        for inbox in made:
            inbox.send([b"to nobody"])
            await inbox.connection.aclose()
    assert [len(inbox.losses) for inbox in made] == [0, 0]


async def test_a_cancelled_close_still_closes(folder: Path) -> None:
    """The bound of a close may be cut short; the sockets are closed all the same."""
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(ShmTransport(), tasks)
            await stage.listen(f"shm://{folder}/x")
            near, _ = await stage.join()
            for closing in (near.connection, stage.listener):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await closing.aclose()


async def test_what_a_receiver_raises_ends_the_task_group(folder: Path) -> None:
    """As from any task of the transport's, on every event loop."""

    def fail(_inbox: Inbox, _frames: list[Frame]) -> None:
        raise ZeroDivisionError

    with anyio.fail_after(BOUND_S), pytest.raises(BaseExceptionGroup) as raised:
        async with anyio.create_task_group() as tasks:
            stage = Stage(ShmTransport(), tasks)
            stage.on_message = fail
            await stage.listen(f"shm://{folder}/x")
            near = Inbox()
            near.connection = await stage.transport.connect(stage.address, near, tasks)
            near.send([b"hello"])
            await anyio.sleep_forever()
    assert raised.group_contains(ZeroDivisionError)
    assert not list(folder.iterdir())


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Allow thirty more descriptors than there are."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_descriptors() + 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_descriptors")
async def test_at_the_limit_of_descriptors(folder: Path, open_stage: OpenStage) -> None:
    """A connect says what to do; a listener goes on when there are some again; frames need none."""
    async with open_stage(f"shm://{folder}/x") as stage:
        near, far = await stage.join()
        for _ in range(3):
            near.send([bytes(1_000_000)])
            far.send([bytes(1_000_000)])
        await near.wait_messages(3)
        await far.wait_messages(4)
        held: list[socket.socket] = []
        try:
            while True:
                held.append(socket.socket())
        except OSError:
            pass
        with pytest.raises(ConnectFailed, match="ulimit"):
            await stage.transport.connect(stage.address, Inbox(), stage.tasks)
        held.pop().close()  # enough for the one end, and not for the other
        waiting = Inbox()
        async with anyio.create_task_group() as tasks:

            async def connect() -> None:
                waiting.connection = await stage.transport.connect(stage.address, waiting, stage.tasks)

            tasks.start_soon(connect)
            await anyio.wait_all_tasks_blocked()
            for each in held:
                each.close()
        waiting.send([b"hello"])
        await (await stage.accepted()).wait_messages(1)
        await waiting.connection.aclose()


async def test_nothing_is_left_in_the_process(folder: Path, open_stage: OpenStage) -> None:
    """After the last close there is no descriptor, no mapping and no memory more than before."""

    def held() -> tuple[int, int]:
        gc.collect()
        return _descriptors(), Path("/proc/self/maps").read_text().count("memfd:aioflow ")

    before = None
    for _ in range(4):
        async with open_stage(f"shm://{folder}/x") as stage:
            near, far = await stage.join()
            for number in range(3):  # the first in packets, as there is no memory yet
                near.send([bytes(10_000_000)])
                far.send([bytes(10_000_000)])
                await near.wait_messages(number + 1)
                await far.wait_messages(number + 2)
            assert held()[1] >= 4
            await near.connection.aclose()
        before = before or held()  # after the first round, in which the event loop makes what it keeps
        assert held() <= before
        assert held()[1] == 0


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_program_without_anyio(run: Callable[[Any], Any], folder: Path) -> None:
    """What a message calls may start tasks, although anyio finds none that it is called in."""
    address = f"shm://{folder}/0"

    async def main() -> list[Any]:
        with anyio.fail_after(BOUND_S):
            async with flow.Server({"local": [address]}), flow.Session(address):
                queue = flow.FIFOQueue(4, "int64", ())
                await queue.enqueue(1)
                return [int(await queue.dequeue())]

    assert Context().run(run, main()) == [1]  # in which nobody has named the event loop
