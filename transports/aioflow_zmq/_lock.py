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

from aioflow.errors import AddressInUse, ConnectFailed
from aioflow_zmq._forks import close_in_children, keep_in_children
from aioflow_zmq._limits import BACKLOG

_MODE = 0o600


class SocketFile:
    """A bound, listening socket file of mode 0600, and the lock that guards it.

    Attributes:
        fd: The listening socket's descriptor, for libzmq, which closes it.

    Raises:
        AddressInUse: Another server listens there.
        ConnectFailed: The path cannot be bound, whatever is tried.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()  # the working directory may change before it is removed
        self._lock_path = Path(f"{self._path}.lock")
        self._inode = 0
        self._lock_fd = self._take_lock()
        try:
            self._remove_stale()
            self.fd = self._listen(path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Remove the socket file and the lock file, if they are still ours."""
        if self._lock_fd < 0:
            return
        with suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        with suppress(OSError):
            self._lock_path.unlink()  # while it is held: who waits for it compares the inode afterwards
        keep_in_children(self._lock_fd, os.fstat(self._lock_fd).st_ino)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def _take_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            try:
                fd = os.open(self._lock_path, flags, _MODE)
            except OSError as error:
                raise self._cannot_bind(error) from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_ino == self._lock_path.lstat().st_ino:
                    close_in_children(fd)  # a lock lasts until the last copy of its descriptor is closed
                    return fd
            except FileNotFoundError:
                pass  # its holder has just removed it
            except BlockingIOError as error:
                os.close(fd)
                raise AddressInUse(
                    f"ipc://{self._path} has a server, which holds {self._lock_path}: use another path, or stop it"
                ) from error
            os.close(fd)

    def _remove_stale(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConnectFailed(f"{self._path} is there and is no socket: remove it, or use another path")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0)
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()  # nobody listens any more
                return
            except OSError as error:
                if error.errno != errno.EAGAIN:  # a listener whose backlog is full
                    raise self._cannot_bind(error) from error
        raise AddressInUse(f"another program listens at {self._path}: use another path")

    def _listen(self, path: str) -> int:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.settimeout(0)
            # Linux gives the file the socket's mode, so it never has a looser one; elsewhere it gets it right after.
            with suppress(OSError):
                os.fchmod(listener.fileno(), _MODE)
            listener.bind(path)
            Path(path).chmod(_MODE)
            self._inode = Path(path).lstat().st_ino
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise self._cannot_bind(error) from error
        return listener.detach()

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
        return ConnectFailed(f"cannot listen at ipc://{self._path}: {reason}")
