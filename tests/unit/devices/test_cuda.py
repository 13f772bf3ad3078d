"""The CUDA backend on a stand-in for CuPy: what it calls, in which order, and what it keeps for how long."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from aioflow.devices import Device, GPUOptions, open_devices
from aioflow.errors import DeviceError, DeviceOutOfMemory, DeviceUnavailable
from aioflow.testing._device_suite import DEVICE_CHECKS, Check

from . import fake_cupy
from .conftest import Wait
from .fake_cupy import TOTAL_BYTES, FakeArray, state


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, module in fake_cupy.make().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "aioflow.devices._cuda", raising=False)
    yield
    sys.modules.pop("aioflow.devices._cuda", None)


def _open(**arguments: Any) -> Device:
    return open_devices(device_count={"GPU": 1}, **arguments).devices[1]


@pytest.mark.parametrize("done_at_once", [True, False], ids=["events-done", "events-late"])
@pytest.mark.parametrize("check", DEVICE_CHECKS, ids=lambda check: check.__name__)
def test_suite(check: Check, done_at_once: bool) -> None:
    """The suite of all devices holds as far as the stand-in can tell."""

    def make(memory_limit: int | None) -> Device:
        device = _open()
        state.limit(memory_limit or 0)
        return device

    state.done_at_once = done_at_once
    check(make)


def test_a_chain_waits_for_one_event(wait: Wait) -> None:
    """Ten kernels of one stream: no event is waited for between them, and the host waits for one, that of the copy."""
    with _open() as gpu:
        stream = gpu.streams[0]
        value = stream.launch(lambda x: x + 1, [np.zeros(3)])
        for _ in range(9):
            value = stream.launch(lambda x: x + 1, [value])
        host, error = wait(value)
        assert error is None
        assert type(host) is np.ndarray
        np.testing.assert_array_equal(np.full(3, 10.0), host)
        waits = state.of("wait_event", "synchronize", "get")
        (last_kernel, copy) = [number for _, _, number in state.of("record")][-2:]
        assert waits == [("wait_event", 0, last_kernel), ("get", 0, False), ("synchronize", copy)]


def test_what_another_stream_uses_is_kept_until_it_is_through(wait: Wait) -> None:
    """The consumer's stream waits for the producer's event; the value lives until the consumer's event is done."""
    state.done_at_once = False
    with _open() as gpu:
        one, two = gpu.streams[:2]
        value = one.launch(lambda x: x * 1, [np.ones(1000)])
        used = two.launch(lambda x: x[:1] + 1, [value])
        produced, consumed = value, used
        value.release()
        assert wait(used, want_value=False) == (None, None)
        numbers = {stream: [event for _, number, event in state.of("record") if number == stream] for stream in (1, 2)}
        assert ("wait_event", 2, numbers[1][-1]) in state.calls
        assert ("synchronize", numbers[2][0]) in state.calls
        with pytest.raises(DeviceError, match="released"):
            _ = produced.value
        consumed.release()
    assert gpu.memory().held == 0


def test_arguments_made_elsewhere_are_waited_for(wait: Wait) -> None:
    """An array that the caller made on its own stream: the launch's waits for what was given to that one."""
    with _open() as gpu:
        array = FakeArray(3)
        array[:] = 1
        host, _ = wait(gpu.streams[1].launch(lambda x: x + 1, [array]))
        np.testing.assert_array_equal(np.full(3, 2.0), host)
    (recorded,) = [call for call in state.of("record") if call[1] == "default"]
    assert ("wait_event", 2, recorded[2]) in state.calls


def test_what_was_handed_out_is_kept_until_its_user_is_through(wait: Wait) -> None:
    """With the last reference an event is recorded on the stream that is current then; the memory waits for it."""
    state.done_at_once = False
    with _open() as gpu:
        put = gpu.put(np.arange(1000))
        assert wait(put, want_value=False) == (None, None)
        taken = put.take()
        assert gpu.memory().held == 8000
        np.testing.assert_array_equal(np.arange(1000), taken)
        before = len(state.of("record"))
        view = taken[5:]
        del taken
        gc.collect()
        assert len(state.of("record")) == before
        del view
        gc.collect()
        assert [call[1] for call in state.of("record")[before:]] == ["default"]
        assert gpu.memory().held == 8000
        state.done_at_once = True
    assert gpu.memory().held == 0


def test_copies_go_through_page_locked_buffers_within_the_bound(monkeypatch: pytest.MonkeyPatch, wait: Wait) -> None:
    """What does not fit is copied all the same: to the device as it is, and to the host by whoever waits."""
    monkeypatch.setattr(import_module("aioflow.devices._cuda"), "PINNED_BYTES_MAX", 4096)
    with _open() as gpu:
        for size, blocking in ((100, False), (1000, True)):
            host, _ = wait(gpu.streams[0].launch(lambda x: x, [np.arange(size)]))
            np.testing.assert_array_equal(np.arange(size), host)
            assert state.of("get")[-1] == ("get", 0, blocking)


def test_too_little_memory_is_told_with_the_figures(wait: Wait) -> None:
    """CuPy's error becomes ours; without a limit the figure is the card's memory."""
    with _open(gpu_options=GPUOptions(per_process_gpu_memory_fraction=2**-20)) as gpu:
        assert gpu.memory().limit == gpu.info().memory_limit == 1024
        _, error = wait(gpu.streams[0].launch(lambda x: x, [np.zeros(1000)], name="loss"))
        assert isinstance(error, DeviceOutOfMemory)
        assert (error.asked, error.held, error.limit) == (8000, 0, 1024)
        assert isinstance(error.__cause__, fake_cupy.OutOfMemoryError)

        def raise_it() -> None:
            raise fake_cupy.OutOfMemoryError(5, 6, 0)

        state.limit(0)
        _, error = wait(gpu.streams[0].launch(raise_it, name="loss"))
        assert isinstance(error, DeviceOutOfMemory)
        assert "loss" in str(error)
        assert error.limit == TOTAL_BYTES


def test_a_failure_of_the_device_reaches_who_waits(wait: Wait) -> None:
    """It is found out in a wait, and told as an error of the device."""
    with _open() as gpu:
        state.failure = "cudaErrorIllegalAddress"
        failed = gpu.streams[0].launch(lambda: 1)
        _, error = wait(failed)
        assert type(error) is DeviceError
        assert "IllegalAddress" in str(error)
        assert failed.error is error


def test_the_limit_is_a_fraction_and_may_be_taken_at_once() -> None:
    """In the pool, and for the first stream."""
    with _open(gpu_options=GPUOptions(per_process_gpu_memory_fraction=0.5, allow_growth=False)) as gpu:
        assert gpu.memory() == (0, TOTAL_BYTES // 2)
    assert state.of("set_limit", "alloc") == [("set_limit", 0.5), ("alloc", 1, TOTAL_BYTES // 2)]


def test_without_a_fraction_what_is_free_is_taken_at_once_but_for_a_rest() -> None:
    """As in TensorFlow: 300 MiB of a small card are left, a twentieth of a large one."""
    with _open(gpu_options=GPUOptions(allow_growth=False)) as gpu:
        taken = TOTAL_BYTES - (300 << 20)
        assert gpu.memory().limit == taken
    assert state.of("set_limit", "alloc") == [("set_limit", taken), ("alloc", 1, taken)]


def test_devices_are_those_that_are_visible() -> None:
    """Their numbers are those of the list; too many are refused, and none there is no error unless some are wanted."""
    gpus = open_devices(gpu_options=GPUOptions(visible_device_list="1,0")).devices[1:]
    infos = [gpu.info() for gpu in gpus]
    assert [(info.name[-6:], info.description) for info in infos] == [(":GPU:0", "Card 1"), (":GPU:1", "Card 0")]
    with pytest.raises(DeviceUnavailable, match="names GPU 7; this process sees 2"):
        open_devices(gpu_options=GPUOptions(visible_device_list="7"))
    with pytest.raises(DeviceUnavailable, match="asks for 3 GPUs; 2 are visible"):
        open_devices(device_count={"GPU": 3})
    state.devices = 0
    assert len(open_devices().devices) == 1
    with pytest.raises(DeviceUnavailable, match="cudaErrorNoDevice"):
        open_devices(device_count={"GPU": 1})


def test_the_stand_in_has_the_names_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the backend calls is there in CuPy, with the arguments that it gives; needs CuPy, and no driver."""
    monkeypatch.undo()
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    cuda = cupy.cuda
    for parent, names in (
        (cupy, ("ndarray", "empty", "ascontiguousarray", "get_default_memory_pool")),
        (cuda, ("alloc", "alloc_pinned_memory", "get_current_stream", "UnownedMemory", "MemoryPointer")),
        (cuda.Device, ("use", "mem_info", "__enter__")),
        (cuda.Stream, ("use", "wait_event", "__enter__")),
        (cuda.Event, ("record", "done", "synchronize")),
        (cuda.runtime, ("getDeviceCount", "getDeviceProperties", "CUDARuntimeError")),
        (cupy.get_default_memory_pool(), ("used_bytes", "total_bytes", "get_limit", "set_limit", "free_all_blocks")),
    ):
        assert [name for name in names if not hasattr(parent, name)] == []
    assert "blocking=True" in (inspect.getdoc(cupy.ndarray.get) or "")
    error = cuda.memory.OutOfMemoryError(10, 20, 30)
    assert (error._size, error._total, error._limit) == (10, 20, 30)
