"""How fast aioflow must be, against others in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measurement import measured
from benchmarks.report import cpu_s_per_gb, gb_per_s, ratios

if TYPE_CHECKING:
    from benchmarks.runner import Results


@dataclass(frozen=True)
class Demand:
    """What a system must reach in a workload; the median of its rounds counts.

    Attributes:
        workload: The name of the workload.
        system: Of whom it is demanded.
        peer: With whom it is compared.
        at_least: So many times the rate of the peer.
        or_gb_per_s: A rate that is enough, whatever the peer's.
        p50_at_most: Where elements go there and back: so many times the peer's median.
        cpu_at_most: Without a peer: processor seconds for each GB.
    """

    workload: str
    system: str
    peer: str = ""
    at_least: float = 0.0
    or_gb_per_s: float = 0.0
    p50_at_most: float = 0.0
    cpu_at_most: float = 0.0

    def __str__(self) -> str:
        """Return it in words."""
        start = f"{self.workload}: {self.system} at"
        if self.cpu_at_most:
            return f"{start} most {self.cpu_at_most:g} CPU s/GB"
        if self.p50_at_most:
            return f"{start} most {self.p50_at_most:g} x the p50 of {self.peer}"
        enough = f", or {self.or_gb_per_s:g} GB/s" if self.or_gb_per_s else ""
        return f"{start} least {self.at_least:g} x {self.peer}{enough}"

    def judge(self, results: Results) -> tuple[bool, str]:
        """Return whether it is met, and the figure; it is not where something was not measured."""
        if missing := self._not_measured(results):
            return False, missing
        runs = measured(results[self.workload][self.system])
        if self.cpu_at_most:
            figure = median(cpu_s_per_gb(run, self.workload) for run in runs)
            return figure <= self.cpu_at_most, f"{figure:#.3g} CPU s/GB"
        ratio = median(ratios(results, self.workload, self.system, self.peer))
        if self.p50_at_most:
            return ratio <= self.p50_at_most, f"{ratio:#.3g} x"
        rate = median(gb_per_s(run, self.workload) for run in runs)
        is_enough = bool(self.or_gb_per_s) and rate >= self.or_gb_per_s
        return ratio >= self.at_least or is_enough, f"{ratio:#.3g} x" + f", {rate:#.3g} GB/s" * bool(self.or_gb_per_s)

    def _not_measured(self, results: Results) -> str:
        """Return what was not measured, or not together in at least half of the rounds; "" where all was."""
        systems = results.get(self.workload, {})
        names = [name for name in (self.system, self.peer) if name]
        if absent := [name for name in names if not systems.get(name)]:
            return f"{' and '.join(absent)} not measured"
        rounds = list(zip(*(systems[name] for name in names), strict=True))
        good = sum(len(measured(runs)) == len(runs) for runs in rounds)
        if 2 * good >= len(rounds):
            return ""
        broken = [name for name in names if len(measured(systems[name])) < len(rounds)]
        return f"{' and '.join(broken)} not measured: good in {good} of {len(rounds)} rounds"


# Through shared memory, and between hosts.
MEMORY = (
    Demand("W1s", "aioflow", "multiprocessing.Queue", at_least=5),
    Demand("W1b", "aioflow", "multiprocessing.Queue", at_least=3),
    Demand("W1b", "aioflow", "ZeroMQ", at_least=1),
    Demand("W2", "aioflow", "ring", at_least=0.8),
    Demand("W2", "aioflow", "DataLoader", at_least=7),
    Demand("W2", "aioflow", "TensorFlow", at_least=15),
    Demand("W2", "aioflow", cpu_at_most=0.17),
    Demand("W2", "aioflow-tcp", "multiprocessing.Queue", at_least=2.5, or_gb_per_s=1.1),
    Demand("W2-shuffle", "aioflow", "ring", at_least=0.5),
    Demand("W2-copy", "aioflow", "ring", at_least=0.5),
    Demand("W2-two", "aioflow", "ring", at_least=0.7),
    Demand("W3", "aioflow", "multiprocessing.Queue", at_least=15),
    Demand("W3", "aioflow", "multiprocessing.Queue-chunks", at_least=2),
    Demand("W4", "aioflow", "ring", at_least=0.8),
    Demand("W5", "aioflow", "multiprocessing.Queue", p50_at_most=1.1),
)

# With the payload in ZeroMQ's frames.
FRAMES = (
    Demand("W1s", "aioflow-frames", "multiprocessing.Queue", at_least=2),
    Demand("W1b", "aioflow-frames", "multiprocessing.Queue", at_least=0.4),
    Demand("W2", "aioflow-frames", "DataLoader", at_least=0.8),
)


def plan(demands: tuple[Demand, ...]) -> dict[str, list[str]]:
    """Return which systems to run in which workload: each once, those that are compared next to each other."""
    systems: dict[str, list[str]] = {}
    for demand in demands:
        chosen = systems.setdefault(demand.workload, [])
        chosen += [name for name in (demand.system, demand.peer) if name and name not in chosen]
    return systems


def judge(demands: tuple[Demand, ...], results: Results) -> tuple[list[str], list[str]]:
    """Return a line for each demand that is met, and one for each that is not, or whose peer was not measured."""
    met: list[str] = []
    short: list[str] = []
    for demand in demands:
        is_met, figure = demand.judge(results)
        (met if is_met else short).append(f"{demand}: {figure}")
    return met, short
