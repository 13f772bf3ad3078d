"""What a shuffle keeps of the segments whose rows it has mostly given out."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

from aioflow.queues import Completed, QueueDefinition, QueueMachine, Segment, gather
from aioflow.specs import ElementSpec, Strings, TensorSpec, pad_column, to_columns

ROWS, ROW_BYTES, HELD = 64, 1024, 512


def _machine(dtype: str, shape: tuple[int, ...]) -> tuple[QueueMachine, ElementSpec]:
    element = ElementSpec((TensorSpec("int64", ()), TensorSpec(dtype, shape)))
    definition = QueueDefinition("RandomShuffleQueue", element, HELD, min_after_dequeue=HELD - ROWS - 1, seed=3)
    return QueueMachine(definition, np.random.default_rng(3), "memory"), element


@pytest.mark.parametrize("batch", [1, ROWS])
@pytest.mark.parametrize(("dtype", "shape"), [("uint8", (ROW_BYTES,)), ("bytes", ())])
def test_segments_are_copied_down_to_the_rows_that_are_left(dtype: str, shape: tuple[int, ...], batch: int) -> None:
    """semantics 0.4: capacity_bytes bounds what is held, not only what is counted."""
    machine, element = _machine(dtype, shape)
    blocks: list[weakref.ref[np.ndarray]] = []
    seen: list[int] = []
    for put in range(100):
        numbers = np.arange(put * ROWS, (put + 1) * ROWS)
        payload = [number.tobytes() * (ROW_BYTES // 8) for number in numbers]
        value = (
            payload if dtype == "bytes" else np.frombuffer(b"".join(payload), np.uint8).reshape(ROWS, ROW_BYTES).copy()
        )
        segment = Segment.of(to_columns((numbers, value), element, many=True))
        column: Any = segment.columns[1]
        blocks.append(weakref.ref(column.data if isinstance(column, Strings) else column))
        machine.enqueue(segment)
        del segment, column, value
        for _ in range(ROWS // batch if put >= HELD // ROWS else 0):
            machine.dequeue(batch)
        for effect in machine.take_effects():
            if isinstance(effect, Completed) and effect.rows is not None:
                taken, drawn = map(pad_column, gather(effect.rows, element))
                assert isinstance(taken, np.ndarray)
                decoded = drawn.decode(dtype) if isinstance(drawn, Strings) else [row.tobytes() for row in drawn]
                assert [number.tobytes() * (ROW_BYTES // 8) for number in taken] == list(decoded)
                seen += taken.tolist()
                machine.acknowledge(effect.ticket)
        del effect
    held = sum(ROWS * ROW_BYTES for block in blocks if block() is not None)
    assert held <= 2 * HELD * ROW_BYTES + (1 << 20)
    assert len(set(seen)) == len(seen)
