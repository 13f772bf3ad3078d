"""A graph on two devices: loading on the CPU, computing on a GPU, or on a stand-in for one where there is none.

    python examples/two_devices.py [FILE]     # FILE: where to write the drawing, for Graphviz's `dot -Tsvg FILE`

An op has a kernel for each kind of device. Nodes are placed by the scope of `flow.device`; where nothing is said, an op
that has a GPU kernel goes to the first GPU. The chain on the GPU is launched without waiting, and only what the CPU
needs of it is copied back. `log_device_placement` writes to stderr which node runs where.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import aioflow as flow
from aioflow.devices import CpuDevice, open_devices, use_devices

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 256


@flow.op
def load(seed: int) -> NDArray[np.float32]:
    """Make a matrix; there is a CPU kernel only."""
    return np.random.default_rng(seed).normal(0, SIZE**-0.5, (SIZE, SIZE)).astype(np.float32)


@flow.op
def multiply(left: Any, right: Any) -> Any:
    """Multiply matrices: NumPy's here."""
    return left @ right


@multiply.kernel("gpu")
def _(left: Any, right: Any) -> Any:
    return left @ right  # CuPy's, on the node's stream; the stand-in gives NumPy arrays


@flow.op
async def describe(matrix: NDArray[np.float32]) -> str:
    """Say something about a matrix, which has come back to the host."""
    return f"{matrix.shape[0]} x {matrix.shape[1]}, mean of squares {np.square(matrix).mean() * SIZE:.3f}"


def has_gpu() -> bool:
    """Say whether a session would find a GPU."""
    opened = open_devices()
    opened.close()
    return any(device.kind == "GPU" for device in opened.devices)


def build() -> list[flow.Node]:
    """Make the nodes, in the current graph; return those to fetch."""
    first, second = load(1), load(2)
    with flow.device("/gpu:0"):
        product = multiply(first, second)
    for _ in range(3):
        product = multiply(product, second)  # asks for no device: the GPU, as there is a kernel
    with flow.device("/cpu:0"):
        pinned = multiply(first, second)  # on the CPU, although the GPU could
    return [describe(product), describe(pinned)]


async def main() -> str:
    """Run the graph once, and return its drawing."""
    with flow.Graph() as graph:
        fetches = build()
    async with flow.Session(config=flow.SessionConfig(log_device_placement=True)) as session:
        for device in await session.devices():
            print(f"{device.name}: {device.description}")
        print(*await session.run(fetches), sep="\n")
    return graph.to_dot()


if __name__ == "__main__":
    with ExitStack() as stack:
        if not has_gpu():
            print("no GPU here: a CPU device stands in for it")
            stack.enter_context(use_devices(stack.enter_context(CpuDevice("/gpu:0"))))
        drawing = asyncio.run(main())
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(drawing)
    else:
        print(drawing)
