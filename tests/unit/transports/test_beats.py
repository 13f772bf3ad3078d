"""Beats: they go on while the event loop is blocked, find a server again, and end with their process."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import anyio
import pytest
import zmq

from aioflow.errors import ConnectFailed
from aioflow.testing._transport_ends import BOUND_S, echo
from aioflow.transport import find_transport
from aioflow_zmq import ZmqTransport
from aioflow_zmq._limits import CLOSE_S
from tests.unit.transports.conftest import all_schemes, files
from tests.unit.transports.test_processes import peer_process, read_line

if TYPE_CHECKING:
    from aioflow.transport import Frame
    from tests.unit.transports.conftest import MakeAddress, OpenStage

pytestmark = pytest.mark.anyio


def _make(number: int) -> list[Frame]:
    return [b"%d" % number]


def _read(frames: list[Frame]) -> int:
    return int(bytes(frames[0]))


@all_schemes
async def test_beats_go_on_while_the_event_loop_is_blocked(
    scheme: str, free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """The thread needs nothing of the loop."""
    made: list[int] = []

    def make(number: int) -> list[Frame]:
        made.append(number)
        return _make(number)

    async with open_stage(free_address(scheme)) as stage:
        beats = await stage.transport.beat(stage.address, make, _read, 0.01)
        assert beats is not None
        inbox = await stage.accepted()
        before = len(made)
        end = time.monotonic() + BOUND_S
        while len(made) < before + 5:  # blocks
            assert time.monotonic() < end
        await inbox.wait_messages(5)
        await beats.aclose()


async def test_the_first_beat_goes_at_once(
    free_address: MakeAddress, open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through shared memory before the thread does anything: a process that ends in this moment is noticed, too."""
    held: list[threading.Thread] = []
    async with open_stage(free_address("shm")) as stage:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda thread: held.append(thread))  # noqa: PLW0108 - to be bound
            beats = await stage.transport.beat(stage.address, _make, _read, 1)
        assert beats is not None
        inbox = await stage.accepted()
        await inbox.wait_messages(1)
        (thread,) = held
        thread.start()
        await beats.aclose()


@files
async def test_beats_find_the_next_server(scheme: str, free_address: MakeAddress, open_stage: OpenStage) -> None:
    """A listener that closes is not held up by them, and its successor hears them soon."""
    async with open_stage(free_address(scheme)) as stage:
        beats = await stage.transport.beat(stage.address, _make, _read, 0.01)
        assert beats is not None
        first = await stage.accepted()
        await first.wait_messages(2)
        with anyio.fail_after(0.9 * CLOSE_S):
            await stage.listener.aclose()
        first.deaf = True
        await stage.listen(stage.address)
        with anyio.fail_after(3):
            second = await stage.accepted()
            await second.wait_messages(1)
        await beats.aclose()


@files
async def test_beats_may_start_before_the_server(scheme: str, free_address: MakeAddress, open_stage: OpenStage) -> None:
    """None waits in a queue meanwhile: the first to arrive is a fresh one."""
    address = free_address(scheme)
    made: list[int] = []
    seen = anyio.Event()

    def make(number: int) -> list[Frame]:
        made.append(number)
        return _make(number)

    beats = await find_transport(address).beat(address, make, _read, 0.001)
    assert beats is not None
    while len(made) < 20:
        await anyio.lowlevel.checkpoint()
    async with open_stage(address) as stage:
        stage.on_message = lambda _inbox, _frames: seen.set()
        inbox = await stage.accepted()
        await seen.wait()
        assert int(inbox.messages[0][0]) >= 20
        await beats.aclose()


async def test_a_server_that_is_none_changes_nothing(free_address: MakeAddress) -> None:
    """Words, nonsense and long answers are no answers; the beats go on."""
    with anyio.fail_after(BOUND_S), zmq.Context() as context, context.socket(zmq.ROUTER) as raw:
        raw.linger = 0
        address = free_address("ipc")
        raw.bind(address)
        beats = await ZmqTransport().beat(address, _make, _read, 0.01)
        started_at = beats.answered_at
        identities = set[bytes]()
        for answer in ([b""], [b"", b"?"], [b"", b"M"], [b"x"] * 3000, [b"no number"], [b"999999"], [bytes(1 << 20)]):
            assert raw.poll(int(BOUND_S) * 1000)  # blocks
            identities.add(identity := raw.recv_multipart()[0])
            raw.send_multipart([identity, *answer])
        while raw.recv_multipart()[0] in identities:  # libzmq breaks off at the long frame, and another begins
            assert raw.poll(int(BOUND_S) * 1000)
        assert beats.answered_at == started_at
        await beats.aclose()


async def test_an_address_that_can_never_work_is_refused() -> None:
    """At once, as by `connect`."""
    with pytest.raises(ConnectFailed, match="loopback"):
        await ZmqTransport().beat("tcp://192.0.2.1:1", _make, _read, 1)


@all_schemes
async def test_a_killed_process_is_noticed_by_its_beats(
    scheme: str, free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """At once, although its event loop is blocked and a child that was forked from it lives on."""
    async with open_stage(free_address(scheme)) as stage, peer_process("beat", stage.address) as parent:
        stage.on_message = echo
        inbox = await stage.accepted()
        child = int(await read_line(parent))
        try:
            parent.kill()
            with anyio.fail_after(1):
                await inbox.wait_lost()
        finally:
            os.kill(child, signal.SIGKILL)
