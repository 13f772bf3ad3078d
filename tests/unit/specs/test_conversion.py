"""Strings, shapes, components and arrays of other libraries that users give: semantics 0.2 and 1.7."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from aioflow.errors import SpecMismatch
from aioflow.specs import ElementSpec, Strings, TensorSpec, numpy_dtype, to_columns


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


# Strings


@pytest.mark.parametrize("dtype", ["str", "bytes"])
@pytest.mark.parametrize(
    "value",
    [
        ["ä", "b"],
        ["ä".encode(), b"b"],
        np.array(["ä", "b"]),
        np.char.encode(np.array(["ä", "b"]), "utf-8"),
        np.array(["ä", "b"], dtype=np.dtypes.StringDType()),
        np.array(["ä", b"b"], dtype=object),
        [np.str_("ä"), np.bytes_(b"b")],
    ],
)
def test_strings_of_every_make(dtype: str, value: Any) -> None:
    """api.md, dtypes: str, bytes, lists of them, S, U and StringDType arrays, and object arrays of nothing else."""
    expected = ["ä", "b"] if dtype == "str" else ["ä".encode(), b"b"]
    got = convert(value, dtype, (2,))
    assert got.tolist() == expected
    assert {type(item) for item in got} == {str if dtype == "str" else bytes}


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_that_may_change(kind: Any) -> None:
    """They are no strings; the message says how they become some."""
    refuse(kind(b"ab"), "bytes", (), match=rf"got a {kind.__name__}; expected strings: bytes\(...\) makes one of it")


@pytest.mark.parametrize("value", ["a\0", b"a\0\0", np.str_("a\0"), np.bytes_(b"a\0")], ids=repr)
def test_trailing_nuls_stay(value: Any) -> None:
    """api.md, dtypes: strings come back as they were, trailing NULs included, alone or in lists."""
    raw = value if isinstance(value, bytes) else value.encode()
    assert convert(value, "bytes", ()) == raw
    assert convert([value, value], "bytes", (2,)).tolist() == [raw, raw]


def test_a_str_queue_takes_utf8() -> None:
    """api.md, dtypes: a "str" queue takes bytes as UTF-8, and refuses others; a "bytes" queue takes any."""
    refuse(b"\xff", "str", match="UTF-8")
    refuse("\ud800", "bytes", match="UTF-8")
    assert convert(b"\xff\0", "bytes", ()) == b"\xff\0"


@pytest.mark.parametrize("value", [1, 1.5, ["a", 1], np.array(["a", None], dtype=object), np.ones(2), bytearray(b"x")])
def test_what_is_no_string(value: Any) -> None:
    """semantics 1.7: a number does not become a string."""
    refuse(value, "str")


def test_a_string_is_a_scalar() -> None:
    """api.md, dtypes: a string is one value, not a sequence of characters."""
    refuse("abc", "str", (3,))
    assert convert("abc", "str", ()) == "abc"


# Shapes and rows


def test_shapes_are_checked() -> None:
    """semantics 1.7: a shape that is not the component's is refused, and both are named."""
    refuse([1, 2, 3], "int32", (2,), match=r"got shape \[3\]; expected int32\[2\]")
    refuse([[1, 2]], "int32", (2,), match=r"int32\[2\], and not 1 of them: enqueue_many and write_many take several$")
    with pytest.raises(SpecMismatch, match=r"expected int32\[2\]; one element goes by enqueue or write$"):
        to_columns(([1, 2],), ElementSpec((TensorSpec("int32", (2,)),)), many=True)
    refuse(np.zeros((2, 4)), "float32", (None, 3), match=r"float32\[\?,3\]")
    assert convert(np.zeros((7, 3)), "float32", (None, 3)).shape == (7, 3)


def test_any_shape() -> None:
    """semantics 1.5: without shapes every element may have its own."""
    for shape in ((), (2,), (1, 0, 3)):
        assert convert(np.zeros(shape), "float32").shape == shape


def test_many_needs_rows() -> None:
    """semantics 1.7: in an enqueue_many a component needs a leading dimension."""
    refuse(5, "int32", (), many=True, match="leading dimension")
    refuse("abc", "str", (), many=True, match="leading dimension")
    assert convert([1, 2, 3], "int32", (), many=True).tolist() == [1, 2, 3]


def test_rows_must_be_equal() -> None:
    """semantics 1.7: every component of an enqueue_many has the same row count."""
    spec = ElementSpec((TensorSpec("int32", ()), TensorSpec("str", ())))
    with pytest.raises(SpecMismatch, match="component 1 has 1 rows and component 0 has 2"):
        to_columns(([1, 2], ["a"]), spec, many=True)


@pytest.mark.parametrize("dtype", ["float32", "str"])
def test_rows_without_values(dtype: str) -> None:
    """semantics 0.2: zero-sized rows and no rows work."""
    assert convert(np.empty((4, 0), "U1" if dtype == "str" else "f4"), dtype, (0,), many=True).shape == (4, 0)
    assert convert(np.empty((0, 3), "U1" if dtype == "str" else "f4"), dtype, (3,), many=True).shape == (0, 3)


# Components and names

TWO = ElementSpec((TensorSpec("int32", ()), TensorSpec("int32", ())))
NAMED = ElementSpec(TWO.components, ("x", "y"))
ONE = ElementSpec((TensorSpec("int32", None),))


def _split(value: Any, spec: ElementSpec) -> list[Any]:
    return [column.tolist() for column in to_columns(value, spec, many=False)]  # type: ignore[union-attr]


def test_a_list_is_the_component_of_one() -> None:
    """semantics 0.2: on a one-component queue a list is the tensor; a tuple is the list of components."""
    assert _split([5, 6], ONE) == [[[5, 6]]]
    assert _split(([5, 6],), ONE) == [[[5, 6]]]
    with pytest.raises(SpecMismatch, match="got 2 components"):
        _split((5, 6), ONE)


def test_two_components_come_in_a_tuple_or_list() -> None:
    """semantics 0.2: with two or more components a list of them does too."""
    assert _split((5, 6), TWO) == _split([5, 6], TWO) == [[5], [6]]
    with pytest.raises(SpecMismatch, match="single int"):
        _split(5, TWO)
    with pytest.raises(SpecMismatch, match="single ndarray"):
        _split(np.array([5, 6]), TWO)


@pytest.mark.parametrize("value", [(1,), (1, 2, 3), [1], [1, 2, 3], ()])
def test_the_number_of_components(value: Any) -> None:
    """semantics 0.2: surplus components are refused, and so are missing ones."""
    with pytest.raises(SpecMismatch, match="components"):
        _split(value, TWO)


def test_names_want_a_dict() -> None:
    """semantics 1.7: a queue with names takes a dict with exactly those keys."""
    assert _split({"y": 6, "x": 5}, NAMED) == [[5], [6]]
    for value in ({"x": 5}, {"x": 5, "y": 6, "z": 7}, {"x": 5, "z": 6}, (5, 6)):
        with pytest.raises(SpecMismatch):
            _split(value, NAMED)


def test_without_names_a_dict_is_refused() -> None:
    """semantics 1.7: a queue without names takes no dict."""
    with pytest.raises(SpecMismatch, match="no names"):
        _split({"x": 5}, ONE)


def test_duplicate_names_match_nothing() -> None:
    """semantics 1.7: duplicate names are accepted, but no dict can match."""
    spec = ElementSpec(TWO.components, ("x", "x"))
    with pytest.raises(SpecMismatch):
        _split({"x": 5}, spec)


def test_a_component_is_called_by_its_name() -> None:
    """semantics 0.1: a refusal names the component."""
    with pytest.raises(SpecMismatch, match=r"component 1 \('y'\)"):
        _split({"x": 5, "y": "z"}, NAMED)


def test_joined_as_given() -> None:
    """semantics 0.2: one component comes back as itself, several as a tuple, named ones as a dict."""
    assert ONE.join((1,)) == 1
    assert TWO.join((1, 2)) == (1, 2)
    assert NAMED.join((1, 2)) == {"x": 1, "y": 2}


# Memory


def test_private_memory() -> None:
    """api.md, Session: the caller may reuse its buffer; read-only arrays pass by reference."""
    array = np.ones(3, np.float32)
    assert not np.shares_memory(convert(array, "float32"), array)
    assert not np.shares_memory(convert(array[1:], "float32"), array)
    array.flags.writeable = False
    assert np.shares_memory(convert(array, "float32"), array)


def test_read_only_views_of_writable_memory() -> None:
    """api.md, Session: a read-only view of memory that the caller can write to is copied."""
    array = np.ones(3, np.float32)
    view = array.view()
    view.flags.writeable = False
    assert not np.shares_memory(convert(view, "float32"), array)


# Arrays of other libraries


class _HasArray:
    """An object that gives out its own array."""

    def __init__(self) -> None:
        self.inner = np.arange(3, dtype=np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.inner


class _HasInterface:
    """An object with NumPy's array interface."""

    def __init__(self) -> None:
        self.inner = np.arange(3, dtype=np.float32)
        self.__array_interface__ = self.inner.__array_interface__


class _HasDlpack:
    """An object with DLPack alone."""

    def __init__(self) -> None:
        self.inner = np.arange(3, dtype=np.float32)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.inner.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.inner.__dlpack_device__()


class _OnDevice:
    """An object with the CUDA array interface, as CuPy's arrays: `get` copies to the host."""

    __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012 - its presence is all that is looked at

    def get(self) -> Any:
        return np.arange(3, dtype=np.float32)


class _Unreadable:
    """An array on a device that cannot be reached."""

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("on another device")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


@pytest.mark.parametrize("make", [_HasArray, _HasInterface, _HasDlpack, _OnDevice])
def test_arrays_of_other_libraries(make: Any) -> None:
    """api.md, dtypes: what has DLPack or an array interface is a tensor, and its memory stays its own."""
    given = make()
    got = convert(given, "float32", (3,))
    assert got.tolist() == [0, 1, 2]
    if hasattr(given, "inner"):
        assert not np.shares_memory(got, given.inner)


def test_an_array_that_cannot_be_read() -> None:
    """api.md, dtypes: a foreign array that gives no data is refused, with the reason."""
    refuse(_Unreadable(), "float32", match="could not be read")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
def test_torch(dtype: str) -> None:
    """api.md, dtypes: PyTorch tensors are accepted."""
    torch = pytest.importorskip("torch")
    tensor = torch.ones(3, dtype=getattr(torch, dtype))
    got = convert(tensor, dtype, (3,))
    assert got.tolist() == [1, 1, 1]
    tensor.zero_()
    assert got.tolist() == [1, 1, 1]
    refuse(tensor.to(torch.float64), "int32")


def test_torch_parameters() -> None:
    """api.md, dtypes: a PyTorch tensor that requires a gradient cannot be read, and the reason is given."""
    torch = pytest.importorskip("torch")
    refuse(torch.ones(2, requires_grad=True), "float32", match="grad")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_jax(dtype: str) -> None:
    """api.md, dtypes: JAX arrays are accepted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax = pytest.importorskip("jax.numpy")
        array = jax.ones(3, dtype=dtype)
    assert convert(array, dtype, (3,)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_torch_float8(name: str) -> None:
    """api.md: PyTorch arrays are accepted wherever a tensor is, of the float8 types too."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    (column,) = to_columns(
        torch.tensor([1.0, -2.0]).to(getattr(torch, name)), ElementSpec((TensorSpec(name, (2,)),)), many=False
    )
    assert isinstance(column, np.ndarray)
    assert column.astype(np.float32).tolist() == [[1.0, -2.0]]


def test_objects_in_a_list_that_are_no_numbers() -> None:
    """semantics 0.1: whatever a value does when it is read, the caller gets SpecMismatch."""

    class Refuses:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise RuntimeError("requires grad")

    with pytest.raises(SpecMismatch, match="requires grad"):
        to_columns([Refuses(), Refuses()], ElementSpec((TensorSpec("float32", (2,)),)), many=False)


def test_columns_share_no_memory_that_can_be_written() -> None:
    """semantics 0.3: a put that was cancelled and is in doubt may be sent later: never half of what is there then."""
    value = np.zeros(100_000)
    (column,) = to_columns(value, ElementSpec((TensorSpec("float64", (100_000,)),)), many=False)
    assert isinstance(column, np.ndarray)
    assert not np.shares_memory(column, value)
    assert not column.flags.writeable
