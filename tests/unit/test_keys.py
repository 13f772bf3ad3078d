"""Keys on disk: what is written, and what is refused, with the command that mends it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from aioflow.cli import main
from aioflow.errors import AuthenticationFailed
from aioflow.keys import (
    KnownKey,
    admit,
    authorise,
    list_keys,
    make_keys,
    name_credentials,
    read_credentials,
    read_server_keys,
    revoke,
)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of keys with two clients."""
    make_keys(tmp_path / "keys", ["loader", "trainer"])
    return tmp_path / "keys"


def test_what_is_made(tmp_path: Path) -> None:
    """Folders and files are this user's alone, whatever the umask; a client has its own pair and the servers' key."""
    before = os.umask(0)
    try:
        made = make_keys(tmp_path / "new" / "keys", ["loader"])
    finally:
        os.umask(before)
    folder = tmp_path / "new" / "keys"
    assert made == {"loader": folder / "clients" / "loader.key"}
    modes = {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    client, server = read_credentials(made["loader"]), read_server_keys(folder)
    assert modes == {
        "authorised": 0o700,
        "clients": 0o700,
        "revoked": 0o700,
        "server.key": 0o600,
        "clients/loader.key": 0o600,
        f"authorised/{client.public}": 0o600,
    }
    assert client.name == "loader"
    assert client.server == server.public
    assert len({client.public, client.secret, server.public, server.secret}) == 4
    assert client.secret not in repr(client)
    assert read_credentials(folder) == server


def test_what_is_there_stays(keys: Path) -> None:
    """A second call adds what is missing, and a revoked key stays revoked."""
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    revoke(keys, "loader")
    assert list(make_keys(keys, ["loader", "third"])) == ["loader", "third"]
    assert {path: path.read_bytes() for path in before if "authorised" not in path.parts} == {
        path: text for path, text in before.items() if "authorised" not in path.parts
    }
    assert [(key.name, key.is_authorised) for key in list_keys(keys)] == [
        ("loader", False),
        ("third", True),
        ("trainer", True),
    ]


def test_a_name_is_not_used_again(keys: Path) -> None:
    """Its key file may be with the client: another one would be let in beside it."""
    (keys / "clients" / "loader.key").unlink()
    with pytest.raises(AuthenticationFailed, match=r"made before.*aioflow keys revoke .*keys loader"):
        make_keys(keys, ["loader"])


@pytest.mark.parametrize("name", ["", "a/b", "../a", "-a", ".a", "a b", "server", 65 * "a", 'a"', "a\n"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    """Nothing is made."""
    with pytest.raises(AuthenticationFailed, match="no name of a client"):
        make_keys(tmp_path / "keys", ["good", name])
    assert not (tmp_path / "keys").exists()


def test_revoked_and_authorised_again(keys: Path) -> None:
    """A revoked key is told from one that was never there."""
    public = read_credentials(keys / "clients" / "loader.key").public
    assert admit(keys, public) == "loader"
    revoke(keys, "loader")
    with pytest.raises(AuthenticationFailed, match="'loader' was revoked"):
        admit(keys, public)
    revoke(keys, "loader")
    authorise(keys, "loader")
    assert admit(keys, public) == "loader"
    with pytest.raises(AuthenticationFailed, match="none of those"):
        admit(keys, 64 * "0")
    with pytest.raises(AuthenticationFailed, match="aioflow keys list"):
        revoke(keys, "nobody")


def _loosen(mode: int) -> Callable[[Path], object]:
    return lambda path: path.chmod(mode)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_loosen(0o640), "mode 0640.*expected 0600: chmod 600"),
        (_loosen(0o604), "mode 0604.*chmod 600"),
        (_loosen(0o620), "mode 0620.*chmod 600"),
        (_link, "symbolic link.*install -m 600"),
        (_pipe, "no regular file"),
        (Path.unlink, "is not there.*aioflow keys make"),
        (_write(""), "malformed.*aioflow keys make"),
        (_write("secret"), "malformed"),
        (_write("name = 'loader'\npublic = '12'\nsecret = '34'\nserver = '56'\n"), "64 hexadecimal digits"),
        (_write(10_000 * "#"), "malformed"),
        (lambda path: path.write_bytes(b"\xff\x00"), "malformed"),
    ],
    ids=["group", "world", "group-writes", "link", "pipe", "gone", "empty", "no-toml", "no-keys", "long", "bytes"],
)
@pytest.mark.parametrize("whose", ["client", "server"])
def test_secrets_that_are_refused(keys: Path, whose: str, spoil: Callable[[Path], object], words: str) -> None:
    """The message names the file, what is, what was expected, and what to do; it has no secret in it."""
    path = keys / "clients" / "loader.key" if whose == "client" else keys / "server.key"
    secret = read_credentials(path if whose == "client" else keys).secret
    spoil(path)
    with pytest.raises(AuthenticationFailed, match=words) as refused:
        read_credentials(path if whose == "client" else keys)
    assert str(path) in str(refused.value)
    assert secret not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_what_belongs_to_others_is_refused(keys: Path) -> None:
    """A file or a folder of another user."""
    path = keys / "clients" / "loader.key"
    os.chown(path, 1, -1)
    with pytest.raises(AuthenticationFailed, match=r"belongs to user 1, expected 0.*chown 0"):
        read_credentials(path)
    os.chown(keys / "authorised", 1, -1)
    with pytest.raises(AuthenticationFailed, match="belongs to user 1"):
        read_server_keys(keys)


@pytest.mark.parametrize("part", [".", "authorised"])
def test_folders_that_others_could_change(keys: Path, part: str) -> None:
    """Whoever may write there may let himself in."""
    (keys / part).chmod(0o770)
    with pytest.raises(AuthenticationFailed, match=r"mode 0770.*expected 0700: chmod 700"):
        read_server_keys(keys)


def test_an_authorised_key_that_others_could_change(keys: Path) -> None:
    """It may be read by all, being public."""
    public = read_credentials(keys / "clients" / "loader.key").public
    (keys / "authorised" / public).chmod(0o644)
    assert admit(keys, public) == "loader"
    (keys / "authorised" / public).chmod(0o666)
    with pytest.raises(AuthenticationFailed, match=r"mode 0666.*chmod 600"):
        admit(keys, public)


def test_a_file_where_a_folder_is_expected(tmp_path: Path) -> None:
    """As where a server is given a client's key."""
    path = make_keys(tmp_path / "keys", ["loader"])["loader"]
    for call in (read_server_keys, list_keys):
        with pytest.raises(AuthenticationFailed, match="aioflow keys make"):
            call(path)
    with pytest.raises(AuthenticationFailed, match="is not there"):
        list_keys(tmp_path / "none")
    with pytest.raises(AuthenticationFailed, match="choose another folder"):
        make_keys(path / "below", ["a"])


def test_the_environment_names_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none were given, and only if it is not empty."""
    monkeypatch.setenv("AIOFLOW_KEYS", "/from/environment")
    assert name_credentials(None) == Path("/from/environment")
    assert name_credentials("/given") == Path("/given")
    monkeypatch.setenv("AIOFLOW_KEYS", "")
    assert name_credentials(None) is None
    assert name_credentials("~/keys") == Path.home() / "keys"


def test_the_command(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It makes, lists, revokes and authorises, and prints no secret."""
    assert main(["keys", "make", str(keys), "third"]) == 0
    assert capsys.readouterr().out == f"{keys}/clients/third.key\n"
    public = read_credentials(keys / "clients" / "third.key").public
    assert main(["keys", "revoke", str(keys), "third"]) == 0
    assert main(["keys", "list", str(keys)]) == 0
    assert f"third  revoked  {public}\n" in capsys.readouterr().out
    assert main(["keys", "authorise", str(keys), "third"]) == 0
    assert main(["keys", "list", str(keys), "--json"]) == 0
    listed = [KnownKey(**entry) for entry in json.loads(capsys.readouterr().out)]
    assert listed[1] == KnownKey("third", public, is_authorised=True)
    assert main(["keys", "revoke", str(keys), "nobody"]) == 1
    assert "AuthenticationFailed" in capsys.readouterr().err
