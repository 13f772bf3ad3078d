"""What one run of one system gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Measurement:
    """What the consumer counted and timed.

    Attributes:
        arrived: Elements that arrived in the whole run, each checked.
        elements: Those that were timed.
        seconds: From the last element before them to the last of them.
        cpu_s: Processor seconds in that time, of all processes of the run.
        others_cpu_s: The same of everything else on the machine: it should have been idle.
        p50_us: Where elements go there and back: how long that takes, in microseconds, in the median.
        p99_us: The same, which one in a hundred exceeds.
    """

    arrived: int
    elements: int
    seconds: float
    cpu_s: float
    others_cpu_s: float
    p50_us: float = 0.0
    p99_us: float = 0.0


@dataclass(frozen=True)
class Failed:
    """A run that failed or took too long, in the place of its measurement.

    Attributes:
        says: Which run it was, and why: one line.
    """

    says: str


def measured(runs: Iterable[Measurement | Failed]) -> list[Measurement]:
    """Return the runs that did not fail."""
    return [run for run in runs if isinstance(run, Measurement)]
