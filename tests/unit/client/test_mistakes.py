"""What users do by mistake, and what they are told."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest

import aioflow as flow
from aioflow.cli import main

pytestmark = pytest.mark.anyio


def ints(**options: Any) -> flow.FIFOQueue:
    """A queue of integers."""
    return flow.FIFOQueue(8, ["int64"], [[]], **options)


async def test_a_writer_outside_of_its_block() -> None:
    """api.md: a writer is used with `async with`; before and after it a write is refused, not lost."""
    queue = ints()
    async with flow.Session():
        writer = queue.writer(batch=4)
        with pytest.raises(flow.SessionError, match="async with"):
            await writer.write(1)
        async with writer:
            await writer.write(2)
        with pytest.raises(flow.SessionError, match="async with"):
            await writer.write(3)
        assert await queue.size() == 1


async def test_a_writer_notes_what_was_refused() -> None:
    """api.md: an exit by an exception notes how many elements did not go, refused ones among them."""
    queue = ints()
    with pytest.raises(KeyError) as caught:
        async with flow.Session(), queue.writer(batch=100, delay_s=10) as writer:
            for i in range(7):
                await writer.write(i)
            await queue.close()
            raise KeyError
    assert any("7 elements" in note and "closed" in note for note in caught.value.__notes__)


async def test_the_end_says_who_was_lost() -> None:
    """semantics 0.4: a short epoch is never silent: name and reason in the text, the traceback as a note."""
    queue = ints()

    async def fail() -> None:
        async with queue.producer("loader-3"):
            raise ValueError("truncated file")

    async with flow.Session():
        with pytest.raises(ValueError, match="truncated"):
            await fail()
        with pytest.raises(flow.EndOfQueue, match=r"loader-3 \(ValueError: truncated file\)") as caught:
            await queue.dequeue()
    assert "in fail" in caught.value.__notes__[0]


async def test_sessions_closed_in_any_order() -> None:
    """api.md: leaving resets the current session only if it is still current; a closed one never becomes it."""
    one, two = flow.Session(), flow.Session()
    await one.open()
    await two.open()
    await one.close()
    await two.close()
    with pytest.raises(flow.NoSession):
        await ints().size()


@pytest.mark.parametrize("rejoin_s", [-1, math.nan, math.inf, "x"])
async def test_a_rejoin_s_that_is_none(rejoin_s: Any) -> None:
    """api.md: rejoin_s is in seconds."""
    with pytest.raises(flow.SpecMismatch, match="rejoin_s"):
        ints().producer(rejoin_s=rejoin_s)


async def test_a_producers_name_that_is_none() -> None:
    """api.md: a producer's name is a string."""
    with pytest.raises(flow.SpecMismatch, match="name"):
        ints().producer(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": "x"}, {"batch": 2.5}, {"batch_bytes": 0}, {"delay_s": 0}])
async def test_a_writer_of_nothing(options: dict[str, Any]) -> None:
    """api.md: a writer groups by count, bytes and delay, all above 0."""
    with pytest.raises(flow.SpecMismatch, match="writer"):
        ints().writer(**options)


@pytest.mark.parametrize("number", ["capacity", "capacity_bytes", "producers"])
async def test_a_number_that_no_message_carries(number: str) -> None:
    """semantics 1.7: what no server can be told is refused when the definition is made, embedded too."""
    with pytest.raises(flow.SpecMismatch, match=number):
        options: dict[str, Any] = {"capacity": 8, "dtypes": ["int64"], number: 2**63}
        flow.FIFOQueue(**options)


async def test_a_device_that_is_no_string() -> None:
    """semantics 0.1: what is no device name is a PlacementError."""
    with pytest.raises(flow.PlacementError, match="no device name"):
        ints(device=3)


async def test_a_shape_of_too_many_dimensions() -> None:
    """semantics 1.7: NumPy has 64 dimensions, of which the rows are one; more are refused at once."""
    with pytest.raises(flow.SpecMismatch, match="rank 64"):
        flow.FIFOQueue(8, ["int64"], [[1] * 64])
    queue = flow.FIFOQueue(8, ["int64"])
    async with flow.Session():
        with pytest.raises(flow.SpecMismatch, match="rank 64"):
            await queue.enqueue(np.zeros([1] * 64, np.int64))
        await queue.enqueue(np.zeros([1] * 63, np.int64))
        assert (await queue.dequeue()).ndim == 63


async def test_memory_that_the_caller_can_still_write_to() -> None:
    """api.md: the caller may reuse its buffer after `enqueue` returns, also one behind a read-only view."""
    queue = flow.FIFOQueue(8, ["int64"], [[4]])
    async with flow.Server({"local": ["inproc://memory"]}) as server:
        for target in (None, server):
            owner = np.zeros(4, np.int64)
            view = owner.view()
            view.flags.writeable = False
            buffer = bytearray(32)
            async with flow.Session(target):
                await queue.enqueue(view)
                await queue.enqueue(np.frombuffer(memoryview(buffer).toreadonly(), np.int64))
                owner[:] = -1
                buffer[:] = b"\xff" * 32
                assert (await queue.dequeue_many(2)).tolist() == [[0] * 4] * 2


async def test_a_target_that_is_none() -> None:
    """api.md: a session's target is an address or a Server object."""
    with pytest.raises(flow.SessionError, match="address"):
        flow.Session(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(flow.SessionError, match="SessionConfig"):
        flow.Session(config={"connect_s": 1})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_a_server_that_nobody_reaches(capsys: pytest.CaptureFixture[str]) -> None:
    """`aioflow serve` at an address of its own process is refused, with what to do instead."""
    assert main(["serve", "--bind", "inproc://x"]) == 1
    assert "ipc:///path" in capsys.readouterr().err


async def test_a_server_closed_in_a_forked_child() -> None:
    """api.md: after a fork use is refused in the child; closing the parent's server there does nothing, and ends."""
    queue = ints(shared_name="forked")
    async with flow.Server({"local": ["inproc://forked"]}) as server, flow.Session(server):
        child = os.fork()
        if child == 0:
            try:
                server.close().send(None)
            except StopIteration:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        await queue.enqueue(1)
        assert await queue.dequeue() == 1
