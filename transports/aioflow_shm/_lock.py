"""Who may bind a socket file: whoever holds `PATH.lock`.

A second bind could steal the path silently; and only with the lock held is it known that a socket file that is already
there was left behind by a process that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aioflow.errors import AddressInUse, ConnectFailed
from aioflow_shm._forks import close_here, close_in_children
from aioflow_shm._limits import BACKLOG

if TYPE_CHECKING:
    from io import FileIO

_MODE = 0o600


class SocketFile:
    """A bound, listening socket file of mode 0600, and the lock that guards it.

    Attributes:
        listener: The listening socket, which does not block.

    Raises:
        AddressInUse: Another server listens there.
        ConnectFailed: The path cannot be bound, whatever is tried.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()  # the working directory may change before it is removed
        self._lock_path = Path(f"{self._path}.lock")
        self._inode = 0
        self._lock: FileIO | None = self._take_lock()
        try:
            self._remove_stale()
            self.listener = self._listen(path)
        except BaseException:
            self._unlock()
            raise

    def release(self) -> None:
        """Stop listening, and remove the socket file and the lock file, if they are still ours."""
        if self._lock is None:
            return
        close_here(self.listener)
        with suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        self._unlock()

    def _unlock(self) -> None:
        assert self._lock is not None
        with suppress(OSError):
            self._lock_path.unlink()  # while it is held: who waits for it compares the inode afterwards
        close_here(self._lock)
        self._lock = None

    def _take_lock(self) -> FileIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            try:
                lock = os.fdopen(os.open(self._lock_path, flags, _MODE), "rb", buffering=0)
            except OSError as error:
                raise self._cannot_bind(error) from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock.fileno()).st_ino == self._lock_path.lstat().st_ino:
                    close_in_children(lock)  # a lock lasts until the last copy of its descriptor is closed
                    return lock
            except FileNotFoundError:
                pass  # its holder has just removed it
            except BlockingIOError as error:
                lock.close()
                raise AddressInUse(
                    f"shm://{self._path} has a server, which holds {self._lock_path}: use another path, or stop it"
                ) from error
            lock.close()

    def _remove_stale(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConnectFailed(f"{self._path} is there and is no socket: remove it, or use another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.settimeout(0)
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()  # nobody listens any more
                return
            except OSError as error:
                # A listener whose backlog is full, or one of another kind of socket.
                if error.errno not in {errno.EAGAIN, errno.EPROTOTYPE}:
                    raise self._cannot_bind(error) from error
        raise AddressInUse(f"another program listens at {self._path}: use another path")

    def _listen(self, path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        close_in_children(listener)
        try:
            listener.settimeout(0)
            os.fchmod(listener.fileno(), _MODE)  # the file gets the socket's mode, so it never has a looser one
            listener.bind(path)
            self._inode = Path(path).lstat().st_ino
            listener.listen(BACKLOG)
        except OSError as error:
            close_here(listener)
            raise self._cannot_bind(error) from error
        return listener

    def _cannot_bind(self, error: OSError) -> ConnectFailed:
        folder = self._path.parent
        reasons = {
            errno.ENOENT: f"the folder {folder} does not exist: make it first",
            errno.ENOTDIR: f"{folder} is no folder",
            errno.EACCES: f"{folder} or a file in it is not writable for this user: use another path",
            errno.EPERM: f"{folder} or a file in it is not writable for this user: use another path",
            errno.EROFS: f"{folder} is read-only: use another path",
            errno.ELOOP: f"{self._lock_path} is a symbolic link: remove it",
        }
        reason = reasons.get(error.errno or 0, str(error))
        return ConnectFailed(f"cannot listen at shm://{self._path}: {reason}")
