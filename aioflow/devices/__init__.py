"""Devices: where kernels run and values are held, streams of work on them, and how they are found.

`_device.py` says what a device is; begin there. `_stream.py` has streams and launches, the same for every device;
`_cpu.py` the backend that stands in for GPUs, `_cuda.py` the one for them; `_discovery.py` finds and opens devices.
"""

from aioflow.devices._cpu import CpuDevice, TraceEntry
from aioflow.devices._device import CLOSE_S, Device, DeviceInfo, Engine, Event, Memory
from aioflow.devices._discovery import Card, OpenDevices, list_cards, open_devices, use_devices
from aioflow.devices._options import GPUOptions
from aioflow.devices._stream import Launch, Output, Stream

__all__ = [
    "CLOSE_S",
    "Card",
    "CpuDevice",
    "Device",
    "DeviceInfo",
    "Engine",
    "Event",
    "GPUOptions",
    "Launch",
    "Memory",
    "OpenDevices",
    "Output",
    "Stream",
    "TraceEntry",
    "list_cards",
    "open_devices",
    "use_devices",
]
