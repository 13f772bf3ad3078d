"""From messages to frames and back, with every limit checked before anything is believed.

The header is msgpack; columns are raw frames, in C order: one for numbers, two for strings (int64 lengths, then the
bytes) and for numbers in rows whose shapes differ (the int64 shape of each row, then the values).
"""

from __future__ import annotations

import codecs
import math
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

import msgpack
import numpy as np

from aioflow.cluster._field_types import DEFINITION, OUTPUTS_MAX
from aioflow.cluster._fields import COMPONENTS_MAX, INT64_MAX, RANK_MAX, TEXT_CHARS_MAX
from aioflow.cluster._messages import (
    MESSAGES,
    PROTOCOL_VERSION,
    Acknowledge,
    Ask,
    Assign,
    Confirm,
    Done,
    Hello,
    Promote,
    Put,
    Recall,
    RegisterGraph,
    Rows,
    RunGraph,
    SendTensor,
    Tensors,
    Welcome,
    Withdraw,
    find_fault,
)
from aioflow.errors import LocalProtocolError, RemoteProtocolError, SpecMismatch
from aioflow.queues import Kind, QueueDefinition
from aioflow.specs import DTYPES, STRING_DTYPES, ElementSpec, Ragged, Scattered, Strings, TensorSpec, numpy_dtype
from aioflow.transport import Pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aioflow.cluster._messages import Message
    from aioflow.specs import Array, Column, Dense
    from aioflow.transport import AnyFrame, Frame

__all__ = [
    "HEADER_BYTES_MAX",
    "decode",
    "decode_columns",
    "describe_columns",
    "encode",
    "encode_columns",
    "pack_definition",
    "read_definition",
    "unpack_definition",
]

# A header holds names, numbers and texts, never payload; a traceback is cut to fit.
HEADER_BYTES_MAX = 65_536
# What NumPy can address in values of 16 bytes, the largest there are.
ELEMENTS_MAX = INT64_MAX // 16
# UTF-8: bytes below are characters by themselves; with the two highest bits of others, this is a continuation.
_CONTINUATION, _HIGH_BITS = 0x80, 0xC0
# Of arrays below this size a copy is a call, and a view three.
SMALL_BYTES = 4096
_ARRAYS_MAX = max(COMPONENTS_MAX, OUTPUTS_MAX)


def _reader(names: tuple[str, ...]) -> Callable[[Any], Sequence[Any]]:
    """Return what reads the fields of a message; of one name alone `attrgetter` would return no tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: [getattr(message, name) for name in names]


_F = TypeVar("_F", bound="AnyFrame")

_CODES = {message: code for code, message in MESSAGES.items()}
_GREETINGS = frozenset({Hello, Welcome})
_WITH_FRAMES = frozenset({Assign, Put, Rows, RegisterGraph, RunGraph, SendTensor, Tensors})
_VALUES_OF = {message: _reader(message.__slots__) for message in MESSAGES.values()}
# What is sent for every element has numbers of our own making only, and shapes of a definition that was checked.
_TRUSTED = frozenset({Put, Rows, Done, Tensors, Ask, Acknowledge, Promote, Withdraw, Recall, Confirm})


def encode(message: Message, frames: Sequence[_F] = ()) -> list[bytes | _F]:
    """Return the frames of a message, those of its columns behind the header.

    Text that is no Unicode (lone surrogates, as in file names that are not UTF-8) goes as backslash escapes.

    Raises:
        LocalProtocolError: A field is not within its limits, or the header would exceed `HEADER_BYTES_MAX`; nothing may
            be sent.
    """
    kind = type(message)
    values = _VALUES_OF[kind](message)
    fault = None if kind in _TRUSTED else find_fault(kind, values)
    if fault:
        raise LocalProtocolError(fault)
    header: bytes = msgpack.packb([_CODES[kind], *values], unicode_errors="backslashreplace")
    if len(header) > HEADER_BYTES_MAX:
        raise LocalProtocolError(
            f"the header of {kind.__name__} has {len(header)} bytes, at most {HEADER_BYTES_MAX} are allowed; "
            "shorten names or reasons"
        )
    return [header, *frames]


def decode(frames: Sequence[_F]) -> tuple[Message, Sequence[_F]]:
    """Return the message of a list of frames and the frames behind its header, which lie in pieces at most in a `Put`.

    Raises:
        RemoteProtocolError: Says what is not allowed.
    """
    header = frames[0]
    if len(header) > HEADER_BYTES_MAX:
        raise RemoteProtocolError(f"a header of {len(header)} bytes, at most {HEADER_BYTES_MAX} are allowed")
    try:
        values = msgpack.unpackb(  # pieces are no bytes, which is a TypeError
            header,
            max_str_len=4 * TEXT_CHARS_MAX,
            max_bin_len=0,
            max_array_len=_ARRAYS_MAX,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError) as error:  # msgpack's own errors are ValueErrors
        raise RemoteProtocolError(f"a header that is no msgpack within the limits: {error}") from error
    if type(values) is not list or not values or type(values[0]) is not int or values[0] not in MESSAGES:
        raise RemoteProtocolError(f"a header that names no message; expected [code, field, ...], got {values!r:.80}")
    kind = MESSAGES[values[0]]
    fields = values[1:]
    if kind in _GREETINGS:
        fields = _of_this_version(kind, fields)
    fault = find_fault(kind, fields)
    if fault:
        raise RemoteProtocolError(fault)
    message: Message = kind(*fields)
    rest = frames[1:]
    if rest and kind not in _WITH_FRAMES:
        raise RemoteProtocolError(f"{kind.__name__} has no frames behind its header, got {len(rest)}")
    for frame in () if kind is Put else rest:
        if isinstance(frame, Pieces):
            raise RemoteProtocolError(f"{kind.__name__} has frames in pieces; those are for Put")
    return message, rest


def _of_this_version(kind: type[Any], fields: list[Any]) -> list[Any]:
    """Of a greeting in another version of the protocol keep the version alone: what else it says, nobody here knows."""
    if fields and fields[0] != PROTOCOL_VERSION:
        return [fields[0], "?", "", False, True] if kind is Hello else [fields[0], "", "", 0, [], ""]
    return fields


# Columns


def describe_columns(columns: Sequence[Column], dtypes: Sequence[str]) -> list[list[Any]]:
    """Return what the header says of columns: the dtype and the shape of each."""
    return [
        [dtype, [len(column.sizes), *[None] * column.sizes.shape[1]] if isinstance(column, Ragged) else [*column.shape]]
        for column, dtype in zip(columns, dtypes, strict=True)
    ]


@overload
def encode_columns(columns: Sequence[Dense | Ragged]) -> Sequence[Frame]: ...
@overload
def encode_columns(columns: Sequence[Column]) -> Sequence[AnyFrame]: ...
def encode_columns(columns: Sequence[Column]) -> Any:
    """Return the frames of columns; large ones are not copied."""
    frames: list[AnyFrame] = []
    for column in columns:
        if isinstance(column, np.ndarray):
            frames.append(_bytes_of(column))
        elif isinstance(column, Strings):
            frames += [_bytes_of(column.lengths), _bytes_of(column.data)]
        elif isinstance(column, Ragged):
            frames += [_bytes_of(column.sizes), _bytes_of(column.data)]
        else:
            assert column.pieces is not None, "what is sent lies in pieces"
            frames.append(column.pieces)
    return frames


def decode_columns(described: Sequence[Sequence[Any]], frames: Sequence[AnyFrame]) -> tuple[Column, ...]:
    """Return the columns of frames, as read-only views of them.

    Raises:
        RemoteProtocolError: Their number or sizes are not what the header says.
    """
    expected = len(described)
    for dtype, shape in described:
        if dtype in STRING_DTYPES or None in shape:
            expected += 1
    if len(frames) != expected:
        raise RemoteProtocolError(f"{len(described)} columns have {expected} frames, got {len(frames)}")
    rest = iter(frames)
    return tuple([_decode_column(dtype, (*shape,), rest) for dtype, shape in described])


def _decode_column(dtype: str, described: tuple[int | None, ...], frames: Iterator[AnyFrame]) -> Column:
    if dtype not in DTYPES:
        raise RemoteProtocolError(f"a column of dtype {dtype!r:.80}; expected one of {sorted(DTYPES)}")
    if None in described:
        return _ragged(dtype, described, _in_one(frames), _in_one(frames))
    shape: tuple[int, ...] = described  # type: ignore[assignment]
    # A size of 0 makes any others take no bytes, and NumPy still refuses what it cannot address.
    count = math.prod(shape) or math.prod([size or 1 for size in shape])
    if not 1 <= len(shape) <= RANK_MAX or count > ELEMENTS_MAX:
        raise RemoteProtocolError(
            f"a column of shape {list(shape)!s:.80}; expected rank 1 to {RANK_MAX} and at most {ELEMENTS_MAX} values"
        )
    if dtype in STRING_DTYPES:
        return _strings(dtype, _in_one(frames), _in_one(frames), shape)
    frame = next(frames)
    return _scattered(frame, dtype, shape) if isinstance(frame, Pieces) else _numbers(frame, dtype, shape)


def _in_one(frames: Iterator[AnyFrame]) -> Frame:
    frame = next(frames)
    if isinstance(frame, Pieces):
        raise RemoteProtocolError("a frame in pieces that is no column of numbers of one shape")
    return frame


def _scattered(frame: Pieces, dtype: str, shape: tuple[int, ...]) -> Scattered:
    column = Scattered.of_pieces(frame, shape[1:], numpy_dtype(dtype))
    if column.shape != shape or column.row_bytes != frame.size:
        raise RemoteProtocolError(
            f"{dtype} of shape {list(shape)} in {frame.count} pieces of {frame.size} bytes; expected one for each row"
        )
    for row in range(frame.count) if dtype == "bool" else ():
        _check_bool(frame.piece(row))
    return column


def _ragged(dtype: str, described: tuple[int | None, ...], sizes_frame: Frame, frame: Frame) -> Ragged:
    rows, *unknown = described
    if dtype in STRING_DTYPES or rows is None or len(described) > RANK_MAX or unknown.count(None) < len(unknown):
        raise RemoteProtocolError(
            f"a column of {dtype} of shape {list(described)!s:.80}; expected nil, for rows of numbers whose shapes "
            f"differ, in all of 1 to {RANK_MAX - 1} places behind the number of rows"
        )
    dtype_bytes = numpy_dtype(dtype).itemsize
    count, rest = divmod(len(frame), dtype_bytes)
    if rest:
        raise RemoteProtocolError(f"{len(frame)} bytes are no whole number of {dtype}, of {dtype_bytes} bytes each")
    sizes = _array(sizes_frame, np.dtype(np.int64), (rows, len(unknown)))
    if sizes.size and int(sizes.min()) < 0:
        raise RemoteProtocolError("a row of a size below 0")
    # As floats, so that nothing wraps; then no row has more values than came, so that their sum is exact, too.
    if rows and float(np.maximum(sizes, 1).prod(axis=1, dtype=np.float64).max()) > ELEMENTS_MAX:
        raise RemoteProtocolError(f"a row of a shape above {ELEMENTS_MAX} values")
    counts = sizes.prod(axis=1)
    if rows and (int(counts.max()) > count or rows * count > INT64_MAX or int(counts.sum()) != count):
        raise RemoteProtocolError(f"the sizes of {rows} rows do not add up to the {count} values that came")
    if not rows and count:
        raise RemoteProtocolError(f"{count} values in no rows")
    return Ragged(sizes, _numbers(frame, dtype, (count,)))


def _numbers(frame: Frame, dtype: str, shape: tuple[int, ...]) -> Array:
    array = _array(frame, numpy_dtype(dtype), shape)
    if dtype == "bool" and array.size:
        _check_bool(array.view(np.uint8))
    return array


def _check_bool(values: Array) -> None:
    if np.max(values) > 1:
        raise RemoteProtocolError("a bool that is neither 0 nor 1")


def _array(frame: Frame, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(frame):
        raise RemoteProtocolError(f"{dtype.name} of shape {list(shape)} has {expected} bytes, got {len(frame)}")
    # Not np.ndarray(shape, dtype, frame): that refers to what the frame's memory is of, and not to who lends it.
    array = np.frombuffer(frame, dtype).reshape(shape)
    if not array.flags.aligned:
        array = array.copy()  # a transport's small frames lie anywhere; large ones are aligned
    array.flags.writeable = False
    return array


def _strings(dtype: str, lengths_frame: Frame, frame: Frame, shape: tuple[int, ...]) -> Strings:
    lengths = _array(lengths_frame, np.dtype(np.int64), shape)
    data = _array(frame, np.dtype(np.uint8), (len(frame),))
    # No length is above what came, so that their sum stays within int64: it would take 2**31 strings of 2**32 bytes.
    if lengths.size and (int(lengths.min()) < 0 or int(lengths.max()) > len(data)):
        raise RemoteProtocolError(f"string lengths must be 0 to {len(data)}, the bytes that came")
    if lengths.size * len(data) > INT64_MAX or int(lengths.sum()) != len(data):
        raise RemoteProtocolError(f"string lengths do not add up to the {len(data)} bytes that came")
    if dtype == "str":
        _check_utf8(lengths, data)
    return Strings(lengths, data)


def _check_utf8(lengths: Array, data: Array) -> None:
    """Refuse text that a consumer could not decode: all of it is UTF-8, and no string begins within a character."""
    if not len(data) or data.max() < _CONTINUATION:  # ASCII, as most text is
        return
    try:
        codecs.utf_8_decode(data.data, "strict", True)  # noqa: FBT003 - "final"; it takes no keywords
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"a string that is not UTF-8: {error}") from error
    flat = lengths.reshape(-1)
    starts = (np.cumsum(flat) - flat)[flat > 0]
    if (data[starts] & _HIGH_BITS == _CONTINUATION).any():
        raise RemoteProtocolError("a string that begins within a character of UTF-8")


def _bytes_of(array: Array) -> Frame:
    if array.nbytes < SMALL_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


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


def read_definition(values: Any) -> QueueDefinition:
    """Return the definition of fields that were not checked.

    Raises:
        RemoteProtocolError: They are none.
    """
    if not DEFINITION.admits(values):
        raise RemoteProtocolError(f"a definition must be {DEFINITION}, got {values!r:.80}")
    return unpack_definition(values)


def unpack_definition(values: Sequence[Any]) -> QueueDefinition:
    """Return the definition of fields that were checked.

    Raises:
        RemoteProtocolError: It is no definition that a constructor would have made.
    """
    kind, capacity, capacity_bytes, min_after_dequeue, seed, producers, components, names = values
    unknown = {dtype for dtype, _ in components} - DTYPES
    if kind not in get_args(Kind) or not components or unknown:
        raise RemoteProtocolError(
            f"a definition of kind {kind!r:.80} with {len(components)} components; "
            f"unknown dtypes: {sorted(unknown)!s:.80}"
        )
    specs = tuple(TensorSpec(dtype, None if shape is None else tuple(shape)) for dtype, shape in components)
    _check_components(kind, specs)
    if names is not None and len(names) != len(specs):
        raise RemoteProtocolError(f"a definition with {len(names)} names for {len(specs)} components")
    if kind != "RandomShuffleQueue" and (min_after_dequeue or seed is not None):
        raise RemoteProtocolError(f"a {kind} with min_after_dequeue={min_after_dequeue} and seed={seed}")
    element = ElementSpec(specs, None if names is None else tuple(names))
    try:
        return QueueDefinition(kind, element, capacity, capacity_bytes, min_after_dequeue, seed, producers)
    except SpecMismatch as error:
        raise RemoteProtocolError(f"a definition that no constructor makes: {error}") from error


def _check_components(kind: Kind, specs: tuple[TensorSpec, ...]) -> None:
    """Refuse components for which a queue of this kind has no rules: all it does with their rows relies on these."""
    values = specs
    if kind == "PriorityQueue":
        if specs[0] != TensorSpec("int64", ()) or len(specs) == 1:
            raise RemoteProtocolError(
                f"a PriorityQueue of {', '.join(map(str, specs))!s:.80}; expected int64[] and more"
            )
        values = specs[1:]
    shapes = [spec.shape for spec in values]
    known = [shape is not None and (kind == "PaddingFIFOQueue" or None not in shape) for shape in shapes]
    unspecified = kind != "PaddingFIFOQueue" and not any(shape is not None for shape in shapes)
    if not all(known) and not unspecified:
        raise RemoteProtocolError(f"a {kind} of shapes {', '.join(map(str, values))!s:.200}")
