"""The connection of a session: the shell around `_peer` that connects, beats, notices a loss, and connects again."""

from __future__ import annotations

import logging
import math
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from aioflow.cluster import _messages as m
from aioflow.cluster._codec import decode, encode
from aioflow.cluster._events import Ended, Parted, Welcomed
from aioflow.cluster._nearby import connect_nearest
from aioflow.errors import (
    AioflowError,
    AuthenticationFailed,
    ConnectFailed,
    ConnectionLost,
    RemoteProtocolError,
    TransportError,
)
from aioflow.runtime import Background, Soon, Waiter, event_loop_clock, finish, now
from aioflow.transport import find_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioflow.cluster._events import Event
    from aioflow.cluster._peer import Peer
    from aioflow.runtime import SessionConfig
    from aioflow.transport import Beats, Connection, Frame, WritablePieces

__all__ = ["Link"]

# A closing session waits this long for the server's answer, so that its puts and acknowledgements are known to be
# there.
GOODBYE_S = 0.5
# One attempt to connect again: a path that swallows everything is given up and tried anew, so that what heals is in use
# within this and the longest pause.
ATTEMPT_S = 2.0
# Pauses between attempts, each of random length up to twice the last: a server that was started anew is not met by all
# its clients in the same moment.
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 1.0
STEADY_S = 0.3  # a connection that has lasted so long is none that is lost again and again, at once

logger = logging.getLogger("aioflow.session")


class Link:
    """Keeps a session connected until it is closed, ended by the server, or out of reach for `session_s`.

    Args:
        address: Of the server.
        config: The session's settings.
        peer: The session.
        on_event: Told what has happened to its requests.
        on_end: Told why the session is over, unless it was closed.
        secret: The session's secret, for its beats.
        on_unreachable: Told once in each outage, when it has lasted for `lost_s`, and why.
        credentials: With which key to connect; None for none.

    Attributes:
        clock: That of the event loop.
        send_soon: Does as `send` when the tasks that run now have said what they have to say: together it costs little
            more than one of it.
        unreachable: Why the server is out of reach, once it is for `lost_s`; empty where it is not.
    """

    def __init__(
        self,
        address: str,
        config: SessionConfig,
        peer: Peer,
        secret: str,
        on_event: Callable[[Event], None],
        on_end: Callable[[AioflowError], None],
        on_unreachable: Callable[[str], None],
        credentials: Path | None = None,
    ) -> None:
        self.unreachable = ""
        self._on_unreachable = on_unreachable
        self._outages = 0
        self._address = address
        self._config = config
        self._peer = peer
        self._secret = secret
        self._on_event = on_event
        self._on_end = on_end
        self._credentials = credentials
        self._background = Background(self._failed)
        self._connection: Connection | None = None
        self._numbers = 0  # of connections: what an earlier one still says is not heard
        self._beats: Beats | None = None
        self._beats_address = ""
        self._offset_s = 0.0  # between the clocks of the beats and of the event loop
        self._welcomed_at = 0.0
        self._fresh_until = 0.0  # until then `check` need not look
        self.clock = now
        self.send_soon: Callable[[], None] = self.send
        self._welcome: Waiter[None] = Waiter()
        self._goodbye: Waiter[None] = Waiter()
        self._lost = anyio.Event()
        self._is_welcome = False  # on the present connection
        self._reason = ""
        self._is_over = False

    async def open(self) -> None:
        """Connect and be welcomed, waiting up to `connect_s` for a server that is still starting."""
        group = await self._background.start()
        self.clock = event_loop_clock()
        self.send_soon = Soon(self.send, self._failed)
        try:
            with anyio.move_on_after(self._config.connect_s):
                await self._connect_first()
                group.start_soon(self._keep)
                if self._beats is not None:
                    group.start_soon(self._watch)
                return
            raise ConnectFailed(  # noqa: TRY301 - disconnects as any other error does
                f"no aioflow server answered at {self._address} within {self._config.connect_s} s; "
                + _how_to_start(self._address)
            )
        except BaseException:
            self._is_over = True
            await finish(self._disconnect)
            raise

    def start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function until the link is closed."""
        self._background.group.start_soon(function)

    async def close(self) -> None:
        """Say bye, wait for the answer within a bound, and disconnect."""
        if not self._is_over and self._peer.is_open:
            self._peer.bye()
            self.send()
        else:
            self._goodbye.resolve(None)
        self._is_over = True
        await finish(self._part)

    def send(self) -> None:
        """Send what the peer has to say, and tell what has happened."""
        if self._connection is not None and (messages := self._peer.take_messages()):
            self._connection.send(*messages)
        self._tell()

    @property
    def is_local(self) -> bool:
        """Whether the server is on this host; False while there is no connection."""
        return self._connection is not None and self._connection.is_local

    def allocate(self, nbytes: int) -> memoryview | None:
        """Return memory that the other side sees as well; None where there is none, or no connection."""
        return None if self._connection is None else self._connection.allocate(nbytes)

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:
        """Return pieces that the other side sees as well; None where there are none, or no connection."""
        return None if self._connection is None else self._connection.allocate_pieces(size, count)

    def check(self) -> bool:
        """Whether the server has been heard lately; if not, connect again: what it had sent is its own again."""
        if self.clock() < self._fresh_until or self._silent_s() <= self._config.lost_s:
            return True
        self._lose(f"it has answered no beat for {self._config.lost_s} s")
        return False

    def end(self, error: AioflowError) -> None:
        """End the session: nothing is sent or heard any more."""
        self._welcome.fail(error)
        self._goodbye.resolve(None)
        if not self._is_over:
            self._is_over = True
            self._lost.set()
            self._on_end(error)

    # The life of a connection

    async def _connect(self) -> None:
        """Connect and wait for the welcome; the caller bounds the wait."""
        self._welcome = Waiter()
        self._numbers += 1
        receiver = _Receiver(self, self._numbers)
        group = self._background.group
        self._connection, address = await connect_nearest(self._address, self._credentials, receiver, group)
        if self._beats is None:
            await self._beat(address)
        self._peer.connected(beats=self._beats is not None)
        self.send()
        await self._welcome.wait()
        if address != self._beats_address:  # another server may listen here only; this one knows the session by now
            old = self._beats
            await self._beat(address)
            if old is not None:
                await old.aclose()

    async def _beat(self, address: str) -> None:
        self._beats = await find_transport(address, self._credentials).beat(
            address,
            lambda number: encode(m.Beat(self._secret, number)),
            _read_answer,
            self._config.heartbeat_s,
        )
        self._beats_address = address
        self._offset_s = now() - self._beats.answered_at if self._beats is not None else 0.0

    async def _connect_first(self) -> None:
        """Connect, again and again where the connection is lost before the welcome; a refusal is final."""
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                return await self._connect()
            except ConnectionLost:
                if self._is_over:  # the server has ended the session, and says why
                    raise
            self._drop()
            self._lost = anyio.Event()
            await anyio.sleep(_vary(pause_s))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _keep(self) -> None:
        """Connect again whenever the connection is lost; where none lasts, less and less often, and not for ever."""
        since = pause_s = connected_at = -math.inf
        while not self._is_over:
            await self._lost.wait()
            is_steady = now() - connected_at > STEADY_S  # else what is sent again may be what there is no memory for
            since = now() if is_steady or not pause_s else since
            pause_s = 0.0 if is_steady else min(max(PAUSE_FIRST_S / 8, 2 * pause_s), PAUSE_MAX_S)
            await anyio.sleep(_vary(pause_s))
            if not self._is_over:
                await self._reconnect(since)
                connected_at = now()

    async def _reconnect(self, since: float) -> None:
        began, session_s, pause_s = now(), self._config.session_s, PAUSE_FIRST_S
        left_s = max(0.0, round(since + session_s - began, 1))
        logger.warning("lost %s (%s); trying again for %g s", self._peer.name, self._reason, left_s)
        while not self._is_over:
            left_s = since + session_s - now()
            if left_s <= 0:
                reason = f"{self._peer.name} was out of reach for {session_s} s: {self._reason}"
                self.end(ConnectionLost(reason))
                return
            self._lost = anyio.Event()
            with anyio.move_on_after(min(ATTEMPT_S, left_s)):
                try:
                    await self._connect()
                except AuthenticationFailed as error:  # the key was revoked, or the server has new ones
                    self.end(error)
                    return
                except TransportError as error:
                    self._reason = str(error)
                else:
                    logger.warning("connected to %s again after %.1f s", self._peer.name, now() - began)
                    return
            self._drop()
            await anyio.sleep(min(_vary(pause_s), max(0.0, left_s)))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _watch(self) -> None:
        """Notice when no beat is answered any more."""
        while not self._is_over:
            if self._peer.is_open:
                self.check()
            left_s = self._config.lost_s - self._silent_s() if self._peer.is_open else self._config.lost_s
            await anyio.sleep(max(0.01, left_s))

    def _silent_s(self) -> float:
        """How long ago the latest sign of life of the server was asked for."""
        if self._beats is None:
            self._fresh_until = math.inf
            return 0.0
        heard_at = max(self._beats.answered_at + self._offset_s, self._welcomed_at)
        self._fresh_until = heard_at + self._config.lost_s
        return self.clock() - heard_at

    def _lose(self, reason: str) -> None:
        """Be without a connection, and have another one made."""
        if self._connection is not None:
            self._reason = reason
            was_welcome = self._is_welcome
            self._drop()
            self._lost.set()
            if was_welcome:  # else the outage goes on
                self._outages += 1
                self._background.group.start_soon(self._tell_unreachable, self._outages)

    async def _tell_unreachable(self, outage: int) -> None:
        await anyio.sleep(self._config.lost_s)
        if outage == self._outages and not self._peer.is_open and not self._is_over:
            self.unreachable = f"{self._peer.name} is out of reach since {self._config.lost_s:g} s: {self._reason}"
            self._on_unreachable(self.unreachable)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._numbers += 1
        self._is_welcome = False
        self._peer.disconnected()

    # What arrives

    def received(self, number: int, frames: list[Frame]) -> None:
        """Handle one message of the server."""
        if number != self._numbers:
            return
        try:
            self._peer.receive(*decode(frames))
        except RemoteProtocolError as error:
            self.end(error)
        self.send()

    def gone(self, number: int, error: TransportError) -> None:
        """Learn that a connection has ended."""
        if number == self._numbers:
            self._welcome.fail(error)
            self._lose(str(error))

    def _tell(self) -> None:
        for event in self._peer.take_events():
            match event:
                case Welcomed():
                    self._welcomed_at = now()
                    self._is_welcome = True
                    self.unreachable = ""
                    self._on_event(event)
                    self._welcome.resolve(None)
                case Parted(reason):
                    self._welcome.fail(ConnectionLost(f"{self._peer.name} has ended the connection: {reason}"))
                    self._lose(reason)
                case Ended(None):
                    self._goodbye.resolve(None)
                case Ended(error):
                    assert error is not None
                    self.end(error)
                case _:
                    self._on_event(event)

    def _failed(self, error: BaseException) -> None:
        lost = ConnectionLost(f"the connection to {self._peer.name} broke: {error!r}")
        lost.__cause__ = error
        self.end(lost)

    async def _part(self) -> None:
        with anyio.move_on_after(GOODBYE_S):
            await self._goodbye.wait()
        await self._disconnect()

    async def _disconnect(self) -> None:
        try:
            if self._beats is not None:
                await self._beats.aclose()
        finally:
            if self._connection is not None:
                await self._connection.aclose()
            await self._background.stop()


class _Receiver:
    """Ties what one connection says to its number."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number

    def received(self, frames: list[Frame]) -> None:
        self._link.received(self._number, frames)

    def lost(self, error: TransportError) -> None:
        self._link.gone(self._number, error)


def _vary(pause_s: float) -> float:
    return pause_s * (0.5 + random.random())  # noqa: S311 - no secret


def _read_answer(frames: list[Frame]) -> int:
    message, _ = decode(frames)
    return message.number if isinstance(message, m.Heard) else 0


def _how_to_start(address: str) -> str:
    scheme, _, path = address.partition("://")
    folder = Path(path).parent
    if scheme in {"ipc", "shm"}:
        try:
            os.lstat(folder)
        except FileNotFoundError:
            absolute = "" if folder.is_absolute() else f"; an absolute path has three slashes, {scheme}:///{path}"
            return f"the folder {folder} does not exist here: is that the server's address?{absolute}"
        except OSError:
            pass  # it may be one of another user
    if scheme == "inproc":
        return f"a server of this process is started by flow.Server({{'local': ['{address}']}})"
    return f"start one with: aioflow serve --bind {address}"
