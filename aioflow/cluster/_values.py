"""Values of nodes as frames, and back: what feeds, fetches, constants and what goes from task to task have in common.

The first frame is msgpack: numbers, strings, bytes, None, and lists that begin with a tag for everything else. Arrays
of `INLINE_BYTES` and more are frames of their own, without a copy. Nothing is made that the table of tags does not
name: no class, no function, no code. Queues and variables travel as definitions, by the name of a class that is
allowed to read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from aioflow.cluster._fields import RANK_MAX
from aioflow.errors import RemoteProtocolError, SpecMismatch
from aioflow.specs import DTYPES, STRING_DTYPES, dtype_name, numpy_dtype, to_host
from aioflow.transport import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.transport import Frame

__all__ = ["DEPTH_MAX", "Decoder", "Encoder", "Restore", "decode_value", "encode_value"]

# A frame costs a system call or two, and is misaligned below about 8 KiB, so that it is copied all the same.
INLINE_BYTES = 8192
# A message has 2,049 frames: its header, this module's first one, and others than arrays.
FRAMES_MAX = 2000
# Nesting of containers; msgpack's own limit is 1,024.
DEPTH_MAX = 64

_LIST, _TUPLE, _DICT, _ARRAY, _STRINGS, _INTEGER, _COMPLEX, _DEFINITION = range(8)
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1

# Makes a definition again of the name of its class and of what it has told of itself.
Restore = Callable[[str, Any], Any]


class Encoder:
    """Makes trees for msgpack of values, and gathers the frames of their large arrays behind the first one."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []

    def frames(self, tree: Any) -> list[Frame]:
        """Return the frames of a tree that was made here, once.

        Raises:
            SpecMismatch: It is larger than a frame.
        """
        packed: bytes = msgpack.packb(tree, unicode_errors="surrogatepass")
        if len(packed) > FRAME_BYTES_MAX:
            raise SpecMismatch(f"values of {len(packed)} bytes beside large arrays; expected at most {FRAME_BYTES_MAX}")
        return [packed, *self._frames]

    def tree(self, value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - a case each
        """Return the tree of a value.

        Raises:
            SpecMismatch: Something in it cannot travel; says what.
        """
        kind = type(value)
        if value is None or kind in {bool, float} or isinstance(value, (str, bytes)):
            return value
        if isinstance(value, int):
            return int(value) if _INT64_MIN <= value <= _UINT64_MAX else [_INTEGER, hex(value)]
        if kind is complex:
            return [_COMPLEX, value.real, value.imag]
        if depth >= DEPTH_MAX:
            raise SpecMismatch(f"a value is nested more than {DEPTH_MAX} deep; it cannot travel to another process")
        if isinstance(value, (list, tuple)):
            return [_LIST if isinstance(value, list) else _TUPLE, *(self.tree(item, depth + 1) for item in value)]
        if isinstance(value, dict):
            pairs = [(self.tree(key, depth + 1), self.tree(item, depth + 1)) for key, item in value.items()]
            return [_DICT, *pairs]
        if (tell := getattr(kind, "to_wire", None)) is not None:
            return [_DEFINITION, f"{kind.__module__}:{kind.__qualname__}", self.tree(tell(value), depth + 1)]
        return self._array(value)

    def _array(self, value: Any) -> Any:
        try:
            array = np.asarray(to_host(value))
        except Exception as error:
            raise SpecMismatch(f"a {type(value).__name__} cannot travel to another process: {error}") from error
        if array.dtype.kind in "SUOT":
            return self._strings(value, array)
        try:
            name = dtype_name(array.dtype)
        except SpecMismatch as error:
            raise SpecMismatch(f"a {type(value).__name__} cannot travel to another process: {error}") from error
        array = array.astype(numpy_dtype(name), copy=False)  # of this machine's byte order
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if len(data) > FRAME_BYTES_MAX:
            raise SpecMismatch(f"an array of {len(data)} bytes cannot travel: a message has {FRAME_BYTES_MAX} at most")
        return [_ARRAY, name, list(array.shape), isinstance(value, np.generic), self._place(data)]

    def _place(self, data: np.ndarray[Any, Any]) -> bytes | int:
        """Return bytes to stand in the tree, or the number of the frame that has them."""
        if len(data) < INLINE_BYTES or len(self._frames) >= FRAMES_MAX:
            return data.tobytes()
        self._frames.append(data.data)
        return len(self._frames)

    def _strings(self, value: Any, array: np.ndarray[Any, Any]) -> Any:
        items = array.ravel().tolist()
        for kind in (str, bytes):
            if all(isinstance(item, kind) for item in items):
                return [_STRINGS, list(array.shape), items]
        raise SpecMismatch(
            f"a {type(value).__name__} of {type(items[0]).__name__} cannot travel to another process; expected "
            "numbers, strings, bytes, arrays of these, and lists, tuples and dicts of them"
        )


class Decoder:
    """Makes values of the trees of some frames.

    Args:
        frames: As an encoder made them.
        restore: Makes the definitions.

    Raises:
        RemoteProtocolError: The first frame is missing, or no msgpack.
    """

    def __init__(self, frames: Sequence[Frame], restore: Restore) -> None:
        if not frames:
            raise RemoteProtocolError("values need a frame that says what they are")
        size = len(frames[0])
        try:
            self.root: Any = msgpack.unpackb(
                frames[0],
                unicode_errors="surrogatepass",
                max_str_len=size,
                max_bin_len=size,
                max_array_len=size,
                max_map_len=0,
                max_ext_len=0,
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise RemoteProtocolError(f"values that are no msgpack within the limits: {error}") from error
        self._frames = frames
        self._restore = restore

    def value(self, tree: Any, depth: int = 0) -> Any:
        """Return the value of a tree.

        Raises:
            RemoteProtocolError: It is none.
        """
        if not isinstance(tree, list):
            return tree
        if depth > DEPTH_MAX:
            raise RemoteProtocolError(f"a value nested more than {DEPTH_MAX} deep")
        try:
            return self._tagged(tree, depth + 1)
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise RemoteProtocolError(f"a value that cannot be read: {error}; got {tree!r:.80}") from error

    def _tagged(self, tree: list[Any], depth: int) -> Any:  # noqa: PLR0911 - a case each
        match tree:
            case [int(tag), *items] if tag in {_LIST, _TUPLE}:
                values = [self.value(item, depth) for item in items]
                return values if tag == _LIST else tuple(values)
            case [int(tag), *pairs] if tag == _DICT:
                return {self.value(key, depth): self.value(item, depth) for key, item in pairs}
            case [int(tag), str(name), list(shape), bool(is_scalar), data] if tag == _ARRAY:
                return self._array(name, tuple(shape), data, is_scalar=is_scalar)
            case [int(tag), list(shape), list(items)] if tag == _STRINGS:
                return _strings(tuple(shape), items)
            case [int(tag), str(digits)] if tag == _INTEGER:
                return int(digits, 16)
            case [int(tag), float(real), float(imaginary)] if tag == _COMPLEX:
                return complex(real, imaginary)
            case [int(tag), str(path), told] if tag == _DEFINITION:
                return self._restore(path, self.value(told, depth))
            case _:
                raise RemoteProtocolError(f"a value of no known kind: {tree!r:.80}")

    def _array(self, name: str, shape: tuple[Any, ...], data: Any, *, is_scalar: bool) -> Any:
        if name not in DTYPES - STRING_DTYPES:
            raise RemoteProtocolError(f"an array of dtype {name!r:.80}")
        dtype = numpy_dtype(name)
        frame: Any = data
        if isinstance(data, int):
            if not 1 <= data < len(self._frames):
                raise RemoteProtocolError(f"an array in frame {data} of {len(self._frames)}")
            frame = self._frames[data]
        _check_shape(shape)
        if math.prod(shape) * dtype.itemsize != len(frame):
            raise RemoteProtocolError(f"{name} of shape {list(shape)} does not have {len(frame)} bytes")
        array = np.frombuffer(frame, np.uint8).view(dtype).reshape(shape)
        if name == "bool" and array.size and np.max(array.view(np.uint8)) > 1:
            raise RemoteProtocolError("a bool that is neither 0 nor 1")
        if not array.flags.aligned:
            array = array.copy()
        array.flags.writeable = False
        return array[()] if is_scalar else array


def encode_value(value: Any) -> list[Frame]:
    """Return the frames of one value.

    Raises:
        SpecMismatch: Something in it cannot travel.
    """
    encoder = Encoder()
    return encoder.frames(encoder.tree(value))


def decode_value(frames: Sequence[Frame], restore: Restore) -> Any:
    """Return the value of some frames; large arrays are read-only views of them.

    Raises:
        RemoteProtocolError: They are none.
    """
    decoder = Decoder(frames, restore)
    return decoder.value(decoder.root)


def _check_shape(shape: tuple[Any, ...]) -> None:
    if len(shape) > RANK_MAX or not all(type(size) is int and size >= 0 for size in shape):
        raise RemoteProtocolError(f"an array of shape {list(shape)!r:.80}")


def _strings(shape: tuple[Any, ...], items: list[Any]) -> Any:
    _check_shape(shape)
    if math.prod(shape) != len(items) or not all(isinstance(item, (str, bytes)) for item in items):
        raise RemoteProtocolError(f"{len(items)} strings of shape {list(shape)!r:.80}")
    values = np.empty(len(items), dtype=object)
    values[:] = items
    return values.reshape(shape)
