"""Opening a session waits for a server, also through a loss before the welcome; what refuses it is raised at once."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import aioflow as flow
from aioflow.cluster import Server
from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode
from aioflow.cluster._link import Link
from aioflow.testing._queue_stage import ints, refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.cluster import _broker

pytestmark = pytest.mark.anyio

TEST_S = 10.0
IMPATIENT = flow.SessionConfig(connect_s=0.3)


@pytest.fixture(params=["inproc", "ipc", "tcp"])
def address(request: pytest.FixtureRequest, folder: str) -> str:
    """An address of each scheme."""
    return {"inproc": "inproc://opening", "ipc": f"ipc://{folder}/s", "tcp": "tcp://127.0.0.1:0"}[request.param]


def cut_hellos(monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], int]:
    """Have servers end the first `count` connections that say hello, without a word; returns how many said it."""
    hellos = 0
    received = Server.received

    def cut(server: Server, peer: _broker.PeerId, frames: Any) -> None:
        nonlocal hellos
        message, _ = decode(frames)
        hellos += isinstance(message, m.Hello)
        if isinstance(message, m.Hello) and hellos <= count:
            server._connections[peer].abort()
            server.lost(peer)
        else:
            received(server, peer, frames)

    monkeypatch.setattr(Server, "received", cut)
    return lambda: hellos


async def test_a_connection_that_is_lost_before_the_welcome(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """The session tries again, as it does where nobody listens yet."""
    hellos = cut_hellos(monkeypatch, 2)
    q = ints(shared_name="q")
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": [address]}) as server, flow.Session(server.address):
            await q.enqueue(1)
            assert await q.dequeue() == 1
    assert hellos() == 3


async def test_a_server_that_never_welcomes(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """After `connect_s` it is as if no server were there."""
    hellos = cut_hellos(monkeypatch, 1_000_000)
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": [address]}) as server:
            began = monotonic()
            with refused(flow.ConnectFailed, f"no aioflow server answered at {server.address} within 0.3 s"):
                await flow.Session(server.address, config=IMPATIENT).open()
            assert monotonic() - began < IMPATIENT.connect_s + 1
    assert 1 < hellos() < 20


@pytest.mark.parametrize("address", ["ipc", "tcp"], indirect=True)  # one within the process is not lost so
async def test_a_connection_that_never_lasts(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """It is made less and less often, not in a loop that takes all there is, and no more after `session_s`."""
    connected, connect = 0, Link._connect

    async def lose(link: Link) -> None:
        nonlocal connected
        await connect(link)
        connected += 1
        link._lose("there is no memory for what it sends")

    q = ints(shared_name="lost")
    config = flow.SessionConfig(heartbeat_s=0.05, lost_s=0.4, session_s=0.5)
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": [address]}) as server, flow.Session(server.address, config=config) as session:
            link = session._host.master._link  # type: ignore[union-attr]
            monkeypatch.setattr(Link, "_connect", lose)
            link._lose("at first")
            with refused(flow.ConnectionLost, "out of reach for 0.5 s: there is no memory for what it sends"):
                while True:
                    await q.size()
    assert 1 < connected < 12


async def test_a_folder_that_is_not_there(folder: str) -> None:
    """No server can be started at such an address: the message says so, and not how."""
    address = f"ipc://{folder}/typo/s"
    with anyio.fail_after(TEST_S):
        with pytest.raises(flow.ConnectFailed, match=f"the folder {folder}/typo does not exist here"):
            await flow.Session(address, config=IMPATIENT).open()
        with pytest.raises(flow.ConnectFailed, match=f"start one with: aioflow serve --bind ipc://{folder}/s"):
            await flow.Session(f"ipc://{folder}/s", config=IMPATIENT).open()
        with pytest.raises(flow.ConnectFailed, match="absolute path has three slashes, ipc:///no-folder/s"):
            await flow.Session("ipc://no-folder/s", config=IMPATIENT).open()
        with pytest.raises(flow.ConnectFailed, match=r"flow.Server\({'local': \['inproc://nobody'\]}\)"):
            await flow.Session("inproc://nobody", config=IMPATIENT).open()


async def test_a_refusal_is_raised_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Another version of the protocol, and a goodbye that says why, are not tried again."""
    goodbyes = [
        (flow.VersionMismatch, m.Goodbye("VersionMismatch", "install the same aioflow")),
        (flow.ConnectionLost, m.Goodbye("RemoteProtocolError", "the hello came late")),
        (flow.SessionClosed, m.Goodbye("SessionClosed", "it was closed")),
    ]
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": [address]}) as server:
            for error, goodbye in goodbyes:
                hellos = 0

                def refuse(peer: _broker.PeerId, _: m.Hello, goodbye: m.Goodbye = goodbye) -> None:
                    nonlocal hellos
                    hellos += 1
                    server._broker._send(peer, goodbye)

                monkeypatch.setattr(server._broker, "_hello", refuse)
                with refused(error, goodbye.reason):
                    await flow.Session(server.address).open()
                assert hellos == 1
