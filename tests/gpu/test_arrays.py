"""Arrays on a GPU are taken wherever a tensor is; they come back as NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioflow as flow

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.gpu, pytest.mark.anyio]

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: the conversion is the same everywhere."""
    return "asyncio"


def _cupy() -> Callable[[Any], Any]:
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    if not cupy.cuda.is_available():
        pytest.skip("needs a CUDA device")
    asarray: Callable[[Any], Any] = cupy.asarray
    return asarray


def _torch() -> Callable[[Any], Any]:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return lambda values: torch.from_numpy(values).cuda()


def _jax() -> Callable[[Any], Any]:
    jax = pytest.importorskip("jax", reason="needs JAX")
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("needs a GPU that JAX sees")
    return lambda values: jax.device_put(values, device)


@pytest.mark.parametrize("library", [_cupy, _torch, _jax], ids=["cupy", "torch", "jax"])
async def test_an_array_on_the_device_is_enqueued(library: Callable[[], Callable[[Any], Any]]) -> None:
    """api.md: CuPy, PyTorch and JAX arrays are accepted wherever a tensor is."""
    to_device = library()
    queue = flow.FIFOQueue(10, ["float32"], [[4]])
    async with flow.Session():
        await queue.enqueue(to_device(VALUES[0]))
        await queue.enqueue_many(to_device(VALUES))
        with pytest.raises(flow.SpecMismatch, match="shape"):
            await queue.enqueue(to_device(VALUES))
        first, rest = await queue.dequeue(), await queue.dequeue_many(3)
    np.testing.assert_array_equal(VALUES[0], first)
    np.testing.assert_array_equal(VALUES, rest)


async def test_what_was_enqueued_does_not_change_with_the_device_array() -> None:
    """api.md: the caller may reuse its memory after the call."""
    array = _cupy()(VALUES[0])
    queue = flow.FIFOQueue(10, ["float32"], [[4]])
    async with flow.Session():
        await queue.enqueue(array)
        array[:] = -1
        np.testing.assert_array_equal(VALUES[0], await queue.dequeue())
