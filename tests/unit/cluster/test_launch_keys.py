"""Keys that a launcher makes: when, and who gets which."""

from __future__ import annotations

from pathlib import Path

import pytest

import aioflow as flow
from aioflow.cluster._launch_keys import LAUNCHER, launch_keys, needs_keys, with_keys
from aioflow.cluster._supervision import Start
from aioflow.keys import read_credentials, read_server_keys


@pytest.mark.parametrize(
    ("address", "needs"),
    [
        ("ipc:///tmp/x", False),
        ("127.0.0.1:2222", False),
        ("[::1]:2222", False),
        ("localhost:2222", False),
        ("192.0.2.7:2222", True),
        ("0.0.0.0:2222", True),
        ("*:2222", True),
        ("node1:2222", True),
    ],
)
def test_keys_are_made_where_others_could_come(address: str, needs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only there, and only where nobody has named some."""
    monkeypatch.delenv("AIOFLOW_KEYS", raising=False)
    cluster = flow.ClusterSpec({"ps": ["ipc:///tmp/ps"], "worker": [address]})
    assert needs_keys(cluster) is needs
    monkeypatch.setenv("AIOFLOW_KEYS", "/keys")
    assert not needs_keys(cluster)


def test_each_gets_its_own() -> None:
    """Servers the folder, programs a file that says no more than they need; all gone afterwards."""
    server = Start("/job:ps/task:0", ("serve",), is_server=True)
    program = Start("loader:1", ("python",), {"A": "b"})
    with launch_keys([LAUNCHER, program.name]) as keys:
        assert set(keys) == {"", LAUNCHER, "loader:1"}
        folder = with_keys(server, keys).environment["AIOFLOW_KEYS"]
        environment = with_keys(program, keys).environment
        assert environment["A"] == "b"
        client = read_credentials(keys["loader:1"])
        assert environment["AIOFLOW_KEYS"] == str(keys["loader:1"]) == str(client.path)
        assert client.server == read_server_keys(Path(folder)).public
        assert client.public != read_credentials(keys[LAUNCHER]).public
    assert not any(path.exists() for path in keys.values())
