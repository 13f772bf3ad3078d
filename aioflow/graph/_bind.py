"""From a node's arguments to what its kernel is called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from aioflow.graph._graph import Argument, Output

__all__ = ["Constant", "bind"]


class Constant(NamedTuple):
    """A leaf that is the same in each step."""

    value: Any


def bind(
    kernel: Callable[..., Any], arguments: Sequence[Argument], keywords: Sequence[str], picked: Collection[Output]
) -> tuple[Callable[..., Any], list[Output | Constant]]:
    """Return what to call, and the leaves that it is to be given: outputs and constants.

    Args:
        kernel: The kernel.
        arguments: Its arguments, containers among them.
        keywords: The names of the last of them.
        picked: Outputs of which the leaf will be the tuple that has them.
    """
    leaves: list[Output | Constant] = []
    for argument in arguments:
        _collect(argument, leaves)
    if not keywords and not picked and not any(argument.is_container for argument in arguments):
        return kernel, leaves
    positional = len(arguments) - len(keywords)

    def call(*values: Any) -> Any:
        rest = iter(values)
        built = [_build(argument, rest, picked) for argument in arguments]
        return kernel(*built[:positional], **dict(zip(keywords, built[positional:], strict=True)))

    return call, leaves


def _collect(argument: Argument, leaves: list[Output | Constant]) -> None:
    if argument.is_container:
        for item in argument.value.values() if isinstance(argument.value, dict) else argument.value:
            _collect(item, leaves)
    else:
        leaves.append(argument.inputs[0] if argument.inputs else Constant(argument.value))


def _build(argument: Argument, values: Iterator[Any], picked: Collection[Output]) -> Any:
    if not argument.is_container:
        value = next(values)
        return value[argument.inputs[0].value_index] if argument.inputs and argument.inputs[0] in picked else value
    if isinstance(argument.value, dict):
        return {key: _build(item, values, picked) for key, item in argument.value.items()}
    items = [_build(item, values, picked) for item in argument.value]
    if hasattr(argument.value, "_fields"):
        return type(argument.value)(*items)
    return items if isinstance(argument.value, list) else tuple(items)
