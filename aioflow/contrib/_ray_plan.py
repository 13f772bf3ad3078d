"""What is run of a cluster on Ray, and what each part of it needs; plain code that knows nothing of Ray."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from aioflow.cluster import format_cluster, parse_programs, parse_task, program_starts, server_starts
from aioflow.errors import PlacementError
from aioflow.names import address_scheme

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioflow.cluster import ClusterSpec, Program, Start
    from aioflow.runtime import SessionConfig

__all__ = ["CPU_SHARE", "Part", "Plan", "check_nodes", "make_plan"]

# Ray counts processors and reserves none; a group needs to ask for something. With so little any machine has room, as
# the supervisor has.
CPU_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class Part:
    """A server or a program.

    Attributes:
        start: Its name, command, environment and address.
        job: The job of its task, or of its target.
        task: The index there.
        bundle: Which bundle of the placement group it runs in: a program is where its target is.
        gpus: How many GPUs it sees.
    """

    start: Start
    job: str
    task: int
    bundle: int
    gpus: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is run.

    Attributes:
        parts: The servers, then the programs.
        bundles: What Ray has to reserve, for each task.
        cluster: What the servers read.
        ops: Modules whose ops they may run.
    """

    parts: Sequence[Part]
    bundles: Sequence[dict[str, float]]
    cluster: str
    ops: Sequence[str]

    @property
    def launched(self) -> str:
        """What must be the same for a running cluster to be taken over."""
        return repr((self.cluster, self.ops, self.bundles))


def make_plan(
    cluster: ClusterSpec,
    programs: Mapping[str, Any],
    config: SessionConfig,
    ops: Iterable[str],
    gpus: Mapping[str, float],
) -> Plan:
    """Return what is to be run.

    Raises:
        PlacementError: The cluster has no tasks, a program is malformed, a port is 0, or `gpus` is malformed.
        ConnectFailed: An address reaches no other process.
    """
    modules = list(ops)
    servers = server_starts(cluster, {}, modules, "python")
    parsed = parse_programs(programs, cluster) if programs else []
    of_task, of_program = _read_gpus(gpus, cluster, parsed)
    tasks = [(job, index) for job in cluster.jobs for index in cluster.task_indices(job)]
    parts = [
        Part(start, *task, bundle, of_task.get(task, 0))
        for bundle, (start, task) in enumerate(zip(servers, tasks, strict=True))
    ]
    for program in parsed:
        bundle = tasks.index(program.target)
        starts = program_starts([program], cluster, "python")
        parts += [Part(start, *program.target, bundle, of_program.get(program.name, 0)) for start in starts]
    bundles = [
        _bundle(cluster.task_address(*task), [part for part in parts if part.bundle == bundle])
        for bundle, task in enumerate(tasks)
    ]
    return Plan(parts, bundles, format_cluster(cluster, config), modules)


def check_nodes(cluster: ClusterSpec, nodes: Iterable[str]) -> None:
    """Refuse a cluster that Ray has spread further than its addresses reach.

    Raises:
        PlacementError: There are several nodes, and an address reaches one machine alone.
    """
    count = len(set(nodes))
    local = next((address for _, _, address in cluster.tasks() if _host(address) == ""), None)
    if count > 1 and local is not None:
        raise PlacementError(
            f"Ray has placed the tasks on {count} machines, and {local} reaches one of them alone; launch with "
            "strategy='STRICT_PACK', or give each task an address of the machine that it is to run on"
        )


def _bundle(address: str, parts: Sequence[Part]) -> dict[str, float]:
    bundle = {"CPU": CPU_SHARE * len(parts)}
    if gpus := sum(part.gpus for part in parts):
        bundle["GPU"] = gpus
    if host := _host(address):
        bundle[f"node:{host}"] = CPU_SHARE  # Ray's own resource of the machine with that address
    return bundle


def _host(address: str) -> str | None:
    """Return the IP address that a task is bound to, an empty string for one machine alone, None for a name.

    Raises:
        PlacementError: It stands for all interfaces.
    """
    if address_scheme(address) != "tcp":
        return ""
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return ""
    if host in {"*", "0.0.0.0", "::"}:  # noqa: S104 - refused
        raise PlacementError(f"{address} names no machine; expected the address at which the others reach the task")
    try:
        return "" if ip_address(host).is_loopback else host
    except ValueError:  # who resolves it, each time that it connects, is the transport
        return None


def _read_gpus(
    gpus: Mapping[str, float], cluster: ClusterSpec, programs: Sequence[Program]
) -> tuple[dict[tuple[str, int], float], dict[str, float]]:
    """Return how many GPUs tasks see, and programs; 0 for those of which nothing is said.

    Raises:
        PlacementError: One is neither a task nor a program, or sees no number of them.
    """
    of_task: dict[tuple[str, int], float] = {}
    of_program: dict[str, float] = {}
    names = {program.name for program in programs}
    for name, count in gpus.items():
        if type(count) not in (int, float) or count < 0 or (count > 1 and count != int(count)):
            raise PlacementError(f"gpus of {name!r}: expected a whole number, or a share below 1, got {count!r}")
        if name in names:
            of_program[name] = count
        else:
            of_task[parse_task(name, cluster, f"gpus of {name!r}, which is no program")] = count
    return of_task, of_program
