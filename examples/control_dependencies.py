"""Control dependencies that bound memory: the same values, a quarter of the peak.

    python examples/control_dependencies.py

Sixteen nodes load a block of 4 MB each, and what is kept of each is one number. Nothing in the data says that a block
should wait for another one, so all are loaded as soon as there is a thread, before the first is summed up. A control
dependency is an edge without a value: here a block is loaded after the sum of the one four places before it, so that
no more than four are there at a time.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCKS = 16
BLOCK = 500_000  # numbers of 8 bytes
AT_ONCE = 4


@flow.op
def load(index: int) -> NDArray[np.float64]:
    """Make a block, as if it was read from a file; plain functions run on threads."""
    return np.full(BLOCK, float(index))


@flow.op
def add_up(block: NDArray[np.float64]) -> float:
    """Keep a number of a block; when its last user is done, the executor lets go of the block."""
    return float(block.sum())


@flow.op
async def total(sums: list[float]) -> float:
    """Add the sums; a list of nodes comes as a list of their values, and coroutines run on the event loop."""
    return sum(sums)


def build(*, bounded: bool) -> flow.Node:
    """Make the nodes, in the current graph."""
    sums: list[flow.Node] = []
    for index in range(BLOCKS):
        earlier = [sums[index - AT_ONCE]] if bounded and index >= AT_ONCE else []
        with flow.control_dependencies(earlier):
            block = load(index)
        sums.append(add_up(block))
    node: flow.Node = total(sums)
    return node


async def main() -> None:
    """Run both graphs, and compare values and peaks."""
    async with flow.Session() as session:
        for bounded in (False, True):
            with flow.Graph():
                result = build(bounded=bounded)
            tracemalloc.start()
            value = await session.run(result)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            print(f"{'with' if bounded else 'without':7} control dependencies: {value:.0f}, peak {peak / 1e6:.1f} MB")


if __name__ == "__main__":
    asyncio.run(main())
