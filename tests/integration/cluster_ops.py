"""Ops of the tests of clusters of real processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

import aioflow as flow


@flow.op
async def wait(folder: str, name: str, *_: Any) -> None:
    """Wait for ever; a file says so while it does."""
    path = Path(folder) / name
    path.touch()
    try:
        await anyio.sleep_forever()
    finally:
        path.unlink()


@flow.op
def add(*values: Any) -> Any:
    """Add, on a thread."""
    return sum(values)


@flow.op
async def fail(folder: str, name: str) -> None:
    """Fail when a kernel of that name waits elsewhere."""
    while not (Path(folder) / name).exists():
        await anyio.sleep(0.005)
    raise ZeroDivisionError("on purpose")


@flow.op
def pid(*_: Any) -> int:
    """Say which process runs it."""
    return os.getpid()
