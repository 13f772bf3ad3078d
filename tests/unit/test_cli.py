"""The command `aioflow`: what it makes of its arguments."""

from __future__ import annotations

import io
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import aioflow as flow
from aioflow.cli import _queues, _serve, main
from aioflow.resources import ServerStats


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ([], flow.SessionConfig()),
        (["--session-s", "600"], flow.SessionConfig(session_s=600)),
        (["--lost-s", "10.5"], flow.SessionConfig(lost_s=10.5)),
        (["--lost-s", "90", "--session-s", "90"], flow.SessionConfig(lost_s=90, session_s=90)),
    ],
)
def test_settings_of_a_server(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    config: flow.SessionConfig,
) -> None:
    """They are those of `SessionConfig`, with its defaults."""

    def make(_: object, job: None, task: None, *, config: Any, credentials: None) -> None:
        made.append(config)
        raise flow.AddressInUse("enough")

    made: list[flow.SessionConfig] = []
    monkeypatch.setattr(_serve, "Server", make)
    assert main(["serve", "--bind", "ipc:///tmp/x", *arguments]) == 1
    assert made == [config]
    assert capsys.readouterr().err == "aioflow: AddressInUse: enough\n"


TOML = "[jobs]\nps = ['ipc:///a', 'ipc:///b']\nworker = ['ipc:///c']\n[config]\nlost_s = 7\n"


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_task_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    """From a file or from standard input; options win over its settings, and ops come from the current folder too."""

    def make(*arguments: object, **named: object) -> None:
        made.append((*arguments, named))
        raise flow.AddressInUse("enough")

    made: list[Any] = []
    monkeypatch.setattr(_serve, "Server", make)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "stdin", io.StringIO(TOML))
    (tmp_path / "cluster.toml").write_text(TOML)
    cluster = "-" if source == "stdin" else "cluster.toml"
    options = ["--job", "ps", "--task", "1", "--session-s", "99", "--ops", "pipeline", "--ops", "more"]
    assert main(["serve", "--cluster", cluster, *options]) == 1
    config = flow.SessionConfig(lost_s=7, session_s=99)
    jobs = {"ps": {0: "ipc:///a", 1: "ipc:///b"}, "worker": {0: "ipc:///c"}}
    assert made == [(jobs, "ps", 1, {"config": config, "credentials": None, "ops": ["pipeline", "more"]})]
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["serve", "--job", "ps"], "--job and --task name a task of a cluster; give it with --cluster"),
        (["serve", "--task", "0"], "--job and --task name a task of a cluster; give it with --cluster"),
        (["serve", "--cluster", "c.toml", "--bind", "a:1"], "--bind is for a server by itself"),
        (["serve", "--cluster", "none.toml", "--job", "ps"], "none.toml: the cluster cannot be read"),
        (["serve", "--cluster", "c.toml"], "the cluster has the jobs ['ps', 'worker']; name this server's"),
        (["serve", "--cluster", "c.toml", "--job", "ps", "--task", "2"], "the cluster has no /job:ps/task:2"),
        (["serve", "--bind", "inproc://a"], "'inproc://a' reaches no other process"),
        (["up", "none.toml"], "none.toml: the cluster cannot be read"),
    ],
)
def test_what_cannot_be_served(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    """One line on standard error, and 1."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(TOML)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`aioflow --version` and `aioflow.__version__` are that of the distribution."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"aioflow {flow.__version__}\n"
    assert flow.__version__ == metadata.version("aioflow-mq")
    assert not hasattr(flow, "__versions__")


def test_who_waits_for_a_server_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the output; who does not wait is told nothing."""
    told = threading.Event()

    class Stderr(io.StringIO):
        def write(self, text: str) -> int:
            told.set()
            return super().write(text)

    async def ask(_: str | None) -> tuple[ServerStats, ...]:
        if waits:
            assert await anyio.to_thread.run_sync(told.wait, 10)
        return (ServerStats("/job:local/task:0", 0, ()),)

    monkeypatch.setattr(_queues, "_ask", ask)
    for waits in (False, True):
        stderr = Stderr()
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr(_queues, "TELL_S", 0 if waits else 60)
        assert main(["queues", "--target", "ipc:///tmp/x"]) == 0
        assert stderr.getvalue() == ("aioflow: waiting for an answer of the server, for up to 10 s\n" if waits else "")
    assert capsys.readouterr().out.count("no queues") == 2
