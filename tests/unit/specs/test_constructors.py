"""What constructors say of dtypes, shapes and names: the table of semantics 1.7."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aioflow.errors import SpecMismatch
from aioflow.specs import DTYPES, TensorSpec, dtype_name, numpy_dtype, parse_dtypes, parse_names, parse_shapes


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_names_are_theirs(name: str) -> None:
    """api.md, dtypes: every name of the table is a dtype, and stands for itself."""
    assert dtype_name(name) == name
    assert name in {"str", "bytes"} or dtype_name(numpy_dtype(name)) == name


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.float32, "float32"),
        (np.dtype(">i4"), "int32"),
        (int, "int64"),
        (float, "float64"),
        (bool, "bool"),
        (complex, "complex128"),
        (str, "str"),
        (bytes, "bytes"),
        ("U7", "str"),
        ("S", "bytes"),
        (np.dtypes.StringDType(), "str"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (ml_dtypes.float8_e4m3fn, "float8_e4m3fn"),
    ],
)
def test_what_stands_for_a_dtype(dtype: Any, name: str) -> None:
    """api.md, dtypes: NumPy's and ml_dtypes' dtypes, Python types, S and U of any width stand for names."""
    assert dtype_name(dtype) == name


@pytest.mark.parametrize(
    "dtype", [None, object, "O", "M8[s]", "float128", "i4,i4", "V4", "no such", {}, 3, ml_dtypes.int4]
)
def test_other_dtypes(dtype: Any) -> None:
    """api.md, dtypes: anything else is refused, objects above all."""
    with pytest.raises(SpecMismatch, match="not supported"):
        dtype_name(dtype)


def test_one_dtype_or_a_list() -> None:
    """semantics 1.7: dtypes is one dtype or a list, and not none."""
    assert parse_dtypes("int32") == ("int32",)
    assert parse_dtypes([np.int32, str]) == ("int32", "str")
    with pytest.raises(SpecMismatch, match="at least one"):
        parse_dtypes([])


@pytest.mark.parametrize(
    ("shapes", "count", "parsed"),
    [
        (None, 2, (None, None)),
        ((3, 2), 1, ((3, 2),)),
        ([3, 2], 1, ((3, 2),)),
        ((), 1, ((),)),
        ([], 1, ((),)),
        ([[]], 1, ((),)),
        ([()], 1, ((),)),
        ([[3, 2]], 1, ((3, 2),)),
        ([[], [2], (3, 0)], 3, ((), (2,), (3, 0))),
        ([np.int64(4)], 1, ((4,),)),
    ],
)
def test_shapes(shapes: Any, count: int, parsed: Any) -> None:
    """semantics 1.7: None, one shape, or a list of shapes; a sequence of sizes is one shape, () and [] a scalar."""
    assert parse_shapes(shapes, count, partial=False) == parsed


@pytest.mark.parametrize(
    ("shapes", "count"),
    [
        ([[1], [2]], 1),
        ([[1]], 2),
        ((3, 2), 2),
        ((), 2),
        (3, 1),
        ("ab", 1),
        ([None], 1),
        ([[None]], 1),
        ([[2], None], 2),
        ([[2.5]], 1),
        ([[-1]], 1),
        ([["a"]], 1),
    ],
)
def test_shapes_that_are_refused(shapes: Any, count: int) -> None:
    """semantics 1.7: a wrong number, what is no shape, a partial shape or an unknown rank are ValueErrors."""
    with pytest.raises(SpecMismatch):
        parse_shapes(shapes, count, partial=False)


@pytest.mark.parametrize(
    ("shapes", "parsed"), [([[None]], ((None,),)), (((None, 2),), ((None, 2),)), ([()], ((),)), ([[3]], ((3,),))]
)
def test_padding_shapes(shapes: Any, parsed: Any) -> None:
    """semantics 1.8: a PaddingFIFOQueue's sizes may be unknown."""
    assert parse_shapes(shapes, 1, partial=True) == parsed


@pytest.mark.parametrize("shapes", [None, (), [], (None,), [None], (3, 2), 3])
def test_padding_wants_a_list_of_shapes(shapes: Any) -> None:
    """semantics 1.7: a PaddingFIFOQueue refuses None, (), [] and a bare shape."""
    with pytest.raises(SpecMismatch, match="a list of shapes"):
        parse_shapes(shapes, 1, partial=True)


def test_names() -> None:
    """semantics 1.7: names are None, one name or a list; duplicates are accepted."""
    assert parse_names(None, 2) is None
    assert parse_names("x", 1) == ("x",)
    assert parse_names(["x", "x"], 2) == ("x", "x")


@pytest.mark.parametrize(("names", "count"), [("x", 2), (["x"], 2), (["x", "y"], 1), ([], 1), (3, 1), ([3], 1)])
def test_names_that_are_refused(names: Any, count: int) -> None:
    """semantics 1.7: the number of names is that of components, and they are strings."""
    with pytest.raises(SpecMismatch):
        parse_names(names, count)


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [("float32", (3, 2), 24), ("bfloat16", (3,), 6), ("str", (), None), ("int8", (None,), None), ("int8", None, None)],
)
def test_bytes_of_an_element(dtype: str, shape: Any, nbytes: int | None) -> None:
    """semantics 0.4: a component of fixed size says how many bytes it has."""
    assert TensorSpec(dtype, shape).nbytes == nbytes
