"""What the tests of the client share: two kinds of event loops, and a host that waits for the test to answer."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioflow as flow
from aioflow.devices import CpuDevice, OpenDevices, use_devices
from aioflow.queues import Segment
from aioflow.resources import Assignment, QueueKey, QueueRef, VariableRef
from aioflow.runtime import Host, SessionDevices, Waiter, Withdrawn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from aioflow.runtime import Request
    from aioflow.specs import Column, Dense
    from aioflow.transport import WritablePieces


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio"), pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Each kind of event loop: a task is cancelled once on asyncio, and again and again on trio."""
    return request.param


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="af") as name:
        yield name


@pytest.fixture
def fake_queue() -> FakeQueue:
    """A queue on a fake host."""
    return FakeQueue()


@pytest.fixture
def gpu() -> Generator[CpuDevice]:
    """A device that stands in for a GPU, used by the sessions of the test."""
    with CpuDevice("/gpu:0") as gpu, use_devices(gpu):
        yield gpu


class FakeCall:
    """A call; its waiter is set by the test."""

    def __init__(self, host: FakeHost, what: str, on_recall: Callable[[Request], None] | None = None) -> None:
        self.waiter: Waiter[Any] = Waiter()
        self.what = what
        self.rows: list[int] = []
        self.rows_left = 0
        self.on_recall = on_recall
        self._host = host

    def answer(self, *rows: int) -> None:
        """Succeed, with rows where it is a get."""
        self.rows = list(rows)
        self.rows_left = len(rows)
        self.waiter.resolve(None)

    def lose(self) -> None:
        """Lose the rows, and ask again, as a host does when it has reconnected."""
        self.rows_left = 0
        self.waiter = Waiter()

    def recall(self) -> None:
        """Want back what the request holds."""
        assert self.on_recall is not None
        self.on_recall(self)

    def columns(self) -> tuple[Dense, ...]:
        """Return the rows."""
        return (np.array(self.rows, np.int64),)

    def acknowledge(self) -> None:
        """Note it."""
        self._host.log.append(f"acknowledge {self.what}")

    def peek(self, count: int) -> tuple[Dense, ...]:
        """Show rows."""
        assert 0 < count <= self.rows_left
        start = len(self.rows) - self.rows_left
        return (np.array(self.rows[start : start + count], np.int64),)

    def take(self, count: int) -> tuple[Dense, ...]:
        """Note it, and hand over rows."""
        column: Any = self.peek(count)[0]
        self.rows_left -= count
        self._host.log.append(f"take {column.tolist()} of {self.what}")
        return (column,)

    def take_as(self, count: int, read: Callable[[tuple[Column, ...]], list[Any]]) -> Any:
        """Note it, and hand over rows as one value."""
        [value] = read(self.take(count))
        return value

    def take_quickly(self, turn: float, count: int, read: Any) -> None:
        """Have a full look taken."""

    def withdraw(self) -> None:
        """Note it, and end what waits."""
        self.rows_left = 0
        self._host.log.append(f"withdraw {self.what}")
        if self._host.answers_withdrawals:
            self.waiter.fail(Withdrawn(0))

    def promote(self) -> None:
        """Note it."""
        self._host.log.append(f"promote {self.what}")


class FakeHost:
    """Notes what is asked of it."""

    lost_s = 3.0
    is_local = False

    def __init__(self) -> None:
        self.log: list[str] = []
        self.calls: list[FakeCall] = []
        self.answers_withdrawals = True
        self.error: Exception | None = None
        self._asks = 0
        self.asked = (0, 0)
        self.seen: set[QueueKey] = set()

    def allocate_pieces(self, size: int, count: int) -> WritablePieces | None:
        return None

    def allocate(self, nbytes: int) -> memoryview | None:
        return None

    def put(self, ref: QueueRef, segment: Segment) -> FakeCall:
        """Start a put."""
        column: Any = segment.columns[0]  # of numbers
        return self._call(f"put {column.tolist()}")

    def get(self, ref: QueueRef, count: int, *, up_to: bool) -> FakeCall:
        """Start a get."""
        return self._call(f"get {count}")

    def ask(self, ref: QueueRef, count: int, runs: int, on_recall: Callable[[Request], None]) -> FakeCall:
        """Start a request ahead."""
        self._asks += 1
        self.asked = (count, runs)
        return self._call(f"ask {self._asks}", on_recall)

    def close_queue(self, ref: QueueRef, *, cancel_pending: bool) -> FakeCall:
        """Start a close."""
        return self._call("close")

    def size(self, ref: QueueRef) -> FakeCall:
        """Start a question."""
        return self._call("size")

    is_closed = stats = delete = size

    def read(self, ref: VariableRef) -> FakeCall:
        """Start a question."""
        return self._call("read")

    def assign(self, ref: VariableRef, how: Assignment, value: Any, *, fetch: bool) -> FakeCall:
        """Start an assignment."""
        return self._call(f"assign {how}")

    def reset(self, containers: Sequence[str]) -> FakeCall:
        """Start a reset."""
        return self._call("reset")

    def lookup(self, key: QueueKey) -> FakeCall:
        """Start a question."""
        return self._call("lookup")

    def join(self, ref: QueueRef, name: str, rejoin_s: float) -> FakeCall:
        """Start a registration."""
        return self._call(f"join {name}")

    def leave(self, ref: QueueRef, name: str, lost: flow.LostProducer | None) -> FakeCall:
        """Start a leaving."""
        return self._call(f"leave {name} {lost.reason if lost else 'well'}")

    def _call(self, what: str, on_recall: Callable[[Request], None] | None = None) -> FakeCall:
        if self.error is not None:
            raise self.error
        self.log.append(what)
        call = FakeCall(self, what, on_recall)
        self.calls.append(call)
        return call


class FakeQueue(flow.FIFOQueue):
    """A queue of int64 scalars on a fake host; needs no session."""

    def __init__(self) -> None:
        super().__init__(1000, "int64", (), shared_name="fake")
        self.host = FakeHost()
        self.opened = OpenDevices((), ())
        self.devices: SessionDevices | None = None

    async def _begin(self) -> tuple[Host, QueueRef]:
        return self.host, QueueRef(QueueKey("", self.name), self.definition)

    def _bound_session(self) -> Any:
        return self

    async def open_devices(self) -> SessionDevices:
        self.devices = self.devices or SessionDevices(self.opened)
        return self.devices

    def flush_at_close(self, flush: Callable[[], Any]) -> Callable[[], None]:
        """Keep the flush, as a session does."""
        self.flush = flush
        return lambda: None
