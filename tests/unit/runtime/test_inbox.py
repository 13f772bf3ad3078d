"""The inbox: what threads post is run on the event loop, all of it, in order."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aioflow.runtime._inbox import Inbox

pytestmark = pytest.mark.anyio


async def test_posts_of_threads_run_in_order() -> None:
    """Each thread's in the order in which it made them."""
    inbox, got, ended = Inbox(), list[tuple[int, int]](), anyio.Event()

    def note(thread: int, number: int) -> None:
        got.append((thread, number))
        if len(got) == 400:
            ended.set()

    def post(thread: int) -> None:
        for number in range(100):
            inbox.post(note, thread, number)

    threads = [threading.Thread(target=post, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    with anyio.fail_after(10):
        await ended.wait()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [post for thread, post in got if thread == number] == list(range(100))


async def test_a_post_while_the_loop_empties_it_is_not_forgotten() -> None:
    """The loop has run all that was there just before another post is added: somebody wakes it for that one."""
    inbox, wakes, ran = Inbox(), list[Any](), list[str]()
    inbox._wake = wakes.append

    class Posts(deque[Any]):
        """The loop runs just before an append."""

        def append(self, item: Any) -> None:
            wakes[-1]()
            super().append(item)

    inbox.post(ran.append, "first")
    inbox._posts = Posts(inbox._posts)
    inbox.post(ran.append, "second")
    assert (len(wakes), ran) == (2, ["first"])
    wakes[-1]()
    assert ran == ["first", "second"]


async def test_after_the_close_nothing_wakes_the_loop() -> None:
    """A thread that ends late may still post."""
    inbox = Inbox()
    inbox.close()
    inbox.post(pytest.fail, "it was run")
    await anyio.lowlevel.checkpoint()
