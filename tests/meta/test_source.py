"""How the source is kept: sizes, names of files, what may not stand in it. Each exception has a reason."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ("aioflow", "transports")

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50  # its docstring not counted

LONG_FILES: dict[str, str] = {
    "aioflow/testing/_queue_checks_engine.py": "many short checks, each by itself",
    "aioflow/testing/_queue_checks_sessions.py": "many short checks, each by itself",
}
LONG_FUNCTIONS: dict[str, str] = {}

# Such a file is where things go that nobody found a place for.
FORBIDDEN_FILES = {"base.py", "common.py", "helpers.py", "misc.py", "tools.py", "util.py", "utils.py"}

ROOT_FOLDERS = {".ci", "aioflow", "benchmarks", "docs", "examples", "tests", "transports"}
ROOT_FILES = {".gitignore", "README.md", "pyproject.toml"}

# Written so that this file does not have what it looks for.
FORBIDDEN_WORDS = re.compile(r"\bTO[D]O\b|\bFIX[M]E\b|\bX[X]X\b|\bHA[C]K\b")


@cache
def _tracked() -> list[Path]:
    """Return the files of the repository, those included that are about to be added to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in output.splitlines() if (path := ROOT / name).is_file()]


def _sources(*folders: str) -> list[Path]:
    return [p for p in _tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_files_are_short() -> None:
    """A file that is longer than this is a sign that two ideas share a room."""
    lengths = {_name(path): len(path.read_text().splitlines()) for path in _sources(*LIBRARY)}
    long = {name: length for name, length in lengths.items() if length > FILE_LINES_MAX}
    assert {name: length for name, length in long.items() if name not in LONG_FILES} == {}
    assert set(LONG_FILES) - set(long) == set(), "no longer an exception"


def _functions(path: Path) -> dict[str, int]:
    """Return the functions of a file and their lines, without their docstrings."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            of_docstring = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
            found[f"{_name(path)}:{node.name}"] = node.end_lineno - node.lineno + 1 - of_docstring
    return found


def test_functions_are_short() -> None:
    """The same for a function."""
    lengths = {name: lines for path in _sources(*LIBRARY) for name, lines in _functions(path).items()}
    long = {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX}
    assert {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) - set(long) == set(), "no longer an exception"


def test_no_file_is_a_drawer() -> None:
    """Each file is named for what is in it."""
    assert [_name(path) for path in _tracked() if path.name.lstrip("_") in FORBIDDEN_FILES] == []


def test_root_is_kept_clear() -> None:
    """What is at the top is fixed."""
    assert {path.relative_to(ROOT).parts[0] for path in _tracked()} - ROOT_FOLDERS - ROOT_FILES == set()
    assert not (ROOT / "transports" / "__init__.py").exists()


def test_nothing_is_left_for_later() -> None:
    """What is to be done stands elsewhere than in the source."""
    assert [
        _name(path)
        for path in _sources(*LIBRARY, "benchmarks", "examples", "tests")
        if FORBIDDEN_WORDS.search(path.read_text())
    ] == []


@pytest.mark.parametrize("path", _sources(*LIBRARY), ids=_name)
def test_no_exception_is_swallowed_unseen(path: Path) -> None:
    """No bare except; and one of BaseException raises it again, or keeps it for who waits."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{_name(path)}:{node.lineno}: a bare except"
            if isinstance(node.type, ast.Name) and node.type.id == "BaseException":
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                assert raises or node.name, f"{_name(path)}:{node.lineno}: a BaseException is dropped"
