"""Requests of a client, and how many puts it has under way: those beyond a queue's window wait here, in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioflow.cluster import _messages as m
from aioflow.cluster._window import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioflow.resources import QueueKey, QueueRef
    from aioflow.transport import AnyFrame

__all__ = ["Outlets", "Request"]


@dataclass(slots=True, eq=False)
class Request:
    """A request under way; a get until all of its rows were handed over."""

    id: int
    kind: type[Any]
    ref: QueueRef | None
    encoded: list[AnyFrame]
    nbytes: int
    number: int = 0
    is_held: bool = False
    is_withdrawn: bool = False
    is_promoted: bool = False
    is_delivered: bool = False
    is_begun: bool = False  # some of its rows were handed over
    registers: tuple[str, float] | None = None
    renews: bool = False


@dataclass(slots=True, eq=False)
class _Outlet:
    window: Window = field(default_factory=Window)
    held: deque[Request] = field(default_factory=deque)


class Outlets:
    """The puts of a session by queue; a close waits behind them. Methods yield what may be sent now."""

    def __init__(self) -> None:
        self._outlets: dict[QueueKey, _Outlet] = {}

    def __bool__(self) -> bool:
        return bool(self._outlets)

    def offer(self, request: Request) -> Iterable[Request]:
        """Add a put or a close."""
        key = _key(request)
        outlet = self._outlets.get(key)
        if outlet is None:
            outlet = self._outlets[key] = _Outlet()
        if request.kind is m.Put and not outlet.held and outlet.window.admits(request.nbytes):
            outlet.window.add(request.nbytes)
            return (request,)
        request.is_held = True
        outlet.held.append(request)
        return self._release(key)

    def withdraw(self, request: Request) -> Iterator[Request]:
        """Take out one that waits."""
        self._outlets[_key(request)].held.remove(request)
        yield from self._release(_key(request))

    def answered(self, request: Request) -> Iterable[Request]:
        """Take out a put that was under way."""
        key = _key(request)
        outlet = self._outlets[key]
        outlet.window.remove(request.nbytes)
        if outlet.held or not outlet.window.puts:
            return self._release(key)
        return ()

    def clear(self) -> None:
        """Forget all."""
        self._outlets.clear()

    def _release(self, key: QueueKey) -> Iterator[Request]:
        outlet = self._outlets[key]
        while outlet.held and (outlet.held[0].kind is m.Close or outlet.window.admits(outlet.held[0].nbytes)):
            request = outlet.held.popleft()
            request.is_held = False
            if request.kind is m.Put:
                outlet.window.add(request.nbytes)
            yield request
        if not outlet.held and not outlet.window.puts:
            del self._outlets[key]


def _key(request: Request) -> QueueKey:
    assert request.ref is not None  # it is a put or a close
    return request.ref.key
