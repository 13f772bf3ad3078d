"""Memory of their own for rows that vary in size, and leave out of order."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from aioflow.specs import Ragged, Scattered, Strings

if TYPE_CHECKING:
    from aioflow.specs import Array, Column

__all__ = ["OwnPages"]

# From this size on a row may have pages of its own: of the last one some is unused.
PAGES_FROM = 64 << 10

# As few rows of a queue have them: a process may map 65,530 times (vm.max_map_count).
PAGED_ROWS_MAX = 4096

# All pages at once: one by one as they are written to, they take half as long again.
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)  # of Linux


class OwnPages:
    """Copies values; those of a large row to pages that the system has back once it has left.

    The next row may be of any size: what many rows leave behind in memory that they share may have room for none.

    Args:
        bytes_max: How many bytes the rows have together at most.
    """

    def __init__(self, bytes_max: int) -> None:
        self._least = max(PAGES_FROM, bytes_max // PAGED_ROWS_MAX)

    def copy(self, values: Array) -> Array:
        """Return a copy of an array."""
        if values.nbytes < self._least:
            return values.copy()
        try:
            pages = mmap.mmap(-1, values.nbytes, flags=_FLAGS)
        except OSError:  # the process may map no more
            return values.copy()
        copy = np.frombuffer(pages, values.dtype).reshape(values.shape)
        copy[...] = values
        return copy

    def copy_column(self, column: Column) -> Column:
        """Return a copy of a column, unless its rows lie apart."""
        match column:
            case Strings():
                return Strings(column.lengths.copy(), self.copy(column.data))
            case Ragged():
                return Ragged(column.sizes.copy(), self.copy(column.data))
            case Scattered():
                return column
            case _:
                return self.copy(column)
