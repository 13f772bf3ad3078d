"""What threads tell the event loop arrives, in order, and wakes it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import anyio
import pytest

from aioflow.runtime._inbox import Inbox

TEST_S = 5.0


@pytest.mark.anyio
async def test_posts_of_many_threads_arrive_in_order() -> None:
    """Each thread's posts come in its order, and all come."""
    inbox, seen, done = Inbox(), list[tuple[int, int]](), anyio.Event()

    def take(thread: int, number: int) -> None:
        seen.append((thread, number))
        if len(seen) == 4 * 200:
            done.set()

    def work(thread: int) -> None:
        for number in range(200):
            inbox.post(take, thread, number)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    with anyio.fail_after(TEST_S):
        await done.wait()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [post for thread, post in seen if thread == number] == list(range(200))


class Drained(deque[Any]):
    """Notes; the event loop takes all of them in the moment before one is added."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__()
        self.inbox = inbox

    def append(self, post: Any) -> None:
        """Add a note."""
        self.inbox._run()
        super().append(post)


@pytest.mark.anyio
async def test_no_wake_is_lost() -> None:
    """A post that comes just as the event loop has taken the last one wakes it again."""
    inbox, seen, wakes = Inbox(), list[int](), list[Any]()
    inbox._wake = wakes.append
    inbox._posts = Drained(inbox)
    for number in range(3):
        inbox.post(seen.append, number)
        assert len(wakes) == number + 1
    inbox._run()
    assert seen == [0, 1, 2]


def test_posts_to_an_event_loop_that_has_ended_are_dropped() -> None:
    """A kernel that was left behind may end later than everything else."""
    for backend in ("asyncio", "trio"):
        seen: list[int] = []

        async def make() -> Inbox:
            return Inbox()

        inbox = anyio.run(make, backend=backend)
        inbox.post(seen.append, 1)
        assert seen == []
