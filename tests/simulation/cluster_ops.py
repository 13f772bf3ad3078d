"""Ops of the tests of clusters: kernels that are coroutines, and note where they run, for as long as they do."""

from __future__ import annotations

from typing import Any

import anyio

import aioflow as flow

MODULUS = 2**31 - 1

# What runs now, and what has run, over all tasks of a simulated cluster.
running: list[int] = []
events: list[tuple[str, int]] = []


def forget() -> None:
    """Begin another run."""
    running.clear()
    events.clear()


def compute(node: int, values: list[Any]) -> int:
    """Return a node's value: different for each node, and for each order of its inputs."""
    value = node + 1
    for taken in values:
        value = (value * 31 + int(taken)) % MODULUS
    return value


@flow.op
async def combine(node: int, values: list[Any], seconds: float = 0.0, how: str = "") -> int:
    """Take some time, and return the node's value, or fail."""
    events.append(("begin", node))
    running.append(node)
    try:
        await anyio.sleep(seconds)
        if how == "fail":
            raise ZeroDivisionError(node)
        if how == "wait":
            await anyio.sleep_forever()
    finally:
        running.remove(node)
    events.append(("end", node))
    return compute(node, values)


@flow.op(num_outputs=2)
async def split(node: int, values: list[Any], seconds: float = 0.0) -> tuple[int, int]:
    """Return two values."""
    events.append(("begin", node))
    await anyio.sleep(seconds)
    events.append(("end", node))
    return compute(node, values), compute(node + 1, values)
