"""What a server may run: ops and definitions by name, of modules that its own start has named, and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aioflow.errors import RemoteProtocolError, UnknownOp
from aioflow.graph import Op

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

__all__ = ["OpLibrary", "check_path"]

# aioflow's own ops, and the classes of definitions that may be constants of a graph.
_OWN = (
    "aioflow.graph._builtin",
    "aioflow.client._queue_nodes",
    "aioflow.client._variable",
    "aioflow.cluster._transfer",
)
_DEFINITIONS = frozenset({"aioflow.client._kinds", "aioflow.client._queue", "aioflow.client._variable"})


class OpLibrary:
    """The ops of some modules, and aioflow's own.

    Args:
        modules: Names of modules; imported now.

    Raises:
        UnknownOp: One cannot be imported.
    """

    def __init__(self, modules: Iterable[str] = ()) -> None:
        self._names = tuple(modules)
        self._modules: dict[str, ModuleType] = {}
        for name in self._names:
            try:
                self._modules[name] = import_module(name)
            except Exception as error:
                raise UnknownOp(
                    f"module {name!r}, named by ops=, cannot be imported: {type(error).__name__}: {error}; it must be "
                    "importable where the server starts (its folder in PYTHONPATH, or the working directory)"
                ) from error

    def find(self, path: str, num_outputs: int) -> Op:
        """Return the op of a path.

        Raises:
            UnknownOp: There is none; lists those that there are.
        """
        module_name, _, name = path.partition(":")
        if module_name in _OWN and module_name not in self._modules:
            self._modules[module_name] = import_module(module_name)
        found = getattr(self._modules.get(module_name), name, None)
        if not isinstance(found, Op):
            raise UnknownOp(f"this server has no op {path!r}; {self._hint(module_name)}")
        if found.num_outputs == num_outputs:
            return found
        if not found.varies:
            raise UnknownOp(
                f"op {path!r} has {found.num_outputs} outputs on this server and {num_outputs} in the graph; "
                "the server runs another version of the module: start it anew"
            )
        return found.with_outputs(num_outputs)

    @staticmethod
    def is_own(path: str) -> bool:
        """Whether the op of a path is aioflow's own, which every process has."""
        return path.partition(":")[0] in _OWN

    @staticmethod
    def restore(path: str, told: Any) -> Any:
        """Make the definition of a queue or variable again of what it has told of itself.

        Raises:
            RemoteProtocolError: The path is not one of a definition, or what was told is none.
        """
        module_name, _, name = path.partition(":")
        found = getattr(import_module(module_name), name, None) if module_name in _DEFINITIONS else None
        if not hasattr(found, "from_wire"):
            raise RemoteProtocolError(f"{path!r:.80} is no class of definitions that may travel")
        try:
            return found.from_wire(told)  # type: ignore[union-attr]
        except (TypeError, ValueError, KeyError) as error:
            raise RemoteProtocolError(f"a {name} that cannot be read: {error}") from error

    def _hint(self, module_name: str) -> str:
        if module_name not in self._names:
            named = ", ".join(map(repr, self._names)) or "no module"
            return (
                f"its start named {named}: start it with ops=[{module_name!r}], or aioflow serve --ops {module_name}, "
                f"or aioflow up --ops {module_name}"
            )
        ops = [name for name, value in vars(self._modules[module_name]).items() if isinstance(value, Op)]
        return f"of module {module_name!r} it has {', '.join(sorted(ops)) or 'none'}"


def check_path(op: Op, node: str) -> None:
    """Refuse an op that no server can find by its name.

    Raises:
        UnknownOp: It was defined in `__main__`, or within a function.
    """
    module_name, _, name = op.path.partition(":")
    if module_name == "__main__":
        raise UnknownOp(
            f"{node} runs op {op.name!r} of the program's own file (`__main__`), which no server can import: "
            "define it in a module, and start the servers with ops=[...] naming that"
        )
    if not name.isidentifier():
        raise UnknownOp(
            f"{node} runs op {op.path!r}, which is no top-level name of its module, so that no server can find it: "
            "define it at the top of the module, by a def with @flow.op"
        )
