"""Runs everything that must pass before a change is done: format, lint, types, imports, dependencies, spelling, tests.

    python -m tests                 # everything; all that failed is named at the end
    python -m tests ruff mypy       # only these
    python -m tests -- -k writer    # everything, with arguments for pytest
    python -m tests --coverage      # the tests measured, in subprocesses too

The exit code is the number of checks that failed.
"""

from __future__ import annotations

import subprocess
import sys
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
    results = [(name, *run(name, command)) for name, command in commands.items()]
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
