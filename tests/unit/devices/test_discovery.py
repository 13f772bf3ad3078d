"""Devices are found, counted, hidden, and replaced by one's own; cards are listed as the driver tells."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from aioflow.cli import main
from aioflow.devices import Card, CpuDevice, GPUOptions, list_cards, open_devices, use_devices
from aioflow.errors import DeviceError, DeviceUnavailable, PlacementError, SpecMismatch
from aioflow.names import DeviceName


@pytest.fixture
def _no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "aioflow.devices._cuda", raising=False)


@pytest.mark.usefixtures("_no_cupy")
def test_there_is_always_a_cpu() -> None:
    """As many as `device_count` says, without streams; GPUs only where there are some."""
    names = [str(device.name) for device in open_devices("ps", 2, device_count={"CPU": 2}).devices]
    assert names == ["/job:ps/task:2/device:CPU:0", "/job:ps/task:2/device:CPU:1"]
    (cpu,) = open_devices().devices
    assert not cpu.streams
    assert cpu.info().kind == "CPU"
    assert cpu.info().memory_limit is None


@pytest.mark.usefixtures("_no_cupy")
def test_gpus_that_are_asked_for_must_be_there() -> None:
    """The error says what to install; hiding those that are not there is fine."""
    with pytest.raises(DeviceUnavailable, match="install aioflow-mq"):
        open_devices(device_count={"GPU": 1})
    with pytest.raises(DeviceUnavailable, match="install aioflow-mq"):
        open_devices(gpu_options=GPUOptions(visible_device_list="0"))
    assert len(open_devices(device_count={"GPU": 0}).devices) == 1


@pytest.mark.parametrize("count", [{"CPU": 0}, {"GPU": -1}, {"FPGA": 1}])
def test_impossible_counts_are_refused(count: dict[str, int]) -> None:
    """The message names the entry."""
    with pytest.raises(PlacementError, match=next(iter(count))):
        open_devices(device_count=count)


def test_devices_of_ones_own_stand_in() -> None:
    """Within the block, for their job and task; they are not closed with the session's."""
    with CpuDevice("/gpu:0") as gpu, CpuDevice("/job:ps/task:1/gpu:0") as elsewhere:
        with use_devices(gpu, elsewhere):
            opened = open_devices()
            assert [device.kind for device in opened.devices] == ["CPU", "GPU"]
            assert opened.devices[1] is gpu
            assert open_devices("ps", 1).devices[1] is elsewhere
            opened.close()
            gpu.streams[0].launch(lambda: 1)
        assert gpu not in open_devices(device_count={"GPU": 0}).devices


def test_a_device_is_found_by_its_name() -> None:
    """In full or in part; of several a GPU before a CPU, and the lowest index."""
    with CpuDevice("/gpu:0") as first, CpuDevice("/gpu:1") as second, use_devices(second, first):
        opened = open_devices()
    for name, device in {"/gpu:1": second, "/gpu:*": first, "": first, "/job:localhost/task:0/gpu:1": second}.items():
        assert opened.find(DeviceName.parse(name)) is device
    assert opened.find(DeviceName.parse("/cpu:0")).kind == "CPU"
    for name in ("/gpu:2", "/job:ps/gpu:0", "/tpu:0"):
        with pytest.raises(PlacementError, match=r"there is /job:localhost/task:0/device:CPU:0, .*GPU:0, .*GPU:1"):
            opened.find(DeviceName.parse(name))


@pytest.mark.usefixtures("_no_cupy")
def test_a_gpu_that_cannot_be_used_is_unavailable() -> None:
    """It may be there: the error says what is missing; where GPUs are hidden, there are none."""
    name = DeviceName.parse("/gpu:0")
    with pytest.raises(DeviceUnavailable, match=r"cannot be used: GPUs need CuPy .* install aioflow-mq"):
        open_devices().find(name)
    with pytest.raises(PlacementError, match=r"there is no device '/device:GPU:0'; there is .*CPU:0"):
        open_devices(device_count={"GPU": 0}).find(name)


def test_closing_goes_on_behind_an_error() -> None:
    """All are closed, and the first error is raised."""
    opened = open_devices(device_count={"CPU": 2, "GPU": 0})
    closed: list[float] = []

    def close(bound_s: float) -> None:
        closed.append(bound_s)
        raise DeviceError("still at work")

    for device in opened.own:
        assert isinstance(device, CpuDevice)
        object.__setattr__(device, "close", close)
    with pytest.raises(DeviceError, match="still at work"):
        opened.close(3)
    assert closed == [3, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"per_process_gpu_memory_fraction": 0.0},
        {"per_process_gpu_memory_fraction": 1.5},
        {"visible_device_list": "0,x"},
        {"visible_device_list": "1,1"},
    ],
    ids=str,
)
def test_options_that_no_device_could_follow_are_refused(options: dict[str, Any]) -> None:
    """When they are made, not when a device is opened."""
    with pytest.raises(SpecMismatch):
        GPUOptions(**options)


def test_visible_devices_keep_their_order() -> None:
    """The first is GPU:0."""
    assert GPUOptions(visible_device_list=" 5, 3").visible_devices == (5, 3)
    assert GPUOptions().visible_devices is None


def _nvml(*, driver: bool = True) -> ModuleType:
    """Return a module that tells of two cards as nvidia-ml-py does; the second one tells no more than it must."""
    nvml: Any = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def of_first(value: Any) -> Any:
        def tell(handle: int) -> Any:
            if handle:
                raise NVMLError("Not Supported")
            return value

        return tell

    def init() -> None:
        if not driver:
            raise NVMLError("Driver Not Loaded")

    nvml.NVMLError = NVMLError
    nvml.calls = []
    nvml.nvmlInit = init
    nvml.nvmlShutdown = lambda: nvml.calls.append("shutdown")
    nvml.nvmlDeviceGetCount = lambda: 2
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetName = lambda handle: f"Card {handle}"
    nvml.nvmlDeviceGetMemoryInfo = lambda _: SimpleNamespace(used=3 << 29, total=8 << 30)
    nvml.nvmlDeviceGetUtilizationRates = of_first(SimpleNamespace(gpu=12))
    nvml.nvmlDeviceGetComputeRunningProcesses = of_first([SimpleNamespace(pid=9), SimpleNamespace(pid=4)])
    module: ModuleType = nvml
    return module


def test_cards_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what each of them tells."""
    nvml: Any = _nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert list_cards() == [
        Card(0, "Card 0", 3 << 29, 8 << 30, 12, (4, 9)),
        Card(1, "Card 1", 3 << 29, 8 << 30, None, None),
    ]
    assert nvml.calls == ["shutdown"]


def test_where_no_card_can_be_listed_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package or the driver is missing."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(DeviceUnavailable, match=r"install aioflow-mq\[nvml\]"):
        list_cards()
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(driver=False))
    with pytest.raises(DeviceUnavailable, match="no NVIDIA driver, or it does not answer: Driver Not Loaded"):
        list_cards()


def test_the_command_prints_a_line_for_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`aioflow devices`."""
    monkeypatch.setitem(sys.modules, "pynvml", _nvml())
    assert main(["devices"]) == 0
    cpu, *cards = capsys.readouterr().out.splitlines()
    assert cpu.startswith("/device:CPU:0  ")
    assert cards == [
        "/device:GPU:0  Card 0  1.5 of 8.0 GiB used  12 % busy  processes 4, 9",
        "/device:GPU:1  Card 1  1.5 of 8.0 GiB used",
    ]


def test_the_command_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`aioflow devices --json`, with cards and without."""
    monkeypatch.setitem(sys.modules, "pynvml", _nvml())
    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [gpu["device"] for gpu in listed["gpus"]] == ["/device:GPU:0", "/device:GPU:1"]
    assert listed["gpus"][0]["processes"] == [4, 9]
    assert listed["no_gpus"] is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["gpus"] == []
    assert "aioflow-mq[nvml]" in listed["no_gpus"]
    assert main(["devices"]) == 0
    assert "no GPUs: nvidia-ml-py is not installed" in capsys.readouterr().out
