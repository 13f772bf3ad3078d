"""`aioflow devices`: the devices of this machine, as its drivers list them, or those of a cluster, as its tasks do."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import anyio

from aioflow.client import Session
from aioflow.devices import list_cards, open_devices
from aioflow.errors import DeviceUnavailable

if TYPE_CHECKING:
    import argparse

    from aioflow.devices import Card, DeviceInfo

__all__ = ["add_devices"]

GIB = 1 << 30


def add_devices(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "devices",
        help="list the devices of this machine, or of a cluster",
        description="List the CPU and the GPUs of this machine, with the memory and the processes on each. "
        "Asks the driver, and takes no memory on a GPU.",
    )
    parser.add_argument(
        "--target",
        metavar="ADDRESS",
        help="of any server: list the devices of all tasks of its cluster instead, by the names that graphs use. Each "
        "task opens its GPUs for that. The key is the one that AIOFLOW_KEYS names",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_devices)


def _devices(arguments: argparse.Namespace) -> int:
    if arguments.target is None:
        _show_machine(as_json=arguments.json)
    else:
        _show_cluster(anyio.run(_ask, arguments.target), as_json=arguments.json)
    return 0


async def _ask(target: str) -> tuple[DeviceInfo, ...]:
    async with Session(target) as session:
        return await session.devices()


def _show_cluster(devices: tuple[DeviceInfo, ...], *, as_json: bool) -> None:
    if as_json:
        told = [
            {"device": d.name, "kind": d.kind, "name": d.description, "memory_limit": d.memory_limit} for d in devices
        ]
        print(json.dumps({"devices": told}))
        return
    for device in devices:
        limit = "" if device.memory_limit is None else f"  {device.memory_limit / GIB:.1f} GiB at most"
        print(f"{device.name}  {device.description}{limit}")


def _show_machine(*, as_json: bool) -> None:
    opened = open_devices(device_count={"GPU": 0})  # nothing is opened on a GPU to list it
    cpus = [device.info() for device in opened.devices]
    opened.close()
    cards: list[Card] = []
    no_cards = ""
    try:
        cards = list_cards()
    except DeviceUnavailable as error:
        no_cards = str(error)
    if as_json:
        gpus = [{"device": f"/device:GPU:{card.index}", **asdict(card)} for card in cards]
        print(json.dumps({"cpus": [_cpu(cpu) for cpu in cpus], "gpus": gpus, "no_gpus": no_cards or None}))
        return
    for cpu in map(_cpu, cpus):
        print(f"{cpu['device']}  {cpu['name']}")
    for card in cards:
        print(_line(card))
    if not cards:
        print(f"no GPUs: {no_cards or 'the driver lists none'}")


def _cpu(info: DeviceInfo) -> dict[str, str]:
    return {"device": info.name[info.name.index("/device:") :], "name": info.description}


def _line(card: Card) -> str:
    parts = [
        f"/device:GPU:{card.index}",
        card.name,
        f"{card.memory_used / GIB:.1f} of {card.memory_total / GIB:.1f} GiB used",
        f"{card.utilisation} % busy" if card.utilisation is not None else "",
        f"processes {', '.join(map(str, card.processes))}" if card.processes else "",
    ]
    return "  ".join(filter(None, parts))
