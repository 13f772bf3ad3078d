"""A client in a simulated history: does what a plan says, keeps the history, and checks what it sees."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aioflow.cluster import _messages as m
from aioflow.cluster._codec import describe_columns, encode_columns
from aioflow.cluster._events import Answered, Recalled, Refused, Undone, Voided, Welcomed
from aioflow.errors import QueueReset
from aioflow.testing._sessions_history import PLACES, REFS, Call, check_order
from aioflow.testing._simulated_sessions import SimulatedLink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioflow.cluster._events import Event
    from aioflow.cluster._messages import Message
    from aioflow.errors import AioflowError
    from aioflow.resources import QueueRef
    from aioflow.testing._network import SimulatedNetwork
    from aioflow.testing._sessions_history import History
    from aioflow.transport import AnyFrame

__all__ = ["WEIGHTS", "Action", "SimulatedClient"]

# What clients do, and how often.
WEIGHTS = {
    "put": 30.0,
    "get": 18.0,
    "ask": 9.0,
    "promote": 6.0,
    "hand_over": 26.0,
    "hand_over_some": 9.0,
    "withdraw": 9.0,
    "close": 0.5,
    "delete": 0.5,
    "join": 1.5,
    "leave": 1.5,
    "bye": 0.5,
}


class Action(NamedTuple):
    """One thing that a client does.

    Attributes:
        at_s: When.
        client: Which one, from 0.
        what: One of `WEIGHTS`.
        pick: Which of the queues or calls that it may be about: a number in [0, 1).
        rows: How many rows it is about.
    """

    at_s: float
    client: int
    what: str
    pick: float
    rows: int

    def __str__(self) -> str:
        """Say what and when."""
        return f"client-{self.client}: {self.what} at {self.at_s:.6f} s (pick {self.pick:.3f}, rows {self.rows})"


class SimulatedClient:
    """One session and what was asked of it.

    Attributes:
        link: Its connection.
        waiting: Calls without an answer, by id.
        delivered: Gets that were answered and not handed over, by id.
        is_leaving: Whether all clients say bye: what they still have goes back.
        unheard: What it handed over without that the server is known to have learnt it.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        history: History,
        name: str,
        number: int,
        on_end: Callable[[AioflowError | None], None],
        *,
        gives_back: bool,
    ) -> None:
        self.waiting: dict[int, Call] = {}
        self.delivered: dict[int, Call] = {}
        self.unheard: set[int] = set()
        self.is_leaving = False
        self._acknowledged: dict[int, list[int]] = {}
        self._network = network
        self._history = history
        self._places = itertools.count(number * PLACES)
        self._gives_back = gives_back
        self._last: dict[tuple[QueueRef, int], int] = {}
        self._epoch = 0
        self._used: set[QueueRef] = set()
        self._owed: set[QueueRef] = set()  # queues whose next call has to raise QueueReset
        self._to_reset: set[Call] = set()  # calls that have to fail with it
        self._joined: dict[QueueRef, str] = {}
        self.link = SimulatedLink(network, name, f"session {number} of {name}", self._happened, on_end)

    # What it does

    def act(self, action: Action) -> None:
        """Do something, if there is what to do it with."""
        if not self.link.is_over:
            assert not self._to_reset, "a call outlived the server that it was sent to"
            getattr(self, f"_act_{action.what}")(action.pick, action.rows)
            self.link.send()

    def hand_over(self, call: Call, rows: int) -> None:
        """Hand over more rows of a get, unless the server was not heard for so long that they may be its own again."""
        if not self.link.check():
            for each in self.delivered.values():
                each.values, each.taken = [], 0
            self.waiting |= self.delivered
            self.delivered.clear()
            return
        values = call.values[call.taken : call.taken + rows]
        call.taken += len(values)
        is_all = call.taken == len(call.values)
        if is_all:
            del self.delivered[call.id]
        self._acknowledged[call.id] = call.values[: call.taken]
        self.unheard.update(values)
        self._history.hand_over(call, values, self._epoch)
        self._network.note(self.link.node.name, "", f"hands over {values}")
        if not is_all and len(values) % 2:
            self.link.peer.take(call.id, call.taken)
        else:
            self.link.peer.acknowledge(call.id, call.taken, is_all=is_all)
        self.link.send_late()

    def heard(self, id_: int, rows: int) -> None:
        """Learn that the server has taken an acknowledgement."""
        self.unheard.difference_update(self._acknowledged[id_][:rows])

    def withdraw(self, call: Call) -> None:
        """End a call that waits, or give back what was not handed over of it."""
        call.is_withdrawn = True
        self.delivered.pop(call.id, None)
        if call.is_get:
            self.waiting.pop(call.id, None)
        self.link.peer.withdraw(call.id)

    def _act_put(self, pick: float, count: int) -> None:
        ref = _choose(REFS, pick)
        values = list(itertools.islice(self._places, count))
        columns = (np.array(values, np.int64),)
        described = describe_columns(columns, ["int64"])
        make = lambda request, queue: m.Put(request, queue, described)  # noqa: E731
        self._history.offered[ref.key.name] += values
        self._request(Call("put", ref, values), make, encode_columns(columns))

    def _act_get(self, pick: float, count: int) -> None:
        make = lambda request, queue: m.Get(request, queue, count, bool(count % 2))  # noqa: E731
        self._request(Call("get", _choose(REFS, pick)), make)

    def _act_ask(self, pick: float, count: int) -> None:
        runs = 1 + int(pick * 1000) % 3
        make = lambda request, queue: m.Ask(request, queue, 1 + count // 2, runs)  # noqa: E731
        self._request(Call("ask", _choose(REFS, pick)), make)

    def _act_promote(self, pick: float, _: int) -> None:
        if asks := [call for call in self.waiting.values() if call.kind == "ask"]:
            self.link.peer.promote(_choose(asks, pick).id)

    def _act_hand_over(self, pick: float, _: int) -> None:
        if self.delivered:
            call = _choose(list(self.delivered.values()), pick)
            self.hand_over(call, len(call.values))

    def _act_hand_over_some(self, pick: float, count: int) -> None:
        if self.delivered:
            call = _choose(list(self.delivered.values()), pick)
            left = len(call.values) - call.taken
            self.hand_over(call, min(count, max(1, left - 1)))

    def _act_withdraw(self, pick: float, _: int) -> None:
        calls = [call for call in self.waiting.values() if call.kind in {"put", "get", "ask", "join"}]
        calls = [call for call in calls if not call.is_withdrawn and (self._gives_back or not call.is_get)]
        if self._gives_back:
            calls += self.delivered.values()
        if calls:
            self.withdraw(_choose(calls, pick))

    def _act_close(self, pick: float, count: int) -> None:
        make = lambda request, queue: m.Close(request, queue, count % 2 == 0)  # noqa: E731
        self._request(Call("close", _choose(REFS, pick)), make)

    def _act_delete(self, pick: float, _: int) -> None:
        ref = _choose(REFS, pick)
        if self._request(Call("delete", ref), m.Delete):
            self._used.discard(ref)
            self._joined.pop(ref, None)

    def _act_join(self, _: float, count: int) -> None:
        ref = REFS[-1]
        if ref not in self._joined:
            name = f"producer-{count % 3}"
            make = lambda request, queue: m.Join(request, queue, name, 2.0 * (count % 2))  # noqa: E731
            if self._request(Call("join", ref), make):
                self._joined[ref] = name

    def _act_leave(self, _: float, count: int) -> None:
        joining = {call.ref for call in self.waiting.values() if call.kind == "join"}
        for ref, name in list(self._joined.items()):
            if ref in joining:  # nobody leaves before the registration has ended
                continue
            lost = count == 1
            make = lambda request, queue: m.Leave(request, queue, name, lost, "", "")  # noqa: B023, E731
            if self._request(Call("leave", ref), make):
                self._joined.pop(ref, None)

    def _act_bye(self, _: float, __: int) -> None:
        if self._gives_back:
            self.link.close()

    def _request(self, call: Call, make: Callable[[int, int], Message], frames: Sequence[AnyFrame] = ()) -> bool:
        owes = call.ref in self._owed
        try:
            call.id = self.link.peer.request(call.ref, make, frames)
        except QueueReset:
            assert owes, f"queue {call.ref.key.name!r} was reset twice, or without a restart"
            self._told(call.ref)
            self._network.note(self.link.node.name, "", f"{call.kind} raises QueueReset")
            return False
        assert not owes, f"queue {call.ref.key.name!r} was reset and nobody was told"
        self._used.add(call.ref)
        self.waiting[call.id] = call
        return True

    # What happens to it

    def _happened(self, event: Event) -> None:
        match event:
            case Welcomed(welcome):
                self._welcomed(int(welcome.epoch))
            case Answered(id_, value):
                self._answered(id_, value)
            case Refused(id_, error):
                call = self.waiting.pop(id_, None) or self.delivered.pop(id_, None)
                if call is not None:
                    self._refused(call, error)
            case Undone(id_, rows):
                call = self.waiting.pop(id_)
                if call.kind == "join":
                    self._joined.pop(call.ref, None)
                self._history.put_ended(call, rows)
            case Voided(id_, again):
                call = self.delivered.pop(id_, None) or self.waiting.pop(id_)
                call.id, call.values, call.taken = again, [], 0
                self.waiting[again] = call
            case Recalled(id_):
                if (call := self.delivered.get(id_)) is not None:
                    self.link.after(0.01, partial(self._recalled, call))
            case _:
                raise AssertionError(event)

    def _welcomed(self, epoch: int) -> None:
        if self._epoch and epoch != self._epoch:
            self._to_reset = {*self.waiting.values(), *self.delivered.values()}
            for call in self._to_reset:
                if call.kind == "join":
                    self._joined.pop(call.ref, None)
            told = {call.ref for call in self._to_reset}
            self._owed |= self._used - told
            for ref in told:
                self._told(ref)
        self._epoch = epoch

    def _told(self, ref: QueueRef) -> None:
        self._owed.discard(ref)
        if ref not in self._joined:
            self._used.discard(ref)

    def _answered(self, id_: int, value: Any) -> None:
        call = self.waiting.pop(id_, None)
        if call is None:
            return  # a registration that was renewed by itself
        assert not (call.is_get and call.is_withdrawn), "a withdrawn get was answered"
        if call.is_get:
            call.values = value[0].tolist()
            self.delivered[id_] = call
            check_order(call)
            if not self._gives_back and not self.is_leaving and call.ref.definition.kind == "FIFOQueue":
                for number in call.values:
                    producer = call.ref, number // PLACES
                    assert self._last.get(producer, -1) < number, "gets came in another order than the puts"
                    self._last[producer] = number
            if not call.values:
                self.hand_over(call, 0)
        elif call.kind == "put":
            self._history.put_ended(call, len(call.values))

    def _refused(self, call: Call, error: AioflowError) -> None:
        if isinstance(error, QueueReset):
            assert call in self._to_reset, "a call failed with QueueReset without a restart"
            self._to_reset.discard(call)
        if call.kind == "join":
            self._joined.pop(call.ref, None)
        self._history.failed(call, error, self._epoch)

    def _recalled(self, call: Call) -> None:
        if self.delivered.get(call.id) is call and not self.link.is_over:
            if self._gives_back and call.id % 2:
                self.withdraw(call)
            else:
                self.hand_over(call, len(call.values))
            self.link.send()


def _choose(things: Sequence[Any], pick: float) -> Any:
    return things[int(pick * len(things))]
