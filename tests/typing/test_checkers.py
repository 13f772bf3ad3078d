"""The type checkers find the mistakes of `reject_*.py`, each of them and nothing else.

That they accept `accept_*.py` is part of their run over the whole repository. The examples that are folders are checked
by mypy here: it takes modules of the same name for the same module.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REJECTED = sorted(HERE.glob("reject_*.py"))
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/run.py"))

pytestmark = pytest.mark.timeout(60)  # a first run has no cache


def _marked(path: Path) -> set[int]:
    lines = path.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}


@pytest.mark.parametrize("path", REJECTED, ids=lambda path: path.stem)
def test_mypy_refuses(path: Path) -> None:
    """Exactly the marked lines."""
    command = [sys.executable, "-m", "mypy", "--no-pretty", "--no-error-summary", str(path)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found = {int(number) for number in re.findall(rf"{path.name}:(\d+): error:", output)}
    assert found == _marked(path), output


@pytest.mark.parametrize("path", REJECTED, ids=lambda path: path.stem)
def test_pyright_refuses(path: Path, tmp_path: Path) -> None:
    """Exactly the marked lines. The repository's settings leave the file out, so a copy has its own."""
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT), str(ROOT / "transports")]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    shutil.copy(path, tmp_path)
    command = [sys.executable, "-m", "pyright", "-p", str(tmp_path), "--pythonpath", sys.executable, "--outputjson"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    diagnostics = json.loads(output)["generalDiagnostics"]
    assert {each["range"]["start"]["line"] + 1 for each in diagnostics} == _marked(path), output


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_mypy_accepts_an_example(folder: Path) -> None:
    """A folder whose programs import the modules beside them."""
    command = [sys.executable, "-m", "mypy", str(folder)]
    environment = os.environ | {"MYPYPATH": str(folder)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
