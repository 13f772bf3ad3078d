"""What tensors look like: dtypes, shapes, names; and the conversion of what users give into columns.

`_dtypes` is the closed table, `_spec` what constructors say, `_convert` the rules for values, `_columns`, `_ragged`,
`_scattered` and `_pieces` the storage.
"""

from aioflow.specs._columns import (
    Allocate,
    Column,
    Dense,
    Strings,
    column_row_bytes,
    empty,
    join_columns,
    no_memory,
    pad_column,
    take_rows,
)
from aioflow.specs._convert import to_columns, to_host
from aioflow.specs._dtypes import DTYPES, STRING_DTYPES, dtype_name, numpy_dtype
from aioflow.specs._pieces import AllocatePieces, Pieces, WritablePieces, no_pieces
from aioflow.specs._ragged import Array, Index, Ragged
from aioflow.specs._scattered import Scattered
from aioflow.specs._spec import ElementSpec, Shape, TensorSpec, parse_dtypes, parse_names, parse_shape, parse_shapes

__all__ = [
    "DTYPES",
    "STRING_DTYPES",
    "Allocate",
    "AllocatePieces",
    "Array",
    "Column",
    "Dense",
    "ElementSpec",
    "Index",
    "Pieces",
    "Ragged",
    "Scattered",
    "Shape",
    "Strings",
    "TensorSpec",
    "WritablePieces",
    "column_row_bytes",
    "dtype_name",
    "empty",
    "join_columns",
    "no_memory",
    "no_pieces",
    "numpy_dtype",
    "pad_column",
    "parse_dtypes",
    "parse_names",
    "parse_shape",
    "parse_shapes",
    "take_rows",
    "to_columns",
    "to_host",
]
