"""The command line: `python -m benchmarks run`, `gate`, `graph`, `cluster`, `scaling` or `setup`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environment import HEAVY, setup
from benchmarks.gate import FRAMES, MEMORY, Demand, judge, plan
from benchmarks.picture import picture
from benchmarks.report import report, table
from benchmarks.runner import Results, failed, measure, missing
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable


def main(arguments: list[str]) -> int:
    """Do what is asked; return 0, or 1 where something fails, is not measured or falls short."""
    options = _parser().parse_args(arguments)
    return COMMANDS[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare aioflow with other systems.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and print a table")
    run.add_argument("--workload", action="append", choices=WORKLOADS, help="may be repeated (default: all)")
    run.add_argument("--system", action="append", choices=SYSTEMS, help="may be repeated (default: all)")
    run.add_argument("--small", action="store_true", help="few elements: whether everything runs, not how fast")
    gate = commands.add_parser("gate", help="measure, and fail where aioflow is slower than it must be")
    gate.add_argument("--frames", action="store_true", help="what it must reach with the payload in ZeroMQ's frames")
    gate.add_argument("--workload", action="append", choices=WORKLOADS, help="only these demands; may be repeated")
    graph = commands.add_parser("graph", help="what a step of a graph costs; fails where it costs too much")
    cluster = commands.add_parser("cluster", help="what a step over two tasks costs; fails where it costs too much")
    scaling = commands.add_parser("scaling", help="many producers, consumers, queues, elements; fails where they cost")
    for command in (graph, cluster, scaling):
        command.add_argument("--small", action="store_true", help="few nodes: whether it runs, not how fast")
    for command in (run, gate, graph, cluster, scaling):
        rounds = 9 if command is gate else 5  # a single run of W2 takes from 0.5 to 1.2 times its peer's time
        command.add_argument(
            "--rounds", type=_rounds, default=rounds, help="runs of each system (default: %(default)s)"
        )
        command.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    for command in (run, gate):
        command.add_argument("--svg", type=Path, metavar="FILE", help="draw the rates there")
    environment = commands.add_parser("setup", help="make the environment .venv-bench with the systems")
    environment.add_argument(
        "--with", action="append", default=[], choices=HEAVY, dest="heavy", help="a large one too; may be repeated"
    )
    return parser


def _rounds(text: str) -> int:
    if (rounds := int(text)) < 1:
        raise ValueError
    return rounds


def _run(options: argparse.Namespace) -> int:
    chosen = {
        workload: [system for system in options.system or SYSTEMS if workload in SYSTEMS[system].workloads]
        for workload in options.workload or WORKLOADS
    }
    results = _measured(chosen, options, small=options.small)
    if any(results.values()):
        return 1 if failed(results) else 0
    print("benchmarks: nothing was measured: no system is there that carries the workload", file=sys.stderr)
    return 1


def _gate(options: argparse.Namespace) -> int:
    demands: tuple[Demand, ...] = FRAMES if options.frames else MEMORY
    if options.workload:
        demands = tuple(demand for demand in demands if demand.workload in options.workload)
    results = _measured(plan(demands), options, small=False)
    met, short = judge(demands, results)
    ours = failed(results, of="aioflow")
    print()
    for line in met:
        print(f"met         {line}")
    for line in short:
        print(f"FALLS SHORT {line}")
    for line in ours:
        print(f"FAILED      {line}")
    return 1 if short or ours else 0


def _graph(options: argparse.Namespace) -> int:
    from benchmarks import clusters, graphs, scaling  # noqa: PLC0415 - `setup` runs where nothing is installed

    chosen = {"graph": graphs.run, "cluster": clusters.run, "scaling": scaling.run}[options.command]
    figures, rows = chosen(options.rounds, small=options.small)
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print()
    for what, figure, demand, is_met in rows:
        print(f"{'met        ' if is_met else 'FALLS SHORT'} {what}: {figure:#.3g} ({demand})")
    return 0 if options.small or all(is_met for *_, is_met in rows) else 1


def _measured(chosen: dict[str, list[str]], options: argparse.Namespace, *, small: bool) -> Results:
    left_out = missing({system for systems in chosen.values() for system in systems})
    for system, reason in left_out.items():
        print(f"left out: {system}: {reason}", file=sys.stderr)
    chosen = {workload: [s for s in systems if s not in left_out] for workload, systems in chosen.items()}
    results = measure(chosen, rounds=options.rounds, small=small)
    content = report(results, left_out, small=small)
    print(table(content))
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(picture(content))
    return results


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "gate": _gate,
    "graph": _graph,
    "cluster": _graph,
    "scaling": _graph,
    "setup": lambda options: setup(options.heavy),
}


if __name__ == "__main__":
    # However it is told to end, it first ends what it has started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
