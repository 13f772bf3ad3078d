"""An environment for the benchmarks alone, with the systems that aioflow is compared with."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.runner import ROOT

FOLDER = ".venv-bench"

# A build for the CPU is a tenth of the size; where pip finds none, any build does.
TORCHES = ("torch==2.13.0+cpu", "torch")


def setup() -> int:
    """Make it anew; return an exit code."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], cwd=ROOT, check=True)
    pip = [f"{FOLDER}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for torch in TORCHES:
        if subprocess.run([*pip, "-e", ".", torch, "dask"], cwd=ROOT, check=False).returncode == 0:
            print(f"ready, with {torch}: {FOLDER}/bin/python -m benchmarks run")
            return 0
    return 1
