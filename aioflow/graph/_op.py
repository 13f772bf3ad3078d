"""Ops: a function for each kind of device, which makes a node where it is called in a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from aioflow.errors import GraphError
from aioflow.graph._scopes import current_graph

if TYPE_CHECKING:
    from aioflow.graph._graph import Node

__all__ = ["Op", "op"]

F = TypeVar("F", bound=Callable[..., Any])

# Outputs of one op: the widest elements of a queue have as many components.
OUTPUTS_MAX = 1024


class Op:
    """An operation. Called in a graph it makes a node; `.fn` is the plain function, to be called anywhere.

    Attributes:
        fn: The CPU kernel. A coroutine function runs on the event loop, a plain one on the device's inter-op threads.
        name: What nodes are named after.
        path: Module and name, by which a graph on the wire names it: where the op is found there.
        num_outputs: How many values it returns: a tuple where there are several, None where there are none.
        kernels: The kernel for each device kind, such as `CPU`.
        is_coroutine: Whether the CPU kernel is one.
        is_inline: Whether its plain kernel is so short that it runs on the event loop.
        varies: Whether nodes of it have different numbers of outputs.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str = "",
        *,
        num_outputs: int = 1,
        is_inline: bool = False,
        path: str = "",
        varies: bool = False,
    ) -> None:
        if not callable(fn):  # pyright: ignore[reportUnnecessaryComparison] - callers pass anything
            raise GraphError(
                f"an op is made of a function, got {fn!r}; outputs are counted by @flow.op(num_outputs=...)"
            )
        if not isinstance(num_outputs, int) or not 0 <= num_outputs <= OUTPUTS_MAX:  # pyright: ignore[reportUnnecessaryIsInstance] - the same
            raise GraphError(f"num_outputs is {num_outputs!r}; expected 0 to {OUTPUTS_MAX}")
        self.fn = fn
        self.name = name or getattr(fn, "__name__", type(fn).__name__).strip("<>_") or "op"
        self.path = path or f"{fn.__module__}:{getattr(fn, '__qualname__', self.name)}"
        self.num_outputs = num_outputs
        self.kernels: dict[str, Callable[..., Any]] = {"CPU": fn}
        self.is_inline = is_inline
        self.varies = varies
        self.is_coroutine = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn
        try:
            self._signature = inspect.signature(fn)
        except ValueError as error:
            raise GraphError(
                f"{fn!r} does not say what arguments it takes; wrap it in a function of your own"
            ) from error
        self._positional = _positional_range(self._signature)

    def kernel(self, kind: str) -> Callable[[F], F]:
        """Give the op a kernel for another kind of device: `@scale.kernel("gpu")`.

        A GPU kernel is called with CuPy arrays while the node's stream is current, on a thread of that stream.

        Raises:
            GraphError: The kind is no string, the op has a kernel for it, or the function is a coroutine function.
        """
        if not isinstance(kind, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the decorator without its call
            raise GraphError(f'a kernel is for a kind of device: write @{self.name}.kernel("gpu"); got {kind!r}')

        def add(fn: F) -> F:
            if kind.upper() in self.kernels:
                raise GraphError(f"op {self.name!r} has a {kind.upper()} kernel already")
            if inspect.iscoroutinefunction(fn):
                raise GraphError(
                    f"a {kind.upper()} kernel of op {self.name!r} is launched on a stream; expected no coroutine"
                )
            self.kernels[kind.upper()] = fn
            return fn

        return add

    def with_outputs(self, num_outputs: int) -> Op:
        """Return this op with another number of outputs."""
        other = object.__new__(Op)
        other.__dict__.update(self.__dict__)
        other.num_outputs = num_outputs
        return other

    @classmethod
    def elsewhere(cls, path: str, name: str, num_outputs: int, kinds: Iterable[str]) -> Op:
        """Return what stands for an op in a process that only places its nodes and has others run them."""
        other = object.__new__(cls)
        other.path, other.name, other.num_outputs = path, name, num_outputs
        other.kernels = dict.fromkeys(kinds, _is_elsewhere)
        other.fn = _is_elsewhere
        other.is_inline = other.is_coroutine = other.varies = False
        return other

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a node of the current graph; an argument that is no node is a constant.

        Returns:
            The node, whose value the function returns; a tuple of outputs where there are several.

        Raises:
            GraphError: No graph is current, or the function does not take these arguments.
        """
        node = current_graph().add(self, args, kwargs)
        return node if self.num_outputs <= 1 else node.outputs

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse arguments that the function does not take.

        Raises:
            GraphError: It does not.
        """
        low, high = self._positional
        if not kwargs and low <= len(args) <= high:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise GraphError(f"op {self.name!r} takes {self._signature}: {error}") from error

    def __repr__(self) -> str:
        """Show the name and for which kinds of device there are kernels."""
        return f"<op {self.name} for {', '.join(sorted(self.kernels))}>"


@overload
def op(fn: Callable[..., Any], /) -> Op: ...
@overload
def op(*, num_outputs: int = 1) -> Callable[[Callable[..., Any]], Op]: ...
def op(fn: Callable[..., Any] | None = None, /, *, num_outputs: int = 1) -> Op | Callable[[Callable[..., Any]], Op]:
    """Make a function an op: `@flow.op`, or `@flow.op(num_outputs=2)`.

    The function is the CPU kernel: a coroutine function runs on the event loop, a plain one on an inter-op thread of
    its node's device. It gets values where its node got nodes, and everything else as it was given.

    Args:
        fn: The function.
        num_outputs: How many values it returns; several as a tuple or list, 0 for an op that is run for its effect.

    Raises:
        GraphError: Python does not know the function's arguments, as of some builtins; or too many outputs.
    """
    if fn is not None:
        return Op(fn, num_outputs=num_outputs)
    return lambda fn: Op(fn, num_outputs=num_outputs)


def _is_elsewhere(*_: Any) -> Any:
    raise GraphError("this op is run by other tasks")


def _positional_range(signature: inspect.Signature) -> tuple[int, float]:
    """How many arguments fit if all are positional; a range that nothing fits into where some must be named."""
    low, high = 0, 0.0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            high = float("inf")
        elif parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            low += parameter.default is parameter.empty
            high += 1
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            return 1, 0.0
    return low, high


def outputs_of(node: Node, value: Any) -> tuple[Any, ...]:
    """Split what a kernel with several outputs returned.

    Raises:
        GraphError: It is no tuple or list of as many values.
    """
    expected = node.op.num_outputs
    if not isinstance(value, (tuple, list)) or len(value) != expected:
        got = f"{len(value)} values" if isinstance(value, (tuple, list)) else type(value).__name__
        raise GraphError(f"node {node.name!r} has {expected} outputs and its kernel returned {got}")
    return tuple(value)
