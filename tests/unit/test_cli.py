"""The command `aioflow`: what it makes of its arguments."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

import aioflow as flow
from aioflow.cli import _serve, main


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

    def make(_: object, *, config: Any, credentials: None) -> None:
        made.append(config)
        raise flow.AddressInUse("enough")

    made: list[flow.SessionConfig] = []
    monkeypatch.setattr(_serve, "Server", make)
    assert main(["serve", "--bind", "ipc:///tmp/x", *arguments]) == 1
    assert made == [config]
    assert capsys.readouterr().err == "aioflow: AddressInUse: enough\n"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`aioflow --version` and `aioflow.__version__` are that of the distribution."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"aioflow {flow.__version__}\n"
    assert flow.__version__ == metadata.version("aioflow-mq")
    assert not hasattr(flow, "__versions__")
