"""The sessions of a server, in plain code: which connections each has, and when it is lost or over.

1. A session outlives its connections. A new connection of a session replaces its old one.
2. Disconnected: gets are withdrawn, puts stand, and what was delivered stays in doubt until the session resumes.
3. Lost: it beats and was not heard for `lost_s`. It is disconnected, and its producers count as lost until it resumes.
4. Over: it was lost for `session_s`; or it is on the same host and the last of its connections (that of the beats is
   one, and was heard) has ended, which proves that its process has.
5. A judge who comes late was asleep itself: nobody could be heard meanwhile, and everybody gets a new `lost_s`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioflow.cluster._receipts import ReceiptsPage
    from aioflow.cluster._steps import RegisteredGraph
    from aioflow.cluster._window import Window
    from aioflow.errors import AioflowError
    from aioflow.queues import Ticket
    from aioflow.resources import QueueRef, QueueResource
    from aioflow.transport import Frame

__all__ = ["AllocateFor", "Call", "MakePage", "PeerId", "Session", "Sessions", "no_memory_for", "no_page"]

PeerId = int
# Makes the page of a session for its receipts, if it can have one.
MakePage = Callable[[str], "ReceiptsPage | None"]

# Returns memory of so many bytes from which a peer is sent rows without a copy, if there is any.
AllocateFor = Callable[[PeerId | None, int], memoryview | None]

# How late an expiry may come on a busy machine; later than that and than a tenth of `lost_s`, the server itself stood.
LATE_S = 0.25


def no_page(_: str) -> None:
    """Give a session no page: it acknowledges by messages alone."""


def no_memory_for(_: PeerId | None, __: int) -> None:
    """Have rows gathered in memory from nowhere in particular."""


@dataclass(slots=True, eq=False)
class Call:
    """A request that a queue works on, or whose rows were delivered.

    Attributes:
        queue: The queue.
        ticket: Its ticket there.
        is_put: Whether it is a put, a close or a registration: its answer is kept until it is confirmed.
        nbytes: Of a put, its payload.
        rows: Of a get that was delivered, how many.
    """

    queue: QueueResource
    ticket: Ticket
    is_put: bool
    nbytes: int | None = None
    rows: int = 0


@dataclass(slots=True, eq=False)
class Session:
    """What a server knows of a session.

    Attributes:
        name: Its secret.
        peer: Its connection; None while it is disconnected.
        beat_peers: The connections through which it beats.
        beats: Whether it does.
        has_beaten: Whether a beat was heard.
        is_local: Whether its connections prove by their end that its process has ended.
        is_lost: Whether it was not heard for `lost_s`.
        heard_at: When it was heard last.
        refs: The queues that it has numbered.
        waiting: Requests that wait, by id.
        delivered: Gets that were delivered and neither acknowledged nor withdrawn, by id.
        answers: Answers to requests that changed something, until they are confirmed.
        unclaimed: Those of `answers` from before the present connection that were not asked for again.
        windows: Puts under way, by queue.
        steps: Requests of graphs that run, by id.
        graphs: The graphs that it has numbered; of one that could not be read, why.
        owners: On whose behalf its graphs ran, until these are said to be over.
        is_target: Whether it was opened on this server, which is the master of its steps.
        page: Where it notes receipts, which rows it has handed over; None if it has no page.
    """

    name: str
    beats: bool
    is_local: bool
    heard_at: float
    peer: PeerId | None = None
    is_lost: bool = False
    has_beaten: bool = False
    beat_peers: set[PeerId] = field(default_factory=set)
    refs: dict[int, QueueRef] = field(default_factory=dict)
    waiting: dict[int, Call] = field(default_factory=dict)
    delivered: dict[int, Call] = field(default_factory=dict)
    answers: dict[int, list[Frame]] = field(default_factory=dict)
    unclaimed: set[int] = field(default_factory=set)
    windows: dict[QueueResource, Window] = field(default_factory=dict)
    steps: set[int] = field(default_factory=set)
    graphs: dict[int, RegisteredGraph | AioflowError] = field(default_factory=dict)
    owners: set[str] = field(default_factory=set)
    is_target: bool = False
    page: ReceiptsPage | None = None

    @property
    def page_path(self) -> str:
        """Where its page is; empty if it has none."""
        return self.page.path if self.page is not None else ""

    @property
    def requests(self) -> int:
        """How many of its requests are under way, or not confirmed."""
        return len(self.waiting) + len(self.delivered) + len(self.answers) + len(self.steps)

    def take_waiting(self, request: int) -> Call | None:
        """Take out a request that waits."""
        call = self.waiting.pop(request, None)
        if call is not None and call.nbytes is not None:
            window = self.windows[call.queue]
            window.remove(call.nbytes)
            if not window.puts:
                del self.windows[call.queue]
        return call

    def confirm(self, requests: Iterable[int]) -> None:
        """Forget answers that have come; whatever was not asked for again before this has come too."""
        for request in (*requests, *self.unclaimed):
            self.answers.pop(request, None)
        self.unclaimed.clear()


class Sessions:
    """The sessions of a server by secret and by connection."""

    def __init__(self, lost_s: float, session_s: float, make_page: MakePage = no_page) -> None:
        self._lost_s = lost_s
        self._make_page = make_page
        self._session_s = session_s
        self._by_name: dict[str, Session] = {}
        self._by_peer: dict[PeerId, Session] = {}
        self._by_beat_peer: dict[PeerId, Session] = {}
        self._early: dict[PeerId, str] = {}  # connections whose beats came before the session's hello

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_name.values()))

    def find(self, peer: PeerId) -> Session | None:
        """Return the session of a connection; not of one that only beats."""
        return self._by_peer.get(peer)

    def connect(self, name: str, peer: PeerId, now: float, *, beats: bool, is_local: bool) -> Session:
        """Find or make the session of a new connection; the caller has disconnected an old one."""
        session = self._by_name.get(name)
        if session is None:
            session = self._by_name[name] = Session(name, beats, is_local, now)
            session.page = self._make_page(name)
            for early in [early for early, secret in self._early.items() if secret == name]:
                self._beaten(session, early)
        session.peer, session.heard_at, session.is_lost = peer, now, False
        self._by_peer[peer] = session
        return session

    def get(self, name: str) -> Session | None:
        """Return the session of a secret."""
        return self._by_name.get(name)

    def beat(self, name: str, peer: PeerId, now: float) -> bool:
        """Note a beat; say whether it is one of a session that is not lost."""
        session = self._by_name.get(name)
        if session is None:
            self._early[peer] = name
            return False
        self._beaten(session, peer)
        if not session.is_lost:
            session.heard_at = now
        return not session.is_lost

    def _beaten(self, session: Session, peer: PeerId) -> None:
        if self._by_beat_peer.get(peer) is not session:
            self.silence(peer)
            session.has_beaten = True
            session.beat_peers.add(peer)
            self._by_beat_peer[peer] = session

    def disconnect(self, session: Session, now: float) -> PeerId | None:
        """Take a session's connection from it, if it has one."""
        peer, session.peer = session.peer, None
        if peer is not None:
            del self._by_peer[peer]
        if not session.beats and not session.is_lost:
            session.is_lost, session.heard_at = True, now
        return peer

    def silence(self, peer: PeerId) -> Session | None:
        """Learn that a connection has ended through which a session may have beaten; return that session."""
        self._early.pop(peer, None)
        session = self._by_beat_peer.pop(peer, None)
        if session is not None:
            session.beat_peers.discard(peer)
        return session

    def has_ended(self, session: Session) -> bool:
        """Whether the ends of its connections prove that a session's process has ended."""
        is_heard = session.has_beaten or not session.beats
        return session.is_local and session.peer is None and is_heard and not session.beat_peers

    def forget(self, session: Session) -> None:
        """Take out a session that is over."""
        if session.peer is not None:
            del self._by_peer[session.peer]
            session.peer = None
        for peer in session.beat_peers:
            del self._by_beat_peer[peer]
        del self._by_name[session.name]
        if session.page is not None:
            session.page.close()

    # Time

    def judge(self, now: float) -> tuple[list[Session], list[Session]]:
        """Return who has become lost, and who is over."""
        lost = [session for session in self if session.beats and not session.is_lost and self._due(session) <= now]
        late = max((now - self._due(session) for session in lost), default=0.0)
        if late > max(LATE_S, self._lost_s / 10):
            for session in self:
                if not session.is_lost:
                    session.heard_at = now
            lost = []
        for session in lost:
            session.is_lost = True
        return lost, [session for session in self if session.is_lost and self._due(session) <= now]

    def next_deadline(self) -> float | None:
        """When `judge` has something to do next."""
        return min(
            (self._due(session) for session in self._by_name.values() if session.beats or session.is_lost), default=None
        )

    def _due(self, session: Session) -> float:
        return session.heard_at + (self._session_s if session.is_lost else self._lost_s)
