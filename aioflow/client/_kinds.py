"""The four public classes, and `lookup`: one machine, four orders and batchers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioflow.client._queue import Queue
from aioflow.errors import SpecMismatch
from aioflow.names import check_shared_name
from aioflow.queues import Kind, QueueDefinition
from aioflow.specs import ElementSpec, TensorSpec, parse_dtypes, parse_names, parse_shapes

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["FIFOQueue", "PaddingFIFOQueue", "PriorityQueue", "RandomShuffleQueue", "lookup"]


class FIFOQueue(Queue):
    """Elements come out in the order in which they were accepted.

    Args:
        capacity: In elements; negative means unbounded (on a server `capacity_bytes` is required then).
        dtypes: One dtype or a list: names such as "float32", NumPy or ml_dtypes dtypes, `str`, `bytes`.
        shapes: None (any shape; no batches then), one shape, or a list of shapes, all fully known.
        names: Component names; elements are dicts then.
        shared_name: Under which other sessions find the queue; None makes it private to each session.
        capacity_bytes: In bytes of payload; None means 256 MB. One larger element may enter an empty queue.
        device: The task on which the queue lives, such as `/job:ps/task:0`; within the scopes of `flow.device`.
        producers: How many distinct producers must have registered before the last one's leaving closes the queue.
        delivery: "at_most_once": what was handed to the waiting task is gone.
        durable: False: the queue lives in memory.

    Raises:
        SpecMismatch: An argument is malformed or could never work; it is a ValueError.
        PlacementError: `device` is no device name.
    """

    def __init__(
        self,
        capacity: int,
        dtypes: Any,
        shapes: Any = None,
        names: Any = None,
        shared_name: str | None = None,
        *,
        capacity_bytes: int | None = None,
        device: str | None = None,
        producers: int | None = None,
        delivery: str = "at_most_once",
        durable: bool = False,
    ) -> None:
        element = _element("FIFOQueue", dtypes, shapes, names)
        _check_delivery(delivery, durable=durable)
        definition = QueueDefinition("FIFOQueue", element, capacity, capacity_bytes, producers=producers)
        super().__init__(definition, shared_name, device)


class RandomShuffleQueue(Queue):
    """Each element that is in is equally likely to be next; `min_after_dequeue` stay in while the queue is open.

    Args:
        capacity: As in `FIFOQueue`.
        min_after_dequeue: Elements that stay in, for good mixing; 0 to capacity - 1.
        dtypes: As in `FIFOQueue`.
        shapes: As in `FIFOQueue`.
        names: As in `FIFOQueue`.
        seed: Makes the order a function of the operations; None draws one.
        shared_name: As in `FIFOQueue`.
        capacity_bytes: As in `FIFOQueue`.
        device: As in `FIFOQueue`.
        producers: As in `FIFOQueue`.
        delivery: As in `FIFOQueue`.
        durable: As in `FIFOQueue`.

    Raises:
        SpecMismatch: An argument is malformed or could never work; it is a ValueError.
        PlacementError: `device` is no device name.
    """

    def __init__(
        self,
        capacity: int,
        min_after_dequeue: int,
        dtypes: Any,
        shapes: Any = None,
        names: Any = None,
        seed: int | None = None,
        shared_name: str | None = None,
        *,
        capacity_bytes: int | None = None,
        device: str | None = None,
        producers: int | None = None,
        delivery: str = "at_most_once",
        durable: bool = False,
    ) -> None:
        element = _element("RandomShuffleQueue", dtypes, shapes, names)
        _check_delivery(delivery, durable=durable)
        definition = QueueDefinition(
            "RandomShuffleQueue", element, capacity, capacity_bytes, min_after_dequeue, seed, producers
        )
        super().__init__(definition, shared_name, device)


class PaddingFIFOQueue(Queue):
    """A FIFOQueue of elements whose sizes vary; batches are padded at the end with zeros, to the largest of the batch.

    Args:
        capacity: As in `FIFOQueue`.
        dtypes: As in `FIFOQueue`.
        shapes: A list of shapes, one for each component; a None in a shape is a size that varies.
        names: As in `FIFOQueue`.
        shared_name: As in `FIFOQueue`.
        capacity_bytes: As in `FIFOQueue`.
        device: As in `FIFOQueue`.
        producers: As in `FIFOQueue`.
        delivery: As in `FIFOQueue`.
        durable: As in `FIFOQueue`.

    Raises:
        SpecMismatch: An argument is malformed or could never work; it is a ValueError.
        PlacementError: `device` is no device name.
    """

    def __init__(
        self,
        capacity: int,
        dtypes: Any,
        shapes: Any,
        names: Any = None,
        shared_name: str | None = None,
        *,
        capacity_bytes: int | None = None,
        device: str | None = None,
        producers: int | None = None,
        delivery: str = "at_most_once",
        durable: bool = False,
    ) -> None:
        element = _element("PaddingFIFOQueue", dtypes, shapes, names)
        _check_delivery(delivery, durable=durable)
        definition = QueueDefinition("PaddingFIFOQueue", element, capacity, capacity_bytes, producers=producers)
        super().__init__(definition, shared_name, device)


class PriorityQueue(Queue):
    """The element of the lowest priority comes first; equal priorities in the order of acceptance.

    `dtypes` and `shapes` describe the values; an int64 scalar, the priority, is put in front, so elements are
    `(priority, value, ...)`. `names`, where given, include a name for it. Batches are sorted, and so are taken all at
    once.

    Args:
        capacity: As in `FIFOQueue`.
        dtypes: As in `FIFOQueue`, of the values.
        shapes: As in `FIFOQueue`, of the values.
        names: As in `FIFOQueue`, with one for the priority in front.
        shared_name: As in `FIFOQueue`.
        capacity_bytes: As in `FIFOQueue`.
        device: As in `FIFOQueue`.
        producers: As in `FIFOQueue`.
        delivery: As in `FIFOQueue`.
        durable: As in `FIFOQueue`.

    Raises:
        SpecMismatch: An argument is malformed or could never work; it is a ValueError.
        PlacementError: `device` is no device name.
    """

    def __init__(
        self,
        capacity: int,
        dtypes: Any,
        shapes: Any = None,
        names: Any = None,
        shared_name: str | None = None,
        *,
        capacity_bytes: int | None = None,
        device: str | None = None,
        producers: int | None = None,
        delivery: str = "at_most_once",
        durable: bool = False,
    ) -> None:
        element = _element("PriorityQueue", dtypes, shapes, names)
        _check_delivery(delivery, durable=durable)
        definition = QueueDefinition("PriorityQueue", element, capacity, capacity_bytes, producers=producers)
        super().__init__(definition, shared_name, device)


class _FoundQueue(Queue):
    """A queue that takes its definition from where it is; awaiting it does so at once."""

    def __await__(self) -> Generator[Any, Any, _FoundQueue]:
        return self._attach().__await__()

    async def _attach(self) -> _FoundQueue:
        await self._begin()
        return self


def lookup(shared_name: str, *, container: str | None = None, device: str | None = None) -> _FoundQueue:
    """Attach to a queue that exists, with the definition that it was made with.

    The definition is fetched by the first operation, or by awaiting the result: `queue = await flow.lookup("train")`.

    Args:
        shared_name: The queue's shared name.
        container: Its container; the one of the scope around the call where None.
        device: Its task, where the cluster has several.

    Raises:
        NotFound: At the first operation: there is no such queue; the message lists those that are there.
        SpecMismatch: The name is empty or starts with an underscore.
    """
    if not shared_name:
        raise SpecMismatch("lookup needs a shared_name; a private queue cannot be found by others")
    check_shared_name(shared_name)
    return _FoundQueue(None, shared_name, device, container)


def _element(kind: Kind, dtypes: Any, shapes: Any, names: Any) -> ElementSpec:
    parsed = parse_dtypes(dtypes)
    parsed_shapes = parse_shapes(shapes, len(parsed), partial=kind == "PaddingFIFOQueue")
    components = tuple(map(TensorSpec, parsed, parsed_shapes))
    if kind == "PriorityQueue":
        components = (TensorSpec("int64", ()), *components)
    return ElementSpec(components, parse_names(names, len(components)))


def _check_delivery(delivery: str, *, durable: bool) -> None:
    if delivery != "at_most_once":
        raise SpecMismatch(f"delivery={delivery!r} is not available in this version; expected 'at_most_once'")
    if durable:
        raise SpecMismatch("durable=True is not available in this version; queues live in memory")
