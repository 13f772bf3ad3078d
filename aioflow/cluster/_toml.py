"""`cluster.toml`: its tables, read and written. What they mean is said by `_spec`, `_programs` and `_cluster_file`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioflow.errors import PlacementError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["format_tables", "parse_tables", "read_tables"]

TABLES = ("jobs", "config", "devices", "programs")


def read_tables(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a file; those that it does not have are empty.

    Raises:
        PlacementError: It cannot be read, is no TOML, has no table `[jobs]`, or something else than the tables.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlacementError(f"{path}: the cluster cannot be read: {error}") from error
    return parse_tables(text, str(path))


def parse_tables(text: str, where: str) -> dict[str, dict[str, Any]]:
    """Return the tables of a text that was read from `where`.

    Raises:
        PlacementError: As `read_tables`.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlacementError(f"{where}: no TOML: {error}") from error
    for name, table in tables.items():
        if name not in TABLES:
            expected = ", ".join(f"[{known}]" for known in TABLES)
            raise PlacementError(f"{where}: has {name!r}; expected no more than the tables {expected}")
        if not isinstance(table, dict):
            raise PlacementError(f"{where}: {name} must be a table, as in [{name}], got {table!r}")
    if "jobs" not in tables:
        raise PlacementError(f"{where}: has no table [jobs]; expected one with a list of addresses for each job")
    return {name: tables.get(name, {}) for name in TABLES}


def format_tables(tables: Mapping[str, Any], within: str = "") -> str:
    """Return a text that is read as these tables: of strings, numbers, and further tables; None is left out."""
    lines: list[str] = []
    inner: list[str] = []
    for key, value in tables.items():
        quoted = json.dumps(str(key), ensure_ascii=False)
        if isinstance(value, dict):
            path = f"{within}.{quoted}" if within else quoted
            inner.append(f"[{path}]\n{format_tables(value, path)}")
        elif value is not None:
            lines.append(f"{quoted} = {_format(value)}\n")
    return "".join(lines + inner)


def _format(value: Any) -> str:
    """JSON's strings and whole numbers are TOML's too; of the other numbers Python's own form is."""
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
