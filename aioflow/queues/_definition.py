"""What a queue is: the definition that two processes must agree on, and how two definitions are compared."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aioflow.errors import SpecMismatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioflow.specs import ElementSpec, TensorSpec

__all__ = ["CAPACITY_BYTES_DEFAULT", "UNBOUNDED", "Kind", "QueueDefinition"]

Kind = Literal["FIFOQueue", "RandomShuffleQueue", "PaddingFIFOQueue", "PriorityQueue"]

UNBOUNDED = -1

# What a message carries: int64.
NUMBER_MAX = 2**63 - 1

# Large enough for a few hundred image batches, small enough that a dozen forgotten queues fit into one host.
CAPACITY_BYTES_DEFAULT = 256 * 1000 * 1000

# Smaller rows are copied in less time than it takes to give each back.
SCATTERED_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class QueueDefinition:
    """What a queue holds and how it behaves; checked when it is made.

    Attributes:
        kind: The public class.
        element: The components; for a PriorityQueue with the int64 priority in front.
        capacity: In elements; negative means unbounded.
        capacity_bytes: In bytes of payload; None means `CAPACITY_BYTES_DEFAULT`.
        min_after_dequeue: RandomShuffleQueue: elements that stay in while the queue is open.
        seed: RandomShuffleQueue: makes the order a function of the operations.
        producers: How many distinct producers must have registered before the last one's leaving closes the queue.
    """

    kind: Kind
    element: ElementSpec
    capacity: int
    capacity_bytes: int | None = None
    min_after_dequeue: int = 0
    seed: int | None = None
    producers: int | None = None

    def __post_init__(self) -> None:
        """Refuse a definition that could never work.

        Raises:
            SpecMismatch: A number is out of range, or the reserve can never fit into the bytes.
        """
        for name in ("capacity", "capacity_bytes", "min_after_dequeue", "seed", "producers"):
            object.__setattr__(self, name, _integer(name, getattr(self, name)))
        if self.capacity == 0:
            raise SpecMismatch("capacity is 0, so that every enqueue would wait for ever; expected at least 1, or -1")
        if self.capacity < 0:
            object.__setattr__(self, "capacity", UNBOUNDED)
        if self.capacity_bytes is not None and self.capacity_bytes < 1:
            raise SpecMismatch(f"capacity_bytes is {self.capacity_bytes}; expected at least 1, or None for the default")
        if self.producers is not None and self.producers < 1:
            raise SpecMismatch(f"producers is {self.producers}; expected at least 1, or None")
        if self.min_after_dequeue < 0 or 0 < self.capacity <= self.min_after_dequeue:
            raise SpecMismatch(
                f"min_after_dequeue is {self.min_after_dequeue}; "
                f"expected 0 to capacity - 1, and capacity is {self.capacity}"
            )
        self.check_reserve(self.min_after_dequeue + 1, f"min_after_dequeue={self.min_after_dequeue}")

    @property
    def bytes_max(self) -> int:
        """The capacity in bytes, the default included."""
        return CAPACITY_BYTES_DEFAULT if self.capacity_bytes is None else self.capacity_bytes

    @property
    def scattered(self) -> tuple[int, ...]:
        """The components whose rows are to lie apart, if they can: large ones, where any row may leave first.

        Together, the rows of a put keep its memory until the last of them has left.
        """
        if self.kind not in {"RandomShuffleQueue", "PriorityQueue"}:
            return ()
        return tuple([i for i, part in enumerate(self.element.components) if (part.nbytes or 0) >= SCATTERED_BYTES])

    def check_reserve(self, elements: int, cause: str) -> None:
        """Refuse what needs more elements at once than the bytes can ever hold; one element may always enter.

        Raises:
            SpecMismatch: Elements have a fixed size and do not fit; names the bytes needed.
        """
        size = self.element.nbytes
        if size is not None and elements > 1 and elements * size > self.bytes_max:
            raise SpecMismatch(
                f"{cause} needs {elements} elements of {size} bytes at once, {elements * size} bytes, "
                f"but capacity_bytes is {self.bytes_max}; raise capacity_bytes"
            )

    def check_batch(self, count: int, queue: str) -> None:
        """Refuse a get that can never be served: a PriorityQueue takes a batch all at once.

        Raises:
            SpecMismatch: It can never hold that many, in elements or in bytes.
        """
        if self.kind != "PriorityQueue":
            return
        if self.capacity != UNBOUNDED and count > self.capacity:
            raise SpecMismatch(
                f"{queue} is a PriorityQueue, which takes a batch all at once: "
                f"{count} elements can never be in a capacity of {self.capacity}"
            )
        self.check_reserve(count, f"{queue}: a batch of {count}")

    def differences(self, other: QueueDefinition) -> list[str]:
        """Compare a later definition with this one; what the later one leaves out matches (component names too).

        Returns:
            One sentence for each difference; none when `other` finds this queue.
        """
        return list(self._differences(other))

    def _differences(self, other: QueueDefinition) -> Iterator[str]:
        if other.kind != self.kind:
            yield f"kind: the queue is a {self.kind}, the definition a {other.kind}"
        if other.capacity != self.capacity:
            yield f"capacity: the queue has {self.capacity}, the definition {other.capacity}"
        if other.capacity_bytes is not None and other.bytes_max != self.bytes_max:
            yield f"capacity_bytes: the queue has {self.bytes_max}, the definition {other.bytes_max}"
        for name in ("seed", "producers"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None and theirs != mine:
                yield f"{name}: the queue has {mine}, the definition {theirs}"
        if other.min_after_dequeue != self.min_after_dequeue:
            yield f"min_after_dequeue: the queue has {self.min_after_dequeue}, the definition {other.min_after_dequeue}"
        mine, theirs = self.element.components, other.element.components
        if [c.dtype for c in mine] != [c.dtype for c in theirs]:
            yield f"dtypes: the queue has {[c.dtype for c in mine]}, the definition {[c.dtype for c in theirs]}"
        if len(mine) != len(theirs) or not all(map(self._same_shape, mine, theirs)):
            yield f"shapes: the queue has {_shapes(mine)}, the definition {_shapes(theirs)}"

    def _same_shape(self, mine: TensorSpec, theirs: TensorSpec) -> bool:
        if self.kind != "PaddingFIFOQueue" or mine.shape is None or theirs.shape is None:
            return mine.shape == theirs.shape
        return len(mine.shape) == len(theirs.shape) and all(
            a is None or b is None or a == b for a, b in zip(mine.shape, theirs.shape, strict=True)
        )


def _integer(name: str, value: Any) -> int | None:
    if value is None and name in {"capacity_bytes", "seed", "producers"}:
        return None
    try:
        number = operator.index(value)  # pyright: ignore[reportArgumentType] - that is what is found out
    except TypeError as error:
        raise SpecMismatch(f"{name} must be an integer, got {value!r}") from error
    if abs(number) > NUMBER_MAX:
        raise SpecMismatch(f"{name} is {number}; expected at most {NUMBER_MAX}, in either direction")
    return number


def _shapes(components: tuple[TensorSpec, ...]) -> list[list[int | None] | None]:
    return [None if c.shape is None else list(c.shape) for c in components]
