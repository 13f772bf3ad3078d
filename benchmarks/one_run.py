"""One run of one system, as a program of its own: prints what was measured as JSON. `runner.py` starts it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS


def main(system: str, workload: str, size: str) -> None:
    """Run, and print."""
    print(json.dumps(asdict(SYSTEMS[system].consume(WORKLOADS[workload], small=size == "small"))))


if __name__ == "__main__":
    main(*sys.argv[1:])
