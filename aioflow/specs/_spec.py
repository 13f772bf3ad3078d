"""Specifications: what a component and an element look like, and how constructors spell it (as in TensorFlow)."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from aioflow.errors import SpecMismatch
from aioflow.specs._columns import RANK_MAX
from aioflow.specs._dtypes import STRING_DTYPES, dtype_name, numpy_dtype
from aioflow.specs._ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.specs._columns import Column

__all__ = ["ElementSpec", "Shape", "TensorSpec", "parse_dtypes", "parse_names", "parse_shape", "parse_shapes"]

Shape: TypeAlias = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The dtype and shape of one component.

    Attributes:
        dtype: A name of the dtype table.
        shape: The shape; a None in it is a dimension of any size, None itself a shape of any rank.
    """

    dtype: str
    shape: Shape | None

    @property
    def nbytes(self) -> int | None:
        """Payload bytes of one value, or None where they vary."""
        if self.dtype in STRING_DTYPES or self.shape is None:
            return None
        sizes = [size for size in self.shape if size is not None]
        return None if len(sizes) < len(self.shape) else math.prod(sizes) * numpy_dtype(self.dtype).itemsize

    @property
    def has_one_shape(self) -> bool:
        """Whether all values have the same shape."""
        return self.shape is not None and None not in self.shape

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of this shape fits."""
        if self.shape is None or shape == self.shape:
            return True
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )

    def admits_rows(self, column: Column) -> bool:
        """Whether the shape of each row of a column fits."""
        if isinstance(column, Ragged):
            return self.admits(column.shape[1:]) and self.admits(column.least)
        shape = column.shape[1:]
        return shape == self.shape or self.admits(shape)

    def __str__(self) -> str:
        """Print as `int32[?,3]`."""
        if self.shape is None:
            return f"{self.dtype}[any shape]"
        return f"{self.dtype}[{','.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True, slots=True)
class ElementSpec:
    """The components of an element, in order, and their names, if any.

    Attributes:
        dtypes: Those of the components.
    """

    components: tuple[TensorSpec, ...]
    names: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Collect the dtypes once: every put and every batch names them."""
        object.__setattr__(self, "dtypes", tuple([component.dtype for component in self.components]))

    @property
    def nbytes(self) -> int | None:
        """Payload bytes of one element, or None where they vary."""
        sizes = [component.nbytes for component in self.components]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def check_rows(self, columns: Sequence[Column]) -> None:
        """Refuse rows of which a component has a shape that does not fit.

        Raises:
            SpecMismatch: It has; names the component.
        """
        for i, (component, column) in enumerate(zip(self.components, columns, strict=True)):
            if not component.admits_rows(column):
                shape = list(column.shape[1:])
                least = f" and {list(column.least)}" if isinstance(column, Ragged) else ""
                raise SpecMismatch(f"{self.label(i)}: got rows of shape {shape}{least}; expected {component}")

    def label(self, index: int) -> str:
        """Name a component for a message to people."""
        name = f" ({self.names[index]!r})" if self.names else ""
        return f"component {index}{name}"

    def split(self, value: Any) -> tuple[Any, ...]:
        """Return the components of a value given to an enqueue, in order.

        With names the value is a dict of exactly those. Otherwise the list of components is a tuple or, with two or
        more components, also a list; on a one-component queue anything that is not a tuple is the component itself.

        Raises:
            SpecMismatch: Names or the number of components disagree.
        """
        if self.names is not None:
            return self._split_names(value, self.names)
        if isinstance(value, dict):
            raise SpecMismatch(
                f"got a dict with keys {sorted(map(str, value))}, but the queue has no names; "
                f"expected {self._expected()}, or define the queue with names="
            )
        many = len(self.components) > 1
        if isinstance(value, tuple) or (many and isinstance(value, list)):
            if len(value) != len(self.components):
                raise SpecMismatch(f"got {len(value)} components; expected {self._expected()}")
            return tuple(value)
        if many:
            raise SpecMismatch(f"got a single {type(value).__name__}; expected {self._expected()}")
        return (value,)

    def _split_names(self, value: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
        if not isinstance(value, dict):
            raise SpecMismatch(f"got a {type(value).__name__}; the queue has names: expected a dict with {list(names)}")
        if len(value) != len(names) or set(value) != set(names):
            raise SpecMismatch(f"got a dict with keys {sorted(map(str, value))}; expected exactly {list(names)}")
        return tuple(value[name] for name in names)

    def join(self, components: tuple[Any, ...]) -> Any:
        """Return components as a user gets them: a dict with names, the value itself if there is one, else a tuple."""
        if self.names is not None:
            return dict(zip(self.names, components, strict=True))
        return components[0] if len(components) == 1 else components

    def _expected(self) -> str:
        parts = ", ".join(map(str, self.components))
        return f"one component {parts}" if len(self.components) == 1 else f"a tuple of {len(self.components)}: {parts}"


def parse_dtypes(dtypes: Any) -> tuple[str, ...]:
    """Return dtype names for one dtype or a list of them.

    Raises:
        SpecMismatch: There is none, or one is not in the table.
    """
    listed = list(dtypes) if isinstance(dtypes, (list, tuple)) else [dtypes]
    if not listed:
        raise SpecMismatch("dtypes is empty; a queue needs at least one component, such as dtypes=['float32']")
    return tuple(dtype_name(dtype) for dtype in listed)


def parse_names(names: Any, count: int) -> tuple[str, ...] | None:
    """Return component names for None, one name or a list of them.

    Raises:
        SpecMismatch: Their number is not `count`, or one is no string.
    """
    if names is None:
        return None
    listed = list(names) if isinstance(names, (list, tuple)) else [names]
    if not all(isinstance(name, str) for name in listed):
        raise SpecMismatch(f"names must be strings, got {listed!r}")
    if len(listed) != count:
        raise SpecMismatch(f"got {len(listed)} names {listed!r} for {count} components; give one name each, or none")
    return tuple(listed)


def parse_shapes(shapes: Any, count: int, *, partial: bool) -> tuple[Shape | None, ...]:
    """Return one shape for each component.

    A sequence of ints is one shape, so `(3, 2)`, `()` and `[]` mean one component (TensorFlow's `_as_shape_list`).

    Args:
        shapes: None (any shape), one shape, or a list of shapes.
        count: How many components there are.
        partial: Whether None dimensions are allowed; then a list of shapes is required (PaddingFIFOQueue).

    Raises:
        SpecMismatch: The number differs from `count`, a shape is not allowed here, or it is no shape.
    """
    if partial and (not isinstance(shapes, (list, tuple)) or not shapes or _is_one_shape(shapes)):
        raise SpecMismatch(f"a PaddingFIFOQueue needs a list of shapes, one for each component; got shapes={shapes!r}")
    if shapes is None:
        return (None,) * count
    if not isinstance(shapes, (list, tuple)):
        raise SpecMismatch(f"shapes must be None, a shape, or a list of shapes; got {shapes!r}")
    listed = [shapes] if _is_one_shape(shapes) else list(shapes)
    if len(listed) != count:
        raise SpecMismatch(f"got {len(listed)} shapes for {count} components: {shapes!r}; give one shape each")
    return tuple(parse_shape(shape, partial=partial) for shape in listed)


def _is_one_shape(shapes: list[Any] | tuple[Any, ...]) -> bool:
    return all(size is None or hasattr(size, "__index__") for size in shapes)


def parse_shape(shape: Any, *, partial: bool) -> Shape:
    """Return one shape; `partial` allows None dimensions.

    Raises:
        SpecMismatch: It is no shape, or not allowed here.
    """
    if not isinstance(shape, (list, tuple)):
        raise SpecMismatch(f"{shape!r} is no shape: expected a list of sizes, such as [28, 28]")
    try:
        parsed = tuple(None if size is None else operator.index(size) for size in shape)
    except TypeError as error:
        raise SpecMismatch(f"{shape!r} is no shape: its sizes must be integers") from error
    if any(size is not None and size < 0 for size in parsed):
        raise SpecMismatch(f"shape {shape!r} has a negative size")
    if len(parsed) > RANK_MAX:
        raise SpecMismatch(f"a shape of rank {len(parsed)}; expected at most {RANK_MAX}")
    if not partial and None in parsed:
        raise SpecMismatch(f"shape {shape!r} has an unknown size; only a PaddingFIFOQueue takes those")
    return parsed
