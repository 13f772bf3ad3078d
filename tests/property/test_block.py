"""A writer's quick way into columns against the conversion rules: the same values, or it leaves them to those."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aioflow.client._block import Block
from aioflow.errors import SpecMismatch
from aioflow.queues import QueueDefinition
from aioflow.specs import STRING_DTYPES, ElementSpec, Strings, TensorSpec, numpy_dtype, to_columns
from aioflow.testing import component_values, dtypes, shapes

SPECS = st.builds(TensorSpec, dtypes().filter(lambda name: name not in STRING_DTYPES), shapes(rank_max=2))
ANY = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-300, 300),
    st.floats(),
    st.booleans(),
    st.complex_numbers(),
    st.sampled_from([None, "7", b"7", [], [1], np.datetime64(0, "s"), np.str_("7")]),
    st.builds(TensorSpec, dtypes(), shapes(rank_max=1)).flatmap(component_values),
)


@given(st.data())
def test_a_block_takes_what_the_rules_take(data: st.DataObject) -> None:
    """What is added comes out with the bits that the conversion gives it; what is not there was refused in whole."""
    element = ElementSpec(tuple(data.draw(st.lists(SPECS, min_size=1, max_size=3), "specs")))
    row_bytes = element.nbytes
    assert row_bytes is not None
    block = Block(QueueDefinition("FIFOQueue", element, 10), row_bytes, 5, lambda _: None)
    expected: list[tuple[Any, ...]] = []
    for _ in range(5):
        parts = [data.draw(component_values(spec) | ANY, "value") for spec in element.components]
        value = tuple(parts) if len(parts) > 1 or data.draw(st.booleans(), "tuple") else parts[0]
        try:
            columns = to_columns(value, element, many=False)
        except SpecMismatch:
            assert not block.add(value)
        else:
            if not block.add(value):
                block.add_row(columns)
            expected.append(columns)
    segment = block.take()
    assert segment.rows == len(expected)
    for i, column in enumerate(segment.columns):
        assert not isinstance(column, Strings)
        assert not column.flags.writeable
        assert column.tobytes() == b"".join(columns[i].tobytes() for columns in expected)


@given(st.data())
def test_exact_arrays_go_the_quick_way(data: st.DataObject) -> None:
    """An array or a NumPy scalar of the dtype and shape is taken as it is."""
    spec = data.draw(SPECS, "spec")
    element = ElementSpec((spec,))
    block = Block(QueueDefinition("FIFOQueue", element, 10), element.nbytes or 0, 5, lambda _: None)
    array = np.asarray(data.draw(component_values(spec), "value"), numpy_dtype(spec.dtype))
    assert block.add(array)
    assert block.add((array,))
    assert spec.shape or block.add(array[()])
