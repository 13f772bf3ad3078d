"""Names: addresses, device names and shared names; parsed, checked and printed here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

from aioflow.errors import ConnectFailed, PlacementError, SpecMismatch

__all__ = ["DeviceName", "address_scheme", "check_shared_name", "normalise_address"]

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.DOTALL)
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[^\s/:]+):(\d+|\*)")

# From TensorFlow's DeviceNameUtils: a job starts with a letter; "/cpu:0" is short for "/device:CPU:0".
_DEVICE_PART = re.compile(
    r"/(?:job:(?P<job>[A-Za-z][A-Za-z0-9_]*)|replica:(?P<replica>\d+|\*)|task:(?P<task>\d+|\*)"
    r"|device:(?P<kind>[A-Za-z]\w*):(?P<index>\d+|\*)|(?P<short_kind>cpu|gpu|CPU|GPU):(?P<short_index>\d+|\*))"
)


def normalise_address(address: str) -> str:
    """Return an address with its scheme: a bare `host:port` means `tcp://host:port`.

    Raises:
        ConnectFailed: It is neither `scheme://rest` nor `host:port`.
    """
    if _SCHEME.fullmatch(address):
        return address
    if _HOST_PORT.fullmatch(address):
        return f"tcp://{address}"
    raise ConnectFailed(
        f"{address!r} is no address: expected ipc:///path, tcp://host:port, inproc://name, or host:port"
    )


def address_scheme(address: str) -> str:
    """Return the scheme of an address, without `://`.

    Raises:
        ConnectFailed: It is no address.
    """
    return normalise_address(address).partition("://")[0]


def check_shared_name(name: str, what: str = "shared_name") -> None:
    """Refuse a name that starts with an underscore: those are the framework's own (as in TensorFlow).

    Raises:
        SpecMismatch: The name starts with an underscore, or is no string.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
        raise SpecMismatch(f"{what} must be a string, got {name!r}")
    if name.startswith("_"):
        raise SpecMismatch(f"{what} {name!r} starts with an underscore; such names are reserved, choose another")


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A device name, full or partial; a field that is None was not given.

    Attributes:
        job: The job of a cluster.
        task: The task index within the job.
        kind: The device type in upper case, such as `CPU`.
        index: The number of the device within its task and kind.
    """

    job: str | None = None
    task: int | None = None
    kind: str | None = None
    index: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `/job:ps/task:0/cpu:0`, or any part of it; a `*` leaves its field open.

        Raises:
            PlacementError: It is no device name.
        """
        fields: dict[str, str] = {}
        at = 0
        while at < len(text):
            part = _DEVICE_PART.match(text, at)
            if part is None:
                break
            at = part.end()
            fields.update({key.removeprefix("short_"): found for key, found in part.groupdict().items() if found})
        if at < len(text) or fields.get("replica", "0") not in {"0", "*"}:
            raise PlacementError(
                f"{text!r} is no device name: expected parts such as /job:worker/task:0/device:CPU:0 or /gpu:0"
            )

        def number(key: str) -> int | None:
            return int(fields[key]) if fields.get(key, "*") != "*" else None

        kind = fields.get("kind")
        return cls(fields.get("job"), number("task"), kind.upper() if kind else None, number("index"))

    def merge(self, inner: DeviceName) -> DeviceName:
        """Return this name with the fields that `inner` gives; a new kind without an index clears the index."""
        index = inner.index if inner.index is not None or inner.kind is not None else self.index
        if inner.kind is not None and inner.kind == self.kind and inner.index is None:
            index = self.index
        return replace(
            self,
            job=inner.job if inner.job is not None else self.job,
            task=inner.task if inner.task is not None else self.task,
            kind=inner.kind or self.kind,
            index=index,
        )

    def __str__(self) -> str:
        """Print the fields that are given, in the form that `parse` reads."""
        parts = [
            f"/job:{self.job}" if self.job is not None else "",
            f"/task:{self.task}" if self.task is not None else "",
        ]
        if self.kind is not None:
            parts.append(f"/device:{self.kind}:{'*' if self.index is None else self.index}")
        return "".join(parts)
