"""The CPU backend beyond the suite of all devices: its trace, its faults, its names."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from aioflow.devices import CpuDevice, DeviceInfo
from aioflow.errors import DeviceError, PlacementError
from aioflow.names import DeviceName

from .conftest import Wait


def test_a_chain_of_ten_kernels_has_one_host_wait_in_the_trace(wait: Wait) -> None:
    """One copy to the device, ten kernels in order, one wait, one copy back."""
    with CpuDevice("/gpu:0") as device:
        stream = device.streams[0]
        value = stream.launch(lambda x: x + 1, [np.zeros(3)], name="0")
        for number in range(1, 10):
            value = stream.launch(lambda x: x + 1, [value], name=str(number))
        host, error = wait(value)
    assert error is None
    np.testing.assert_array_equal(np.full(3, 10.0), host)
    happened = [(entry.action, entry.name) for entry in device.trace if entry.action not in {"launch", "wait"}]
    kernels = [(action, str(number)) for number in range(10) for action in ("begin", "end")]
    assert happened == [("put", ""), *kernels, ("get", "9")]
    assert [entry.action for entry in device.trace].count("wait") == device.host_waits == 1
    assert {entry.stream for entry in device.trace} == {0}


@pytest.mark.parametrize("point", ["put", "launch", "event", "get"])
def test_a_fault_fails_one_operation(point: str, wait: Wait) -> None:
    """Whoever waits gets the error; the next launch succeeds."""
    fault = DeviceError("of the test")
    with CpuDevice("/gpu:0") as device:
        stream = device.streams[0]
        device.fail(point, fault)
        failed = stream.launch(lambda x: x, [np.zeros(3)])
        assert wait(failed) == (None, fault)
        assert failed.error is fault
        assert wait(stream.launch(lambda: 1)) == (1, None)


def test_a_failed_kernel_keeps_no_array(wait: Wait) -> None:
    """The error that is kept has a traceback into the kernel, and none of the arrays that were there."""
    seen: list[weakref.ref[Any]] = []

    def kernel(x: Any) -> None:
        temporary = x + 1
        seen.extend([weakref.ref(x), weakref.ref(temporary)])
        raise ValueError("on purpose")

    gc.disable()
    try:
        with CpuDevice("/gpu:0") as device:
            failed = device.streams[0].launch(kernel, [np.zeros(1000)])
            assert wait(failed) == (None, failed.error)
        assert isinstance(failed.error, ValueError)
        assert [array() for array in seen] == [None, None]
        assert device.memory().held == 0
    finally:
        gc.enable()
    traceback = failed.error.__traceback__
    names = []
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "kernel"
    assert "_run" not in names


def test_views_are_counted_once(wait: Wait) -> None:
    """A kernel that returns its argument, or a view of it, takes no more memory; a view keeps what it shows."""
    with CpuDevice("/gpu:0") as device:
        stream = device.streams[0]
        whole = stream.launch(lambda x: x, [np.zeros(1000)])
        view = stream.launch(lambda x: x[:1], [whole])
        assert wait(view, want_value=False) == (None, None)
        whole.release()
        assert device.memory().held == 8000
        view.release()
        assert device.memory().held == 0


def test_names_are_completed() -> None:
    """What a name leaves out is that of an embedded session's first device; the kind must be there."""
    assert str(CpuDevice("/gpu:1").name) == "/job:localhost/task:0/device:GPU:1"
    assert str(CpuDevice(DeviceName("ps", 3, "TPU")).name) == "/job:ps/task:3/device:TPU:0"
    with pytest.raises(PlacementError, match="names no kind"):
        CpuDevice("/job:ps/task:0")
    info = CpuDevice("/gpu:0", memory_limit=7).info()
    assert info == DeviceInfo("/job:localhost/task:0/device:GPU:0", "GPU", 7, info.description)
    assert info.description


def test_a_callback_that_raises_does_not_end_the_waiter(wait: Wait) -> None:
    """It is reported as an exception of its thread, and later waits are called back."""
    with CpuDevice("/gpu:0") as device, pytest.MonkeyPatch.context() as patch:
        reported: list[Any] = []
        patch.setattr("threading.excepthook", reported.append)
        stream = device.streams[0]

        def fail(*_: object) -> None:
            raise ValueError("on purpose")

        stream.when_done(stream.launch(lambda: 1), fail)
        assert wait(stream.launch(lambda: 2)) == (2, None)
    assert [report.exc_type for report in reported] == [ValueError]
