"""How a process uses its GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from aioflow.errors import SpecMismatch

__all__ = ["GPUOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUOptions:
    """How a process uses its GPUs (names and meaning as in TensorFlow 1.x).

    Attributes:
        per_process_gpu_memory_fraction: Share of each visible device's memory, above 0 and at most 1; None is no limit.
        allow_growth: Take memory as it is needed instead of all of the limit at the start; without a limit, all that is
            free then but for a rest.
        visible_device_list: Comma-separated numbers of the devices to use; empty is all. The first of them is GPU:0.
    """

    per_process_gpu_memory_fraction: float | None = None
    allow_growth: bool = True
    visible_device_list: str = ""

    def __post_init__(self) -> None:
        """Refuse what no device could follow.

        Raises:
            SpecMismatch: The fraction is not within its bounds, or the list is none of distinct numbers.
        """
        fraction = self.per_process_gpu_memory_fraction
        if fraction is not None and not 0 < fraction <= 1:
            raise SpecMismatch(
                f"per_process_gpu_memory_fraction is {fraction}; expected above 0 and at most 1, or None"
            )
        numbers = self.visible_devices
        if numbers is not None and len(set(numbers)) < len(numbers):
            raise SpecMismatch(f"visible_device_list {self.visible_device_list!r} names a device twice")

    @property
    def visible_devices(self) -> tuple[int, ...] | None:
        """The numbers of `visible_device_list`, in its order; None for all devices.

        Raises:
            SpecMismatch: The list is none of numbers.
        """
        if not self.visible_device_list.strip():
            return None
        parts = [part.strip() for part in self.visible_device_list.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise SpecMismatch(f"visible_device_list is {self.visible_device_list!r}; expected numbers, as in '0,2'")
        return tuple(map(int, parts))
