"""What a server may run: ops by name, of modules that its start named; anything else says what there is."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import aioflow as flow
from aioflow.cluster._graph_codec import decode_graph, encode_graph
from aioflow.cluster._library import OpLibrary, check_path
from aioflow.errors import RemoteProtocolError, UnknownOp
from aioflow.graph import Op

if TYPE_CHECKING:
    from collections.abc import Iterator


@flow.op
def double(value: int) -> int:
    """Double a value."""
    return 2 * value


@flow.op(num_outputs=2)
def split(value: int) -> tuple[int, int]:
    """Return two values."""
    return value, value


not_an_op = 5


@pytest.fixture
def module() -> Iterator[str]:
    """A module with ops, which a server may name."""
    made: Any = ModuleType("ops_of_a_test")
    made.double, made.split, made.other = double, split, 5
    sys.modules["ops_of_a_test"] = made
    yield "ops_of_a_test"
    del sys.modules["ops_of_a_test"]


def test_ops_of_named_modules_are_found(module: str) -> None:
    """And aioflow's own, without being named."""
    library = OpLibrary([module])
    assert library.find(f"{module}:double", 1) is double
    assert library.find(flow.constant.__module__ + ":CONSTANT", 1).name == "constant"


def test_a_module_that_was_not_named(module: str) -> None:
    """Says which were, and how to name it; it is not imported."""
    library = OpLibrary([module])
    with pytest.raises(
        UnknownOp, match=r"no op 'other:f'; its start named 'ops_of_a_test': start it with ops=\['other'\]"
    ):
        library.find("other:f", 1)
    with pytest.raises(UnknownOp, match=r"named no module: .*aioflow serve --ops os"):
        OpLibrary().find("os:system", 1)
    with pytest.raises(UnknownOp, match="no op 'subprocess:call'"):
        OpLibrary().find("subprocess:call", 1)


@pytest.mark.parametrize("name", ["missing", "other", "", "__doc__", "double.fn", "not an identifier"])
def test_what_is_no_op_of_its_module(module: str, name: str) -> None:
    """Lists those that it has."""
    with pytest.raises(UnknownOp, match=f"no op '{module}:{name}'; of module '{module}' it has double, split"):
        OpLibrary([module]).find(f"{module}:{name}", 1)


def test_another_number_of_outputs(module: str) -> None:
    """It is another version of the module."""
    with pytest.raises(
        UnknownOp, match="has 2 outputs on this server and 3 in the graph; the server runs another version"
    ):
        OpLibrary([module]).find(f"{module}:split", 3)


def test_a_module_that_cannot_be_imported() -> None:
    """Is told at the start of the server, with the reason and where it must be."""
    with pytest.raises(
        UnknownOp, match=r"'no_such_module', named by ops=, cannot be imported: ModuleNotFoundError.*PYTHON"
    ):
        flow.Server({"local": ["inproc://never"]}, ops=["no_such_module"])


def test_ops_without_a_name_in_a_module() -> None:
    """Are refused by the client, with the node and its line."""
    main = Op(lambda: 1, "mine", path="__main__:mine")
    with pytest.raises(UnknownOp, match=r"node 'x' runs op 'mine' of the program's own file \(`__main__`\)"):
        check_path(main, "node 'x'")

    @flow.op
    def nested() -> int:
        return 1

    with flow.Graph() as graph:
        nested()
    with pytest.raises(UnknownOp, match=r"node 'nested', made at .*test_library.py:\d+, runs op .*no top-level name"):
        encode_graph(graph)
    with flow.Graph() as graph:
        flow.identity(double(flow.constant(1)))
    assert [node.op.path.rpartition(":")[2] for node in decode_graph(encode_graph(graph)).nodes] == [
        "CONSTANT",
        "double",
        "IDENTITY",
    ]


@pytest.mark.parametrize(
    "path", ["os:system", "aioflow.client._queue:np", "aioflow.client._queue:", "aioflow.cluster._server:Server", ""]
)
def test_only_definitions_are_made_again(path: str) -> None:
    """By the name of a class that reads what it is told, of the modules of definitions."""
    with pytest.raises(RemoteProtocolError, match="no class of definitions"):
        OpLibrary.restore(path, ["ls"])
