"""Where values for steps meet those who receive them."""

from __future__ import annotations

import anyio
import pytest

from aioflow.cluster._transfer import ENDED_MAX, Rendezvous
from aioflow.cluster._values import encode_value
from aioflow.errors import RemoteProtocolError

pytestmark = pytest.mark.anyio

KEEP_S = 10.0


@pytest.fixture
def rendezvous() -> Rendezvous:
    """An empty one."""
    return Rendezvous(KEEP_S)


async def test_a_value_waits_for_who_receives_it(rendezvous: Rendezvous) -> None:
    """Whether it comes before the step, before the receiver, or while that waits; each key by itself."""
    rendezvous.give("s", "early", encode_value(1), now=0.0)
    assert rendezvous.next_deadline() == KEEP_S
    rendezvous.begin("s")
    assert rendezvous.next_deadline() is None
    rendezvous.give("s", "before", encode_value(2), now=0.0)
    found: list[int] = []

    async def take(key: str) -> None:
        found.append(await rendezvous.take("s", key))

    async with anyio.create_task_group() as group:
        group.start_soon(take, "late")
        await anyio.wait_all_tasks_blocked()
        await take("before")
        await take("early")
        rendezvous.give("s", "late", encode_value(3), now=0.0)
    assert found == [2, 1, 3]
    rendezvous.end("s")
    assert rendezvous.is_empty


async def test_what_comes_for_a_step_that_has_ended_is_dropped(rendezvous: Rendezvous) -> None:
    """Also what came and was not received."""
    rendezvous.begin("s")
    rendezvous.give("s", "a", encode_value(1), now=0.0)
    rendezvous.end("s")
    rendezvous.give("s", "b", encode_value(1), now=0.0)
    assert rendezvous.is_empty
    for number in range(ENDED_MAX):
        rendezvous.begin(f"{number}")
        rendezvous.end(f"{number}")
    rendezvous.give("s", "b", encode_value(1), now=5.0)  # it is not known any more that it has ended
    rendezvous.expire(5.0 + KEEP_S)
    assert rendezvous.is_empty


async def test_what_nobody_comes_for_expires(rendezvous: Rendezvous) -> None:
    """Each step's, so long after its first value."""
    rendezvous.give("s", "a", encode_value(1), now=0.0)
    rendezvous.give("t", "a", encode_value(2), now=1.0)
    rendezvous.give("s", "b", encode_value(1), now=KEEP_S - 1)
    rendezvous.expire(KEEP_S)
    assert rendezvous.next_deadline() == KEEP_S + 1
    rendezvous.begin("t")
    assert await rendezvous.take("t", "a") == 2
    rendezvous.end("t")
    assert rendezvous.is_empty


async def test_a_cancelled_receiver_leaves_the_value(rendezvous: Rendezvous) -> None:
    """And one that cannot be read fails who receives it."""
    rendezvous.begin("s")
    with anyio.move_on_after(0):
        await rendezvous.take("s", "a")
    rendezvous.give("s", "a", encode_value(1), now=0.0)
    assert await rendezvous.take("s", "a") == 1
    rendezvous.give("s", "b", [b"\xc1"], now=0.0)
    with pytest.raises(RemoteProtocolError):
        await rendezvous.take("s", "b")
