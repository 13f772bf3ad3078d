"""Scopes that a definition captures when it is made: the device and the container."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aioflow.names import DeviceName, check_shared_name

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["container", "current_container", "current_device", "device"]

_device: ContextVar[DeviceName] = ContextVar("aioflow_device", default=DeviceName())  # noqa: B039 - it is frozen
_container: ContextVar[str] = ContextVar("aioflow_container", default="")


@contextmanager
def device(name: str | None) -> Generator[None]:
    """Place the queues that are defined inside on a device; inner scopes override what they name.

    Args:
        name: A device name, full or partial, such as `/job:ps/task:0`; None clears the scopes around it.

    Raises:
        PlacementError: It is no device name.
    """
    merged = DeviceName() if name is None else _device.get().merge(DeviceName.parse(name))
    token = _device.set(merged)
    try:
        yield
    finally:
        _device.reset(token)


@contextmanager
def container(name: str) -> Generator[None]:
    """Keep the shared queues that are defined inside in a container of this name; the empty name is the default one.

    Raises:
        SpecMismatch: The name starts with an underscore.
    """
    check_shared_name(name, "container")
    token = _container.set(name)
    try:
        yield
    finally:
        _container.reset(token)


def current_device() -> DeviceName:
    """Return the device of the scopes around the caller."""
    return _device.get()


def current_container() -> str:
    """Return the container of the scope around the caller."""
    return _container.get()
