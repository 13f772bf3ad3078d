"""One run of one system, as a program of its own: prints what was measured as JSON. `runner.py` starts it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.one_run", description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("size", choices=("full", "small"))
    arguments = parser.parse_args()
    system, workload = SYSTEMS[arguments.system], WORKLOADS[arguments.workload]
    if arguments.workload not in system.workloads:
        parser.error(f"{arguments.system} carries {', '.join(system.workloads)}, and not {arguments.workload}")
    print(json.dumps(asdict(system.consume(workload, small=arguments.size == "small"))))


if __name__ == "__main__":
    main()
