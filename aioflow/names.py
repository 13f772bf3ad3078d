"""Names: addresses, device names and shared names; parsed, checked and printed here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

from aioflow.errors import ConnectFailed, PlacementError, SpecMismatch

__all__ = ["DeviceName", "address_scheme", "check_job_name", "check_shared_name", "normalise_address"]

# A message carries 1,024 characters; the rest is for the suffix of an epoch.
NAME_CHARS_MAX = 1000

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.DOTALL)
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[^\s/:]+):([0-9]{1,5}|\*)")

_JOB = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# From TensorFlow's DeviceSpec: "cpu:0" and "cpu" are short for "device:CPU:0" and "device:CPU:*", for known types only.
_DEVICE_PART = re.compile(
    r"job:(?P<job>(?:[A-Za-z][A-Za-z0-9_]*)?)|replica:(?P<replica>[0-9]{1,9}|\*)|task:(?P<task>-?[0-9]{1,9}|\*)"
    r"|device:(?P<kind>[A-Za-z][A-Za-z0-9_]*):(?P<index>[0-9]{1,9}|\*)"
    r"|(?P<short_kind>(?i:cpu|gpu|tpu))(?::(?P<short_index>[0-9]{1,9}|\*))?"
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
        f"{address!r} is no address: expected ipc:///path, shm:///path, tcp://host:port, inproc://name, or host:port"
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
        SpecMismatch: The name starts with an underscore, is too long, or is no string.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
        raise SpecMismatch(f"{what} must be a string, got {name!r}")
    if name.startswith("_"):
        raise SpecMismatch(f"{what} {name!r} starts with an underscore; such names are reserved, choose another")
    if len(name) > NAME_CHARS_MAX:
        raise SpecMismatch(f"{what} {name[:40]!r}... has {len(name)} characters; expected at most {NAME_CHARS_MAX}")


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
        """Parse `/job:ps/task:0/cpu:0`, or any part of it, in any order; a `*` leaves its field open.

        Of a job or task that comes twice the last one holds; the first slash may be left out.

        Raises:
            PlacementError: It is no device name.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise PlacementError(f"{text!r} is no device name: expected a string such as '/job:worker/task:0'")
        fields: dict[str, str] = {}
        for text_of_part in filter(None, text.split("/")):
            part = _DEVICE_PART.fullmatch(text_of_part)
            found = part.groupdict().items() if part else ()
            given = {key.removeprefix("short_"): value for key, value in found if value is not None}
            if not given or ("kind" in given and "kind" in fields):
                raise PlacementError(_no_device_name(text))
            fields |= given
        if fields.get("replica", "0") not in {"0", "*"}:
            raise PlacementError(_no_device_name(text))

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

    def allows(self, device: DeviceName) -> bool:
        """Whether a device, by its full name, has every field that is given here."""
        return (
            self.job in {None, device.job}
            and self.task in {None, device.task}
            and self.kind in {None, device.kind}
            and self.index in {None, device.index}
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


def check_job_name(job: str) -> None:
    """Refuse the name of a job that no device name could contain.

    Raises:
        PlacementError: It is no string of letters, digits and underscores that starts with a letter.
    """
    if not isinstance(job, str) or not _JOB.fullmatch(job):  # pyright: ignore[reportUnnecessaryIsInstance] - anything
        raise PlacementError(f"{job!r} is no name of a job: expected letters, digits and _, with a letter in front")


def _no_device_name(text: str) -> str:
    return (
        f"{text!r} is no device name: expected parts such as /job:worker/task:0/device:CPU:0 or /gpu:0, "
        "with one device, and no replica but 0"
    )
