"""Numbers that users give, and what becomes of them: semantics 0.2 and the dtypes of the public interface."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aioflow.errors import SpecMismatch
from aioflow.specs import ElementSpec, Strings, TensorSpec, numpy_dtype, to_columns

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def convert(value: Any, dtype: str, shape: Any = None, *, many: bool = False, private: bool = True) -> Any:
    """Convert a value of one component, and return it as an array or as strings."""
    spec = ElementSpec((TensorSpec(dtype, shape),))
    (column,) = to_columns((value,), spec, many=many)
    found = column.decode(dtype) if isinstance(column, Strings) else column
    assert isinstance(column, Strings) or column.dtype == numpy_dtype(dtype)
    return found if many else found[0]


def refuse(value: Any, dtype: str, shape: Any = None, *, match: str = "component 0", many: bool = False) -> None:
    """Expect a refusal that names the component."""
    with pytest.raises(SpecMismatch, match=match):
        convert(value, dtype, shape, many=many)


# Python ints and bools


@pytest.mark.parametrize("dtype", INTEGERS)
def test_ints_to_the_edge(dtype: str) -> None:
    """semantics 0.2: Python ints fit up to the limits of the component, and no further."""
    limits = np.iinfo(dtype)
    assert convert([limits.min, limits.max], dtype).tolist() == [limits.min, limits.max]
    refuse(limits.max + 1, dtype, match="does not fit exactly")
    refuse(limits.min - 1, dtype, match="does not fit exactly")


def test_int64_and_uint64_do_not_wrap() -> None:
    """semantics 0.2: numbers never wrap: -1 is no uint64, and 2**63 no int64."""
    refuse([-1, 5], "uint64")
    refuse([2**63, 5], "int64")
    assert int(convert(2**63, "uint64")) == 2**63


@pytest.mark.parametrize(
    ("dtype", "fits", "does_not"),
    [
        ("float16", 2048, 2049),
        ("float32", 2**24, 2**24 + 1),
        ("float64", 2**53, 2**53 + 1),
        ("bfloat16", 256, 257),
        ("float8_e4m3fn", 16, 17),
        ("complex64", 2**24, 2**24 + 1),
        ("float64", 2**63, 2**63 - 1),
        ("float64", -(2**63), -(2**63) + 1),
        ("float64", 3 * 2**62, 2**64 - 1),
        ("float32", 2**70, 2**70 + 1),
        ("bfloat16", 2**70, 2**70 + 1),
    ],
)
def test_ints_fit_floats_exactly(dtype: str, fits: int, does_not: int) -> None:
    """semantics 0.2: Python ints must fit exactly, also into floats."""
    assert convert(fits, dtype).astype(np.complex128) == complex(fits)
    refuse(does_not, dtype, match="does not fit exactly")


@pytest.mark.parametrize("dtype", FLOATS)
def test_ints_beyond_a_float(dtype: str) -> None:
    """semantics 0.2: a Python int beyond the floats is refused, not infinite."""
    refuse(10**400, dtype, match="does not fit exactly")
    refuse(10**300, dtype)


def test_ints_in_lists_with_floats() -> None:
    """semantics 0.2: large ints fit exactly in lists with other numbers too, of which NumPy would make floats."""
    assert convert([2**53, 0.5], "float64").tolist() == [2**53, 0.5]
    refuse([2**53 + 1, 0.5], "float64", match="does not fit exactly")
    refuse([2**63 + 1, -1], "float64", match="does not fit exactly")
    refuse([1e300, 0.5], "float32", match="overflows")
    refuse([1e300, 1], "int32")
    assert convert([np.float32(2**60), 1.5], "float32").tolist() == [2**60, 1.5]


def test_ints_are_no_bools() -> None:
    """semantics 1.7: an int does not become a bool, nor does a float or a string."""
    for value in (1, 0, 1.0, [True, 2]):
        refuse(value, "bool")
    refuse("True", "bool")


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, "bool", "complex128"])
def test_bools_fit(dtype: str) -> None:
    """semantics 0.2: Python bools fit exactly into every number."""
    assert convert([True, False], dtype).tolist() == [1, 0]


# Python floats and complex numbers


def test_floats_round() -> None:
    """semantics 0.2: Python floats round to the component's precision."""
    assert convert(0.1, "float32") == np.float32(0.1)
    assert convert(1e-300, "float32") == 0
    assert convert([1, 2.5], "bfloat16").tolist() == [1, 2.5]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 1e5), ("float32", 1e39), ("bfloat16", 3.5e38), ("float8_e4m3fn", 500.0), ("complex64", 1e39)],
)
def test_floats_do_not_overflow(dtype: str, value: float) -> None:
    """semantics 0.2: Python floats must not overflow."""
    refuse(value, dtype, match="overflows")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "float8_e5m2"])
def test_what_is_infinite_stays_so(dtype: str) -> None:
    """semantics 0.2: infinities and NaNs that were given are no overflow."""
    got = convert([float("inf"), float("-inf"), float("nan")], dtype).astype(np.float64)
    assert np.isposinf(got[0])
    assert np.isneginf(got[1])
    assert np.isnan(got[2])


def test_infinity_needs_a_type_that_has_one() -> None:
    """semantics 0.2: a float8 type without infinities takes none, but NaNs."""
    refuse(float("inf"), "float8_e4m3fn", match="overflows")
    assert np.isnan(convert(float("nan"), "float8_e4m3fn").astype(np.float32))


@pytest.mark.parametrize("value", [1.0, 1.5, [1, 2.0]])
def test_floats_are_no_ints(value: Any) -> None:
    """semantics 0.2: a Python float is no int, whatever its value."""
    refuse(value, "int32")


def test_complex_numbers() -> None:
    """semantics 0.2: complex numbers go to complex components only."""
    assert convert(1 + 2j, "complex64") == 1 + 2j
    assert convert(1.5, "complex64") == 1.5
    refuse(1j, "float64")


# Arrays


@pytest.mark.parametrize(
    ("source", "target", "converts"),
    [
        ("int32", "int8", True),
        ("uint8", "int8", True),
        ("uint8", "float16", True),
        ("float64", "float16", True),
        ("bool", "int32", True),
        ("float64", "bfloat16", True),
        ("bfloat16", "float32", True),
        ("bfloat16", "float8_e5m2", True),
        ("int64", "float8_e4m3fn", True),
        ("float32", "complex64", True),
        ("int8", "uint8", False),
        ("float32", "int32", False),
        ("int32", "bool", False),
        ("complex64", "float32", False),
        ("bfloat16", "int8", False),
    ],
)
def test_arrays_convert_within_same_kind(source: str, target: str, *, converts: bool) -> None:
    """semantics 0.2: arrays convert within NumPy's same_kind, ml_dtypes' floats as floats."""
    array = np.ones(3).astype(numpy_dtype(source))
    if converts:
        assert convert(array, target).tolist() == [1, 1, 1]
    else:
        refuse(array, target, match="same_kind")


def test_an_integer_array_must_fit() -> None:
    """semantics 0.2: an integer of an array that does not fit is refused."""
    refuse(np.array([1, 128]), "int8", match="128 does not fit")
    refuse(np.array([2**63], np.uint64), "int64")
    refuse(np.array([70_000]), "float16")
    refuse(np.int64(300), "uint8")
    assert convert(np.array([127, -128]), "int8").tolist() == [127, -128]


def test_a_big_endian_array() -> None:
    """semantics 0.2: an array of the other byte order is of the same dtype."""
    assert convert(np.array([1, 2], ">i4"), "int32").tolist() == [1, 2]


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 2], dtype=object),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("a", "i4")]),
        np.zeros(2, "V4"),
        np.array(["a"]),
        np.zeros(2, ml_dtypes.int4),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16"])
def test_other_arrays_are_refused(array: Any, dtype: str) -> None:
    """api.md, dtypes: arrays of objects, dates, structures or strings are no numbers."""
    refuse(array, dtype)


@pytest.mark.parametrize("value", [None, [1, None], object(), {1, 2}, "x", b"y", ["x"], [[1], [2, 3]]])
def test_what_is_no_number(value: Any) -> None:
    """semantics 1.7: None, strings, ragged lists and foreign objects are refused, naming the component."""
    refuse(value, "float32")


def test_an_empty_list_has_every_dtype() -> None:
    """semantics 1.7: an empty list fits a component of size 0 of any dtype."""
    for dtype in ("int32", "bool", "bfloat16", "str"):
        assert convert([], dtype, (0,)).shape == (0,)
