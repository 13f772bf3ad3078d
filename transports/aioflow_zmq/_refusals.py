"""What a server says of those whom it did not let in: who, and why, and not without bound."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

import zmq

from aioflow_zmq._limits import REFUSALS_LOGGED_EVERY_S, REFUSALS_LOGGED_MAX

if TYPE_CHECKING:
    from aioflow_zmq._socket import Event

logger = logging.getLogger("aioflow.server")

_REASONS: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "one side has keys and the other has none",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "it expects a server with another key, or is none of aioflow's",
}


class Refusals:
    """Collects what libzmq's events tell of a handshake, and logs one line for each that failed.

    Attributes:
        server: The server's address, once it is bound.
    """

    def __init__(self) -> None:
        self._addresses: dict[int, str] = {}
        self._reason = ""
        self._looked_at = monotonic()
        self._lines = float(REFUSALS_LOGGED_MAX)  # that may be logged now
        self._unlogged = 0
        self.server = ""

    def note(self, event: Event) -> None:
        """Take one event of the server's socket."""
        if event.kind == zmq.EVENT_ACCEPTED:
            self._addresses[event.value] = _address_of(event.value)
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._reason = _REASONS.get(event.value, f"it broke the protocol (libzmq's {event.value:#x})")
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._reason = "it broke off the handshake: one side has keys and the other has none, or it only knocked"
        elif event.kind == zmq.EVENT_DISCONNECTED:  # libzmq writes it right behind the failure that it follows
            address, reason = self._addresses.pop(event.value, ""), self._reason
            self._reason = ""
            if reason:
                self.log(address or "a client that has gone", reason)

    def log(self, address: str, reason: str) -> None:
        """Log a line, unless there were many just now: anybody may knock as often as he likes."""
        now = monotonic()
        self._lines = min(REFUSALS_LOGGED_MAX, self._lines + (now - self._looked_at) / REFUSALS_LOGGED_EVERY_S)
        self._looked_at = now
        if self._lines < 1:
            self._unlogged += 1
            return
        self._lines -= 1
        more = f" ({self._unlogged} more before it)" if self._unlogged else ""
        self._unlogged = 0
        logger.warning("%s refused %s: %s%s", self.server, address, reason, more)


def _address_of(fd: int) -> str:
    """Return the address of the other end, if the connection still stands."""
    with suppress(OSError), socket.socket(fileno=os.dup(fd)) as copy:
        name = copy.getpeername()
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a process of this host"
    return ""
