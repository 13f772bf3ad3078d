"""The public interface: its names change on purpose only, all of it has docstrings, and importing it is cheap."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import pytest

SNAPSHOT = Path(__file__).with_name("public_names.txt")
MODULES = [
    "aioflow",
    "aioflow.blocking",
    "aioflow.contrib.ray",
    "aioflow.devices",
    "aioflow.errors",
    "aioflow.keys",
    "aioflow.testing",
    "aioflow.transport",
]

# Other programs' imports that `import aioflow` must not pay for.
HEAVY = ["cupy", "hypothesis", "jax", "ml_dtypes", "pytest", "ray", "torch", "trio", "uvloop", "zmq"]

# What importing NumPy and aioflow may cost, as a multiple of NumPy alone.
IMPORT_RATIO_MAX = 2.0


if importlib.util.find_spec("ray") is None:  # an extra
    MODULES.remove("aioflow.contrib.ray")


def _names() -> list[str]:
    return [f"{module}.{name}" for module in MODULES for name in sorted(import_module(module).__all__)]


def test_public_names_are_those_of_the_snapshot() -> None:
    """A change of the public names is a change of `public_names.txt` and of the changelog."""
    assert _names() == [name for name in SNAPSHOT.read_text().split() if name.rpartition(".")[0] in MODULES]


@pytest.mark.parametrize("module", MODULES)
def test_everything_named_is_there(module: str) -> None:
    """`__all__` names nothing twice and nothing that is not there."""
    names = import_module(module).__all__
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(import_module(module), name)] == []


def _undocumented(name: str, value: Any) -> list[str]:
    """Name the public classes, functions, methods and properties of `value` that have no docstring of their own."""
    if inspect.isclass(value):
        missing = [] if value.__dict__.get("__doc__") else [name]
        for attribute, member in vars(value).items():
            if not attribute.startswith("_"):
                missing += _undocumented(f"{name}.{attribute}", getattr(member, "__func__", member))
        return missing
    if inspect.isroutine(value) or isinstance(value, property):
        return [] if inspect.getdoc(value) else [name]
    return []


def test_everything_public_has_a_docstring() -> None:
    """Classes, functions, methods and properties."""
    values = {name: getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in _names()}
    assert [missing for name, value in values.items() for missing in _undocumented(name, value)] == []


def test_docstrings_of_raising_functions_say_when() -> None:
    """A public coroutine of a queue or a session says what it raises, or whose errors it shares."""
    flow = import_module("aioflow")
    for method in ("enqueue", "enqueue_many", "dequeue", "dequeue_many", "dequeue_up_to", "close", "batches"):
        text = inspect.getdoc(getattr(flow.Queue, method)) or ""
        assert re.search(r"Raises:|[Rr]aises as", text), method


PROBE = """
import json, sys, time
began = time.process_time()
import numpy
numpy_s = time.process_time() - began
import aioflow
both_s = time.process_time() - began
print(json.dumps([both_s / numpy_s, sorted(sys.modules)]))
"""


def test_import_is_cheap() -> None:
    """`import aioflow` loads none of the heavy modules, and costs little more than `import numpy` does."""
    ratios: list[float] = []
    for _ in range(5):
        output = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True).stdout
        ratio, modules = json.loads(output)
        assert [name for name in HEAVY if name in modules] == []
        ratios.append(ratio)
    assert median(ratios) <= IMPORT_RATIO_MAX, ratios
