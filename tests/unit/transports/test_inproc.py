"""The transport within a process: what it adds to the conformance suite."""

from __future__ import annotations

import threading

import anyio
import pytest

from aioflow.errors import ConnectFailed, LocalProtocolError
from aioflow.testing._transport_ends import BOUND_S, Inbox, Stage
from aioflow.transport import Frame
from aioflow_inproc import InprocTransport

pytestmark = pytest.mark.anyio


async def test_frames_are_handed_over_by_reference_and_writable_ones_copied() -> None:
    """What the sender can still change does not change at the receiver."""
    arrived: list[Frame] = []
    constant, buffer = bytes(100_000), bytearray(b"before")

    def keep(_: Inbox, frames: list[Frame]) -> None:
        arrived.extend(frames)

    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(InprocTransport(), tasks)
            await stage.listen("inproc://reference")
            near, far = await stage.join()
            far.on_message = keep
            near.send([constant, memoryview(constant), memoryview(buffer)])
            buffer[:] = b"after!"
            await far.wait_messages(2)
            await stage.aclose()
    assert arrived[0] is constant
    assert isinstance(arrived[1], memoryview)
    assert arrived[1].obj is constant
    assert arrived[2] == b"before"


async def test_a_listener_of_another_event_loop_is_refused() -> None:
    """The message says that it is another loop's, and what to use instead."""
    ready, done = threading.Event(), threading.Event()

    async def listen() -> None:
        async with anyio.create_task_group() as tasks:
            listener = await InprocTransport().listen("inproc://elsewhere", lambda _: Inbox(), tasks)
            ready.set()
            done.wait(BOUND_S)
            await listener.aclose()

    thread = threading.Thread(target=anyio.run, args=[listen])
    thread.start()
    try:
        assert ready.wait(BOUND_S)
        async with anyio.create_task_group() as tasks:
            with pytest.raises(ConnectFailed, match=r"another event loop.*use ipc"):
                await InprocTransport().connect("inproc://elsewhere", Inbox(), tasks)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("address", ["inproc://", "ipc:///tmp/x", "name"])
async def test_a_malformed_address_is_refused(address: str) -> None:
    """Both calls say what they expect."""
    async with anyio.create_task_group() as tasks:
        with pytest.raises(ConnectFailed, match="inproc://name"):
            await InprocTransport().connect(address, Inbox(), tasks)
        with pytest.raises(ConnectFailed, match="inproc://name"):
            await InprocTransport().listen(address, lambda _: Inbox(), tasks)


async def test_a_message_has_a_frame() -> None:
    """An empty message is refused before it is sent."""
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(InprocTransport(), tasks)
            await stage.listen("inproc://empty")
            near, _ = await stage.join()
            with pytest.raises(LocalProtocolError):
                near.send([])
            await stage.aclose()


async def test_the_name_is_free_after_a_cancelled_task_group() -> None:
    """A listener whose tasks were cancelled listens no more; the other side is told of the loss."""
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as outer:
            near = Inbox()
            async with anyio.create_task_group() as tasks:
                stage = Stage(InprocTransport(), tasks)
                await stage.listen("inproc://cancelled")
                near.connection = await stage.transport.connect(stage.address, near, outer)
                tasks.cancel_scope.cancel()
            await near.wait_lost()
            again = await InprocTransport().listen("inproc://cancelled", lambda _: Inbox(), outer)
            await again.aclose()
