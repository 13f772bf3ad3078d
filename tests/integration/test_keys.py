"""Keys between real processes: the commands, the environment, and what each side says when it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import anyio
import pytest

import aioflow as flow
from aioflow import blocking
from aioflow.keys import make_keys, revoke

if TYPE_CHECKING:
    from tests.integration.conftest import Program

pytestmark = pytest.mark.timeout(60)

# Far below the 10 s for which a session waits for a server that does not answer.
REFUSED_S = 4.0

q = flow.FIFOQueue(8, ["int64"], [[]], shared_name="q")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of keys with two clients."""
    make_keys(tmp_path / "keys", ["loader", "trainer"])
    return tmp_path / "keys"


@pytest.fixture
def serve_with(run_program: Callable[..., Program]) -> Callable[..., tuple[Program, str]]:
    """Start `aioflow serve` with keys; returns the program and its address."""

    def start(keys: Path, bind: str = "tcp://127.0.0.1:0") -> tuple[Program, str]:
        program = run_program("-m", "aioflow", "serve", "--bind", bind, "--keys", str(keys))
        return program, program.read_line().removeprefix("aioflow serves at ")

    return start


def refused(address: str, credentials: Path | None, *words: str) -> None:
    """Fail to open a session, within a bound."""
    began = monotonic()
    with pytest.raises(flow.AuthenticationFailed) as error, blocking.Session(address, credentials=credentials):
        pass
    assert monotonic() - began < REFUSED_S
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:0", "tcp://0.0.0.0:0", "ipc"])
def test_elements_between_two_clients(
    serve_with: Callable[..., tuple[Program, str]],
    new_address: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    keys: Path,
    bind: str,
) -> None:
    """One is given its key, the other finds it in the environment, as programs that a launcher starts do."""
    server, address = serve_with(keys, new_address() if bind == "ipc" else bind)
    address = address.replace("0.0.0.0", "127.0.0.1")
    with blocking.Session(address, credentials=keys / "clients" / "loader.key") as session:
        session.enqueue(q, 7)
    program = """
        import aioflow as flow
        from aioflow import blocking
        with blocking.Session() as session:
            print(session.dequeue(flow.FIFOQueue(8, ["int64"], [[]], shared_name="q")))
    """
    monkeypatch.setenv("AIOFLOW_TARGET", address)
    monkeypatch.setenv("AIOFLOW_KEYS", str(keys / "clients" / "trainer.key"))
    other = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, timeout=30
    )
    assert other.stdout == b"7\n"
    assert server.end_by(signal.SIGTERM)[0] == 0


def test_refusals(serve_with: Callable[..., tuple[Program, str]], tmp_path: Path, keys: Path) -> None:
    """No key, one of another server, a revoked one, a secret that others can read: each client and the log say so."""
    server, address = serve_with(keys)
    loader = keys / "clients" / "loader.key"
    make_keys(tmp_path / "other", ["loader"])
    refused(address, None, address, "demands a key", "AIOFLOW_KEYS")
    server.read_until("refused ")
    refused(address, tmp_path / "other" / "clients" / "loader.key", address, "not the one")
    server.read_until("it expects a server with another key")
    revoke(keys, "trainer")
    refused(address, keys / "clients" / "trainer.key", address, "trainer.key", "revoked")
    server.read_until("refused 127.0.0.1: the key of 'trainer' was revoked")
    loader.chmod(0o644)
    refused(address, loader, str(loader), "mode 0644", "chmod 600")
    assert server.end_by(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "tcp://192.0.2.1:5555"])
def test_an_address_beyond_this_host_without_keys(run_program: Callable[..., Program], bind: str) -> None:
    """Neither served nor connected to; the message has the command that makes keys."""
    server = run_program("-m", "aioflow", "serve", "--bind", bind)
    assert server.finish() == 1
    for word in ("ConnectFailed", "aioflow keys make ./keys CLIENT", f"aioflow serve --bind {bind} --keys ./keys"):
        assert word in server.output
    with pytest.raises(flow.ConnectFailed, match="aioflow keys make"), blocking.Session(bind):
        pass


def test_a_server_whose_secret_others_can_read(run_program: Callable[..., Program], keys: Path) -> None:
    """It does not start."""
    (keys / "server.key").chmod(0o640)
    server = run_program("-m", "aioflow", "serve", "--bind", "tcp://127.0.0.1:0", "--keys", str(keys))
    assert server.finish() == 1
    assert f"AuthenticationFailed: {keys}/server.key has mode 0640" in server.output


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_session_whose_key_is_revoked(keys: Path) -> None:
    """It ends at once, and its calls say why; others go on."""
    config = flow.SessionConfig(heartbeat_s=0.1, lost_s=0.5)
    async with (
        flow.Server({"local": ["tcp://127.0.0.1:0"]}, config=config, credentials=keys) as server,
        flow.Session(server.address, config=config, credentials=keys / "clients" / "trainer.key") as other,
    ):
        async with flow.Session(server.address, config=config, credentials=keys / "clients" / "loader.key"):
            await anyio.to_thread.run_sync(revoke, keys, "loader")
            with anyio.fail_after(REFUSED_S), pytest.raises(flow.AuthenticationFailed, match="revoked"):
                await q.dequeue()
        await q.on(other).enqueue(1)
        assert await q.on(other).dequeue() == 1


def test_a_forked_child(run_program: Callable[..., Program], keys: Path) -> None:
    """It opens a server and a session of its own, with the same keys, and does not disturb its parent's."""
    program = run_program(f"""
        import asyncio, os, sys
        import aioflow as flow

        q = flow.FIFOQueue(8, ["int64"], [[]], shared_name="q")
        keys = {str(keys)!r}

        async def talk(then):
            async with flow.Server({{"local": ["tcp://127.0.0.1:0"]}}, credentials=keys) as server:
                async with flow.Session(server.address, credentials=keys + "/clients/loader.key"):
                    await q.enqueue(1)
                    then()
                    assert await q.dequeue() == 1

        def fork():
            if os.fork() == 0:
                asyncio.events._set_running_loop(None)
                asyncio.run(talk(lambda: None))
                print("the child is through", flush=True)
                os._exit(0)
            assert os.wait()[1] == 0

        asyncio.run(talk(fork))
        print("the parent is through", flush=True)
    """)
    assert program.finish() == 0, program.output
    assert "the child is through\nthe parent is through\n" in program.output
