"""Which devices there are: those that a session opens, and the cards of this machine as their driver lists them."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aioflow.devices._cpu import CpuDevice
from aioflow.devices._device import CLOSE_S
from aioflow.devices._options import GPUOptions
from aioflow.errors import DeviceError, DeviceUnavailable, PlacementError
from aioflow.names import DeviceName

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from aioflow.devices._device import Device

__all__ = ["Card", "OpenDevices", "list_cards", "open_devices", "use_devices"]

_used: ContextVar[tuple[Device, ...]] = ContextVar("aioflow_devices", default=())


@dataclass(frozen=True, slots=True)
class OpenDevices:
    """The devices of a task, CPUs first.

    Attributes:
        devices: All of them; kernels of those without streams run on the host's own threads.
        own: Those that were opened here, and are closed here; not those of `use_devices`.
        why_no_gpu: Why no GPU can be used, where it is not that there is none.
    """

    devices: tuple[Device, ...]
    own: tuple[Device, ...]
    why_no_gpu: str = ""

    def find(self, name: DeviceName) -> Device:
        """Return the device of a name; of several that it allows a GPU before a CPU, then the lowest index.

        Raises:
            PlacementError: There is no such device; says which there are.
            DeviceUnavailable: It names a GPU, and none can be used; says why.
        """
        allowed = [device for device in self.devices if name.allows(device.name)]
        if allowed:
            return min(allowed, key=lambda device: (device.kind == "CPU", device.name.index or 0))
        if name.kind == "GPU" and self.why_no_gpu:
            raise DeviceUnavailable(f"{str(name)!r} cannot be used: {self.why_no_gpu}")
        there_is = ", ".join(str(device.name) for device in self.devices)
        raise PlacementError(f"there is no device {str(name)!r}; there is {there_is}")

    def close(self, bound_s: float = CLOSE_S) -> None:
        """Close those that were opened here; blocks as `Device.close` does, for each.

        Raises:
            DeviceError: Something still ran on one; the others are closed.
        """
        errors: list[DeviceError] = []
        for device in self.own:
            try:
                device.close(bound_s)
            except DeviceError as error:
                errors.append(error)
        if errors:
            raise errors[0]


@contextmanager
def use_devices(*devices: Device) -> Generator[None]:
    """Have devices of one's own used by the sessions that are opened within a block, and in the tasks started in it.

    A session takes those whose name has its job and task: `localhost` and 0 where it is embedded. No other devices of
    these kinds are opened there. Whoever made the devices closes them, after the sessions.
    """
    token = _used.set(devices)
    try:
        yield
    finally:
        _used.reset(token)


def open_devices(
    job: str = "localhost",
    task: int = 0,
    *,
    device_count: Mapping[str, int] | None = None,
    gpu_options: GPUOptions | None = None,
) -> OpenDevices:
    """Open the devices of a task: at least one CPU, and GPUs where there are CuPy, a driver and cards.

    The first call in a process that finds CuPy takes as long as its import; call it in a thread where an event loop
    must go on. Memory limits hold for the process: of two sessions the later one's count.

    Args:
        job: The job in the devices' names.
        task: The task index in the devices' names.
        device_count: How many of a kind: `{"CPU": 2}` makes two, `{"GPU": 0}` hides all GPUs, and more GPUs than there
            are is an error. Without an entry: one CPU, and every visible GPU.
        gpu_options: How GPUs are used.

    Raises:
        DeviceUnavailable: GPUs were asked for, by number or by `visible_device_list`, that are not there.
        PlacementError: A kind is neither CPU nor GPU, or a number is not possible.
    """
    count = dict(device_count or {})
    if wrong := {kind for kind, n in count.items() if kind not in {"CPU", "GPU"} or n < (kind == "CPU")}:
        raise PlacementError(
            f"device_count {count}: expected numbers of CPU, at least 1, and of GPU; got {sorted(wrong)}"
        )
    used = [device for device in _used.get() if (device.name.job, device.name.task) == (job, task)]
    own: list[Device] = []
    why_no_gpu = ""
    if not any(device.kind == "CPU" for device in used):
        own += [CpuDevice(DeviceName(job, task, "CPU", i), streams=0) for i in range(count.get("CPU", 1))]
    wanted, options = count.get("GPU"), gpu_options or GPUOptions()
    if wanted != 0 and not any(device.kind == "GPU" for device in used):
        try:
            cuda, present = _load_cuda()
        except DeviceUnavailable as error:
            if wanted is not None or options.visible_devices is not None:
                raise
            why_no_gpu = str(error)
        else:
            own += _open_gpus(cuda, present, DeviceName(job, task, "GPU"), wanted, options)
    devices = sorted([*own, *used], key=lambda device: (device.kind, device.name.index or 0))
    return OpenDevices(tuple(devices), tuple(own), why_no_gpu)


def _load_cuda() -> tuple[Any, int]:
    """Return the CUDA backend, and how many devices it sees."""
    try:
        cuda = import_module("aioflow.devices._cuda")
        return cuda, cuda.count_devices()
    except (ImportError, DeviceUnavailable) as error:
        raise DeviceUnavailable(
            f"GPUs need CuPy and a driver: {error}; install aioflow-mq[cuda12] or [cuda13] and a driver"
        ) from error


def _open_gpus(cuda: Any, present: int, name: DeviceName, wanted: int | None, options: GPUOptions) -> list[Device]:
    ordinals = list(range(present)) if options.visible_devices is None else list(options.visible_devices)
    if missing := [ordinal for ordinal in ordinals if ordinal >= present]:
        raise DeviceUnavailable(f"visible_device_list names GPU {missing[0]}; this process sees {present}")
    if wanted is not None and wanted > len(ordinals):
        raise DeviceUnavailable(f"device_count asks for {wanted} GPUs; {len(ordinals)} are visible")
    opened: list[Device] = []
    try:
        for index, ordinal in enumerate(ordinals[:wanted]):
            opened.append(cuda.CudaDevice(replace(name, index=index), ordinal, options=options))
    except BaseException:
        with suppress(DeviceError):
            OpenDevices((), tuple(opened)).close()
        raise
    return opened


# What the driver says; this makes no context on a card, and takes none of its memory.


@dataclass(frozen=True, slots=True)
class Card:
    """A card as NVML lists it.

    Attributes:
        index: Its number in the order of the bus, as `CUDA_DEVICE_ORDER=PCI_BUS_ID` counts.
        name: The card's own name.
        memory_used: Bytes, by all processes.
        memory_total: Bytes.
        utilisation: Percent of the last moments in which it computed; None where it does not tell.
        processes: Ids of the processes that compute on it; None where it does not tell.
    """

    index: int
    name: str
    memory_used: int
    memory_total: int
    utilisation: int | None
    processes: tuple[int, ...] | None


def list_cards() -> list[Card]:
    """List this machine's cards.

    Raises:
        DeviceUnavailable: nvidia-ml-py is not installed, or there is no driver.
    """
    try:
        nvml = import_module("pynvml")
    except ImportError as error:
        raise DeviceUnavailable("nvidia-ml-py is not installed; install aioflow-mq[nvml] to list GPUs") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise DeviceUnavailable(f"there is no NVIDIA driver, or it does not answer: {error}") from error
    try:
        return [_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise DeviceUnavailable(f"the NVIDIA driver does not tell of its cards: {error}") from error
    finally:
        nvml.nvmlShutdown()


def _card(nvml: Any, index: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    utilisation = processes = None
    with suppress(nvml.NVMLError):  # not every card and driver tells; in a container often neither
        utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
    with suppress(nvml.NVMLError):
        processes = tuple(sorted(process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)))
    return Card(index, nvml.nvmlDeviceGetName(handle), memory.used, memory.total, utilisation, processes)
