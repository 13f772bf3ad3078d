"""Hypothesis strategies for queues: definitions, specifications, values, operations, and splits of a transfer."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aioflow.queues import Kind, QueueDefinition
from aioflow.specs import STRING_DTYPES, ElementSpec, Shape, TensorSpec, numpy_dtype

__all__ = [
    "component_values",
    "dtypes",
    "element_specs",
    "element_values",
    "machine_definitions",
    "machine_elements",
    "operations",
    "queue_definitions",
    "shapes",
    "splits",
    "transfers",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

NUMBER_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
    *("bfloat16", "float8_e4m3fn", "float8_e5m2"),
)

# Small enough that a failing example can be read, large enough for every dimension to vary.
SIZE_MAX = 3


def dtypes() -> st.SearchStrategy[str]:
    """Names of the dtype table."""
    return st.sampled_from([*NUMBER_DTYPES, "str", "bytes"])


def shapes(*, rank_max: int = 2, partial: bool = False) -> st.SearchStrategy[Shape]:
    """Shapes; with `partial` a dimension may be unknown."""
    sizes: st.SearchStrategy[int | None] = st.integers(0, SIZE_MAX)
    if partial:
        sizes = st.none() | sizes
    return st.lists(sizes, max_size=rank_max).map(tuple)


@st.composite
def element_specs(
    draw: st.DrawFn, *, partial: bool = False, names: bool = False, components_max: int = 3, rank_max: int = 2
) -> ElementSpec:
    """Specifications of elements; with `partial` sizes may be unknown, with `names` components may be named."""
    one = st.builds(TensorSpec, dtypes(), shapes(rank_max=rank_max, partial=partial))
    components = tuple(draw(st.lists(one, min_size=1, max_size=components_max)))
    named = names and draw(st.booleans())
    return ElementSpec(components, tuple(f"name{i}" for i in range(len(components))) if named else None)


@st.composite
def queue_definitions(draw: st.DrawFn, *, kinds: tuple[Kind, ...] = KINDS) -> QueueDefinition:
    """Definitions of every kind that are valid; without a limit in bytes that their elements could not keep."""
    kind = draw(st.sampled_from(kinds))
    element = draw(element_specs(partial=kind == "PaddingFIFOQueue"))
    if kind == "PriorityQueue":
        element = ElementSpec((TensorSpec("int64", ()), *element.components))
    capacity = draw(st.integers(1, 8) | st.just(-1))
    reserve_max = 4 if capacity < 0 else capacity - 1
    return QueueDefinition(
        kind,
        element,
        capacity,
        min_after_dequeue=draw(st.integers(0, reserve_max)) if kind == "RandomShuffleQueue" else 0,
        seed=draw(st.none() | st.integers(0, 9)) if kind == "RandomShuffleQueue" else None,
        producers=draw(st.none() | st.integers(1, 3)),
    )


# Values


@st.composite
def component_values(draw: st.DrawFn, spec: TensorSpec, *, shape: tuple[int, ...] | None = None) -> Any:
    """Values of one component, as arrays, or plain strings for scalars of strings.

    Args:
        draw: Given by Hypothesis.
        spec: What they must fit.
        shape: Their shape, where it is fixed already.
    """
    if shape is None:
        wanted = draw(shapes()) if spec.shape is None else spec.shape
        shape = tuple(draw(st.integers(0, SIZE_MAX)) if size is None else size for size in wanted)
    if spec.dtype not in STRING_DTYPES:
        return draw(_number_arrays(spec.dtype, shape))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    one: st.SearchStrategy[Any] = text if spec.dtype == "str" else st.binary(max_size=4)
    values = np.empty(shape, dtype=object)
    for place in np.ndindex(shape):
        values[place] = draw(one)
    return values if shape else values[()]


def _number_arrays(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    target = numpy_dtype(dtype)
    if target.isbuiltin == 1:
        return hnp.arrays(target, shape)
    # Hypothesis knows no ml_dtypes; any bits are a value of theirs.
    bits = hnp.arrays(np.dtype(f"u{target.itemsize}"), shape)
    return bits.map(lambda array: array.view(target))


def element_values(spec: ElementSpec) -> st.SearchStrategy[Any]:
    """Elements as a user gives them to `enqueue`: a value, a tuple, or a dict where there are names."""
    return st.tuples(*map(component_values, spec.components)).map(spec.join)


# The queue machine against its model


@st.composite
def machine_definitions(draw: st.DrawFn, kind: Kind) -> QueueDefinition:
    """Definitions for `QueuePair`: small capacities, so that everything blocks; their elements: `machine_elements`."""
    size = None if kind == "PaddingFIFOQueue" else draw(st.sampled_from([0, 2]))
    components = [TensorSpec("int64", ()), TensorSpec("int16", (size,)), TensorSpec("str", ())]
    if kind == "PriorityQueue":
        components.insert(0, TensorSpec("int64", ()))
    capacity = draw(st.integers(1, 5) | st.just(-1))
    reserve_max = 3 if capacity < 0 else capacity - 1
    return QueueDefinition(
        kind,
        ElementSpec(tuple(components)),
        capacity,
        capacity_bytes=draw(st.none() | st.integers(10, 60)),
        min_after_dequeue=draw(st.integers(0, reserve_max)) if kind == "RandomShuffleQueue" else 0,
    )


@st.composite
def machine_elements(
    draw: st.DrawFn, definition: QueueDefinition, numbers: itertools.count[int], *, rows_max: int = 4
) -> list[tuple[Any, ...]]:
    """What one put brings: none to `rows_max` elements, of any sizes where they vary, each with a number of its own."""
    *_, payload, _ = definition.element.components
    assert payload.shape is not None, "not from `machine_definitions`"
    sizes = st.integers(0, SIZE_MAX) if payload.shape[0] is None else st.just(payload.shape[0])
    # The model does not know which elements a shuffle drew, so there all have the same size.
    text = st.just("ab") if definition.kind == "RandomShuffleQueue" else st.sampled_from(["", "a", "äb", "x" * 30])
    elements = []
    for _ in range(draw(st.integers(0, rows_max))):
        number = next(numbers)
        element = (number, np.full(draw(sizes), number % 100, np.int16), draw(text))
        elements.append((draw(st.integers(-2, 2)), *element) if definition.kind == "PriorityQueue" else element)
    return elements


def operations(*, length_max: int = 20) -> st.SearchStrategy[list[tuple[str, int]]]:
    """Sequences of the names of a user's queue operations, each with a number of elements."""
    names = ("enqueue", "enqueue_many", "dequeue", "dequeue_many", "dequeue_up_to", "close", "close_cancel", "cancel")
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 4)), max_size=length_max)


# Transfers


@st.composite
def splits(draw: st.DrawFn, total: int) -> list[int]:
    """Sizes, each above 0, that add up to `total`: how a transfer may arrive."""
    cuts = sorted(draw(st.sets(st.integers(1, max(total - 1, 1)), max_size=8))) if total > 1 else []
    edges = [0, *cuts, total]
    return [stop - start for start, stop in itertools.pairwise(edges)] if total else []


@st.composite
def transfers(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in one piece, byte by byte, or in any pieces."""
    way = draw(st.sampled_from(["whole", "bytes", "split"]))
    sizes = [1] * len(data) if way == "bytes" else [len(data)] if way == "whole" else draw(splits(len(data)))
    ends = list(itertools.accumulate(sizes, initial=0))
    return [data[start:stop] for start, stop in itertools.pairwise(ends)]
