"""What the tests of the protocol share: a broker with its peers' messages, encoded and decoded on the way."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aioflow.cluster import _messages as m
from aioflow.cluster._broker import Broker, TaskInfo
from aioflow.cluster._codec import decode, decode_columns, describe_columns, encode, encode_columns, pack_definition
from aioflow.queues import QueueDefinition
from aioflow.resources import Resources
from aioflow.specs import ElementSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._messages import Message
    from aioflow.queues import Kind
    from aioflow.transport import Frame

LOST_S, SESSION_S = 3.0, 60.0


class Desk:
    """A broker, and what each of its peers was sent and has not looked at."""

    def __init__(self) -> None:
        self.now = 0.0
        self.resources = Resources(np.random.default_rng, session_s=SESSION_S, bytes_required=True)
        self.broker = Broker(self.resources, TaskInfo("epoch", "local", 0, (("local", 0, "x://y"),)), LOST_S, SESSION_S)
        self.sent: defaultdict[int, list[tuple[Message, Sequence[Frame]]]] = defaultdict(list)

    def hello(self, *peers: int) -> None:
        """Welcome peers of this host under session names of their own: where one is lost, its process has ended."""
        for peer in peers:
            self.connect(peer, f"secret {peer}", is_local=True)

    def connect(self, peer: int, session: str, *, epoch: str = "", beats: bool = False, is_local: bool = False) -> None:
        """Welcome a peer that says the secret of a session."""
        self.broker.accept(peer, is_local=is_local)
        self.only(self.send(peer, m.Hello(m.PROTOCOL_VERSION, session, epoch, beats)), m.Welcome)

    def reconnect(self, peer: int, session: str) -> None:
        """Welcome a peer through which a session that this server knows goes on."""
        self.connect(peer, session, epoch="epoch", beats=True)

    def beat(self, peer: int, session: str, number: int = 1) -> bool:
        """Beat through a connection; say whether it was heard."""
        return self.send(peer, m.Beat(session, number)) == [m.Heard(number)]

    def define(self, *peers: int, name: str = "q", queue: int = 1, private: bool = False, **settings: Any) -> None:
        """Have peers give a queue a number."""
        for peer in peers:
            assert not self.send(peer, m.Define(queue, "", name, private, pack_definition(define(**settings))))

    def send(self, peer: int, message: Message, frames: Sequence[Frame] = ()) -> list[Message]:
        """Send a message of a client; return what this peer has been sent since it was last looked at."""
        decoded, rest = decode(encode(message, frames))
        assert decoded == message
        self.broker.receive(peer, decoded, rest, self.now)
        return self.take(peer)

    def put(self, peer: int, request: int, *values: int, queue: int = 1) -> list[Message]:
        """Put int64 scalars."""
        columns = (np.array(values, np.int64),)
        message = m.Put(request, queue, describe_columns(columns, ["int64"]))
        return self.send(peer, message, encode_columns(columns))

    @staticmethod
    def only(messages: list[Message], kind: type[Any]) -> Any:
        """Return the one message that came, which is of this kind."""
        [message] = messages
        assert isinstance(message, kind)
        return message

    @classmethod
    def refused(cls, messages: list[Message], reason: str) -> None:
        """Assert that the session was ended, saying why."""
        assert reason in cls.only(messages, m.Goodbye).reason

    @classmethod
    def failed(cls, messages: list[Message], kind: str, text: str) -> None:
        """Assert that a request failed, saying why."""
        error = cls.only(messages, m.Error)
        assert (error.kind, text in error.text) == (kind, True), error

    def take(self, peer: int) -> list[Message]:
        """Return the messages of a peer that it has not looked at."""
        self._collect()
        return [message for message, _ in self.sent.pop(peer, [])]

    def take_values(self, peer: int) -> list[list[Any]]:
        """Return the first columns of the rows that a peer was sent, which are all that it was sent."""
        self._collect()
        batches: list[list[Any]] = []
        for message, frames in self.sent.pop(peer, []):
            assert isinstance(message, m.Rows)
            column = decode_columns(message.columns, frames)[0]
            assert isinstance(column, np.ndarray)
            batches.append(column.tolist())
        return batches

    def get(self, peer: int, request: int, count: int = 1, queue: int = 1) -> list[list[Any]]:
        """Get and return the rows that come at once."""
        self.broker.receive(peer, m.Get(request, queue, count, up_to=False), [], self.now)
        return self.take_values(peer)

    def size(self, peer: int, queue: int = 1) -> int:
        """Ask for the number of elements."""
        [done] = self.send(peer, m.Size(10_000, queue))
        assert isinstance(done, m.Done)
        return done.value

    def expire(self, now: float) -> None:
        """Let time pass."""
        self.now = now
        self.broker.expire(now)

    def _collect(self) -> None:
        for peer, frames in self.broker.take_messages():
            self.sent[peer].append(decode(frames))


def define(
    kind: Kind = "FIFOQueue", components: Sequence[tuple[str, Any]] = (("int64", ()),), **settings: Any
) -> QueueDefinition:
    """Make a definition: of scalars, if nothing else is said."""
    specs = tuple(TensorSpec(dtype, shape) for dtype, shape in components)
    if kind == "PriorityQueue":
        specs = (TensorSpec("int64", ()), *specs)
    names = settings.pop("names", None)
    return QueueDefinition(kind, ElementSpec(specs, names), settings.pop("capacity", 10), **settings)


@pytest.fixture
def desk() -> Desk:
    """A broker without peers."""
    return Desk()


@pytest.fixture(name="define")
def _define() -> Any:
    """Make a definition."""
    return define


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio"), pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Each kind of event loop."""
    return request.param
