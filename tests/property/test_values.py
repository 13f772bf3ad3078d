"""Values and graphs through the wire: whatever can be nested comes out as it went in, and garbage is refused."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import aioflow as flow
from aioflow.cluster._graph_codec import decode_graph, encode_graph
from aioflow.cluster._library import OpLibrary
from aioflow.cluster._values import DEPTH_MAX, FRAMES_MAX, INLINE_BYTES, decode_value, encode_value
from aioflow.errors import RemoteProtocolError, SpecMismatch
from aioflow.specs import DTYPES, STRING_DTYPES, numpy_dtype

NUMBERS = sorted(DTYPES - STRING_DTYPES)
FEW = settings(max_examples=max(100, settings().max_examples // 4))

texts = st.text(st.characters(), max_size=20)  # surrogates included
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.complex_numbers()
    | texts
    | st.binary(max_size=20)
)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Draw an array or a NumPy scalar of any dtype, in any layout, also of strings."""
    shape = tuple(draw(nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    name = draw(st.sampled_from([*NUMBERS, "str", "bytes"]))
    size = math.prod(shape)
    if name in STRING_DTYPES:
        items = draw(st.lists(texts if name == "str" else st.binary(max_size=5), min_size=size, max_size=size))
        made = np.empty(size, object)
        made[:] = items
        return made.reshape(shape)
    dtype = numpy_dtype(name)
    raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    array = np.frombuffer(bytearray(raw), np.uint8)
    array = (array % 2).astype(bool) if name == "bool" else array.view(dtype)
    array = array.reshape(shape)
    if draw(st.booleans()):
        array = array.T
    if array.ndim and draw(st.booleans()):
        array = array[::-1]
    return array[()] if not shape and draw(st.booleans()) else array


keys = st.integers() | texts | st.binary(max_size=5) | st.none() | st.tuples(st.integers(), texts)
values = st.recursive(
    scalars | arrays(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are of the same kinds, and equal to the bit."""
    return bool(_tell(one) == _tell(other))


def _tell(value: Any) -> Any:
    """Return what two values that are the same have in common."""
    if isinstance(value, (np.ndarray, np.generic)):
        told = value.tolist() if value.dtype == object else value.tobytes()
        return type(value), str(value.dtype), value.shape, told
    if isinstance(value, dict):
        return dict, [(repr(key), _tell(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), list(map(_tell, value))
    return type(value), value if isinstance(value, int) else repr(value)  # NaN; and zeros differ by their sign


@given(values)
@example(10**5000)
@example(-(2**63) - 1)
@example(2**64)
@example([np.zeros((0, 2**40), "u1"), np.array(2.5), np.float32(1), -0.0, complex(math.nan, -0.0)])
def test_values(value: Any) -> None:
    """What goes in comes out: kinds, dtypes, shapes and bits; and what comes out goes through again."""
    frames = encode_value(value)
    found = decode_value([bytes(frame) for frame in frames], OpLibrary.restore)
    assert same(value, found)
    assert same(value, decode_value(encode_value(found), OpLibrary.restore))


@pytest.mark.parametrize("nbytes", [INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1])
def test_large_arrays_are_frames_without_a_copy(nbytes: int) -> None:
    """Both ways; below the limit they stand among the other values."""
    array = np.arange(nbytes, dtype=np.uint8)
    frames = encode_value({"a": [array, (array,)]})
    if nbytes < INLINE_BYTES:
        assert len(frames) == 1
        return
    assert len(frames) == 3
    assert all(np.shares_memory(np.frombuffer(frame, np.uint8), array) for frame in frames[1:])
    found = decode_value(frames, OpLibrary.restore)["a"][0]
    assert np.shares_memory(found, array)
    assert not found.flags.writeable


def test_more_arrays_than_frames_stand_among_the_values() -> None:
    """A message has a limited number of frames."""
    array = np.zeros(INLINE_BYTES, np.uint8)
    frames = encode_value([array] * (FRAMES_MAX + 5))
    assert len(frames) == FRAMES_MAX + 1
    assert same([array] * (FRAMES_MAX + 5), decode_value(frames, OpLibrary.restore))


def test_depth_is_limited() -> None:
    """On both sides."""
    value: Any = 1
    for _ in range(DEPTH_MAX):
        value = [value]
    assert same(value, decode_value(encode_value(value), OpLibrary.restore))
    with pytest.raises(SpecMismatch, match=f"more than {DEPTH_MAX} deep"):
        encode_value([value])
    tree: Any = 1
    for _ in range(DEPTH_MAX + 2):
        tree = [0, tree]
    with pytest.raises(RemoteProtocolError, match=f"more than {DEPTH_MAX} deep"):
        decode_value([msgpack.packb(tree)], OpLibrary.restore)


def test_what_is_like_a_plain_value_travels_as_that() -> None:
    """Strings and numbers of NumPy and of enumerations; named tuples as tuples."""
    for value, expected in [(np.str_("a"), "a"), (np.bytes_(b"a"), b"a"), (math.inf, math.inf)]:
        assert same(expected, decode_value(encode_value(value), OpLibrary.restore))
    swapped = np.array([1, 2], ">i4")
    assert decode_value(encode_value(swapped), OpLibrary.restore).tolist() == [1, 2]


class _Odd:
    """Something of a program's own."""


@pytest.mark.parametrize(
    "value",
    [_Odd(), {1, 2}, _Odd, len, np.array([_Odd()]), np.array(["a", b"b"], object), np.array("2020", "M8[D]")],
    ids=["object", "set", "class", "function", "objects", "mixed", "datetime"],
)
def test_what_cannot_travel_is_refused(value: Any) -> None:
    """Before anything is sent, by name; no code travels."""
    with pytest.raises(SpecMismatch, match="cannot travel"):
        encode_value([value])


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.integers(-2, 9) | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([*NUMBERS, "aioflow.graph._builtin:CONSTANT", "aioflow.client._queue:Queue", "/cpu:0"])
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.integers(-2, 9), inner, max_size=3),
    max_leaves=40,
)  # fmt: skip


@given(trees, st.lists(st.binary(max_size=16), max_size=2))
@example([3, "uint8", [2**60, 2**60], False, b""], [])
@example([3, "uint8", [-1], False, b""], [])
@example([3, "uint8", [0, 2**63], False, b""], [])
@example([3, "bool", [1], False, b"\x02"], [])
@example([3, "float32", [1], False, 7], [])
@example([4, [2], ["a"]], [])
@example([5, "12x"], [])
@example([5, "1" * 5000], [])
@example([2, [[0], 1]], [])
@example([7, "os:system", ["ls"]], [])
@example([7, "aioflow.client._queue:Queue", [0]], [])
def test_garbage_is_no_value(tree: Any, frames: list[bytes]) -> None:
    """It is refused as what it is, or is a value by chance."""
    with suppress(RemoteProtocolError):
        decode_value([msgpack.packb(tree), *frames], OpLibrary.restore)


@given(st.lists(st.binary(max_size=60), max_size=3))
@example([b"\x91" * 1200 + b"\x01"])
@example([])
def test_noise_is_neither_value_nor_graph(frames: list[bytes]) -> None:
    """Also where it is nested without end."""
    for decode in (lambda: decode_value(frames, OpLibrary.restore), lambda: decode_graph(frames)):
        with suppress(RemoteProtocolError):
            decode()


def _nested(depth: int) -> Any:
    tree: Any = [0, 1]
    for _ in range(depth):
        tree = [2, [tree]]
    return tree


CONSTANT = ["aioflow.graph._builtin:CONSTANT", "constant", 1, ["CPU"]]
RECORD = ["n", 0, [[0, 1]], [], [], "", None, "a.py:1"]


@given(trees, trees)
@example([["m:o", "o", 10**18, ["CPU"]]], [[*RECORD[:2], [], *RECORD[3:]]])
@example([["m:o", "o", 1, [[1]]]], [[*RECORD[:2], [], *RECORD[3:]]])
@example([CONSTANT], [[*RECORD[:4], [0], *RECORD[5:]]])
@example([CONSTANT], [[*RECORD[:2], [[1, 0, 0]], *RECORD[3:]]])
@example([CONSTANT], [[*RECORD[:6], [0, "", "v", False, "/gpu:x"], "l"]])
@example([CONSTANT], [[*RECORD[:6], [7, "", "v", False, ""], "l"]])
def test_garbage_is_no_graph(described: Any, records: Any) -> None:
    """Nor with some of it in the right place."""
    _read_garbage(described, records)


def _read_garbage(described: Any, records: Any) -> None:
    for root in ([described, records], described):
        try:
            graph = decode_graph([msgpack.packb(root)])
        except RemoteProtocolError:
            pass
        else:
            assert all(len(node.outputs) == node.op.num_outputs for node in graph.nodes)


def test_arguments_are_not_nested_without_end() -> None:
    """A graph that would take a thousand calls within each other to read is refused."""
    with pytest.raises(RemoteProtocolError, match=f"more than {DEPTH_MAX} deep"):
        decode_graph([msgpack.packb([[CONSTANT], [[*RECORD[:2], [_nested(400)], *RECORD[3:]]]])])


@FEW
@given(st.data())
def test_a_graph_with_something_changed(data: st.DataObject) -> None:
    """Whatever field of a good record is another value: refused, or a graph."""
    records = [[*RECORD], ["m", 1, [[1, 0, 0], [4, [["k", [0, 2]]]]], ["w"], [0], "/cpu:0", None, "l"]]
    described = [[*CONSTANT], ["m:o", "o", 2, ["CPU", "GPU"]]]
    row: Any = data.draw(st.sampled_from([*records, *described]))
    row[data.draw(st.integers(0, len(row) - 1))] = data.draw(trees)
    _read_garbage(described, records)


@flow.op(num_outputs=2)
def pair(*values: Any, **named: Any) -> Any:
    """Be a node of two outputs."""


@flow.op
def node(*values: Any, **named: Any) -> Any:
    """Be a node."""


@st.composite
def graphs(draw: st.DrawFn) -> flow.Graph:
    """Draw a graph of nodes with values, containers of them, keywords, devices and control edges."""
    with flow.Graph() as graph:
        outputs: list[Any] = [flow.constant(draw(st.integers()))]
        for _ in range(draw(st.integers(0, 6))):
            leaves = st.sampled_from(outputs) | values
            inner = st.lists(leaves, max_size=2) | st.dictionaries(texts, leaves, max_size=2) | leaves
            taken = draw(st.lists(inner | st.tuples(inner, leaves), max_size=3))
            named = draw(st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2))
            after = draw(st.lists(st.sampled_from(graph.nodes), max_size=2))
            device = draw(st.sampled_from(["", "/cpu:0", "/job:ps/task:3", "/gpu:*"]))
            with flow.device(device), flow.control_dependencies(after):
                made = draw(st.sampled_from([node, pair]))(*taken, **named)
            outputs += made if isinstance(made, tuple) else [made]
    return graph


@FEW
@given(graphs())
def test_graphs(graph: flow.Graph) -> None:
    """Nodes come out as they went in; what comes out gives the same frames again."""
    frames = encode_graph(graph)
    found = decode_graph([bytes(frame) for frame in frames])
    assert encode_graph(found) == [bytes(frame) for frame in frames]
    for one, other in zip(graph.nodes, found.nodes, strict=True):
        assert (one.name, one.line, one.device, one.keywords) == (other.name, other.line, other.device, other.keywords)
        assert (one.op.path, one.op.num_outputs) == (other.op.path, other.op.num_outputs)
        assert [taken.node.index for taken in one.inputs] == [taken.node.index for taken in other.inputs]
        assert [control.index for control in one.controls] == [control.index for control in other.controls]


def test_a_graph_with_a_circle_is_refused() -> None:
    """Its step would never end."""
    records = [["a", 0, [[0, 1]], [], [1], "", None, ""], ["b", 0, [[1, 0, 0]], [], [], "", None, ""]]
    with pytest.raises(RemoteProtocolError, match="form a circle"):
        decode_graph([msgpack.packb([[CONSTANT], records])])
