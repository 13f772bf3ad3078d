"""Connections: limits, foreign peers, cancels, and what is left in the process."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
import zmq

from aioflow.errors import ConnectionLost, LocalProtocolError
from aioflow.testing._transport_ends import BOUND_S, Inbox, Stage, echo
from aioflow_zmq import ZmqTransport
from aioflow_zmq._frames import is_gone, take
from aioflow_zmq._limits import FRAMES_MAX
from aioflow_zmq._parcels import measure, pack, unpack
from aioflow_zmq._server import Server
from aioflow_zmq._socket import Event, pending

if TYPE_CHECKING:
    from aioflow.transport import Frame
    from tests.unit.transports.conftest import MakeAddress, OpenStage

pytestmark = pytest.mark.anyio

both_schemes = pytest.mark.parametrize("scheme", ["ipc", "tcp"])


class _Huge(bytes):
    """Bytes that claim a size beyond the limit."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1 << 40


async def test_a_message_beyond_a_limit_is_refused_before_it_is_sent(
    free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """The sender learns of it at once, and the connection stays."""
    async with open_stage(free_address("ipc")) as stage:
        near, far = await stage.join()
        for inbox in (near, far):
            for frames in ([], [b""] * (FRAMES_MAX + 1), [_Huge(b"x")]):
                with pytest.raises(LocalProtocolError):
                    inbox.send(frames)
        near.send([b"x"] * FRAMES_MAX)
        far.send([b""] * FRAMES_MAX)
        await far.wait_messages(2)
        await near.wait_messages(1)
        assert [len(near.messages[0]), len(far.messages[1])] == [FRAMES_MAX, FRAMES_MAX]


@both_schemes
@pytest.mark.parametrize(
    "message",
    [
        [b"x"] * (FRAMES_MAX + 1),
        [b"", *[b"x" * 8] * (FRAMES_MAX + 2)],
        [b"x"] * 50_000,
        [b""],
        [b"", b""],
        [b"", b"?"],
        [b"", b"\xff" * 8],
        [b"", b"\x02\0\0\0\x01\0\0\0\x05\0\0\0four"],
    ],
    ids=["1025", "1026-parcel", "50000", "empty", "no-word", "unknown-word", "table-bomb", "short-parcel"],
)
async def test_a_peer_that_breaks_the_rules_is_cut_off(
    scheme: str, message: list[bytes], free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """Its message is dropped, its connection ended from this side, and the others stay."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw, context.socket(zmq.PAIR) as events:
        raw.linger = 0
        raw.monitor("inproc://events", zmq.EVENT_DISCONNECTED)
        events.connect("inproc://events")
        async with open_stage(free_address(scheme)) as stage:
            raw.connect(stage.address)
            raw.send(b"hello")
            inbox = await stage.accepted()
            await inbox.wait_messages(1)
            raw.send_multipart(message)
            await inbox.wait_lost()
            await _wait_readable(events)
            assert inbox.messages == [(b"hello",)]
            assert [type(error) for error in inbox.losses] == [ConnectionLost]
            await stage.join()


async def test_what_arrives_together_is_answered_together(free_address: MakeAddress, open_stage: OpenStage) -> None:
    """Messages of one parcel are handed over one by one, and their answers travel as one."""
    messages: list[list[Frame]] = [[b"%d" % i, bytes(i)] for i in range(50)]
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        async with open_stage(free_address("ipc")) as stage:
            stage.on_message = echo
            raw.connect(stage.address)
            raw.send_multipart(pack([(message, measure(message, "the server")) for message in messages]))
            inbox = await stage.accepted()
            await inbox.wait_messages(50)
            assert raw.poll(int(BOUND_S) * 1000)  # blocks
            assert unpack(raw.recv_multipart(copy=False)) == messages
            raw.close()
            await inbox.wait_lost()


async def test_answers_do_not_wait_for_large_messages(free_address: MakeAddress, open_stage: OpenStage) -> None:
    """What was sent before a large message is handled, or because of one, is not held back to the end of the turn."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        answered: list[bool] = []

        def answer(inbox: Inbox, frames: list[Frame]) -> None:
            if frames[0] == b"start":
                for kind in (b"large", b"small", b"after"):
                    raw.send(kind + bytes(100_000 if kind == b"large" else 0))
                raw.poll(20)  # blocks, so that one turn finds them all; were it too short, the test could not fail
            if bytes(frames[0][:5]) in {b"small", b"after"}:
                answered.append(bool(raw.poll(2000)))  # blocks
                raw.recv()
                inbox.send([b"x" * 100_000])
            if bytes(frames[0][:5]) == b"large":
                inbox.send([b"done"])

        async with open_stage(free_address("ipc")) as stage:
            stage.on_message = answer
            raw.connect(stage.address)
            raw.send(b"start")
            inbox = await stage.accepted()
            await inbox.wait_messages(4)
            assert answered == [True, True]
            raw.close()
            await inbox.wait_lost()


async def test_an_abort_within_a_parcel_ends_it(free_address: MakeAddress, open_stage: OpenStage) -> None:
    """The messages behind are not handed over."""

    def abort(inbox: Inbox, _: list[Frame]) -> None:
        inbox.deaf = True
        inbox.connection.abort()

    message: list[Frame] = [b"frame"]
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw, context.socket(zmq.PAIR) as events:
        raw.linger = 0
        raw.monitor("inproc://events", zmq.EVENT_DISCONNECTED)
        events.connect("inproc://events")
        async with open_stage(free_address("ipc")) as stage:
            stage.on_message = abort
            raw.connect(stage.address)
            raw.send_multipart(pack([(message, [5])] * 10))
            inbox = await stage.accepted()
            await _wait_readable(events)
            assert inbox.messages == [(b"frame",)]
            assert not inbox.losses


async def test_many_connections_come_and_go_on_the_same_descriptors(
    free_address: MakeAddress, open_stage: OpenStage
) -> None:
    """A descriptor that is used again does not carry its last user's loss to the next, and hides none."""
    async with open_stage(free_address("ipc")) as stage:
        for _ in range(30):
            near, far = await stage.join()
            silent = await stage.transport.connect(stage.address, Inbox(), stage.tasks)
            await silent.aclose()
            near_2, far_2 = await stage.join()
            await near.connection.aclose()
            await far.wait_lost()
            far_2.send([b"still there"])
            await near_2.wait_messages(1)
            assert not far_2.losses
            await near_2.connection.aclose()
            await far_2.wait_lost()


async def test_what_is_handed_over_after_the_end_was_told_is_not_lost(
    free_address: MakeAddress, open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libzmq may tell of the end before the last messages: they come before the loss, and make no connection anew."""
    accepted: list[object] = []
    async with open_stage(free_address("ipc")) as stage:
        stage.on_accept = accepted.append
        near, far = await stage.join()
        server = next(o for o in gc.get_objects() if isinstance(o, Server) and o.address == stage.address)
        with monkeypatch.context() as patch:
            patch.setattr("aioflow_zmq._server.is_gone", lambda *_: False)
            for fd in tuple(server._by_fd):
                server._note(Event(zmq.EVENT_DISCONNECTED, fd))
            server._pump.wake()
            for i in range(3):
                near.send([b"%d" % i])
                await far.wait_messages(i + 2)
            assert not far.losses
        near.connection.abort()
        await far.wait_lost()
        assert len(accepted) == 1


async def test_a_peer_is_gone_when_its_last_message_can_be_read() -> None:
    """Not while it is connected; and what it has sent by then is read after its end."""
    context = zmq.Context()
    with anyio.fail_after(BOUND_S), context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        with context.socket(zmq.DEALER) as dealer:
            dealer.connect(f"tcp://127.0.0.1:{port}")
            dealer.send_multipart([b"", b"first"])
            dealer.send_multipart([b"", b"last"])
            await _wait_readable(router)
            identity = router.recv_multipart()[0]
            assert not is_gone(router, identity)
        while not is_gone(router, identity):
            await anyio.sleep(0)
        assert router.recv_multipart(zmq.DONTWAIT)[2] == b"last"


async def _wait_readable(socket: zmq.Socket[bytes]) -> None:
    while not pending(socket) & zmq.POLLIN:
        await anyio.wait_readable(socket.fileno())


async def test_frames_outlive_their_message() -> None:
    """A large frame is handed over in place and read-only, a small one as a copy."""
    view = take(zmq.Frame(bytes(range(256)) * 64))
    gc.collect()
    assert isinstance(view, memoryview)
    assert view.readonly
    assert bytes(view) == bytes(range(256)) * 64
    assert isinstance(take(zmq.Frame(bytes(8191))), bytes)


async def test_a_cancelled_task_group_closes_everything(free_address: MakeAddress) -> None:
    """Without a call of `aclose`, the files go with the tasks, and a later `aclose` returns at once."""
    address = free_address("ipc")
    made: list[Inbox] = []
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(ZmqTransport(), tasks)
            await stage.listen(address)
            made.extend(await stage.join())
            tasks.cancel_scope.cancel()
        assert not list(Path(address.removeprefix("ipc://")).parent.iterdir())
        for inbox in made:
            inbox.send([b"to nobody"])
            await inbox.connection.aclose()
    assert [len(inbox.losses) for inbox in made] == [0, 0]


async def test_a_cancelled_close_still_closes(free_address: MakeAddress) -> None:
    """The bound of a close may be cut short; the sockets are closed all the same."""
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(ZmqTransport(), tasks)
            await stage.listen(free_address("ipc"))
            near, _ = await stage.join()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await near.connection.aclose()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stage.listener.aclose()
        # the task group has ended: no task of either is left


@both_schemes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_nothing_is_left_in_the_process(scheme: str, free_address: MakeAddress, open_stage: OpenStage) -> None:
    """After the last close there is no thread and no descriptor more than before."""

    def held() -> tuple[int, int]:
        gc.collect()
        fds, tasks = Path("/proc/self/fd"), Path("/proc/self/task")
        return len(list(fds.iterdir())), len(list(tasks.iterdir()))

    before = None
    for _ in range(4):
        async with open_stage(free_address(scheme)) as stage:
            near, far = await stage.join()
            near.send([bytes(10_000_000)])  # large enough that pyzmq starts a thread for it
            far.send([bytes(10_000_000)])
            await near.wait_messages(1)
            await far.wait_messages(2)
            await near.connection.aclose()
        before = before or held()  # after the first round, in which the event loop makes what it keeps
        fds, tasks = held()
        assert fds <= before[0]
        assert tasks <= before[1]  # fewer where another test's thread was still ending
    assert not [thread.name for thread in threading.enumerate() if "pyzmq" in thread.name or "aioflow" in thread.name]
