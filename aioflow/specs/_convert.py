"""From what users give to columns: every conversion rule stands here.

* Python ints and bools must fit exactly; Python floats round to the component's precision and must not overflow.
* Arrays convert within NumPy's `same_kind`; an integer that does not fit is refused.
* Strings are `str`, `bytes`, lists of them, NumPy's S, U and StringDType arrays, or object arrays of nothing else.
* Arrays of other libraries come by DLPack or the array interface; those on a device are copied to the host.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.errors import SpecMismatch
from aioflow.specs._columns import RANK_MAX, Strings
from aioflow.specs._dtypes import DTYPES, EXTENDED_DTYPES, STRING_DTYPES, numpy_dtype

if TYPE_CHECKING:
    from aioflow.specs._columns import Dense
    from aioflow.specs._ragged import Array
    from aioflow.specs._spec import ElementSpec, TensorSpec

__all__ = ["to_columns", "to_host"]

# What np.asarray makes of nested lists of plain Python numbers, and what these are.
_PYTHON_DTYPES = {"bool": "bool", "int64": "int", "uint64": "int", "float64": "float", "complex128": "complex"}


def to_columns(value: Any, spec: ElementSpec, *, many: bool) -> tuple[Dense, ...]:
    """Convert a value given to `enqueue`, or with `many` to `enqueue_many`, to one column for each component.

    Args:
        value: A component, a tuple of components, or a dict of them.
        spec: What the queue takes.
        many: Whether each component has a leading dimension of rows.

    Returns:
        Columns that share no memory which the caller could write to: a call that was cancelled and is in doubt may be
        over before its message is sent. Read-only memory is shared.

    Raises:
        SpecMismatch: Names, number, dtype, shape or rows of the components disagree with the specification.
    """
    parts = spec.split(value)
    columns = tuple([_to_column(part, spec, i, many=many) for i, part in enumerate(parts)])
    rows = columns[0].shape[0]
    for i, column in enumerate(columns):
        if column.shape[0] != rows:
            raise SpecMismatch(
                f"{spec.label(i)} has {column.shape[0]} rows and {spec.label(0)} has {rows}; "
                "all components of an enqueue_many need the same number"
            )
    return columns


def _to_column(value: Any, element: ElementSpec, component: int, *, many: bool) -> Dense:
    spec = element.components[component]
    try:
        return _convert(value, spec, many=many)
    except SpecMismatch as error:
        raise SpecMismatch(f"{element.label(component)}: {error}") from error.__cause__
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # NumPy's, or of an object in a list
        raise SpecMismatch(f"{element.label(component)}: could not be read as {spec}: {error}") from error


def _convert(value: Any, spec: TensorSpec, *, many: bool) -> Dense:
    if value is None:
        raise SpecMismatch(f"got None; expected {spec}")
    given = to_host(value)
    if spec.dtype in STRING_DTYPES:
        strings = _string_array(given)
        _check_shape(strings.shape, spec, many=many)
        shape = strings.shape if many else (1, *strings.shape)
        return Strings.encode([_to_bytes(item, spec) for item in strings.ravel().tolist()], shape)
    array = _to_array(given, spec)
    _check_shape(array.shape, spec, many=many)
    # What was given as it is (an object's own array too), and what is a view of something, is not ours.
    if (array is given or array.base is not None) and not _immutable(array):
        array = array.copy()
    array.flags.writeable = False  # it is ours, or was read-only before: a transport may pass it by reference
    return array if many else array[np.newaxis]


def _check_shape(shape: tuple[int, ...], spec: TensorSpec, *, many: bool) -> None:
    if many and not shape:
        raise SpecMismatch(f"enqueue_many needs a leading dimension of rows, got a scalar; expected {spec}")
    element = shape[1:] if many else shape
    if len(element) > RANK_MAX:
        raise SpecMismatch(f"got a value of rank {len(element)}; expected at most {RANK_MAX}")
    if not spec.admits(element):
        rows = f" in each of {shape[0]} rows" if many else ""
        raise SpecMismatch(f"got shape {list(element)}{rows}; expected {spec}{_other_call(shape, spec, many=many)}")


def _other_call(shape: tuple[int, ...], spec: TensorSpec, *, many: bool) -> str:
    """Return which call takes such a shape, if one does."""
    if many:
        return "; one element goes by enqueue or write" if spec.admits(shape) else ""
    if shape and spec.admits(shape[1:]):
        return f", and not {shape[0]} of them: enqueue_many and write_many take several"
    return ""


def _immutable(array: Array) -> bool:
    """Whether nobody can write to an array's memory through NumPy: read-only all the way down to its owner."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None or isinstance(owner, bytes)


# Arrays of other libraries


def to_host(value: Any) -> Any:
    """Return an array of another library as a NumPy array; anything else as it is."""
    if isinstance(value, (np.ndarray, np.generic, list, tuple, int, float, complex, str, bytes)):
        return value
    try:
        if hasattr(value, "__cuda_array_interface__") and hasattr(value, "get"):
            return np.asarray(value.get())
        if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "numpy"):
            return _torch_to_numpy(value)
        if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except (RuntimeError, TypeError, ValueError, BufferError) as error:
        raise SpecMismatch(f"a {type(value).__name__} could not be read as an array: {error}") from error
    return value


def _torch_to_numpy(tensor: Any) -> Array:
    torch = sys.modules["torch"]
    host = tensor.cpu()
    name = str(host.dtype).removeprefix("torch.")
    if name in EXTENDED_DTYPES:  # NumPy has none of these, and so PyTorch gives it none: carry their bits
        bits = host.contiguous().view(torch.int16 if name == "bfloat16" else torch.uint8)
        return bits.numpy().view(numpy_dtype(name))  # type: ignore[no-any-return]
    return host.numpy()  # type: ignore[no-any-return]


# Numbers


def _to_array(value: Any, spec: TensorSpec) -> Array:
    target = numpy_dtype(spec.dtype)
    if isinstance(value, (np.ndarray, np.generic)):
        return _convert_array(np.asarray(value), target, spec)
    if isinstance(value, (str, bytes)):
        raise SpecMismatch(f"got {type(value).__name__} {value!r:.40}; expected {spec}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise SpecMismatch(f"got a ragged list; expected {spec}") from error
    if array.size == 0 and array.dtype == np.float64:  # an empty list has no dtype of its own
        return array.astype(target)
    if array.dtype == np.float64 and isinstance(value, (list, tuple)) and not (np.abs(array) < 2.0**53).all():
        array = np.asarray(value, dtype=object)  # large ints, which NumPy made floats of, may be among them
    if array.dtype.kind == "O":
        return _convert_objects(array, target, spec)
    if array.dtype.name in _PYTHON_DTYPES:
        return _convert_python(array, target, spec)
    return _convert_array(array, target, spec)


def _convert_array(array: Array, target: np.dtype[Any], spec: TensorSpec) -> Array:
    if array.dtype == target and array.dtype.isnative:
        return array
    source = array.dtype
    # Structured and void arrays are of the same kind, V, as bfloat16.
    if source.name not in DTYPES and source.kind not in "biufc":
        raise SpecMismatch(f"got dtype {source.name}, which is not supported; expected {spec}")
    if not _same_kind(source, target):
        raise SpecMismatch(
            f"got dtype {source.name}, which does not convert to {spec.dtype} by NumPy's same_kind; if nothing is lost "
            f'by that, convert it: .astype("{spec.dtype}")'
        )
    if source.kind in "iu" and array.size:
        _check_range(array, target, spec)
    with np.errstate(over="ignore"):
        return array.astype(target)


def _same_kind(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    if np.can_cast(source, target, "same_kind"):
        return True
    # ml_dtypes registers its types outside NumPy's ladder of kinds; a float of any make takes what float64 takes.
    extended = target.isbuiltin != 1 or source.isbuiltin != 1
    return extended and np.can_cast(_ladder(source), _ladder(target), "same_kind")


def _ladder(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.isbuiltin == 1 or dtype.kind in "biufc" else np.dtype(np.float16)


def _check_range(array: Array, target: np.dtype[Any], spec: TensorSpec) -> None:
    low, high = int(array.min()), int(array.max())
    if target.kind in "iu":
        limits = np.iinfo(target)
        if low < limits.min or high > limits.max:
            raise SpecMismatch(f"{low if low < limits.min else high} does not fit into {spec.dtype}")
    elif target.kind != "b":
        with np.errstate(over="ignore"):
            ends = np.array([low, high], dtype=np.float64).astype(target).astype(np.complex128)
        if not np.isfinite(ends).all():
            raise SpecMismatch(f"{low} to {high} does not fit into {spec.dtype}")


def _convert_python(array: Array, target: np.dtype[Any], spec: TensorSpec) -> Array:
    """Convert what Python numbers became: ints and bools exactly, floats rounded and without overflow."""
    kind = array.dtype.kind
    if kind == "b" or (kind in "iu" and target.kind != "b"):
        return _convert_exactly(array, target, spec)
    target_takes = "c" if kind == "c" else "fcV"
    if target.kind not in target_takes:
        raise SpecMismatch(f"got Python {_PYTHON_DTYPES[array.dtype.name]} values; expected {spec}")
    with np.errstate(over="ignore"):
        converted = array.astype(target)
    got = converted.astype(np.complex128)
    # Some float8 types have no infinity: there it becomes a NaN.
    if (np.isfinite(got) != np.isfinite(array)).any() or (np.isnan(got) != np.isnan(array)).any():
        raise SpecMismatch(f"a value overflows {spec.dtype}")
    return converted


def _convert_exactly(array: Array, target: np.dtype[Any], spec: TensorSpec) -> Array:
    if target == array.dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(target)
        real: Array = np.real(converted) if target.kind == "c" else converted
        back = real.astype(array.dtype)
    fits = back == array
    if target.kind not in "biu" and array.dtype.kind in "iu":
        # The largest ints round up to a float that is out of range, and what becomes of that depends on the processor.
        fits &= real.astype(np.float64) < 2.0 ** (63 if array.dtype.kind == "i" else 64)
    if target.kind in "iu" and array.dtype.kind in "iu" and array.dtype.kind != target.kind:
        fits &= (converted < 0) == (array < 0)  # int64 and uint64 wrap into each other and back
    if not fits.all():
        wrong = array[~fits].ravel()[0]
        raise SpecMismatch(f"{wrong} does not fit exactly into {spec.dtype}")
    return converted


def _convert_objects(array: Array, target: np.dtype[Any], spec: TensorSpec) -> Array:
    """Convert Python numbers of which some are ints that NumPy has no common dtype for: the ints exactly."""
    items = array.ravel().tolist()
    odd = [item for item in items if not isinstance(item, (int, float, np.integer, np.floating))]
    if odd or not items:
        raise SpecMismatch(f"got a {type((odd or items or [[]])[0]).__name__}, which is no number; expected {spec}")
    ints = [int(item) if isinstance(item, (int, np.integer)) else None for item in items]
    whole = [number for number in ints if number is not None]
    if target.kind in "biu":
        if target.kind == "b" or len(whole) < len(items):
            raise SpecMismatch(f"got Python {'int' if len(whole) == len(items) else 'float'} values; expected {spec}")
        limits = np.iinfo(target)
        wrong = [number for number in whole if not limits.min <= number <= limits.max]
        converted = array if wrong else array.astype(target)
    else:
        try:
            floats = np.array([float(item) for item in items]).reshape(array.shape)
        except OverflowError as error:
            bits = max(number.bit_length() for number in whole)
            raise SpecMismatch(f"an int of {bits} bits does not fit exactly into {spec.dtype}") from error
        converted = _convert_python(floats, target, spec)
        got = np.real(converted.astype(np.complex128)).ravel().tolist()
        wrong = [number for number, back in zip(ints, got, strict=True) if number is not None and back != number]
    if wrong:
        raise SpecMismatch(f"{wrong[0]} does not fit exactly into {spec.dtype}")
    return converted


# Strings


def _string_array(value: Any) -> Array:
    if isinstance(value, (str, bytes)):  # NumPy's scalars too: as arrays they would lose trailing NULs
        scalar = np.empty((), dtype=object)
        scalar[()] = value
        return scalar
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in "SUTO":
            raise SpecMismatch(f"got dtype {array.dtype.name}; expected strings")
        return array.astype(object)
    if isinstance(value, (bytearray, memoryview)):
        raise SpecMismatch(f"got a {type(value).__name__}; expected strings: bytes(...) makes one of it")
    try:
        return np.array(value, dtype=object)  # never as U or S: those drop trailing NULs
    except ValueError as error:
        raise SpecMismatch("got a ragged list; expected strings") from error


def _to_bytes(item: Any, spec: TensorSpec) -> bytes:
    try:
        if isinstance(item, str):
            return item.encode()
        if isinstance(item, bytes):
            if spec.dtype == "str":
                item.decode()
            return bytes(item)
    except UnicodeError as error:
        raise SpecMismatch(f"{item!r:.40} is not valid UTF-8; use a component of dtype 'bytes'") from error
    raise SpecMismatch(f"got a {type(item).__name__} where a string was expected ({spec})")
