"""Variables: values that outlive the steps, and on a server the sessions, that use them.

A value is replaced, never changed: who has read one keeps it while others assign, and each assignment is atomic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from aioflow.errors import NotInitialised, SpecMismatch
from aioflow.specs import Strings

if TYPE_CHECKING:
    from aioflow.specs import Dense, TensorSpec

__all__ = ["ASSIGNMENTS", "Assignment", "VariableKey", "VariableRef", "VariableResource"]

# How a value is assigned: in the place of the old one, added to it, or taken from it.
Assignment: TypeAlias = Literal["set", "add", "sub"]
ASSIGNMENTS: tuple[Assignment, ...] = get_args(Assignment)


@dataclass(frozen=True, slots=True)
class VariableKey:
    """What a variable is found by.

    Attributes:
        container: Its container; empty is the default one.
        name: Its name.
        session: The session to which it is private; empty for one that has a name.
    """

    container: str
    name: str
    session: str = ""


@dataclass(frozen=True, slots=True)
class VariableRef:
    """A key together with what the user's definition says of the values."""

    key: VariableKey
    spec: TensorSpec


class VariableResource:
    """A variable of a task; it has no value until it was set.

    Attributes:
        spec: What its values are.
    """

    def __init__(self, name: str, spec: TensorSpec) -> None:
        self.spec = spec
        self._name = name
        self._value: Dense | None = None

    def read(self) -> Dense:
        """Return the value, as a column of one row that nobody can write to.

        Raises:
            NotInitialised: It has none.
        """
        if self._value is None:
            raise NotInitialised(
                f"variable {self._name!r} has no value yet: run its initializer, assign a value, or wait for who does"
            )
        return self._value

    def assign(self, how: Assignment, value: Dense) -> Dense:
        """Assign a value of its specification, a column of one row that nobody will write to; return the new value.

        Raises:
            NotInitialised: There is no value to add to, or take from.
            SpecMismatch: Values of this dtype, or of these two shapes, cannot be added.
        """
        if how != "set":
            value = self._changed(how, value)
        self._value = value
        return value

    def _changed(self, how: Assignment, value: Dense) -> Dense:
        old = self.read()
        if isinstance(old, Strings) or isinstance(value, Strings) or old.dtype == np.bool_:
            raise SpecMismatch(f"variable {self._name!r} is of dtype {self.spec.dtype}, which has no {how}")
        if old.shape != value.shape:  # the specification may leave sizes open
            raise SpecMismatch(
                f"variable {self._name!r} has shape {list(old.shape[1:])} now; {how} got {list(value.shape[1:])}"
            )
        new = old + value if how == "add" else old - value
        new.flags.writeable = False
        return new

    def __str__(self) -> str:
        """Name it for a message to people."""
        return f"variable {self._name!r}"
