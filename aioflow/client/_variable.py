"""Variables: values that steps and sessions share by name."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from aioflow.client._session import current_session
from aioflow.client._values import to_user
from aioflow.errors import GraphError, SpecMismatch
from aioflow.graph import (
    Colocation,
    Graph,
    Node,
    Op,
    current_container,
    current_device,
    current_graph,
    current_variable_scope,
    find_graph,
    group,
)
from aioflow.names import DeviceName, check_shared_name
from aioflow.resources import Assignment, VariableKey, VariableRef
from aioflow.runtime import begin_call, complete, complete_put
from aioflow.specs import ElementSpec, Strings, TensorSpec, dtype_name, parse_shape, to_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.client._session import Session
    from aioflow.runtime import Host

__all__ = ["Variable", "global_variables_initializer", "trainable_variables"]

_private_numbers = itertools.count(1)


class Variable:
    """A value that outlives the steps that use it; on a server also the sessions, in an embedded session not.

    Making one does no I/O and needs no session. Sessions of one server share it by container and name. It has no value
    until one was assigned: `initialize` assigns the initial one. Each assignment is atomic; a value that was read does
    not change any more.

    Errors of every operation: `NoSession` where no session is current; `SessionClosed`; `SpecMismatch` where the
    variable exists with another dtype or shape; `PlacementError` for a task that the session does not reach;
    `ConnectionLost` when its server was out of reach for `session_s`. A server that was started anew has lost it.
    """

    def __init__(
        self,
        initial_value: Any,
        name: str | None = None,
        trainable: bool = True,  # noqa: FBT001, FBT002 - TensorFlow's
        *,
        dtype: Any = None,
        shape: Any = None,
        device: str | None = None,
    ) -> None:
        """Define a variable.

        Args:
            initial_value: What `initialize` assigns: a value, or a function without arguments that is called each time
                (then with dtype and shape). Python floats are float32 and ints int32, as in TensorFlow.
            name: Its name, after the `variable_scope` around; without one it is private to its session.
            trainable: Whether `trainable_variables` lists it.
            dtype: Of its values; None takes the initial value's.
            shape: Of its values, in which None is any size; None takes the initial value's.
            device: Where it lives, within the scopes of `flow.device`.

        Raises:
            SpecMismatch: The initial value is no tensor, or does not fit dtype and shape.
            GraphError: The graph has a variable of this name and `variable_scope` does not say reuse, or it has none
                and it does; or the initial value is a function without dtype and shape.
        """
        if name is not None:
            check_shared_name(name, "the name of a variable")
        if callable(initial_value) and (dtype is None or shape is None):
            raise GraphError(f"variable {name!r} gets its initial value of a function: give dtype= and shape=")
        self._shared = name is not None
        scope = current_variable_scope()
        self._name = scope.prefix + name if name is not None else f"_private:{os.getpid()}:{next(_private_numbers)}"
        self._initial: Any = initial_value if callable(initial_value) else None
        self._trainable = trainable
        self._spec = _spec(initial_value, dtype, shape)
        # A column of its own: the array that was given may change.
        self._first = None if callable(initial_value) else self._convert(initial_value)
        self._container = current_container()
        self._device = DeviceName() if device is None else DeviceName.parse(device)
        self._device = current_device(self, self._set_device)
        self._session: Session | None = None
        graph = find_graph()
        if graph is not None:
            _register(graph, self, (self._container, self._name), reuse=scope.reuse if self._shared else False)

    @property
    def name(self) -> str:
        """Its name, scopes included; of a private one, a name that only messages show."""
        return self._name

    @property
    def type(self) -> str:
        """`Variable`; what a device function sees."""
        return "Variable"

    @property
    def device(self) -> str:
        """The device that was given, and that the scopes around its definition gave."""
        return str(self._device)

    @property
    def dtype(self) -> str:
        """The dtype of its values."""
        return self._spec.dtype

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The shape of its values; a None in it is any size."""
        return self._spec.shape

    @property
    def trainable(self) -> bool:
        """Whether an optimiser should change it."""
        return self._trainable

    @property
    def nodes(self) -> VariableNodes:
        """Its operations as nodes of a graph."""
        return VariableNodes(self)

    def on(self, session: Session) -> Self:
        """Return this variable bound to a session, for use where that session is not current."""
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._session = session
        return bound

    async def read(self) -> Any:
        """Return the value: a NumPy array that is read-only, a scalar, or strings.

        Raises:
            NotInitialised: It has none.
        """
        host, ref = await self._begin()
        return self._to_user(await complete(host.read(ref)))

    async def assign(self, value: Any) -> None:
        """Give it a value; a cancelled call did so or did not, as with `Queue.enqueue`.

        Raises:
            SpecMismatch: The value does not fit; the variable is as it was.
        """
        await self._assign("set", value)

    async def assign_add(self, value: Any) -> None:
        """Add to the value, atomically. Raises as `assign`, and `NotInitialised` where there is none."""
        await self._assign("add", value)

    async def assign_sub(self, value: Any) -> None:
        """Take from the value, atomically. Raises as `assign_add`."""
        await self._assign("sub", value)

    async def initialize(self) -> None:
        """Assign the initial value, whatever the variable has now."""
        await self._assign_column("set", self._convert_initial())

    # For the other files of this package

    async def _assign(self, how: Assignment, value: Any, *, fetch: bool = False) -> Any:
        return await self._assign_column(how, self._convert(value), fetch=fetch)

    async def _assign_column(self, how: Assignment, column: Any, *, fetch: bool = False) -> Any:
        host, ref = await self._begin()
        call = host.assign(ref, how, column, fetch=fetch)
        await complete_put(call)
        return self._to_user(call.waiter.value) if fetch else None

    async def _begin(self) -> tuple[Host, VariableRef]:
        await begin_call()
        key = VariableKey(self._container, self._name, "" if self._shared else "private")
        host = await (self._session or current_session()).host.reach(self._device, key)
        return host, VariableRef(key, self._spec)

    def _convert_initial(self) -> Any:
        return self._convert(self._initial()) if self._first is None else self._first

    def _convert(self, value: Any) -> Any:
        try:
            return to_columns((value,), ElementSpec((self._spec,)), many=False)[0]
        except SpecMismatch as error:
            raise SpecMismatch(f"variable {self._name!r}: {error}") from error

    def _to_user(self, answer: Any) -> Any:
        columns = answer if isinstance(answer, tuple) else (answer,)
        return to_user(columns, ElementSpec((self._spec,)), single=True)

    def to_wire(self) -> list[Any]:
        """Tell what a server needs to find this variable; `from_wire` makes a definition of it again.

        Raises:
            SpecMismatch: It is bound to a session, which no other process has.
        """
        if self._session is not None:
            raise SpecMismatch(f"{self!r} is bound to a session by on(), and cannot be used in a graph of a server")
        shape = None if self._spec.shape is None else list(self._spec.shape)
        return [self._name, self._shared, self._container, str(self._device), self._spec.dtype, shape]

    @classmethod
    def from_wire(cls, told: Any) -> Self:
        """Make a definition, which has no initial value, of what another process has told."""
        name, shared, container, device, dtype, shape = told
        variable = object.__new__(cls)
        variable._name, variable._shared, variable._container = str(name), bool(shared), str(container)
        variable._device = DeviceName.parse(device)
        variable._spec = TensorSpec(dtype_name(dtype), None if shape is None else tuple(shape))
        variable._initial = variable._first = None
        variable._trainable = False
        variable._session = None
        return variable

    def _set_device(self, name: DeviceName) -> None:
        self._device = name

    def _colocation(self) -> Colocation | None:
        if self._session is not None:
            return None
        return Colocation(VariableKey(self._container, self._name, "" if self._shared else "private"), self._device)

    def __repr__(self) -> str:
        """Show the name and what the values are."""
        return f"<Variable {self._name!r} {self._spec}>"


class InitialValue:
    """What an initializer assigns; other nodes of the variable travel without it."""

    def __init__(self, column: Callable[[], Any]) -> None:
        self.column = column

    def to_wire(self) -> list[Any]:
        """Tell the value."""
        column = self.column()
        return [column.lengths, column.data] if isinstance(column, Strings) else [column]

    @classmethod
    def from_wire(cls, told: Any) -> Self:
        """Make one of a value that was told."""
        column = Strings(*told) if len(told) > 1 else told[0]
        return cls(lambda: column)


class VariableNodes:
    """Makes nodes of the current graph for a variable. Nodes that assign have the new value."""

    def __init__(self, variable: Variable) -> None:
        self._variable = variable

    def read(self) -> Node:
        """Read the value, at the moment in which the node runs."""
        return self._add(READ)

    def assign(self, value: Any) -> Node:
        """Give it a value."""
        return self._add(ASSIGN, value)

    def assign_add(self, value: Any) -> Node:
        """Add to the value, atomically."""
        return self._add(ASSIGN_ADD, value)

    def assign_sub(self, value: Any) -> Node:
        """Take from the value, atomically."""
        return self._add(ASSIGN_SUB, value)

    def initializer(self) -> Node:
        """Assign the initial value; on a server, of a function, the one that it had when the graph was sent there."""
        return self._add(INITIALIZE, InitialValue(self._variable._convert_initial))  # noqa: SLF001 - one file

    def _add(self, op: Op, *args: Any) -> Node:
        colocation = self._variable._colocation()  # noqa: SLF001 - one file
        return current_graph().add(op, (self._variable, *args), colocation=colocation)


async def _read(variable: Variable) -> Any:
    return await variable.read()


async def _assign(variable: Variable, value: Any) -> Any:
    return await variable._assign("set", value, fetch=True)  # noqa: SLF001 - one file


async def _assign_add(variable: Variable, value: Any) -> Any:
    return await variable._assign("add", value, fetch=True)  # noqa: SLF001


async def _assign_sub(variable: Variable, value: Any) -> Any:
    return await variable._assign("sub", value, fetch=True)  # noqa: SLF001


async def _initialize(variable: Variable, value: InitialValue) -> None:
    await variable._assign_column("set", value.column())  # noqa: SLF001


READ = Op(_read, "read", path=f"{__name__}:READ")
ASSIGN = Op(_assign, "assign", path=f"{__name__}:ASSIGN")
ASSIGN_ADD = Op(_assign_add, "assign_add", path=f"{__name__}:ASSIGN_ADD")
ASSIGN_SUB = Op(_assign_sub, "assign_sub", path=f"{__name__}:ASSIGN_SUB")
INITIALIZE = Op(_initialize, "initializer", num_outputs=0, path=f"{__name__}:INITIALIZE")


def global_variables_initializer() -> Node:
    """Make a node that assigns the initial values of all variables that the current graph has now.

    Raises:
        GraphError: No graph is current.
    """
    return group(*(variable.nodes.initializer() for variable in current_graph().variables.values()))


def trainable_variables() -> list[Variable]:
    """Return the trainable variables of the current graph, in the order in which they were made.

    Raises:
        GraphError: No graph is current.
    """
    return [variable for variable in current_graph().variables.values() if variable.trainable]


def _spec(initial_value: Any, dtype: Any, shape: Any) -> TensorSpec:
    value: Any = None if callable(initial_value) else initial_value
    if dtype is not None:
        name = dtype_name(dtype)
    elif isinstance(value, (str, bytes)):
        name = type(value).__name__
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise SpecMismatch(f"the initial value of a variable is a tensor; {value!r} is a ragged list") from error
        is_python = not hasattr(value, "dtype")
        name = {"float64": "float32", "int64": "int32"}.get(array.dtype.name, array.dtype.name) if is_python else ""
        name = dtype_name(name or array.dtype)
    if shape is not None:
        return TensorSpec(name, parse_shape(shape, partial=True))
    return TensorSpec(name, () if isinstance(value, (str, bytes)) else np.shape(value))


def _register(graph: Graph, variable: Variable, key: tuple[str, str], *, reuse: bool | None) -> None:
    """Enter a variable into its graph under its container and name, as `variable_scope` says."""
    known = graph.variables.get(key)
    if known is None and reuse:
        raise GraphError(f"variable {variable.name!r} does not exist in this graph, and its scope says reuse=True")
    if known is not None and reuse is False:
        raise GraphError(
            f"the graph has a variable {variable.name!r} already; choose another name, "
            "or use it again with variable_scope(..., reuse=True)"
        )
    if known is not None and (known.dtype, known.shape) != (variable.dtype, variable.shape):
        raise SpecMismatch(f"{known!r} exists, and this definition says {variable!r}")
    graph.variables.setdefault(key, variable)
