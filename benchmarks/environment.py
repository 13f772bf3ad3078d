"""Environments for the benchmarks alone, with the systems that aioflow is compared with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ".venv-bench"

# What goes into the first environment, each by the first requirement that can be installed here. PyTorch's build for
# the CPU is a tenth of the size; where pip finds none, any build does.
LIGHT = {"DataLoader": ("torch==2.13.0+cpu", "torch"), "faster-fifo": ("faster-fifo==1.5.2",)}

# What is large, or decides itself which NumPy it works with: an environment for each, and only if it is asked for.
HEAVY = {"ray": "ray==2.60.0", "tensorflow": "tensorflow-cpu==2.21.0"}


def setup(heavy: list[str]) -> int:
    """Make them anew; return an exit code, 1 where any system is not there."""
    _make(FOLDER)
    if not _install(FOLDER, "-e", ".", "dask"):
        return 1
    failed = [name for name, choices in LIGHT.items() if not any(_install(FOLDER, choice) for choice in choices)]
    for name in heavy:
        _make(f"{FOLDER}-{name}")
        if not _install(f"{FOLDER}-{name}", HEAVY[name], "numpy"):
            failed.append(name)
    for name in failed:
        print(f"left out: {name}: it could not be installed", file=sys.stderr)
    print(f"ready: {FOLDER}/bin/python -m benchmarks run")
    return 1 if failed else 0


def python_of(environment: str) -> str:
    """Return the interpreter of a large system's environment; this one's where there is none, or none is needed."""
    python = ROOT / f"{FOLDER}-{environment}" / "bin" / "python"
    return str(python) if environment and python.exists() else sys.executable


def _make(folder: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], cwd=ROOT, check=True)


def _install(folder: str, *what: str) -> bool:
    pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.run([*pip, *what], cwd=ROOT, check=False).returncode == 0
