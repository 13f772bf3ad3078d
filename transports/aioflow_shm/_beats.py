"""Beats: a thread with a connection of its own, so that an event loop that is blocked is not taken for a dead process.

The thread sleeps in one poll on its connection and on a pair of sockets over which it is stopped. It holds Python's
lock for the making of a beat and the reading of an answer only. A connection that cannot be made, is lost or brings
nonsense is made again a little later.
"""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from aioflow.errors import ConnectFailed
from aioflow.transport import whole
from aioflow_shm._client import is_greeted, open_socket
from aioflow_shm._forks import close_here, current_generation
from aioflow_shm._limits import BEATS_AGAIN_S, BEATS_UNANSWERED_MAX, PACKET_BYTES_MAX
from aioflow_shm._parcels import PARCEL, MalformedError, measure, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.transport import Frame


class ShmBeats:
    """Beats to one server.

    Raises:
        ConnectFailed: The process has as many descriptors or threads as it may.
    """

    def __init__(
        self,
        address: str,
        path: str,
        make: Callable[[int], list[Frame]],
        read_answer: Callable[[list[Frame]], int],
        every_s: float,
    ) -> None:
        self._address = address
        self._path = path
        self._make = make
        self._read_answer = read_answer
        self._every_s = every_s
        self._socket: socket.socket | None = None
        self._is_greeted = False
        self._number = 0
        self._unsent: bytes | None = None
        self._sent: dict[int, float] = {}  # number of a beat: when it was sent
        self._answered_at = time.monotonic()
        self._generation = current_generation()
        self._is_open = True
        self._closed = anyio.Event()
        self._thread = threading.Thread(target=self._run, name=f"aioflow beats {address}", daemon=True)
        try:
            self._ours, self._its = socket.socketpair()
        except OSError as error:
            raise ConnectFailed(f"cannot start beats: {error}; close connections, or raise ulimit -n") from error
        self._ours.settimeout(0)
        # The first one goes now: should the process end in this very moment, that this connection ends with it says so.
        self._next()
        self._connect()
        self._write()
        try:
            self._thread.start()
        except RuntimeError as error:
            self._disconnect()
            self._ours.close()
            self._its.close()
            raise ConnectFailed(f"cannot start beats: {error}; raise ulimit -u") from error

    @property
    def answered_at(self) -> float:
        """`time.monotonic()` at the sending of the latest beat that was answered; of the start, before the first."""
        return self._answered_at

    async def aclose(self) -> None:
        """End the thread and its connection, within some ms."""
        if self._generation != current_generation():
            return
        if not self._is_open:
            await self._closed.wait()
            return
        self._is_open = False
        with anyio.CancelScope(shield=True):
            self._ours.send(b"!")
            await anyio.wait_readable(self._ours)
        self._ours.close()
        self._its.close()
        self._closed.set()

    def _run(self) -> None:
        try:
            self._beat()
        finally:
            self._disconnect()
            self._its.send(b"!")

    def _beat(self) -> None:
        stop, now = self._its.fileno(), time.monotonic()
        due, again = now + self._every_s, now + BEATS_AGAIN_S
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + self._every_s
                self._next()
            if self._socket is None and now >= again:
                again = now + BEATS_AGAIN_S
                self._connect()
            self._write()
            until = due if self._socket is not None else min(due, again)
            if self._wait(stop, max(until - time.monotonic(), 0)):
                return

    def _next(self) -> None:
        """Make the next beat; it takes the place of one that could not be sent."""
        self._number += 1
        frames = self._make(self._number)
        parts, _ = pack([(frames, measure(frames, self._address))], (), (), (), lambda *_: None)
        self._unsent = b"".join(parts)

    def _wait(self, stop: int, wait_s: float) -> bool:
        """Wait, and take what has come; return whether to stop."""
        poller = select.poll()
        poller.register(stop, select.POLLIN)
        if self._socket is not None:
            poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent is not None else 0))
        ready = {fd for fd, events in poller.poll(math.ceil(wait_s * 1000)) if events & ~select.POLLOUT}
        if stop in ready:
            return True
        if self._socket is not None and self._socket.fileno() in ready:
            self._take_answer()
        return False

    def _connect(self) -> None:
        with suppress(ConnectFailed):  # of another user, or no server: whoever connects says so
            self._socket = open_socket(self._address, self._path)
            self._is_greeted = False

    def _disconnect(self) -> None:
        if self._socket is not None:
            close_here(self._socket)
            self._socket = None

    def _write(self) -> None:
        """Write a beat; the greeting need not have come for that, which may take as long as a busy listener does."""
        if self._socket is None or self._unsent is None:
            return
        try:
            self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._disconnect()
            return
        self._unsent = None
        self._sent[self._number] = time.monotonic()
        if len(self._sent) > BEATS_UNANSWERED_MAX:
            del self._sent[next(iter(self._sent))]

    def _take_answer(self) -> None:
        """Take one packet; whatever a server sends, the beats go on."""
        assert self._socket is not None
        try:
            if not self._is_greeted:
                self._is_greeted = is_greeted(self._address, self._socket)
                if not self._is_greeted:
                    self._disconnect()
                return
            packet = self._socket.recv(PACKET_BYTES_MAX)
            if not packet or packet[0] != PARCEL:
                self._disconnect()
                return
            messages = unpack(memoryview(packet), _no_memory, _no_memory, is_kept=False).messages
        except BlockingIOError:
            return
        except (OSError, ConnectFailed, MalformedError):
            self._disconnect()
            return
        for message in messages:
            self._answered([*map(whole, message)])

    def _answered(self, frames: list[Frame]) -> None:
        try:
            number = self._read_answer(frames)
        except Exception:  # noqa: BLE001 - whatever a server sends, the beats go on
            return
        self._answered_at = max(self._answered_at, self._sent.pop(number, 0.0))


def _no_memory(*reference: int) -> Frame:
    raise MalformedError(f"a frame in memory, of which there is none: {reference}")
