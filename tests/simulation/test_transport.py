"""The simulated transport keeps the promises of `aioflow.transport`, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import count

import anyio
import pytest

from aioflow.errors import AddressInUse, ConnectFailed, LocalProtocolError
from aioflow.testing import TRANSPORT_CHECKS, simulate
from aioflow.testing._simulated_transport import SimulatedTransport
from aioflow.testing._transport_ends import Inbox
from aioflow.testing._transport_suite import Check
from aioflow.transport import Frame, find_transport

_numbers = count()

# They compare with the real clock; the tests below are about beats in virtual time.
REAL_TIME = {"beats_are_answered_until_they_are_closed"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "check", [check for check in TRANSPORT_CHECKS if check.__name__ not in REAL_TIME], ids=lambda check: check.__name__
)
def test_transport(check: Check, seed: int) -> None:
    """One check of the conformance suite holds."""

    async def main() -> None:
        await check(lambda: find_transport("sim://a"), lambda: f"sim://suite-{next(_numbers)}")

    simulate(main, seed=seed)


def test_addresses_and_messages_that_cannot_work_are_refused() -> None:
    """Each with its own words; and there is no such transport outside of a simulation."""

    async def main() -> None:
        transport = find_transport("sim://a")
        async with asyncio.timeout(10):
            for address in ("sim://", "inproc://a"):
                with pytest.raises(ConnectFailed, match="expected sim://name"):
                    await transport.beat(address, lambda _: [b""], lambda _: 0, 1.0)

    simulate(main, seed=0)
    with pytest.raises(ConnectFailed, match="no transport for 'sim://a'"):
        find_transport("sim://a")


class Stage:
    """A listener that echoes, and a beat every second."""

    def __init__(self) -> None:
        self.inboxes: list[Inbox] = []

    def accept(self, connection: object) -> Inbox:
        inbox = Inbox(lambda inbox, frames: inbox.send(frames))
        inbox.connection = connection  # type: ignore[assignment]
        self.inboxes.append(inbox)
        return inbox


def _make(number: int) -> list[Frame]:
    return [b"%d" % number]


def _read(frames: list[Frame]) -> int:
    return int(bytes(frames[0]))


def test_beats_go_by_the_virtual_clock() -> None:
    """Answered while the link holds, silent in a partition, and connected anew after a loss."""

    async def main() -> None:
        stage, transport = Stage(), find_transport("sim://s")
        assert isinstance(transport, SimulatedTransport)
        network, time = transport._network, asyncio.get_running_loop().time
        async with anyio.create_task_group() as tasks:
            beats = await transport.beat("sim://s", _make, _read, 1.0)
            started = beats.answered_at
            await asyncio.sleep(5)
            assert beats.answered_at == started  # refused till now
            listener = await transport.listen("sim://s", stage.accept, tasks)
            with pytest.raises(AddressInUse):
                await transport.listen("sim://s", stage.accept, tasks)
            await asyncio.sleep(5.5)
            assert time() - beats.answered_at < 2
            network.partition("main", "s")
            await asyncio.sleep(20)
            assert time() - beats.answered_at > 18
            network.heal("main", "s")
            await asyncio.sleep(2)
            assert time() - beats.answered_at < 2
            stage.inboxes[0].connection.abort()
            await asyncio.sleep(5)
            assert time() - beats.answered_at < 2
            assert len(stage.inboxes) == 2
            with pytest.raises(LocalProtocolError):
                stage.inboxes[1].connection.send([])
            await beats.aclose()
            await beats.aclose()
            await stage.inboxes[1].wait_lost()
            await listener.aclose()

    simulate(main, seed=0)
