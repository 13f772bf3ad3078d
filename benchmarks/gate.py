"""How fast aioflow must be, against others in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.report import ratios

if TYPE_CHECKING:
    from benchmarks.runner import Results


@dataclass(frozen=True)
class Demand:
    """In a workload, aioflow's rate is at least so many times that of a peer."""

    workload: str
    peer: str
    at_least: float


# With the payload in ZeroMQ's frames.
DEMANDS = (
    Demand("W1s", "multiprocessing.Queue", 2.0),
    Demand("W1b", "multiprocessing.Queue", 0.4),
    Demand("W2", "DataLoader", 0.8),
)

PLAN = {demand.workload: ["aioflow", demand.peer] for demand in DEMANDS}


def judge(results: Results) -> tuple[list[str], list[str]]:
    """Return a line for each demand that is met, and one for each that is not, or whose peer was not measured."""
    met: list[str] = []
    short: list[str] = []
    for demand in DEMANDS:
        says = f"{demand.workload}: at least {demand.at_least:g} x {demand.peer}"
        if not {"aioflow", demand.peer} <= results[demand.workload].keys():
            short.append(f"{says}: not measured")
            continue
        ratio = median(ratios(results, demand.workload, "aioflow", demand.peer))
        (met if ratio >= demand.at_least else short).append(f"{says}: {ratio:#.3g} x")
    return met, short
