"""Queues bound to a session, and the queues of epochs."""

from __future__ import annotations

import re
import sys

import pytest

import aioflow as flow

pytestmark = pytest.mark.anyio


async def test_a_private_queue_can_be_bound_to_a_session() -> None:
    """api.md: queue.on(session) gives a handle bound to one session, for a private queue too."""
    queue = flow.FIFOQueue(2, ["int32"], [[]])
    async with flow.Session() as one, flow.Session() as two:
        await queue.on(one).enqueue(1)
        assert await queue.on(two).size() == 0
        assert await queue.on(one).dequeue() == 1


async def test_the_queue_of_an_epoch_stays_bound_to_its_session() -> None:
    """api.md: q.epoch(k) is the same definition under another name: bound where q is bound."""
    queue = flow.FIFOQueue(2, ["int32"], [[]], shared_name="train")
    async with flow.Session() as one, flow.Session() as two:
        await queue.on(one).epoch(1).enqueue(1)
        assert await queue.on(two).epoch(1).size() == 0
        assert await queue.on(one).epoch(1).size() == 1
        assert await queue.on(one).size() == 0


async def test_the_epochs_of_a_private_queue_are_private() -> None:
    """api.md: without a shared_name a queue is private to its session, and so are those of its epochs."""
    queue = flow.FIFOQueue(2, ["int32"], [[]])
    async with flow.Session():
        await queue.epoch(0).enqueue(7)
        assert await queue.epoch(0).size() == 1
        assert await queue.epoch(1).size() == 0


async def test_messages_say_where_a_private_queue_was_defined() -> None:
    """Its kind, and the line: that is what a user can find; two of one line are two queues."""
    one, other = (flow.FIFOQueue(2, ["int32"], [[]]) for _ in range(2))
    line = sys._getframe().f_lineno - 1
    async with flow.Session():
        await one.enqueue(1)
        assert await other.size() == 0
        await one.close()
        with pytest.raises(flow.QueueClosed) as caught:
            await one.enqueue(1)
    assert re.fullmatch(
        rf"queue 'private FIFOQueue \d+, defined at test_bound_queues\.py:{line}' is closed and .*", str(caught.value)
    )
    assert repr(one) == f"<FIFOQueue {one.name!r}>"
    assert one.name != other.name


def test_a_file_may_have_any_name() -> None:
    """One that is no text, too."""
    code = compile("q = flow.PaddingFIFOQueue(2, ['int32'], [[None]])", "/tmp/\udcff'.py", "exec")
    namespace = {"flow": flow}
    exec(code, namespace)
    assert "defined at \\udcff'.py:1" in namespace["q"].name
