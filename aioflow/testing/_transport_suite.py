"""The conformance suite of transports: what `aioflow.transport` promises, checked against an implementation.

Each check opens its own listener and bounds every wait; nothing sleeps. A check that fails raises an AssertionError
or a TimeoutError with the name of the check in a note.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from aioflow.errors import AddressInUse, ConnectionLost
from aioflow.testing._transport_ends import BOUND_S, Inbox, Stage, echo, flatten

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioflow.transport import Frame, Transport

__all__ = ["TRANSPORT_CHECKS", "MakeAddress", "MakeTransport", "check_transport"]

MakeTransport = Callable[[], "Transport"]
MakeAddress = Callable[[], str]
Check = Callable[[MakeTransport, MakeAddress], Awaitable[None]]

# More messages than any queue on the way holds, so that the outboxes are used.
BURST_MESSAGES = 10_000
# From nothing to several MB, and both sides of each border at which an implementation may change its way.
FRAME_SIZES = (0, 1, 7, 255, 256, 8191, 8192, 8193, 65535, 65536, 65537, 3_000_001)


async def check_transport(make_transport: MakeTransport, address_factory: MakeAddress) -> None:
    """Check a transport against all that `aioflow.transport` promises.

    Args:
        make_transport: Returns the transport; give it small queues, so that they fill up.
        address_factory: Returns an address that nobody uses, a new one at each call.
    """
    for check in TRANSPORT_CHECKS:
        try:
            await check(make_transport, address_factory)
        except (AssertionError, TimeoutError, BaseExceptionGroup) as error:
            error.add_note(f"in {check.__name__}")
            raise


@asynccontextmanager
async def _stage(make_transport: MakeTransport, make_address: MakeAddress) -> AsyncGenerator[Stage]:
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            stage = Stage(make_transport(), tasks)
            await stage.listen(make_address())
            yield stage
            await stage.aclose()


async def frames_arrive_whole_and_in_order(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Messages of one to many frames of all sizes, of bytes and of views, arrive as sent, both ways."""
    chance = random.Random(7)  # noqa: S311 - sizes to test with, no secret
    blobs = {size: chance.randbytes(size) for size in FRAME_SIZES}
    messages: list[list[Frame]] = [[blobs[size]] for size in FRAME_SIZES]
    messages.extend([[b"", b""], [b"", b"M"], [b"", b"B"], [b"", b"A"], [b"", b"", b""], [b"head", b""]])
    messages.append([b"head", *(memoryview(blobs[size]) for size in FRAME_SIZES)])
    messages.extend([memoryview(bytearray(blobs[size])), b"tail"] for size in FRAME_SIZES)
    messages.append([memoryview(bytearray(24)).cast("B", (2, 3, 4)), memoryview(blobs[8192]).cast("q")])
    messages.append([bytes([i % 256]) * (i % 5) for i in range(1000)])
    async with _stage(make_transport, make_address) as stage:
        near, far = await stage.join()
        for message in messages:
            near.connection.send(message)
        await far.wait_messages(len(messages) + 1)
        for message in messages:
            far.connection.send(message)
        await near.wait_messages(len(messages))
        expected = [flatten(message) for message in messages]
        assert far.messages[1:] == expected
        assert near.messages == expected


async def many_peers_are_kept_apart(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Many connections at once: each gets its own answers, in order; a greeting sent while accepting comes first."""
    async with _stage(make_transport, make_address) as stage:
        stage.on_accept = lambda connection: connection.send([b"welcome"])
        stage.on_message = echo
        inboxes = [Inbox() for _ in range(32)]

        async def talk(number: int, inbox: Inbox) -> None:
            inbox.connection = await stage.transport.connect(stage.address, inbox, stage.tasks)
            for i in range(50):
                inbox.connection.send([b"%d:%d" % (number, i), b"x" * (i * 100)])
            await inbox.wait_messages(51)

        async with anyio.create_task_group() as talks:
            for number, inbox in enumerate(inboxes):
                talks.start_soon(talk, number, inbox)
        for number, inbox in enumerate(inboxes):
            answers = [(b"%d:%d" % (number, i), b"x" * (i * 100)) for i in range(50)]
            assert inbox.messages == [(b"welcome",), *answers]
            await inbox.connection.aclose()


async def a_burst_both_ways_is_complete(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Both sides send thousands of messages without a pause: nothing waits, nothing is missing."""
    async with _stage(make_transport, make_address) as stage:
        near, far = await stage.join()
        for i in range(BURST_MESSAGES):
            near.connection.send([b"%d" % i])
            far.connection.send([b"%d" % i, b"more"])
        await far.wait_messages(BURST_MESSAGES + 1)
        await near.wait_messages(BURST_MESSAGES)
        assert far.messages[1:] == [(b"%d" % i,) for i in range(BURST_MESSAGES)]
        assert near.messages == [(b"%d" % i, b"more") for i in range(BURST_MESSAGES)]


async def a_busy_peer_does_not_block_another(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """A message for one peer arrives while another still has most of its own before it."""
    blob, total = bytes(100_000), 1000
    async with _stage(make_transport, make_address) as stage:
        busy, to_busy = await stage.join()
        quiet, to_quiet = await stage.join()
        for _ in range(total):
            to_busy.connection.send([blob])
        to_quiet.connection.send([b"now"])
        await quiet.wait_messages(1)
        assert len(busy.messages) < total
        await busy.wait_messages(total)


async def a_close_is_told_once_to_the_other_side(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Whichever side closes, the other learns of it once, the closing side not at all; a later send is dropped."""
    async with _stage(make_transport, make_address) as stage:
        near, far = await stage.join()
        await near.connection.aclose()
        await far.wait_lost()
        far.connection.send([b"to nobody"])

        near_2, far_2 = await stage.join()
        await far_2.connection.aclose()
        await near_2.wait_lost()
        near_2.connection.send([b"to nobody"])

        near_3, far_3 = await stage.join()
        await stage.listener.aclose()
        await near_3.wait_lost()

        for inbox in (near, far, near_2, far_2, near_3, far_3):
            await inbox.connection.aclose()
            await inbox.connection.aclose()
        assert [len(inbox.losses) for inbox in (near, far, near_2, far_2, near_3, far_3)] == [0, 1, 1, 0, 1, 0]
        assert all(isinstance(inbox.losses[0], ConnectionLost) for inbox in (far, near_2, near_3))


async def a_close_gives_what_was_sent(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """What was sent before `aclose` arrives before the loss is told, in both directions."""
    blob = bytes(5_000_000)
    expected = [(b"%d" % i,) for i in range(2000)] + [(blob,), (b"last",)]
    async with _stage(make_transport, make_address) as stage:
        for client_closes in (True, False):
            near, far = await stage.join()
            sender, taker = (near, far) if client_closes else (far, near)
            before = len(taker.messages)
            for message in expected:
                sender.connection.send(message)
            await sender.connection.aclose()
            await taker.wait_lost()
            assert taker.messages[before:] == expected


async def nothing_arrives_after_a_close(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Once `aclose` was called, its receiver hears nothing, while the other side still sends."""
    async with _stage(make_transport, make_address) as stage:
        for client_closes in (True, False):
            near, far = await stage.join()
            closer, talker = (near, far) if client_closes else (far, near)
            for i in range(3000):
                talker.connection.send([b"%d" % i])
            await closer.wait_messages(2)
            closer.deaf = True  # a message from now on is an error
            await closer.connection.aclose()
            await talker.wait_lost()
            closer.connection.send([b"to nobody"])
            await checkpoint()
            assert not closer.losses


async def an_abort_is_told_to_the_other_side_only(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Whichever side aborts hears nothing more and waits for nothing; the other learns of the loss, once."""
    async with _stage(make_transport, make_address) as stage:
        for client_aborts in (True, False):
            near, far = await stage.join()
            aborter, talker = (near, far) if client_aborts else (far, near)
            for i in range(3000):
                talker.connection.send([b"%d" % i])
                aborter.connection.send([b"%d" % i])
            aborter.deaf = True  # a message from now on is an error
            aborter.connection.abort()
            aborter.connection.abort()
            aborter.connection.send([b"to nobody"])
            await talker.wait_lost()
            await aborter.connection.aclose()
            assert [len(aborter.losses), len(talker.losses)] == [0, 1]
            assert isinstance(talker.losses[0], ConnectionLost)


async def an_abort_within_a_message_is_the_last_of_it(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """A receiver may abort from within `received`: the messages behind are not handed over."""

    def abort(inbox: Inbox, _: list[Frame]) -> None:
        inbox.deaf = True
        inbox.connection.abort()

    async with _stage(make_transport, make_address) as stage:
        for client_aborts in (True, False):
            near, far = await stage.join()
            aborter, talker = (near, far) if client_aborts else (far, near)
            aborter.on_message = abort
            for i in range(100):
                talker.connection.send([b"%d" % i])
            await talker.wait_lost()
            assert len(aborter.messages) == (1 if client_aborts else 2)
            assert not aborter.losses


async def both_ends_know_whether_they_are_local(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """`is_local` says the same on both sides."""
    async with _stage(make_transport, make_address) as stage:
        near, far = await stage.join()
        assert near.connection.is_local == far.connection.is_local


async def beats_are_answered_until_they_are_closed(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Beats count from 1, arrive as messages of a connection, and know when one was answered; a close ends them."""
    made: list[int] = []  # of which those are dropped that come before the connection is there
    refused: list[int] = []
    answered: list[int] = []

    def make(number: int) -> list[Frame]:
        made.append(number)
        return [b"%d" % number, b"answered" if answered else b""]

    def read(frames: list[Frame]) -> int:
        if not refused:
            refused.append(int(bytes(frames[0])))
            raise ValueError("an exception counts as 0")
        answered.append(int(bytes(frames[0])))
        return answered[-1]

    async with _stage(make_transport, make_address) as stage:
        stage.on_message = echo
        started = time.monotonic()
        beats = await stage.transport.beat(stage.address, make, read, 0.01)
        if beats is None:
            return
        inbox = await stage.accepted()
        await inbox.wait_for(lambda: bool(inbox.messages) and inbox.messages[-1][1] == b"answered")
        assert made[0] == 1
        assert inbox.messages[0][1] == b""
        assert started < beats.answered_at <= time.monotonic()
        await beats.aclose()
        await beats.aclose()
        await inbox.wait_lost()
        assert answered[0] > refused[0]


async def allocated_memory_is_sent_as_it_was_written(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Memory of a connection is the sender's until it is let go of, also while the other side has what was sent."""
    async with _stage(make_transport, make_address) as stage:
        near, far = await stage.join()
        sent: list[tuple[bytes, ...]] = [(b"hello",)]
        for size in (1, 5_000, 2_000_000, 2_000_000, 2_000_000):
            memory = far.connection.allocate(size) or memoryview(bytearray(size))
            assert memory.nbytes == size
            value = b"%d" % (len(sent) % 10)
            memory[:] = size * value
            frames = memory[: size // 2], memory[size // 2 :], memory
            far.connection.send([frame.toreadonly() for frame in frames if frame])
            sent.append(tuple(len(frame) * value for frame in frames if frame))
            await near.wait_messages(len(sent) - 1)
            assert bytes(memory) == size * value
            pieces = far.connection.allocate_pieces(5_000, 1 + size // 5_000)
            if pieces is not None:
                for number in range(pieces.count):
                    pieces.piece(number)[:] = (number + len(sent)) % 256
                sent.append((b"pieces", bytes(pieces), bytes(pieces.part(0, 1))))
                far.connection.send([b"pieces", pieces, pieces.part(0, 1)])
                await near.wait_messages(len(sent) - 1)
        assert near.messages == sent[1:]


async def delivery_is_not_reentrant(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """`received` never runs inside a `send` or inside another `received`; answers sent from within it arrive."""
    async with _stage(make_transport, make_address) as stage:
        near, far = await stage.join()
        rounds = 300

        def again(inbox: Inbox, frames: list[Frame]) -> None:
            if len(inbox.messages) < rounds:
                for _ in range(3):
                    inbox.send(frames)

        near.on_message = far.on_message = again
        near.send([b"ball"])
        await near.wait_messages(rounds)
        await far.wait_messages(rounds)


async def random_cancels_lose_nothing(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """Tasks that wait for answers are cancelled at random moments: every message and every answer still arrives."""
    chance = random.Random(11)  # noqa: S311 - moments to cancel at, no secret
    rounds, at_once = 60, 16
    async with _stage(make_transport, make_address) as stage:
        stage.on_message = echo
        near, far = await stage.join()
        sent = [(b"hello",)]

        async def ask(text: bytes) -> None:
            near.connection.send([text])
            sent.append((text,))
            await near.wait_for(lambda: (text,) in near.messages[-4 * at_once :])

        for round_number in range(rounds):
            async with anyio.create_task_group() as asking:
                for i in range(at_once):
                    asking.start_soon(ask, b"%d.%d" % (round_number, i))
                with anyio.move_on_after(chance.uniform(0, 0.002)):
                    await near.wait_messages(len(sent) + at_once)
                asking.cancel_scope.cancel()
        await near.wait_messages(len(sent))
        assert far.messages == sent
        assert near.messages == sent


async def an_address_belongs_to_one_listener(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """A second `listen` raises AddressInUse, the first is undisturbed; once closed, the address is free again."""
    async with _stage(make_transport, make_address) as stage:
        stage.on_message = echo
        address = stage.address
        try:
            await stage.transport.listen(address, stage.accept, stage.tasks)
        except AddressInUse:
            pass
        else:
            raise AssertionError(f"a second listener was let in at {address}")
        near, _ = await stage.join()
        near.connection.send([b"still there?"])
        await near.wait_messages(2)
        await stage.listener.aclose()
        await stage.listen(address)
        near, _ = await stage.join()
        await near.wait_messages(1)


async def connect_waits_for_a_listener(make_transport: MakeTransport, make_address: MakeAddress) -> None:
    """`connect` may come before `listen`; a cancelled one leaves nothing behind."""
    async with _stage(make_transport, make_address) as stage:
        address = stage.address
        await stage.listener.aclose()  # now the address is valid and nobody listens
        with anyio.move_on_after(0.05) as cancelled:
            await stage.transport.connect(address, Inbox(), stage.tasks)
        assert cancelled.cancelled_caught
        inbox = Inbox()

        async def connect() -> None:
            inbox.connection = await stage.transport.connect(address, inbox, stage.tasks)
            inbox.connection.send([b"hello"])

        stage.on_message = echo
        async with anyio.create_task_group() as connecting:
            connecting.start_soon(connect)
            await anyio.wait_all_tasks_blocked()
            await stage.listen(address)
        await inbox.wait_messages(1)


TRANSPORT_CHECKS: tuple[Check, ...] = (
    frames_arrive_whole_and_in_order,
    many_peers_are_kept_apart,
    a_burst_both_ways_is_complete,
    a_busy_peer_does_not_block_another,
    a_close_is_told_once_to_the_other_side,
    a_close_gives_what_was_sent,
    nothing_arrives_after_a_close,
    an_abort_is_told_to_the_other_side_only,
    an_abort_within_a_message_is_the_last_of_it,
    both_ends_know_whether_they_are_local,
    beats_are_answered_until_they_are_closed,
    allocated_memory_is_sent_as_it_was_written,
    delivery_is_not_reentrant,
    random_cancels_lose_nothing,
    an_address_belongs_to_one_listener,
    connect_waits_for_a_listener,
)
