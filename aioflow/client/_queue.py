"""Queue definitions and their operations; the rules are TensorFlow 1.x's, and docs/queues.md has the table."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from aioflow.client._batches import Batches
from aioflow.client._private_names import private_name
from aioflow.client._producer import Producer
from aioflow.client._queue_nodes import QueueNodes
from aioflow.client._session import current_session
from aioflow.client._values import check_batch, check_count, to_user
from aioflow.client._writer import Writer
from aioflow.cluster import pack_definition, read_definition
from aioflow.errors import SpecMismatch
from aioflow.graph import Colocation, current_container, current_device
from aioflow.names import DeviceName, check_shared_name
from aioflow.queues import QueueDefinition, QueueStats, Segment
from aioflow.resources import QueueKey, QueueRef
from aioflow.runtime import begin_call, complete, complete_get, complete_put
from aioflow.specs import to_columns

if TYPE_CHECKING:
    from aioflow.client._session import Session
    from aioflow.runtime import CurrentSession, Host

__all__ = ["Queue"]


class Queue:
    """A queue: a definition, and the operations of the queue that it finds or makes in a session.

    Making one does no I/O and needs no session. Without `shared_name` the queue is private to its session and goes with
    it. Every operation is cancel-safe; none takes a timeout: use `anyio.fail_after` or `asyncio.timeout`.

    Errors of every operation: `NoSession` where no session is current; `SessionClosed` when the session is left while
    it waits; `SpecMismatch` when the queue exists and the definition disagrees; `PlacementError` for a task that the
    session does not reach; `QueueReset` once when the server was started anew; `ConnectionLost` when it was out of
    reach for `session_s`, and `SessionClosed` when it has ended the session, having heard nothing for as long.
    """

    def __init__(
        self,
        definition: QueueDefinition | None,
        shared_name: str | None,
        device: str | None,
        container: str | None = None,
    ) -> None:
        if shared_name:
            check_shared_name(shared_name)
        self._definition = definition
        self._shared = bool(shared_name)
        self._name = shared_name or private_name(type(self).__name__)
        self._container = current_container() if container is None else container
        self._device = DeviceName() if device is None else DeviceName.parse(device)
        self._device = current_device(self, self._set_device)
        self._session: Session | None = None
        self._ref: QueueRef | None = None  # once its definition is known

    @property
    def name(self) -> str:
        """The shared name; for a private queue, a name that only messages show: it says where it was defined."""
        return self._name

    @property
    def type(self) -> str:
        """The name of its class, such as `FIFOQueue`; what a device function sees."""
        return type(self).__name__

    @property
    def device(self) -> str:
        """The device that was given, and that the scopes around its definition gave."""
        return str(self._device)

    @property
    def definition(self) -> QueueDefinition:
        """What the queue is.

        Raises:
            SpecMismatch: The queue comes from `lookup` and no operation has found it yet.
        """
        if self._definition is None:
            raise SpecMismatch(f"queue {self._name!r} was not looked up yet; await it, or use it, first")
        return self._definition

    def on(self, session: Session) -> Self:
        """Return this queue bound to a session, for use where that session is not current."""
        bound = self._clone()
        bound._session = session  # noqa: SLF001 - its own class
        return bound

    def within(self, session: Session) -> Self:
        """Return this queue bound to a session, unless it is bound to one already."""
        return self if self._session is not None else self.on(session)

    def epoch(self, k: int) -> Self:
        """Return the queue of epoch `k`: the same definition under the name `NAME#k`.

        Loaders of epoch k+1 may fill theirs while trainers drain k; each closes by its own producers.
        """
        other = self._clone()
        other._name = f"{self._name}#{operator.index(k)}"  # noqa: SLF001 - its own class
        other._ref = None  # noqa: SLF001
        return other

    @staticmethod
    def from_list(index: int, queues: list[Queue]) -> Queue:
        """Choose one of several queues that carry the same components; kinds may be mixed.

        Raises:
            SpecMismatch: `queues` is no list of queues or is empty, dtypes or names differ, or the index is out of
                range.
        """
        if not isinstance(queues, list) or not queues or not all(isinstance(queue, Queue) for queue in queues):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise SpecMismatch(f"from_list needs a list of queues with at least one, got {queues!r}")
        elements = [queue.definition.element for queue in queues]
        kinds = {(element.names, tuple(part.dtype for part in element.components)) for element in elements}
        if len(kinds) > 1:
            raise SpecMismatch(f"from_list needs queues of the same dtypes and names, got {queues!r}")
        if not 0 <= operator.index(index) < len(queues):
            raise SpecMismatch(f"index {index} is out of range: there are {len(queues)} queues")
        return queues[index]

    @property
    def nodes(self) -> QueueNodes:
        """The same operations as nodes of a graph."""
        return QueueNodes(self)

    # Puts

    async def enqueue(self, element: Any) -> None:
        """Put one element: a tensor, a tuple in the order of dtypes, or a dict when names were given.

        Waits while the queue is full, in elements or in bytes, or an earlier put waits. When it returns the element is
        accepted, and the caller may reuse its memory. A cancelled call was not accepted (the cancellation goes on) or
        had been (it returns normally; on asyncio the task's next call raises the cancellation).

        Raises:
            SpecMismatch: The value does not fit; nothing was queued.
            QueueClosed: The queue is closed.
            OperationCancelled: It was closed with `cancel_pending_enqueues=True` while this call waited.
            QueueError: The element can never get room: only bytes are short, and a reserve blocks every get.
        """
        host, ref = await self._begin()
        await complete_put(host.put(ref, self._convert(element, many=False)))

    async def enqueue_many(self, columns: Any) -> None:
        """Put k elements: each component with a leading dimension k.

        Not atomic: rows go in as there is room, together (no other element lands between them), and those that are in
        stay in when the call fails or is cancelled; a note on the exception gives their number. No rows succeed at
        once, also on a closed queue. Waits and raises as `enqueue`.
        """
        host, ref = await self._begin()
        await complete_put(host.put(ref, self._convert(columns, many=True)))

    async def close(self, cancel_pending_enqueues: bool = False) -> None:  # noqa: FBT001, FBT002 - TensorFlow's
        """Accept nothing more; what is in can still be dequeued.

        A plain close waits for its turn behind waiting puts, which still succeed; a cancelled one leaves the queue
        open.

        Args:
            cancel_pending_enqueues: Close at once instead, failing every waiting put and plain close.

        Raises:
            QueueClosed: The queue is closed already (plain close only).
            OperationCancelled: Another task closed it with `cancel_pending_enqueues=True` while this one waited.
        """
        host, ref = await self._begin()
        await complete_put(host.close_queue(ref, cancel_pending=bool(cancel_pending_enqueues)))

    # Gets

    async def dequeue(self) -> Any:
        """Take one element: the value itself, a tuple of several components, or a dict when the queue has names.

        Numbers are NumPy scalars or arrays (arrays may be read-only), strings `str` or `bytes` or object arrays of
        them. Waits while the queue is empty (RandomShuffleQueue: down to its reserve) and open, or an earlier get
        waits. A cancelled call took nothing.

        Raises:
            EndOfQueue: The queue is closed and drained.
        """
        host, ref = await self._begin()
        columns = await complete_get(host.get(ref, 1, up_to=False))
        host.seen.add(ref.key)
        return to_user(columns, ref.definition.element, single=True)

    async def dequeue_many(self, n: SupportsIndex) -> Any:
        """Take n elements as a batch: each component with a leading dimension n (PaddingFIFOQueue: padded at the ends).

        Waits until n are there, taking them as they come (a PriorityQueue takes all at once); a cancelled call gives
        back what it had taken. n = 0 returns an empty batch, also on a closed queue.

        Raises:
            SpecMismatch: n is negative or no integer, the shapes are not specified, or a PriorityQueue cannot hold n.
            EndOfQueue: The queue is closed with fewer left; what this call had taken is back in the queue.
        """
        return await self._take(n, up_to=False)

    async def dequeue_up_to(self, n: SupportsIndex) -> Any:
        """Take n elements as `dequeue_many` does; on a closed queue what is left, from 1 to n.

        While the queue is open it waits for all n. Raises as `dequeue_many`, `EndOfQueue` only when nothing is left.
        """
        return await self._take(n, up_to=True)

    def batches(
        self,
        n: SupportsIndex,
        *,
        drop_remainder: bool = False,
        prefetch: SupportsIndex = 2,
        copy: bool = False,
        device: str | None = None,
    ) -> Batches:
        """Iterate over batches: `dequeue_up_to(n)` again and again.

        The iterator ends when the queue is closed, drained, and nothing is unacknowledged. What it holds ahead counts
        as in the queue and is given back when it is left, however that happens: `break`, an error, a cancel.

        Args:
            n: Elements in a batch.
            drop_remainder: Whether to drop a last batch that is shorter.
            prefetch: How many batches to keep ahead of need, where they have 1 MB or more; smaller ones are added up to
                that, 128 at most, and at most a quarter of the capacity. They come in as many messages; from a server
                on this host in two, of 32 MiB at most. 0 for none. Not used where the queue is in this process.
            copy: Whether each batch is private, writable memory instead of a possibly read-only view.
            device: Where batches go, such as `/gpu:0`: as arrays of that device that are ready (CuPy's on CUDA),
                strings on the host. Where requests are ahead and rows have come, the next batch is copied while the
                consumer works on the last one: up to three are on the device then. It stays the queue's until its step.

        Raises:
            SpecMismatch: n or prefetch is out of range, or (in the first step) the shapes are not specified.
            PlacementError: `device` is no device name, or (in the first step) this process has no such device.
            DeviceUnavailable: In the first step: the GPU cannot be used; says why.
            DeviceOutOfMemory: In a step: the batch does not fit the device's limit, and is back in the queue.
            EndOfQueue: While iterating, at the end, when a producer was lost or failed; see its `lost_producers`.
        """
        return Batches(self, n, drop_remainder=drop_remainder, prefetch=prefetch, copy=copy, device=device)

    def __aiter__(self) -> Batches:
        """Iterate over single elements, as `dequeue` gives them; ends as `batches` does."""
        return Batches(self, 1, single=True)

    # Looking

    async def size(self) -> int:
        """Return the number of elements now: not those of waiting puts, nor what a waiting dequeue_many has taken."""
        host, ref = await self._begin()
        size: int = await complete(host.size(ref))
        return size

    async def is_closed(self) -> bool:
        """Return whether a close has had its turn."""
        host, ref = await self._begin()
        return bool(await complete(host.is_closed(ref)))

    async def stats(self) -> QueueStats:
        """Return a frozen snapshot: sizes, bytes, who waits, counts so far, producers."""
        host, ref = await self._begin()
        stats: QueueStats = await complete(host.stats(ref))
        return stats

    async def delete(self) -> None:
        """Remove the queue: waiting operations fail with `NotFound`, elements are dropped; the next makes a new one."""
        host, ref = await self._begin()
        await complete(host.delete(ref))
        host.seen.discard(ref.key)

    # Producers

    def writer(self, batch: int = 64, *, batch_bytes: int | None = None, delay_s: float = 0.002) -> Writer:
        """Group elements into `enqueue_many`; use as `async with q.writer() as w: await w.write(element)`.

        `w.write_many(columns)` takes several, as `enqueue_many` does, and does not wait until they are accepted.

        A write is buffered, not accepted; errors of a flush surface at the next write or at the exit, and the exit
        flushes. A cancelled or failed exit flushes within 1 s and notes on the exception how many elements did not go.

        Args:
            batch: Elements to group; 8 times as many, or a quarter of the capacity, while another group is under way.
            batch_bytes: Bytes after which a group is sent although it has fewer elements. None: 1 MiB, or a 24th of
                `capacity_bytes` where `batch` has more: whole batches as consumers take them, if these fit.
            delay_s: Seconds until what was written is sent at the latest; thrice that for a third of a larger batch.

        Raises:
            SpecMismatch: An argument is not above 0.
        """
        return Writer(self, batch, batch_bytes, delay_s)

    def producer(self, name: str | None = None, rejoin_s: float = 0) -> Producer:
        """Register a producer: `async with q.producer(): ...`. The queue closes when the last one has left.

        With `producers=n` in the definition, n distinct names must have come before. Leaving by an exception, and being
        lost, count as left after `rejoin_s` without the same name coming back, and are reported to consumers.

        Args:
            name: Distinct among the queue's producers; by default made of host, process and a number.
            rejoin_s: Seconds for which a name that was lost may come back.

        Raises:
            SpecMismatch: On entering, the name is in use and its holder did not go within `lost_s` + 1 s.
            QueueReset: On entering, the server was started anew since the last call on this queue; enter another one.
        """
        return Producer(self, name, rejoin_s)

    # For the other files of this package

    async def _begin(self) -> tuple[Host, QueueRef]:
        """Start a call: the host of the session, and what the queue is found by there."""
        await begin_call()
        ref = self._ref
        host = await self._bound_session().host.reach(self._device, self._key if ref is None else ref.key)
        if ref is None:
            definition = self._definition = self._definition or await complete(host.lookup(self._key))
            ref = self._ref = QueueRef(self._key, definition)
        return host, ref

    @property
    def _key(self) -> QueueKey:
        return QueueKey(self._container, self._name, "" if self._shared else "private")

    def _set_device(self, name: DeviceName) -> None:
        self._device = name

    def _colocation(self) -> Colocation | None:
        """What nodes that use the queue have in common; none where it is bound to a session of its own."""
        if self._session is not None:
            return None
        return Colocation(self._key, self._device)

    def _bound_session(self) -> CurrentSession:
        return self._session or current_session()

    def _convert(self, value: Any, *, many: bool) -> Segment:
        if isinstance(value, Segment):  # converted already, in the thread of a blocking call
            return value
        definition = self.definition
        try:
            columns = to_columns(value, definition.element, many=many)
        except SpecMismatch as error:
            raise SpecMismatch(f"queue {self._name!r}: {error}") from error
        return Segment.of(columns, prioritised=definition.kind == "PriorityQueue")

    async def _begin_get(self, n: SupportsIndex, *, single: bool) -> tuple[Host, QueueRef, int]:
        count = check_count(n)
        host, ref = await self._begin()
        if not single:
            check_batch(ref.definition, count, self._name)
        return host, ref, count

    async def _take(self, n: SupportsIndex, *, up_to: bool) -> Any:
        host, ref, count = await self._begin_get(n, single=False)
        columns = await complete_get(host.get(ref, count, up_to=up_to))
        host.seen.add(ref.key)
        return to_user(columns, ref.definition.element, single=False)

    def _clone(self) -> Self:
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        return clone

    def to_wire(self) -> list[Any]:
        """Tell what a server needs to find this queue; one that is bound to a session is `SpecMismatch`."""
        if self._session is not None:
            raise SpecMismatch(f"{self!r} is bound to a session by on(), and cannot be used in a graph of a server")
        definition = None if self._definition is None else pack_definition(self._definition)
        return [self._name, self._shared, self._container, str(self._device), definition]

    @classmethod
    def from_wire(cls, told: Any) -> Self:
        """Make a definition of what `to_wire` has told in another process."""
        name, shared, container, device, definition = told
        queue = object.__new__(cls)
        queue._name, queue._shared, queue._container = str(name), bool(shared), str(container)
        queue._device = DeviceName.parse(device)
        queue._definition = None if definition is None else read_definition(definition)
        queue._session = queue._ref = None
        return queue

    def __getstate__(self) -> dict[str, Any]:
        """Refuse to pickle what another process could not find."""
        if not self._shared:
            raise TypeError(
                f"queue {self._name!r} is private to its session and cannot be pickled; give it a shared_name"
            )
        return {**self.__dict__, "_session": None}

    def __repr__(self) -> str:
        """Show the class and the name."""
        return f"<{type(self).__name__} {self._name!r}>"
