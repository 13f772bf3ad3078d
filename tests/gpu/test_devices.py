"""CUDA devices keep the promises of `aioflow.devices`, and copies overlap with kernels."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from aioflow.devices import Device, GPUOptions, list_cards, open_devices
from aioflow.testing._device_stage import BOUND_S
from aioflow.testing._device_suite import DEVICE_CHECKS, Check

pytestmark = pytest.mark.gpu

LARGE = np.ones(1 << 26, np.float32)  # 256 MiB: a copy of some 10 ms


@pytest.fixture
def cupy() -> Any:
    """CuPy, where there is a device."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    if not cupy.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return cupy


@pytest.mark.parametrize("check", DEVICE_CHECKS, ids=lambda check: check.__name__)
def test_cuda_device(cupy: Any, check: Check) -> None:
    """One check of the conformance suite holds."""
    pool = cupy.get_default_memory_pool()

    def make(memory_limit: int | None) -> Device:
        (gpu,) = open_devices(device_count={"GPU": 1}).devices[1:]
        pool.free_all_blocks()
        pool.set_limit(size=memory_limit or 0)
        return gpu

    try:
        check(make)
    finally:
        pool.set_limit(size=0)


def test_copies_overlap_with_kernels(cupy: Any) -> None:
    """By CUDA's own times a copy begins while kernels of another stream run, and ends before they do."""
    marks = {name: cupy.cuda.Event() for name in ("kernels", "kernels end", "copy", "copy end")}
    issued, done = threading.Event(), threading.Event()

    def work(x: Any) -> Any:
        marks["kernels"].record(cupy.cuda.get_current_stream())
        for _ in range(200):
            x = cupy.sqrt(x * x + 1)
        marks["kernels end"].record(cupy.cuda.get_current_stream())
        issued.set()
        return x

    with open_devices(device_count={"GPU": 1}).devices[1] as gpu:
        stream, copies = gpu.streams[0], gpu.put(0).stream
        argument = stream.launch(lambda x: x, [LARGE])
        stream.when_done(stream.launch(work, [argument]), lambda *_: done.set(), want_value=False)
        assert issued.wait(BOUND_S)
        copies.launch(lambda: marks["copy"].record(cupy.cuda.get_current_stream()))
        gpu.put(np.ones(1 << 20, np.float32))
        copies.launch(lambda: marks["copy end"].record(cupy.cuda.get_current_stream()))
        assert done.wait(BOUND_S)
    for mark in marks.values():
        mark.synchronize()
    assert cupy.cuda.get_elapsed_time(marks["kernels"], marks["copy"]) > 0
    assert cupy.cuda.get_elapsed_time(marks["copy end"], marks["kernels end"]) > 0


def test_a_fraction_of_the_memory_is_the_limit(cupy: Any) -> None:
    """`per_process_gpu_memory_fraction` limits CuPy's pool; without growth all of it is taken at the start."""
    pool = cupy.get_default_memory_pool()
    try:
        options = GPUOptions(per_process_gpu_memory_fraction=0.01, allow_growth=False)
        with open_devices(device_count={"GPU": 1}, gpu_options=options).devices[1] as gpu:
            total = cupy.cuda.Device(0).mem_info[1]
            assert gpu.memory().limit == pytest.approx(0.01 * total, rel=0.01)
            assert pool.total_bytes() == pytest.approx(0.01 * total, rel=0.01)
    finally:
        pool.set_limit(size=0)
        pool.free_all_blocks()


def test_the_driver_lists_the_cards(cupy: Any) -> None:
    """NVML tells of as many cards as CUDA, or more: some may be hidden from this process."""
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    cards = list_cards()
    assert len(cards) >= cupy.cuda.runtime.getDeviceCount()
    assert all(card.name and 0 < card.memory_used <= card.memory_total for card in cards)
