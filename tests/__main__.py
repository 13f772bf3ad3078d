"""Runs everything that must pass before a change is done: format, lint, types, imports, dependencies, spelling, tests.

    python -m tests                 # everything; all that failed is named at the end
    python -m tests ruff mypy       # only these
    python -m tests -- -k writer    # everything, with arguments for pytest
    python -m tests --coverage      # the tests measured, in subprocesses too

The exit code is the number of checks that failed.
"""

from __future__ import annotations

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
# The tests in two processes at once: those that compute, and those with real sockets and processes, which also wait.
HALVES = (
    ["tests/gpu", "tests/meta", "tests/property", "tests/simulation", "tests/typing", "tests/unit"],
    ["tests/conformance", "tests/integration"],
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
    results: list[tuple[str, int, float]] = []
    for name, command in commands.items():
        if name == "pytest" and not for_pytest:
            results += run_halves(command)
        else:
            results.append((name, *run(name, command)))
    if coverage:
        run("coverage", [PYTHON, "-m", "coverage", "combine", "--quiet"])
        run("coverage", [PYTHON, "-m", "coverage", "report"])
    print("\n=== summary ===")
    for name, code, seconds in results:
        print(f"{name:<10} {'passed' if code == 0 else f'FAILED ({code})':<12} {seconds:6.1f} s")
    return sum(code != 0 for _, code, _ in results)


def run(name: str, command: list[str]) -> tuple[int, float]:
    """Run one check in the repository's root; return its exit code and how many seconds it took."""
    print(f"\n=== {name} ===", flush=True)
    began = monotonic()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return code, monotonic() - began


def run_halves(command: list[str]) -> list[tuple[str, int, float]]:
    """Run the tests in two processes; return the exit code and the seconds of each."""
    print("\n=== pytest, two halves at once: the second is shown when the first has ended ===", flush=True)
    began = monotonic()
    with tempfile.TemporaryFile() as output:
        second = subprocess.Popen([*command, *HALVES[1]], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        first = subprocess.run([*command, *HALVES[0]], cwd=ROOT, check=False).returncode
        results = [("pytest 1", first, monotonic() - began)]
        second.wait()
        results.append(("pytest 2", second.returncode, monotonic() - began))
        output.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(output, sys.stdout.buffer)
        sys.stdout.flush()
    return results


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
