"""Keys on disk: who a client is, which server it means, and whom a server lets in.

A key folder, as `make_keys` and `aioflow keys make` write it:

    server.key        the servers' own pair; every server of a cluster has it, and each lets the others in by it
    clients/NAME.key  all that one client needs, to be copied to its host: its pair, and the servers' public key
    authorised/KEY    for each public key that is let in, the name that it was made for
    revoked/KEY       those that were let in

The files are TOML, and a key is 64 hexadecimal digits. Only a name moves when a key is revoked, so a server sees it at
the next handshake, and reads one small file for each. What others could have read, changed or put there is refused.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aioflow.errors import AuthenticationFailed
from aioflow.transport import make_key_pair

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "KEYS_VARIABLE",
    "Credentials",
    "KeyPath",
    "KnownKey",
    "admit",
    "authorise",
    "list_keys",
    "make_keys",
    "name_credentials",
    "read_credentials",
    "read_server_keys",
    "revoke",
]

KEYS_VARIABLE = "AIOFLOW_KEYS"

KeyPath = str | os.PathLike[str]

# What a server is called by others that it connects to.
SERVER_NAME = "server"

# Several times the longest file; a larger one is none of ours.
BYTES_MAX = 4096

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[0-9a-f]{64}")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last for a pipe of that name
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one side of a connection needs.

    Attributes:
        path: The file that it was read from.
        name: Whose it is.
        public: Its public key.
        secret: Its secret key.
        server: The public key of the servers.
    """

    path: Path
    name: str
    public: str
    secret: str = field(repr=False)
    server: str


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A client's key, as a key folder has it.

    Attributes:
        name: Whom it was made for.
        public: Its public key.
        is_authorised: Whether servers let it in; else it was revoked.
    """

    name: str
    public: str
    is_authorised: bool


def name_credentials(given: KeyPath | None) -> Path | None:
    """Return the path that was given, or that the environment variable AIOFLOW_KEYS names; None where neither is.

    Raises:
        AuthenticationFailed: What was given is no path.
    """
    path = given if given is not None else os.environ.get(KEYS_VARIABLE) or None
    if not isinstance(path, (str, os.PathLike, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance] - anything
        raise AuthenticationFailed(f"credentials is the path of a key file or of a folder of keys, got {path!r}")
    return None if path is None else Path(path).expanduser().absolute()


# Making, and letting in


def make_keys(folder: KeyPath, clients: Iterable[str] = ()) -> dict[str, Path]:
    """Make a key folder, with a key for each client, authorised; what is there already stays.

    Args:
        folder: Where; made with mode 0700 if it is not there.
        clients: The names of the clients.

    Returns:
        Each client's key file.

    Raises:
        AuthenticationFailed: A name is none, or its key was made before and its file is gone; a file or a folder could
            be changed by others, or cannot be written.
        ConnectFailed: No transport that is installed here has keys.
    """
    folder, names = Path(folder).expanduser().absolute(), list(clients)
    for name in names:
        _check_name(name)
    try:
        for path in (folder, *(folder / part for part in ("clients", "authorised", "revoked"))):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_folder(path)
        if not os.path.lexists(folder / "server.key"):
            public, secret = make_key_pair()
            _write(folder / "server.key", {"name": SERVER_NAME, "public": public, "secret": secret})
        server = read_server_keys(folder).public
        return {name: _make_client(folder, name, server) for name in names}
    except OSError as error:
        raise AuthenticationFailed(f"cannot make keys in {folder}: {error}; choose another folder") from error


def list_keys(folder: KeyPath) -> list[KnownKey]:
    """Return the clients' keys of a folder, sorted by name.

    Raises:
        AuthenticationFailed: It is no key folder, or a file in it is malformed or could be changed by others.
    """
    folder = Path(folder).expanduser().absolute()
    _check_folder(folder)
    found: list[KnownKey] = []
    for part in ("authorised", "revoked"):
        _check_folder(folder / part)
        paths = [path for path in (folder / part).iterdir() if _KEY.fullmatch(path.name)]
        found += [KnownKey(_read_name(path), path.name, part == "authorised") for path in paths]
    return sorted(found, key=lambda known: (known.name, known.public))


def authorise(folder: KeyPath, name: str) -> None:
    """Let a client in again whose key was revoked; one that is let in stays so.

    Raises:
        AuthenticationFailed: There is no such key, or as by `list_keys`.
    """
    _move(Path(folder).expanduser().absolute(), name, to="authorised")


def revoke(folder: KeyPath, name: str) -> None:
    """Let a client in no more: servers refuse its next connection, and end those that it has within some seconds.

    Raises:
        AuthenticationFailed: There is no such key, or as by `list_keys`.
    """
    _move(Path(folder).expanduser().absolute(), name, to="revoked")


# What a transport reads


def read_credentials(path: Path) -> Credentials:
    """Read a client's key file; of a key folder it is the servers' own, with which a server connects to others.

    Raises:
        AuthenticationFailed: There is none, it is malformed, or others could read or change it.
    """
    if path.is_dir():
        return read_server_keys(path)
    return _read_pair(path, ("name", "public", "secret", "server"))


def read_server_keys(folder: Path) -> Credentials:
    """Read the servers' own pair of a key folder.

    Raises:
        AuthenticationFailed: There is none, it is malformed, or others could read or change it, or the folder.
    """
    _check_folder(folder)
    _check_folder(folder / "authorised")
    return _read_pair(folder / "server.key", ("name", "public", "secret"))


def admit(folder: Path, public: str) -> str:
    """Return the name of the client whose public key this is.

    Raises:
        AuthenticationFailed: It is not authorised, was revoked, or its file could be changed by others.
    """
    _check_folder(folder / "authorised")
    path = folder / "authorised" / public
    if os.path.lexists(path):
        return _read_name(path)
    if os.path.lexists(folder / "revoked" / public):
        name = _read_name(folder / "revoked" / public)
        raise AuthenticationFailed(f"the key of {name!r} was revoked")
    raise AuthenticationFailed(f"the key {public} is none of those that {folder} authorises")


# Files


def _make_client(folder: Path, name: str, server: str) -> Path:
    path = folder / "clients" / f"{name}.key"
    known = {key.name: key for key in list_keys(folder)}.get(name)
    if os.path.lexists(path):
        public = read_credentials(path).public
    elif known is not None:
        raise AuthenticationFailed(
            f"the key of {name!r} was made before, and {path} is no longer there; choose another name, "
            f"and let nobody in by the old one: aioflow keys revoke {_quote(folder)} {name}"
        )
    else:
        public, secret = make_key_pair()
        _write(path, {"name": name, "public": public, "secret": secret, "server": server})
    if known is None:
        _write(folder / "authorised" / public, {"name": name})
    return path


def _move(folder: Path, name: str, *, to: str) -> None:
    _check_name(name)
    keys = [key for key in list_keys(folder) if key.name == name]
    if not keys:
        raise AuthenticationFailed(
            f"{folder} has no key of {name!r}; see those that are there: aioflow keys list {_quote(folder)}"
        )
    for key in keys:
        (folder / ("authorised" if key.is_authorised else "revoked") / key.public).rename(folder / to / key.public)


def _read_pair(path: Path, fields: tuple[str, ...]) -> Credentials:
    values = _read(path, fields)
    keys = {name: values[name] for name in fields[1:]}
    if any(not _KEY.fullmatch(key) for key in keys.values()) or not _NAME.fullmatch(values["name"]):
        raise _malformed(path, "a key of 64 hexadecimal digits each, and a name")
    return Credentials(path, values["name"], keys["public"], keys["secret"], keys.get("server", keys["public"]))


def _read_name(path: Path) -> str:
    name = _read(path, ("name",), looser=0o044)["name"]  # no secret
    if not _NAME.fullmatch(name):
        raise _malformed(path, "the name of a client")
    return name


def _read(path: Path, fields: tuple[str, ...], looser: int = 0) -> dict[str, str]:
    """Read a file that only this user could have written, and, unless it may be looser, only this user can read."""
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        raise _cannot_read(path, error) from error
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        _check_status(path, os.fstat(fd), 0o600 | looser)
        text = file.read(BYTES_MAX + 1)
    try:
        values = tomllib.loads(text.decode()) if len(text) <= BYTES_MAX else {}
    except ValueError:  # its words could quote a secret
        values = {}
    if not all(isinstance(values.get(name), str) for name in fields):
        raise _malformed(path, f"""lines {", ".join(f"{name} = '...'" for name in fields)}""")
    return values


def _write(path: Path, values: dict[str, str]) -> None:
    """Write a new file, of which nobody sees a part."""
    text = "".join(f'{name} = "{value}"\n' for name, value in values.items())
    if "secret" in values:
        text = "# Who can read this file can connect in this name: keep it to yourself, at mode 0600.\n" + text
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(part, _WRITE, 0o600), "w") as file:  # noqa: PTH123 - a descriptor
        file.write(text)
    try:
        os.link(part, path, follow_symlinks=False)  # fails where it is there
    finally:
        part.unlink()


def _check_folder(path: Path) -> None:
    try:
        status = path.lstat()
    except OSError as error:
        raise _cannot_read(path, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise AuthenticationFailed(f"{path} is no folder; make a key folder: aioflow keys make FOLDER CLIENT")
    _check_owner(path, status)
    if status.st_mode & 0o022:
        raise _too_loose(path, status, 0o700)


def _check_status(path: Path, status: os.stat_result, mode: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AuthenticationFailed(f"{path} is no regular file; expected a key file, as aioflow keys make writes it")
    _check_owner(path, status)
    if stat.S_IMODE(status.st_mode) & ~(mode | 0o100):
        raise _too_loose(path, status, 0o600)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise AuthenticationFailed(
            f"{path} belongs to user {status.st_uid}, expected {os.geteuid()}, who runs this: "
            f"chown {os.geteuid()} {_quote(path)}"
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == SERVER_NAME:
        raise AuthenticationFailed(
            f"{name!r} is no name of a client: expected up to 64 letters, digits, dots, - and _, with a letter or a "
            f"digit in front, and not {SERVER_NAME!r}"
        )


def _too_loose(path: Path, status: os.stat_result, mode: int) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, and others could read or change it; expected {mode:04o}: "
        f"chmod {mode:o} {_quote(path)}"
    )


def _malformed(path: Path, expected: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"{path} is malformed: expected {expected}; copy it anew from the folder in which it was made, or make another "
        "one: aioflow keys make FOLDER CLIENT"
    )


def _cannot_read(path: Path, error: OSError) -> AuthenticationFailed:
    if error.errno == errno.ENOENT:
        return AuthenticationFailed(f"{path} is not there; make keys: aioflow keys make FOLDER CLIENT")
    if error.errno == errno.ELOOP:
        return AuthenticationFailed(
            f"{path} is a symbolic link, expected a file: name a copy, made by install -m 600 {_quote(path)} COPY"
        )
    return AuthenticationFailed(
        f"{path} cannot be read: {error.strerror}; expected a file of this user's, of mode 0600"
    )


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
