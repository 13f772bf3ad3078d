"""What `cluster.toml` says: where the tasks are, their settings and devices, and the programs beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from aioflow.cluster._programs import Program, parse_programs, parse_task
from aioflow.cluster._spec import ClusterSpec, parse_jobs
from aioflow.cluster._toml import format_tables, parse_tables, read_tables
from aioflow.devices import GPUOptions
from aioflow.errors import PlacementError, SpecMismatch
from aioflow.runtime import SessionConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ClusterFile", "format_cluster", "parse_cluster", "parse_devices", "read_cluster"]

# What a setting of each type may be.
ACCEPTED = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "float | None": (float, int),
    "str": (str,),
    "GPUOptions": (dict,),
}


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """What a file describes.

    Attributes:
        cluster: Table `[jobs]`.
        config: Table `[config]`: `SessionConfig`.
        devices: Table `[devices]`: for each task named there, as job and index, the devices that it sees.
        programs: Table `[programs]`.
    """

    cluster: ClusterSpec
    config: SessionConfig
    devices: Mapping[tuple[str, int], str]
    programs: list[Program]


def read_cluster(path: str | Path) -> ClusterFile:
    """Read `cluster.toml`.

    Raises:
        PlacementError: It cannot be read, or something in it is malformed; the message names the file and the table.
        ConnectFailed: An address is none.
        SpecMismatch: A setting has a value that cannot work.
    """
    return _parse(read_tables(path), str(path))


def parse_cluster(text: str, where: str) -> ClusterFile:
    """Return what a text says that was read from `where`.

    Raises:
        AioflowError: As `read_cluster`.
    """
    return _parse(parse_tables(text, where), where)


def format_cluster(cluster: ClusterSpec, config: SessionConfig) -> str:
    """Return a text that `parse_cluster` reads as this cluster and these settings."""
    jobs = {job: {task: cluster.task_address(job, task) for task in cluster.task_indices(job)} for job in cluster.jobs}
    return format_tables({"jobs": jobs, "config": asdict(config)})


def _parse(tables: dict[str, dict[str, Any]], where: str) -> ClusterFile:
    cluster = parse_jobs(tables["jobs"], where)
    table = "config"
    try:
        config = _config(SessionConfig, tables["config"])
        table = "devices"
        devices = parse_devices(tables["devices"], cluster)
        table = "programs"
        programs = parse_programs(tables["programs"], cluster) if tables["programs"] else []
    except (PlacementError, SpecMismatch) as error:
        raise type(error)(f"{where}: table [{table}]: {error}") from error
    return ClusterFile(cluster, config, devices, programs)


def _config(kind: type[Any], table: Mapping[str, Any]) -> Any:
    """Return the settings of a table.

    Raises:
        PlacementError: There is no such setting, or it is of another type.
        SpecMismatch: It cannot have this value.
    """
    types = {field.name: str(field.type) for field in fields(kind)}
    given: dict[str, Any] = {}
    for name, value in table.items():
        if name not in types:
            raise PlacementError(f"has {name!r}; expected no more than {', '.join(types)}")
        if type(value) not in ACCEPTED[types[name]]:
            raise PlacementError(f"{name} is {value!r}; expected a value of type {types[name]}")
        given[name] = _config(GPUOptions, value) if isinstance(value, dict) else value
    return kind(**given)


def parse_devices(table: Mapping[str, Any], cluster: ClusterSpec) -> dict[tuple[str, int], str]:
    """Return for the tasks that a table names which devices they see, as CUDA_VISIBLE_DEVICES says it.

    Raises:
        PlacementError: The cluster has no such task, or what it sees is no string.
    """
    devices: dict[tuple[str, int], str] = {}
    for name, visible in table.items():
        if not isinstance(visible, str):
            raise PlacementError(f"{name} sees {visible!r}; expected a string of numbers, '0' or '0,1'; '' is none")
        devices[parse_task(name, cluster, f"devices of {name!r}")] = visible
    return devices
