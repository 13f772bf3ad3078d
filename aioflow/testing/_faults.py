"""What goes wrong in a simulated run: a plan from the seed, what a decision does, and which ones a failure needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.random import Generator

    from aioflow.testing._network import SimulatedNetwork

__all__ = ["Decision", "Faults", "check_run", "inject_faults", "minimise"]

D = TypeVar("D")

# A fault comes this long after the start at the earliest, and lasts so long at least.
FIRST_S = 0.001
LASTS_S = 0.01

# A slow node's messages, in and out, take so many times as long.
SLOW = 30.0

# How often a failing run is repeated to find out which decisions it needs.
TRIES = 100


class Decision(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        at_s: When, in seconds since the start.
        what: One of "disconnect", "partition", "stop", "slow" and "crash".
        pick: Which of the connections or nodes that are there then: a number in [0, 1).
        lasting_s: For how long; nothing to a disconnect.
    """

    at_s: float
    what: str
    pick: float
    lasting_s: float

    def __str__(self) -> str:
        """Say what and when."""
        return f"{self.what} at {self.at_s:.6f} s (pick {self.pick:.3f}, for {self.lasting_s:.3f} s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How many things go wrong in a run. When, where and for how long the seed decides, more of them early than late.

    Attributes:
        disconnects: Connections that are lost.
        partitions: Times when nothing passes between two nodes.
        restarts: Crashes of a server, which starts again empty.
        slow: Times when the messages of a node take 30 times as long.
        stops: Times when a node does nothing (SIGSTOP).
        within_s: All begin within so many seconds of the run.
        lasting_s: The longest one lasts so many seconds.
    """

    disconnects: int = 0
    partitions: int = 0
    restarts: int = 0
    slow: int = 0
    stops: int = 0
    within_s: float = 10.0
    lasting_s: float = 2.0

    def plan(self, rng: Generator) -> list[Decision]:
        """Draw the decisions of one run, in the order of their times."""
        decisions: list[Decision] = []
        for what, name in _NAMES.items():
            for _ in range(getattr(self, name)):
                at_s = _log_uniform(rng, FIRST_S, self.within_s)
                decisions.append(Decision(at_s, what, rng.random(), _log_uniform(rng, LASTS_S, self.lasting_s)))
        return sorted(decisions)


_NAMES = {
    "disconnect": "disconnects",
    "partition": "partitions",
    "crash": "restarts",
    "slow": "slow",
    "stop": "stops",
}
assert set(_NAMES.values()) < {field.name for field in fields(Faults)}


def inject_faults(network: SimulatedNetwork, decisions: Sequence[Decision]) -> None:
    """Have the decisions happen in a network; one that finds nothing to strike does nothing."""
    for decision in decisions:
        network.at(decision.at_s, partial(_strike, network, decision))


def minimise(decisions: Sequence[D], fails: Callable[[list[D]], bool], tries: int = TRIES) -> list[D]:
    """Find a small part of some decisions with which a run still fails: chunks are left out, then smaller ones.

    Args:
        decisions: Those of a run that failed.
        fails: Says whether a run with these decisions fails in the same way.
        tries: How often `fails` is called at most.

    Returns:
        A part of the decisions, in their order; none of it can be left out alone, if the tries sufficed.
    """
    kept = list(decisions)
    size = len(kept)
    while size and tries > 0:
        start, left_out = 0, False
        while start < len(kept) and tries > 0:
            part = kept[:start] + kept[start + size :]
            tries -= 1
            if fails(part):
                kept, left_out = part, True
            else:
                start += size
        if not left_out or size > 1:
            size //= 2
    return kept


def check_run(
    attempt: Callable[[Sequence[D]], tuple[BaseException | None, SimulatedNetwork]],
    decisions: Sequence[D],
    *,
    seed: int,
    tries: int = TRIES,
) -> None:
    """Run with some decisions; if that fails, find those that it needs, and say all that is known of the failure.

    Args:
        attempt: Runs with some decisions; returns how it failed, or None, and its network. The same decisions always
            do the same.
        decisions: The decisions.
        seed: What they and the run were made from, for the message.
        tries: How many runs may go into leaving out decisions.

    Raises:
        BaseException: What the shortest run raised, with a note: the seed, the decisions that are left, the trace.
    """
    error, network = attempt(decisions)
    if error is None:
        return
    kinds = _kinds(error)
    shortest = error, network

    def fails(part: list[D]) -> bool:
        nonlocal shortest
        error, network = attempt(part)
        if error is None or _kinds(error) != kinds:
            return False
        shortest = error, network
        return True

    kept = minimise(decisions, fails, tries)
    error, network = shortest
    lines = [
        f"simulated with seed={seed}",
        f"needs {len(kept)} of {len(decisions)} decisions:",
        *(f"  {decision}" for decision in kept),
        f"trace ({len(network.trace)} events):",
        network.render(),
    ]
    error.add_note("\n".join(lines))
    raise error


def _kinds(error: BaseException) -> set[type]:
    """Return the class of an error, or those of the errors in a group: two runs with the same fail alike."""
    if isinstance(error, BaseExceptionGroup):
        return set().union(*map(_kinds, error.exceptions))
    return {type(error)}


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(max(low, high))))


def _strike(network: SimulatedNetwork, decision: Decision) -> None:
    """Do what a decision says; when it is over, take it back."""
    until = network.now + decision.lasting_s
    connections = network.connections
    if decision.what in {"disconnect", "partition"}:
        if not connections:
            return
        end = connections[int(decision.pick * len(connections))]
        if decision.what == "disconnect":
            network.cut(end)
        else:
            network.partition(*end.link)
            network.at(until, partial(network.heal, *end.link))
        return
    crashes = decision.what == "crash"
    nodes = [node for node in network.nodes if node.is_running and (node.on_start is not None or not crashes)]
    if not nodes:
        return
    node = nodes[int(decision.pick * len(nodes))]
    if crashes:
        network.crash(node.name)
        network.at(until, partial(network.restart, node.name))
    elif decision.what == "stop":
        network.stop(node.name)
        network.at(until, partial(network.resume, node.name))
    else:
        network.note(node.name, "", "slow")
        node.slow = SLOW
        network.at(until, lambda: setattr(node, "slow", 1.0))
