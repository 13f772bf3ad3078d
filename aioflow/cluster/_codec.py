"""From messages to frames and back, with every limit checked before anything is believed.

The header is msgpack; columns are raw frames, in C order: one for numbers, two for strings (int64 lengths, then the bytes).
"""

from __future__ import annotations

import math

from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from aioflow.cluster._messages import COMPONENTS_MAX, MESSAGES, RANK_MAX, TEXT_CHARS_MAX, Put, Rows, check_fields
from aioflow.errors import LocalProtocolError, RemoteProtocolError, SpecMismatch
from aioflow.queues import QueueDefinition
from aioflow.specs import STRING_DTYPES, ElementSpec, Strings, TensorSpec, dtype_name, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._messages import Message
    from aioflow.specs import Array, Column
    from aioflow.transport import Frame

__all__ = [
    "HEADER_BYTES_MAX",
    "decode",
    "decode_columns",
    "describe_columns",
    "encode",
    "encode_columns",
    "pack_definition",
    "unpack_definition",
]

# A header holds names, numbers and texts, never payload; a traceback is cut to fit.
HEADER_BYTES_MAX = 65_536

_CODES = {message: code for code, message in MESSAGES.items()}


def encode(message: Message, frames: Sequence[Frame] = ()) -> list[Frame]:
    """Return the frames of a message, those of its columns behind the header.

    Raises:
        LocalProtocolError: The header would exceed `HEADER_BYTES_MAX`; nothing may be sent.
    """
    header: bytes = msgpack.packb([_CODES[type(message)], *_values(message)])
    if len(header) > HEADER_BYTES_MAX:
        raise LocalProtocolError(
            f"the header of {type(message).__name__} has {len(header)} bytes, at most {HEADER_BYTES_MAX} are allowed; "
            "shorten names or reasons"
        )
    return [header, *frames]


def _values(message: Message) -> list[Any]:
    """Return the field values of a message, in order."""
    return [getattr(message, name) for name in message.__slots__]


def decode(frames: Sequence[Frame]) -> tuple[Message, Sequence[Frame]]:
    """Return the message of a list of frames and the frames behind its header.

    Raises:
        RemoteProtocolError: Says what is not allowed.
    """
    header = frames[0]
    if len(header) > HEADER_BYTES_MAX:
        raise RemoteProtocolError(f"a header of {len(header)} bytes, at most {HEADER_BYTES_MAX} are allowed")
    try:
        values = msgpack.unpackb(
            header,
            max_str_len=4 * TEXT_CHARS_MAX,
            max_bin_len=0,
            max_array_len=COMPONENTS_MAX,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError) as error:  # msgpack's own errors are ValueErrors
        raise RemoteProtocolError(f"a header that is no msgpack within the limits: {error}") from error
    if type(values) is not list or not values or type(values[0]) is not int or values[0] not in MESSAGES:
        raise RemoteProtocolError("a header that names no message")
    kind = MESSAGES[values[0]]
    check_fields(kind, values[1:])
    message: Message = kind(*values[1:])
    if len(frames) > 1 and not isinstance(message, (Put, Rows)):
        raise RemoteProtocolError(f"{kind.__name__} has no frames behind its header, got {len(frames) - 1}")
    return message, frames[1:]


# Columns


def describe_columns(columns: Sequence[Column], dtypes: Sequence[str]) -> list[list[Any]]:
    """Return what the header says of columns: the dtype and the shape of each."""
    return [[dtype, list(column.shape)] for column, dtype in zip(columns, dtypes, strict=True)]


def encode_columns(columns: Sequence[Column]) -> list[Frame]:
    """Return the frames of columns; large ones are not copied."""
    frames: list[Frame] = []
    for column in columns:
        if isinstance(column, Strings):
            frames += [_bytes_of(column.lengths), _bytes_of(column.data)]
        else:
            frames.append(_bytes_of(column))
    return frames


def decode_columns(described: Sequence[Sequence[Any]], frames: Sequence[Frame]) -> tuple[Column, ...]:
    """Return the columns of frames, as read-only views of them.

    Raises:
        RemoteProtocolError: Their number or sizes are not what the header says.
    """
    rest = iter(frames)
    try:
        columns = tuple(_decode_column(dtype, tuple(shape), rest) for dtype, shape in described)
    except StopIteration:
        raise RemoteProtocolError(f"too few frames: {len(frames)} for {len(described)} columns") from None
    if next(rest, None) is not None:
        raise RemoteProtocolError(f"too many frames: {len(frames)} for {len(described)} columns")
    return columns


def _decode_column(dtype: str, shape: tuple[int, ...], frames: Any) -> Column:
    try:
        known = dtype_name(dtype)
    except SpecMismatch as error:
        raise RemoteProtocolError(str(error)) from error
    if not shape or len(shape) > RANK_MAX:
        raise RemoteProtocolError(f"a column of rank {len(shape)}; expected 1 to {RANK_MAX}")
    if known not in STRING_DTYPES:
        return _array(next(frames), numpy_dtype(known), shape)
    lengths = _array(next(frames), np.dtype(np.int64), shape)
    data = np.frombuffer(next(frames), np.uint8)
    # Python's sum cannot overflow, unlike int64's: lengths come from outside.
    if (lengths < 0).any() or sum(lengths.ravel().tolist()) != len(data):
        raise RemoteProtocolError(f"string lengths do not add up to the {len(data)} bytes that came")
    return Strings(lengths, data)


def _array(frame: Frame, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if math.prod(shape) * dtype.itemsize != len(frame):
        raise RemoteProtocolError(f"{dtype.name} of shape {list(shape)} in a frame of {len(frame)} bytes")
    array = np.frombuffer(frame, np.uint8).view(dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _bytes_of(array: Array) -> Frame:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


# Definitions


def pack_definition(definition: QueueDefinition) -> list[Any]:
    """Return the fields of a definition."""
    components = [
        [component.dtype, None if component.shape is None else list(component.shape)]
        for component in definition.element.components
    ]
    names = definition.element.names
    return [
        definition.kind,
        definition.capacity,
        definition.capacity_bytes,
        definition.min_after_dequeue,
        definition.seed,
        definition.producers,
        components,
        None if names is None else list(names),
    ]


def unpack_definition(values: Sequence[Any]) -> QueueDefinition:
    """Return the definition of fields that were checked.

    Raises:
        RemoteProtocolError: It is no definition that a constructor would have made.
    """
    kind, capacity, capacity_bytes, min_after_dequeue, seed, producers, components, names = values
    if kind not in {"FIFOQueue", "RandomShuffleQueue", "PaddingFIFOQueue", "PriorityQueue"} or not components:
        raise RemoteProtocolError(f"a definition of kind {kind!r} with {len(components)} components")
    try:
        specs = tuple(
            TensorSpec(dtype_name(dtype), None if shape is None else tuple(shape)) for dtype, shape in components
        )
        element = ElementSpec(specs, None if names is None else tuple(names))
        return QueueDefinition(kind, element, capacity, capacity_bytes, min_after_dequeue, seed, producers)
    except SpecMismatch as error:
        raise RemoteProtocolError(f"a definition that no constructor makes: {error}") from error
