"""Containers of queues: who finds which, when one ends, and who its producers are; the time is a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow.errors import EndOfQueue, NotFound, SpecMismatch
from aioflow.queues import Completed, Failed, QueueDefinition, Segment
from aioflow.resources import LostProducer, QueueKey, QueueRef, QueueResource, Resources
from aioflow.specs import ElementSpec, TensorSpec

if TYPE_CHECKING:
    from aioflow.queues import Ticket

SESSION_S = 60.0
ELEMENT = ElementSpec((TensorSpec("int64", ()),))
GIVE_UP = 4.0


@pytest.fixture
def resources() -> Resources:
    """Return an empty container."""
    return Resources(np.random.default_rng, session_s=SESSION_S)


def ref(name: str = "q", *, container: str = "", session: str = "", capacity: int = 4, **changes: Any) -> QueueRef:
    """Name a queue together with its definition."""
    return QueueRef(QueueKey(container, name, session), QueueDefinition("FIFOQueue", ELEMENT, capacity, **changes))


def put(queue: QueueResource, *numbers: int) -> None:
    """Enqueue elements."""
    queue.machine.enqueue(Segment.of((np.array(numbers, np.int64),)))


def take(queue: QueueResource, count: int) -> None:
    """Dequeue elements, and acknowledge them."""
    queue.machine.acknowledge(queue.machine.dequeue(count))


def drain(queue: QueueResource) -> None:
    """Close a queue that is empty."""
    queue.machine.close()
    assert queue.machine.is_drained


def outcomes(queue: QueueResource) -> dict[Ticket, Any]:
    """What became of tickets: None, or an error."""
    return {
        effect.ticket: effect.error if isinstance(effect, Failed) else None
        for effect in queue.take_effects()
        if isinstance(effect, (Completed, Failed))
    }


def join(
    queue: QueueResource, name: str, session: str = "a", *, rejoin_s: float = 0, give_up: float = GIVE_UP
) -> Ticket:
    """Register a producer."""
    return queue.join(session, name, rejoin_s=rejoin_s, give_up=give_up)


# Finding


def test_a_name_is_found_again(resources: Resources) -> None:
    """semantics 1.10: a second definition under a shared name finds the queue, from any session."""
    assert resources.attach("a", ref()) is resources.attach("b", ref())


def test_what_makes_a_key(resources: Resources) -> None:
    """semantics 0.2: a queue's key is its container and its name; a private one is its session's alone."""
    refs = [ref(), ref("r"), ref(container="c"), ref(session="a"), ref(session="b")]
    assert len({id(resources.attach("a", one)) for one in refs}) == 5


def test_a_failed_match_changes_nothing(resources: Resources) -> None:
    """semantics 1.10: a definition that disagrees is refused, the queue stays, and the session is not attached."""
    queue = resources.attach("a", ref())
    put(queue, 1)
    with pytest.raises(SpecMismatch, match="capacity: the queue has 4, the definition 5; seed"):
        resources.attach("b", ref(capacity=5, seed=1))
    assert resources.attach("a", ref()) is queue
    assert len(queue.machine) == 1
    assert queue.sessions == {"a"}


def test_what_is_left_out_matches(resources: Resources) -> None:
    """api.md: what the later definition leaves out matches."""
    queue = resources.attach("a", ref(capacity_bytes=1000, producers=2))
    assert resources.attach("b", ref()) is queue


def test_lookup(resources: Resources) -> None:
    """api.md: lookup takes the definition of a queue that exists, and else lists those that are there."""
    given = ref()
    resources.attach("a", given)
    resources.attach("a", ref("private", session="a"))
    assert resources.lookup(given.key) is given.definition
    with pytest.raises(NotFound, match=r"no queue 'r'; there are \['q'\]"):
        resources.lookup(ref("r").key)


def test_unbounded_needs_bytes() -> None:
    """semantics 0.2: on a server a queue without a limit in elements must state one in bytes."""
    resources = Resources(np.random.default_rng, session_s=SESSION_S, bytes_required=True)
    with pytest.raises(SpecMismatch, match="capacity_bytes"):
        resources.attach("a", ref(capacity=-1))
    assert not resources.queues
    resources.attach("a", ref(capacity=-1, capacity_bytes=1000))
    assert len(resources.queues) == 1


def test_a_queue_gets_its_seed() -> None:
    """semantics 1.6: the generator of a queue is made from its definition's seed."""
    seeds: list[int | None] = []

    def make_rng(seed: int | None) -> np.random.Generator:
        seeds.append(seed)
        return np.random.default_rng(seed)

    resources = Resources(make_rng, session_s=SESSION_S)
    resources.attach("a", ref("seeded", seed=7))
    resources.attach("a", ref("free"))
    assert seeds == [7, None]


def test_delete(resources: Resources) -> None:
    """api.md: what waits on a deleted queue fails with NotFound, and the next operation makes a new one."""
    queue = resources.attach("a", ref())
    get = queue.machine.dequeue(1)
    holder, waits = join(queue, "p"), join(queue, "p", "b")
    resources.delete(ref().key)
    found = outcomes(queue)
    assert found[holder] is None
    assert isinstance(found[get], NotFound)
    assert isinstance(found[waits], NotFound)
    assert resources.attach("a", ref()) is not queue


# Sessions that go


def test_shared_queues_stay(resources: Resources) -> None:
    """semantics 1.10: a shared queue survives the session, with its elements; private ones go with it."""
    shared, private = resources.attach("a", ref()), resources.attach("a", ref("p", session="a"))
    put(shared, 1)
    get = private.machine.dequeue(1)
    assert set(resources.detach("a", 0.0, "left")) == {shared, private}
    assert isinstance(outcomes(private)[get], NotFound)
    assert resources.attach("b", ref()) is shared
    assert len(shared.machine) == 1
    assert len(resources.queues) == 1


def test_an_open_queue_stays_for_ever(resources: Resources) -> None:
    """semantics 1.10: a queue that is open, or holds elements, outlives all sessions."""
    still_open, full = resources.attach("a", ref("open")), resources.attach("a", ref("full"))
    put(full, 1)
    full.machine.close()
    resources.detach("a", 0.0, "left")
    assert resources.next_deadline() is None
    resources.expire(1e9)
    assert set(resources.queues.values()) == {still_open, full}


def test_a_drained_queue_goes_in_time(resources: Resources) -> None:
    """api.md: a closed, drained queue stays until nobody has been attached for session_s."""
    queue = resources.attach("a", ref())
    drain(queue)
    resources.expire(1e9)
    assert resources.queues
    resources.detach("a", 100.0, "left")
    assert resources.next_deadline() == 100 + SESSION_S
    resources.expire(100 + SESSION_S - 0.1)
    assert resources.queues
    resources.expire(100 + SESSION_S)
    assert not resources.queues
    assert resources.next_deadline() is None


def test_a_late_consumer_gets_the_end(resources: Resources) -> None:
    """api.md: a late consumer of a drained queue finds it, and keeps it."""
    queue = resources.attach("a", ref())
    drain(queue)
    resources.detach("a", 0.0, "left")
    assert resources.attach("b", ref()) is queue
    get = queue.machine.dequeue(1)
    assert isinstance(outcomes(queue)[get], EndOfQueue)
    resources.expire(SESSION_S * 2)
    assert resources.queues


@pytest.mark.parametrize("how", [{"puts": True}, {"registers": True}])
def test_a_new_queue_after_the_end(resources: Resources, how: dict[str, bool]) -> None:
    """api.md: a producer or a put that comes while nobody else is attached to a drained queue starts a new one."""
    queue = resources.attach("a", ref())
    drain(queue)
    assert resources.attach("b", ref(), **how) is queue
    resources.detach("b", 0.0, "left")
    resources.detach("a", 0.0, "left")
    begun = resources.attach("b", ref(capacity=9), **how)
    assert begun is not queue
    assert begun.definition.capacity == 9


def test_no_reopening_for_who_is_attached(resources: Resources) -> None:
    """semantics 1.3: there is no re-opening: a session that is attached still finds the closed queue with a put."""
    queue = resources.attach("a", ref())
    drain(queue)
    assert resources.attach("a", ref(), puts=True) is queue
    assert resources.attach("a", ref(), registers=True) is not queue


def test_what_is_unacknowledged_keeps_a_queue(resources: Resources) -> None:
    """semantics 0.3: a closed queue whose last elements may come back is not drained."""
    queue = resources.attach("a", ref())
    put(queue, 1)
    get = queue.machine.dequeue(1)
    queue.machine.close()
    resources.detach("a", 0.0, "left")
    assert resources.attach("b", ref(), puts=True) is queue
    queue.machine.acknowledge(get)
    assert queue.machine.is_drained


# Producers


def test_the_last_producer_closes(resources: Resources) -> None:
    """semantics 0.4: when at least one has registered and the last one has left, the queue closes as by close()."""
    queue = resources.attach("a", ref())
    join(queue, "p")
    join(queue, "r")
    assert queue.stats().producers == ("p", "r")
    queue.leave("p", None, 0.0)
    assert not queue.machine.is_closed
    queue.leave("r", None, 0.0)
    assert queue.machine.is_closed


def test_producers_wait_for_their_number(resources: Resources) -> None:
    """semantics 0.4: with producers=n, n distinct names must have come before the end can."""
    queue = resources.attach("a", ref(producers=2))
    for _ in range(2):
        join(queue, "p")
        queue.leave("p", None, 0.0)
    assert not queue.machine.is_closed
    join(queue, "r")
    queue.leave("r", None, 0.0)
    assert queue.machine.is_closed


def test_the_close_takes_its_turn(resources: Resources) -> None:
    """semantics 0.4: the close is the server's own put attempt: it waits behind blocked puts, and is made once."""
    queue = resources.attach("a", ref(capacity=1))
    join(queue, "p")
    put(queue, 1, 2)
    queue.leave("p", None, 0.0)
    join(queue, "r")
    queue.leave("r", None, 0.0)
    assert queue.stats().puts_waiting == 2
    assert not queue.machine.is_closed
    take(queue, 1)
    assert queue.machine.is_closed


def test_the_close_is_skipped_on_a_closed_queue(resources: Resources) -> None:
    """semantics 0.4: the last leaving does nothing on a queue that is closed."""
    queue = resources.attach("a", ref())
    join(queue, "p")
    queue.machine.close()
    queue.leave("p", None, 0.0)
    assert not [error for error in outcomes(queue).values() if error]


def test_a_name_in_use_waits(resources: Resources) -> None:
    """semantics 0.4: a registration waits for the holder of its name to go."""
    queue = resources.attach("a", ref())
    first, second = join(queue, "p"), join(queue, "p", "b")
    assert outcomes(queue) == {first: None}
    assert resources.next_deadline() == GIVE_UP
    queue.leave("p", None, 1.0)
    assert outcomes(queue) == {second: None}
    assert queue.is_held("p", "b")
    assert not queue.machine.is_closed


def test_a_name_in_use_is_refused_in_time(resources: Resources) -> None:
    """semantics 0.4: a holder that does not go in time makes the registration a ValueError."""
    queue = resources.attach("a", ref())
    join(queue, "p")
    second = join(queue, "p", "b")
    assert resources.expire(GIVE_UP - 0.1) == []
    assert resources.expire(GIVE_UP) == [queue]
    assert isinstance(outcomes(queue)[second], SpecMismatch)
    assert queue.is_held("p", "a")


def test_a_waiting_registration_can_be_withdrawn(resources: Resources) -> None:
    """semantics 0.4: one that was cancelled does not get the name."""
    queue = resources.attach("a", ref())
    join(queue, "p")
    second = join(queue, "p", "b")
    assert queue.cancel_join(second)
    assert not queue.cancel_join(second)
    queue.leave("p", None, 0.0)
    assert queue.machine.is_closed


def test_lost_producers_are_reported(resources: Resources) -> None:
    """semantics 0.4: consumers that have drained the queue learn who left by an exception."""
    queue = resources.attach("a", ref())
    join(queue, "p")
    lost = LostProducer("p", "ValueError: no", "Traceback ...")
    queue.leave("p", lost, 0.0)
    get = queue.machine.dequeue(1)
    end = outcomes(queue)[get]
    assert end.lost_producers == (lost,)
    assert str(end) == (
        "the data may be short, as producers were lost: p (ValueError: no); queue 'q' is closed and has too few "
        "elements (requested 1, current size 0)"
    )


def test_a_session_that_goes_loses_its_producers(resources: Resources) -> None:
    """semantics 0.4: a producer whose session vanished counts as lost; others of the queue stay."""
    queue = resources.attach("a", ref())
    resources.attach("b", ref())
    join(queue, "p", "a")
    join(queue, "r", "b")
    waits = join(queue, "r", "a")
    resources.detach("a", 0.0, "no beat")
    assert queue.stats().producers == ("r",)
    queue.leave("r", None, 0.0)
    assert waits not in outcomes(queue)
    assert [(lost.name, lost.reason) for lost in queue.machine.lost_producers] == [("p", "no beat")]


def test_a_lost_producer_may_come_back(resources: Resources) -> None:
    """api.md: being lost counts as left only after rejoin_s without the same name coming back."""
    queue = resources.attach("a", ref())
    join(queue, "p", rejoin_s=10)
    queue.leave("p", LostProducer("p", "crash"), 100.0)
    assert resources.next_deadline() == 110
    resources.expire(109.9)
    assert not queue.machine.is_closed
    join(queue, "p", "b", rejoin_s=10)
    assert resources.next_deadline() is None
    queue.leave("p", None, 120.0)
    assert queue.machine.is_closed
    assert queue.machine.lost_producers == ()


def test_a_lost_producer_that_stays_away(resources: Resources) -> None:
    """api.md: after rejoin_s it has left, and is reported."""
    queue = resources.attach("a", ref())
    join(queue, "p", rejoin_s=10)
    queue.leave("p", LostProducer("p", "crash"), 100.0)
    assert resources.expire(110.0) == [queue]
    assert queue.machine.is_closed
    assert [lost.name for lost in queue.machine.lost_producers] == ["p"]


def test_who_comes_back_too_late_stays_lost(resources: Resources) -> None:
    """semantics 0.4: what a lost producer did not put is missing, whoever has its name now."""
    queue = resources.attach("a", ref(producers=2))
    join(queue, "p")
    queue.leave("p", LostProducer("p", "crash"), 0.0)
    join(queue, "p")
    queue.leave("p", None, 1.0)
    queue.machine.close()
    get = queue.machine.dequeue(1)
    assert [lost.name for lost in outcomes(queue)[get].lost_producers] == ["p"]


def test_rejoin_s_is_the_holders(resources: Resources) -> None:
    """api.md: a registration that only waits for a name does not change how long its holder may be away."""
    queue = resources.attach("a", ref())
    join(queue, "p", rejoin_s=10)
    second = join(queue, "p", "b", rejoin_s=0)
    queue.cancel_join(second)
    queue.leave("p", LostProducer("p", "crash"), 100.0)
    assert not queue.machine.is_closed


def test_who_is_back_is_not_lost(resources: Resources) -> None:
    """semantics 0.4: a producer that is back in time is not reported, even if the queue is closed while it is here."""
    queue = resources.attach("a", ref(producers=2))
    join(queue, "p", rejoin_s=10)
    queue.leave("p", LostProducer("p", "crash"), 0.0)
    join(queue, "p")
    queue.machine.close()
    get = queue.machine.dequeue(1)
    assert outcomes(queue)[get].lost_producers == ()


def test_a_loss_is_told_when_it_counts() -> None:
    """Once: at once, or when rejoin_s has passed; not of who is back in time, nor of who leaves in order."""
    told: list[tuple[str, str, str]] = []
    resources = Resources(
        np.random.default_rng,
        session_s=SESSION_S,
        on_lost=lambda queue, lost: told.append((queue, lost.name, lost.reason)),
    )
    queue = resources.attach("a", ref())
    for name, rejoin_s in (("p", 0), ("back", 10), ("late", 10), ("silent", 0), ("fine", 0)):
        join(queue, name, "a" if name == "silent" else "b", rejoin_s=rejoin_s)
    queue.leave("fine", None, 0.0)
    queue.leave("p", LostProducer("p", "crash"), 0.0)
    assert told == [("queue 'q'", "p", "crash")]
    queue.leave("back", LostProducer("back", "crash"), 0.0)
    queue.leave("late", LostProducer("late", "late"), 0.0)
    join(queue, "back", "b")
    resources.expire(9.0)
    assert len(told) == 1
    resources.expire(10.0)
    assert told[1:] == [("queue 'q'", "late", "late")]
    resources.silence("a", 11.0, "no beat")
    resources.detach("a", 12.0, "over")
    assert told[2:] == [("queue 'q'", "silent", "no beat")]
