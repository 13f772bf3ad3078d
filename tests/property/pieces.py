"""Pieces without a transport, that find out who reads what was let go of."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.specs import WritablePieces

if TYPE_CHECKING:
    from collections.abc import Iterable

BYTES = np.dtype(np.uint8)


class FakePieces(WritablePieces):
    """Pieces of one array.

    Attributes:
        released: How many times each was let go of.
    """

    def __init__(self, size: int, count: int, memory: np.ndarray[Any, Any] | None = None) -> None:
        super().__init__(size, count)
        self._memory = np.zeros((count, size), np.uint8) if memory is None else memory
        self.released: Counter[int] = Counter()

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> FakePieces:
        """Have the rows of an array."""
        rows = array.reshape(len(array), -1).view(np.uint8)
        return cls(rows.shape[1], len(rows), rows.copy())

    def piece(self, number: int, dtype: np.dtype[Any] = BYTES) -> np.ndarray[Any, Any]:
        """Return a piece that was not let go of."""
        assert not self.released[number], "nobody may read it any more"
        piece: np.ndarray[Any, Any] = self._memory[number].view(dtype)
        return piece

    def part(self, first: int, count: int) -> FakePieces:
        """Return some of them."""
        return FakePieces(self.size, count, self._memory[first : first + count])

    def release(self, numbers: Iterable[int]) -> None:
        """Count, and write something else there."""
        for number in numbers:
            self.released[number] += 1
            self._memory[number] = 0xA5
