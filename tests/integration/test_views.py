"""What a consumer keeps of a queue on a server: views of memory that the producer wrote, for as long as it likes."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

import aioflow as flow

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this kind of memory"),
]

KEPT = 1000
SHAPE = (1 << 19,)  # so many come to more than the 320 MiB that a connection keeps
TEST_S = 50.0


@pytest.fixture
def anyio_backend() -> str:
    """One event loop is enough: the transports have their own tests."""
    return "asyncio"


async def produce(address: str, name: str, count: int) -> None:
    """Put random rows; the first eight bytes of each are the checksum of the rest."""
    rng = np.random.default_rng(count)
    queue = flow.FIFOQueue(8, "uint8", SHAPE, shared_name=name)
    async with flow.Session(address), queue.producer():
        for _ in range(count):
            row = rng.integers(0, 256, SHAPE, np.uint8)
            row[:8] = np.frombuffer(zlib.crc32(row[8:].data).to_bytes(8, "little"), np.uint8)
            await queue.enqueue(row)


def is_whole(row: Any) -> bool:
    """Whether a row is as it was put."""
    return zlib.crc32(row[8:]) == int.from_bytes(bytes(row[:8]), "little")


async def test_a_consumer_that_keeps_a_thousand_batches_stalls_nobody(new_address: Callable[[], str]) -> None:
    """Nor itself: what finds no memory comes in packets. None of what it keeps changes, nor can it be written to."""
    address = new_address()
    kept: list[Any] = []
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": [address]}), anyio.create_task_group() as tasks:
            tasks.start_soon(produce, address, "kept", KEPT)
            queue = flow.FIFOQueue(8, "uint8", SHAPE, shared_name="kept")
            async with flow.Session(address):
                kept += [batch async for batch in queue.batches(1)]
            assert len(kept) == KEPT
            tasks.start_soon(produce, address, "others", 50)
            others = flow.FIFOQueue(8, "uint8", SHAPE, shared_name="others")
            async with flow.Session(address):
                assert [is_whole(row) async for row in others] == [True] * 50
        mapped = Path("/proc/self/maps").read_text().count("memfd:aioflow")
        assert mapped > 0
        assert all(is_whole(batch[0]) for batch in kept)
        assert not any(batch.flags.writeable for batch in kept)
        with pytest.raises(ValueError, match="read-only"):
            kept[0][0, 0] = 1


async def test_a_batch_that_is_to_be_written_to(new_address: Callable[[], str]) -> None:
    """`copy=True` gives memory of the consumer's own."""
    address = new_address()
    queue = flow.FIFOQueue(8, "uint8", SHAPE, shared_name="copied")
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": [address]}), anyio.create_task_group() as tasks:
            tasks.start_soon(produce, address, "copied", 8)
            async with flow.Session(address):
                async for batch in queue.batches(4, copy=True):
                    assert all(map(is_whole, batch))
                    np.add(batch, 1, out=batch)
                    assert batch.flags.owndata or batch.base.flags.owndata


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # torch.from_numpy says so
@pytest.mark.parametrize(("library", "name"), [("torch", "from_numpy"), ("jax.numpy", "asarray")])
async def test_tensors_of_other_libraries_keep_their_memory(
    new_address: Callable[[], str], library: str, name: str
) -> None:
    """A tensor that another library makes of a batch is right after the batch itself is gone and others have come."""
    from_numpy: Callable[[Any], Any] = getattr(pytest.importorskip(library), name)
    address = new_address()
    queue = flow.FIFOQueue(8, "uint8", SHAPE, shared_name="tensors")
    tensors: list[Any] = []
    with anyio.fail_after(TEST_S):
        async with flow.Server({"local": [address]}), anyio.create_task_group() as tasks:
            tasks.start_soon(produce, address, "tensors", 100)
            async with flow.Session(address):
                async for row in queue:
                    if len(tensors) < 10:
                        tensors.append(from_numpy(row))
        assert all(is_whole(np.asarray(tensor)) for tensor in tensors)
