"""Variables in containers: what is assigned, who finds which, and when one goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aioflow.errors import NotInitialised, SpecMismatch
from aioflow.resources import Resources, VariableKey, VariableRef, VariableResource
from aioflow.specs import ElementSpec, TensorSpec, to_columns

SCALAR = TensorSpec("int32", ())


def column(value: Any, spec: TensorSpec = SCALAR) -> Any:
    """Make a column of one row."""
    return to_columns((value,), ElementSpec((spec,)), many=False)[0]


def numbers(value: Any) -> Any:
    """What is in a column of numbers."""
    return value.tolist()


def ref(name: str = "v", container: str = "", session: str = "", spec: TensorSpec = SCALAR) -> VariableRef:
    """Name a variable together with what its values are."""
    return VariableRef(VariableKey(container, name, session), spec)


@pytest.fixture
def resources() -> Resources:
    """Return empty containers."""
    return Resources(np.random.default_rng, session_s=60.0)


def test_a_value_is_replaced_and_never_changed() -> None:
    """Who has read a value keeps it, whatever is assigned; nobody can write to it."""
    variable = VariableResource("v", TensorSpec("float32", (2,)))
    variable.assign("set", column([1, 2], variable.spec))
    first = variable.read()
    assert numbers(variable.assign("add", column([10, 20], variable.spec))) == [[11, 22]]
    assert numbers(variable.assign("sub", column([1, 1], variable.spec))) == [[10, 21]]
    assert numbers(first) == [[1, 2]]
    for value in (first, variable.read()):
        assert isinstance(value, np.ndarray)
        assert not value.flags.writeable


@pytest.mark.parametrize("how", ["add", "sub"])
def test_there_is_no_value_at_first(how: Any) -> None:
    """It cannot be read, nor changed; the message says how to get one."""
    variable = VariableResource("v", SCALAR)
    with pytest.raises(NotInitialised, match="variable 'v' has no value yet: run its initializer"):
        variable.read()
    with pytest.raises(NotInitialised):
        variable.assign(how, column(1))


@pytest.mark.parametrize(("dtype", "value"), [("str", "a"), ("bytes", b"a"), ("bool", True)])
def test_what_cannot_be_added(dtype: str, value: Any) -> None:
    """Strings and bools are replaced only; the value stays."""
    spec = TensorSpec(dtype, ())
    variable = VariableResource("v", spec)
    old = variable.assign("set", column(value, spec))
    with pytest.raises(SpecMismatch, match=f"is of dtype {dtype}, which has no add"):
        variable.assign("add", column(value, spec))
    assert variable.read() is old


def test_open_sizes_are_not_broadcast() -> None:
    """A value of another size may be set, but not added."""
    spec = TensorSpec("int32", (None,))
    variable = VariableResource("v", spec)
    variable.assign("set", column([1, 2], spec))
    with pytest.raises(SpecMismatch, match=r"has shape \[2\] now; add got \[1\]"):
        variable.assign("add", column([1], spec))
    assert numbers(variable.assign("set", column([3], spec))) == [[3]]


def test_integers_wrap_and_keep_their_dtype() -> None:
    """As NumPy's, and TensorFlow's: an assign cannot fail for its size."""
    spec = TensorSpec("int8", ())
    variable = VariableResource("v", spec)
    variable.assign("set", column(127, spec))
    new: Any = variable.assign("add", column(1, spec))
    assert (new.tolist(), str(new.dtype)) == ([-128], "int8")


def test_container_and_name_make_a_key(resources: Resources) -> None:
    """A private one is its session's alone."""
    refs = [ref(), ref("w"), ref(container="c"), ref(session="a"), ref(session="b")]
    assert len({id(resources.variable(one)) for one in refs}) == 5
    assert resources.variable(ref()) is resources.variable(ref())


def test_definitions_must_agree(resources: Resources) -> None:
    """The second one learns what the values are; the variable stays."""
    variable = resources.variable(ref())
    with pytest.raises(SpecMismatch, match=r"variable 'v' exists with values int32.*this definition says float32"):
        resources.variable(ref(spec=TensorSpec("float32", ())))
    assert resources.variable(ref()) is variable


def test_a_reset_empties_containers_of_what_is_shared(resources: Resources) -> None:
    """Other containers stay, and what is private stays with its session."""
    kept = [ref(container="c"), ref(session="a")]
    before = [resources.variable(one) for one in [*kept, ref(), ref("w")]]
    assert resources.reset([""]) == []
    assert [resources.variable(one) for one in kept] == before[:2]
    assert resources.variable(ref()) is not before[2]
    assert resources.reset(["c", "unknown"]) == []
    assert resources.variable(kept[0]) is not before[0]


def test_a_session_that_goes_takes_its_private_variables(resources: Resources) -> None:
    """Shared ones stay for ever."""
    private, other, shared = [resources.variable(one) for one in (ref(session="a"), ref(session="b"), ref())]
    resources.detach("a", 0.0, "left")
    resources.expire(1e9)
    assert resources.variable(ref(session="a")) is not private
    assert resources.variable(ref(session="b")) is other
    assert resources.variable(ref()) is shared
