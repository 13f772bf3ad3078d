"""Runs everything that must pass before a change is done: format, lint, types, imports, dependencies, spelling, tests.

    python -m tests                 # everything; all that failed is named at the end
    python -m tests ruff mypy       # only these
    python -m tests -- -k writer    # everything, with arguments for pytest
    python -m tests --coverage      # the tests measured, in subprocesses too

The exit code is the number of checks that failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable

# The cheap ones first: what fails most often is known at once. Every tool reads its settings from pyproject.toml.
CHECKS: dict[str, list[str]] = {
    "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
    "ruff": [PYTHON, "-m", "ruff", "check", "."],
    "codespell": [PYTHON, "-m", "codespell_lib"],
    "deptry": [PYTHON, "-m", "deptry", "."],
    "imports": [PYTHON, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
    "mypy": [PYTHON, "-m", "mypy"],
    "pyright": [PYTHON, "-m", "pyright", "--pythonpath", PYTHON],
    "pytest": [PYTHON, "-m", "pytest"],
}
MEASURED = [PYTHON, "-m", "coverage", "run", "-m", "pytest"]
# What takes long, beside which the tests of the later parts run: many of them wait.
SLOW = {"mypy", "pyright", "pytest"}
PARTS = (
    ["tests/property", "tests/simulation", "tests/typing"],
    ["tests/conformance", "tests/gpu", "tests/meta", "tests/unit"],
    ["tests/integration"],
)


def main(arguments: list[str]) -> int:
    """Run the checks that are named, or all; print a line for each at the end; return how many failed."""
    for_pytest: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, for_pytest = arguments[:cut], arguments[cut + 1 :]
    coverage = "--coverage" in arguments
    names = [name for name in arguments if name != "--coverage"] or list(CHECKS)
    if unknown := set(names) - set(CHECKS):
        print(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    commands = {name: list(CHECKS[name]) for name in names}
    if "pytest" in commands:
        commands["pytest"] = [*(MEASURED if coverage else CHECKS["pytest"]), *for_pytest]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads that spin for 0.1 s in each of hundreds of processes
    results: list[tuple[str, int, float]] = []
    in_parts = "pytest" in commands and not for_pytest
    behind: list[Part] = []
    for name, command in commands.items():
        if in_parts and name in SLOW and not behind:
            behind = [Part(commands["pytest"], part) for part in PARTS[1:]]
        results.append((name, *run(name, [*command, *PARTS[0]] if in_parts and name == "pytest" else command)))
    results += [part.finish() for part in behind]
    if coverage:
        run("coverage", [PYTHON, "-m", "coverage", "combine", "--quiet"])
        run("coverage", [PYTHON, "-m", "coverage", "report"])
    print("\n=== summary ===")
    for name, code, seconds in results:
        print(f"{name:<24} {'passed' if code == 0 else f'FAILED ({code})':<12} {seconds:6.1f} s")
    return sum(code != 0 for _, code, _ in results)


def run(name: str, command: list[str]) -> tuple[int, float]:
    """Run one check in the repository's root; return its exit code and how many seconds it took."""
    print(f"\n=== {name} ===", flush=True)
    began = monotonic()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return code, monotonic() - began


class Part:
    """Some of the tests, run beside others; what they print is shown when they have ended.

    Args:
        command: Of pytest.
        folders: The tests.
    """

    def __init__(self, command: list[str], folders: list[str]) -> None:
        self._name = f"pytest {Path(folders[0]).name} ..."
        self._began = monotonic()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - `finish` closes it
        self._process = subprocess.Popen([*command, *folders], cwd=ROOT, stdout=self._output, stderr=subprocess.STDOUT)

    def finish(self) -> tuple[str, int, float]:
        """Wait for the end, show what was printed; return the name, the exit code, and the seconds until now."""
        code = self._process.wait()
        print(f"\n=== {self._name} ===", flush=True)
        with self._output as output:
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout.buffer)
        sys.stdout.flush()
        return self._name, code, monotonic() - self._began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
