"""The closed table of dtypes: their names on the wire and in definitions, and what stands for them.

Names travel, never NumPy's `dtype.str`: that does not round-trip bfloat16. Object dtypes are refused.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from aioflow.errors import SpecMismatch

__all__ = ["DTYPES", "EXTENDED_DTYPES", "STRING_DTYPES", "dtype_name", "numpy_dtype"]

STRING_DTYPES = frozenset({"str", "bytes"})

_NUMPY_DTYPES = frozenset(
    {
        "bool",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *(f"float{bits}" for bits in (16, 32, 64)),
        "complex64",
        "complex128",
    }
)

# Those of ml_dtypes.
EXTENDED_DTYPES = frozenset(
    {
        "bfloat16",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    }
)

# Every name of the table.
DTYPES = STRING_DTYPES | _NUMPY_DTYPES | EXTENDED_DTYPES


def dtype_name(dtype: Any) -> str:
    """Return the table's name for a dtype given as a name, a NumPy or ml_dtypes dtype, or a Python type.

    `str` and NumPy's U of any width are "str"; `bytes` and S are "bytes".

    Raises:
        SpecMismatch: The dtype is not in the table.
    """
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    found: np.dtype[Any] | None
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    # np.dtype(None) is float64: a default that nobody asked for.
    if found is not None and dtype is not None:
        if found.kind in "UT":
            return "str"
        if found.kind == "S":
            return "bytes"
        if found.name in _NUMPY_DTYPES or found.name in EXTENDED_DTYPES:
            return found.name
    raise SpecMismatch(
        f"dtype {dtype!r} is not supported; expected bool, int8 to int64, uint8 to uint64, float16 to float64, "
        "complex64, complex128, bfloat16, a float8 type of ml_dtypes, 'str' or 'bytes'"
    )


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype of a name of the table; for strings, the dtype of object."""
    if name in STRING_DTYPES:
        return np.dtype(object)
    if name in EXTENDED_DTYPES:
        import ml_dtypes  # noqa: PLC0415 - its import is paid by who uses it

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype
    return np.dtype(name)
