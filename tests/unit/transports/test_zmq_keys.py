"""Keys on real sockets: who is let in and who is not, what both sides are told, and what is left behind."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from aioflow.errors import AuthenticationFailed, ConnectFailed
from aioflow.keys import authorise, make_keys, revoke
from aioflow.testing._transport_ends import BOUND_S, Inbox, Stage, echo
from aioflow.transport import Frame
from aioflow_zmq import ZmqTransport, _refusals
from aioflow_zmq._limits import MESSAGES_MAX
from tests.unit.transports.conftest import MakeAddress

pytestmark = pytest.mark.anyio

both_schemes = pytest.mark.parametrize("scheme", ["ipc", "tcp"])

# Far below the 10 s that a session waits for a server, and much more than a handshake takes.
REFUSED_S = 2.0


@pytest.fixture
def keys(folder: Path) -> Path:
    """A folder of keys with two clients."""
    make_keys(folder / "keys", ["loader", "trainer"])
    return folder / "keys"


@pytest.fixture
def other(folder: Path) -> Path:
    """The folder of another server."""
    make_keys(folder / "other", ["loader"])
    return folder / "other"


def client_of(keys: Path, name: str = "loader") -> ZmqTransport:
    return ZmqTransport(keys / "clients" / f"{name}.key")


@asynccontextmanager
async def guarded(address: str, keys: Path | None) -> AsyncGenerator[Stage]:
    """Open a listener that demands keys, and close it."""
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(ZmqTransport(keys, messages_max=MESSAGES_MAX), tasks)
            await stage.listen(address)
            stage.on_message = echo
            yield stage
            await stage.aclose()


async def talk(stage: Stage, transport: ZmqTransport, message: bytes = b"hello") -> None:
    """Connect, have a message come back, and close."""
    inbox = Inbox()
    connection = await transport.connect(stage.address, inbox, stage.tasks)
    connection.send([message])
    await inbox.wait_messages(1)
    assert bytes(inbox.messages[0][0]) == message
    await connection.aclose()


async def refused(stage: Stage, transport: ZmqTransport, *words: str) -> None:
    """Fail to connect, soon, and with words that say why."""
    with anyio.fail_after(REFUSED_S), pytest.raises(AuthenticationFailed) as error:
        await transport.connect(stage.address, Inbox(), stage.tasks)
    for word in (stage.address, *words):
        assert word in str(error.value), str(error.value)


async def logged(caplog: pytest.LogCaptureFixture, *words: str) -> str:
    """Wait until the server has logged a line with these words."""
    while not (lines := [line for line in caplog.messages if all(word in line for word in words)]):
        await anyio.sleep(0.001)
    return lines[0]


@both_schemes
@pytest.mark.parametrize("size", [0, 1, 10_000, 5_000_000])
async def test_an_authorised_key_is_let_in(scheme: str, size: int, free_address: MakeAddress, keys: Path) -> None:
    """Messages of any size come through, also from another server of the same folder."""
    async with guarded(free_address(scheme), keys) as stage:
        await talk(stage, client_of(keys), bytes(size))
        await talk(stage, client_of(keys, "trainer"), bytes(size))
        await talk(stage, ZmqTransport(keys), bytes(size))


async def test_the_name_of_a_connection_says_whose_it_is(free_address: MakeAddress, keys: Path) -> None:
    """For the server's log."""
    async with guarded(free_address("tcp"), keys) as stage:
        connection = await client_of(keys).connect(stage.address, Inbox(), stage.tasks)
        connection.send([b"hello"])
        inbox = await stage.accepted()
        assert inbox.connection.peer == f"{stage.address} client 1 (loader)"
        await connection.aclose()


@both_schemes
async def test_without_a_key(
    scheme: str, free_address: MakeAddress, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told what the server demands; the server says who it was."""
    async with guarded(free_address(scheme), keys) as stage:
        await refused(stage, ZmqTransport(), "demands a key", "AIOFLOW_KEYS", "aioflow keys make")
        await logged(caplog, stage.address, "refused ", "one side has keys and the other has none")
        await talk(stage, client_of(keys))


@both_schemes
async def test_a_key_that_a_server_without_keys_cannot_check(
    scheme: str, free_address: MakeAddress, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that expects a server with a key does not talk to one that has none."""
    async with guarded(free_address(scheme), None) as stage:
        await refused(stage, client_of(keys), "has no keys", "--keys FOLDER")
        await logged(caplog, stage.address, "refused ", "one side has keys and the other has none")
        await talk(stage, ZmqTransport())


async def test_a_key_of_another_server(
    free_address: MakeAddress, other: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client expects another server than the one that is there."""
    async with guarded(free_address("tcp"), keys) as stage:
        await refused(stage, client_of(other), "other/clients/loader.key", "not the one", "copy")
        await logged(caplog, "refused ", "it expects a server with another key")


async def test_a_key_that_is_not_authorised(
    free_address: MakeAddress, other: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who knows the server's public key and made a pair of his own is not let in."""
    servers = next(line for line in (keys / "clients/loader.key").read_text().splitlines() if "server" in line)
    own = other / "clients" / "loader.key"
    own.write_text("\n".join(line for line in own.read_text().splitlines() if "server" not in line) + "\n" + servers)
    async with guarded(free_address("tcp"), keys) as stage:
        await refused(stage, ZmqTransport(own), "refused the key", str(own), "aioflow keys authorise")
        await logged(caplog, "refused 127.0.0.1", "is none of those that", str(keys))


async def test_a_revoked_key(free_address: MakeAddress, keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused from the next connection on, and let in again when it is authorised again."""
    async with guarded(free_address("tcp"), keys) as stage:
        await talk(stage, client_of(keys))
        await to_thread.run_sync(revoke, keys, "loader")
        await refused(stage, client_of(keys), "loader.key", "revoked", "aioflow keys authorise FOLDER loader")
        await logged(caplog, "refused 127.0.0.1", "the key of 'loader' was revoked")
        await talk(stage, client_of(keys, "trainer"))
        await to_thread.run_sync(authorise, keys, "loader")
        await talk(stage, client_of(keys))


@both_schemes
async def test_connections_of_a_revoked_key_end(
    scheme: str, free_address: MakeAddress, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both sides learn of it as of a loss; those of others stay."""
    async with guarded(free_address(scheme), keys) as stage:
        inboxes = {name: Inbox() for name in ("loader", "trainer")}
        ends: dict[str, Inbox] = {}
        connections = {}
        for name, inbox in inboxes.items():
            connections[name] = await client_of(keys, name).connect(stage.address, inbox, stage.tasks)
            connections[name].send([b"hello"])
            ends[name] = await stage.accepted()
            await inbox.wait_messages(1)
        await to_thread.run_sync(revoke, keys, "loader")
        await inboxes["loader"].wait_lost()
        await ends["loader"].wait_lost()
        assert "the key of 'loader' was revoked" in str(ends["loader"].losses[0])
        await logged(caplog, "connections of 'loader'", "was revoked")
        connections["trainer"].send([b"again"])
        await inboxes["trainer"].wait_messages(2)
        for connection in connections.values():
            await connection.aclose()


async def test_secrets_that_others_could_read(free_address: MakeAddress, keys: Path) -> None:
    """Each side refuses its own file, before anything is sent."""
    async with guarded(free_address("tcp"), keys) as stage:
        (keys / "clients" / "loader.key").chmod(0o644)
        for call in (
            lambda: client_of(keys).connect(stage.address, Inbox(), stage.tasks),
            lambda: client_of(keys).beat(stage.address, _make, _read, 1),
        ):
            with pytest.raises(AuthenticationFailed, match=r"loader.key has mode 0644.*chmod 600"):
                await call()
        (keys / "server.key").chmod(0o644)
        with pytest.raises(AuthenticationFailed, match=r"server.key has mode 0644.*chmod 600"):
            await ZmqTransport(keys).listen(free_address("tcp"), lambda _: Inbox(), stage.tasks)


async def test_a_public_key_that_is_not_that_of_the_secret(free_address: MakeAddress, keys: Path) -> None:
    """A file that somebody has edited."""
    path = keys / "clients" / "loader.key"
    lines = [f'public = "{64 * "a"}"' if "public" in line else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    async with guarded(free_address("tcp"), keys) as stage:
        with pytest.raises(AuthenticationFailed, match="is not that of its secret"):
            await client_of(keys).connect(stage.address, Inbox(), stage.tasks)


async def test_several_servers_of_one_process(free_address: MakeAddress, other: Path, keys: Path) -> None:
    """Each lets in those of its own folder; one without keys everybody."""
    async with guarded(free_address("tcp"), keys) as one, guarded(free_address("tcp"), other) as two:
        async with guarded(free_address("ipc"), None) as three:
            await talk(one, client_of(keys))
            await talk(two, client_of(other))
            await talk(three, ZmqTransport())
            await refused(two, client_of(keys), "not the one")
            await refused(one, client_of(other), "not the one")
        await to_thread.run_sync(revoke, keys, "loader")
        await refused(one, client_of(keys), "revoked")
        await talk(two, client_of(other))


async def test_a_server_starts_again(free_address: MakeAddress, keys: Path) -> None:
    """What asks about keys goes with its server, and comes with the next one."""
    for _ in range(3):
        async with guarded(free_address("tcp"), keys) as stage:
            await talk(stage, client_of(keys))


async def test_all_interfaces(keys: Path) -> None:
    """With keys any address may be bound; a name is looked up."""
    for address in ("tcp://*:0", "tcp://0.0.0.0:0"):
        async with guarded(address, keys) as stage:
            port = stage.address.rpartition(":")[2]
            assert stage.address == f"tcp://0.0.0.0:{port}"
            inbox = Inbox()
            connection = await client_of(keys).connect(f"tcp://localhost:{port}", inbox, stage.tasks)
            connection.send([b"hello"])
            await inbox.wait_messages(1)
            await connection.aclose()


async def test_a_name_that_nobody_knows(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver is asked, in a thread."""

    def know_nothing(*_: object, **__: object) -> None:
        asked_by.append(threading.current_thread())
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    asked_by: list[threading.Thread] = []
    monkeypatch.setattr(socket, "getaddrinfo", know_nothing)
    async with anyio.create_task_group() as tasks:
        with pytest.raises(ConnectFailed, match="host of 'tcp://nowhere:1' is not known"):
            await client_of(keys).connect("tcp://nowhere:1", Inbox(), tasks)


def _make(number: int) -> list[Frame]:
    return [b"%d" % number]


def _read(frames: list[Frame]) -> int:
    return int(bytes(frames[0]))


async def test_beats_show_the_same_key(free_address: MakeAddress, keys: Path) -> None:
    """They are answered; without a key, or with a revoked one, they are not let in."""
    async with guarded(free_address("tcp"), keys) as stage:
        beats = await client_of(keys).beat(stage.address, _make, _read, 0.01)
        started_at = beats.answered_at
        while beats.answered_at == started_at:
            await anyio.sleep(0.001)
        assert "(loader)" in (await stage.accepted()).connection.peer
        await to_thread.run_sync(revoke, keys, "loader")
        others = await ZmqTransport().beat(stage.address, _make, _read, 0.01)
        before = len(stage._inboxes)
        await stage._inboxes[0].wait_lost()
        lost_at = time.monotonic()  # what was sent before may have been answered, and the answer be on its way
        await anyio.sleep(0.3)
        assert beats.answered_at <= lost_at
        assert len(stage._inboxes) == before
        await beats.aclose()
        await others.aclose()


async def test_a_proxy_with_nobody_behind_it_is_no_refusal(keys: Path) -> None:
    """It accepts and closes: a client waits for a server to come, as for one that is not there at all."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        ended = threading.Event()

        def accept() -> None:
            while not ended.is_set():
                proxy.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        address = f"tcp://127.0.0.1:{proxy.getsockname()[1]}"
        try:
            for transport in (client_of(keys), ZmqTransport()):
                async with anyio.create_task_group() as tasks:
                    with pytest.raises(TimeoutError), anyio.fail_after(0.5):
                        await transport.connect(address, Inbox(), tasks)
        finally:
            ended.set()
            socket.create_connection(proxy.getsockname()).close()
            thread.join()


async def test_a_slow_disk_does_not_stop_a_server(
    free_address: MakeAddress, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is connected goes on while the key of another one is looked up."""
    looking, go_on = threading.Event(), threading.Event()

    def look_up(_folder: Path, _public: str) -> str:
        looking.set()
        assert go_on.wait(BOUND_S)
        return "late"

    async with guarded(free_address("tcp"), keys) as stage:
        inbox = Inbox()
        connection = await client_of(keys).connect(stage.address, inbox, stage.tasks)
        monkeypatch.setattr("aioflow_zmq._gate.admit", look_up)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk, stage, client_of(keys, "trainer"))
            while not looking.is_set():
                await anyio.sleep(0.001)
            began = time.monotonic()
            for number in count(1):
                connection.send([b"%d" % number])
                await inbox.wait_messages(number)
                if number == 100:
                    break
            assert time.monotonic() - began < REFUSED_S
            go_on.set()
        await connection.aclose()


async def test_refusals_are_logged_with_a_bound(
    free_address: MakeAddress, keys: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever knocks all the time does not fill the disk."""
    monkeypatch.setattr(_refusals, "REFUSALS_LOGGED_MAX", 2)
    monkeypatch.setattr(_refusals, "REFUSALS_LOGGED_EVERY_S", 3600.0)
    await to_thread.run_sync(revoke, keys, "loader")
    with caplog.at_level(logging.WARNING):
        async with guarded(free_address("tcp"), keys) as stage:
            for _ in range(5):
                await refused(stage, client_of(keys), "revoked")
            assert len(caplog.messages) == 2
