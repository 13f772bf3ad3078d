"""Medians, spreads and ratios of what was measured: as JSON, and as a table."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.environment import ROOT
from benchmarks.measurement import Measurement, measured
from benchmarks.runner import failed
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.runner import Results

PACKAGES = ("aioflow-mq", "numpy", "pyzmq", "torch", "faster-fifo")


def rate(measurement: Measurement) -> float:
    """Return elements per second."""
    return measurement.elements / measurement.seconds


def gb_per_s(measurement: Measurement, workload: str) -> float:
    """Return the rate in GB per second, labels included."""
    return rate(measurement) * WORKLOADS[workload].element_bytes / 1e9


def cpu_s_per_gb(measurement: Measurement, workload: str) -> float:
    """Return the processor seconds of all processes for each GB."""
    return measurement.cpu_s / (measurement.elements * WORKLOADS[workload].element_bytes / 1e9)


def ratios(results: Results, workload: str, system: str, peer: str) -> list[float]:
    """Return the ratio of a system's figure to a peer's, in each round: the two ran one shortly after the other.

    Rounds in which one of them failed are left out.

    The figure is the rate, so that more is better; where elements go there and back, how long that takes in the median.
    """
    pairs = map(measured, zip(results[workload][system], results[workload][peer], strict=True))
    return [_figure(pair[0]) / _figure(pair[1]) for pair in pairs if len(pair) == 2]


def _figure(measurement: Measurement) -> float:
    return measurement.p50_us or rate(measurement)


def report(results: Results, left_out: dict[str, str], *, small: bool) -> dict[str, Any]:
    """Return everything, as plain values for JSON."""
    return {
        "environment": _environment(),
        "small": small,
        "left_out": left_out,
        "failed": failed(results),
        "workloads": {
            workload: _of_workload(results, workload, small=small)
            for workload, systems in results.items()
            if any(map(measured, systems.values()))
        },
    }


def _of_workload(results: Results, name: str, *, small: bool) -> dict[str, Any]:
    workload = WORKLOADS[name].small() if small else WORKLOADS[name]
    systems: dict[str, Any] = {}
    for system, rounds in results[name].items():
        if not (runs := measured(rounds)):
            continue
        ratio_to = {peer: ratios(results, name, system, peer) for peer in results[name]}
        systems[system] = {
            "runs": [asdict(run) if isinstance(run, Measurement) else None for run in rounds],
            "elements_per_s": _spread(map(rate, runs)),
            "gb_per_s": median(gb_per_s(run, name) for run in runs),
            "cpu_s_per_gb": median(cpu_s_per_gb(run, name) for run in runs),
            "cpu_us_per_element": median(run.cpu_s / run.elements for run in runs) * 1e6,
            "cores_taken_by_others": median(run.others_cpu_s / run.seconds for run in runs),
            "p50_us": median(run.p50_us for run in runs),
            "p99_us": median(run.p99_us for run in runs),
            "ratio_to": {peer: _spread(values) for peer, values in ratio_to.items() if values},
        }
    return asdict(workload) | {"sent": workload.total, "element_bytes": workload.element_bytes, "systems": systems}


def _spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"median": median(values), "min": min(values), "max": max(values)}


def _environment() -> dict[str, Any]:
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "commit": _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"),
        "python": platform.python_version(),
        "packages": versions,
        "system": f"{platform.system()} {platform.release()}",
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_average_at_the_end": os.getloadavg()[0],
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def table(content: dict[str, Any]) -> str:
    """Draw a report: for each workload a line for each system; its rate, and the ratio of aioflow's to it."""
    environment = content["environment"]
    packages = ", ".join(f"{name} {number}" for name, number in environment["packages"].items())
    lines = [
        f"commit {environment['commit']}, Python {environment['python']}, {packages}",
        f"{environment['processor']}, {environment['cores']} cores, {environment['system']}",
    ]
    lines += [f"left out: {system}: {reason}" for system, reason in content["left_out"].items()]
    lines += [f"left out: {says}" for says in content["failed"]]
    for name, workload in content["workloads"].items():
        systems = workload["systems"]
        rounds = len(next(iter(systems.values()))["runs"])
        size = f"{workload['measured']:,} elements of {workload['element_bytes']:,} bytes"
        lines += ["", f"{name}: {workload['says']}; {size}; median (min to max) of {rounds}", ""]
        ours = [system for system in systems if system.startswith("aioflow")]
        titles = ["system", *(title for title, _ in _columns(workload)), "CPU µs/element", "others, cores"]
        rows = [titles + [f"{system} / it" for system in ours]]
        rows += [_row(system, workload, ours) for system in systems]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        lines += ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join(lines)


def _columns(workload: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the titles and names of what counts in a workload, beside the rate."""
    if workload["there_and_back"]:
        return [("p50 µs", "p50_us"), ("p99 µs", "p99_us")]
    return [("1000 elements/s", "elements_per_s"), ("GB/s", "gb_per_s"), ("CPU s/GB", "cpu_s_per_gb")]


def _row(system: str, workload: dict[str, Any], ours: list[str]) -> list[str]:
    systems = workload["systems"]
    figures = systems[system]
    thousands = {key: value / 1000 for key, value in figures["elements_per_s"].items()}
    return [
        system,
        *(_cell(thousands) if name == "elements_per_s" else _number(figures[name]) for _, name in _columns(workload)),
        _number(figures["cpu_us_per_element"]),
        f"{figures['cores_taken_by_others']:.1f}",
        *("1" if one == system else _cell(systems[one]["ratio_to"].get(system)) for one in ours),
    ]


def _cell(spread: dict[str, float] | None) -> str:
    if spread is None:  # no round in which both ran
        return "-"
    return "{median} ({min} to {max})".format_map({key: _number(value) for key, value in spread.items()})


def _number(value: float) -> str:
    """Write a number above 0 with three digits that count, or all of those before the point."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"
