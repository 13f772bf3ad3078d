"""Errors and statistics as messages, and back: each pair of functions in one place."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from aioflow import errors
from aioflow.cluster import _messages as m
from aioflow.cluster._events import Ended, Parted
from aioflow.cluster._fields import COMPONENTS_MAX
from aioflow.errors import (
    AioflowError,
    ConnectionLost,
    DeviceOutOfMemory,
    EndOfQueue,
    NodeFailed,
    RemoteError,
    SessionClosed,
    VersionMismatch,
)
from aioflow.queues import QueueStats
from aioflow.resources import LostProducer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["cut", "pack_error", "pack_stats", "read_goodbye", "unpack_error", "unpack_stats"]

# The texts of an error share one header of 64 KiB: so many bytes for each, 48 KiB at most in all.
TEXT_BYTES = 4096
NOTE_BYTES = 1024
NOTES_MAX = 8
# Who is lost is named in full; the tracebacks of all of them, or of the one unforeseen exception, share what is left.
LOST_PRODUCERS_MAX = 8
NAME_BYTES = 1024
TRACEBACK_BYTES = 20_480

# What the names of a queue's producers may take of a header.
PRODUCERS_BYTES = 32_768

_STATS_NUMBERS = (
    "capacity_bytes",
    "size",
    "size_bytes",
    "ahead",
    "unacknowledged",
    "puts_waiting",
    "gets_waiting",
    "enqueued",
    "dequeued",
)


def cut(text: str, bytes_max: int = TEXT_BYTES, *, end: bool = False) -> str:
    """Return a text that has at most `bytes_max` bytes of UTF-8: its beginning or, with `end`, its end."""
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) > bytes_max:
        room = bytes_max - len("... ")
        kept = (encoded[-room:] if end else encoded[:room]).decode(errors="ignore")
        return f"... {kept}" if end else f"{kept} ..."
    return encoded.decode()


# Errors


def pack_error(request: int, error: Exception) -> m.Error:
    """Return the message of an error, with a traceback where it was unforeseen."""
    lost = error.lost_producers if isinstance(error, EndOfQueue) else ()
    foreseen = isinstance(error, AioflowError)
    failed = error if isinstance(error, NodeFailed) else None
    unforeseen: BaseException | None = error if isinstance(error, RemoteError) or not foreseen else None
    if failed is not None:
        unforeseen = failed.__cause__
    text = "" if unforeseen is None else "".join(traceback.format_exception(unforeseen))
    if isinstance(unforeseen, RemoteError):  # it was told by another task
        text = unforeseen.traceback_text
    # The first notes of an EndOfQueue are its lost producers' tracebacks, and that of a RemoteError is its own: the
    # other side makes them again.
    made = sum(bool(producer.traceback) for producer in lost) + (isinstance(error, RemoteError) and bool(text))
    notes: Sequence[str] = getattr(error, "__notes__", ())[made:]
    return m.Error(
        request,
        type(error).__name__ if foreseen else RemoteError.__name__,
        cut(str(error) or type(error).__name__),
        [cut(note, NOTE_BYTES) for note in notes[:NOTES_MAX]],
        list(_pack_lost(lost)),
        cut(unforeseen.type_name if isinstance(unforeseen, RemoteError) else type(unforeseen).__name__, NAME_BYTES),
        cut(text, TRACEBACK_BYTES, end=True),
        cut(failed.node, NAME_BYTES) if failed is not None else "",
        cut(failed.device, NAME_BYTES) if failed is not None else "",
        [error.asked, error.held, error.limit] if isinstance(error, DeviceOutOfMemory) else [],
    )


def _pack_lost(lost: Sequence[LostProducer]) -> Iterator[list[str]]:
    share = TRACEBACK_BYTES // max(1, min(len(lost), LOST_PRODUCERS_MAX))
    for producer in lost[:LOST_PRODUCERS_MAX]:
        name, reason = cut(producer.name, NAME_BYTES), cut(producer.reason, NAME_BYTES)
        yield [name, reason, cut(producer.traceback, share, end=True)]


def unpack_error(message: m.Error, address: str) -> AioflowError:
    """Return the error of a message; one of a class that this version does not know is a `RemoteError`."""
    kind = getattr(errors, message.kind, None)
    error: AioflowError
    if kind is EndOfQueue:
        lost = tuple(LostProducer(*fields) for fields in message.lost_producers)
        error = EndOfQueue(message.text, lost_producers=lost)
    elif kind is NodeFailed:
        error = NodeFailed(message.text, node=message.node, device=message.device)
        error.__cause__ = _remote_error(message, message.text.partition(", failed: ")[2], message.device)
    elif kind is DeviceOutOfMemory:
        error = DeviceOutOfMemory(message.text, **dict(zip(("asked", "held", "limit"), message.figures, strict=False)))
    elif isinstance(kind, type) and issubclass(kind, AioflowError) and kind is not RemoteError:
        error = kind(message.text)
    else:
        error = _remote_error(message, f"{address}: {message.text}", address)
    for note in message.notes:
        error.add_note(note)
    return error


def _remote_error(message: m.Error, text: str, peer: str) -> RemoteError:
    error = RemoteError(text, type_name=message.type_name, traceback_text=message.traceback, peer=peer)
    if message.traceback:
        error.add_note(f"on {peer}:\n{message.traceback}")
    return error


def read_goodbye(goodbye: m.Goodbye, server: str, *, said_bye: bool) -> Ended | Parted:
    """Return what the end of a connection is to a session that has said bye itself, or has not."""
    reason = f"{server} has ended the session: {goodbye.reason}"
    match goodbye.kind:
        case "":
            return Ended(None if said_bye else ConnectionLost(f"{reason}(it gave no reason)"))
        case ConnectionLost.__name__:
            return Parted(goodbye.reason)
        case SessionClosed.__name__:
            return Ended(SessionClosed(reason))
        case VersionMismatch.__name__:
            return Ended(VersionMismatch(f"{server}: {goodbye.reason}"))
        case _:
            return Ended(ConnectionLost(reason))


# Statistics


def pack_stats(request: int, stats: QueueStats) -> m.Statistics:
    """Return the message of a snapshot; of very many producers it names the first."""
    numbers = [getattr(stats, name) for name in _STATS_NUMBERS]
    producers: list[str] = []
    room = PRODUCERS_BYTES
    for producer in stats.producers[:COMPONENTS_MAX]:
        room -= len(producer.encode(errors="backslashreplace"))
        if room >= 0:
            producers.append(producer)
    return m.Statistics(
        request, stats.name, stats.kind, stats.capacity, numbers, stats.is_closed, producers, stats.container
    )


def unpack_stats(message: m.Statistics) -> QueueStats:
    """Return the snapshot of a message."""
    return QueueStats(
        name=message.name,
        kind=message.kind,
        capacity=message.capacity,
        is_closed=message.is_closed,
        producers=tuple(message.producers),
        container=message.container,
        **dict(zip(_STATS_NUMBERS, message.numbers, strict=True)),
    )
