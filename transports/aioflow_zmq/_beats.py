"""Beats: a thread with a DEALER of its own, so that an event loop that is blocked is not taken for a dead process.

The thread sleeps in one poll on its socket, the socket's monitor, and a pair of sockets over which it is stopped. It
holds Python's lock for the making of a beat and the reading of an answer only. libzmq reconnects by itself; where it
does not (after a bye, or a break of its protocol), a later beat starts a new attempt. The event loop makes the sockets
and, once the thread has ended, closes them.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import zmq

from aioflow.errors import ConnectFailed
from aioflow_zmq._forks import close_in_children, current_generation, keep_in_children
from aioflow_zmq._frames import BYE, read, word_of, write
from aioflow_zmq._keys import set_client_keys
from aioflow_zmq._limits import (
    BEAT_BYTES_MAX,
    BEATS_UNANSWERED_MAX,
    MESSAGES_PER_TURN,
    RECONNECT_FIRST_S,
    RECONNECT_MAX_S,
)
from aioflow_zmq._parcels import MalformedParcelError, measure, pack, unpack
from aioflow_zmq._socket import OwnedSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.keys import Credentials
    from aioflow.transport import Frame
    from aioflow_zmq._address import IpcAddress, TcpAddress
    from aioflow_zmq._socket import Event

_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class ZmqBeats:
    """Beats to one server; made and started by `open`."""

    def __init__(
        self,
        endpoint: str,
        make: Callable[[int], list[Frame]],
        read_answer: Callable[[list[Frame]], int],
        every_s: float,
        owned: OwnedSocket,
    ) -> None:
        self._endpoint = endpoint
        self._make = make
        self._read_answer = read_answer
        self._every_s = every_s
        self._socket = owned
        self._fd, self._inode = -1, 0
        self._is_connected = False
        self._connect_again_at = time.monotonic() + RECONNECT_MAX_S
        self._number = 0
        self._unsent: list[Frame] | None = None
        self._sent: dict[int, float] = {}  # number of a beat: when it was sent
        self._answered_at = time.monotonic()
        self._ours, self._its = socket.socketpair()
        self._ours.setblocking(False)  # noqa: FBT003 - the standard library's
        self._is_open = True
        self._closed = anyio.Event()
        self._thread = threading.Thread(target=self._run, name=f"aioflow beats {endpoint}", daemon=True)

    @classmethod
    async def open(
        cls,
        target: IpcAddress | TcpAddress,
        make: Callable[[int], list[Frame]],
        read_answer: Callable[[list[Frame]], int],
        every_s: float,
        keys: Credentials | None,
    ) -> ZmqBeats:
        """Make the sockets and start the thread; with keys, those of the session's connection.

        Raises:
            ConnectFailed: The process has as many sockets, descriptors or threads as it may.
        """
        owned = await OwnedSocket.open(zmq.DEALER, _EVENTS, 1)
        try:
            owned.raw.setsockopt(zmq.IPV6, int(target.ipv6))
            set_client_keys(owned.raw, keys)
            owned.raw.setsockopt(zmq.IMMEDIATE, 1)  # nothing waits for a server that is not there
            owned.raw.setsockopt(zmq.MAXMSGSIZE, BEAT_BYTES_MAX)
            owned.raw.setsockopt(zmq.RECONNECT_IVL, int(RECONNECT_FIRST_S * 1000))
            owned.raw.setsockopt(zmq.RECONNECT_IVL_MAX, int(RECONNECT_MAX_S * 1000))
            owned.raw.connect(target.endpoint)
            beats = cls(target.endpoint, make, read_answer, every_s, owned)
            beats._thread.start()
        except (OSError, RuntimeError, zmq.ZMQError) as error:
            await owned.aclose()
            raise ConnectFailed(f"cannot start beats: {error}; close connections, or raise ulimit -n and -u") from error
        return beats

    @property
    def answered_at(self) -> float:
        """`time.monotonic()` at the sending of the latest beat that was answered; of the start, before the first."""
        return self._answered_at

    async def aclose(self) -> None:
        """End the thread and close its connection, within some ms."""
        if self._socket.generation != current_generation():
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
            keep_in_children(self._fd, self._inode)
            await self._socket.aclose(self._note)
        self._closed.set()

    def _run(self) -> None:
        try:
            self._beat()
        finally:
            self._its.send(b"!")

    def _beat(self) -> None:
        raw, monitor, stop = self._socket.raw, self._socket.monitor, self._its.fileno()
        poller = zmq.Poller()
        poller.register(monitor, zmq.POLLIN)
        poller.register(stop, zmq.POLLIN)
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + self._every_s
                self._next()
            self._write()
            poller.register(raw, zmq.POLLIN if self._unsent is None else zmq.POLLIN | zmq.POLLOUT)
            if dict(poller.poll(math.ceil(max(due - time.monotonic(), 0) * 1000))).get(stop):
                return
            while (event := self._socket.next_event()) is not None:
                self._note(event)
            self._take_answers()

    def _next(self) -> None:
        """Make the next beat; it takes the place of one that could not be sent."""
        self._number += 1
        frames = self._make(self._number)
        self._unsent = pack([(frames, measure(frames, self._endpoint))])
        if not self._is_connected and time.monotonic() >= self._connect_again_at:
            self._disconnect()
            self._socket.raw.connect(self._endpoint)
            self._connect_again_at = time.monotonic() + RECONNECT_MAX_S

    def _write(self) -> None:
        if self._unsent is not None and write(self._socket.raw, self._unsent):
            self._unsent = None
            self._sent[self._number] = time.monotonic()
            if len(self._sent) > BEATS_UNANSWERED_MAX:
                del self._sent[next(iter(self._sent))]

    def _take_answers(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            frames = read(self._socket.raw)
            if frames is None:
                return
            if (name := word_of(frames)) is None:
                with suppress(MalformedParcelError):
                    for message in unpack(frames):
                        self._answered(message)
            elif name == BYE:
                self._disconnect()  # the server waits for that; a later beat connects anew

    def _answered(self, frames: list[Frame]) -> None:
        try:
            number = self._read_answer(frames)
        except Exception:  # noqa: BLE001 - whatever a server sends, the beats go on
            return
        sent_at = self._sent.pop(number, 0.0)
        self._answered_at = max(self._answered_at, sent_at)

    def _note(self, event: Event) -> None:
        """Keep in mind whether a connection stands, and its descriptor while it does."""
        if event.kind == zmq.EVENT_CONNECTED:
            self._fd = event.value
            self._inode = close_in_children(self._fd)
        elif event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._is_connected = True
        elif event.kind == zmq.EVENT_DISCONNECTED:
            self._is_connected = False
            keep_in_children(self._fd, self._inode)

    def _disconnect(self) -> None:
        self._is_connected = False
        keep_in_children(self._fd, self._inode)
        with suppress(zmq.ZMQError):  # libzmq has given it up by itself
            self._socket.raw.disconnect(self._endpoint)
