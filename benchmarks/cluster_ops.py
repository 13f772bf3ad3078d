"""The ops of `benchmarks.clusters`, which its servers import."""

from __future__ import annotations

from typing import Any

import numpy as np

import aioflow as flow

LARGE = np.zeros(64 << 20, np.uint8)
LARGE.flags.writeable = False


@flow.op
async def pass_on(value: Any) -> Any:
    """Cost nothing by itself."""
    return value


@flow.op
async def large() -> Any:
    """Return 64 MiB that are there."""
    return LARGE


@flow.op
async def size_of(value: Any) -> int:
    """Return how many bytes came."""
    return int(value.nbytes)
